"""The sensor requests what differs between source and published collection, and nothing else."""

from __future__ import annotations

import dagster as dg
import pytest

from rasteret_assets.orchestration.partitions import PARTITION, RANGE_END, RANGE_START, contiguous
from tests.orchestration.scenes import KEYS, Scenes, launch, tick


def requested(result: dg.SensorResult) -> list[str | tuple[str, str]]:
    """Partition, or ends of the range, of every requested run."""
    return [
        request.partition_key or (request.tags[RANGE_START], request.tags[RANGE_END])
        for request in result.run_requests or []
    ]


def observed(result: dg.SensorResult) -> list[str]:
    return [event.partition for event in result.asset_events]


@pytest.fixture
def built(scenes: Scenes) -> Scenes:
    scenes.build()
    scenes.server.reset()
    return scenes


def test_a_new_source_is_built_in_one_run(scenes: Scenes, instance: dg.DagsterInstance) -> None:
    first = tick(scenes, instance)
    assert requested(first) == [("2024-01", "undated")]
    assert observed(first) == KEYS
    second = tick(scenes, instance, first.cursor)
    assert requested(second) == requested(first)
    assert second.run_requests[0].run_key == first.run_requests[0].run_key
    assert observed(second) == []
    assert all(run.success for run in launch(scenes, instance, second))
    third = tick(scenes, instance, second.cursor)
    assert (requested(third), observed(third)) == ([], [])
    assert third.skip_reason.skip_message == "all 3 partitions of the source are published as they are"


def test_only_changed_new_and_vanished_partitions_are_requested(built: Scenes, instance: dg.DagsterInstance) -> None:
    before = tick(built, instance)
    assert (requested(before), observed(before)) == ([], [])
    built.change(c=-1, e=7)
    after = tick(built, instance, before.cursor)
    assert requested(after) == ["2024-02", "2024-07"]
    assert observed(after) == ["2024-07"]
    assert instance.get_dynamic_partitions("scenes_months") == [*KEYS, "2024-07"]
    assert all(run.success for run in launch(built, instance, after))
    assert built.server.paths == ["/e.tif"]
    assert [path for path in built.published() if "month=2/" in path] == []
    assert requested(tick(built, instance, after.cursor)) == []


def test_what_the_library_built_is_not_built_again(built: Scenes) -> None:
    with dg.DagsterInstance.ephemeral() as fresh:
        result = tick(built, fresh)
        assert (requested(result), observed(result)) == ([], [])
        assert fresh.get_dynamic_partitions("scenes_months") == KEYS


def test_busy_partitions_wait(built: Scenes, instance: dg.DagsterInstance) -> None:
    built.change(a=2, b=2, c=1, d=None)
    job = built.definitions().resolve_job_def("scenes_build")
    instance.create_run_for_job(job, tags={PARTITION: "2024-01"}, status=dg.DagsterRunStatus.STARTED)
    assert requested(tick(built, instance)) == ["2024-02"]
    instance.create_run_for_job(job, tags={PARTITION: "2024-02"}, status=dg.DagsterRunStatus.STARTED)
    waiting = tick(built, instance)
    assert waiting.skip_reason.skip_message == "2 partitions are being built; no other differs from the source"


def test_a_published_file_that_is_lost_is_built_again(built: Scenes, instance: dg.DagsterInstance) -> None:
    before = tick(built, instance)
    lost = next(path for path in built.published() if "month=2/" in path)
    (built.workspace / "scenes_records" / lost).unlink()
    after = tick(built, instance, before.cursor)
    assert requested(after) == ["2024-02"]
    assert after.run_requests[0].tags["rasteret_assets/reason"] == "incomplete"
    assert all(run.success for run in launch(built, instance, after))
    assert lost in built.published()
    assert built.server.paths == []


def test_a_version_that_comes_back_gets_a_run_key_of_its_own(built: Scenes, instance: dg.DagsterInstance) -> None:
    cursor, run_keys = None, []
    for month in (3, 4, 3):
        built.change(c=month)
        result = tick(built, instance, cursor)
        cursor = result.cursor
        run_keys += [request.run_key for request in result.run_requests or []]
        launch(built, instance, result)
    assert len(run_keys) == len(set(run_keys))


def test_a_failed_range_is_tried_again_partition_by_partition(scenes: Scenes, instance: dg.DagsterInstance) -> None:
    scenes.server.fault = lambda path, before: "403"
    first = tick(scenes, instance)
    assert [run.success for run in launch(scenes, instance, first)] == [False]
    scenes.server.fault = lambda path, before: "403" if path == "/c.tif" else None
    second = tick(scenes, instance, first.cursor)
    assert requested(second) == KEYS
    assert [run.success for run in launch(scenes, instance, second)] == [True, False, True]


@pytest.mark.parametrize(
    ("keys", "most", "groups"),
    [
        ("abcd", 9, ["abcd"]),
        ("abcd", 3, ["abc", "d"]),
        ("ac", 9, ["a", "c"]),
        ("dcb", 9, ["bcd"]),
        ("abcd", 1, ["a", "b", "c", "d"]),
        ("", 9, []),
    ],
)
def test_ranges_are_contiguous_in_definition_order(keys: str, most: int, groups: list[str]) -> None:
    assert contiguous("abcd", keys, most) == [list(group) for group in groups]
