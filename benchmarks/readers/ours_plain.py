"""This project, end to end, without the overviews, which rasteret does not read either."""

from __future__ import annotations

import pyarrow as pa
from harness import Job, measure
from ours import judge, records

from rasteret_assets import create_backend
from rasteret_assets.headers.stage import BandMetadata, read_band_metadata


def read(given: tuple[Job, pa.Table]) -> BandMetadata:
    job, normalized = given
    return read_band_metadata(
        normalized, ["B02"], create_backend(), explicit=True, max_concurrent=job.max_concurrent, overviews=False
    )


if __name__ == "__main__":
    measure(read, judge, records)
