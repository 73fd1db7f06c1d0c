"""Which pixels are wanted of each record: grids that hold the areas, on the rasters' own pixels or on new ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from rasteret_assets.collection.aoi import Area
from rasteret_assets.collection.header import BandHeader
from rasteret_assets.collection.options import ReadOptions
from rasteret_assets.collection.records import Record
from rasteret_assets.collection.reproject import LONLAT, reproject, reproject_bounds
from rasteret_assets.collection.warp import suggest_resolution
from rasteret_assets.collection.window import Grid
from rasteret_assets.errors import WindowError

Bounds = tuple[float, float, float, float]

#: Edges this close to a multiple of the resolution (in pixels) lie on it.
_SNAP = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class View:
    """Pixels wanted of a record.

    Args:
        record: the record.
        areas: the areas of interest in it, and their positions among all.
        crs: of the grid.
        grid: the pixels, which hold the areas; for several bands the same.
    """

    record: Record
    areas: Sequence[tuple[int, Area]]
    crs: str
    grid: Grid


def choose_views(
    records: Sequence[Record], areas: Sequence[Area], bands: Sequence[str], options: ReadOptions
) -> list[View]:
    """One view for every record and area that meets its raster, record by record.

    Raises:
        WindowError: if none does, or if bands lie on different grids and nothing says how to join them.
    """
    if not options.regrids and not options.allow_resample:
        for record in records:
            check_one_grid(record, bands)
    if options.target_crs is not None and options.resolution is None:
        options = replace(options, resolution=_common_resolution(records, areas, options.target_crs))
    anchors: dict[str, Grid] = {}
    for record in records:
        anchors.setdefault(record.crs, record.finest.grid)
    views = [
        View(record=record, areas=[(position, areas[position])], crs=crs, grid=grid)
        for record in records
        for position in record.areas
        for crs, grid in _grids(record, areas[position], options, anchors)
    ]
    if not views:
        raise WindowError(
            f"the area meets the footprint of {len(records)} records, but the raster of none: footprints are too large"
        )
    return views


def check_one_grid(record: Record, bands: Sequence[str]) -> None:
    """Refuse a record whose bands lie on different grids.

    Raises:
        WindowError: naming them, and what to do.
    """
    known = [(band, header) for band, header in zip(bands, record.headers, strict=True) if header is not None]
    first_band, first_header = known[0]
    first = first_header.grid
    for band, header in known:
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
    """The grid of an area in a record, unless the raster does not reach it."""
    grid = record.finest.grid
    bounds = area_bounds(area, record.crs)
    window = grid.window(bounds)
    if window is None:
        return
    if options.resolution is None:
        yield record.crs, grid.part(window)
    else:
        crs = options.target_crs or record.crs
        bounds = bounds if crs == record.crs else area_bounds(area, crs)
        yield crs, aligned_grid(bounds, options.resolution, anchors.get(crs))


def area_bounds(area: Area, crs: str) -> Bounds:
    """Bounds of an area in a CRS: a box has its edges followed, as ``rasterio.warp.transform_bounds`` does."""
    if reads_whole(area, crs):
        return reproject_bounds(area.geometry, area.crs, crs)
    west, south, east, north = reproject(area.geometry, area.crs, crs).bounds
    return float(west), float(south), float(east), float(north)


def reads_whole(area: Area, crs: str) -> bool:
    """Whether an area is a box, read without a mask.

    The two halves of a box over the antimeridian are one box, except on a lon/lat raster, where they lie far apart.
    """
    return area.is_box and (area.geometry.geom_type == "Polygon" or crs != LONLAT)


def aligned_grid(bounds: Bounds, resolution: tuple[float, float], anchor: Grid | None) -> Grid:
    """The smallest grid around ``bounds`` whose pixels fit those of every other grid made so.

    Edges are whole pixels away from the first corner of ``anchor``, so that overviews can be read as they are; without
    one they are multiples of the resolution.
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
    """The pixel size that keeps the detail of the finest record, the same for all, so that their pixels coincide."""
    sizes: dict[tuple[str, float, float], float] = {}
    for record in records:
        grid = record.finest.grid
        kind = record.crs, grid.scale_x, grid.scale_y
        if kind in sizes:
            continue
        for position in record.areas:
            window = grid.window(area_bounds(areas[position], record.crs))
            if window is not None:
                sizes[kind] = suggest_resolution(grid.part(window), record.crs, target)
                break
    size = min(sizes.values(), default=1.0)
    return size, size


def common_grid(views: Sequence[View]) -> tuple[str, Grid]:
    """The CRS and the grid that hold the pixels of all views.

    Raises:
        WindowError: if they lie in different CRSs, or their pixels do not coincide.
    """
    first = views[0]
    left = top = 0
    right, bottom = first.grid.width, first.grid.height
    for view in views:
        if view.crs != first.crs:
            found = sorted({view.crs for view in views})
            raise WindowError(
                f"records are in {len(found)} CRSs ({', '.join(name[:40] for name in found[:6])}): choose one for all "
                f"with target_crs={first.crs[:40]!r}, or subset the records"
            )
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
    return first.crs, grid
