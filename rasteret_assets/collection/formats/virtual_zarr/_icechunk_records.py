"""Find the records that a repository does not hold yet, by small columns, without a tile table.

The version of a record's files is a hash of their addresses, tags, times of change and sizes, of the record's datetime,
and of the scales that STAC states. A group of the repository keeps it beside the ids, and tells by it whether a record
is new, changed or the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets import schema
from rasteret_assets.collection.pixels.on_demand import Headers
from rasteret_assets.collection.pixels.record_table import RecordTable
from rasteret_assets.collection.pixels.select import Record, record_leaves
from rasteret_assets.collection.pixels.stac_scaling import SCALING_FIELDS
from rasteret_assets.collection.table.row_places import Leaves, rows_of
from rasteret_assets.columns.hashing import row_hashes
from rasteret_assets.columns.instants import utc_instants
from rasteret_assets.errors import CollectionError, WindowError
from rasteret_assets.storage.addresses.address import unsigned_hrefs

Hashes = npt.NDArray[np.uint64]

#: Records are grouped by their grids alone, unless a column is named.
BY_GRID: Final = "grid"

_LABEL: Final = "\0label"
_PLACE: Final = "\0place"
_HREF: Final = "href"
_TELLING: Final = ("etag", "last_modified", "content_length")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Written:
    """The N records of one group of a repository.

    Args:
        name: of the group.
        bands: names of the collection's bands that it holds.
        ids: of the records, strings ``[N]``, in the order of the group.
        versions: of their files, uint64 ``[N]``.
    """

    name: str
    bands: tuple[str, ...]
    ids: pa.Array
    versions: Hashes


@dataclass(kw_only=True, eq=False)
class NewRecords:
    """Records to be written, N of them, by datetime and id, undated ones last.

    Args:
        headers: reads the rest of a record.
        table: columns of the records: place, label and addresses.
        versions: of the file of each band, uint64 ``[N]`` by band.
        unchanged: number of records that are there already.
        without: number of records that lack the header of a band.
        replaced: (group, id) of what the repository holds of files that were replaced since.
    """

    headers: Headers
    table: pa.Table
    versions: dict[str, Hashes]
    unchanged: int
    without: int
    replaced: set[tuple[str, str]]
    _joined: dict[tuple[str, ...], Hashes] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Return N, the number of records."""
        return int(self.table.num_rows)

    def hrefs(self) -> Iterator[pa.Array]:
        """Yield a string array for each band: addresses of its files, without anything that grants access."""
        for band in self.versions:
            yield self.table[f"{_HREF}:{band}"].combine_chunks()

    def versions_of(self, bands: tuple[str, ...]) -> Hashes:
        """Return versions of the files of some bands, uint64 ``[N]``."""
        if bands not in self._joined:
            self._joined[bands] = join_versions(self.versions, bands)
        return self._joined[bands]

    def take(self, start: int, stop: int) -> Iterator[tuple[int, Record, str | None]]:
        """Read the records of a span: position, record with such addresses, and label.

        Raises:
            CollectionError: if a file was published anew meanwhile, or a header contradicts itself.
            WindowError: if the bands of a record are in different CRSs, or one has none.
            TileError: if tiles are compressed in a way that is not read.
        """
        part = self.table.slice(start, stop - start)
        records = self.headers.take(part[_PLACE].to_numpy())
        labels = part[_LABEL].to_pylist()
        hrefs = zip(*(part[f"{_HREF}:{band}"].to_pylist() for band in self.versions), strict=True)
        for number, (record, own, label) in enumerate(zip(records, hrefs, labels, strict=True), start):
            if record is not None:
                yield number, replace(record, hrefs=own), label


def join_versions(versions: dict[str, Hashes], bands: Sequence[str]) -> Hashes:
    """Return one hash ``[N]`` for the files of several bands."""
    return row_hashes([pa.array(versions[band]) for band in bands])


def find_new(collection: RecordTable, bands: Sequence[str], groups: str, written: Sequence[Written]) -> NewRecords:
    """Find the records that a repository does not hold, or holds of files that were replaced.

    Args:
        collection: with its filters.
        bands: names of the bands; a record must have the headers of all.
        groups: :data:`BY_GRID`, or a column whose texts begin the groups' names.
        written: what the repository holds.

    Raises:
        WindowError: if no record meets the filters.
        CollectionError: if the collection lacks the column ``groups``, or one of its files cannot be read.
    """
    small = _leaves(collection.schema, bands, groups)
    everything = small | record_leaves(collection.schema, bands, scaled=True)
    rows = rows_of(collection.dataset, collection.expression, collection.areas, everything)
    parts = [_part(places, table, bands, small) for places, table in rows.scan(small)]
    if not parts:
        raise WindowError("no record meets the filters: compare them with the collection's bounds")
    table = pa.concat_tables(parts).combine_chunks()
    versions = {band: table[f"version:{band}"].to_numpy() for band in bands}
    there = table["there"].to_numpy(zero_copy_only=False)
    is_written, replaced = _compare(table[schema.ID].combine_chunks(), versions, written)
    is_new = there & ~is_written
    kept = table.filter(pa.array(is_new))
    order = pc.sort_indices(
        kept, sort_keys=[(schema.DATETIME, "ascending", "at_end"), (schema.ID, "ascending", "at_end")]
    )
    return NewRecords(
        headers=Headers(rows, collection.schema, bands, scaled=True),
        table=kept.take(order),
        versions={band: values[is_new][np.asarray(order)] for band, values in versions.items()},
        unchanged=int((there & is_written).sum()),
        without=int((~there).sum()),
        replaced=replaced,
    )


def _leaves(table: pa.Schema, bands: Sequence[str], groups: str) -> dict[str, tuple[str, ...]]:
    """Return the small fields that tell a record's files, and the field that begins the names of groups."""
    stac = record_leaves(table, bands, scaled=True)
    leaves = {name: path for name, path in stac.items() if len(path) > 2 and path[2] in SCALING_FIELDS}
    leaves |= {name: (name,) for name in (schema.ID, schema.DATETIME)}
    for band in bands:
        column = schema.band_column(band)
        names = {field.name for field in table.field(column).type}
        leaves |= {f"{name}:{band}": (column, name) for name in ("image_width", *_TELLING) if name in names}
        leaves[f"{_HREF}:{band}"] = (schema.ASSETS, band, schema.HREF)
    if groups == BY_GRID:
        return leaves
    if groups not in table.names:
        raise CollectionError(f"groups={groups!r}: this collection has no such column, and {BY_GRID!r} groups by grids")
    return leaves | {_LABEL: (groups,)}


def _part(places: npt.NDArray[np.int64], table: pa.Table, bands: Sequence[str], leaves: Leaves) -> pa.Table:
    """Return columns of some rows: place, id, datetime, label, and address and version of each file."""

    def column(name: str) -> pa.Array:
        return (table[name].combine_chunks() if name in leaves else pa.nulls(len(places))).cast(pa.string())

    moments = utc_instants(table[schema.DATETIME].combine_chunks())
    columns: dict[str, Any] = {
        _PLACE: places,
        schema.ID: column(schema.ID),
        schema.DATETIME: moments,
        _LABEL: column(_LABEL),
    }
    there = np.ones(len(places), bool)
    for band in bands:
        href = unsigned_hrefs(column(f"{_HREF}:{band}"))
        facts = [column(f"{name}:{band}") for name in _TELLING]
        # What else is read of an asset says its scale.
        scales = [name for name, (*parent, leaf) in leaves.items() if parent == [schema.ASSETS, band] and leaf != _HREF]
        facts += [table[name].combine_chunks() for name in scales]
        columns[f"{_HREF}:{band}"] = href
        columns[f"version:{band}"] = row_hashes([href, *facts, moments])
        there &= np.asarray(column(f"image_width:{band}").is_valid()) & np.asarray(href.is_valid())
    return pa.table(columns | {"there": there})


def _compare(
    ids: pa.Array, versions: dict[str, Hashes], written: Sequence[Written]
) -> tuple[npt.NDArray[np.bool_], set[tuple[str, str]]]:
    """Which rows a repository holds of all bands, and (group, id) of what it holds of files that were replaced."""
    by_band = {band: np.zeros(len(ids), bool) for band in versions}
    replaced: set[tuple[str, str]] = set()
    together: dict[tuple[str, ...], list[Written]] = {}
    for one in written:
        if set(one.bands) <= set(versions):
            together.setdefault(one.bands, []).append(one)
    for bands, several in together.items():
        now = join_versions(versions, bands)
        held_ids = pa.chunked_array([one.ids for one in several], pa.string()).combine_chunks()
        held = np.concatenate([one.versions for one in several])
        is_held = np.isin(row_hashes([ids, pa.array(now)]), row_hashes([held_ids, pa.array(held)]))
        for band in bands:
            by_band[band] |= is_held
        names = np.repeat([one.name for one in several], [len(one.ids) for one in several])
        at = pc.index_in(held_ids, value_set=ids)
        found = np.flatnonzero(np.asarray(at.is_valid()))
        other = found[now[np.asarray(at.take(pa.array(found)))] != held[found]]
        replaced |= set(zip(names[other].tolist(), held_ids.take(pa.array(other)).to_pylist(), strict=True))
    return np.logical_and.reduce(list(by_band.values())), replaced
