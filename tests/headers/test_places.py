"""A stranger's table cannot make the machine open local files, ask internal services, or show their content."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import rasteret_assets as ra
from rasteret_assets import CollectionSpec
from rasteret_assets.cli import main
from rasteret_assets.errors import EnrichmentError
from rasteret_assets.storage.addresses.link_local import is_link_local
from tests.support.rasters import record_table, tiff_bytes
from tests.support.s3 import bucket_server, filesystem_of
from tests.support.server import RangeServer

TIFF = tiff_bytes()
LIMIT_S = 300


@pytest.fixture(scope="module")
def s3() -> Iterator[tuple[str, pafs.S3FileSystem]]:
    with bucket_server("tables") as endpoint:
        yield endpoint, filesystem_of(endpoint)


@pytest.fixture
def names(tmp_path: Path, server: RangeServer) -> dict[str, str]:
    """Addresses of a raster behind HTTP and of local files: a raster, a text, and none."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "here.tif").write_bytes(TIFF)
    (tmp_path / "diary.tif").write_text("Dear diary")
    server.objects["/there.tif"] = TIFF
    return {
        "web": f"{server.url}/there.tif", "path": f"{tmp_path}/data/here.tif", "url": f"file://{tmp_path}/data/here.tif",
        "text": f"{tmp_path}/diary.tif", "none": f"{tmp_path}/none.tif", "home": "~/.profile", "nobody": "~nobody-x/a",
    }  # fmt: skip


def table_of(names: dict[str, str]) -> pa.Table:
    return record_table(list(names), {"B": list(names.values())})


def spec_of(path: str, tmp_path: Path, **options: Any) -> CollectionSpec:
    return CollectionSpec.of(path=path, name="t", workspace_dir=str(tmp_path / "w"), enrich_cog=True, **options)


def ledger(tmp_path: Path) -> dict[str, tuple[str, str | None, str | None]]:
    rows = ds.dataset(tmp_path / "w" / "t_stages" / "band_metadata").to_table()
    columns = ("id", "status", "error_class", "error")
    return {one[0]: one[1:] for one in zip(*(rows[name].to_pylist() for name in columns), strict=True)}


def test_a_remote_table_opens_no_local_file(
    s3: tuple[str, pafs.S3FileSystem], names: dict[str, str], tmp_path: Path
) -> None:
    pq.write_table(table_of(names), "tables/t.parquet", filesystem=s3[1])
    ra.build(spec_of("tables/t.parquet", tmp_path), filesystem=s3[1])
    found = ledger(tmp_path)
    assert found.pop("web")[0] == "ok"
    # The same whether there is such a file or not, whatever is in it.
    ((status, error_class, error),) = set(found.values())
    assert (status, error_class) == ("failed", "local_file_refused")
    assert "local_files: allow" in str(error)
    assert ra.plan(spec_of("tables/t.parquet", tmp_path), filesystem=s3[1]).partitions == {}


def test_the_spec_lets_a_remote_table_open_local_files_and_forbids_it_again(
    s3: tuple[str, pafs.S3FileSystem], names: dict[str, str], tmp_path: Path
) -> None:
    pq.write_table(table_of(names), "tables/a.parquet", filesystem=s3[1])
    refusing, allowing = (spec_of("tables/a.parquet", tmp_path, local_files=word) for word in ("refuse", "allow"))
    ra.build(allowing, filesystem=s3[1])
    assert {name for name, row in ledger(tmp_path).items() if row[0] == "ok"} == {"web", "path", "url"}
    assert ra.plan(refusing, filesystem=s3[1]).partitions
    ra.build(refusing, filesystem=s3[1])
    # Also headers that are known by now.
    assert {name for name, row in ledger(tmp_path).items() if row[0] == "ok"} == {"web"}


def test_rewrites_lead_to_local_files_and_not_out_of_their_folder(
    s3: tuple[str, pafs.S3FileSystem], names: dict[str, str], tmp_path: Path
) -> None:
    given = {
        "web": names["web"], "below": "cat://here.tif", "up": "cat://../diary.tif", "coded": "cat://%2e%2e/none.tif",
        "beside": names["none"],
    }  # fmt: skip
    pq.write_table(table_of(given), "tables/r.parquet", filesystem=s3[1])
    rewrites = {"cat://": f"file://{tmp_path}/data/"}
    ra.build(spec_of("tables/r.parquet", tmp_path, url_rewrite_patterns=rewrites), filesystem=s3[1])
    found = {name: row[1] for name, row in ledger(tmp_path).items()}
    refused = dict.fromkeys(("up", "coded", "beside"), "local_file_refused")
    assert found == {"web": None, "below": None, **refused}


def test_a_dataset_of_remote_files_is_a_remote_table(
    s3: tuple[str, pafs.S3FileSystem], names: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    pq.write_table(table_of(names), "tables/d/1.parquet", filesystem=s3[1])
    dataset = ds.dataset("tables/d/", filesystem=s3[1])
    built = ra.build_from_table(dataset, enrich_cog=True)
    assert built.to_table()["B_metadata"].null_count == len(names) - 1
    assert "6 local_file_refused" in caplog.text
    with pytest.raises(EnrichmentError, match="write local_files: allow in its spec"):
        ra.build_from_table(dataset, filter_expr=[["id", "=", "path"]], enrich_cog=True)


def test_a_local_table_names_local_files_and_quotes_none(names: dict[str, str], tmp_path: Path) -> None:
    pq.write_table(table_of(names), tmp_path / "t.parquet")
    ra.build(spec_of(str(tmp_path / "t.parquet"), tmp_path))
    found = ledger(tmp_path)
    assert {name for name, row in found.items() if row[0] == "ok"} == {"web", "path", "url"}
    assert found["text"][1:] == (
        "not_tiff", "not a TIFF: the file does not begin as one, with II or MM and 42 or 43",
    )  # fmt: skip
    assert found["nobody"][1] == "read_failed"


def test_pages_behind_http_are_quoted(server: RangeServer, tmp_path: Path) -> None:
    server.objects |= {"/a": TIFF, "/b": b"<!DOCTYPE html>"}
    pq.write_table(table_of({name: f"{server.url}/{name}" for name in "ab"}), tmp_path / "t.parquet")
    ra.build(spec_of(str(tmp_path / "t.parquet"), tmp_path, band_codes=["B"]))
    assert "b'<!DO' (an HTML" in str(ledger(tmp_path)["b"][2])


def test_a_file_that_is_not_regular_is_refused_by_name(names: dict[str, str], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.tif")
    (tmp_path / "folder.tif").mkdir()
    (tmp_path / "link.tif").symlink_to(tmp_path / "pipe.tif")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket.tif"))
        odd = {name: str(tmp_path / f"{name}.tif") for name in ("pipe", "folder", "socket", "link")}
        pq.write_table(table_of({"web": names["web"], "device": "/dev/zero", **odd}), tmp_path / "t.parquet")
        with ThreadPoolExecutor(1) as thread:
            spec = spec_of(str(tmp_path / "t.parquet"), tmp_path, band_codes=["B"])
            thread.submit(ra.build, spec).result(LIMIT_S)
    found = {name: row[2] or "" for name, row in ledger(tmp_path).items()}
    assert found.pop("web") == ""
    words = {"pipe": "a named pipe", "folder": "a folder", "socket": "a socket", "link": "a named pipe"}
    for name, error in found.items():
        assert f"is {words.get(name, 'a device')}, not a regular file" in error


LINK_LOCAL = [
    "169.254.169.254", "169.254.0.1:8080", "0xa9fea9fe", "2852039166", "169.254.43518", "0251.0376.0251.0376",
    "[fe80::1]", "[fe80::1%25eth0]:80", "[fd00:ec2::254]", "[::ffff:169.254.169.254]", "[64:ff9b::a9fe:a9fe]",
    "metadata.google.internal", "METADATA.google.internal.", "metadata.google.internal:80", "100.100.100.200",
    "%31%36%39.254.169.254",
]  # fmt: skip


@pytest.mark.parametrize("host", LINK_LOCAL)
def test_link_local_hosts_in_all_their_spellings(host: str) -> None:
    assert is_link_local(host)


@pytest.mark.parametrize(
    "host", ["127.0.0.1:80", "10.0.0.1", "[::1]", "example.com", "169.253.1.1", "", "metadata.example.com", "[fd00::1]"]
)
def test_other_hosts_are_not_link_local(host: str) -> None:
    assert not is_link_local(host)


def test_link_local_addresses_are_failures_that_nobody_asked(
    server: RangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.objects["/a"] = TIFF
    # A proxy of the user's is all that this machine's network sees of such addresses here.
    for name in ("http_proxy", "no_proxy"):
        monkeypatch.setenv(name, server.url if name == "http_proxy" else "127.0.0.1")
    given = {"web": f"{server.url}/a", "meta": "http://169.254.169.254/latest/", "name": "http://u:p@metadata.goog/x?y"}
    pq.write_table(table_of(given), tmp_path / "t.parquet")
    path = str(tmp_path / "t.parquet")
    ra.build(spec_of(path, tmp_path, band_codes=["B"]))
    found = ledger(tmp_path)
    assert {name: row[1] for name, row in found.items()} == {
        "web": None, "meta": "link_local_refused", "name": "link_local_refused",
    }  # fmt: skip
    assert "link_local: allow" in str(found["meta"][2])
    assert len(server.requests) == 1
    ra.build(spec_of(path, tmp_path, band_codes=["B"], link_local="allow"))
    assert "link_local_refused" not in {row[1] for row in ledger(tmp_path).values()}
    assert any("169.254.169.254" in path for path in server.paths)


def test_failures_tell_what_helps(s3: tuple[str, pafs.S3FileSystem], names: dict[str, str], tmp_path: Path) -> None:
    """A user's whole way: a YAML file with an ``s3://`` path, the command line, the ledger, the option."""
    endpoint, fs = s3
    pq.write_table(table_of(names), "tables/y.parquet", filesystem=fs)
    uri = f"s3://k:s@tables/y.parquet?endpoint_override={endpoint}&scheme=http&region=us-east-1"
    file = tmp_path / "t.yaml"
    lines = f"name: t\npath: {uri}\nworkspace_dir: {tmp_path / 'w'}\nenrich_cog: true\nband_codes: [B]\n"
    file.write_text(lines)
    run = CliRunner().invoke
    assert run(main, ["build", str(file)]).exit_code == 0
    assert "local_files: allow" in " ".join(run(main, ["failures", str(file)]).output.split())
    file.write_text(f"{lines}local_files: allow\n")
    assert run(main, ["build", str(file)]).exit_code == 0
    assert ledger(tmp_path)["path"][0] == "ok"


def test_the_options_are_part_of_the_identity_only_where_they_allow() -> None:
    plain = CollectionSpec.of(path="t").content_hash
    assert CollectionSpec.of(path="t", local_files="refuse", link_local="refuse").content_hash == plain
    hashes = {CollectionSpec.of(path="t", **{name: "allow"}).content_hash for name in ("local_files", "link_local")}
    assert len(hashes | {plain}) == 3
