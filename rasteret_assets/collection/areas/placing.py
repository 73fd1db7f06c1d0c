"""Bring areas to rasters: to the raster's CRS, and to the longitudes that the raster has."""

from __future__ import annotations

import functools
import math

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry.base import BaseGeometry

from rasteret_assets.collection.areas.area import Area
from rasteret_assets.collection.areas.grid import Grid
from rasteret_assets.collection.areas.reproject import rectangles, reproject, reproject_box, tear_of
from rasteret_assets.errors import WindowError
from rasteret_assets.sphere import ROUNDING, cut_at_antimeridian

#: Part of the plane's width by which two equal edges may differ in rounding.
_ROUNDING = 1e-10


@functools.lru_cache(maxsize=1024)
def placed(area: Area, crs: str) -> BaseGeometry:
    """Bring an area to a CRS: a box as the upright rectangle, or rectangles, around it; a polygon as a polygon.

    Raises:
        WindowError: if a part of the area cannot be brought to ``crs``.
    """
    return (reproject_box if area.is_box else reproject)(area.geometry, area.crs, crs)


def placed_on(area: Area, crs: str, grid: Grid) -> BaseGeometry | None:
    """Bring an area to the longitudes of a grid: a raster of 0..360, or of 175..185, has longitude -179 at 181.

    Args:
        area: the area.
        crs: CRS of ``grid``.
        grid: of a raster, or of a part of one.

    Returns:
        The area's shape in ``crs``; None if the grid's columns hold no part of an area that goes around the world.

    Raises:
        WindowError: if a part of the area cannot be brought to ``crs``.
    """
    shape = placed(area, crs)
    tear = tear_of(crs)
    if tear is None or tear.period is None:
        return shape
    period, (west, _, east, _) = tear.period, grid.bounds
    first, _, last, _ = shape.bounds
    near = _ROUNDING * period
    turns = range(math.ceil((west - last + near) / period), math.floor((east - first - near) / period) + 1)
    if turns == range(1) and last - first < period / 2:
        return shape
    parts = [
        shapely.transform(part, lambda xy, turn=turn: xy + np.array([turn * period, 0.0])) if turn else part  # type: ignore[misc]
        for turn in turns
        for part in shapely.get_parts(shape)
        if part.bounds[2] + turn * period > west + near and part.bounds[0] + turn * period < east - near
    ]
    if not parts:
        return None
    together = parts[0] if len(parts) == 1 else shapely.union_all(parts)
    return rectangles(together) if area.is_box else together


def covers_grid(area: Area, shape: BaseGeometry, grid: Grid) -> bool:
    """Return whether an area is a box that holds all pixels of a grid, so that no pixel is masked."""
    return area.is_box and shape.geom_type == "Polygon" and grid.window(shape.bounds) == grid.whole


def turned_points(x: npt.NDArray[np.float64], crs: str, grid: Grid) -> npt.NDArray[np.float64]:
    """Move points beside a grid by whole turns around the world to the longitudes of the grid.

    Args:
        x: of the points, in ``crs``; float64 ``[N]``.
        crs: CRS of ``grid``.
        grid: of a raster.

    Returns:
        x of the moved points, float64 ``[N]``; ``x`` itself if the plane of ``crs`` does not go around the world.
    """
    tear = tear_of(crs)
    if tear is None or tear.period is None:
        return x
    west, _, east, _ = grid.bounds
    with np.errstate(invalid="ignore"):
        beside = (x < west) | (x >= east)
        if not beside.any():
            return x
        return np.where(beside, x + tear.period * np.ceil((west - x) / tear.period), x)


def check_target(area: Area, target: str) -> None:
    """Refuse a target CRS whose plane is torn where the area lies: the grid would go around the world.

    Raises:
        WindowError: with the meridian at which the plane is torn, and what to do.
    """
    tear = tear_of(target)
    if tear is None:
        return
    west = tear.longitude
    (shape,) = cut_at_antimeridian(np.array([area.lonlat()], dtype=object), west=west)
    spans = shapely.bounds(shapely.get_parts(shape))[:, ::2]
    at_west, at_east = spans[:, 0] <= west + ROUNDING, spans[:, 1] >= west + 360 - ROUNDING
    if at_west.any() and at_east.any() and not (at_west & at_east).any():
        name = "the antimeridian (longitude 180)" if abs(west) == 180 else f"longitude {west:g}"
        raise WindowError(
            f"the area lies on both sides of {name}, which target_crs={target[:40]!r} has at both ends of its plane: "
            "a grid of it would go around the world. Choose a target_crs that goes on there (such as the UTM zone "
            "of the rasters), or read both sides in separate calls"
        )
