"""Jobs, schedules and the retry sensor launch runs, and no run has no reason."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg
import pytest

from rasteret_assets.dagster import FilesystemResource, partitions_of
from rasteret_assets.orchestration.asset_graph.graph_partitions import RANGE_END, RANGE_START
from rasteret_assets.orchestration.graph_names import stage_key
from rasteret_assets.orchestration.triggers import _retry_sensor
from rasteret_assets.orchestration.triggers.jobs import COLLECTION_TAG, REASON_TAG
from rasteret_assets.schema import BANDS, COLLECTION
from tests.orchestration.scenes import KEYS, Scenes, launch, tick


def requested(requests: list[dg.RunRequest]) -> list[object]:
    return [request.partition_key or (request.tags[RANGE_START], request.tags[RANGE_END]) for request in requests]


def evaluate(scenes: Scenes, instance: dg.DagsterInstance, hour: int = 6) -> list[dg.RunRequest]:
    """Return the requests of the schedule for revalidation."""
    definition = scenes.definitions().resolve_schedule_def("scenes_revalidate_schedule")
    # Closed, because the context opens the instance anew, and an open one stays Dagster's current instance.
    with dg.build_schedule_context(
        instance=instance,
        scheduled_execution_time=datetime(2024, 9, 1, hour, tzinfo=UTC),
        resources={"rasteret_filesystem": FilesystemResource()},
    ) as context:
        made = definition(context)
    return [] if isinstance(made, dg.SkipReason) else list(made)


@pytest.fixture
def kept(tmp_path) -> Iterator[dg.DagsterInstance]:
    """An instance on disk: Dagster opens it anew to evaluate a schedule."""
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        yield instance


class Clock:
    """The refresh schedule: each tick launches the look job, then a sensor is evaluated as the daemon does it."""

    def __init__(self, scenes: Scenes, instance: dg.DagsterInstance) -> None:
        self.scenes = scenes
        self.instance = instance
        self.cursor: str | None = None
        self._evaluate()

    def tick(self, hour: int = 6) -> list[dg.RunRequest]:
        definitions = self.scenes.definitions()
        schedule = definitions.resolve_schedule_def("scenes_refresh_schedule")
        context = dg.build_schedule_context(
            self.instance, scheduled_execution_time=datetime(2024, 9, 1, hour, tzinfo=UTC)
        )
        with context:
            (request,) = schedule.evaluate_tick(context).run_requests
        job = definitions.resolve_job_def(schedule.job_name)
        assert job.execute_in_process(instance=self.instance, tags=request.tags).success
        return self._evaluate()

    def _evaluate(self) -> list[dg.RunRequest]:
        definitions = self.scenes.definitions()
        repository = definitions.get_repository_def()
        # With a reference to the instance, because Dagster finds the partitions of requests by it, as in a code server.
        context = dg.SensorEvaluationContext(
            instance_ref=self.instance.get_ref(), cursor=self.cursor, repository_def=repository,
            repository_name=None, resources=dict(repository.get_top_level_resources()),
        )  # fmt: skip
        with context:
            data = definitions.resolve_sensor_def("scenes_after_look").evaluate_tick(context)
        self.cursor = data.cursor
        return list(data.run_requests or [])


def test_the_schedule_leads_to_what_the_sensor_would_request(scenes: Scenes, kept: dg.DagsterInstance) -> None:
    instance, clock = kept, Clock(scenes, kept)
    first = clock.tick()
    assert requested(first) == [("2024-01", "undated")]
    assert first[0].tags[REASON_TAG] == "new"
    assert instance.get_dynamic_partitions("scenes_months") == KEYS
    source = dg.AssetKey(["scenes", "source"])
    assert len(instance.fetch_observations(source, limit=9).records) == 3
    scenes.build()
    assert clock.tick() == []
    scenes.change(c=-1, e=7)
    after = clock.tick(hour=7)
    assert [(request.partition_key, request.tags[REASON_TAG]) for request in after] == [
        ("2024-02", "vanished"), ("2024-07", "new"),
    ]  # fmt: skip
    # Only changed versions are reported to Dagster.
    assert len(instance.fetch_observations(source, limit=9).records) == 4
    again = clock.tick(hour=8)
    assert requested(again) == requested(after)
    assert {request.run_key for request in again}.isdisjoint({request.run_key for request in after})


def test_a_profile_run_that_the_schedule_did_not_launch_builds_nothing(
    scenes: Scenes, kept: dg.DagsterInstance
) -> None:
    clock = Clock(scenes, kept)
    assert scenes.definitions().resolve_job_def("scenes_look").execute_in_process(instance=kept).success
    assert clock._evaluate() == []


def test_revalidation_covers_all_published_partitions(scenes: Scenes, kept: dg.DagsterInstance) -> None:
    instance = kept
    assert evaluate(scenes, instance) == []
    scenes.materialize(instance, keys=["2024-01", "undated"])
    requests = evaluate(scenes, instance)
    assert requested(requests) == ["2024-01", "undated"]
    assert {request.tags[COLLECTION_TAG] for request in requests} == {"scenes"}


@pytest.mark.parametrize(("job", "paths"), [("rebuild", ["/a.tif", "/b.tif"]), ("build", [])])
def test_only_the_rebuild_job_fetches_stored_headers(scenes, instance, job: str, paths: list[str]) -> None:
    scenes.materialize(instance, keys=["2024-01"])
    scenes.server.reset()
    config = scenes.definitions().resolve_job_def(f"scenes_{job}")
    result = config.execute_in_process(instance=instance, partition_key="2024-01")
    assert result.success
    assert sorted(scenes.server.paths) == paths
    assert result.dagster_run.tags[COLLECTION_TAG] == "scenes"


def test_the_revalidate_job_reads_files_that_were_replaced(scenes: Scenes, instance: dg.DagsterInstance) -> None:
    scenes.materialize(instance, keys=["2024-01"])
    scenes.server.reset()
    job = scenes.definitions().resolve_job_def("scenes_revalidate")
    result = job.execute_in_process(instance=instance, partition_key="2024-01")
    made = {event.asset_key.path[-1]: event for event in result.get_asset_materialization_events()}
    counts = made[BANDS].step_materialization_data.materialization.metadata
    assert (counts["headers_reused"].value, counts["headers_fetched"].value) == (2, 0)
    assert len(scenes.server.requests) == 2


def retried(scenes: Scenes, instance: dg.DagsterInstance, cursor: str | None = None) -> dg.SensorResult:
    definitions, resources = scenes.definitions(), {"rasteret_filesystem": FilesystemResource()}
    context = dg.build_sensor_context(instance=instance, cursor=cursor, definitions=definitions, resources=resources)
    return definitions.resolve_sensor_def("scenes_retry")(context)


def test_transient_failures_are_tried_again_ever_more_rarely(scenes, instance, monkeypatch) -> None:
    scenes = Scenes(scenes.server, scenes.file.parent, retry_missing_for=0)
    clock = [1_700_000_000.0]
    monkeypatch.setattr(_retry_sensor.time, "time", lambda: clock[0])
    assert "no header failed" in retried(scenes, instance).skip_reason.skip_message
    scenes.server.fault = lambda path, before: {"/a.tif": "403", "/c.tif": "404"}.get(path)
    scenes.materialize(instance, keys=["2024-01", "2024-02"])

    first = retried(scenes, instance)
    assert first.skip_reason.skip_message == "1 headers of 1 partitions wait for their next try"
    waits, cursor = [], first.cursor
    for _ in range(6):
        due = json.loads(cursor)["2024-01"]["due"]
        assert not retried(scenes, instance, cursor).run_requests
        waits.append((due - clock[0]) / 3600)
        clock[0] = due
        result = retried(scenes, instance, cursor)
        (request,) = result.run_requests
        assert (request.partition_key, request.tags[REASON_TAG]) == ("2024-01", "retry")
        assert [asset.path[-1] for asset in request.asset_selection] == [BANDS, COLLECTION]
        cursor = result.cursor
    assert waits == [1, 2, 4, 8, 16, 24]


def test_files_that_were_missed_lately_are_tried_again(server, tmp_path, instance, monkeypatch) -> None:
    scenes = Scenes(server, tmp_path, retry_missing_for=2).write()
    server.fault = lambda path, before: "404" if path == "/c.tif" else None
    scenes.materialize(instance, keys=["2024-01", "2024-02"])
    clock = [_retry_sensor.time.time()]
    monkeypatch.setattr(_retry_sensor.time, "time", lambda: clock[0])
    cursor, requests = retried(scenes, instance).cursor, []
    for _ in range(60):
        clock[0] += 3600
        result = retried(scenes, instance, cursor)
        requests += result.run_requests or []
        cursor = result.cursor
    assert [request.partition_key for request in requests] == ["2024-02"] * 5
    assert "no header failed" in result.skip_reason.skip_message


def test_a_retry_asks_for_the_failed_headers_only(scenes, instance, monkeypatch) -> None:
    scenes.server.fault = lambda path, before: "403" if path == "/a.tif" else None
    scenes.materialize(instance, keys=["2024-01"])
    cursor = retried(scenes, instance).cursor
    monkeypatch.setattr(_retry_sensor.time, "time", lambda: json.loads(cursor)["2024-01"]["due"] + 1)
    (request,) = retried(scenes, instance, cursor).run_requests
    scenes.server.fault = lambda path, before: None
    scenes.server.reset()
    result = scenes.run(
        instance, partition_key="2024-01", tags=request.tags, asset_selection=list(request.asset_selection)
    )
    assert result.success
    assert scenes.server.paths == ["/a.tif"]
    assert "no header failed" in retried(scenes, instance, cursor).skip_reason.skip_message


def test_a_busy_partition_is_tried_when_its_run_is_done(scenes, instance, monkeypatch) -> None:
    scenes.server.fault = lambda path, before: "403" if path == "/a.tif" else None
    scenes.materialize(instance, keys=["2024-01"])
    cursor = retried(scenes, instance).cursor
    monkeypatch.setattr(_retry_sensor.time, "time", lambda: json.loads(cursor)["2024-01"]["due"] + 1)
    job = scenes.definitions().resolve_job_def("scenes_build")
    run = instance.create_run_for_job(
        job, tags={"dagster/partition": "2024-01"}, status=dg.DagsterRunStatus.STARTED
    )  # fmt: skip
    waiting = retried(scenes, instance, cursor)
    assert not waiting.run_requests
    instance.report_run_canceled(run)
    assert len(retried(scenes, instance, waiting.cursor).run_requests) == 1


@pytest.mark.filterwarnings("ignore::dagster.BetaWarning")
def test_automation_of_assets_below_follows_partitions(scenes: Scenes, instance: dg.DagsterInstance) -> None:
    @dg.asset(
        deps=[stage_key(scenes.spec, COLLECTION)],
        partitions_def=partitions_of(scenes.spec),
        automation_condition=dg.AutomationCondition.eager(),
    )
    def mosaic() -> None: ...

    definitions = dg.Definitions.merge(scenes.definitions(), dg.Definitions(assets=[mosaic]))

    def automated(cursor: object) -> dg.EvaluateAutomationConditionsResult:
        return dg.evaluate_automation_conditions(definitions, instance, cursor=cursor)

    scenes.materialize(instance, keys=["2024-01", "undated"])
    before = automated(None)
    scenes.materialize(instance, keys=["2024-02"])
    after = automated(before.cursor)
    assert after.get_requested_partitions(mosaic.key) == {"2024-02"}
    assert automated(after.cursor).total_requested == 0


def test_a_run_says_why_it_was_launched(scenes: Scenes, instance: dg.DagsterInstance) -> None:
    result = tick(scenes, instance)
    assert result.run_requests[0].tags[REASON_TAG] == "new"
    (run,) = launch(scenes, instance, result)
    assert run.dagster_run.tags[REASON_TAG] == "new"
