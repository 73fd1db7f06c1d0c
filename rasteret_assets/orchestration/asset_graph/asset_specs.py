"""Describe each asset of a collection for the catalog: description, kinds, tags, owners, and inputs.

A project changes these specs by :meth:`RasterCollection.get_asset_spec`, or by the argument ``get_asset_spec`` of
:func:`~rasteret_assets.dagster.collection_definitions`. Keys, partitions and dependencies stay, because steps, jobs and
sensors depend on them.

https://docs.dagster.io/guides/build/assets/metadata-and-tags
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final, TypeAlias

import dagster as dg

from rasteret_assets.errors import SpecError
from rasteret_assets.orchestration.asset_graph.events import inputs_of
from rasteret_assets.orchestration.asset_graph.graph_partitions import partitions_of, windows_of
from rasteret_assets.orchestration.graph_names import (
    HARVESTED,
    SOURCE,
    code_version,
    harvest_job_name,
    identifier,
    io_manager_key,
    source_key,
    stage_key,
)
from rasteret_assets.schema import BANDS, COLLECTION, NORMALIZED, RAW
from rasteret_assets.secrets import redact
from rasteret_assets.source.locate import label_of
from rasteret_assets.spec import CollectionSpec

#: Returns the asset spec of the source or of a stage, by the last part of its key.
GetAssetSpec: TypeAlias = Callable[[str], dg.AssetSpec]

_KINDS: Final = {
    RAW: {"arrow"}, NORMALIZED: {"arrow"}, BANDS: {"parquet", "cog"}, COLLECTION: {"parquet", "geoparquet"},
}  # fmt: skip


def stage_spec(spec: CollectionSpec, stage: str) -> dg.AssetSpec:
    """Return the asset spec of the source or of a stage, made from the fields of the collection's spec."""
    if stage == SOURCE:
        return _source_spec(spec)
    if stage == HARVESTED:
        return _harvest_spec(spec)
    more: dict[str, Any] = {}
    if stage == COLLECTION:
        more["metadata"] = {"dagster/uri": redact(str(spec.published_path))}
        if hours := spec.graph.fresh_within_hours:
            more["freshness_policy"] = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=hours))
    return dg.AssetSpec(
        key=stage_key(spec, stage),
        deps=inputs_of(spec, stage),
        description=_description(spec, stage),
        partitions_def=partitions_of(spec),
        group_name=identifier(spec.name),
        owners=spec.graph.owners,
        tags=spec.graph.tags,
        kinds={*_KINDS[stage], *(spec.graph.kinds if stage == COLLECTION else ())},
        # A changed spec or parser shows as "code version changed" on partitions that were built before.
        code_version=code_version(spec),
        **more,
    )


def checked_spec(spec: CollectionSpec, stage: str, get_asset_spec: GetAssetSpec | None) -> dg.AssetSpec:
    """Return the asset spec of the source or of a stage after a project changed it.

    Args:
        spec: of the collection.
        stage: name of the stage, or ``source``.
        get_asset_spec: returns the changed spec; the result of :func:`stage_spec` counts when omitted.

    Raises:
        SpecError: if the project changed a key, partitions or dependencies, on which steps, jobs and sensors depend.
    """
    own = stage_spec(spec, stage)
    given = own if get_asset_spec is None else get_asset_spec(stage)
    remedies = {
        "key": "write graph: {key_prefix: [...]} in the declaration for other asset keys",
        "partitions_def": "partition_by of the declaration is the size of partitions",
        "deps": "write graph: {deps: [...]} in the declaration for the assets that write its record table",
    }
    for field, remedy in remedies.items():
        if getattr(given, field) != getattr(own, field):
            raise SpecError(
                f"get_asset_spec({stage!r}) of the collection {spec.name} changes {field}, which its steps and jobs "
                f"depend on: {remedy}"
            )
    return given.with_io_manager_key(io_manager_key(spec)) if stage == COLLECTION else given


def _harvest_spec(spec: CollectionSpec) -> dg.AssetSpec:
    options = spec.harvest
    address = "" if options is None else redact(options.address)
    kind = "STAC API" if options is not None and options.stac_api is not None else "static STAC catalog"
    return dg.AssetSpec(
        key=stage_key(spec, HARVESTED),
        description=(
            f"The STAC items of the {kind} at `{address}`. A partition is a window of time, and has one Parquet file. "
            f"The job `{harvest_job_name(spec)}` asks for the windows that can have changed, and replaces only files "
            "whose items changed; a window that fails keeps its file. Materializing partitions asks for their windows "
            f"again. The sensor `{identifier(spec.name)}_refresh` then builds what changed."
        ),
        partitions_def=windows_of(spec),
        group_name=identifier(spec.name),
        metadata={"path": dg.MetadataValue.path(label_of(spec.paths)), "address": address},
        owners=spec.graph.owners,
        tags=spec.graph.tags,
        kinds={"stac", "parquet"},
    )


def _source_spec(spec: CollectionSpec) -> dg.AssetSpec:
    return dg.AssetSpec(
        key=source_key(spec),
        deps=[
            dg.AssetDep(dg.AssetKey(written.split("/")), partition_mapping=dg.AllPartitionMapping())
            for written in spec.graph.deps
        ]
        + (
            []
            if spec.harvest is None
            # All windows, because the keys of windows do not say which of them hold records of a month.
            else [dg.AssetDep(stage_key(spec, HARVESTED), partition_mapping=dg.AllPartitionMapping())]
        ),
        description=(
            f"The record table at `{label_of(spec.paths)}`: one row per raster item, with the addresses of its files. "
            "This graph does not write the table. Observing it reads the rows of files that changed, and reports the "
            "partitions and a data version of each."
        ),
        partitions_def=partitions_of(spec),
        group_name=identifier(spec.name),
        metadata={"path": dg.MetadataValue.path(label_of(spec.paths)), "data_source": spec.data_source},
        tags=spec.graph.tags,
        kinds={"parquet"},
    )


def _description(spec: CollectionSpec, stage: str) -> str:
    if stage == RAW:
        return (
            "The partition's rows exactly as they stand in the record table, after projection and filter. "
            "Nothing is renamed or repaired: these rows show what the provider wrote. "
            "`rasteret-assets show --stage raw_records` prints the rows."
        )
    if stage == NORMALIZED:
        return (
            "The rows under the record contract: text ids, UTC datetimes, WKB footprints in longitude and "
            "latitude with their bbox, the CRS of the raster, assets as a struct. Other columns of the provider stay. "
            "Rows that break the contract become rejected records: they are written to a table of their own, as the "
            f"provider wrote them, with the reason. If more than {spec.max_rejected:.2%} (`max_rejected`) of a "
            "partition's rows are rejected, the partition fails."
        )
    if stage == BANDS:
        return (
            "One row per record and band: where the header of its GeoTIFF is stored (grid, CRS, data type, "
            "place of each tile), or why there is no header. A header is fetched only if its file is new, if the last "
            "try failed for a reason that may pass, if the run is forced, or if a revalidation finds the file changed."
        )
    return (
        f"{spec.description} The published collection: records joined with the headers of their bands as "
        f"GeoParquet, one file per {spec.partition_by} that is replaced in one step. Open the collection with "
        "`rasteret_assets.load`, DuckDB, geopandas or rasteret, or take it as an argument of an asset of yours."
    ).strip()
