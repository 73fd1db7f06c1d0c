"""HTTP(S) ranges: any URL exactly as written, with headers of the user's, whatever the server makes of ``Range``.

obstore addresses objects by path and normalizes it, so a query string, a ``//`` or a percent-escape would not reach the
server as written; and it tells an object's validators only at the price of a general request. Ranges therefore go over
plain connections of our own, and over aiohttp wherever an answer is not plain.
"""

from __future__ import annotations

import asyncio
import functools
import re
import socket
import ssl
import threading
import urllib.request
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from yarl import URL

from rasteret_assets.errors import (
    HostUnreachableError,
    RangeReadError,
    ReadTimeoutError,
    StoreUnavailableError,
    TruncatedReadError,
)
from rasteret_assets.storage.backend import EndsRead, RangeRead, ReadingBackend, Validators
from rasteret_assets.storage.http_answer import (
    HttpAnswer,
    interpret,
    is_sendable,
    status_error,
    total_size,
    validators_of,
)
from rasteret_assets.storage.http_parts import PARTS_ROOM, is_multipart, read_ends_of
from rasteret_assets.storage.http_ranges import NotPlainError, Origin, RangeConnections
from rasteret_assets.storage.processes import OfProcess
from rasteret_assets.storage.unchanged import IndexedFile, check_unchanged, difference, replaced
from rasteret_assets.storage.urls import host, redact

if TYPE_CHECKING:
    from rasteret_assets.storage.http_session import HttpSession

_URL = re.compile(r"(https?://[^/?#]+)([^#]*)", re.IGNORECASE)
_UNSAFE = re.compile(r"[^\x21-\x7e]")
_SESSION_LIMIT = 1024
#: Answers that say of a request for several ranges that it should be made for one.
_RANGES_IGNORED = frozenset({200, 206, 400, 416})


class _Clients:
    """The clients of one event loop: connections belong to the loop they were made in."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self.headers = headers
        # Made per loop rather than once at import, so that SSL_CERT_FILE counts as it is then; reading the system's
        # certificates takes longer than a hundred headers, so plain HTTP does without.
        self._context = functools.cache(ssl.create_default_context)
        self.ranges = RangeConnections(self._context)
        self._session: HttpSession | None = None

    @property
    def session(self) -> HttpSession:
        """The general client, made when it is first needed."""
        if self._session is None:
            # aiohttp takes as long to import as all the rest, and most builds never need it.
            from rasteret_assets.storage.http_session import HttpSession  # noqa: PLC0415

            self._session = HttpSession(self.headers, self._context(), _SESSION_LIMIT)
        return self._session

    async def close(self) -> None:
        self.ranges.close()
        if self._session is not None:
            await self._session.close()


class _Bound(NamedTuple):
    """Which clients were used last, and where."""

    thread: int
    loop: asyncio.AbstractEventLoop
    clients: _Clients


class _Here:
    """The clients of one process."""

    def __init__(self) -> None:
        self.by_loop: dict[asyncio.AbstractEventLoop, _Clients] = {}
        self.last: _Bound | None = None


class HttpBackend(ReadingBackend):
    """Byte ranges over HTTP.

    Args:
        headers: sent with every request (an ``Authorization``, an API key).
        proxy: to go through for every host; None for what the environment names.
    """

    def __init__(self, headers: Mapping[str, str] | None = None, proxy: str | None = None) -> None:
        self._headers = {"User-Agent": "rasteret-assets", "Accept": "*/*", **(headers or {})}
        self._head = _header_lines(self._headers)
        self._given_proxy = proxy
        self._proxies = urllib.request.getproxies()
        self._here = OfProcess(_Here)
        #: Hosts that do not answer several ranges at once.
        self._single_ranges: set[str] = set()
        #: Hosts that have given an answer only the general client can read.
        self._general: set[Origin] = set()

    async def read(self, url: str, start: int, length: int) -> RangeRead:
        """One range with the object's size and validators.

        Raises:
            RangeReadError: in the subclass that fits the status or the failure of the connection.
        """
        answer = await self._answer(url, f"bytes={start}-{start + length - 1}", start + length, length, {})
        return interpret(answer, url, start, length)

    async def read_ends(self, url: str, head: int, tail: int) -> EndsRead:
        """The first ``head`` and the last ``tail`` bytes: one request, or two where the host takes a range at a time.

        Web servers answer several ranges at once, the HTTP front ends of object stores do not.

        Raises:
            RangeReadError: in the subclass that fits the status or the failure of the connection.
        """
        name = host(url)
        requests = 2
        if name not in self._single_ranges:
            room = head + tail + PARTS_ROOM
            answer = await self._answer(url, f"bytes=0-{head - 1},-{tail}", room, room, {})
            if answer.status not in _RANGES_IGNORED:
                raise status_error(answer, url)
            pieces = read_ends_of(answer, head, tail)
            if pieces is not None:
                return EndsRead(pieces, 1)
            if not is_multipart(answer):  # one that is, but lacks bytes, was cut short on its way
                self._single_ranges.add(name)
            requests = 3
        start, end = await asyncio.gather(self.read(url, 0, head), self._read_end(url, tail))
        return EndsRead([(0, start), *end], requests)

    async def _read_end(self, url: str, length: int) -> list[tuple[int, RangeRead]]:
        """The end of an object; nothing where the server does not say where it begins."""
        answer = await self._answer(url, f"bytes=-{length}", length, length, {})
        size = total_size(answer)
        if answer.status != 206 or size is None:
            return []
        start = max(0, size - length)
        return [(start, interpret(answer, url, start, length))]

    async def read_if_changed(self, url: str, start: int, length: int, validators: Validators) -> RangeRead | None:
        """One range, or None where the server says that the object still has these validators."""
        conditions = {"If-None-Match": validators.etag, "If-Modified-Since": validators.last_modified}
        given = {name: value for name, value in conditions.items() if is_sendable(value)}
        wanted = f"bytes={start}-{start + length - 1}"
        answer = await self._answer(url, wanted, start + length, length, given)
        if answer.status != 304:
            return interpret(answer, url, start, length)
        known = IndexedFile(validators.etag, validators.last_modified)
        if difference(known, *validators_of(answer.headers)) is None:
            return None
        # The condition holds by a weak tag or a later time, but the server itself tells another time.
        return await self.read(url, start, length)

    async def read_unchanged(self, url: str, start: int, length: int, indexed: IndexedFile) -> RangeRead:
        """Return one range of the file that was indexed, on the condition that it still is that file.

        The condition is ``If-Match`` where the index has a strong tag, else ``If-Unmodified-Since`` (RFC 9110, 13.1.1
        and 13.1.4). Servers may ignore it, so what the answer tells of the file is compared too.

        Raises:
            FileReplacedError: if it is another file.
            RangeReadError: in the subclass that fits the status or the failure of the connection.
        """
        if tag := indexed.strong_etag:
            condition = {"If-Match": tag}
        else:
            condition = {"If-Unmodified-Since": date} if (date := indexed.http_date) else {}
        answer = await self._answer(url, f"bytes={start}-{start + length - 1}", start + length, length, condition)
        if answer.status != 412:
            return check_unchanged(interpret(answer, url, start, length), url, indexed)
        told = validators_of(answer.headers)
        if not any(told) or difference(indexed, *told) is not None:
            raise replaced(url, "its host answers HTTP 412 to the condition that it is the same")
        # A server that refuses a condition and repeats what was demanded has not understood it.
        return check_unchanged(await self.read(url, start, length), url, indexed)

    async def _answer(self, url: str, ranges: str, end: int, longest: int, headers: Mapping[str, str]) -> HttpAnswer:
        """The answer to a range request.

        Args:
            url: of the object.
            ranges: the ``Range`` header.
            end: a whole object in the place of the ranges is read up to here.
            longest: bytes that the ranges may have.
            headers: further ones.
        """
        try:
            origin, path = _split(url)
            return await self._ask(origin, path, ranges, end, longest, headers)
        except TimeoutError as error:
            raise ReadTimeoutError(f"{redact(url)}: no answer in time", href=redact(url)) from error
        except EOFError as error:
            message = f"{redact(url)}: the body ended before its announced length"
            raise TruncatedReadError(message, href=redact(url)) from error
        except OSError as error:
            raise _connection_error(error, origin, redact(url)) from None
        except ValueError as error:
            raise RangeReadError(f"{redact(url)}: not a valid URL", href=redact(url)) from error

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        here = self._here.get()
        here.last = None
        clients = here.by_loop.pop(asyncio.get_running_loop(), None)
        if clients is not None:
            await clients.close()

    async def _ask(
        self, origin: Origin, path: str, ranges: str, end: int, longest: int, headers: Mapping[str, str]
    ) -> HttpAnswer:
        clients = self._clients_here()
        proxy = self._proxy(origin) if self._given_proxy or self._proxies else None
        if proxy is None and origin not in self._general:
            try:
                head = self._head + _header_lines(headers) if headers else self._head
                return await clients.ranges.get(origin, path, head, ranges, longest)
            except NotPlainError:
                if "," in ranges:  # several ranges may be what the answer is not plain for
                    return HttpAnswer(200, {}, b"")
                self._general.add(origin)
        scheme = "https" if origin.secure else "http"
        address = URL(f"{scheme}://{origin.authority.decode()}{path}", encoded=True)
        return await clients.session.get(address, ranges, end, proxy, headers)

    def _clients_here(self) -> _Clients:
        """The clients of the event loop that is running in this thread."""
        here = self._here.get()
        last = here.last
        # Asking which loop is running costs a system call before Python 3.12; a thread runs no more than one.
        if last is not None and last.thread == threading.get_ident() and last.loop.is_running():
            return last.clients
        loop = asyncio.get_running_loop()
        clients = here.by_loop.get(loop)
        if clients is None:
            for closed in [other for other in here.by_loop if other.is_closed()]:
                del here.by_loop[closed]
            clients = here.by_loop[loop] = _Clients(self._headers)
        here.last = _Bound(threading.get_ident(), loop, clients)
        return clients

    def _proxy(self, origin: Origin) -> str | None:
        """The proxy that was given, or that the environment names for a host."""
        if self._given_proxy:
            return self._given_proxy
        if urllib.request.proxy_bypass(origin.host):
            return None
        return self._proxies.get("https" if origin.secure else "http") or self._proxies.get("all")


def _header_lines(headers: Mapping[str, str]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()


def _split(url: str) -> tuple[Origin, str]:
    """Server and path of a URL as its author wrote it: escapes are kept, what no request line may hold is escaped.

    Raises:
        ValueError: if there is no host in it, or no valid port.
    """
    match = _URL.match(url)
    if match is None:
        raise ValueError("not an HTTP URL")
    path = match.group(2) or "/"
    if not path.startswith("/"):
        path = "/" + path
    if _UNSAFE.search(path):
        path = _UNSAFE.sub(lambda part: "".join(f"%{byte:02X}" for byte in part.group().encode()), path)
    return _origin(match.group(1)), path


@functools.lru_cache(maxsize=4096)
def _origin(base: str) -> Origin:
    address = URL(base)
    if not address.host or address.port is None:
        raise ValueError("no host")
    host = address.raw_host or ""
    name = f"[{host}]" if ":" in host else host
    authority = name if address.is_default_port() else f"{name}:{address.port}"
    return Origin(address.scheme == "https", address.host, address.port, authority.encode())


def _connection_error(error: OSError, origin: Origin, where: str) -> RangeReadError:
    """What went wrong on the way to a host, without the URL's query in it."""
    at = f"{origin.host}:{origin.port}"
    if isinstance(error, socket.gaierror):
        return HostUnreachableError(f"{where}: host {origin.host!r} is not known", href=where)
    if isinstance(error, ssl.SSLCertVerificationError):
        return HostUnreachableError(f"{where}: certificate of {origin.host!r} is not trusted", href=where)
    if isinstance(error, ConnectionRefusedError):
        return HostUnreachableError(f"{where}: cannot connect to {at} (connection refused)", href=where)
    if isinstance(error, ConnectionError | ssl.SSLError):
        return StoreUnavailableError(f"{where}: the connection to {at} failed ({type(error).__name__})", href=where)
    reason = error.strerror or type(error).__name__
    return HostUnreachableError(f"{where}: cannot connect to {at} ({reason})", href=where)
