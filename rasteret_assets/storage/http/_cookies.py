"""Keep the cookies of hosts that redirect, because a login sets one and leads back to the file (RFC 6265)."""

from __future__ import annotations

from contextlib import suppress
from http.cookies import CookieError, SimpleCookie

import aiohttp
from yarl import URL


class Cookies:
    """The cookies that hosts have set, in one event loop."""

    def __init__(self) -> None:
        self._jar = aiohttp.CookieJar()

    def keep(self, lines: str, url: URL) -> None:
        """Keep the valid ones of the ``Set-Cookie`` headers (one a line) of an answer to ``url``."""
        for line in lines.split("\n"):
            with suppress(CookieError, ValueError):
                self._jar.update_cookies(SimpleCookie(line), url)

    def of(self, url: URL, given: str | None) -> str | None:
        """Return the value of the ``Cookie`` header for ``url``, which begins with ``given``; None if it is empty."""
        # The coded values, because SimpleCookie would add quotes that the server did not send.
        ours = [f"{name}={morsel.coded_value}" for name, morsel in self._jar.filter_cookies(url).items()]
        return "; ".join([given, *ours] if given else ours) or None
