"""Geometries and bounds from one CRS to another. In this package only this module talks to pyproj."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
import shapely
from shapely.geometry.base import BaseGeometry

from rasteret_assets.errors import SpecError, WindowError

LONLAT = "OGC:CRS84"

#: Edges longer than this part of a geometry's extent are divided before it is reprojected, since straight lines bend. A
#: degree at mid latitudes then stays within a few centimetres of its true course.
_EDGE_SHARE = 1 / 64

_LONLAT_NAMES = frozenset({"OGC:CRS84", "EPSG:4326", "4326", "CRS84", "WGS84", "urn:ogc:def:crs:OGC:1.3:CRS84"})


def crs_name(crs: Any) -> str:
    """Text that names a CRS given as EPSG number, text, PROJJSON mapping or CRS object; lon/lat in its one spelling.

    Raises:
        SpecError: if pyproj knows no such CRS.
    """
    if str(crs) in _LONLAT_NAMES:
        return LONLAT
    try:
        known = pyproj.CRS.from_user_input(crs)
    except pyproj.exceptions.CRSError as error:
        raise SpecError(f"{str(crs)[:80]!r} is no known CRS: write 'EPSG:32632', WKT or PROJJSON") from error
    if known.equals(pyproj.CRS.from_epsg(4326), ignore_axis_order=True):
        return LONLAT
    authority = known.to_authority(min_confidence=100)
    return ":".join(authority) if authority else str(known.to_wkt())


def reproject(geometry: BaseGeometry, source: str, target: str) -> BaseGeometry:
    """A geometry in another CRS, x before y in both, its long edges followed along their curves.

    Args:
        geometry: in ``source``.
        source: CRS as :func:`crs_name` writes it.
        target: likewise.

    Raises:
        WindowError: if a part of it has no place in ``target``.
    """
    if source == target:
        return geometry
    west, south, east, north = geometry.bounds
    if (extent := max(east - west, north - south)) > 0:
        geometry = shapely.segmentize(geometry, extent * _EDGE_SHARE)
    transformer = _transformer(source, target)
    moved = shapely.transform(geometry, lambda xy: np.column_stack(transformer.transform(xy[:, 0], xy[:, 1])))
    if not np.isfinite(shapely.get_coordinates(moved)).all():
        raise WindowError(f"area with bounds {geometry.bounds} in {source[:40]} does not lie within {target[:40]}")
    return moved


def reproject_bounds(geometry: BaseGeometry, source: str, target: str) -> tuple[float, float, float, float]:
    """Bounds in ``target`` of a box, or boxes, in ``source``, as ``rasterio.warp.transform_bounds`` gives them.

    Raises:
        WindowError: if they have no place in ``target``.
    """
    boxes = shapely.bounds(shapely.get_parts(geometry))
    if source != target:
        transformer = _transformer(source, target)
        boxes = np.array(
            [
                transformer.transform_bounds(west, south, east, north, densify_pts=21)
                for west, south, east, north in boxes.tolist()
            ]
        )
        if not np.isfinite(boxes).all():
            raise WindowError(f"area with bounds {geometry.bounds} in {source[:40]} does not lie within {target[:40]}")
    (west, south), (east, north) = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    return float(west), float(south), float(east), float(north)


def transform_bounds(
    bounds: tuple[float, float, float, float], source: str, target: str
) -> tuple[float, float, float, float] | None:
    """Bounds in ``target`` of a box in ``source``; None where part of its outline has no place there.

    A box over the antimeridian, which in lon/lat comes out with its west beyond its east, reaches around the globe.
    """
    if source == target:
        return bounds
    west, south, east, north = _transformer(source, target).transform_bounds(*bounds, densify_pts=21)
    if not np.isfinite([west, south, east, north]).all():
        return None
    if west > east:
        west, east = -180.0, 180.0
    return float(west), float(south), float(east), float(north)


def transform_points(
    x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], source: str, target: str
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Coordinates in ``target`` of points in ``source``; infinite where they have no place there."""
    if source == target:
        return x, y
    moved = _transformer(source, target).transform(x, y)
    return np.asarray(moved[0], dtype=np.float64), np.asarray(moved[1], dtype=np.float64)


@functools.lru_cache(maxsize=256)
def _transformer(source: str, target: str) -> pyproj.Transformer:
    try:
        return pyproj.Transformer.from_crs(source, target, always_xy=True)
    except pyproj.exceptions.ProjError as error:  # another planet, a CRS without a projection
        raise WindowError(f"there is no way from {source[:40]} to {target[:40]}: {error}") from error
