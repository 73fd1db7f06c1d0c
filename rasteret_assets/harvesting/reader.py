"""Read JSON documents of a STAC API or catalog until they are whole, over HTTP or from a file system.

urllib3 asks again after answers that pass (429 with ``Retry-After``, 5xx). This module adds what neither urllib3 nor
pystac-client does: a body that breaks off or is not JSON is asked for again, and no address of a machine's own network
is asked.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from pystac import Link
from pystac_client.stac_api_io import StacApiIO
from requests import PreparedRequest, Request, RequestException, Response
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, Retry
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from rasteret_assets.errors import BadPageError, HarvestError
from rasteret_assets.harvesting.pages import parse_json
from rasteret_assets.secrets import redact, redact_text
from rasteret_assets.storage.addresses.link_local import is_link_local, is_link_local_address
from rasteret_assets.storage.filesystems import resolve_filesystem

T = TypeVar("T")

#: Seconds between the tries of a document that breaks off or is not JSON.
RETRIED_AFTER_S: tuple[float, ...] = (0.2, 1.0, 5.0, 15.0)
#: Factor of urllib3's pauses after answers that may pass: 0, 1, 2, 4, 8 and 16 s, unless the host says how long.
BACKOFF_S: float = 0.5
_TRIES: Final = 6
#: Longest pause, in seconds, that a host may ask for.
_LONGEST_PAUSE_S: Final = 300
_PASSING: Final = (408, 425, 429, 500, 502, 503, 504)
_TIMEOUT_S: Final = (30.0, 300.0)
_FINAL: Final = range(400, 500)
_ABSENT: Final = (404, 410)
_SHOWN: Final = 300
_OWN: Final = "is an address of this machine's own network, or hands out its credentials"
_ALLOW: Final = "allow it with link_local: allow"


class _StatusError(Exception):
    """Raised for an answer of HTTP whose status is not success."""

    def __init__(self, status: int, content: bytes) -> None:
        super().__init__(f"the host answers {status}: {short(Exception(content[:_SHOWN].decode('utf-8', 'replace')))}")
        self.status = status


class DocumentNotFoundError(HarvestError):
    """A document does not exist: its host answers 404 or 410, or its file is not there."""


class _GuardedHTTP(HTTPConnection):
    """Connects a name to the addresses that it resolves to, unless they are of a machine's own network."""

    def _new_conn(self) -> socket.socket:
        name = self.host
        try:
            found = socket.getaddrinfo(name, self.port, type=socket.SOCK_STREAM)
        except OSError:
            return super()._new_conn()  # which says that the name has no address
        every = list(dict.fromkeys(str(address[4][0]) for address in found))
        allowed = [address for address in every if not is_link_local_address(address)]
        if not allowed:
            raise HarvestError(f"{name}: resolves to {', '.join(every)}, which {_OWN}; {_ALLOW}")
        try:
            # By the addresses that were checked, because the name may resolve to others the next time.
            for address in allowed[:-1]:
                self.host = address
                try:
                    return super()._new_conn()
                except HTTPError:
                    continue
            self.host = allowed[-1]
            return super()._new_conn()
        finally:
            self.host = name  # against which TLS checks the certificate


class _GuardedHTTPS(HTTPSConnection, _GuardedHTTP):
    """Does what :class:`_GuardedHTTP` does, over TLS."""


class _GuardedPool(HTTPConnectionPool):
    ConnectionCls = _GuardedHTTP


class _GuardedSecurePool(HTTPSConnectionPool):
    ConnectionCls = _GuardedHTTPS


class _GuardedAdapter(HTTPAdapter):
    """Sends requests, redirected ones too, unless their address hands out credentials or is of a machine's own network.

    Args:
        retry: after which answers a request is sent again.
        link_local: whether addresses of a machine's own network may be asked.
    """

    def __init__(self, retry: Retry, *, link_local: bool) -> None:
        self._link_local = link_local
        super().__init__(max_retries=retry)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make connections that check the addresses of names; a proxy resolves names itself and is not checked."""
        super().init_poolmanager(*args, **kwargs)
        if not self._link_local:
            self.poolmanager.pool_classes_by_scheme = {"http": _GuardedPool, "https": _GuardedSecurePool}

    def send(self, request: PreparedRequest, *args: Any, **kwargs: Any) -> Response:
        """Send a request.

        Raises:
            HarvestError: if its address is of this machine's own network, or hands out credentials.
        """
        href = str(request.url)
        if not self._link_local and is_link_local(urlsplit(href).netloc.rpartition("@")[2]):
            raise HarvestError(f"{redact(href)}: {_OWN}; {_ALLOW}")
        return super().send(request, *args, **kwargs)


class StacReader(StacApiIO):  # type: ignore[misc,unused-ignore]
    """Reads documents of an API or a catalog, from HTTP(S), a disk or any filesystem that pyarrow knows.

    Args:
        link_local: whether addresses of a machine's own network may be asked.
    """

    def __init__(self, *, link_local: bool = False) -> None:
        # Not for broken connections, which this class tries again, because urllib3 logs their addresses with the keys.
        retry = Retry(
            total=_TRIES, connect=0, read=0, other=0, status_forcelist=_PASSING, allowed_methods=None,
            backoff_factor=BACKOFF_S, raise_on_status=False, retry_after_max=_LONGEST_PAUSE_S,
        )  # fmt: skip
        super().__init__(timeout=_TIMEOUT_S, max_retries=None)
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, _GuardedAdapter(retry, link_local=link_local))
        self._counting = threading.Lock()
        self.requests = 0

    def request(
        self, href: str, method: str | None = None, headers: dict[str, str] | None = None, parameters: Any = None
    ) -> str:
        """Return the text at an address; pystac-client calls this."""
        return self._answer(href, method, headers, parameters).decode("utf-8")

    def document(self, source: str | Link, *, method: str | None = None, parameters: Any = None) -> dict[str, Any]:
        """Read a JSON document, which is asked for again if it breaks off or is not JSON.

        Raises:
            DocumentNotFoundError: if the document does not exist.
            HarvestError: if the host refuses the document.
            BadPageError: if no try brings a whole JSON document.
        """
        document, _ = self.parsed(source, parse_json, method=method, parameters=parameters)
        return document

    def parsed(
        self, source: str | Link, parse: Callable[[bytes], T], *, method: str | None = None, parameters: Any = None,
        patient: bool = True,
    ) -> T:  # fmt: skip
        """Return what ``parse`` makes of a document, which is read again if it breaks off or cannot be parsed.

        Args:
            source: address, or a link that says how it is followed.
            parse: takes the bytes of the document; raises ValueError for bytes that it does not understand.
            method: of HTTP; GET when omitted. A link has a method of its own.
            parameters: query of a GET, or body of a POST. A link with ``merge`` adds its body to these.
            patient: whether the document is read again.

        Raises:
            DocumentNotFoundError: if the document does not exist.
            HarvestError: if the host refuses the document.
            BadPageError: if no try brings a document that can be parsed.
        """
        address = redact(str(source.href if isinstance(source, Link) else source))
        pauses = RETRIED_AFTER_S if patient else ()
        for pause in (*pauses, None):
            try:
                return parse(self._read(source, method, parameters))
            except _StatusError as error:
                if error.status in _FINAL and error.status not in _PASSING:
                    kind = DocumentNotFoundError if error.status in _ABSENT else HarvestError
                    raise kind(f"{address}: {error}") from None
                reason = str(error)
            except FileNotFoundError:
                web = "" if "://" in address else "; an address on the web begins with https://"
                raise DocumentNotFoundError(f"{address}: the document does not exist{web}") from None
            except RequestException as error:
                reason = _unanswered(error)
            except (ValueError, RecursionError) as error:
                reason = f"not a JSON document ({short(error)})"
            except (OSError, HTTPError) as error:
                reason = short(error)
            if pause is None:
                break
            time.sleep(pause)
        raise BadPageError(f"{address}: {reason}; asked {len(pauses) + 1} times")

    def _read(self, source: str | Link, method: str | None, parameters: Any) -> bytes:
        """Return the bytes of a document over HTTP or from a file system."""
        href = str(source.get_absolute_href() if isinstance(source, Link) else source)
        if urlsplit(href).scheme not in {"http", "https"}:
            fs, path = resolve_filesystem(href)
            self._count()
            with fs.open_input_stream(path) as stream:
                return bytes(stream.read())
        if not isinstance(source, Link):
            return self._answer(href, method, None, parameters)
        link = source.extra_fields
        if str(link.get("method", "GET")).upper() == "GET":
            return self._answer(href, "GET", link.get("headers"), None)
        body = {**(parameters or {} if link.get("merge") else {}), **(link.get("body") or {})}
        return self._answer(href, str(link["method"]), link.get("headers"), body)

    def _answer(self, href: str, method: str | None, headers: Mapping[str, str] | None, parameters: Any) -> bytes:
        """Send a request, and return the body of its answer."""
        self._count()
        method = (method or "GET").upper()
        body = {"json": parameters} if method == "POST" else {"params": parameters}
        request = self.session.prepare_request(Request(method, href, headers=headers, **body))
        settings = self.session.merge_environment_settings(str(request.url), {}, stream=True, verify=None, cert=None)
        with self.session.send(request, timeout=_TIMEOUT_S, **settings) as response:
            # In one piece, because reading by 10 kB, as requests does, takes a tenth of the time of a harvest.
            content = bytes(response.raw.read(decode_content=True))
            if not response.ok:
                raise _StatusError(response.status_code, content)
            return content

    def _count(self) -> None:
        with self._counting:
            self.requests += 1


def _unanswered(error: RequestException) -> str:
    """Say why no answer came, without the layers of clients that repeat it."""
    # The first argument is urllib3's error, whose reason ends with the system's own words.
    reason = getattr(error.args[0], "reason", None) if error.args else None
    cause = error if reason is None else Exception(str(reason).rpartition(": ")[2])
    return f"the host does not answer ({short(cause)})"


def short(error: BaseException) -> str:
    """Return what an error says in one line, without secrets."""
    text = redact_text(" ".join(str(error).split())) or type(error).__name__
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ..."
