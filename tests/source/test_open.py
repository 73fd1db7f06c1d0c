"""Opening record tables: projection and filter in the scan, directories, Arrow objects, and clear refusals."""

from __future__ import annotations

import time
from pathlib import Path

import geopandas
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import shapely

from rasteret_assets import build_from_table
from rasteret_assets.errors import MissingColumnError, RasteretAssetsError, SourceError, SpecError
from rasteret_assets.source.open import open_source
from rasteret_assets.spec import CollectionSpec
from tests.support.rasters import record_table

TABLE = record_table(["a", "b", "c"], {"B02": ["/x.tif"] * 3}, cloud=pa.array([1.0, 50.0, None]))


def spec(**values: object) -> CollectionSpec:
    return CollectionSpec.of(path="t", **values)


@pytest.fixture
def path(tmp_path: Path) -> str:
    pq.write_table(TABLE, tmp_path / "t.parquet")
    return str(tmp_path / "t.parquet")


def test_projection_and_filter_are_part_of_the_scan(path: str) -> None:
    columns = ["id", "datetime", "geometry", "assets"]
    source = open_source(path, spec(columns=columns, filter_expr=[["cloud", "<", 20]]))
    table = source.table()
    assert table.schema.names == columns
    assert table["id"].to_pylist() == ["a"]


@pytest.mark.parametrize(
    "data",
    [
        TABLE, ds.dataset(TABLE), pa.RecordBatchReader.from_batches(TABLE.schema, TABLE.to_batches()),
        TABLE.to_batches()[0],
    ],
    ids=lambda data: type(data).__name__,
)  # fmt: skip
def test_any_arrow_object_is_a_source(data: object) -> None:
    assert open_source(data, spec(filter_expr=pc.field("cloud") > 20)).table()["id"].to_pylist() == ["b"]


def test_a_stream_of_another_library_is_a_source() -> None:
    class Foreign:
        def __arrow_c_stream__(self, requested_schema: object = None) -> object:
            return TABLE.__arrow_c_stream__(requested_schema)

    assert open_source(Foreign(), spec()).table() == TABLE


def test_a_geodataframe_is_a_source_in_its_own_crs() -> None:
    place = shapely.Point(500_000, 5_300_000)
    frame = geopandas.GeoDataFrame(
        {"id": ["a"], "datetime": ["2024-01-01"], "assets": [{"B1": {"href": "a.tif"}}]}, geometry=[place], crs=32632
    )
    collection = build_from_table(frame)
    (found,) = shapely.from_wkb(collection.to_table()["geometry"].to_pylist())
    assert found.distance(geopandas.GeoSeries([place], crs=32632).to_crs(4326)[0]) < 1e-9


def test_a_column_of_which_there_are_two_is_named() -> None:
    doubled = pa.Table.from_arrays([*TABLE.columns, TABLE["id"]], names=[*TABLE.schema.names, "id"])
    with pytest.raises(SourceError, match=r"several columns named \['id'\]; rename all but one"):
        open_source(doubled, spec())


def test_what_a_file_cannot_hold_as_it_is_given_is_kept_all_the_same(tmp_path: Path) -> None:
    kinds = pa.DictionaryArray.from_arrays(pa.array([0, 1, None], pa.int8()), pa.array(["dawn", None]))
    table = TABLE.append_column("kind", kinds).replace_schema_metadata({"ARROW:schema": "of another table"})
    collection = build_from_table(table, name="odd", workspace_dir=tmp_path)
    assert collection.to_table().sort_by("id")["kind"].to_pylist() == ["dawn", None, None]


def test_values_that_no_file_can_hold_are_said_to_be_of_the_table(tmp_path: Path) -> None:
    table = TABLE.append_column("far", pa.array([2**62, 0, None], pa.timestamp("s")))
    with pytest.raises(RasteretAssetsError, match=r"cannot be published as Parquet: .* timestamp"):
        build_from_table(table, name="far", workspace_dir=tmp_path)


@pytest.mark.parametrize("kind", [pa.struct([]), pa.list_(pa.struct([])), pa.month_day_nano_interval()])
def test_a_column_that_parquet_cannot_hold_is_named(kind: pa.DataType) -> None:
    table = TABLE.append_column("odd", pa.nulls(TABLE.num_rows, kind))
    with pytest.raises(
        SourceError, match=r"column 'odd' is .*, which Parquet cannot hold .*: leave it out with columns="
    ):
        open_source(table, spec())
    assert open_source(table, spec(columns=TABLE.schema.names)).table() == TABLE


def test_hive_keys_become_columns_and_junk_is_skipped(tmp_path: Path) -> None:
    for tile in ("a b", "c"):
        folder = tmp_path / f"tile={tile.replace(' ', '%20')}" / "year=2024"
        folder.mkdir(parents=True)
        pq.write_table(TABLE, folder / "part.parquet")
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / "README.txt").write_text("hello")
    table = open_source(tmp_path, spec()).table()
    assert sorted(set(table["tile"].to_pylist())) == ["a b", "c"]
    assert set(table["year"].to_pylist()) == {2024}
    assert table.num_rows == 6


def test_columns_of_later_files_are_not_lost(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "a.parquet")
    more = record_table(
        ["d"], {"B02": ["/d.tif"], "B8A": ["/e.tif"]}, cloud=pa.array([3], pa.int32()), extra=pa.array(["e"])
    )
    pq.write_table(more, tmp_path / "b.parquet")
    rows = open_source(tmp_path, spec()).table().to_pylist()
    assert [row["extra"] for row in rows] == [None, None, None, "e"]
    assert rows[0]["assets"]["B8A"] is None
    assert rows[3]["assets"]["B8A"] == {"href": "/e.tif"}
    assert rows[3]["cloud"] == 3.0


def test_text_that_is_a_dictionary_in_some_files_only_is_text(tmp_path: Path) -> None:
    for name, kind in {"a": pa.string(), "b": pa.dictionary(pa.int8(), pa.string())}.items():
        pq.write_table(TABLE.append_column("tile", pa.array(["x", "y", None]).cast(kind)), tmp_path / f"{name}.parquet")
    table = open_source(tmp_path, spec()).table()
    assert table.schema.field("tile").type == pa.string()
    assert table["tile"].to_pylist() == ["x", "y", None] * 2


def test_a_hive_key_that_does_not_fit_its_column_is_refused(tmp_path: Path) -> None:
    (tmp_path / "assets=1").mkdir()
    pq.write_table(TABLE, tmp_path / "assets=1" / "a.parquet")
    with pytest.raises(SourceError, match="do not fit together: parsing scalars of type struct"):
        open_source(tmp_path, spec())


def test_the_fingerprint_follows_the_files(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "a.parquet")
    time.sleep(0.05)  # until a further write would have another time
    first = open_source(tmp_path, spec()).fingerprint
    assert open_source(tmp_path, spec()).fingerprint == first
    pq.write_table(TABLE.slice(1), tmp_path / "b.parquet")
    assert open_source(tmp_path, spec()).fingerprint != first


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"", "not a readable Parquet file"), (b"<html>", "not a readable"), (b"PAR1" + b"\0" * 40, "not a readable")],
)
def test_a_file_that_is_not_parquet_is_refused_by_name(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "broken.parquet").write_bytes(content)
    with pytest.raises(SourceError, match=rf"broken\.parquet: {sentence}"):
        open_source(tmp_path / "broken.parquet", spec())
    pq.write_table(TABLE, tmp_path / "good.parquet")
    with pytest.raises(SourceError, match=rf"broken\.parquet: {sentence}"):
        open_source(tmp_path, spec())


def test_a_file_that_breaks_off_in_its_pages_is_named(tmp_path: Path) -> None:
    path = tmp_path / "torn.parquet"
    pq.write_table(TABLE, path, compression="none", use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[4:200] = b"\xff" * 196
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"torn\.parquet: cannot be read"):
        open_source(path, spec()).table()


def test_nothing_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file or folder"):
        open_source(tmp_path / "none.parquet", spec())
    with pytest.raises(SourceError, match="holds no Parquet file"):
        open_source(tmp_path, spec())
    with pytest.raises(SourceError, match="int is not a record table"):
        open_source(3, spec())
    with pytest.raises(SpecError, match="filesystem=str is neither"):
        open_source("a/b", spec(), filesystem="s3")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"columns": ["id", "dateime"]}, r"columns= names \['dateime'\], did you mean \['datetime'\]"),
        ({"columns": ["id", "datetime", "assets"]}, r"has no geometry\. columns= leaves out part"),
        ({"column_map": {"fid": "id"}}, r"column_map names \['fid'\]"),
        ({"column_map": {"cloud": "id"}}, "would hide existing columns"),
        ({"filter_expr": [["clouds", "<", 3]]}, "filter_expr .* names a column the table does not have; it has id"),
    ],
)
def test_a_column_that_is_not_there_is_named(path: str, values: dict, sentence: str) -> None:
    with pytest.raises(MissingColumnError, match=sentence):
        open_source(path, spec(**values)).table()


def test_a_filter_of_the_wrong_type_is_explained(path: str) -> None:
    with pytest.raises(SourceError, match="does not fit the column's type"):
        open_source(path, spec(filter_expr=[["cloud", "<", "high"]])).table()


def test_a_table_without_the_contract_says_what_to_map(tmp_path: Path) -> None:
    pq.write_table(
        TABLE.drop_columns(["assets"]).rename_columns(["fid", "datetime", "geometry", "cloud"]), tmp_path / "t.parquet"
    )
    with pytest.raises(
        MissingColumnError, match=r"has no id, assets\. .*column_map=\{'their name': 'id'\}, or .*href_column="
    ):
        open_source(tmp_path / "t.parquet", spec())
    with pytest.raises(MissingColumnError, match="href_column='url' is not there"):
        open_source(tmp_path / "t.parquet", spec(column_map={"fid": "id"}, href_column="url", band_index_map={"b": 0}))


def test_a_footer_that_names_another_primary_geometry_is_not_overruled() -> None:
    table = TABLE.append_column("footprint", TABLE["geometry"]).replace_schema_metadata(
        {"geo": '{"primary_column": "footprint", "columns": {"footprint": {}}}'}
    )
    with pytest.raises(
        MissingColumnError, match=r"names 'footprint' as the primary geometry.*column_map=\{'footprint'"
    ):
        open_source(table, spec())
    chosen = ["id", "datetime", "footprint", "assets"]
    assert open_source(table, spec(columns=chosen, column_map={"footprint": "geometry"})).table().num_rows == 3


def test_geometry_as_an_extension_type_is_scanned_like_any_other() -> None:
    class Wkb(pa.ExtensionType):
        def __init__(self) -> None:
            super().__init__(pa.binary(), "geoarrow.wkb")

        def __arrow_ext_serialize__(self) -> bytes:
            return b'{"crs": "EPSG:3857"}'

        @classmethod
        def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> pa.ExtensionType:
            return cls()

    metadata = {b"ARROW:extension:name": b"geoarrow.wkb", b"ARROW:extension:metadata": b'{"crs": "EPSG:3857"}'}
    described = TABLE.set_column(2, pa.field("geometry", pa.binary(), metadata=metadata), TABLE["geometry"])
    plain = open_source(described, spec()).table()
    extended = TABLE.set_column(
        2, "geometry", pa.ExtensionArray.from_storage(Wkb(), TABLE["geometry"].combine_chunks())
    )
    assert open_source(extended, spec()).table().equals(plain, check_metadata=True)
