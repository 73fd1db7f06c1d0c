"""Find stored headers: for a file and sample, the row of the header store that holds its header or failure.

Only a 128-bit hash of each address is kept in memory; the rows stay in their files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.headers.retried import are_settled
from rasteret_assets.headers.store import HeaderStore
from rasteret_assets.schema import BAND_INDEX, IDENTITY, PARSER_VERSION, RETRY_UNTIL

#: Columns by which a row is found, and which tell whether it is still valid.
KEY_COLUMNS: Final = (IDENTITY, BAND_INDEX, "error_class", RETRY_UNTIL, "parser_version")

_MIX: Final = np.uint64(0x9E3779B97F4A7C15)


class FoundRows(NamedTuple):
    """The stored row of each target.

    Args:
        files: position of the row's file among the index's names, ``int64[N]``; -1 where no valid row is stored.
        rows: number of the row in the file, ``int64[N]``.
        outdated: as ``files``, for a row that is not valid any more; -1 where there is none.
    """

    files: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    outdated: npt.NDArray[np.int64]


class _Run(NamedTuple):
    """Rows in the order of the first half of their keys, each key once.

    Args:
        keys: of the rows, ``uint64[N, 2]``.
        places: position of the file among the index's names and number of the row in it, ``int32[N, 2]``. The bits of
            the position are inverted, so that it is negative, for a row that is not valid any more.
    """

    keys: npt.NDArray[np.uint64]
    places: npt.NDArray[np.int32]


class HeaderIndex:
    """Index of the valid rows of header files: of the same parser, with an outcome that another try would not change.

    Rows are added thousands of times while headers are fetched. They are kept in sorted runs, the newest first, and two
    runs are merged once the newer has half as many rows as the older (O'Neil et al., "The log-structured merge-tree",
    1996). A row is therefore moved a logarithmic number of times, and few runs are searched.
    """

    def __init__(self) -> None:
        #: Names of the files whose rows were added.
        self.names: list[str] = []
        self._runs: list[_Run] = []

    @classmethod
    def of(cls, store: HeaderStore, names: Iterable[str] | None = None) -> HeaderIndex:
        """Return the index of the files of a store, in which rows of newer files take precedence.

        Raises:
            CollectionError: if a file is damaged.
        """
        index = cls()
        parts: list[_Run] = []
        for name in store.names if names is None else names:
            first = 0
            for batch in store.batches(name, KEY_COLUMNS):
                parts.append(_entries(batch, len(index.names), first))
                first += batch.num_rows
            index.names.append(name)
        index._insert(parts)
        return index

    def add(self, added: Iterable[tuple[str, int, pa.Table]]) -> None:
        """Add rows that were written to files; they take precedence over the rows of the index.

        Args:
            added: name of a file, number of the first row in it, and the rows, with :data:`KEY_COLUMNS`. Of rows with
                equal keys the first takes precedence.
        """
        parts = []
        for name, first, rows in added:
            if name not in self.names:
                self.names.append(name)
            parts.append(_entries(rows.select(list(KEY_COLUMNS)).combine_chunks(), self.names.index(name), first))
        self._insert(parts)

    def __len__(self) -> int:
        runs = self._runs if len(self._runs) < 2 else [_merged(self._runs)]
        return sum(int((run.places[:, 0] >= 0).sum()) for run in runs)

    def find(self, targets: pa.Table) -> FoundRows:
        """Return the stored row of every target.

        Args:
            targets: with the columns ``identity`` and ``band_index``.
        """
        count = targets.num_rows
        nothing = np.full(count, -1, np.int64)
        files, rows, is_found = nothing.copy(), np.zeros(count, np.int64), np.zeros(count, bool)
        if not self._runs or not count:
            return FoundRows(files, rows, nothing)
        identities, indices = (targets[name].combine_chunks() for name in (IDENTITY, BAND_INDEX))
        wanted = _keys(identities, indices)
        rest = np.flatnonzero(np.asarray(identities.is_valid()))
        for run in self._runs:
            place = np.minimum(np.searchsorted(run.keys[:, 0], wanted[rest, 0]), len(run.keys) - 1)
            matches = (run.keys[place] == wanted[rest]).all(axis=1)
            files[rest[matches]], rows[rest[matches]] = run.places[place[matches]].T
            is_found[rest[matches]] = True
            rest = rest[~matches]
        # Also an invalid row hides the older rows of its key.
        holds = files >= 0
        return FoundRows(np.where(holds, files, -1), rows, np.where(is_found & ~holds, ~files, -1))

    def _insert(self, parts: Sequence[_Run]) -> None:
        """Add runs of rows, those that take precedence first."""
        if not sum(len(part.keys) for part in parts):
            return
        self._runs.insert(0, _merged(parts))
        while len(self._runs) > 1 and 2 * len(self._runs[0].keys) >= len(self._runs[1].keys):
            self._runs[:2] = [_merged(self._runs[:2])]


def _merged(parts: Sequence[_Run]) -> _Run:
    """Merge runs, or rows in any order, into one run; of equal keys the first takes precedence."""
    keys = np.concatenate([part.keys for part in parts])
    places = np.concatenate([part.places for part in parts])
    order = np.argsort(keys[:, 0], kind="stable")
    keys = keys[order]
    # If the first halves of two hashes are equal, one row is hidden, and its header is only asked for again.
    first = np.concatenate([np.ones(min(1, len(keys)), bool), keys[1:, 0] != keys[:-1, 0]])
    return _Run(keys[first], places[order][first])


def _entries(rows: pa.RecordBatch | pa.Table, file: int, first: int) -> _Run:
    """Return keys and places of the rows of a file, in file order, with the invalid ones among them.

    A failure that is tried again is invalid. It hides rows of older files, because the header was asked for again for
    the reason that the older rows were not trusted.
    """
    holds = _holds(rows)
    places = np.stack([np.where(holds, file, ~file), np.arange(first, first + rows.num_rows)], axis=1).astype(np.int32)
    identities, indices = (_one(rows.column(name)) for name in (IDENTITY, BAND_INDEX))
    named = np.flatnonzero(np.asarray(identities.is_valid()))
    return _Run(_keys(identities, indices)[named], places[named])


def _one(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _keys(identities: pa.Array, indices: pa.Array) -> npt.NDArray[np.uint64]:
    """Return a 128-bit key ``uint64[N, 2]`` for the file and sample of every row."""
    count = len(identities)
    if not count:
        return np.zeros((0, 2), np.uint64)
    content = np.frombuffer(identities.buffers()[1], np.uint64)[2 * identities.offset :][: 2 * count].reshape(count, 2)
    sample = np.asarray(pc.fill_null(indices, 0), np.int64).astype(np.uint64)
    return content ^ (sample * _MIX)[:, np.newaxis]


def _holds(batch: pa.RecordBatch | pa.Table) -> npt.NDArray[np.bool_]:
    current = pc.fill_null(pc.equal(batch.column("parser_version"), PARSER_VERSION), fill_value=False)
    return np.asarray(pc.and_(current, are_settled(batch)), bool)
