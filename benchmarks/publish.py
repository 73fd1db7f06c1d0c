"""Measure how a record table becomes a published collection, side by side with rasteret: time, memory, bytes, queries.

``python benchmarks/publish.py`` writes a STAC table (``records.py``: a million records over five years, one file per
month), publishes it with each publisher in a fresh process (``publishers/``), one after the other, and asks both
results for the records of a box of two degrees. Then it changes the newest hundredth of the records and publishes
again, and then again with nothing changed. Without headers: what headers cost is measured by ``headers.py``. How many
bytes they take is what ``--headers 100`` compares, and nothing else: both publish as many records with four headers
each, from the server of ``headers.py``, no two of which have equal tile tables (``varied.py``).

- *seconds* are wall-clock from the call to its return, imports not counted; the median over ``--repeat``;
- *peak MB* is the process' high-water mark (``VmHWM``), libraries and all;
- *MB* are the bytes below the published folder;
- *query* opens the collection and reads the rows of the box: the first call of a fresh process, and the median of the
  following ones. Files are in the page cache for both.

``--large 10000000`` builds one more table with our publisher alone and holds its memory to a bar. ``--shuffled`` has
one source file in no order. ``--one-file`` has records with one file each (``href_column`` and ``band_index_map``)
instead of STAC items.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from cogs import KINDS, make_file
from processes import running_server, settle
from records import BANDS, RecordTable
from report import Bar, describe_machine, parse_options
from varied import vary

HERE: Final = Path(__file__).parent
PUBLISHERS: Final = {"ours": "ours.py", "rasteret": "with_rasteret.py"}
BBOX: Final = (9.0, 47.0, 11.0, 49.0)
QUERIES: Final = 20
#: What rasteret takes for a million records.
_TOUCHED_BYTES: Final = 4 * 2**30
#: Files of 121 tiles and of 6241, overviews not counted.
HEADER_KINDS: Final = ("s2", "large")


def main() -> None:
    """Run what the command line asks for, print it, and write it as JSON where asked to."""
    options = _options()
    print(describe_machine(), flush=True)
    publishers = ["ours", *(["rasteret"] if "RASTERET_PYTHON" in os.environ else [])]
    if "rasteret" not in publishers:
        print("without rasteret: RASTERET_PYTHON names no Python that has it")
    work = Path(tempfile.mkdtemp(prefix="publish-", dir=options.cache))
    if options.headers:
        try:
            bars = [bar for kind in HEADER_KINDS for bar in compare_headers(kind, publishers, options, work)]
        finally:
            shutil.rmtree(work)
        print("", *bars, sep="\n")
        return
    try:
        builds = compare_builds(_table(options), publishers, options, work)
        bars = build_bars(builds)
        rebuilds = rebuild(options, work)
        bars += rebuild_bars(builds["ours"], rebuilds)
        if options.large:
            bars.append(build_large(options, work))
    finally:
        shutil.rmtree(work)
    print("", *bars, sep="\n")
    if options.json:
        document = {"machine": describe_machine(), "builds": builds, "rebuilds": rebuilds, "bars": [
            {**asdict(bar), "met": bar.met} for bar in bars
        ]}  # fmt: skip
        options.json.write_text(json.dumps(document, indent=2))


def compare_builds(
    table: RecordTable, publishers: list[str], options: argparse.Namespace, work: Path
) -> dict[str, dict[str, Any]]:
    """Measure every publisher's build of one table, and queries of the result; publishers take turns."""
    source = linked(table.write(options.cache), work / f"source-{table.records}")
    kind = "records with one file each" if table.one_file else "STAC items"
    print(f"\n{table.records} {kind}, {_megabytes(source):.0f} MB in {len(list(source.iterdir()))} files", flush=True)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in publishers}
    for _ in range(options.repeat):
        for name, reports in runs.items():
            shutil.rmtree(work / name, ignore_errors=True)
            reports.append(run_publisher(name, source=source, workspace=work / name, one_file=table.one_file))
            print(f"  {name}: {reports[-1]['times'][0]:.1f} s, {reports[-1]['peak_rss'] / 1e6:.0f} MB", flush=True)
    found = {}
    for name, reports in runs.items():
        asked = [
            run_publisher(name, published=work / name / "bench_records", bbox=list(BBOX), repeat=QUERIES)
            for _ in range(options.repeat)
        ]
        found[name] = {
            "rows": reports[0]["rows"],
            "seconds": statistics.median(report["times"][0] for report in reports),
            "peak_mb": max(report["peak_rss"] for report in reports) / 1e6,
            "mb": _megabytes(work / name / "bench_records"),
            "query_rows": asked[0]["rows"],
            "first_query_s": statistics.median(report["times"][0] for report in asked),
            "query_s": statistics.median(seconds for report in asked for seconds in report["times"][1:]),
        }
        print(f"  {name}: {_line(found[name])}", flush=True)
    if len({(report["rows"], report["query_rows"]) for report in found.values()}) > 1:
        raise RuntimeError(f"the publishers disagree about the rows: {found}")
    return found


def compare_headers(kind: str, publishers: list[str], options: argparse.Namespace, work: Path) -> list[Bar]:
    """Compare the bytes that each publisher makes of one table with the headers of one kind of file."""
    folder = work / kind
    folder.mkdir()
    files = vary(make_file(KINDS[kind], options.cache), folder, options.headers * len(BANDS))
    table = pq.read_table(RecordTable(records=options.headers).write(options.cache))
    jobs = {"ours": {}, "ours, without overviews": {"overviews": False}, "rasteret": {}}
    found = {}
    with running_server(files, latency_ms=0) as server:
        (folder / "source").mkdir()
        hrefs = [f"{server.url}/{file.path.stem}/{number}.tif" for number, file in enumerate(files)]
        pq.write_table(_with_hrefs(table, hrefs), folder / "source" / "records.parquet")
        for name, job in jobs.items():
            publisher = name.partition(",")[0]
            if publisher in publishers:
                place = folder / name.replace(", ", "-").replace(" ", "-")
                report = run_publisher(publisher, source=folder / "source", workspace=place, headers=True, **job)
                found[name] = _megabytes(place / "bench_records")
                print(f"  {kind}, {name}: {report['rows']} records, {found[name]:.3f} MB", flush=True)
    return [
        Bar(name=f"{kind}: {name} / rasteret, bytes", value=size / found["rasteret"], bar=0.6, at_least=False)
        for name, size in found.items()
        if name != "rasteret" and "rasteret" in found
    ]


def _with_hrefs(table: pa.Table, hrefs: list[str]) -> pa.Table:
    """Return the records with other files, four each, all of one CRS and one month, so that one file is published."""
    assets = table["assets"].combine_chunks()
    of_band = [
        pa.StructArray.from_arrays([pa.array(hrefs[position :: len(BANDS)])], names=["href"])
        for position in range(assets.type.num_fields)
    ]
    times = pa.array([datetime(2024, 1, 15, tzinfo=UTC)] * len(table), table.schema.field("datetime").type)
    changed = {
        "assets": pa.StructArray.from_arrays(of_band, names=list(BANDS)),
        "proj:epsg": pc.add(pc.multiply(table["proj:epsg"], 0), 32632).cast(pa.int32()),
        "datetime": times,
    }
    for name, column in changed.items():
        table = table.set_column(table.schema.get_field_index(name), name, column)
    return table


def rebuild(options: argparse.Namespace, work: Path) -> dict[str, float]:
    """Return the median seconds of rebuilds in ``work`` after a hundredth of the records changed, and after none."""
    taken: dict[str, list[float]] = {"1 % changed": [], "nothing changed": []}
    for number in range(options.repeat):
        # The newest file is rewritten each time, with another part of its records changed.
        table = _table(options, changed=(0.01, 0.005)[number % 2])
        source = work / f"source-{table.records}"
        table.change(source)
        for name, seconds in taken.items():
            report = run_publisher("ours", source=source, workspace=work / "ours", one_file=table.one_file)
            seconds.append(report["times"][0])
            print(f"  ours, {name}: {seconds[-1]:.2f} s, {report['rows']} rows built", flush=True)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def build_large(options: argparse.Namespace, work: Path) -> Bar:
    """Build one large table by our publisher alone."""
    table = replace(_table(options), records=options.large)
    source = table.write(options.cache)
    report = run_publisher("ours", source=source, workspace=work / "large", one_file=table.one_file)
    shutil.rmtree(work / "large")
    note = f" ({report['times'][0]:.0f} s)"
    return Bar(name=f"{options.large} records: peak", value=report["peak_rss"] / 1e6, bar=1500, at_least=False,
               unit=" MB", note=note)  # fmt: skip


def build_bars(builds: dict[str, dict[str, Any]]) -> list[Bar]:
    """Compare our build with rasteret's."""
    ours, theirs = builds["ours"], builds.get("rasteret")
    if theirs is None:
        return []
    return [
        Bar(name="time: rasteret / ours", value=theirs["seconds"] / ours["seconds"], bar=8),
        Bar(name="peak memory: ours / rasteret", value=ours["peak_mb"] / theirs["peak_mb"], bar=1 / 3, at_least=False),
        Bar(name="bytes: ours / rasteret", value=ours["mb"] / theirs["mb"], bar=0.6, at_least=False,
            note=" (the bar is for collections with headers)"),
        Bar(name="2 degree query: ours / rasteret", value=ours["query_s"] / theirs["query_s"], bar=0.1, at_least=False),
        Bar(name="the first one: ours / rasteret", value=ours["first_query_s"] / theirs["first_query_s"], bar=0.1,
            at_least=False),
    ]  # fmt: skip


def rebuild_bars(full: dict[str, Any], rebuilds: dict[str, float]) -> list[Bar]:
    """Compare rebuilds with the full build."""
    limits = {"1 % changed": 0.05, "nothing changed": 0.02}
    return [
        Bar(name=f"{name}: of a full build", value=seconds / full["seconds"], bar=limits[name], at_least=False)
        for name, seconds in rebuilds.items()
    ]


def run_publisher(name: str, **job: Any) -> dict[str, Any]:
    """Return the report of a publisher in a fresh process.

    Raises:
        RuntimeError: if it failed.
    """
    python = os.environ["RASTERET_PYTHON"] if name == "rasteret" else sys.executable
    options = [
        f"--{key.replace('_', '-')}={json.dumps(value) if isinstance(value, list | bool) else value}"
        for key, value in job.items()
    ]
    settle(_TOUCHED_BYTES)
    path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [python, str(HERE / "publishers" / PUBLISHERS[name]), *options],
        env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"publisher {name} failed with exit code {done.returncode}; its error is above")
    return json.loads(done.stdout.splitlines()[-1])


def linked(source: Path, folder: Path) -> Path:
    """Make a folder with links to all files of another, whose files may be replaced without changing the other's."""
    folder.mkdir()
    for path in source.iterdir():
        os.link(path, folder / path.name)
    return folder


def _table(options: argparse.Namespace, changed: float = 0.0) -> RecordTable:
    return RecordTable(
        records=options.records, shuffled=options.shuffled, one_file=options.one_file, changed=changed
    )  # fmt: skip


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def _line(build: dict[str, Any]) -> str:
    return (
        f"{build['rows']} rows in {build['seconds']:.1f} s, peak {build['peak_mb']:.0f} MB, {build['mb']:.0f} MB "
        f"published; {build['query_rows']} rows of the box in {1000 * build['first_query_s']:.0f} ms, again in "
        f"{1000 * build['query_s']:.0f} ms"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--shuffled", action="store_true", help="one source file, in no order")
    parser.add_argument("--one-file", action="store_true", help="records with one file each instead of STAC items")
    parser.add_argument("--large", type=int, default=0, metavar="N", help="publish N records with our publisher alone")
    parser.add_argument("--headers", type=int, default=0, metavar="N", help="bytes of N records with headers, only")
    return parse_options(parser, "folder that keeps the record tables between runs")


if __name__ == "__main__":
    main()
