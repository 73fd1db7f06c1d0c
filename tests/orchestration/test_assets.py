"""The assets of a collection write tables, report metadata, reuse headers and refuse bad input."""

from __future__ import annotations

import json
import os

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest
from dagster._core.remote_representation.external_data import RepositorySnap
from xxhash import xxh3_128

from rasteret_assets import build_from_table, load
from rasteret_assets.dagster import (
    FilesystemResource,
    StorageBackendResource,
    build_definitions,
    default_resources,
    partitions_of,
)
from rasteret_assets.errors import EnrichmentError, InvalidRecordError, MissingColumnError, SpecError
from rasteret_assets.orchestration.asset_graph.graph_partitions import RANGE_END, RANGE_START
from rasteret_assets.orchestration.graph_resources import BACKEND
from rasteret_assets.schema import STAGES
from rasteret_assets.source import parquet_files as files
from rasteret_assets.source import profiling
from tests.orchestration.scenes import KEYS, Scenes, latest, tick


def failure(result: dg.ExecuteInProcessResult) -> str:
    """Return the description of the only failed step of a run."""
    (event,) = [event for event in result.all_events if event.is_step_failure]
    return str(event.step_failure_data.user_failure_data.description)


def test_all_partitions_are_discovered_built_and_reported(scenes: Scenes, tmp_path) -> None:
    done = []
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        counts = scenes.materialize(instance, on_partition=lambda key, stages: done.append((key, stages)))
        assert instance.get_dynamic_partitions("scenes_months") == KEYS
        assert [(key, sorted(stages)) for key, stages in done] == [(key, sorted(STAGES)) for key in KEYS]
        assert {key: stages["collection"]["rows"] for key, stages in counts.items()} == dict(
            zip(KEYS, [2, 1, 1], strict=True)
        )
        for stage in STAGES:
            assert instance.get_materialized_partitions(dg.AssetKey(["scenes", stage])) == set(KEYS)
        made = latest(instance, "undated")
    assert len(scenes.server.requests) == 4
    published = made["collection"].metadata
    assert published["dagster/partition_row_count"].value == 1
    file = published["path"].value
    assert "year=__HIVE_DEFAULT_PARTITION__" in file
    content = scenes.published()["year=__HIVE_DEFAULT_PARTITION__/month=__HIVE_DEFAULT_PARTITION__/part-0.parquet"]
    version = made["collection"].tags["dagster/data_version"]
    assert version == xxh3_128(content).hexdigest()
    columns = {column.name: column.type for column in published["dagster/column_schema"].value.columns}
    assert columns["id"] == "string"
    assert columns["B02_metadata"] == "struct<28 fields>"
    assert made["normalized_records"].metadata["rejected_records"].value == 0
    headers = made["band_metadata"].metadata
    assert [headers[name].value for name in ("headers_fetched", "headers_reused", "headers_failed")] == [1, 0, 0]
    assert headers["headers_per_second"].value > 0


def test_headers_are_fetched_once_unless_forced(scenes: Scenes, instance: dg.DagsterInstance) -> None:
    scenes.materialize(instance)
    first = scenes.published()
    scenes.server.reset()
    again = scenes.materialize(instance)
    assert scenes.server.requests == []
    assert sum(stages["band_metadata"]["headers_reused"] for stages in again.values()) == 4
    forced = scenes.materialize(instance, force=True)
    assert sorted(scenes.server.paths) == ["/a.tif", "/b.tif", "/c.tif", "/d.tif"]
    assert sum(stages["band_metadata"]["headers_fetched"] for stages in forced.values()) == 4
    assert latest(instance, "2024-01")["raw_records"].metadata["forced"].value is True
    assert scenes.published() == first


def test_every_stage_says_where_its_table_lies(scenes: Scenes, instance: dg.DagsterInstance) -> None:
    scenes.materialize(instance, keys=["2024-02"])
    paths = {stage: made.metadata["path"].value for stage, made in latest(instance, "2024-02").items()}
    stages = scenes.workspace / "scenes_stages"
    assert paths == {
        "raw_records": f"{stages}/raw_records/2024-02.arrows",
        "normalized_records": f"{stages}/normalized_records/2024-02.arrows",
        "band_metadata": f"{stages}/band_metadata/2024-02.parquet",
        "collection": f"{scenes.workspace}/scenes_records/year=2024/month=2/part-0.parquet",
    }
    for stage in ("raw_records", "normalized_records"):
        with pa.ipc.open_stream(paths[stage]) as reader:
            assert reader.read_all().num_rows == 1


def test_an_unchanged_source_costs_a_listing(
    scenes: Scenes, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Older than a step of the file system's clock, because a younger file might still be written.
    os.utime(scenes.file, (1.7e9, 1.7e9))
    scenes.materialize(instance)

    def opened(*_: object) -> None:
        raise AssertionError("a file of the source was opened")

    monkeypatch.setattr(files, "_file_schema", opened)
    monkeypatch.setattr(profiling, "_profile_part", opened)
    assert not tick(scenes, instance).run_requests
    scenes.materialize(instance, keys=["2024-02"])
    with pytest.raises(AssertionError, match="was opened"):
        scenes.materialize(instance, keys=["2024-02"], force=True)


@pytest.mark.parametrize(
    ("lost", "selected"),
    [("raw_records", "normalized_records"), ("normalized_records", "band_metadata")],
)
def test_a_stage_whose_input_does_not_exist_names_it_in_the_error(
    scenes: Scenes, instance: dg.DagsterInstance, lost: str, selected: str
) -> None:
    scenes.materialize(instance)
    before = scenes.published()
    file = scenes.workspace / "scenes_stages" / lost / "2024-01.arrows"
    file.unlink()
    run = scenes.run(instance, partition_key="2024-01", asset_selection=[dg.AssetKey(["scenes", selected])])
    assert not run.success
    assert failure(run) == (
        f"2024-01 in {selected}: {file} does not exist, though the source has the partition 2024-01: build {lost} of "
        "it, then the stages after it"
    )
    assert scenes.published() == before


def test_the_graph_publishes_the_bytes_the_library_does(scenes: Scenes, instance: dg.DagsterInstance, tmp_path) -> None:
    scenes.materialize(instance)
    build_from_table(scenes.file, name="scenes", workspace_dir=tmp_path / "library", enrich_cog=True)
    library = tmp_path / "library" / "scenes_records"
    assert scenes.published() == {
        str(path.relative_to(library)): path.read_bytes() for path in library.rglob("*") if path.is_file()
    }


def test_a_vanished_month_is_unpublished(scenes: Scenes, instance: dg.DagsterInstance) -> None:
    scenes.materialize(instance)
    scenes.change(c=-1)
    counts = scenes.materialize(instance)
    gone = counts["2024-02"]["collection"]
    assert gone.pop("seconds") >= 0
    assert gone == {"rows": 0, "bytes": 0, "records_lacking_headers": 0, "removed": True}
    assert [path.partition("/part")[0] for path in scenes.published()] == [
        "year=2024/month=1", "year=__HIVE_DEFAULT_PARTITION__/month=__HIVE_DEFAULT_PARTITION__",
    ]  # fmt: skip
    assert len(load(scenes.workspace / "scenes_records")) == 3


def test_one_run_may_cover_a_range(scenes: Scenes, instance: dg.DagsterInstance) -> None:
    instance.add_dynamic_partitions("scenes_months", KEYS)
    result = scenes.run(instance, tags={RANGE_START: KEYS[0], RANGE_END: KEYS[-1]})
    assert result.success
    rows = {key: latest(instance, key)["collection"].metadata["dagster/partition_row_count"].value for key in KEYS}
    assert rows == {"2024-01": 2, "2024-02": 1, "undated": 1}
    assert len(scenes.published()) == 3
    assert len(scenes.server.requests) == 4


def test_a_range_in_the_wrong_order_is_refused(scenes: Scenes, instance: dg.DagsterInstance) -> None:
    instance.add_dynamic_partitions("scenes_months", ["2024-02", "2024-01"])
    result = scenes.run(instance, tags={RANGE_START: "2024-01", RANGE_END: "2024-02"})
    assert failure(result).startswith("the partition range of this run is empty")
    assert not scenes.workspace.exists()


def test_observing_the_source_registers_partitions_and_versions(scenes: Scenes, instance: dg.DagsterInstance) -> None:
    job = scenes.definitions().resolve_implicit_global_asset_job_def()
    source = dg.AssetKey(["scenes", "source"])
    assert job.execute_in_process(instance=instance, asset_selection=[source]).success
    assert instance.get_dynamic_partitions("scenes_months") == KEYS
    records = instance.fetch_observations(source, limit=10).records
    versions = {
        record.asset_observation.partition: record.asset_observation.tags["dagster/data_version"] for record in records
    }
    scenes.materialize(instance, keys=["undated"])
    assert versions["undated"] == latest(instance, "undated")["raw_records"].tags["dagster/data_version"]


def test_a_broken_source_is_one_clear_sentence(scenes: Scenes, instance: dg.DagsterInstance) -> None:
    pq.write_table(scenes.table().drop_columns(["datetime"]), scenes.file)
    instance.add_dynamic_partitions("scenes_months", KEYS)
    text = failure(scenes.run(instance, partition_key="2024-01"))
    assert text.startswith(f"{scenes.file}: is not a record table: it has no datetime. Name the columns")
    with pytest.raises(MissingColumnError, match="has no datetime"):
        scenes.materialize(instance)


def test_records_that_break_the_contract_stop_their_partition(scenes: Scenes, instance: dg.DagsterInstance) -> None:
    table = scenes.table()
    ids = [None, *table["id"].to_pylist()[1:]]
    pq.write_table(table.set_column(0, "id", [ids]), scenes.file)
    with pytest.raises(InvalidRecordError, match=r"2024-01 in normalized_records: 1 of 2 records"):
        scenes.materialize(instance)
    assert [path.split("/")[1] for path in scenes.published()] == ["month=2", "month=__HIVE_DEFAULT_PARTITION__"]
    made = {stage: latest(instance, "2024-02")[stage].partition for stage in STAGES}
    assert set(made.values()) == {"2024-02"}
    for stage in STAGES[1:]:
        records = dg.AssetRecordsFilter(asset_key=dg.AssetKey(["scenes", stage]), asset_partitions=["2024-01"])
        assert instance.fetch_materializations(records, limit=1).records == []


def test_a_bad_partition_of_a_range_fails_alone(scenes: Scenes, instance: dg.DagsterInstance) -> None:
    table = scenes.table()
    pq.write_table(table.set_column(0, "id", [[*table["id"].to_pylist()[:2], None, "d"]]), scenes.file)
    instance.add_dynamic_partitions("scenes_months", KEYS)
    run = scenes.run(instance, tags={RANGE_START: KEYS[0], RANGE_END: KEYS[-1]})
    assert not run.success
    # The last step fails, after all others were done for the sound partitions.
    assert run.get_failed_step_keys() == {"scenes__published_checks"}
    assert failure(run).startswith("2024-02 in normalized_records: 1 of 1 records")
    assert failure(run).endswith("The other 2 of the run are done.")
    checked = {found.check_name: found for found in run.get_asset_check_evaluations()}
    assert checked["published_file"].description == "all 2 partitions pass"
    assert len(scenes.published()) == 2
    alone = scenes.run(instance, partition_key="2024-02")
    assert alone.get_failed_step_keys() == {"scenes__normalized_records"}


def test_every_partition_of_a_range_has_its_own_version(scenes: Scenes, instance: dg.DagsterInstance) -> None:
    def versions() -> dict[str, dict[str, str]]:
        """Return the data version of every stage, by partition."""
        made = {key: latest(instance, key) for key in KEYS}
        return {
            key: {stage: event.tags["dagster/data_version"] for stage, event in stages.items()}
            for key, stages in made.items()
        }

    @dg.asset(deps=[dg.AssetKey(["scenes", "collection"])], partitions_def=partitions_of(scenes.spec))
    def report() -> None:
        """An asset of a user's."""

    definitions = dg.Definitions.merge(scenes.definitions(), dg.Definitions(assets=[report]))
    everything = definitions.resolve_implicit_global_asset_job_def()
    instance.add_dynamic_partitions("scenes_months", KEYS)
    whole = {RANGE_START: KEYS[0], RANGE_END: KEYS[-1]}

    def stale() -> list[str]:
        graph = definitions.resolve_asset_graph()
        resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
        return [key for key in KEYS if resolver.get_status(report.key, key) is StaleStatus.STALE]

    scenes.run(instance, tags=whole)
    everything.execute_in_process(instance=instance, tags=whole, asset_selection=[report.key])
    first = versions()
    assert len({version for stages in first.values() for version in stages.values()}) == 4 * len(KEYS)
    scenes.run(instance, tags=whole)
    assert (versions(), stale()) == (first, [])
    scenes.change(e=2)
    scenes.run(instance, tags=whole)
    changed = versions()
    assert [key for key in KEYS if changed[key] != first[key]] == ["2024-02"]
    assert all(changed["2024-02"][stage] != first["2024-02"][stage] for stage in STAGES)
    assert stale() == ["2024-02"]


def test_an_outage_publishes_nothing_and_is_made_good_by_a_retry(scenes: Scenes, instance: dg.DagsterInstance) -> None:
    scenes.server.fault = lambda path, before: "403"
    with pytest.raises(EnrichmentError, match=r"not one of 2 headers could be read \(2 forbidden\)"):
        scenes.materialize(instance, keys=["2024-01"])
    assert "not one of 2 headers" in failure(scenes.run(instance, partition_key="2024-01"))
    assert scenes.published() == {}
    scenes.server.fault = lambda path, before: None
    counts = scenes.materialize(instance, keys=["2024-01"])
    assert counts["2024-01"]["band_metadata"]["headers_fetched"] == 2


def test_failed_files_stop_no_run(scenes: Scenes, instance: dg.DagsterInstance) -> None:
    scenes.server.fault = lambda path, before: "404" if path in {"/a.tif", "/c.tif"} else None
    counts = scenes.materialize(instance)
    assert counts["2024-01"]["band_metadata"]["headers_failed"] == 1
    assert counts["2024-02"]["band_metadata"]["headers_failed"] == 1
    assert counts["2024-02"]["collection"]["rows"] == 1


def test_progress_is_written_to_the_log(scenes: Scenes, instance: dg.DagsterInstance, monkeypatch) -> None:
    monkeypatch.setattr("rasteret_assets.orchestration.pages.reporting.PROGRESS_INTERVAL_S", 0.0)
    instance.add_dynamic_partitions("scenes_months", KEYS)
    result = scenes.run(instance, partition_key="2024-01")
    lines = [entry.user_message for entry in instance.all_logs(result.run_id) if "in flight" in entry.user_message]
    assert lines[-1].startswith("2024-01: 2 of 2 headers, ")
    assert lines[-1].endswith("/s, 0 failed, 0 in flight, about 0 s left")
    assert all("left" not in line for line in lines if ": 0 of 2 headers" in line)


def test_an_unknown_partition_is_named(scenes: Scenes, instance: dg.DagsterInstance) -> None:
    with pytest.raises(SpecError, match="no partition 2031-01; it has 2024-01, 2024-02, undated"):
        scenes.materialize(instance, keys=["2031-01"])


def test_the_backend_sends_the_headers_it_was_given(scenes: Scenes, instance: dg.DagsterInstance, monkeypatch) -> None:
    monkeypatch.setenv("TOKEN", "Bearer abc")
    backend = StorageBackendResource(headers={"X-Team": "maps"}, authorization=dg.EnvVar("TOKEN"))
    scenes.materialize(instance, keys=["undated"], resources={"rasteret_backend": backend})
    (sent,) = scenes.server.headers
    assert (sent["X-Team"], sent["Authorization"]) == ("maps", "Bearer abc")


def test_headers_by_host_go_to_their_host_and_are_shown_to_nobody(scenes: Scenes, instance, monkeypatch) -> None:
    monkeypatch.setenv("KEY", "verysecret")
    monkeypatch.setenv("TOKEN", "Bearer alsosecret")
    ours, other = scenes.server.url.removeprefix("http://"), "other.example"
    backend = StorageBackendResource(
        headers={"X-Team": "maps"}, authorization=dg.EnvVar("TOKEN"),
        host_headers={ours: {"X-Key": dg.EnvVar("KEY"), "x-team": "ours"}, other: {"X-Other": dg.EnvVar("KEY")}},
    )  # fmt: skip
    definitions = build_definitions([scenes.spec], resources={**default_resources(), BACKEND: backend})
    instance.add_dynamic_partitions("scenes_months", KEYS)
    job = definitions.resolve_job_def("scenes_build")
    result = job.execute_in_process(instance=instance, partition_key="undated")
    assert result.success
    (sent,) = scenes.server.headers
    assert (sent["X-Key"], sent["Authorization"]) == ("verysecret", "Bearer alsosecret")
    assert {name.lower(): value for name, value in sent.items()}["x-team"] == "ours"
    assert "X-Other" not in sent
    # All that the UI gets: the resource, the run and its events.
    (shown,) = RepositorySnap.from_def(dg.Definitions(resources={BACKEND: backend}).get_repository_def()).resources
    assert json.loads(shown.configured_values["host_headers"])[ours]["X-Key"] == {"env": "KEY"}
    assert all(field.is_secret for field in shown.config_field_snaps if field.name == "host_headers")
    run = instance.get_run_by_id(result.run_id)
    told = [str(shown), repr(backend), str(run), *(str(entry) for entry in instance.all_logs(result.run_id))]
    assert not [text for text in told if "verysecret" in text or "alsosecret" in text]


def test_uris_that_say_how_they_are_reached_are_left_to_pyarrow() -> None:
    resource = FilesystemResource(endpoint_url="http://127.0.0.1:1", aws_access_key_id="key", aws_secret_access_key="x")
    own = ["/data/t.parquet", "gs://b/t", "s3://key:secret@b/t", "s3://b/t?region=eu-west-1"]
    assert [resource.filesystem(path) for path in own] == [None] * 4
    assert resource.filesystem("s3://b/t").type_name == "s3"


def test_resources_hide_their_secrets(monkeypatch) -> None:
    monkeypatch.setenv("SECRET", "hidden")
    for secret in ("hidden", dg.EnvVar("SECRET")):
        assert "hidden" not in repr(FilesystemResource(aws_access_key_id="key", aws_secret_access_key=secret))
