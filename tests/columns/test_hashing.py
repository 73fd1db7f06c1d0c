"""Digests see values: not how rows are cut, encoded, or what lies under a null."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasteret_assets.columns.hashing import ContentDigest, RowsDigest, hash_texts, row_hashes

TEXTS = ["", "a", None, "aa", "ab", "ba", "é", "a" * 300]
ROWS = pa.table(
    {
        "text": pa.array(TEXTS),
        "large": pa.array(TEXTS, pa.large_string()),
        "number": pa.array([1, None, 3, 4, 5, 6, 7, 8]),
        "flag": pa.array([True, None, False, True, True, False, None, True]),
        "time": pa.array([1, 2, None, 4, 5, 6, 7, 8], pa.timestamp("us", "UTC")),
        "list": pa.array([[1], [], None, [1, 2], [2, 1], [None], [3], [4, 4]]),
        "map": pa.array(
            [[("k", 1)], [], None, [("k", 2), ("l", 1)], [], [("m", None)], [], []], pa.map_("string", "int8")
        ),
        "struct": pa.array([{"a": 1, "b": "x"}, None, {"a": None, "b": "x"}, *[{"a": 2, "b": None}] * 5]),
        "null": pa.nulls(8),
        "fixed": pa.array([[1, 2]] * 7 + [None], pa.list_(pa.int16(), 2)),
    }
)


def digest(*tables: pa.Table, rows: int = 100, kind: type[ContentDigest | RowsDigest] = ContentDigest) -> str:
    found = kind()
    for table in tables:
        for batch in table.to_batches(max_chunksize=rows):
            found.update(batch)
    return found.hexdigest()


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8])
def test_the_cut_into_batches_does_not_matter(rows: int) -> None:
    assert digest(ROWS, rows=rows) == digest(ROWS)
    assert digest(ROWS.slice(0, 5), ROWS.slice(5)) == digest(ROWS)


@pytest.mark.parametrize("name", [name for name in ROWS.column_names if name != "null"])
def test_every_value_matters(name: str) -> None:
    column = ROWS[name].combine_chunks()
    for row in range(len(ROWS)):
        other = 0 if column[row] != column[0] else next(i for i in range(8) if column[i] != column[row])
        places = [other if i == row else i for i in range(8)]
        changed = ROWS.set_column(ROWS.column_names.index(name), name, column.take(pa.array(places)))
        assert digest(changed) != digest(ROWS)
        hashes = [row_hashes(table.combine_chunks().to_batches()[0].columns) for table in (ROWS, changed)]
        assert np.flatnonzero(hashes[0] != hashes[1]).tolist() == [row]


def test_the_order_of_rows_matters() -> None:
    assert digest(ROWS.take([1, 0, *range(2, 8)])) != digest(ROWS)


def test_dictionaries_and_values_under_nulls_do_not_matter() -> None:
    encoded = ROWS.set_column(0, "text", ROWS["text"].combine_chunks().dictionary_encode())
    assert digest(encoded) == digest(ROWS)
    numbers = pa.array(np.arange(8), mask=np.array([False, True] + [False] * 6))
    others = pa.array(np.array([0, 99, *range(2, 8)]), mask=np.array([False, True] + [False] * 6))
    assert digest(pa.table({"n": numbers})) == digest(pa.table({"n": others}))
    assert (row_hashes([numbers]) == row_hashes([others])).all()


def test_values_do_not_run_into_their_neighbours() -> None:
    assert digest(pa.table({"t": ["ab", "c"]})) != digest(pa.table({"t": ["a", "bc"]}))
    assert digest(pa.table({"t": [[1, 2], [3]]})) != digest(pa.table({"t": [[1], [2, 3]]}))
    assert digest(pa.table({"t": [1]})) != digest(pa.table({"u": [1]}))


@given(st.lists(st.one_of(st.none(), st.text()), max_size=50))
def test_texts_hash_alike_only_if_they_are_alike(texts: list[str | None]) -> None:
    array = pa.array(texts, pa.string())
    hashes = hash_texts(array).tolist()
    assert len(set(hashes)) == len(set(texts))
    padded = pa.array(["x", *texts], pa.string()).slice(1)
    assert hash_texts(padded).tolist() == hashes
    assert hash_texts(array.cast(pa.large_string())).tolist() == hashes


@given(
    st.lists(st.none() | st.binary(max_size=20) | st.integers(100, 140).map(lambda size: b"x" * size), max_size=40),
    st.integers(0, 5),
)
def test_a_hash_depends_on_its_value_alone(values: list[bytes | None], skipped: int) -> None:
    # Long and short values are hashed in two ways, in groups: neither shows.
    together = hash_texts(pa.array(values, pa.binary()).slice(skipped))
    alone = [hash_texts(pa.array([value], pa.binary()))[0] for value in values[skipped:]]
    assert together.tolist() == alone


def test_zeros_at_the_end_matter() -> None:
    values = [b"\0" * size for size in range(200)]
    assert len(set(hash_texts(pa.array(values)).tolist())) == len(values)


def sum_of(*tables: pa.Table, rows: int = 100) -> str:
    return digest(*tables, rows=rows, kind=RowsDigest)


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8])
def test_a_sum_of_rows_sees_neither_order_nor_batches(rows: int) -> None:
    shuffled = ROWS.take(np.random.default_rng(rows).permutation(8))
    assert sum_of(shuffled, rows=rows) == sum_of(ROWS)
    assert sum_of(ROWS.slice(5), ROWS.slice(0, 5)) == sum_of(ROWS)
    assert sum_of(ROWS.select(ROWS.column_names[::-1])) == sum_of(ROWS)


def test_sums_of_rows_add_up() -> None:
    one, other = RowsDigest(), RowsDigest()
    one.update(ROWS.slice(0, 3).to_batches()[0])
    other.update(ROWS.slice(3).to_batches()[0])
    stored = RowsDigest(one.hexdigest(), one.rows)
    stored.merge(other)
    assert (stored.hexdigest(), stored.rows) == (sum_of(ROWS), 8)


@pytest.mark.parametrize("name", [name for name in ROWS.column_names if name != "null"])
def test_a_sum_of_rows_sees_every_value(name: str) -> None:
    column = ROWS[name].combine_chunks()
    other = next(i for i in range(8) if column[i] != column[0])
    changed = ROWS.set_column(ROWS.column_names.index(name), name, column.take(pa.array([other, *range(1, 8)])))
    assert sum_of(changed) != sum_of(ROWS)


def test_a_sum_of_rows_sees_repetitions_and_which_values_stand_together() -> None:
    once = pa.table({"a": [1, 2], "b": [1, 2]})
    assert sum_of(once, once) != sum_of(once)
    assert sum_of(pa.concat_tables([once] * 3)) not in {sum_of(once), sum_of(once, once)}
    assert sum_of(pa.table({"a": [1, 2], "b": [2, 1]})) != sum_of(once)
    assert sum_of(pa.table({"b": [1], "a": [2]})) != sum_of(pa.table({"a": [1], "b": [2]}))


def test_an_encoding_in_memory_does_not_show_in_hashes() -> None:
    plain = pa.array(["a", None, "b", "a"])
    same = [
        plain.cast(pa.string_view()),
        plain.cast(pa.large_string()),
        plain.dictionary_encode(),
        pa.DictionaryArray.from_arrays(pa.array([1, 2, 0, 1]), pa.array(["b", "a", None])),
    ]
    for column in same:
        assert (row_hashes([column]) == row_hashes([plain])).all()
        nested = [pa.StructArray.from_arrays([values], ["x"]) for values in (column, plain)]
        assert (row_hashes([nested[0]]) == row_hashes([nested[1]])).all()
    values = [[1, 2], None, [], [3]]
    for kind in (pa.large_list(pa.int64()), pa.list_view(pa.int64()), pa.large_list_view(pa.int64())):
        assert (row_hashes([pa.array(values, kind)]) == row_hashes([pa.array(values)])).all()
    fixed = pa.array([[1, 2], [3, 4]])
    assert (row_hashes([fixed.cast(pa.list_(pa.int64(), 2))]) == row_hashes([fixed])).all()
