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
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import unquote

from tests.support.loopback import AnsweringHandler, LoopbackServer, serving

_RANGES = re.compile(r"bytes=((?:\d+-\d*|-\d+)(?:,(?:\d+-\d*|-\d+))*)")
_BOUNDARY = "a boundary; of parts"


class RangeServer:
    """Objects by path: from a folder, and from ``objects`` over it.

    ``fault`` is called with (path, how often this path was asked for before) and returns None or one of
    ``"503"``, ``"429"``, ``"404"``, ``"403"``, ``"reset"``, ``"short"``, ``"no-range"``, ``"html"``, ``"slow"`` (no
    answer for 5 s), ``"held"`` (no answer until the server stops).
    """

    def __init__(self, root: Path | None = None, host: str = "127.0.0.1") -> None:
        self.root = root
        self.objects: dict[str, bytes] = {}
        self.fault: Callable[[str, int], str | None] = lambda path, before: None
        self.requests: list[tuple[str, str | None]] = []
        self.headers: list[dict[str, str]] = []
        self.seen: Counter[str] = Counter()
        #: Ports that requests came from: one for each connection.
        self.clients: set[int] = set()
        self.retry_after = "0"
        #: Set when the server stops: ends the wait of answers that are ``"slow"`` or ``"held"``.
        self.woken = threading.Event()
        #: Fixed answers by path, before everything else: status, headers, body.
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        #: Whether a request for several ranges gets them; otherwise it gets the whole object, as from object stores.
        self.several_ranges = True
        #: ``ETag`` and ``Last-Modified`` by path, in place of a strong tag of the content and one time for all.
        self.told: dict[str, dict[str, str]] = {}
        #: Whether ``If-Match`` and ``If-Unmodified-Since`` count (RFC 9110, 13.2.2); many servers ignore them.
        self.conditions = True
        self._lock = threading.Lock()
        self._httpd = LoopbackServer((host, 0), _handler(self))
        self.scheme = "http"

    @property
    def url(self) -> str:
        host, port = self._httpd.server_address[:2]
        return f"{self.scheme}://{host}:{port}"

    @property
    def paths(self) -> list[str]:
        """Path (with query) of every request so far."""
        return [path for path, _ in self.requests]

    def reset(self) -> None:
        with self._lock:
            self.requests.clear()
            self.headers.clear()
            self.seen.clear()
            self.clients.clear()

    def note(self, path: str, ranged: str | None, headers: dict[str, str]) -> int:
        with self._lock:
            self.requests.append((path, ranged))
            self.headers.append(headers)
            self.seen[path] += 1
            return self.seen[path] - 1

    def body(self, path: str) -> bytes | None:
        plain = unquote(path.partition("?")[0])
        for name in (path, plain):  # an object may be told from others by its query
            if name in self.objects:
                return self.objects[name]
        file = self.root / plain.lstrip("/") if self.root is not None else None
        return file.read_bytes() if file is not None and file.is_file() else None

    @contextmanager
    def running(self, context: ssl.SSLContext | None = None) -> Iterator[RangeServer]:
        if context is not None:
            self._httpd.socket = context.wrap_socket(self._httpd.socket, server_side=True)
            self.scheme = "https"
        with serving(self._httpd):
            try:
                yield self
            finally:
                self.woken.set()


def _span(part: str, size: int) -> tuple[int, int]:
    """Start and end of one part of a ``Range`` header, within the object."""
    first, _, last = part.partition("-")
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(int(last or size) + 1, size)


def _handler(server: RangeServer) -> type[AnsweringHandler]:
    class Handler(AnsweringHandler):
        def do_GET(self) -> None:  # noqa: N802  (the name that the base class looks for)
            ranged = self.headers.get("Range")
            server.clients.add(self.client_address[1])
            before = server.note(self.path, ranged, dict(self.headers))
            if fixed := server.answers.get(self.path):
                self.answer(fixed[0], fixed[2], fixed[1])
                return
            fault = server.fault(self.path, before)
            body = server.body(self.path)
            if fault in {"slow", "held"}:
                server.woken.wait(5 if fault == "slow" else None)
            if fault == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                self.connection.close()
            elif fault in {"503", "429", "403", "404"}:
                self.answer(int(fault), b"no\n", {"Retry-After": server.retry_after} if fault == "429" else {})
            elif fault == "html":
                self.answer(200, b"<!DOCTYPE html><p>sign in", {"Content-Type": "text/html"})
            elif body is None:
                self.answer(404, b"none\n")
            else:
                self._serve(body, ranged if fault != "no-range" else None, short=fault == "short")

        def _serve(self, body: bytes, ranged: str | None, *, short: bool) -> None:
            tags = {"ETag": f'"{hash(body) & 0xFFFFFFFF:x}"', "Last-Modified": "Mon, 01 Apr 2024 00:00:00 GMT"}
            tags = dict(server.told.get(self.path.partition("?")[0], tags))
            if server.conditions and not self._condition_holds(tags):
                self.answer(412, b"changed\n", tags)
                return
            match = _RANGES.fullmatch(ranged or "")
            if self.headers.get("If-None-Match") == tags.get("ETag", ""):
                self.answer(304, b"", tags)
                return
            spans = [_span(part, len(body)) for part in match.group(1).split(",")] if match else []
            if not spans or (len(spans) > 1 and not server.several_ranges):
                self.answer(200, body, tags)
                return
            spans = [(start, end) for start, end in spans if start < end]
            if not spans:
                self.answer(416, b"", {"Content-Range": f"bytes */{len(body)}"})
                return
            places = [f"bytes {start}-{end - 1}/{len(body)}" for start, end in spans]
            part = body[slice(*spans[0])]
            if len(spans) == 1:
                tags["Content-Range"] = places[0]
            else:
                tags["Content-Type"] = f'multipart/byteranges; boundary="{_BOUNDARY}"'
                parts = [
                    f"--{_BOUNDARY}\r\nContent-Type: image/tiff\r\nContent-Range: {place}\r\n\r\n".encode()
                    + body[slice(*span)] + b"\r\n"
                    for place, span in zip(places, spans, strict=True)
                ]  # fmt: skip
                part = b"".join(parts) + f"--{_BOUNDARY}--\r\n".encode()
            self.answer(206, part[: len(part) // 2] if short else part, tags)

        def _condition_holds(self, tags: dict[str, str]) -> bool:
            demanded, tag = self.headers.get("If-Match"), tags.get("ETag", "W/")
            if demanded is not None:  # by strong comparison: no weak tag matches
                return demanded == tag and not tag.startswith("W/")
            since, modified = self.headers.get("If-Unmodified-Since"), tags.get("Last-Modified")
            return not since or not modified or parsedate_to_datetime(modified) <= parsedate_to_datetime(since)

    return Handler


@dataclass(frozen=True)
class ServedBuild:
    """A collection ``s2`` that was built below ``root``, of files on a server that had the address ``url``."""

    root: Path
    url: str

    @property
    def published(self) -> Path:
        return self.root / "s2_records"

    @property
    def host(self) -> str:
        return self.url.removeprefix("http://")
