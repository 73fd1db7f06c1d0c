"""A published file is GeoParquet whose footer is true of its rows, with the same bytes in each build."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import shapely

from rasteret_assets import build_from_table, create_backend, load
from rasteret_assets.api import build
from rasteret_assets.errors import CollectionError
from rasteret_assets.geometry import hilbert_distance
from rasteret_assets.headers import store
from rasteret_assets.pipeline import _record_stage as normalizing
from rasteret_assets.pipeline.stage import Build
from rasteret_assets.pipeline.stages import run_stage
from rasteret_assets.publish import partition
from rasteret_assets.records import order
from rasteret_assets.schema import BAND_STRUCT, BANDS, COLLECTION, CONTRACT_BAND_FIELDS, NORMALIZED
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.workspace import Workspace
from rasteret_assets.storage.workspace.streams import open_stream, stream_writer
from tests.support.rasters import footprint, record_table, tiff_bytes
from tests.support.server import RangeServer

IDS = ["c", "a", "d", "b"]


@pytest.fixture
def table(server: RangeServer) -> pa.Table:
    for name in IDS:
        server.objects[f"/{name}.tif"] = tiff_bytes(seed=ord(name))
    hrefs = [f"{server.url}/{name}.tif?x=1&sig=secret" for name in IDS]
    made = record_table(IDS, {"B02": hrefs}, outline=footprint(tiff_bytes()), cloud=pa.array([1.0, None, 3.0, 4.0]))
    return made.replace_schema_metadata({"geo": "{}", "pandas": "{}", "name": "liar"})


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_published_file_is_geoparquet_of_its_own_rows(table: pa.Table, tmp_path: Path) -> None:
    build_from_table(table, name="s2", data_source="test", workspace_dir=tmp_path / "w", enrich_cog=True)
    paths = sorted((tmp_path / "w" / "s2_records").rglob("*"))
    parts = [path for path in paths if path.is_file()]
    assert {str(p.relative_to(tmp_path / "w" / "s2_records")) for p in parts} == {
        f"year=2024/month={month}/part-0.parquet" for month in (4, 5, 6)
    }
    for part in parts:
        schema = pq.read_schema(part)
        footer = {b"geo", b"name", b"data_source", b"description", b"rasteret_collection_version"}
        assert set(schema.metadata) == footer
        assert set(pq.read_metadata(part).metadata) == footer | {b"ARROW:schema"}
        assert schema.metadata[b"name"] == b"s2"
        assert not {"year", "month"} & set(schema.names)
        assert schema.field("B02_metadata").type.equals(BAND_STRUCT)
        geo = json.loads(schema.metadata[b"geo"])
        column = geo["columns"]["geometry"]
        frame = geopandas.read_parquet(part)
        assert (geo["version"], geo["primary_column"], column["encoding"]) == ("1.1.0", "geometry", "WKB")
        assert column["geometry_types"] == ["Polygon"]
        assert np.allclose(column["bbox"], frame.total_bounds)
        assert frame.crs.to_authority() == ("OGC", "CRS84")
        assert b"secret" not in part.read_bytes()
        assert frame["assets"][0]["B02"]["href"].endswith(".tif?x=1")


def test_equal_input_gives_equal_bytes_whatever_its_order(table: pa.Table, tmp_path: Path) -> None:
    shuffled = table.take([2, 0, 3, 1])
    for name, rows in {"one": table, "two": shuffled}.items():
        build_from_table(rows, name="s2", workspace_dir=tmp_path / name, enrich_cog=True)
    assert files(tmp_path / "one" / "s2_records") == files(tmp_path / "two" / "s2_records")


def test_a_partition_larger_than_memory_gives_the_same_bytes(
    table: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    month = [datetime(2024, 5, 1, tzinfo=UTC)] * len(IDS)
    one = table.set_column(1, "datetime", pa.array(month, pa.timestamp("us", "UTC")))
    build_from_table(one, name="s2", workspace_dir=tmp_path / "whole", enrich_cog=True)
    # One record at a time, both in sorting on disk and in joining with headers.
    monkeypatch.setattr(order.RecordSorter.__init__, "__defaults__", (1, 2))
    monkeypatch.setattr(normalizing, "BATCH_ROWS", 1)
    monkeypatch.setattr(normalizing, "HANDED_BYTES", 0)
    monkeypatch.setattr(partition, "_JOINED_BYTES", 1)
    monkeypatch.setattr(store, "GROUP_ROWS", 1)
    monkeypatch.setattr(store, "_CACHE_BYTES", 0)
    build_from_table(one, name="s2", workspace_dir=tmp_path / "piecewise", enrich_cog=True)
    workspace = Workspace.at(str(tmp_path / "piecewise" / "s2_records"))
    records = open_stream(workspace, workspace.stage_file(NORMALIZED, "2024-05"))
    assert records is not None
    assert [message.rows for message in records.messages] == [1] * len(IDS)
    assert files(tmp_path / "piecewise" / "s2_records") == files(tmp_path / "whole" / "s2_records")


def spoiled(tmp_path: Path, table: pa.Table, keep: slice) -> Build:
    """Return a build whose normalized records of April differ from the records of its ledger."""
    build_from_table(table, name="s2", workspace_dir=tmp_path, enrich_cog=True)
    spec = CollectionSpec.of(path="", name="s2", workspace_dir=tmp_path, enrich_cog=True)
    workspace = Workspace.of(spec)
    path = workspace.stage_file(NORMALIZED, "2024-04")
    stream = open_stream(workspace, path)
    assert stream is not None
    records = pa.Table.from_batches(stream.batches(), stream.schema)
    rows = range(records.num_rows)[keep]
    with stream_writer(workspace, path, stream.schema) as writer:
        writer.write(records.take(list(rows)))
        writer.notes = stream.notes
    return Build(workspace=workspace, spec=spec)


@pytest.mark.parametrize("keep", [slice(1, None), slice(1)], ids=["without the first", "without the last"])
def test_a_ledger_of_other_records_is_refused(table: pa.Table, tmp_path: Path, keep: slice) -> None:
    build = spoiled(tmp_path, table, keep)
    before = files(tmp_path / "s2_records")
    message = r"not made from these records: '[bc]'.*build band_metadata again"
    with pytest.raises(CollectionError, match=message):
        run_stage(COLLECTION, build, ["2024-04"])
    assert files(tmp_path / "s2_records") == before


@pytest.mark.parametrize("stage", [NORMALIZED, BANDS])
def test_a_missing_stage_file_is_named_and_published_files_are_kept(
    table: pa.Table, tmp_path: Path, stage: str
) -> None:
    build_from_table(table, name="s2", workspace_dir=tmp_path, enrich_cog=True)
    spec = CollectionSpec.of(path="", name="s2", workspace_dir=tmp_path, enrich_cog=True)
    workspace = Workspace.of(spec)
    gone = Path(workspace.stage_file(stage, "2024-04"))
    gone.unlink()
    before = files(tmp_path / "s2_records")
    with pytest.raises(CollectionError, match=rf"{gone.name} (does not exist|is missing).*build {stage} of"):
        run_stage(COLLECTION, Build(workspace=workspace, spec=spec), ["2024-04"])
    assert files(tmp_path / "s2_records") == before
    assert len(load(tmp_path / "s2_records", verify="full")) == len(IDS)


@pytest.mark.parametrize(("stage", "needs"), [("normalized_records", "raw_records"), (BANDS, NORMALIZED)])
def test_a_stage_whose_input_does_not_exist_says_which_to_build(
    table: pa.Table, tmp_path: Path, stage: str, needs: str
) -> None:
    build_from_table(table, name="s2", workspace_dir=tmp_path, enrich_cog=True)
    spec = CollectionSpec.of(path="", name="s2", workspace_dir=tmp_path, enrich_cog=True)
    workspace = Workspace.of(spec)
    Path(workspace.stage_file(needs, "2024-04")).unlink()
    made = files(tmp_path / "s2_stages" / stage)
    with pytest.raises(CollectionError, match=rf"{needs}/2024-04.arrows does not exist, though the source has"):
        run_stage(stage, Build(workspace=workspace, spec=spec, backend=create_backend()), ["2024-04"])
    assert files(tmp_path / "s2_stages" / stage) == made


@pytest.mark.parametrize("damage", ["gone", "short", "flipped"])
def test_a_header_file_that_is_not_what_was_written_is_named(table: pa.Table, tmp_path: Path, damage: str) -> None:
    build_from_table(table, name="s2", workspace_dir=tmp_path, enrich_cog=True)
    spec = CollectionSpec.of(path="", name="s2", workspace_dir=tmp_path, enrich_cog=True)
    (path,) = (tmp_path / "s2_stages" / "headers" / "2024-04").glob("*.arrows")
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-100] if damage == "short" else content[:2000] + b"?" + content[2001:])
    before = files(tmp_path / "s2_records")
    with pytest.raises(CollectionError, match=path.name):
        run_stage(COLLECTION, Build(workspace=Workspace.of(spec), spec=spec), ["2024-04"])
    assert files(tmp_path / "s2_records") == before


def test_records_lie_along_the_curve(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    centres = shapely.points(rng.uniform(-170, 170, 200), rng.uniform(-80, 80, 200))
    many = record_table([f"{n:03}" for n in range(200)], {"B02": [None] * 200}, datetimes=[None] * 200)
    many = many.set_column(2, "geometry", pa.array(shapely.to_wkb(shapely.buffer(centres, 0.1)), pa.binary()))
    build_from_table(many, name="s2", workspace_dir=tmp_path)
    (part,) = tmp_path.rglob("part-0.parquet")
    assert "year=__HIVE_DEFAULT_PARTITION__" in str(part)
    distances = hilbert_distance(pq.read_table(part)["bbox"].combine_chunks())
    assert (np.diff(distances.astype(np.int64)) >= 0).all()


def test_the_contract_fields_come_first() -> None:
    assert CONTRACT_BAND_FIELDS[0] == "image_width"
    assert CONTRACT_BAND_FIELDS[-1] == "extra_samples"
    assert len(CONTRACT_BAND_FIELDS) == 17


def test_every_partition_has_the_same_schema(table: pa.Table, server: RangeServer, tmp_path: Path) -> None:
    assets = pa.array(
        [f'{{"B02": {{"href": "{server.url}/c.tif"}}}}', f'{{"B8A": {{"href": "{server.url}/a.tif"}}}}', "{}", None]
    )
    build_from_table(table.set_column(3, "assets", assets), name="s2", workspace_dir=tmp_path, enrich_cog=True)
    schemas = {pq.read_schema(path).remove_metadata().to_string() for path in tmp_path.rglob("part-0.parquet")}
    assert len(schemas) == 1
    assert "B8A_metadata" in schemas.pop()


def test_headers_correct_the_crs_and_conflicts_keep_the_statement(server: RangeServer) -> None:
    server.objects |= {"/32.tif": tiff_bytes(epsg=32632), "/33.tif": tiff_bytes(epsg=32633)}
    one, other = f"{server.url}/32.tif", f"{server.url}/33.tif"
    table = record_table(
        ["wrong", "both", "neither", "silent"],
        {"B02": [one, one, one, other], "B8A": [one, other, other, None]},
        **{"proj:epsg": pa.array([4326, 32633, 3857, None])},
    )
    got = build_from_table(table, enrich_cog=True).to_table()
    assert got["proj:epsg"].to_pylist() == [32632, 32633, 32632, 32633]
    assert got["crs"].to_pylist() == [f"EPSG:{code}" for code in (32632, 32633, 32632, 32633)]
    assert [row["epsg"] for row in got["B8A_metadata"].to_pylist() if row] == [32632, 32633, 32633]


def test_a_metadata_column_of_the_source_is_replaced(table: pa.Table) -> None:
    stale = table.append_column("B02_metadata", pa.array(["old"] * 4)).append_column(
        "other_metadata", pa.array([1] * 4)
    )
    collection = build_from_table(stale, enrich_cog=True)
    got = collection.to_table()
    assert got.schema.names.count("B02_metadata") == 1
    assert pa.types.is_struct(got.schema.field("B02_metadata").type)
    assert collection.bands == ["B02"]
    assert got["other_metadata"].to_pylist() == [1] * 4


def test_a_column_may_be_called_like_a_field(table: pa.Table, tmp_path: Path) -> None:
    named = table.append_column("bbox.xmin", pa.array([1.0, 2.0, 3.0, 4.0]))
    build_from_table(named, name="s2", workspace_dir=tmp_path / "w")
    rows = load(tmp_path / "w" / "s2_records").to_table(["id", "bbox.xmin", "bbox"]).sort_by("id")
    assert rows["bbox.xmin"].to_pylist() == [2.0, 4.0, 1.0, 3.0]


def test_a_reader_of_plain_parquet_sees_every_record(table: pa.Table, tmp_path: Path) -> None:
    build_from_table(table, name="s2", workspace_dir=tmp_path, enrich_cog=True)
    rows = ds.dataset(tmp_path / "s2_records", partitioning="hive").to_table()
    assert sorted(rows["id"].to_pylist()) == sorted(IDS)
    assert set(rows["month"].to_pylist()) == {4, 5, 6}
    assert len(load(tmp_path / "s2_records")) == 4


def test_tile_tables_are_packed_differences_those_of_overviews_too(server: RangeServer, tmp_path: Path) -> None:
    image = tiff_bytes(width=600, height=400, driver="COG", blocksize=128, overview_count=2)
    server.objects["/a.tif"] = image
    records = record_table(["a"], {"B02": [f"{server.url}/a.tif"]}, outline=footprint(image))
    build_from_table(records, name="s2", workspace_dir=tmp_path, enrich_cog=True)
    (path,) = (tmp_path / "s2_records").rglob("*.parquet")
    group = pq.ParquetFile(path).metadata.row_group(0)
    columns = [group.column(position) for position in range(group.num_columns)]
    tables = [
        column for column in columns if {"tile_offsets", "tile_byte_counts"} & {*column.path_in_schema.split(".")}
    ]
    assert len(tables) == 4
    assert all("DELTA_BINARY_PACKED" in column.encodings for column in tables)
    assert not any(column.is_stats_set for column in tables)


def test_a_band_that_appears_later_is_added_to_all_partitions(server: RangeServer, tmp_path: Path) -> None:
    server.objects["/a.tif"] = tiff_bytes()
    href, source = f"{server.url}/a.tif", tmp_path / "records.parquet"
    spec = CollectionSpec.of(path=source, name="s2", workspace_dir=tmp_path, enrich_cog=True)
    pq.write_table(record_table(["a", "b"], {"B02": [href, href]}), source)
    build(spec)
    first = files(tmp_path / "s2_records")
    pq.write_table(record_table(["a", "b", "c"], {"B02": [href] * 3, "B8A": [None, None, href]}), source)
    build(spec)
    second = files(tmp_path / "s2_records")
    assert all(second[name] != content for name, content in first.items())
    schemas = [pq.read_schema(path).remove_metadata() for path in (tmp_path / "s2_records").rglob("*.parquet")]
    assert len(schemas) == 3
    assert all(schema.equals(schemas[0]) for schema in schemas)
    assert "B8A_metadata" in schemas[0].names
