"""Select the records that are read: those whose footprint meets an area, with the headers of the bands asked for."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from shapely.geometry.base import BaseGeometry

from rasteret_assets import schema
from rasteret_assets.collection.areas.footprints import intersecting_pairs
from rasteret_assets.collection.areas.reproject import crs_name
from rasteret_assets.collection.pixels.band import BandHeader, parse_header
from rasteret_assets.collection.pixels.codecs import check_supported
from rasteret_assets.collection.pixels.record_table import RecordTable
from rasteret_assets.collection.pixels.stac_scaling import SCALING_FIELDS, Scaling, asset_scaling, scaling_fields
from rasteret_assets.collection.table import query
from rasteret_assets.collection.table.summary import crs_code
from rasteret_assets.columns.instants import utc_instants
from rasteret_assets.errors import SpecError, WindowError
from rasteret_assets.inputs import Missing
from rasteret_assets.message_lists import some

_log = logging.getLogger(__name__)

_HREF = "href:"
_INDEX = "index:"
_ASSET = "asset:{field}:{band}"
_COLLECTION = "collection"

#: Names that a message lists at most.
_LISTED: Final = 10


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Record:
    """A record that is read.

    Args:
        id: of the record.
        order: sorts records by datetime, then id; undated ones last.
        moment: its datetime in UTC; None for undated records.
        cloud_cover: in percent; None if the table does not state it.
        collection: the STAC collection that the row names, if any.
        crs: of its rasters, as ``reproject.crs_name`` writes it.
        headers: one for each band asked for, in that order; None if the index lacks it. At least one is there.
        hrefs: address of the file of each band.
        areas: positions of the areas that meet its footprint, ascending.
    """

    id: str
    order: tuple[bool, int, str]
    moment: datetime | None
    cloud_cover: float | None
    collection: str | None
    crs: str
    headers: Sequence[BandHeader | None]
    hrefs: Sequence[str]
    areas: Sequence[int]

    @property
    def present_headers(self) -> list[BandHeader]:
        """The headers that the index has, in the order of the bands."""
        return [header for header in self.headers if header is not None]

    @property
    def finest(self) -> BandHeader:
        """The header of the band with the smallest pixels; of several, the first."""
        return min(self.present_headers, key=lambda header: abs(header.grid.scale_x * header.grid.scale_y))


def near_batches(
    table: RecordTable, bands: Sequence[str], shapes: Sequence[BaseGeometry], *, scaled: bool
) -> Iterator[pa.RecordBatch]:  # fmt: skip
    """Yield the rows whose bbox meets a shape, with the columns that reads need."""
    # By bbox only, because select_records then compares shapes with footprints exactly.
    return table.where(query.bbox_meets(shapes)).batches(projection(table.schema, bands, scaled=scaled))


def projection(table: pa.Schema, bands: Sequence[str], *, scaled: bool = False) -> dict[str, pc.Expression]:
    """Return the columns that :func:`select_records` needs.

    Args:
        table: schema of the records.
        bands: names of the bands.
        scaled: whether scale and offset are needed, which STAC may state if the file does not.
    """
    plain = (
        schema.ID, schema.DATETIME, schema.GEOMETRY, schema.BBOX, schema.PROJ_EPSG, schema.CRS, schema.CLOUD_COVER,
        _COLLECTION,
    )  # fmt: skip
    columns = {name: pc.field(name) for name in plain if name in table.names}
    for band in bands:
        columns[schema.band_column(band)] = pc.field(schema.band_column(band))
        columns[_HREF + band] = pc.field(schema.ASSETS, band, schema.HREF)
        asset = table.field(schema.ASSETS).type.field(band).type
        if any(field.name == schema.BAND_INDEX for field in asset):
            columns[_INDEX + band] = pc.field(schema.ASSETS, band, schema.BAND_INDEX)
        for name in scaling_fields(asset) if scaled else ():
            columns[_ASSET.format(field=name, band=band)] = pc.field(schema.ASSETS, band, name)
    return columns


def select_records(
    batches: Iterator[pa.RecordBatch], bands: Sequence[str], shapes: Sequence[BaseGeometry], *, missing: Missing,
    what: str = "area",
) -> list[Record]:  # fmt: skip
    """Return the records whose footprint meets an area, by datetime and id.

    Args:
        batches: rows with the columns of :func:`projection`.
        bands: names of the bands.
        shapes: areas (or points) of interest in lon/lat.
        missing: what happens to records without the header of a band, as :class:`ReadOptions` says.
        what: the word for shapes in messages.

    Raises:
        WindowError: if no footprint meets an area, or the index has no header of the records whose footprint does.
    """
    return _sorted(stream_records(batches, bands, shapes, missing=missing, what=what))


def stream_records(
    batches: Iterator[pa.RecordBatch], bands: Sequence[str], shapes: Sequence[BaseGeometry], *, missing: Missing,
    what: str = "area",
) -> Iterator[list[Record]]:  # fmt: skip
    """Yield the records of each batch whose footprint meets an area, in the order of the table.

    Arguments and errors are those of :func:`select_records`; errors are raised after the last batch.
    """

    def meeting(batch: pa.RecordBatch) -> Iterator[tuple[int, list[int]]]:
        area, row = intersecting_pairs(batch.column(schema.GEOMETRY), batch.column(schema.BBOX), shapes)
        if not len(row):
            return  # because boxes of the batch meet an area, but no footprint does
        order = np.lexsort((area, row))
        rows, starts = np.unique(row[order], return_index=True)
        for number, areas in zip(rows, np.split(area[order], starts[1:]), strict=True):
            yield int(number), areas.tolist()

    return _select(batches, bands, meeting, missing, what, shapes)


def _sorted(parts: Iterable[list[Record]]) -> list[Record]:
    return sorted((record for part in parts for record in part), key=lambda record: record.order)


def every_record(batches: Iterator[pa.RecordBatch], bands: Sequence[str]) -> list[Record]:
    """Return all records that have the headers of ``bands``, by datetime and id.

    Raises:
        WindowError: if no record has all headers.
    """
    return _sorted(
        _select(batches, bands, lambda batch: ((row, []) for row in range(batch.num_rows)), "drop", "filters")
    )


def record_leaves(table: pa.Schema, bands: Sequence[str], *, scaled: bool = False) -> dict[str, tuple[str, ...]]:
    """Return the columns that :func:`record_at` needs, as paths of fields: those of :func:`projection` but footprints.

    Args:
        table: schema of the records.
        bands: names of the bands.
        scaled: whether scale and offset are needed, which STAC may state if the file does not.
    """
    plain = (schema.ID, schema.DATETIME, schema.PROJ_EPSG, schema.CRS, schema.CLOUD_COVER, _COLLECTION)
    leaves: dict[str, tuple[str, ...]] = {name: (name,) for name in plain if name in table.names}
    for band in bands:
        leaves[schema.band_column(band)] = (schema.band_column(band),)
        leaves[_HREF + band] = (schema.ASSETS, band, schema.HREF)
        asset = table.field(schema.ASSETS).type.field(band).type
        if asset.get_field_index(schema.BAND_INDEX) >= 0:
            leaves[_INDEX + band] = (schema.ASSETS, band, schema.BAND_INDEX)
        for name in scaling_fields(asset) if scaled else ():
            leaves[_ASSET.format(field=name, band=band)] = (schema.ASSETS, band, name)
    return leaves


def record_at(batch: pa.RecordBatch, row: int, bands: Sequence[str]) -> Record | None:
    """Return one record; None if it has no header of any band.

    Args:
        batch: rows with the columns of :func:`record_leaves`, datetimes in UTC microseconds.
        row: the position of the record in it.
        bands: names of the bands.

    Raises:
        CollectionError: if a header contradicts itself.
        WindowError: if bands are in different CRSs, or the record has no CRS.
        TileError: if tiles are compressed in a way that cannot be decoded.
    """
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    if not any(columns[schema.band_column(band)][row].is_valid for band in bands):
        return None
    return _record(columns, row, columns[schema.DATETIME][row].as_py(), bands, [])


def _select(
    batches: Iterator[pa.RecordBatch],
    bands: Sequence[str],
    wanted: Callable[[pa.RecordBatch], Iterable[tuple[int, list[int]]]],
    missing: Missing,
    what: str,
    shapes: Sequence[BaseGeometry] = (),
) -> Iterator[list[Record]]:
    count = 0
    without: list[str] = []
    partly: list[str] = []
    for batch in batches:
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        moments = utc_instants(columns[schema.DATETIME])
        found: list[Record] = []
        for row, areas in wanted(batch):
            absent = [band for band in bands if not batch.column(schema.band_column(band))[row].is_valid]
            if absent:
                is_left_out = missing == "drop" or len(absent) == len(bands)
                name = f"{batch.column(schema.ID)[row].as_py()} ({', '.join(absent)})"
                (without if is_left_out else partly).append(name)
                if is_left_out:
                    continue
            found.append(_record(columns, row, moments[row].as_py(), bands, areas))
        if found:
            count += len(found)
            yield found
    if (missing == "raise" and (without or partly)) or (without and not count):
        unread = [*without, *partly]
        raise WindowError(
            f"the index has no header of bands {', '.join(bands)} for {len(unread)} records that meet the {what} "
            f"({listed(unread)}): `rasteret-assets failures` tells why, and another build asks for them again"
        )
    if without:
        _log.warning("left out %d records whose headers are not in the index: %s", len(without), listed(without))
    if partly:
        _log.warning(
            "masked bands of %d records, because their headers are not in the index: %s", len(partly), listed(partly)
        )
    if not count:
        bounds = [round(float(edge), 6) for edge in shapely.total_bounds(shapes)] if shapes else None
        lies = f" within west, south, east, north = {bounds} of lon/lat" if bounds else ""
        raise WindowError(
            f"no record meets the {what}{lies}: compare the {what} and the filters with collection.bounds and "
            ".date_range"
        )


def listed(names: Sequence[str]) -> str:
    """Return the first names, and the number of the others, for a message."""
    return some(names, _LISTED)


def _record(
    columns: Mapping[str, pa.Array], row: int, moment: datetime | None, bands: Sequence[str], areas: Sequence[int]
) -> Record:
    def value(name: str) -> Any:  # noqa: ANN401  (a column of any type)
        return columns[name][row].as_py() if name in columns else None

    def stac_scaling(band: str, band_index: int) -> Scaling:
        return asset_scaling({f: value(_ASSET.format(field=f, band=band)) for f in SCALING_FIELDS}, band_index)

    name = value(schema.ID)
    headers = [
        parse_header(
            columns[schema.band_column(band)][row],
            band_index=value(_INDEX + band) or 0,
            where=f"record {name!r}, band {band!r}",
            stac_scaling=functools.partial(stac_scaling, band),
        )
        if columns[schema.band_column(band)][row].is_valid
        else None
        for band in bands
    ]
    present = [(band, header) for band, header in zip(bands, headers, strict=True) if header is not None]
    first_band, first = present[0]
    for band, header in present:
        check_supported(header, f"record {name!r}, band {band!r}")
        if header.crs != first.crs:
            raise WindowError(
                f"record {name!r}: band {band!r} is in {header.crs}, but band {first_band!r} in {first.crs}: "
                "read them in separate calls"
            )
    stated = columns[schema.DATETIME][row]
    return Record(
        id=name,
        order=(not stated.is_valid, stated.value or 0, str(name)),
        moment=moment,
        cloud_cover=value(schema.CLOUD_COVER),
        collection=value(_COLLECTION),
        crs=named_crs(name, first.crs or crs_code(value(schema.PROJ_EPSG), value(schema.CRS))),
        headers=headers,
        hrefs=[value(_HREF + band) for band in bands],
        areas=areas,
    )


def named_crs(name: str, crs: str | None) -> str:
    """Return a CRS as ``reproject.crs_name`` writes it.

    Args:
        name: id of a record that has it, for messages.
        crs: as headers or records state it; empty or None where they do not.

    Raises:
        WindowError: if no CRS is stated, or pyproj does not know it.
    """
    if not crs:
        raise WindowError(
            f"record {name!r} has no CRS in its headers, nor in its columns proj:epsg and crs: state one in "
            "the record table"
        )
    try:
        return _crs_name(crs)
    except SpecError as error:
        raise WindowError(f"record {name!r}: CRS {error}") from error


@functools.lru_cache(maxsize=256)
def _crs_name(crs: str) -> str:
    return crs_name(crs)
