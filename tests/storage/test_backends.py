"""Byte ranges from real servers: HTTP, HTTPS, S3 (moto), local files, and the errors each gives."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import trustme
from moto.server import ThreadedMotoServer

from rasteret_assets import CloudConfig, StorageBackend, create_backend
from rasteret_assets.errors import (
    AccessDeniedError,
    ObjectNotFoundError,
    RangeReadError,
    RasteretAssetsError,
    StoreUnavailableError,
    ThrottledError,
    TruncatedReadError,
)
from rasteret_assets.storage import AutoBackend, RangeRead, close_backend, read_range
from rasteret_assets.storage.backend import Validators
from tests.support.server import RangeServer

DATA = bytes(range(256)) * 40


def read(url: str, start: int = 0, length: int = 100, backend: StorageBackend | None = None) -> RangeRead:
    used = backend or create_backend()

    async def go() -> RangeRead:
        try:
            return await read_range(used, url, start, length)
        finally:
            await close_backend(used)

    return asyncio.run(go())


def ranges(url: str, wanted: list[tuple[int, int]], backend: StorageBackend | None = None) -> list[bytes]:
    used = backend or create_backend()

    async def go() -> list[bytes]:
        try:
            return [bytes(part) for part in await used.get_ranges(url, wanted)]
        finally:
            await close_backend(used)

    return asyncio.run(go())


@pytest.fixture
def served(server: RangeServer) -> RangeServer:
    server.objects["/a b/x.tif"] = DATA
    return server


def test_http_ranges_with_size_and_validators(served: RangeServer) -> None:
    got = read(served.url + "/a%20b/x.tif", 1000, 50)
    assert bytes(got.data) == DATA[1000:1050]
    assert got.size == len(DATA)
    assert got.etag
    assert got.last_modified == "Mon, 01 Apr 2024 00:00:00 GMT"
    assert bytes(read(served.url + "/a%20b/x.tif", len(DATA) - 10, 50).data) == DATA[-10:]
    beyond = read(served.url + "/a%20b/x.tif", len(DATA) + 5, 50)
    assert (bytes(beyond.data), beyond.size) == (b"", len(DATA))
    assert ranges(served.url + "/a%20b/x.tif", [(0, 3), (300, 4)]) == [DATA[:3], DATA[300:304]]


@pytest.mark.parametrize("address", ["/a%20b/x.tif?sig=a%2Fb%3D&t=1&t=2", "/a b/x.tif", "/a%20b/x.tif#fragment"])
def test_http_urls_are_sent_as_written(served: RangeServer, address: str) -> None:
    assert bytes(read(served.url + address).data) == DATA[:100]
    assert served.paths == [address.partition("#")[0].replace(" ", "%20")]


def test_double_slashes_and_capital_schemes_reach_the_server(server: RangeServer) -> None:
    server.objects["/x//y//ü.tif"] = DATA
    url = server.url.replace("http", "HTTP") + "/x//y//ü.tif"
    assert bytes(read(url).data) == DATA[:100]


def test_a_server_without_ranges_is_read_up_to_the_range_and_cut_off(served: RangeServer) -> None:
    served.fault = lambda path, before: "no-range"
    got = read(served.url + "/a%20b/x.tif", 10, 20)
    assert bytes(got.data) == DATA[10:30]
    assert got.size == len(DATA)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("404", ObjectNotFoundError), ("403", AccessDeniedError), ("429", ThrottledError), ("503", ThrottledError),
        ("reset", StoreUnavailableError), ("short", TruncatedReadError),
    ],
)  # fmt: skip
def test_http_failures_have_their_class_and_hide_the_query(
    served: RangeServer, fault: str, error: type[RangeReadError]
) -> None:
    served.fault = lambda path, before: fault
    with pytest.raises(error) as caught:
        read(served.url + "/a%20b/x.tif?sig=secret")
    assert caught.value.href == served.url + "/a%20b/x.tif"
    assert "secret" not in str(caught.value)


def test_a_dead_host_is_named() -> None:
    with pytest.raises(StoreUnavailableError, match=r"127\.0\.0\.1:9/x\.tif: cannot connect to 127\.0\.0\.1:9"):
        read("http://127.0.0.1:9/x.tif?sig=secret")


def test_https_with_a_private_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    server = RangeServer(tmp_path)
    server.objects["/x.tif"] = DATA
    with server.running(context):
        with pytest.raises(StoreUnavailableError, match=r"certificate of '127.0.0.1' is not trusted"):
            read(server.url + "/x.tif")
        bundle = tmp_path / "ca.pem"
        authority.cert_pem.write_to_path(bundle)
        monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
        assert bytes(read(server.url + "/x.tif").data) == DATA[:100]


def test_headers_are_sent(served: RangeServer) -> None:
    read(served.url + "/a%20b/x.tif", backend=create_backend(headers={"Authorization": "Bearer t"}))
    assert served.headers[0]["Authorization"] == "Bearer t"


@pytest.mark.parametrize("name", ["plain.tif", "sp ace?#%41.tif", "ünï.tif"])
def test_local_files_of_any_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(DATA)
    assert bytes(read(str(path), 5, 10).data) == DATA[5:15]
    assert bytes(read(path.as_uri(), 5, 10).data) == DATA[5:15]
    assert read(str(path)).size == len(DATA)
    assert ranges(str(path), [(1, 2), (9, 1)]) == [DATA[1:3], DATA[9:10]]


def test_a_missing_file_and_a_folder_are_different_errors(tmp_path: Path) -> None:
    with pytest.raises(ObjectNotFoundError, match="no such file"):
        read(str(tmp_path / "none.tif"))
    with pytest.raises(RangeReadError, match="is a folder, not a regular file"):
        read(str(tmp_path))


def test_what_is_not_a_regular_file_is_refused_and_not_opened(tmp_path: Path) -> None:
    pipe, listener = tmp_path / "pipe.tif", socket.socket(socket.AF_UNIX)
    os.mkfifo(pipe)
    with listener:
        listener.bind(str(tmp_path / "socket.tif"))
        (tmp_path / "link.tif").symlink_to(pipe)
        for name, kind in {"pipe.tif": "a named pipe", "link.tif": "a named pipe", "socket.tif": "a socket"}.items():
            with pytest.raises(RangeReadError, match=f"{name}: is {kind}, not a regular file"):
                read(str(tmp_path / name))
    with pytest.raises(RangeReadError, match="is a device"):
        read("/dev/zero")


@pytest.mark.parametrize("change", ["size", "time", "file"])
def test_a_local_file_has_another_tag_when_anything_of_it_changed(tmp_path: Path, change: str) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(DATA)
    os.utime(path, ns=(5, 5))
    before = read(str(path))
    assert read(str(path)).etag == before.etag
    if change == "file":  # as rsync and tar replace it: of equal size, with its time kept
        (tmp_path / "b.tif").write_bytes(DATA[::-1])
        (tmp_path / "b.tif").replace(path)
    elif change == "size":
        path.write_bytes(DATA + b"x")
    os.utime(path, ns=(6, 6) if change == "time" else (5, 5))
    assert read(str(path)).etag != before.etag


@pytest.mark.parametrize(
    ("href", "reason"), [("./B02.tif", "a relative href"), ("ftp://h/x.tif", "scheme 'ftp' is not")]
)
def test_hrefs_that_lead_nowhere_are_refused(href: str, reason: str) -> None:
    with pytest.raises(RangeReadError, match=reason):
        read(href)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    keys = {"aws_access_key_id": "k", "aws_secret_access_key": "s", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=endpoint, **keys)
    client.create_bucket(Bucket="images")
    client.put_object(Bucket="images", Key="a b/x.tif", Body=DATA, ACL="public-read")
    yield endpoint
    client.close()
    server.stop()


def s3_backend(endpoint: str, **extra: object) -> AutoBackend:
    return create_backend(
        region="us-east-1",
        default_s3_config={"endpoint": endpoint, "access_key_id": "k", "secret_access_key": "s", **extra},
    )


def test_s3_ranges_with_size_and_validators(s3: str) -> None:
    got = read("s3://images/a b/x.tif", 1000, 50, s3_backend(s3))
    assert bytes(got.data) == DATA[1000:1050]
    assert got.size == len(DATA)
    assert got.etag
    assert bytes(read("s3://images/a b/x.tif", 0, 10**6, s3_backend(s3)).data) == DATA
    assert ranges("s3://images/a b/x.tif", [(0, 3), (300, 4)], s3_backend(s3)) == [DATA[:3], DATA[300:304]]


def test_unchanged_objects_are_recognized_without_reading_them(s3: str, served: RangeServer, tmp_path: Path) -> None:
    (tmp_path / "x.tif").write_bytes(DATA)
    places = {
        "s3://images/a b/x.tif": s3_backend(s3), served.url + "/a%20b/x.tif": create_backend(),
        str(tmp_path / "x.tif"): create_backend(),
    }  # fmt: skip

    async def again(url: str, backend: AutoBackend, validators: Validators) -> RangeRead | None:
        try:
            return await backend.read_if_changed(url, 0, 4, validators)
        finally:
            await close_backend(backend)

    for url, backend in places.items():
        first = read(url, 0, 4, backend)
        same = Validators(first.etag, first.last_modified)
        assert asyncio.run(again(url, backend, same)) is None, url
        other = asyncio.run(again(url, backend, Validators('"other"', None)))
        assert other is not None
        assert bytes(other.data) == DATA[:4]


def test_files_are_read_through_a_cloud_config_of_aws(s3: str) -> None:
    cloud = CloudConfig("aws", requester_pays=True, region="us-east-1", url_patterns={"https://x/": "s3://images/"})
    backend = create_backend(
        cloud_config=cloud, default_s3_config={"endpoint": s3, "access_key_id": "k", "secret_access_key": "s"}
    )
    assert bytes(read("s3://images/a b/x.tif", 0, 4, backend).data) == DATA[:4]


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No AWS credentials anywhere in the environment."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.mark.usefixtures("no_credentials")
def test_s3_without_credentials_sends_unsigned_requests(s3: str) -> None:
    backend = create_backend(region="us-east-1", default_s3_config={"endpoint": s3})
    assert bytes(read("s3://images/a b/x.tif", 0, 4, backend).data) == DATA[:4]


def test_s3_failures_have_their_class(s3: str) -> None:
    with pytest.raises(ObjectNotFoundError, match=r"s3://images/none.tif: the object does not exist"):
        read("s3://images/none.tif", backend=s3_backend(s3))
    with pytest.raises(RangeReadError, match="write scheme://bucket/key"):
        read("s3://images", backend=s3_backend(s3))


def test_a_users_object_with_the_two_methods_is_a_backend() -> None:
    class Mine:
        async def get_range(self, url: str, start: int, length: int) -> memoryview:
            return memoryview(DATA)[start : start + length]

        async def get_ranges(self, url: str, wanted: list[tuple[int, int]]) -> list[memoryview]:
            return [await self.get_range(url, *one) for one in wanted]

    assert isinstance(Mine(), StorageBackend)
    got = read("anything", 3, 4, Mine())
    assert (bytes(got.data), got.size) == (DATA[3:7], None)


def test_every_read_error_tells_whether_to_try_again() -> None:
    def all_of(kind: type[RasteretAssetsError]) -> Iterator[type[RasteretAssetsError]]:
        for child in kind.__subclasses__():
            yield child
            yield from all_of(child)

    at_once = {kind.__name__ for kind in all_of(RangeReadError) if kind("it failed").is_retried_at_once}
    assert at_once == {
        "TruncatedReadError", "StoreUnavailableError", "ThrottledError", "HostUnreachableError", "ReadTimeoutError",
        "BackendError",
    }  # fmt: skip


@pytest.mark.usefixtures("no_credentials")
def test_what_s3_requests_say_of_who_asks_and_who_pays(served: RangeServer) -> None:
    served.objects["/images/x.tif"] = DATA
    keys = {"endpoint": served.url, "access_key_id": "k", "secret_access_key": "s"}
    cloud = CloudConfig("aws", requester_pays=True, region="us-east-1", url_patterns={"https://x/": "s3://images/"})
    backends = {
        "unsigned": create_backend(region="us-east-1", default_s3_config={"endpoint": served.url}),
        "signed": create_backend(region="us-east-1", default_s3_config=keys),
        "paying": create_backend(cloud_config=cloud, default_s3_config=keys),
    }
    sent = {}
    for name, backend in backends.items():
        assert bytes(read("s3://images/x.tif", 0, 4, backend).data) == DATA[:4]
        sent[name] = {key.lower(): value for key, value in served.headers[-1].items()}
    assert "authorization" not in sent["unsigned"]
    assert sent["signed"]["authorization"].startswith("AWS4-HMAC-SHA256 Credential=k/")
    assert "x-amz-request-payer" not in sent["signed"]
    assert sent["paying"]["x-amz-request-payer"] == "requester"
    assert "x-amz-request-payer" in sent["paying"]["authorization"]


def test_https_by_name_is_held_against_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(bundle)
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    server = RangeServer(tmp_path)
    server.objects["/x.tif"] = DATA
    with server.running(context):
        assert bytes(read(server.url.replace("127.0.0.1", "localhost") + "/x.tif").data) == DATA[:100]
        with pytest.raises(StoreUnavailableError, match="not trusted"):
            read(server.url + "/x.tif")
