"""Return the values of rasters at points as one Arrow table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rasteret_assets import schema
from rasteret_assets.collection.areas.point_input import Points, coerce_points
from rasteret_assets.collection.formats._sampling import PointChoice, Sampled, any_inside, sample_values
from rasteret_assets.collection.pixels.backends import Source
from rasteret_assets.collection.pixels.own_crs import WORLD, has_lonlat, keep_reached
from rasteret_assets.collection.pixels.read_options import ReadOptions, read_options
from rasteret_assets.collection.pixels.record_table import RecordTable, checked_bands
from rasteret_assets.collection.pixels.select import near_batches, select_records
from rasteret_assets.errors import SpecError, WindowError
from rasteret_assets.inputs import Neighbourhood, PointMatch, PointsLike

_Floats = npt.NDArray[np.float64]
_Indices = npt.NDArray[np.intp]
_Mask = npt.NDArray[np.bool_]


def read_points(
    table: RecordTable, points: PointsLike, bands: str | Sequence[str], arguments: Mapping[str, Any],
    *, match: PointMatch, max_distance_pixels: int, return_neighbourhood: Neighbourhood, x_column: str | None,
    y_column: str | None,
) -> pa.Table:  # fmt: skip
    """Read the values of points; see :meth:`Collection.sample_points`."""
    choice = PointChoice(match=match, distance=max_distance_pixels, neighbourhood=return_neighbourhood)
    options = read_options(arguments)
    given = coerce_points(
        points, geometry_column=arguments["geometry_column"], x_column=x_column, y_column=y_column,
        geometry_crs=arguments["geometry_crs"],
    )  # fmt: skip
    source, names = Source.of(table, arguments), checked_bands(table, bands)
    placed = has_lonlat(given.crs)
    shapes = list(given.lonlat()) if placed else [WORLD]
    records = select_records(
        near_batches(table, names, shapes, scaled=options.scaled), names, shapes, missing=options.missing, what="points"
    )  # fmt: skip
    if not placed:
        reason = WindowError(
            f"no raster holds a point; points in {given.crs[:40]}, which cannot be brought to lon/lat, "
            "are compared with rasters of the same body only"
        )
        records = keep_reached(
            records, lambda _: given.crs, {0: reason}, lambda _, crs, grid: any_inside(given, crs, grid)
        )
        records = [replace(record, areas=range(len(given.x))) for record in records]
    sampled = sample_values(records, given, names, source.open(), options, choice)
    return _table(sampled, given, names, options, choice)


def _table(
    sampled: Sequence[Sampled], points: Points, bands: Sequence[str], options: ReadOptions, choice: PointChoice
) -> pa.Table:  # fmt: skip
    index = np.concatenate([one.located.points[one.chosen] for one in sampled])
    which = np.repeat(np.arange(len(sampled)), [len(one.chosen) for one in sampled])
    found = [one.located for one in sampled]
    kind = options.read_type(one.header.sample_type for one in found)
    values = np.concatenate([_in_unit(one.values, one, kind, options) for one in sampled])
    order = np.lexsort((
        np.array([one.band for one in found])[which], np.array([one.rank for one in found])[which], index
    ))  # fmt: skip
    index, numbers = index[order], which[order]
    hides = options.masked or options.scaled
    absent = ~np.concatenate([one.valid for one in sampled])[order] if hides else None

    def repeated(given: list[Any], kind: pa.DataType) -> pa.Array:
        return pa.array(given, kind).take(pa.array(numbers))

    columns = {
        "point_index": pa.array(index, pa.int64()),
        "point_x": pa.array(points.x[index]),
        "point_y": pa.array(points.y[index]),
        "point_crs": pa.repeat(points.crs, len(index)),
        "record_id": repeated([one.record.id for one in found], pa.string()),
        "datetime": repeated([one.record.moment for one in found], schema.TIMESTAMP),
        "collection": repeated([one.record.collection for one in found], pa.string()),
        "band": repeated([bands[one.band] for one in found], pa.string()),
        "value": pa.array(values[order], mask=absent),
        "raster_crs": repeated([one.record.crs for one in found], pa.string()),
    }
    if choice.neighbourhood != "off":
        columns["neighbourhood_values"] = _neighbourhoods(sampled, order, kind, options, choice)
    if points.columns is not None:
        taken = [name for name in points.columns.column_names if name in columns]
        if taken:
            raise SpecError(
                f"the table of points has columns that the result has too ({', '.join(taken)}): rename them"
            )
        kept = points.columns.take(pa.array(index))
        columns |= {name: kept.column(name) for name in kept.column_names}
    return pa.table(columns)


def _in_unit(values: npt.NDArray[Any], one: Sampled, kind: np.dtype[Any], options: ReadOptions) -> npt.NDArray[Any]:
    values = values.astype(kind)
    if options.scaled:
        one.located.header.to_unit(values)
    return values


def _neighbourhoods(
    sampled: Sequence[Sampled], order: _Indices, kind: np.dtype[Any], options: ReadOptions, choice: PointChoice
) -> pa.Array:  # fmt: skip
    """Return the surrounding pixels of each point, row by row; null for pixels without data and lists not asked for."""
    size = (2 * choice.distance + 1) ** 2
    values, valid, searched = [], [], []
    for one in sampled:
        if one.around is not None and one.around_valid is not None and one.searched is not None:
            values.append(_in_unit(one.around, one, kind, options))
            valid.append(one.around_valid)
            searched.append(one.searched)
    flat = pa.array(np.concatenate(values)[order].ravel(), mask=~np.concatenate(valid)[order].ravel())
    ends = pa.array(np.arange(0, size * (len(order) + 1), size), pa.int32())
    return pa.ListArray.from_arrays(ends, flat, mask=pa.array(~np.concatenate(searched)[order]))
