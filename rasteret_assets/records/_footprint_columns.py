"""Turn a column of geometries in any form into lon/lat WKB with boxes, and say which footprints are wrong.

Most record tables write footprints as plain WKB rings, which numpy checks and boxes from their bytes; geometry objects
are made for all other footprints only.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import shapely

from rasteret_assets.geometry import Geometries, GeometryColumn, decode_geometries, to_lonlat
from rasteret_assets.schema import BBOX_TYPE
from rasteret_assets.sphere import cut_at_antimeridian

# WKB (OGC 06-103r4, 8.2.8): byte order, type, number of rings, number of points, then x and y of each.
_POLYGON: Final = np.frombuffer(b"\x01\x03\x00\x00\x00\x01\x00\x00\x00", np.uint8)
_HEAD: Final = len(_POLYGON) + 4
_POINT: Final = 16
_FEWEST_POINTS: Final = 4


@dataclass(frozen=True, kw_only=True)
class Footprints:
    """Holds the footprints of N records.

    Args:
        wkb: ISO WKB in lon/lat, little-endian; null for a record without a footprint.
        bbox: structs of :data:`~rasteret_assets.schema.BBOX_TYPE`; null for a record without a footprint.
        unreadable: mask ``[N]`` of the rows whose geometry could not be read.
        misplaced: why a footprint is refused, ``object[N]``; None where it is not.
    """

    wkb: pa.Array
    bbox: pa.StructArray
    unreadable: npt.NDArray[np.bool_]
    misplaced: npt.NDArray[np.object_]


def read_footprints(column: pa.Array, described: GeometryColumn) -> Footprints:
    """Return the footprints of a column in any form that :func:`~rasteret_assets.geometry.decode_geometries` knows.

    Raises:
        RecordError: if the column holds no geometries, or its CRS is unknown.
    """
    bounds = _ring_bounds(column) if described == GeometryColumn() else None
    if bounds is not None:
        return Footprints(
            wkb=column, bbox=_boxes(bounds), unreadable=np.zeros(len(column), bool),
            misplaced=_outside(bounds, np.asarray(column.is_valid())),
        )  # fmt: skip
    geometries, unreadable = decode_geometries(column, described)
    geometries = to_lonlat(geometries, described)
    return Footprints(
        wkb=encode_wkb(portable_footprints(geometries)), bbox=bbox_structs(geometries), unreadable=unreadable,
        misplaced=invalid_footprints(geometries),
    )  # fmt: skip


def _ring_bounds(column: pa.Array) -> npt.NDArray[np.float64] | None:
    """Return bounds ``[N, 4]`` of polygons of one closed, finite ring in -180..180; None if a row is not one."""
    if not pa.types.is_binary(column.type) or not len(column):
        return None
    sizes = np.asarray(pc.fill_null(pc.binary_length(column), 0))
    offsets = np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + len(column) + 1]
    content = np.frombuffer(column.buffers()[2] or b"", np.uint8)
    bounds = np.full((len(column), 4), np.nan)
    valid = np.asarray(column.is_valid())
    for size in np.unique(sizes[valid]):
        points, rest = divmod(int(size) - _HEAD, _POINT)
        if rest or points < _FEWEST_POINTS:
            return None
        rows = np.flatnonzero(valid & (sizes == size))
        if len(rows) == len(column):
            # One size, as in nearly all tables, so the values already lie in a grid.
            bytes_ = content[offsets[0] : offsets[-1]].reshape(len(rows), size)
        else:
            bytes_ = content[offsets[rows][:, None] + np.arange(size)]
        head = np.concatenate([_POLYGON, np.frombuffer(np.uint32(points).tobytes(), np.uint8)])
        if (bytes_[:, :_HEAD] != head).any():
            return None
        # Point by point, because numpy is slow along an axis as short as a ring.
        ring = np.ascontiguousarray(bytes_[:, _HEAD:]).view("<f8").reshape(len(rows), points, 2).transpose(1, 0, 2)
        lowest = functools.reduce(np.minimum, ring)
        highest = functools.reduce(np.maximum, ring)
        # Checked here, because a minimum of values with a NaN is NaN.
        if not (np.isfinite(lowest).all() and np.isfinite(highest).all()) or (ring[0] != ring[-1]).any():
            return None
        bounds[rows] = np.concatenate([lowest, highest], axis=1)
    with np.errstate(invalid="ignore"):
        # None for footprints beyond +-180, because cutting them in two takes geometry objects.
        return None if (np.abs(bounds[:, ::2]) > 180).any() else bounds


def invalid_footprints(geometries: Geometries) -> npt.NDArray[np.object_]:
    """Return why lon/lat footprints are refused, ``object[N]``; None where they are not.

    Longitudes up to +-360 pass, because footprints across the antimeridian are often written beyond 180.
    """
    bounds = shapely.bounds(geometries)
    present = ~shapely.is_missing(geometries) & ~shapely.is_empty(geometries)
    coordinates, index = shapely.get_coordinates(geometries, return_index=True)
    broken = np.zeros(len(geometries), bool)
    broken[index[~np.isfinite(coordinates).all(axis=1)]] = True
    reasons = _outside(bounds, present & ~broken)
    reasons[present & broken] = "the footprint has coordinates that are not finite"
    return reasons


def _outside(bounds: npt.NDArray[np.float64], present: npt.NDArray[np.bool_]) -> npt.NDArray[np.object_]:
    reasons = np.full(len(bounds), None, dtype=object)
    with np.errstate(invalid="ignore"):
        outside = (np.abs(bounds[:, [0, 2]]) > 360).any(axis=1) | (np.abs(bounds[:, [1, 3]]) > 90 + 1e-6).any(axis=1)
    # A Python loop over the refused rows only.
    for row in np.flatnonzero(present & outside):
        x, y = bounds[row, :2]
        reasons[row] = f"the footprint is not in degrees (it starts at x={x:.0f}, y={y:.0f}): state its CRS"
    return reasons


def bbox_structs(geometries: Geometries) -> pa.StructArray:
    """Return bounding boxes in lon/lat; null for null and empty footprints.

    A footprint that crosses the antimeridian has ``xmin > xmax``, as GeoParquet 1.1 and RFC 7946 (5.2) write it. It is
    recognised where the data says so: parts that meet at both +180 and -180, or longitudes beyond +-180.
    """
    bounds = shapely.bounds(geometries)
    _wrap_split(geometries, bounds)
    return _boxes(bounds)


def _boxes(bounds: npt.NDArray[np.float64]) -> pa.StructArray:
    with np.errstate(invalid="ignore"):
        around = bounds[:, 2] - bounds[:, 0] >= 360
    # Models write the whole Earth as 0..360; moved by a turn, both ends would be the same meridian.
    bounds[around, 0], bounds[around, 2] = -180, 180
    for column in (0, 2):
        values = bounds[:, column]
        values[values > 180] -= 360
        values[values < -180] += 360
    missing = np.isnan(bounds).any(axis=1)
    children = [pa.array(bounds[:, i], pa.float64(), mask=missing) for i in range(4)]
    return pa.StructArray.from_arrays(children, fields=list(BBOX_TYPE), mask=pa.array(missing))


def portable_footprints(geometries: Geometries) -> Geometries:
    """Return footprints as every reader of GeoParquet takes them: in -180..180, and null where they are empty.

    Footprints beyond +-180 are cut at the antimeridian, and the far part is moved to the other end of the map (RFC
    7946, 3.1.9). Boxes are made before the cut, because a cut footprint does not always show that it was one.
    """
    portable = cut_at_antimeridian(geometries)
    portable[shapely.is_empty(portable)] = None
    return portable


def encode_wkb(geometries: Geometries) -> pa.Array:
    """Return ISO WKB, little-endian, without SRIDs and measures; null for null geometries."""
    if shapely.has_m(geometries).any():
        # Without measures, because GeoParquet 1.1 has none.
        geometries = np.where(shapely.has_z(geometries), geometries, shapely.force_2d(geometries))
    wkb = shapely.to_wkb(geometries, byte_order=1, flavor="iso", include_srid=False, output_dimension=3)
    return pa.array(wkb, pa.binary())


def _wrap_split(geometries: Geometries, bounds: npt.NDArray[np.float64]) -> None:
    """Turn the box of a footprint split at the antimeridian into its ``xmin > xmax`` form, in place."""
    with np.errstate(invalid="ignore"):
        candidates = (bounds[:, 0] <= -180) & (bounds[:, 2] >= 180) & (shapely.get_num_geometries(geometries) > 1)
    # A Python loop over the footprints that touch both ends of the map only.
    for row in np.flatnonzero(candidates):
        parts = shapely.bounds(shapely.get_parts(geometries[row]))
        east, west = parts[parts[:, 2] >= 180], parts[parts[:, 0] <= -180]
        if (
            len(east) + len(west) == len(parts)
            and len(east)
            and len(west)
            and (np.ptp(parts[:, ::2], axis=1) < 180).all()
        ):
            bounds[row, 0], bounds[row, 2] = east[:, 0].min(), west[:, 2].max()
