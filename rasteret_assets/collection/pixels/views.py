"""Choose the pixels that are read of each record: grids that hold the areas, on the rasters' own pixels or new ones."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from rasteret_assets.collection.areas.area import Area
from rasteret_assets.collection.areas.grid import Grid
from rasteret_assets.collection.areas.placing import check_target, placed, placed_on
from rasteret_assets.collection.pixels.band import BandHeader
from rasteret_assets.collection.pixels.read_options import ReadOptions
from rasteret_assets.collection.pixels.select import Record
from rasteret_assets.collection.pixels.warp import suggest_resolution
from rasteret_assets.errors import WindowError

Bounds = tuple[float, float, float, float]

#: Most pixels of a target grid that is read at once: 4 GB of 16 bits, 46 340 pixels square. A grid that is read piece
#: by piece may have more: 8 TB of 16 bits, above which dask's graph of 128 MB chunks is too large to be handled.
MOST_PIXELS: Final = 2**31
MOST_LAZY_PIXELS: Final = 2**42

#: Pixels up to which a cube may be nearly empty. A larger cube may have at most ``_MOST_EMPTY`` times the pixels of its
#: areas.
_SMALL: Final = 2**22
_MOST_EMPTY: Final = 16

#: Edges this close to a multiple of the resolution (in pixels) lie on it.
_SNAP = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class View:
    """The pixels that are read of a record.

    Args:
        record: the record.
        areas: the areas that meet the record, each with its position among all areas.
        crs: CRS of the grid.
        grid: pixels that hold the areas, the same for all bands.
    """

    record: Record
    areas: Sequence[tuple[int, Area]]
    crs: str
    grid: Grid

    @classmethod
    def of_grid(cls, record: Record, crs: str, grid: Grid) -> View:
        """Return the view of all pixels of a grid."""
        return cls(record=record, areas=[(0, Area.of_bounds(grid.bounds, crs))], crs=crs, grid=grid)


def choose_views(
    records: Sequence[Record],
    areas: Sequence[Area],
    bands: Sequence[str],
    options: ReadOptions,
) -> list[View]:
    """Choose one view for every record and area that meets its raster, record by record.

    Args:
        records: in order.
        areas: all areas of interest.
        bands: names of the bands.
        options: how pixels are read.

    Raises:
        WindowError: if no area meets a raster; if bands lie on different grids and the options choose no grid; if a
            grid of ``target_crs`` or ``resolution`` has too many pixels, or would go around the world because
            ``target_crs`` ends at the antimeridian, where the area lies on both sides of it.
    """
    if not options.regrids and not options.allow_resample:
        for record in records:
            check_one_grid(record, bands)
    if options.target_crs is not None and options.grid is None:
        foreign = [record for record in records if record.crs != options.target_crs]
        for position in sorted({position for record in foreign for position in record.areas}):
            check_target(areas[position], options.target_crs)
    if options.target_crs is not None and options.resolution is None:
        options = replace(options, resolution=_common_resolution(records, areas, options.target_crs))
    anchors: dict[str, Grid] = {}
    for record in records:
        anchors.setdefault(record.crs, record.finest.grid)
    if options.grid is not None:
        check_size(options.grid, options.target_crs or "", MOST_LAZY_PIXELS)
    views = [
        View(record=record, areas=[(position, areas[position])], crs=crs, grid=grid)
        for record in records
        for position in record.areas
        for crs, grid in _grids(record, areas[position], options, anchors)
    ]
    if not views:
        raise WindowError(
            f"{len(records)} records have a footprint that meets the area, but none of their rasters does: check the "
            "footprints in the record table"
        )
    if options.resolution is not None and options.grid is None:
        _check_largest(views, MOST_LAZY_PIXELS)
    return views


def check_one_grid(record: Record, bands: Sequence[str]) -> None:
    """Refuse a record whose bands lie on different grids.

    Raises:
        WindowError: with both bands, and what to do.
    """
    present = [(band, header) for band, header in zip(bands, record.headers, strict=True) if header is not None]
    first_band, first_header = present[0]
    first = first_header.grid
    for band, header in present:
        if header.grid.offset(first) != (0, 0) or header.grid.whole != first.whole:
            raise WindowError(
                f"record {record.id!r}: band {band!r} ({_grid_text(header)}) and band {first_band!r} "
                f"({_grid_text(first_header)}) have different grids: read them in separate calls, or bring them "
                "to one grid with allow_resample=True or resolution="
            )


def _grid_text(header: BandHeader) -> str:
    grid = header.grid
    return f"{grid.width} x {grid.height} pixels of {abs(grid.scale_x):g} x {abs(grid.scale_y):g} in {header.crs}"


def _grids(record: Record, area: Area, options: ReadOptions, anchors: Mapping[str, Grid]) -> Iterator[tuple[str, Grid]]:
    """Yield the CRS and grid of an area in a record, or nothing if the raster does not meet the area."""
    grid = record.finest.grid
    shape = placed_on(area, record.crs, grid)
    window = None if shape is None else grid.window(shape.bounds)
    if shape is None or window is None:
        return
    if options.resolution is None:
        yield record.crs, grid.part(window)
        return
    crs = options.target_crs or record.crs
    if options.grid is not None:
        yield crs, options.grid
        return
    if crs != record.crs:
        shape = placed(area, crs)
    yield crs, aligned_grid(shape.bounds, options.resolution, anchors.get(crs))


def check_memory(views: Sequence[View]) -> None:
    """Refuse views on chosen grids that have more pixels than are read at once.

    Raises:
        WindowError: as :func:`check_size`.
    """
    _check_largest([view for view in views if _pixels(view.grid) > _pixels(view.record.finest.grid)], MOST_PIXELS)


def _check_largest(views: Sequence[View], most_pixels: int) -> None:
    """Refuse the largest grid of views, because the resolution that its error names then fits for all of them."""
    if views:
        largest = max(views, key=lambda view: _pixels(view.grid))
        check_size(largest.grid, largest.crs, most_pixels)


def check_size(grid: Grid, crs: str, most_pixels: int) -> None:
    """Refuse a grid of more than ``most_pixels`` pixels.

    Raises:
        WindowError: with the size of the grid, and what makes it smaller.
    """
    if _pixels(grid) <= most_pixels:
        return
    # The resolution for MOST_PIXELS in both cases, because a read that is not lazy is refused again with a finer one.
    lazy = "" if most_pixels == MOST_PIXELS else f", from {_fitting(grid, MOST_LAZY_PIXELS):.3g} on"
    raise WindowError(
        f"the grid in {crs[:40]} would have {grid.width} x {grid.height} pixels of {abs(grid.scale_x):g} x "
        f"{abs(grid.scale_y):g}, more than {most_pixels:.2g} in all: give a coarser resolution= (from "
        f"{_fitting(grid, MOST_PIXELS):.3g} on it fits) in units of that CRS, a smaller area, or another target_crs; "
        f"get_xarray(chunks=...) reads larger grids piece by piece{lazy}"
    )


def _fitting(grid: Grid, most_pixels: int) -> float:
    """Return the side of the square pixels, rounded up to three digits, of which ``most_pixels`` cover a grid."""
    across, along = grid.width * abs(grid.scale_x), grid.height * abs(grid.scale_y)
    # Solves (across / side + 2) (along / side + 2) = most_pixels: two more, because edges move to whole pixels.
    both = across + along
    side = across * along / (math.sqrt(both**2 + across * along * (most_pixels - 4)) - both)
    digit = 10.0 ** (math.floor(math.log10(side)) - 2)
    return math.ceil(side / digit) * digit


def _pixels(grid: Grid) -> int:
    return grid.width * grid.height


def aligned_grid(bounds: Bounds, resolution: tuple[float, float], anchor: Grid | None) -> Grid:
    """Return the smallest grid around ``bounds`` whose pixels coincide with those of all grids of the same anchor.

    Edges are whole pixels away from the first corner of ``anchor``, so that overviews can be read without a warp;
    without an anchor, edges are multiples of the resolution.
    """
    width, height = resolution
    x, y = (anchor.origin_x, anchor.origin_y) if anchor else (0.0, 0.0)
    left, right = math.floor((bounds[0] - x) / width + _SNAP), math.ceil((bounds[2] - x) / width - _SNAP)
    bottom, top = math.floor((bounds[1] - y) / height + _SNAP), math.ceil((bounds[3] - y) / height - _SNAP)
    return Grid(
        width=max(right - left, 1),
        height=max(top - bottom, 1),
        scale_x=width,
        scale_y=-height,
        origin_x=x + left * width,
        origin_y=y + top * height,
    )


def _common_resolution(records: Sequence[Record], areas: Sequence[Area], target: str) -> tuple[float, float]:
    """Return (width, height) of a pixel in units of ``target``, one for all records, that keeps the finest's detail."""
    sizes: dict[tuple[str, float, float], float] = {}
    for record in records:
        grid = record.finest.grid
        kind = record.crs, grid.scale_x, grid.scale_y
        if kind in sizes:
            continue
        for position in record.areas:
            shape = placed_on(areas[position], record.crs, grid)
            window = None if shape is None else grid.window(shape.bounds)
            if window is not None:
                sizes[kind] = suggest_resolution(grid.part(window), record.crs, target)
                break
    size = min(sizes.values(), default=1.0)
    return size, size


def common_grid(views: Sequence[View], *, is_lazy: bool = False) -> tuple[str, Grid]:
    """Return the CRS and the grid that hold the pixels of all views.

    Args:
        views: of all records and areas.
        is_lazy: whether the grid may be larger than memory.

    Raises:
        WindowError: if views lie in different CRSs, their pixels do not coincide, or the grid would be too large, or
            nearly empty because areas lie far apart.
    """
    most_pixels = MOST_LAZY_PIXELS if is_lazy else MOST_PIXELS
    first = views[0]
    left = top = 0
    right, bottom = first.grid.width, first.grid.height
    for view in views:
        if view.crs != first.crs:
            raise several_crss({view.crs for view in views}, first.crs)
        offset = first.grid.offset(view.grid)
        if offset is None:
            raise WindowError(
                f"pixels of record {view.record.id!r} do not coincide with those of {first.record.id!r}: "
                f"choose a grid for all with resolution={abs(first.grid.scale_x):g}"
            )
        left, top = min(left, offset[0]), min(top, offset[1])
        right, bottom = max(right, offset[0] + view.grid.width), max(bottom, offset[1] + view.grid.height)
    grid = replace(
        first.grid,
        width=right - left,
        height=bottom - top,
        origin_x=first.grid.origin_x + left * first.grid.scale_x,
        origin_y=first.grid.origin_y + top * first.grid.scale_y,
    )
    if not is_lazy:
        check_memory(views)
    # Not where a view already has the whole grid: its pixels are those of one raster, or of ``like``.
    if all(view.grid != grid for view in views):
        check_size(grid, first.crs, most_pixels)
        if not is_lazy:
            _check_filled(grid, views)
    return first.crs, grid


def several_crss(found: Iterable[str], proposed: str) -> WindowError:
    """Return the error for records in several CRSs where one is needed.

    Args:
        found: the CRSs.
        proposed: the CRS that the message names as a choice.
    """
    names = sorted(found)
    return WindowError(
        f"records are in {len(names)} CRSs ({', '.join(name[:40] for name in names[:6])}): choose one for all with "
        f"target_crs={proposed[:40]!r}, or subset the records"
    )


def _check_filled(grid: Grid, views: Sequence[View]) -> None:
    """Refuse a large grid of which the areas take a small part.

    Raises:
        WindowError: with the number of pixels, and how to read the areas apart.
    """
    wanted: dict[int, int] = {}
    for view in views:
        for position, _ in view.areas:
            wanted[position] = max(wanted.get(position, 0), view.grid.width * view.grid.height)
    pixels = grid.width * grid.height
    if len(wanted) > 1 and pixels > _SMALL and pixels > _MOST_EMPTY * sum(wanted.values()):
        raise WindowError(
            f"{len(wanted)} areas lie far apart: one cube around all would have {grid.width} x {grid.height} pixels, "
            f"of which the areas take {sum(wanted.values()) / pixels:.1%}. Read a cube for each area, all of them with "
            "get_numpy or get_gdf, or lazily with get_xarray(chunks=...)"
        )
