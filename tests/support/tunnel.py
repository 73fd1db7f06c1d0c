"""Names of the internet that lead to a server of a test: a proxy takes TLS connections for them to loopback."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import trustme

from tests.support.loopback import AnsweringHandler, LoopbackServer, serving


class Page(AnsweringHandler):
    """Base of the handlers of such a name."""

    @property
    def host(self) -> str:
        return (self.headers.get("Host") or "").partition(":")[0]

    def file(self, body: bytes) -> None:
        """The range that is asked for; several at once get the whole, as at object stores."""
        ranged = (self.headers.get("Range") or "").removeprefix("bytes=")
        tags = {"ETag": f'"{hash(body) & 0xFFFFFFFF:x}"', "Last-Modified": "Mon, 01 Apr 2024 00:00:00 GMT"}
        if not ranged or "," in ranged:
            self.answer(200, body, tags)
            return
        first, _, last = ranged.partition("-")
        start, end = (int(first), min(int(last or len(body)) + 1, len(body))) if first else (-int(last), len(body))
        start = max(0, start + len(body)) if start < 0 else start
        if start >= end:
            self.answer(416, b"", {"Content-Range": f"bytes */{len(body)}"})
            return
        self.answer(206, body[start:end], {**tags, "Content-Range": f"bytes {start}-{end - 1}/{len(body)}"})


@contextmanager
def served(pages: type[Page], names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Serve some names by TLS, as long as the block goes on."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(bundle)
    web = LoopbackServer(("127.0.0.1", 0), pages)
    web.socket = context.wrap_socket(web.socket, server_side=True, do_handshake_on_connect=False)
    proxy = LoopbackServer(("127.0.0.1", 0), _proxy_to(web.server_port))
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.server_port}")
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving(proxy, web):
        yield


def _proxy_to(port: int) -> type[BaseHTTPRequestHandler]:
    class Proxy(BaseHTTPRequestHandler):
        def log_message(self, *args) -> None:
            pass

        def do_CONNECT(self) -> None:
            with socket.create_connection(("127.0.0.1", port)) as other:
                self.connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                back = threading.Thread(target=_pump, args=(other, self.connection), daemon=True)
                back.start()
                _pump(self.connection, other)
                back.join()
            self.close_connection = True

    return Proxy


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
