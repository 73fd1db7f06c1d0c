"""A real HTTP range server on loopback that counts what it is asked and can be told to misbehave."""

from __future__ import annotations

import re
import socket
import ssl
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class RangeServer:
    """Objects by path: from a folder, and from ``objects`` over it.

    ``fault`` is called with (path, how often this path was asked for before) and returns None or one of
    ``"503"``, ``"429"``, ``"404"``, ``"403"``, ``"reset"``, ``"short"``, ``"no-range"``, ``"html"``.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = root
        self.objects: dict[str, bytes] = {}
        self.fault: Callable[[str, int], str | None] = lambda path, before: None
        self.requests: list[tuple[str, str | None]] = []
        self.headers: list[dict[str, str]] = []
        self.seen: Counter[str] = Counter()
        self.retry_after = "0"
        self._lock = threading.Lock()
        self._httpd = _Server(("127.0.0.1", 0), _handler(self))
        self.scheme = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self._httpd.server_address[1]}"

    @property
    def paths(self) -> list[str]:
        """Path (with query) of every request so far."""
        return [path for path, _ in self.requests]

    def reset(self) -> None:
        with self._lock:
            self.requests.clear()
            self.headers.clear()
            self.seen.clear()

    def note(self, path: str, ranged: str | None, headers: dict[str, str]) -> int:
        with self._lock:
            self.requests.append((path, ranged))
            self.headers.append(headers)
            self.seen[path] += 1
            return self.seen[path] - 1

    def body(self, path: str) -> bytes | None:
        plain = unquote(path.partition("?")[0])
        if plain in self.objects:
            return self.objects[plain]
        file = self.root / plain.lstrip("/") if self.root is not None else None
        return file.read_bytes() if file is not None and file.is_file() else None

    @contextmanager
    def running(self, context: ssl.SSLContext | None = None) -> Iterator[RangeServer]:
        if context is not None:
            self._httpd.socket = context.wrap_socket(self._httpd.socket, server_side=True)
            self.scheme = "https"
        thread = threading.Thread(target=self._httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._httpd.shutdown()
            self._httpd.server_close()
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def handle_error(self, request, client_address) -> None:
        """Clients that hang up are part of these tests."""


def _handler(server: RangeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Headers and body in one segment: Nagle's algorithm against delayed ACKs costs 40 ms a request otherwise.
        wbufsize = 1 << 20
        disable_nagle_algorithm = True

        def log_message(self, *args) -> None:
            pass

        def do_GET(self) -> None:
            ranged = self.headers.get("Range")
            before = server.note(self.path, ranged, dict(self.headers))
            fault = server.fault(self.path, before)
            body = server.body(self.path)
            if fault == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                self.connection.close()
            elif fault in {"503", "429", "403", "404"}:
                self._answer(int(fault), b"no\n", {"Retry-After": server.retry_after} if fault == "429" else {})
            elif fault == "html":
                self._answer(200, b"<!DOCTYPE html><p>sign in", {"Content-Type": "text/html"})
            elif body is None:
                self._answer(404, b"none\n")
            else:
                self._serve(body, ranged if fault != "no-range" else None, short=fault == "short")

        def _serve(self, body: bytes, ranged: str | None, *, short: bool) -> None:
            tags = {"ETag": f'"{hash(body) & 0xFFFFFFFF:x}"', "Last-Modified": "Mon, 01 Apr 2024 00:00:00 GMT"}
            match = _RANGE.fullmatch(ranged or "")
            if self.headers.get("If-None-Match") == tags["ETag"]:
                self._answer(304, b"", tags)
                return
            if match is None:
                self._answer(200, body, tags)
                return
            start = int(match.group(1))
            end = min(int(match.group(2) or len(body)) + 1, len(body))
            if start >= len(body):
                self._answer(416, b"", {"Content-Range": f"bytes */{len(body)}"})
                return
            part = body[start:end]
            tags["Content-Range"] = f"bytes {start}-{end - 1}/{len(body)}"
            if short:
                part = part[: len(part) // 2]
            self._answer(206, part, tags)

        def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()

    return Handler
