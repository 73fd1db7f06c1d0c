"""Rate of harvests, beside rasteret's build_from_stac, of the same STAC API on loopback.

    python benchmarks/harvest.py --items 5000 --rasteret /path/to/another/bin/python

Items have twelve assets, as Sentinel-2's do. rasteret reads headers too, which cannot be turned off; so that this costs
it as little as possible, its ``band_map`` names one band, whose file is one small GeoTIFF on the disk. Both run in
processes of their own, the server in another. ``--bands 12`` lets rasteret read the headers of all bands, as its users
do. ``--silent`` makes the API one that says nothing of changes, so that the second harvest asks for all windows again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.support.rasters import tiff_bytes
from tests.support.stac import StacServer, make_item, serve_stac

BANDS = [f"B{number:02}" for number in range(1, 13)]

OURS = """
import json, resource, sys, time, rasteret_assets as ra, rasteret_assets.from_stac
url, folder, limit, lookback = sys.argv[1:]
harvest = {"stac_api": url, "collections": ["scenes"], "datetime": "2024", "limit": int(limit),
           "lookback_days": int(lookback)}
spec = ra.CollectionSpec.of(name="scenes", workspace_dir=folder, harvest=harvest)
def run():
    began, cpu = time.perf_counter(), time.process_time()
    report = ra.harvest(spec)
    return time.perf_counter() - began, time.process_time() - cpu, report
first, cpu, report = run()
again, _, unchanged = run()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
began = time.perf_counter()
build = ra.build(spec)
built = time.perf_counter() - began
print(json.dumps({"items": report.items, "seconds": first, "cpu_seconds": cpu,
                  "requests": report.requests, "windows": report.windows,
                  "unchanged_seconds": again, "unchanged_requests": unchanged.requests, "build_seconds": built,
                  "peak_mb": peak}))
"""

THEIRS = """
import json, resource, sys, time, rasteret, rasteret.ingest.stac_indexer
url, folder, limit, bands = sys.argv[1:]
bands = {f"B{number:02}": f"B{number:02}" for number in range(1, int(bands) + 1)}
began, cpu = time.perf_counter(), time.process_time()
collection = rasteret.build_from_stac(name="scenes", stac_api=url, collection="scenes", workspace_dir=folder,
    band_map=bands, date_range=("2024-01-01", "2024-12-31"), max_concurrent=300)
seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
print(json.dumps({"items": len(collection), "seconds": seconds, "cpu_seconds": cpu, "peak_mb": peak}))
"""


def item(number: int, count: int, file: str) -> dict[str, Any]:
    """An item as large as those of Sentinel-2, about 6 kB of JSON."""
    at = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=365) * number / count
    made = make_item(number, at, **{
        "proj:epsg": 32632, "proj:code": "EPSG:32632", "platform": "sentinel-2a", "instruments": ["msi"], "gsd": 10,
        "created": "2024-12-01T00:00:00Z", "s2:mgrs_tile": "32UMU", "s2:sequence": "0", "view:sun_azimuth": 160.5,
    })  # fmt: skip
    made["assets"] = {
        band: {
            "href": file,
            "title": f"Band {band}", "roles": ["data", "reflectance"],
            "type": "image/tiff; application=geotiff; profile=cloud-optimized", "proj:shape": [10980, 10980],
            "proj:transform": [10, 0, 399960, 0, -10, 5500020], "file:size": 123456789 + number,
            "eo:bands": [{"name": band, "common_name": "red", "center_wavelength": 0.665, "full_width_half_max": 0.04}],
            "raster:bands": [{"nodata": 0, "data_type": "uint16", "spatial_resolution": 10, "scale": 0.0001}],
        }
        for band in BANDS
    }  # fmt: skip
    return made


class FastStac(StacServer):
    """An API that has its items as bytes in order of time, so that the client is what is measured."""

    def prepare(self) -> None:
        ordered = sorted(self.items.values(), key=lambda item: item["properties"]["datetime"])
        self.times = [datetime.fromisoformat(item["properties"]["datetime"]) for item in ordered]
        self.texts = [json.dumps(item).encode() for item in ordered]

    def _page(self, asked: Mapping[str, Any], method: str) -> bytes:
        first, _, last = asked.get("datetime", "../..").partition("/")
        start = 0 if first in {"", ".."} else bisect_left(self.times, datetime.fromisoformat(first))
        end = len(self.times) if last in {"", ".."} else bisect_right(self.times, datetime.fromisoformat(last))
        if asked.get("query"):
            end = start  # nothing was updated since
        at, limit = start + int(asked.get("token") or 0), int(asked.get("limit") or 10)
        links = [] if at + limit >= end else [self._next({**asked, "token": at + limit - start}, method)]
        texts = self.texts[at : min(at + limit, end)]
        head = json.dumps({"type": "FeatureCollection", "numberMatched": end - start, "links": links})
        return b"".join([head[:-1].encode(), b', "features": [', b",".join(texts), b"]}"])


def serve(count: int, channel: Connection, *, silent: bool = False) -> None:
    """Serve items and their files until somebody says something."""
    with serve_stac(FastStac) as stac, tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "B01.tif"
        file.write_bytes(tiff_bytes())
        stac.put(*(item(number, count, str(file)) for number in range(count)))
        stac.prepare()
        if silent:
            stac.can = set()
        channel.send(stac.url)
        channel.recv()


def run(python: str, code: str, url: str, *numbers: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [python, "-W", "ignore", "-c", code, url, folder, *map(str, numbers)],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=5000)
    parser.add_argument("--limit", type=int, default=250)
    parser.add_argument("--bands", type=int, default=1, help="bands whose headers rasteret reads")
    parser.add_argument("--rasteret", help="python of an environment that has rasteret")
    parser.add_argument("--silent", action="store_true", help="the API does not say which items changed")
    options = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(
        target=serve, args=(options.items, theirs), kwargs={"silent": options.silent}
    )  # fmt: skip
    server.start()
    try:
        url = ours.recv()
        jobs = [("rasteret_assets", sys.executable, OURS, [options.limit, 36_500 if options.silent else 30])]
        jobs.append(("rasteret", options.rasteret, THEIRS, [options.limit, options.bands]))
        for name, python, code, numbers in jobs:
            if python:
                began = time.perf_counter()
                found = run(python, code, url, *numbers)
                found["items_per_s"] = round(found["items"] / found["seconds"])
                print(name, json.dumps(found), f"{time.perf_counter() - began:.1f} s in all")
        print(f"peak of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB")
    finally:
        ours.send(None)
        server.join()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    main()
