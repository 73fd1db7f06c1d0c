"""Instants as everything here has them: UTC, microseconds, in the years 1 to 9999."""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.schema import TIMESTAMP

#: First second of year 1 and of year 10000, since 1970: what Python's datetimes and ISO 8601 can name.
_CALENDAR_S: Final = (-62_135_596_800, 253_402_300_800)
#: A 64-bit number of nanoseconds reaches neither end.
_PER_SECOND: Final = {"s": 1, "ms": 1_000, "us": 1_000_000}


def utc_instants(times: pa.Array | pa.ChunkedArray) -> tuple[pa.Array | pa.ChunkedArray, pa.Array | pa.ChunkedArray]:
    """Timestamps of any unit and zone as UTC microseconds; finer fractions are cut.

    Args:
        times: timestamps; those without a zone are in UTC.

    Returns:
        The instants ``[N]``, null beyond the years 1 to 9999, and a mask ``[N]`` of those.
    """
    if times.type.tz is None:
        times = pc.assume_timezone(times, "UTC")
    if times.type.unit in _PER_SECOND:
        first, end = (seconds * _PER_SECOND[times.type.unit] for seconds in _CALENDAR_S)
        number = times.cast(pa.int64())
        beyond = pc.fill_null(pc.or_(pc.less(number, first), pc.greater_equal(number, end)), fill_value=False)
        times = pc.if_else(beyond, pa.scalar(None, times.type), times)
    else:
        beyond = pa.array(np.zeros(len(times), bool))
    return times.cast(TIMESTAMP, safe=False), beyond
