"""rasteret from the same published collection, in a Python that has it.

Its client refuses plain http, and the server speaks nothing else, so that is switched on in this process.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import rasteret
import shapely
from harness import Job, measure, total
from rasteret.fetch import cog

cog._OBSTORE_CLIENT_OPTIONS["allow_http"] = "true"  # noqa: SLF001 - there is no public way


def read(job: Job) -> int:
    opened = _opened(job.collection).where(pc.field("id").isin(list(job.records)))
    areas = pa.array([shapely.box(*area).wkb for area in job.areas])
    bands = list(job.bands)
    if job.scenario == "points":
        x, y = np.array(job.points).T
        table = opened.sample_points(
            pa.table({"x": x, "y": y}), bands, x_column="x", y_column="y", geometry_crs=job.crs, progress=False
        )
        return int(pc.sum(table["value"]).as_py())
    warp: dict[str, Any] = {"target_crs": job.target[0]} if job.scenario == "crs" else {}
    return total(opened.get_numpy(areas, bands, geometry_crs=job.crs, progress=False, **warp))


@functools.cache
def _opened(path: str) -> Any:
    return rasteret.load(path)


if __name__ == "__main__":
    measure(read)
