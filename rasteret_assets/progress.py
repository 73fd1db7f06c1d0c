"""Show the progress of harvests, of header fetches and of reads: a bar in a terminal, lines in the log elsewhere.

Fetches of less than :data:`QUIET_SECONDS` show nothing.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from rasteret_assets.headers.outcomes import HeaderProgress, ProgressCallback
from rasteret_assets.message_lists import count_of

if TYPE_CHECKING:
    from rich.progress import Progress

#: Returns the callback for the fetch of a partition, given its key.
ProgressFactory = Callable[[str], ProgressCallback]

#: Variable of the environment that turns bars off where it is 0.
PROGRESS_VARIABLE: Final = "RASTERET_ASSETS_PROGRESS"
#: Seconds of fetching from which on a bar is shown.
QUIET_SECONDS: Final = 0.5
#: Seconds between lines of the log.
LOG_SECONDS: Final = 5.0

_logger = logging.getLogger("rasteret_assets")


@contextmanager
def terminal_progress(description: str) -> Iterator[ProgressFactory]:
    """Show the progress of header fetches while the block runs.

    A context, because whatever ends a build has to give the terminal its cursor back.

    Args:
        description: of what is fetched, such as ``"headers"``; shown before the partition key.

    Yields:
        The argument ``progress`` of :func:`~rasteret_assets.pipeline.build.build_partitions`.
    """
    watch = _Watch(description, _Bar(description) if _bar_is_wanted() else _Log(description))
    try:
        yield watch.partition
    finally:
        watch.close()


@contextmanager
def read_progress() -> Iterator[Callable[[int, int, int], None]]:
    """Show the progress of a read of pixels while the block runs.

    Yields:
        A callback for the requests that have ended, all requests of the read, and the bytes that were received.
    """
    with _shown(
        "requests", "pixels: requests", lambda size, seconds: f"{size / 1e6:.0f} MB  {size / 1e6 / seconds:.0f} MB/s"
    ) as report:
        yield report


@contextmanager
def harvest_progress(name: str) -> Iterator[Callable[[int, int, int], None]]:
    """Show the progress of a harvest while the block runs.

    Args:
        name: of the collection.

    Yields:
        A callback for the windows that are done, all windows that are asked for, and the items that were received.
    """
    with _shown(
        "windows", f"{name}: windows", lambda items, seconds: f"{count_of(items, 'item')}  {items / seconds:.0f}/s"
    ) as report:
        yield report


@contextmanager
def _shown(what: str, log_name: str, rate: Callable[[int, float], str]) -> Iterator[Callable[[int, int, int], None]]:
    """Show how many things are done, once that takes :data:`QUIET_SECONDS`.

    Args:
        what: name of the things in a bar.
        log_name: name of the things in the log, where stderr is not a terminal.
        rate: returns a text on the amount that was received, given the amount and the seconds it took.
    """
    started = time.monotonic()
    shown = _ReadBar(what) if _bar_is_wanted() else _ReadLog(log_name)

    def report(done: int, total: int, amount: int) -> None:
        seconds = time.monotonic() - started
        if seconds >= QUIET_SECONDS:
            with suppress(OSError):  # the terminal may be gone
                shown.show(done, total, rate(amount, seconds))

    try:
        yield report
    finally:
        with suppress(OSError):
            shown.close()


class _ReadBar:
    """A bar on stderr that is gone when the read is over."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.progress: Progress | None = None

    def show(self, done: int, total: int, figures: str) -> None:
        if self.progress is None:
            self.progress = _new_bar()
            self.progress.add_task(self.what, total=total, figures="")
            self.progress.start()
        self.progress.update(self.progress.task_ids[0], completed=done, total=total, figures=figures)

    def close(self) -> None:
        if self.progress is not None:
            self.progress.stop()


class _ReadLog:
    """A line in the log now and then."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.logged = time.monotonic()

    def show(self, done: int, total: int, figures: str) -> None:
        if time.monotonic() - self.logged >= LOG_SECONDS:
            self.logged = time.monotonic()
            _logger.info("%s: %d of %d, %s", self.what, done, total, figures)

    def close(self) -> None:
        """Do nothing: lines of a log are not taken back."""


def _bar_is_wanted() -> bool:
    """Return whether stderr is a terminal and no variable of the environment turns bars off."""
    if os.environ.get(PROGRESS_VARIABLE) == "0" or os.environ.get("TERM") == "dumb":
        return False
    return sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()


@dataclass(frozen=True, kw_only=True)
class _Totals:
    """Headers of all partitions of a build so far, and the seconds in which any partition was fetched."""

    done: int = 0
    failed: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.done} in {self.seconds:.1f} s, {_rate(self.done, self.seconds)}, {self.failed} failed"


class _View(Protocol):
    """Where progress is shown."""

    def show(self, label: str, progress: HeaderProgress, totals: _Totals) -> None:
        """Show how far a partition and its build are."""

    def close(self, totals: _Totals) -> None:
        """Show the totals of the build, which has ended."""


class _Watch:
    """Hands reports of a build's fetches to a view: of several fetches at a time, those of the one that began first.

    Reports come from the thread of the I/O loop, ``close`` from the caller's: an interrupted build closes while the
    loop still ends its last files.
    """

    def __init__(self, description: str, view: _View) -> None:
        self.description = description
        self.view = view
        self.totals = _Totals()
        #: Done and failed headers by partition, and seconds by finished partition.
        self.counts: dict[str, tuple[int, int]] = {}
        self.took: dict[str, float] = {}
        #: Partitions that are fetched now, in the order in which they began; the time since which any partition is
        #: fetched; seconds of fetching before this time.
        self.running: dict[str, None] = {}
        self.since = 0.0
        self.seconds = 0.0
        self.closed = False
        self.lock = threading.Lock()

    def partition(self, key: str) -> ProgressCallback:
        """Return the callback that the fetch of a partition reports to."""
        label = f"{self.description} {key}".strip()

        def report(progress: HeaderProgress) -> None:
            # Errors are ignored, because the terminal may be gone after a logout, and the build has to go on.
            with self.lock, suppress(OSError):
                if not self.closed:
                    self._count(key, progress)
                    if next(iter(self.running)) == key:
                        self.view.show(label, progress, self.totals)
                    if progress.done >= progress.total:
                        self._end(key, progress)

        return report

    def _count(self, key: str, progress: HeaderProgress) -> None:
        # A partition that goes on after its end, with records that come later, counts its earlier seconds too.
        began = progress.started + self.took.get(key, 0.0)
        self.since = min(self.since, began) if self.running else began
        self.running.setdefault(key)
        done, failed = self.counts.get(key, (0, 0))
        self.counts[key] = (progress.done, progress.failed)
        self.totals = _Totals(
            done=self.totals.done + progress.done - done,
            failed=self.totals.failed + progress.failed - failed,
            seconds=self.seconds + time.monotonic() - self.since,
        )

    def _end(self, key: str, progress: HeaderProgress) -> None:
        self.took[key] = progress.seconds
        del self.running[key]
        if not self.running:
            self.seconds = self.totals.seconds

    def close(self) -> None:
        with self.lock, suppress(OSError):
            self.closed = True
            self.view.close(self.totals)


class _Log:
    """Lines for a log file, with the numbers the bar shows."""

    def __init__(self, description: str) -> None:
        self.description = description
        self.logged = 0.0

    def show(self, label: str, progress: HeaderProgress, totals: _Totals) -> None:
        if totals.seconds - self.logged >= LOG_SECONDS:
            self.logged = totals.seconds
            _logger.info("%s: %d of %d, %s", label, progress.done, progress.total, ", ".join(_figures(progress)))

    def close(self, totals: _Totals) -> None:
        if self.logged:
            _logger.info("%s: %s", self.description, totals)


class _Bar:
    """One bar on stderr, begun anew for every partition; in the end a line with the totals takes its place."""

    def __init__(self, description: str) -> None:
        self.description = description
        self.label = ""
        self.progress: Progress | None = None

    def show(self, label: str, progress: HeaderProgress, totals: _Totals) -> None:
        if totals.seconds < QUIET_SECONDS:
            return
        if self.progress is None:
            self.progress = _new_bar()
            self.progress.add_task(label, total=None, figures="")
            self.progress.start()
        task = self.progress.task_ids[0]
        if label != self.label:
            self.label = label
            self.progress.reset(task, description=label, total=progress.total)
        self.progress.update(task, completed=progress.done, figures="  ".join(_figures(progress)))

    def close(self, totals: _Totals) -> None:
        if self.progress is not None:
            self.progress.stop()
            self.progress.console.print(f"{self.description}: {totals}")


def _new_bar() -> Progress:
    # Imported here because it takes some 60 ms, and few of those who import the package ever see a bar.
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415
    from rich.table import Column  # noqa: PLC0415

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None, table_column=Column(ratio=1)),  # as wide as the other columns leave room
        MofNCompleteColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[figures]}", markup=False),
    )
    # rich would send what others print to stdout through this console, which is on stderr.
    console = Console(stderr=True, highlight=False)
    return Progress(*columns, console=console, transient=True, expand=True, redirect_stdout=False)


def _figures(progress: HeaderProgress) -> list[str]:
    figures = [_rate(progress.done, progress.seconds), f"{progress.failed} failed"]
    return [*figures, f"{progress.concurrency} at once"] if progress.concurrency else figures


def _rate(done: int, seconds: float) -> str:
    return f"{done / max(seconds, 1e-3):.0f}/s"
