"""Summarize the pixels under areas, as one Arrow table.

Pixels count by the part of them that an area covers, as exactextract computes it. Records stream out of the table, and
the windows of their areas are read together, as many as fit into a number of bytes; a larger window is read piece by
piece.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import attrgetter
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from shapely.geometry.base import BaseGeometry

from rasteret_assets import schema
from rasteret_assets.collection.areas.area import Area
from rasteret_assets.collection.areas.grid import Grid, Window
from rasteret_assets.collection.areas.placing import placed_on
from rasteret_assets.collection.extras import optional
from rasteret_assets.collection.formats.numpy import masked_array
from rasteret_assets.collection.pixels.backends import Source
from rasteret_assets.collection.pixels.band import BandHeader
from rasteret_assets.collection.pixels.filling import fill
from rasteret_assets.collection.pixels.own_crs import keep_reached, place
from rasteret_assets.collection.pixels.planes import Plane
from rasteret_assets.collection.pixels.read_options import ReadOptions, read_options
from rasteret_assets.collection.pixels.record_table import RecordTable, checked_bands
from rasteret_assets.collection.pixels.select import Record, projection, stream_records
from rasteret_assets.collection.pixels.views import View
from rasteret_assets.collection.table import query
from rasteret_assets.collection.table.scan import scan
from rasteret_assets.errors import SpecError, WindowError
from rasteret_assets.storage.backend import StorageBackend
from rasteret_assets.storage.process.batches import bounded_runs

#: Bytes of pixels that are read together, and zones: a zone takes a kilobyte, however small it is.
_BYTES_AT_ONCE: Final = 64 * 2**20
_ZONES_AT_ONCE: Final = 4096
#: Pixels above which a window is read in pieces.
_LARGE: Final = 8 * 2**20
_RANK: Final = "\0rank"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Zone:
    """An area on the raster of one band of a record.

    Args:
        record: the record.
        band: position of the band.
        header: of the band.
        area: position of the area.
        shape: the area in the raster's CRS.
        window: the pixels that hold it.
    """

    record: Record
    band: int
    header: BandHeader
    area: int
    shape: BaseGeometry
    window: Window

    @property
    def is_large(self) -> bool:
        """Tell whether the window is read piece by piece."""
        return self.window.width * self.window.height > _LARGE

    @property
    def size(self) -> int:
        """Return the bytes that the pixels of the window take in memory."""
        if self.is_large:
            return 0
        return self.window.width * self.window.height * (self.header.dtype.itemsize + 1)


def summarize_areas(
    table: RecordTable,
    areas: Sequence[Area],
    columns: pa.Table | None,
    bands: str | Sequence[str],
    ops: str | Sequence[str],
    arguments: Mapping[str, Any],
) -> pa.Table:
    """Return statistics of pixels under areas; other arguments, result and errors as ``Collection.zonal`` says.

    Args:
        table: the records.
        areas: of interest.
        columns: other columns of the table that the areas came from, one row for each area; None without.
        bands: a band or several.
        ops: operations of exactextract.
        arguments: all of :class:`PointArguments`.
    """
    optional("exactextract", extra="zonal", purpose="zonal")
    from rasteret_assets.collection.formats._zonal_stats import statistic_names  # noqa: PLC0415  (imports exactextract)

    wanted = [ops] if isinstance(ops, str) else list(ops)
    if not wanted or not all(isinstance(one, str) for one in wanted):
        raise SpecError(f"ops={ops!r} must name operations of exactextract, such as ['mean', 'count']")
    names = statistic_names(wanted)
    _refuse_taken(names, columns)
    options = replace(read_options(arguments), masked=True)
    reader = _Reader(checked_bands(table, bands), options, Source.of(table, arguments).open())
    # A box is what its four corners enclose, and not the upright rectangle around it in the raster's CRS.
    exact = [replace(area, is_box=False) for area in areas]
    parts = [
        _rows(zones, reader.summarize(zones, wanted), names, reader.bands)
        for zones in bounded_runs(
            _zones(table, exact, reader.bands, options), attrgetter("size"), _BYTES_AT_ONCE, count=_ZONES_AT_ONCE
        )
    ]
    if not parts:
        raise WindowError(
            "areas meet footprints of records, but the raster of none: footprints are too large, or the bands' headers "
            "are not in the index"
        )
    return _sorted(parts, columns)


def _refuse_taken(names: Sequence[str], columns: pa.Table | None) -> None:
    """Refuse a result that has two columns of one name."""
    own = {"record_id", "datetime", "collection", "geometry_id", "band", "raster_crs"}
    if taken := sorted(own.intersection(names)):
        raise SpecError(
            f"ops make columns {taken}, which the result has already: name them otherwise, such as 'm=mean'"
        )
    if columns is not None and (taken := sorted((own | set(names)).intersection(columns.column_names))):
        raise SpecError(f"columns {taken} of the areas' table are columns of the result too: rename them")


def _zones(
    table: RecordTable, areas: Sequence[Area], bands: Sequence[str], options: ReadOptions
) -> Iterator[_Zone]:  # fmt: skip
    """Yield every area on every raster that it reaches: by record, in the order of the table, then by band."""
    shapes, unplaced = place(areas)
    near = table.where(query.bbox_meets(shapes))
    batches = scan(
        near.dataset, projection(near.schema, bands, scaled=options.scaled), near.expression, near.areas, prefetch=False
    )  # fmt: skip
    for records in stream_records(batches, bands, shapes, missing=options.missing):
        for record in _reached(records, areas, unplaced):
            for band, header in enumerate(record.headers):
                if header is not None:  # the other bands of the record have rows
                    yield from _of_band(record, band, header, areas)


def _reached(
    records: list[Record], areas: Sequence[Area], unplaced: dict[int, WindowError]
) -> Iterable[Record]:  # fmt: skip
    """Return the records, each with the areas that reach its raster."""
    if not unplaced:
        return records

    def reaches(position: int, crs: str, grid: Grid) -> bool:
        shape = placed_on(areas[position], crs, grid)
        return shape is not None and grid.window(shape.bounds) is not None

    try:
        return keep_reached(records, lambda one: areas[one].crs, unplaced, reaches)
    except WindowError:  # none of these
        return ()


def _of_band(record: Record, band: int, header: BandHeader, areas: Sequence[Area]) -> Iterator[_Zone]:
    for position in record.areas:
        shape = placed_on(areas[position], record.crs, header.grid)
        window = None if shape is None else header.grid.window(shape.bounds)
        if shape is not None and window is not None:
            yield _Zone(record=record, band=band, header=header, area=position, shape=shape, window=window)


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads windows of rasters, and asks exactextract about them.

    Args:
        bands: names of the bands.
        options: how pixels are read.
        backend: brings the bytes.
    """

    bands: Sequence[str]
    options: ReadOptions
    backend: StorageBackend

    def summarize(self, zones: Sequence[_Zone], ops: Sequence[str]) -> list[Mapping[str, Any]]:
        """Return values by column for each zone; windows are read together, and large ones by themselves."""
        from rasteret_assets.collection.formats._zonal_stats import summarize  # noqa: PLC0415  (imports exactextract)

        small = [zone for zone in zones if not zone.is_large]
        pixels = dict(zip(map(id, small), self.read(small), strict=True))
        found: list[Mapping[str, Any]] = []
        for _, several in groupby(zones, key=lambda zone: (id(zone.record), zone.band)):
            of_raster = list(several)
            held = {zone.window: pixels[id(zone)] for zone in of_raster if not zone.is_large}
            raster = _Held(self, of_raster[0], held)
            shapes = [zone.shape for zone in of_raster]
            header = of_raster[0].header
            found += summarize(shapes, header.grid, self.dtype_of(header), raster.window, ops, _LARGE)
        return found

    def dtype_of(self, header: BandHeader) -> np.dtype[Any]:
        """Return the type in which pixels of a band are read."""
        return self.options.read_type([header.sample_type])

    def read(self, zones: Sequence[_Zone]) -> list[npt.NDArray[Any]]:
        """Return the pixels of the windows of some zones; pixels without data are masked."""
        planes = [self._plane(zone) for zone in zones]
        if planes:
            fill(planes, self.bands, self.backend, self.options)
        return [masked_array(plane.pixels, plane.valid, plane.empty) for plane in planes if plane.valid is not None]

    def _plane(self, zone: _Zone) -> Plane:
        kind = self.dtype_of(zone.header)
        return Plane(
            view=View.of_grid(zone.record, zone.record.crs, zone.header.grid.part(zone.window)),
            band=zone.band,
            pixels=np.empty(zone.window.shape, kind),
            valid=np.empty(zone.window.shape, bool),
            fill=kind.type(np.nan) if self.options.scaled else None,
        )


@dataclass(frozen=True, slots=True)
class _Held:
    """Windows of one raster that are in memory; other windows are read when they are asked for.

    Args:
        reader: reads the other windows.
        zone: any one of the raster.
        held: pixels in memory, by their window.
    """

    reader: _Reader
    zone: _Zone
    held: Mapping[Window, npt.NDArray[Any]]

    def window(self, window: Window) -> npt.NDArray[Any]:
        """Return the pixels of a window; pixels without data are masked."""
        if (same := self.held.get(window)) is not None:
            return same
        for outer, pixels in self.held.items():
            if outer.overlap(window) == window:
                found: npt.NDArray[Any] = pixels[window.within(outer).slices]
                return found
        # A part of a large window, or a sliver beyond a border that an area misses by rounding.
        (pixels,) = self.reader.read([replace(self.zone, window=window)])
        return pixels


def _rows(
    zones: Sequence[_Zone], found: Sequence[Mapping[str, Any]], names: Sequence[str], bands: Sequence[str]
) -> pa.Table:  # fmt: skip
    """Return rows of the result for some zones, with the rank of the band to sort by."""
    records = [zone.record for zone in zones]
    columns = {
        "record_id": pa.array([record.id for record in records], pa.string()),
        "datetime": pa.array([record.moment for record in records], schema.TIMESTAMP),
        "collection": pa.array([record.collection for record in records], pa.string()),
        "geometry_id": pa.array([zone.area for zone in zones], pa.int64()),
        "band": pa.array([bands[zone.band] for zone in zones], pa.string()),
        _RANK: pa.array([zone.band for zone in zones], pa.int32()),
    }
    for name in names:
        columns[name] = _column([values.get(name) for values in found])
    return pa.table(columns)


def _column(values: Sequence[Any]) -> pa.Array:
    """Return values of one operation: numbers, or lists of numbers; null for a missing value and for NaN."""
    if any(isinstance(value, np.ndarray) for value in values):
        kind = pa.from_numpy_dtype(np.result_type(*{value.dtype for value in values if value is not None}))
        return pa.array(values, pa.list_(kind))
    if any(isinstance(value, float) for value in values):
        return pa.array(values, pa.float64(), from_pandas=True)
    return pa.array(values)


def _sorted(parts: Sequence[pa.Table], columns: pa.Table | None) -> pa.Table:
    """Return the rows by datetime and id, undated ones last, then area and band; with the areas' columns."""
    table = pa.concat_tables(parts, promote_options="permissive")
    keys = [(name, "ascending", "at_end") for name in ("datetime", "record_id", "geometry_id", _RANK)]
    table = table.take(pc.sort_indices(table, sort_keys=keys)).drop_columns([_RANK])
    if columns is not None:
        owned = columns.take(table["geometry_id"])
        for name in owned.column_names:
            table = table.append_column(name, owned[name])
    return table
