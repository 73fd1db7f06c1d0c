"""Ranges of a file that may have been replaced since it was indexed, from servers of every kind."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import boto3
import pytest

from rasteret_assets import StorageBackend, create_backend
from rasteret_assets.errors import FileReplacedError
from rasteret_assets.storage import RangeRead, close_backend, read_range
from rasteret_assets.storage.backend import Validators
from rasteret_assets.storage.unchanged import IndexedFile, UnchangedReader, as_unchanged_reader, difference
from tests.support.s3 import KEYS, bucket_server, requests_seen
from tests.support.server import RangeServer

OLD, NEW, LONGER = (bytes([number]) * 1000 for number in (1, 2, 3))
LONGER *= 2

MONDAY, TUESDAY = "Mon, 01 Apr 2024 00:00:00 GMT", "Tue, 02 Apr 2024 00:00:00 GMT"
SUNDAY = "Sun, 31 Mar 2024 00:00:00 GMT"


def run(url: str, ask: Callable, backend: StorageBackend | None = None):
    used = backend or create_backend()

    async def go():
        try:
            return await ask(used, url)
        finally:
            await close_backend(used)

    return asyncio.run(go())


def indexed(url: str, backend: StorageBackend | None = None) -> IndexedFile:
    """Return tag, time and size of a file as they come with its header."""
    read = run(url, lambda used, url: read_range(used, url, 0, 10), backend)
    return IndexedFile(read.etag, read.last_modified, read.size)


def read(url: str, known: IndexedFile, start: int = 500, backend: StorageBackend | None = None) -> bytes:
    """Return 50 bytes of the indexed file."""
    found = run(url, lambda used, url: as_unchanged_reader(used).read_unchanged(url, start, 50, known), backend)
    return bytes(found.data)


STRONG = {"ETag": '"one"', "Last-Modified": MONDAY}, {"ETag": '"two"', "Last-Modified": MONDAY}
WEAK = {"ETag": 'W/"one"'}, {"ETag": 'W/"two"'}
TIMES = {"Last-Modified": MONDAY}, {"Last-Modified": TUESDAY}


@pytest.mark.parametrize("conditions", [True, False], ids=["conditions", "ignored"])
@pytest.mark.parametrize(
    ("before", "after", "new"),
    [
        (*STRONG, NEW), (*WEAK, NEW), (*TIMES, NEW), ({"Last-Modified": MONDAY}, {"Last-Modified": SUNDAY}, NEW),
        # A weak tag that is kept says that the content means the same, not that its bytes are the same.
        ({"ETag": 'W/"one"', **TIMES[0]}, {"ETag": 'W/"one"', **TIMES[1]}, NEW),
        # Nothing is told but the size, or the server forgot to change what it tells.
        ({}, {}, LONGER), ({"ETag": '"one"'}, {"ETag": '"one"'}, LONGER), ({}, {}, OLD[:400]), ({}, {}, OLD[:520]),
    ],
    ids=["strong", "weak", "later", "earlier", "weak-and-time", "longer", "same-tag", "shorter", "cut"],
)  # fmt: skip
def test_a_replaced_file_is_noticed_in_one_request(server: RangeServer, conditions, before, after, new) -> None:
    url = f"{server.url}/x.tif?sig=secret"
    server.conditions = conditions
    server.objects["/x.tif"], server.told["/x.tif"] = OLD, before
    known = indexed(url)
    assert read(url, known) == OLD[:50]
    server.objects["/x.tif"], server.told["/x.tif"] = new, after
    server.reset()
    with pytest.raises(FileReplacedError, match=r"/x\.tif was replaced since it was indexed \(.+\)") as caught:
        read(url, known)
    assert "secret" not in str(caught.value)
    assert not caught.value.is_retried_at_once
    assert len(server.requests) == 1


@pytest.mark.parametrize("conditions", [True, False], ids=["conditions", "ignored"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (STRONG[0], STRONG[0]), (WEAK[0], WEAK[0]), (TIMES[0], TIMES[0]), ({}, {}), ({}, STRONG[0]), (STRONG[0], {}),
        # A copied object has a new time.
        (STRONG[0], {**STRONG[0], "Last-Modified": TUESDAY}),
        # A proxy that weakens tags, and one that writes the time otherwise.
        (STRONG[0], {**STRONG[0], "ETag": 'W/"one"'}), (TIMES[0], {"Last-Modified": "2024-04-01T00:00:00.5Z"}),
    ],
)  # fmt: skip
def test_an_unchanged_file_is_read(server: RangeServer, conditions, before, after) -> None:
    server.objects["/x.tif"], server.told["/x.tif"] = OLD, before
    known = indexed(f"{server.url}/x.tif")
    server.conditions = conditions and "W/" not in str(after) and after != {} and "T00" not in str(after)
    server.told["/x.tif"] = after
    server.reset()
    assert read(f"{server.url}/x.tif", known) == OLD[:50]
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("known", "sent"),
    [
        (IndexedFile('"one"', MONDAY), {"If-Match": '"one"'}),
        (IndexedFile('W/"one"', MONDAY), {"If-Unmodified-Since": MONDAY}),
        (IndexedFile('W/"one"', None), {}),
        (IndexedFile("one", "2024-04-01T00:00:00Z"), {}),  # neither is of the form that HTTP demands
        (IndexedFile('"ü"', MONDAY), {"If-Unmodified-Since": MONDAY}),
        (IndexedFile('"a"\r\nX-Evil: "b"', f"{MONDAY}\r\nX-Evil: b"), {}),
        (IndexedFile(), {}),
    ],
)
def test_conditions_are_those_of_rfc_9110(server: RangeServer, known: IndexedFile, sent: dict[str, str]) -> None:
    server.objects["/x.tif"], server.conditions, server.told["/x.tif"] = OLD, False, {}
    assert read(f"{server.url}/x.tif", known) == OLD[:50]
    (headers,) = server.headers
    names = {"If-Match", "If-Unmodified-Since", "If-None-Match", "If-Modified-Since", "If-Range", "X-Evil"}
    assert {name: value for name, value in headers.items() if name in names} == sent


def only_conditional(server: RangeServer, path: str) -> None:
    """Give a fixed answer until a request comes without a condition."""
    note = server.note

    def noted(path_asked: str, ranged: str | None, headers: dict[str, str]) -> int:
        if not any(name.startswith("If-") for name in headers):
            server.answers.pop(path, None)
        return note(path_asked, ranged, headers)

    server.note = noted


def test_a_server_that_refuses_the_tag_it_tells_is_asked_without_a_condition(server: RangeServer) -> None:
    server.objects["/x.tif"], server.told["/x.tif"] = OLD, STRONG[0]
    server.answers["/x.tif"] = (412, STRONG[0], b"no")
    only_conditional(server, "/x.tif")
    assert read(f"{server.url}/x.tif", IndexedFile('"one"', MONDAY, 1000)) == OLD[:50]
    assert len(server.requests) == 2


def test_a_412_without_validators_means_a_replaced_file(server: RangeServer) -> None:
    server.answers["/x.tif"] = (412, {}, b"no")
    with pytest.raises(FileReplacedError, match="HTTP 412"):
        read(f"{server.url}/x.tif", IndexedFile('"one"'))
    assert len(server.requests) == 1


@pytest.mark.parametrize("tag", ['W/"one"', None])
def test_revalidation_believes_the_time_of_a_304(server: RangeServer, tag: str | None) -> None:
    told = {"Last-Modified": SUNDAY, **({"ETag": tag} if tag else {})}
    server.answers["/x.tif"] = (304, told, b"")
    only_conditional(server, "/x.tif")
    server.objects["/x.tif"], server.told["/x.tif"] = NEW, told
    url = f"{server.url}/x.tif"

    def again(modified: str) -> RangeRead | None:
        return run(url, lambda used, url: used.read_if_changed(url, 0, 10, Validators(tag, modified)))

    assert again(SUNDAY) is None
    found = again(MONDAY)
    assert found is not None
    assert bytes(found.data) == NEW[:10]


def replace(path: Path, content: bytes, *, keep_time: bool = False) -> None:
    before = path.stat()
    path.write_bytes(content)
    if keep_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_replaced_local_file_is_noticed_by_size_and_time(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    path.write_bytes(OLD)
    os.utime(path, ns=(10**18, 10**18))
    known = indexed(str(path))
    replace(path, LONGER, keep_time=True)
    with pytest.raises(FileReplacedError, match="it had 1000 bytes and now has 2000"):
        read(str(path), known)
    replace(path, NEW)
    os.utime(path, ns=(10**18 + 10, 10**18 + 10))  # within the same second
    with pytest.raises(FileReplacedError, match="ETag"):
        read(path.as_uri(), known)
    # Another inode alone: network drives number files anew. The time alone is what earlier versions kept as the tag.
    replace(path, OLD)
    os.utime(path, ns=(10**18, 10**18))
    path.rename(tmp_path / "y.tif")
    path.write_bytes(OLD)
    os.utime(path, ns=(10**18, 10**18))
    assert indexed(str(path)).etag != known.etag
    assert read(str(path), known) == OLD[:50]
    assert read(str(path), known._replace(etag=f"{10**18:x}")) == OLD[:50]
    # Only the second of the time, and only the size.
    os.utime(path, ns=(2 * 10**18, 2 * 10**18))
    with pytest.raises(FileReplacedError, match="last modified"):
        read(str(path), known._replace(etag=None))
    assert read(str(path), IndexedFile(size=1000)) == OLD[:50]


def test_a_replaced_object_on_s3_is_noticed_by_its_tag_in_one_request() -> None:
    with bucket_server("images") as endpoint:
        client = boto3.client("s3", endpoint_url=f"http://{endpoint}", region_name="us-east-1", **KEYS)
        config = {"endpoint": f"http://{endpoint}", "access_key_id": "k", "secret_access_key": "s"}
        url = "s3://images/x.tif"

        def backend() -> StorageBackend:
            return create_backend(region="us-east-1", default_s3_config=config)

        client.put_object(Bucket="images", Key="x.tif", Body=OLD)
        known = indexed(url, backend())
        assert known.strong_etag
        assert read(url, known, backend=backend()) == OLD[:50]
        for new, what in ((NEW, known), (NEW, known._replace(etag=None, last_modified=MONDAY)),
                          (OLD[:400], known._replace(etag=None)), (LONGER, IndexedFile(size=1000))):  # fmt: skip
            client.put_object(Bucket="images", Key="x.tif", Body=new)
            with requests_seen() as seen, pytest.raises(FileReplacedError, match=r"s3://images/x\.tif was replaced"):
                read(url, what, backend=backend())
            assert len(seen) == 1
        client.close()


class Plain:
    """A user's backend that tells neither size nor validators."""

    async def get_range(self, url: str, start: int, length: int) -> bytes:
        raise AssertionError("ranges are asked for together")

    async def get_ranges(self, url: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        return [NEW[start : start + length] for start, length in ranges]


class Telling(Plain):
    """A user's backend that tells size and validators, and knows no conditions."""

    async def read(self, url: str, start: int, length: int) -> RangeRead:
        return RangeRead(NEW[start : start + length], len(NEW), '"two"')


def test_backends_of_users_are_compared_as_far_as_they_tell() -> None:
    assert isinstance(create_backend(), UnchangedReader)
    known = IndexedFile('"one"', MONDAY, 1000)
    assert read("mine://x", known, backend=Plain()) == NEW[:50]
    assert read("mine://x", known._replace(etag='"two"'), backend=Telling()) == NEW[:50]
    with pytest.raises(FileReplacedError, match="mine://x was replaced"):
        read("mine://x", known, backend=Telling())


def test_equal_times_in_two_spellings_are_equal() -> None:
    known = IndexedFile(None, MONDAY)
    for same in (MONDAY, "2024-04-01T00:00:00+00:00", "2024-04-01T02:00:00.7+02:00", "2024-04-01T00:00:00Z", None, ""):
        assert difference(known, None, same) is None, same
    for other in (TUESDAY, "yesterday", "2024-04-01T00:00:01Z"):
        assert difference(known, None, other), other
