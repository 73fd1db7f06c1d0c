"""Collections are opened or refused with a reason, and other libraries can use the object."""

from __future__ import annotations

import datetime as dt
import json
import multiprocessing
import pickle
import re
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
import shapely

from rasteret_assets import CloudConfig
from rasteret_assets.collection import Collection, as_collection, load
from rasteret_assets.errors import CollectionError, SpecError
from rasteret_assets.partitions import hive_schema

from .support import CountingBackend, noise, record, records_table, write_raster


@pytest.fixture
def rows(tmp_path):
    path = write_raster(tmp_path / "a.tif", noise(rows=64, columns=64))
    return [
        record(
            f"r{n}", {"B": (path, 0)}, moment=dt.datetime(2024, 1 + n % 3, 1 + n, tzinfo=dt.UTC), missing="B" * (n == 4)
        )
        for n in range(6)
    ]


def publish(table: pa.Table, path: Path, **metadata: str) -> Path:
    hive = ds.partitioning(hive_schema("month"), flavor="hive")
    ds.write_dataset(table.replace_schema_metadata(metadata), path, format="parquet", partitioning=hive)
    return path


@pytest.fixture
def published(rows, tmp_path):
    return publish(
        records_table(rows), tmp_path / "w" / "s2_records", name="scenes", data_source="demo", description="Six scenes."
    )


def test_directory_with_its_footer(published):
    opened = load(published)
    assert (opened.name, opened.data_source, opened.description) == ("scenes", "demo", "Six scenes.")
    assert opened.path == str(published)
    assert len(opened) == 6
    assert opened.bands == ["B"]
    assert opened.crs == ["EPSG:32632"]
    assert opened.schema.field("year").type == pa.int32()
    assert sorted(opened.to_table(["id", "month"]).to_pylist(), key=str) == [
        {"id": f"r{n}", "month": 1 + n % 3} for n in range(6)
    ]
    assert load(published, name="mine").name == "mine"


def test_file_uri_and_filesystems(published, rows, tmp_path):
    file = tmp_path / "scenes_records.parquet"
    pq.write_table(records_table(rows), file)
    assert len(load(file)) == 6
    assert load(str(file)).name == "scenes"
    assert len(load(published.as_uri())) == 6
    below = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    assert len(load("w/s2_records", filesystem=below)) == 6
    assert ids_of(load("w/s2_records", filesystem=below).subset(date_range=("2024-02", "2024-02"))) == ["r1", "r4"]


def test_some_partitions_open_no_other_file(published):
    (published / "year=2024" / "month=1" / "part-0.parquet").write_bytes(b"damaged")
    assert ids_of(load(published, partitions=["2024-02"])) == ["r1", "r4"]
    assert ids_of(load(published, partitions=("2024-03", "2024-02"))) == ["r1", "r2", "r4", "r5"]
    with pytest.raises(CollectionError, match="month=1"):
        load(published, partitions=["2024-01"])


@pytest.mark.parametrize(
    ("partitions", "error", "message"),
    [
        (["2024-07", "2024-02"], CollectionError, r"no partition 2024-07; it holds 2024-01, 2024-02, 2024-03$"),
        ("2024-02", SpecError, r"partitions='2024-02' is not a list of partition keys"),
        ([], SpecError, "is not a list of partition keys"),
        (["May"], SpecError, "'May' is not a partition key"),
        ([5], SpecError, "partitions="),
        (["2024", "2024-02"], SpecError, "of several sizes, which hold the same records"),
    ],
)
def test_unknown_partitions_are_refused(published, partitions, error, message):
    with pytest.raises(error, match=message):
        load(published, partitions=partitions)


def test_a_file_has_no_partitions(rows, tmp_path):
    pq.write_table(records_table(rows), tmp_path / "a.parquet")
    with pytest.raises(CollectionError, match="its files do not lie in folders of partitions"):
        load(tmp_path / "a.parquet", partitions=["2024-01"])


def ids_of(collection: Collection) -> list[str]:
    return sorted(collection.to_table(["id"])["id"].to_pylist())


def test_fsspec_filesystem(published):
    fsspec = pytest.importorskip("fsspec")
    assert len(load(str(published), filesystem=fsspec.filesystem("file"))) == 6


def test_a_missing_path_is_refused(tmp_path):
    with pytest.raises(CollectionError, match=r"nowhere does not exist.*build_from_table"):
        load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("none")
    with pytest.raises(CollectionError, match=r"has no \*\.parquet file"):
        load(tmp_path / "empty")


def test_only_parquet_files_count(published):
    (published / "collection.json").write_text("{}")
    (published / "_metadata").write_bytes(b"stale")
    (published / "year=2024" / ".part-0.parquet.tmp").write_bytes(b"half")
    (published / "year=2024" / "_tmp.parquet").write_bytes(b"half")
    assert len(load(published)) == 6


@pytest.mark.parametrize("damage", [b"", b"no parquet at all", b"PAR1" + b"\0" * 50 + b"PAR1"])
def test_damaged_file_is_named(published, damage):
    victim = sorted(published.rglob("*.parquet"))[1]
    victim.write_bytes(damage)
    with pytest.raises(CollectionError, match=str(victim.relative_to(published))):
        load(published)


def test_truncated_file_is_named(published):
    victim = min(published.rglob("*.parquet"))
    victim.write_bytes(victim.read_bytes()[:-100])
    with pytest.raises(CollectionError, match=str(victim.relative_to(published))):
        load(published)


def test_damaged_pages_are_named_when_read(published):
    victim = sorted(published.rglob("*.parquet"))[1]
    content = bytearray(victim.read_bytes())
    content[4:2000] = b"\xff" * 1996
    victim.write_bytes(bytes(content))
    opened = load(published)
    with pytest.raises(CollectionError, match=str(victim.relative_to(published))):
        opened.to_table()


def test_missing_columns_are_all_named(rows, tmp_path):
    table = records_table(rows).drop_columns(["bbox", "assets"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(CollectionError, match=r"it has no columns assets, bbox; publish it with build_from_table"):
        load(tmp_path / "a.parquet")


def test_types_of_the_contract(rows):
    table = records_table(rows)
    place = table.schema.get_field_index
    text = table.set_column(place("datetime"), "datetime", table["datetime"].cast(pa.string()))
    with pytest.raises(CollectionError, match="'datetime' is string, not a timestamp"):
        as_collection(text)
    flat = table.set_column(place("bbox"), "bbox", pa.array([[0.0, 0.0, 1.0, 1.0]] * 6))
    with pytest.raises(CollectionError, match="'bbox' is list"):
        as_collection(flat)


def test_columns_of_later_files_are_seen_and_conflicts_named(rows, tmp_path):
    (tmp_path / "c").mkdir()
    table = records_table(rows[:3]).drop_columns(["year", "month"])
    pq.write_table(table.drop_columns(["B_metadata"]), tmp_path / "c" / "a.parquet")
    pq.write_table(table, tmp_path / "c" / "b.parquet")
    opened = load(tmp_path / "c")
    assert opened.bands == ["B"]
    assert opened.to_table(["B_metadata"])["B_metadata"].null_count == 3
    assert "B (50 %)" in opened._repr_html_()
    pq.write_table(table.set_column(0, "id", pa.array([1, 2, 3])), tmp_path / "c" / "z.parquet")
    with pytest.raises(CollectionError, match=r"z\.parquet: its columns differ"):
        load(tmp_path / "c")


def test_empty_collection(tmp_path):
    pq.write_table(records_table([]), tmp_path / "none.parquet")
    opened = load(tmp_path / "none.parquet")
    assert (len(opened), opened.bounds, opened.crs, opened.date_range, opened.bands) == (0, None, [], None, ["B"])
    assert repr(opened) == "Collection('none', 0 records, bands: B, undated)"
    assert "<td style='text-align:left'>0</td>" in opened._repr_html_()
    assert opened.to_table().num_rows == opened.head().num_rows == 0
    assert opened


def test_columns_can_be_chosen(published):
    opened = load(published)
    assert opened.to_table(["month", "id"]).column_names == ["month", "id"]
    assert opened.head(2, "id").to_pylist() == opened.to_table(["id"]).slice(0, 2).to_pylist()
    assert opened.head(0).num_rows == opened.head(-1).num_rows == 0
    assert opened.head(100).num_rows == 6
    with pytest.raises(CollectionError, match="no column 'dateime': did you mean 'datetime'"):
        opened.to_table(["dateime"])


def test_geo_metadata_is_of_the_whole(rows, tmp_path):
    geo = {
        "version": "1.1.0",
        "primary_column": "geometry",
        "columns": {"geometry": {"encoding": "WKB", "bbox": [0] * 4}},
    }
    publish(records_table(rows), tmp_path / "c", geo=json.dumps(geo), pandas="{}")
    metadata = load(tmp_path / "c").to_table().schema.metadata
    assert json.loads(metadata[b"geo"])["columns"] == {"geometry": {"encoding": "WKB"}}
    assert b"pandas" not in metadata
    assert b"geo" not in load(tmp_path / "c").to_table(["id"]).schema.metadata


@pytest.mark.parametrize("opened", ["memory", "directory"])
def test_a_pickled_collection_keeps_its_filters(rows, published, opened):
    collection = as_collection(records_table(rows), name="s2") if opened == "memory" else load(published)
    for asked in (collection, collection.where(pc.field("id") == "r2"), collection.subset(bbox=(-180, -90, 180, 90))):
        sent = pickle.loads(pickle.dumps(asked))
        assert sent.to_table().equals(asked.to_table())
        assert (sent.name, sent.path, sent.is_filtered) == (asked.name, asked.path, asked.is_filtered)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as workers:
        assert workers.submit(len, collection).result() == 6


def test_repr_and_card(rows):
    opened = as_collection(records_table(rows), name="<b>", description="a & b")
    # No row is read, because debuggers and logs call repr().
    assert repr(opened) == "Collection('<b>', bands B; print it to see what it holds)"
    assert "summary" not in vars(opened)
    assert str(opened) == "Collection('<b>', 6 records, bands: B, 2024-01-01 to 2024-03-06)"
    assert repr(opened) == str(opened)
    card = opened._repr_html_()
    assert "&lt;b&gt;" in card
    assert "a &amp; b" in card
    assert "<b>" not in card
    assert "EPSG:32632" in card
    assert "B (83 %)" in card
    # A filtered collection shows no shares, because they would need every tile table.
    assert "%" not in opened.subset(date_range=("2024-01", "2024-01"))._repr_html_()


def test_bounds_take_the_short_way_round():
    def bounds(*boxes):
        rows = [record(str(n), footprint=shapely.box(0, 0, 1, 1), bbox=box) for n, box in enumerate(boxes)]
        return as_collection(records_table(rows)).bounds

    assert bounds((0, 0, 1, 1), (5, -3, 6, 1)) == (0, -3, 6, 1)
    assert bounds((179, 0, -179, 1)) == (179, 0, -179, 1)
    assert bounds((179, 0, -179, 1), (-170, 0, -160, 2)) == (179, 0, -160, 2)
    assert bounds((179, 0, -179, 1), (170, 0, 172, 1), (-175, 0, -174, 1)) == (170, 0, -174, 1)
    assert bounds((10, 0, -10, 1), (-20, 0, 20, 1)) == (-180, 0, 180, 1)


def test_crs_of_headers_if_records_state_none(rows):
    table = records_table(rows)
    assert as_collection(table).crs == ["EPSG:32632"]
    told = [{**row, "proj:epsg": 32633} for row in rows]
    assert as_collection(records_table(told)).crs == ["EPSG:32633"]


def test_a_collection_made_of_a_collection_reads_as_that_one(rows):
    backend, paying = CountingBackend(), CloudConfig("aws", requester_pays=True)
    first = replace(as_collection(records_table(rows)), backend=backend, cloud_config=paying)
    for given in (first, first.where(pc.field("id") != "nothing")):
        again = as_collection(given)
        assert (again.backend, again.cloud_config) == (backend, paying)


def test_as_collection_takes_any_arrow(rows):
    table = records_table(rows).replace_schema_metadata({"name": "kept"})
    assert as_collection(table).name == "kept"
    for source in (ds.dataset(table), table.to_batches()[0], table.to_reader(), as_collection(table)):
        assert len(as_collection(source)) == 6
    part = as_collection(table).subset(date_range=("2024-01", "2024-01"))
    assert len(as_collection(part)) == len(part) == 2
    with pytest.raises(SpecError, match="dict is not an Arrow object"):
        as_collection({})


def test_as_collection_needs_headers_unless_require_band_metadata_is_false(rows):
    bare = records_table(rows).drop_columns(["B_metadata"])
    with pytest.raises(CollectionError, match="enrich_cog=True"):
        as_collection(bare)
    assert as_collection(bare, require_band_metadata=False).bands == []


def test_foreign_metadata_columns_are_not_bands(rows):
    table = records_table(rows).append_column("product_metadata", pa.array(["text"] * 6))
    assert as_collection(table).bands == ["B"]


def test_polars_reads_the_stream(published):
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame(load(published).subset(date_range=("2024-02", None)))
    assert sorted(frame["id"]) == ["r1", "r2", "r4", "r5"]
    # And back, with view types.
    again = as_collection(polars.DataFrame(load(published)))
    assert len(again.subset(bbox=(-180, -90, 180, 90))) == 6


def test_duckdb_reads_the_stream(published):
    duckdb = pytest.importorskip("duckdb")
    opened = load(published).to_reader(["id", "month"])
    relation = duckdb.from_arrow(opened)
    assert sorted(relation.filter("month = 1").fetchall()) == [("r0", 1), ("r3", 1)]


def test_pyarrow_reads_the_stream(published):
    opened = load(published)
    assert pa.table(opened).num_rows == pa.RecordBatchReader.from_stream(opened).read_all().num_rows == 6


def test_import_loads_few_packages_and_exit_prints_nothing(published):
    code = f"""
import sys, rasteret_assets.collection as rc
print(sorted({{"imagecodecs", "dagster", "rasterio"}} & set(sys.modules)))
print(rc.load({str(published)!r}).get_numpy((9, 45.1499, 9.001, 45.1501), "B").shape[0])
"""
    command = [sys.executable, "-X", "dev", "-W", "error::ResourceWarning", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n") == ["[]", "5", ""]
    # Ignored, because asyncio warns of steps of a tenth of a second, which a busy machine takes.
    told = [line for line in done.stderr.splitlines() if not re.search(r"left out|^Executing .* took", line)]
    assert told == []
