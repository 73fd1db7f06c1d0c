"""``dagster dev`` as a user starts it - webserver, daemon, code location - over a collection that tests may change."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import dagster as dg
import pyarrow.parquet as pq
import yaml

from tests.support.rasters import record_table, tiff_bytes
from tests.support.server import RangeServer

REPOSITORY = Path(__file__).parent.parent.parent
ARTIFACTS = REPOSITORY / "e2e-artifacts"

#: What the daemon may take at most; a machine under load is slow, a test that waits for nothing is wrong.
PATIENCE_S = 240.0

T = TypeVar("T")


class Source:
    """A record table whose files a local server hands out; ``months`` says which records each month has."""

    def __init__(self, server: RangeServer, root: Path, months: list[str]) -> None:
        self.server = server
        self.file = root / "records.parquet"
        self.months = {month: [f"{month}-a"] for month in months}

    def write(self) -> None:
        """Write the table as it now is, in one step as a careful provider does."""
        rows = [
            (name, datetime.fromisoformat(f"{month}-05T00:00:00+00:00"))
            for month, names in self.months.items()
            for name in names
        ]
        for number, (name, _) in enumerate(rows):
            self.server.objects.setdefault(f"/{name}.tif", tiff_bytes(width=32, height=32, seed=number))
        hrefs = [f"{self.server.url}/{name}.tif" for name, _ in rows]
        times = [moment for _, moment in rows]
        beside = self.file.with_suffix(".new")
        pq.write_table(record_table([name for name, _ in rows], {"B02": hrefs}, datetimes=times), beside)
        beside.rename(self.file)


class Stack:
    """A running ``dagster dev``.

    Args:
        instance: that it runs on, opened once: every look at it would open its files otherwise.
        port: of its webserver.
    """

    def __init__(self, instance: dg.DagsterInstance, port: int) -> None:
        self.instance = instance
        self.url = f"http://127.0.0.1:{port}"

    def runs(self) -> list[dg.RunRecord]:
        """All runs so far, the newest first."""
        return list(self.instance.get_run_records())

    def ticks(self, name: str) -> list[Any]:
        """Ticks of a sensor that are done, the newest first."""
        (state,) = [state for state in self.instance.all_instigator_state() if state.name == name] or [None]
        if state is None:
            return []
        ticks = self.instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=50)
        return [tick for tick in ticks if tick.is_completed]

    def graphql(self, query: str, **variables: Any) -> dict[str, Any]:
        """The data of a query to the webserver."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            document = json.load(answer)
        assert "errors" not in document, document["errors"]
        return document["data"]


def wait_for(what: str, found: Callable[[], T | None]) -> T:
    """The first true value of ``found``."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        if value := found():
            return value
        time.sleep(0.3)
    raise AssertionError(f"waited {PATIENCE_S:.0f} s in vain for {what}")


@contextmanager
def dagster_dev(
    root: Path, declarations: dict[str, dict[str, Any]], environment: Mapping[str, str] | None = None
) -> Iterator[Stack]:
    """Run ``dagster dev`` on the repository's workspace.yaml until the block ends.

    Args:
        root: folder for the instance, the declarations and the log.
        declarations: the collections, by file name.
        environment: of its processes, over this one's.
    """
    home, collections = root / "dagster_home", root / "collections"
    for folder in (home, collections):
        folder.mkdir(parents=True)
    for name, values in declarations.items():
        (collections / f"{name}.yaml").write_text(yaml.safe_dump(values))
    settings = {
        "telemetry": {"enabled": False},
        "nux": {"enabled": False},
        "run_retries": {"enabled": True, "max_retries": 1},
        "run_coordinator": {
            "module": "dagster._core.run_coordinator", "class": "QueuedRunCoordinator",
            "config": {"dequeue_interval_seconds": 1},
        },
    }  # fmt: skip
    (home / "dagster.yaml").write_text(yaml.safe_dump(settings))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    inherited = {
        **os.environ, "DAGSTER_HOME": str(home), "RASTERET_ASSETS_COLLECTIONS": str(collections), "NO_COLOR": "1",
        **(environment or {}),
    }  # fmt: skip
    command = [sys.executable, "-m", "dagster", "dev", "-w", "workspace.yaml", "-p", str(port)]
    # Opened first: several processes that create the same SQLite files at once get into each other's way.
    with dg.DagsterInstance.from_config(str(home)) as instance, (root / "dagster-dev.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env=inherited, stdout=log, stderr=log, start_new_session=True
        )
        stack = Stack(instance, port)
        try:
            wait_for("the code location", lambda: process.poll() is not None or _is_loaded(stack))
            assert process.poll() is None, (root / "dagster-dev.log").read_text()
            yield stack
        finally:
            _end(process)


def _is_loaded(stack: Stack) -> bool:
    query = "{ workspaceOrError { ... on Workspace { locationEntries { locationOrLoadError { __typename } } } } }"
    try:
        entries = stack.graphql(query)["workspaceOrError"]["locationEntries"]
    except OSError:
        return False
    kinds = [(entry["locationOrLoadError"] or {}).get("__typename") for entry in entries]
    assert "PythonError" not in kinds, "the code location does not load"
    return kinds == ["RepositoryLocation"]


def _end(process: subprocess.Popen[bytes]) -> None:
    """End ``dagster dev`` and what it started, which is a process group of its own."""
    # Asked politely the group takes longer than a test: its members wait for each other.
    for number, patience in ((signal.SIGTERM, 3), (signal.SIGKILL, 15)):
        try:
            os.killpg(process.pid, number)
            process.wait(patience)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
