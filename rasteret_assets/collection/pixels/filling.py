"""Fill planes: read their pixels, then give nodata to pixels outside the areas, and tell which pixels hold data."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import numpy as np

from rasteret_assets.collection.areas.grid import Grid, Window
from rasteret_assets.collection.areas.placing import covers_grid, placed_on
from rasteret_assets.collection.pixels.engine import Job, read_jobs
from rasteret_assets.collection.pixels.masks import Mask, is_nodata, outside_areas
from rasteret_assets.collection.pixels.planes import Plane, described_reads, plane_jobs
from rasteret_assets.collection.pixels.read_options import ReadOptions, ReadProgress
from rasteret_assets.collection.pixels.tile_plan import BandRead, plan_read
from rasteret_assets.errors import PixelReadError, RasteretAssetsError
from rasteret_assets.message_lists import failed_parts, list_failures
from rasteret_assets.progress import read_progress
from rasteret_assets.storage.backend import StorageBackend
from rasteret_assets.storage.process.processes import run_sync

_log = logging.getLogger(__name__)

#: Pixels that are masked at once, which bounds the memory of masks however large the view is.
_STRIP_PIXELS: Final = 4 * 1024 * 1024

#: Failures after which a read that is to raise stops: its error lists no more of them than people look at.
_MOST_FAILURES: Final = 100


def fill(planes: Sequence[Plane], bands: Sequence[str], backend: StorageBackend, options: ReadOptions) -> None:
    """Fill every pixel of ``planes``.

    Pixels outside the raster or the areas, pixels of nodata, and pixels that could not be read get the plane's value
    for pixels without data.

    Raises:
        RasteretAssetsError: the one failure of the read, or a PixelReadError that lists them all; with
            ``on_error="mask"`` they are logged.
    """
    for plane in planes:
        plane.pixels[...] = plane.empty
        if plane.valid is not None:
            plane.valid[...] = False
    run_jobs(plane_jobs(planes, bands, options), backend, options, lambda: described_reads(planes, bands, options))
    # Cached, because records of one grid share the mask of an area: a time series computes it once.
    outside = functools.lru_cache(maxsize=8)(functools.partial(outside_areas, all_touched=options.all_touched))
    for plane in planes:
        _mask(plane, outside)
        if options.scaled and plane.header is not None:
            plane.header.to_unit(plane.pixels)


def run_jobs(
    jobs: Iterable[Job],
    backend: StorageBackend,
    options: ReadOptions,
    described: Callable[[], Iterable[BandRead]],
) -> None:
    """Carry out jobs, and raise what failed, or log it with ``on_error="mask"``.

    Args:
        jobs: reads, with what is done with their pixels.
        backend: brings the bytes.
        options: how pixels are read.
        described: returns the reads of the jobs, so that their requests can be counted where progress is shown.

    Raises:
        RasteretAssetsError: the one failure of the reads, or a PixelReadError that lists them all.
    """
    most = _MOST_FAILURES if options.on_error == "raise" else None
    with _progress(options, described) as ended:
        reading = read_jobs(
            jobs, backend, max_concurrent=options.max_concurrent, most_failures=most, ended=ended
        )  # fmt: skip
        failures: list[RasteretAssetsError] = run_sync(reading)
    if not failures:
        return
    if options.on_error == "mask":
        _log.warning("masked: %s:%s", failed_parts(failures), list_failures(failures))
    elif len(failures) == 1:
        raise failures[0]
    else:
        raise PixelReadError(failures)


@contextmanager
def _progress(
    options: ReadOptions, described: Callable[[], Iterable[BandRead]]
) -> Iterator[Callable[[int], None] | None]:
    """Yield a function that takes the bytes of each request that has ended; None where no progress is shown."""
    if not options.progress:
        yield None
        return
    total = sum(len(plan_read(read).runs) for read in described())
    requests = size = 0

    with ExitStack() as stack:
        show = None if callable(options.progress) else stack.enter_context(read_progress())

        def ended(length: int) -> None:
            nonlocal requests, size
            requests, size = requests + 1, size + length
            if callable(options.progress):
                options.progress(ReadProgress(requests=requests, total=total, bytes=size))
            elif show is not None:
                show(requests, total, size)

        yield ended


def _mask(plane: Plane, outside: Callable[[tuple[Any, ...], str, Grid], Mask | None]) -> None:
    """Empty the pixels that no area covers, and find those that hold data, strip by strip."""
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
