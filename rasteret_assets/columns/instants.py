"""Convert timestamps to UTC microseconds in the years 1 to 9999, the form of all instants in this package."""

from __future__ import annotations

from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.schema import TIMESTAMP

#: First second of year 1 and of year 10000, since 1970: the range of Python's datetimes and of ISO 8601.
_CALENDAR_S: Final = (-62_135_596_800, 253_402_300_800)
#: Without nanoseconds, because a 64-bit number of nanoseconds reaches neither end of the range.
_PER_SECOND: Final = {"s": 1, "ms": 1_000, "us": 1_000_000}


def utc_instants(times: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Return timestamps ``[N]`` of any unit and zone (UTC if they have none) as UTC microseconds, finer fractions cut.

    Instants beyond the years 1 to 9999 become null.
    """
    if times.type.tz is None:
        times = pc.assume_timezone(times, "UTC")
    if times.type.unit in _PER_SECOND:
        first, end = (seconds * _PER_SECOND[times.type.unit] for seconds in _CALENDAR_S)
        number = times.cast(pa.int64())
        named = pc.and_(pc.greater_equal(number, first), pc.less(number, end))
        times = pc.if_else(named, times, pa.scalar(None, times.type))
    return times.cast(TIMESTAMP, safe=False)
