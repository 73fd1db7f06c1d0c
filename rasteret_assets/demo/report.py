"""What the demo says. Results go to stdout, progress to stderr, so that either can be kept without the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from rasteret_assets.demo import snippets
from rasteret_assets.demo.area import AreaRead
from rasteret_assets.demo.folder import DemoFolder
from rasteret_assets.demo.graph import Failure, PartitionReport
from rasteret_assets.demo.server import Traffic
from rasteret_assets.demo.snippets import shown

Advance = Callable[[int, int], None]


class Report:
    """The terminal, as the demo uses it."""

    def __init__(self) -> None:
        self._out = Console(highlight=False, soft_wrap=True)
        self._err = Console(stderr=True, highlight=False)

    @contextmanager
    def progress(self, label: str) -> Iterator[Advance]:
        """A bar while the block runs; call what it yields with the number of things done and to do."""
        columns = (TextColumn("{task.description}"), BarColumn(28), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._err) as progress:
            task = progress.add_task(f"{label:<26}", total=None)
            yield lambda done, total: progress.update(task, completed=done, total=total)

    def moved(self, port: int, new_port: int) -> None:
        """The port was taken."""
        self._err.print(f"port {port} is in use by another program: the files are served on {new_port} instead")

    def files(self, folder: DemoFolder, *, written: bool) -> None:
        """What lies in the folder of scenes."""
        cogs = sorted(folder.files.glob("*/*.tif"))
        size = sum(path.stat().st_size for path in cogs) / 1e6
        scenes = len({path.parent for path in cogs})
        self._say("files", f"{scenes} scenes, {len(cogs)} COGs, {size:.0f} MB, {'written' if written else 'unchanged'}")
        self._say("", shown(folder.files))

    def partitions(self, reports: Sequence[PartitionReport], seen: Traffic) -> None:
        """What materializing did, by partition."""
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("partition")
        for name in ("records", "headers fetched", "reused", "unreadable", "requests"):
            table.add_column(name, justify="right")
        for report in reports:
            numbers = (report.records, report.fetched, report.reused, report.failed, report.requests)
            table.add_row(report.key, *(str(number) for number in numbers))
        self._out.print()
        self._out.print(table)
        fetched, reused = sum(report.fetched for report in reports), sum(report.reused for report in reports)
        if fetched:
            size = f"{seen.bytes / 1e3:.0f} kB"
            self._out.print(f"{fetched} files asked for their header: the server saw {seen.requests} requests, {size}.")
        else:
            self._out.print(
                f"Nothing had to be fetched: the headers of all {reused} files are known from before; the server saw "
                f"{seen.requests} requests.", style="bold green",
            )  # fmt: skip

    def failures(self, failed: Sequence[Failure], folder: DemoFolder) -> None:
        """Headers that are missing, and why."""
        if not failed:
            return
        self._out.print()
        names = "1 header is" if len(failed) == 1 else f"{len(failed)} headers are"
        self._out.print(f"{names} unreadable; the records are published without:", style="yellow")
        for failure in failed:
            self._out.print(Text(f"  {failure.id} {failure.band}: {failure.error_class}, {failure.error}"))
        self._out.print(Text(f"  ledger: {shown(folder.ledger)}/*.parquet"))

    def picture(self, folder: DemoFolder, read: AreaRead | None) -> None:
        """Where the published collection and the picture are, and what reading its pixels took."""
        self._out.print()
        self._say("collection", shown(folder.published))
        self._say("picture", shown(folder.picture))
        if read is None:
            self._say("", "unchanged")
        else:
            cost = f"{read.requests} range requests, {read.received / 1e6:.1f} MB, {read.headers} headers opened"
            self._say("", f"{len(read.views)} scenes of one area, read from the index: {cost}")

    def how_to_open(self, folder: DemoFolder) -> None:
        """Commands to copy."""
        self._snippet("In Dagster's UI", snippets.user_interface(folder), "bash")
        self._snippet("In Python", snippets.python(folder), "python")
        self._snippet("In DuckDB (pip install duckdb)", snippets.duckdb(folder), "python")
        self._snippet("Keep the files served, to materialize from the UI", snippets.serve(folder), "bash")

    def serving(self, url: str) -> None:
        """The files stay reachable."""
        self._err.print(f"\nserving the files at {url} until Ctrl+C")

    def _say(self, label: str, text: str) -> None:
        line = Text(f"{label:<12}", style="bold")
        line.append(text, style="not bold")
        self._out.print(line)

    def _snippet(self, title: str, code: str, language: str) -> None:
        self._out.print()
        self._out.print(title, style="bold cyan")
        self._out.print()
        # Coloured line by line and never wrapped or padded: what is copied must run.
        text = Syntax("", language, theme="ansi_dark", background_color="default").highlight(code)
        text.rstrip()
        for line in text.split():
            self._out.print(line, no_wrap=True, crop=False, overflow="ignore")
