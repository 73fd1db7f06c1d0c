"""Launch runs on Celery workers, and notice workers that died.

Dagster's own launcher relies on the state that Celery keeps of a task. A worker that is killed, or whose machine is
gone, leaves the state ``STARTED`` for ever: the run is never failed, and never tried again. The launcher of this module
asks the worker. A ``dagster.yaml`` names it (see ``examples/celery``). Drop it once Dagster's launcher asks the worker
too.

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

#: Seconds that workers have to answer whether they know a task.
ANSWER_SECONDS: Final = 5.0

#: Polls in a row in which no worker knows a task before its run is failed; more than two, because a broker that
#: restarts costs one or two.
SILENT_POLLS: Final = 3


class WatchfulCeleryRunLauncher(CeleryRunLauncher):
    """Launch runs as Celery tasks, and fail runs whose worker no longer works on them.

    Workers must use the pool ``prefork`` (Celery's default) or ``threads``: a worker of the pool ``solo`` cannot answer
    while it works, and is taken for dead.

    Args:
        values: of Dagster's ``CeleryRunLauncher``; ``backend`` must be given, and not be ``rpc://``.

    Raises:
        SpecError: if ``backend`` is missing or ``rpc://``. Only the process that launched a run reads its state from
            ``rpc://``; other processes read ``PENDING``, so that healthy runs would be failed.
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
            OSError: if the broker or the store of results cannot be asked; the run then stays as it is.
        """
        task_id = run.tags.get(DAGSTER_CELERY_TASK_ID_TAG)
        if task_id is None:  # because the run began before its launcher stored the task id
            return CheckRunHealthResult(WorkerStatus.RUNNING, "its Celery task is not known yet")
        result = self.celery.AsyncResult(task_id)
        state, info = result.state, result.info
        if state == "FAILURE":
            return CheckRunHealthResult(WorkerStatus.FAILED, "the Celery task failed")
        # Only a started task names its worker. A pending task has lost its state, and a task that succeeded was
        # delivered twice, because its run has not ended: any worker may have either.
        host = info.get("hostname") if state == "STARTED" and isinstance(info, dict) else None
        if self._has_worker(task_id, host):
            del self._silent[task_id]
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        self._silent[task_id] += 1
        said = f"Celery worker {host or '(any)'} does not know the task, whose state is {state}"
        if self._silent[task_id] < SILENT_POLLS:
            return CheckRunHealthResult(WorkerStatus.RUNNING, said)
        del self._silent[task_id]
        return CheckRunHealthResult(WorkerStatus.FAILED, f"{said}, asked {SILENT_POLLS} times: it is taken for dead")

    def _has_worker(self, task_id: str, host: str | None) -> bool:
        """Tell whether a worker has a task; with ``host`` only the worker on this host is asked."""
        inspect = self.celery.control.inspect(destination=[host] if host else None, timeout=ANSWER_SECONDS)
        answers = inspect.query_task(task_id) or {}
        return any(task_id in tasks for tasks in answers.values())
