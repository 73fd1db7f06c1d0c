"""Range requests over connections of our own, at a fraction of the processor time of a general HTTP client.

A header is a few kilobytes, so that the client takes most of the processor time of a header
(:mod:`~rasteret_assets.storage.http.http_backend` has the figures). This client sends one GET at a time on each
connection, keeps connections alive, and reads every form of body that HTTP/1 has. The caller follows redirects and goes
through proxies.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Final

from rasteret_assets.storage.http.answer import HttpAnswer
from rasteret_assets.storage.http.body import DROPPED_BYTES, BodyReader, Chunks, MalformedError, OverlongError
from rasteret_assets.storage.http.connector import Connector
from rasteret_assets.storage.http.head import CHUNKED, LONGEST_HEAD, Head, read_head
from rasteret_assets.storage.http.origin import Origin

#: Seconds for the head of an answer, and seconds without a byte of its body, after which the request fails.
IDLE_TIMEOUT_S = 30.0
#: Seconds for the rest of an unneeded body, after which its connection is closed.
DROPPED_TIMEOUT_S: Final = 2.0
#: Seconds after which an answer fails if it came at fewer bytes a second than ``LEAST_RATE``, because a server that
#: sends a byte now and then would delay a file for days.
SLOW_AFTER_S: Final = 300.0
LEAST_RATE: Final = 1000.0


class RangeConnections:
    """Keep-alive connections of one event loop, by origin.

    Args:
        context: makes the TLS context; called for ``https`` only.
        link_local: whether names may lead to link-local addresses.
    """

    def __init__(self, context: Callable[[], ssl.SSLContext], *, link_local: bool) -> None:
        self._context = context
        self._connector = Connector(link_local=link_local)
        self._idle: dict[Origin, list[_Connection]] = {}

    async def get(
        self, origin: Origin, path: str, head: bytes, ranges: str, start: int, end: int, longest: int
    ) -> HttpAnswer:
        """Return the answer to a request for ranges of an object.

        Args:
            origin: server of the object.
            path: path and query of the object, escaped.
            head: further header lines of the request, each with its line end.
            ranges: value of the ``Range`` header, such as ``bytes=0-99``.
            start: first byte to keep if the server sends the whole object instead.
            end: end of the bytes to keep then.
            longest: most bytes in the body of a 206.

        Raises:
            MalformedError: if the answer is not HTTP or has no end; OverlongError if a range is too long.
            OSError: if the connection fails (also ``asyncio.IncompleteReadError`` where a body ended early).
            TimeoutError: if connecting takes too long, or no byte comes for too long.
        """
        idle = self._idle.setdefault(origin, [])
        request = b"GET %s HTTP/1.1\r\nHost: %s\r\nRange: %s\r\n%s\r\n" % (
            path.encode(), origin.authority, ranges.encode(), head
        )  # fmt: skip
        while True:
            connection = None
            while idle and connection is None:
                kept = idle.pop()
                connection = kept if kept.usable else None
            if fresh := connection is None:
                connection = await self._connect(origin)
            try:
                answer = await connection.ask(request, start, end, longest)
            except _StaleConnectionError as error:
                if fresh:
                    raise ConnectionResetError("the connection was closed without an answer") from error
                continue  # the server closed the idle connection and answered nothing, so ask on another one
            except BaseException:
                connection.close()
                raise
            if connection.usable:
                idle.append(connection)
            else:
                connection.close()
            return answer

    async def _connect(self, origin: Origin) -> _Connection:
        loop = asyncio.get_running_loop()
        context = self._context() if origin.secure else None
        return await self._connector.connect(origin.host, origin.port, lambda: _Connection(loop), context)

    def close(self) -> None:
        """Close every connection that is not in use."""
        for idle in self._idle.values():
            for connection in idle:
                connection.close()
        self._idle.clear()
        self._connector.close()


class _StaleConnectionError(OSError):
    """A connection that ended before the first byte of an answer."""


class _Connection(asyncio.Protocol):
    """One connection with at most one request on it.

    Nearly every answer is a 206 of known length, whose bytes are joined here (``_missing`` counts them down). All other
    answers go through a :class:`BodyReader`.

    Args:
        loop: event loop of the connection, because asking for the running loop costs a system call before Python 3.12.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[HttpAnswer] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = self._begun = 0.0
        self._head = b""
        self._heads = 0
        self._response: Head | None = None
        self._parts: list[bytes] = []
        self._missing = 0
        self._received = 0
        self._reader: BodyReader | None = None
        self._chunks: Chunks | None = None
        self._remaining: int | None = None
        self._dropped = 0
        self._start = self._end = self._longest = 0
        self._keep = True

    @property
    def usable(self) -> bool:
        """Whether another request can be sent."""
        return self._keep and self._transport is not None and not self._transport.is_closing()

    def ask(self, request: bytes, start: int, end: int, longest: int) -> asyncio.Future[HttpAnswer]:
        """Send a request and return a future of the answer; arguments as for :meth:`RangeConnections.get`."""
        self._answer = self._loop.create_future()
        self._head, self._parts, self._missing, self._received, self._heads = b"", [], 0, 0, 0
        self._response = self._reader = None
        self._start, self._end, self._longest = start, end, longest
        self._begun = self._loop.time()
        self._deadline = self._begun + IDLE_TIMEOUT_S
        # One timer serves many requests: when it goes off, it checks the deadline of the request that is under way.
        if self._timer is None:
            self._timer = self._loop.call_later(IDLE_TIMEOUT_S, self._check_deadline)
        assert self._transport is not None  # noqa: S101  (create_connection returns after connection_made)
        self._transport.write(request)
        return self._answer

    def close(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; called by the event loop."""
        self._transport = transport  # type: ignore[assignment]  # a stream transport, as the connection is one

    def connection_lost(self, exc: Exception | None) -> None:
        """Finish or fail the request that is under way; called by the event loop."""
        self._keep = False
        if self._timer is not None:
            self._timer.cancel()
        if self._answer is None or self._answer.done():
            return
        if self._reader is not None:
            self._lost_in_a_body(self._reader, exc)
        elif self._parts or self._head or self._heads or self._missing:
            self._fail(asyncio.IncompleteReadError(b"", None))
        else:
            self._fail(exc if exc is not None and not isinstance(exc, OSError) else _StaleConnectionError(str(exc)))

    def data_received(self, data: bytes) -> None:
        """Take in bytes of an answer; called by the event loop."""
        if self._answer is None or self._answer.done():
            self._keep = False  # the server sends bytes without a request
            return
        try:
            if self._reader is not None:
                self._read_body(self._reader, data)
                return
            if not self._missing:
                data = self._read_head(data)
                if not self._missing:
                    return
            self._parts.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                self._progress(len(data))
                return
            if self._missing < 0:  # the server sends more bytes than it announced
                self._keep = False
                self._parts[-1] = data[: self._missing]
            self._succeed(self._parts[0] if len(self._parts) == 1 else b"".join(self._parts))
        except (MalformedError, EOFError) as error:
            self._fail(error)

    def _read_head(self, data: bytes) -> bytes:
        """Take in the head of an answer; once it is complete, return the bytes after it of a body of known length."""
        data = self._head + data if self._head else data
        while True:
            end, begin = data.find(b"\r\n\r\n"), 4
            if end < 0 and b"\n\n" in data and b"\r\n" not in data:  # line ends without CR (RFC 9112, 2.2)
                end, begin = data.find(b"\n\n"), 2
            self._received = len(data)
            if end > LONGEST_HEAD or (end < 0 and len(data) > LONGEST_HEAD):
                raise MalformedError("the head of the answer has no end")
            if end < 0:
                self._head = data
                return b""
            response = read_head(data[:end] if begin == 4 else data[:end].replace(b"\n", b"\r\n"))
            data = data[end + begin :]
            if not 100 <= response.status < 200:
                break
            # An interim answer comes before the answer (RFC 9110, 15.2); 101 would change to a protocol not asked for.
            self._heads += end + begin
            if response.status == 101 or self._heads > LONGEST_HEAD:
                raise MalformedError("the answer does not begin")
        self._response, self._keep, self._head = response, response.keep, b""
        if response.status == 206 and (response.length or 0) > 0 and "content-encoding" not in response.headers:
            self._missing = response.length or 0
            if self._missing > self._longest:
                raise OverlongError(f"{response.length} bytes were announced")
            return data
        self._reader = BodyReader(response.status, response.headers, self._start, self._end, self._longest)
        self._chunks, self._remaining = (Chunks(), None) if response.length == CHUNKED else (None, response.length)
        self._dropped = 0
        self._read_body(self._reader, data)
        return b""

    def _read_body(self, reader: BodyReader, data: bytes) -> None:
        if reader.enough:
            self._dropped += len(data)
        if self._chunks is not None:
            for piece in self._chunks.feed(data):
                reader.feed(piece)
            ended, excess = self._chunks.ended, self._chunks.ended and bool(self._chunks.rest)
        elif self._remaining is not None:
            reader.feed(data[: self._remaining])
            excess = len(data) > self._remaining
            self._remaining = max(0, self._remaining - len(data))
            ended = not self._remaining
        else:
            reader.feed(data)
            ended = excess = False
        if excess:
            self._keep = False
        if ended:
            reader.end()
            self._succeed_by(reader, whole=True)
        elif not reader.enough:
            reader.count_wire(len(data))
            self._progress(len(data))
        elif not self._keep or self._dropped > DROPPED_BYTES or (self._remaining or 0) > DROPPED_BYTES:
            self._give_up_the_rest(reader)
        else:
            self._arm(self._loop.time() + DROPPED_TIMEOUT_S)

    def _give_up_the_rest(self, reader: BodyReader) -> None:
        """Answer with the bytes so far and close the connection, which costs less than the rest of the body."""
        self._keep = False
        self._succeed_by(reader, whole=False)

    def _lost_in_a_body(self, reader: BodyReader, exc: Exception | None) -> None:
        if reader.enough:
            self._give_up_the_rest(reader)
        elif exc is not None or self._chunks is not None or self._remaining is not None:
            self._fail(asyncio.IncompleteReadError(b"", None))
        else:  # a body without a length ends with its connection (RFC 9112, 6.3)
            try:
                reader.end()
                self._succeed_by(reader, whole=True)
            except (MalformedError, EOFError) as error:
                self._fail(error)

    def _succeed_by(self, reader: BodyReader, *, whole: bool) -> None:
        assert self._response is not None  # noqa: S101  (a reader is made of it)
        size = None if reader.encoded or self._response.length == CHUNKED else self._response.length
        self._succeed(reader.body.data, reader.body.count if whole and size is None else size)

    def _succeed(self, body: bytes, size: int | None = None) -> None:
        self._missing, self._parts, self._reader = 0, [], None
        if self._answer is not None and not self._answer.done() and self._response is not None:
            self._answer.set_result(HttpAnswer(self._response.status, self._response.headers, body, size))

    def _fail(self, error: Exception) -> None:
        self._keep = False
        self._missing, self._parts, self._reader, self._head = 0, [], None, b""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    def _progress(self, count: int) -> None:
        """Move the deadline after ``count`` bytes of the body; fail an answer that comes too slowly."""
        now = self._loop.time()
        self._received += count
        self._deadline = now + IDLE_TIMEOUT_S
        taken = now - self._begun
        if taken > SLOW_AFTER_S and self._received < LEAST_RATE * taken:
            self._fail(TimeoutError("the answer comes too slowly"))

    def _arm(self, deadline: float) -> None:
        """Bring the deadline forward to ``deadline``, and set the timer to it."""
        self._deadline = min(deadline, self._deadline)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._deadline, self._check_deadline)

    def _check_deadline(self) -> None:
        self._timer = None
        if self._answer is None or self._answer.done():
            return
        if self._deadline > self._loop.time():
            self._timer = self._loop.call_at(self._deadline, self._check_deadline)
        elif self._reader is not None and self._reader.enough:
            self._give_up_the_rest(self._reader)
        else:
            self._fail(TimeoutError("no byte came in time"))
