"""Open connections to hosts by name; all addresses of a name are tried (RFC 8305, "Happy Eyeballs")."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Final, TypeAlias, TypeVar

from aiohappyeyeballs import start_connection

from rasteret_assets.storage.addresses.link_local import LinkLocalNameError, is_link_local, is_link_local_address

#: Seconds for a connection, from the look-up of the name to the end of the TLS handshake.
CONNECT_TIMEOUT_S = 10.0

#: Seconds after which the next address is tried beside an address that does not answer (RFC 8305, 5).
_NEXT_ADDRESS_S: Final = 0.25
#: Seconds for which the addresses of a name are kept, about as long as those of load balancers are valid.
_RESOLVED_S: Final = 60.0
_MOST_NAMES: Final = 4096

_Address: TypeAlias = tuple[int, int, int, str, tuple[str, int] | tuple[str, int, int, int]]
P = TypeVar("P", bound=asyncio.BaseProtocol)


class Connector:
    """Opens connections of one event loop, and keeps the addresses of names for a short time.

    Args:
        link_local: whether names may lead to link-local addresses and to services that hand out credentials. A host
            that is such an address itself, or such a service's own name, is connected to in any case.
    """

    def __init__(self, *, link_local: bool) -> None:
        self._link_local = link_local
        self._resolved: dict[tuple[str, int], tuple[float, list[_Address]]] = {}
        self._asked: dict[tuple[str, int], asyncio.Task[list[_Address]]] = {}

    async def connect(self, host: str, port: int, factory: Callable[[], P], context: ssl.SSLContext | None) -> P:
        """Connect to the first address of a host that answers.

        Args:
            host: name or address.
            port: TCP port.
            factory: makes the protocol.
            context: for TLS; None for none.

        Raises:
            OSError: if the name is not known (``socket.gaierror``), no address takes the connection, or all addresses
                are link-local and may not be asked (``LinkLocalNameError``).
            TimeoutError: if the connection takes longer than :data:`CONNECT_TIMEOUT_S`.
        """
        loop = asyncio.get_running_loop()
        name = host if context is not None else None
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            if _is_address(host):
                return (await loop.create_connection(factory, host, port, ssl=context))[1]
            try:
                addresses = await self._addresses(loop, host, port)
                if len(addresses) == 1 and addresses[0][0] == socket.AF_INET:
                    place = addresses[0][4][0]
                    made = await loop.create_connection(factory, place, port, ssl=context, server_hostname=name)
                    return made[1]
                connected = await self._race(loop, addresses)
            except BaseException:
                self._resolved.pop((host, port), None)  # because the name may have other addresses by now
                raise
            self._put_first((host, port), connected.getpeername())
            try:
                return (await loop.create_connection(factory, sock=connected, ssl=context, server_hostname=name))[1]
            except BaseException:
                connected.close()
                raise

    def close(self) -> None:
        """Cancel the look-ups that are under way."""
        for asked in list(self._asked.values()):
            asked.cancel()

    async def _race(self, loop: asyncio.AbstractEventLoop, addresses: list[_Address]) -> socket.socket:
        # A race of plain sockets, because uvloop's create_connection cannot race addresses.
        try:
            return await start_connection(addresses, happy_eyeballs_delay=_NEXT_ADDRESS_S, interleave=1, loop=loop)
        except RuntimeError as error:  # uvloop's, for a socket it cannot take
            raise OSError(type(error).__name__) from error

    async def _addresses(self, loop: asyncio.AbstractEventLoop, host: str, port: int) -> list[_Address]:
        """Return the addresses of a name; callers who ask for a name at the same time share one look-up."""
        key = host, port
        resolved = self._resolved.get(key)
        if resolved is not None and resolved[0] > loop.time():
            return resolved[1]
        asked = self._asked.get(key)
        if asked is None:
            asked = self._asked[key] = loop.create_task(self._look_up(loop, host, port))
            asked.add_done_callback(lambda done: (self._asked.pop(key, None), done.cancelled() or done.exception()))
        return await asyncio.shield(asked)

    async def _look_up(self, loop: asyncio.AbstractEventLoop, host: str, port: int) -> list[_Address]:
        found = await loop.run_in_executor(None, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        addresses: list[_Address] = list(dict.fromkeys(found))  # type: ignore[arg-type]  # of TCP these are
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "no address")
        if not self._link_local and not is_link_local(host):
            # Checked here, on the addresses that are connected to, because a name server may give others each time.
            addresses = [address for address in addresses if not is_link_local_address(address[4][0])]
            if not addresses:
                raise LinkLocalNameError(f"{host} resolves to link-local addresses")
        if len(self._resolved) >= _MOST_NAMES:
            self._resolved.clear()
        self._resolved[host, port] = (loop.time() + _RESOLVED_S, addresses)
        return addresses

    def _put_first(self, key: tuple[str, int], peer: tuple[str, int]) -> None:
        """Put the address that answered first, because each dead address before it costs a connection 0.25 s."""
        if (resolved := self._resolved.get(key)) is None or resolved[1][0][4][0] == peer[0]:
            return
        until, addresses = resolved
        self._resolved[key] = until, sorted(addresses, key=lambda address: address[4][0] != peer[0])


def _is_address(host: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return True
    return False
