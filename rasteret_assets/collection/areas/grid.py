"""Pixel grids, and windows of them. Columns and rows count from 0 at the first stored pixel."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from rasteret_assets.errors import WindowError

#: Edges this close to a pixel's border (in pixels) lie on it, because reprojection is not exact to the last digit.
_SNAP = 1e-6

#: Two grids coincide if their pixels are this close (in pixels), because origins are written with few digits.
_COINCIDE = 1e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """A block of pixels.

    Args:
        col_off: first column.
        row_off: first row.
        width: number of columns, at least 1.
        height: number of rows, at least 1.
    """

    col_off: int
    row_off: int
    width: int
    height: int

    def __post_init__(self) -> None:
        if self.col_off < 0 or self.row_off < 0 or self.width < 1 or self.height < 1:
            raise WindowError(f"{self} is not a window: offsets count from 0, and a window holds at least one pixel")

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and of columns."""
        return self.height, self.width

    @property
    def slices(self) -> tuple[slice, slice]:
        """Slices of rows and columns, to index an array."""
        rows = slice(self.row_off, self.row_off + self.height)
        return rows, slice(self.col_off, self.col_off + self.width)

    def overlap(self, other: Window) -> Window | None:
        """Return the pixels that both windows have; None if they share no pixel."""
        left, top = max(self.col_off, other.col_off), max(self.row_off, other.row_off)
        right = min(self.col_off + self.width, other.col_off + other.width)
        bottom = min(self.row_off + self.height, other.row_off + other.height)
        if left >= right or top >= bottom:
            return None
        return Window(col_off=left, row_off=top, width=right - left, height=bottom - top)

    def within(self, outer: Window) -> Window:
        """Return this window counted from the first pixel of ``outer``, which holds it."""
        return Window(
            col_off=self.col_off - outer.col_off,
            row_off=self.row_off - outer.row_off,
            width=self.width,
            height=self.height,
        )

    def shifted(self, outer: Window) -> Window:
        """Return this window, which counts from the first pixel of ``outer``, in the numbers of ``outer``."""
        return replace(self, col_off=self.col_off + outer.col_off, row_off=self.row_off + outer.row_off)

    def tiles(self, tile_width: int, tile_height: int) -> Iterator[tuple[int, int]]:
        """Yield (row, column) of every tile that the window touches, row by row."""
        rows = range(self.row_off // tile_height, (self.row_off + self.height - 1) // tile_height + 1)
        columns = range(self.col_off // tile_width, (self.col_off + self.width - 1) // tile_width + 1)
        return ((row, column) for row in rows for column in columns)


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """An upright pixel grid: x = origin_x + column * scale_x, y = origin_y + row * scale_y at a pixel's first corner.

    Args:
        width: columns.
        height: rows.
        scale_x: width of a pixel in units of the CRS, not 0.
        scale_y: height of a pixel, negative where rows run southward.
        origin_x: x of the outer corner of the first pixel.
        origin_y: y of the same corner.
    """

    width: int
    height: int
    scale_x: float
    scale_y: float
    origin_x: float
    origin_y: float

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1 or not self.scale_x or not self.scale_y:
            raise WindowError(
                f"{self} is not a pixel grid: it needs a width and height of at least 1, and scales other than 0"
            )

    def window(self, bounds: tuple[float, float, float, float]) -> Window | None:
        """Return the pixels that (xmin, ymin, xmax, ymax) touches, clipped to the grid; None if it touches no pixel.

        Bounds that are a point or a line touch the pixels that hold them.
        """
        xmin, ymin, xmax, ymax = bounds
        columns = _span((xmin - self.origin_x) / self.scale_x, (xmax - self.origin_x) / self.scale_x, self.width)
        rows = _span((ymin - self.origin_y) / self.scale_y, (ymax - self.origin_y) / self.scale_y, self.height)
        if columns is None or rows is None:
            return None
        return Window(col_off=columns[0], row_off=rows[0], width=columns[1], height=rows[1])

    @property
    def whole(self) -> Window:
        """Window of all pixels."""
        return Window(col_off=0, row_off=0, width=self.width, height=self.height)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(xmin, ymin, xmax, ymax) of the outer corners."""
        x = [self.origin_x, self.origin_x + self.width * self.scale_x]
        y = [self.origin_y, self.origin_y + self.height * self.scale_y]
        return min(x), min(y), max(x), max(y)

    @property
    def affine(self) -> tuple[float, float, float, float, float, float]:
        """Coefficients (a, b, c, d, e, f) of x = a column + b row + c, y = d column + e row + f, as ``Affine`` has."""
        return self.scale_x, 0.0, self.origin_x, 0.0, self.scale_y, self.origin_y

    @property
    def centres(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Centres of the pixels: x of every column, ``[columns]``, and y of every row, ``[rows]``."""
        columns, rows = np.arange(self.width, dtype=np.float64), np.arange(self.height, dtype=np.float64)
        return self.origin_x + (columns + 0.5) * self.scale_x, self.origin_y + (rows + 0.5) * self.scale_y

    def part(self, window: Window) -> Grid:
        """Return the grid of the pixels of a window."""
        return replace(
            self,
            width=window.width,
            height=window.height,
            origin_x=self.origin_x + window.col_off * self.scale_x,
            origin_y=self.origin_y + window.row_off * self.scale_y,
        )

    def grown(self, pixels: int) -> Grid:
        """Return the grid with ``pixels`` more pixels on every side."""
        return replace(
            self,
            width=self.width + 2 * pixels,
            height=self.height + 2 * pixels,
            origin_x=self.origin_x - pixels * self.scale_x,
            origin_y=self.origin_y - pixels * self.scale_y,
        )

    def offset(self, other: Grid) -> tuple[int, int] | None:
        """Return (columns, rows) from the first pixel to that of ``other``; None if pixels do not coincide."""
        # Scales have to agree so well that the far corner of the larger grid is off by less than the tolerance.
        span = max(self.width, self.height, other.width, other.height)
        for own, foreign in ((self.scale_x, other.scale_x), (self.scale_y, other.scale_y)):
            if abs(foreign / own - 1) * span > _COINCIDE:
                return None
        column = (other.origin_x - self.origin_x) / self.scale_x
        row = (other.origin_y - self.origin_y) / self.scale_y
        if abs(column - round(column)) > _COINCIDE or abs(row - round(row)) > _COINCIDE:
            return None
        return round(column), round(row)

    def shared(self, other: Grid) -> tuple[Window, Window] | None:
        """Return the pixels that two coinciding grids share, as a window of this grid and a window of ``other``.

        None if the grids share no pixel, or do not coincide.
        """
        offset = self.offset(other)
        if offset is None:
            return None
        left, top = max(offset[0], 0), max(offset[1], 0)
        right = min(offset[0] + other.width, self.width)
        bottom = min(offset[1] + other.height, self.height)
        if left >= right or top >= bottom:
            return None
        own = Window(col_off=left, row_off=top, width=right - left, height=bottom - top)
        return own, replace(own, col_off=left - offset[0], row_off=top - offset[1])


def _span(one: float, other: float, size: int) -> tuple[int, int] | None:
    """Return first and number of the pixels that lie at least partly between two positions; None if there are none.

    Args:
        one: position in pixels.
        other: position in pixels, on either side of ``one``.
        size: number of pixels of the grid, to which the result is clipped.
    """
    low, high = sorted((one, other))
    first = math.floor(low + _SNAP)
    last = max(math.ceil(high - _SNAP), first + 1)
    first, last = max(first, 0), min(last, size)
    return (first, last - first) if first < last else None
