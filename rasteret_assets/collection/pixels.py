"""Pixels of records under areas of interest: which records, which windows, one array.

What is common to every form of output is here: selecting records (:func:`select_records`), choosing windows
(:func:`choose_windows`) and filling arrays (:func:`read_stack`).
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets import schema
from rasteret_assets.collection.aoi import Area
from rasteret_assets.collection.codecs import check_supported
from rasteret_assets.collection.footprints import intersecting_pairs
from rasteret_assets.collection.header import BandHeader, parse_header
from rasteret_assets.collection.mask import covered
from rasteret_assets.collection.plan import BandRead, Target
from rasteret_assets.collection.read import read_bands
from rasteret_assets.collection.reproject import LONLAT, crs_name, reproject, reproject_bounds
from rasteret_assets.collection.summary import crs_code
from rasteret_assets.collection.window import Grid, Window
from rasteret_assets.errors import SpecError, WindowError
from rasteret_assets.storage.aio import run_sync
from rasteret_assets.storage.backend import StorageBackend

_log = logging.getLogger(__name__)

_HREF = "href:"
_INDEX = "index:"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Record:
    """A record to read from.

    Args:
        id: of the record.
        order: sorts records by datetime, then id; undated ones last.
        crs: of its rasters, as ``reproject.crs_name`` writes it.
        headers: one per band asked for, in that order, all on one grid.
        hrefs: likewise.
        areas: positions of the areas that meet its footprint.
    """

    id: str
    order: tuple[bool, int, str]
    crs: str
    headers: Sequence[BandHeader]
    hrefs: Sequence[str]
    areas: Sequence[int]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class View:
    """A window of a record that holds an area.

    Args:
        record: the record.
        area: the area of interest.
        window: on the record's grid.
    """

    record: Record
    area: Area
    window: Window


def projection(table: pa.Schema, bands: Sequence[str]) -> dict[str, pc.Expression]:
    """The columns that :func:`select_records` needs."""
    plain = (schema.ID, schema.DATETIME, schema.GEOMETRY, schema.BBOX, schema.PROJ_EPSG, schema.CRS)
    columns = {name: pc.field(name) for name in plain if name in table.names}
    for band in bands:
        columns[schema.band_column(band)] = pc.field(schema.band_column(band))
        columns[_HREF + band] = pc.field(schema.ASSETS, band, schema.HREF)
        if any(field.name == schema.BAND_INDEX for field in table.field(schema.ASSETS).type.field(band).type):
            columns[_INDEX + band] = pc.field(schema.ASSETS, band, schema.BAND_INDEX)
    return columns


def select_records(batches: Iterator[pa.RecordBatch], bands: Sequence[str], areas: Sequence[Area]) -> list[Record]:
    """Records whose footprint meets an area, by datetime and id.

    Args:
        batches: rows with the columns of :func:`projection`.
        bands: names of the bands.
        areas: areas of interest.

    Raises:
        WindowError: if no footprint meets an area, if no record that does has its headers, or if the bands of a record
            lie on different grids.
    """
    shapes = [area.lonlat() for area in areas]
    found, without = [], []
    for batch in batches:
        pairs = intersecting_pairs(batch.column(schema.GEOMETRY), batch.column(schema.BBOX), shapes)
        for row in np.unique(pairs[1]):
            missing = [band for band in bands if not batch.column(schema.band_column(band))[row].is_valid]
            if missing:
                without.append(f"{batch.column(schema.ID)[row].as_py()} ({', '.join(missing)})")
            else:
                found.append(_record(batch, row, bands, sorted(pairs[0, pairs[1] == row].tolist())))
    if without:
        shown = ", ".join(without[:10]) + (f" and {len(without) - 10} more" if len(without) > 10 else "")
        _log.warning("%d records are left out, whose headers are not in the index: %s", len(without), shown)
    if not found and without:
        raise WindowError(
            f"{len(without)} records meet the area, but their headers of {list(bands)} are not in the index ({shown}): "
            "look for the reason in the band_metadata table and build again to retry them"
        )
    if not found:
        raise WindowError("no record meets the area: compare it, and the filters, with the collection's bounds")
    return sorted(found, key=lambda record: record.order)


def _record(batch: pa.RecordBatch, row: int, bands: Sequence[str], areas: Sequence[int]) -> Record:
    def value(name: str) -> Any:
        return batch.column(name)[row].as_py() if name in batch.schema.names else None

    name = value(schema.ID)
    headers = [
        parse_header(
            batch.column(schema.band_column(band))[row],
            band_index=value(_INDEX + band) or 0,
            where=f"record {name!r}, band {band!r}",
        )
        for band in bands
    ]
    for band, header in zip(bands, headers, strict=True):
        check_supported(header, f"record {name!r}, band {band!r}")
        if header.grid != headers[0].grid or header.crs != headers[0].crs:
            raise WindowError(
                f"record {name!r}: band {band!r} ({_grid_text(header)}) and band {bands[0]!r} "
                f"({_grid_text(headers[0])}) have different grids: read them in separate calls"
            )
    crs = headers[0].crs or crs_code(value(schema.PROJ_EPSG), value(schema.CRS))
    if crs is None:
        raise WindowError(f"record {name!r} has no CRS, neither in its headers nor in its columns proj:epsg and crs")
    try:
        crs = _crs_name(crs)
    except SpecError as error:
        raise WindowError(f"record {name!r}: its CRS {error}") from error
    moment = batch.column(schema.DATETIME)[row]
    return Record(
        id=name,
        order=(not moment.is_valid, moment.value or 0, str(name)),
        crs=crs,
        headers=headers,
        hrefs=[value(_HREF + band) for band in bands],
        areas=areas,
    )


def _grid_text(header: BandHeader) -> str:
    grid = header.grid
    return f"{grid.width} x {grid.height} pixels of {abs(grid.scale_x):g} x {abs(grid.scale_y):g} in {header.crs}"


def choose_windows(records: Sequence[Record], areas: Sequence[Area]) -> list[View]:
    """One view for every record and area that meets its raster, record by record.

    Raises:
        WindowError: if none does.
    """
    views = []
    for record in records:
        for area in (areas[position] for position in record.areas):
            if _read_whole(area, record.crs):
                bounds = reproject_bounds(area.geometry, area.crs, record.crs)
            else:
                bounds = reproject(area.geometry, area.crs, record.crs).bounds
            if (window := record.headers[0].grid.window(bounds)) is not None:
                views.append(View(record=record, area=area, window=window))
    if not views:
        raise WindowError(
            f"the area meets the footprint of {len(records)} records, but the raster of none: footprints are too large"
        )
    return views


def read_stack(
    views: Sequence[View], bands: Sequence[str], backend: StorageBackend, *, max_concurrent: int, all_touched: bool
) -> npt.NDArray[Any]:
    """The pixels of ``views`` in one array of shape (views, bands, rows, columns).

    Windows smaller than the largest fill up with their nodata at the bottom and to the right.
    """
    height = max(view.window.height for view in views)
    width = max(view.window.width for view in views)
    kinds = {header.dtype.newbyteorder("=") for view in views for header in view.record.headers}
    stack = np.empty((len(views), len(bands), height, width), dtype=np.result_type(*kinds))
    targets: dict[tuple[Record, int], list[Target]] = {}
    for view, planes in zip(views, stack, strict=True):
        for band, (header, plane) in enumerate(zip(view.record.headers, planes, strict=True)):
            plane[...] = header.fill
            pixels = plane[: view.window.height, : view.window.width]
            targets.setdefault((view.record, band), []).append(Target(window=view.window, pixels=pixels))
    reads = (
        BandRead(
            record=record.id,
            band=bands[band],
            href=record.hrefs[band],
            header=record.headers[band],
            targets=wanted,
        )
        for (record, band), wanted in targets.items()
    )
    run_sync(read_bands(reads, backend, max_concurrent=max_concurrent))
    _mask(views, stack, all_touched=all_touched)
    return stack


def _mask(views: Sequence[View], stack: npt.NDArray[Any], *, all_touched: bool) -> None:
    """Set what polygons do not cover to nodata."""
    # Records of one grid see an area alike: a time series needs its mask once.
    outside = functools.lru_cache(maxsize=8)(functools.partial(_outside, all_touched=all_touched))
    for view, planes in zip(views, stack, strict=True):
        if _read_whole(view.area, view.record.crs):
            continue
        where = outside(view.area, view.record.crs, view.record.headers[0].grid, view.window)
        for header, plane in zip(view.record.headers, planes, strict=True):
            np.copyto(plane[: view.window.height, : view.window.width], header.fill, where=where)


def _outside(area: Area, crs: str, grid: Grid, window: Window, *, all_touched: bool) -> npt.NDArray[np.bool_]:
    """Pixels of a window that an area does not cover."""
    return ~covered(reproject(area.geometry, area.crs, crs), grid, window, all_touched=all_touched)


def _read_whole(area: Area, crs: str) -> bool:
    """Whether an area is a box, read without a mask.

    The two halves of a box over the antimeridian are one box, except on a lon/lat raster, where they lie far apart.
    """
    return area.is_box and (area.geometry.geom_type == "Polygon" or crs != LONLAT)


@functools.lru_cache(maxsize=256)
def _crs_name(crs: str) -> str:
    return crs_name(crs)
