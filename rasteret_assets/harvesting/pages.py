"""Parse pages of an API, which are cut at the items before any item becomes a Python object.

Python's objects take up to ten times the memory of the JSON that they come from, and most of an item are its assets.
Each item is therefore parsed, serialized and dropped by itself. This takes two thirds of the time of parsing a whole
page, because the objects of one item stay in the processor's cache, and a large page takes as little memory as a small
one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
import orjson

from rasteret_assets.errors import BadPageError
from rasteret_assets.harvesting.items import StacItem, read_item, with_bands

#: Items of a page that are handed on at once.
_CHUNK: Final = 500


class _Cut(msgspec.Struct):
    """Holds a page whose items are not parsed."""

    features: list[msgspec.Raw]
    links: Any = None
    context: Any = None
    numberMatched: Any = None  # noqa: N815  (the name that the standard gives)


_CUT: Final = msgspec.json.Decoder(_Cut)


def parse_json(text: bytes | memoryview) -> tuple[dict[str, Any], bool]:
    """Return a JSON object, and whether it is strict; Python's own reader takes ``NaN`` for a number.

    Raises:
        ValueError: if ``text`` is not a JSON object.
    """
    strict = True
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        found, strict = json.loads(bytes(text)), False
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004  (as for any other text that is not)
    return found, strict


class Page:
    """Holds one page of a search.

    Args:
        text: the page as JSON.

    Attributes:
        count: number of items; None where the page has no list of them.
        matched: how many items match the whole search, where the API tells.
        links: whatever the page has as its links.

    Raises:
        ValueError: if the page is not a JSON object.
    """

    def __init__(self, text: bytes) -> None:
        self.count: int | None = None
        self._strict = True
        self._features: Sequence[Any] = ()
        try:
            page = _CUT.decode(text)
        except msgspec.MsgspecError:
            # Not strict JSON, without a list of items, or not JSON at all, which parse_json() refuses.
            document, self._strict = parse_json(text)
            features, self.links = document.get("features"), document.get("links")
            self.matched = _matched(document.get("numberMatched"), document.get("context"))
            if isinstance(features, list):
                self._features, self.count = features, len(features)
            return
        self._features, self.count = page.features, len(page.features)
        self.links, self.matched = page.links, _matched(page.numberMatched, page.context)

    def items(self, band_map: Mapping[str, str], band_index_map: Mapping[str, int]) -> Iterator[list[StacItem]]:
        """Yield the items, at most 500 at a time.

        Args:
            band_map: as for :func:`~rasteret_assets.harvesting.items.with_bands`.
            band_index_map: as for the same function.

        Raises:
            BadPageError: if an item is not a JSON object.
        """
        for first in range(0, len(self._features), _CHUNK):
            # The only loop over items as Python's objects: each has a hash, a key and times of its own.
            yield [
                self._item(feature, band_map, band_index_map) for feature in self._features[first : first + _CHUNK]
            ]  # fmt: skip

    def _item(self, feature: Any, band_map: Mapping[str, str], band_index_map: Mapping[str, int]) -> StacItem:
        strict = self._strict
        if isinstance(feature, msgspec.Raw):
            try:
                feature, strict = parse_json(memoryview(feature))
            except ValueError as error:
                raise BadPageError(f"a page has an item that is {error}") from None
        if not isinstance(feature, dict):
            raise BadPageError("a page has an item that is not a JSON object")
        return read_item(with_bands(feature, band_map, band_index_map), strict=strict)


def _matched(count: Any, context: Any) -> int | None:
    if count is None and isinstance(context, dict):
        count = context.get("matched")
    return count if isinstance(count, int) and not isinstance(count, bool) and count >= 0 else None
