"""The general HTTP client, through aiohttp: redirects, proxies, chunked bodies, servers that ignore ``Range``."""

from __future__ import annotations

import errno
import ssl
from collections.abc import Mapping

import aiohttp
from yarl import URL

from rasteret_assets.storage.http_answer import HttpAnswer
from rasteret_assets.storage.http_ranges import ANSWER_TIMEOUT_S, CONNECT_TIMEOUT_S

_TIMEOUT = aiohttp.ClientTimeout(total=2 * ANSWER_TIMEOUT_S, sock_connect=CONNECT_TIMEOUT_S, sock_read=ANSWER_TIMEOUT_S)


class HttpSession:
    """An aiohttp session of one event loop.

    Args:
        headers: sent with every request; aiohttp drops an ``Authorization`` when a redirect leaves its host.
        context: for ``https``.
        limit: connections in the pool; requests beyond it wait.
    """

    def __init__(self, headers: Mapping[str, str], context: ssl.SSLContext, limit: int) -> None:
        connector = aiohttp.TCPConnector(limit=limit, ttl_dns_cache=300, ssl=context)
        self._session = aiohttp.ClientSession(
            connector=connector, headers=headers, timeout=_TIMEOUT, auto_decompress=False
        )

    async def get(self, url: URL, ranges: str, end: int, proxy: str | None, extra: Mapping[str, str]) -> HttpAnswer:
        """Ask for ranges (``bytes=0-99``); a whole object in their place is read up to ``end`` and cut off there.

        Raises:
            OSError: if the connection fails.
            EOFError: if a body ends before its announced length.
            TimeoutError: if connecting or answering takes too long.
            ValueError: if the URL, or one it redirects to, is not valid.
        """
        headers = {"Range": ranges, **extra}
        try:
            async with self._session.get(url, headers=headers, proxy=proxy) as response:
                names = {name.lower(): value for name, value in response.headers.items()}
                if response.status != 200:
                    return HttpAnswer(response.status, names, await response.read())
                body = await _read_up_to(response, end)
                response.close()
                return HttpAnswer(200, names, body, response.content_length)
        except TimeoutError:  # before the errors of aiohttp, to which its timeouts belong as well
            raise TimeoutError("no answer in time") from None
        except aiohttp.ClientConnectorCertificateError as error:
            raise error.certificate_error from None
        except aiohttp.ClientProxyConnectionError as error:
            reason = error.os_error.strerror or type(error.os_error).__name__
            raise OSError(errno.EHOSTUNREACH, f"proxy {error.host}:{error.port}: {reason}") from None
        except aiohttp.ClientConnectorError as error:
            raise error.os_error from None
        except aiohttp.ClientPayloadError as error:
            raise EOFError("the body ended before its announced length") from error
        except aiohttp.InvalidURL:
            raise ValueError("not a valid URL") from None
        except aiohttp.ClientError as error:
            # The text of some of these repeats a URL with its query, so only the kind is told.
            raise ConnectionError(type(error).__name__) from None

    async def close(self) -> None:
        """Close its connections."""
        await self._session.close()


async def _read_up_to(response: aiohttp.ClientResponse, end: int) -> bytes:
    pieces, have = [], 0
    async for piece in response.content.iter_any():
        pieces.append(piece)
        have += len(piece)
        if have >= end:
            break
    return b"".join(pieces)
