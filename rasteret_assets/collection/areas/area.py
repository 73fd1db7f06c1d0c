"""Read areas of interest in all forms that people have, as shapely geometries with their CRS."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import shapely
import shapely.geometry
from shapely.errors import ShapelyError
from shapely.geometry.base import BaseGeometry

from rasteret_assets.collection.areas.geometry_tables import as_arrow_table, geometry_name, read_geometries
from rasteret_assets.collection.areas.reproject import LONLAT, map_crs, reproject
from rasteret_assets.errors import SpecError, WindowError
from rasteret_assets.inputs import AreasLike, CRSLike
from rasteret_assets.sphere import cut_at_antimeridian

AUTO = "auto"

Value = TypeVar("Value")
Parsed = TypeVar("Parsed")


class Shape(NamedTuple):
    """A geometry as it was given, unchecked.

    Args:
        geometry: None if it is missing.
        crs: the CRS that the geometry states; None if it states none.
        is_box: whether it was given as four numbers.
    """

    geometry: BaseGeometry | None
    crs: str | None
    is_box: bool = False


_FORMS = (
    "a bbox (xmin, ymin, xmax, ymax), a shapely geometry, WKB, WKT, GeoJSON, a pyarrow array of WKB, "
    "a GeoDataFrame or GeoSeries, a table with a geometry column, or a list of these"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Area:
    """One area of interest.

    Args:
        geometry: valid and not empty, in the axis order x, y.
        crs: of its coordinates, as any text that pyproj understands.
        is_box: whether the user gave four numbers: such an area is read whole, without a mask. A polygon is masked,
            even if it is a rectangle.
    """

    geometry: BaseGeometry
    crs: str = LONLAT
    is_box: bool = False

    @classmethod
    def of_bounds(cls, bounds: tuple[float, float, float, float], crs: str) -> Area:
        """Return the box of (xmin, ymin, xmax, ymax)."""
        return cls(geometry=shapely.box(*bounds), crs=crs, is_box=True)

    def lonlat(self) -> BaseGeometry:
        """Return the geometry in lon/lat, within -180..180: cut at the antimeridian, closed over the poles.

        Raises:
            WindowError: if it lies outside the globe, mostly because its CRS is another, or no transformation leads
                from its CRS to lon/lat.
        """
        geometry = reproject(self.geometry, self.crs, LONLAT)
        west, south, east, north = geometry.bounds
        if west < -360 or east > 360 or south < -90 or north > 90:
            raise WindowError(
                f"the area with bounds {geometry.bounds} is not in lon/lat (degrees within +-180 and +-90): "
                "give geometry_crs='EPSG:...' if it is projected; a bbox with west > east crosses the antimeridian"
            )
        within: BaseGeometry = cut_at_antimeridian(np.array([geometry], dtype=object))[0]
        return within


def coerce_areas(geometries: AreasLike, geometry_crs: CRSLike = AUTO, geometry_column: str | None = None) -> list[Area]:
    """Return an area for every geometry in ``geometries``, in order.

    Args:
        geometries: a bbox ``(xmin, ymin, xmax, ymax)``, a shapely geometry, WKB or EWKB bytes, WKT or GeoJSON text, a
            GeoJSON mapping (Geometry, Feature, FeatureCollection), a pyarrow array of WKB or WKT, a GeoDataFrame or
            GeoSeries, a table with a geometry column (pyarrow, polars, DuckDB, any Arrow stream), or an iterable of
            any of these. A bbox with xmin > xmax crosses the antimeridian.
        geometry_crs: CRS of the coordinates; ``"auto"`` takes the CRS that the object states, else lon/lat.
        geometry_column: the column of a table; by default the column with a geometry type, or with a usual name.

    Raises:
        SpecError: if an object has another form, or ``geometry_crs`` is unknown.
        WindowError: if a geometry is missing, empty or invalid, a bbox is not a box, or ``geometries`` is empty.
    """
    given = None if isinstance(geometry_crs, str) and geometry_crs == AUTO else map_crs(geometry_crs)
    table = as_arrow_table(geometries)
    if table is None and geometry_column is not None:
        raise SpecError(f"geometry_column={geometry_column!r} needs a table, not {type(geometries).__name__}")
    shapes = list(_shapes(geometries) if table is None else _table(table, geometry_column))
    if not shapes:
        raise WindowError("geometries is empty: give at least one area")
    return [
        Area(
            geometry=_checked(shape.geometry, f"area {position} of {len(shapes)} (counted from 0)"),
            crs=given or shape.crs or LONLAT,
            is_box=shape.is_box,
        )
        for position, shape in enumerate(shapes)
    ]


def coerce_shapes(geometries: AreasLike) -> list[Shape]:
    """Return every geometry with the CRS it states, unchecked; a table is not accepted, any other form is.

    Raises:
        SpecError: if an object has a form that :func:`coerce_areas` does not know.
        WindowError: if a bbox is not four finite numbers with ymin <= ymax.
    """
    return list(_shapes(geometries))


def bbox_geometry(bbox: Sequence[float]) -> BaseGeometry:
    """Return the geometry of a bbox: a box, two boxes if xmin > xmax, a line or a point if the bbox has no extent.

    Raises:
        WindowError: if it is not four finite numbers with ymin <= ymax, or xmin > xmax outside of -180..180.
    """
    try:
        xmin, ymin, xmax, ymax = (float(value) for value in bbox)
    except (TypeError, ValueError) as error:
        raise WindowError(f"bbox={bbox!r} is not four numbers (xmin, ymin, xmax, ymax)") from error
    if not np.isfinite([xmin, ymin, xmax, ymax]).all() or ymin > ymax:
        raise WindowError(f"bbox={tuple(bbox)} is not a box: give finite (xmin, ymin, xmax, ymax) with ymin <= ymax")
    if xmin > xmax:
        if not -180 <= xmax < xmin <= 180:
            raise WindowError(
                f"bbox={tuple(bbox)} has xmin > xmax, as only a box in lon/lat across the antimeridian has"
            )
        sides = [(xmin, 180.0), (-180.0, xmax)]
        return shapely.union_all([bbox_geometry((west, ymin, east, ymax)) for west, east in sides if west < east])
    if xmin == xmax or ymin == ymax:
        corners = shapely.LineString([(xmin, ymin), (xmax, ymax)])
        return shapely.Point(xmin, ymin) if (xmin, ymin) == (xmax, ymax) else corners
    return shapely.box(xmin, ymin, xmax, ymax)


def _shapes(value: object) -> Iterable[Shape]:
    """Return the geometries of a value in any form, with the CRS each states."""
    match value:
        case None | BaseGeometry():
            return [Shape(value, _srid(value))]
        case bytes() | bytearray() | memoryview():
            shape = _read(shapely.from_wkb, bytes(value))
            return [Shape(shape, _srid(shape))]
        case str():
            is_json = value.lstrip().startswith("{")
            return _geojson(_read(json.loads, value)) if is_json else [Shape(_read(shapely.from_wkt, value), None)]
        case pa.Array() | pa.ChunkedArray():
            return _arrow(value)
        case Mapping():
            return _geojson(value)
        case _:
            return _foreign(value)


def _foreign(value: object) -> Iterable[Shape]:
    """Return the geometries of objects of other libraries, known by their attributes, and of iterables."""
    if hasattr(value, "to_wkb") and hasattr(value, "geometry") and hasattr(value, "crs"):
        stated = None if value.crs is None else map_crs(value.crs)
        return [Shape(shape, stated) for shape in shapely.from_wkb(list(value.geometry.to_wkb()))]
    if hasattr(value, "__geo_interface__"):
        return _geojson(value.__geo_interface__)
    if not isinstance(value, Iterable):
        raise SpecError(f"{type(value).__name__} is not an area of interest: give {_FORMS}")
    items = list(value)
    if len(items) == 4 and all(isinstance(item, int | float | np.number) for item in items):
        return [Shape(bbox_geometry(items), None, is_box=True)]
    return [shape for item in items for shape in _shapes(item)]


def _table(table: pa.Table, column: str | None) -> list[Shape]:
    name = geometry_name(table, column)
    if name is None:
        raise SpecError(
            f"none of the columns {', '.join(table.column_names)} is known to hold geometries: name one with "
            "geometry_column="
        )
    geometries, crs = read_geometries(table, name)
    return [Shape(shape, crs or _srid(shape)) for shape in geometries]


def _geojson(value: object) -> Iterable[Shape]:
    kind = value.get("type") if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping) or not kind:
        raise SpecError(f"a mapping without a GeoJSON 'type' is not an area of interest: give {_FORMS}")
    if kind == "FeatureCollection":
        for feature in value.get("features") or []:
            yield from _geojson(feature)
    elif kind == "Feature":
        geometry = value.get("geometry")
        yield from _geojson(geometry) if geometry else [Shape(None, None)]
    else:
        yield Shape(_read(shapely.geometry.shape, dict(value)), None)


def _arrow(array: pa.Array | pa.ChunkedArray) -> Iterable[Shape]:
    stated = None
    if isinstance(array.type, pa.BaseExtensionType):
        stated = _extension_crs(array.type)
        array = pa.chunked_array([chunk.storage for chunk in getattr(array, "chunks", [array])])
    readable = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_string)
    if not any(check(array.type) for check in (*readable, pa.types.is_large_string, pa.types.is_string_view)):
        raise SpecError(f"an Arrow array of {array.type} is not an area of interest: encode its geometries as WKB")
    for value in array.to_pylist():
        for shape in _shapes(value):
            yield shape._replace(crs=shape.crs or stated)


def _extension_crs(kind: pa.BaseExtensionType) -> str | None:
    """Return the CRS that a GeoArrow type states in its serialized metadata."""
    try:
        crs = json.loads(kind.__arrow_ext_serialize__() or b"{}").get("crs")
    except (ValueError, AttributeError):
        return None
    return None if crs is None else map_crs(crs)


def _srid(shape: BaseGeometry | None) -> str | None:
    srid = 0 if shape is None else int(shapely.get_srid(shape))
    return f"EPSG:{srid}" if srid else None


def _read(parse: Callable[[Value], Parsed], value: Value) -> Parsed:
    try:
        return parse(value)
    except (ShapelyError, NotImplementedError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise SpecError(f"{str(value)[:60]!r} is not an area of interest ({error}): give {_FORMS}") from error


def _checked(shape: BaseGeometry | None, where: str) -> BaseGeometry:
    if shape is None or shape.is_empty:
        raise WindowError(f"{where} is {'missing' if shape is None else 'empty'}: leave it out")
    if not np.isfinite(shapely.get_coordinates(shape)).all():
        raise WindowError(f"{where} has coordinates that are not finite: leave it out, or correct them")
    if not shape.is_valid:
        raise WindowError(f"{where} is invalid ({shapely.is_valid_reason(shape)}): repair it with shapely.make_valid")
    return shape
