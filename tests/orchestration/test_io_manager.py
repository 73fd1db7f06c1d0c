"""Assets below a collection take it as an argument: the records of their own partitions, and no file of another."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from rasteret_assets import Collection, CollectionSpec
from rasteret_assets.dagster import partitions_of
from rasteret_assets.orchestration.asset_graph.graph_partitions import selection_tags
from rasteret_assets.orchestration.graph_names import io_manager_key, stage_key
from rasteret_assets.schema import COLLECTION
from tests.orchestration.scenes import KEYS, Scenes

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")


def below(spec: CollectionSpec, *, partitioned: bool = True, **metadata: bool) -> dg.AssetsDefinition:
    """Return an asset that returns the ids of its records."""

    @dg.asset(
        ins={"collection": dg.AssetIn(stage_key(spec, COLLECTION), metadata=metadata)},
        partitions_def=partitions_of(spec) if partitioned else None,
        backfill_policy=dg.BackfillPolicy.multi_run(25) if partitioned else None,
        io_manager_def=dg.mem_io_manager,
    )
    def ids(collection: Collection) -> list[str]:
        assert isinstance(collection, Collection)
        return sorted(collection.to_table(["id"])["id"].to_pylist())

    return ids


def run(
    scenes: Scenes, asset: dg.AssetsDefinition, instance: dg.DagsterInstance, *keys: str, stages: bool = False
) -> dg.ExecuteInProcessResult:
    """Materialize an asset for some neighbouring partitions, or as a whole if it has no partitions."""
    definitions = dg.Definitions.merge(scenes.definitions(), dg.Definitions(assets=[asset]))
    selection = dg.AssetSelection.assets(asset) | (
        dg.AssetSelection.groups("scenes") if stages else dg.AssetSelection.assets(asset)
    )
    job = dg.define_asset_job("below", selection)
    resolved = dg.Definitions.merge(definitions, dg.Definitions(jobs=[job])).resolve_job_def("below")
    return resolved.execute_in_process(
        instance=instance, raise_on_error=False, tags=selection_tags(keys) if keys else None,
        partition_key=keys[0] if len(keys) == 1 else None,
    )  # fmt: skip


def why(result: dg.ExecuteInProcessResult) -> str:
    assert not result.success
    (failure,) = result.filter_events(lambda event: event.is_step_failure and event.step_key == "ids")
    data = failure.step_failure_data
    return f"{data.user_failure_data and data.user_failure_data.description} {data.error.to_string()}"


def test_an_asset_gets_the_records_of_its_partitions(scenes: Scenes, instance: dg.DagsterInstance) -> None:
    scenes.materialize(instance)
    asset = below(scenes.spec)
    assert run(scenes, asset, instance, "2024-01").output_for_node("ids") == ["a", "b"]
    assert run(scenes, asset, instance, "undated").output_for_node("ids") == ["d"]
    assert run(scenes, asset, instance, "2024-01", "2024-02").output_for_node("ids") == ["a", "b", "c"]
    whole = run(scenes, below(scenes.spec, partitioned=False), instance)
    assert whole.output_for_node("ids") == ["a", "b", "c", "d"]


def test_an_asset_below_may_be_part_of_the_run_that_builds_the_collection(
    scenes: Scenes, instance: dg.DagsterInstance
) -> None:
    scenes.materialize(instance, keys=["undated"])
    done = run(scenes, below(scenes.spec), instance, "2024-01", "2024-02", stages=True)
    assert done.success
    assert done.output_for_node("ids") == ["a", "b", "c"]


def test_files_of_other_partitions_are_not_opened(scenes: Scenes, instance: dg.DagsterInstance) -> None:
    scenes.materialize(instance)
    for file in scenes.workspace.rglob("month=2/*.parquet"):
        file.write_bytes(b"damaged")
    assert run(scenes, below(scenes.spec), instance, "2024-01").success
    assert "month=2" in why(run(scenes, below(scenes.spec), instance, "2024-02"))


def test_pixels_are_read_by_the_resource_of_the_stages(scenes: Scenes, instance: dg.DagsterInstance) -> None:
    scenes.materialize(instance, keys=["2024-01"])

    @dg.asset(ins={"found": dg.AssetIn(stage_key(scenes.spec, COLLECTION))}, partitions_def=partitions_of(scenes.spec))
    def ids(found: Collection) -> dg.MaterializeResult[None]:
        assert found.backend is not None
        return dg.MaterializeResult(metadata={"pixels": len(found.get_gdf(found.bounds, bands="B02"))})

    done = run(scenes, ids, instance, "2024-01")
    assert done.success
    (event,) = done.asset_materializations_for_node("ids")
    assert event.metadata["pixels"].value == 2


def test_partitions_that_were_never_built_are_named(scenes: Scenes, instance: dg.DagsterInstance) -> None:
    scenes.materialize(instance, keys=["2024-01", "undated"])
    told = "scenes was not built yet for 2024-02: materialize the partitions first"
    assert told in why(run(scenes, below(scenes.spec), instance, "2024-02"))
    assert told in why(run(scenes, below(scenes.spec, partitioned=False), instance))
    lenient = below(scenes.spec, partitioned=False, allow_missing_partitions=True)
    assert run(scenes, lenient, instance).output_for_node("ids") == ["a", "b", "d"]


def test_a_partition_that_vanished_has_no_records(scenes: Scenes, instance: dg.DagsterInstance) -> None:
    scenes.materialize(instance)
    scenes.change(c=-1)
    scenes.materialize(instance)
    assert run(scenes, below(scenes.spec), instance, "2024-02").output_for_node("ids") == []
    whole = run(scenes, below(scenes.spec, partitioned=False), instance)
    assert whole.output_for_node("ids") == ["a", "b", "d"]


def test_a_partition_that_failed_in_the_run_is_refused(scenes: Scenes, instance: dg.DagsterInstance) -> None:
    scenes.materialize(instance)
    scenes.change(c=-1, e=2)
    scenes.server.fault = lambda path, before: "503" if path == "/e.tif" else None
    failed = run(scenes, below(scenes.spec), instance, "2024-01", "2024-02", stages=True)
    assert "2024-02 in band_metadata" in why(failed)


def test_writing_is_refused(scenes: Scenes, instance: dg.DagsterInstance) -> None:
    @dg.asset(io_manager_key=io_manager_key(scenes.spec))
    def ids() -> int:
        return 3

    told = why(run(scenes, ids, instance))
    assert "ids has the IO manager of the collection scenes, which only loads the collection" in told


def test_outside_of_runs_the_whole_collection_is_loaded(scenes: Scenes, tmp_path: Path) -> None:
    scenes.build()
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        found = scenes.definitions().load_asset_value(stage_key(scenes.spec, COLLECTION), instance=instance)
    assert isinstance(found, Collection)
    assert len(found) == len(KEYS) + 1
