"""Search a STAC API for pages of items.

pystac-client makes the searches. This module follows their pages, because pystac-client follows a circle for ever.
"""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import quote, urljoin

from pystac import Link
from pystac.errors import STACError
from pystac_client import Client
from pystac_client.errors import ClientTypeError
from pystac_client.item_search import ItemSearch

from rasteret_assets.errors import BadPageError, HarvestError
from rasteret_assets.harvest_options import HarvestOptions, Interval
from rasteret_assets.harvesting.items import StacItem
from rasteret_assets.harvesting.pages import Page, parse_json
from rasteret_assets.harvesting.reader import DocumentNotFoundError, StacReader, short
from rasteret_assets.harvesting.windows import Window, moment_of
from rasteret_assets.secrets import redact
from rasteret_assets.versions import spec_version

#: Most pages in a row without an item, because some APIs filter after they have cut pages.
_EMPTY_PAGES: Final = 20
#: Most collections that a message lists.
_LISTED: Final = 20
#: Pattern of the beginning of the conformance classes that say what the search of an API can do.
_SEARCHES: Final = r"https://api\.stacspec\.org/v1\.[^/]+/item-search#"
#: Texts of which the queryable of a time holds one: as its format, or in the address of a schema.
_TIMES: Final = ("date-time", "datetime.json", "/updated")


class _CollectionsPage:
    """Holds one page of an API's collections.

    Args:
        text: the page as JSON.
    """

    def __init__(self, text: bytes) -> None:
        document, _ = parse_json(text)
        found = document.get("collections")
        self.collections = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
        self.count: int | None = len(self.collections)
        self.links: Any = document.get("links")


P = TypeVar("P", Page, _CollectionsPage)


@dataclass(frozen=True)
class Abilities:
    """Says whether an API filters and sorts by the time of an item's last change."""

    query: bool
    filter: bool
    sort: bool


class StacApi:
    """Searches a STAC API.

    Args:
        options: of the harvest.
        link_local: as for :class:`~rasteret_assets.harvesting.reader.StacReader`.

    Raises:
        HarvestError: if the address is not that of a STAC API, or the API has no link to search.
        BadPageError: if the host does not answer.
    """

    def __init__(self, options: HarvestOptions, *, link_local: bool = False) -> None:
        self.options = options
        self.io = StacReader(link_local=link_local)
        address = options.address
        document = self.io.document(address)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # this module decides what a missing ability means
                self._client = Client.from_dict(document, href=address, preserve_dict=False)
        except (STACError, ClientTypeError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise HarvestError(f"{redact(address)}: not the first page of a STAC API ({short(error)})") from None
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
        """Abilities that the API declares."""
        # Not by pystac-client, which knows extensions as of 1.0 only.
        classes = [str(one) for one in self._client.get_conforms_to()]
        query, filters, sort = (
            any(re.match(rf"{_SEARCHES}{name}\b", one) for one in classes) for name in ("query", "filter", "sort")
        )
        return Abilities(query=query, filter=filters, sort=sort)

    def extent(self) -> Interval:
        """Return the interval of time that the collections state for their items; open where one states nothing."""
        starts, ends = [], []
        for document in self._collections():
            try:
                first, last = document["extent"]["temporal"]["interval"][0]
            except (LookupError, TypeError, ValueError):
                return Interval(None, None)
            starts.append(moment_of(first) if isinstance(first, str) else None)
            ends.append(moment_of(last) if isinstance(last, str) else None)
        stated = [start for start in starts if start is not None]
        start = min(stated) if stated and len(stated) == len(starts) else None
        closed = [end for end in ends if end is not None]
        return Interval(start, max(closed) if closed and len(closed) == len(ends) else None)

    def check_collections(self) -> None:
        """Refuse ids of collections that the API does not have.

        Raises:
            HarvestError: naming the id, and the collections that the API has if they are few.
        """
        for name in self.options.collections:
            with suppress(DocumentNotFoundError):  # of an API that neither describes nor lists its collections
                self._collection(name)

    def _collections(self) -> Iterator[dict[str, Any]]:
        if self.options.collections:
            yield from map(self._collection, self.options.collections)
        else:
            for page in self._pages(_CollectionsPage, self._root, "GET", {}):
                yield from page.collections

    @property
    def _root(self) -> str:
        """Address of the list of collections."""
        root = next((link.get_absolute_href() for link in self._client.get_links("data")), None)
        return str(root or f"{self.options.address.partition('?')[0].rstrip('/')}/collections")

    def _collection(self, name: str) -> dict[str, Any]:
        """Return the document of a collection."""
        base, mark, query = self._root.partition("?")
        try:
            return self.io.document(f"{base.rstrip('/')}/{quote(name, safe='')}{mark}{query}")
        except DocumentNotFoundError as error:
            try:
                page = next(self._pages(_CollectionsPage, self._root, "GET", {}))
            except HarvestError:
                raise error from None
            ids = [str(one.get("id")) for one in page.collections]
            if name in ids:
                raise
            is_all = len(ids) <= _LISTED and _next(page.links, self._root) is None
            near = difflib.get_close_matches(name, ids, n=1)
            hint = f": did you mean {near[0]!r}?" if near else f"; it has {', '.join(ids) or 'none'}" if is_all else ""
            raise HarvestError(f"{redact(self.options.address)}: the API has no collection {name!r}{hint}") from None

    def updated_is_text(self) -> bool:
        """Tell whether the API lists its queryables, and does not declare ``updated`` as a time there."""
        names = self.options.collections
        path = f"collections/{quote(names[0], safe='')}/queryables" if len(names) == 1 else "queryables"
        base, mark, query = self.options.address.partition("?")
        try:
            document = self.io.document(f"{base.rstrip('/')}/{path}{mark}{query}")
        except (HarvestError, BadPageError):
            return False
        properties = document.get("properties")
        updated = properties.get("updated") if isinstance(properties, dict) else None
        return isinstance(properties, dict) and not any(mark in str(updated) for mark in _TIMES)

    def pages(self, window: Window, *, patient: bool = True, **more: Any) -> Iterator[Page]:
        """Yield the pages of a window's items.

        Args:
            window: stretch of time.
            patient: whether a page that does not come is asked for again.
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
        for page in self._pages(Page, search.url, self._method, search.get_parameters(), patient=patient):
            if page.count is None:
                raise BadPageError(f"{redact(self._search)}: a page has no list of items as its features")
            yield page

    def items_of(self, page: Page) -> Iterator[list[StacItem]]:
        """Yield the items of a page, some hundreds at a time.

        Raises:
            BadPageError: if an item is not a JSON object.
        """
        return page.items(self.options.band_map, self.options.band_index_map)

    def _pages(
        self, parse: Callable[[bytes], P], url: str, method: str, parameters: Any, *, patient: bool = True
    ) -> Iterator[P]:
        """Yield pages, each of which links to the next one."""
        page = self.io.parsed(url, parse, method=method, parameters=parameters, patient=patient)
        seen, empty = {_page_key(url, parameters)}, 0
        while True:
            following = _next(page.links, url)
            empty = 0 if page.count else empty + 1
            yield page
            if following is None or empty >= _EMPTY_PAGES:
                return
            key = _page_key(following.get("href"), [following.get(name) for name in ("method", "body", "headers")])
            if key in seen:
                raise BadPageError(f"{redact(url)}: paging leads back to a page that was read before")
            seen.add(key)
            try:
                page = self.io.parsed(Link.from_dict(following), parse, parameters=parameters, patient=patient)
            except BadPageError:
                raise
            except HarvestError as error:
                # Not a refusal of the search, because the first page came; the token in the link may have expired.
                raise BadPageError(str(error)) from None


def _next(links: Any, url: str) -> dict[str, Any] | None:
    for link in links if isinstance(links, list) else ():
        if isinstance(link, dict) and link.get("rel") == "next" and isinstance(link.get("href"), str):
            return {**link, "href": urljoin(url, link["href"])}
    return None


def _page_key(href: Any, rest: Any) -> str:
    return spec_version({"href": href, "rest": rest}, None)


def changed_since(api: StacApi, moment: str, *, included: bool) -> Iterator[dict[str, Any]]:
    """Yield the arguments of searches for items that changed since a moment, the surest search first.

    Args:
        api: tells its abilities.
        moment: as RFC 3339 has it.
        included: whether items that changed at that very moment are meant too.
    """
    options, can = api.options, api.abilities
    if can.query and "updated" not in options.query and options.filter is None:
        yield {"query": {**options.query, "updated": {"gte" if included else "gt": moment}}}
    if can.filter and not options.query:
        # An API that does not know ``updated`` to be a time compares texts, and some fail if they are given a time.
        literals: list[Any] = [{"timestamp": moment}, moment]
        for literal in reversed(literals) if api.updated_is_text() else literals:
            since = {"op": ">=" if included else ">", "args": [{"property": "updated"}, literal]}
            yield {"filter": since if options.filter is None else {"op": "and", "args": [options.filter, since]}}
    if can.sort:
        yield {"sortby": [{"field": "properties.updated", "direction": "desc"}]}
