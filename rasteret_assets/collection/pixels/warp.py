"""Warp rasters to other grids with GDAL: find the source pixels of a target grid, and warp them.

The value of a pixel depends on the target grid and on the file, and on nothing else: neither on the area that is asked
for, nor on the parts in which a large area is warped, nor on the chunks of a lazy cube. Two defaults of GDAL would make
it depend on the window that is warped: the width of kernels, which is therefore stated (``XSCALE`` and ``YSCALE``), and
the approximation of the transform between two CRSs, which is therefore exact. The result equals
``rasterio.vrt.WarpedVRT`` of the whole raster with these options. Only this module uses rasterio to warp; rasterio is
an optional package.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from rasteret_assets.collection.areas.grid import Grid, Window
from rasteret_assets.collection.areas.reproject import transform_bounds, transform_points
from rasteret_assets.collection.extras import optional
from rasteret_assets.collection.pixels.band import BandHeader
from rasteret_assets.collection.pixels.read_options import KERNELS

if TYPE_CHECKING:
    from rasterio.crs import CRS

_Mask = npt.NDArray[np.bool_]

#: Source pixels that are read beyond the reach of the kernel.
_MARGIN: Final = 3
#: Target pixels that are warped beyond those asked for, because GDAL finds the source pixels of a window by its outline
#: and leaves out some at its edges. Sums of few pixels need more, because GDAL spreads them from each source pixel.
_BORDER: Final = 2
_BORDER_OF_SUMS: Final = 8
#: Source pixels beyond a target grid: more than GDAL reads for sums.
_BEYOND: Final = 32
#: Source pixels by which transformed coordinates may be off: GDAL's ``tolerance``. Not 0, which means GDAL's default.
_TOLERANCE: Final = 1e-9

#: Bytes of source pixels that one warp may take; a grid that needs more is warped in parts.
_MOST_BYTES: Final = 4 * 1024 * 1024

#: Methods whose results are pixels of the file; all others compute new values.
_CHOOSING: Final = frozenset({"nearest", "mode", "max", "min", "med", "q1", "q3"})
#: Wider types of integers, so that a value that no pixel has can mark pixels that are not valid.
_WIDER: Final[dict[str, Any]] = {
    "i1": np.int16, "u1": np.int16, "i2": np.int32, "u2": np.int32, "i4": np.float64, "u4": np.float64,
}  # fmt: skip
#: Types in which values are computed, because sums that end in a half would be rounded by the last bit of coordinates.
_COMPUTED: Final[dict[str, Any]] = {
    "i1": np.float32, "u1": np.float32, "i2": np.float32, "u2": np.float32, "i4": np.float64, "u4": np.float64,
}  # fmt: skip

_PURPOSE: Final = "reading on another grid (target_crs, resolution, allow_resample)"


def suggest_resolution(grid: Grid, source: str, target: str) -> float:
    """Return the size of a square pixel in ``target`` that keeps the detail of a grid, as GDAL suggests it.

    Args:
        grid: pixels in ``source``.
        source: CRS of ``grid``.
        target: CRS of the result.

    Raises:
        MissingExtraError: if rasterio is not installed.
    """
    warp = optional("rasterio.warp", extra="warp", purpose=_PURPOSE)
    transform, _, _ = warp.calculate_default_transform(
        _crs(source), _crs(target), grid.width, grid.height, *grid.bounds
    )
    return float(abs(transform.a))


@dataclass(frozen=True, kw_only=True, slots=True)
class Regrid:
    """The warp of a band, or of an overview of it, to a target grid.

    Args:
        source: CRS of the band.
        target: CRS of the grid.
        resampling: GDAL's name of the method.
        ratio: pixels of the band along a target pixel, across and down, as :func:`pixel_ratio` gives them.
    """

    source: str
    target: str
    resampling: str
    ratio: tuple[float, float]

    @property
    def border(self) -> int:
        """Target pixels that are warped beyond those asked for, on every side."""
        return max(_BORDER, math.ceil(_BORDER_OF_SUMS / max(*self.ratio, 1))) if self.resampling == "sum" else _BORDER

    @property
    def scale(self) -> dict[str, float]:
        """GDAL's options ``XSCALE`` and ``YSCALE``: the size of a source pixel divided by that of a target pixel.

        Kernels are not narrower than a source pixel. Sums have no kernel, but GDAL draws a line beyond the grid, twice
        this many target pixels away. It may take a source pixel on that line for one that the antimeridian tears apart,
        and add it to whole rows. For sums the line therefore lies where no source pixel is read.
        """
        if self.resampling == "sum":
            across, down = (max(1.0, _BEYOND / 2 / ratio) for ratio in self.ratio)
        else:
            across, down = (min(1.0, 1 / ratio) for ratio in self.ratio)
        return {"XSCALE": across, "YSCALE": down}


@functools.lru_cache(maxsize=4096)
def pixel_ratio(raster: Grid, source: str, target: str, resolution: tuple[float, float]) -> tuple[float, float]:
    """Return how many pixels of a raster lie along a target pixel, across and down.

    The ratio is taken in the middle of the raster and not of an area, so that the overview that is read, and the width
    of kernels, are the same for every area. It is 1 where no place of the raster has coordinates in ``target``.

    Args:
        raster: the whole grid of the file.
        source: CRS of the raster.
        target: CRS of the target.
        resolution: width and height of a target pixel in units of ``target``.
    """
    width, height = resolution
    if source == target:
        return width / abs(raster.scale_x), height / abs(raster.scale_y)
    west, south, east, north = raster.bounds
    # The middle first; if it has no coordinates in the target, any other place of a coarse lattice.
    shares = np.array([0.5, 0.25, 0.75, 0.1, 0.9])
    x, y = (axis.ravel() for axis in np.meshgrid(west + shares * (east - west), south + shares * (north - south)))
    places = np.column_stack(transform_points(x, y, source, target))
    for x0, y0 in places[np.isfinite(places).all(axis=1)].tolist():
        box = (x0 - width / 2, y0 - height / 2, x0 + width / 2, y0 + height / 2)
        if (found := transform_bounds(box, target, source)) is not None:
            return (found[2] - found[0]) / abs(raster.scale_x), (found[3] - found[1]) / abs(raster.scale_y)
    return 1.0, 1.0


def choose_level(header: BandHeader, ratio: tuple[float, float]) -> BandHeader:
    """Return the band itself, or its coarsest overview that is no coarser than the target.

    Args:
        header: of the band.
        ratio: pixels of the band along a target pixel, as :func:`pixel_ratio` gives them.
    """
    best = header
    for level in header.overviews:
        # By the coarser of both axes, because a strip one pixel wide keeps its width in every overview.
        factor = max(
            abs(level.grid.scale_x / header.grid.scale_x),
            abs(level.grid.scale_y / header.grid.scale_y),
        )
        # An overview up to 1 % too coarse is read too, as in GDAL.
        if factor <= min(ratio) * 1.01:
            best = level
    return best


def source_window(header: BandHeader, grid: Grid, how: Regrid) -> Window | None:
    """Return the window of a band that ``grid`` is warped from; None if the band does not reach the grid.

    Args:
        header: of the band, or of the overview that is read.
        grid: target pixels.
        how: the warp.
    """
    wider = grid.grown(how.border)
    bounds = transform_bounds(wider.bounds, how.target, how.source)
    if bounds is None:
        # The whole band, because part of the grid has no coordinates in the source's CRS; GDAL leaves that part out.
        return header.grid.whole
    scale_x, scale_y = abs(header.grid.scale_x), abs(header.grid.scale_y)
    across = max((bounds[2] - bounds[0]) / wider.width / scale_x, how.ratio[0], 1)
    down = max((bounds[3] - bounds[1]) / wider.height / scale_y, how.ratio[1], 1)
    x = scale_x * (math.ceil(KERNELS[how.resampling] * across) + _MARGIN)
    y = scale_y * (math.ceil(KERNELS[how.resampling] * down) + _MARGIN)
    return header.grid.window((bounds[0] - x, bounds[1] - y, bounds[2] + x, bounds[3] + y))


def parts(header: BandHeader, grid: Grid, how: Regrid) -> Iterator[tuple[Window, Window]]:
    """Yield parts of a grid that take bounded memory: a window of the grid, and the window of the band that it needs.

    Args:
        header: of the band, or of the overview that is read.
        grid: target pixels.
        how: the warp.
    """
    waiting = [grid.whole]
    while waiting:
        part = waiting.pop()
        window = source_window(header, grid.part(part), how)
        if window is None:
            continue
        size = window.width * window.height * header.dtype.itemsize
        if size <= _MOST_BYTES or max(part.width, part.height) == 1:
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
    pixels: npt.NDArray[Any], valid: _Mask, grid: Grid, target_grid: Grid, how: Regrid, *, nodata: np.number[Any] | None
) -> tuple[npt.NDArray[Any], _Mask]:
    """Return pixels on another grid, and which of them are made from valid pixels.

    Args:
        pixels: array of the shape of ``grid``; it may be changed.
        valid: true for pixels that were read.
        grid: of ``pixels``.
        target_grid: of the result.
        how: the warp.
        nodata: value of pixels without data; None if every pixel that was read holds data.

    Returns:
        An array of the shape of ``target_grid`` and the type of ``pixels``, with nodata (0 if it is None) where pixels
        are not valid, and booleans of that shape.

    Raises:
        MissingExtraError: if rasterio is not installed.
    """
    rasterio = optional("rasterio", extra="warp", purpose=_PURPOSE)
    vrt = optional("rasterio.vrt", extra="warp", purpose=_PURPOSE)
    work, marker = _marked(pixels, valid, nodata, how.resampling)
    border = how.border
    wider = target_grid.grown(border)
    profile = {
        "driver": "GTiff", "width": grid.width, "height": grid.height, "count": 1, "dtype": work.dtype,
        "crs": _crs(how.source), "transform": rasterio.Affine(*grid.affine), "nodata": marker.item(),
    }  # fmt: skip
    # Not ``rasterio.warp.reproject``, because it always approximates the transform to an eighth of a pixel.
    with rasterio.MemoryFile() as memory:
        with memory.open(**profile) as dataset:
            dataset.write(work, 1)
        with (
            memory.open() as dataset,
            vrt.WarpedVRT(
                dataset,
                crs=_crs(how.target),
                transform=rasterio.Affine(*wider.affine),
                width=wider.width,
                height=wider.height,
                resampling=rasterio.enums.Resampling[how.resampling],
                tolerance=_TOLERANCE,
                **how.scale,
            ) as warped,
        ):
            out: npt.NDArray[Any] = warped.read(1)[border:-border, border:-border]
    there: _Mask = ~np.isnan(out) if np.isnan(marker) else out != marker
    return _native(out, there, pixels.dtype, nodata), there


def _marked(
    pixels: npt.NDArray[Any], valid: _Mask, nodata: np.number[Any] | None, resampling: str
) -> tuple[npt.NDArray[Any], np.number[Any]]:  # fmt: skip
    """Return pixels in a type that GDAL warps, with one value in all pixels that are not valid, and this value."""
    kind = pixels.dtype
    if kind == np.float16:  # because GDAL before 3.11 has no half floats
        pixels, kind = pixels.astype(np.float32), np.dtype(np.float32)
    wider = _COMPUTED.get(kind.str[1:])
    if resampling in _CHOOSING:
        wider = _WIDER.get(kind.str[1:]) if nodata is None else None
    if wider is not None:
        absent = ~valid if nodata is None else ~valid | (pixels == nodata)
        pixels = pixels.astype(wider)
        marker = pixels.dtype.type(np.nan if pixels.dtype.kind == "f" else np.iinfo(wider).min)
        pixels[absent] = marker
        return pixels, marker
    if nodata is not None:
        marker = kind.type(nodata)
    elif kind.kind == "f":
        marker = np.finfo(kind).min
    else:
        marker = _unused(pixels)
    pixels[~valid] = marker
    return pixels, marker


def _unused(pixels: npt.NDArray[Any]) -> np.number[Any]:
    """Return a value of a type of 64 bits that no pixel has."""
    limits, taken = np.iinfo(pixels.dtype), set(np.unique(pixels).tolist())
    unused: np.number[Any] = pixels.dtype.type(
        next(value for value in range(limits.max, limits.min, -1) if value not in taken)
    )
    return unused


def _native(
    out: npt.NDArray[Any], there: _Mask, kind: np.dtype[Any], nodata: np.number[Any] | None
) -> npt.NDArray[Any]:
    """Return warped pixels in the file's type, with nodata, or 0 if there is no nodata, where they are not valid."""
    if out.dtype != kind:
        if kind.kind in "iu":
            limits = np.iinfo(kind)
            out = np.where(there, out, 0)
            if out.dtype.kind == "f":
                out = np.floor(out + 0.5)  # because GDAL rounds halves up
            out = np.clip(out, limits.min, limits.max)
        out = out.astype(kind)
    if nodata is not None:
        _avoid(out, nodata)
    out[~there] = 0 if nodata is None else nodata
    return out


def _avoid(out: npt.NDArray[Any], nodata: np.number[Any]) -> None:
    """Change pixels that equal nodata to the next value of their type, as GDAL does to pixels with data."""
    if np.isnan(nodata):
        return
    low = np.finfo(out.dtype).min if out.dtype.kind == "f" else np.iinfo(out.dtype).min
    below = nodata > low
    if out.dtype.kind == "f":
        neighbour = np.nextafter(out.dtype.type(nodata), out.dtype.type(-np.inf if below else np.inf))
    else:
        neighbour = out.dtype.type(int(nodata) + (-1 if below else 1))
    out[out == nodata] = neighbour


def _crs(name: str) -> CRS:
    return optional("rasterio", extra="warp", purpose=_PURPOSE).crs.CRS.from_user_input(name)
