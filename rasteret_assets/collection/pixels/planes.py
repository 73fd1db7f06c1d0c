"""Arrays filled with the pixels of views: copied where grids coincide, warped where they do not, then masked."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from rasteret_assets.collection.areas.grid import Grid, Window
from rasteret_assets.collection.areas.mask import covered
from rasteret_assets.collection.areas.placing import covers_grid, placed_on
from rasteret_assets.collection.pixels.band import BandHeader
from rasteret_assets.collection.pixels.engine import Job, read_jobs
from rasteret_assets.collection.pixels.options import ReadOptions
from rasteret_assets.collection.pixels.plan import BandRead, WindowTarget
from rasteret_assets.collection.pixels.select import Record
from rasteret_assets.collection.pixels.views import View
from rasteret_assets.collection.pixels.warp import Regrid, choose_level, parts, pixel_ratio, warp
from rasteret_assets.errors import PixelReadError, RasteretAssetsError, failed_parts, list_failures
from rasteret_assets.storage.aio import run_sync
from rasteret_assets.storage.backend import StorageBackend

_log = logging.getLogger(__name__)

_Mask = npt.NDArray[np.bool_]

#: Pixels that are masked at once: what masks of large views take in memory.
_STRIP_PIXELS = 4 * 1024 * 1024

#: A read that is to raise is not gone on with beyond so many failures.
_MOST_FAILURES = 100

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
        fill: value of pixels that hold no data; the band's nodata, or 0 without one, when omitted.
    """

    view: View
    band: int
    pixels: npt.NDArray[Any]
    valid: _Mask | None = None
    fill: Any = None

    @property
    def header(self) -> BandHeader | None:
        """Header of the band; None where the index has none."""
        return self.view.record.headers[self.band]

    @property
    def empty(self) -> Any:
        """Value of pixels that hold no data."""
        if self.fill is not None:
            return self.fill
        return self.pixels.dtype.type(0) if self.header is None else self.header.fill


def fill(planes: Sequence[Plane], bands: Sequence[str], backend: StorageBackend, options: ReadOptions) -> None:
    """Fill every pixel of ``planes``.

    Pixels outside the raster or the areas, nodata, and pixels that could not be read hold no data: they get the value
    that the plane has for these.

    Raises:
        RasteretAssetsError: the one failure of the read, or a PixelReadError that lists them all; with
            ``on_error="mask"`` they are logged.
    """
    for plane in planes:
        plane.pixels[...] = plane.empty
        if plane.valid is not None:
            plane.valid[...] = False
    read(_jobs(planes, bands, options), backend, options)
    # Records of one grid see an area alike: a time series needs its mask once.
    outside = functools.lru_cache(maxsize=8)(functools.partial(_outside, all_touched=options.all_touched))
    for plane in planes:
        _mask(plane, outside)


def read(jobs: Iterable[Job], backend: StorageBackend, options: ReadOptions) -> None:
    """Do some reads, and raise what failed, or log it where it is to be masked.

    Raises:
        RasteretAssetsError: the one failure of the reads, or a PixelReadError that lists them all.
    """
    most = _MOST_FAILURES if options.on_error == "raise" else None
    reading = read_jobs(jobs, backend, max_concurrent=options.max_concurrent, most_failures=most)
    failures: list[RasteretAssetsError] = run_sync(reading)
    if not failures:
        return
    if options.on_error == "mask":
        _log.warning("masked: %s:%s", failed_parts(failures), list_failures(failures))
    elif len(failures) == 1:
        raise failures[0]
    else:
        raise PixelReadError(failures)


def _jobs(planes: Sequence[Plane], bands: Sequence[str], options: ReadOptions) -> Iterator[Job]:
    """Copies of one band of a record together, since they share tiles; then warps, each by itself."""
    copies: dict[tuple[Record, int, BandHeader], list[_Copy]] = {}
    warped: list[tuple[Plane, BandHeader]] = []
    for plane in planes:
        view = plane.view
        if plane.header is None:
            continue
        level = plane.header
        if options.reads_overviews and level.overviews:
            level = choose_level(level, _ratio(level, view))
        if view.crs != view.record.crs or level.grid.offset(view.grid) is None:
            warped.append((plane, level))
        elif (shared := level.grid.shared(view.grid)) is not None:
            window, place = shared
            copies.setdefault((view.record, plane.band, level), []).append(_Copy(plane, window, place))
    for (record, band, level), together in copies.items():
        yield _copying(record, band, bands, level, together)
    for plane, level in warped:
        yield from _warps(plane, bands, level, options.resampling)


@dataclass(frozen=True, slots=True, eq=False)
class _Copy:
    """A window of a band, or of an overview of it, whose pixels are those of a part of a plane."""

    plane: Plane
    window: Window
    place: Window

    @property
    def pixels(self) -> npt.NDArray[Any]:
        return self.plane.pixels[self.place.slices]

    @property
    def valid(self) -> _Mask | None:
        return None if self.plane.valid is None else self.plane.valid[self.place.slices]

    @property
    def is_told(self) -> bool:
        """Whether pixels without data are told from others, here or by the value they have."""
        return self.plane.valid is not None or self.plane.fill is not None


def _copying(
    record: Record, band: int, bands: Sequence[str], level: BandHeader, copies: Sequence[_Copy]
) -> Job:  # fmt: skip
    """The job of copies of one band of a record, on the grid of ``level``."""
    plain = [copy for copy in copies if not (copy.is_told and level.is_transparent)]
    told = [copy for copy in copies if copy.is_told and level.is_transparent]
    targets = [WindowTarget(window=copy.window, pixels=copy.pixels, valid=copy.valid) for copy in plain]
    hidden: list[tuple[_Copy, _Mask, _Mask | None]] = []

    def start() -> list[BandRead]:
        masks = []
        for copy in told:
            valid = np.zeros(copy.window.shape, dtype=bool) if copy.valid is None else copy.valid
            opaque = None if level.mask is None else np.zeros(copy.window.shape, dtype=bool)
            hidden.append((copy, valid, opaque))
            targets.append(WindowTarget(window=copy.window, pixels=copy.pixels, valid=valid))
            if opaque is not None:
                masks.append(WindowTarget(window=copy.window, pixels=opaque))
        reads = [_band_read(record, band, bands, level, targets)]
        if level.mask is not None and masks:
            reads.append(_band_read(record, band, bands, level.mask, masks))
        return reads

    def finish() -> None:
        for copy, valid, opaque in hidden:
            if opaque is not None:
                np.logical_and(valid, opaque, out=valid)
            np.copyto(copy.pixels, copy.plane.empty, where=~valid)
        hidden.clear()

    if not told:
        return Job(start=start)
    return Job(start=start, finish=finish, cost=3 * sum(copy.window.width * copy.window.height for copy in told))


def _ratio(header: BandHeader, view: View) -> tuple[float, float]:
    """Pixels of a band, or an overview, along a pixel of the view."""
    size = abs(view.grid.scale_x), abs(view.grid.scale_y)
    return pixel_ratio(header.grid, view.record.crs, view.crs, size)


def _band_read(
    record: Record, band: int, bands: Sequence[str], level: BandHeader, targets: Sequence[WindowTarget]
) -> BandRead:
    return BandRead(record=record.id, band=bands[band], href=record.hrefs[band], header=level, targets=targets)


def _warps(plane: Plane, bands: Sequence[str], level: BandHeader, resampling: str) -> Iterator[Job]:
    view = plane.view
    how = Regrid(source=view.record.crs, target=view.crs, resampling=resampling, ratio=_ratio(level, view))
    for part, window in parts(level, view.grid, how):
        warping = _Warp(plane=plane, bands=bands, level=level, part=part, window=window, how=how)
        yield Job(start=warping.start, finish=warping.finish, cost=warping.cost)


class _Warp:
    """A part of a plane that is warped from a window of the band.

    Args:
        plane: what is filled.
        bands: names of the bands.
        level: header of the band or of its overview.
        part: of the plane's grid.
        window: of the level's grid.
        how: pixels of the level become those of the plane.
    """

    def __init__(
        self, *, plane: Plane, bands: Sequence[str], level: BandHeader, part: Window, window: Window, how: Regrid
    ) -> None:
        self.plane = plane
        self.bands = bands
        self.level = level
        self.part = part
        self.window = window
        self.how = how
        # Source, a copy of it in a wider type, GDAL's working copy, and validity with the mask; the result twice.
        source = (5 * level.dtype.itemsize + 3) * window.width * window.height
        self.cost = source + 4 * level.dtype.itemsize * part.width * part.height
        self.pixels: npt.NDArray[Any] | None = None
        self.valid: _Mask | None = None
        self.opaque: _Mask | None = None

    def start(self) -> list[BandRead]:
        """Make room for the window and ask for its pixels."""
        self.pixels = np.full(self.window.shape, self.level.fill, dtype=self.level.sample_type)
        self.valid = np.zeros(self.window.shape, dtype=bool)
        record, band = self.plane.view.record, self.plane.band
        target = WindowTarget(window=self.window, pixels=self.pixels, valid=self.valid)
        reads = [_band_read(record, band, self.bands, self.level, [target])]
        if self.level.mask is not None:
            self.opaque = np.zeros(self.window.shape, dtype=bool)
            mask = WindowTarget(window=self.window, pixels=self.opaque)
            reads.append(_band_read(record, band, self.bands, self.level.mask, [mask]))
        return reads

    def finish(self) -> None:
        """Warp the window into the plane."""
        if self.pixels is None or self.valid is None:
            return
        view, plane = self.plane.view, self.plane
        if self.opaque is not None:
            np.logical_and(self.valid, self.opaque, out=self.valid)
        pixels, there = warp(
            self.pixels, self.valid, self.level.grid.part(self.window), view.grid.part(self.part), self.how,
            nodata=self.level.marker,
        )  # fmt: skip
        self.pixels = self.valid = self.opaque = None
        np.copyto(plane.pixels[self.part.slices], pixels, where=there, casting="same_kind")
        if plane.valid is not None:
            plane.valid[self.part.slices] = there


def _mask(plane: Plane, outside: Callable[[tuple[Any, ...], str, Grid], _Mask | None]) -> None:
    """Empty what the areas do not cover, and find the pixels that hold data, strip by strip."""
    view, header = plane.view, plane.header
    if header is None:
        return
    areas = tuple(area for _, area in view.areas)
    shape = placed_on(areas[0], view.crs, view.grid) if len(areas) == 1 else None
    whole = shape is not None and covers_grid(areas[0], shape, view.grid)
    nodata = header.marker if plane.valid is not None or plane.fill is not None else None
    if whole and plane.valid is None and nodata is None:
        return
    rows = max(_STRIP_PIXELS // view.grid.width, 1)
    for first in range(0, view.grid.height, rows):
        strip = Window(col_off=0, row_off=first, width=view.grid.width, height=min(rows, view.grid.height - first))
        pixels = plane.pixels[strip.slices]
        hidden = None if whole else outside(areas, view.crs, view.grid.part(strip))
        absent = None if nodata is None else is_nodata(pixels, nodata)
        if hidden is not None:
            np.copyto(pixels, plane.empty, where=hidden)
        if absent is not None and plane.fill is not None:
            np.copyto(pixels, plane.fill, where=absent)
        if plane.valid is not None:
            valid = plane.valid[strip.slices]
            if hidden is not None:
                valid &= ~hidden
            if absent is not None:
                valid &= ~absent


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
