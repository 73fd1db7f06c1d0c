"""Measure how fast pixels come from many remote COGs, side by side with other readers.

``python benchmarks/reads.py`` serves one GDAL-written COG (4096², uint16, 1024² tiles, deflate with predictor) under as
many names as there are scenes, at several latencies, from a process on one core. Every reader runs in a fresh process
that may use all cores, over files it has never opened. Four scenarios:

- *series*: one area of 256² pixels, within a tile, in 60 scenes x 2 bands: a time series;
- *many*: 40 such areas in 6 scenes x 1 band;
- *crs*: the series of 20 scenes x 1 band, warped to Web Mercator (bilinear);
- *points*: 200 points in 20 scenes x 1 band.

Times are medians. *requests* and *MB* are counted at the server; ``same`` says whether the sum of all samples is that
of the first reader (warps round, and choose grids, each in their own way). Ours and rasteret read the same published
collection. Readers that are not installed are named and left out: rasteret needs ``RASTERET_PYTHON``, async-geotiff and
odc-stac the environment or ``PIXEL_READERS_PYTHON``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import rasterio
import rasterio.shutil
import shapely
from affine import Affine
from processes import RunningServer, running_server
from rasterio.warp import transform_bounds
from report import describe_machine, names_of, parse_options

from rasteret_assets import build_from_table

HERE: Final = Path(__file__).parent
SIDE, SIZE, LEFT, TOP, CRS = 4096, 10.0, 399_960.0, 5_400_000.0, 32632
BANDS: Final = ("B04", "B08")
AREA: Final = 256

#: Script, environment, and the variable that names a Python for it.
READERS: Final[dict[str, tuple[str, dict[str, str], str | None]]] = {
    "ours": ("ours.py", {}, None),
    "rasterio 32": ("with_rasterio.py", {"RASTERIO_THREADS": "32"}, None),
    "rasterio 1": ("with_rasterio.py", {"RASTERIO_THREADS": "1"}, None),
    "rasteret": ("with_rasteret.py", {}, "RASTERET_PYTHON"),
    "async-geotiff": ("with_async_geotiff.py", {}, "PIXEL_READERS_PYTHON"),
    "odc-stac": ("with_odc_stac.py", {}, "PIXEL_READERS_PYTHON"),
}
#: Scenes, bands, areas and points of each scenario.
SCENARIOS: Final = {"series": (60, 2, 1, 0), "many": (6, 1, 40, 0), "crs": (20, 1, 1, 0), "points": (20, 1, 0, 200)}
CANNOT: Final = {("async-geotiff", "crs"): "it does not warp", ("odc-stac", "points"): "it samples no points"}
#: Bars on the series, by reader and latency in milliseconds.
BARS: Final = {("rasterio 32", 20): 1.3, ("rasterio 32", 100): 2.0, ("rasteret", 20): 2.0, ("rasteret", 100): 2.0}


@dataclass(frozen=True, kw_only=True)
class Result:
    """One reader in one scenario at one latency: medians over the repetitions."""

    scenario: str
    latency_ms: float
    reader: str
    seconds: float
    slowest: float
    fastest: float
    cpu_seconds: float
    requests: float
    megabytes: float
    peak_mb: float
    total: int


@dataclass(frozen=True, kw_only=True)
class _Served:
    """What ``running_server`` asks of a file."""

    path: Path


def main() -> None:
    """Run what the command line asks for, print it, and write it as JSON where asked to."""
    options = _options()
    print(describe_machine(), flush=True)
    file = _Served(path=make_file(options.cache))
    results: list[Result] = []
    for latency in options.latencies:
        with running_server([file], latency) as server, tempfile.TemporaryDirectory() as folder:
            collection = publish(server, Path(folder))
            for scenario in options.scenarios:
                results += measure_scenario(server, collection, scenario, latency, options, Path(folder))
    print("", *table(results), "", *bars(results), sep="\n")
    if options.json:
        options.json.write_text(json.dumps([asdict(result) for result in results], indent=2))


def make_file(folder: Path) -> Path:
    """Return the COG, which is made unless it exists."""
    path = folder / "pixels.tif"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    noise = np.random.default_rng(0).normal(scale=60, size=(SIDE, SIDE))
    land = 2000 + 900 * np.sin(rows / 310) * np.cos(columns / 170) + noise
    profile = {
        "driver": "GTiff", "width": SIDE, "height": SIDE, "count": 1, "dtype": "uint16", "crs": f"EPSG:{CRS}",
        "transform": Affine(SIZE, 0, LEFT, 0, -SIZE, TOP), "nodata": 0, "tiled": True,
    }  # fmt: skip
    source = path.with_suffix(".source.tif")
    with rasterio.open(source, "w", **profile) as target:
        target.write(land.astype("uint16"), 1)
    cog = {"BLOCKSIZE": 1024, "COMPRESS": "DEFLATE", "PREDICTOR": "YES", "OVERVIEW_RESAMPLING": "NEAREST"}
    rasterio.shutil.copy(source, path, driver="COG", **cog)
    source.unlink()
    return path


def publish(server: RunningServer, folder: Path) -> str:
    """Publish a collection of all scenes, those for warming up included; return its path."""
    scenes = [*(f"warm{number}" for number in range(2)), *(f"scene{number}" for number in range(60))]
    outline = shapely.box(*transform_bounds(CRS, 4326, LEFT, TOP - SIDE * SIZE, LEFT + SIDE * SIZE, TOP))
    rows = [
        {
            "id": scene, "datetime": datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=number % 28),
            "geometry": outline.wkb, "proj:epsg": CRS,
            "assets": {band: {"href": _href(server, scene, band)} for band in BANDS},
        }
        for number, scene in enumerate(scenes)
    ]  # fmt: skip
    build_from_table(pa.Table.from_pylist(rows), name="reads", workspace_dir=folder, enrich_cog=True)
    return str(folder / "reads_records")


def _href(server: RunningServer, scene: str, band: str) -> str:
    return f"{server.url}/pixels/{scene}/{band}.tif"


def measure_scenario(
    server: RunningServer, collection: str, scenario: str, latency: float, options: argparse.Namespace, folder: Path
) -> list[Result]:
    """Measure all readers on one scenario, taking turns, so that a slow minute hits all of them."""
    scenes, bands, areas, points = SCENARIOS[scenario]
    job = _job(server, collection, scenario, [f"scene{number}" for number in range(scenes)], bands, areas, points)
    warm = _job(server, collection, scenario, ["warm0", "warm1"], bands, min(areas, 1), min(points, 2))
    paths = []
    for name, content in (("job", job), ("warm", warm)):
        paths.append(folder / f"{name}.json")
        paths[-1].write_text(json.dumps(content))
    runs: dict[str, list[dict[str, Any]]] = {}
    for reader in options.readers:
        if reason := CANNOT.get((reader, scenario)) or missing(reader):
            print(f"  {scenario} without {reader}: {reason}", flush=True)
        else:
            runs[reader] = []
    for _ in range(options.repeat):
        for reader, reports in runs.items():
            if reader == "rasterio 1" and reports:
                continue  # minutes at high latencies, and hardly any spread
            reports.append(run(reader, *paths))
    results = [_result(scenario, latency, reader, reports) for reader, reports in runs.items()]
    for result in results:
        print(f"  {scenario} {latency:g} ms {result.reader}: {result.seconds:.2f} s", flush=True)
    return results


def _job(
    server: RunningServer, collection: str, scenario: str, scenes: list[str], bands: int, areas: int, points: int
) -> dict[str, Any]:
    random = np.random.default_rng(1)
    corners = random.integers(0, SIDE - AREA, (areas, 2)) if areas > 1 else np.array([[1300, 2300]] * areas)
    boxes = [
        (LEFT + column * SIZE, TOP - (row + AREA) * SIZE, LEFT + (column + AREA) * SIZE, TOP - row * SIZE)
        for row, column in corners.tolist()
    ]
    places = (np.floor(random.uniform(0, SIDE, (points, 2))) + 0.5) * SIZE
    names = BANDS[:bands]
    return {
        "scenario": scenario, "url": server.url, "collection": collection, "crs": CRS, "bands": names, "areas": boxes,
        "records": {scene: {band: _href(server, scene, band) for band in names} for scene in scenes},
        "points": [(LEFT + x, TOP - y) for x, y in places.tolist()], "target": (3857, 15.0),
    }  # fmt: skip


def missing(reader: str) -> str | None:
    """Return why a reader cannot run here; None if it can."""
    _, _, variable = READERS[reader]
    if variable is not None and variable not in os.environ:
        return f"{variable} names no Python that has it"
    return None


def run(reader: str, job: Path, warm_up: Path) -> dict[str, Any]:
    """Return the report of a reader in a fresh process."""
    script, environment, variable = READERS[reader]
    python = os.environ[variable] if variable is not None else sys.executable
    path = str(HERE.parent) if variable is None else ""
    command = [python, str(HERE / "pixel_readers" / script), f"--job={job}", f"--warm-up={warm_up}"]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, timeout=900,
        env={**os.environ, **environment, "PYTHONPATH": path},
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def _result(scenario: str, latency: float, reader: str, reports: list[dict[str, Any]]) -> Result:
    def middle(values: list[float]) -> float:
        return statistics.median(values)

    seconds = [report["seconds"] for report in reports]
    return Result(
        scenario=scenario, latency_ms=latency, reader=reader, seconds=middle(seconds), slowest=max(seconds),
        fastest=min(seconds), cpu_seconds=middle([report["cpu_seconds"] for report in reports]),
        requests=middle([report["server"]["requests"] for report in reports]),
        megabytes=middle([report["server"]["bytes"] / 1e6 for report in reports]),
        peak_mb=max(report["peak_rss"] / 1e6 for report in reports), total=reports[0]["total"],
    )  # fmt: skip


def table(results: list[Result]) -> list[str]:
    """Return all results as a text, scenario by scenario."""
    layout = "{:<9}{:>7} {:<15}{:>8}{:>17}{:>8}{:>10}{:>9}{:>9}  {}"
    titles = ("scenario", "ms", "reader", "s", "(fast-slow)", "CPU s", "requests", "MB", "peak MB", "same")
    lines = [layout.format(*titles)]
    first: dict[str, int] = {}
    for r in results:
        same = "yes" if first.setdefault(r.scenario, r.total) == r.total else "no"
        spread = f"({r.fastest:.2f}-{r.slowest:.2f})"
        lines.append(
            layout.format(
                r.scenario, f"{r.latency_ms:g}", r.reader, f"{r.seconds:.2f}", spread, f"{r.cpu_seconds:.2f}",
                f"{r.requests:.0f}", f"{r.megabytes:.1f}", f"{r.peak_mb:.0f}", same,
            ).rstrip()
        )  # fmt: skip
    return lines


def bars(results: list[Result]) -> list[str]:
    """Compare our reader with the others on the series, beside what the ratio has to be."""
    times = {(r.latency_ms, r.reader): r.seconds for r in results if r.scenario == "series"}
    lines = []
    for (latency, reader), seconds in times.items():
        if reader == "ours" or (latency, "ours") not in times:
            continue
        ratio = seconds / times[latency, "ours"]
        bar = BARS.get((reader, int(latency)))
        verdict = "" if bar is None else f"  bar >= {bar:g}x: {'met' if ratio >= bar else 'NOT met'}"
        lines.append(f"series, {latency:g} ms: {reader} / ours".ljust(44) + f"{ratio:6.2f}x{verdict}")
    return lines


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latencies", type=_numbers, default=[5, 20, 100])
    parser.add_argument("--scenarios", type=names_of(SCENARIOS), default=list(SCENARIOS), help=",".join(SCENARIOS))
    parser.add_argument("--readers", type=names_of(READERS), default=list(READERS), help=",".join(READERS))
    parser.add_argument("--repeat", type=int, default=3)
    return parse_options(parser, "folder that keeps the served files between runs")


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


if __name__ == "__main__":
    main()
