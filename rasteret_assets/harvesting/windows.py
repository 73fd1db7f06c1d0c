"""Divide time into windows: the stretches of time whose items are asked for, compared and stored together.

A window is a year, a month, a day or an hour of UTC, cut to the time that is harvested, or an open one before or after
all others. Windows do not overlap, but STAC's intervals include both ends: an item at the moment between two windows,
or whose own interval spans this moment, comes with both. It is stored in the window that holds its ``datetime``, or
else its ``start_datetime``.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from rasteret_assets.harvest_options import Interval, WindowSize

#: Keys of windows with an open end, and of the window of items without a time, which only static catalogs have.
BEFORE: Final = "before"
AFTER: Final = "after"
ALL: Final = "all"
UNDATED: Final = "undated"

_LENGTHS: Final[Mapping[WindowSize, int]] = {"year": 4, "month": 7, "day": 10}
_FINER: Final = {4: 7, 7: 10, 10: 13}


@dataclass(frozen=True, kw_only=True)
class Window:
    """Names a stretch of time.

    Args:
        key: names the window, and its file: ``2024``, ``2024-05``, ``2024-05-17``, ``2024-05-17T03``, ``before``,
            ``after``, ``all`` or ``undated``.
        start: first moment; None where the window is open.
        end: the moment right after the last one; None where the window is open.
    """

    key: str
    start: datetime | None
    end: datetime | None

    @property
    def asked(self) -> str | None:
        """The window as STAC's ``datetime``, both ends included; None for all time."""
        if self.start is None and self.end is None:
            return None
        return "/".join(".." if moment is None else utc_text(moment) for moment in (self.start, self.end))

    def is_of(self, key: str) -> bool:
        """Tell whether the key of a window or of a partition names this window, a part of it, or more than it."""
        return self.key.startswith(key) or key.startswith(self.key)

    def parts(self) -> list[Window]:
        """Return the windows of the next smaller size that make up this one; none if it cannot be split."""
        length = _FINER.get(len(self.key)) if self.key[0].isdigit() else None
        if length is None or self.start is None or self.end is None:
            return []
        return list(_windows(self.start, self.end, length))

    def leaves(self, keys: Iterable[str]) -> list[Window]:
        """Return the windows that this one was split into, as ``keys`` tell; itself if it was not split."""
        keys = [key for key in keys if key.startswith(self.key) and key != self.key]
        if not keys:
            return [self]
        return [leaf for part in self.parts() for leaf in part.leaves(keys)] or [self]


class Calendar:
    """Finds the window of a moment.

    Args:
        windows: in order of time, without gaps.
    """

    def __init__(self, windows: Sequence[Window]) -> None:
        self.windows = [window for window in windows if window.key != UNDATED]
        self._starts = [window.start for window in self.windows if window.start is not None]
        self._open = len(self.windows) - len(self._starts)

    def window_of(self, moment: datetime | None) -> Window | None:
        """Return the window that holds a moment, the first one for a moment before all, or None beyond the last."""
        if moment is None or not self.windows:
            return None
        end = self.windows[-1].end
        if end is not None and moment >= end:
            return None
        place = bisect_right(self._starts, moment) - 1 + self._open
        return self.windows[max(place, 0)]


def time_of(item: Mapping[str, Any]) -> datetime | None:
    """Return the moment by which an item is stored: ``datetime``, or else ``start_datetime`` or ``end_datetime``."""
    properties = item.get("properties")
    if isinstance(properties, dict):
        for name in ("datetime", "start_datetime", "end_datetime"):
            value = properties.get(name)
            if isinstance(value, str) and (moment := moment_of(value)) is not None:
                return moment
    return None


def updated_of(item: Mapping[str, Any]) -> datetime | None:
    """Return when an item says that it was changed last; None where it does not."""
    properties = item.get("properties")
    text = properties.get("updated") if isinstance(properties, dict) else None
    return moment_of(text) if isinstance(text, str) else None


def moment_of(text: str) -> datetime | None:
    """Return the instant that a text names, in UTC; None where the text is not one."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    try:
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except OverflowError:
        return None


def plan_windows(asked: Interval, extent: Interval, size: WindowSize, now: datetime) -> list[Window]:
    """Return windows that cover all the time that is asked for, in order of time.

    Args:
        asked: interval to harvest. An open end is that of the extent, with an open window beyond it.
        extent: of the catalog, as far as it tells.
        size: of the windows.
        now: the last moment of which a catalog with an open extent has items.
    """
    length = _LENGTHS[size]
    start = asked.start or (extent.start and _floor(extent.start, length))
    if start is None:
        return [Window(key=ALL, start=None, end=asked.end)]
    end = asked.end or _after(max(now, extent.end or now, start), length)
    windows = list(_windows(start, end, length))
    if asked.start is None:
        windows = [Window(key=BEFORE, start=None, end=start), *windows]
    return windows if asked.end is not None else [*windows, Window(key=AFTER, start=end, end=None)]


def window_at(moment: datetime, size: WindowSize) -> Window:
    """Return the whole window of a size that holds a moment."""
    length = _LENGTHS[size]
    start = _floor(moment, length)
    return Window(key=start.isoformat()[:length], start=start, end=_after(start, length))


def _windows(start: datetime, end: datetime, length: int) -> Iterator[Window]:
    at = start
    while at < end:
        after = min(_after(at, length), end)
        yield Window(key=at.isoformat()[:length], start=at, end=after)
        at = after


def _floor(moment: datetime, length: int) -> datetime:
    floor = moment.replace(minute=0, second=0, microsecond=0)
    if length <= 10:
        floor = floor.replace(hour=0)
    if length <= 7:
        floor = floor.replace(day=1)
    return floor.replace(month=1) if length <= 4 else floor


def _after(moment: datetime, length: int) -> datetime:
    """Return the first moment of the next window of a size."""
    floor = _floor(moment, length)
    days = {13: timedelta(hours=1), 10: timedelta(days=1), 7: timedelta(days=32), 4: timedelta(days=367)}[length]
    return _floor(floor + days, length)


def utc_text(moment: datetime) -> str:
    """Return an instant of UTC as RFC 3339 has it, with a ``Z``."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
