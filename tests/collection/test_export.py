"""An exported subset is a collection of the same records, which others can read and which appears only complete."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import shapely

from rasteret_assets import CollectionSpec, as_collection, build, build_from_table, load
from rasteret_assets.collection.collection import Collection
from rasteret_assets.errors import CollectionError, SpecError

from .support import noise, record, records_table, write_raster

TIMES = [
    dt.datetime(2023, 12, 31, 23, 59, 59, tzinfo=dt.UTC),
    dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
    dt.datetime(2024, 1, 31, 12, tzinfo=dt.UTC),
    dt.datetime(2024, 2, 1, tzinfo=dt.UTC),
    None,
    dt.datetime(2024, 2, 29, tzinfo=dt.UTC),
]
PARTS = {
    "year": ["year=2023", "year=2024"],
    "month": ["year=2023/month=12", "year=2024/month=1", "year=2024/month=2"],
    "day": [
        "year=2023/month=12/day=31", "year=2024/month=1/day=1", "year=2024/month=1/day=31", "year=2024/month=2/day=1",
    ],
}  # fmt: skip
UNDATED = "/".join(f"{name}=__HIVE_DEFAULT_PARTITION__" for name in ("year", "month", "day"))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a collection of STAC items by month, of which one has no datetime and one has no header."""
    root = tmp_path_factory.mktemp("published")
    rows = []
    for number, moment in enumerate(TIMES):
        origin = (500_000.0 + 1000 * number, 5_000_000.0)
        path = write_raster(root / f"{number}.tif", noise(seed=number), nodata=0, origin=origin)
        row = record(f"r{number}", {"B": (path, 0)}, moment=moment)
        item = {name: row[name] for name in ("id", "datetime", "geometry")}
        begin = dt.datetime(2024, 1, 30, tzinfo=dt.UTC)
        rows.append(item | {
            "stac_version": "1.0.0", "collection": "scenes", "start_datetime": begin, "end_datetime": begin,
            "assets": {"B": {"href": str(path if number != 3 else root / "gone.tif")}}, "eo:cloud_cover": 7.0 * number,
        })  # fmt: skip
    build_from_table(
        pa.Table.from_pylist(rows), name="scenes", data_source="test", workspace_dir=root, enrich_cog=True
    )  # fmt: skip
    return root / "scenes_records"


def rows_of(collection: Collection) -> list[dict]:
    names = [name for name in collection.schema.names if name not in ("year", "month", "day")]
    return collection.to_table(names).sort_by("id").to_pylist()


@pytest.mark.parametrize("by", [None, "year", "month", "day", ("year", "month")])
def test_exported_records_are_the_selected_ones_by_any_partition(published: Path, tmp_path: Path, by) -> None:
    whole = load(published)
    target = tmp_path / ("some.parquet" if by is None else "some_records")
    some = whole.where(pc.field("id") != "r5")
    assert some.export(target, by) == 5
    size = "month" if isinstance(by, tuple) else by
    files = sorted(target.rglob("*.parquet")) if target.is_dir() else [target]
    if by is not None:
        depth = {"year": 1, "month": 2, "day": 3}[size]
        undated = "/".join(UNDATED.split("/")[:depth])
        folders = {file.parent.relative_to(target).as_posix() for file in files}
        assert folders == {*PARTS[size], undated}
    found = load(target)
    assert (found.name, found.data_source) == ("scenes", "test")
    assert rows_of(found) == rows_of(some)
    area = shapely.box(*found.bounds)
    np.testing.assert_array_equal(found.get_numpy(area, "B"), some.get_numpy(area, "B"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [target.name]


def test_footers_of_every_file_describe_its_rows(published: Path, tmp_path: Path) -> None:
    load(published).export(tmp_path / "copy")
    for path in (tmp_path / "copy").rglob("*.parquet"):
        table = gpd.read_parquet(path)
        geo = json.loads(pq.read_metadata(path).metadata[b"geo"])
        column = geo["columns"]["geometry"]
        assert (geo["version"], column["encoding"], column["geometry_types"]) == ("1.1.0", "WKB", ["Polygon"])
        np.testing.assert_allclose(column["bbox"], table.total_bounds)
        stac = json.loads(pq.read_metadata(path).metadata[b"stac-geoparquet"])
        assert list(stac["collections"]) == ["scenes"]
        # Schema and footer equal those of the published file, so that its readers can read this file.
        twin = published / path.relative_to(tmp_path / "copy")
        assert pq.read_schema(twin).equals(pq.read_schema(path))
        assert pq.read_metadata(twin).metadata[b"geo"] == pq.read_metadata(path).metadata[b"geo"]


def test_more_days_are_exported_than_files_are_open_at_once(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", noise())
    row = record("a", {"B": (path, 0)})
    days = 150
    table = pa.concat_tables([records_table([row])] * (2 * days)).drop_columns(["year", "month"])
    first, second = (dt.datetime(2024, 1, 1, hour, tzinfo=dt.UTC) for hour in (1, 2))
    moments = [start + dt.timedelta(days=day) for start in (first, second) for day in range(days)]
    table = table.set_column(0, "id", pa.array([f"r{number}" for number in range(2 * days)]))
    table = table.set_column(1, "datetime", pa.array(moments, pa.timestamp("us", "UTC")))
    assert as_collection(table, name="days").export(tmp_path / "days", "day") == 2 * days
    found = load(tmp_path / "days")
    assert len(list((tmp_path / "days").rglob("*.parquet"))) == days
    wanted = table.select(["id", "datetime"]).sort_by("datetime")
    assert found.to_table(["id", "datetime"]).sort_by("datetime") == wanted


def test_exported_addresses_have_no_signature(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", noise())
    table = records_table([record("a", {"B": (path, 0)})], note=pa.string())
    signed = "https://host/a.tif?version=2&X-Amz-Signature=planted&X-Amz-Credential=planted"
    assets = pa.array([{"B": {"href": signed, "band_index": 0}}], table.schema.field("assets").type)
    for name, column in (("assets", assets), ("note", pa.array([f"from {signed}"]))):
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), column)
    as_collection(table).export(tmp_path / "out.parquet", None)
    assert b"planted" not in (tmp_path / "out.parquet").read_bytes()
    assert load(tmp_path / "out.parquet").to_table(["assets"]).to_pylist() == [
        {"assets": {"B": {"href": "https://host/a.tif?version=2", "band_index": 0}}}
    ]


def build_one(folder: Path, name: str, **fields: Any) -> dict[str, Any]:
    """Build a collection of one record, and return the record."""
    row = record("a", {"B": (write_raster(folder / "a.tif", noise()), 0)})
    plain = pa.Table.from_pylist([{name: row[name] for name in ("id", "datetime", "geometry", "assets")}])
    pq.write_table(plain, folder / "records.parquet")
    build(CollectionSpec.of(path=folder / "records.parquet", name=name, workspace_dir=folder, **fields))
    return row


def test_the_name_of_the_credentials_is_exported(tmp_path: Path) -> None:
    build_one(tmp_path, "mpc", credentials="planetary_computer")
    load(tmp_path / "mpc_records").export(tmp_path / "copy")
    assert load(tmp_path / "copy").credentials == "planetary_computer"


def test_native_geometry_is_exported_as_wkb(tmp_path: Path) -> None:
    row = build_one(tmp_path, "native", geometry_encoding="native")
    load(tmp_path / "native_records").export(tmp_path / "copy.parquet", None)
    assert pq.read_schema(tmp_path / "copy.parquet").field("geometry").type == pa.binary()
    assert gpd.read_parquet(tmp_path / "copy.parquet").geometry.iloc[0].equals(shapely.from_wkb(row["geometry"]))


@pytest.mark.parametrize(
    ("path", "by", "message"),
    [
        ("x", "week", "must be one of 'year', 'month', 'day'"),
        ("x", ("month", "year"), "must be one of"),
        ("x.parquet", "month", "a folder of partitions is not"),
        ("x", None, "one file .partition_by=None. is called such as"),
        ("s3://bucket/x", "month", "not on a disk"),
        ("there", "month", "exists: choose another place, or say overwrite=True"),
    ],
)
def test_wrong_arguments_are_refused(published: Path, tmp_path: Path, path: str, by, message: str) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(SpecError, match=message):
        load(published).export(path if "://" in path else tmp_path / path, by)
    assert [found.name for found in tmp_path.iterdir()] == ["there"]


def test_an_export_over_a_collection_that_is_built_is_refused(published: Path) -> None:
    with pytest.raises(SpecError, match="a collection is built"):
        load(published).export(published, overwrite=True)
    assert len(load(published)) == len(TIMES)


def test_an_export_without_records_is_refused(published: Path, tmp_path: Path) -> None:
    with pytest.raises(CollectionError, match="no record is left"):
        load(published).where(pc.field("id") == "other").export(tmp_path / "none")
    assert not list(tmp_path.iterdir())


def test_overwrite_replaces_the_whole_export(published: Path, tmp_path: Path) -> None:
    whole = load(published)
    whole.export(tmp_path / "copy", "day")
    whole.where(pc.field("id") == "r1").export(tmp_path / "copy", "year", overwrite=True)
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.parquet")] == [
        "copy/year=2024/part-0.parquet"
    ]
    whole.export(tmp_path / "one.parquet", None)
    whole.where(pc.field("id") == "r1").export(tmp_path / "one.parquet", None, overwrite=True)
    assert len(load(tmp_path / "one.parquet")) == 1


def test_a_failed_export_writes_nothing_and_keeps_the_earlier_one(published: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    load(published).export(copy)
    damaged = copy / "year=2024/month=2/part-0.parquet"
    content = bytearray(damaged.read_bytes())
    group = pq.read_metadata(damaged).row_group(0)
    columns = [group.column(leaf) for leaf in range(group.num_columns)]
    column = next(column for column in columns if "tile_offsets" in column.path_in_schema)
    start = column.data_page_offset
    content[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    damaged.write_bytes(content)
    target = tmp_path / "target"
    with pytest.raises(CollectionError, match=r"month=2/part-0\.parquet"):
        load(copy).export(target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy"]
    load(published).export(target)
    with pytest.raises(CollectionError, match=r"month=2/part-0\.parquet"):
        load(copy).export(target, overwrite=True)
    assert len(load(target)) == len(TIMES)


MEMORY = """
import sys
from pathlib import Path
import rasteret_assets
def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024
collection = rasteret_assets.load(sys.argv[1])
collection.where(__import__("pyarrow").compute.field("id") == "0-0").export(sys.argv[2] + "1")
before = peak()
collection.export(sys.argv[2], sys.argv[3])
print(peak() - before)
"""


def test_memory_does_not_grow_with_the_collection(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", noise())
    row = record("a", {"B": (path, 0)})
    tiles = 20_000
    offsets = np.cumsum(np.random.default_rng(0).integers(1, 60_000, tiles))
    row["B_metadata"] |= {"tile_offsets": offsets.tolist(), "tile_byte_counts": np.diff(offsets, append=0).tolist()}
    fifty = pa.concat_tables([records_table([row])] * 50).drop_columns(["year", "month"])
    days = [dt.datetime(2024, 1, 1 + number % 28, tzinfo=dt.UTC) for number in range(50)]
    fifty = fifty.set_column(1, "datetime", pa.array(days, pa.timestamp("us", "UTC")))
    with pq.ParquetWriter(tmp_path / "many.parquet", fifty.schema, compression="zstd") as writer:
        for group in range(30):  # of 16 MB each
            ids = pa.array([f"{group}-{number}" for number in range(50)])
            writer.write_table(fifty.set_column(0, "id", ids))
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path / "many.parquet"), str(tmp_path / "out"), "year"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert ds.dataset(tmp_path / "out", partitioning="hive").count_rows() == 1500
    assert float(done.stdout) < 300  # of 480 MB of tile tables
