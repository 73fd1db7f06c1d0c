"""Print results: the machine, the table of readers, and ratios beside the bars they are to meet."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

_PACKAGES: Final = (
    "rasteret-assets",
    "async-tiff",
    "obstore",
    "aiohttp",
    "uvloop",
    "rasterio",
    "numpy",
    "pyarrow",
    "pycurl",
    "niquests",
)


def parse_options(parser: argparse.ArgumentParser, kept: str) -> argparse.Namespace:
    """Return the options of the command line, with those that every benchmark has: ``json`` and ``cache``.

    Args:
        parser: has the benchmark's own options.
        kept: what the folder ``cache``, which exists afterwards, is for.
    """
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "rasteret-assets-benchmarks",
                        help=kept)  # fmt: skip
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    return options


def names_of(known: Iterable[str]) -> Callable[[str], list[str]]:
    """Return the ``type`` of an option that takes some of the names ``known``, separated by commas."""

    def parse(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",")]
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(known)}")
        return names

    return parse


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One reader on one kind of file: medians over the repetitions."""

    reader: str
    kind: str
    headers: int
    good: int
    rate: float
    slowest: float
    fastest: float
    requests: float
    kib: float
    cpu_ms: float
    peak_mb: float
    server_busy: float

    @classmethod
    def of(cls, reader: str, kind: str, headers: int, runs: Sequence[dict[str, Any]]) -> Measurement:
        """Return the medians of the reports of all repetitions."""
        rates = [headers / run["seconds"] for run in runs]

        def middle(values: Sequence[float]) -> float:
            return statistics.median(values)

        return cls(
            reader=reader, kind=kind, headers=headers, good=min(run["good"] for run in runs), rate=middle(rates),
            slowest=min(rates), fastest=max(rates),
            requests=middle([run["server"]["requests"] / headers for run in runs]),
            kib=middle([run["server"]["bytes"] / headers / 1024 for run in runs]),
            cpu_ms=middle([1000 * run["cpu_seconds"] / headers for run in runs]),
            peak_mb=max(run["peak_rss"] / 1e6 for run in runs),
            server_busy=middle([run["server"]["cpu_seconds"] / run["seconds"] for run in runs]),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One number against what it has to be."""

    name: str
    value: float
    bar: float
    at_least: bool = True
    unit: str = "x"
    note: str = ""

    @property
    def met(self) -> bool:
        return self.value >= self.bar if self.at_least else self.value <= self.bar

    def __str__(self) -> str:
        relation, verdict = (">=" if self.at_least else "<="), ("met" if self.met else "NOT met")
        value = f"{self.value:.2f}{self.unit}"
        return f"{self.name:<40} {value:>12}  bar {relation} {self.bar:g}{self.unit}: {verdict}{self.note}"


def describe_machine() -> str:
    """Return cores, kernel, versions, date, and the load of the machine before the benchmark."""
    models = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
              if line.startswith("model name")]  # fmt: skip
    installed = ", ".join(f"{name} {_version(name)}" for name in _PACKAGES)
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC; {len(os.sched_getaffinity(0))} cores, "
        f"{models[0] if models else '?'}, {platform.system()} {platform.release()}, load {os.getloadavg()[0]:.2f}\n"
        f"Python {platform.python_version()}, {installed}"
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "-"


def format_table(measurements: Sequence[Measurement]) -> str:
    """Return all measurements as a table, reader by reader."""
    titles = ("reader", "kind", "headers", "headers/s", "(slowest-fastest)", "requests", "KiB", "CPU ms", "peak MB",
              "server busy")  # fmt: skip
    layout = "{:<11}{:<7}{:>8}{:>11}{:>19}{:>10}{:>8}{:>8}{:>9}{:>13}"
    lines = [layout.format(*titles), layout.format("", "", "", "", "", *["/header"] * 3, "", "")]
    for m in measurements:
        spread = f"({m.slowest:.0f}-{m.fastest:.0f})"
        wrong = "" if m.good == m.headers else f"  {m.headers - m.good} headers were not read right"
        numbers = (f"{m.requests:.3f}", f"{m.kib:.1f}", f"{m.cpu_ms:.3f}", f"{m.peak_mb:.0f}", f"{m.server_busy:.0%}")
        lines.append(layout.format(m.reader, m.kind, m.headers, f"{m.rate:.0f}", spread, *numbers) + wrong)
    return "\n".join(line.rstrip() for line in lines)


def compare(measurements: Sequence[Measurement]) -> list[Bar]:
    """Compare our reader with the others, kind by kind, by the medians of CPU time, and of rates beside them."""
    rates = {(m.reader, m.kind): m for m in measurements}
    bars = []
    for kind in dict.fromkeys(m.kind for m in measurements):
        ours = rates.get(("ours", kind))
        if ours is None:
            continue
        for other, bar in (("rasteret", 25.0), ("async-tiff", 2.0), ("transport", 0.8), ("obstore", 0.8)):
            if theirs := rates.get((other, kind)):
                note = f" (by headers/s {ours.rate / theirs.rate:.2f}x)"
                value = theirs.cpu_ms / ours.cpu_ms
                bars.append(Bar(name=f"{kind}: ours / {other}, CPU time", value=value, bar=bar, note=note))
        bars.append(Bar(name=f"{kind}: requests per header", value=ours.requests, bar=1.02, at_least=False, unit=""))
    return bars


def as_json(
    measurements: Sequence[Measurement], bars: Sequence[Bar], trials: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Return everything that was printed as a JSON document."""
    return {
        "machine": describe_machine(),
        "measurements": [asdict(measurement) for measurement in measurements],
        "bars": [{**asdict(bar), "met": bar.met} for bar in bars],
        "trials": list(trials),
    }
