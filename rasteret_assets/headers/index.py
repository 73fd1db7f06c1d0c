"""Which headers are known: for a file and sample, the row of the header store that holds its header or failure.

Only a 128-bit hash of each known address is kept in memory; the rows stay in their files.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.headers.store import HeaderStore
from rasteret_assets.headers.targets import RETRIED_CLASSES
from rasteret_assets.schema import BAND_INDEX, IDENTITY, PARSER_VERSION

#: Columns that a row is known by.
KEY_COLUMNS: Final = (IDENTITY, BAND_INDEX, "error_class", "parser_version")

_MIX: Final = np.uint64(0x9E3779B97F4A7C15)


class Found(NamedTuple):
    """Where the header of each target stands.

    Args:
        files: position of the file among the index's names, ``int64[N]``; -1 where nothing is known.
        rows: number of the row there, ``int64[N]``.
    """

    files: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]


class HeaderIndex:
    """Rows of header files that still hold: same parser, and an outcome that another try would not change."""

    def __init__(self) -> None:
        #: Names of the files that rows were added of.
        self.names: list[str] = []
        self._keys = np.zeros((0, 2), np.uint64)
        self._places = np.zeros((0, 2), np.int64)

    @classmethod
    def of(cls, store: HeaderStore, names: Iterable[str] | None = None) -> HeaderIndex:
        """Return the index of the files of a store, in which newer files count before older ones.

        Raises:
            CollectionError: if a file is damaged.
        """
        index = cls()
        parts: list[tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]] = []
        for name in store.names if names is None else names:
            first = 0
            for batch in store.batches(name, KEY_COLUMNS):
                parts.append(_entries(batch, len(index.names), first))
                first += batch.num_rows
            index.names.append(name)
        index._insert(parts)
        return index

    def add(self, name: str, first: int, rows: pa.Table) -> None:
        """Know rows that were added to a file; they count before those that are known already.

        Args:
            name: of the file.
            first: number of the first of the rows there.
            rows: with :data:`KEY_COLUMNS`.
        """
        if name not in self.names:
            self.names.append(name)
        batch = rows.select(list(KEY_COLUMNS)).combine_chunks()
        self._insert([_entries(batch, self.names.index(name), first)])

    def __len__(self) -> int:
        return int((self._places[:, 0] >= 0).sum())

    def find(self, targets: pa.Table) -> Found:
        """Return where the header of every target stands.

        Args:
            targets: with the columns ``identity`` and ``band_index``.
        """
        count = targets.num_rows
        found = Found(np.full(count, -1, np.int64), np.zeros(count, np.int64))
        if not len(self._keys) or not count:
            return found
        identities, indices = (targets[name].combine_chunks() for name in (IDENTITY, BAND_INDEX))
        wanted = _keys(identities, indices)
        place = np.searchsorted(self._keys[:, 0], wanted[:, 0])
        inside = np.minimum(place, len(self._keys) - 1)
        hit = np.asarray(identities.is_valid()) & (self._keys[inside] == wanted).all(axis=1)
        hit &= self._places[inside, 0] >= 0
        found.files[hit], found.rows[hit] = self._places[inside[hit]].T
        return found

    def _insert(self, parts: list[tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]]) -> None:
        if not parts:
            return
        # Those that count first stand first.
        keys = np.concatenate([*(keys for keys, _ in parts), self._keys])
        places = np.concatenate([*(places for _, places in parts), self._places])
        # A clash of the first halves of two hashes hides one of them at most: its header is asked for again.
        order = np.argsort(keys[:, 0], kind="stable")
        keys = keys[order]
        first = np.concatenate([np.ones(min(1, len(keys)), bool), keys[1:, 0] != keys[:-1, 0]])
        self._keys, self._places = keys[first], places[order][first]


def _entries(
    rows: pa.RecordBatch | pa.Table, file: int, first: int
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """Keys and places of rows of a file; the place of a failure that is to be tried again names no file.

    Such a failure stands before what an older file knows: the header was asked for anew, because it was not trusted.
    """
    holds = _holds(rows)
    places = np.stack([np.where(holds, file, -1), np.arange(first, first + rows.num_rows)], axis=1)
    identities, indices = (_one(rows.column(name)) for name in (IDENTITY, BAND_INDEX))
    named = np.flatnonzero(np.asarray(identities.is_valid()))
    return _keys(identities, indices)[named], places[named]


def _one(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _keys(identities: pa.Array, indices: pa.Array) -> npt.NDArray[np.uint64]:
    """A 128-bit key ``uint64[N, 2]`` of the file and sample of every row."""
    count = len(identities)
    if not count:
        return np.zeros((0, 2), np.uint64)
    content = np.frombuffer(identities.buffers()[1], np.uint64)[2 * identities.offset :][: 2 * count].reshape(count, 2)
    sample = np.asarray(pc.fill_null(indices, 0), np.int64).astype(np.uint64)
    return content ^ (sample * _MIX)[:, np.newaxis]


def _holds(batch: pa.RecordBatch | pa.Table) -> npt.NDArray[np.bool_]:
    current = pc.fill_null(pc.equal(batch.column("parser_version"), PARSER_VERSION), fill_value=False)
    again = pc.is_in(batch.column("error_class"), pa.array(RETRIED_CLASSES))
    return np.asarray(pc.and_(current, pc.invert(again)), bool)
