"""Find the pixels that an area covers, by GDAL's two rules, and the pixels that equal nodata.

An area covers the pixels whose centre it holds, or (``all_touched``) all that it touches. Both rules work on the
outline in pixel coordinates, in which the pixel in column 3 spans 3 to 4.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry.base import BaseGeometry

from rasteret_assets.collection.areas.grid import Grid, Window
from rasteret_assets.collection.areas.placing import placed_on

Mask = npt.NDArray[np.bool_]
_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.intp]

#: Float32 pixels beyond +- this hold the type's largest or lowest value (3.4028235e38) and not a measurement. Writers
#: state that value with fewer digits in the nodata text than in the pixels ("-3.4e+38"), and GDAL takes both for equal.
_NEAR_LARGEST: Final = np.float32(3.4e38)

#: Ends of an edge this close to a border between pixels (in pixels) lie on it.
_ON_BORDER = 1e-4

#: Edges that extend less than this along one axis (in pixels) are straight: they stay in one column, or in one row.
_STRAIGHT = 0.01

#: Pieces of edges that are worked on at a time: few enough to stay in a processor's cache.
_PIECES = 1 << 16

#: Runs of pixels up to this long are set together, a pixel of each at a time; longer ones one by one.
_SHORT = 16


def covered(area: BaseGeometry, grid: Grid, window: Window, *, all_touched: bool = False) -> Mask:
    """Return which pixels of a window a polygon covers.

    Args:
        area: polygon or multipolygon in the CRS of the grid.
        grid: the raster's pixels.
        window: the pixels of the grid that are tested.
        all_touched: whether a pixel counts that the polygon only touches; else its centre must lie inside.

    Returns:
        Booleans of the window's shape.
    """
    edges = _edges(area, grid, window)
    mask = np.zeros(window.shape, dtype=bool)
    _fill_centres_inside(mask, edges)
    if all_touched:
        _fill_crossed(mask, edges)
    return mask


def outside_areas(areas: tuple[Any, ...], crs: str, grid: Grid, *, all_touched: bool) -> Mask:
    """Return which pixels of a grid no area covers, as booleans of its shape.

    Args:
        areas: :class:`Area` values, in any CRS.
        crs: CRS of ``grid``.
        grid: pixels that are tested.
        all_touched: as for :func:`covered`; a box covers all pixels that it touches.

    Raises:
        WindowError: if a part of an area cannot be brought to ``crs``.
    """
    inside = np.zeros((grid.height, grid.width), dtype=bool)
    for area in areas:
        shape = placed_on(area, crs, grid)
        if shape is None:
            continue
        if not area.is_box:
            inside |= covered(shape, grid, grid.whole, all_touched=all_touched)
            continue
        for part in shapely.get_parts(shape):
            if (window := grid.window(part.bounds)) is not None:
                inside[window.slices] = True
    return ~inside


def is_nodata(pixels: npt.NDArray[Any], nodata: np.number[Any]) -> Mask:
    """Return which pixels equal ``nodata``, which may be NaN, as booleans of the same shape."""
    if pixels.dtype == np.float32 and _NEAR_LARGEST <= abs(nodata) < np.inf:
        beyond: Mask = pixels <= -_NEAR_LARGEST if nodata < 0 else pixels >= _NEAR_LARGEST
        beyond &= np.isfinite(pixels)
        return beyond
    found: Mask = np.isnan(pixels) if np.isnan(nodata) else pixels == nodata
    return found


def _edges(area: BaseGeometry, grid: Grid, window: Window) -> _Floats:
    """Return the edges of all rings as (x0, y0, x1, y1) in pixels of the window, float64 of shape (n, 4)."""
    rings = shapely.get_rings(shapely.get_parts(area))
    points, ring = shapely.get_coordinates(rings, return_index=True)
    origin = np.array([grid.origin_x, grid.origin_y])
    pixels = (points - origin) / (grid.scale_x, grid.scale_y) - (window.col_off, window.row_off)
    edges: _Floats = np.hstack([pixels[:-1], pixels[1:]])
    of_one_ring: Mask = ring[1:] == ring[:-1]
    return edges[of_one_ring]


def _fill_centres_inside(mask: Mask, edges: _Floats) -> None:
    """Set the pixels whose centre lies inside, by an even-odd fill along the centre lines of rows.

    A centre right on an outline belongs to the polygon to its right, or below, so that neighbours never share a pixel.

    Args:
        mask: booleans of the window's shape; those of pixels inside are set.
        edges: float64 of shape (n, 4), in pixels.
    """
    rows, columns = mask.shape
    x0, y0, x1, y1 = np.where((edges[:, 1] > edges[:, 3])[:, None], edges[:, [2, 3, 0, 1]], edges).T
    # An edge crosses the rows whose centre lies in [y0, y1); level edges cross none.
    first = np.clip(np.ceil(y0 - 0.5), 0, rows).astype(np.intp)
    count = np.clip(np.ceil(y1 - 0.5), 0, rows).astype(np.intp) - first
    edge = np.repeat(np.arange(len(edges)), count)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    x = x0[edge] + (row + 0.5 - y0[edge]) * (x1[edge] - x0[edge]) / (y1[edge] - y0[edge])
    # Outlines close, so every row is crossed an even number of times: sorted, crossings 0, 2, 4 ... begin a run, and
    # 1, 3, 5 ... stop it. The end of a row and the begin of the next are one number, so either order gives the same.
    crossing = row * columns + np.clip(np.floor(x + 0.5), 0, columns).astype(np.intp)
    crossing.sort()
    _fill(mask, crossing[::2], crossing[1::2])


def _fill_crossed(mask: Mask, edges: _Floats) -> None:
    """Set the pixels that an edge runs through, as GDAL does, which follows an edge from left to right.

    Straight edges cover whole pixels of one column or row. A straight edge on a border between pixels sets none: the
    polygon covers the pixel beside it wholly, or has another edge in that pixel. Other edges are cut at the borders
    between rows.

    The pieces of edges take no more than 16 MB at a time, and each edge some numbers beside them.

    Args:
        mask: booleans of the window's shape; those of pixels crossed are set.
        edges: float64 of shape (n, 4), in pixels.
    """
    rows, columns = mask.shape
    x0, y0, x1, y1 = np.where((edges[:, 0] > edges[:, 2])[:, None], edges[:, [2, 3, 0, 1]], edges).T
    reaches = (x1 >= 0) & (x0 <= columns) & (np.maximum(y0, y1) >= 0) & (np.minimum(y0, y1) <= rows)
    x0, y0, x1, y1 = x0[reaches], y0[reaches], x1[reaches], y1[reaches]
    upright = (np.floor(x0) == np.floor(x1)) | (x1 - x0 < _STRAIGHT)
    level = ~upright & ((np.floor(y0) == np.floor(y1)) | (np.abs(y1 - y0) < _STRAIGHT))
    sloped = ~upright & ~level
    upright &= ~(_on_border(x0) & _on_border(x1))
    level &= ~(_on_border(y0) & _on_border(y1))
    _fill_upright(mask, x1[upright], np.minimum(y0, y1)[upright], np.maximum(y0, y1)[upright])
    _fill_level(mask, y0[level], x0[level], x1[level])
    _fill_sloped(mask, x0[sloped], y0[sloped], x1[sloped], y1[sloped])


def _on_border(value: _Floats) -> Mask:
    """Return whether coordinates lie on a border between pixels, as booleans of the same shape."""
    near: Mask = np.abs(value - np.rint(value)) < _ON_BORDER
    return near


def _fill_upright(mask: Mask, x: _Floats, top: _Floats, bottom: _Floats) -> None:
    """Set the pixels of edges that stay in one column. All arrays but the mask are in pixels, of shape (n,)."""
    rows, columns = mask.shape
    inside = (x >= 0) & (x < columns)
    column = x[inside].astype(np.intp)
    first = np.clip(np.floor(top[inside]), 0, rows).astype(np.intp)
    stop = np.clip(np.floor(bottom[inside] - _ON_BORDER) + 1, 0, rows).astype(np.intp)
    for edge, row in _pieces(first, stop):
        mask[row, column[edge]] = True


def _fill_level(mask: Mask, y: _Floats, left: _Floats, right: _Floats) -> None:
    """Set the pixels of edges that stay in one row. All arrays but the mask are in pixels, of shape (n,)."""
    rows, columns = mask.shape
    inside = (y >= 0) & (y < rows)
    before = y[inside].astype(np.intp) * columns
    first = np.clip(np.floor(left[inside]), 0, columns).astype(np.intp)
    stop = np.clip(np.floor(right[inside] - _ON_BORDER) + 1, 0, columns).astype(np.intp)
    _fill(mask, before + first, before + stop)


def _fill_sloped(mask: Mask, x0: _Floats, y0: _Floats, x1: _Floats, y1: _Floats) -> None:
    """Set the pixels of edges from left to right that are neither upright nor level. All ends are of shape (n,)."""
    rows, columns = mask.shape
    slope = (x1 - x0) / (y1 - y0)
    rises = y1 < y0
    top, bottom = np.minimum(y0, y1), np.maximum(y0, y1)
    # A rising edge that meets a border between rows counts as being in the row below, too.
    first = np.clip(np.floor(top), 0, rows).astype(np.intp)
    stop = np.clip(np.where(rises, np.floor(bottom) + 1, np.ceil(bottom)), 0, rows).astype(np.intp)
    end = np.ceil(x1)
    for edge, row in _pieces(first, stop):
        x, y, above, below, per_row = x0[edge], y0[edge], top[edge], bottom[edge], slope[edge]
        at_top = x + (np.maximum(row, above) - y) * per_row
        at_bottom = x + (np.minimum(row + 1, below) - y) * per_row
        up = rises[edge]
        begin = np.floor(np.where(up, at_bottom, at_top))
        # A rising edge that meets a border between columns counts as being in the column to the right, too, but no edge
        # reaches beyond the column of its right end.
        last = np.maximum(np.where(up, np.floor(at_top) + 1, np.ceil(at_bottom)), begin + 1)
        last = np.minimum(last, end[edge])
        before = row * columns
        left, right = (np.clip(column, 0, columns).astype(np.intp) for column in (begin, last))
        _fill(mask, before + left, before + right)


def _pieces(first: _Ints, stop: _Ints) -> Iterator[tuple[_Ints, _Ints]]:
    """Yield the numbers of edges and of the rows that they cross, a bounded number at a time.

    Args:
        first: first row of every edge, shape (n,).
        stop: the row after the last of every edge, shape (n,); at most ``first`` for an edge that crosses no row.

    Yields:
        Positions in ``first`` and rows, both of shape (at most ``_PIECES``,).
    """
    count = np.maximum(stop - first, 0)
    ends = np.cumsum(count)
    shift = first - (ends - count)
    total = int(ends[-1]) if len(ends) else 0
    for start in range(0, total, _PIECES):
        piece = np.arange(start, min(start + _PIECES, total))
        edge = np.searchsorted(ends, piece, side="right")
        yield edge, piece + shift[edge]


def _fill(mask: Mask, start: _Ints, stop: _Ints) -> None:
    """Set runs of pixels.

    Args:
        mask: booleans of the window's shape, without gaps in memory.
        start: where runs begin, counted through all rows, shape (n,).
        stop: where they stop, the first pixel that is not set; runs may be empty, and overlap.
    """
    pixels = mask.reshape(-1)
    length = stop - start
    is_long = length > _SHORT
    for begin, end in zip(start[is_long].tolist(), stop[is_long].tolist(), strict=True):
        pixels[begin:end] = True
    left = (length > 0) & ~is_long
    start, stop = start[left], stop[left]
    while len(start):
        pixels[start] = True
        start = start + 1
        left = start < stop
        start, stop = start[left], stop[left]
