"""A collection that is harvested, on a real daemon: its schedule harvests, its sensor builds what came."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rasteret_assets import load
from tests.e2e.stack import Stack, dagster_dev, wait_for
from tests.support.stac import StacServer, make_item, serve_stac


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("harvest")


@pytest.fixture(scope="module")
def stac() -> Iterator[StacServer]:
    with serve_stac() as server:
        server.put(*(make_item(number) for number in range(200)))
        yield server


@pytest.fixture(scope="module")
def stack(stac: StacServer, root: Path) -> Iterator[Stack]:
    graph = {"autostart": True, "refresh_seconds": 2, "harvest_cron": "* * * * *"}
    harvest = {"stac_api": stac.url, "datetime": "2024-01/2024-03"}
    declared = {"harvest": harvest, "workspace_dir": str(root / "workspace"), "graph": graph}
    with dagster_dev(root, {"scenes": declared}) as running:
        yield running


def published(root: Path) -> int:
    folder = root / "workspace" / "scenes_records"
    return len(load(folder)) if folder.exists() and list(folder.rglob("*.parquet")) else 0


@pytest.mark.slow
def test_what_the_schedule_harvests_the_sensor_builds(stack: Stack, stac: StacServer, root: Path) -> None:
    wait_for("the first harvest and its builds", lambda: published(root) == 200)
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat().replace("+00:00", "Z")
    stac.put(make_item(900, datetime(2024, 2, 20, tzinfo=UTC), updated=later))
    wait_for("the next harvest and its build", lambda: published(root) == 201)
    runs = [record.dagster_run for record in stack.runs()]
    assert {run.job_name for run in runs} == {"scenes_harvest", "scenes_build"}
    assert {run.status.value for run in runs if run.is_finished} == {"SUCCESS"}
    # The second build is of the month whose items changed.
    last = next(run for run in runs if run.job_name == "scenes_build")
    assert last.tags["dagster/partition"] == "2024-02"
