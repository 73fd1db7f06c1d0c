"""Headers that are known already: where in which ledger the row of a file and sample stands.

Only a 64-bit key of every known row is kept in memory. The rows themselves stay where they are, in tables or Parquet
files, until they are asked for; each is then held against the identity it was looked up for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rasteret_assets.columns.hashing import row_hashes
from rasteret_assets.errors import CollectionError
from rasteret_assets.headers.targets import RETRIED_CLASSES
from rasteret_assets.schema import BAND_INDEX, BAND_METADATA_SCHEMA, IDENTITY, PARSER_VERSION
from rasteret_assets.storage.files import Files

_KEY_COLUMNS: Final = (IDENTITY, BAND_INDEX, "error_class", "parser_version")


@dataclass(frozen=True, kw_only=True)
class KnownTable:
    """Ledger rows in memory."""

    table: pa.Table

    @property
    def schema(self) -> pa.Schema:
        """Columns of the rows."""
        return self.table.schema

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """All rows, in order."""
        yield from self.table.select(list(columns)).to_batches()

    def take(self, rows: npt.NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
        """Rows by their number, which rises."""
        chosen = self.table.select(list(columns))
        if len(rows) and rows[-1] - rows[0] == len(rows) - 1:
            # Rows that lie together, as freshly fetched ones do, are not copied: their tile tables are most of a build.
            return chosen.slice(rows[0], len(rows))
        return chosen.take(pa.array(rows))


@dataclass(frozen=True, kw_only=True)
class KnownFile:
    """Ledger rows in a Parquet file of a workspace, which stays there as long as it is asked."""

    files: Files
    path: str

    @property
    def schema(self) -> pa.Schema:
        """Columns of the rows."""
        with self._opened() as file:
            return file.schema_arrow

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """All rows, in order."""
        return self.files.read_batches(self.path, columns)

    def take(self, rows: npt.NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
        """Rows by their number, which rises; only the row groups they stand in are read, one after the other."""
        with self._opened() as file:
            counts = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            ends = np.cumsum(counts)
            group_of_row = np.searchsorted(ends, rows, side="right")
            parts = []
            for group in np.unique(group_of_row):
                inside = rows[group_of_row == group] - (ends[group] - counts[group])
                parts.append(file.read_row_group(int(group), list(columns)).take(pa.array(inside)))
        return pa.concat_tables(parts)

    @contextmanager
    def _opened(self) -> Iterator[pq.ParquetFile]:
        with self.files.open_table(self.path) as file:
            if file is None:
                raise CollectionError(f"{self.path} is gone: another run took it away; build again")
            yield file


KnownRows = KnownTable | KnownFile


class HeaderIndex:
    """Which rows of earlier ledgers still hold: same file and sample, same parser, no failure worth another try.

    Args:
        sources: ledgers, those that count most first; ledgers of another layout are left aside.
    """

    def __init__(self, sources: Sequence[KnownRows]) -> None:
        self._sources: list[KnownRows] = []
        self._keys = np.zeros(0, np.uint64)
        self._numbers = self._rows = np.zeros(0, np.int64)
        self.add(sources)

    def add(self, sources: Sequence[KnownRows]) -> None:
        """Know the rows of more ledgers, which count less than those known before."""
        keys, rows, numbers = [self._keys], [self._rows], [self._numbers]
        for source in sources:
            if not source.schema.equals(BAND_METADATA_SCHEMA):
                continue
            start = 0
            for batch in source.batches(_KEY_COLUMNS):
                chosen = np.flatnonzero(_holds(batch))
                keys.append(_keys(batch)[chosen])
                rows.append(chosen + start)
                numbers.append(np.full(len(chosen), len(self._sources), np.int64))
                start += batch.num_rows
            self._sources.append(source)
        order = np.argsort(np.concatenate(keys), kind="stable")
        self._keys = np.concatenate(keys)[order]
        self._rows = np.concatenate(rows)[order]
        self._numbers = np.concatenate(numbers)[order]

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, targets: pa.Table) -> npt.NDArray[np.int64]:
        """Position in the index for every target, ``int64[N]``; -1 where its header is not known."""
        if not len(self):
            return np.full(targets.num_rows, -1, np.int64)
        wanted = np.concatenate(
            [np.zeros(0, np.uint64), *(_keys(batch) for batch in targets.select([IDENTITY, BAND_INDEX]).to_batches())]
        )
        place = np.searchsorted(self._keys, wanted)
        inside = place < len(self._keys)
        found = np.full(len(wanted), -1, np.int64)
        hit = np.flatnonzero(inside)[self._keys[place[inside]] == wanted[inside]]
        found[hit] = place[hit]
        return found

    def take(self, positions: npt.NDArray[np.int64], columns: Sequence[str] | None = None) -> pa.Table:
        """The rows at ``positions``, in that order, with the ledger's columns or those asked for."""
        return take_rows(self._sources, self._numbers[positions], self._rows[positions], columns)


def take_rows(
    sources: Sequence[KnownRows],
    numbers: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    columns: Sequence[str] | None = None,
) -> pa.Table:
    """Rows of several ledgers in the order asked for, as :data:`~rasteret_assets.schema.BAND_METADATA_SCHEMA` has them.

    Args:
        sources: the ledgers.
        numbers: which of them each row stands in.
        rows: its number there.
        columns: those to read; all when omitted.
    """
    names = list(columns or BAND_METADATA_SCHEMA.names)
    schema = pa.schema([BAND_METADATA_SCHEMA.field(name) for name in names])
    parts, places = [schema.empty_table()], [np.zeros(0, np.int64)]
    for number in np.unique(numbers):
        mine = np.flatnonzero(numbers == number)
        distinct, back = np.unique(rows[mine], return_inverse=True)
        parts.append(in_order(sources[number].take(distinct, names).cast(schema), back))
        places.append(mine)
    return in_order(pa.concat_tables(parts), np.argsort(np.concatenate(places), kind="stable"))


def in_order(table: pa.Table, order: npt.NDArray[np.int64]) -> pa.Table:
    """Rows of a table in the order asked for; rows that stand together in that order already are not copied."""
    first = int(order[0]) if len(order) else 0
    if np.array_equal(order, np.arange(first, first + len(order))):
        return table.slice(first, len(order))
    return table.combine_chunks().take(pa.array(order))


def _keys(batch: pa.RecordBatch) -> npt.NDArray[np.uint64]:
    """64-bit key of the (identity, band index) of every row."""
    return row_hashes([batch.column(IDENTITY), batch.column(BAND_INDEX)])


def _holds(batch: pa.RecordBatch) -> npt.NDArray[np.bool_]:
    current = pc.fill_null(pc.equal(batch.column("parser_version"), PARSER_VERSION), fill_value=False)
    again = pc.is_in(batch.column("error_class"), pa.array(RETRIED_CLASSES))
    return np.asarray(pc.and_(pc.and_(current, pc.invert(again)), pc.is_valid(batch.column(IDENTITY))), bool)
