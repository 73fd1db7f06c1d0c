"""Names that lead to link-local addresses are refused by the address that would be connected to, not by the name."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from rasteret_assets import CollectionSpec, build, create_backend, plan
from rasteret_assets.errors import BadAnswerError, LinkLocalRefusedError, RangeReadError, SourceError
from rasteret_assets.headers.failures import read_failures
from rasteret_assets.source.open import open_source
from rasteret_assets.storage import close_backend, read_range
from rasteret_assets.storage.addresses import link_local
from rasteret_assets.storage.workspace import Workspace
from tests.support.rasters import record_table, tiff_bytes
from tests.support.server import RangeServer

Resolve = Callable[..., None]
DATA = bytes(range(256))


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Resolve:
    """Let the resolver answer with these addresses, by name."""
    known: dict[str, tuple[str, ...]] = {}
    ask = socket.getaddrinfo

    def answer(host: Any, port: Any, *arguments: Any, **options: Any) -> Any:
        return [entry for one in known.get(host, (host,)) for entry in ask(one, port, *arguments, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    return lambda name, *addresses: known.update({name: addresses})


@pytest.fixture
def forbidden(monkeypatch: pytest.MonkeyPatch) -> Iterator[RangeServer]:
    """A server whose address counts as link-local, because a test cannot listen at a real one."""
    networks = (*link_local._NETWORKS, ipaddress.ip_network("127.0.0.3/32"))
    monkeypatch.setattr(link_local, "_NETWORKS", networks)
    link_local.is_link_local.cache_clear()
    with RangeServer(host="127.0.0.3").running() as running:
        running.objects["/x.tif"] = DATA
        yield running
    link_local.is_link_local.cache_clear()


def read(url: str, **options: Any) -> bytes:
    backend = create_backend(**options)

    async def go() -> bytes:
        try:
            return bytes((await read_range(backend, url, 0, 100)).data)
        finally:
            await close_backend(backend)

    return asyncio.run(go())


def at_name(server: RangeServer, name: str) -> str:
    return f"http://{name}:{server.url.rpartition(':')[2]}/x.tif"


@pytest.mark.parametrize(
    "address",
    ["169.254.169.254", "100.100.100.200", "fe80::1", "fd00:ec2::254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe"],
)
def test_a_name_that_leads_to_such_an_address_is_refused(resolve: Resolve, address: str) -> None:
    resolve("files.example", address)
    with pytest.raises(LinkLocalRefusedError, match=r"name 'files\.example' leads to .* link_local: allow") as caught:
        read("http://files.example/x.tif?sig=secret")
    assert not caught.value.is_retried_at_once
    assert "secret" not in str(caught.value)


def test_the_host_behind_such_a_name_is_never_reached(resolve: Resolve, forbidden: RangeServer) -> None:
    resolve("files.example", "127.0.0.3")
    with pytest.raises(LinkLocalRefusedError):
        read(at_name(forbidden, "files.example"))
    assert (forbidden.requests, forbidden.clients) == ([], set())
    assert read(at_name(forbidden, "files.example"), link_local="allow") == DATA[:100]
    # Whoever writes the address itself is held by the table's spec, not by the backend.
    assert read(f"{forbidden.url}/x.tif") == DATA[:100]


def test_other_addresses_of_a_name_are_used(resolve: Resolve, server: RangeServer, forbidden: RangeServer) -> None:
    server.objects["/x.tif"] = DATA[::-1]
    resolve("files.example", "127.0.0.3", "127.0.0.1", "169.254.169.254")
    assert read(at_name(server, "files.example")) == DATA[::-1][:100]
    assert not forbidden.clients


def test_a_name_that_leads_elsewhere_later_is_refused_then(
    resolve: Resolve, server: RangeServer, forbidden: RangeServer
) -> None:
    server.objects["/x.tif"] = DATA
    resolve("files.example", "127.0.0.1")
    backend = create_backend()

    async def go(url: str) -> bytes:
        try:
            return bytes((await read_range(backend, url, 0, 100)).data)
        finally:
            await close_backend(backend)

    assert asyncio.run(go(at_name(server, "files.example"))) == DATA[:100]
    resolve("files.example", "127.0.0.3")
    with pytest.raises(LinkLocalRefusedError):
        asyncio.run(go(at_name(forbidden, "files.example")))
    assert not forbidden.requests


@pytest.mark.parametrize("allowed", ["refuse", "allow"])
def test_a_redirect_to_such_a_name_is_refused_whatever_is_allowed(
    resolve: Resolve, server: RangeServer, forbidden: RangeServer, allowed: str
) -> None:
    resolve("files.example", "127.0.0.3")
    server.answers["/old.tif"] = (302, {"Location": at_name(forbidden, "files.example")}, b"")
    server.answers["/bare.tif"] = (302, {"Location": f"{forbidden.url}/x.tif"}, b"")
    errors: dict[str, type[RangeReadError]] = {"old": LinkLocalRefusedError, "bare": BadAnswerError}
    for name, error in errors.items():
        with pytest.raises(error):
            read(f"{server.url}/{name}.tif", link_local=allowed)
    assert not forbidden.requests


def test_a_build_lists_such_headers_and_reads_them_once_they_are_allowed(
    resolve: Resolve, server: RangeServer, forbidden: RangeServer, tmp_path: Path
) -> None:
    resolve("files.example", "127.0.0.3")
    server.objects["/good.tif"] = forbidden.objects["/x.tif"] = tiff_bytes()
    hrefs = {"B02": [f"{server.url}/good.tif", at_name(forbidden, "files.example")]}
    pq.write_table(record_table(["good", "led"], hrefs), tmp_path / "t.parquet")
    spec = CollectionSpec.of(path=tmp_path / "t.parquet", name="s", workspace_dir=tmp_path / "w", enrich_cog=True)
    build(spec)
    (row,) = read_failures(Workspace.of(spec)).table.to_pylist()
    assert (row["id"], row["error_class"]) == ("led", "link_local_refused")
    assert not plan(spec).partitions  # the same table is refused the same way
    assert not forbidden.requests
    allowed = CollectionSpec.of(**{**spec.model_dump(), "link_local": "allow"})
    assert build(allowed).totals["headers_failed"] == 0
    assert (len(server.requests), len(forbidden.requests)) == (1, 1)


def test_a_table_at_such_an_address_is_read_only_where_the_spec_allows_it(
    forbidden: RangeServer, server: RangeServer, tmp_path: Path
) -> None:
    pq.write_table(record_table(["a"], {"B02": ["https://e.test/x.tif"]}), tmp_path / "t.parquet")
    forbidden.objects["/t.parquet"] = (tmp_path / "t.parquet").read_bytes()
    url = f"{forbidden.url}/t.parquet"
    with pytest.raises(SourceError, match="link_local: allow"):
        open_source(url, CollectionSpec.of(path=url))
    assert open_source(url, CollectionSpec.of(path=url, link_local="allow")).table().num_rows == 1
    # Who is allowed to name such an address may not be led to it.
    forbidden.reset()
    for name in ("/led.parquet", "/led.json"):
        server.answers[name] = (302, {"Location": url}, b"")
        for word in ("refuse", "allow"):
            led = server.url + name
            with pytest.raises(SourceError, match="refused"):
                open_source(led, CollectionSpec.of(path=led, link_local=word))
    assert not forbidden.requests
