"""Cut the rows of a published file into row groups.

A reader skips whole row groups, and holds one in memory. A record with its tile tables takes a kilobyte or a megabyte,
so that row groups are bounded in rows and in bytes. The bytes of a record depend on the record alone, so that equal
records give equal row groups, however they were cut into batches.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.schema import OVERVIEWS, TILE_TABLES, is_band_field

#: Rows of a row group at least and at most, if its bytes do not exceed :data:`ROW_GROUP_TILE_BYTES`.
FEWEST_ROWS: Final = 2_000
MOST_ROWS: Final = 10_000
#: Bytes of tile tables of a row group in memory, at most; a single record may exceed them.
ROW_GROUP_TILE_BYTES: Final = 32 * 2**20


def group_rows(rows: int) -> int:
    """Return the number of rows of a row group, for a file of so many rows.

    A search by place reads the whole footer, which grows with the number of row groups, and a few whole row groups.
    Both take equally long near the square root of 14 times the rows (measured with the 40 columns of a STAC item: 46 us
    a row group in the footer, 2.2 us a row in a row group).
    """
    return max(FEWEST_ROWS, min(MOST_ROWS, round(math.sqrt(14 * rows))))


def row_groups(pieces: Iterable[pa.Table], most_rows: int) -> Iterator[pa.Table]:
    """Yield the rows of ``pieces`` in the same order, a table of up to ``most_rows`` rows for each row group."""
    waiting: list[pa.Table] = []
    rows, size = 0, 0
    for piece in pieces:
        weights = np.cumsum(_tile_bytes(piece))
        first = 0
        while first < piece.num_rows:
            done = int(weights[first - 1]) if first else 0
            by_bytes = int(np.searchsorted(weights, done + ROW_GROUP_TILE_BYTES - size, "right"))
            end = min(by_bytes, first + most_rows - rows, piece.num_rows)
            if end == first and not rows:
                end = first + 1
            if end > first:
                waiting.append(piece.slice(first, end - first))
                rows, size = rows + end - first, size + int(weights[end - 1]) - done
            if end < piece.num_rows or rows == most_rows:
                yield _joined(waiting)
                rows, size = 0, 0
            first = end
    if waiting:
        yield _joined(waiting)


def _joined(pieces: list[pa.Table]) -> pa.Table:
    """Return the rows of all pieces as one table, in one chunk if the pieces are several; empty the list.

    Columns are joined one by one, so that a second copy of all of them is never in memory.
    """
    if len(pieces) == 1:
        return pieces.pop()
    schema = pieces[0].schema
    parts = [piece.columns[::-1] for piece in pieces]
    pieces.clear()
    columns = []
    for field in schema:
        column = pa.chunked_array([chunk for part in parts for chunk in part.pop().chunks], field.type)
        columns.append(column.combine_chunks())
    return pa.Table.from_arrays(columns, schema=schema)


def _tile_bytes(table: pa.Table) -> npt.NDArray[np.int64]:
    """Return the bytes ``[N]`` of each record's tile tables, with those of overviews."""
    total = np.zeros(table.num_rows, np.int64)
    for position, field in enumerate(table.schema):
        if is_band_field(field):
            total += _table_bytes(table.column(position).combine_chunks())
    return total


def _table_bytes(headers: pa.StructArray) -> npt.NDArray[np.int64]:
    """Return the bytes ``[N]`` of the tile tables of structs of one band, or of structs of overviews."""
    total = np.zeros(len(headers), np.int64)
    for name in TILE_TABLES:
        total += 8 * _lengths(pc.struct_field(headers, [headers.type.get_field_index(name)]))
    if (position := headers.type.get_field_index(OVERVIEWS)) >= 0:
        overviews = pc.struct_field(headers, [position])
        # Sums by record, because records have different numbers of overviews.
        sums = np.concatenate([[0], np.cumsum(_table_bytes(overviews.flatten()))])
        ends = np.cumsum(_lengths(overviews))
        total += sums[ends] - sums[ends - _lengths(overviews)]
    return total


def _lengths(lists: pa.ListArray) -> npt.NDArray[np.int64]:
    return np.asarray(pc.fill_null(pc.list_value_length(lists), 0), np.int64)
