"""Records along the curve: one order, whatever they come in and however little memory there is."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from rasteret_assets.geometry import hilbert_distance
from rasteret_assets.publish.row_groups import ROW_GROUP_TILE_BYTES, group_rows, row_groups
from rasteret_assets.records.order import RecordSorter
from rasteret_assets.schema import BAND_STRUCT, BBOX_TYPE, TILE_TABLES

ROWS = 3000


def records(rows: int = ROWS) -> pa.Table:
    """Boxes of 40 places only, some of them null, so that many records share a place on the curve."""
    rng = np.random.default_rng(3)
    place = rng.integers(0, 40, rows)
    x, y = rng.uniform(-179, 178, 40)[place], rng.uniform(-89, 88, 40)[place]
    box = pa.StructArray.from_arrays(
        [pa.array(axis) for axis in (x, y, x + 1, y + 1)], fields=list(BBOX_TYPE), mask=pa.array(place == 7)
    )
    ids = pa.array([f"é{number}" if number % 5 else f"z{number}" for number in rng.permutation(rows)])
    tags = pa.array([[str(number)] * (number % 4) if number % 3 else None for number in range(rows)])
    return pa.table({"id": ids, "bbox": box, "tags": tags, "nothing": pa.nulls(rows)})


def drained(table: pa.Table, batch_rows: int, **limits: int) -> pa.Table:
    with RecordSorter(**limits) as sorter:
        for batch in table.to_batches(batch_rows):
            sorter.add(pa.Table.from_batches([batch]))
        return pa.concat_tables(sorter.drain())


@pytest.mark.parametrize(
    ("rows", "limits"),
    [
        (ROWS, {}),
        (ROWS, {"sort_bytes": 20_000}),
        (ROWS, {"sort_bytes": 4_000, "merged_runs": 3}),
        (150, {"sort_bytes": 1, "merged_runs": 2}),
    ],
    ids=["in memory", "merged once", "merged in rounds", "a run per batch"],
)
def test_the_order_depends_on_neither_memory_nor_arrival(rows: int, limits: dict[str, int]) -> None:
    table = records(rows)
    distance = hilbert_distance(table["bbox"].combine_chunks())
    keys = sorted(range(rows), key=lambda row: (distance[row], table["id"][row].as_py().encode()))
    expected = table.take(keys)
    shuffled = table.take(np.random.default_rng(4).permutation(rows))
    assert drained(table, 97, **limits).equals(expected)
    assert drained(shuffled, 251, **limits).equals(expected)


def test_nothing_is_ordered_to_nothing() -> None:
    with RecordSorter() as sorter:
        assert list(sorter.drain()) == []


def weighed(tiles: list[int | None], *, in_overviews: bool) -> pa.Table:
    """Records with as many tiles as said, half of them in each of two bands; None has no header.

    Args:
        tiles: of each record's offsets, and of its byte counts.
        in_overviews: whether the tables are those of the second of three overviews, instead of the band's own.
    """
    tables = [None if n is None else {name: np.ones(n, np.int64) for name in TILE_TABLES} for n in tiles]
    if in_overviews:
        tables = [table and {"overviews": [None, table, {}] if len(table["tile_offsets"]) else []} for table in tables]
    column = pa.array(tables, BAND_STRUCT)
    return pa.table({"id": [str(n) for n in range(len(tiles))], "B02_metadata": column, "B03_metadata": column})


def test_row_groups_are_full_however_the_rows_come() -> None:
    most = 500
    table = pa.table({"id": pa.array(np.arange(2 * most + 5).astype(str))})
    for cut in (7, most - 1, most, 10**9):
        pieces = [pa.Table.from_batches([batch]) for batch in table.combine_chunks().to_batches(cut)]
        groups = list(row_groups(pieces, most))
        assert [group.num_rows for group in groups] == [most, most, 5]
        assert pa.concat_tables(groups).equals(table)


def test_row_groups_grow_with_the_file_within_bounds() -> None:
    sizes = [group_rows(rows) for rows in (0, 1, 10_000, 100_000, 1_000_000, 100_000_000)]
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (2000, 10_000)
    # Four times as many rows, twice as many in a group.
    assert group_rows(1_600_000) == pytest.approx(2 * group_rows(400_000), rel=0.01)


@pytest.mark.parametrize("in_overviews", [False, True], ids=["bands", "overviews"])
def test_row_groups_end_where_their_tile_tables_are_large(in_overviews: bool) -> None:
    third = ROW_GROUP_TILE_BYTES // 32 // 3
    tiles = [third, third, third, 2, None, 4 * third, None, 0, 5 * third, third, third]
    table = weighed(tiles, in_overviews=in_overviews)
    expected = [["0", "1", "2"], ["3", "4"], ["5"], ["6", "7"], ["8"], ["9", "10"]]
    for cut in (1, 2, 3, 5, 11):
        pieces = [table.slice(first, cut) for first in range(0, table.num_rows, cut)]
        assert [group["id"].to_pylist() for group in row_groups(pieces, 10**6)] == expected
