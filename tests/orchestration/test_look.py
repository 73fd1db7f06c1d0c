"""The graph profiles the record table in a tick if little changed, else in a run of its own."""

from __future__ import annotations

import io
import json
import os
from collections import Counter
from collections.abc import Iterator
from datetime import datetime

import boto3
import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from rasteret_assets import CollectionSpec, load
from rasteret_assets.dagster import FilesystemResource, StorageBackendResource, build_definitions, partitions_of
from rasteret_assets.orchestration.graph_resources import FILESYSTEM
from rasteret_assets.orchestration.triggers import refresh_sensor
from rasteret_assets.orchestration.triggers.jobs import REASON_TAG
from rasteret_assets.pipeline.build import build_partitions
from rasteret_assets.pipeline.stage import Build
from rasteret_assets.source import parquet_files as files
from rasteret_assets.source import profiling, stored
from tests.orchestration.scenes import KEYS, Scenes, launch, tick
from tests.support.rasters import record_table
from tests.support.s3 import KEYS as S3_KEYS
from tests.support.s3 import bucket_server, requests_seen
from tests.support.server import RangeServer

SOURCE = dg.AssetKey(["scenes", "source"])


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The sensor's time, in seconds since 1970, which may be changed."""
    now = [1_700_000_000.0]
    monkeypatch.setattr(refresh_sensor.time, "time", lambda: now[0])
    return now


@pytest.fixture
def large(scenes: Scenes, monkeypatch: pytest.MonkeyPatch) -> Scenes:
    """A record table whose changes are always too large for a tick."""
    # Older than a step of the file system's clock, because a younger file might still be written.
    os.utime(scenes.file, (1.7e9, 1.7e9))
    monkeypatch.setattr(stored, "QUICK_BYTES", 0)
    return scenes


def jobs(result: dg.SensorResult) -> list[str | None]:
    return [request.job_name for request in result.run_requests or []]


def look(scenes: Scenes, instance: dg.DagsterInstance, result: dg.SensorResult) -> dg.ExecuteInProcessResult:
    """Run the look job that a tick requested."""
    (request,) = result.run_requests or []
    job = scenes.definitions().resolve_job_def(str(request.job_name))
    return job.execute_in_process(instance=instance, tags=request.tags, raise_on_error=False)


def observed(instance: dg.DagsterInstance) -> Counter[str | None]:
    """Return how often each partition of the source was observed."""
    records = instance.fetch_observations(SOURCE, limit=99).records
    return Counter(record.asset_observation.partition for record in records if record.asset_observation)


def test_a_large_change_is_profiled_by_a_run_and_then_built(
    large: Scenes, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*_: object) -> None:
        raise AssertionError("a file of the source was opened in a tick")

    with monkeypatch.context() as patched:
        patched.setattr(files, "_file_schema", opened)
        patched.setattr(profiling, "_profile_part", opened)
        first = tick(large, instance)
    assert jobs(first) == ["scenes_look"]
    assert (first.run_requests or [])[0].tags[REASON_TAG] == "look"
    assert instance.get_dynamic_partitions("scenes_months") == []

    job = large.definitions().resolve_job_def("scenes_look")
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    waiting = tick(large, instance, first.cursor)
    assert jobs(waiting) == []
    assert waiting.skip_reason is not None
    assert (waiting.skip_reason.skip_message or "").startswith("more of the record table changed than can be read")
    instance.report_run_canceled(run)

    assert look(large, instance, first).success
    assert instance.get_dynamic_partitions("scenes_months") == KEYS
    with monkeypatch.context() as patched:
        patched.setattr(profiling, "_profile_part", opened)
        after = tick(large, instance, waiting.cursor)
    assert jobs(after) == ["scenes_build"]
    # No observation, because the run has reported the versions already.
    assert after.asset_events == []
    assert all(result.success for result in launch(large, instance, after))
    assert jobs(tick(large, instance, after.cursor)) == []


@pytest.mark.parametrize("field", ["profiling", "look"])
def test_a_profile_that_fails_is_requested_ever_more_rarely(
    large: Scenes, instance: dg.DagsterInstance, clock: list[float], field: str
) -> None:
    """Also after a tick of an earlier version, whose cursor has the field ``look``."""
    content = large.file.read_bytes()
    large.file.write_bytes(content[:-10])
    os.utime(large.file, (1.7e9, 1.7e9))
    result, waits, run_keys = tick(large, instance), [], set()
    for _ in range(4):
        run_keys.add((result.run_requests or [])[0].run_key)
        assert not look(large, instance, result).success
        noticed = tick(large, instance, result.cursor)
        assert noticed.skip_reason is not None
        assert "failed, and waits for its next try" in (noticed.skip_reason.skip_message or "")
        due = json.loads(str(noticed.cursor))["profiling"]["due"]
        cursor = str(noticed.cursor).replace('"profiling"', f'"{field}"')
        waits.append((due - clock[0]) / 60)
        clock[0] = due - 1
        assert jobs(tick(large, instance, cursor)) == []
        clock[0] = due
        result = tick(large, instance, cursor)
        assert jobs(result) == ["scenes_look"]
    assert waits == [1, 2, 4, 8]
    assert len(run_keys) == 4
    large.file.write_bytes(content)
    os.utime(large.file, (1.7e9, 1.7e9))
    assert look(large, instance, result).success
    assert jobs(tick(large, instance, result.cursor)) == ["scenes_build"]


def test_a_tick_looks_at_a_small_change_itself(scenes: Scenes, instance: dg.DagsterInstance) -> None:
    scenes.build()
    first = tick(scenes, instance)
    scenes.change(e=2)
    assert jobs(tick(scenes, instance, first.cursor)) == ["scenes_build"]


def test_only_versions_that_changed_are_reported(scenes: Scenes, instance: dg.DagsterInstance) -> None:
    job = scenes.definitions().resolve_job_def("scenes_look")
    assert job.execute_in_process(instance=instance).success
    assert observed(instance) == dict.fromkeys(KEYS, 1)
    assert job.execute_in_process(instance=instance).success
    assert observed(instance) == dict.fromkeys(KEYS, 1)
    scenes.change(e=2)
    assert job.execute_in_process(instance=instance).success
    assert observed(instance) == {"2024-01": 1, "2024-02": 2, "undated": 1}


def test_a_partition_that_is_gone_from_the_source_is_registered(scenes: Scenes, instance: dg.DagsterInstance) -> None:
    scenes.build()
    scenes.change(c=-1)
    assert scenes.definitions().resolve_job_def("scenes_look").execute_in_process(instance=instance).success
    assert set(instance.get_dynamic_partitions("scenes_months")) == set(KEYS)


def test_raw_records_are_stale_where_the_source_changed(scenes: Scenes, instance: dg.DagsterInstance) -> None:
    job = scenes.definitions().resolve_job_def("scenes_look")
    assert job.execute_in_process(instance=instance).success
    scenes.materialize(instance)

    def stale() -> list[str]:
        graph = scenes.definitions().resolve_asset_graph()
        assert graph.get(SOURCE).is_observable
        resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
        key = dg.AssetKey(["scenes", "raw_records"])
        return [one for one in KEYS if resolver.get_status(key, one) is StaleStatus.STALE]

    assert stale() == []
    scenes.change(e=2)
    assert job.execute_in_process(instance=instance).success
    assert stale() == ["2024-02"]


@pytest.mark.parametrize("partitioned", [False, True])
def test_an_asset_that_writes_the_record_table_is_upstream(
    server: RangeServer, tmp_path, instance: dg.DagsterInstance, partitioned: bool
) -> None:
    scenes = Scenes(server, tmp_path, graph={"deps": ["catalog/items", "elsewhere"]}).write()
    days = dg.DailyPartitionsDefinition("2024-01-01") if partitioned else None

    @dg.asset(key=["catalog", "items"], partitions_def=days)
    def items() -> None:
        """Writes the record table."""

    definitions = dg.Definitions.merge(scenes.definitions(), dg.Definitions(assets=[items]))
    graph = definitions.resolve_asset_graph()
    assert graph.get(SOURCE).parent_keys == {items.key, dg.AssetKey("elsewhere")}
    everything = definitions.resolve_implicit_global_asset_job_def()
    key = "2024-01-01" if partitioned else None
    assert everything.execute_in_process(instance=instance, asset_selection=[items.key], partition_key=key).success
    look = definitions.resolve_job_def("scenes_look")
    assert look.execute_in_process(instance=instance).success
    assert instance.get_dynamic_partitions("scenes_months") == KEYS
    assert observed(instance) == dict.fromkeys(KEYS, 1)
    resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    for partition in KEYS:
        assert resolver.get_status(SOURCE, partition) is StaleStatus.FRESH
    assert graph.get(SOURCE).partitions_def == partitions_of(scenes.spec)


@pytest.fixture
def settings() -> Iterator[dict[str, str]]:
    with bucket_server("idle") as endpoint:
        yield {"endpoint_url": f"http://{endpoint}", "region_name": "us-east-1", **S3_KEYS}


def test_an_idle_tick_costs_a_handful_of_requests(settings: dict[str, str], instance: dg.DagsterInstance) -> None:
    """The number of partitions does not count, because only the first tick of a process reads all states."""
    months = [f"{2022 + number // 12}-{number % 12 + 1:02}" for number in range(30)]
    client = boto3.client("s3", **settings)
    times = [datetime.fromisoformat(f"{month}-05T00:00:00+00:00") for month in months]
    hrefs = {"B02": [f"s3://idle/{month}.tif" for month in months]}
    buffer = io.BytesIO()
    pq.write_table(record_table(months, hrefs, datetimes=times), buffer)
    client.put_object(Bucket="idle", Key="records/items.parquet", Body=buffer.getvalue())
    filesystem, backend = FilesystemResource(**settings), StorageBackendResource(**settings)
    spec = CollectionSpec.of(path="s3://idle/records", name="c", workspace_dir="s3://idle/out")
    workspace = filesystem.open_workspace(spec)
    build = Build(
        workspace=workspace, spec=spec, backend=backend.backend(spec), source=filesystem.open_source(spec)
    )  # fmt: skip
    with build.profiling() as found:
        build_partitions(build, sorted(found.partitions))
    definitions = build_definitions([spec], resources={FILESYSTEM: filesystem})
    watching = definitions.resolve_sensor_def("c_refresh")

    def idle(cursor: str | None) -> tuple[list[str], dg.SensorResult]:
        context = dg.build_sensor_context(
            instance=instance, cursor=cursor, definitions=definitions, resources={FILESYSTEM: filesystem}
        )
        with requests_seen() as seen:
            result = watching(context)
        for request in result.dynamic_partitions_requests or []:
            instance.add_dynamic_partitions(request.partitions_def_name, request.partition_keys)
        assert not result.run_requests
        return list(seen), result

    _, first = idle(None)
    seen, second = idle(first.cursor)
    assert len(seen) <= 9, seen
    # Only the state that another process replaced is read.
    path = workspace.state_file(months[7])
    workspace.write_json(path, {**workspace.read_json(path), "source_version": "other"})
    context = dg.build_sensor_context(
        instance=instance, cursor=second.cursor, definitions=definitions, resources={FILESYSTEM: filesystem}
    )
    with requests_seen() as seen:
        changed = watching(context)
    assert [request.partition_key for request in changed.run_requests] == [months[7]]
    assert len([request for request in seen if "/c_stages/collection/" in request]) == 1


def test_a_list_of_an_archive_and_its_live_file_at_an_address_is_kept_up_to_date(
    scenes: Scenes, server: RangeServer, instance: dg.DagsterInstance
) -> None:
    def live(*names: str) -> None:
        rows = scenes.table().append_column("updated", pa.array([len(names)] * len(scenes.months)))
        sink = pa.BufferOutputStream()
        pq.write_table(rows.filter(pc.is_in(rows["id"], pa.array(names, pa.string()))), sink)
        server.objects["/live.parquet"] = sink.getvalue().to_pybytes()

    archive = scenes.table().append_column("updated", pa.array([0] * len(scenes.months)))
    pq.write_table(archive, scenes.file)
    live("a")
    paths = [str(scenes.file), f"{server.url}/live.parquet"]
    scenes.spec = CollectionSpec.of(**{**scenes.spec.model_dump(), "path": paths, "overlap": "newest by updated"})
    first = tick(scenes, instance)
    assert jobs(first) == ["scenes_build"]
    assert all(result.success for result in launch(scenes, instance, first))
    assert sorted(load(scenes.spec.published_path).to_table()["updated"].to_pylist()) == [0, 0, 0, 1]
    assert jobs(tick(scenes, instance, first.cursor)) == []
    live("c", "d")
    second = tick(scenes, instance, first.cursor)
    assert all(result.success for result in launch(scenes, instance, second))
    # Records that the live file no longer has are those of the archive.
    assert sorted(load(scenes.spec.published_path).to_table()["updated"].to_pylist()) == [0, 0, 2, 2]
    assert jobs(tick(scenes, instance, second.cursor)) == []
