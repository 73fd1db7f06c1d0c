"""Talks to STAC APIs and static catalogs: pages of items as they came, each read until it is whole.

pystac-client builds the requests and urllib3 waits out what passes (429 with ``Retry-After``, 5xx, broken connections).
What they do not know is here: a body that breaks off or is not JSON is asked for again, and paging that goes round in
a circle is told.
"""

from __future__ import annotations

import json
import re
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from urllib.parse import urljoin, urlsplit

import orjson
from pystac import Link
from pystac.errors import STACError
from pystac_client import Client
from pystac_client.errors import ClientTypeError
from pystac_client.exceptions import APIError
from pystac_client.item_search import ItemSearch
from pystac_client.stac_api_io import StacApiIO
from urllib3 import Retry

from rasteret_assets.errors import BadPageError, HarvestError
from rasteret_assets.harvest_options import HarvestOptions, Interval
from rasteret_assets.harvesting.items import with_bands
from rasteret_assets.harvesting.windows import Window, moment_of
from rasteret_assets.secrets import redact, redact_text
from rasteret_assets.storage.filesystems import resolve_filesystem
from rasteret_assets.storage.link_local import is_link_local
from rasteret_assets.versions import spec_version

#: Seconds between the tries of a document that breaks off or is not JSON.
RETRIED_AFTER_S: tuple[float, ...] = (0.2, 1.0, 5.0)
#: Grows the pause of urllib3 between tries of an answer that may pass: 0, 1, 2, 4, 8 s, unless the host says how long.
BACKOFF_S: float = 0.5
_TRIES: Final = 6
#: The longest pause that a host may ask for.
_LONGEST_PAUSE_S: Final = 300
_PASSING: Final = (408, 425, 429, 500, 502, 503, 504)
_TIMEOUT_S: Final = (30.0, 300.0)
#: Pages without an item that may follow one another: some APIs filter after they have cut pages.
_EMPTY_PAGES: Final = 20
_SHOWN: Final = 300
#: Begins the names of what the search of an API can do.
_SEARCHES: Final = r"https://api\.stacspec\.org/v1\.[^/]+/item-search#"
#: In what an API says of a property that is a time: as its format, or in the address of the schema that says so.
_TIMES: Final = ("date-time", "datetime.json", "/updated")
_FINAL: Final = range(400, 500)


class Page(NamedTuple):
    """A page of a search.

    Args:
        items: as the API gives them.
        matched: how many items match the whole search, where the API tells.
    """

    items: list[dict[str, Any]]
    matched: int | None


class StacReader(StacApiIO):  # type: ignore[misc,unused-ignore]
    """Reads documents of an API or a catalog, from HTTP(S), a disk or any filesystem that pyarrow knows.

    Args:
        link_local: whether addresses of a machine's own network may be asked.
    """

    def __init__(self, *, link_local: bool = False) -> None:
        retry = Retry(
            total=_TRIES, status_forcelist=_PASSING, allowed_methods=None, backoff_factor=BACKOFF_S,
            raise_on_status=False, retry_after_max=_LONGEST_PAUSE_S,
        )  # fmt: skip
        super().__init__(timeout=_TIMEOUT_S, max_retries=retry)
        self._link_local = link_local
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
        """Send a request, unless it leads to an address that a catalog has no business with."""
        if not self._link_local and is_link_local(urlsplit(href).netloc.rpartition("@")[2]):
            raise HarvestError(
                f"{redact(href)}: is an address of this machine's own network, or hands out its credentials; allow it "
                "with link_local: allow"
            )
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
                status = getattr(error, "status_code", None)
                if status in _FINAL and status not in _PASSING:
                    raise HarvestError(f"{told}: the host answers {status}: {_short(error)}") from None
                reason = _unanswered(error) if status is None else f"the host answers {status}: {_short(error)}"
            except FileNotFoundError:
                raise HarvestError(f"{told}: there is no such document") from None
            except (ValueError, RecursionError) as error:
                reason = f"not a JSON document ({_short(error)})"
            except OSError as error:
                reason = _short(error)
            if pause is None:
                break
            time.sleep(pause)
        raise BadPageError(f"{told}: {reason}; asked {len(RETRIED_AFTER_S) + 1} times")

    def _count(self) -> None:
        with self._counting:
            self.requests += 1


@dataclass(frozen=True)
class Abilities:
    """What an API says that it can do with the time of an item's last change."""

    query: bool
    filter: bool
    sort: bool


class StacApi:
    """A STAC API.

    Args:
        options: of the harvest.
        link_local: as for :class:`StacReader`.

    Raises:
        HarvestError: if the address is not one of a STAC API.
        BadPageError: if it does not answer.
    """

    def __init__(self, options: HarvestOptions, *, link_local: bool = False) -> None:
        self.options = options
        self.io = StacReader(link_local=link_local)
        address = options.address
        document = self.io.document(address)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what an API does not say that it can is decided here
                self._client = Client.from_dict(document, href=address, preserve_dict=False)
        except (STACError, ClientTypeError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise HarvestError(f"{redact(address)}: not the first page of a STAC API ({_short(error)})") from None
        self._client._stac_io = self.io  # noqa: SLF001  (as pystac-client's own constructors do)
        links = [link for link in self._client.get_links("search") if link.get_absolute_href()]
        if not links:
            raise HarvestError(
                f"{redact(address)}: has no link to search for items: it may be a static catalog, which stac_catalog "
                "names in the place of stac_api"
            )
        methods = {str(link.extra_fields.get("method", "GET")).upper(): link for link in links}
        self._method = "POST" if "POST" in methods else "GET"
        self._search = str((methods.get(self._method) or links[0]).get_absolute_href())

    @property
    def abilities(self) -> Abilities:
        """What the API says that it can do."""
        # Not by pystac-client, which knows extensions as of 1.0 only.
        classes = [str(one) for one in self._client.get_conforms_to()]
        query, filters, sort = (
            any(re.match(rf"{_SEARCHES}{name}\b", one) for one in classes) for name in ("query", "filter", "sort")
        )
        return Abilities(query=query, filter=filters, sort=sort)

    def extent(self) -> Interval:
        """Return the time that the collections say their items are of."""
        starts, ends = [], []
        for document in self._collections():
            try:
                first, last = document["extent"]["temporal"]["interval"][0]
            except (LookupError, TypeError, ValueError):
                return Interval(None, None)
            starts.append(moment_of(first) if isinstance(first, str) else None)
            ends.append(moment_of(last) if isinstance(last, str) else None)
        told = [start for start in starts if start is not None]
        start = min(told) if told and len(told) == len(starts) else None
        closed = [end for end in ends if end is not None]
        return Interval(start, max(closed) if closed and len(closed) == len(ends) else None)

    def _collections(self) -> Iterator[dict[str, Any]]:
        root = next((link.get_absolute_href() for link in self._client.get_links("data")), None)
        if root is None:
            root = f"{self.options.address.partition('?')[0].rstrip('/')}/collections"
        if self.options.collections:
            base, mark, query = root.partition("?")
            for name in self.options.collections:
                yield self.io.document(f"{base.rstrip('/')}/{name}{mark}{query}")
        else:
            for page in self._pages(root, "GET", {}):
                yield from (found for found in page.get("collections") or () if isinstance(found, dict))

    def updated_is_text(self) -> bool:
        """Whether the API says by which properties it filters, and does not say of ``updated`` that it is a time."""
        names = self.options.collections
        path = f"collections/{names[0]}/queryables" if len(names) == 1 else "queryables"
        base, mark, query = self.options.address.partition("?")
        try:
            document = self.io.document(f"{base.rstrip('/')}/{path}{mark}{query}")
        except (HarvestError, BadPageError):
            return False
        properties = document.get("properties")
        told = properties.get("updated") if isinstance(properties, dict) else None
        return isinstance(properties, dict) and not any(mark in str(told) for mark in _TIMES)

    def pages(self, window: Window, **more: Any) -> Iterator[Page]:
        """Yield the pages of a window's items.

        Args:
            window: stretch of time.
            more: arguments of ``ItemSearch`` in place of those that the options make.

        Raises:
            BadPageError: if a page cannot be had, is not one, or leads back to an earlier one.
            HarvestError: if the host refuses the search.
        """
        options = self.options
        asked: dict[str, Any] = {
            "collections": list(options.collections) or None, "bbox": options.bbox, "intersects": options.intersects,
            "datetime": window.asked, "query": dict(options.query) or None, "filter": options.filter,
            "filter_lang": "cql2-json" if options.filter is not None or "filter" in more else None,
            "limit": options.limit, **more,
        }  # fmt: skip
        search = ItemSearch(self._search, method=self._method, stac_io=self.io, max_items=None, **asked)
        for page in self._pages(search.url, self._method, search.get_parameters()):
            items = page.get("features")
            if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
                raise BadPageError(f"{redact(self._search)}: a page has no list of items as its features")
            bands = [with_bands(item, options.band_map, options.band_index_map) for item in items]
            yield Page(bands, _matched(page))

    def _pages(self, url: str, method: str, parameters: Any) -> Iterator[dict[str, Any]]:
        page = self.io.document(url, method=method, parameters=parameters)
        seen, empty = {_page_key(url, parameters)}, 0
        while True:
            yield page
            empty = 0 if page.get("features") or page.get("collections") else empty + 1
            following = _next(page, url)
            if following is None or empty >= _EMPTY_PAGES:
                return
            key = _page_key(following.get("href"), [following.get(name) for name in ("method", "body", "headers")])
            if key in seen:
                raise BadPageError(f"{redact(url)}: paging leads back to a page that was read before")
            seen.add(key)
            try:
                page = self.io.document(Link.from_dict(following), parameters=parameters)
            except BadPageError:
                raise
            except HarvestError as error:
                # What was asked for is right, as the first page says; a token may have run out.
                raise BadPageError(str(error)) from None


def _next(page: Mapping[str, Any], url: str) -> dict[str, Any] | None:
    links = page.get("links")
    for link in links if isinstance(links, list) else ():
        if isinstance(link, dict) and link.get("rel") == "next" and isinstance(link.get("href"), str):
            return {**link, "href": urljoin(url, link["href"])}
    return None


def _page_key(href: Any, rest: Any) -> str:
    return spec_version({"href": href, "rest": rest}, None)


def _matched(page: Mapping[str, Any]) -> int | None:
    context = page.get("context")
    told = page.get("numberMatched")
    if told is None and isinstance(context, dict):
        told = context.get("matched")
    return told if isinstance(told, int) and not isinstance(told, bool) and told >= 0 else None


def _unanswered(error: APIError) -> str:
    """Say why no answer came, without the layers of clients that repeat it."""
    causes = getattr(error.__cause__ or error.__context__, "args", ())
    # Of requests' errors the first argument is urllib3's, whose reason ends with the system's own words.
    reason = getattr(causes[0], "reason", None) if causes else None
    told = error if reason is None else Exception(str(reason).rpartition(": ")[2])
    return f"the host does not answer ({_short(told)})"


def _short(error: BaseException) -> str:
    text = redact_text(" ".join(str(error).split())) or type(error).__name__
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ..."


def changed_since(api: StacApi, moment: str, *, included: bool) -> Iterator[dict[str, Any]]:
    """Yield the arguments of searches for items that changed since a moment: the surest first.

    Args:
        api: that is asked.
        moment: as RFC 3339 has it.
        included: whether items that changed at that very moment are meant too.
    """
    options, can = api.options, api.abilities
    if can.query and "updated" not in options.query and options.filter is None:
        yield {"query": {**options.query, "updated": {"gte" if included else "gt": moment}}}
    if can.filter and not options.query:
        # Some compare as text what they do not know to be a time, and fail where they are given one.
        literals: list[Any] = [{"timestamp": moment}, moment]
        for literal in reversed(literals) if api.updated_is_text() else literals:
            since = {"op": ">=" if included else ">", "args": [{"property": "updated"}, literal]}
            yield {"filter": since if options.filter is None else {"op": "and", "args": [options.filter, since]}}
    if can.sort:
        yield {"sortby": [{"field": "properties.updated", "direction": "desc"}]}
