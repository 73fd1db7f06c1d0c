"""Measure what a small change of a large month costs, and beside it another version of the package in the same run.

``python benchmarks/increments.py --records 20000`` writes a record table of one month in 200 Parquet files
(``records.py``: STAC items with four COGs of 121 tiles), builds it with headers that come from memory
(``header_pool.py``), changes a hundred records in one way after the other, and builds again: each build in a process of
its own, from a copy of the same workspace. ``--by day`` declares partitions of a day where the version knows them.
``--against PATH`` runs another checkout's code beside this one's, step by step. The kernel is asked, from outside:

- *wall* and *CPU* seconds of the build alone; modules are imported and pools of threads started before;
- *read* and *written*: bytes that the process asked for, from page cache or disk (``rchar``, ``wchar``);
- *peak*: the most memory, less what the process held before the build, which is mostly libraries;
- *opened*: files of the record table that were opened, of about 200 (inotify);
- *of a full build*: wall seconds by those of a full build, of the other version's where there is one;
- *written / published*: bytes written by the size of all published files.

The floor is pyarrow reading the published files and writing them again (``publishers/floor.py``).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from cogs import KINDS, make_file
from header_pool import save_header
from kernel import OpenedFiles, Usage, forget_peak, peak
from processes import settle
from records import BANDS, MONTHS, RecordTable
from report import describe_machine, parse_options

HERE: Final = Path(__file__).parent
FILES: Final = 200
CHANGED: Final = 100
FULL: Final = "full build"
FLOOR: Final = "pyarrow: read and write"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one step took.

    Args:
        usage: from the word to go on to the answer.
        peak: bytes of memory beyond those held before.
        opened: files of the record table.
        published: bytes of all published files afterwards.
    """

    usage: Usage
    peak: int
    opened: int
    published: int


@dataclass(frozen=True, kw_only=True)
class Month:
    """The record table of one month in a folder, and the ways in which it changes.

    Args:
        folder: of the table.
        records: how many it has at first.
    """

    folder: Path
    records: int

    def write(self) -> None:
        """Write the first version of the table."""
        self.folder.mkdir()
        for number, rows in enumerate(self._files()):
            pq.write_table(self._rows(rows), self._path(number), compression="zstd")

    @contextmanager
    def changed(self, change: Callable[[Month], dict[Path, pa.Table]] | None) -> Iterator[None]:
        """Apply a change until the context ends; then the same files lie there as before."""
        replaced = change(self) if change is not None else {}
        aside = self.folder.with_name("aside")
        aside.mkdir()
        try:
            for path, table in replaced.items():
                if path.exists():
                    path.rename(aside / path.name)
                pq.write_table(table, path, compression="zstd")
            yield
        finally:
            for path in replaced:
                path.unlink(missing_ok=True)
            for path in aside.iterdir():
                path.rename(self.folder / path.name)
            aside.rmdir()

    def added(self) -> dict[Path, pa.Table]:
        """Add a file with the next records of the month."""
        return {self._path(FILES): self._rows(np.arange(self.records, self.records + CHANGED))}

    def scattered(self) -> dict[Path, pa.Table]:
        """Change records all over the month."""
        return self._restated(np.linspace(0, self.records - 1, CHANGED).astype(int))

    def in_one_place(self) -> dict[Path, pa.Table]:
        """Change as many records that are next to each other."""
        return self._restated(self._middle)

    def removed(self) -> dict[Path, pa.Table]:
        """Remove as many records."""
        return self._edited(self._middle, lambda table, chosen: table.filter(pc.invert(chosen)))

    def moved(self) -> dict[Path, pa.Table]:
        """Give as many records another date, forty days earlier."""

        def edit(table: pa.Table, chosen: pa.Array) -> pa.Table:
            return _replaced(table, "datetime", pc.subtract(table["datetime"], timedelta(days=40)), chosen)

        return self._edited(self._middle, edit)

    @property
    def _middle(self) -> np.ndarray:
        return np.arange(self.records // 2, self.records // 2 + CHANGED)

    def _restated(self, numbers: np.ndarray) -> dict[Path, pa.Table]:
        def edit(table: pa.Table, chosen: pa.Array) -> pa.Table:
            table = _replaced(table, "eo:cloud_cover", pc.divide(table["eo:cloud_cover"], 2.0), chosen)
            return _replaced(table, "updated", pa.scalar("2024-01-15T00:00:00Z"), chosen)

        return self._edited(numbers, edit)

    def _edited(self, numbers: np.ndarray, edit: Callable[[pa.Table, pa.Array], pa.Table]) -> dict[Path, pa.Table]:
        """Return the files that hold some records, each edited where a mask says so."""
        found = {}
        for number, rows in enumerate(self._files()):
            chosen = np.isin(rows, numbers)
            if chosen.any():
                found[self._path(number)] = edit(self._rows(rows), pa.array(chosen))
        return found

    def _files(self) -> list[np.ndarray]:
        return np.array_split(np.arange(self.records), FILES)

    def _path(self, number: int) -> Path:
        return self.folder / f"part-{number:03}.parquet"

    def _rows(self, numbers: np.ndarray) -> pa.Table:
        # The last month of a table that has room for those that are added.
        each = self.records + 2 * CHANGED
        return RecordTable(records=MONTHS * each).rows((MONTHS - 1) * each + numbers)


def _replaced(table: pa.Table, name: str, values: Any, chosen: pa.Array) -> pa.Table:
    place = table.schema.get_field_index(name)
    return table.set_column(place, table.schema.field(place), pc.if_else(chosen, values, table[name]))


#: Every step: how the table changes, how many records are then published more, how many headers are fetched.
STEPS: Final[dict[str, tuple[Callable[[Month], dict[Path, pa.Table]] | None, int, int]]] = {
    "nothing changed": (None, 0, 0),
    f"{CHANGED} records added": (Month.added, CHANGED, CHANGED * len(BANDS)),
    f"{CHANGED} changed, all over": (Month.scattered, 0, 0),
    f"{CHANGED} changed, in one place": (Month.in_one_place, 0, 0),
    f"{CHANGED} removed": (Month.removed, -CHANGED, 0),
    f"{CHANGED} moved to another month": (Month.moved, 0, 0),
}


def main() -> None:
    """Run what the command line asks for, print it as Markdown, and write it as JSON where asked to."""
    options = _options()
    print(describe_machine(), flush=True)
    versions = {"here": HERE.parent, **({"other": options.against.resolve()} if options.against else {})}
    work = Path(tempfile.mkdtemp(prefix="increments-", dir=options.cache))
    try:
        runs = measure(versions, options, work)
    finally:
        shutil.rmtree(work)
    measured = {step: {name: _middle(found) for name, found in by.items()} for step, by in runs.items()}
    print("", as_markdown(measured, options), sep="\n")
    if options.json:
        document = {step: {name: _as_json(found) for name, found in by.items()} for step, by in measured.items()}
        options.json.write_text(json.dumps({"machine": describe_machine(), "steps": document}, indent=2))


def measure(versions: dict[str, Path], options: argparse.Namespace, work: Path) -> dict[str, dict[str, list[Measured]]]:
    """Measure all steps with all versions, taking turns, so that a slow minute hits all of them."""
    pool = work / "pool.npz"
    save_header(make_file(KINDS["s2"], options.cache), pool)
    month = Month(folder=work / "source", records=options.records)
    month.write()
    runs: dict[str, dict[str, list[Measured]]] = {}

    def run(step: str, name: str, more: int, headers: int) -> None:
        script = [HERE / "publishers" / "one_step.py", f"--source={month.folder}", f"--workspace={work / name}",
                  f"--pool={pool}", f"--by={options.by}"]  # fmt: skip
        found = run_step(script, versions[name], month.folder, work / name, (options.records + more, headers))
        runs.setdefault(step, {}).setdefault(name, []).append(found)
        print(f"  {step}, {name}: {found.usage.wall:.2f} s, CPU {found.usage.cpu:.2f} s", flush=True)

    for turn in range(options.repeat):
        for name in versions:
            shutil.rmtree(work / name, ignore_errors=True)
            run(FULL, name, 0, options.records * len(BANDS))
            if turn == 0:
                _copy(work / name, work / f"{name}-built")
    for step, (change, more, headers) in STEPS.items():
        for _ in range(options.repeat):
            with month.changed(change):
                for name in versions:
                    shutil.rmtree(work / name)
                    _copy(work / f"{name}-built", work / name)
                    run(step, name, more, headers)
            for name, code in versions.items():
                # A build without changes first, because it reads files that were put back, which is not part of a step.
                script = [HERE / "publishers" / "one_step.py", f"--source={month.folder}",
                          f"--workspace={work / f'{name}-built'}", f"--pool={pool}", f"--by={options.by}"]  # fmt: skip
                run_step(script, code, month.folder, work / f"{name}-built", (options.records, 0))
    for name, code in versions.items():
        (work / "floor").mkdir()
        script = [HERE / "publishers" / "floor.py", f"--published={work / f'{name}-built' / 'bench_records'}",
                  f"--to={work / 'floor'}"]  # fmt: skip
        found = run_step(script, code, month.folder, work / f"{name}-built", (options.records, 0))
        runs.setdefault(FLOOR, {})[name] = [found]
        shutil.rmtree(work / "floor")
    return runs


def run_step(script: list[Any], code: Path, source: Path, workspace: Path, expected: tuple[int, int]) -> Measured:
    """Measure one process between its first and its second line.

    Raises:
        RuntimeError: if it failed, or published or fetched something else than expected.
    """
    settle(2**30)
    path = os.pathsep.join([str(code), str(HERE)])
    with OpenedFiles(source) as files, subprocess.Popen(
        [sys.executable, *map(str, script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": path},
    ) as process:  # fmt: skip

        def answer() -> dict[str, Any]:
            line = process.stdout.readline() if process.stdout else ""
            if not line:
                raise RuntimeError(f"{script[0]} failed; its error is above")
            return json.loads(line)

        def go_on() -> None:
            print(file=process.stdin, flush=True)

        answer()
        files.names()
        held, before = forget_peak(process.pid), Usage.of(process.pid)
        go_on()
        totals = answer()
        usage, most, opened = Usage.of(process.pid) - before, peak(process.pid) - held, len(files.names())
        go_on()
        found = answer()["published"], totals["headers_fetched"]
        go_on()
    if found != expected:
        raise RuntimeError(f"{found} records published and headers fetched, not {expected}: {script}")
    return Measured(usage=usage, peak=most, opened=opened, published=_bytes(workspace / "bench_records"))


def as_markdown(measured: dict[str, dict[str, Measured]], options: argparse.Namespace) -> str:
    """Return a table with a row for each step; numbers of several versions are divided by a stroke."""
    whole = list(measured[FULL].values())[-1].usage.wall
    columns: dict[str, Callable[[Measured], str]] = {
        "wall s": lambda found: f"{found.usage.wall:.2f}",
        "of a full build": lambda found: f"{found.usage.wall / whole:.1%}",
        "CPU s": lambda found: f"{found.usage.cpu:.2f}",
        "read MB": lambda found: f"{found.usage.read / 1e6:.1f}",
        "written MB": lambda found: f"{found.usage.written / 1e6:.1f}",
        "written / published": lambda found: f"{found.usage.written / found.published:.2f}",
        "peak MB": lambda found: f"{found.peak / 1e6:.0f}",
        "opened": lambda found: str(found.opened),
    }
    published = " / ".join(f"{found.published / 1e6:.1f} MB" for found in measured[FULL].values())
    names = " / ".join(["this version", *([f"that of {options.against.name}"] if options.against else [])])
    lines = [
        f"{options.records} records x {len(BANDS)} bands by {options.by}, {published} published; {names}.", "",
        f"| step | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns),
    ]  # fmt: skip
    for step, by in measured.items():
        cells = [" / ".join(map(form, by.values())) for form in columns.values()]
        lines.append(f"| {step} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _middle(found: list[Measured]) -> Measured:
    """Return the run with the median wall time."""
    return sorted(found, key=lambda one: one.usage.wall)[(len(found) - 1) // 2]


def _as_json(found: Measured) -> dict[str, Any]:
    return {**vars(found.usage), "peak": found.peak, "opened": found.opened, "published": found.published}


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _copy(folder: Path, to: Path) -> None:
    """Copy a folder with the times of its files, by references to their blocks where the filesystem can."""
    subprocess.run(["cp", "-a", "--reflink=auto", str(folder), str(to)], check=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--by", choices=("month", "day"), default="month")
    parser.add_argument("--against", type=Path, metavar="PATH", help="checkout of another version")
    parser.add_argument("--repeat", type=int, default=1, help="runs of every step; the median counts")
    return parse_options(parser, "folder that the work is done in")


if __name__ == "__main__":
    main()
