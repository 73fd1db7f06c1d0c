"""Items become rows of a Parquet file that keep whatever their JSON holds."""

from __future__ import annotations

import json
import math
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from rasteret_assets.errors import BadPageError
from rasteret_assets.harvesting.items import AssetTypes, StacItem, batch_of, read_item
from rasteret_assets.harvesting.pages import Page
from rasteret_assets.harvesting.text_columns import MOST_ASSETS, Texts, conformed
from rasteret_assets.harvesting.unite import unite
from tests.support.stac import make_item


def table_of(pages: list[list[dict[str, Any]]]) -> pa.Table:
    """Write pages of items to one Parquet file, and read it."""
    types, texts = AssetTypes(), Texts()
    batches = [batch_of([read_item(item) for item in page], types) for page in pages]
    schema = unite([batch.schema for batch in batches], texts)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_batches([conformed(batch, schema, texts) for batch in batches], schema), sink)
    return pq.read_table(pa.BufferReader(sink.getvalue()))


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)


PAGE = st.lists(st.dictionaries(st.sampled_from("xyz"), VALUES, max_size=3), min_size=1, max_size=3)


@given(st.lists(PAGE, max_size=3))
def test_any_properties_and_fields_of_assets_are_kept(pages: list[list[dict[str, Any]]]) -> None:
    if not pages:
        return
    items = [
        [{**make_item(number), "properties": found, "assets": {"a": found, "b": {"href": "x"}}} for found in page]
        for number, page in enumerate(pages)
    ]
    table = table_of(items)
    assert table.num_rows == sum(map(len, pages))
    flat = [found for page in pages for found in page]
    for name in set().union(*flat):
        kept = table[name].to_pylist()
        for value, given_value in zip(kept, (found.get(name) for found in flat), strict=True):
            assert same(value, given_value, is_text=pa.types.is_string(table.schema.field(name).type))


def same(value: Any, given_value: Any, *, is_text: bool) -> bool:
    """Whether a stored value equals the given one; null, an empty struct and an absent field count as equal."""
    if is_text and value is not None and not isinstance(given_value, str):
        value = json.loads(value)
    return bare(value) == bare(given_value)


def bare(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: found for name, inner in value.items() if (found := bare(inner)) is not None} or None
    if isinstance(value, list):
        return [bare(inner) for inner in value]
    return value


@pytest.mark.parametrize(
    ("geometry", "kind"),
    [
        ({"type": "Point", "coordinates": [1, 2]}, "Point"),
        ({"type": "MultiPolygon", "coordinates": [[[[0, 0], [1, 0], [1, 1], [0, 0]]]]}, "MultiPolygon"),
        ({"type": "Polygon", "coordinates": "nonsense"}, None),
        ({"type": "Cube", "coordinates": []}, None),
        ("POINT (1 2)", None),
        (None, None),
    ],
)
def test_a_geometry_is_wkb_or_null(geometry: Any, kind: str | None) -> None:
    (wkb,) = table_of([[{**make_item(1), "geometry": geometry}]])["geometry"].to_pylist()
    assert (wkb and shapely.from_wkb(wkb).geom_type) == kind


@pytest.mark.parametrize(
    ("box", "corners"),
    [([1, 2, 3, 4], (1, 2, 3, 4)), ([1, 2, 0, 3, 4, 9], (1, 2, 3, 4)), ([1, 2], None), ("x", None), (None, None)],
)
def test_a_box_has_four_corners_or_is_null(box: Any, corners: Any) -> None:
    (found,) = table_of([[{**make_item(1), "bbox": box}]])["bbox"].to_pylist()
    assert (found and tuple(found.values())) == corners


def test_times_are_timestamps_if_all_can_be_parsed_else_text() -> None:
    fine = {
        **make_item(1),
        "properties": {"datetime": "2024-05-01T00:00:00.123456789Z", "created": "2024-05-01T02:00:00+02:00"},
    }
    table = table_of([[fine]])
    assert pa.types.is_timestamp(table.schema.field("datetime").type)
    assert str(table["created"][0].as_py()) == "2024-05-01 00:00:00+00:00"
    odd = {**make_item(2), "properties": {"datetime": "first of May", "created": None}}
    table = table_of([[fine], [odd]])
    assert table["datetime"].to_pylist() == ["2024-05-01T00:00:00.123456Z", "first of May"]


def test_properties_named_like_members_of_items_get_a_prefix() -> None:
    item = {**make_item(1), "extra": {"a": 1}}
    item["properties"] |= {"id": "another", "assets": 5}
    (row,) = table_of([[item]]).to_pylist()
    assert (row["id"], row["properties:id"], row["properties:assets"]) == ("scene-00001", "another", 5)
    assert row["extra"] == {"a": 1}


@pytest.mark.parametrize("assets", [None, [], "x", {"a": "x.tif"}, {"a": None, "b": {"href": "y.tif"}}, {}])
def test_assets_that_are_not_objects_are_null(assets: Any) -> None:
    (row,) = table_of([[{**make_item(1), "assets": assets}]]).to_pylist()
    assert not row["assets"] or row["assets"] == {"b": {"href": "y.tif"}}


def test_assets_of_very_many_names_are_stored_as_json_text() -> None:
    items = [{**make_item(number), "assets": {f"{number}_B02": {"href": "x.tif"}}} for number in range(MOST_ASSETS + 1)]
    for pages in ([items], [items[:100], items[100:]]):
        table = table_of(pages)
        assert json.loads(table["assets"][7].as_py()) == {"7_B02": {"href": "x.tif"}}


def test_item_content_ignores_the_order_of_members_and_item_keys_are_collection_and_id() -> None:
    def read(**changed: Any) -> StacItem:
        return read_item({**make_item(1), **changed})

    item, assets = read(), make_item(1)["assets"]
    turned = {name: dict(reversed(asset.items())) for name, asset in reversed(assets.items())}
    assert read_item(dict(reversed({**make_item(1), "assets": turned}.items()))).content == item.content
    assert read(bbox=None).content != item.content
    assert read(assets={**assets, "B02": {}}).content != item.content
    assert read(bbox=None).key == item.key
    assert read(collection="others").key != item.key
    assert read(id=None).key == read(id=None).content


@given(st.lists(PAGE, min_size=2, max_size=5))
def test_assets_are_equal_with_and_without_types_from_earlier_pages(pages: list[list[dict[str, Any]]]) -> None:
    types = AssetTypes()
    for page in pages:
        found = [{**make_item(number), "assets": {"a": fields, "b": None}} for number, fields in enumerate(page)]
        known, alone = (batch_of([read_item(item) for item in found], given_types) for given_types in (types, None))
        assert bare(known["assets"].to_pylist()) == bare(alone["assets"].to_pylist())


@pytest.mark.parametrize(
    "other",
    [
        {"href": "y", "size": 1.5},
        {"href": "y", "size": 2**53 + 1},
        {"href": "y", "size": True},
        {"href": "y", "size": "1"},
        {"href": "y", "more": {"deep": [1]}},
        {"href": 7},
        "y.tif",
        None,
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [1, 1.5])
def test_assets_of_another_type_than_earlier_ones_are_kept_whole(other: Any, size: float) -> None:
    types = AssetTypes()
    batch_of([read_item({**make_item(1), "assets": {"a": {"href": "x", "size": size}, "c": {"href": "z"}}})], types)
    for _ in range(2):
        batch = batch_of([read_item({**make_item(2), "assets": {"a": other, "c": {"href": "z"}}})], types)
        (kept,) = batch["assets"].to_pylist()
        assert bare(kept) == bare({"a": other if isinstance(other, dict) else None, "c": {"href": "z"}})


def test_nan_is_kept() -> None:
    text = json.dumps({"features": [{**make_item(1), "assets": {"a": {"x": float("nan")}, "b": {"x": 1.5}}}]})
    types = AssetTypes()
    for _ in range(2):
        ((item,),) = Page(text.encode()).items({}, {})
        (kept,) = batch_of([item], types)["assets"].to_pylist()
        assert math.isnan(kept["a"]["x"])
        assert kept["b"]["x"] == 1.5


@pytest.mark.parametrize("features", ["null", "5", "{}", '"x"'])
def test_a_page_without_a_list_of_items_has_none(features: str) -> None:
    page = Page(f'{{"features": {features}, "links": [1], "numberMatched": 3}}'.encode())
    assert (page.count, page.links, page.matched) == (None, [1], 3)
    assert list(page.items({}, {})) == []


@pytest.mark.parametrize("text", ["[]", "", "nonsense", '{"features": [{"a": 1}', '{"features": [}'])
def test_what_is_not_a_page_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Page(text.encode())


@pytest.mark.parametrize("feature", ["5", "[1]", '{"a": "\\x"}', "null"])
def test_features_that_are_not_valid_objects_are_refused(feature: str) -> None:
    with pytest.raises((BadPageError, ValueError), match=r"an item that|Invalid"):
        list(Page(f'{{"features": [{feature}]}}'.encode()).items({}, {}))
