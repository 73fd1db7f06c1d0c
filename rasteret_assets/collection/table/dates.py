"""Read date ranges as people write them, as half-open intervals of instants."""

from __future__ import annotations

import re
from calendar import isleap, monthrange
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from rasteret_assets.errors import SpecError
from rasteret_assets.inputs import DateLike, DateRangeLike

_PERIOD = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2}))?)?")
_INSTANT = timedelta(microseconds=1)
_LAST = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """Instants from ``start`` (included) to ``stop`` (excluded), both UTC; None at an open end."""

    start: datetime | None
    stop: datetime | None


def parse_date_range(value: DateRangeLike) -> Interval:
    """Return the interval of a range of dates, whose ends are both included.

    Args:
        value: a date, a ``(start, end)`` pair, a slice of a start and an end, or an interval as STAC writes it:
            ``"2024-01/2024-02-10"``, with ``..`` for an end that is open. An end is a date, a datetime, an ISO 8601
            string or None (open). A date without a time of day means the whole day, month or year:
            ``("2024-01", "2024-02-10")`` lasts from the first instant of January to the last of 10 February, and
            ``"2024-05"`` is the whole of May. Times without a zone are UTC.

    Raises:
        SpecError: if the range, or one end of it, is not understood, or ends before it starts.
    """
    first, last = _ends(value)
    start = None if first is None else _span(first)[0]
    stop = None if last is None else _span(last)[1]
    if start is not None and stop is not None and start >= stop:
        raise SpecError(f"date_range={value!r} ends before it starts: write the earlier date first")
    return Interval(start=start, stop=stop)


def _ends(value: DateRangeLike) -> tuple[DateLike, DateLike]:
    """Return start and end as they are written; None at an open end."""
    if isinstance(value, slice):
        if value.step is not None:
            raise SpecError(f"date_range={value!r} has a step: give its start and stop only")
        return _end(value.start), _end(value.stop)
    if isinstance(value, str):
        ends = value.split("/")
        if len(ends) <= 2:
            return _end(ends[0]), _end(ends[-1])
    elif isinstance(value, Sequence) or (isinstance(value, np.ndarray) and value.ndim):
        if len(value) == 2:
            return _end(value[0]), _end(value[1])
    elif isinstance(value, np.ndarray):
        return _end(str(value)), _end(str(value))
    elif value is not None:
        return _end(value), _end(value)
    raise SpecError(
        f"date_range={value!r} is not a range of dates: write (start, end), such as ('2024-01-01', "
        "'2024-01-31'), or '2024-01'"
    )


def _end(value: DateLike) -> DateLike:
    """Return one end of a range; None for an open end, as STAC (``..``), numpy and pandas (NaT) write it."""
    if isinstance(value, str) and value.strip() in {"", ".."}:
        return None
    return None if str(value) == "NaT" else value


def _span(value: DateLike) -> tuple[datetime, datetime | None]:
    """Return the first instant of a date, and the first one after it, both UTC; None at the end of the year 9999."""
    try:
        if isinstance(value, datetime):
            instant = _utc(value)
            return instant, _after(instant, _INSTANT)
        # str() of dates and of numpy's datetime64 is ISO 8601 at their precision.
        return _text_span(str(value).strip())
    except (ValueError, OverflowError):  # the latter of zones that lead out of the years 1 to 9999
        raise SpecError(f"{value!r} in date_range is not a date: write ISO 8601, such as '2024-01-31'") from None


def _text_span(text: str) -> tuple[datetime, datetime | None]:
    if period := _PERIOD.fullmatch(text):
        year, month, day = (int(part) if part else None for part in period.groups())
        start = datetime(year or 1, month or 1, day or 1, tzinfo=UTC)
        if day:
            return start, _after(start, timedelta(days=1))
        days = monthrange(start.year, month)[1] if month else 366 if isleap(start.year) else 365
        return start, _after(start, timedelta(days=days))
    instant = _utc(datetime.fromisoformat(text))
    return instant, _after(instant, _INSTANT)


def _after(start: datetime, length: timedelta) -> datetime | None:
    """Return the end of a period; None where the period ends with the year 9999, after which no datetime exists."""
    return start + length if length <= _LAST - start else None


def _utc(value: datetime) -> datetime:
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
