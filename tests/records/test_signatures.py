"""What is published grants no access, wherever a record keeps its addresses."""

from __future__ import annotations

import pyarrow as pa
import pytest

from rasteret_assets import build_from_table
from rasteret_assets.records.signatures import without_signatures
from tests.support.rasters import record_table

SIGNED = "https://h/a.tif?x=1&sig=SECRET"
UNSIGNED = "https://h/a.tif?x=1"
PLAIN = "s3://b/k.tif"


def _columns(href: str) -> list[pa.Array]:
    linked = {"href": href, "n": 1}
    return [
        pa.array([href, None, PLAIN]),
        pa.array([href, None], pa.large_string()),
        pa.array([href.encode(), None]),
        pa.array([PLAIN, href, None]).dictionary_encode(),
        pa.array([[PLAIN], None, [], [href, None]]),
        pa.array([[href], None], pa.large_list(pa.string())),
        pa.array([[href, None], None, [PLAIN, ""]], pa.list_(pa.string(), 2)),
        pa.ExtensionArray.from_storage(pa.json_(), pa.array([href, None, PLAIN])),
        pa.array([{"B": linked}, None, {"B": None}]),
        pa.array([{"alternate": {"s3": linked}}]),
        pa.array([[linked], None, [], [linked, None]]),
        pa.array([[("a", href)], None, [], [("b", None), ("c", PLAIN)]], pa.map_(pa.string(), pa.string())),
        pa.array([[("a", linked)], None], pa.map_(pa.string(), pa.struct([("href", pa.string()), ("n", pa.int8())]))),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f'{{"alternate": {{"s3": ["{SIGNED}"]}}, "n": 1.50}}', f'{{"alternate": {{"s3": ["{UNSIGNED}"]}}, "n": 1.5}}'),
        (' ["https:\\/\\/h/a?x=1\\u0026sig=SECRET", "\\ud800", null]', '["https://h/a?x=1", "\\ud800", null]'),
        ('{"b":  "https://me:SECRET@h/a"}', '{"b": "https://h/a"}'),
        ('{"b":  "https://h/a?x=1"}', '{"b":  "https://h/a?x=1"}'),
        ('{"b": "https://h/a?sig=1"', '{"b": "https://h/a"'),
        ("{" * 100_000 + "?", "{" * 100_000 + "?"),
        ("[" * 800 + '"?"' + "]" * 800, "[" * 800 + '"?"' + "]" * 800),
        ("https://me:SECRET@h/a?sig=1#@", "https://h/a#@"),
        ("abfss://container@account/a.tif?sig=1", "abfss://container@account/a.tif"),
        ("me@h?", "me@h?"),
    ],
)  # fmt: skip
def test_addresses_in_json_and_users_before_hosts(text: str, expected: str) -> None:
    result = without_signatures(pa.table({"x": [text, None, PLAIN]}))
    assert result["x"].to_pylist() == [expected, None, PLAIN]


@pytest.mark.parametrize(("signed", "expected"), [*zip(_columns(SIGNED), _columns(UNSIGNED), strict=True)], ids=str)
@pytest.mark.parametrize("first", [0, 1])
def test_addresses_lose_their_signature_and_nothing_else(signed: pa.Array, expected: pa.Array, first: int) -> None:
    result = without_signatures(pa.table({"x": signed.slice(first)}))
    result.validate(full=True)
    assert result.schema == pa.schema({"x": signed.type})
    assert result["x"].to_pylist() == expected.slice(first).to_pylist()


@pytest.mark.parametrize("column", [*_columns(PLAIN), pa.array([b"\xff?"]), pa.array([1]), pa.nulls(2)], ids=str)
def test_columns_without_signatures_are_not_copied(column: pa.Array) -> None:
    table = pa.table({"x": column, "geometry": pa.array([b"https://h?sig=1"] * len(column))})
    result = without_signatures(table)
    assert result["x"].chunk(0).equals(column)
    assert result["geometry"].to_pylist() == table["geometry"].to_pylist()


def test_the_column_of_addresses_is_published_unsigned_too(tmp_path) -> None:
    table = record_table(["a"], {"B": [SIGNED]}).drop_columns("assets").append_column("url", [[SIGNED]])
    build = {"href_column": "url", "band_index_map": {"B": 0}, "enrich_cog": False}
    for where in ({}, {"name": "s2", "workspace_dir": tmp_path}):
        (row,) = build_from_table(table, **where, **build).to_table().to_pylist()
        assert (row["url"], row["assets"]["B"]["href"]) == (UNSIGNED, UNSIGNED)


def test_json_that_escapes_every_slash_is_unsigned() -> None:
    """No text of the column holds ``://``, as PHP and others write JSON."""
    table = pa.table({"extra": ['{"token": "https:\\/\\/me:secret@h\\/x.tif?sig=secret"}']})
    assert without_signatures(table)["extra"].to_pylist() == ['{"token": "https://h/x.tif"}']
