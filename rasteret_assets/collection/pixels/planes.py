"""Planes (arrays for one band of one record), and the jobs that read their pixels.

Pixels are copied where the grids of file and plane coincide, and warped where they do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import shapely

from rasteret_assets.collection.areas.grid import Window
from rasteret_assets.collection.areas.placing import placed_on
from rasteret_assets.collection.pixels.band import BandHeader
from rasteret_assets.collection.pixels.engine import Job
from rasteret_assets.collection.pixels.read_options import ReadOptions
from rasteret_assets.collection.pixels.select import Record
from rasteret_assets.collection.pixels.tile_plan import BandRead, WindowTarget
from rasteret_assets.collection.pixels.views import View
from rasteret_assets.collection.pixels.warp import Regrid, choose_level, parts, pixel_ratio, warp

_Mask = npt.NDArray[np.bool_]

#: Areas, and pieces of one area, around which separate windows are read at most; of more a single window is read.
_MOST_PIECES: Final = 64
#: Takes the place of pixels in reads that are only described.
_NOWHERE: Final = np.zeros((0, 0), dtype=bool)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Plane:
    """One band of a view, and the array that its pixels go to.

    Args:
        view: the view.
        band: position of the band among those asked for.
        pixels: array of the view's shape, of the band's type or one that holds it.
        valid: booleans of the same shape, true for pixels that hold data; None where nobody needs them.
        fill: value of pixels without data; by default the band's nodata, or 0 if it has no nodata.
    """

    view: View
    band: int
    pixels: npt.NDArray[Any]
    valid: _Mask | None = None
    fill: np.number[Any] | float | None = None

    @property
    def header(self) -> BandHeader | None:
        """Header of the band; None if the index does not have it."""
        return self.view.record.headers[self.band]

    @property
    def empty(self) -> np.number[Any] | float:
        """Value of pixels without data."""
        if self.fill is not None:
            return self.fill
        return self.pixels.dtype.type(0) if self.header is None else self.header.fill


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Fetch:
    """A part of a plane, and the window of the file that it is made from.

    Args:
        plane: the plane.
        level: header of the band, or of an overview of it.
        window: pixels of the level's grid that are read.
        part: pixels of the plane's grid that are filled.
        how: the warp from the level to the plane; None where pixels are copied.
    """

    plane: Plane
    level: BandHeader
    window: Window
    part: Window
    how: Regrid | None

    @property
    def pixels(self) -> npt.NDArray[Any]:
        """Array of the part."""
        return self.plane.pixels[self.part.slices]

    @property
    def valid(self) -> _Mask | None:
        """Booleans of the part, true for pixels that hold data; None where nobody needs them."""
        return None if self.plane.valid is None else self.plane.valid[self.part.slices]

    @property
    def has_validity(self) -> bool:
        """Whether the read has to know which pixels hold data: for ``valid``, for ``fill``, or for the warp."""
        return self.how is not None or self.plane.valid is not None or self.plane.fill is not None

    @property
    def needs_mask(self) -> bool:
        """Whether the mask of the level has to be read too."""
        return self.has_validity and self.level.mask is not None


def _level(plane: Plane, header: BandHeader, options: ReadOptions) -> tuple[BandHeader, Regrid | None]:
    """Choose the band or an overview of it for a plane, and the warp; None where pixels are copied."""
    view, level = plane.view, header
    if options.reads_overviews and header.overviews:
        level = choose_level(header, _ratio(header, view))
    if view.crs == view.record.crs and level.grid.offset(view.grid) is not None:
        return level, None
    ratio = _ratio(level, view)
    return level, Regrid(source=view.record.crs, target=view.crs, resampling=options.resampling, ratio=ratio)


def _copies(plane: Plane, level: BandHeader) -> Iterator[_Fetch]:
    """Yield the copies that fill a plane, of the windows that the areas touch."""
    for wanted in _wanted(plane.view):
        if (shared := level.grid.shared(plane.view.grid.part(wanted))) is not None:
            window, part = shared
            yield _Fetch(plane=plane, level=level, window=window, part=part.shifted(wanted), how=None)


def _warps(plane: Plane, level: BandHeader, how: Regrid) -> Iterator[_Fetch]:
    """Yield the warps that fill a plane, of the windows that the areas touch, in parts of bounded memory."""
    for wanted in _wanted(plane.view):
        for part, window in parts(level, plane.view.grid.part(wanted), how):
            yield _Fetch(plane=plane, level=level, window=window, part=part.shifted(wanted), how=how)


def _wanted(view: View) -> list[Window]:
    """Return the windows of a view's grid that its areas touch: one around all areas, unless they lie far apart."""
    windows: list[Window] = []
    for _, area in view.areas:
        shape = placed_on(area, view.crs, view.grid)
        if shape is None:
            continue
        pieces = shapely.get_parts(shape)
        found = (view.grid.window(piece.bounds) for piece in (pieces if len(pieces) <= _MOST_PIECES else [shape]))
        windows += filter(None, found)
    if len(windows) < 2:
        return windows
    left, top = min(window.col_off for window in windows), min(window.row_off for window in windows)
    around = Window(
        col_off=left,
        row_off=top,
        width=max(window.col_off + window.width for window in windows) - left,
        height=max(window.row_off + window.height for window in windows) - top,
    )
    pixels = sum(window.width * window.height for window in windows)
    is_dense = 2 * pixels > around.width * around.height or len(windows) > _MOST_PIECES
    return [around] if is_dense else windows


def _together(planes: Iterable[Plane], options: ReadOptions) -> Iterator[list[_Fetch]]:
    """Yield the fetches that one job reads: all copies of one band of a record, which share tiles; then each warp.

    Parts of a warp are computed while they are consumed, because a large warp has thousands of them, and reading begins
    meanwhile.
    """
    copies: dict[tuple[Record, int, BandHeader], list[_Fetch]] = {}
    warped: list[tuple[Plane, BandHeader, Regrid]] = []
    for plane in planes:
        if plane.header is None:
            continue
        level, how = _level(plane, plane.header, options)
        if how is not None:
            warped.append((plane, level, how))
        else:
            copies.setdefault((plane.view.record, plane.band, level), []).extend(_copies(plane, level))
    yield from filter(None, copies.values())
    for plane, level, how in warped:
        for fetch in _warps(plane, level, how):
            yield [fetch]


def plane_jobs(planes: Sequence[Plane], bands: Sequence[str], options: ReadOptions) -> Iterator[Job]:
    """Yield the jobs that read the pixels of ``planes``, copies before warps."""
    for fetches in _together(planes, options):
        if fetches[0].how is None:
            yield _copying(fetches, bands)
        else:
            warping = _Warp(fetches[0], bands)
            yield Job(start=warping.start, finish=warping.finish, cost=warping.cost)


def described_reads(planes: Sequence[Plane], bands: Sequence[str], options: ReadOptions) -> Iterator[BandRead]:
    """Yield the reads that fill ``planes``, to be planned and counted; the arrays of the planes are not touched."""
    for fetches in _together(planes, options):
        level = fetches[0].level
        targets = [WindowTarget(window=fetch.window, pixels=_NOWHERE) for fetch in fetches]
        yield _band_read(fetches[0].plane, bands, level, targets)
        masks = [target for target, fetch in zip(targets, fetches, strict=True) if fetch.needs_mask]
        if level.mask is not None and masks:
            yield _band_read(fetches[0].plane, bands, level.mask, masks)


def _ratio(header: BandHeader, view: View) -> tuple[float, float]:
    """Return how many pixels of a band or an overview lie along a pixel of the view, across and down."""
    size = abs(view.grid.scale_x), abs(view.grid.scale_y)
    return pixel_ratio(header.grid, view.record.crs, view.crs, size)


def _band_read(plane: Plane, bands: Sequence[str], level: BandHeader, targets: Sequence[WindowTarget]) -> BandRead:
    record = plane.view.record
    return BandRead(
        record=record.id, band=bands[plane.band], href=record.hrefs[plane.band], header=level, targets=targets
    )  # fmt: skip


def _copying(fetches: Sequence[_Fetch], bands: Sequence[str]) -> Job:
    """Return the job that copies windows of one band of a record."""
    level, plane = fetches[0].level, fetches[0].plane
    with_validity: list[_Fetch] = []
    plain: list[_Fetch] = []
    for fetch in fetches:
        (with_validity if fetch.has_validity and level.is_transparent else plain).append(fetch)
    targets = [WindowTarget(window=fetch.window, pixels=fetch.pixels, valid=fetch.valid) for fetch in plain]
    hidden: list[tuple[_Fetch, _Mask, _Mask | None]] = []

    def start() -> list[BandRead]:
        masks = []
        for fetch in with_validity:
            valid = np.zeros(fetch.window.shape, dtype=bool) if fetch.valid is None else fetch.valid
            opaque = None if level.mask is None else np.zeros(fetch.window.shape, dtype=bool)
            hidden.append((fetch, valid, opaque))
            targets.append(WindowTarget(window=fetch.window, pixels=fetch.pixels, valid=valid))
            if opaque is not None:
                masks.append(WindowTarget(window=fetch.window, pixels=opaque))
        reads = [_band_read(plane, bands, level, targets)]
        if level.mask is not None and masks:
            reads.append(_band_read(plane, bands, level.mask, masks))
        return reads

    def finish() -> None:
        for fetch, valid, opaque in hidden:
            if opaque is not None:
                np.logical_and(valid, opaque, out=valid)
            np.copyto(fetch.pixels, fetch.plane.empty, where=~valid)
        hidden.clear()

    if not with_validity:
        return Job(start=start)
    return Job(
        start=start, finish=finish, cost=3 * sum(fetch.window.width * fetch.window.height for fetch in with_validity)
    )


class _Warp:
    """The warp of one part of a plane from a window of the band.

    Args:
        fetch: the part, and the window.
        bands: names of the bands.
    """

    def __init__(self, fetch: _Fetch, bands: Sequence[str]) -> None:
        self.fetch = fetch
        self.bands = bands
        size, window, part = fetch.level.dtype.itemsize, fetch.window, fetch.part
        # Bytes: the source, its copy in a wider type, GDAL's working copy, validity with the mask; the result twice.
        self.cost = (5 * size + 3) * window.width * window.height + 4 * size * part.width * part.height
        self.pixels: npt.NDArray[Any] | None = None
        self.valid: _Mask | None = None
        self.opaque: _Mask | None = None

    def start(self) -> list[BandRead]:
        """Allocate the window, and return the reads of its pixels and of its mask."""
        fetch, level = self.fetch, self.fetch.level
        self.pixels = np.full(fetch.window.shape, level.fill, dtype=level.sample_type)
        self.valid = np.zeros(fetch.window.shape, dtype=bool)
        target = WindowTarget(window=fetch.window, pixels=self.pixels, valid=self.valid)
        reads = [_band_read(fetch.plane, self.bands, level, [target])]
        if level.mask is not None:
            self.opaque = np.zeros(fetch.window.shape, dtype=bool)
            mask = WindowTarget(window=fetch.window, pixels=self.opaque)
            reads.append(_band_read(fetch.plane, self.bands, level.mask, [mask]))
        return reads

    def finish(self) -> None:
        """Warp the window into the plane."""
        fetch = self.fetch
        if self.pixels is None or self.valid is None or fetch.how is None:
            return
        if self.opaque is not None:
            np.logical_and(self.valid, self.opaque, out=self.valid)
        grid, target = fetch.level.grid.part(fetch.window), fetch.plane.view.grid.part(fetch.part)
        pixels, there = warp(self.pixels, self.valid, grid, target, fetch.how, nodata=fetch.level.marker)
        self.pixels = self.valid = self.opaque = None
        np.copyto(fetch.pixels, pixels, where=there, casting="same_kind")
        if fetch.valid is not None:
            fetch.valid[...] = there
