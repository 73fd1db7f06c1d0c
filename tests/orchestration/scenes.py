"""A record table with two months and one undated record, whose files a local server serves."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq

from rasteret_assets import CollectionSpec, build
from rasteret_assets.dagster import FilesystemResource, build_definitions, materialize_collection
from rasteret_assets.schema import STAGES
from tests.support.rasters import footprint, record_table, tiff_bytes
from tests.support.server import RangeServer

KEYS = ["2024-01", "2024-02", "undated"]
MONTHS: dict[str, int | None] = {"a": 1, "b": 1, "c": 2, "d": None}


class Scenes:
    """The table, its files and the spec of their collection. ``months`` is by record id and may be changed."""

    def __init__(self, server: RangeServer, root: Path, name: str = "scenes", **options: Any) -> None:
        self.server = server
        self.months = dict(MONTHS)
        self.file = root / "records.parquet"
        self.workspace = root / "workspace"
        self.spec = CollectionSpec.of(
            path=self.file, name=name, workspace_dir=self.workspace, enrich_cog=True, **options
        )

    def table(self) -> pa.Table:
        for number, name in enumerate(self.months):
            self.server.objects[f"/{name}.tif"] = tiff_bytes(seed=number)
        times = [month and datetime(2024, month, 5, tzinfo=UTC) for month in self.months.values()]
        hrefs = [f"{self.server.url}/{name}.tif" for name in self.months]
        return record_table(list(self.months), {"B02": hrefs}, datetimes=times, outline=footprint(tiff_bytes()))

    def write(self) -> Scenes:
        pq.write_table(self.table(), self.file)
        return self

    def change(self, **months: int | None) -> None:
        """Give records other months, add them or (``-1``) remove them."""
        self.months = {name: month for name, month in {**self.months, **months}.items() if month != -1}
        self.write()

    def materialize(self, instance: dg.DagsterInstance, **options: Any) -> dict[str, dict[str, dict[str, Any]]]:
        return materialize_collection(self.spec, instance, **options)

    def build(self) -> None:
        """Build the workspace by the library, in a tenth of the time of materializing; instances know nothing of it."""
        build(self.spec)

    def definitions(self) -> dg.Definitions:
        return build_definitions([self.spec])

    def run(self, instance: dg.DagsterInstance, **options: Any) -> dg.ExecuteInProcessResult:
        return self.definitions().resolve_job_def("scenes_build").execute_in_process(
            instance=instance, raise_on_error=False, **options
        )  # fmt: skip

    def published(self) -> dict[str, bytes]:
        """Return the content of every published file, by its path in the collection."""
        root = self.workspace / f"{self.spec.name}_records"
        return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def tick(
    scenes: Scenes, instance: dg.DagsterInstance, cursor: str | None = None, sensor: str = "scenes_refresh"
) -> dg.SensorResult:
    """Evaluate a sensor of the collection once, and apply its partition requests."""
    definitions = scenes.definitions()
    context = dg.build_sensor_context(
        instance=instance,
        cursor=cursor,
        definitions=definitions,
        resources={"rasteret_filesystem": FilesystemResource()},
    )
    result = definitions.resolve_sensor_def(sensor)(context)
    for request in result.dynamic_partitions_requests or []:
        instance.add_dynamic_partitions(request.partitions_def_name, request.partition_keys)
    return result


def launch(scenes: Scenes, instance: dg.DagsterInstance, result: dg.SensorResult) -> list[dg.ExecuteInProcessResult]:
    """Run the runs that a tick requested."""
    return [
        scenes.run(instance, partition_key=request.partition_key, tags=request.tags)
        for request in result.run_requests or []
    ]


def latest(
    instance: dg.DagsterInstance, key: str, name: str = "scenes", stages: Sequence[str] = STAGES
) -> dict[str, dg.AssetMaterialization]:
    """Return the last materialization of a partition in every stage."""
    found = {}
    for stage in stages:
        records = dg.AssetRecordsFilter(asset_key=dg.AssetKey([name, stage]), asset_partitions=[key])
        found[stage] = instance.fetch_materializations(records, limit=1).records[0].asset_materialization
    return found
