"""Reads JSON documents of a STAC API or catalog until they are whole, from wherever their address says.

urllib3 waits out answers that pass (429 with ``Retry-After``, 5xx). What neither it nor pystac-client knows is here: a
body that breaks off or is not JSON is asked for again, and no address of a machine's own network is asked.
"""

from __future__ import annotations

import json
import threading
import time
from typing import Any, Final
from urllib.parse import urlsplit

import orjson
from pystac import Link
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO
from requests import PreparedRequest, Response
from requests.adapters import HTTPAdapter
from urllib3 import Retry

from rasteret_assets.errors import BadPageError, HarvestError
from rasteret_assets.secrets import redact, redact_text
from rasteret_assets.storage.filesystems import resolve_filesystem
from rasteret_assets.storage.link_local import is_link_local

#: Seconds between the tries of a document that breaks off or is not JSON.
RETRIED_AFTER_S: tuple[float, ...] = (0.2, 1.0, 5.0, 15.0)
#: Grows the pause of urllib3 between tries of an answer that may pass: 0, 1, 2, 4, 8 s, unless the host says how long.
BACKOFF_S: float = 0.5
_TRIES: Final = 6
#: The longest pause that a host may ask for.
_LONGEST_PAUSE_S: Final = 300
_PASSING: Final = (408, 425, 429, 500, 502, 503, 504)
_TIMEOUT_S: Final = (30.0, 300.0)
_FINAL: Final = range(400, 500)
_SHOWN: Final = 300


class _GuardedAdapter(HTTPAdapter):
    """Sends requests, also those to which a redirect leads, unless a catalog has no business with their address.

    Args:
        retry: which answers are waited out.
        link_local: whether addresses of a machine's own network may be asked.
    """

    def __init__(self, retry: Retry, *, link_local: bool) -> None:
        super().__init__(max_retries=retry)
        self._link_local = link_local

    def send(self, request: PreparedRequest, *args: Any, **kwargs: Any) -> Response:
        """Send a request.

        Raises:
            HarvestError: if it leads to an address of this machine's own network.
        """
        href = str(request.url)
        if not self._link_local and is_link_local(urlsplit(href).netloc.rpartition("@")[2]):
            raise HarvestError(
                f"{redact(href)}: is an address of this machine's own network, or hands out its credentials; allow it "
                "with link_local: allow"
            )
        return super().send(request, *args, **kwargs)


class StacReader(StacApiIO):  # type: ignore[misc,unused-ignore]
    """Reads documents of an API or a catalog, from HTTP(S), a disk or any filesystem that pyarrow knows.

    Args:
        link_local: whether addresses of a machine's own network may be asked.
    """

    def __init__(self, *, link_local: bool = False) -> None:
        # Broken connections are for this class: urllib3 logs the addresses of those that it tries again, keys included.
        retry = Retry(
            total=_TRIES, connect=0, read=0, other=0, status_forcelist=_PASSING, allowed_methods=None,
            backoff_factor=BACKOFF_S, raise_on_status=False, retry_after_max=_LONGEST_PAUSE_S,
        )  # fmt: skip
        super().__init__(timeout=_TIMEOUT_S, max_retries=None)
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, _GuardedAdapter(retry, link_local=link_local))
        self._counting = threading.Lock()
        self.requests = 0

    def read_text(self, source: Any, *args: Any, **kwargs: Any) -> str:
        """Read a document from where its address says."""
        href = source.get_absolute_href() if isinstance(source, Link) else str(source)
        scheme = urlsplit(str(href)).scheme
        if scheme in {"http", "https"}:
            return str(super().read_text(source, *args, **kwargs))
        fs, path = resolve_filesystem(str(href))
        self._count()
        with fs.open_input_stream(path) as stream:
            return str(stream.read().decode("utf-8"))

    def request(self, href: str, *args: Any, **kwargs: Any) -> str:
        """Send a request, and count it."""
        self._count()
        return str(super().request(href, *args, **kwargs))

    def json_loads(self, txt: str, *args: Any, **kwargs: Any) -> dict[str, Any]:  # noqa: ARG002  (pystac's signature)
        """Parse a document, also one that has NaN for a number, as Python writes it."""
        try:
            found = orjson.loads(txt)
        except orjson.JSONDecodeError:
            found = json.loads(txt)
        if not isinstance(found, dict):
            raise ValueError("not a JSON object")  # noqa: TRY004  (as for any other text that is not)
        return found

    def document(self, source: str | Link, *, method: str | None = None, parameters: Any = None) -> dict[str, Any]:
        """Read a JSON document, again where it breaks off or is not one.

        Raises:
            HarvestError: if the host refuses it.
            BadPageError: if it cannot be had, or is not JSON, however often it is asked for.
        """
        told = redact(str(source.href if isinstance(source, Link) else source))
        more = {} if isinstance(source, Link) and parameters is None else {"method": method, "parameters": parameters}
        for pause in (*RETRIED_AFTER_S, None):
            try:
                return self.json_loads(self.read_text(source, **more))
            except APIError as error:
                if isinstance(error.__context__, HarvestError):  # of the adapter
                    raise error.__context__ from None
                status = getattr(error, "status_code", None)
                if status in _FINAL and status not in _PASSING:
                    raise HarvestError(f"{told}: the host answers {status}: {short(error)}") from None
                reason = _unanswered(error) if status is None else f"the host answers {status}: {short(error)}"
            except FileNotFoundError:
                raise HarvestError(f"{told}: there is no such document") from None
            except (ValueError, RecursionError) as error:
                reason = f"not a JSON document ({short(error)})"
            except OSError as error:
                reason = short(error)
            if pause is None:
                break
            time.sleep(pause)
        raise BadPageError(f"{told}: {reason}; asked {len(RETRIED_AFTER_S) + 1} times")

    def _count(self) -> None:
        with self._counting:
            self.requests += 1


def _unanswered(error: APIError) -> str:
    """Say why no answer came, without the layers of clients that repeat it."""
    causes = getattr(error.__cause__ or error.__context__, "args", ())
    # Of requests' errors the first argument is urllib3's, whose reason ends with the system's own words.
    reason = getattr(causes[0], "reason", None) if causes else None
    told = error if reason is None else Exception(str(reason).rpartition(": ")[2])
    return f"the host does not answer ({short(told)})"


def short(error: BaseException) -> str:
    """Return what an error says in one line, without secrets."""
    text = redact_text(" ".join(str(error).split())) or type(error).__name__
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ..."
