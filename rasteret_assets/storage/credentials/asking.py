"""Ask a provider for a token: a few requests an hour, each in a thread with its own event loop and session."""

from __future__ import annotations

import asyncio
import ssl
import urllib.request
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import urlsplit

from rasteret_assets.storage.credentials.tokens import IssuerError

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")

_TIMEOUT_S: Final = 60.0


def ask(
    who: str, address: str, request: Callable[[aiohttp.ClientSession], Awaitable[T]], reasons: Callable[[int], str]
) -> T:
    """Return the result of a request for a token.

    Args:
        who: name of the provider, for messages.
        address: of the provider.
        request: made with the session that it is given; through the proxy that the environment names, if any.
        reasons: says why a token is refused, and what to do, by HTTP status.

    Raises:
        IssuerError: if the request fails, or its answer is not understood.
    """
    # Imported here, because aiohttp takes as long to import as all the rest, and most builds need no token.
    import aiohttp  # noqa: PLC0415

    async def go() -> T:
        # A context of its own, because aiohttp makes its own on import and ignores a later SSL_CERT_FILE.
        connector = aiohttp.TCPConnector(ssl=ssl.create_default_context())
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        # Not by trust_env=, because it also sends the password that a netrc file has for the host.
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, proxy=_proxy(address)) as session:
            return await request(session)

    try:
        return asyncio.run(go())
    except aiohttp.ContentTypeError:  # such as a page of HTML
        raise IssuerError(f"{who} answers with something that is not a token: {reasons(200)}") from None
    except aiohttp.ClientResponseError as error:
        status = error.status
        passing = status == 429 or status >= 500
        reason = "try again later" if passing else reasons(status)
        raise IssuerError(f"{who} answers HTTP {status}: {reason}", passing=passing) from None
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        # Without the text, because some texts repeat addresses and headers.
        raise IssuerError(
            f"{who} cannot be asked ({type(error).__name__}): check the network and the proxy", passing=True
        ) from None
    except (ValueError, KeyError, TypeError):
        raise IssuerError(f"{who} answers with something that is not a token: {reasons(200)}") from None


def _proxy(address: str) -> str | None:
    """Return the proxy that the environment names for an address."""
    parts = urlsplit(address)
    if urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")
