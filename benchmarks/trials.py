"""Trials of our reader: a very large partition, faults, missing files, hosts that throttle or are dead."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cogs import ServedFile
from processes import RunningServer, run_reader
from report import Bar

#: How long the dead-host trial may take: a silent host must not cost a build more than this.
_PATIENCE_S = 180.0


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What a trial found: sentences to print, bars, and the raw reports."""

    name: str
    notes: list[str] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    raw: list[dict[str, Any] | None] = field(default_factory=list)


def try_memory(server: RunningServer, file: ServedFile, concurrency: int, headers: int = 100_000) -> Trial:
    """Measure the peak memory of a partition of 100 000 headers, from the record table to the ledger in a workspace."""
    run = _finished(run_reader("ours_stage", server, file, headers=headers, max_concurrent=concurrency))
    peak = run["peak_rss"] / 1e6
    note = f"{run['good']} of {headers} right, {headers / run['seconds']:.0f} headers/s"
    name = f"{file.kind.name}: peak memory of {headers} headers"
    memory = Bar(name=name, value=peak, bar=600, at_least=False, unit=" MB")
    return Trial(name="memory", notes=[note], bars=[memory, _all_right(file, headers, run)], raw=[run])


def try_faults(server: RunningServer, files: Sequence[ServedFile], headers: int, concurrency: int) -> Trial:
    """Read headers with 10 % 503s, 5 % resets and 5 % short bodies together."""
    trial = Trial(name="faults")
    for file in files:
        server.ask("faults?unavailable=0.10&reset=0.05&short=0.05")
        run = _finished(run_reader("ours", server, file, headers=headers, max_concurrent=concurrency))
        server.ask("faults")
        trial.raw.append(run)
        trial.notes.append(
            f"{file.kind.name}: {run['good']} of {headers} right in {run['seconds']:.1f} s, "
            f"failures {run['failures']}, answers {run['server']['statuses']}"
        )
        trial.bars.extend([_all_right(file, headers, run), _requests(file, headers, run, 1.3)])
    return trial


def try_missing(
    server: RunningServer, files: Sequence[ServedFile], headers: int, concurrency: int, repeat: int
) -> Trial:
    """Compare the CPU time with 1 % 404s (with a chunked page) with that of a host without, in turns."""
    trial = Trial(name="missing")
    for file in files:
        cpu: dict[float, list[float]] = {0.0: [], 0.01: []}
        right = 100.0
        for share in [0.0, 0.01] * repeat:
            server.ask(f"faults?missing={share}")
            run = _finished(run_reader("ours", server, file, headers=headers, max_concurrent=concurrency))
            trial.raw.append(run)
            cpu[share].append(1000 * run["cpu_seconds"] / headers)
            right = min(right, 100 * run["good"] / run["server"]["statuses"]["206"])
        server.ask("faults")
        without, with_some = statistics.median(cpu[0.0]), statistics.median(cpu[0.01])
        name = file.kind.name
        trial.notes.append(
            f"{name}: {with_some:.3f} ms of CPU time a header, {without:.3f} without, {repeat} runs each"
        )
        trial.bars.extend([
            Bar(name=f"{name}: with 1 % missing / without, CPU", value=with_some / without, bar=1.1, at_least=False),
            Bar(name=f"{name}: headers right of those there", value=right, bar=100, unit=" %"),
        ])  # fmt: skip
    return trial


def try_changed_files(server: RunningServer, files: Sequence[ServedFile], headers: int, concurrency: int) -> Trial:
    """Read files whose headers lie behind the pixels."""
    trial = Trial(name="headers behind the pixels")
    for file in files:
        run = _finished(run_reader("ours", server, file, headers=headers, max_concurrent=concurrency))
        trial.raw.append(run)
        sent = run["server"]["bytes"] / headers / 1024
        trial.notes.append(f"{file.kind.name}: {headers / run['seconds']:.0f} headers/s, {sent:.1f} KiB each")
        trial.bars.extend([_all_right(file, headers, run), _requests(file, headers, run, 1.02)])
    return trial


def try_throttle(server: RunningServer, file: ServedFile, headers: int, concurrency: int, limit: int) -> Trial:
    """Read from a host that answers 429 with Retry-After beyond ``limit`` requests per second."""
    server.ask(f"faults?throttle={limit}")
    run = _finished(run_reader("ours", server, file, headers=headers, max_concurrent=concurrency))
    server.ask("faults")
    samples = run["server"]["concurrency"]
    per_second = [max(samples[at : at + 4]) for at in range(0, len(samples), 4)]
    least = f"at {limit}/s: {headers / limit:.1f} s"
    notes = [
        f"{run['good']} of {headers} succeeded in {run['seconds']:.1f} s ({least}), failures {run['failures']}",
        f"most requests in flight, second by second: {' '.join(map(str, per_second))}",
    ]
    return Trial(
        name=f"throttle {limit}/s", notes=notes, raw=[run],
        bars=[_all_right(file, headers, run), _requests(file, headers, run, 1.15)],
    )  # fmt: skip


def try_dead_host(server: RunningServer, file: ServedFile, headers: int, concurrency: int) -> Trial:
    """Read files of a dead and a living host in turns; compare the living host's rate with its rate alone.

    The rate is the living host's own: its requests over the time from its first request to its last answer.
    """
    trial = Trial(name="dead host")
    alone = _finished(run_reader("ours", server, file, headers=headers, max_concurrent=concurrency))
    trial.raw.append(alone)
    reference = headers / alone["server"]["seconds"]
    trial.notes.append(f"alone: {reference:.0f} headers/s at the living host")
    for name, dead in (("refusing", server.refusing), ("silent", server.silent)):
        run = run_reader(
            "ours", server, file, timeout=_PATIENCE_S, headers=headers, max_concurrent=concurrency, beside=dead
        )  # fmt: skip
        seen = run["server"] if run else server.ask("stats")
        trial.raw.append(run)
        end = (
            f"ended after {run['seconds']:.1f} s, failures {run['failures']}" if run else f"killed at {_PATIENCE_S:g} s"
        )
        rate = seen["requests"] / seen["seconds"] if seen["seconds"] else 0.0
        trial.notes.append(f"{name} host beside: {rate:.0f} headers/s at the living host; {end}")
        trial.bars.append(Bar(name=f"living beside a {name} host / alone", value=rate / reference, bar=0.8))
        if run:
            trial.bars.append(_all_right(file, headers, run))
    return trial


def _finished(run: dict[str, Any] | None) -> dict[str, Any]:
    if run is None:
        raise RuntimeError("our reader did not end in time")
    return run


def _all_right(file: ServedFile, headers: int, run: dict[str, Any]) -> Bar:
    return Bar(name=f"{file.kind.name}: headers right", value=100 * run["good"] / headers, bar=100, unit=" %")


def _requests(file: ServedFile, headers: int, run: dict[str, Any], bar: float) -> Bar:
    value = run["server"]["requests"] / headers
    return Bar(name=f"{file.kind.name}: requests per header", value=value, bar=bar, at_least=False, unit="")
