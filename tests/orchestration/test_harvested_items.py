"""Harvests in the graph: an asset upstream of the record table, which the sensor takes up as any other change of it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from rasteret_assets import CollectionSpec, load
from rasteret_assets.dagster import FilesystemResource, build_definitions
from rasteret_assets.harvesting import ask, reader
from rasteret_assets.orchestration.asset_graph.harvested_items import COMPLETE_CHECK, RECENT_CHECK
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

    def __init__(
        self, stac: StacServer, folder: Path, instance: dg.DagsterInstance, *, harvest: dict[str, Any] | None = None,
        **graph: object,
    ) -> None:  # fmt: skip
        asked = {"stac_api": stac.url, "collections": [COLLECTION], "datetime": "2024-01/2024-03", **(harvest or {})}
        self.spec = CollectionSpec.of(name="scenes", workspace_dir=folder, harvest=asked, graph=graph)
        self.definitions, self.instance = build_definitions([self.spec]), instance
        self.cursor: str | None = None
        self._seen = 0

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

    def harvested(self) -> dict[str, object]:
        """What the last harvest tells of itself."""
        records = self.instance.fetch_observations(HARVESTED, limit=9).records
        found = next(one.asset_observation for one in records if one.partition_key is None)
        assert found is not None
        return {name: value.value for name, value in found.metadata.items()}

    def windows(self) -> list[tuple[str | None, dict[str, object]]]:
        """The windows that were materialized since this was asked last, in order, with what is told of each."""
        records = self.instance.fetch_materializations(
            dg.AssetRecordsFilter(HARVESTED, after_storage_id=self._seen), limit=99, ascending=True
        ).records
        self._seen = max([self._seen, *(record.storage_id for record in records)])
        return [
            (record.partition_key, {name: value.value for name, value in record.asset_materialization.metadata.items()})
            for record in records
            if record.asset_materialization is not None
        ]

    def backfill(self, *windows: str) -> dg.ExecuteInProcessResult:
        tags = {"dagster/asset_partition_range_start": windows[0], "dagster/asset_partition_range_end": windows[-1]}
        return self.run("scenes_harvest_windows", tags=tags)


@pytest.fixture
def graph(stac: StacServer, tmp_path: Path, instance: dg.DagsterInstance) -> Graph:
    return Graph(stac, tmp_path, instance)


def test_harvested_items_are_upstream_of_the_source(graph: Graph) -> None:
    assets = graph.definitions.resolve_asset_graph()
    assert assets.get(dg.AssetKey(["scenes", "source"])).parent_keys == {HARVESTED}
    assert assets.get(dg.AssetKey(["scenes", "raw_records"])).parent_keys == {dg.AssetKey(["scenes", "source"])}
    assert assets.get(HARVESTED).partitions_def == dg.DynamicPartitionsDefinition(name="scenes_windows")
    assert {key.name for key in assets.get(HARVESTED).check_keys} == {COMPLETE_CHECK, RECENT_CHECK}


def test_before_the_first_harvest_definitions_load_and_say_that_it_is_missing(graph: Graph) -> None:
    dg.Definitions.validate_loadable(graph.definitions)
    skip = graph.tick().skip_reason
    assert skip is not None
    assert "not harvested yet" in str(skip.skip_message)
    assert "scenes_harvest" in str(skip.skip_message)
    assert graph.run("scenes_look").success
    assert graph.instance.get_dynamic_partitions("scenes_months") == []


def test_a_harvest_is_noticed_by_the_sensor_and_built(graph: Graph, stac: StacServer) -> None:
    assert graph.run("scenes_harvest").success
    found = graph.harvested()
    assert (found["dagster/row_count"], found["items_new"], found["windows_asked"]) == (200, 200, 3)
    windows = dict(graph.windows())
    assert list(windows) == graph.instance.get_dynamic_partitions("scenes_windows") == ["2024-01", "2024-02", "2024-03"]
    told = windows["2024-02"]
    assert (told["dagster/partition_row_count"], told["items_matched"], told["items_new"]) == (51, 51, 51)
    assert (told["newest_item"], told["start"]) == ("2024-02-11T14:00:00Z", "2024-02-01T00:00:00Z")
    assert str(told["path"]).endswith("/2024-02.parquet")
    assert (found["requests"], found["newest_item"]) == (len(stac.requests), "2024-02-11T14:00:00Z")
    assert set(graph.build(graph.tick())) == {True}
    assert len(load(str(graph.spec.published_path))) == 200
    assert not graph.tick().run_requests

    assert graph.run("scenes_harvest").success
    assert (graph.harvested()["windows_asked"], graph.harvested()["requests"]) == (0, 2)
    assert graph.windows() == []
    assert not graph.tick().run_requests

    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat().replace("+00:00", "Z")
    stac.put(make_item(900, datetime(2024, 2, 20, tzinfo=UTC), updated=later))
    assert graph.run("scenes_harvest").success
    assert graph.harvested()["items_new"] == 1
    assert [(key, told["items_new"]) for key, told in graph.windows()] == [("2024-02", 1)]
    requests = graph.tick().run_requests or []
    assert [request.partition_key for request in requests] == ["2024-02"]


def test_by_force_all_windows_are_asked_for(graph: Graph, stac: StacServer) -> None:
    graph.run("scenes_harvest")
    stac.delete("scene-00003")
    config = {"resources": {"rasteret_options": {"config": {"force": True}}}}
    assert graph.run("scenes_harvest", run_config=config).success
    assert (graph.harvested()["items_gone"], graph.harvested()["asked_for_all_windows"]) == (1, True)


def test_a_window_that_fails_fails_the_run_and_its_check_but_not_the_others(graph: Graph, stac: StacServer) -> None:
    stac.fault = lambda *_: "broken" if stac.requests[-1][2].get("datetime", "").startswith("2024-02") else None
    result = graph.run("scenes_harvest")
    assert not result.success
    failure = next(event for event in result.all_events if event.is_step_failure)
    assert "1 of 3 windows could not be harvested" in str(failure.step_failure_data.user_failure_data.description)
    checks = {found.check_name: found for found in result.get_asset_check_evaluations()}
    assert not checks[COMPLETE_CHECK].passed
    assert "2024-02" in str(checks[COMPLETE_CHECK].description)
    found = graph.harvested()
    assert (found["windows_failed"], found["items_new"]) == (1, 149)
    assert [key for key, _ in graph.windows()] == ["2024-01", "2024-03"]
    observed = graph.instance.fetch_observations(
        dg.AssetRecordsFilter(HARVESTED, asset_partitions=["2024-02"]), limit=9
    ).records
    assert ["not a JSON document" in str(one.asset_observation.description) for one in observed] == [True]
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


def test_windows_that_are_materialized_are_asked_for_again_and_no_others(graph: Graph, stac: StacServer) -> None:
    graph.run("scenes_harvest")
    graph.windows()
    late = make_item(900, datetime(2024, 2, 20, tzinfo=UTC))
    stac.put(late, make_item(901, datetime(2024, 3, 20, tzinfo=UTC)))
    stac.requests.clear()
    assert graph.run("scenes_harvest_windows", partition_key="2024-02").success
    assert {request[2].get("datetime", "")[:7] for request in stac.requests if request[2]} == {"2024-02"}
    told = graph.windows()
    assert [(key, window["items_new"]) for key, window in told] == [("2024-02", 1)]

    # Of a range also those that did not change are materialized: a run was launched for them.
    assert graph.backfill("2024-01", "2024-03").success
    found = [(key, window["items_new"]) for key, window in graph.windows()]
    assert found == [("2024-01", 0), ("2024-02", 0), ("2024-03", 1)]
    assert not graph.harvested()["windows_failed"]


def test_changes_elsewhere_are_found_after_single_windows_were_asked_for(graph: Graph, stac: StacServer) -> None:
    graph.run("scenes_harvest")
    now = datetime.now(UTC)
    updated = [(now + timedelta(days=days)).isoformat().replace("+00:00", "Z") for days in (1, 5)]
    stac.put(make_item(900, datetime(2024, 1, 20, tzinfo=UTC), updated=updated[0]))
    stac.put(make_item(901, datetime(2024, 2, 20, tzinfo=UTC), updated=updated[1]))
    # The item of February was updated four days after that of January, which is unknown so far.
    assert graph.run("scenes_harvest_windows", partition_key="2024-02").success
    assert graph.harvested()["items_new"] == 1
    assert graph.run("scenes_harvest").success
    assert graph.harvested()["items_new"] == 1
    assert graph.harvested()["dagster/row_count"] == 202


def test_a_split_window_gives_its_place_to_its_parts(
    stac: StacServer, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    graph = Graph(stac, tmp_path, instance)
    graph.run("scenes_harvest")
    before = instance.get_dynamic_partitions("scenes_windows")
    stac.put(*(make_item(number, datetime(2024, 2, 1 + number % 2, tzinfo=UTC)) for number in range(900, 960)))
    graph = Graph(stac, tmp_path, instance, harvest={"max_items_per_window": 100})
    assert graph.run("scenes_harvest_windows", partition_key="2024-02").success
    days = [key for key, _ in graph.windows() if str(key).startswith("2024-02-")]
    # The partition of the run itself is taken away by the next harvest.
    assert graph.run("scenes_harvest").success
    after = instance.get_dynamic_partitions("scenes_windows")
    assert days == after[2:]
    assert (before, after[:2], len(after)) == (["2024-01", "2024-02", "2024-03"], ["2024-01", "2024-03"], 2 + 29)
    assert graph.harvested()["dagster/row_count"] == 260


def test_the_source_is_observed_although_the_asset_upstream_has_partitions(graph: Graph) -> None:
    graph.run("scenes_harvest")
    source = dg.AssetKey(["scenes", "source"])
    job = graph.definitions.resolve_implicit_global_asset_job_def()
    assert job.execute_in_process(instance=graph.instance, asset_selection=[source]).success
    assert graph.instance.get_dynamic_partitions("scenes_months") == ["2024-01", "2024-02"]
    assets = graph.definitions.resolve_asset_graph()
    mapping = assets.get_partition_mapping(source, HARVESTED)
    assert isinstance(mapping, dg.AllPartitionMapping)


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
