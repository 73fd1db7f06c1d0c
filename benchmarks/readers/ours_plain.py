"""This project, end to end, without the overviews, which rasteret does not read either."""

from __future__ import annotations

from harness import Job, measure
from ours import judge, records

from rasteret_assets import create_backend
from rasteret_assets.stages.bands import BandMetadata, read_band_metadata


def read(job: Job) -> BandMetadata:
    return read_band_metadata(
        records(job), ["B02"], create_backend(), explicit=True, max_concurrent=job.max_concurrent, overviews=False
    )


if __name__ == "__main__":
    measure(read, judge)
