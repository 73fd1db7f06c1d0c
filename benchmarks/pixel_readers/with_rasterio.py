"""rasterio: every file opened, in one thread or in 32 (``RASTERIO_THREADS``)."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import rasterio
from harness import GDAL_OPTIONS, Job, measure, total
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds
from rasterio.windows import from_bounds


def read(job: Job) -> int:
    work: Callable[[str], int] = partial(_read, job)
    threads = int(os.environ["RASTERIO_THREADS"])
    if threads == 1:
        return sum(map(work, job.hrefs))
    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(work, job.hrefs))


def _read(job: Job, href: str) -> int:
    with rasterio.open(href) as dataset:
        if job.scenario == "points":
            return sum(total(sample) for sample in dataset.sample(job.points))
        if job.scenario == "crs":
            return sum(_warped(job, dataset, area) for area in job.areas)
        return sum(total(dataset.read(1, window=from_bounds(*area, dataset.transform))) for area in job.areas)


def _warped(job: Job, dataset: rasterio.DatasetReader, area: tuple[float, float, float, float]) -> int:
    epsg, size = job.target
    left, bottom, right, top = transform_bounds(dataset.crs, epsg, *area)
    column, row = int(left // size), int(-(-top // size))
    width, height = int(-(-right // size)) - column, row - int(bottom // size)
    transform = rasterio.Affine(size, 0, column * size, 0, -size, row * size)
    with WarpedVRT(
        dataset, crs=epsg, transform=transform, width=width, height=height, resampling=Resampling.bilinear
    ) as warped:
        return total(warped.read(1))


if __name__ == "__main__":
    measure(read, setting=GDAL_OPTIONS)
