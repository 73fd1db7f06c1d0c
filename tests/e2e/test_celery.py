"""Runs on two Celery workers, without a service: broker and results are folders, and the instance is SQLite.

Settings, the module of the workers' settings and their command are those of ``examples/celery``.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import dagster as dg
import pyarrow.parquet as pq
import pytest
import yaml
from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG

from rasteret_assets import CollectionSpec, build
from rasteret_assets.dagster import WatchfulCeleryRunLauncher
from rasteret_assets.orchestration import _celery_launcher
from tests.e2e.deployment import Deployment, contents, deployment
from tests.e2e.stack import wait_for
from tests.support.celery import EXAMPLE, Worker, Workers, folder_settings, launcher_of
from tests.support.rasters import record_table, tiff_bytes
from tests.support.server import RangeServer

# Dagster's own: of the daemon that retries runs, and of its launcher on Celery, which names its task at every launch.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'warn' method is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Task name 'execute_job':celery.exceptions.DuplicateTaskNameWarning"),
]

MONTHS = ["2021-01", "2021-02", "2021-03", "2021-04"]
RECORDS = 12


class Collection:
    """A declared collection of four months whose files a local server hands out.

    Args:
        name: of the collection.
        root: below which its table, its workspace and that of the library lie.
        declarations: folder of the YAML files.
        server: of its files.
    """

    def __init__(self, name: str, root: Path, declarations: Path, server: RangeServer) -> None:
        self.name, self.root, self.server = name, root / name, server
        self.root.mkdir()
        ids = [f"{name}-{month}-{number}" for month in MONTHS for number in range(RECORDS)]
        times = [datetime.fromisoformat(f"{month}-05T00:00:00+00:00") for month in MONTHS for _ in range(RECORDS)]
        tiff = tiff_bytes()
        server.objects |= {f"/{one}.tif": tiff for one in ids}
        table = record_table(ids, {"B02": [f"{server.url}/{one}.tif" for one in ids]}, datetimes=times)
        pq.write_table(table, self.root / "records.parquet")
        fields = {"path": str(self.root / "records.parquet"), "name": name, "enrich_cog": True}
        graph = {**fields, "workspace_dir": str(self.root / "graph")}
        (declarations / f"{name}.yaml").write_text(yaml.safe_dump(graph))
        self._beside = CollectionSpec.of(**fields, workspace_dir=self.root / "library")

    def of_month(self, path: str, month: str) -> bool:
        """Whether a request was for a file of one of its months."""
        return path.startswith(f"/{self.name}-{month}-")

    def asked_for(self, month: str) -> list[str]:
        """Paths of a month's files, as often as they were asked for."""
        return [path for path in self.server.paths if self.of_month(path, month)]

    def check_published(self) -> None:
        """All months are published, byte for byte as the library publishes them by itself."""
        build(self._beside)
        published = contents(self.root / "graph" / f"{self.name}_records")
        assert len([name for name in published if name.endswith(".parquet")]) == len(MONTHS)
        assert published == contents(self.root / "library" / f"{self.name}_records")


class Stack:
    """A deployment with two workers and two collections."""

    def __init__(self, deployed: Deployment, workers: Workers, collections: dict[str, Collection]) -> None:
        self.deployed, self.workers, self.collections = deployed, workers, collections

    def start(self) -> None:
        self.workers.start()
        wait_for("the workers", lambda: self.workers.are_ready)

    def worker_of(self, run_id: str) -> Worker | None:
        """The worker that builds a run; None as long as none does."""
        launcher = self.deployed.instance.run_launcher
        assert isinstance(launcher, WatchfulCeleryRunLauncher)
        task = self.deployed.instance.get_run_by_id(run_id).tags.get(DAGSTER_CELERY_TASK_ID_TAG)
        result = launcher.celery.AsyncResult(task) if task else None
        return self.workers[result.info["hostname"]] if result and result.state == "STARTED" else None


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, files: RangeServer) -> Iterator[Stack]:
    root = tmp_path_factory.mktemp("celery")
    declarations, home = root / "collections", root / "home"
    for folder in (declarations, home):
        folder.mkdir()
    collections = {name: Collection(name, root, declarations, files) for name in ("steady", "struck")}
    settings = yaml.safe_load((EXAMPLE / "dagster.yaml").read_text())
    del settings["storage"], settings["compute_logs"]
    settings["run_launcher"] = launcher_of(folder_settings(root))
    settings["run_monitoring"]["free_slots_after_run_end_seconds"] = 1
    (home / "dagster.yaml").write_text(yaml.safe_dump(settings))
    environment = {"DAGSTER_HOME": str(home), "RASTERET_ASSETS_COLLECTIONS": str(declarations)}
    workers = Workers(2, root, folder_settings(root), {**os.environ, **environment})
    # Opened first: several processes that create the same SQLite files at once get into each other's way.
    with dg.DagsterInstance.from_config(str(home)) as instance:
        for name in collections:
            instance.add_dynamic_partitions(f"{name}_months", MONTHS)
        try:
            workers.start()
            with deployment(instance, environment) as deployed:
                yield Stack(deployed, workers, collections)
        finally:
            workers.kill()


def test_two_workers_publish_what_the_library_does(stack: Stack) -> None:
    stack.start()
    deployed, collection = stack.deployed, stack.collections["steady"]
    runs = [deployed.submit("steady_build", MONTHS[:2]), deployed.submit("steady_build", MONTHS[2:])]
    deployed.step_until("both runs", lambda: {deployed.status(run) for run in runs} == {"SUCCESS"})
    assert all(len(collection.asked_for(month)) == RECORDS for month in MONTHS)
    collection.check_published()
    # Celery leaves standard error to Dagster.
    logs = deployed.instance.compute_log_manager
    for run in runs:
        (key, *_) = deployed.compute_log_keys(run)
        assert b"band_metadata" in logs.get_log_data(key).stderr


def test_a_worker_that_dies_is_noticed_and_its_run_tried_again(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_celery_launcher, "ANSWER_SECONDS", 1.0)
    stack.start()
    deployed, collection, server = stack.deployed, stack.collections["struck"], stack.collections["struck"].server
    # The first month's files are answered, of the second month's only some.
    held = threading.Event()

    def fault(path: str, before: int) -> None:
        if collection.of_month(path, MONTHS[1]) and len(collection.asked_for(MONTHS[1])) > RECORDS // 3:
            held.wait()

    monkeypatch.setattr(server, "fault", fault)
    try:
        doomed, other = deployed.submit("struck_build", MONTHS[:2]), deployed.submit("struck_build", MONTHS[2:])
        worker = deployed.step_until("a worker to begin", lambda: stack.worker_of(doomed))
        ledger = collection.root / "graph" / "struck_stages" / "band_metadata"
        deployed.step_until(
            "the second month's headers",
            lambda: collection.asked_for(MONTHS[1]) and [*ledger.rglob(f"*{MONTHS[0]}*")],
        )
        worker.kill()
    finally:
        held.set()
    monkeypatch.setattr(server, "fault", lambda path, before: None)
    deployed.step_until("the dead worker to be noticed", lambda: deployed.status(doomed) == "FAILURE")
    (failed,) = deployed.instance.all_logs(doomed, of_type=dg.DagsterEventType.RUN_FAILURE)
    assert f"Celery worker {worker.name} does not know the task" in failed.message
    retried = deployed.step_until("the retry", lambda: deployed.retry_of(doomed))
    deployed.step_until("what is left", lambda: {deployed.status(run) for run in (other, retried)} == {"SUCCESS"})
    # The headers that had come are not asked for again, but for those of the partition in work.
    twice = [path for month in MONTHS for path in set(collection.asked_for(month)) if server.seen[path] > 1]
    assert 0 < len(twice) <= RECORDS
    assert all(collection.of_month(path, MONTHS[1]) for path in twice)
    collection.check_published()
