"""Choose records for areas that cannot be brought to lon/lat: on another planet, or partly beside a satellite's disk.

Footprints are in lon/lat, so they cannot be compared with such an area. Records are chosen by the bounds of their
rasters instead, if a transformation leads from the area's CRS to the raster's. Two spellings of one CRS need no
transformation, which is why CRSs are compared here by what they compute.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import pyproj
import shapely
from shapely.geometry.base import BaseGeometry

from rasteret_assets.collection.areas.area import Area
from rasteret_assets.collection.areas.grid import Grid
from rasteret_assets.collection.areas.reproject import LONLAT, transform_points
from rasteret_assets.collection.pixels.select import Record
from rasteret_assets.errors import WindowError

#: A shape that meets every footprint.
WORLD: Final = shapely.box(-180, -90, 180, 90)

#: Relative difference of two parameters that count as the same; 6 mm of the Earth's radius.
_TOLERANCE: Final = 1e-9


def place(areas: Sequence[Area]) -> tuple[list[BaseGeometry], dict[int, WindowError]]:
    """Return the areas in lon/lat, and for each that cannot be brought there the reason, by position.

    Such an area becomes the whole world, so that every record is a candidate.

    Raises:
        WindowError: if an area in lon/lat is not on the globe.
    """
    shapes: list[BaseGeometry] = []
    unplaced: dict[int, WindowError] = {}
    for position, area in enumerate(areas):
        try:
            shapes.append(area.lonlat())
        except WindowError as error:
            if area.crs == LONLAT:
                raise
            shapes.append(WORLD)
            unplaced[position] = error
    return shapes, unplaced


def has_lonlat(crs: str) -> bool:
    """Return whether a transformation leads from a CRS, as ``crs_name`` writes it, to the Earth's lon/lat."""
    try:
        transform_points(np.zeros(1), np.zeros(1), crs, LONLAT)
    except WindowError:
        return False
    return True


def keep_reached(
    records: Iterable[Record],
    crs_of: Callable[[int], str],
    unplaced: dict[int, WindowError],
    reaches: Callable[[int, str, Grid], bool],
) -> list[Record]:
    """Return the records whose raster an area meets, each with only the areas that meet it.

    Args:
        records: with the positions of the areas that meet their footprint, which all of ``unplaced`` do.
        crs_of: the CRS of the area at a position.
        unplaced: why areas cannot be brought to lon/lat, by position.
        reaches: tells whether the area at a position, brought to a CRS, meets a grid in it; raises WindowError if no
            transformation leads there.

    Raises:
        WindowError: one of ``unplaced``, if no record is left.
    """
    kept = []
    for record in records:
        # An area in the raster's own CRS needs no transformation, however the two CRSs are written.
        own = next((crs_of(one) for one in record.areas if one in unplaced and same_crs(crs_of(one), record.crs)), None)
        placed = record if own is None else replace(record, crs=own)
        areas = [one for one in record.areas if one not in unplaced or _meets(reaches, one, placed)]
        if areas:
            kept.append(replace(placed, areas=areas))
    if unplaced and not kept:
        raise next(iter(unplaced.values()))
    return kept


def _meets(reaches: Callable[[int, str, Grid], bool], position: int, record: Record) -> bool:
    try:
        return reaches(position, record.crs, record.finest.grid)
    except WindowError:
        return False


@functools.lru_cache(maxsize=256)
def same_crs(one: str, other: str) -> bool:
    """Return whether two CRSs give a place the same coordinates; datums are compared only where both are known.

    Args:
        one: a CRS as ``crs_name`` writes it.
        other: another.
    """
    if one == other:
        return True
    a, b = pyproj.CRS.from_user_input(one), pyproj.CRS.from_user_input(other)
    if a.equals(b, ignore_axis_order=True):
        return True
    # Two known datums, or a stated shift between datums, differ here, because a transformation depends on them.
    if a.is_bound or b.is_bound or not any("unknown" in crs.datum.name.lower() for crs in (a, b) if crs.datum):
        return False
    first, second = _numbers(a), _numbers(b)
    return first.keys() == second.keys() and all(
        math.isclose(value, second[name], rel_tol=_TOLERANCE, abs_tol=_TOLERANCE) for name, value in first.items()
    )


def _numbers(crs: pyproj.CRS) -> dict[str, float]:
    """Return the numbers that determine coordinates, by names that do not depend on how the CRS was written."""
    found = {f"axis {axis.direction}": axis.unit_conversion_factor for axis in crs.axis_info}
    if crs.ellipsoid is not None:
        found |= {"major": crs.ellipsoid.semi_major_metre, "inverse": crs.ellipsoid.inverse_flattening}
    if crs.prime_meridian is not None:
        found["meridian"] = crs.prime_meridian.longitude * float(crs.prime_meridian.unit_conversion_factor)
    operation = crs.coordinate_operation
    if operation is not None:
        found[operation.method_name.lower()] = 0.0
        found |= {one.name.lower(): float(one.value) * one.unit_conversion_factor for one in operation.params}
    return found
