"""Answers that a server gives rarely or should never give, to compare how transports treat them.

Each is a coroutine that sends the answer to one request, asked for as ``/<name>/<kind>/<anything>``. Endless ones send
6.4 MB/s until the connection is closed, so that a transport that keeps all of it does not fill the machine's memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, Protocol

#: A path whose escapes, double slash and query must reach the server as they are written; behind ``/exact/``.
EXACT: Final = "s2//%7Eb%20c.tif?sig=x%2Fy%3D"
#: Pieces in which a trickling body comes, and seconds between them.
TRICKLE: Final = (20, 0.1)
_PIECE: Final = bytes(64 * 1024)
_PAUSE_S: Final = 0.01


class Asked(NamedTuple):
    """A request: what is behind the name of the odd answer, and the sound answer to it as head and body."""

    rest: bytes
    head: bytes
    body: bytes


class Sender(Protocol):
    """The connection that was asked."""

    async def send(self, data: bytes) -> None:
        """Send bytes, and wait until they are on their way; raises ConnectionError once the connection is closed."""

    def close(self) -> None:
        """Close the connection."""


async def move(to: Sender, asked: Asked) -> None:
    """Redirect to the same path without the name of this answer."""
    await to.send(b"HTTP/1.1 302 Found\r\nLocation: /%s\r\nContent-Length: 0\r\n\r\n" % asked.rest)


async def trickle(to: Sender, asked: Asked) -> None:
    """Send the body in small pieces with pauses, so that it takes longer than the longest pause allowed."""
    pieces, pause = TRICKLE
    await to.send(asked.head)
    step = -(-len(asked.body) // pieces)
    for start in range(0, len(asked.body), step):
        await asyncio.sleep(pause)
        await to.send(asked.body[start : start + step])


async def stall(to: Sender, asked: Asked) -> None:
    """Send half of the body and nothing more."""
    await to.send(asked.head + asked.body[: len(asked.body) // 2])


async def shorten(to: Sender, asked: Asked) -> None:
    """Send half of the body and close the connection."""
    await stall(to, asked)
    to.close()


async def shift(to: Sender, asked: Asked) -> None:
    """Send as many bytes as were asked for, of the next range, and say so."""
    length = len(asked.body)
    told = b"Content-Range: bytes %d-" % length
    before, _, after = asked.head.partition(b"Content-Range: bytes 0-")
    last, _, after = after.partition(b"/")
    await to.send(before + told + b"%d/" % (int(last) + length) + after + bytes(length))


async def give_whole(to: Sender, asked: Asked) -> None:
    """Ignore the range: send the object from its start, of 10 GB in all."""
    await to.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n" + asked.body)
    await _go_on(to, b"%b")


async def err_endlessly(to: Sender, asked: Asked) -> None:  # noqa: ARG001 - all have the same arguments
    """Send an error page without an end."""
    await to.send(b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n")
    await _go_on(to, b"10000\r\n%b\r\n")


async def go_on_endlessly(to: Sender, asked: Asked) -> None:
    """Send the range that was asked for, and go on in chunks that have no end."""
    length = b"Content-Length: %d" % len(asked.body)
    await to.send(asked.head.replace(length, b"Transfer-Encoding: chunked"))
    await to.send(b"%x\r\n%b\r\n" % (len(asked.body), asked.body))
    await _go_on(to, b"10000\r\n%b\r\n")


async def label_wrongly(to: Sender, asked: Asked) -> None:
    """Say that the stored bytes are encoded, as stores repeat of a file that was uploaded so."""
    await to.send(asked.head[:-2] + b"Content-Encoding: gzip\r\n\r\n" + asked.body)


async def insist(to: Sender, asked: Asked) -> None:
    """Give the range to whoever asks for :data:`EXACT`, and to nobody else."""
    found = asked.rest == EXACT.encode()
    await to.send(asked.head + asked.body if found else b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")


async def _go_on(to: Sender, form: bytes) -> None:
    while True:
        await to.send(form % _PIECE)
        await asyncio.sleep(_PAUSE_S)


ODD_ANSWERS: Final[dict[bytes, Callable[[Sender, Asked], Awaitable[None]]]] = {
    b"moved": move, b"trickle": trickle, b"stall": stall, b"short": shorten, b"shifted": shift, b"whole": give_whole,
    b"endless-error": err_endlessly, b"endless-range": go_on_endlessly, b"labelled": label_wrongly, b"exact": insist,
}  # fmt: skip
