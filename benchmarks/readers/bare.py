"""The server's ceiling: connections that ask for a range, count the bytes of the answer, and ask again."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

import uvloop
from harness import Job, measure


class Asker(asyncio.Protocol):
    """One connection, which asks for the next path until all are asked for."""

    def __init__(self, paths: Iterator[str], length: int) -> None:
        self.paths = paths
        self.tail = f" HTTP/1.1\r\nHost: localhost\r\nRange: bytes=0-{length - 1}\r\n\r\n".encode()
        self.length = length
        self.left = 0
        self.answers = 0
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        path = next(self.paths, None)
        if path is None:
            self.done.set_result(self.answers)
            self.transport.close()
        else:
            self.transport.write(b"GET /" + path.encode() + self.tail)

    def data_received(self, data: bytes) -> None:
        if not self.left:  # an answer begins; its head never comes in pieces over loopback
            self.left = data.index(b"\r\n\r\n") + 4 + self.length
        self.left -= len(data)
        if not self.left:
            self.answers += 1
            self.ask()


async def read(job: Job) -> int:
    address = urlsplit(job.url)
    loop = asyncio.get_running_loop()
    paths = iter(job.paths)
    context = ssl.create_default_context() if address.scheme == "https" else None
    pairs = [
        await loop.create_connection(lambda: Asker(paths, job.length), address.hostname, address.port, ssl=context)
        for _ in range(job.max_concurrent)
    ]
    return sum([await asker.done for _, asker in pairs])


if __name__ == "__main__":
    measure(lambda job: uvloop.run(read(job)), lambda _, answers: {"good": answers})
