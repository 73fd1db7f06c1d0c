"""How much of a Parquet file is read at once: batches that are bounded in rows and in bytes, whatever its rows are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

import pyarrow.parquet as pq

T = TypeVar("T")

#: Rows of a batch of a stage: what streams through a partition that is larger than memory.
BATCH_ROWS: Final = 32_768
#: Arrow bytes of a batch that is read back, where its rows are large.
BATCH_BYTES: Final = 48 * 2**20
_PROBED_ROWS: Final = 64
#: Encodings that take about as much room as the values do in memory (RLE is that of nulls and list ends).
_AS_IN_MEMORY: Final = frozenset({"PLAIN", "RLE"})


def row_group_runs(metadata: pq.FileMetaData) -> Iterator[list[int]]:
    """The row groups of a file in runs of at most :data:`BATCH_BYTES`, or of a single larger group."""
    groups = range(metadata.num_row_groups)
    return bounded_runs(groups, lambda group: metadata.row_group(group).total_byte_size, BATCH_BYTES)


def bounded_runs(
    things: Iterable[T], size: Callable[[T], int], most: int, *, count: int | None = None
) -> Iterator[list[T]]:
    """Yield neighbours together, as many as their sizes allow; one that is larger stands alone.

    Args:
        things: in order.
        size: says how large one is.
        most: of the sizes of a run together.
        count: most things of a run; as many as there are by default.
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
    """Rows of a file that make a batch of at most about :data:`BATCH_BYTES`; headers may be a megabyte each.

    What a row takes in memory is what Parquet says of all columns, unless their encodings hide repetition: then the
    first rows are looked at too, which may be poor.

    Args:
        file: to be read.
        columns: those that are read; all when None.
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
