"""Points in all the forms people hold them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import shapely

from rasteret_assets.collection.areas.area import AUTO, coerce_shapes
from rasteret_assets.collection.areas.geometry_tables import (
    as_arrow_table,
    geometry_name,
    other_columns,
    read_geometries,
)
from rasteret_assets.collection.areas.reproject import LONLAT, crs_name, transform_points
from rasteret_assets.errors import SpecError, WindowError

_Floats = npt.NDArray[np.float64]

#: Names that coordinate columns go by, in lower case.
_AXES: Final = (("x", "y"), ("lon", "lat"), ("lng", "lat"), ("long", "lat"), ("longitude", "latitude"))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Points:
    """Points of interest.

    Args:
        x: as given, in ``crs``.
        y: likewise.
        crs: as ``crs_name`` writes it.
        columns: the other columns of the table they came from; None where it was none.
    """

    x: _Floats
    y: _Floats
    crs: str
    columns: pa.Table | None

    def lonlat(self) -> npt.NDArray[np.object_]:
        """Return shapely points in lon/lat, within -180..180.

        Raises:
            WindowError: if one is not on the globe, which mostly means that its CRS is another.
        """
        lon, lat = transform_points(self.x, self.y, self.crs, LONLAT)
        with np.errstate(invalid="ignore"):
            outside = ~((np.abs(lon) <= 360) & (np.abs(lat) <= 90))
        if outside.any():
            row = int(np.argmax(outside))
            raise WindowError(
                f"point {row} ({self.x[row]:g}, {self.y[row]:g}) in {self.crs[:40]} is not on the globe: "
                "say geometry_crs='EPSG:...' if points are projected"
            )
        lon = np.where(np.abs(lon) > 180, lon - np.copysign(360, lon), lon)
        return np.asarray(shapely.points(lon, lat), dtype=object)


def coerce_points(
    points: Any, *, geometry_column: str | None, x_column: str | None, y_column: str | None, geometry_crs: Any
) -> Points:
    """Points in any form.

    Args:
        points: a table (pyarrow, geopandas, pandas, polars, DuckDB, any Arrow stream) with a column of point
            geometries or two of coordinates, or whatever :func:`~.area.coerce_areas` takes, of points.
        geometry_column: column of point geometries; by default the one that says so, or is called so.
        x_column: column of x or longitude; by default ``x``, ``lon``, ``longitude`` ...
        y_column: column of y or latitude.
        geometry_crs: CRS of the coordinates; ``"auto"`` takes what they state, else lon/lat.

    Raises:
        SpecError: if there are no points in it.
        WindowError: if a point is missing or empty, or there is none.
    """
    given = None if isinstance(geometry_crs, str) and geometry_crs == AUTO else crs_name(geometry_crs)
    table = as_arrow_table(points)
    if table is None:
        if (geometry_column, x_column, y_column) != (None, None, None):
            raise SpecError(f"geometry_column, x_column and y_column need a table, not {type(points).__name__}")
        shapes = coerce_shapes(points)
        geometries = np.array([shape.geometry for shape in shapes], dtype=object)
        stated = {shape.crs for shape in shapes}
        if len(stated) > 1 and given is None:
            raise SpecError(f"points state several CRSs ({stated}): bring them to one, or say geometry_crs")
        return _of_geometries(geometries, given or (stated or {None}).pop(), None)
    axes = _axes(table, x_column, y_column)
    column = None if axes and x_column is not None else geometry_name(table, geometry_column)
    if column is not None:
        geometries, crs = read_geometries(table, column)
        return _of_geometries(geometries, given or crs, other_columns(table, [column]))
    if axes is None:
        remedy = "say geometry_column=, or x_column= and y_column="
        raise SpecError(f"none of the columns {table.column_names} is known to hold points: {remedy}")
    x, y = (_numbers(table, name) for name in axes)
    return Points(x=x, y=y, crs=given or LONLAT, columns=other_columns(table, axes))


def _of_geometries(geometries: npt.NDArray[np.object_], crs: str | None, columns: pa.Table | None) -> Points:
    if not len(geometries):
        raise WindowError("there are no points: the input is empty")
    wrong = shapely.is_missing(geometries) | shapely.is_empty(geometries)
    if wrong.any():
        raise WindowError(f"point {int(np.argmax(wrong))} is missing or empty: drop it")
    kinds = shapely.get_type_id(geometries) != shapely.GeometryType.POINT
    if kinds.any():
        row = int(np.argmax(kinds))
        raise SpecError(f"geometry {row} is a {geometries[row].geom_type}, no point: take its centroid, or get_numpy")
    if crs is None and (srid := int(shapely.get_srid(geometries[0]))):
        crs = f"EPSG:{srid}"
    name = LONLAT if crs is None else crs_name(crs)
    return Points(x=shapely.get_x(geometries), y=shapely.get_y(geometries), crs=name, columns=columns)


def _axes(table: pa.Table, x: str | None, y: str | None) -> tuple[str, str] | None:
    if (x is None) != (y is None):
        raise SpecError("x_column and y_column belong together: give both")
    if x is not None and y is not None:
        for option, name in (("x_column", x), ("y_column", y)):
            if name not in table.column_names:
                raise SpecError(f"{option}={name!r} is no column of the table, which has {table.column_names}")
        return x, y
    lower = {name.lower(): name for name in reversed(table.column_names)}
    return next(((lower[one], lower[other]) for one, other in _AXES if one in lower and other in lower), None)


def _numbers(table: pa.Table, name: str) -> _Floats:
    column = table.column(name)
    try:
        values = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowException as error:
        raise SpecError(f"column {name!r} ({column.type}) holds no coordinates") from error
    if not len(values):
        raise WindowError("there are no points: the table is empty")
    if not np.isfinite(values).all():
        row = int(np.argmax(~np.isfinite(values)))
        raise WindowError(f"point {row} has no finite {name}: drop it")
    return np.asarray(values, dtype=np.float64)
