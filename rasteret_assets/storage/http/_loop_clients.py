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
    """The clients of one event loop: connections belong to the loop they were made in.

    Args:
        link_local: whether names may lead to link-local addresses.
    """

    def __init__(self, *, link_local: bool) -> None:
        # Made per loop rather than once at import, so that SSL_CERT_FILE counts as it is then; reading the system's
        # certificates takes longer than a hundred headers, so plain HTTP does without.
        self._context = functools.cache(ssl.create_default_context)
        self.ranges = RangeConnections(self._context, link_local=link_local)
        #: For hosts that a redirect of another one names: what may be written may not be led to.
        self.redirected = RangeConnections(self._context, link_local=False) if link_local else self.ranges
        #: What hosts that redirect have set; None as long as none did.
        self.cookies: Cookies | None = None
        self._session: ProxySession | None = None

    @property
    def session(self) -> ProxySession:
        """The client that goes through proxies, made when it is first needed."""
        if self._session is None:
            # aiohttp takes as long to import as all the rest, and most builds never need it.
            from rasteret_assets.storage.http._proxy_session import ProxySession  # noqa: PLC0415

            self._session = ProxySession(self._context(), _SESSION_LIMIT)
        return self._session

    def keep_cookies(self, answer: HttpAnswer, url: URL) -> None:
        """Keep the cookies of an answer on the way of a redirect."""
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
    """Which clients were used last, and where."""

    thread: int
    loop: asyncio.AbstractEventLoop
    clients: LoopClients


class ProcessClients:
    """The clients of one process."""

    def __init__(self) -> None:
        self.by_loop: dict[asyncio.AbstractEventLoop, LoopClients] = {}
        self.last: BoundClients | None = None
