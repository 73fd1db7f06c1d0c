"""Record tables at HTTP addresses: what is asked for, what tells two contents apart, what is refused by name."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rasteret_assets import CollectionSpec, build, build_from_table, load, plan
from rasteret_assets.declare import propose
from rasteret_assets.errors import EnrichmentError, SourceError
from rasteret_assets.source.open import open_source, open_table
from rasteret_assets.source.profiling import profile_source
from rasteret_assets.source.stored import load_profile, open_record_table
from rasteret_assets.storage.http.by_address import list_addresses
from rasteret_assets.storage.http.http_backend import HttpBackend
from rasteret_assets.storage.process.processes import run_sync
from rasteret_assets.storage.workspace import Workspace
from tests.support.rasters import record_table
from tests.support.server import RangeServer


def records(count: int, prefix: str = "r", **columns: Any) -> pa.Table:
    times = [datetime(2024, 1 + row % 12, 1, tzinfo=UTC) for row in range(count)]
    names = [f"{prefix}-{row}" for row in range(count)]
    return record_table(names, {"B02": [f"https://e.test/{name}.tif" for name in names]}, datetimes=times, **columns)


def serve(server: RangeServer, path: str, table: pa.Table, **options: Any) -> str:
    """Put a table at a path of the server; its address."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **options)
    server.objects[path] = sink.getvalue().to_pybytes()
    return server.url + path


def spec(path: Any, folder: Path | None = None, **fields: Any) -> CollectionSpec:
    place = {} if folder is None else {"workspace_dir": folder / "w"}
    return CollectionSpec.of(path=path, name="s2", **place, **fields)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.at(str(tmp_path / "w" / "s2_records"))


# --- requests --------------------------------------------------------------------------------------------------------


def test_an_unchanged_file_costs_one_request_of_four_bytes(
    server: RangeServer, tmp_path: Path, workspace: Workspace
) -> None:
    url = serve(server, "/t.parquet", records(50))
    declared = spec(url, tmp_path)
    load_profile(workspace, open_record_table(workspace, url, declared), declared)
    server.reset()
    load_profile(workspace, open_record_table(workspace, url, declared), declared)
    assert server.requests == [("/t.parquet", "bytes=0-3")]


def test_a_large_file_is_read_by_its_footer_and_the_row_groups_that_are_wanted(server: RangeServer) -> None:
    noise = pa.array([bytes([row % 251]) * 4096 + str(row).encode() * 400 for row in range(2000)])
    url = serve(
        server, "/t.parquet", records(2000, number=pa.array(range(2000)), noise=noise), row_group_size=100,
        compression="none", use_dictionary=False,
    )  # fmt: skip
    size = len(server.objects["/t.parquet"])
    source = open_source(url, spec(url, filter_expr=[["number", ">=", 1950]]))
    asked = [ranged for _, ranged in server.requests]
    # Four bytes to know the file by, the end that says how long the footer is, and a longer footer's beginning.
    assert len(asked) <= 3
    assert source.table().num_rows == 50
    ranges = [tuple(map(int, ranged.removeprefix("bytes=").split("-"))) for _, ranged in server.requests]
    assert sum(last - first + 1 for first, last in ranges) < size / 5
    # One scan of one of twenty row groups, without a second look at the footer.
    assert len(ranges) - len(asked) <= 3


def test_a_whole_scan_takes_few_requests_for_a_row_group(server: RangeServer) -> None:
    url = serve(server, "/t.parquet", records(4000), row_group_size=1000)
    source = open_source(url, spec(url))
    server.reset()
    assert source.table().num_rows == 4000
    assert len(server.requests) <= 2 * 4


def test_a_failure_of_the_moment_is_tried_again(server: RangeServer) -> None:
    url = serve(server, "/t.parquet", records(10))
    server.fault = lambda path, before: ["503", "reset", None][min(before, 2)]
    assert open_source(url, spec(url)).table().num_rows == 10


def test_connections_are_kept_until_nobody_holds_the_files(server: RangeServer) -> None:
    noise = pa.array([bytes([row % 251]) * 1024 for row in range(2000)])
    url = serve(server, "/t.parquet", records(2000, noise=noise), row_group_size=100, compression="none")
    fs, (file,) = list_addresses([url], HttpBackend())
    clients = fs.handler._backend._here.get().by_loop
    with fs.open_input_file(file.path) as opened:
        assert len(opened.read()) == file.size
    assert len(clients) == 1
    source = open_source(url, spec(url))
    assert source.table().num_rows == 2000
    # Twenty row groups and two looks, each over one connection.
    assert len(server.clients) == 2
    del fs, opened
    run_sync(asyncio.sleep(0))
    assert not clients


# --- identity --------------------------------------------------------------------------------------------------------


def test_what_a_server_tells_decides_whether_a_file_changed(server: RangeServer) -> None:
    url = serve(server, "/t.parquet", records(5))

    def version(**told: str) -> str:
        server.told["/t.parquet"] = told
        return open_source(url, spec(url)).fingerprint

    date = "Mon, 01 Apr 2024 00:00:00 GMT"
    told = [
        {"ETag": '"a"'},
        {"ETag": '"b"'},
        {"Last-Modified": date},
        {"Last-Modified": "Mon, 01 Apr 2024 00:00:01 GMT"},
        {"ETag": 'W/"a"', "Last-Modified": date},
    ]
    versions = [version(**one) for one in told]
    assert len(set(versions)) == len(told)
    assert [version(**one) for one in told] == versions
    # A weak tag alone does not say that no byte changed.
    assert version(ETag='W/"a"') != version(ETag='W/"a"')
    # Another length is another file, whatever the rest says.
    before = version(**told[0])
    serve(server, "/t.parquet", records(6))
    assert version(**told[0]) != before


def test_files_of_a_server_without_validators_are_read_each_time_which_is_reported_once(
    server: RangeServer, tmp_path: Path, workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    url = serve(server, "/t.parquet", records(5))
    server.told["/t.parquet"] = {}
    declared = spec(url, tmp_path)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            server.reset()
            load_profile(workspace, open_record_table(workspace, url, declared), declared)
            assert len(server.requests) > 1
    assert sum("nor a strong ETag" in record.message for record in caplog.records) == 1


def test_a_renewed_signature_names_the_same_file_and_is_written_nowhere(
    server: RangeServer, tmp_path: Path, workspace: Workspace
) -> None:
    url = serve(server, "/t.parquet", records(5))
    signed = url + "?X-Amz-Algorithm=AWS4&X-Amz-Credential=k&X-Amz-Date=d&X-Amz-Expires=9&X-Amz-SignedHeaders=h"
    first, second = (f"{signed}&X-Amz-Signature={mark}" for mark in ("topsecret1", "topsecret2"))
    build(spec(first, tmp_path))
    server.reset()
    assert not plan(spec(second, tmp_path)).partitions
    assert [ranged for _, ranged in server.requests] == ["bytes=0-3"]
    written = b"".join(path.read_bytes() for path in (tmp_path / "w").rglob("*") if path.is_file())
    assert b"topsecret" not in written
    source = open_source(first, spec(first))
    assert "topsecret" not in repr((source.label, source.parts))


def test_files_that_only_their_query_tells_apart_are_two(server: RangeServer) -> None:
    urls = [serve(server, f"/t.parquet?v={name}", records(3, name)) for name in "ab"]
    table = open_source(urls, spec(urls)).table()
    assert sorted(table["id"].to_pylist()) == [f"{name}-{row}" for name in "ab" for row in range(3)]


def test_a_file_that_is_replaced_while_it_is_read_is_not_read_on(server: RangeServer) -> None:
    noise = pa.array([bytes([row % 251]) * 1024 for row in range(500)])
    url = serve(server, "/t.parquet", records(500, noise=noise), row_group_size=100, compression="none")
    source = open_source(url, spec(url))
    content = server.objects["/t.parquet"]
    server.objects["/t.parquet"] = content[:4] + bytes(10) + content[14:]
    with pytest.raises(SourceError, match=r"t\.parquet: cannot be read: .*replaced while it was read"):
        profile_source(source, spec(url))


# --- what a remote table may say -------------------------------------------------------------------------------------


def test_a_table_at_an_address_may_not_name_files_of_this_machine(server: RangeServer, tmp_path: Path) -> None:
    (tmp_path / "secret.tif").write_bytes(b"II*\0")
    table = record_table(["a"], {"B02": [str(tmp_path / "secret.tif")]})
    declared = spec(serve(server, "/t.parquet", table), tmp_path, enrich_cog=True)
    with pytest.raises(EnrichmentError, match="write local_files: allow in its spec"):
        build(declared)


@pytest.mark.parametrize(
    "url", ["http://169.254.169.254/t.parquet", "https://metadata.google.internal/c.json", "http://[fe80::1]/t.parquet"]
)
def test_an_address_of_the_machines_own_network_is_refused(url: str) -> None:
    with pytest.raises(SourceError, match=r"own network.*link_local: allow"):
        open_source(url, spec(url))
    with pytest.raises(SourceError, match="own network"):
        open_source([url], spec([url]))


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("404", r"/t\.parquet: does not exist \(HTTP 404\): check the address"),
        ("403", r"/t\.parquet: its server refuses access \(HTTP 403\): say who opens"),
        ("no-range", r"/t\.parquet: its server does not answer ranges, .*: download it, and give the path"),
        ("html", r"/t\.parquet: its server does not answer ranges"),
    ],
)
def test_what_a_server_refuses_is_one_sentence(server: RangeServer, fault: str, said: str) -> None:
    url = serve(server, "/t.parquet", records(3)) + "?sig=topsecret"
    server.fault = lambda path, before: fault
    with pytest.raises(SourceError, match=said) as caught:
        build_from_table(url)
    assert "topsecret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("content", "said"), [(b"id,assets\na,b\n", "it begins with b'id,a'"), (b"", "it is empty")])
def test_a_file_that_is_not_parquet_is_refused_by_its_first_bytes(
    server: RangeServer, content: bytes, said: str
) -> None:
    server.objects["/t.parquet"] = content
    with pytest.raises(SourceError, match=f"is not a Parquet file: {said}"):
        open_table(server.url + "/t.parquet")


def test_a_file_that_was_cut_short_is_named(server: RangeServer) -> None:
    url = serve(server, "/t.parquet", records(3)) + "?sig=topsecret"
    server.objects["/t.parquet"] = server.objects["/t.parquet"][:-20]
    with pytest.raises(SourceError, match=r"t\.parquet: not a readable Parquet file") as caught:
        open_table(url)
    assert "topsecret" not in str(caught.value)


@pytest.mark.parametrize("path", ["/year=*/t.parquet", "/t/"])
def test_what_a_web_server_would_have_to_list_is_refused(server: RangeServer, path: str) -> None:
    with pytest.raises(SourceError, match=r"a web server lists no files.*give a list of the files"):
        open_table(server.url + path)


def test_a_user_in_an_address_is_sent_to_its_host_and_shown_nowhere(server: RangeServer) -> None:
    url = serve(server, "/t.parquet", records(3)).replace("://", "://me:pass%2Fword@")
    source = open_source(url, spec(url))
    assert source.table().num_rows == 3
    assert {headers["Authorization"] for headers in server.headers} == {"Basic bWU6cGFzcy93b3Jk"}
    assert "pass" not in repr(source)
    server.objects["/t.parquet"] = server.objects["/t.parquet"][:-20]
    with pytest.raises(SourceError) as caught:
        open_table(url)
    assert "pass" not in str(caught.value)


def test_a_table_of_several_addresses_is_built_and_kept_up_to_date(server: RangeServer, tmp_path: Path) -> None:
    urls = [serve(server, f"/{name}.parquet", records(12 * 70, name)) for name in "ab"]
    declared = spec(urls, tmp_path)
    build(declared)
    server.reset()
    serve(server, "/b.parquet", records(12 * 70 + 1, "b"))
    assert list(build(declared).reasons) == ["2024-01"]
    assert {path for path, ranged in server.requests if ranged != "bytes=0-3"} == {"/b.parquet"}
    assert load(declared.published_path).to_table().num_rows == 2 * 12 * 70 + 1


def test_a_client_of_the_users_is_used_in_place_of_the_packages_own(server: RangeServer) -> None:
    url = serve(server, "/t.parquet", records(3))
    client = fsspec.filesystem("http", client_kwargs={"headers": {"X-Api-Key": "k"}}, skip_instance_cache=True)
    assert open_source(url, spec(url), client).table().num_rows == 3
    assert {headers.get("X-Api-Key") for headers in server.headers} == {"k"}


def test_a_declaration_is_proposed_for_an_address(server: RangeServer) -> None:
    url = serve(server, "/scenes.parquet", records(30))
    assert propose(url).values == {
        "name": "scenes", "path": url, "enrich_cog": True, "partition_by": "month", "band_codes": ["B02"]
    }  # fmt: skip
