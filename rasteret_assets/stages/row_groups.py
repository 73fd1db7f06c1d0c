"""Where the row groups of a published file end.

A reader skips whole row groups, and needs one of them in memory. A record with its tile tables is a kilobyte or a
megabyte, so groups are bounded by both rows and bytes. What a record weighs depends on the record alone: equal records
give equal groups, however they were cut into batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.schema import is_band_field

ROW_GROUP_ROWS: Final = 2_000
#: Bytes of tile tables in a row group, as they are in memory; a single record may exceed them.
ROW_GROUP_TILE_BYTES: Final = 32 * 2**20

_TABLES: Final = ("tile_offsets", "tile_byte_counts")


def row_groups(pieces: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The rows of ``pieces`` in the same order, one table per row group."""
    waiting: list[pa.Table] = []
    rows, size = 0, 0
    for piece in pieces:
        weights = np.cumsum(_tile_bytes(piece))
        first = 0
        while first < piece.num_rows:
            done = int(weights[first - 1]) if first else 0
            by_bytes = int(np.searchsorted(weights, done + ROW_GROUP_TILE_BYTES - size, "right"))
            end = min(by_bytes, first + ROW_GROUP_ROWS - rows, piece.num_rows)
            if end == first and not rows:
                end = first + 1
            if end > first:
                waiting.append(piece.slice(first, end - first))
                rows, size = rows + end - first, size + int(weights[end - 1]) - done
            if end < piece.num_rows or rows == ROW_GROUP_ROWS:
                yield pa.concat_tables(waiting).combine_chunks()
                waiting, rows, size = [], 0, 0
            first = end
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()


def _tile_bytes(table: pa.Table) -> npt.NDArray[np.int64]:
    """Bytes ``[N]`` of each record's tile tables."""
    total = np.zeros(table.num_rows, np.int64)
    for position, field in enumerate(table.schema):
        if is_band_field(field):
            column = table.column(position).combine_chunks()
            for name in _TABLES:
                lengths = pc.list_value_length(pc.struct_field(column, [field.type.get_field_index(name)]))
                total += 8 * np.asarray(pc.fill_null(lengths, 0), np.int64)
    return total
