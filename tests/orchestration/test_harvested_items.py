"""Harvests in the graph: an asset upstream of the record table, which the sensor takes up as any other change of it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from rasteret_assets import CollectionSpec, load
from rasteret_assets.dagster import FilesystemResource, build_definitions
from rasteret_assets.harvesting import ask, reader
from rasteret_assets.orchestration.harvested_items import COMPLETE_CHECK, RECENT_CHECK
from tests.support.stac import COLLECTION, StacServer, make_item, serve_stac

HARVESTED = dg.AssetKey(["scenes", "harvested_items"])


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "RETRIED_AFTER_S", (0.0,))
    monkeypatch.setattr(reader, "BACKOFF_S", 0.0)
    monkeypatch.setattr(ask, "ASKED_AGAIN_AFTER_S", (0.0,))


@pytest.fixture
def stac() -> Iterator[StacServer]:
    with serve_stac() as server:
        server.put(*(make_item(number) for number in range(200)))
        yield server


class Graph:
    """The definitions of a collection that is harvested, on an instance."""

    def __init__(self, stac: StacServer, folder: Path, instance: dg.DagsterInstance, **graph: object) -> None:
        asked = {"stac_api": stac.url, "collections": [COLLECTION], "datetime": "2024-01/2024-03"}
        self.spec = CollectionSpec.of(name="scenes", workspace_dir=folder, harvest=asked, graph=graph)
        self.definitions, self.instance = build_definitions([self.spec]), instance
        self.cursor: str | None = None

    def run(self, job: str, **options: object) -> dg.ExecuteInProcessResult:
        made = self.definitions.resolve_job_def(job)
        return made.execute_in_process(instance=self.instance, raise_on_error=False, **options)

    def tick(self) -> dg.SensorResult:
        context = dg.build_sensor_context(
            instance=self.instance, cursor=self.cursor, definitions=self.definitions,
            resources={"rasteret_filesystem": FilesystemResource()},
        )  # fmt: skip
        result = self.definitions.resolve_sensor_def("scenes_refresh")(context)
        self.cursor = result.cursor or self.cursor
        for request in result.dynamic_partitions_requests or []:
            self.instance.add_dynamic_partitions(request.partitions_def_name, request.partition_keys)
        return result

    def build(self, result: dg.SensorResult) -> list[bool]:
        return [
            self.run("scenes_build", partition_key=request.partition_key, tags=request.tags).success
            for request in result.run_requests or []
        ]

    def last(self) -> dg.AssetMaterialization:
        """The last materialization of the harvested items."""
        (record,) = self.instance.fetch_materializations(HARVESTED, limit=1).records
        assert record.asset_materialization is not None
        return record.asset_materialization

    def materialized(self) -> dict[str, object]:
        return {name: value.value for name, value in self.last().metadata.items()}

    def version(self) -> str:
        return (self.last().tags or {})["dagster/data_version"]


@pytest.fixture
def graph(stac: StacServer, tmp_path: Path, instance: dg.DagsterInstance) -> Graph:
    return Graph(stac, tmp_path, instance)


def test_harvested_items_stand_upstream_of_the_source(graph: Graph) -> None:
    assets = graph.definitions.resolve_asset_graph()
    assert assets.get(dg.AssetKey(["scenes", "source"])).parent_keys == {HARVESTED}
    assert assets.get(dg.AssetKey(["scenes", "raw_records"])).parent_keys == {dg.AssetKey(["scenes", "source"])}
    assert not assets.get(HARVESTED).is_partitioned
    assert {key.name for key in assets.get(HARVESTED).check_keys} == {COMPLETE_CHECK, RECENT_CHECK}


def test_before_the_first_harvest_all_loads_and_says_so(graph: Graph) -> None:
    dg.Definitions.validate_loadable(graph.definitions)
    skip = graph.tick().skip_reason
    assert skip is not None
    assert "not harvested yet" in str(skip.skip_message)
    assert "scenes_harvest" in str(skip.skip_message)
    assert graph.run("scenes_look").success
    assert graph.instance.get_dynamic_partitions("scenes_months") == []


def test_a_harvest_is_noticed_by_the_sensor_and_built(graph: Graph, stac: StacServer) -> None:
    assert graph.run("scenes_harvest").success
    found = graph.materialized()
    assert (found["dagster/row_count"], found["items_new"], found["windows_asked"]) == (200, 200, 3)
    assert (found["requests"], found["newest_item"]) == (len(stac.requests), "2024-02-11T14:00:00Z")
    assert set(graph.build(graph.tick())) == {True}
    assert len(load(str(graph.spec.published_path))) == 200
    assert not graph.tick().run_requests

    version = graph.version()
    assert graph.run("scenes_harvest").success
    assert (graph.materialized()["windows_asked"], graph.materialized()["requests"]) == (0, 2)
    assert graph.version() == version
    assert not graph.tick().run_requests

    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat().replace("+00:00", "Z")
    stac.put(make_item(900, datetime(2024, 2, 20, tzinfo=UTC), updated=later))
    assert graph.run("scenes_harvest").success
    assert graph.materialized()["items_new"] == 1
    assert graph.version() != version
    requests = graph.tick().run_requests or []
    assert [request.partition_key for request in requests] == ["2024-02"]


def test_by_force_all_windows_are_asked_for(graph: Graph, stac: StacServer) -> None:
    graph.run("scenes_harvest")
    stac.delete("scene-00003")
    config = {"resources": {"rasteret_options": {"config": {"force": True}}}}
    assert graph.run("scenes_harvest", run_config=config).success
    assert (graph.materialized()["items_gone"], graph.materialized()["asked_for_all_windows"]) == (1, True)


def test_a_window_that_fails_fails_the_run_and_its_check_but_not_the_others(graph: Graph, stac: StacServer) -> None:
    stac.fault = lambda *_: "broken" if stac.requests[-1][2].get("datetime", "").startswith("2024-02") else None
    result = graph.run("scenes_harvest")
    assert not result.success
    failure = next(event for event in result.all_events if event.is_step_failure)
    assert "1 of 3 windows could not be harvested" in str(failure.step_failure_data.user_failure_data.description)
    checks = {found.check_name: found for found in result.get_asset_check_evaluations()}
    assert not checks[COMPLETE_CHECK].passed
    assert "2024-02" in str(checks[COMPLETE_CHECK].description)
    found = graph.materialized()
    assert (found["windows_failed"], found["items_new"]) == (1, 149)
    # What came is built.
    assert graph.build(graph.tick()) == [True]


def test_the_age_of_the_newest_item_is_checked(stac: StacServer, tmp_path: Path, instance: dg.DagsterInstance) -> None:
    for hours, passed in ((None, True), (1.0, False), (900_000.0, True)):
        graph = Graph(stac, tmp_path / str(hours), instance, newest_item_within_hours=hours)
        result = graph.run("scenes_harvest")
        (check,) = (found for found in result.get_asset_check_evaluations() if found.check_name == RECENT_CHECK)
        assert check.passed is passed
        assert check.severity is dg.AssetCheckSeverity.WARN
        assert "hours old" in str(check.description)


@pytest.mark.parametrize("autostart", [False, True])
def test_the_schedule_launches_harvests(
    stac: StacServer, tmp_path: Path, instance: dg.DagsterInstance, autostart: bool
) -> None:
    graph = Graph(stac, tmp_path, instance, harvest_cron="0 4 * * *", timezone="Europe/Berlin", autostart=autostart)
    schedule = graph.definitions.resolve_schedule_def("scenes_harvest_schedule")
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("0 4 * * *", "Europe/Berlin")
    assert schedule.default_status.value == ("RUNNING" if autostart else "STOPPED")
    tick = schedule.evaluate_tick(dg.build_schedule_context(instance=instance))
    assert len(tick.run_requests or []) == 1


def test_a_collection_of_a_table_has_no_harvest(tmp_path: Path) -> None:
    definitions = build_definitions([CollectionSpec.of(path="x.parquet", name="scenes", workspace_dir=tmp_path)])
    assert not definitions.resolve_asset_graph().has(HARVESTED)
    assert "scenes_harvest" not in {job.name for job in definitions.resolve_all_job_defs()}
