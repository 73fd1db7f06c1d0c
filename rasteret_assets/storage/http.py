"""HTTP(S) ranges through aiohttp: any URL exactly as written, sessions with headers, servers without ranges.

obstore addresses objects by path and normalizes it, so a query string, a ``//`` or a percent-escape would not reach the
server as written; aiohttp sends the URL it was given.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import urllib.request
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp
from yarl import URL

from rasteret_assets.errors import (
    AccessDeniedError,
    HostUnreachableError,
    ObjectNotFoundError,
    RangeReadError,
    ReadTimeoutError,
    StoreUnavailableError,
    ThrottledError,
    TruncatedReadError,
)
from rasteret_assets.storage.backend import RangeRead
from rasteret_assets.storage.urls import redact

_CONTENT_RANGE = re.compile(r"bytes\s+(?:(\d+)-(\d+)|\*)/(\d+|\*)", re.IGNORECASE)
_TIMEOUT = aiohttp.ClientTimeout(total=60, sock_connect=10, sock_read=30)
_UNSAFE = re.compile(r"[^\x21-\x7e]")


class HttpBackend:
    """Byte ranges over HTTP.

    Args:
        headers: sent with every request (an ``Authorization``, an API key).
        limit: connections in the pool; requests beyond it wait.
    """

    def __init__(self, headers: Mapping[str, str] | None = None, *, limit: int = 1024) -> None:
        self._headers = dict(headers or {})
        self._limit = limit
        self._proxies = urllib.request.getproxies()
        # A session belongs to the event loop it was made in; a build and a notebook read run in different ones.
        self._sessions: dict[asyncio.AbstractEventLoop, aiohttp.ClientSession] = {}

    async def get_range(self, url: str, start: int, length: int) -> bytes:
        """``length`` bytes from ``start``; fewer only where the object ends."""
        return bytes((await self.read(url, start, length)).data)

    async def get_ranges(self, url: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """One buffer per ``(start, length)``, read concurrently."""
        return list(await asyncio.gather(*(self.get_range(url, start, length) for start, length in ranges)))

    async def read(self, url: str, start: int, length: int) -> RangeRead:
        """One range with the object's size and validators.

        A server that ignores ``Range`` answers 200 with the whole object: it is read up to the end of the range and cut
        off there.

        Raises:
            RangeReadError: in the subclass that fits the status or the failure of the connection.
        """
        address = _address(url)
        request = self._session().get(
            address, headers={"Range": f"bytes={start}-{start + length - 1}"}, proxy=self._proxy(address)
        )
        try:
            async with request as response:
                return await _read_response(response, url, start, length)
        except TimeoutError as error:
            raise ReadTimeoutError(f"{redact(url)}: no answer in time", href=redact(url)) from error
        except aiohttp.ClientPayloadError as error:
            message = f"{redact(url)}: the body ended before its announced length"
            raise TruncatedReadError(message, href=redact(url)) from error
        except aiohttp.InvalidURL as error:
            raise RangeReadError(f"{redact(url)}: not a valid URL", href=redact(url)) from error
        except (aiohttp.ClientError, OSError) as error:
            # The text of some aiohttp errors repeats the URL with its query, so only the host and the cause are told.
            kind = HostUnreachableError if isinstance(error, aiohttp.ClientConnectorError) else StoreUnavailableError
            raise kind(f"{redact(url)}: {_connection_reason(error)}", href=redact(url)) from None

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        session = self._sessions.pop(asyncio.get_running_loop(), None)
        if session is not None:
            await session.close()

    def _proxy(self, address: URL) -> str | None:
        """The proxy that the environment names for an address.

        aiohttp's ``trust_env`` would look at the environment and at ~/.netrc, in a thread, for every single request.
        """
        if not self._proxies or address.host is None or urllib.request.proxy_bypass(address.host):
            return None
        return self._proxies.get(address.scheme) or self._proxies.get("all")

    def _session(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        session = self._sessions.get(loop)
        if session is None or session.closed:
            for stale in [other for other in self._sessions if other.is_closed()]:
                del self._sessions[stale]
            # aiohttp's own context is made once, at import; this one honours SSL_CERT_FILE as it is now.
            connector = aiohttp.TCPConnector(limit=self._limit, ttl_dns_cache=300, ssl=ssl.create_default_context())
            session = aiohttp.ClientSession(
                connector=connector, headers=self._headers, timeout=_TIMEOUT, auto_decompress=False
            )
            self._sessions[loop] = session
        return session


def _address(url: str) -> URL:
    """The URL as its author wrote it: escapes are kept, characters no request line may hold are escaped."""
    base = url.strip().partition("#")[0]
    return URL(
        _UNSAFE.sub(lambda match: "".join(f"%{byte:02X}" for byte in match.group().encode()), base), encoded=True
    )


async def _read_response(response: aiohttp.ClientResponse, url: str, start: int, length: int) -> RangeRead:
    etag, modified = response.headers.get("ETag"), response.headers.get("Last-Modified")
    if response.status == 206:
        data = await response.read()
        size = _check_content_range(response.headers.get("Content-Range"), url, start, length, len(data))
        return RangeRead(data, size, etag, modified)
    if response.status == 200:
        data = await _read_up_to(response, start + length)
        size = response.content_length
        if size is None and len(data) < start + length:
            size = len(data)
        if size is not None and len(data) < min(size, start + length):
            raise TruncatedReadError(f"{redact(url)}: {len(data)} bytes of {size} arrived", href=redact(url))
        response.close()
        return RangeRead(data[start : start + length], size, etag, modified)
    if response.status == 416:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        size = int(match.group(3)) if match and match.group(3) != "*" else None
        return RangeRead(b"", size if size is not None else start, etag, modified)
    raise _status_error(response, url)


async def _read_up_to(response: aiohttp.ClientResponse, end: int) -> bytes:
    pieces, have = [], 0
    async for piece in response.content.iter_any():
        pieces.append(piece)
        have += len(piece)
        if have >= end:
            break
    return b"".join(pieces)


def _check_content_range(header: str | None, url: str, start: int, length: int, have: int) -> int | None:
    """Size of the whole object, after checking that the answer is the range asked for (RFC 9110, 14.4)."""
    match = _CONTENT_RANGE.fullmatch(header.strip()) if header else None
    if match is None or match.group(1) is None:
        return None
    first, last = int(match.group(1)), int(match.group(2))
    size = None if match.group(3) == "*" else int(match.group(3))
    expected = last - first + 1
    if first != start:
        raise TruncatedReadError(f"{redact(url)}: asked for byte {start}, got byte {first}", href=redact(url))
    if have != expected or (size is not None and have < min(length, size - start)):
        raise TruncatedReadError(f"{redact(url)}: {have} of {expected} bytes arrived", href=redact(url))
    return size


def _status_error(response: aiohttp.ClientResponse, url: str) -> RangeReadError:
    status, where = response.status, redact(url)
    message = f"{where}: HTTP {status} {response.reason or ''}".rstrip()
    kinds: dict[int, type[RangeReadError]] = {
        401: AccessDeniedError,
        403: AccessDeniedError,
        404: ObjectNotFoundError,
        410: ObjectNotFoundError,
        408: ReadTimeoutError,
        429: ThrottledError,
        503: ThrottledError,
    }
    kind = kinds.get(status, StoreUnavailableError if status >= 500 else RangeReadError)
    return kind(message, href=where, status=status, retry_after=_retry_after(response.headers.get("Retry-After")))


def _retry_after(value: str | None) -> float | None:
    """Seconds to wait, from either form of ``Retry-After`` (RFC 9110, 10.2.3)."""
    if not value:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return None


def _connection_reason(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"host {error.host!r} is not known"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"certificate of {error.host!r} is not trusted"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot connect to {error.host}:{error.port} ({error.os_error.strerror or error.os_error})"
    if isinstance(error, aiohttp.TooManyRedirects):
        return "too many redirects"
    return f"the connection failed ({type(error).__name__})"
