"""Which pixels an area covers, by GDAL's rules: those whose centre it holds, or all that it touches.

Both work on the outline in pixel coordinates, where the pixel (row, column) spans one unit from its own number.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry.base import BaseGeometry

from rasteret_assets.collection.areas.grid import Grid, Window

Mask = npt.NDArray[np.bool_]
_Floats = npt.NDArray[np.float64]


def covered(area: BaseGeometry, grid: Grid, window: Window, *, all_touched: bool = False) -> Mask:
    """Pixels of a window that a polygon covers.

    Args:
        area: polygon or multipolygon in the CRS of the grid.
        grid: the raster's pixels.
        window: the ones asked about.
        all_touched: whether a pixel counts that the polygon only touches; else its centre must lie inside.

    Returns:
        Booleans of the window's shape.
    """
    edges = _edges(area, grid, window)
    mask = _centres_inside(edges, window.shape)
    if all_touched:
        mask |= _crossed(edges, window.shape)
    return mask


def _edges(area: BaseGeometry, grid: Grid, window: Window) -> _Floats:
    """Edges of all rings as (x0, y0, x1, y1) in pixels of the window, shape (n, 4)."""
    rings = shapely.get_rings(shapely.get_parts(area))
    points, ring = shapely.get_coordinates(rings, return_index=True)
    origin = np.array([grid.origin_x, grid.origin_y])
    pixels = (points - origin) / (grid.scale_x, grid.scale_y) - (window.col_off, window.row_off)
    edges: _Floats = np.hstack([pixels[:-1], pixels[1:]])
    of_one_ring: Mask = ring[1:] == ring[:-1]
    return edges[of_one_ring]


def _centres_inside(edges: _Floats, shape: tuple[int, int]) -> Mask:
    """Even-odd fill between the places where edges cross the lines through the centres of rows.

    A centre right on an outline belongs to the polygon to its right, or below, so that neighbours never share a pixel.
    """
    rows, columns = shape
    x0, y0, x1, y1 = np.where((edges[:, 1] > edges[:, 3])[:, None], edges[:, [2, 3, 0, 1]], edges).T
    # An edge crosses the rows whose centre lies in [y0, y1); level edges cross none.
    first = np.clip(np.ceil(y0 - 0.5), 0, rows).astype(np.intp)
    count = np.clip(np.ceil(y1 - 0.5), 0, rows).astype(np.intp) - first
    edge = np.repeat(np.arange(len(edges)), count)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    x = x0[edge] + (row + 0.5 - y0[edge]) * (x1[edge] - x0[edge]) / (y1[edge] - y0[edge])
    # Outlines close, so every row is crossed an even number of times: spans begin at the even ones and end at the odd.
    order = np.lexsort((x, row))
    column = np.clip(np.floor(x[order] + 0.5), 0, columns).astype(np.intp)
    # Begins and ends alternate, so no sum of them leaves [-1, 1]: a byte holds it.
    steps = np.zeros((rows, columns + 1), dtype=np.int8)
    np.add.at(steps, (row[order], column), np.where(np.arange(len(column)) % 2, -1, 1).astype(np.int8))
    return np.cumsum(steps[:, :columns], axis=1, dtype=np.int8).view(np.bool_)


def _crossed(edges: _Floats, shape: tuple[int, int]) -> Mask:
    """Pixels whose inside an edge runs through.

    Cut at every border between pixels, an edge falls into pieces that lie in one pixel each. Pieces along a border are
    left out: the polygon covers the pixel beside them wholly, or shows in it with another edge.
    """
    rows, columns = shape
    mask = np.zeros(shape, dtype=bool)
    for x0, y0, x1, y1 in edges:
        cuts = [np.array([0.0, 1.0])]
        for start, end, size in ((x0, x1, columns), (y0, y1, rows)):
            low, high = sorted((start, end))
            borders = np.arange(max(np.ceil(low), 0), min(np.floor(high), size) + 1)
            if start != end:
                cuts.append(np.clip((borders - start) / (end - start), 0, 1))
        along = np.unique(np.concatenate(cuts))
        middle = (along[:-1] + along[1:]) / 2
        x, y = x0 + middle * (x1 - x0), y0 + middle * (y1 - y0)
        on_border = (x0 == x1 and x0 == np.floor(x0)) or (y0 == y1 and y0 == np.floor(y0))
        kept = (x >= 0) & (x < columns) & (y >= 0) & (y < rows) & (not on_border)
        mask[y[kept].astype(np.intp), x[kept].astype(np.intp)] = True
    return mask
