"""Decide how much of a Parquet file is read at once: batches of a bounded number of rows and bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

import pyarrow.parquet as pq

T = TypeVar("T")

#: Most rows of a batch of a stage, because a partition may be larger than memory.
BATCH_ROWS: Final = 32_768
#: Most Arrow bytes of a batch that is read from a stage's table, because a row may take a megabyte.
BATCH_BYTES: Final = 48 * 2**20
_PROBED_ROWS: Final = 64
#: Encodings of Parquet whose values take about as much room in a file as in memory (RLE encodes nulls and list ends).
_AS_IN_MEMORY: Final = frozenset({"PLAIN", "RLE"})


def row_group_runs(metadata: pq.FileMetaData) -> Iterator[list[int]]:
    """Yield runs of neighbouring row groups: at most :data:`BATCH_BYTES` a run, or a single larger group."""
    groups = range(metadata.num_row_groups)
    return bounded_runs(groups, lambda group: metadata.row_group(group).total_byte_size, BATCH_BYTES)


def bounded_runs(
    things: Iterable[T], size: Callable[[T], int], most: int, *, count: int | None = None
) -> Iterator[list[T]]:
    """Yield ``things`` in runs of neighbours whose sizes together are at most ``most``.

    Args:
        things: in order.
        size: returns the size of a thing. A thing larger than ``most`` is a run of its own.
        most: largest sum of the sizes in a run.
        count: most things in a run; no limit when omitted.
    """
    run: list[T] = []
    taken = 0
    for thing in things:
        more = size(thing)
        if run and (taken + more > most or len(run) == count):
            yield run
            run, taken = [], 0
        run.append(thing)
        taken += more
    if run:
        yield run


def batch_rows(file: pq.ParquetFile, columns: list[str] | None) -> int:
    """Return how many rows of a file make a batch of about :data:`BATCH_BYTES`, at most :data:`BATCH_ROWS`.

    The footer tells the stored bytes of all columns. Where an encoding stores repeated values once, a row takes more in
    memory: then the first 64 rows are read and measured too.

    Args:
        file: an open Parquet file.
        columns: columns to read, whose rows are taken for small; None for all columns.
    """
    metadata = file.metadata
    if columns is None and metadata.num_rows > _PROBED_ROWS:
        stored = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
        row_bytes = max(stored / metadata.num_rows, 1)
        first = metadata.row_group(0)
        if any(not _AS_IN_MEMORY.issuperset(first.column(leaf).encodings) for leaf in range(first.num_columns)):
            probe = next(file.iter_batches(_PROBED_ROWS, row_groups=[0]))
            row_bytes = max(row_bytes, probe.nbytes / probe.num_rows)
        return max(1, min(BATCH_ROWS, int(BATCH_BYTES / row_bytes)))
    return BATCH_ROWS
