"""The clients of an event loop: connections belong to the loop that made them, and to the process of that loop."""

from __future__ import annotations

import asyncio
import functools
import ssl
from typing import TYPE_CHECKING, NamedTuple

from yarl import URL

from rasteret_assets.storage.http.answer import HttpAnswer
from rasteret_assets.storage.http.ranges import RangeConnections

if TYPE_CHECKING:
    from rasteret_assets.storage.http._cookies import Cookies
    from rasteret_assets.storage.http._proxy_session import ProxySession

_SESSION_LIMIT = 1024


class LoopClients:
    """The clients of one event loop.

    Args:
        link_local: whether names may lead to link-local addresses.
    """

    def __init__(self, *, link_local: bool) -> None:
        # Made for each loop, so that the value of SSL_CERT_FILE at that time counts, and only for https, because
        # reading the system's certificates takes longer than a hundred headers.
        self._context = functools.cache(ssl.create_default_context)
        self.ranges = RangeConnections(self._context, link_local=link_local)
        #: For hosts that only a redirect names: a server may not lead to link-local addresses, even if the user may.
        self.redirected = RangeConnections(self._context, link_local=False) if link_local else self.ranges
        #: Cookies that redirecting hosts have set; None as long as no host did.
        self.cookies: Cookies | None = None
        self._session: ProxySession | None = None

    @property
    def session(self) -> ProxySession:
        """The client for requests through a proxy, made when it is first needed."""
        if self._session is None:
            # Imported late, because aiohttp takes as long to import as the whole package, and few builds need it.
            from rasteret_assets.storage.http._proxy_session import ProxySession  # noqa: PLC0415

            self._session = ProxySession(self._context(), _SESSION_LIMIT)
        return self._session

    def keep_cookies(self, answer: HttpAnswer, url: URL) -> None:
        """Keep the cookies of an answer that redirects."""
        if (lines := answer.headers.get("set-cookie")) is None:
            return
        if self.cookies is None:
            from rasteret_assets.storage.http._cookies import Cookies  # noqa: PLC0415  (as above)

            self.cookies = Cookies()
        self.cookies.keep(lines, url)

    async def close(self) -> None:
        self.ranges.close()
        self.redirected.close()
        if self._session is not None:
            await self._session.close()


class BoundClients(NamedTuple):
    """The clients that were used last, with their thread and event loop."""

    thread: int
    loop: asyncio.AbstractEventLoop
    clients: LoopClients


class ProcessClients:
    """The clients of one process."""

    def __init__(self) -> None:
        self.by_loop: dict[asyncio.AbstractEventLoop, LoopClients] = {}
        self.last: BoundClients | None = None
