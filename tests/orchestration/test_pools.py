"""A killed run gives its place in the header pool to the next one, by the settings that are shipped."""

from __future__ import annotations

import datetime as dt
import logging
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest
from dagster._daemon.monitoring import concurrency

from rasteret_assets.orchestration.asset_graph._stage_assets import HEADER_POOL
from tests.orchestration.examples import SETTINGS, on_sqlite

pytestmark = pytest.mark.usefixtures("shipped_environment")


@dg.job
def nothing() -> None: ...


class Pool:
    """The header pool of an instance with the shipped settings, and runs that ask for a place in it."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self._store = instance.event_log_storage
        self._store.initialize_concurrency_limit_to_default(HEADER_POOL)

    @property
    def places(self) -> int:
        return self._store.get_concurrency_info(HEADER_POOL).slot_count

    def run(self) -> dg.DagsterRun:
        return self.instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.STARTED)

    def gets_a_place(self, run: dg.DagsterRun) -> bool:
        """Tell whether the header stage of a run may begin; runs ask this again and again."""
        return self._store.claim_concurrency_slot(HEADER_POOL, run.run_id, "band_metadata").is_claimed

    def daemon(self, monkeypatch: pytest.MonkeyPatch, later: dt.timedelta) -> None:
        """Run one iteration of the daemon that frees places, at a later time."""
        now = dt.datetime.now(dt.UTC) + later
        monkeypatch.setattr(concurrency, "get_current_datetime", lambda: now)
        workspace = SimpleNamespace(instance=self.instance)
        list(concurrency.execute_concurrency_slots_iteration(workspace, logging.getLogger(__name__)))


@pytest.mark.parametrize("name", SETTINGS)
def test_a_killed_run_gives_its_place_to_the_next(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with on_sqlite(SETTINGS[name], tmp_path) as instance:
        pool = Pool(instance)
        killed, *others = [pool.run() for _ in range(pool.places)]
        waiting = pool.run()
        assert all(pool.gets_a_place(run) for run in (killed, *others))
        assert not pool.gets_a_place(waiting)
        pool.instance.report_run_failed(killed)
        assert not pool.gets_a_place(waiting)
        pool.daemon(monkeypatch, dt.timedelta(minutes=5))
        assert pool.gets_a_place(waiting)
        # Runs that have not ended keep their places.
        assert not pool.gets_a_place(pool.run())


def test_without_the_setting_the_place_stays_with_the_killed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SETTINGS["dagster-local.yaml"]
    monitoring = {**settings["run_monitoring"]}
    del monitoring["free_slots_after_run_end_seconds"]
    with on_sqlite({**settings, "run_monitoring": monitoring}, tmp_path) as instance:
        pool = Pool(instance)
        killed, waiting = pool.run(), pool.run()
        assert pool.places == 1
        assert pool.gets_a_place(killed)
        assert not pool.gets_a_place(waiting)
        pool.instance.report_run_failed(killed)
        pool.daemon(monkeypatch, dt.timedelta(days=30))
        assert not pool.gets_a_place(waiting)
