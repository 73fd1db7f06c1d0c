"""The refresh sensor requests partitions that differ between source and published collection, and no others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rasteret_assets.options import GraphOptions
from rasteret_assets.orchestration.asset_graph.graph_partitions import PARTITION, RANGE_END, RANGE_START, grouped
from rasteret_assets.orchestration.triggers import refresh_sensor
from tests.orchestration.scenes import KEYS, Scenes, launch, tick
from tests.support.rasters import record_table


def requested(result: dg.SensorResult) -> list[str | tuple[str, str]]:
    """Return the partition, or the ends of the range, of every requested run."""
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
    # A tick that is evaluated twice must not launch its runs twice.
    again = tick(scenes, instance)
    assert [request.run_key for request in again.run_requests] == [request.run_key for request in first.run_requests]
    assert all(run.success for run in launch(scenes, instance, first))
    second = tick(scenes, instance, first.cursor)
    assert (requested(second), observed(second)) == ([], [])
    assert second.skip_reason.skip_message == "all 3 partitions of the source are published as they are"


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


def test_partitions_that_the_library_built_are_not_built_again(built: Scenes) -> None:
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
    assert (
        waiting.skip_reason.skip_message == "2 partitions are being built; no other partition differs from the source"
    )


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


def test_a_version_that_comes_back_gets_another_run_key(built: Scenes, instance: dg.DagsterInstance) -> None:
    cursor, run_keys = None, []
    for month in (3, 4, 3):
        built.change(c=month)
        result = tick(built, instance, cursor)
        cursor = result.cursor
        run_keys += [request.run_key for request in result.run_requests or []]
        launch(built, instance, result)
    assert len(run_keys) == len(set(run_keys))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The sensor's time, in seconds since 1970, which may be changed."""
    now = [1_700_000_000.0]
    monkeypatch.setattr(refresh_sensor.time, "time", lambda: now[0])
    return now


def waits(scenes: Scenes, instance: dg.DagsterInstance, clock: list[float], first: dg.SensorResult) -> Iterator[float]:
    """Return the minutes from each failed run of partition 2024-02 to the next run."""
    result = first
    while True:
        launch(scenes, instance, result)
        # The first tick after a failed run notices the failure.
        result = tick(scenes, instance, result.cursor)
        assert requested(result) == []
        due = json.loads(result.cursor)["asked"]["2024-02"]["due"]
        yield (due - clock[0]) / 60
        clock[0] = due - 1
        result = tick(scenes, instance, result.cursor)
        assert requested(result) == []
        assert result.skip_reason.skip_message.startswith(
            "partitions whose runs failed wait for their next try: 2024-02"
        )
        clock[0] = due
        result = tick(scenes, instance, result.cursor)
        assert requested(result) == ["2024-02"]


def test_a_failing_partition_is_tried_again_ever_more_rarely(
    scenes: Scenes, instance: dg.DagsterInstance, clock: list[float]
) -> None:
    scenes.server.fault = lambda path, before: "403" if path == "/c.tif" else None
    first = tick(scenes, instance)
    assert requested(first) == [("2024-01", "undated")]
    tried = waits(scenes, instance, clock, first)
    assert [next(tried) for _ in range(10)] == [1, 2, 4, 8, 16, 32, 64, 128, 240, 240]
    assert len(scenes.published()) == 2


def test_a_failing_partition_is_asked_for_at_once_when_its_source_changes(
    scenes: Scenes, instance: dg.DagsterInstance, clock: list[float]
) -> None:
    scenes.server.fault = lambda path, before: "403" if path == "/c.tif" else None
    first = tick(scenes, instance)
    tried = waits(scenes, instance, clock, first)
    next(tried)
    scenes.change(e=2)
    changed = tick(scenes, instance, first.cursor)
    assert requested(changed) == ["2024-02"]
    assert all(run.success for run in launch(scenes, instance, changed))
    assert requested(tick(scenes, instance, changed.cursor)) == []


def test_one_bad_partition_blocks_none_of_many(
    scenes: Scenes, instance: dg.DagsterInstance, clock: list[float]
) -> None:
    names = [f"r{year}{month:02}" for year in range(10) for month in range(1, 13)]
    times = [datetime(2010 + int(name[1]), int(name[2:]), 5, tzinfo=UTC) for name in names]
    keys = [f"{time:%Y-%m}" for time in times]

    def write(rows: dict[str, str | None]) -> None:
        """Write one record for each month, with an id each."""
        kept = [(rows[key], time) for key, time in zip(keys, times, strict=True) if key in rows]
        bands = {"B02": [f"{scenes.server.url}/a.tif?{name}" for name, _ in kept]}
        table = record_table([str(name) for name, _ in kept], bands, datetimes=[time for _, time in kept])
        ids = pa.array([name for name, _ in kept], pa.string())
        pq.write_table(table.set_column(0, "id", ids), scenes.file)

    rows: dict[str, str | None] = dict(zip(keys[:-1], names, strict=False))
    write(rows)
    scenes.build()
    before = tick(scenes, instance)
    assert requested(before) == []
    rows["2012-03"], rows["2014-07"], rows[keys[-1]] = "other", None, "fresh"  # changed, bad, new
    del rows["2016-11"]
    write(rows)
    after = tick(scenes, instance, before.cursor)
    assert requested(after) == ["2012-03", "2014-07", "2016-11", keys[-1]]
    assert [run.success for run in launch(scenes, instance, after)] == [True, False, True, True]
    noticed = tick(scenes, instance, after.cursor)
    assert requested(noticed) == []
    rows["2018-01"] = "late"
    write(rows)
    assert requested(tick(scenes, instance, noticed.cursor)) == ["2018-01"]
    clock[0] += 60
    assert requested(tick(scenes, instance, noticed.cursor)) == ["2014-07", "2018-01"]


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
def test_groups_are_neighbours_in_definition_order(keys: str, most: int, groups: list[str]) -> None:
    options = GraphOptions(partitions_per_run=most)
    assert grouped("abcd", keys, options) == [list(group) for group in groups]


def test_a_run_takes_as_many_headers_as_it_may() -> None:
    months = [f"{number}" for number in range(144)]
    options = GraphOptions()
    small, large = dict.fromkeys(months, 100), dict.fromkeys(months, 700_000)
    assert [len(group) for group in grouped(months, months, options, small)] == [25] * 5 + [19]
    assert [len(group) for group in grouped(months, months, options, large)] == [1] * 144
    one_large = {**small, "5": 700_000}
    assert [len(group) for group in grouped(months[:10], months[:10], options, one_large)] == [5, 1, 4]
    assert grouped("abcd", "abcd", options, alone={"b"}) == [["a"], ["b"], ["c", "d"]]
