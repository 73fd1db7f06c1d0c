"""Record tables that a token, headers or somebody's money opens: as their rasters are, and never written signed."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3
import pyarrow.parquet as pq
import pytest

import rasteret_assets as ra
from rasteret_assets import CollectionSpec, create_backend
from rasteret_assets.errors import SourceError
from rasteret_assets.source.open import Source, open_source
from rasteret_assets.source.stored import open_record_table
from rasteret_assets.storage.workspace import Workspace
from tests.support.loopback import AnsweringHandler, LoopbackServer, serving
from tests.support.rasters import record_table
from tests.support.s3 import guarded_bucket_server
from tests.support.server import RangeServer

AUTHORIZED = "Bearer PLANTED"
OWN = {"opens_tables": "open_place"}


def parquet(*ids: str) -> bytes:
    sink = io.BytesIO()
    pq.write_table(record_table(list(ids), {"B04": [None] * len(ids)}), sink)
    return sink.getvalue()


def opened(path: Any, backend: Any = None, **options: Any) -> Source:
    return open_source(path, CollectionSpec.of(path=path, name="t", **options), backend=backend)


def ids(source: Source) -> list[str]:
    return sorted(source.table()["id"].to_pylist())


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, str]]:
    """Makes the function of a user that returns something for each place."""

    def make(body: str) -> dict[str, str]:
        # No byte code is kept, because Python takes that of the last text for a new one of the same size and second.
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        (tmp_path / "opens_tables.py").write_text(f"def open_place(place):\n    return {body}\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, "opens_tables", raising=False)
        return OWN

    return make


@pytest.fixture
def guarded(server: RangeServer) -> RangeServer:
    """A web server that answers only who shows a token, with a table of two files and the document that names them."""
    server.objects["/a.parquet"], server.objects["/b.parquet"] = parquet("a1", "a2"), parquet("b1")
    assets = {name: {"href": f"./{name}.parquet"} for name in "ab"}
    document = {"type": "Collection", "id": "t", "assets": assets, "links": []}
    server.objects["/collection.json"] = json.dumps(document).encode()
    server.fault = lambda *_: None if server.headers[-1].get("Authorization") == AUTHORIZED else "403"
    return server


def test_a_table_at_an_address_is_opened_by_the_credentials_of_its_spec(
    guarded: RangeServer, own: Callable[[str], dict[str, str]], tmp_path: Path
) -> None:
    credentials = own(f"{{'headers': {{'Authorization': {AUTHORIZED!r}}}}}")
    for path in (f"{guarded.url}/a.parquet", f"{guarded.url}/collection.json"):
        source = opened(path, credentials=credentials)
        assert ids(source)[:2] == ["a1", "a2"]
        assert "PLANTED" not in repr(source)
    spec = CollectionSpec.of(
        path=f"{guarded.url}/collection.json", name="t", workspace_dir=tmp_path / "w", credentials=credentials
    )
    ra.build(spec)
    assert len(ra.load(str(spec.published_path), credentials=credentials)) == 3
    assert not [file for file in (tmp_path / "w").rglob("*") if file.is_file() and b"PLANTED" in file.read_bytes()]


def test_a_table_at_an_address_is_opened_by_the_headers_of_its_backend(guarded: RangeServer) -> None:
    backend = create_backend(headers={"127.0.0.1": {"Authorization": AUTHORIZED}})
    assert len(ra.build_from_table(f"{guarded.url}/collection.json", backend=backend)) == 3


def test_a_table_that_nobody_opens_is_reported_in_one_sentence(
    guarded: RangeServer, own: Callable[[str], dict[str, str]]
) -> None:
    url = f"{guarded.url}/a.parquet"
    with pytest.raises(SourceError, match=r"refuses access \(HTTP 403\): say who opens the table by credentials:"):
        opened(url)
    refused = own("{'headers': {'Authorization': 'Bearer OTHER'}}")
    with pytest.raises(SourceError, match=r"403 although .* credentials of opens_tables:open_place: see what") as told:
        opened(url, credentials=refused)
    assert "OTHER" not in str(told.value)
    with pytest.raises(SourceError, match="opens_tables:open_place raised ZeroDivisionError"):
        opened(url, credentials=own("1 / 0"))


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[Any], bool]], list[dict[str, str]]]]:
    """Serves a bucket with a table to those only who are let in; returns the headers of all requests."""
    running = []

    def serve(opens: Callable[[Any], bool]) -> list[dict[str, str]]:
        seen: list[dict[str, str]] = []
        is_open = [True]

        def check(headers: dict[str, str]) -> bool:
            seen.append(headers)
            return is_open[0] or opens(headers)

        context = guarded_bucket_server("records", check)
        endpoint = context.__enter__()
        running.append(context)
        keys = {"aws_access_key_id": "k", "aws_secret_access_key": "s", "region_name": "us-east-1"}
        client = boto3.client("s3", endpoint_url=endpoint, **keys)
        client.create_bucket(Bucket="records")
        for name in ("t/year=2024/a.parquet", "t/year=2025/b.parquet"):
            client.put_object(Bucket="records", Key=name, Body=parquet(name), ACL="public-read")
        client.close()
        seen.clear()
        is_open[0] = False
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        return seen

    yield serve
    for context in running:
        context.__exit__(None, None, None)


PATHS = [
    "s3://records/t",
    "s3://records/t/*/*.parquet",
    ["s3://records/t/year=2024/a.parquet", "s3://records/t/year=2025/"],
]


@pytest.mark.parametrize("path", PATHS)
def test_a_table_in_a_bucket_is_opened_by_a_function_of_the_user(
    bucket: Any, own: Callable[[str], dict[str, str]], path: Any
) -> None:
    seen = bucket(lambda headers: "Credential=GIVEN/" in headers.get("authorization", ""))
    given = own("{'access_key_id': 'GIVEN', 'secret_access_key': 'PLANTED'}")
    source = opened(path, credentials=given)
    assert ids(source) == ["t/year=2024/a.parquet", "t/year=2025/b.parquet"]
    assert source.fingerprint == opened(path, credentials=given).fingerprint
    assert "PLANTED" not in repr(source)
    assert seen
    with pytest.raises(SourceError, match="credentials of opens_tables:open_place: see what the function returns"):
        opened(path, credentials=own("{'access_key_id': 'OTHER', 'secret_access_key': 'PLANTED'}"))


def test_folders_of_a_signed_bucket_become_columns(bucket: Any, own: Callable[[str], dict[str, str]]) -> None:
    bucket(lambda headers: "Credential=GIVEN/" in headers.get("authorization", ""))
    given = own("{'access_key_id': 'GIVEN', 'secret_access_key': 'PLANTED'}")
    assert sorted(opened("s3://records/t", credentials=given).table()["year"].to_pylist()) == [2024, 2025]


@pytest.mark.parametrize("path", PATHS)
def test_a_table_whose_requester_pays_is_read_so(bucket: Any, monkeypatch: pytest.MonkeyPatch, path: Any) -> None:
    bucket(lambda headers: headers.get("x-amz-request-payer") == "requester" and "authorization" in headers)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    paying = ra.CloudConfig("aws", requester_pays=True, region="us-east-1")
    assert len(ids(opened(path, cloud_config=paying))) == 2
    with pytest.raises(SourceError, match=r"ACCESS_DENIED|denied"):
        opened(path)


@pytest.mark.parametrize("path", PATHS)
def test_a_public_bucket_is_read_without_credentials(bucket: Any, path: Any) -> None:
    seen = bucket(lambda headers: "authorization" not in headers)
    assert len(ids(opened(path))) == 2
    assert seen


class Azure(AnsweringHandler):
    """Microsoft's token endpoint, and a container that is listed and read with its signature only."""

    objects: dict[str, bytes]
    signed: str

    def do_HEAD(self) -> None:  # noqa: N802  (the name that the base class looks for)
        self.do_GET()

    def do_GET(self) -> None:  # noqa: N802  (likewise)
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        if "/token/" in parts.path:
            token = {"msft:expiry": "2099-01-01T00:00:00Z", "token": f"sv=1&sig={self.signed}"}
            self.answer(200, json.dumps(token).encode(), {"Content-Type": "application/json"})
        elif query.get("sig") != [self.signed]:
            self.answer(403, b"<Error><Code>AuthenticationFailed</Code></Error>")
        elif query.get("comp") == ["list"]:
            self.answer(200, self._listing(query["prefix"][0]), {"Content-Type": "application/xml"})
        else:
            self._object(parts.path)

    def _listing(self, prefix: str) -> bytes:
        blobs = "".join(
            f"<Blob><Name>{name}</Name><Properties><Last-Modified>Mon, 01 Apr 2024 00:00:00 GMT</Last-Modified>"
            f"<Etag>0x{len(body)}</Etag><Content-Length>{len(body)}</Content-Length>"
            "<Content-Type>x/y</Content-Type></Properties></Blob>"
            for name, body in self.objects.items()
            if name.startswith(prefix)
        )
        return (
            '<?xml version="1.0"?><EnumerationResults><Prefix/><MaxResults>100</MaxResults>'
            f"<Blobs>{blobs}</Blobs><NextMarker/></EnumerationResults>"
        ).encode()

    def _object(self, path: str) -> None:
        body = next((body for name, body in self.objects.items() if path.endswith(f"/items/{name}")), None)
        if body is None:
            self.answer(404)
            return
        tags = {"ETag": f"0x{len(body)}", "Last-Modified": "Mon, 01 Apr 2024 00:00:00 GMT"}
        first, _, last = (self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last or len(body)) + 1, len(body))
        if "Range" not in self.headers:
            self.answer(200, body, tags)
        else:
            self.answer(206, body[start:end], {**tags, "Content-Range": f"bytes {start}-{end - 1}/{len(body)}"})


@pytest.fixture
def azure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Azure]]:
    class Handler(Azure):
        signed = "PLANTED"

    Handler.objects = {"t.parquet/part-1.parquet": parquet("a"), "t.parquet/part-2.parquet": parquet("b")}
    server = LoopbackServer(("127.0.0.1", 0), Handler)
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PC_SDK_SAS_URL", f"{url}/token")
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", url)
    monkeypatch.setenv("AZURE_ALLOW_HTTP", "true")
    with serving(server):
        yield Handler


def test_parquet_of_a_planetary_computer_collection_is_signed(
    azure: type[Azure], server: RangeServer, tmp_path: Path
) -> None:
    document = {
        "type": "Collection",
        "id": "t",
        "assets": {
            "geoparquet-items": {
                "href": "abfs://items/t.parquet",
                "type": "application/x-parquet",
                "table:storage_options": {"account_name": "pcstacitems"},
            }
        },
    }
    server.objects["/collections/t"] = json.dumps(document).encode()
    path = f"{server.url}/collections/t"
    source = opened(path, credentials="planetary_computer")
    assert ids(source) == ["a", "b"]
    assert "PLANTED" not in repr(source)
    spec = CollectionSpec.of(path=path, name="t", workspace_dir=tmp_path / "w", credentials="planetary_computer")
    first = open_record_table(Workspace.of(spec), spec.path, spec)
    assert first.fingerprint == source.fingerprint == open_record_table(Workspace.of(spec), spec.path, spec).fingerprint
    azure.signed = "ANOTHER"
    azure.objects = {"t.parquet/part-1.parquet": parquet("c", "d")}
    assert ids(opened(path, credentials="planetary_computer")) == ["c", "d"]
