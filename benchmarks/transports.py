"""Measure HTTP clients as transports: one range per file, fetched and not parsed, side by side with our own.

``python benchmarks/transports.py`` runs each client in a fresh process on one core (``readers/``) against a server on
another (``server.py``); repetitions go round the clients. It prints two tables. The first is of many requests at once:

- ``plain`` and ``tls``: 16 KiB, 20 ms after they are asked for; ``bulk`` and ``bulk tls``: 64 MB, four at a time;
- ``missing``: 1 % of the answers are 404s with a chunked page; ``moved``: each answer is behind a redirect;
- ``trickle``: each body takes two seconds, in 20 pieces; a client is to give up after one second without a byte;
- ``two addresses``: the first address of the host does not answer. Only the client's process knows the host's name,
  from a file that is mounted in the place of its ``/etc/hosts``.

*CPU s* are the client's, user and system, and like *wall s* per 1000 files. *requests*, per file, and *connections* are
counted at the server. *right* is the share of files that came with the bytes asked for; of ``missing``, the share of
those that are there.

The second is of single answers that no server should give (``odd_answers.py``): what became of each (``right`` bytes;
``told``: an error; ``wrong``: other bytes; ``hangs``: nothing within 15 seconds), how many seconds it took, how many
KiB the server sent, and by how many MB the client's peak of memory exceeds that of a sound answer. Clients are to give
up after two seconds without a byte. aiohttp, niquests and pycurl hand over the head of an answer, and their readers
here refuse by it what any caller would (``refuse_other``); so ``shifted`` and ``whole`` tell of obstore and ours only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from cogs import KINDS, ServedFile, make_file
from odd_answers import EXACT
from processes import SLOW_READERS, TRANSPORTS, RunningServer, missing_reader, run_reader, running_server
from report import describe_machine, parse_options

_KIB: Final = 1024
_BULK: Final = 64 * 10**6
_TWO_ADDRESSES: Final = "two-addresses.test"
#: Seconds after which a client that has not answered hangs.
_PATIENCE_S: Final = 15.0


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Many requests at once."""

    name: str
    files: int
    path: str = "s2"
    length: int = 16 * _KIB
    concurrency: int = 300
    faults: str = ""
    tls: bool = False
    idle_s: float = 30.0
    two_addresses: bool = False

    @property
    def touched_bytes(self) -> int:
        """More than a client uses."""
        return 2**30 if self.length > 2**20 else 2**28


SCENARIOS: Final = {
    scenario.name: scenario
    for scenario in (
        Scenario(name="plain", files=5000),
        Scenario(name="tls", files=5000, tls=True),
        Scenario(name="missing", files=5000, faults="missing=0.01"),
        Scenario(name="moved", files=3000, path="moved/s2"),
        Scenario(name="bulk", files=16, path="bulk", length=_BULK, concurrency=4),
        Scenario(name="bulk tls", files=16, path="bulk", length=_BULK, concurrency=4, tls=True),
        Scenario(name="trickle", files=600, path="trickle/s2", idle_s=1.0),
        Scenario(name="two addresses", files=3000, two_addresses=True),
    )
}

#: Odd answer by its name in the table, and the path that gets it.
ODD: Final = {
    "exact": f"exact/{EXACT}", "labelled": "", "short": "", "stall": "", "shifted": "", "whole": "",
    "endless-range": "", "endless-error": "",
}  # fmt: skip


def main() -> None:
    """Run what the command line asks for, print it, and write it as JSON where asked to."""
    options = _options()
    print(describe_machine())
    print(f"latency {options.latency_ms:g} ms, 300 in flight", flush=True)
    for name in options.readers:
        if reason := missing_reader(name):
            print(f"without {name}: {reason}")
    options.readers = [name for name in options.readers if not missing_reader(name)]
    file = make_file(KINDS["s2"], options.cache)
    bulk = _make_bulk(file, options.cache)
    results: dict[str, Any] = {"machine": describe_machine(), "many": {}, "odd": {}}
    with running_server([file, bulk], options.latency_ms, tls=True) as server, _hosts() as hosts:
        for name in options.scenarios:
            runs = run_scenario(SCENARIOS[name], server, file, hosts, options)
            results["many"][name] = runs
            print(format_many(SCENARIOS[name], runs), flush=True)
        if options.odd:
            results["odd"] = run_odd(server, file, options)
            print(f"\n{format_odd(results['odd'], options.readers)}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


def run_scenario(
    scenario: Scenario, server: RunningServer, file: ServedFile, hosts: Path, options: argparse.Namespace
) -> dict[str, list[dict[str, Any]]]:
    """Return the reports of all repetitions, by client."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in options.readers}
    if scenario.two_addresses and not server.dead_port:
        print(f"without {scenario.name}: this machine has no ::1")
        return {}
    url = server.tls if scenario.tls else server.url
    if scenario.two_addresses:
        url = f"http://{_TWO_ADDRESSES}:{server.dead_port}"
    for _ in range(options.repeat):
        for name, reports in runs.items():
            server.ask(f"faults?{scenario.faults}")
            files = min(scenario.files, SLOW_READERS.get(name, scenario.files))
            report = run_reader(
                name, server, file, timeout=120, hosts=hosts if scenario.two_addresses else None, url=url,
                kind=scenario.path, headers=files, max_concurrent=scenario.concurrency,
                length=scenario.length, idle_s=scenario.idle_s, touched_bytes=scenario.touched_bytes,
            )  # fmt: skip
            server.ask("faults")
            reports.append({**report, "files": files} if report else {})
    return runs


def run_odd(server: RunningServer, file: ServedFile, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return each client's result of each odd answer: outcome, seconds, KiB sent, MB more than a valid one takes."""
    found: dict[str, dict[str, Any]] = {}
    for reader in options.readers:
        sound, *_ = _one_answer(reader, server, file, "s2/1")
        for name in options.odd:
            report, sent = _one_answer(reader, server, file, ODD[name] or f"{name}/s2/1")
            if report is None or sound is None:
                found.setdefault(name, {})[reader] = {"outcome": "hangs", "kib": sent / _KIB}
                continue
            outcome = next(iter(report["outcomes"]))
            found.setdefault(name, {})[reader] = {
                "outcome": outcome if outcome in {"right", "wrong"} else "told", "error": outcome,
                "seconds": report["seconds"], "kib": sent / _KIB, "mb": (report["peak_rss"] - sound["peak_rss"]) / 1e6,
            }  # fmt: skip
    return found


def _one_answer(reader: str, server: RunningServer, file: ServedFile, path: str) -> tuple[dict[str, Any] | None, int]:
    """Return the report on one answer (None if it did not come in time), and the bytes that were sent for it."""
    report = run_reader(
        reader, server, file, timeout=_PATIENCE_S, headers=1, max_concurrent=1, warm=0, path=path, length=16 * _KIB,
        check=str(file.path), idle_s=2.0, touched_bytes=2**28,
    )  # fmt: skip
    return report, server.ask("stats")["bytes"]


def format_many(scenario: Scenario, runs: dict[str, list[dict[str, Any]]]) -> str:
    """Return the medians of the repetitions of one scenario, a line for each client."""
    titles = (scenario.name, "right", "wall s", "(least-most)", "CPU s", "(least-most)", "requests", "connections",
              "peak MB")  # fmt: skip
    layout = "{:<15}{:>8}{:>10}{:>18}{:>10}{:>18}{:>10}{:>13}{:>9}"
    lines = ["", layout.format(*titles)]
    for name, reports in runs.items():
        done = [report for report in reports if report]
        if not done:
            lines.append(f"{name:<24}  none in time")
            continue
        walls = [1000 * report["seconds"] / report["files"] for report in done]
        cpu = [1000 * report["cpu_seconds"] / report["files"] for report in done]
        right = [report["good"] / (report["files"] - report["server"]["statuses"].get("404", 0)) for report in done]
        requests = [report["server"]["requests"] / report["files"] for report in done]
        lines.append(layout.format(
            name, f"{min(right):.0%}", f"{statistics.median(walls):.3f}", f"({min(walls):.3f}-{max(walls):.3f})",
            f"{statistics.median(cpu):.3f}", f"({min(cpu):.3f}-{max(cpu):.3f})", f"{statistics.median(requests):.3f}",
            f"{statistics.median([report['server']['connections'] for report in done]):.0f}",
            f"{max(report['peak_rss'] for report in done) / 1e6:.0f}",
        ))  # fmt: skip
    return "\n".join(lines)


def format_odd(found: dict[str, dict[str, Any]], readers: Sequence[str]) -> str:
    """Return a table with a line for each odd answer and a column for each client."""
    layout = "{:<15}" + "{:<28}" * len(readers)
    lines = [layout.format("", *readers)]
    for name, by_reader in found.items():
        cells = []
        for reader in readers:
            cell = by_reader[reader]
            more = ""
            if cell["outcome"] != "hangs":
                more = f" {cell['seconds']:.2f} s,"
            more += f" {cell['kib']:.0f} KiB"
            if cell.get("mb", 0) >= 2:
                more += f", +{cell['mb']:.0f} MB"
            cells.append(cell["outcome"] + more)
        lines.append(layout.format(name, *cells).rstrip())
    return "\n".join(lines)


def _make_bulk(file: ServedFile, folder: Path) -> ServedFile:
    """Make a file of 64 MB beside the headers' file."""
    path = folder / "bulk.bin"
    if not path.exists() or path.stat().st_size != _BULK:
        path.write_bytes(bytes(range(250)) * (_BULK // 250))
    return replace(file, kind=replace(file.kind, name="bulk"), path=path)


@contextmanager
def _hosts() -> Iterator[Path]:
    """Write a file of host names with one that has two addresses, of which the first does not answer."""
    with tempfile.NamedTemporaryFile("w", suffix=".hosts") as file:
        file.write(f"127.0.0.1 localhost\n::1 {_TWO_ADDRESSES}\n127.0.0.1 {_TWO_ADDRESSES}\n")
        file.flush()
        yield Path(file.name)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency-ms", type=float, default=20)
    parser.add_argument("--readers", nargs="+", choices=TRANSPORTS, default=TRANSPORTS)
    parser.add_argument("--scenarios", nargs="*", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--odd", nargs="*", choices=ODD, default=list(ODD), help="odd answers")
    parser.add_argument("--repeat", type=int, default=3)
    return parse_options(parser, "folder that keeps the served files between runs")


if __name__ == "__main__":
    main()
