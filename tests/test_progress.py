"""What is seen of a header fetch: a bar in a terminal, log lines elsewhere, nothing where there is nothing to see."""

from __future__ import annotations

import io
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rasteret_assets import build_from_table
from rasteret_assets.headers.outcomes import HeaderProgress, ProgressCallback
from rasteret_assets.progress import terminal_progress
from tests.support.rasters import record_table, tiff_bytes
from tests.support.server import RangeServer

pty = pytest.importorskip("pty")

FILES = 24
BUILD = (
    "import sys; from rasteret_assets import build_from_table; "
    "build_from_table(sys.argv[1], name=sys.argv[2], workspace_dir=sys.argv[3] or None, enrich_cog=True, "
    "max_concurrent=2); print('built')"
)


class Terminal:
    """A terminal that can be read, and taken away."""

    def __init__(self) -> None:
        leader, follower = pty.openpty()
        self.stream = os.fdopen(follower, "w", encoding="utf-8")
        self._leader = os.fdopen(leader, "rb", buffering=0)

    def read(self) -> str:
        """All it got; nobody writes to it any more."""
        self.stream.close()
        seen = b""
        # A terminal whose last user is gone reads as an error on Linux, as an end of file elsewhere.
        with suppress(OSError):
            while piece := self._leader.read(65536):
                seen += piece
        return seen.decode()

    def leave(self) -> None:
        self._leader.close()

    def close(self) -> None:
        self.leave()
        with suppress(OSError):  # of lines that nobody can read any more
            self.stream.close()


@dataclass(frozen=True)
class Build:
    """What to build, in a process of its own or in this one."""

    source: Path
    workspace: Path

    def on_a_terminal(self, name: str) -> tuple[str, str]:
        """Stdout, and what a terminal on stderr got."""
        terminal = Terminal()
        workspace = str(self.workspace) if name else ""
        environment = {name: value for name, value in os.environ.items() if name != "RASTERET_ASSETS_PROGRESS"}
        with subprocess.Popen(
            [sys.executable, "-c", BUILD, str(self.source), name, workspace], stdout=subprocess.PIPE,
            stderr=terminal.stream, text=True, env={**environment, "TERM": "xterm", "COLUMNS": "120"},
        ) as process:  # fmt: skip
            seen = terminal.read()
            terminal.close()
            stdout, _ = process.communicate(timeout=300)
        assert process.returncode == 0, seen
        return stdout, seen


@pytest.fixture
def build(server: RangeServer, tmp_path: Path) -> Build:
    """Two months of files that take about a second, one of them missing."""
    names = [f"s{number:02}" for number in range(FILES)]
    server.objects |= {f"/{name}.tif": tiff_bytes() for name in names[1:]}
    server.fault = lambda path, before: time.sleep(0.09)
    hrefs: list[str | None] = [f"{server.url}/{name}.tif" for name in names]
    times = [datetime(2024, 4, 1, tzinfo=UTC) if number % 2 else None for number in range(FILES)]
    table = record_table(names, {"B02": hrefs}, datetimes=times)
    pq.write_table(table, tmp_path / "scenes.parquet")
    return Build(tmp_path / "scenes.parquet", tmp_path)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    """A terminal; what redirects stderr to it does so in the test, since pytest sets stderr anew before each."""
    opened = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("RASTERET_ASSETS_PROGRESS", raising=False)
    yield opened
    opened.close()


def plain(seen: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen)


@pytest.mark.parametrize("name", ["s2", ""])
def test_a_terminal_shows_a_bar_and_keeps_one_line(build: Build, name: str) -> None:
    stdout, seen = build.on_a_terminal(name)
    assert stdout == "built\n"
    text = plain(seen)
    labels = {"headers 2024-04", "headers undated"} if name else {"headers "}
    assert all(label in text for label in labels)
    assert re.search(r"━+ +\d+/(12|24) ETA .*\d+/s  \d failed", text)
    assert "1 failed" in text
    assert seen.count("\x1b[?25l") == seen.count("\x1b[?25h") == 1  # the cursor was hidden, and is back
    *_, line, last = text.rstrip().splitlines()
    if not name:  # what no ledger will tell
        assert last.startswith("1 of 24 headers could not be read (1 not_found); the first (record 's00', band 'B02')")
        last = line
    assert re.fullmatch(r"headers: 24 in \d\.\d s, \d+/s, 1 failed", last)


@pytest.mark.parametrize(("variable", "value"), [("RASTERET_ASSETS_PROGRESS", "0"), ("TERM", "dumb")])
def test_a_bar_nobody_wants_is_not_shown(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with redirect_stderr(terminal.stream), terminal_progress("headers") as progress:
        progress("2024-04")(after(3.0, total=10, done=5))
    assert terminal.read() == ""


def test_a_file_gets_no_bar() -> None:
    with redirect_stderr(io.StringIO()) as file, terminal_progress("headers") as progress:
        progress("2024-04")(after(3.0, total=10, done=5))
    assert file.getvalue() == ""


def test_a_fetch_of_half_a_second_shows_nothing(terminal: Terminal) -> None:
    with redirect_stderr(terminal.stream), terminal_progress("headers") as progress:
        for key in ("2024-04", "2024-05"):
            progress(key)(after(0.2, total=10, done=10))
    assert terminal.read() == ""


def test_a_build_without_headers_shows_nothing(build: Build, terminal: Terminal) -> None:
    with redirect_stderr(terminal.stream):
        build_from_table(build.source, name="plain", workspace_dir=build.workspace)
        build_from_table(build.source)
    assert terminal.read() == ""


def test_an_interrupted_fetch_gives_the_cursor_back(terminal: Terminal) -> None:
    late: list[ProgressCallback] = []

    def interrupted() -> None:
        with redirect_stderr(terminal.stream), terminal_progress("headers") as progress:
            late.append(progress("2024-04"))
            late[0](after(3.0, total=10, done=5))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    late[0](after(4.0, total=10, done=6))
    seen = terminal.read()
    assert seen.index("\x1b[?25l") < seen.index("\x1b[?25h")
    assert plain(seen).rstrip().endswith("headers: 5 in 3.0 s, 2/s, 0 failed")


def test_a_terminal_that_is_gone_costs_the_bar_and_not_the_build(terminal: Terminal) -> None:
    with redirect_stderr(terminal.stream), terminal_progress("headers") as progress:
        report = progress("2024-04")
        terminal.leave()
        report(after(3.0, total=10, done=5))
        report(after(4.0, total=10, done=10))


def after(seconds: float, *, total: int, done: int, failed: int = 0) -> HeaderProgress:
    """The progress of a fetch that began ``seconds`` ago."""
    return HeaderProgress(total=total, done=done, failed=failed, started=time.monotonic() - seconds)


def test_elsewhere_a_line_is_logged_every_five_seconds(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="rasteret_assets"), terminal_progress("headers") as progress:
        first = progress("2024-04")
        for seconds in (1, 4, 6, 9, 12):
            first(after(seconds, total=480, done=seconds * 40, failed=3))
        second = progress("2024-05")
        for seconds in (2, 6, 8):
            second(after(seconds, total=300, done=seconds * 20))
    messages = [re.sub(r", \d+ at once", "", record.getMessage()) for record in caplog.records]
    assert messages == [
        "headers 2024-04: 240 of 480, 40/s, 3 failed",
        "headers 2024-04: 480 of 480, 40/s, 3 failed",
        "headers 2024-05: 120 of 300, 20/s, 0 failed",
        "headers: 640 in 20.0 s, 32/s, 3 failed",
    ]


def test_partitions_built_at_once_are_named_one_by_one_and_counted_together(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="rasteret_assets"), terminal_progress("headers") as progress:
        first, second = progress("2024-04"), progress("2024-05")
        first(after(6, total=20, done=10))
        second(after(5, total=30, done=20, failed=1))
        first(after(12, total=20, done=20))
        second(after(11, total=30, done=30, failed=1))
        second(after(11, total=30, done=30, failed=1))  # told twice that it has ended
    assert [re.sub(r", \d+ at once", "", record.getMessage()) for record in caplog.records] == [
        "headers 2024-04: 10 of 20, 2/s, 0 failed",
        "headers 2024-04: 20 of 20, 2/s, 0 failed",
        "headers: 50 in 12.0 s, 4/s, 1 failed",
    ]


def test_a_short_build_logs_nothing(server: RangeServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    server.objects["/a.tif"] = tiff_bytes()
    with caplog.at_level(logging.INFO, logger="rasteret_assets"):
        build_from_table(record_table(["a"], {"B02": [f"{server.url}/a.tif"]}), enrich_cog=True)
    assert caplog.records == []


def test_importing_the_package_does_not_import_bars() -> None:
    code = "import sys, rasteret_assets; sys.exit('rich.progress' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
