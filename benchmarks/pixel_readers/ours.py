"""This project, from its published collection."""

from __future__ import annotations

import functools

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from harness import Job, measure, total

from rasteret_assets import Collection, load


def read(job: Job) -> int:
    opened = _opened(job.collection).where(pc.field("id").isin(list(job.records)))
    areas = [shapely.box(*area) for area in job.areas]
    if job.scenario == "points":
        x, y = np.array(job.points).T
        table = opened.sample_points(pa.table({"x": x, "y": y}), job.bands, geometry_crs=job.crs)
        return int(pc.sum(table["value"]).as_py())
    if job.scenario == "crs":
        target, size = job.target
        return total(
            opened.get_numpy(areas, job.bands, geometry_crs=job.crs, target_crs=target, resolution=size,
                             resampling="bilinear")
        )  # fmt: skip
    return total(opened.get_numpy(areas, job.bands, geometry_crs=job.crs))


@functools.cache
def _opened(path: str) -> Collection:
    return load(path)


if __name__ == "__main__":
    measure(read)
