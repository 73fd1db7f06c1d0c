"""Byte ranges over HTTP(S): of URLs exactly as written, with the user's headers, from any kind of server.

obstore normalizes the path of an object, so that a query string, a ``//`` or a percent-escape would not reach the
server as written, and its ranges come without validators. Ranges therefore go over plain connections of our own, and
over aiohttp where a proxy is in between. This module follows redirects for both.

The client is our own because of measurements beside well-kept libraries (``benchmarks/transports.py``). 1000 ranges of
16 KiB take 0.049 s of processor time here, of which 0.007 s would stay with any library. libcurl in a thread takes
0.076 s, obstore 0.132 s, aiohttp 0.205 s, niquests 1.44 s. Over TLS the five take 0.152, 0.159, 0.270, 0.272 and 2.11
s. libcurl comes near, and for ranges of 64 MB over TLS it takes a third less than ours. Reasons against libcurl are a
compiled library with a TLS implementation and an authority file of its own, a second thread, and an idle timeout that
is an average over several seconds. A reason against obstore is also that it reads an error page to its end, however
long.
"""

from __future__ import annotations

import asyncio
import threading
import urllib.request
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urljoin

from rasteret_assets.errors import BadAnswerError, RangeReadError, WrongRangeError
from rasteret_assets.secrets import redact
from rasteret_assets.storage.addresses.address import identity_href
from rasteret_assets.storage.addresses.link_local import is_link_local
from rasteret_assets.storage.addresses.urls import host
from rasteret_assets.storage.backend import EndsRead, RangeRead, ReadingBackend, Validators
from rasteret_assets.storage.http._loop_clients import BoundClients, LoopClients, ProcessClients
from rasteret_assets.storage.http._multipart import PARTS_ROOM, is_multipart, read_ends_of
from rasteret_assets.storage.http._read_errors import read_error
from rasteret_assets.storage.http.answer import (
    HttpAnswer,
    interpret,
    is_sendable,
    status_error,
    total_size,
    validators_of,
)
from rasteret_assets.storage.http.body import MalformedError
from rasteret_assets.storage.http.given_headers import GivenHeaders, HostHeaders, header_lines
from rasteret_assets.storage.http.origin import Origin, address_of, as_written, is_same_server, split_url
from rasteret_assets.storage.process.processes import OfProcess
from rasteret_assets.storage.unchanged import IndexedFile, check_unchanged, difference, replaced

if TYPE_CHECKING:
    from rasteret_assets.storage.credentials.signing import Signer
    from rasteret_assets.storage.credentials.tokens import Token

#: Answers to a request for several ranges after which each range is asked for by itself.
_RANGES_IGNORED = frozenset({200, 206, 400, 416})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
#: The wanted ranges of a request: the ``Range`` header; start and end of the bytes to keep if the server sends the
#: whole object instead; most bytes that the ranges have. A plain tuple, because every request makes one.
_Wanted: TypeAlias = tuple[str, int, int, int]
#: Most redirects that are followed for one request.
_MOST_REDIRECTS = 10


class HttpBackend(ReadingBackend):
    """Byte ranges over HTTP.

    Args:
        headers: sent with every request (an ``Authorization``, an API key), or by host. Headers for all hosts are not
            sent to a host that only a redirect names.
        proxy: address of the proxy for every host; None for the proxy that the environment names.
        link_local: whether names may lead to link-local addresses. Behind a proxy the proxy looks names up.
        signer: signs the requests of addresses that need a token.

    Raises:
        SpecError: if a header or host is not valid.
    """

    def __init__(
        self,
        headers: GivenHeaders | None = None,
        proxy: str | None = None,
        *,
        link_local: bool = False,
        signer: Signer | None = None,
    ) -> None:
        self._signer = signer
        self._link_local = link_local
        self._headers = HostHeaders(headers)
        self._given_proxy = proxy
        self._proxies = urllib.request.getproxies()
        self._here = OfProcess(ProcessClients)
        #: Hosts that do not answer several ranges at once.
        self._single_ranges: set[str] = set()

    def signs(self, url: str) -> bool:
        """Tell whether requests of an address are signed with a token."""
        return self._signer is not None and self._signer.issuer.scope(url) is not None

    async def read(self, url: str, start: int, length: int) -> RangeRead:
        """Return one range with the object's size and validators.

        Raises:
            RangeReadError: in the subclass that fits the status or the failure of the connection.
        """
        answer = await self._answer(url, _one_range(start, length))
        return interpret(answer, url, start, length)

    async def read_range(self, url: str, start: int, length: int) -> RangeRead:
        """Return one range as :meth:`read` does, but refuse a server that sends the whole object.

        Raises:
            WrongRangeError: with the status 200, if the server ignores ``Range``.
            RangeReadError: in the subclass that fits the status or the failure of the connection.
        """
        answer = await self._answer(url, _one_range(start, length))
        if answer.status == 200:
            where = redact(url)
            raise WrongRangeError(
                f"{where}: the server sends the whole object in place of a range", href=where, status=200
            )
        return interpret(answer, url, start, length)

    async def read_ends(self, url: str, head: int, tail: int) -> EndsRead:
        """Return the first ``head`` and the last ``tail`` bytes; in two requests if the host takes one range at a time.

        Web servers answer several ranges in one request; the HTTP front ends of object stores do not.

        Raises:
            RangeReadError: in the subclass that fits the status or the failure of the connection.
        """
        name = host(url)
        requests = 2
        if name not in self._single_ranges:
            room = head + tail + PARTS_ROOM
            try:
                answer = await self._answer(url, (f"bytes=0-{head - 1},-{tail}", 0, 0, room))
            except WrongRangeError:  # more bytes than both have: the host made one range of the two
                answer = HttpAnswer(200, {}, b"")
            if answer.status not in _RANGES_IGNORED:
                raise status_error(answer, url)
            pieces = read_ends_of(answer, head, tail)
            if pieces is not None:
                return EndsRead(pieces, 1)
            if not is_multipart(answer):  # an answer of several ranges that lacks bytes was cut short on its way
                self._single_ranges.add(name)
            requests = 3
        start, end = await asyncio.gather(self.read(url, 0, head), self._read_end(url, tail))
        return EndsRead([(0, start), *end], requests)

    async def _read_end(self, url: str, length: int) -> list[tuple[int, RangeRead]]:
        """Return the end of an object with its place; nothing if the server does not tell the place."""
        answer = await self._answer(url, (f"bytes=-{length}", 0, 0, length))
        size = total_size(answer)
        if answer.status != 206 or size is None:
            return []
        start = max(0, size - length)
        return [(start, interpret(answer, url, start, length))]

    async def read_if_changed(self, url: str, start: int, length: int, validators: Validators) -> RangeRead | None:
        """Return one range, or None where the server says that the object still has ``validators``."""
        conditions = {"If-None-Match": validators.etag, "If-Modified-Since": validators.last_modified}
        given = {name: value for name, value in conditions.items() if is_sendable(value)}
        answer = await self._answer(url, _one_range(start, length), given)
        if answer.status != 304:
            return interpret(answer, url, start, length)
        indexed = IndexedFile(validators.etag, validators.last_modified)
        if difference(indexed, *validators_of(answer.headers)) is None:
            return None
        # The server takes the object for unchanged, by a weak tag or a later time, but tells another time itself.
        return await self.read(url, start, length)

    async def read_unchanged(self, url: str, start: int, length: int, indexed: IndexedFile) -> RangeRead:
        """Return one range of the indexed file, on the condition that the file is unchanged.

        The condition is ``If-Match`` if the index has a strong tag, else ``If-Unmodified-Since`` (RFC 9110, 13.1.1 and
        13.1.4). Tag, time and size of the answer are compared too, because servers may ignore conditions.

        Raises:
            FileReplacedError: if the file at ``url`` is another than the indexed one.
            RangeReadError: in the subclass that fits the status or the failure of the connection.
        """
        if tag := indexed.strong_etag:
            condition = {"If-Match": tag}
        else:
            condition = {"If-Unmodified-Since": date} if (date := indexed.http_date) else {}
        answer = await self._answer(url, _one_range(start, length), condition)
        if answer.status != 412:
            return check_unchanged(interpret(answer, url, start, length), url, indexed)
        validators = validators_of(answer.headers)
        if not any(validators) or difference(indexed, *validators) is not None:
            raise replaced(url, "its host answers HTTP 412 to the condition that it is the same")
        # A server that refuses the condition and tells the demanded tag or time does not understand conditions.
        return check_unchanged(await self.read(url, start, length), url, indexed)

    def _answer(
        self, url: str, wanted: _Wanted, headers: Mapping[str, str] | None = None
    ) -> Coroutine[Any, Any, HttpAnswer]:
        """Return the answer to a range request, signed where the address needs a token.

        Not ``async``, because another coroutine per header would cost processor time.

        Args:
            url: of the object.
            wanted: the wanted ranges.
            headers: further headers of this request.
        """
        if self._signer is None:
            return self._answer_to(url, wanted, headers, None)
        return self._signer.read(
            url, lambda token: self._answer_to(url, wanted, headers, token), lambda answer: answer.status
        )

    async def _answer_to(
        self, url: str, wanted: _Wanted, headers: Mapping[str, str] | None, token: Token | None
    ) -> HttpAnswer:
        """Return the answer to a range request, at the end of all redirects.

        Args:
            url: of the object.
            wanted: the wanted ranges.
            headers: further headers of this request.
            token: opens the object; None for an unsigned request.
        """
        query = "" if token is None else token.query
        try:
            origin, path = split_url(identity_href(url) if query and "?" in url else url)
        except ValueError:  # without the error's text, which may repeat a password
            raise RangeReadError(f"{redact(url)}: not a valid URL", href=redact(url)) from None
        if query:
            path += ("&" if "?" in path else "?") + query
        clients = self._clients_here()
        answer = await self._ask(clients, url, origin, path, wanted, headers, token)
        if answer.status in _REDIRECTS and "location" in answer.headers:
            return await self._follow(clients, url, origin, path, answer, wanted, headers, token)
        return answer

    async def _follow(
        self,
        clients: LoopClients,
        url: str,
        origin: Origin,
        path: str,
        answer: HttpAnswer,
        wanted: _Wanted,
        headers: Mapping[str, str] | None,
        token: Token | None,
    ) -> HttpAnswer:
        """Return the answer at the end of redirects (RFC 9110, 15.4); errors on the way name ``url``."""
        first, where = origin, redact(url)
        for _ in range(_MOST_REDIRECTS):
            address = address_of(origin, path)
            clients.keep_cookies(answer, address)
            try:
                origin, path = split_url(urljoin(str(address), as_written(answer.headers["location"])))
            except ValueError:
                message = f"{where}: HTTP {answer.status} leads to something that is not an HTTP address"
                raise BadAnswerError(message, href=where, status=answer.status) from None
            if token is not None and self._signer is not None and self._signer.issuer.is_login(origin.host):
                return HttpAnswer(401, {}, b"")
            # The user may name such a host if the spec allows it; a server that redirects may not.
            if is_link_local(origin.authority.decode()) and not is_link_local(first.authority.decode()):
                message = f"{where}: HTTP {answer.status} leads to a service of this machine or its network: refused"
                raise BadAnswerError(message, href=where, status=answer.status)
            foreign = not is_same_server(first, origin)
            answer = await self._ask(
                clients, url, origin, path, wanted, headers, None if foreign else token, foreign=foreign
            )
            if answer.status not in _REDIRECTS or "location" not in answer.headers:
                clients.keep_cookies(answer, address_of(origin, path))
                return answer
        raise BadAnswerError(f"{where}: more than {_MOST_REDIRECTS} redirects", href=where, status=answer.status)

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        here = self._here.get()
        here.last = None
        clients = here.by_loop.pop(asyncio.get_running_loop(), None)
        if clients is not None:
            await clients.close()

    async def _ask(
        self,
        clients: LoopClients,
        url: str,
        origin: Origin,
        path: str,
        wanted: _Wanted,
        headers: Mapping[str, str] | None,
        token: Token | None,
        *,
        foreign: bool = False,
    ) -> HttpAnswer:
        """Return the answer to one request to one host.

        Args:
            clients: of this event loop.
            url: address that errors name.
            origin: the host.
            path: path and query at the host.
            wanted: the wanted ranges.
            headers: further headers of this request.
            token: its headers take precedence over those given for the host.
            foreign: whether a redirect of another host leads here.
        """
        connections = clients.redirected if foreign else clients.ranges
        try:
            proxy = self._proxy(origin) if self._given_proxy or self._proxies else None
            signed = {} if token is None else token.headers
            if proxy is None and clients.cookies is None and not signed:
                head = self._headers.lines(origin, foreign=foreign)
                if headers:
                    head += header_lines(headers)
                return await connections.get(origin, path, head, *wanted)
            names = {name.lower() for name in signed}
            given = self._headers.of(origin, foreign=foreign)
            fields = {name: value for name, value in given.items() if name.lower() not in names}
            fields |= {**(headers or {}), **signed}
            if clients.cookies is not None:
                name = next((name for name in fields if name.lower() == "cookie"), "Cookie")
                if cookie := clients.cookies.of(address_of(origin, path), fields.get(name)):
                    fields[name] = cookie
            if proxy is None:
                return await connections.get(origin, path, header_lines(fields), *wanted)
            fields["Range"] = wanted[0]
            return await clients.session.get(address_of(origin, path), fields, *wanted[1:], proxy)
        except (OSError, EOFError, MalformedError, ValueError) as error:
            # Without the cause, because its text may repeat a URL with its query.
            raise read_error(error, origin, url, longest=wanted[3]) from None

    def _clients_here(self) -> LoopClients:
        """Return the clients of the event loop that is running in this thread."""
        here = self._here.get()
        last = here.last
        # Compared by thread, which runs one loop at most, because asking for the loop costs a system call before 3.12.
        if last is not None and last.thread == threading.get_ident() and last.loop.is_running():
            return last.clients
        loop = asyncio.get_running_loop()
        clients = here.by_loop.get(loop)
        if clients is None:
            for closed in [other for other in here.by_loop if other.is_closed()]:
                del here.by_loop[closed]
            clients = here.by_loop[loop] = LoopClients(link_local=self._link_local)
        here.last = BoundClients(threading.get_ident(), loop, clients)
        return clients

    def _proxy(self, origin: Origin) -> str | None:
        """Return the given proxy, or the one that the environment names for a host."""
        if self._given_proxy:
            return self._given_proxy
        if urllib.request.proxy_bypass(origin.host):
            return None
        return self._proxies.get("https" if origin.secure else "http") or self._proxies.get("all")


def _one_range(start: int, length: int) -> _Wanted:
    end = start + length
    return f"bytes={start}-{end - 1}", start, end, length
