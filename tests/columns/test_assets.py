"""Assets in every shape, and which of them are bands."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from rasteret_assets.columns.assets import asset_names, assets_from_href, normalize_assets, raster_rows
from rasteret_assets.errors import RecordError

ROWS = [
    {"B02": {"href": " https://h/1/B02.tif "}, "B8A": {"href": "https://h/1/B8A.tif"}},
    {"B02": {"href": ""}},
    None,
    {"B8A": {"href": "https://h/4/B8A.tif"}},
]
PLAIN = [{name: asset["href"] for name, asset in row.items()} if row else None for row in ROWS]
STRUCT = pa.struct([("href", pa.string())])


def named(rows: list) -> list:
    return [[{"name": k, **v} for k, v in row.items()] if row is not None else None for row in rows]


SHAPES = {
    "struct": pa.array(ROWS, pa.struct([("B02", STRUCT), ("B8A", STRUCT)])),
    "struct of text": pa.array(PLAIN, pa.struct([("B02", pa.string()), ("B8A", pa.string())])),
    "map": pa.array([None if r is None else list(r.items()) for r in ROWS], pa.map_(pa.string(), STRUCT)),
    "map of text": pa.array([None if r is None else list(r.items()) for r in PLAIN], pa.map_(pa.string(), pa.string())),
    "json": pa.array([None if r is None else json.dumps(r) for r in ROWS]),
    "json of text": pa.array([None if r is None else json.dumps(r) for r in PLAIN], pa.string_view()),
    "list": pa.array(named(ROWS), pa.list_(pa.struct([("name", pa.string()), ("href", pa.string())]))),
}


SHAPES["large list"] = pa.array(named(ROWS), pa.large_list(SHAPES["list"].type.value_type))
SHAPES["list view"] = pa.array(named(ROWS), pa.list_view(SHAPES["list"].type.value_type))
SHAPES["large text"] = SHAPES["json"].cast(pa.large_string())


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.string()), pa.list_(pa.string(), 1), pa.large_list(pa.large_string()), pa.list_view(pa.string()),
        pa.list_(pa.string_view()), pa.large_list(pa.dictionary(pa.int8(), pa.string())),
    ],
    ids=str,
)  # fmt: skip
def test_roles_count_in_any_kind_of_list(kind: pa.DataType) -> None:
    asset = pa.struct([("href", pa.string()), ("roles", kind)])
    rows = [
        {"href": "/tiles", "roles": ["tilejson"]},
        {"href": "/data", "roles": ["data"]},
        {"href": "/x", "roles": None},
    ]
    flat = pa.array([None if row["roles"] is None else row["roles"][0] for row in rows])
    if pa.types.is_large_list(kind) and pa.types.is_dictionary(kind.value_type):
        roles = pa.LargeListArray.from_arrays(pa.array([0, 1, 2, 2]), flat.drop_null().dictionary_encode())
        column = pa.StructArray.from_arrays([pa.array([row["href"] for row in rows]), roles], ["href", "roles"])
    else:
        column = pa.array(rows, asset)
    assert raster_rows(column).to_pylist() == [False, True, True]


def test_named_structs_in_lists_of_one_length_are_assets() -> None:
    item = pa.struct([("name", pa.string()), ("href", pa.string())])
    rows = [[{"name": "a", "href": "/1"}, {"name": "b", "href": "/2"}], None]
    column = pa.array(rows, pa.list_(item, 2))
    assert asset_names(column) == ["a", "b"]
    assets, _ = normalize_assets(column, ["a", "b"], {})
    hrefs = [row and {name: asset["href"] for name, asset in row.items()} for row in assets.to_pylist()]
    assert hrefs == [{"a": "/1", "b": "/2"}, None]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("window", [slice(0, 4), slice(1, 4)], ids=["whole", "slice"])
def test_every_shape_gives_the_same_hrefs(shape: str, window: slice) -> None:
    column = SHAPES[shape][window]
    assert sorted(asset_names(SHAPES[shape])) == ["B02", "B8A"]
    assets, unreadable = normalize_assets(column, ["B02", "B8A"], {"https://h/": "s3://b/"})
    hrefs = {
        band: pc.struct_field(assets, [position, assets.type[position].type.get_field_index("href")]).to_pylist()
        for position, band in enumerate(["B02", "B8A"])
    }
    assert hrefs["B02"] == ["s3://b/1/B02.tif", None, None, None][window]
    assert hrefs["B8A"] == ["s3://b/1/B8A.tif", None, None, "s3://b/4/B8A.tif"][window]
    assert not any(unreadable.to_pylist())


def test_json_that_is_not_an_object_is_marked() -> None:
    column = pa.array(['{"B02": {"href": "/a.tif", "gsd": 10}}', "[]", '{"B02":', None])
    assets, unreadable = normalize_assets(column, asset_names(column), {})
    assert unreadable.to_pylist() == [False, True, True, False]
    assert assets[0].as_py()["B02"]["properties"] == '{"gsd": 10}'


def test_other_types_are_refused() -> None:
    with pytest.raises(RecordError, match="column 'assets' is int64"):
        asset_names(pa.array([1]))
    with pytest.raises(RecordError, match="asset 'B02' is int64: write its href"):
        normalize_assets(pa.array([{"B02": 1}]), ["B02"], {})


def test_every_partition_has_the_same_assets() -> None:
    assets, _ = normalize_assets(SHAPES["json"].slice(3), ["B02", "B8A", "B99"], {})
    assert [child.name for child in assets.type] == ["B02", "B8A", "B99"]


def test_one_href_serves_several_bands() -> None:
    assets = assets_from_href(pa.array(["s3://b/x.tif", None]), {"red": 0, "nir": 3}, {"s3://b/": "/data/"})
    assert assets.to_pylist() == [
        {"red": {"href": "/data/x.tif", "band_index": 0}, "nir": {"href": "/data/x.tif", "band_index": 3}},
        None,
    ]


@pytest.mark.parametrize(
    ("asset", "is_band"),
    [
        ({"href": "/a.tif"}, True),
        ({"href": "/a.TIFF?sig=x.xml"}, True),
        ({"href": "https://h/data/123"}, True),
        ({"href": "/a.xml"}, False),
        ({"href": "/preview.jpg"}, False),
        ({"href": "/a.jp2", "type": "image/jp2"}, False),
        ({"href": "/a.json", "type": "application/json"}, False),
        ({"href": "https://h/item/preview.png?assets=visual.tif", "type": "image/png"}, False),
        ({"href": "https://h/x", "type": "image/tiff; application=geotiff; profile=cloud-optimized"}, True),
        ({"href": "https://h/x.bin", "type": "image/vnd.stac.geotiff"}, True),
        ({"href": "/thumb.tif", "type": "image/png"}, False),
        ({"href": "/a.tif", "type": "application/octet-stream"}, True),
        ({"href": "https://h/tiles/1", "roles": ["thumbnail"]}, False),
        ({"href": "https://h/tiles/1", "roles": ["data"]}, True),
        ({"href": "/overview.tif", "roles": ["overview"], "type": "image/tiff"}, True),
        ({"href": None, "type": "image/tiff"}, False),
    ],
    ids=str,
)
def test_which_assets_are_bands(asset: dict, is_band: bool) -> None:
    kind = pa.struct([("href", pa.string()), ("type", pa.string()), ("roles", pa.list_(pa.string()))])
    assert raster_rows(pa.array([asset, None], kind)).to_pylist() == [is_band, False]


def test_missing_rows_may_have_content_below_them() -> None:
    """Masks do not move offsets, so the items of a masked row are still there."""
    items = pa.array([{"href": "a"}, {"href": "b"}, {"href": "c"}], STRUCT)
    masked = pa.MapArray.from_arrays([0, 1, 2, 3], ["B", "B", "B"], items, mask=pa.array([False, True, False]))
    assets, _ = normalize_assets(masked, ["B"], {})
    assert assets.to_pylist() == [{"B": {"href": "a"}}, None, {"B": {"href": "c"}}]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([[(1, {"href": "a"})]], pa.map_(pa.int32(), STRUCT)),
        pa.array([[{"name": 1.5, "href": "a"}]]),
    ],
    ids=["map", "list"],
)
def test_asset_names_that_are_not_text_are_refused(column: pa.Array) -> None:
    for read in (asset_names, lambda column: normalize_assets(column, ["1"], {})):
        with pytest.raises(RecordError, match=r"names its assets by (int32|double): their names are text"):
            read(column)


def test_names_as_bytes() -> None:
    column = pa.array([[(b"B", {"href": "a"})]], pa.map_(pa.binary(), STRUCT))
    assert asset_names(column) == ["B"]
    assert normalize_assets(column, ["B"], {})[0].to_pylist() == [{"B": {"href": "a"}}]


def test_json_with_halves_of_characters_and_without_end() -> None:
    column = pa.array([r'{"B\ud800": {"href": "a\uDBFF", "title": "\ud83d\ude00", "x": "\ud800"}}', "{" * 100_000])
    assert asset_names(column) == ["B?"]
    assets, unreadable = normalize_assets(column, ["B?"], {})
    assert unreadable.to_pylist() == [False, True]
    assert assets[0].as_py()["B?"]["href"] == "a?"
    assert assets[0].as_py()["B?"]["title"] == "\U0001f600"
