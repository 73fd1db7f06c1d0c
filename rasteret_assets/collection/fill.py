"""Arrays filled with the pixels of views: copied where grids coincide, warped where they do not, then masked."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rasteret_assets.collection.header import BandHeader
from rasteret_assets.collection.mask import covered
from rasteret_assets.collection.options import ReadOptions
from rasteret_assets.collection.plan import BandRead, WindowTarget
from rasteret_assets.collection.read import Job, read_jobs
from rasteret_assets.collection.records import Record
from rasteret_assets.collection.reproject import reproject
from rasteret_assets.collection.views import View, area_bounds, reads_whole
from rasteret_assets.collection.warp import choose_level, parts, warp
from rasteret_assets.collection.window import Grid, Window
from rasteret_assets.errors import PixelReadError, RasteretAssetsError, describe
from rasteret_assets.storage.aio import run_sync
from rasteret_assets.storage.backend import StorageBackend

_log = logging.getLogger(__name__)

_Mask = npt.NDArray[np.bool_]

#: Pixels that are masked at once: what masks of large views take in memory.
_STRIP_PIXELS = 4 * 1024 * 1024

#: Float32 pixels beyond this hold no measurement but its largest or lowest value, which writers state with fewer digits
#: in the nodata text than in the pixels ("-3.4e+38"). GDAL takes such neighbours for equal too.
_NEAR_LARGEST = np.float32(3.4e38)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Plane:
    """One band of a view, and where its pixels go.

    Args:
        view: the view.
        band: position of the band among those asked for.
        pixels: array of the view's shape, of the band's type or one that holds it.
        valid: booleans of the same shape that tell which pixels hold data; None where nobody asks.
    """

    view: View
    band: int
    pixels: npt.NDArray[Any]
    valid: _Mask | None = None

    @property
    def header(self) -> BandHeader:
        """Of the band."""
        return self.view.record.headers[self.band]


def fill(planes: Sequence[Plane], bands: Sequence[str], backend: StorageBackend, options: ReadOptions) -> None:
    """Fill every pixel of ``planes``: what no raster holds, no area covers or nothing brings becomes nodata.

    Raises:
        RasteretAssetsError: the one failure of the read, or a PixelReadError that lists them all; with
            ``on_error="mask"`` they are logged.
    """
    for plane in planes:
        plane.pixels[...] = plane.header.fill
        if plane.valid is not None:
            plane.valid[...] = False
    failures = run_sync(read_jobs(_jobs(planes, bands, options), backend, max_concurrent=options.max_concurrent))
    tell(failures, options)
    # Records of one grid see an area alike: a time series needs its mask once.
    outside = functools.lru_cache(maxsize=8)(functools.partial(_outside, all_touched=options.all_touched))
    for plane in planes:
        _mask(plane, outside)


def tell(failures: Sequence[RasteretAssetsError], options: ReadOptions) -> None:
    """Raise what failed, or log it where it is to be masked."""
    if not failures:
        return
    if options.on_error == "mask":
        for failure in failures:
            _log.warning("masked: %s", describe(failure))
    elif len(failures) == 1:
        raise failures[0]
    else:
        raise PixelReadError(failures)


def _jobs(planes: Sequence[Plane], bands: Sequence[str], options: ReadOptions) -> Iterator[Job]:
    """Copies of one band of a record together, since they share tiles; then warps, each by itself."""
    copies: dict[tuple[Record, int, BandHeader], list[WindowTarget]] = {}
    warped: list[tuple[Plane, BandHeader]] = []
    for plane in planes:
        view = plane.view
        level = choose_level(plane.header, view.record.crs, view.grid, view.crs)
        if view.crs != view.record.crs or level.grid.offset(view.grid) is None:
            warped.append((plane, level))
        elif (shared := level.grid.shared(view.grid)) is not None:
            window, place = shared
            valid = None if plane.valid is None else plane.valid[place.slices]
            if valid is not None:
                valid[...] = True
            target = WindowTarget(window=window, pixels=plane.pixels[place.slices], valid=valid)
            copies.setdefault((view.record, plane.band, level), []).append(target)
    for (record, band, level), targets in copies.items():
        read = _band_read(record, band, bands, level, targets)
        yield Job(start=functools.partial(list, [read]))
    for plane, level in warped:
        yield from _warps(plane, bands, level, options.resampling)


def _band_read(
    record: Record, band: int, bands: Sequence[str], level: BandHeader, targets: Sequence[WindowTarget]
) -> BandRead:
    return BandRead(record=record.id, band=bands[band], href=record.hrefs[band], header=level, targets=targets)


def _warps(plane: Plane, bands: Sequence[str], level: BandHeader, resampling: str) -> Iterator[Job]:
    view = plane.view
    for part, window in parts(level, view.record.crs, view.grid, view.crs, resampling):
        warping = _Warp(plane=plane, bands=bands, level=level, part=part, window=window, resampling=resampling)
        yield Job(start=warping.start, finish=warping.finish, cost=warping.cost)


class _Warp:
    """A part of a plane that is warped from a window of the band.

    Args:
        plane: what is filled.
        bands: names of the bands.
        level: header of the band or of its overview.
        part: of the plane's grid.
        window: of the level's grid.
        resampling: GDAL's name of the method.
    """

    def __init__(
        self, *, plane: Plane, bands: Sequence[str], level: BandHeader, part: Window, window: Window, resampling: str
    ) -> None:
        self.plane = plane
        self.bands = bands
        self.level = level
        self.part = part
        self.window = window
        self.resampling = resampling
        # Source, its file in memory, GDAL's cache of that and GDAL's working copy; the result twice.
        self.cost = level.dtype.itemsize * (4 * window.width * window.height + 2 * part.width * part.height)
        self.pixels: npt.NDArray[Any] | None = None
        self.valid: _Mask | None = None

    def start(self) -> list[BandRead]:
        """Make room for the window and ask for its pixels."""
        self.pixels = np.full(self.window.shape, self.level.fill, dtype=self.level.sample_type)
        if self.plane.valid is not None:
            self.valid = np.ones(self.window.shape, dtype=bool)
        target = WindowTarget(window=self.window, pixels=self.pixels, valid=self.valid)
        return [_band_read(self.plane.view.record, self.plane.band, self.bands, self.level, [target])]

    def finish(self) -> None:
        """Warp the window into the plane."""
        if self.pixels is not None:
            self.plane.pixels[self.part.slices] = self._warp(self.pixels, self.level.nodata, self.resampling)
        if self.valid is not None and self.plane.valid is not None:
            valid = self._warp(self.valid.view(np.uint8), None, "nearest")
            self.plane.valid[self.part.slices] = valid.astype(bool)
        self.pixels = self.valid = None

    def _warp(self, pixels: npt.NDArray[Any], nodata: Any, resampling: str) -> npt.NDArray[Any]:
        view = self.plane.view
        source = self.level.grid.part(self.window)
        target = view.grid.part(self.part)
        return warp(pixels, source, view.record.crs, target, view.crs, nodata=nodata, resampling=resampling)


def _mask(plane: Plane, outside: Callable[[tuple[Any, ...], str, Grid], _Mask | None]) -> None:
    """Set what the areas do not cover to nodata, and find the pixels that hold data, strip by strip."""
    view, header = plane.view, plane.header
    areas = tuple(area for _, area in view.areas)
    whole = len(areas) == 1 and reads_whole(areas[0], view.crs)
    if whole and plane.valid is None:
        return
    rows = max(_STRIP_PIXELS // view.grid.width, 1)
    for first in range(0, view.grid.height, rows):
        strip = Window(col_off=0, row_off=first, width=view.grid.width, height=min(rows, view.grid.height - first))
        pixels = plane.pixels[strip.slices]
        hidden = None if whole else outside(areas, view.crs, view.grid.part(strip))
        if hidden is not None:
            np.copyto(pixels, header.fill, where=hidden)
        if plane.valid is not None:
            valid = plane.valid[strip.slices]
            if hidden is not None:
                valid &= ~hidden
            if header.nodata is not None:
                valid &= ~is_nodata(pixels, header.nodata)


def is_nodata(pixels: npt.NDArray[Any], nodata: Any) -> _Mask:
    """Pixels that equal ``nodata``, which may be NaN."""
    if pixels.dtype == np.float32 and _NEAR_LARGEST <= abs(nodata) < np.inf:
        beyond: _Mask = pixels <= -_NEAR_LARGEST if nodata < 0 else pixels >= _NEAR_LARGEST
        beyond &= np.isfinite(pixels)
        return beyond
    found: _Mask = np.isnan(pixels) if np.isnan(nodata) else pixels == nodata
    return found


def _outside(areas: tuple[Any, ...], crs: str, grid: Grid, *, all_touched: bool) -> _Mask:
    """Pixels of a grid that no area covers."""
    inside = np.zeros((grid.height, grid.width), dtype=bool)
    for area in areas:
        if not reads_whole(area, crs):
            inside |= covered(reproject(area.geometry, area.crs, crs), grid, grid.whole, all_touched=all_touched)
        elif (window := grid.window(area_bounds(area, crs))) is not None:
            inside[window.slices] = True
    return ~inside
