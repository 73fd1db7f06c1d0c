"""Looks that are too large for a tick, on a real instance: launched by the sensor, by the schedule and by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest

from rasteret_assets import load
from rasteret_assets.orchestration.triggers.jobs import REASON_TAG
from rasteret_assets.source.stored import QUICK_FILES
from tests.e2e.stack import Stack, dagster_dev, wait_for
from tests.support.rasters import record_table, tiff_bytes
from tests.support.server import RangeServer

START = """mutation($selector: ScheduleSelector!) { startSchedule(scheduleSelector: $selector) { __typename } }"""
LAUNCH = """mutation($params: ExecutionParams!) { launchPipelineExecution(executionParams: $params) { __typename } }"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("looks")


@pytest.fixture(scope="module")
def stack(files: RangeServer, root: Path) -> Iterator[Stack]:
    folder = root / "records"
    folder.mkdir()
    files.objects["/a.tif"] = tiff_bytes(width=32, height=32)
    for number in range(QUICK_FILES + 1):
        table = record_table([f"r{number}"], {"B02": [f"{files.url}/a.tif?{number}"]})
        pq.write_table(table, folder / f"{number}.parquet")

    def declared(graph: dict[str, Any]) -> dict[str, Any]:
        return {"path": str(folder), "workspace_dir": str(root / "workspace"), "enrich_cog": True, "graph": graph}

    declarations = {
        "watched": declared({"autostart": True, "refresh_seconds": 2}),
        "clocked": declared({"refresh_cron": "* * * * *"}),
        "observed": declared({}),
    }
    with dagster_dev(root, declarations) as running:
        yield running


def ended(stack: Stack, jobs: list[str]) -> list[dg.DagsterRun]:
    """The first run of each job, when they have ended."""

    def found() -> list[dg.DagsterRun] | None:
        runs = {record.dagster_run.job_name: record.dagster_run for record in stack.runs()}
        wanted = [runs[job] for job in jobs if job in runs]
        return wanted if len(wanted) == len(jobs) and all(run.is_finished for run in wanted) else None

    return wait_for(", ".join(jobs), found)


def rows(root: Path, name: str) -> int:
    return len(load(root / "workspace" / f"{name}_records"))


@pytest.mark.slow
def test_the_sensor_requests_a_profile_and_then_the_builds(stack: Stack, root: Path) -> None:
    look, build = ended(stack, ["watched_look", "watched_build"])
    assert (look.tags[REASON_TAG], build.tags[REASON_TAG]) == ("look", "new")
    assert look.is_success
    assert build.is_success
    assert rows(root, "watched") == QUICK_FILES + 1
    looks = [record for record in stack.runs() if record.dagster_run.job_name == "watched_look"]
    assert len(looks) == 1


@pytest.mark.slow
def test_the_schedule_launches_a_profile_which_leads_to_the_builds(stack: Stack, root: Path) -> None:
    selector = {
        "repositoryName": "__repository__", "repositoryLocationName": "rasteret_assets",
        "scheduleName": "clocked_refresh_schedule",
    }  # fmt: skip
    # The sensor notices looks that end after its first tick.
    wait_for("the sensor", lambda: stack.ticks("clocked_after_look"))
    assert stack.graphql(START, selector=selector)["startSchedule"]["__typename"] == "ScheduleStateResult"
    look, build = ended(stack, ["clocked_look", "clocked_build"])
    assert look.is_success
    assert build.is_success
    assert rows(root, "clocked") == QUICK_FILES + 1


@pytest.mark.slow
def test_the_button_observe_registers_partitions(stack: Stack) -> None:
    selector = {
        "repositoryName": "__repository__", "repositoryLocationName": "rasteret_assets",
        "pipelineName": "__ASSET_JOB", "assetSelection": [{"path": ["observed", "source"]}], "assetCheckSelection": [],
    }  # fmt: skip
    params = {"selector": selector, "mode": "default", "runConfigData": "{}", "stepKeys": None}
    launched = stack.graphql(LAUNCH, params=params)["launchPipelineExecution"]["__typename"]
    assert launched == "LaunchRunSuccess"
    keys = wait_for("the partitions", lambda: stack.instance.get_dynamic_partitions("observed_months"))
    source = dg.AssetKey(["observed", "source"])
    wait_for("the observations", lambda: len(stack.instance.fetch_observations(source, 99).records) == len(keys))
