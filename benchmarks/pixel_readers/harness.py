"""The harness of all pixel readers: reads the job from a JSON file, measures it, and prints one JSON line.

Standard library and numpy only, because rasteret runs in a Python of its own. A reader is warmed up with one small job
on files of its own, so that imports and thread pools are not counted; then the server's counters are zeroed and the
clock starts. No file of the measured job was opened before.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.metering import metered

#: GDAL's options for COGs, as its documentation and rasterio's users set them.
GDAL_OPTIONS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": ".tif",
    "GDAL_INGESTED_BYTES_AT_OPEN": "65536",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "VSI_CACHE": "TRUE",
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a reader is to do.

    Args:
        scenario: ``series``, ``many``, ``crs`` or ``points``.
        url: of the server.
        records: ids of the records, and the address of each of their bands.
        bands: names of the bands.
        collection: published collection of these and the warm-up's records.
        crs: EPSG code of the rasters.
        areas: boxes (left, bottom, right, top) in ``crs``, whole pixels.
        points: (x, y) in ``crs``.
        target: EPSG code to warp to, and the size of a pixel there, for ``crs``.
    """

    scenario: str
    url: str
    records: dict[str, dict[str, str]]
    bands: Sequence[str]
    collection: str
    crs: int
    areas: Sequence[tuple[float, float, float, float]]
    points: Sequence[tuple[float, float]]
    target: tuple[int, float]

    @property
    def hrefs(self) -> list[str]:
        """Address of every band of every record."""
        return [hrefs[band] for hrefs in self.records.values() for band in self.bands]


def measure(read: Callable[[Job], int], *, setting: dict[str, str] | None = None) -> None:
    """Run the job of the command line and print what it took.

    Args:
        read: does a job and returns the sum of all samples it read.
        setting: environment variables to set before.
    """
    os.environ.update(setting or {})
    parser = argparse.ArgumentParser()
    parser.add_argument("--job", type=Path, required=True)
    parser.add_argument("--warm-up", type=Path, required=True)
    options = parser.parse_args()
    job, warm_up = (Job(**json.loads(path.read_text())) for path in (options.job, options.warm_up))
    read(warm_up)
    total, report = metered(lambda: read(job), job.url)
    print(json.dumps({**report, "total": int(total)}), flush=True)


def total(pixels: Any) -> int:
    """Sum of samples, which tells whether readers read the same."""
    return int(np.asarray(pixels).sum(dtype=np.int64))
