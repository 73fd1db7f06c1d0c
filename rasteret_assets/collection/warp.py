"""Rasters on other grids, by GDAL's warp: which source pixels that takes, and the warp itself.

What comes out is what ``rasterio.vrt.WarpedVRT`` gives for the same grid. Only this module talks to rasterio, which is
an optional package.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from rasteret_assets.collection.extras import optional
from rasteret_assets.collection.header import BandHeader
from rasteret_assets.collection.options import KERNELS
from rasteret_assets.collection.reproject import transform_bounds
from rasteret_assets.collection.window import Grid, Window

#: Source pixels that are read beside a window. GDAL approximates the transform to an eighth of a pixel, and kernels
#: take their width from the size of the window they are given: only where all it asks for is there, pixels come out as
#: they do from the whole raster.
_MARGIN = 3
_KERNEL_MARGIN = 32
_KERNELS = frozenset({"bilinear", "cubic", "cubic_spline", "lanczos", "sum"})

#: Bytes of source pixels that one warp may take; larger grids are warped in parts, as GDAL does for itself, and with
#: the same consequence: in each part the transform is approximated anew, to an eighth of a source pixel.
_MOST_BYTES = 8 * 1024 * 1024
_SMALLEST_PART = 256

_PURPOSE = "reading on another grid (target_crs, resolution, allow_resample)"


def suggest_resolution(grid: Grid, source: str, target: str) -> float:
    """Size of a square pixel in ``target`` that keeps the detail of a grid, as GDAL suggests it."""
    warp = optional("rasterio.warp", purpose=_PURPOSE)
    transform, _, _ = warp.calculate_default_transform(
        _crs(source), _crs(target), grid.width, grid.height, *grid.bounds
    )
    return float(abs(transform.a))


def choose_level(header: BandHeader, source: str, grid: Grid, target: str) -> BandHeader:
    """The band itself, or its coarsest overview that is no coarser than ``grid``."""
    if not header.overviews:
        return header
    ratio = _pixel_ratio(header, source, grid, target)
    best = header
    for level in header.overviews:
        # The coarser of both axes: a strip of one pixel stays as wide in every overview.
        factor = max(
            abs(level.grid.scale_x / header.grid.scale_x),
            abs(level.grid.scale_y / header.grid.scale_y),
        )
        # As in GDAL, an overview that is a hair too coarse still serves.
        if factor <= ratio * 1.01:
            best = level
    return best


def _pixel_ratio(header: BandHeader, source: str, grid: Grid, target: str) -> float:
    """Pixels of the band along one pixel of ``grid``."""
    bounds = transform_bounds(grid.bounds, target, source)
    if bounds is None:
        return 1.0
    return min(
        (bounds[2] - bounds[0]) / grid.width / abs(header.grid.scale_x),
        (bounds[3] - bounds[1]) / grid.height / abs(header.grid.scale_y),
    )


def source_window(header: BandHeader, source: str, grid: Grid, target: str, resampling: str) -> Window | None:
    """The pixels of a band that those of ``grid`` are made of; None where it does not reach the grid."""
    bounds = transform_bounds(grid.bounds, target, source)
    if bounds is None:
        return header.grid.whole  # part of the grid has no place in the source's CRS: GDAL sorts it out
    scale_x, scale_y = abs(header.grid.scale_x), abs(header.grid.scale_y)
    across = (bounds[2] - bounds[0]) / grid.width / scale_x
    down = (bounds[3] - bounds[1]) / grid.height / scale_y
    reach, margin = KERNELS[resampling], _KERNEL_MARGIN if resampling in _KERNELS else _MARGIN
    x = scale_x * (math.ceil(reach * max(across, 1)) + margin)
    y = scale_y * (math.ceil(reach * max(down, 1)) + margin)
    return header.grid.window((bounds[0] - x, bounds[1] - y, bounds[2] + x, bounds[3] + y))


def parts(header: BandHeader, source: str, grid: Grid, target: str, resampling: str) -> Iterator[tuple[Window, Window]]:
    """The grid in parts that take little memory each: a window of it, and the window of the band that it takes."""
    waiting = [grid.whole]
    while waiting:
        part = waiting.pop()
        window = source_window(header, source, grid.part(part), target, resampling)
        if window is None:
            continue
        size = window.width * window.height * header.dtype.itemsize
        if size <= _MOST_BYTES or max(part.width, part.height) <= _SMALLEST_PART:
            yield part, window
        else:
            waiting.extend(_halves(part))


def _halves(window: Window) -> list[Window]:
    if window.width > window.height:
        columns = window.width // 2
        left = replace(window, width=columns)
        return [left, replace(window, col_off=window.col_off + columns, width=window.width - columns)]
    rows = window.height // 2
    upper = replace(window, height=rows)
    return [upper, replace(window, row_off=window.row_off + rows, height=window.height - rows)]


def warp(
    pixels: npt.NDArray[Any], grid: Grid, crs: str, target_grid: Grid, target: str, *, nodata: Any, resampling: str
) -> npt.NDArray[Any]:
    """Pixels on another grid.

    Args:
        pixels: array of the shape of ``grid``.
        grid: where they lie.
        crs: CRS of ``grid``.
        target_grid: where they are wanted.
        target: CRS of ``target_grid``.
        nodata: value of pixels without data, before and after; None where all pixels have data.
        resampling: GDAL's name of the method.

    Returns:
        Array of the shape of ``target_grid`` and the type of ``pixels``; nodata, or 0 without one, beyond ``grid``.
    """
    rasterio = optional("rasterio", purpose=_PURPOSE)
    vrt = optional("rasterio.vrt", purpose=_PURPOSE)
    # GDAL has no half floats.
    work = pixels.astype(np.float32) if pixels.dtype == np.float16 else pixels
    profile = {
        "driver": "GTiff", "width": grid.width, "height": grid.height, "count": 1, "dtype": work.dtype,
        "crs": _crs(crs), "transform": rasterio.Affine(*grid.affine),
        "nodata": None if nodata is None else nodata.item(),
    }  # fmt: skip
    # Not ``reproject``, which gives its kernels another width: pixels would come out different.
    with rasterio.MemoryFile() as memory:
        with memory.open(**profile) as dataset:
            dataset.write(work, 1)
        with (
            memory.open() as dataset,
            vrt.WarpedVRT(
                dataset,
                crs=_crs(target),
                transform=rasterio.Affine(*target_grid.affine),
                width=target_grid.width,
                height=target_grid.height,
                resampling=rasterio.enums.Resampling[resampling],
            ) as warped,
        ):
            out: npt.NDArray[Any] = warped.read(1)
    return out.astype(pixels.dtype, copy=False)


def _crs(name: str) -> Any:
    return optional("rasterio", purpose=_PURPOSE).crs.CRS.from_user_input(name)
