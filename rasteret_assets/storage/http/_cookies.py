"""Cookies of hosts that redirect: a login sets one and leads back to the file (RFC 6265)."""

from __future__ import annotations

from contextlib import suppress
from http.cookies import CookieError, SimpleCookie

import aiohttp
from yarl import URL


class Cookies:
    """What hosts have set, in one event loop."""

    def __init__(self) -> None:
        self._jar = aiohttp.CookieJar()

    def keep(self, lines: str, url: URL) -> None:
        """Keep the values of ``Set-Cookie`` headers, one a line, of an answer to a URL; those that are none are not."""
        for line in lines.split("\n"):
            with suppress(CookieError, ValueError):
                self._jar.update_cookies(SimpleCookie(line), url)

    def of(self, url: URL, given: str | None) -> str | None:
        """The value of the ``Cookie`` header for a URL, behind a given one; None for none."""
        # As they came: quotes that a server did not send are no part of a value.
        ours = [f"{name}={morsel.coded_value}" for name, morsel in self._jar.filter_cookies(url).items()]
        return "; ".join([given, *ours] if given else ours) or None
