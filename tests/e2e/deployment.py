"""Dagster's daemon, step by step in this process: runs are launched by an instance's launcher, wherever that is."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import PythonFileTarget
from dagster._daemon.auto_run_reexecution.event_log_consumer import EventLogConsumerDaemon
from dagster._daemon.controller import create_daemon_grpc_server_registry
from dagster._daemon.daemon import MonitoringDaemon
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon
from dagster_graphql.schema import create_schema

from tests.e2e.stack import PATIENCE_S, REPOSITORY

_LAUNCH = """
mutation($executionParams: ExecutionParams!) {
  launchPipelineExecution(executionParams: $executionParams) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
  }
}
"""


class Deployment:
    """The shipped ``definitions.py`` as a code location, and the daemons that queue, watch and retry its runs."""

    def __init__(self, instance: dg.DagsterInstance, context: WorkspaceProcessContext) -> None:
        self.instance = instance
        self._context = context
        self._schema = create_schema()
        # In the order in which a run meets them; the consumer's first look decides which failures are new to it.
        self._daemons = [EventLogConsumerDaemon(), QueuedRunCoordinatorDaemon(1), MonitoringDaemon(1)]
        self.step()

    def submit(self, job: str, partitions: Sequence[str]) -> str:
        """Submit a run of neighbouring partitions, as the UI does; return its id."""
        ends = {"start": partitions[0], "end": partitions[-1]}
        tags = [{"key": f"dagster/asset_partition_range_{end}", "value": key} for end, key in ends.items()]
        selector = {
            "repositoryLocationName": "rasteret_assets", "repositoryName": "__repository__", "jobName": job,
        }  # fmt: skip
        parameters = {"selector": selector, "mode": "default", "executionMetadata": {"tags": tags}}
        answer = asyncio.run(
            self._schema.execute_async(
                _LAUNCH,
                context_value=self._context.create_request_context(),
                variable_values={"executionParams": parameters},
            )
        )
        assert not answer.errors, answer.errors
        launched = answer.data["launchPipelineExecution"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return launched["run"]["runId"]

    def step(self) -> None:
        """One iteration of each daemon."""
        for daemon in self._daemons:
            errors = [error for error in daemon.run_iteration(self._context) if error]
            assert not errors, errors

    def step_until(self, what: str, reached: Callable[[], Any]) -> Any:
        """Let the daemons work until something is the case; return what ``reached`` does."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            self.step()
            if value := reached():
                return value
            time.sleep(0.4)
        raise AssertionError(f"waited {PATIENCE_S:.0f} s in vain for {what}; runs: {self.statuses()}")

    def status(self, run_id: str) -> str:
        """Status of a run."""
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        return run.status.value

    def retry_of(self, run_id: str) -> str | None:
        """The run that was launched because another failed; None as long as it was not."""
        runs = self.instance.get_runs(dg.RunsFilter(tags={"dagster/parent_run_id": run_id}))
        return runs[0].run_id if runs else None

    def compute_log_keys(self, run_id: str) -> list[list[str]]:
        """Keys of the compute logs of a run."""
        events = self.instance.all_logs(run_id, of_type=dg.DagsterEventType.LOGS_CAPTURED)
        return [[run_id, "compute_logs", event.dagster_event.logs_captured_data.file_key] for event in events]

    def statuses(self) -> dict[str, str]:
        """Status of every run, by id."""
        return {run.run_id: run.status.value for run in self.instance.get_runs()}


@contextmanager
def deployment(instance: dg.DagsterInstance, environment: Mapping[str, str]) -> Iterator[Deployment]:
    """Load the code location with the given environment, which its process inherits."""
    kept = dict(os.environ)
    os.environ.update(environment)
    target = PythonFileTarget(
        python_file=str(REPOSITORY / "definitions.py"), attribute=None, working_directory=str(REPOSITORY),
        location_name="rasteret_assets",
    )  # fmt: skip
    try:
        with (
            create_daemon_grpc_server_registry(instance) as servers,
            WorkspaceProcessContext(instance, target, grpc_server_registry=servers) as context,
        ):
            yield Deployment(instance, context)
    finally:
        os.environ.clear()
        os.environ.update(kept)


def contents(folder: Path) -> dict[str, bytes]:
    """Content of every file below a folder, by path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
