"""Range requests through a proxy, by aiohttp, which knows the tunnels of ``https`` and the logins of proxies."""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import Mapping

import aiohttp
from yarl import URL

from rasteret_assets.storage.http.answer import HttpAnswer
from rasteret_assets.storage.http.body import DROPPED_BYTES, BodyReader, MalformedError
from rasteret_assets.storage.http.connector import CONNECT_TIMEOUT_S
from rasteret_assets.storage.http.head import fields_of
from rasteret_assets.storage.http.ranges import DROPPED_TIMEOUT_S, IDLE_TIMEOUT_S

_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=IDLE_TIMEOUT_S)


class ProxySession:
    """An aiohttp session of one event loop, which follows no redirects, keeps no cookies and decodes no bodies.

    Args:
        context: for ``https``.
        limit: connections in the pool; requests beyond it wait.
    """

    def __init__(self, context: ssl.SSLContext, limit: int) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=limit, ttl_dns_cache=60, ssl=context),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=_TIMEOUT,
            auto_decompress=False,
        )

    async def get(
        self, url: URL, headers: Mapping[str, str], start: int, end: int, longest: int, proxy: str
    ) -> HttpAnswer:
        """Return the answer to a request for ranges of an object.

        Args:
            url: of the object, without a user.
            headers: of the request, ``Range`` among them.
            start: first byte to keep if the server sends the whole object instead.
            end: end of the bytes to keep then.
            longest: most bytes in the body of a 206.
            proxy: address of the proxy.

        Raises:
            MalformedError: if the answer is not HTTP or has no end.
            OSError: if the connection fails.
            EOFError: if a body ends before its announced length.
            TimeoutError: if connecting takes too long, or no byte comes for too long.
            ValueError: if the URL is not valid.
        """
        try:
            async with self._session.get(url, headers=headers, proxy=proxy, allow_redirects=False) as response:
                return await _read(response, start, end, longest)
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
        """Close all connections."""
        await self._session.close()


async def _read(response: aiohttp.ClientResponse, start: int, end: int, longest: int) -> HttpAnswer:
    headers = fields_of(f"{name}:{value}" for name, value in response.headers.items())
    try:
        reader = BodyReader(response.status, headers, start, end, longest)
        if reader.enough:
            await _drop(response)
            return _answer(response, headers, reader, whole=False)
        async for piece in response.content.iter_any():
            reader.feed(piece)
            reader.count_wire(len(piece))
            if reader.body.enough:
                response.close()
                return _answer(response, headers, reader, whole=False)
        reader.end()
    except MalformedError:
        response.close()
        raise
    return _answer(response, headers, reader, whole=True)


async def _drop(response: aiohttp.ClientResponse) -> None:
    """Read the rest of an unneeded body if it is short, so that the connection can be used again; else close it."""
    count = 0
    try:
        async with asyncio.timeout(DROPPED_TIMEOUT_S):
            async for piece in response.content.iter_any():
                count += len(piece)
                if count > DROPPED_BYTES:
                    break
            else:
                return
    except (TimeoutError, aiohttp.ClientError):  # the status is known, and the body is not needed
        pass
    response.close()


def _answer(
    response: aiohttp.ClientResponse, headers: Mapping[str, str], reader: BodyReader, *, whole: bool
) -> HttpAnswer:
    size = None if reader.encoded else response.content_length
    return HttpAnswer(response.status, headers, reader.body.data, reader.body.count if whole and size is None else size)
