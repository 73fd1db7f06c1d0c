"""Errors tell the real cause: by status rather than digits in a text, and not hidden by a later failure."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import rasteret_assets as ra
from rasteret_assets import create_backend
from rasteret_assets.errors import RangeReadError, StoreUnavailableError
from rasteret_assets.storage.io_errors import also_do
from rasteret_assets.storage.workspace.conditional import open_conditional
from tests.support.loopback import AnsweringHandler, LoopbackServer, serving
from tests.support.rasters import record_table, tiff_bytes
from tests.support.s3 import filesystem_of
from tests.support.server import RangeServer

#: What hangs fails.
LIMIT_S = 300
#: Text of a store that names statuses it does not have.
TEXT = (
    b"<Error><Message>tile 416 501 Not Implemented; - Server returned non-2xx status code: 416 Range</Message></Error>"
)


@contextmanager
def answering(status: int) -> Iterator[str]:
    """Answer every request with one status; yield the server's ``host:port``."""

    class Handler(AnsweringHandler):
        def do_GET(self) -> None:  # noqa: N802  (the name that the base class looks for)
            self.answer(status, TEXT)

    server = LoopbackServer(("127.0.0.1", 0), Handler)
    with serving(server):
        yield f"127.0.0.1:{server.server_port}"


@pytest.mark.parametrize(("status", "found"), [(400, None), (405, None), (416, 416)])
def test_the_status_of_a_store_is_not_read_from_its_text(status: int, found: int | None) -> None:
    with answering(status) as host:
        config = {"endpoint": f"http://{host}", "region": "us-east-1", "skip_signature": True}
        reading = create_backend(default_s3_config=config).get_range("s3://bucket/tile 416 501 N.tif", 5, 4)
        with pytest.raises(RangeReadError) as caught:
            asyncio.run(reading)
    assert caught.value.status == found
    assert isinstance(caught.value, StoreUnavailableError) == (found is None)


@pytest.mark.parametrize("status", [400, 501])
def test_a_store_without_conditional_requests_is_recognized_by_its_status(status: int) -> None:
    with answering(status) as host:
        fs = filesystem_of(host)
        store = open_conditional(fs, "bucket/a 501 N")
        assert store is not None
        with pytest.raises(NotImplementedError if status == 501 else OSError, match="store") as caught:
            store.read("bucket/a 501 N")
    if status == 400:
        assert "HTTP 400" in str(caught.value)
        assert not isinstance(caught.value, NotImplementedError)


class ClosedBadly:
    """A user's backend that cannot be closed."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    async def get_range(self, url: str, start: int, length: int) -> bytes:
        return self.content[start : start + length]

    async def get_ranges(self, url: str, ranges: Any) -> list[bytes]:
        return [await self.get_range(url, *span) for span in ranges]

    async def aclose(self) -> None:
        raise ValueError("the pool was closed twice")


def test_a_backend_that_cannot_be_closed_spoils_no_build(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    backend = ClosedBadly(tiff_bytes())
    with caplog.at_level(logging.WARNING):
        built = ra.build_from_table(record_table(["a"], {"B": ["mine://a"]}), enrich_cog=True, backend=backend)
    assert built.to_table()["B_metadata"].null_count == 0
    assert "the connections of the ClosedBadly could not be closed" in caplog.text
    assert "the pool was closed twice" in caplog.text


def test_a_signed_address_of_azure_is_asked_as_it_is_written(
    server: RangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user gives credentials for other addresses; a proxy of theirs sees which host is asked."""
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, server.url)
    monkeypatch.delenv("no_proxy", raising=False)

    def provider() -> dict[str, Any]:
        raise AssertionError("credentials were asked for")

    asked: list[str] = []

    class Proxy(AnsweringHandler):
        def do_CONNECT(self) -> None:  # noqa: N802  (the name that the base class looks for)
            asked.append(self.path)
            self.send_error(403)

    proxy = LoopbackServer(("127.0.0.1", 0), Proxy)
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.server_port}")

    async def read(*urls: str) -> None:
        backend = create_backend(credential_provider=provider)
        for url in urls:
            with pytest.raises(RangeReadError, match=r"^https://[a-z.]+/c/a\.tif: ") as caught:
                await backend.get_range(url, 0, 10)
            assert "sig=" not in str(caught.value)
        await backend.aclose()

    with serving(proxy):
        asyncio.run(
            read(
                "https://acct.blob.core.windows.net/c/a.tif?sv=1&sig=x",
                "https://acct.blob.core.windows.net.example.com/c/a.tif",
            )
        )
    assert asked == ["acct.blob.core.windows.net:443", "acct.blob.core.windows.net.example.com:443"]


def test_an_interrupt_within_a_backend_ends_the_build_and_nothing_else(tmp_path: Path) -> None:
    """An exception that ends the program stops the event loop that all reads of the process share."""
    pq.write_table(record_table(["a", "b"], {"B": ["mine://a", "mine://b"]}), tmp_path / "t.parquet")
    spec = ra.CollectionSpec.of(
        path=str(tmp_path / "t.parquet"), name="t", workspace_dir=str(tmp_path), enrich_cog=True, band_codes=["B"]
    )

    class Interrupted(ClosedBadly):
        async def get_range(self, url: str, start: int, length: int) -> bytes:
            raise KeyboardInterrupt

    with ThreadPoolExecutor(1) as thread:
        with pytest.raises(KeyboardInterrupt):
            thread.submit(ra.build, spec, backend=Interrupted(b"")).result(LIMIT_S)
        report = thread.submit(ra.build, spec, backend=ClosedBadly(tiff_bytes())).result(LIMIT_S)
    assert report.totals["headers_fetched"] == 2


def test_a_last_step_that_fails_hides_nothing() -> None:
    def step() -> None:
        raise OSError("no space left")

    ended = KeyboardInterrupt()
    also_do(step, ended)
    assert ended.__notes__ == ["then also: no space left"]
