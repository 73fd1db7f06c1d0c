"""Sort any number of records along a Hilbert curve over the Earth, so that neighbours share row groups.

Up to :data:`SORT_BYTES` are sorted in memory. Beyond that, sorted runs go to the local disk, all but the last, and are
merged, at most :data:`MERGED_RUNS` at once, so that memory stays within a small multiple of :data:`SORT_BYTES` for any
number of records (the merge phase of an external merge sort: Knuth, The Art of Computer Programming, volume 3, 5.4).
The order is total, by position on the curve and then by id, so the result depends on neither the way nor the order of
arrival.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.geometry import hilbert_distance
from rasteret_assets.schema import BBOX, ID

#: Arrow bytes that are sorted in memory at once.
SORT_BYTES: Final = 112 * 2**20
#: Runs that are merged at once; each has a piece of ``SORT_BYTES / MERGED_RUNS`` bytes in memory.
MERGED_RUNS: Final = 48
_TAKEN_BYTES: Final = 24 * 2**20

# Zstandard, because it writes half the bytes of LZ4, and a run is read only once.
_IPC: Final = pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd", compression_level=1))


class RecordSorter:
    """Takes records in any order and yields them along the curve; its temporary files are deleted when its block ends.

    Args:
        sort_bytes: Arrow bytes that are sorted in memory at once.
        merged_runs: most runs that are merged at once.
    """

    def __init__(self, sort_bytes: int = SORT_BYTES, merged_runs: int = MERGED_RUNS) -> None:
        self._sort_bytes = sort_bytes
        self._merged_runs = merged_runs
        self._held: list[pa.Table] = []
        self._held_bytes = 0
        self._runs: list[Path] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._made = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    def add(self, records: pa.Table) -> None:
        """Take records with ``id`` and ``bbox``; all of one schema."""
        self._held.append(records)
        self._held_bytes += records.nbytes
        if self._held_bytes >= self._sort_bytes:
            self._runs.append(self._write_run(self._drain(rows_at_once=self._piece_rows())))

    def drain(self) -> Iterator[pa.Table]:
        """Yield all records in order, in pieces of a few megabytes; the sorter is empty afterwards."""
        if not self._runs:
            # In few pieces, because taking rows costs a time for every piece and nested column.
            yield from self._drain(max(1, self._rows_of(_TAKEN_BYTES)))
            return
        last = _Run(self._drain(self._piece_rows()))
        while len(self._runs) >= self._merged_runs:
            first, self._runs = self._runs[: self._merged_runs], self._runs[self._merged_runs :]
            self._runs.append(self._write_run(_merged([_Run(_read_run(path)) for path in first])))
            for path in first:
                path.unlink()
        yield from _merged([*(_Run(_read_run(path)) for path in self._runs), last])

    def _drain(self, rows_at_once: int) -> Iterator[pa.Table]:
        """Yield the records in memory in order, and forget them."""
        if not self._held:
            return
        table = pa.concat_tables(self._held)
        self._held, self._held_bytes = [], 0
        names, columns = table.schema, table.columns
        del table
        # In one chunk, because taking rows from many chunks passes over all of them for every nested column. Column by
        # column, so that one column at a time is in memory twice.
        for position in range(len(columns)):
            columns[position] = columns[position].combine_chunks()
        table = pa.table(columns, names)
        order = _order(table)
        # Piece by piece, so that a second copy of all records is never in memory.
        for first in range(0, len(order), rows_at_once):
            yield table.take(order.slice(first, rows_at_once))

    def _piece_rows(self) -> int:
        return max(1, self._rows_of(self._sort_bytes // self._merged_runs))

    def _rows_of(self, size: int) -> int:
        """Return how many of the rows in memory take ``size`` bytes."""
        rows: int = sum(table.num_rows for table in self._held)
        return rows * size // max(self._held_bytes, 1)

    def _write_run(self, pieces: Iterator[pa.Table]) -> Path:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="rasteret-assets-sort-", ignore_cleanup_errors=True)
        path = Path(self._folder.name) / f"{self._made}.arrows"
        self._made += 1
        writer: pa.ipc.RecordBatchStreamWriter | None = None
        with pa.OSFile(str(path), "wb") as sink:
            for piece in pieces:
                writer = writer or pa.ipc.new_stream(sink, piece.schema, options=_IPC)
                for batch in piece.combine_chunks().to_batches():
                    writer.write_batch(batch)
            if writer is not None:
                writer.close()
        return path


def order_records(table: pa.Table) -> pa.Table:
    """Return records along the curve; records at one place are ordered by id."""
    return table.take(_order(table))


def _order(table: pa.Table) -> pa.Array:
    keys = pa.table({"distance": _distance(table), ID: table[ID]})
    return pc.sort_indices(keys, sort_keys=[("distance", "ascending"), (ID, "ascending")])


def _distance(table: pa.Table) -> npt.NDArray[np.uint64]:
    return hilbert_distance(table[BBOX].combine_chunks())


def _read_run(path: Path) -> Iterator[pa.Table]:
    """Yield the pieces of a run on disk."""
    with pa.OSFile(str(path), "rb") as source:
        for batch in pa.ipc.open_stream(source):
            yield pa.Table.from_batches([batch])


class _Run:
    """Reads a sorted run, with a piece of it in memory.

    Args:
        pieces: of the run, in order.
    """

    rows: pa.Table
    distance: npt.NDArray[np.uint64]

    def __init__(self, pieces: Iterator[pa.Table]) -> None:
        self._pieces = pieces
        self.advance()

    def advance(self) -> None:
        """Read the next piece, once all rows have been taken; set ``exhausted`` at the end of the run."""
        piece = next(self._pieces, None)
        self.exhausted = piece is None
        if piece is not None:
            self.rows, self.distance = piece, _distance(piece)

    @property
    def last(self) -> tuple[int, str]:
        """Key of the last row in memory."""
        return int(self.distance[-1]), self.rows[ID][-1].as_py()

    def take(self, bound: tuple[int, str]) -> pa.Table:
        """Remove and return the rows in memory up to a key."""
        distance, record_id = bound
        first, end = (int(np.searchsorted(self.distance, np.uint64(distance), side)) for side in ("left", "right"))
        tied = self.rows[ID].slice(first, end - first)
        count = first + int(pc.sum(pc.less_equal(tied, record_id), min_count=0).as_py())
        taken = self.rows.slice(0, count)
        self.rows, self.distance = self.rows.slice(count), self.distance[count:]
        return taken


def _merged(runs: Sequence[_Run]) -> Iterator[pa.Table]:
    """Yield the rows of sorted runs in one order.

    Rows up to the smallest of the last keys in memory are sorted and yielded, because no such row can still be on disk.
    The piece of at least one run is used up each time.
    """
    alive = [run for run in runs if not run.exhausted]
    while alive:
        bound = min(run.last for run in alive)
        ready = pa.concat_tables([run.take(bound) for run in alive]).combine_chunks()
        yield order_records(ready)
        for run in alive:
            if not run.rows.num_rows:
                run.advance()
        alive = [run for run in alive if not run.exhausted]
