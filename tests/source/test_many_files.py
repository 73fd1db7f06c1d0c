"""Many files as one table: columns by name and of any type, each file's footprints in its own CRS."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyproj
import pytest
import shapely

from rasteret_assets import build_from_table
from rasteret_assets.errors import InvalidRecordError, MissingColumnError, SourceError
from rasteret_assets.geometry import GeometryColumn
from rasteret_assets.source.footprint_crs import crs_name
from rasteret_assets.source.open import open_source
from rasteret_assets.source.parquet_files import _logical_crs
from rasteret_assets.source.profiling import profile_source
from rasteret_assets.spec import CollectionSpec
from tests.support.rasters import record_table

BOX = shapely.box(9, 48, 9.1, 48.1)


def spec(**values: object) -> CollectionSpec:
    return CollectionSpec.of(path="t", **values)


def records(name: str, **columns: Any) -> pa.Table:
    return record_table([name], {"B02": ["/x.tif"]}, **columns)


def opened(folder: Path, *tables: pa.Table, options: dict[str, Any] | None = None, **values: object) -> pa.Table:
    """What is scanned of a folder with these files."""
    for number, table in enumerate(tables):
        pq.write_table(table, folder / f"{number}.parquet", **(options or {}))
    return open_source(folder, spec(**values)).table()


# --- types -----------------------------------------------------------------------------------------------------------

END = datetime(9999, 12, 31, tzinfo=UTC)
SOME = datetime(2024, 2, 1, tzinfo=UTC)
REQUIRED = pa.struct([pa.field("a", pa.int32(), nullable=False)])
WIDE = pa.struct([pa.field("a", pa.int64()), pa.field("b", pa.string(), nullable=False)])


def instants(unit: str, value: datetime | None = SOME, zone: str | None = "UTC") -> pa.Array:
    return pa.array([value], pa.timestamp(unit, zone))


@pytest.mark.parametrize(
    ("one", "other", "united"),
    [
        (instants("us", END), instants("ns"), [END, SOME]),
        (instants("s", END), instants("ns"), [END, SOME]),
        (instants("ms", SOME, "Europe/Berlin"), instants("us", SOME, "UTC"), [SOME, SOME]),
        (pa.array([[END]], pa.list_(pa.timestamp("us", "UTC"))),
         pa.array([[SOME]], pa.large_list(pa.timestamp("ns", "UTC"))), [[END], [SOME]]),
        (pa.array([{"a": END}], pa.struct([("a", pa.timestamp("us", "UTC"))])),
         pa.array([{"a": SOME}], pa.struct([("a", pa.timestamp("ns", "UTC"))])), [{"a": END}, {"a": SOME}]),
        (pa.array([{"a": 1}], REQUIRED), pa.array([{"a": 2, "b": "x"}], WIDE),
         [{"a": 1, "b": None}, {"a": 2, "b": "x"}]),
        (pa.array([[{"a": 1}]], pa.list_(REQUIRED)), pa.array([[{"a": 2, "b": "x"}]], pa.large_list(WIDE)),
         [[{"a": 1, "b": None}], [{"a": 2, "b": "x"}]]),
        (pa.array(["x"]), pa.array(["y"], pa.large_string()), ["x", "y"]),
        (pa.array(["x"], pa.string_view()), pa.array(["y"]).dictionary_encode(), ["x", "y"]),
        (pa.array([["x"]], pa.large_list(pa.string_view())), pa.array([["y"]]), [["x"], ["y"]]),
        (pa.array([[1, 2]], pa.list_(pa.int8(), 2)), pa.array([[3]], pa.list_(pa.int16())), [[1, 2], [3]]),
        (pa.array([b"x"], pa.binary_view()), pa.array([b"y"], pa.large_binary()), [b"x", b"y"]),
        (pa.array([{"a": 1}], pa.struct([("a", pa.int8())])), pa.nulls(1), [{"a": 1}, None]),
        (pa.array([[("k", "v")]], pa.map_("string", "string")),
         pa.array([[("k", "w")]], pa.map_("string", "large_string")), [[("k", "v")], [("k", "w")]]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)  # fmt: skip
def test_columns_that_say_the_same_in_other_types_unite(
    tmp_path: Path, one: pa.Array, other: pa.Array, united: list[object]
) -> None:
    tables = [records(name, more=column) for name, column in (("a", one), ("b", other))]
    for number, order in enumerate((tables, tables[::-1])):
        folder = tmp_path / str(number)
        folder.mkdir()
        table = opened(folder, *order)
        assert dict(zip(table["id"].to_pylist(), table["more"].to_pylist(), strict=True)) == dict(
            zip("ab", united, strict=True)
        )


def test_what_is_required_in_one_file_may_be_missing_in_another(tmp_path: Path) -> None:
    item = pa.struct([pa.field("href", pa.string(), nullable=False)])

    def strict(name: str, *bands: str) -> pa.Table:
        kind = pa.struct([pa.field(band, item, nullable=False) for band in bands])
        values = pa.array([{band: {"href": f"/{band}.tif"} for band in bands}], kind)
        return records(name).set_column(3, pa.field("assets", kind, nullable=False), values)

    grid = pa.field("grid", pa.string(), nullable=False)
    table = opened(tmp_path, strict("a", "B02", "B03").append_column(grid, pa.array(["x"])), strict("b", "B03"))
    assert table["grid"].to_pylist() == ["x", None]
    assert table["assets"].to_pylist() == [
        {"B02": {"href": "/B02.tif"}, "B03": {"href": "/B03.tif"}}, {"B02": None, "B03": {"href": "/B03.tif"}},
    ]  # fmt: skip


def test_times_of_int96_reach_any_year(tmp_path: Path) -> None:
    times = [datetime(1650, 1, 1, tzinfo=UTC), END]
    for number, time in enumerate(times):
        table = records(
            f"r{number}", end_datetime=instants("us", time), nested=pa.array([{"t": time.replace(tzinfo=None)}])
        )
        pq.write_table(table, tmp_path / f"{number}.parquet", use_deprecated_int96_timestamps=number == 0)
    pq.write_table(
        records("s", end_datetime=instants("us", END)), tmp_path / "s.parquet", use_deprecated_int96_timestamps=True,
        store_schema=False,
    )  # fmt: skip
    table = open_source(tmp_path, spec()).table()
    assert table["end_datetime"].cast(pa.timestamp("us", "UTC")).to_pylist() == [*times, END]
    assert [row and row["t"].replace(tzinfo=UTC) for row in table["nested"].to_pylist()] == [*times, None]


def test_a_filter_may_name_an_instant_that_one_file_cannot_hold(tmp_path: Path) -> None:
    tables = [records("a", end=instants("us", END)), records("b", end=instants("ns"))]
    assert opened(tmp_path, *tables, filter_expr=[("end", ">=", END)])["id"].to_pylist() == ["a"]
    assert opened(tmp_path, *tables, filter_expr=[("end", "<", END)])["id"].to_pylist() == ["b"]


def test_columns_that_cannot_be_one_are_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"do not fit together: column 'more' is string and int64; cast it"):
        opened(tmp_path, records("a", more=pa.array(["x"])), records("b", more=pa.array([1])))


@pytest.mark.parametrize("name", ["__filename", "__fragment_index", "__batch_index", "__last_in_fragment"])
def test_a_column_named_as_one_of_arrows_own_is_refused_or_left_out(tmp_path: Path, name: str) -> None:
    table = records("a", **{name: pa.array(["x"])})
    with pytest.raises(SourceError, match=f"a column named {name}, which is a name that Arrow uses itself"):
        opened(tmp_path, table)
    kept = records("a").schema.names
    assert opened(tmp_path, table, columns=kept).schema.names == kept


# --- footprints ------------------------------------------------------------------------------------------------------


def projected(crs: str) -> bytes:
    move = pyproj.Transformer.from_crs("OGC:CRS84", crs, always_xy=True)
    return bytes(shapely.to_wkb(shapely.transform(BOX, lambda xy: np.column_stack(move.transform(*xy.T)))))


def geo(table: pa.Table, crs: Any, column: str = "geometry", **described: Any) -> pa.Table:
    """A table with a GeoParquet footer; ``...`` leaves the CRS out."""
    told = {"encoding": "WKB", "geometry_types": [], **({} if crs is ... else {"crs": crs}), **described}
    text = json.dumps({"version": "1.1.0", "primary_column": column, "columns": {column: told}})
    return table.replace_schema_metadata({"geo": text})


def in_crs(name: str, crs: str, column: str = "geometry") -> pa.Table:
    table = records(name).set_column(2, column, pa.array([projected(crs)], pa.binary()))
    return geo(table, pyproj.CRS(crs).to_json_dict(), column)


def boxes(folder: Path, *tables: pa.Table, **values: object) -> dict[str, tuple[float, ...]]:
    """The published boxes by id, rounded."""
    for number, table in enumerate(tables):
        pq.write_table(table, folder / f"{number}.parquet")
    rows = build_from_table(folder, **values).to_table(["id", "bbox"]).to_pylist()
    return {row["id"]: tuple(round(float(value), 1) for value in row["bbox"].values()) for row in rows}


@pytest.mark.parametrize("mapping", [{}, {"column_map": {"outline": "geometry"}}], ids=["geometry", "mapped"])
def test_each_file_is_read_in_its_own_crs(tmp_path: Path, mapping: dict[str, Any]) -> None:
    column = next(iter(mapping.get("column_map", {"geometry": ""})))
    tables = [in_crs("a", "EPSG:32632", column), in_crs("b", "EPSG:3857", column), in_crs("c", "OGC:CRS84", column)]
    bare = records("d").rename_columns(["id", "datetime", column, "assets"])
    found = boxes(tmp_path, *tables, bare, **mapping)
    assert found == dict.fromkeys("abcd", (9.0, 48.0, 9.1, 48.1))


def test_a_footprint_that_cannot_be_read_stays_so(tmp_path: Path) -> None:
    broken = in_crs("b", "EPSG:3857").set_column(2, "geometry", pa.array([b"\x01\x03"], pa.binary()))
    tables = [in_crs("a", "EPSG:32632"), broken.replace_schema_metadata(in_crs("b", "EPSG:3857").schema.metadata)]
    with pytest.raises(InvalidRecordError, match=r"'b' \(geometry cannot be read\)"):
        boxes(tmp_path, *tables)


def test_layouts_of_geometries_may_differ(tmp_path: Path) -> None:
    points = pa.array([[9.0, 48.0]], pa.list_(pa.float64(), 2))
    native = geo(records("a").set_column(2, "geometry", points), ..., encoding="point")
    assert boxes(tmp_path, native, in_crs("b", "EPSG:32632")) == {
        "a": (9.0, 48.0, 9.0, 48.0),
        "b": (9.0, 48.0, 9.1, 48.1),
    }


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("OGC:CRS84", ...), ("EPSG:4326", "OGC:CRS84"), ("EPSG:32632", pyproj.CRS(32632).to_wkt()),
        ("epsg:32632", "urn:ogc:def:crs:EPSG::32632"),
    ],
    ids=str,
)  # fmt: skip
def test_one_crs_in_other_words_is_one(tmp_path: Path, one: Any, other: Any) -> None:
    where = "EPSG:32632" if "32632" in str(one) else "OGC:CRS84"
    wkb = pa.array([projected(where)], pa.binary())
    for name, crs in (("a", one), ("b", other)):
        table = records(name).set_column(2, "geometry", wkb)
        pq.write_table(geo(table, crs if crs is ... else pyproj.CRS(crs).to_json_dict()), tmp_path / f"{name}.parquet")
    source = open_source(tmp_path, spec())
    assert source.table()["geometry"].to_pylist() == wkb.to_pylist() * 2
    columns = profile_source(source, spec()).columns
    (tmp_path / "b.parquet").unlink()
    assert profile_source(open_source(tmp_path, spec()), spec()).columns == columns


def test_files_of_different_crss_are_refused_if_one_has_no_epsg_code(tmp_path: Path) -> None:
    own = "+proj=laea +lat_0=11 +lon_0=12 +ellps=intl"
    with pytest.raises(SourceError, match=r"different CRSs, and that of .*1\.parquet has no EPSG code"):
        opened(tmp_path, records("a"), in_crs("b", own))
    with pytest.raises(SourceError, match=r"different CRSs for 'geometry': that of .*1\.parquet is unknown"):
        opened(tmp_path, in_crs("a", "EPSG:32632"), geo(records("b"), None))


def test_footprints_in_another_column_of_some_files_are_not_lost(tmp_path: Path) -> None:
    with pytest.raises(
        MissingColumnError, match="some of its files have their footprints in 'geometry', others in 'geom'"
    ):
        opened(tmp_path, in_crs("a", "OGC:CRS84"), in_crs("b", "OGC:CRS84", "geom"))


class Wkb(pa.ExtensionType):
    """What pyarrow writes as Parquet's GEOMETRY type."""

    def __init__(self, crs: Any) -> None:
        self.crs = crs
        super().__init__(pa.binary(), "geoarrow.wkb")

    def __arrow_ext_serialize__(self) -> bytes:
        return json.dumps({"crs": self.crs}).encode()

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> pa.ExtensionType:
        return cls(json.loads(serialized)["crs"])


def logical(name: str, crs: Any, where: str) -> pa.Table:
    column = pa.ExtensionArray.from_storage(Wkb(crs), pa.array([projected(where)], pa.binary()))
    return records(name).set_column(2, "geometry", column)


@pytest.mark.parametrize("crs", ["EPSG:32632", pyproj.CRS(32632).to_json_dict()], ids=["text", "PROJJSON"])
def test_the_crs_of_parquets_own_type_counts(tmp_path: Path, crs: Any) -> None:
    pq.write_table(logical("a", crs, "EPSG:32632"), tmp_path / "a.parquet", store_schema=False)
    pq.write_table(records("b"), tmp_path / "b.parquet")
    assert boxes(tmp_path) == dict.fromkeys("ab", (9.0, 48.0, 9.1, 48.1))


def test_a_type_and_a_footer_that_disagree_are_refused(tmp_path: Path) -> None:
    table = logical("a", "EPSG:32632", "EPSG:32632")
    footer = geo(table, pyproj.CRS(3857).to_json_dict()).schema.metadata
    with pq.ParquetWriter(tmp_path / "a.parquet", table.schema, store_schema=False) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata(footer)
    with pytest.raises(SourceError, match="states two CRSs for 'geometry': EPSG:32632 in its Parquet type, EPSG:3857"):
        open_source(tmp_path, spec())


def test_a_time_without_a_zone_is_in_utc_where_it_is_the_records(tmp_path: Path) -> None:
    naive = records("a").set_column(1, "datetime", instants("ns", SOME.replace(tzinfo=None), None))
    assert opened(tmp_path, naive, records("b", datetimes=[SOME]))["datetime"].to_pylist() == [SOME, SOME]
    with pytest.raises(SourceError, match="column 'local' is"):
        opened(tmp_path, records("a", local=naive["datetime"]), records("b", local=instants("us")))


@pytest.mark.parametrize(
    ("text", "crs"),
    [
        (None, None), ("", None), ("srid:5070", "EPSG:5070"), ("srid:0", None), ("projjson:mine", {"id": 1}),
        ('{"id": 2}', {"id": 2}), ("OGC:CRS84", "OGC:CRS84"),
    ],
)  # fmt: skip
def test_every_way_in_which_parquet_writes_a_crs(text: str | None, crs: Any) -> None:
    assert _logical_crs(text, {b"mine": b'{"id": 1}'}) == crs


def test_a_crs_has_one_name() -> None:
    names = [crs_name(GeometryColumn(crs=crs)) for crs in (None, "EPSG:4326", "EPSG:4979", pyproj.CRS(32632).to_wkt())]
    assert names == ["OGC:CRS84"] * 3 + ["EPSG:32632"]
