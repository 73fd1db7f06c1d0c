"""The launcher on Celery judges a run by its task's state and by workers' silence; no worker runs here.

Workers that answer, and one that is killed, are in ``tests/e2e/test_celery.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.launcher import WorkerStatus
from dagster._core.storage.dagster_run import DagsterRunStatus
from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG

from rasteret_assets.dagster import WatchfulCeleryRunLauncher
from rasteret_assets.errors import SpecError
from rasteret_assets.orchestration import _celery_launcher
from tests.support.celery import folder_settings, launcher_of


@dg.job
def nothing() -> None: ...


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """An instance whose launcher asks workers over folders; no worker exists."""
    monkeypatch.setattr(_celery_launcher, "ANSWER_SECONDS", 0.2)
    settings = {"run_launcher": launcher_of(folder_settings(tmp_path))}
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(settings))
    with dg.DagsterInstance.from_config(str(tmp_path)) as made:
        yield made


def polls(instance: dg.DagsterInstance, state: str, result: Any, count: int = 4) -> list[WorkerStatus]:
    """Return the health of a started run at several polls, for a state of its task in the store of results."""
    launcher = instance.run_launcher
    assert isinstance(launcher, WatchfulCeleryRunLauncher)
    launcher.celery.backend.store_result("task", result, state)
    run = instance.create_run_for_job(
        nothing, status=DagsterRunStatus.STARTED, tags={DAGSTER_CELERY_TASK_ID_TAG: "task"}
    )
    return [launcher.check_run_worker_health(run).status for _ in range(count)]


RUNNING, FAILED = WorkerStatus.RUNNING, WorkerStatus.FAILED


@pytest.mark.parametrize(
    ("state", "result"),
    [
        ("STARTED", {"hostname": "gone@host", "pid": 1}),
        # Delivered again after its worker had died: the second delivery ends at once, the run stays as it was.
        ("SUCCESS", 0),
        # The store of results forgot the state.
        ("PENDING", None),
    ],
)
def test_a_task_that_no_worker_knows_fails_its_run_at_the_third_poll(
    instance: dg.DagsterInstance, state: str, result: Any
) -> None:
    # The polls are counted anew after that.
    assert polls(instance, state, result) == [RUNNING, RUNNING, FAILED, RUNNING]


def test_a_task_that_failed_fails_its_run_at_once(instance: dg.DagsterInstance) -> None:
    assert polls(instance, "FAILURE", ValueError("worker lost"), count=1) == [FAILED]


def test_a_run_whose_task_is_not_recorded_yet_is_not_changed(instance: dg.DagsterInstance) -> None:
    run = instance.create_run_for_job(nothing, status=DagsterRunStatus.STARTED)
    assert {instance.run_launcher.check_run_worker_health(run).status for _ in range(4)} == {RUNNING}


@pytest.mark.parametrize("backend", [{}, {"backend": None}, {"backend": "rpc://"}, {"backend": "rpc"}])
def test_a_store_of_results_must_be_given(tmp_path: Path, backend: dict[str, Any]) -> None:
    settings = launcher_of(folder_settings(tmp_path))
    del settings["config"]["backend"]
    settings["config"] |= backend
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump({"run_launcher": settings}))
    with (
        dg.DagsterInstance.from_config(str(tmp_path)) as instance,
        pytest.raises(SpecError, match=r"needs backend: .* redis://host:6379/1; with rpc://.*healthy runs"),
    ):
        _ = instance.run_launcher
