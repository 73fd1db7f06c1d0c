"""Transform geometries between a plane and the sphere: edges that bend, the antimeridian, and the poles.

All areas and all footprints that are not in lon/lat pass through this module. A straight edge of a plane bends on the
sphere, so points are added to the edge until straight lines between their images follow the bend. Longitudes are
counted on from point to point, past 180 where an edge runs past it. A ring that ends 360 degrees away from its start
runs around a pole and is closed over the pole. Results lie in -180..180 and are cut at 180, as in RFC 7946 (3.1.9).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry.base import BaseGeometry

Geometries = npt.NDArray[np.object_]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.intp]
Booleans = npt.NDArray[np.bool_]

#: Takes columns of x and y and returns columns of the images, infinite for points without an image.
Project = Callable[[Floats, Floats], tuple[Floats, Floats]]

#: Largest distance of an edge from its course, as a share of its ring's extent: 15 m for a scene of 150 km, which takes
#: some 12 points a ring; 15 cm for areas, of which there are few.
FOOTPRINT_SHARE: Final = 1e-4
AREA_SHARE: Final = 1e-6

#: Most halvings of an edge. Next to a tear in the plane, and at a pole, no number of halvings is enough.
_MOST_HALVINGS: Final = 16
#: Places of an edge that are compared with its course: two, because a course like an S crosses the edge's middle.
_PROBES: Final = (0.5, 0.3)
#: Longest step in degrees between two longitudes; a longer step may also be one the other way round.
_LONGEST_STEP: Final = 90.0
#: Degrees below which a coordinate of a geometry to be cut counts as 0.
_TINY: Final = 1e-100
#: Degrees (0.1 mm on the ground) by which longitudes may differ from 180 because of rounding.
ROUNDING: Final = 1e-9

_POINTS = (shapely.GeometryType.POINT, shapely.GeometryType.MULTIPOINT)
_LINES = (shapely.GeometryType.LINESTRING, shapely.GeometryType.LINEARRING, shapely.GeometryType.MULTILINESTRING)
_POLYGONS = (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON)


def to_sphere(geometries: Geometries, project: Project, *, share: float) -> Geometries:
    """Transform geometries of a plane to lon/lat, cut at the antimeridian and closed over the poles.

    Args:
        geometries: ``[N]``, of any type; None and empty ones stay as they are, and heights are dropped.
        project: from the plane to lon/lat in degrees.
        share: largest distance of an edge from its course, as a share of the ring's extent.

    Returns:
        Geometries ``[N]`` in -180..180, with infinite coordinates for a geometry with a point off the sphere.
    """
    result = np.asarray(geometries, dtype=object).copy()
    kinds = np.where(shapely.is_empty(result), shapely.GeometryType.MISSING, shapely.get_type_id(result))
    points, lines, polygons = (np.isin(kinds, names) for names in (_POINTS, _LINES, _POLYGONS))
    if points.any():
        result[points] = shapely.transform(result[points], lambda xy: _snapped(_images(xy, project)))
    if lines.any():
        result[lines] = _lines_to_sphere(result[lines], project, share)
    if polygons.any():
        result[polygons] = _polygons_to_sphere(result[polygons], project, share)
    # A Python loop, because collections are rare and of any depth.
    for row in np.flatnonzero(kinds == shapely.GeometryType.GEOMETRYCOLLECTION):
        parts = to_sphere(shapely.get_parts(result[row]), project, share=share)
        result[row] = shapely.GeometryCollection(parts.tolist())
    return result


def to_plane(geometry: BaseGeometry, project: Project, *, share: float) -> tuple[BaseGeometry, bool]:
    """Transform a geometry to a plane, with points added to edges that bend.

    Args:
        geometry: not empty, of any type; heights are dropped.
        project: to the plane.
        share: largest distance of an edge from its course, as a share of the image's extent.

    Returns:
        The image, and whether it is in one piece: False if an edge leads over a tear of the plane.
    """
    kind = shapely.get_type_id(geometry)
    if kind == shapely.GeometryType.GEOMETRYCOLLECTION:
        found = [to_plane(part, project, share=share) for part in shapely.get_parts(geometry)]
        return shapely.GeometryCollection([image for image, _ in found]), all(whole for _, whole in found)
    if kind in _POINTS:
        return shapely.transform(geometry, lambda xy: _images(xy, project)), True
    parts = shapely.get_parts(np.array([geometry], dtype=object))
    rings, part = shapely.get_rings(parts, return_index=True) if kind in _POLYGONS else (parts, np.arange(len(parts)))
    course = _follow(rings, project, share, on_sphere=False)
    if kind in _LINES:
        return shapely.union_all(course.linestrings()), not course.is_torn
    polygons = course.polygons(part)
    image = shapely.MultiPolygon(polygons.tolist()) if kind == shapely.GeometryType.MULTIPOLYGON else polygons[0]
    return image, not course.is_torn


def polygons_to_plane(
    polygons: Geometries, project: Project, *, share: float
) -> tuple[Geometries, Booleans]:  # fmt: skip
    """Transform polygons without holes to a plane, all at once, with points added to edges that bend.

    Args:
        polygons: ``[N]``, not empty.
        project: to the plane.
        share: largest distance of an edge from its course, as a share of the image's extent.

    Returns:
        The images ``[N]``, and a mask ``[N]`` of the images with an edge over a tear of the plane.
    """
    course = _follow(shapely.get_exterior_ring(polygons), project, share, on_sphere=False)
    torn = np.zeros(len(polygons), bool)
    torn[course.torn] = True
    return course.polygons(np.arange(len(polygons))), torn


def cut_at_antimeridian(geometries: Geometries, west: float = -180.0) -> Geometries:
    """Move every part of lon/lat geometries into ``west`` .. ``west + 360``, cut at the meridian ``west``.

    Args:
        geometries: ``[N]``, with longitudes of any size; heights are kept.
        west: longitude at which the result begins.
    """
    result = np.asarray(geometries, dtype=object).copy()
    bounds = shapely.bounds(result)
    with np.errstate(invalid="ignore"):
        beyond = (bounds[:, 0] < west) | (bounds[:, 2] > west + 360)
    beyond &= np.isfinite(bounds).all(axis=1)
    if not beyond.any():
        return result
    whole = shapely.make_valid(_without_tiny(result[beyond]))
    first = np.floor((bounds[beyond, 0] - west) / 360)
    # A geometry that only touches the end of a turn is not in the next turn.
    last = np.maximum(np.ceil((bounds[beyond, 2] - west) / 360) - 1, first)
    columns = []
    for turn in range(int(first.min()), int(last.max()) + 1):
        column = np.full(len(whole), None, dtype=object)
        own = (first <= turn) & (turn <= last)
        band = shapely.box(west + 360 * turn, -90, west + 360 * (turn + 1), 90)
        column[own] = _moved_east(shapely.intersection(whole[own], band), -360.0 * turn)
        columns.append(column)
    with np.errstate(divide="ignore", invalid="ignore"):  # GEOS divides by zero in flat rings
        result[beyond] = shapely.union_all(np.stack(columns), axis=0)
    return result


def widest_gap(spans: Floats) -> float | None:
    """Return the longitude in the middle of the widest gap between spans; None without gaps.

    Args:
        spans: ``[N, 2]`` of west and east within -180..180; N is not 0.
    """
    spans = spans[np.argsort(spans[:, 0])]
    reach = np.maximum.accumulate(spans[:, 1])
    begins = np.append(spans[1:, 0], spans[0, 0] + 360)
    gaps = begins - reach
    widest = int(np.argmax(gaps))
    return float(reach[widest] + gaps[widest] / 2) if gaps[widest] > ROUNDING else None


def polygons_of(geometry: BaseGeometry) -> BaseGeometry:
    """Return the polygons among the parts of a geometry, without the lines and points that a cut may leave."""
    parts = shapely.get_parts(geometry)
    if (shapely.get_type_id(parts) == shapely.GeometryType.GEOMETRYCOLLECTION).any():
        parts = np.concatenate([shapely.get_parts(part) for part in parts])
    kept = parts[np.isin(shapely.get_type_id(parts), _POLYGONS)]
    return kept[0] if len(kept) == 1 else shapely.union_all(kept)


class _Course:
    """Lines with the points that were added to follow their course.

    Args:
        points: ``[M, 2]``, before the transformation.
        images: ``[M, 2]``, after it; on the sphere their longitudes run on past 180.
        line: ``[M]``, the number of the line of each point.
        torn: numbers of the lines with an edge that is too far from its course after all halvings.
    """

    def __init__(self, points: Floats, images: Floats, line: Integers, *, torn: Integers) -> None:
        self.points = points
        self.images = images
        self.line = line
        self.torn = torn

    @property
    def is_torn(self) -> bool:
        """Whether any line is torn."""
        return bool(len(self.torn))

    def lines(self) -> Iterator[slice]:
        """Yield the slice of the points of each line."""
        starts = _starts(self.line)
        return (slice(*ends) for ends in zip(starts, [*starts[1:], len(self.line)], strict=True))

    def linestrings(self) -> Geometries:
        """Return the images of all lines."""
        return np.asarray(shapely.linestrings(self.images, indices=self.line), dtype=object)

    def polygons(self, part: Integers) -> Geometries:
        """Return the images of polygons; ``part`` is the polygon of every ring, whose first ring is the outer one."""
        rings = np.asarray(shapely.linearrings(self.images, indices=self.line), dtype=object)
        return np.asarray(shapely.polygons(rings, indices=part), dtype=object)


def _follow(lines: Geometries, project: Project, share: float, *, on_sphere: bool) -> _Course:
    """Add points to lines until straight lines between their images follow the course."""
    points, line = shapely.get_coordinates(lines, return_index=True)
    images = _images(points, project)
    places = _vectors(images) if on_sphere else images
    starts = _starts(line)
    with np.errstate(invalid="ignore"):
        extent = np.maximum.reduceat(places, starts) - np.minimum.reduceat(places, starts)
    tolerance = np.zeros(len(lines))
    tolerance[line[starts]] = share * np.linalg.norm(extent, axis=1)
    edges = np.flatnonzero(line[1:] == line[:-1])
    for _ in range(_MOST_HALVINGS):
        middle = (points[edges] + points[edges + 1]) / 2
        at_middle = _images(middle, project)
        bent = np.zeros(len(edges), bool)
        for probe in _PROBES:
            inner = points[edges] + probe * (points[edges + 1] - points[edges])
            found = at_middle if probe == _PROBES[0] else _images(inner, project)
            stray = _stray(images[edges], images[edges + 1], found, probe, on_sphere=on_sphere)
            bent |= stray > tolerance[line[edges]]
        edges = edges[bent]
        if not len(edges):
            break
        points = np.insert(points, edges + 1, middle[bent], axis=0)
        images = np.insert(images, edges + 1, at_middle[bent], axis=0)
        line = np.insert(line, edges + 1, line[edges])
        # Both halves of a halved edge are checked next.
        added = edges + 1 + np.arange(len(edges))
        edges = np.column_stack([added - 1, added]).ravel()
    # A line with a point without an image has none at all, so that its ring still closes.
    lost = np.zeros(len(lines), bool)
    lost[line[~np.isfinite(images).all(axis=1)]] = True
    images[lost[line]] = np.inf
    if on_sphere:
        images = _counted_on(_snapped(images), line)
    return _Course(points, images, line, torn=np.unique(line[edges]))


def _starts(line: Integers) -> Integers:
    """Return the position of the first point of every line."""
    return np.flatnonzero(np.diff(line, prepend=-1))


def _stray(start: Floats, end: Floats, found: Floats, at: float, *, on_sphere: bool) -> Floats:
    """Return the distance of the image of a point of an edge from the straight line between the images of its ends."""
    with np.errstate(invalid="ignore"):
        step = end - start
        if not on_sphere:
            return np.asarray(np.linalg.norm(start + at * step - found, axis=1))
        step[:, 0] -= 360 * np.round(step[:, 0] / 360)
        stray: Floats = np.linalg.norm(_vectors(start + at * step) - _vectors(found), axis=1)
        # Except at a pole itself, where the longitude means nothing and the distance is 0.
        stray[(np.abs(step[:, 0]) > _LONGEST_STEP) & (stray > 0)] = np.inf
    return stray


def _vectors(lonlat: Floats) -> Floats:
    """Return points of the unit sphere in space, in which neither 180 nor a pole is a special case."""
    lon, lat = np.radians(lonlat).T
    with np.errstate(invalid="ignore"):
        return np.column_stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])


def _images(points: Floats, project: Project) -> Floats:
    return np.column_stack(project(points[:, 0], points[:, 1]))


def _snapped(lonlat: Floats) -> Floats:
    """Move longitudes that differ from 180 by rounding to 180, so that no sliver is cut off."""
    lon = lonlat[:, 0]
    near = np.abs(np.abs(lon) - 180) < ROUNDING
    lonlat[near, 0] = np.copysign(180, lon[near])
    return lonlat


def _counted_on(images: Floats, line: Integers) -> Floats:
    """Change longitudes so that they run on past 180 along each line."""
    with np.errstate(invalid="ignore"):
        turns = np.diff(images[:, 0], prepend=0.0)
        turns = -np.round(np.nan_to_num(turns, posinf=0.0, neginf=0.0) / 360)
    starts = _starts(line)
    turns[starts] = 0
    total = np.cumsum(turns)
    lengths = np.diff(np.append(starts, len(line)))
    images[:, 0] += 360 * (total - np.repeat(total[starts], lengths))
    return images


def _lines_to_sphere(geometries: Geometries, project: Project, share: float) -> Geometries:
    parts, row = shapely.get_parts(geometries, return_index=True)
    course = _follow(parts, project, share, on_sphere=True)
    cut = cut_at_antimeridian(course.linestrings())
    result = np.empty(len(geometries), dtype=object)
    for number in range(len(geometries)):  # a Python loop, because footprints and areas are rarely lines
        own = cut[row == number]
        result[number] = own[0] if len(own) == 1 else shapely.union_all(own)
    return result


def _polygons_to_sphere(geometries: Geometries, project: Project, share: float) -> Geometries:
    parts, row = shapely.get_parts(geometries, return_index=True)
    rings, part = shapely.get_rings(parts, return_index=True)
    course = _follow(rings, project, share, on_sphere=True)
    starts = _starts(course.line)
    ends = np.append(starts[1:], len(course.line)) - 1
    lon = course.images[:, 0]
    with np.errstate(invalid="ignore"):
        around = np.round(lon[ends] - lon[starts]) != 0
        beyond = (np.minimum.reduceat(lon, starts) < -180) | (np.maximum.reduceat(lon, starts) > 180)
    special = np.zeros(len(geometries), bool)
    finite = np.ones(len(geometries), bool)
    ring_row = row[part]
    special[ring_row[around | beyond]] = True
    finite[ring_row[course.line[~np.isfinite(course.images).all(axis=1)]]] = False
    special &= finite
    # All rows at once; the few that run over 180 or around a pole are made again below.
    shells = course.polygons(part)
    result = np.empty(len(geometries), dtype=object)
    multi = shapely.get_type_id(geometries) == shapely.GeometryType.MULTIPOLYGON
    single = ~multi[row]
    result[row[single]] = shells[single]
    if multi.any():
        numbers = np.cumsum(multi) - 1
        result[multi] = np.asarray(shapely.multipolygons(shells[~single], indices=numbers[row[~single]]), dtype=object)
    if special.any():
        slices = list(course.lines())
        for number in np.flatnonzero(special):  # a Python loop, because few records lie over 180 or a pole
            regions = []
            for own in np.flatnonzero(row == number):
                shell, *holes = [
                    _region(course.points[slices[ring]], course.images[slices[ring]], project)
                    for ring in np.flatnonzero(part == own)
                ]
                regions.append(shapely.difference(shell, shapely.union_all(holes)) if holes else shell)
            result[number] = polygons_of(shapely.union_all(regions))
    return result


def _region(points: Floats, images: Floats, project: Project) -> BaseGeometry:
    """Return the region that a ring encloses on the sphere, in -180..180.

    Args:
        points: ``[M, 2]``, the closed ring in the plane.
        images: ``[M, 2]``, with longitudes that run on past 180.
        project: from the plane to the sphere.
    """
    turns = int(np.round((images[-1, 0] - images[0, 0]) / 360))
    if turns:
        # The region lies to the left of a counterclockwise ring, unless the projection mirrors; left of a ring that
        # runs east is north.
        is_left = bool(shapely.is_ccw(shapely.linearrings(points))) == _keeps_hand(points, images, project)
        pole = 90.0 if is_left == (turns > 0) else -90.0
        # Closed from the point next to the pole, because its meridian leads to the pole without meeting the ring again.
        nearest = int(np.argmax(images[:-1, 1] * pole))
        far = images[: nearest + 1] + np.array([360.0 * turns, 0.0])
        images = np.concatenate([images[nearest:-1], far])
        first, last = images[0, 0], images[-1, 0]
        images = np.concatenate([images, [[last, pole], [first, pole], images[0]]])
    (region,) = cut_at_antimeridian(np.array([shapely.make_valid(shapely.Polygon(images))], dtype=object))
    return polygons_of(region)


def _keeps_hand(points: Floats, images: Floats, project: Project) -> bool:
    """Return whether left of a line in the plane is left of its image, at the ring's point nearest to the equator.

    A projection whose axes point south and west turns the plane; one with a single such axis mirrors it.
    """
    place = int(np.argmin(np.abs(images[:, 1])))
    step = np.ptp(points, axis=0).max() * 1e-6
    around = _images(points[place] + np.array([[0.0, 0.0], [step, 0.0], [0.0, step]]), project)
    (east, north), (up_east, up_north) = around[1:] - around[0]
    east, up_east = (value - 360 * np.round(value / 360) if np.isfinite(value) else value for value in (east, up_east))
    area = east * up_north - north * up_east
    return not area < 0


def _moved_east(geometries: Geometries, degrees: float) -> Geometries:
    step = np.array([degrees, 0, 0])
    return _transformed(geometries, lambda places: places + step[: places.shape[1]]) if degrees else geometries


def _without_tiny(geometries: Geometries) -> Geometries:
    """Replace coordinates next to 0 by 0, because their products underflow, and GEOS raises then."""
    places = shapely.get_coordinates(geometries)
    if not ((places != 0) & (np.abs(places) < _TINY)).any():
        return geometries
    return _transformed(geometries, lambda places: np.where(np.abs(places) < _TINY, 0.0, places))


def _transformed(geometries: Geometries, change: Callable[[Floats], Floats]) -> Geometries:
    """Change the coordinates of geometries, with their heights if they have any."""
    result = geometries.copy()
    for has_z in (False, True):
        mask = shapely.has_z(geometries) == has_z
        result[mask] = shapely.transform(geometries[mask], change, include_z=has_z)
    return result
