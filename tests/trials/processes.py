"""Processes that were started before they are needed, so that a kill meets a build and not its imports."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
from collections import deque
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parent.parent.parent
#: No build or look of a trial takes this long; one that does counts as hanging.
MOST_SECONDS = 120.0


class Child:
    """A process of ``tests.trials.child``.

    Args:
        journal: file in which it notes what it syncs to the disk.
    """

    def __init__(self, journal: Path | None = None) -> None:
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed with the child)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.trials.child", *([str(journal)] if journal else [])], text=True, cwd=ROOT,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        self._ready = False

    def wait_until_ready(self) -> None:
        """Wait until the process has imported everything.

        Raises:
            RuntimeError: if it cannot.
        """
        if not self._ready and not self._line(MOST_SECONDS):
            raise RuntimeError(f"a child did not start: {self.said}")
        self._ready = True

    def start(self, **job: Any) -> None:
        """Hand over the work, once the process has imported everything."""
        self.wait_until_ready()
        assert self._process.stdin
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()

    def kill(self) -> dict[str, Any] | None:
        """End the process at this moment; return its answer where it had given one."""
        self._process.kill()
        return self._answer(MOST_SECONDS)

    def finish(self, seconds: float = MOST_SECONDS) -> dict[str, Any]:
        """Return the answer.

        Raises:
            RuntimeError: if the process crashed, or hangs.
        """
        answer = self._answer(seconds)
        if answer is None:
            self._process.kill()
            raise RuntimeError(f"a child gave no answer within {seconds:.0f} s or crashed: {self.said}")
        return answer

    @property
    def said(self) -> str:
        """The end of what it wrote to standard error."""
        self._said.seek(0)
        return self._said.read()[-2000:]

    def close(self) -> None:
        """End the process and give back its pipes."""
        self._process.kill()
        self._process.communicate()
        self._said.close()

    def _answer(self, seconds: float) -> dict[str, Any] | None:
        line = self._line(seconds)
        return json.loads(line) if line.endswith("\n") else None

    def _line(self, seconds: float) -> str:
        assert self._process.stdout
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            return self._process.stdout.readline() if selector.select(seconds) else ""


class Spares:
    """Children that are kept ready; each is used once.

    Args:
        count: how many are started ahead.
    """

    def __init__(self, count: int) -> None:
        self._ready = deque(Child() for _ in range(count))
        self._used: list[Child] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for child in [*self._ready, *self._used]:
            child.close()

    def take(self) -> Child:
        """Return a child that is ready and has nothing to do yet, and start another in its place."""
        for child in self._used[:-8]:
            child.close()
        self._used = self._used[-8:]
        self._ready.append(Child())
        self._used.append(self._ready.popleft())
        self._used[-1].wait_until_ready()
        return self._used[-1]

    def run(self, **job: Any) -> dict[str, Any]:
        """Return a child's answer to some work."""
        child = self.take()
        child.start(**job)
        return child.finish()
