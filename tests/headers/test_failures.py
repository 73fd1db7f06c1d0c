"""The failures in the ledgers of real builds, read as one table."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rasteret_assets import build_from_table
from rasteret_assets.error_classes import ErrorClass
from rasteret_assets.errors import CollectionError
from rasteret_assets.headers.failures import (
    FAILURES_SCHEMA,
    LOCAL_FILES,
    SUMMARY_SCHEMA,
    Failures,
    read_failures,
    remedy,
)
from rasteret_assets.headers.ledger import read_ledger
from rasteret_assets.storage.workspace import Workspace
from tests.support.rasters import record_table, tiff_bytes
from tests.support.server import RangeServer, ServedBuild

IDS = ["good", "gone", "gone2", "private", "page", "strips", "blank", "local"]
SAS = "sv=2023&sig=verysecret"
LOCAL = "/no/such/what?is#this@.tif"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> ServedBuild:
    """A build over three months in which seven of eight headers are missing, for six reasons."""
    root = tmp_path_factory.mktemp("built")
    server = RangeServer()
    server.objects |= {f"/{name}.tif": tiff_bytes() for name in ("good", "private", "page")}
    server.objects["/strips.tif"] = tiff_bytes(tiled=False, blockxsize=100, blockysize=1)
    faults = {"/private.tif": "403", "/page.tif": "html"}
    server.fault = lambda path, before: faults.get(path.partition("?")[0])
    hrefs: list[str | None] = [f"{server.url}/{name}.tif?{SAS}&scene=1" for name in IDS]
    hrefs[IDS.index("blank")] = None
    hrefs[IDS.index("local")] = LOCAL
    with server.running():
        table = record_table(IDS, {"B02": hrefs})
        build_from_table(table, name="s2", workspace_dir=root, enrich_cog=True, band_codes=["B02"])
    return ServedBuild(root, server.url)


@pytest.fixture
def workspace(built: ServedBuild, tmp_path: Path) -> Workspace:
    """A copy of the workspace, which a test may damage."""
    shutil.copytree(built.root, tmp_path / "copy")
    return Workspace.at(str(tmp_path / "copy" / "s2_records"))


def test_every_missing_header_is_a_row_with_its_reason_and_partition(workspace: Workspace, built: ServedBuild) -> None:
    found = read_failures(workspace)
    assert found.headers == 8
    assert found.table.schema == FAILURES_SCHEMA
    rows = {row["id"]: row for row in found.table.to_pylist()}
    assert {name: (row["partition"], row["error_class"], row["host"]) for name, row in rows.items()} == {
        "gone": ("2024-05", "not_found", built.host),
        "gone2": ("2024-06", "not_found", built.host),
        "private": ("2024-04", "forbidden", built.host),
        "page": ("2024-05", "not_tiff", built.host),
        "strips": ("2024-06", "not_tiled", built.host),
        "blank": ("2024-04", "no_href", None),
        "local": ("2024-05", "not_found", LOCAL_FILES),
    }
    assert rows["gone"]["href"] == f"{built.url}/gone.tif"
    assert rows["local"]["href"] == LOCAL
    assert (rows["strips"]["status"], rows["strips"]["attempts"]) == ("unsupported", 1)
    assert [row["partition"] for row in found.table.to_pylist()] == sorted(row["partition"] for row in rows.values())


def test_the_summary_counts_by_class_and_host(workspace: Workspace, built: ServedBuild) -> None:
    summary = read_failures(workspace).summary()
    assert summary.schema == SUMMARY_SCHEMA
    assert summary["count"].to_pylist() == [2, 1, 1, 1, 1, 1]
    first, *others = summary.to_pylist()
    assert (first["error_class"], first["share"], first["retried"]) == ("not_found", 0.25, 2)
    assert first["example_href"] == f"{built.url}/gone.tif"
    assert "HTTP 404" in first["example_error"]
    assert {row["error_class"]: row["retried"] for row in others} == {
        "forbidden": 1, "no_href": 0, "not_found": 1, "not_tiff": 0, "not_tiled": 0,
    }  # fmt: skip
    assert all(row["remedy"] == ErrorClass(row["error_class"]).remedy for row in others)


def test_class_and_host_select(workspace: Workspace, built: ServedBuild) -> None:
    found = read_failures(workspace)

    def ids(failures: Failures) -> list[str]:
        return sorted(failures.table["id"].to_pylist())

    assert ids(found.select(error_class="not_found")) == ["gone", "gone2", "local"]
    assert ids(found.select(error_class="not_found", host=built.host.upper())) == ["gone", "gone2"]
    assert ids(found.select(host=LOCAL_FILES)) == ["local"]
    assert ids(found.select(error_class="throttled")) == []
    assert found.select(host=LOCAL_FILES).summary()["share"].to_pylist() == [1 / 8]
    assert found.select(host="elsewhere").summary().num_rows == 0


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        ("https://h/a.tif?sig=secret: HTTP 404", "https://h/a.tif: HTTP 404"),
        ("moved to 'https://h/a.tif#secret' (https://h/b?x=secret)", "moved to 'https://h/a.tif' (https://h/b)"),
        ("https://me:secret@h:8/a.tif and s3://b/k?versionId=secret", "https://h:8/a.tif and s3://b/k"),
        ("why? no address here", "why? no address here"),
    ],
)
def test_no_secret_of_an_address_comes_out(workspace: Workspace, error: str, shown: str) -> None:
    """This version stores neither, but a ledger may be of another version."""
    path = workspace.stage_file("band_metadata", "2024-05")
    ledger = pq.read_table(path)
    columns = {"error": [error] * ledger.num_rows, "href": ["https://me:secret@h:8/a.tif?secret"] * ledger.num_rows}
    for name, values in columns.items():
        ledger = ledger.set_column(ledger.schema.get_field_index(name), name, pa.array(values, pa.string()))
    pq.write_table(ledger, path)
    rows = [row for row in read_failures(workspace).table.to_pylist() if row["partition"] == "2024-05"]
    assert {(row["error"], row["href"], row["host"]) for row in rows} == {(shown, "https://h:8/a.tif", "h:8")}


def test_a_list_of_failures_reads_no_headers(workspace: Workspace) -> None:
    """Failures are listed although every header file is damaged."""
    files = list(Path(workspace.stages, "headers").rglob("*.arrows"))
    assert files
    for path in files:
        path.write_bytes(b"\xff" * path.stat().st_size)
    with pytest.raises(CollectionError, match="damaged"):
        list(read_ledger(workspace, "2024-04"))
    assert read_failures(workspace).table.num_rows == 7


def test_other_files_beside_the_ledgers_are_ignored(workspace: Workspace) -> None:
    folder = Path(workspace.stages) / "band_metadata"
    (folder / "2024-04.json").write_text("{}")
    (folder / "2024-04.checkpoint-1.parquet").write_bytes(b"half")
    assert read_failures(workspace).headers == 8


def test_a_build_without_failures_has_an_empty_table(server: RangeServer, tmp_path: Path) -> None:
    server.objects["/a.tif"] = tiff_bytes()
    table = record_table(["a"], {"B02": [f"{server.url}/a.tif"]})
    build_from_table(table, name="s2", workspace_dir=tmp_path, enrich_cog=True)
    found = read_failures(Workspace.at(str(tmp_path / "s2_records")))
    assert (found.headers, found.table.num_rows, found.summary().num_rows) == (1, 0, 0)
    assert found.summary().schema == SUMMARY_SCHEMA


def test_a_workspace_without_ledgers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CollectionError, match=r"no ledgers of headers in .*s2_stages/band_metadata: name the folder"):
        read_failures(Workspace.at(str(tmp_path / "s2_records")))


def test_a_damaged_ledger_is_named(workspace: Workspace) -> None:
    Path(workspace.stage_file("band_metadata", "2024-05")).write_bytes(b"PAR1")
    with pytest.raises(CollectionError, match=r"2024-05\.parquet.*delete it and build its partition with force"):
        read_failures(workspace)


def test_a_class_of_a_later_version_has_a_remedy_too() -> None:
    assert "the error says" in remedy("anything a later version files")


def test_a_header_in_another_crs_than_its_record_is_valid_and_listed(tmp_path: Path, server: RangeServer) -> None:
    server.objects |= {"/right.tif": tiff_bytes(epsg=32632), "/wrong.tif": tiff_bytes(epsg=32633)}
    hrefs = [f"{server.url}/right.tif", f"{server.url}/wrong.tif", f"{server.url}/lost.tif"]
    table = record_table(["right", "wrong", "lost"], {"B02": hrefs}, **{"proj:epsg": pa.array([32632] * 3, pa.int32())})
    built = build_from_table(table, name="s2", workspace_dir=tmp_path, enrich_cog=True)
    rows = {row["id"]: row for row in built.to_table(["id", "proj:epsg", "B02_metadata"]).to_pylist()}
    assert (rows["wrong"]["proj:epsg"], rows["wrong"]["B02_metadata"]["epsg"]) == (32633, 32633)
    found = read_failures(Workspace.at(str(tmp_path / "s2_records")))
    assert dict(zip(found.table["id"].to_pylist(), found.table["error_class"].to_pylist(), strict=True)) == {
        "wrong": "crs_conflict", "lost": "not_found"
    }  # fmt: skip
    assert "the record says EPSG:32632, its file is in EPSG:32633" in found.table["error"].to_pylist()
    assert (found.missing, found.headers) == (1, 3)
