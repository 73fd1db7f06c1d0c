"""The plain case of a range request, without the cost of a general HTTP client: one GET, one answer of known length.

A header is a few kilobytes, so the client is what it costs: aiohttp takes three times the processor time of everything
else in a header fetch together. This one keeps connections alive and reads answers that announce their length. Whatever
is not that plain - a redirect, a chunked body, a whole object instead of the range - raises :class:`NotPlainError`, and
the general client takes over.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass

from rasteret_assets.storage.http_answer import HttpAnswer

CONNECT_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 30.0

#: Longer heads than this are somebody's mistake.
_LONGEST_HEAD = 64 * 1024
_NUMBER = re.compile(r"[0-9]{1,19}")
_PLAIN = frozenset({206, 304, 403, 404, 410, 412, 416, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True, eq=False)
class Origin:
    """A server: scheme, host and port of a URL. Looked up by identity, for every request: whoever makes one keeps it.

    Args:
        secure: whether it speaks TLS.
        host: name or address.
        port: TCP port.
        authority: host and port as the ``Host`` header writes them.
    """

    secure: bool
    host: str
    port: int
    authority: bytes


class NotPlainError(Exception):
    """An answer that the general client must read."""


class RangeConnections:
    """Keep-alive connections of one event loop, by origin.

    Args:
        context: makes the context for ``https``, once one is needed.
    """

    def __init__(self, context: Callable[[], ssl.SSLContext]) -> None:
        self._context = context
        self._idle: dict[Origin, list[_Connection]] = {}

    async def get(self, origin: Origin, path: str, head: bytes, ranges: str, longest: int) -> HttpAnswer:
        """Ask for ranges of an object.

        Args:
            origin: server of the object.
            path: path and query of the object, escaped.
            head: further header lines of the request, each with its line end.
            ranges: what the ``Range`` header is to say: ``bytes=0-99``.
            longest: bytes the answer's body may have.

        Raises:
            NotPlainError: if the answer is not of the plain kind.
            OSError: if the connection fails (also ``asyncio.IncompleteReadError`` where a body ended early).
            TimeoutError: if connecting or answering takes too long.
        """
        idle = self._idle.setdefault(origin, [])
        request = b"GET %s HTTP/1.1\r\nHost: %s\r\nRange: %s\r\n%s\r\n" % (
            path.encode(), origin.authority, ranges.encode(), head
        )  # fmt: skip
        while idle:
            connection = idle.pop()
            if connection.usable:
                try:
                    return await self._exchange(connection, idle, request, longest)
                except _StaleConnectionError:
                    continue  # closed by the server while it was idle: nothing was answered, so ask on another one
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, connection = await loop.create_connection(
                lambda: _Connection(loop), origin.host, origin.port, ssl=self._context() if origin.secure else None
            )
        try:
            return await self._exchange(connection, idle, request, longest)
        except _StaleConnectionError as error:
            raise ConnectionResetError("the connection was closed without an answer") from error

    async def _exchange(
        self, connection: _Connection, idle: list[_Connection], request: bytes, longest: int
    ) -> HttpAnswer:
        try:
            answer = await connection.ask(request, longest)
        except BaseException:
            connection.close()
            raise
        if connection.usable:
            idle.append(connection)
        return answer

    def close(self) -> None:
        """Close every connection that is not in use."""
        for idle in self._idle.values():
            for connection in idle:
                connection.close()
        self._idle.clear()


class _StaleConnectionError(OSError):
    """A connection that ended before the first byte of an answer."""


class _Connection(asyncio.Protocol):
    """One connection with at most one request on it.

    Args:
        loop: that runs it. Asking which loop is running costs a system call before Python 3.12.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[HttpAnswer] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = 0.0
        self._head = b""
        self._parts: list[bytes] = []
        self._missing = 0
        self._status = 0
        self._headers: dict[str, str] = {}
        self._longest = 0
        self._keep = True

    @property
    def usable(self) -> bool:
        """Whether another request can be sent."""
        return self._keep and self._transport is not None and not self._transport.is_closing()

    def ask(self, request: bytes, longest: int) -> asyncio.Future[HttpAnswer]:
        """Send a request; the future gets the answer, whose body may be ``longest`` bytes."""
        self._answer = self._loop.create_future()
        self._head, self._parts, self._missing, self._longest = b"", [], 0, longest
        self._deadline = self._loop.time() + ANSWER_TIMEOUT_S
        # One timer serves many requests: it looks at the deadline of the one that is under way when it goes off.
        if self._timer is None:
            self._timer = self._loop.call_later(ANSWER_TIMEOUT_S, self._check_deadline)
        assert self._transport is not None  # noqa: S101  (create_connection returns after connection_made)
        self._transport.write(request)
        return self._answer

    def close(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = transport  # type: ignore[assignment]  # a stream transport, as the connection is one

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        self._keep = False
        if self._timer is not None:
            self._timer.cancel()
        if self._parts or self._head or self._missing:
            self._fail(asyncio.IncompleteReadError(b"", None))
        else:
            self._fail(exc if exc is not None and not isinstance(exc, OSError) else _StaleConnectionError(str(exc)))

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        if self._answer is None or self._answer.done():
            self._keep = False
            return
        if not self._missing:
            data = self._read_head(data)
            if not self._missing:
                return
        self._parts.append(data)
        self._missing -= len(data)
        if self._missing == 0:
            self._succeed(self._parts[0] if len(self._parts) == 1 else b"".join(self._parts))
        elif self._missing < 0:
            self._fail(NotPlainError("more bytes than announced"))

    def _read_head(self, data: bytes) -> bytes:
        """Take in the head; what follows of the body is returned once it is complete."""
        self._head += data
        end = self._head.find(b"\r\n\r\n")
        if end < 0:
            if len(self._head) > _LONGEST_HEAD:
                self._fail(NotPlainError("a head without an end"))
            return b""
        first, *lines = self._head[:end].decode("latin-1").split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        self._headers = headers
        # Bytes that latin-1 reads as digits (a superscript 2) are no numbers, and 19 digits count every byte there is.
        self._status = int(first[9:12]) if _NUMBER.fullmatch(first[9:12]) else 0
        # A 304 may announce the length of what it does not send (RFC 9110, 15.4.5).
        length = "0" if self._status == 304 else headers.get("content-length", "")
        if self._status not in _PLAIN or not _NUMBER.fullmatch(length) or "transfer-encoding" in headers:
            self._fail(NotPlainError(first))
            return b""
        self._keep = first.startswith("HTTP/1.1") and headers.get("connection", "").lower() != "close"
        self._missing = int(length)
        if self._status == 206 and self._missing > self._longest:
            self._fail(NotPlainError("a longer range than was asked for"))
            return b""
        if self._missing == 0:
            self._succeed(b"")
        return self._head[end + 4 :]

    def _succeed(self, body: bytes) -> None:
        self._missing, self._head, self._parts = 0, b"", []
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(HttpAnswer(self._status, self._headers, body))

    def _fail(self, error: Exception) -> None:
        self._keep = False
        self._missing = 0
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    def _check_deadline(self) -> None:
        self._timer = None
        if self._answer is None or self._answer.done():
            return
        left = self._deadline - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._check_deadline)
        else:
            self._fail(TimeoutError("no answer in time"))
