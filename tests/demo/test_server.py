"""The demo's file server: ranges, validators, counts, and who may have its port."""

import socket
import urllib.error
import urllib.request
from http.client import HTTPResponse
from pathlib import Path

import pytest

from rasteret_assets.demo.server import HOST, PortBusyError, serving


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "a.bin").write_bytes(bytes(range(200)))
    (tmp_path / "secret.txt").write_text("outside")
    return folder


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _get(url: str, **headers: str) -> HTTPResponse:
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
        urllib.request.Request(url, headers=headers), timeout=5
    )


def test_ranges_and_validators(files: Path, port: int) -> None:
    with serving(files, port) as server, _get(f"{server.url}/a.bin", Range="bytes=10-19") as answer:
        assert answer.status == 206
        assert answer.read() == bytes(range(10, 20))
        assert answer.headers["Content-Range"] == "bytes 10-19/200"
        assert answer.headers["ETag"]
        assert answer.headers["Last-Modified"]


def test_requests_and_bytes_are_counted(files: Path, port: int) -> None:
    with serving(files, port) as server:
        before = server.traffic()
        with _get(f"{server.url}/a.bin", Range="bytes=0-9"), _get(f"{server.url}/a.bin"):
            pass
        seen = server.traffic() - before
    assert seen == {"requests": 2, "headers": 1, "bytes": 210}


@pytest.mark.parametrize("way", ["../secret.txt", "%2e%2e/secret.txt", "..%2Fsecret.txt", "nothing.tif"])
def test_nothing_but_the_folder_is_served(files: Path, port: int, way: str) -> None:
    with serving(files, port) as server, pytest.raises(urllib.error.HTTPError) as refused:
        _get(f"{server.url}/{way}")
    assert refused.value.code in (403, 404)
    refused.value.close()


def test_a_server_of_the_same_folder_is_shared(files: Path, port: int) -> None:
    with serving(files, port) as first:
        with serving(files, port) as second, _get(f"{second.url}/a.bin"):
            assert (first.is_own, second.is_own) == (True, False)
        assert first.traffic()["requests"] == 1


def test_a_port_of_another_program_is_refused(files: Path, port: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    with (
        serving(other, port),
        pytest.raises(PortBusyError, match=rf"port {port} cannot be opened .*Address already in use.*--port"),
        serving(files, port),
    ):
        pass


def test_the_port_is_free_again_afterwards(files: Path, port: int) -> None:
    for _ in range(2):
        with serving(files, port) as server, _get(f"{server.url}/a.bin") as answer:
            assert answer.status == 200


def test_the_next_free_port_is_taken_where_several_may_be_tried(
    files: Path, port: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    with serving(other, port), serving(files, port, tries=20) as server, _get(f"{server.url}/a.bin") as answer:
        assert server.port > port
        assert answer.status == 200
