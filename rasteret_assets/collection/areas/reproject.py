"""Bring geometries and bounds from one CRS to another, with pyproj."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyproj
import shapely
from shapely.geometry.base import BaseGeometry

from rasteret_assets.errors import SpecError, WindowError
from rasteret_assets.geometry import has_map_coordinates
from rasteret_assets.inputs import CRSLike
from rasteret_assets.sphere import (
    AREA_SHARE,
    FOOTPRINT_SHARE,
    ROUNDING,
    Project,
    cut_at_antimeridian,
    polygons_of,
    polygons_to_plane,
    to_plane,
    to_sphere,
    widest_gap,
)

#: Longitude before latitude, in degrees on WGS 84.
LONLAT = "OGC:CRS84"

#: Part of the extent up to which two places are one when two halves around a pole are joined: micrometres.
_MERGING = 1e-13

# The search for a tear: at these latitudes, first in steps of degrees, then each time in hundredths of the widest step,
# down to 1e-12 degrees. A step _JUMP times as wide as the median leads over a tear.
_PARALLELS = (-70.0, -35.0, 0.0, 35.0, 70.0)
_STEPS = 100
_WALKS = 7
_JUMP = 20
#: A tear leads over more than this part of the way along the parallel.
_LEAST_JUMP = 1e-3

_Place = tuple[float, float]

_LONLAT_NAMES = frozenset({"OGC:CRS84", "EPSG:4326", "4326", "CRS84", "WGS84", "urn:ogc:def:crs:OGC:1.3:CRS84"})


def crs_name(crs: CRSLike) -> str:
    """Return a CRS in any form as text: an authority's code, else WKT; lon/lat always as ``OGC:CRS84``.

    Raises:
        SpecError: if pyproj does not know the CRS.
    """
    if str(crs) in _LONLAT_NAMES:
        return LONLAT
    try:
        parsed = pyproj.CRS.from_user_input(crs)
    except pyproj.exceptions.CRSError as error:
        raise SpecError(f"{str(crs)[:80]!r} is not a known CRS: write 'EPSG:32632', WKT or PROJJSON") from error
    if parsed.equals(pyproj.CRS.from_epsg(4326), ignore_axis_order=True):
        return LONLAT
    authority = parsed.to_authority(min_confidence=100)
    return ":".join(authority) if authority else str(parsed.to_wkt())


def map_crs(crs: CRSLike) -> str:
    """Return the CRS of areas or of a pixel grid, as :func:`crs_name` writes it.

    Raises:
        SpecError: if pyproj does not know the CRS, or it is neither geographic nor projected.
    """
    name = crs_name(crs)
    parsed = pyproj.CRS.from_user_input(name)
    if not has_map_coordinates(parsed):
        raise SpecError(
            f"{str(crs)[:80]!r} is a {parsed.type_name}, which has no map coordinates: write a geographic or projected "
            "CRS, such as 'EPSG:32632'"
        )
    return name


def reproject(geometry: BaseGeometry, source: str, target: str) -> BaseGeometry:
    """Bring a geometry to another CRS, x before y in both, its edges followed along their course.

    Where the plane of ``target`` is torn (longitude 180 of EPSG:3857 lies at both of its ends), the geometry comes in
    pieces. In lon/lat they lie in -180..180, closed over the poles.

    Args:
        geometry: in ``source``.
        source: CRS as :func:`crs_name` writes it.
        target: CRS as :func:`crs_name` writes it.

    Raises:
        WindowError: if a part of it cannot be brought to ``target``, or no transformation leads there.
    """
    return _reprojected(geometry, source, target)[0]


def reproject_each(polygons: npt.NDArray[np.object_], source: str, target: str) -> npt.NDArray[np.object_]:
    """Bring many polygons to another CRS at once, as :func:`reproject` does, as accurately as footprints are kept.

    Args:
        polygons: shapely polygons ``[N]``, in ``source``.
        source: CRS as :func:`crs_name` writes it.
        target: CRS as :func:`crs_name` writes it.

    Returns:
        The polygons ``[N]`` in ``target``, multipolygons where a tear of its plane cuts them.

    Raises:
        WindowError: if a part of a polygon cannot be brought to ``target``, or no transformation leads there.
    """
    if source == target or not len(polygons):
        return polygons
    project = _transformer(source, target).transform
    if target == LONLAT:
        moved, singly = to_sphere(polygons, project, share=FOOTPRINT_SHARE), np.zeros(len(polygons), bool)
    else:
        moved, singly = polygons_to_plane(polygons, project, share=FOOTPRINT_SHARE)
        if source == LONLAT:
            west, _, east, _ = shapely.bounds(polygons).T
            singly |= (west <= -180) & (east >= 180)
    for row in np.flatnonzero(singly):  # a loop, because few polygons lie over a tear of the plane
        moved[row] = reproject(polygons[row], source, target)
    bounds = shapely.bounds(moved)
    lost = ~np.isfinite(bounds).all(axis=1) & ~shapely.is_empty(polygons)
    if lost.any():
        lost_bounds = tuple(shapely.bounds(polygons[lost][0]).tolist())
        raise WindowError(
            f"the raster with bounds {lost_bounds} in {source[:40]} cannot be brought to {target[:40]}: "
            "part of it lies outside of what that CRS can show"
        )
    return moved


def reproject_box(geometry: BaseGeometry, source: str, target: str) -> BaseGeometry:
    """Return the upright rectangle in ``target`` that holds a box, or boxes, in ``source``.

    Where the plane of ``target`` is torn, the result has a rectangle for each piece. A single rectangle is as
    ``rasterio.warp.transform_bounds`` gives it.

    Raises:
        WindowError: if a part of the box cannot be brought to ``target``, or no transformation leads there.
    """
    if source == target:
        return geometry
    moved, is_whole = _reprojected(geometry, source, target)
    if is_whole and shapely.get_num_geometries(geometry) == 1:
        west, south, east, north = geometry.bounds
        if (bounds := transform_bounds((west, south, east, north), source, target)) is not None:
            return shapely.box(*bounds)
    return rectangles(moved)


def rectangles(geometry: BaseGeometry) -> BaseGeometry:
    """Return the upright rectangles around the parts of a geometry, one around those that overlap."""
    together = shapely.union_all(shapely.envelope(shapely.get_parts(geometry)))
    return shapely.union_all(shapely.envelope(shapely.get_parts(together)))


def _reprojected(geometry: BaseGeometry, source: str, target: str) -> tuple[BaseGeometry, bool]:
    """Return the geometry in ``target``, and whether no tear of the plane and no longitude 180 crosses it."""
    if source == target:
        return geometry, True
    project = _transformer(source, target).transform
    if target == LONLAT:
        moved: BaseGeometry = to_sphere(np.array([geometry], dtype=object), project, share=AREA_SHARE)[0]
        is_whole = not _touches_both_ends(moved)
    else:
        moved, is_whole = to_plane(geometry, project, share=AREA_SHARE)
        if source == LONLAT and _touches_both_ends(geometry):
            is_whole = False
        if not is_whole:
            moved = _from_lonlat(reproject(geometry, source, LONLAT), target)
    if not np.isfinite(shapely.get_coordinates(moved)).all():
        raise WindowError(
            f"the area with bounds {geometry.bounds} in {source[:40]} cannot be brought to {target[:40]}: "
            "part of it lies outside of what that CRS can show"
        )
    return moved, is_whole


def _touches_both_ends(geometry: BaseGeometry) -> bool:
    west, _, east, _ = geometry.bounds
    return bool(west <= -180 and east >= 180)


def _from_lonlat(geometry: BaseGeometry, target: str) -> BaseGeometry:
    """Bring a lon/lat geometry that reaches over 180, or over a tear of the plane, to ``target``."""
    project = _transformer(LONLAT, target).transform
    tear = tear_of(target)
    spans = shapely.bounds(shapely.get_parts(geometry))[:, ::2]
    west = widest_gap(spans) if tear is None else tear.longitude
    if west is not None:
        # With longitudes counted from the tear on, or from a gap in it, the geometry has no seam at 180.
        (moved,) = cut_at_antimeridian(np.array([geometry], dtype=object), west=west)
        if tear is not None:
            # Both ends of the plane have the tear's longitude, so the geometry has to end before either.
            moved = polygons_of(
                shapely.intersection(moved, shapely.box(west + ROUNDING, -90, west + 360 - ROUNDING, 90))
            )
        image, _ = to_plane(moved, project, share=AREA_SHARE)
        return image if tear is None else tear.snapped(image)
    # Around a pole the geometry is moved as two halves that overlap a little, so that no gap lies between them.
    (east,) = cut_at_antimeridian(np.array([geometry], dtype=object), west=0.0)
    twice = shapely.union_all([geometry, east, shapely.transform(geometry, lambda xy: xy + np.array([360.0, 0.0]))])
    halves = [
        polygons_of(shapely.intersection(twice, shapely.box(first - ROUNDING, -90, first + 180 + ROUNDING, 90)))
        for first in (-90.0, 90.0)
    ]
    images = [shapely.make_valid(to_plane(half, project, share=AREA_SHARE)[0]) for half in halves]
    extent = float(np.ptp(shapely.total_bounds(np.array(images, dtype=object)).reshape(2, 2), axis=0).max())
    return polygons_of(shapely.union_all(images, grid_size=extent * _MERGING)) if np.isfinite(extent) else images[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tear:
    """A meridian that lies at both ends of a CRS's plane.

    Args:
        longitude: of the meridian, in -180..180 without 180 itself.
        ends: x at the western and the eastern end, where they are the same at all latitudes: then the plane goes round
            like a cylinder; None where they are not.
    """

    longitude: float
    ends: tuple[float, float] | None

    @property
    def period(self) -> float | None:
        """Width of the plane in units of the CRS, after which x comes back to the same place."""
        return None if self.ends is None else self.ends[1] - self.ends[0]

    def snapped(self, geometry: BaseGeometry) -> BaseGeometry:
        """Move points within 1e-10 of the plane's width of one of its ends onto that end, because they are rounded."""
        if self.ends is None:
            return geometry
        ends, near = np.array(self.ends), 1e-10 * (self.ends[1] - self.ends[0])

        def snap(xy: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
            for end in ends:
                xy[np.abs(xy[:, 0] - end) < near, 0] = end
            return xy

        return shapely.transform(geometry, snap)


@functools.lru_cache(maxsize=256)
def tear_of(crs: str) -> Tear | None:
    """Find the meridian at which a CRS's plane is torn; None if it is not torn, as around a pole or in UTM.

    The search follows parallels, because no list says at which meridian a projection is torn.
    """
    parsed = pyproj.CRS.from_user_input(crs)
    if parsed.is_geographic and not parsed.is_derived:
        half = math.pi / parsed.axis_info[0].unit_conversion_factor
        meridian = parsed.prime_meridian
        offset = math.degrees(meridian.longitude * float(meridian.unit_conversion_factor)) if meridian else 0.0
        return Tear(longitude=offset % 360 - 180, ends=(-round(half, 9), round(half, 9)))
    try:
        project = _transformer(LONLAT, crs).transform
    except WindowError:  # a CRS of another planet
        return None
    tears = [tear for latitude in _PARALLELS if (tear := _tear_along(latitude, project)) is not None]
    longitudes = [(round(longitude, 9) + 180) % 360 - 180 for longitude, _, _ in tears]
    if len(tears) < 2 or np.ptp(longitudes) > ROUNDING:
        return None
    ends = np.array([(*eastern, *western) for _, western, eastern in tears])
    west, y_west, east, y_east = ends.T
    tolerance = 1e-9 * np.abs(east - west).max()
    if np.ptp(west) + np.ptp(east) + np.abs(y_west - y_east).max() > tolerance or east[0] < west[0]:
        return Tear(longitude=longitudes[0], ends=None)
    # Because PROJ goes on slightly beyond the tear, the ends are extrapolated from where steps are even.
    first, last, at_tear = project(longitudes[0] + np.array([50.0, 150.0, 0.0]), np.zeros(3))[0]
    period = (last - first) * 3.6
    begin = at_tear if abs(at_tear - west[0]) < period / 2 else at_tear - period
    return Tear(longitude=longitudes[0], ends=(float(begin), float(begin + period)))


def _tear_along(latitude: float, project: Project) -> tuple[float, _Place, _Place] | None:
    """Return the longitude of the tear on a parallel, and the places just west and east of it; None without a tear."""
    lon = np.arange(-180.3, 181.0)
    extent = 0.0
    for _ in range(_WALKS):
        x, y = (np.asarray(axis) for axis in project(lon, np.full(len(lon), latitude)))
        with np.errstate(invalid="ignore"):
            steps = np.nan_to_num(np.hypot(np.diff(x), np.diff(y)), nan=0.0, posinf=0.0)
        extent = extent or float(steps.sum())
        widest = int(np.argmax(steps))
        if steps[widest] <= _JUMP * np.median(steps) or steps[widest] < _LEAST_JUMP * extent:
            return None
        place = lon[widest]
        before, after = ((float(x[at]), float(y[at])) for at in (widest, widest + 1))
        lon = np.linspace(lon[widest], lon[widest + 1], _STEPS + 1)
    return float(place), before, after


def transform_bounds(
    bounds: tuple[float, float, float, float], source: str, target: str
) -> tuple[float, float, float, float] | None:
    """Return bounds in ``target`` of a box in ``source``; None if part of its outline cannot be brought there.

    A box that crosses the antimeridian comes out of PROJ with west > east in lon/lat; it is returned as -180..180.

    Raises:
        WindowError: if no transformation leads from ``source`` to ``target``.
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
    """Return coordinates in ``target`` of points in ``source``; infinite for points that cannot be brought there.

    Args:
        x: of the points; float64 ``[N]``.
        y: of the points; float64 ``[N]``.
        source: CRS as :func:`crs_name` writes it.
        target: CRS as :func:`crs_name` writes it.

    Returns:
        x and y in ``target``, float64 ``[N]`` each.

    Raises:
        WindowError: if no transformation leads from ``source`` to ``target``.
    """
    if source == target:
        return x, y
    moved = _transformer(source, target).transform(x, y)
    return np.asarray(moved[0], dtype=np.float64), np.asarray(moved[1], dtype=np.float64)


@functools.lru_cache(maxsize=256)
def _transformer(source: str, target: str) -> pyproj.Transformer:
    try:
        return pyproj.Transformer.from_crs(source, target, always_xy=True)
    except pyproj.exceptions.ProjError as error:  # a CRS of another planet, or one that pyproj cannot compute
        raise WindowError(f"no transformation leads from {source[:40]} to {target[:40]}: {error}") from error
