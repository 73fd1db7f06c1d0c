"""Plain types of columns in every encoding that Arrow has, and columns brought to other types."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from rasteret_assets.columns.conform import conform
from rasteret_assets.columns.types import plain, plain_type, small_type, unsized_type

VIEWS = pa.DictionaryArray.from_arrays(pa.array([1, None, 0], pa.uint32()), pa.array(["a", "b"], pa.string_view()))


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (VIEWS, pa.string()),
        (VIEWS.slice(1), pa.string()),
        (pa.StructArray.from_arrays([VIEWS], ["x"]), pa.struct([("x", pa.string())])),
        (pa.ListArray.from_arrays([0, 1, 1, 3], VIEWS), pa.list_(pa.string())),
        (pa.array([["a"], None, [], ["b", "c"]], pa.list_view(pa.string_view())), pa.list_(pa.string())),
        (pa.array([[1], None, [2, 3]], pa.large_list_view(pa.int8())).slice(1), pa.large_list(pa.int8())),
        (pa.array([{"x": [1, 2]}, None, {"x": []}], pa.struct([("x", pa.list_view(pa.int8()))])),
         pa.struct([("x", pa.list_(pa.int8()))])),
        (pc.run_end_encode(pa.array([1, 1, None, 2])), pa.int64()),
        (pa.array([[("k", "v")], None], pa.map_(pa.string_view(), pa.string_view())), pa.map_("string", "string")),
        (pa.array([["a", "b"], None], pa.list_(pa.string_view(), 2)), pa.list_(pa.string(), 2)),
    ],
    ids=lambda value: str(value.type if isinstance(value, pa.Array) else value),
)  # fmt: skip
def test_plain_columns_hold_the_same_values(column: pa.Array, kind: pa.DataType) -> None:
    found = plain(column)
    assert found.type == plain_type(column.type) == kind
    assert found.to_pylist() == column.to_pylist()
    found.validate(full=True)


def test_small_types_are_the_same_whoever_wrote_them() -> None:
    strict = pa.struct(
        [pa.field("t", pa.large_list(pa.field("element", pa.string_view(), nullable=False)), nullable=False)]
    )
    assert str(small_type(strict)) == str(pa.struct([("t", pa.list_(pa.field("element", pa.string())))]))
    assert small_type(pa.list_(pa.large_binary(), 3)) == pa.list_(pa.binary(), 3)
    assert unsized_type(pa.struct([("t", pa.list_(pa.large_string(), 3))])) == pa.struct([("t", pa.list_(pa.string()))])


@pytest.mark.parametrize(
    ("column", "kind", "values"),
    [
        (VIEWS, pa.dictionary(pa.int8(), pa.string()), ["b", None, "a"]),
        (pa.array(["a", "b"]), pa.dictionary(pa.int8(), pa.string()), ["a", "b"]),
        (pa.nulls(2), pa.list_(pa.int8()), [None, None]),
        (pa.array([{"b": 1, "a": 2}, None]), pa.struct([("a", pa.int64()), ("c", pa.string())]),
         [{"a": 2, "c": None}, None]),
        (pa.array([{}, None], pa.struct([])), pa.struct([("a", pa.int64())]), [{"a": None}, None]),
        (pa.array([[{"a": 1}], [], None]).slice(1), pa.large_list(pa.struct([("a", pa.int8())])), [[], None]),
    ],
    ids=str,
)  # fmt: skip
def test_a_column_becomes_what_the_table_has(column: pa.Array, kind: pa.DataType, values: list[object]) -> None:
    found = conform(column, kind)
    assert (found.type, found.to_pylist()) == (kind, values)
    found.validate(full=True)


def test_values_that_do_not_fit_are_reported() -> None:
    with pytest.raises(pa.ArrowInvalid):
        conform(pa.array([2**62], pa.timestamp("s")), pa.timestamp("us"))
    with pytest.raises(pa.ArrowInvalid):
        conform(pa.array([300]), pa.int8())
