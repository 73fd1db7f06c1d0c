"""Read points in all forms that people have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

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
from rasteret_assets.collection.areas.reproject import LONLAT, map_crs, transform_points
from rasteret_assets.errors import SpecError, WindowError
from rasteret_assets.inputs import CRSLike, PointsLike

_Floats = npt.NDArray[np.float64]

#: Usual names of coordinate columns, in lower case.
_AXES: Final = (("x", "y"), ("lon", "lat"), ("lng", "lat"), ("long", "lat"), ("longitude", "latitude"))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Points:
    """Points of interest.

    Args:
        x: as given, in ``crs``; float64 ``[N]``.
        y: as given, in ``crs``; float64 ``[N]``.
        crs: as ``map_crs`` writes it.
        columns: the other columns of the table of points; None if the points did not come as a table.
    """

    x: _Floats
    y: _Floats
    crs: str
    columns: pa.Table | None

    def lonlat(self) -> npt.NDArray[np.object_]:
        """Return shapely points ``[N]`` in lon/lat, within -180..180.

        Raises:
            WindowError: if a point is not on the globe, mostly because its CRS is another.
        """
        lon, lat = transform_points(self.x, self.y, self.crs, LONLAT)
        with np.errstate(invalid="ignore"):
            outside = ~((np.abs(lon) <= 360) & (np.abs(lat) <= 90))
        if outside.any():
            row = int(np.argmax(outside))
            raise WindowError(
                f"point {row} ({self.x[row]:g}, {self.y[row]:g}) in {self.crs[:40]} is not on the globe: "
                "give geometry_crs='EPSG:...' if the points are projected"
            )
        lon = np.where(np.abs(lon) > 180, lon - np.copysign(360, lon), lon)
        return np.asarray(shapely.points(lon, lat), dtype=object)


def coerce_points(
    points: PointsLike,
    *,
    geometry_column: str | None,
    x_column: str | None,
    y_column: str | None,
    geometry_crs: CRSLike,
) -> Points:
    """Return x, y and CRS of points that were given in any form.

    Args:
        points: a table (pyarrow, geopandas, pandas, polars, DuckDB, any Arrow stream) with a column of point
            geometries or two of coordinates, or points in a form of :func:`~.area.coerce_areas`.
        geometry_column: column of point geometries; by default the column with a geometry type, or with a usual name.
        x_column: column of x or longitude; by default ``x``, ``lon``, ``longitude`` ...
        y_column: column of y or latitude.
        geometry_crs: CRS of the coordinates; ``"auto"`` takes the CRS that the points state, else lon/lat.

    Raises:
        SpecError: if ``points`` does not hold points, or a column does not exist.
        WindowError: if a point is missing or empty or has no finite coordinate, or ``points`` is empty.
    """
    given = None if isinstance(geometry_crs, str) and geometry_crs == AUTO else map_crs(geometry_crs)
    table = as_arrow_table(points)
    if table is None:
        if (geometry_column, x_column, y_column) != (None, None, None):
            raise SpecError(f"geometry_column, x_column and y_column need a table, not {type(points).__name__}")
        shapes = coerce_shapes(points)
        geometries = np.array([shape.geometry for shape in shapes], dtype=object)
        stated = {shape.crs for shape in shapes}
        if len(stated) > 1 and given is None:
            raise SpecError(
                f"the points state several CRSs ({', '.join(map(str, stated))}): bring them to one, or give "
                "geometry_crs="
            )
        return _of_geometries(geometries, given or (stated or {None}).pop(), None)
    axes = _axes(table, x_column, y_column)
    column = None if axes and x_column is not None else geometry_name(table, geometry_column)
    if column is not None:
        geometries, crs = read_geometries(table, column)
        return _of_geometries(geometries, given or crs, other_columns(table, [column]))
    if axes is None:
        remedy = "give geometry_column=, or x_column= and y_column="
        raise SpecError(f"no column of the table ({', '.join(table.column_names)}) is known to hold points: {remedy}")
    x, y = (_numbers(table, name) for name in axes)
    return Points(x=x, y=y, crs=given or LONLAT, columns=other_columns(table, axes))


def _of_geometries(geometries: npt.NDArray[np.object_], crs: str | None, columns: pa.Table | None) -> Points:
    if not len(geometries):
        raise WindowError("points is empty: give at least one point")
    wrong = shapely.is_missing(geometries) | shapely.is_empty(geometries)
    if wrong.any():
        raise WindowError(f"point {int(np.argmax(wrong))} is missing or empty: drop it")
    kinds = shapely.get_type_id(geometries) != shapely.GeometryType.POINT
    if kinds.any():
        row = int(np.argmax(kinds))
        raise SpecError(
            f"geometry {row} is a {geometries[row].geom_type}, not a Point: take its centroid, or read its pixels "
            "with get_numpy"
        )
    if crs is None and (srid := int(shapely.get_srid(geometries[0]))):
        crs = f"EPSG:{srid}"
    name = LONLAT if crs is None else map_crs(crs)
    return Points(x=shapely.get_x(geometries), y=shapely.get_y(geometries), crs=name, columns=columns)


def _axes(table: pa.Table, x: str | None, y: str | None) -> tuple[str, str] | None:
    if (x is None) != (y is None):
        raise SpecError("x_column and y_column belong together: give both")
    if x is not None and y is not None:
        for option, name in (("x_column", x), ("y_column", y)):
            if name not in table.column_names:
                raise SpecError(
                    f"{option}={name!r} is not a column of the table, which has {', '.join(table.column_names)}"
                )
        return x, y
    lower = {name.lower(): name for name in reversed(table.column_names)}
    return next(((lower[one], lower[other]) for one, other in _AXES if one in lower and other in lower), None)


def _numbers(table: pa.Table, name: str) -> _Floats:
    column = table.column(name)
    try:
        values = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowException as error:
        raise SpecError(
            f"column {name!r} ({column.type}) does not hold coordinates: name a column of numbers"
        ) from error
    if not len(values):
        raise WindowError("the table of points is empty: give at least one point")
    if not np.isfinite(values).all():
        row = int(np.argmax(~np.isfinite(values)))
        raise WindowError(f"point {row} has no finite {name}: drop it")
    return np.asarray(values, dtype=np.float64)
