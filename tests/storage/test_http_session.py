"""Headers, redirects, cookies and proxies over real servers: what is sent to which host, and what no error shows."""

from __future__ import annotations

import asyncio
import base64
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rasteret_assets import StorageBackend, create_backend
from rasteret_assets.errors import (
    AccessDeniedError,
    BadAnswerError,
    HostUnreachableError,
    RangeReadError,
    ReadTimeoutError,
    SpecError,
    StoreUnavailableError,
    ThrottledError,
    TruncatedReadError,
)
from rasteret_assets.storage import close_backend, read_range
from rasteret_assets.storage.http import ranges as http_ranges
from tests.support.server import RangeServer

DATA = bytes(range(256)) * 40
SECRETS = {"Authorization": "Bearer token", "Cookie": "session=mine", "X-Study": "17"}


@pytest.fixture
def other(tmp_path: Path) -> Iterator[RangeServer]:
    with RangeServer(tmp_path).running() as running:
        running.objects["/x.tif"] = DATA
        yield running


def read_all(*urls: str, backend: StorageBackend | None = None) -> list[bytes]:
    """Return the first 100 bytes of every URL, read one after the other."""
    used = backend or create_backend()

    async def go() -> list[bytes]:
        try:
            return [bytes((await read_range(used, url, 0, 100)).data) for url in urls]
        finally:
            await close_backend(used)

    return asyncio.run(go())


def by_name(server: RangeServer) -> str:
    """Return the server's address with the name of this machine, which is another host than its number."""
    return server.url.replace("127.0.0.1", "localhost")


def test_a_redirect_on_the_same_host_carries_what_signs_the_request(server: RangeServer) -> None:
    server.objects["/x.tif"] = DATA
    server.answers["/old.tif"] = (302, {"Location": "/x.tif"}, b"")
    assert read_all(server.url + "/old.tif", backend=create_backend(headers=SECRETS)) == [DATA[:100]]
    assert server.paths[-1] == "/x.tif"
    for headers in server.headers:
        assert SECRETS.items() <= headers.items()
        assert headers["Range"] == "bytes=0-99"


def test_a_redirect_to_another_host_carries_nothing_that_signs_the_request(
    server: RangeServer, other: RangeServer
) -> None:
    server.answers["/old.tif"] = (307, {"Location": by_name(other) + "/x.tif"}, b"")
    assert read_all(server.url + "/old.tif", backend=create_backend(headers=SECRETS)) == [DATA[:100]]
    assert server.headers[0]["Authorization"] == "Bearer token"
    (headers,) = other.headers
    assert not {"Authorization", "Cookie"} & headers.keys()
    assert headers["Range"] == "bytes=0-99"


@pytest.mark.parametrize("host", ["169.254.169.254", "[fe80::1]", "0xa9fea9fe", "metadata.google.internal"])
def test_a_redirect_leads_to_no_service_of_this_machine(server: RangeServer, host: str) -> None:
    server.answers["/old.tif"] = (302, {"Location": f"http://{host}/latest/meta-data"}, b"")
    with pytest.raises(BadAnswerError, match="leads to a service of this machine or its network: refused"):
        read_all(server.url + "/old.tif")


def test_a_redirect_to_another_port_is_one_to_another_host(server: RangeServer, other: RangeServer) -> None:
    server.answers["/old.tif"] = (302, {"Location": other.url + "/x.tif"}, b"")
    assert read_all(server.url + "/old.tif", backend=create_backend(headers=SECRETS)) == [DATA[:100]]
    assert not {"Authorization", "Cookie"} & other.headers[0].keys()


def test_cookies_of_a_login_are_kept_and_shown_to_their_host_only(server: RangeServer, other: RangeServer) -> None:
    server.objects |= {"/x.tif": DATA, "/y.tif": DATA}
    here = by_name(server)
    server.answers["/login.tif"] = (302, {"Location": "/x.tif", "Set-Cookie": "visit=7; Path=/"}, b"")
    server.answers["/away.tif"] = (302, {"Location": other.url + "/x.tif"}, b"")
    assert read_all(f"{here}/login.tif", f"{here}/y.tif", f"{here}/away.tif") == [DATA[:100]] * 3
    cookies = [headers.get("Cookie") for headers in server.headers]
    assert cookies[-3:] == ["visit=7"] * 3
    assert "Cookie" not in other.headers[0]


@pytest.mark.parametrize(
    ("status", "error"),
    [(403, AccessDeniedError), (503, ThrottledError), (429, ThrottledError), (500, StoreUnavailableError),
     (418, RangeReadError)],
)  # fmt: skip
def test_errors_behind_a_redirect_to_a_signed_url_hide_its_query(
    server: RangeServer, other: RangeServer, status: int, error: type[RangeReadError]
) -> None:
    server.answers["/old.tif"] = (302, {"Location": other.url + "/x.tif?X-Amz-Signature=s3cr3t"}, b"")
    other.answers["/x.tif?X-Amz-Signature=s3cr3t"] = (status, {}, b"s3cr3t")
    assert_hides_the_secret(server.url + "/old.tif", error)


@pytest.mark.parametrize(
    "location", ["http://127.0.0.1:9/x.tif?s=s3cr3t", "http://[broken?s=s3cr3t", "ftp://h/x.tif?s=s3cr3t", "?s=s3cr3t"]
)
def test_redirects_that_lead_nowhere_hide_their_query(server: RangeServer, location: str) -> None:
    server.answers["/old.tif"] = server.answers["/old.tif?s=s3cr3t"] = (302, {"Location": location}, b"")
    assert_hides_the_secret(server.url + "/old.tif", RangeReadError)


@pytest.mark.parametrize(("fault", "error"), [("reset", StoreUnavailableError), ("short", TruncatedReadError)])
def test_broken_connections_behind_a_redirect_hide_its_query(
    server: RangeServer, other: RangeServer, fault: str, error: type[RangeReadError]
) -> None:
    server.answers["/old.tif"] = (302, {"Location": other.url + "/x.tif?s=s3cr3t"}, b"")
    other.fault = lambda path, before: fault
    assert_hides_the_secret(server.url + "/old.tif", error)


def test_a_slow_answer_behind_a_redirect_is_a_timeout(
    server: RangeServer, other: RangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_ranges, "IDLE_TIMEOUT_S", 0.05)
    server.answers["/old.tif"] = (302, {"Location": other.url + "/x.tif?s=s3cr3t"}, b"")
    other.fault = lambda path, before: "slow"
    assert_hides_the_secret(server.url + "/old.tif", ReadTimeoutError)


def assert_hides_the_secret(url: str, error: type[RangeReadError]) -> None:
    with pytest.raises(error) as caught:
        read_all(url)
    assert "s3cr3t" not in "".join(traceback.format_exception(caught.value))


def test_a_proxy_that_is_given_is_asked_for_http(server: RangeServer) -> None:
    server.objects["http://images.example/x.tif"] = DATA
    backend = create_backend(headers={"X-Study": "17"}, proxy=server.url)
    assert read_all("http://images.example/x.tif?a=1", backend=backend) == [DATA[:100]]
    assert server.paths == ["http://images.example/x.tif?a=1"]
    assert server.headers[0]["X-Study"] == "17"


def test_a_proxy_of_the_environment_is_asked_but_for_what_it_excepts(
    server: RangeServer, other: RangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.objects["http://images.example/x.tif"] = DATA
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert read_all("http://images.example/x.tif", other.url + "/x.tif") == [DATA[:100]] * 2
    assert server.paths == ["http://images.example/x.tif"]
    assert other.paths == ["/x.tif"]


def test_a_proxy_with_a_password_gets_it_and_no_one_else_does(server: RangeServer) -> None:
    server.objects["http://images.example/x.tif"] = DATA
    proxy, dead = (url.replace("//", "//me:s3cr3t@") for url in (server.url, "http://127.0.0.1:9"))
    assert read_all("http://images.example/x.tif", backend=create_backend(proxy=proxy)) == [DATA[:100]]
    assert server.headers[0]["Proxy-Authorization"].startswith("Basic ")
    with pytest.raises(HostUnreachableError, match=r"proxy 127\.0\.0\.1:9") as caught:
        read_all("http://images.example/x.tif", backend=create_backend(proxy=dead))
    assert "s3cr3t" not in "".join(traceback.format_exception(caught.value))


def test_headers_given_by_host_go_to_that_host_only(server: RangeServer, other: RangeServer) -> None:
    server.objects["/x.tif"] = DATA
    here = by_name(server)
    by_host = {"LOCALHOST": {"X-Api-Key": "k", "x-study": "18"}, other.url.partition("//")[2]: {"X-Other": "o"}}
    read_all(f"{here}/x.tif", f"{other.url}/x.tif", f"{server.url}/x.tif", backend=create_backend(headers=by_host))
    first, second = server.headers
    assert (first["X-Api-Key"], first["x-study"]) == ("k", "18")
    assert "X-Other" not in first
    assert other.headers[0]["X-Other"] == "o"
    assert not {"X-Api-Key", "X-Other", "x-study"} & (second.keys() | (other.headers[0].keys() - {"X-Other"}))


def test_headers_by_host_take_precedence_over_headers_for_all(server: RangeServer) -> None:
    server.objects["/x.tif"] = DATA
    headers: dict[str, Any] = {**SECRETS, "127.0.0.1": {"authorization": "Bearer mine"}}
    read_all(server.url + "/x.tif", by_name(server) + "/x.tif", backend=create_backend(headers=headers))
    lowered = [{name.lower(): value for name, value in found.items()} for found in server.headers]
    assert [found["authorization"] for found in lowered] == ["Bearer mine", "Bearer token"]
    assert [found["x-study"] for found in lowered] == ["17", "17"]


def test_no_header_follows_a_redirect_to_another_host(server: RangeServer, other: RangeServer) -> None:
    here = by_name(server)
    server.answers["/away.tif"] = (302, {"Location": other.url + "/x.tif"}, b"")
    headers: dict[str, Any] = {**SECRETS, "X-Api-Key": "k", "localhost": {"X-Host": "h"}}
    assert read_all(f"{here}/away.tif", backend=create_backend(headers=headers)) == [DATA[:100]]
    assert server.headers[0]["X-Host"] == "h"
    assert server.headers[0]["X-Api-Key"] == "k"
    assert not (headers.keys() | {"X-Host"}) & other.headers[0].keys()


def test_a_redirect_brings_a_host_the_headers_that_are_its_own_and_back_again(
    server: RangeServer, other: RangeServer
) -> None:
    # As a login does: to its host, and back with a token in the address.
    server.objects["/x.tif?token=1"] = DATA
    there = by_name(other)
    server.answers["/x.tif"] = (302, {"Location": there + "/login"}, b"")
    other.answers["/login"] = (302, {"Location": server.url + "/x.tif?token=1"}, b"")
    backend = create_backend(headers={"X-Study": "17", "localhost": {"X-Login": "l"}})
    assert read_all(f"{server.url}/x.tif", backend=backend) == [DATA[:100]]
    assert other.headers[0]["X-Login"] == "l"
    assert "X-Study" not in other.headers[0]
    assert [headers["X-Study"] for headers in server.headers] == ["17", "17"]


@pytest.mark.parametrize("proxied", [False, True])
def test_the_user_of_an_address_is_sent_to_its_host_only(
    server: RangeServer, other: RangeServer, *, proxied: bool
) -> None:
    server.objects["/x.tif"] = server.objects[f"{server.url}/x.tif"] = DATA
    server.answers["/away.tif"] = (302, {"Location": other.url + "/x.tif"}, b"")
    signed = server.url.replace("//", "//me%40home:s3cr%2Ft@")
    backend = create_backend(headers={"Authorization": "Bearer token"}, proxy=server.url if proxied else None)
    paths = ["/x.tif"] if proxied else ["/x.tif", "/away.tif"]
    assert read_all(*(signed + path for path in paths), backend=backend) == [DATA[:100]] * len(paths)
    told = "Basic " + base64.b64encode(b"me@home:s3cr/t").decode()
    assert {headers["Authorization"] for headers in server.headers} == {told}
    assert all("Authorization" not in headers for headers in other.headers)


@pytest.mark.parametrize("path", ["/gone.tif", "/round.tif", ":port/x.tif", ":99999/x.tif"])
def test_the_password_of_an_address_is_in_no_error(server: RangeServer, path: str) -> None:
    server.answers["/round.tif"] = (302, {"Location": "/round.tif"}, b"")
    base = server.url if path.startswith("/") else "http://127.0.0.1"
    assert_hides_the_secret(base.replace("//", "//me:s3cr3t@") + path, RangeReadError)


@pytest.mark.parametrize(
    "headers",
    [{"X-A": "s3cr3t\r\nX-B: 1"}, {"X A": "s3cr3t"}, {"X-A": 1}, {"https://h/": {"X-A": "s3cr3t"}},
     {"h": {"": "s3cr3t"}}, {"a b": {"X-A": "1"}}, {"user@h": {"X-A": "1"}}, {"h:port": {"X-A": "1"}}],
)  # fmt: skip
def test_invalid_headers_are_refused_where_they_are_given(headers: dict[str, Any]) -> None:
    with pytest.raises(SpecError) as caught:
        create_backend(headers=headers)
    assert "s3cr3t" not in str(caught.value)


def test_a_redirect_in_utf8_and_one_without_a_scheme_are_followed(server: RangeServer, other: RangeServer) -> None:
    server.objects["/ü.tif"] = DATA
    server.answers["/old.tif"] = (301, {"Location": "/ü.tif".encode().decode("latin-1")}, b"")
    server.answers["/away.tif"] = (308, {"Location": other.url.removeprefix("http:") + "/x.tif#a"}, b"")
    assert read_all(server.url + "/old.tif", server.url + "/away.tif") == [DATA[:100]] * 2
