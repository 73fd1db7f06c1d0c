"""``build_from_table`` as a user calls it: where it publishes, what it reuses, what it says when it cannot."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rasteret_assets import build, build_from_table, load, plan
from rasteret_assets.errors import (
    BandNotFoundError,
    CollectionError,
    EnrichmentError,
    InvalidRecordError,
    RasteretAssetsError,
    RecordError,
    SourceError,
    SpecError,
)
from rasteret_assets.pipeline import _publish_stage
from rasteret_assets.storage.workspace import Workspace
from tests.support.interrupts import interruptible
from tests.support.rasters import record_table, tiff_bytes
from tests.support.server import RangeServer

IDS = ["a", "b", "c", "d"]


@pytest.fixture
def table(server: RangeServer) -> pa.Table:
    for name in IDS:
        server.objects[f"/{name}.tif"] = tiff_bytes(seed=ord(name))
    return record_table(IDS, {"B02": [f"{server.url}/{name}.tif" for name in IDS]})


def test_without_a_name_the_collection_stays_in_memory_and_in_order(
    table: pa.Table, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    collection = build_from_table(table, enrich_cog=True)
    assert collection.to_table()["id"].to_pylist() == IDS
    assert collection.bands == ["B02"]
    assert [path for path in tmp_path.rglob("*") if path.name != "objects"] == []


def test_a_name_publishes_in_the_default_workspace(table: pa.Table, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    build_from_table(table, name="s2")
    assert len(load(tmp_path / "rasteret_workspace" / "s2_records")) == 4


def test_what_is_published_is_returned_until_forced(table: pa.Table, server: RangeServer, tmp_path: Path) -> None:
    arguments = {"name": "s2", "workspace_dir": tmp_path, "enrich_cog": True}
    build_from_table(table, **arguments)
    assert len(server.requests) == 4
    assert len(build_from_table(table.slice(1), **arguments)) == 4
    assert len(server.requests) == 4
    fewer = build_from_table(table.slice(1), **arguments, force=True)
    assert sorted(fewer.to_table()["id"].to_pylist()) == ["b", "c", "d"]
    assert len(server.requests) == 7


def test_open_ends_beyond_the_calendar_publish(table: pa.Table, tmp_path: Path) -> None:
    nobody_knows = pa.array([0, 2**62, None, -(2**62)], pa.timestamp("us"))
    open_ended = table.append_column("start_datetime", nobody_knows).append_column("end_datetime", nobody_knows)
    open_ended = open_ended.set_column(1, "datetime", pa.nulls(4, pa.timestamp("us", "UTC")))
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    for where in ({}, {"name": "s2", "workspace_dir": tmp_path}):
        collection = build_from_table(open_ended, **where)
        assert (len(collection), collection.date_range) == (4, (epoch, epoch))


def test_a_month_that_vanished_is_unpublished(table: pa.Table, tmp_path: Path) -> None:
    build_from_table(table, name="s2", workspace_dir=tmp_path)
    left = build_from_table(table.slice(0, 1), name="s2", workspace_dir=tmp_path, force=True)
    assert left.to_table()["id"].to_pylist() == ["a"]
    assert [str(path.relative_to(tmp_path)) for path in (tmp_path / "s2_records").rglob("*.parquet")] == [
        "s2_records/year=2024/month=4/part-0.parquet"
    ]
    assert [path.name for path in (tmp_path / "s2_stages" / "collection").iterdir()] == ["2024-04.json"]


def test_a_missing_file_costs_its_band_and_not_the_record(table: pa.Table, server: RangeServer, tmp_path: Path) -> None:
    del server.objects["/b.tif"]
    got = build_from_table(table, name="s2", workspace_dir=tmp_path, enrich_cog=True).to_table()
    headers = dict(zip(got["id"].to_pylist(), got["B02_metadata"].to_pylist(), strict=True))
    assert headers["b"] is None
    assert headers["a"]["image_width"] == 100
    ledgers = [pq.read_table(path) for path in (tmp_path / "s2_stages" / "band_metadata").iterdir()]
    (failed,) = [row for ledger in ledgers for row in ledger.to_pylist() if row["status"] == "failed"]
    assert (failed["id"], failed["error_class"]) == ("b", "not_found")
    assert "HTTP 404" in failed["error"]


def test_nothing_is_published_when_no_header_could_be_read(tmp_path: Path) -> None:
    table = record_table(["a"], {"B02": ["http://127.0.0.1:9/a.tif"]})
    with pytest.raises(EnrichmentError, match="not one of 1 headers"):
        build_from_table(table, name="s2", workspace_dir=tmp_path, enrich_cog=True)
    assert not (tmp_path / "s2_records").exists()


def test_rewrites_filter_and_projection_together(table: pa.Table, server: RangeServer) -> None:
    moved = record_table(IDS, {"B02": [f"s3://old/{name}.tif" for name in IDS]}, cloud=pa.array([1, 2, 3, 4]))
    got = build_from_table(
        moved, enrich_cog=True, url_rewrite_patterns={"s3://old/": f"{server.url}/"}, filter_expr=[["cloud", ">", 2]],
        columns=["id", "datetime", "geometry", "assets"],
        cloud_config={"provider": "aws", "url_patterns": {"s3://": "https://wrong/"}},
    ).to_table()  # fmt: skip
    assert got["id"].to_pylist() == ["c", "d"]
    assert "cloud" not in got.schema.names
    assert got["assets"][0].as_py()["B02"]["href"] == f"{server.url}/c.tif"
    assert got["B02_metadata"].null_count == 0


def test_an_empty_table_is_a_collection_with_all_columns(table: pa.Table, tmp_path: Path) -> None:
    arguments = {"enrich_cog": True, "band_codes": ["B02"]}
    for empty in (
        build_from_table(table.slice(0, 0), **arguments),
        build_from_table(table.slice(0, 0), name="s2", workspace_dir=tmp_path, **arguments),
    ):
        assert len(empty) == 0
        assert {"id", "bbox", "proj:epsg", "B02_metadata", "year"} <= set(empty.to_table().schema.names)


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"href_column": "url"}, SpecError, "needs band_index_map"),
        (
            {"enrich_cog": True, "band_codes": ["B99"]},
            BandNotFoundError,
            r"asks for \['B99'\]; its assets are \['B02'\]",
        ),
        ({"max_concurrent": -1}, SpecError, "max_concurrent=-1"),
        ({"filesystem": 3, "path": "x"}, SpecError, "filesystem=int is neither"),
    ],
)
def test_bad_arguments_are_one_sentence(
    table: pa.Table, arguments: dict, error: type[Exception], sentence: str
) -> None:
    path = arguments.pop("path", table)
    with pytest.raises(error, match=sentence):
        build_from_table(path, **arguments)


def test_broken_rows_stop_a_build_before_anything_is_published(table: pa.Table, tmp_path: Path) -> None:
    broken = table.set_column(0, "id", pa.array(["a", None, "c", "d"]))
    with pytest.raises(InvalidRecordError, match="1 of 1 records break the record contract: None"):
        build_from_table(broken, name="s2", workspace_dir=tmp_path)
    assert not (tmp_path / "s2_records").exists()
    rejected = pq.read_table(tmp_path / "s2_stages" / "rejected_records" / "2024-05.parquet")
    assert rejected["reject_class"].to_pylist() == ["missing_id"]


def test_a_killed_build_goes_on_where_it_was(server: RangeServer, tmp_path: Path) -> None:
    names = [f"{number:02}" for number in range(20)]
    server.objects |= {f"/{name}.tif": tiff_bytes(seed=int(name)) for name in names}
    month = [datetime(2024, 5, 1, tzinfo=UTC)] * 20
    source = tmp_path / "t.parquet"
    hrefs = [f"{server.url}/{name}.tif" for name in names]
    pq.write_table(record_table(names, {"B02": hrefs}, datetimes=month), source)
    server.fault = lambda path, before: "held" if path == "/15.tif" else None
    code = (
        "import sys; from rasteret_assets.headers import fetch, rows; fetch.BATCH_HEADERS = rows.SAVED_ROWS = 5; "
        "from rasteret_assets import build_from_table; "
        "build_from_table(sys.argv[1], name='s2', workspace_dir=sys.argv[2], enrich_cog=True, max_concurrent=1)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(source), str(tmp_path / "killed")])
    store = tmp_path / "killed" / "s2_stages" / "headers"
    while "/15.tif" not in server.paths or len(list(store.rglob("*.arrows"))) < 3:
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    server.fault = lambda path, before: None
    server.reset()
    for folder in ("killed", "whole"):
        build_from_table(source, name="s2", workspace_dir=tmp_path / folder, enrich_cog=True)
        assert len(server.requests) == {"killed": 5, "whole": 20}[folder]
        server.reset()
    published = "s2_records/year=2024/month=5/part-0.parquet"
    assert (tmp_path / "killed" / published).read_bytes() == (tmp_path / "whole" / published).read_bytes()


@pytest.fixture
def months(server: RangeServer, tmp_path: Path) -> Path:
    """A table of six months with a file each."""
    names = [f"{month}" for month in range(1, 7)]
    server.objects |= {f"/{name}.tif": tiff_bytes(seed=int(name)) for name in names}
    times = [datetime(2024, int(name), 1, tzinfo=UTC) for name in names]
    hrefs: list[str | None] = [f"{server.url}/{name}.tif" for name in names]
    pq.write_table(record_table(names, {"B02": hrefs}, datetimes=times), tmp_path / "months.parquet")
    return tmp_path / "months.parquet"


@pytest.mark.parametrize("most", [1, 3, 300])
def test_small_partitions_are_fetched_side_by_side(
    server: RangeServer, months: Path, tmp_path: Path, most: int
) -> None:
    in_flight: list[str] = []
    peak = 0

    def wait(path: str, before: int) -> None:
        nonlocal peak
        in_flight.append(path)
        peak = max(peak, len(in_flight))
        time.sleep(0.2)
        in_flight.remove(path)

    server.fault = wait
    build_from_table(months, name="s2", workspace_dir=tmp_path, enrich_cog=True, max_concurrent=most)
    assert len(server.requests) == 6
    assert peak == min(most, 4)  # partitions at once, where there may be as many requests
    # Connections serve one partition after the other.
    assert len(server.clients) <= peak


def test_an_interrupt_ends_all_that_is_fetched_side_by_side(server: RangeServer, months: Path, tmp_path: Path) -> None:
    slow = {"/2.tif", "/3.tif", "/5.tif"}
    server.fault = lambda path, before: "held" if path in slow else None
    code = (
        "import sys; from rasteret_assets import build_from_table; "
        "build_from_table(sys.argv[1], name='s2', workspace_dir=sys.argv[2], enrich_cog=True)"
    )
    command = interruptible([sys.executable, "-c", code, str(months), str(tmp_path)])
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    ledgers = tmp_path / "s2_stages" / "band_metadata"
    while not (slow <= set(server.paths) and len(list(ledgers.glob("*.parquet"))) == 3):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=300)
    assert b"KeyboardInterrupt" in said
    server.fault = lambda path, before: None
    server.reset()
    assert len(build_from_table(months, name="s2", workspace_dir=tmp_path, enrich_cog=True)) == 6
    assert set(server.paths) == slow


def test_a_collection_of_which_half_was_published_is_completed(table: pa.Table, tmp_path: Path, monkeypatch) -> None:
    months = pa.array([datetime(2024, month, 1, tzinfo=UTC) for month in (1, 2, 3, 4)], pa.timestamp("us", tz="UTC"))
    table = table.set_column(table.schema.get_field_index("datetime"), "datetime", months)

    def dies(workspace: Workspace, key: str, *facts: Any) -> object:
        if key == "2024-03":
            raise KeyboardInterrupt
        return commit(workspace, key, *facts)

    commit = _publish_stage.commit
    with monkeypatch.context() as interrupted:
        interrupted.setattr(_publish_stage, "commit", dies)
        interrupted.setattr(os, "cpu_count", lambda: 1)
        with pytest.raises(KeyboardInterrupt):
            build_from_table(table, name="s2", workspace_dir=tmp_path)
    assert len(load(tmp_path / "s2_records")) < 4
    assert len(build_from_table(table, name="s2", workspace_dir=tmp_path)) == 4
    (tmp_path / "s2_records" / "year=2024" / "month=2" / "part-0.parquet").unlink()
    assert len(build_from_table(table, name="s2", workspace_dir=tmp_path)) == 4


def test_a_killed_build_leaves_a_collection_that_opens(table: pa.Table, server: RangeServer, tmp_path: Path) -> None:
    source = tmp_path / "t.parquet"
    pq.write_table(table, source)
    build_from_table(source, name="s2", workspace_dir=tmp_path, enrich_cog=True)
    server.fault = lambda path, before: "held" if path == "/d.tif" else None
    code = (
        "import sys; from rasteret_assets import build_from_table; "
        "build_from_table(sys.argv[1], name='s2', workspace_dir=sys.argv[2], enrich_cog=True, force=True)"
    )
    server.reset()
    process = subprocess.Popen([sys.executable, "-c", code, str(source), str(tmp_path)])
    while "/d.tif" not in server.paths:
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    collection = load(tmp_path / "s2_records")
    assert sorted(collection.to_table()["id"].to_pylist()) == IDS
    assert collection.to_table()["B02_metadata"].null_count == 0


@pytest.mark.parametrize("folder", ["x_stac", "x_records"])
def test_a_folder_of_one_collection_is_not_given_to_another(table: pa.Table, tmp_path: Path, folder: str) -> None:
    arguments = {"workspace_dir": tmp_path / folder, "enrich_cog": True}
    build_from_table(table, name="first", **arguments)
    for force in (False, True):
        with pytest.raises(CollectionError, match=r"holds the collection 'first', not 'second'"):
            build_from_table(table.slice(0, 1), name="second", **arguments, force=force)
    assert len(build_from_table(table, name="first", **arguments)) == 4


def test_tables_that_cannot_be_read_in_memory_are_refused(table: pa.Table, server: RangeServer, caplog) -> None:
    server.fault = lambda path, before: "404" if path == "/b.tif" else None
    build_from_table(table, enrich_cog=True)
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "1 of 4 headers could not be read (1 not_found); the first (record 'b', band 'B02'): "
    )


@pytest.mark.parametrize("where", [{}, {"name": "s2"}])
def test_headers_of_no_file_are_reported(table: pa.Table, tmp_path: Path, caplog, where: dict[str, str]) -> None:
    nothing = table.set_column(table.schema.get_field_index("assets"), "url", pa.nulls(4, pa.string()))
    if where:
        where |= {"workspace_dir": str(tmp_path)}
    built = build_from_table(nothing, href_column="url", band_index_map={"B02": 0}, enrich_cog=True, **where)
    assert len(built) == 4
    assert "none of 4 records has the address of a raster file" in caplog.text


def test_numbers_of_rows_that_pandas_adds_are_no_column(table: pa.Table, tmp_path: Path) -> None:
    twice = pa.concat_tables([table, table.slice(3)]).append_column("__index_level_0__", pa.array(range(5)))
    pq.write_table(twice, tmp_path / "t.parquet")
    for source in (twice, tmp_path / "t.parquet"):
        built = build_from_table(source)
        assert built.to_table()["id"].to_pylist() == IDS  # the fifth row repeats the fourth
        assert "__index_level_0__" not in built.schema.names
    kept = build_from_table(table.append_column("__index_level_0__", pa.array(range(4))),
                            columns=[*table.schema.names, "__index_level_0__"])  # fmt: skip
    assert "__index_level_0__" in kept.schema.names


def test_arguments_that_are_not_a_table_a_backend_or_a_spec_are_refused(table: pa.Table, tmp_path: Path) -> None:
    geopandas = pytest.importorskip("geopandas")
    pandas = pytest.importorskip("pandas")
    shapes = pandas.DataFrame({"id": ["a"], "geometry": geopandas.points_from_xy([1], [2])})
    with pytest.raises(SourceError, match=r"the DataFrame is not an Arrow table .* make footprints a GeoDataFrame's"):
        build_from_table(shapes)
    (tmp_path / "t.csv").write_text("id\na\n")
    with pytest.raises(SourceError, match="read it with pandas, and give the table"):
        build_from_table(tmp_path / "t.csv")
    with pytest.raises(SpecError, match=r"backend= is a str, which has no get_range"):
        build_from_table(table, backend="s3")
    for call in (build, plan):
        with pytest.raises(SpecError, match=r"'t.parquet' is not a CollectionSpec"):
            call("t.parquet")
    items = pa.table({"id": ["a"], "properties": [{"datetime": "2024-01-01"}]})
    with pytest.raises(RecordError, match="look like STAC items with their properties in a struct"):
        build_from_table(items)


def test_a_workspace_in_the_place_of_a_file_is_said(table: pa.Table, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RasteretAssetsError, match="one of the folders in its path is a file"):
        build_from_table(table, name="s2", workspace_dir=tmp_path / "file")
