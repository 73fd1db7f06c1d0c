"""The graph of a collection that is partitioned by day, and of one that was partitioned by month before."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from rasteret_assets import load
from rasteret_assets.orchestration.pages._lineage import column_lineage
from rasteret_assets.orchestration.triggers.jobs import REASON_TAG
from rasteret_assets.schema import NORMALIZED
from tests.orchestration.scenes import Scenes, latest, launch, tick
from tests.orchestration.test_sensor import requested
from tests.support.server import RangeServer

DAYS = ["2024-01-05", "2024-02-05", "undated"]


@pytest.fixture
def by_month(scenes: Scenes) -> Scenes:
    """The table of ``by_day``, published by month."""
    scenes.build()
    return scenes


@pytest.fixture
def by_day(server: RangeServer, tmp_path: Path) -> Scenes:
    return Scenes(server, tmp_path, partition_by="day").write()


def ids(scenes: Scenes) -> list[str]:
    return sorted(load(str(scenes.spec.published_path), verify="full").to_table(["id"])["id"].to_pylist())


def test_days_are_the_partitions_of_a_collection_by_day(by_day: Scenes, instance: dg.DagsterInstance) -> None:
    assert list(by_day.materialize(instance)) == DAYS
    assert instance.get_dynamic_partitions("scenes_days") == DAYS
    assert instance.get_dynamic_partitions("scenes_months") == []
    made = latest(instance, "2024-01-05")["collection"]
    assert made.metadata["dagster/partition_row_count"].value == 2
    assert made.metadata["path"].value.endswith("year=2024/month=1/day=5/part-0.parquet")
    columns = latest(instance, "2024-01-05")["normalized_records"].metadata["dagster/column_schema"].value.columns
    assert [column.name for column in columns][-3:] == ["year", "month", "day"]
    assert requested(tick(by_day, instance)) == []


def test_only_hive_keys_come_from_the_datetime(scenes: Scenes, by_day: Scenes) -> None:
    for one, origin in ((scenes, "day"), (by_day, "datetime")):
        schema = one.table().schema
        lineage = column_lineage(one.spec, NORMALIZED, schema.append(schema.field("id").with_name("day")))
        assert lineage is not None
        assert [dep.column_name for dep in lineage.deps_by_column["day"]] == [origin]


@pytest.mark.usefixtures("by_month")
def test_months_go_once_their_days_are_all_published(by_day: Scenes, instance: dg.DagsterInstance) -> None:
    first = tick(by_day, instance)
    assert instance.get_dynamic_partitions("scenes_days") == [*DAYS, "2024-01", "2024-02"]
    assert requested(first) == [("2024-01-05", "undated")]
    assert ids(by_day) == ["a", "b", "c", "d"]
    days = launch(by_day, instance, first)
    assert all(run.success for run in days)
    assert ids(by_day) == ["a", "b", "c", "d"]
    second = tick(by_day, instance, first.cursor)
    assert requested(second) == [("2024-01", "2024-02")]
    assert {request.tags[REASON_TAG] for request in second.run_requests or []} == {"vanished"}
    assert all(run.success for run in launch(by_day, instance, second))
    assert requested(tick(by_day, instance, second.cursor)) == []
    assert ids(by_day) == ["a", "b", "c", "d"]
    assert all("day=" in path for path in by_day.published())


@pytest.mark.usefixtures("by_month")
def test_months_wait_for_days_that_are_being_built(by_day: Scenes, instance: dg.DagsterInstance) -> None:
    first = tick(by_day, instance)
    job = by_day.definitions().resolve_job_def("scenes_build")
    for request in first.run_requests or []:
        instance.create_run_for_job(job, tags=request.tags, status=dg.DagsterRunStatus.STARTED)
    assert requested(tick(by_day, instance, first.cursor)) == []


@pytest.mark.usefixtures("by_month")
def test_partitions_of_the_size_before_are_removed_last(by_day: Scenes, instance: dg.DagsterInstance) -> None:
    order = by_day.materialize(instance)
    assert list(order) == [*DAYS, "2024-01", "2024-02"]
    assert ids(by_day) == ["a", "b", "c", "d"]


@pytest.mark.usefixtures("by_month")
def test_another_size_asks_for_no_header(by_day: Scenes, instance: dg.DagsterInstance) -> None:
    by_day.server.reset()
    by_day.materialize(instance)
    assert by_day.server.paths == []
