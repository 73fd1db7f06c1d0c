"""Translate filters to pyarrow expressions over the record table; no row is read here.

Expressions prune partitions, row groups and rows. Whether an area meets a footprint exactly cannot be expressed, and is
tested afterwards, by :mod:`rasteret_assets.collection.areas.footprints`.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import shapely
from shapely.geometry.base import BaseGeometry

from rasteret_assets import schema
from rasteret_assets.collection.table.dates import Interval
from rasteret_assets.errors import CollectionError, SpecError

Bounds = tuple[float, float, float, float]
_Compare = Callable[[Any, Any], pc.Expression]

END_DATETIME = "end_datetime"
_SPLIT = "split"

#: Boxes in one expression at most. Instead of more boxes their common bounds are used, because a longer expression
#: takes more time than it saves.
_MAX_BOXES = 64


def all_of(expressions: Iterable[pc.Expression | None]) -> pc.Expression | None:
    """Return the conjunction of the expressions that are not None; None if there is no such expression."""
    present = [expression for expression in expressions if expression is not None]
    return functools.reduce(operator.and_, present) if present else None


def cloud_cover_below(table: pa.Schema, limit: float) -> pc.Expression:
    """Express that ``eo:cloud_cover`` is below ``limit`` (percent); a record without a value does not match.

    Raises:
        CollectionError: if the collection has no such column.
        SpecError: if ``limit`` is not a number.
    """
    if schema.CLOUD_COVER not in table.names:
        raise CollectionError(
            f"cloud_cover_lt needs the column {schema.CLOUD_COVER!r}, which this collection does not have; "
            "map one to it with column_map when building, or filter with where()"
        )
    if isinstance(limit, bool) or not isinstance(limit, (int, float)):
        raise SpecError(f"cloud_cover_lt={limit!r} must be a number of percent, such as 20")
    kind = table.field(schema.CLOUD_COVER).type
    numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_null)
    if not any(is_kind(kind) for is_kind in numbers):
        raise CollectionError(
            f"cloud_cover_lt needs numbers in {schema.CLOUD_COVER!r}, which holds {kind}: make them numbers in the "
            "record table"
        )
    return pc.field(schema.CLOUD_COVER) < limit


def in_split(table: pa.Schema, splits: Sequence[str]) -> pc.Expression:
    """Express that a record belongs to one of ``splits``, by the column ``split`` of tables for machine learning.

    Raises:
        CollectionError: if the collection has no column ``split``.
    """
    if _SPLIT not in table.names:
        raise CollectionError(
            f"split needs the column {_SPLIT!r}, which this collection does not have; add one with column_map when "
            "building, or filter with where()"
        )
    return pc.field(_SPLIT).isin(list(splits))


def acquired_within(
    table: pa.Schema, interval: Interval, *, partition_keys: Sequence[str] = ()
) -> pc.Expression | None:
    """Express that a record was acquired within ``interval``; for undated ones, that start and end overlap it.

    Args:
        table: schema of the records.
        interval: half-open interval of instants.
        partition_keys: hive keys of the dataset's paths that follow from the datetime, as :func:`partition_keys`
            returns them; whole partitions are skipped by them.

    Returns:
        The expression, or None for an interval that is open at both ends.
    """
    if interval.start is None and interval.stop is None:
        return None
    moment = pc.field(schema.DATETIME)
    dated = all_of(
        [
            _since(moment, table.field(schema.DATETIME), interval.start),
            _before(moment, table.field(schema.DATETIME), interval.stop),
            _filed_within(interval, partition_keys),
        ]
    )
    ends = [table.field(name).type for name in (schema.START_DATETIME, END_DATETIME) if name in table.names]
    if len(ends) < 2 or not all(pa.types.is_timestamp(end) for end in ends):
        return dated
    # A record with an interval lies in the partition of its start, which may be any time before the end asked for.
    filed = _filed_within(Interval(start=None, stop=interval.stop), partition_keys)
    begin, end = pc.field(schema.START_DATETIME), pc.field(END_DATETIME)
    undated = all_of(
        [
            moment.is_null(),
            _since(pc.coalesce(end, begin), table.field(END_DATETIME), interval.start),
            _before(pc.coalesce(begin, end), table.field(schema.START_DATETIME), interval.stop),
            None if filed is None else pc.field(schema.YEAR).is_null() | filed,
        ]
    )
    return functools.reduce(operator.or_, [dated, undated])


def _since(column: pc.Expression, field: pa.Field, start: datetime | None) -> pc.Expression | None:
    return None if start is None else column >= _literal(field, start)


def _before(column: pc.Expression, field: pa.Field, stop: datetime | None) -> pc.Expression | None:
    return None if stop is None else column < _literal(field, stop)


def _literal(field: pa.Field, moment: datetime) -> pa.Scalar:
    """Return an instant in the zone of the column, because Arrow does not compare zoned with naive timestamps."""
    zone = getattr(field.type, "tz", None)
    return pa.scalar(moment if zone else moment.replace(tzinfo=None), pa.timestamp("us", tz=zone))


def _filed_within(interval: Interval, keys: Sequence[str]) -> pc.Expression | None:
    """Express that a partition may hold records of the interval; None without keys, or for an open interval."""
    parts: list[pc.Expression | None] = []
    if interval.start is not None:
        parts.append(_compared(keys, interval.start, operator.gt, operator.ge))
    if interval.stop is not None:
        last = interval.stop - timedelta(microseconds=1)
        parts.append(_compared(keys, last, operator.lt, operator.le))
    return all_of(parts)


def _compared(keys: Sequence[str], moment: datetime, beyond: _Compare, at_last: _Compare) -> pc.Expression | None:
    """Express how a date, given as hive keys, compares with a moment: key by key, from the year on.

    Args:
        keys: of the date, from the year on.
        moment: to compare with.
        beyond: comparison of all keys but the last, where all keys before are equal.
        at_last: comparison of the last key.
    """
    found: pc.Expression | None = None
    for name in reversed(keys):
        field, value = pc.field(name), getattr(moment, name)
        found = at_last(field, value) if found is None else beyond(field, value) | ((field == value) & found)
    return found


def boxes_of(areas: Sequence[BaseGeometry]) -> npt.NDArray[np.float64]:
    """Return boxes ``[K, 4]`` (xmin, ymin, xmax, ymax): one for each part of ``areas``; above 64 parts one for all."""
    boxes: npt.NDArray[np.float64] = shapely.bounds(shapely.get_parts(np.asarray(areas, dtype=object)))
    return shapely.total_bounds(np.asarray(areas, dtype=object))[None] if len(boxes) > _MAX_BOXES else boxes


def bbox_meets(areas: Sequence[BaseGeometry]) -> pc.Expression:
    """Express that the stored bbox overlaps the bounds of any of ``areas`` (lon/lat, within +-180 degrees)."""
    return functools.reduce(operator.or_, [_overlaps((x0, y0, x1, y1)) for x0, y0, x1, y1 in boxes_of(areas).tolist()])


def _overlaps(box: Bounds) -> pc.Expression:
    """Express that the stored bbox overlaps a box that does not cross the antimeridian itself.

    A stored bbox across the antimeridian has xmin > xmax. Arrow cannot prune by that, because statistics do not compare
    two columns. ``xmin > 0 > xmax`` means the same for every footprint narrower than half the globe, and prunes.
    """
    xmin, ymin, xmax, ymax = (pc.field(schema.BBOX, name) for name in schema.BBOX_AXES)
    west, south, east, north = box
    plain = (xmin <= east) & (xmax >= west)
    crossing = (xmin > 0) & (xmax < 0) & ((xmin <= east) | (xmax >= west))
    return (ymin <= north) & (ymax >= south) & (plain | crossing)


def partition_keys(dataset: ds.Dataset) -> tuple[str, ...]:
    """Return the hive keys in the paths of all files that follow from the datetime: year, month, day, or the first two.

    A ``year`` alone counts in published collections only, because other tables have such folders for the year of a
    harvest or of a label.
    """
    fragments = [set(ds.get_partition_keys(fragment.partition_expression)) for fragment in dataset.get_fragments()]
    common = set.intersection(*fragments) if fragments else set()
    keys = tuple(takewhile(common.__contains__, schema.PARTITION_SCHEMA.names))
    is_published = schema.COLLECTION_VERSION_KEY in (dataset.schema.metadata or {})
    return keys if len(keys) > 1 or is_published else ()
