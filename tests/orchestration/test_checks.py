"""Asset checks in the graph: stored per partition, and blocking before anything is published."""

from __future__ import annotations

from datetime import UTC, datetime

import dagster as dg
import pyarrow.parquet as pq
import pytest

from rasteret_assets.errors import CheckError, RasteretAssetsError
from rasteret_assets.orchestration.asset_graph.graph_partitions import PARTITION, RANGE_END, RANGE_START
from rasteret_assets.schema import BANDS, COLLECTION, NORMALIZED
from tests.orchestration.scenes import KEYS, Scenes, latest
from tests.support.server import RangeServer


def key(stage: str, name: str) -> dg.AssetCheckKey:
    return dg.AssetCheckKey(dg.AssetKey(["scenes", stage]), name)


def evaluations(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    return {found.check_name: found for found in result.get_asset_check_evaluations()}


def test_every_check_has_an_evaluation_for_the_partitions_of_a_run(
    scenes: Scenes, instance: dg.DagsterInstance
) -> None:
    instance.add_dynamic_partitions("scenes_months", KEYS)
    one = evaluations(scenes.run(instance, partition_key="2024-01"))
    assert len(one) == 9
    assert all(found.passed for found in one.values())
    assert one["headers_complete"].description.startswith("2024-01: ")
    assert one["headers_complete"].metadata["headers"].value == 2
    scenes.server.fault = lambda path, before: "404" if path == "/c.tif" else None
    scenes.change(c=2, e=2)
    job = scenes.definitions().resolve_job_def("scenes_rebuild")
    many = evaluations(job.execute_in_process(instance=instance, tags={RANGE_START: KEYS[0], RANGE_END: KEYS[-1]}))
    assert len(many) == 9
    assert many["unique_ids"].description == "all 3 partitions pass"
    found = many["headers_complete"]
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert found.description.startswith("1 of 3 partitions do not pass; 2024-02: 1 of 2 headers")
    assert [row.data["partition"] for row in found.metadata["failing"].records] == ["2024-02"]


def test_missing_headers_are_a_warning_that_says_what_helps(scenes: Scenes, instance: dg.DagsterInstance) -> None:
    scenes.server.fault = lambda path, before: "404" if path == "/a.tif" else None
    instance.add_dynamic_partitions("scenes_months", KEYS)
    result = scenes.run(instance, partition_key="2024-01")
    assert result.success
    found = evaluations(result)["headers_complete"]
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    (row,) = found.metadata["findings"].records
    assert (row.data["class"], row.data["headers"]) == ("not_found", 1)
    assert "correct or rewrite it" in row.data["what helps"]


def test_too_many_missing_headers_keep_the_old_partition(server: RangeServer, tmp_path, instance) -> None:
    scenes = Scenes(server, tmp_path, max_failed=0.25).write()
    scenes.build()
    before = scenes.published()
    instance.add_dynamic_partitions("scenes_months", KEYS)
    scenes.change(e=1)
    server.fault = lambda path, before: "404" if path == "/e.tif" else None
    result = scenes.run(instance, partition_key="2024-01")
    assert not result.success
    found = evaluations(result)["headers_complete"]
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "a larger share than max_failed=0.25" in found.description
    assert "scenes__collection" not in {event.step_key for event in result.get_step_success_events()}
    assert scenes.published() == before
    with pytest.raises(RasteretAssetsError, match=r"2024-01 in band_metadata: check headers_complete: 1 of 3 headers"):
        scenes.materialize(instance, keys=["2024-01"])


def test_publishing_alone_checks_too(server: RangeServer, tmp_path, instance) -> None:
    scenes = Scenes(server, tmp_path, max_failed=0.25).write()
    server.fault = lambda path, before: "404" if path == "/a.tif" else None
    instance.add_dynamic_partitions("scenes_months", KEYS)
    scenes.run(instance, partition_key="2024-01")
    alone = scenes.run(instance, partition_key="2024-01", asset_selection=[dg.AssetKey(["scenes", COLLECTION])])
    (failed,) = alone.get_failed_step_keys()
    assert failed == "scenes__collection"
    assert scenes.published() == {}


def test_a_published_collection_can_be_checked_by_itself(scenes: Scenes, instance: dg.DagsterInstance) -> None:
    scenes.materialize(instance, keys=["2024-01"])
    everything = scenes.definitions().resolve_implicit_global_asset_job_def()
    checks = {key(COLLECTION, "published_file"), key(COLLECTION, "counts_agree")}
    job = everything.get_subset(asset_selection=set(), asset_check_selection=checks)
    file = scenes.workspace / "scenes_records" / "year=2024" / "month=1" / "part-0.parquet"
    file.write_bytes(file.read_bytes()[:-1])
    made = latest(instance, "2024-01")
    result = job.execute_in_process(instance=instance, tags={PARTITION: "2024-01"})
    found = evaluations(result)["published_file"]
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "damaged" in found.description
    assert latest(instance, "2024-01") == made


def test_rejected_records_are_reported_with_the_normalized_ones(server: RangeServer, tmp_path, instance) -> None:
    scenes = Scenes(server, tmp_path, max_rejected=0.5)
    table = scenes.table()
    times = [datetime(2024, 1, 5, tzinfo=UTC)] * 4
    pq.write_table(
        table.set_column(0, "id", [[None, "b", "c", "d"]]).set_column(1, "datetime", [times]), scenes.file
    )  # fmt: skip
    counts = scenes.materialize(instance)["2024-01"]
    assert (counts[NORMALIZED]["rejected_records"], counts[NORMALIZED]["rows"]) == (1, 3)
    made = latest(instance, "2024-01")[NORMALIZED]
    assert [row.data for row in made.metadata["rejected_by_reason"].records] == [{"reason": "missing_id", "records": 1}]
    assert pq.read_table(made.metadata["rejected_path"].value)["reject_class"].to_pylist() == ["missing_id"]


def test_rejected_records_are_shown_when_they_stop_the_build(scenes: Scenes, instance: dg.DagsterInstance) -> None:
    pq.write_table(scenes.table().set_column(0, "id", [[None, "b", "c", "d"]]), scenes.file)
    instance.add_dynamic_partitions("scenes_months", KEYS)
    assert not scenes.run(instance, partition_key="2024-01").success
    normalized = dg.AssetRecordsFilter(asset_key=dg.AssetKey(["scenes", NORMALIZED]), asset_partitions=["2024-01"])
    assert instance.fetch_materializations(normalized, limit=1).records == []
    (record,) = instance.fetch_observations(normalized, limit=1).records
    told = record.asset_observation.metadata
    assert told["rejected_records"].value == 1
    assert "max_rejected" in told["failure"].value
    bands = dg.AssetRecordsFilter(asset_key=dg.AssetKey(["scenes", BANDS]), asset_partitions=["2024-01"])
    assert instance.fetch_materializations(bands, limit=1).records == []


def test_a_failed_check_is_an_error_of_the_package() -> None:
    assert issubclass(CheckError, RasteretAssetsError)


def test_ids_in_the_message_of_a_check_are_not_markdown(scenes: Scenes, instance: dg.DagsterInstance) -> None:
    """The UI reads messages of checks as Markdown: an id that a stranger wrote must not load a picture."""
    bait = "![x](http://h/track.png)<img src=http://h/y.png>"
    scenes.months = {bait: 1}
    pq.write_table(scenes.table().set_column(0, "id", [[bait]]), scenes.file)
    scenes.server.fault = lambda path, before: "404"
    instance.add_dynamic_partitions("scenes_months", KEYS)
    found = evaluations(scenes.run(instance, partition_key="2024-01"))["headers_complete"]
    assert not found.passed
    assert bait not in found.description
