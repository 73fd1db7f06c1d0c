"""Records joined with the headers of their bands: one ``{band}_metadata`` struct per band, and nothing that signs.

The ledger holds the rows of a partition's records in the records' order, so that both are read once, side by side, and
no more than a batch of each is in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.errors import CollectionError
from rasteret_assets.records.signatures import without_signatures
from rasteret_assets.schema import (
    BAND_METADATA_SCHEMA,
    BAND_STRUCT,
    CRS,
    ID,
    PROJ_EPSG,
    STATUS_OK,
    band_column,
)


@dataclass(frozen=True, kw_only=True)
class CrsFindings:
    """What the headers said about the records' CRSs.

    Args:
        corrected: records whose stated CRS was replaced by the one all their headers agree on.
        conflicting: records whose bands are in different CRSs; each band's own is in its struct.
    """

    corrected: int = 0
    conflicting: int = 0

    def __add__(self, other: CrsFindings) -> CrsFindings:
        return CrsFindings(
            corrected=self.corrected + other.corrected, conflicting=self.conflicting + other.conflicting
        )  # fmt: skip


def join_batches(
    records: Iterable[pa.RecordBatch], ledger: Iterable[pa.RecordBatch], bands: Sequence[str]
) -> Iterator[tuple[pa.Table, CrsFindings]]:
    """:func:`join_band_metadata` over a partition that streams: one result per batch of records.

    Args:
        records: normalized records.
        ledger: rows of :data:`~rasteret_assets.schema.BAND_METADATA_SCHEMA` in the order of ``records``, any number of
            them per record; nothing where no header was asked for.
        bands: in column order.

    Raises:
        CollectionError: if the ledger has rows of records that are not there, or another order: it is that of other
            records.
    """
    rows = _LedgerCursor(ledger)
    for batch in records:
        table = pa.Table.from_batches([batch])
        yield join_band_metadata(table, rows.take(table[ID].combine_chunks()) if bands else None, bands)
    if bands and (stray := rows.next_id()) is not None:
        raise CollectionError(
            f"the ledger of headers was not made from these records: {stray!r} is in it, and is no record where it "
            "stands; build band_metadata again, then the collection"
        )


class _LedgerCursor:
    """The ledger's rows, taken from the front record by record."""

    def __init__(self, batches: Iterable[pa.RecordBatch]) -> None:
        self._batches = iter(batches)
        self._rest: pa.RecordBatch | None = None

    def take(self, ids: pa.Array) -> pa.Table:
        """The rows up to the first that belongs to none of ``ids``."""
        taken = []
        while self._fill() and self._rest is not None:
            own = np.asarray(pc.is_in(self._rest.column(ID), ids))
            count = len(own) if own.all() else int(own.argmin())
            taken.append(self._rest.slice(0, count))
            self._rest = self._rest.slice(count)
            if count < len(own):
                break
        return pa.Table.from_batches(taken, BAND_METADATA_SCHEMA)

    def next_id(self) -> str | None:
        """Id of the first row that was not taken, if any is left."""
        return str(self._rest.column(ID)[0]) if self._fill() and self._rest is not None else None

    def _fill(self) -> bool:
        while self._rest is None or not self._rest.num_rows:
            self._rest = next(self._batches, None)
            if self._rest is None:
                return False
            self._rest = self._rest.select(BAND_METADATA_SCHEMA.names)
        return True


def join_band_metadata(
    records: pa.Table, ledger: pa.Table | None, bands: Sequence[str]
) -> tuple[pa.Table, CrsFindings]:
    """Records with one ``{band}_metadata`` struct per band (null where there is no header) and unsigned hrefs.

    A column of that name in the source is replaced. ``proj:epsg`` and ``crs`` become what the headers say wherever all
    headers of a record agree: a record table is often wrong about the CRS, the file it points to is not.

    Args:
        records: normalized records.
        ledger: band metadata of these records; None where nothing is enriched.
        bands: in column order.
    """
    replaced = {band_column(band) for band in bands}
    kept = [name for name in records.schema.names if name not in replaced]
    table = without_signatures(records.select(kept))
    if ledger is None or not bands:
        return table, CrsFindings()
    ok = ledger.filter(pc.equal(ledger["status"], STATUS_OK)).combine_chunks()
    ids = table[ID].combine_chunks()
    structs = {}
    for band in bands:
        rows = ok.filter(pc.equal(ok["band"], band)).combine_chunks()
        found = pc.index_in(ids, value_set=rows[ID].combine_chunks())
        headers = rows["header"].combine_chunks() if rows.num_rows else pa.array([], BAND_STRUCT)
        structs[band] = headers.take(found)
    table, findings = _with_header_crs(table, structs)
    for band, column in structs.items():
        table = table.append_column(band_column(band), column)
    return table, findings


def _with_header_crs(table: pa.Table, structs: dict[str, pa.Array]) -> tuple[pa.Table, CrsFindings]:
    """``proj:epsg`` and ``crs`` from the headers wherever those of a record agree."""
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
    # Where the bands of a record disagree, the record's own statement stands if it is true of one of them.
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
