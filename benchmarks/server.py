"""A range server that is not the bottleneck: one uvloop protocol, answers made once and kept, latency by timer.

``/<kind>/<anything>`` is the file of that kind, so any number of distinct URLs is served from three files;
``/<odd>/<kind>/<anything>`` is the same, answered oddly (``odd_answers.py``). Control, which is neither delayed nor
counted:

- ``/-/reset`` zeroes the counters,
- ``/-/stats`` returns them as JSON,
- ``/-/faults?unavailable=0.1&reset=0.05&short=0.05&missing=0.01&throttle=200`` sets what goes wrong from then on
  (absent: nothing); ``missing`` are 404s with a chunked page, as object stores send them.

The first line of standard output names the server's ``url``, and ``tls``, the same over TLS, where a certificate was
given. It also names dead hosts: ``silent`` accepts connections and never answers, nobody listens on ``refusing``, and
``dead_port`` is the server's own port, which takes no connection at ``::1`` (0: this machine has no ``::1``).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import mmap
import random
import re
import resource
import socket
import ssl
import struct
import time
from collections import Counter
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from urllib.parse import parse_qsl

import uvloop
from odd_answers import ODD_ANSWERS, Asked

_REQUEST = re.compile(rb"(GET|HEAD) /([^/ ]*)/([^ ]*) HTTP/1\.1\r\n")
#: One range, or one and the end of the object beside it.
_RANGE = re.compile(rb"\r\nrange: *bytes=(\d*)-(\d*)(?:,-(\d+))?", re.IGNORECASE)
_BOUNDARY = "boundary-of-parts"
_END = b"\r\n\r\n"
_SAMPLE_S = 0.25
_UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
_THROTTLED = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
_NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
_PAGE = (
    b"<?xml version='1.0' encoding='UTF-8'?>"
    b"<Error><Code>NoSuchKey</Code><Message>There is no such key.</Message></Error>"
)
_MISSING = (
    b"HTTP/1.1 404 Not Found\r\nContent-Type: application/xml\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"%x\r\n%b\r\n0\r\n\r\n" % (len(_PAGE), _PAGE)
)
_ERRORS = {"503": _UNAVAILABLE, "429": _THROTTLED, "404": _MISSING}


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


@dataclass(frozen=True, kw_only=True)
class Faults:
    """Shares of requests that fail, and requests per second beyond which 429 is answered (0: no limit)."""

    unavailable: float = 0.0
    reset: float = 0.0
    short: float = 0.0
    missing: float = 0.0
    throttle: float = 0.0


@dataclass(kw_only=True)
class Counters:
    """What was asked since the last reset; ``concurrency`` holds the most requests in flight per quarter second.

    Connections are counted where they are first asked, so that those of control are not.
    """

    requests: int = 0
    connections: int = 0
    bytes: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    ranges: Counter[str] = field(default_factory=Counter)
    concurrency: list[int] = field(default_factory=list)
    first: float = 0.0
    last: float = 0.0
    cpu_started: float = field(default_factory=_cpu_seconds)

    def report(self) -> dict[str, object]:
        """Return the counters for JSON, in which ``seconds`` is from the first request to the last answer."""
        return {
            "requests": self.requests, "connections": self.connections, "bytes": self.bytes,
            "statuses": dict(self.statuses), "ranges": self.ranges.most_common(3), "concurrency": self.concurrency,
            "seconds": self.last - self.first, "cpu_seconds": _cpu_seconds() - self.cpu_started,
        }  # fmt: skip


class ServedKind:
    """One mmapped file and the answers to the ranges that were asked of it."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self.content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.size = len(self.content)
        modified = formatdate(path.stat().st_mtime, usegmt=True)
        etag = f'"{path.stat().st_mtime_ns:x}-{self.size:x}"'
        self.tags = f"ETag: {etag}\r\nLast-Modified: {modified}\r\nAccept-Ranges: bytes\r\nContent-Type: image/tiff\r\n"
        self.answers: dict[tuple[bytes, bytes, bytes, bytes], tuple[bytes, bytes]] = {}

    def answer(self, method: bytes, first: bytes, last: bytes, tail: bytes) -> tuple[bytes, bytes]:
        """Return head and body of an answer; a missing range or end is an empty text."""
        key = method, first, last, tail
        if key not in self.answers:
            if len(self.answers) > 256:
                self.answers.clear()
            self.answers[key] = self._make_parts(int(last), int(tail)) if tail else self._make(method, first, last)
        return self.answers[key]

    def _make(self, method: bytes, first: bytes, last: bytes) -> tuple[bytes, bytes]:
        start, end, status = 0, self.size, "200 OK"
        ranged = ""
        if first or last:
            start = int(first) if first else max(0, self.size - int(last))
            end = min(int(last) + 1, self.size) if first and last else self.size
            status, ranged = "206 Partial Content", f"Content-Range: bytes {start}-{end - 1}/{self.size}\r\n"
        if start >= self.size:
            status, ranged, end = "416 Range Not Satisfiable", f"Content-Range: bytes */{self.size}\r\n", start
        head = f"HTTP/1.1 {status}\r\n{self.tags}{ranged}Content-Length: {end - start}\r\n\r\n"
        return head.encode(), b"" if method == b"HEAD" else self.content[start:end]

    def _make_parts(self, last: int, tail: int) -> tuple[bytes, bytes]:
        body = b""
        for start, end in ((0, last + 1), (max(0, self.size - tail), self.size)):
            place = f"\r\n--{_BOUNDARY}\r\nContent-Range: bytes {start}-{end - 1}/{self.size}\r\n\r\n"
            body += place.encode() + self.content[start:end]
        body += f"\r\n--{_BOUNDARY}--\r\n".encode()
        tags = self.tags.replace("image/tiff", f"multipart/byteranges; boundary={_BOUNDARY}")
        return f"HTTP/1.1 206 Partial Content\r\n{tags}Content-Length: {len(body)}\r\n\r\n".encode(), body


class Server:
    """What all connections share."""

    def __init__(self, files: dict[bytes, ServedKind], latency_s: float) -> None:
        self.files = files
        self.latency_s = latency_s
        self.faults = Faults()
        self.counters = Counters()
        self.in_flight = 0
        self.most_in_flight = 0
        self.second = 0
        self.in_second = 0
        self.random = random.Random(0)

    def control(self, command: bytes) -> bytes:
        """Answer to a control request, as a whole response."""
        name, _, query = command.decode().partition("?")
        if name == "reset":
            self.counters = Counters()
            self.in_flight = self.most_in_flight = 0
        elif name == "faults":
            self.faults = Faults(**{key: float(value) for key, value in parse_qsl(query)})
            self.random = random.Random(0)
        body = json.dumps(self.counters.report()).encode()
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    def fault(self) -> str:
        """Return the fault of the request that just came, mostly none."""
        if self.faults.throttle:
            second = int(time.monotonic())
            self.in_second = self.in_second + 1 if second == self.second else 1
            self.second = second
            if self.in_second > self.faults.throttle:
                return "429"
        draw = self.random.random()
        for name, share in (
            ("503", self.faults.unavailable), ("reset", self.faults.reset), ("short", self.faults.short),
            ("404", self.faults.missing),
        ):  # fmt: skip
            if draw < share:
                return name
            draw -= share
        return ""

    def sample(self) -> None:
        """Note the most requests in flight since the last sample, from the first request on."""
        if self.counters.first:
            self.counters.concurrency.append(self.most_in_flight)
        self.most_in_flight = self.in_flight
        asyncio.get_running_loop().call_later(_SAMPLE_S, self.sample)


class Connection(asyncio.Protocol):
    """One keep-alive connection."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.loop = asyncio.get_running_loop()
        self.received = b""
        self.asked_before = False
        self.writable = asyncio.Event()
        self.writable.set()
        self.tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        for task in self.tasks:
            task.cancel()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def data_received(self, data: bytes) -> None:
        self.received += data
        while _END in self.received:
            request, _, self.received = self.received.partition(_END)
            self.asked(request + b"\r\n")

    def asked(self, request: bytes) -> None:
        """Count a request and have it answered when the latency is over."""
        server = self.server
        match = _REQUEST.match(request)
        if match is None:
            self.transport.close()
            return
        method, name, rest = match.groups()
        if name == b"-":
            self.transport.write(server.control(rest))
            return
        counters = server.counters
        counters.requests += 1
        counters.connections += not self.asked_before
        self.asked_before = True
        counters.first = counters.first or time.monotonic()
        server.in_flight += 1
        server.most_in_flight = max(server.most_in_flight, server.in_flight)
        odd = ODD_ANSWERS.get(name)
        file = server.files.get(rest.partition(b"/")[0] if odd else name)
        ranged = _RANGE.search(request)
        first, last, tail = ranged.groups(b"") if ranged else (b"", b"", b"")
        head, body = file.answer(method, first, last, tail) if file else (_NOT_FOUND, b"")
        counters.ranges[f"{method.decode()} {first.decode()}-{last.decode()}"] += 1
        if odd is None:
            self.loop.call_later(server.latency_s, self.reply, head, body, server.fault())
            return
        task = self.loop.create_task(self.reply_oddly(name, Asked(rest, head, body)))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def reply_oddly(self, name: bytes, asked: Asked) -> None:
        """Send one of the odd answers when the latency is over."""
        counters = self.server.counters
        counters.statuses[name.decode()] += 1
        await asyncio.sleep(self.server.latency_s)
        try:
            await ODD_ANSWERS[name](self, asked)
        finally:
            self.server.in_flight -= 1
            counters.last = time.monotonic()

    async def send(self, data: bytes) -> None:
        self.server.counters.bytes += len(data)
        self.transport.write(data)
        await self.writable.wait()

    def close(self) -> None:
        self.transport.close()

    def reply(self, head: bytes, body: bytes, fault: str) -> None:
        """Send an answer, or what is left of it."""
        counters = self.server.counters
        self.server.in_flight -= 1
        counters.last = time.monotonic()
        counters.statuses[fault or head[9:12].decode()] += 1
        if not fault:
            counters.bytes += len(body)
            self.transport.writelines((head, body))
        elif fault in _ERRORS:
            self.transport.write(_ERRORS[fault])
        else:
            self.spoil(head, body, fault)

    def spoil(self, head: bytes, body: bytes, fault: str) -> None:
        """Spoil an answer: half of the resets cut the body, half precede it; half of the short bodies tell so."""
        part = body[: int(len(body) * self.server.random.random())]
        lucky = self.server.random.random() < 0.5
        if fault == "short" and lucky:
            length = b"Content-Length: %d\r\n" % len(part)
            self.transport.write(head.replace(b"Content-Length: %d\r\n" % len(body), length) + part)
            return
        if fault == "short" or lucky:
            self.transport.write(head + part)
        if fault == "short":
            self.transport.close()
            return
        connection = self.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


def dead_end(port: int) -> list[socket.socket]:
    """Return sockets that keep ``[::1]:port`` from answering, by a full queue; none on a machine without IPv6."""
    listener, filler = socket.socket(socket.AF_INET6), socket.socket(socket.AF_INET6)
    try:
        listener.bind(("::1", port))
        listener.listen(0)
        filler.connect(("::1", port))
    except OSError:
        return []
    return [listener, filler]


async def serve(server: Server, certificate: Path | None) -> None:
    """Serve until killed."""
    loop = asyncio.get_running_loop()
    living = await loop.create_server(lambda: Connection(server), "127.0.0.1", 0, backlog=4096)
    silent = await loop.create_server(asyncio.Protocol, "127.0.0.2", 0, backlog=4096)
    refusing = socket.socket()
    refusing.bind(("127.0.0.3", 0))
    ports = {"url": living.sockets[0], "silent": silent.sockets[0], "refusing": refusing}
    told = {name: "http://{}:{}".format(*sock.getsockname()) for name, sock in ports.items()}
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
        safe = await loop.create_server(lambda: Connection(server), "127.0.0.1", 0, backlog=4096, ssl=context)
        told["tls"] = "https://{}:{}".format(*safe.sockets[0].getsockname())
    port = living.sockets[0].getsockname()[1]
    dead = dead_end(port)
    print(json.dumps({**told, "dead_port": port if dead else 0}), flush=True)
    server.sample()
    await living.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency-ms", type=float, default=20)
    parser.add_argument("--certificate", type=Path, help="PEM file with key and certificate; without it no TLS")
    parser.add_argument("files", nargs="+", type=Path, help="served under their names without suffix")
    options = parser.parse_args()
    files = {path.stem.encode(): ServedKind(path) for path in options.files}
    uvloop.run(serve(Server(files, options.latency_ms / 1000), options.certificate))


if __name__ == "__main__":
    main()
