"""A launcher of runs on Celery workers that notices a worker that died.

Dagster's own launcher goes by the state that Celery keeps of a task. A worker that is killed, or whose machine is gone,
leaves ``STARTED`` behind for ever: the run is never failed, nor tried again. This one asks the worker. It is named in
``dagster.yaml`` (see ``examples/celery``) and nowhere else, and is to be dropped once Dagster's notices by itself.

https://docs.celeryq.dev/en/stable/userguide/monitoring.html
"""

from collections import Counter
from typing import Any, Final

import dagster as dg
from dagster_celery.launcher import (  # type: ignore[attr-defined]  # what a launcher answers has no public name
    CeleryRunLauncher,
    CheckRunHealthResult,
    WorkerStatus,
)
from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG

from rasteret_assets.errors import SpecError

#: How long workers have to answer whether they know a task.
ANSWER_SECONDS: Final = 5.0

#: How often in a row nobody may know a task before its run is failed: a broker that starts anew costs a poll or two.
SILENT_POLLS: Final = 3


class WatchfulCeleryRunLauncher(CeleryRunLauncher):
    """Launches runs as Celery tasks, and fails those whose worker no longer works on them.

    Workers must use the pool ``prefork`` (Celery's default) or ``threads``: a worker of the pool ``solo`` cannot answer
    while it works, and is taken for dead.

    Args:
        values: those of Dagster's ``CeleryRunLauncher``; ``backend`` must be given, and not be ``rpc://``.

    Raises:
        SpecError: if ``backend`` is missing or ``rpc://``, of which other processes than the one that launched a run
            read ``PENDING``, so that healthy runs would be failed.
    """

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        if not self.backend or self.backend.startswith(("rpc", "disabled")):
            raise SpecError(
                "run_launcher: WatchfulCeleryRunLauncher needs backend: with the address of a store of results that "
                "every process reads, such as redis://host:6379/1; with rpc://, which Dagster takes when it is left "
                "out, the daemon fails healthy runs"
            )
        self._silent: Counter[str] = Counter()

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Return whether a worker still works on a run that has started and not ended.

        Raises:
            OSError: if the broker or the store of results cannot be asked; nothing is concluded then.
        """
        task_id = run.tags.get(DAGSTER_CELERY_TASK_ID_TAG)
        if task_id is None:  # the run began before its launcher could write down the task
            return CheckRunHealthResult(WorkerStatus.RUNNING, "its Celery task is not known yet")
        result = self.celery.AsyncResult(task_id)
        state, info = result.state, result.info
        if state == "FAILURE":
            return CheckRunHealthResult(WorkerStatus.FAILED, "the Celery task failed")
        # Only a started task names its worker. One that is pending has lost its state, and one that succeeded was
        # delivered twice, as the run has not ended: then any worker may have it.
        host = info.get("hostname") if state == "STARTED" and isinstance(info, dict) else None
        if self._is_known(task_id, host):
            del self._silent[task_id]
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        self._silent[task_id] += 1
        said = f"Celery worker {host or '(any)'} does not know the task, whose state is {state}"
        if self._silent[task_id] < SILENT_POLLS:
            return CheckRunHealthResult(WorkerStatus.RUNNING, said)
        del self._silent[task_id]
        return CheckRunHealthResult(WorkerStatus.FAILED, f"{said}: asked {SILENT_POLLS} times, it is taken for dead")

    def _is_known(self, task_id: str, host: str | None) -> bool:
        """Whether a worker says that it has a task; with ``host`` only that one is asked, and waited for no longer."""
        inspect = self.celery.control.inspect(destination=[host] if host else None, timeout=ANSWER_SECONDS)
        answers = inspect.query_task(task_id) or {}
        return any(task_id in tasks for tasks in answers.values())
