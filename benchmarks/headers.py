"""Measure how fast the headers of GDAL-written COGs become a table, side by side with other readers.

``python benchmarks/headers.py`` serves three kinds of file (see ``cogs.py``) from a process on one core (``server.py``)
and runs every reader in a fresh process on another (``readers/``). It prints one table and the ratios that this project
holds itself to:

- *headers/s* is the median over the repetitions of headers by wall-clock time;
- *requests* and *KiB* are counted at the server;
- *CPU ms* per header is the reader's, user and system. On one core no reader exceeds 1000 / CPU ms, and unlike
  headers/s it hardly depends on what else the machine does, so the ratios are of it;
- every measurement starts on memory that was in use a moment ago, because the time in which a virtual machine gets
  memory from its host is not the reader's;
- *server busy* is the server's share of its core. Near 100 % the server is measured, not the reader. The reader
  ``bare`` asks and counts bytes and does nothing else: its rate is the server's ceiling. With latency l and n requests
  in flight nothing exceeds n / l (300 and 20 ms: 15 000/s).

``ours`` is end to end (normalized records to the Arrow ledger); ``transport``, ``obstore``, ``aiohttp`` and ``bare``
fetch the range that ``ours`` asks for and do not parse.

``--tls`` measures the same over TLS. Readers trust the authority that is made for the run; async-tiff and rasterio are
told to trust everybody instead.

The trials ``--behind --memory --faults --missing --throttle 200 --dead-host`` run instead of the table, on our reader
alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from cogs import KINDS, ServedFile, make_changed_file, make_file
from processes import COMPARED, READERS, SLOW_READERS, RunningServer, missing_reader, run_reader, running_server
from report import Measurement, as_json, compare, describe_machine, format_table, names_of, parse_options
from trials import Trial, try_changed_files, try_dead_host, try_faults, try_memory, try_missing, try_throttle


def main() -> None:
    """Run what the command line asks for, print it, and write it as JSON where asked to."""
    options = _options()
    print(describe_machine())
    over = ", over TLS" if options.tls else ""
    print(f"latency {options.latency_ms:g} ms, {options.max_concurrent} in flight{over}", flush=True)
    files = [make_file(KINDS[name], options.cache) for name in options.kinds]
    changed = [make_changed_file(file, options.cache) for file in files] if options.behind else []
    with running_server([*files, *changed], options.latency_ms, tls=options.tls) as server:
        trials = run_trials(server, files, changed, options)
        measurements = [] if trials else measure_readers(server, files, options)
    bars = compare(measurements)
    if measurements:
        print(f"\n{format_table(measurements)}\n", *bars, sep="\n")
    for trial in trials:
        print(f"\n{trial.name}", *trial.notes, *trial.bars, sep="\n  ")
    bars += [bar for trial in trials for bar in trial.bars]
    if options.json:
        raw = [{"name": trial.name, "notes": trial.notes, "runs": trial.raw} for trial in trials]
        options.json.write_text(json.dumps(as_json(measurements, bars, raw), indent=2))


def measure_readers(
    server: RunningServer, files: Sequence[ServedFile], options: argparse.Namespace
) -> list[Measurement]:
    """Measure all readers on all kinds, taking turns, so that a slow minute hits all of them."""
    measurements = []
    readers = [name for name in options.readers if not missing_reader(name)]
    for name in options.readers:
        if reason := missing_reader(name):
            print(f"without {name}: {reason}")
    for file in files:
        length = _length_ours_asks(server, file, options.max_concurrent)
        runs: dict[str, list[dict[str, object]]] = {name: [] for name in readers}
        for _ in range(options.repeat):
            for name, reports in runs.items():
                report = run_reader(
                    name, server, file, headers=_headers(name, options), max_concurrent=options.max_concurrent,
                    length=length, url=server.tls or server.url,
                )  # fmt: skip
                if report is None:
                    raise RuntimeError(f"reader {name} did not end in time")
                reports.append(report)
        for name, reports in runs.items():
            measurement = Measurement.of(name, file.kind.name, _headers(name, options), reports)
            measurements.append(measurement)
            print(f"  {file.kind.name} {name}: {measurement.rate:.0f} headers/s", flush=True)
    return sorted(measurements, key=lambda m: (readers.index(m.reader), options.kinds.index(m.kind)))


def _headers(reader: str, options: argparse.Namespace) -> int:
    return min(options.headers, SLOW_READERS.get(reader, options.headers))


def _length_ours_asks(server: RunningServer, file: ServedFile, concurrency: int) -> int:
    """Return the length of the range that our reader most often asks for, which the bare transports fetch too."""
    report = run_reader("ours", server, file, headers=10 * concurrency, max_concurrent=concurrency)
    if report is None:
        raise RuntimeError("our reader did not end in time")
    first, last = report["server"]["ranges"][0][0].removeprefix("GET ").split("-")
    return int(last) - int(first or 0) + 1


def run_trials(
    server: RunningServer, files: Sequence[ServedFile], changed: Sequence[ServedFile], options: argparse.Namespace
) -> list[Trial]:
    """Run the trials that the command line asks for; trials of one kind of file use the first kind."""
    concurrency, trials = options.max_concurrent, []
    if changed:
        trials.append(try_changed_files(server, changed, options.headers, concurrency))
    if options.memory:
        trials.append(try_memory(server, files[0], concurrency))
    if options.faults:
        trials.append(try_faults(server, files, options.headers, concurrency))
    if options.missing:
        trials.append(try_missing(server, files, options.headers, concurrency, options.repeat))
    if options.throttle:
        trials.append(try_throttle(server, files[0], min(options.headers, 3000), concurrency, options.throttle))
    if options.dead_host:
        trials.append(try_dead_host(server, files[0], options.headers, concurrency))
    return trials


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--headers", type=int, default=5000)
    parser.add_argument("--latency-ms", type=float, default=20)
    parser.add_argument("--max-concurrent", type=int, default=300)
    parser.add_argument("--kinds", type=names_of(KINDS), default=list(KINDS), help=",".join(KINDS))
    parser.add_argument("--readers", type=names_of(READERS), default=COMPARED, help=",".join(READERS))
    parser.add_argument("--tls", action="store_true", help="the table over TLS, by a certificate made for the run")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--behind", action="store_true", help="headers behind the pixels, as in files changed later")
    parser.add_argument("--memory", action="store_true", help="peak memory of 100 000 headers in one partition")
    parser.add_argument("--faults", action="store_true", help="10 %% 503s, 5 %% resets, 5 %% short bodies together")
    parser.add_argument("--missing", action="store_true", help="1 %% 404s with a chunked page, against none")
    parser.add_argument("--throttle", type=int, default=0, metavar="N", help="429 beyond N requests a second")
    parser.add_argument("--dead-host", action="store_true", help="one host of two is dead")
    return parse_options(parser, "folder that keeps the served files between runs")


if __name__ == "__main__":
    main()
