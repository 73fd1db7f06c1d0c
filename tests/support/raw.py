"""A server on loopback whose answers are bytes as they are written here, sound or not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class RawServer:
    """What a server was asked.

    Args:
        url: its address.
        heads: of the requests, in order.
        connections: how many there were.
    """

    url: str = ""
    heads: list[str] = field(default_factory=list)
    connections: int = 0

    @property
    def paths(self) -> list[str]:
        """Paths of the requests, in order."""
        return [head.split(" ", 2)[1] for head in self.heads]

    def headers(self, name: str) -> list[str | None]:
        """The value of one header in each request."""
        found: list[str | None] = []
        for head in self.heads:
            lines = [line.partition(":") for line in head.split("\r\n")[1:]]
            found.append(next((value.strip() for key, _, value in lines if key.lower() == name.lower()), None))
        return found


@asynccontextmanager
async def answering(
    answer: Callable[[str, asyncio.StreamWriter], Awaitable[bool]], host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[RawServer]:
    """Serve in the running event loop.

    Args:
        answer: writes the answer to a request with this head, and says whether the connection stays open.
        host: address to listen at.
        port: to listen at; 0 for any.
    """
    state = RawServer()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        state.connections += 1
        if (task := asyncio.current_task()) is not None:
            tasks.add(task)
        try:
            with suppress(OSError, EOFError):
                stays = True
                while stays:
                    head = (await reader.readuntil(b"\r\n\r\n")).decode()
                    state.heads.append(head)
                    stays = await answer(head, writer)
                    await writer.drain()
        except asyncio.CancelledError:  # the test is over; told of it, the stream's own callback would complain
            writer.transport.abort()
        writer.close()

    server = await asyncio.start_server(serve, host, port)
    state.url = "http://{}:{}".format(*server.sockets[0].getsockname())
    try:
        yield state
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # transports are closed by the loop
