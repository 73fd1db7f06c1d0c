"""Read the items of static catalogs: documents that link to one another, on a disk, in a bucket or on a web server.

Every harvest reads all items, because nothing in such a catalog says what changed.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, Final

import shapely
from pystac.utils import make_absolute_href

from rasteret_assets.errors import HarvestError
from rasteret_assets.harvest_options import HarvestOptions, Interval
from rasteret_assets.harvesting.items import StacItem, first_half, key_of, read_item, with_bands
from rasteret_assets.harvesting.pages import parse_json
from rasteret_assets.harvesting.reader import StacReader
from rasteret_assets.harvesting.windows import moment_of
from rasteret_assets.secrets import redact

#: Documents that are read at a time, and documents whose addresses are taken from the queue at once.
_AT_ONCE: Final = 8
_CHUNK: Final = 256


class StaticCatalog:
    """Reads the items of a catalog or collection of linked documents.

    Args:
        options: of the harvest.
        link_local: as for :class:`~rasteret_assets.harvesting.reader.StacReader`.
    """

    def __init__(self, options: HarvestOptions, *, link_local: bool = False) -> None:
        self.options = options
        self.io = StacReader(link_local=link_local)
        self._area = _area(options)
        #: Reasons why documents could not be read, by address.
        self.unread: dict[str, str] = {}
        #: First halves of the keys of items that were read and not chosen.
        self.passed_over = array("Q")

    def items(self) -> Iterator[StacItem]:
        """Yield the items that the options choose, with absolute addresses; note documents that cannot be read.

        Raises:
            HarvestError: if the root of the catalog cannot be read, or is not a catalog.
        """
        address = make_absolute_href(self.options.address)
        root = self.io.document(address)
        if root.get("type") == "Feature":
            raise HarvestError(
                f"{redact(address)}: is one item; give stac_catalog the address of a catalog or collection"
            )
        if not isinstance(root.get("links"), list):
            raise HarvestError(f"{redact(address)}: not a STAC catalog, because it has no links")
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for href, document, strict in self._documents(pool, address, root):
                item = _absolute(document, href)
                if self._is_chosen(item):
                    yield read_item(with_bands(item, self.options.band_map, self.options.band_index_map), strict=strict)
                elif item.get("id") is not None:
                    self.passed_over.append(first_half(key_of(item.get("collection"), item["id"])))

    def _documents(
        self, pool: ThreadPoolExecutor, address: str, root: Mapping[str, Any]
    ) -> Iterator[tuple[str, dict[str, Any], bool]]:
        """Yield the items with their addresses, in no order; note the documents that cannot be read."""
        catalogs, items = deque([(address, root)]), deque[str]()
        seen, waiting = {address}, deque[str]()
        while catalogs or items or waiting:
            while catalogs:
                for rel, href in _links(*catalogs.popleft()):
                    if href not in seen:
                        seen.add(href)
                        (items if rel == "item" else waiting).append(href)
            # Items before catalogs, because every catalog adds links, which wait in memory.
            chosen = items or waiting
            chunk = [chosen.popleft() for _ in range(min(_CHUNK, len(chosen)))]
            for href, found in zip(chunk, pool.map(self._read, chunk), strict=True):
                if isinstance(found, HarvestError):
                    self.unread[redact(href)] = str(found)
                    continue
                document, strict = found
                if document.get("type") == "Feature":
                    yield href, document, strict
                else:
                    catalogs.append((href, document))

    def _read(self, href: str) -> tuple[dict[str, Any], bool] | HarvestError:
        try:
            return self.io.parsed(href, parse_json)
        except HarvestError as error:
            return error

    def _is_chosen(self, item: Mapping[str, Any]) -> bool:
        options = self.options
        if options.collections and item.get("collection") not in options.collections:
            return False
        return self._meets(item.get("geometry")) and _overlaps(item.get("properties"), options.interval)

    def _meets(self, geometry: Any) -> bool:
        if self._area is None:
            return True
        try:
            return bool(isinstance(geometry, dict) and self._area.intersects(shapely.geometry.shape(geometry)))
        except (shapely.errors.ShapelyError, LookupError, TypeError, ValueError, AttributeError):
            return False


def _area(options: HarvestOptions) -> Any:
    if options.intersects is not None:
        try:
            return shapely.geometry.shape(options.intersects)
        except (shapely.errors.ShapelyError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise HarvestError(f"intersects is not a GeoJSON geometry: {error}") from None
    if options.bbox is None:
        return None
    west, south, east, north = options.bbox
    if west <= east:
        return shapely.box(west, south, east, north)
    return shapely.union(shapely.box(west, south, 180, north), shapely.box(-180, south, east, north))


def _overlaps(properties: Any, asked: Interval) -> bool:
    if asked == (None, None):
        return True
    found = properties if isinstance(properties, dict) else {}
    moments = {name: moment_of(text) for name, text in found.items() if isinstance(text, str) and "datetime" in name}
    at = moments.get("datetime")
    start, end = moments.get("start_datetime") or at, moments.get("end_datetime") or at
    if start is None and end is None:
        return False
    first = datetime.min.replace(tzinfo=UTC) if asked.start is None else asked.start
    last = datetime.max.replace(tzinfo=UTC) if asked.end is None else asked.end
    return (end or start or first) >= first and (start or end or last) < last


def _links(href: str, document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    links = document.get("links")
    for link in links if isinstance(links, list) else ():
        if isinstance(link, dict) and link.get("rel") in {"item", "child"} and isinstance(link.get("href"), str):
            yield link["rel"], make_absolute_href(link["href"], href)


def _absolute(item: dict[str, Any], href: str) -> dict[str, Any]:
    """Return an item whose links and assets have absolute addresses."""
    assets, links = item.get("assets"), item.get("links")
    for found in (*(assets.values() if isinstance(assets, dict) else ()), *(links if isinstance(links, list) else ())):
        if isinstance(found, dict) and isinstance(found.get("href"), str):
            found["href"] = make_absolute_href(found["href"], href)
    return item
