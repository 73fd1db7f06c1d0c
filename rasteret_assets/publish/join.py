"""Join records with the headers of their bands: one ``{band}_metadata`` struct per band, and addresses unsigned.

The ledger has the rows of a partition in the order of its records, so that both are read once, side by side. The
headers come from the header store, as many at once as fit into a bounded number of bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.errors import CollectionError
from rasteret_assets.publish.parameters import changed_parameters
from rasteret_assets.records.signatures import without_signatures
from rasteret_assets.schema import (
    BAND_STRUCT,
    CRS,
    HEADER_FILE,
    HEADER_ROW,
    ID,
    PROJ_EPSG,
    STATUS_OK,
    VALIDATOR_FIELDS,
    band_column,
)
from rasteret_assets.secrets import BY_DEFAULT, SecretRule

#: Columns of the ledger that say where the header of a record and band is stored.
PLACE_COLUMNS = (ID, "band", "status", HEADER_FILE, HEADER_ROW)

#: Columns of the header store that make a published header.
HEADER_COLUMNS = ("header", *(field.name for field in VALIDATOR_FIELDS))

#: Returns headers of the header store, a table per request. Takes the names of files, and for every request two arrays:
#: for each header the position of its file among the names, and its row in the file.
TakeHeaders = Callable[[Sequence[str], Sequence[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]], list[pa.Table]]


@dataclass(frozen=True, kw_only=True)
class CrsFindings:
    """Corrections of the records' CRSs by their headers, and the query parameters of their addresses.

    Args:
        corrected: number of records whose stated CRS was replaced by the CRS of all their headers.
        conflicting: number of records whose bands have different CRSs; each band's struct has its own CRS.
        kept: names of query parameters that are published.
        taken: names of query parameters that were taken out as secrets.
    """

    corrected: int = 0
    conflicting: int = 0
    kept: frozenset[str] = frozenset()
    taken: frozenset[str] = frozenset()

    def __add__(self, other: CrsFindings) -> CrsFindings:
        return CrsFindings(
            corrected=self.corrected + other.corrected, conflicting=self.conflicting + other.conflicting,
            kept=self.kept | other.kept, taken=self.taken | other.taken,
        )  # fmt: skip


def join_batches(
    records: Iterable[pa.RecordBatch],
    ledger: Iterable[pa.RecordBatch],
    bands: Sequence[str],
    take: TakeHeaders,
    rule: SecretRule = BY_DEFAULT,
) -> Iterator[tuple[pa.Table, CrsFindings]]:
    """Join the batches of a partition with its ledger; yield the joined table and the findings of each batch.

    Args:
        records: normalized records, in batches whose headers fit into memory.
        ledger: :data:`PLACE_COLUMNS` of the ledger in the order of ``records``, any number of rows per record; no
            batches if the collection has no bands.
        bands: in column order.
        take: returns headers, as tables with :data:`HEADER_COLUMNS`.
        rule: which parameters of addresses are secrets.

    Raises:
        CollectionError: if the ledger was made from other records: its ids are others, or in another order.
    """
    rows = _LedgerCursor(ledger)
    for batch in records:
        table = pa.Table.from_batches([batch])
        places = rows.take(table[ID].combine_chunks()) if bands else None
        yield join_headers(table, band_headers(table[ID].combine_chunks(), places, bands, take), rule)
    if bands and (stray := rows.next_id()) is not None:
        raise CollectionError(
            f"the ledger of headers was not made from these records: {stray!r} is in it, and is not a record where it "
            "stands; build band_metadata again, then the collection"
        )


class _LedgerCursor:
    """Rows of a ledger, which are taken from its beginning record by record."""

    def __init__(self, batches: Iterable[pa.RecordBatch]) -> None:
        self._batches = iter(batches)
        self._rest: pa.RecordBatch | None = None

    def take(self, ids: pa.Array) -> pa.Table | None:
        """Take the rows before the first row of another record than ``ids``; None if the first row is of another."""
        taken = []
        while self._fill() and self._rest is not None:
            own = np.asarray(pc.is_in(self._rest.column(ID), ids))
            count = len(own) if own.all() else int(own.argmin())
            if count:
                taken.append(self._rest.slice(0, count))
            self._rest = self._rest.slice(count)
            if count < len(own):
                break
        return pa.Table.from_batches(taken).combine_chunks() if taken else None

    def next_id(self) -> str | None:
        """Return the id of the first row that was not taken; None if all rows were taken."""
        return str(self._rest.column(ID)[0]) if self._fill() and self._rest is not None else None

    def _fill(self) -> bool:
        while self._rest is None or not self._rest.num_rows:
            self._rest = next(self._batches, None)
            if self._rest is None:
                return False
            self._rest = self._rest.select(list(PLACE_COLUMNS))
        return True


def band_headers(
    ids: pa.Array, places: pa.Table | None, bands: Sequence[str], take: TakeHeaders
) -> dict[str, pa.Array]:
    """Return the headers of some records by band; null where a record has no header.

    Args:
        ids: of the records.
        places: :data:`PLACE_COLUMNS` of the ledger's rows of these records; None if the ledger has no rows of them.
        bands: in column order.
        take: returns headers, as tables with :data:`HEADER_COLUMNS`.
    """
    if places is None:
        return {band: pa.nulls(len(ids), BAND_STRUCT) for band in bands}
    good = places.filter(pc.and_(pc.equal(places["status"], STATUS_OK), pc.is_valid(places[HEADER_ROW])))
    good = good.combine_chunks()
    encoded = good[HEADER_FILE].combine_chunks().dictionary_encode() if good.num_rows else None
    names = encoded.dictionary.to_pylist() if encoded is not None else []
    codes = np.asarray(encoded.indices, np.int64) if encoded is not None else np.zeros(0, np.int64)
    numbers = np.asarray(good[HEADER_ROW], np.int64)
    record_of_row = (
        np.asarray(pc.index_in(good[ID].combine_chunks(), value_set=ids), np.int64) if good.num_rows else codes
    )
    requests = []
    for band in bands:
        mine = np.flatnonzero(np.asarray(pc.equal(good["band"], band), bool))
        files, rows = np.full(len(ids), -1, np.int64), np.zeros(len(ids), np.int64)
        files[record_of_row[mine]], rows[record_of_row[mine]] = codes[mine], numbers[mine]
        requests.append((files, rows))
    tables = take(names, requests)
    return {band: _published(table) for band, table in zip(bands, tables, strict=True)}


def _published(rows: pa.Table) -> pa.StructArray:
    """Return rows of :data:`HEADER_COLUMNS` as structs of :data:`BAND_STRUCT`; null where the header is null."""
    header = rows["header"].combine_chunks()
    fields = [header.field(position) for position in range(header.type.num_fields)]
    fields += [rows[field.name].combine_chunks() for field in VALIDATOR_FIELDS]
    return pa.StructArray.from_arrays(fields, fields=list(BAND_STRUCT), mask=header.is_null())


def join_headers(
    records: pa.Table, headers: Mapping[str, pa.Array], rule: SecretRule = BY_DEFAULT
) -> tuple[pa.Table, CrsFindings]:
    """Return records with one ``{band}_metadata`` struct per band and unsigned hrefs.

    A column ``{band}_metadata`` of the source is replaced. ``proj:epsg`` and ``crs`` are taken from the headers
    wherever all headers of a record agree, because record tables are often wrong about the CRS, and files are not.

    Args:
        records: normalized records.
        headers: of these records, by band in column order; null where a record has no header.
        rule: which parameters of addresses are secrets.
    """
    replaced = {band_column(band) for band in headers}
    kept = [name for name in records.schema.names if name not in replaced]
    table = without_signatures(records.select(kept), rule)
    kept_names, taken_names = changed_parameters(records, table)
    findings = CrsFindings(kept=kept_names, taken=taken_names)
    if not headers:
        return table, findings
    table, of_crs = _with_header_crs(table, headers)
    for band, column in headers.items():
        table = table.append_column(band_column(band), column)
    return table, findings + of_crs


def _with_header_crs(table: pa.Table, structs: Mapping[str, pa.Array]) -> tuple[pa.Table, CrsFindings]:
    """Return records with ``proj:epsg`` and ``crs`` from their headers, wherever all headers of a record agree."""
    rows = table.num_rows
    stated = table[CRS].combine_chunks()
    agreed = pa.nulls(rows, pa.string())
    codes = pa.nulls(rows, pa.int32())
    conflict = np.zeros(rows, bool)
    stated_is_one = np.zeros(rows, bool)
    for struct in structs.values():
        crs, epsg = (pc.struct_field(struct, [struct.type.get_field_index(name)]) for name in ("crs", "epsg"))
        conflict |= np.asarray(pc.fill_null(pc.not_equal(agreed, crs), fill_value=False))
        stated_is_one |= np.asarray(pc.fill_null(pc.equal(stated, crs), fill_value=False))
        codes = pc.if_else(pc.is_null(agreed), epsg, codes)
        agreed = pc.coalesce(agreed, crs)
    # Where the bands of a record disagree, its stated CRS stays if it is the CRS of one of them.
    keep = pa.array(np.asarray(pc.is_null(agreed)) | (conflict & stated_is_one))
    epsg = pc.if_else(keep, table[PROJ_EPSG].combine_chunks(), codes)
    text = pc.if_else(keep, stated, agreed)
    corrected = pc.and_(pc.invert(keep), pc.and_(pc.is_valid(stated), pc.not_equal(stated, text)))
    for name, column in ((PROJ_EPSG, epsg), (CRS, text)):
        table = table.set_column(table.schema.get_field_index(name), name, column)
    findings = CrsFindings(
        corrected=int(pc.sum(pc.fill_null(corrected, fill_value=False)).as_py() or 0), conflicting=int(conflict.sum())
    )
    return table, findings
