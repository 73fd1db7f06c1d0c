"""Read headers of records when they are needed, so that a million records take a few arrays, not their tile tables."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets import schema
from rasteret_assets.collection.areas.grid import Grid
from rasteret_assets.collection.pixels.read_options import ReadOptions
from rasteret_assets.collection.pixels.record_table import RecordTable, has_href
from rasteret_assets.collection.pixels.select import Record, listed, named_crs, record_at, record_leaves
from rasteret_assets.collection.pixels.views import check_one_grid
from rasteret_assets.collection.table.rasters import Rasters, leaves_of, scan_rasters
from rasteret_assets.collection.table.row_places import Places, Recent, Rows, rows_of, split
from rasteret_assets.columns.instants import utc_instants
from rasteret_assets.errors import CollectionError, StaleRowsError, WindowError
from rasteret_assets.storage.process.memory import give_back

_log = logging.getLogger(__name__)

#: Bytes of row groups, and of parsed headers, that are kept for later calls.
_GROUP_BYTES: Final = 48 * 2**20
_RECORD_BYTES: Final = 96 * 2**20
#: Row groups that are read side by side.
_GROUPS_AT_ONCE: Final = 2
#: Bytes, about, of a header beside its tile tables, and of a record beside its headers.
_OVERHEAD: Final = 4096

#: Sets of bands whose headers are kept at once where records are read by id.
_BAND_SETS: Final = 4


class Headers:
    """Read the headers of single records, and keep some for later calls; those are not pickled.

    Args:
        rows: rows of the record table.
        table: schema of the record table.
        bands: names of the bands.
        scaled: whether scale and offset of STAC count where a file states none.
    """

    def __init__(self, rows: Rows, table: pa.Schema, bands: Sequence[str], *, scaled: bool = False) -> None:
        self.rows = rows
        self.bands = tuple(bands)
        self.leaves = record_leaves(table, bands, scaled=scaled)
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_groups": None, "_records": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def _forget(self) -> None:
        self._groups = Recent[pa.RecordBatch](_GROUP_BYTES, lambda batch: int(batch.nbytes))
        self._records = Recent[Record](_RECORD_BYTES, _bytes)

    def take(self, places: Places) -> list[Record | None]:
        """Return the records at places; None where the index has no header of any band.

        Raises:
            StaleRowsError: if a build replaced a file after the records were listed.
            CollectionError: if a file was removed or is damaged, or a header contradicts itself.
            WindowError: if bands of a record are in different CRSs, or a record has no CRS.
            TileError: if tiles are compressed in a way that cannot be decoded.
        """
        found: dict[int, Record | None] = {}
        missing: dict[int, list[int]] = {}
        for place in set(places.tolist()):
            found[place] = self._records.get(place)
            if found[place] is None:
                missing.setdefault(split(place)[0], []).append(place)
        for places_in, batch in zip(missing.values(), self._batches(list(missing)), strict=True):
            for place in places_in:
                record = found[place] = record_at(batch, split(place)[1], self.bands)
                if record is not None:
                    self._records.put(place, record)
        return [found[place] for place in places.tolist()]

    def _batches(self, groups: Sequence[int]) -> Iterator[pa.RecordBatch]:
        """Yield the rows of row groups, each as a batch; two groups are read at once."""
        if len(groups) < 2:
            yield from map(self._batch, groups)
            return
        with ThreadPoolExecutor(_GROUPS_AT_ONCE) as pool:
            yield from pool.map(self._batch, groups)
        give_back()

    def _batch(self, group: int) -> pa.RecordBatch:
        batch = self._groups.get(group)
        if batch is None:
            table = self.rows.group(group, self.leaves)
            place = table.schema.get_field_index(schema.DATETIME)
            (batch,) = table.set_column(place, schema.DATETIME, utc_instants(table[schema.DATETIME])).to_batches()
            self._groups.put(group, batch)
        return batch


def _bytes(record: Record) -> int:
    tables = sum(
        level.tile_offsets.nbytes + level.tile_byte_counts.nbytes + _OVERHEAD
        for header in record.present_headers
        for level in (header, *header.overviews)
    )
    return tables + _OVERHEAD


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RecordsOnDemand:
    """N records that have the headers of all bands, by datetime and id, undated ones last.

    Args:
        rasters: pixel grids, ids and datetimes of the records.
        crs: CRSs of the rasters, as ``reproject.crs_name`` writes them, by ``rasters.crs``.
        headers: reads the headers.
    """

    rasters: Rasters
    crs: tuple[str, ...]
    headers: Headers

    def __len__(self) -> int:
        return len(self.rasters)

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands."""
        return self.headers.bands

    def grid(self, number: int) -> Grid:
        """Return the pixel grid of the finest band of a record, without reading its headers."""
        scale_x, origin_x, scale_y, origin_y = self.rasters.grids[number].tolist()
        width, height = self.rasters.sizes[number].tolist()
        return Grid(
            width=width, height=height, scale_x=scale_x, scale_y=scale_y, origin_x=origin_x, origin_y=origin_y
        )  # fmt: skip

    def crs_of(self, number: int) -> str:
        """Return the CRS of the raster of a record."""
        return self.crs[int(self.rasters.crs[number])]

    def take(self, numbers: Sequence[int]) -> list[Record]:
        """Return the records at positions; errors are those of :meth:`Headers.take`."""
        return cast("list[Record]", self.headers.take(self.rasters.places[np.asarray(numbers, np.int64)]))


def list_records(collection: RecordTable, bands: Sequence[str], options: ReadOptions) -> RecordsOnDemand:
    """Return the records of a collection that have the headers of all bands.

    Args:
        collection: the records, with the filters of the collection.
        bands: names of the bands.
        options: say whether bands on different grids are brought to one.

    Raises:
        WindowError: if no record has them, a record has no CRS, or its bands lie on different grids and the options
            choose no grid.
        CollectionError: if a header contradicts itself, or a file cannot be read.
    """
    table = collection.schema
    leaves = leaves_of(table, bands) | record_leaves(table, bands)
    rows = rows_of(collection.dataset, collection.expression, collection.areas, leaves)
    found = scan_rasters(rows, table, bands)
    if len(found.without):
        listed_ids = listed(list(map(str, found.without.to_pylist())))
        if not len(found.rasters):
            raise WindowError(
                f"the index has no header of bands {', '.join(bands)} for the {len(found.without)} records that meet "
                f"the filters ({listed_ids}): `rasteret-assets failures` tells why, and another build asks for them "
                "again"
            )
        _log.warning("left out %d records whose headers are not in the index: %s", len(found.without), listed_ids)
    if not len(found.rasters):
        raise WindowError("no record meets the filters: compare them with collection.bounds and .date_range")
    records = RecordsOnDemand(
        rasters=found.rasters, crs=_named(found.rasters), headers=Headers(rows, table, bands)
    )  # fmt: skip
    if not options.regrids and not options.allow_resample:
        # Headers are read, because grids that differ in the last digit only are not refused.
        for number in found.apart.tolist():
            check_one_grid(records.take([number])[0], bands)
    return replace(records, rasters=found.rasters.in_order())


def _named(rasters: Rasters) -> tuple[str, ...]:
    """Return the CRSs as ``crs_name`` writes them; a name that no record has stays as it is."""
    names = list(rasters.crs_names)
    for code, first in zip(*np.unique(rasters.crs, return_index=True), strict=True):
        names[code] = named_crs(rasters.ids[int(first)].as_py(), names[code])
    return tuple(names)


class RecordsById:
    """Find the records of a collection by their ids, which are listed at the first call.

    Args:
        collection: the records, with the filters of the collection.
    """

    def __init__(self, collection: RecordTable) -> None:
        self._collection = collection
        self._listed: tuple[Rows, pa.ChunkedArray, npt.NDArray[np.int64]] | None = None
        self._headers: dict[tuple[str, ...], Headers] = {}

    def records(self, ids: Sequence[str], bands: Sequence[str]) -> list[tuple[str, Record | None]]:
        """Return the records of ids, in the order of the ids; None where the index has no header of any band.

        An id that several records share names all of them.

        Raises:
            CollectionError: if an id has no record, a header contradicts itself, or a file cannot be read.
            WindowError: if bands of a record are in different CRSs, or a record has no CRS.
            TileError: if tiles are compressed in a way that cannot be decoded.
        """
        try:
            return self._records(ids, bands)
        except StaleRowsError:
            # Listed again, once, because a build replaced a file after its ids were listed.
            self._listed = None
            self._headers.clear()
            return self._records(ids, bands)

    def _records(self, ids: Sequence[str], bands: Sequence[str]) -> list[tuple[str, Record | None]]:
        rows, every_id, places = self._listed = self._listed or self._list()
        wanted = pa.array(ids, pa.string())
        positions = np.flatnonzero(pc.is_in(every_id, value_set=wanted).to_numpy())
        by_id: dict[str, list[int]] = {}
        for name, place in zip(every_id.take(pa.array(positions)).to_pylist(), places[positions].tolist(), strict=True):
            by_id.setdefault(name, []).append(place)
        if absent := [name for name in ids if name not in by_id]:
            where = "among the records that meet the filters" if self._collection.is_filtered else "in this collection"
            raise CollectionError(f"{len(absent)} of {len(ids)} ids are not {where}: {listed(absent)}")
        pairs = [(name, place) for name in ids for place in by_id[name]]
        key = tuple(bands)
        if key not in self._headers:
            while len(self._headers) >= _BAND_SETS:
                self._headers.pop(next(iter(self._headers)))
            self._headers[key] = Headers(rows, self._collection.schema, bands)
        found = self._headers[key].take(np.array([place for _, place in pairs], np.int64))
        if lacking := [name for (name, _), record in zip(pairs, found, strict=True) if record is None]:
            named = ", ".join(bands)
            _log.warning("%d records have no header of bands %s in the index: %s", len(lacking), named, listed(lacking))
        return [(name, record) for (name, _), record in zip(pairs, found, strict=True)]

    def _list(self) -> tuple[Rows, pa.ChunkedArray, npt.NDArray[np.int64]]:
        found = self._collection
        leaves = record_leaves(found.schema, [band for band in found.bands if has_href(found.schema, band)])
        rows = rows_of(found.dataset, found.expression, found.areas, leaves)
        parts = [
            (part[schema.ID].cast(pa.string()), places) for places, part in rows.scan({schema.ID: (schema.ID,)})
        ]  # fmt: skip
        ids = pa.chunked_array([chunk for column, _ in parts for chunk in column.chunks], pa.string())
        return rows, ids, np.concatenate([np.empty(0, np.int64), *(places for _, places in parts)])
