"""Read geometry columns of any form as geometries in lon/lat, and order boxes along a curve.

Longitude is x and latitude y everywhere (OGC:CRS84). Every function works on whole columns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyproj
import shapely

from rasteret_assets.errors import RecordError
from rasteret_assets.schema import GEO_KEY
from rasteret_assets.sphere import FOOTPRINT_SHARE, to_sphere

CRS84: Final = "OGC:CRS84"
Geometries = npt.NDArray[np.object_]

#: GeoArrow's native layouts by extension name, and GeoParquet 1.1's by encoding name, with their list nesting.
_NATIVE: Final = {
    "point": (shapely.GeometryType.POINT, 0),
    "linestring": (shapely.GeometryType.LINESTRING, 1),
    "polygon": (shapely.GeometryType.POLYGON, 2),
    "multipoint": (shapely.GeometryType.MULTIPOINT, 1),
    "multilinestring": (shapely.GeometryType.MULTILINESTRING, 2),
    "multipolygon": (shapely.GeometryType.MULTIPOLYGON, 3),
}

#: The CRS in front of a WKT, as PostGIS writes it.
_EWKT: Final = re.compile(r"\s*SRID=([0-9]{1,9});", re.IGNORECASE)
#: Geometry types by their code in WKB, as GeoParquet names them.
_WKB_NAMES: Final = {
    1: "Point", 2: "LineString", 3: "Polygon", 4: "MultiPoint", 5: "MultiLineString", 6: "MultiPolygon",
    7: "GeometryCollection",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class GeometryColumn:
    """CRS and layout of a geometry column.

    Args:
        crs: CRS in any form that pyproj takes, or None for lon/lat.
        unknown_crs: whether the file states that the CRS is unknown (``"crs": null`` in GeoParquet).
        native: GeoArrow layout name (``polygon`` ...) of a nested column; None for WKB, WKT, GeoJSON.
    """

    crs: Any = None
    unknown_crs: bool = False
    native: str | None = None


def describe_geometry(field: pa.Field, footer: dict[bytes, bytes] | None = None) -> GeometryColumn:
    """Return CRS and layout of a geometry column, from a field's extension metadata and a GeoParquet footer.

    The extension metadata takes precedence, because a table that was reprojected in memory keeps the old footer.
    """
    name, metadata = _extension(field)
    native = name.removeprefix("geoarrow.") if name.startswith("geoarrow.") else None
    column = _footer_column(footer, field.name)
    if native is None and column.get("encoding") in _NATIVE:
        native = column["encoding"]
    native = native if native in _NATIVE else None
    if metadata.get("crs") is not None:
        return GeometryColumn(crs=metadata["crs"], native=native)
    if "crs" in column:
        return GeometryColumn(crs=column["crs"], unknown_crs=column["crs"] is None, native=native)
    return GeometryColumn(native=native)


def primary_geometry(footer: dict[bytes, bytes] | None) -> str | None:
    """Return the column that a GeoParquet footer calls primary; None without such a footer."""
    primary = _footer(footer).get("primary_column")
    return primary if isinstance(primary, str) else None


def decode_geometries(column: pa.Array, described: GeometryColumn) -> tuple[Geometries, npt.NDArray[np.bool_]]:
    """Return the geometries of a column in its own CRS, and a mask of unreadable rows.

    Args:
        column: WKB or EWKB (binary, large or view), hexadecimal WKB, WKT, EWKT or GeoJSON text (also as bytes),
            GeoJSON-shaped structs, or a native GeoArrow layout, separated or interleaved.
        described: from :func:`describe_geometry`.

    Returns:
        Geometries ``[N]`` (None where the row is null or unreadable) and a mask ``[N]`` of the unreadable rows.

    Raises:
        RecordError: if the column is of a type that cannot hold geometries.
    """
    storage = column.storage if isinstance(column.type, pa.ExtensionType) else column
    if pa.types.is_dictionary(storage.type):
        storage = storage.dictionary_decode()
    kind = storage.type
    null = np.asarray(pc.is_null(storage))
    if pa.types.is_null(kind):
        return np.full(len(storage), None, dtype=object), np.zeros(len(storage), bool)
    if described.native is not None and (pa.types.is_nested(kind)):
        decoded = _from_native(storage, described.native)
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or kind == pa.binary_view():
        with np.errstate(invalid="ignore"):  # NaN coordinates are found and named later
            decoded = _each_readable(shapely.from_wkb, _objects(storage))
        if (unread := np.asarray(shapely.is_missing(decoded)) & ~null).any():
            decoded[unread] = _from_text(_as_texts(_objects(storage)[unread]))
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.string_view():
        decoded = _from_text(_objects(storage))
    elif pa.types.is_struct(kind) and {"type", "coordinates"} <= {child.name for child in kind}:
        # As texts, because GeoJSON as a struct has no vectorised reader.
        decoded = _from_text(
            np.array([None if row is None else json.dumps(row) for row in storage.to_pylist()], object)
        )
    else:
        raise RecordError(
            f"geometry column of type {kind} cannot hold geometries: write WKB, WKT, GeoJSON or a GeoArrow layout"
        )
    return decoded, np.asarray(shapely.is_missing(decoded)) & ~null


def to_lonlat(geometries: Geometries, described: GeometryColumn) -> Geometries:
    """Transform geometries to lon/lat from the column's CRS or, if it has none, from the SRID of each EWKB.

    Points are added to edges of projected geometries where these bend. Projected geometries across 180 are cut there,
    and those around a pole are closed over it; lon/lat stays as it is.

    Raises:
        RecordError: if the CRS is declared unknown, pyproj does not understand it, or it is neither geographic nor
            projected.
    """
    if described.unknown_crs:
        raise RecordError(
            "the GeoParquet footer says the CRS of the footprints is unknown (crs: null): write the CRS they are in, "
            "or reproject them to lon/lat and drop the crs key"
        )
    if described.crs is not None:
        return _reproject(geometries, _crs_text(described.crs))
    srids = shapely.get_srid(geometries)
    result = geometries
    for srid in np.unique(srids[srids > 0]):
        mask = srids == srid
        result = result.copy() if result is geometries else result
        result[mask] = _reproject(geometries[mask], f"EPSG:{srid}")
    return result


def has_map_coordinates(crs: pyproj.CRS) -> bool:
    """Return whether coordinates of a CRS are places on a map; False for geocentric, vertical and local CRSs.

    PROJ transforms geocentric and vertical coordinates too, to numbers that are not such places. A compound CRS is what
    its horizontal part is.
    """
    return bool(crs.is_geographic or crs.is_projected)


def wkb_types(column: pa.Array) -> set[str]:
    """Return the geometry types of a little-endian WKB column by GeoParquet's names (``Polygon``, ``Point Z`` ...).

    The type is in the second to fifth byte of every geometry (OGC 06-103r4, 8.2), so no geometry is parsed.
    """
    present = pc.drop_null(column)
    if not len(present):
        return set()
    _, offsets, data = present.buffers()
    starts = np.frombuffer(offsets, np.int32)[present.offset : present.offset + len(present)]
    content = np.frombuffer(data, np.uint8)
    codes = np.unique(content[starts + 1].astype(np.int64) + 256 * content[starts + 2].astype(np.int64))
    return {_WKB_NAMES[int(code) % 1000] + (" Z" if code > 1000 else "") for code in codes}


def hilbert_distance(bbox: pa.StructArray, order: int = 16) -> npt.NDArray[np.uint64]:
    """Return the position of every box's centre along a Hilbert curve over the whole Earth.

    The extent is fixed (-180..180, -90..90), so that the order of two records does not depend on other records. Null
    boxes come last.

    Args:
        bbox: structs of :data:`~rasteret_assets.schema.BBOX_TYPE`.
        order: makes a curve through ``2**order`` cells a side.

    Returns:
        Distances ``[N]`` (uint64). The iteration is the one of Lam and Shapiro ("A class of fast algorithms for the
        Peano-Hilbert space-filling curve", 1994): per bit, pick the quadrant, then rotate.
    """
    xmin, ymin, xmax, ymax = (np.asarray(pc.fill_null(bbox.field(i), np.nan), float) for i in range(4))
    xmax = np.where(xmin > xmax, xmax + 360, xmax)
    lon = (((xmin + xmax) / 2 + 180) % 360) / 360
    lat = ((ymin + ymax) / 2 + 90) / 180
    missing = np.asarray(pc.is_null(bbox)) | ~np.isfinite(lon) | ~np.isfinite(lat)
    side = 1 << order
    x, y = (np.clip(np.where(missing, 0, value) * side, 0, side - 1).astype(np.int32) for value in (lon, lat))
    distance = np.zeros(len(x), np.uint64)
    for bit in range(order - 1, -1, -1):
        quadrant_x, quadrant_y = (x >> bit) & 1, (y >> bit) & 1
        distance += np.uint64(1 << (2 * bit)) * ((3 * quadrant_x) ^ quadrant_y).astype(np.uint64)
        flip = (quadrant_y == 0) & (quadrant_x == 1)
        x, y = np.where(flip, side - 1 - x, x), np.where(flip, side - 1 - y, y)
        x, y = np.where(quadrant_y == 0, y, x), np.where(quadrant_y == 0, x, y)
    distance[missing] = np.iinfo(np.uint64).max
    return distance


def _extension(field: pa.Field) -> tuple[str, dict[str, Any]]:
    """Return extension name and decoded metadata of a field, whether or not the extension type is registered."""
    if isinstance(field.type, pa.ExtensionType):
        name, raw = field.type.extension_name, field.type.__arrow_ext_serialize__()
    else:
        metadata = field.metadata or {}
        name, raw = metadata.get(b"ARROW:extension:name", b"").decode(), metadata.get(b"ARROW:extension:metadata", b"")
    try:
        decoded = json.loads(raw) if raw else {}
    except ValueError:
        decoded = {}
    return name, decoded if isinstance(decoded, dict) else {}


def _footer_column(footer: dict[bytes, bytes] | None, name: str) -> dict[str, Any]:
    columns = _footer(footer).get("columns")
    found = columns.get(name) if isinstance(columns, dict) else None
    return found if isinstance(found, dict) else {}


def _footer(footer: dict[bytes, bytes] | None) -> dict[str, Any]:
    try:
        found = json.loads((footer or {}).get(GEO_KEY, b"{}"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _objects(array: pa.Array) -> Geometries:
    return np.asarray(array.to_numpy(zero_copy_only=False), dtype=object)


def _each_readable(read: Callable[..., Any], values: Geometries) -> Geometries:
    """Return the geometries that one of shapely's readers makes of ``values``; None for values that it cannot read."""
    try:
        return np.asarray(read(values, on_invalid="ignore"), dtype=object)
    except NotImplementedError:
        # One by one, because a single curve, as PostGIS and QGIS write them, fails the whole column.
        result = np.full(len(values), None, dtype=object)
        for row, value in enumerate(values):
            with suppress(NotImplementedError):
                result[row] = read(value, on_invalid="ignore")
        return result


def _as_texts(values: Geometries) -> Geometries:
    """Return bytes as texts, for columns whose writer did not mark texts as such; None for other bytes."""
    texts = np.full(len(values), None, dtype=object)
    for row, value in enumerate(values):  # a Python loop over rows that are not WKB, which are few
        with suppress(UnicodeDecodeError):
            texts[row] = value.decode()
    return texts


def _from_text(texts: Geometries) -> Geometries:
    """Return geometries of WKT, EWKT (``SRID=4326;POINT...``), GeoJSON or hexadecimal WKB, told by the first letter."""
    result = np.full(len(texts), None, dtype=object)
    first = np.array([text.lstrip()[:1] if text else "" for text in texts], dtype=object)
    is_json, is_hex = first == "{", (first == "0")
    is_wkt = (first != "") & ~is_json & ~is_hex
    result[is_json] = _each_readable(shapely.from_geojson, texts[is_json])
    result[is_hex] = _each_readable(shapely.from_wkb, texts[is_hex])
    stated = [_EWKT.match(text) for text in texts[is_wkt]]
    plain = [text if found is None else text[found.end() :] for text, found in zip(texts[is_wkt], stated, strict=True)]
    geometries = _each_readable(shapely.from_wkt, np.array(plain, object))
    result[is_wkt] = shapely.set_srid(geometries, [0 if found is None else int(found[1]) for found in stated])
    return result


def _from_native(storage: pa.Array, layout: str) -> Geometries:
    """Return the geometries of a native GeoArrow column."""
    kind, depth = _NATIVE[layout]
    result = np.full(len(storage), None, dtype=object)
    valid = pc.drop_null(storage)
    offsets, level = [], valid
    for _ in range(depth):
        starts = np.asarray(level.offsets) - np.asarray(level.offsets)[0]
        offsets.append(starts)
        level = level.flatten()
    coordinates = _coordinates(level)
    decoded = shapely.from_ragged_array(kind, coordinates, tuple(reversed(offsets)) or None)
    result[np.asarray(pc.is_valid(storage))] = decoded
    return result


def _coordinates(level: pa.Array) -> npt.NDArray[np.float64]:
    if pa.types.is_struct(level.type):
        names = [child.name for child in level.type]
        axes = [level.field(names.index(axis)) for axis in ("x", "y", "z") if axis in names]
        return np.column_stack([np.asarray(axis, dtype=float) for axis in axes])
    size = level.type.list_size
    return np.asarray(level.flatten(), dtype=float).reshape(-1, size)[:, : min(size, 3)]


def _crs_text(crs: object) -> str:
    return json.dumps(crs, sort_keys=True) if isinstance(crs, dict) else str(crs)


@lru_cache(maxsize=64)
def _transformer(crs: str) -> pyproj.Transformer | None:
    """Return the transformation of ``crs`` to lon/lat; None if ``crs`` is lon/lat already."""
    try:
        source = pyproj.CRS.from_user_input(crs)
    except pyproj.exceptions.CRSError as error:
        raise RecordError(f"PROJ does not understand the CRS of the footprints: {crs[:120]} ({error})") from error
    if source.to_authority() in {("OGC", "CRS84"), ("EPSG", "4326"), ("EPSG", "4979")} or source.equals(
        pyproj.CRS(CRS84), ignore_axis_order=True
    ):
        return None
    if not has_map_coordinates(source):
        raise RecordError(
            f"the CRS of the footprints is a {source.type_name}, which has no map coordinates: {crs[:120]}; write a "
            "geographic or projected CRS, or reproject the footprints to lon/lat"
        )
    return pyproj.Transformer.from_crs(source, CRS84, always_xy=True)


def _reproject(geometries: Geometries, crs: str) -> Geometries:
    transformer = _transformer(crs)
    return geometries if transformer is None else to_sphere(geometries, transformer.transform, share=FOOTPRINT_SHARE)
