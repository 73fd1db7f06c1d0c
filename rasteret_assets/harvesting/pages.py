"""Pages of an API's items: JSON is parsed whole, or by parts where the page is large.

Python's objects take up to ten times the memory of the JSON that they come from. So a page of many megabytes is cut at
its items first, some hundreds of which become objects at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
import orjson

from rasteret_assets.errors import BadPageError
from rasteret_assets.harvesting.items import StacItem, read_item, with_bands

#: Bytes of JSON above which a page is cut at its items, and items that become objects at once.
_LARGE: Final = 8 * 2**20
_CHUNK: Final = 500


class _Cut(msgspec.Struct):
    """A page whose items are JSON still."""

    features: list[msgspec.Raw]
    links: Any = None
    context: Any = None
    numberMatched: Any = None  # noqa: N815  (the name that the standard gives)


_CUT: Final = msgspec.json.Decoder(_Cut)


def parse_json(text: bytes | str) -> tuple[dict[str, Any], bool]:
    """Return a JSON object, and whether it is strict; Python's own reader takes ``NaN`` for a number.

    Raises:
        ValueError: if it is not a JSON object.
    """
    strict = True
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        found, strict = json.loads(text), False
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004  (as for any other text that is not)
    return found, strict


class Page:
    """A page of a search.

    Args:
        text: the page as JSON.

    Attributes:
        count: number of items; None where the page has no list of them.
        matched: how many items match the whole search, where the API tells.
        links: whatever the page has as its links.
        size: bytes of JSON.

    Raises:
        ValueError: if the page is not a JSON object.
    """

    def __init__(self, text: bytes) -> None:
        self.size = len(text)
        self._strict = True
        self.count: int | None = None
        self._cut: Sequence[msgspec.Raw] = ()
        self._whole: list[Any] = []
        page = _cut(text) if len(text) > _LARGE else None
        if page is not None:
            self._cut, self.count = page.features, len(page.features)
            self.links, self.matched = page.links, _matched(page.numberMatched, page.context)
            return
        document, self._strict = parse_json(text)
        features = document.get("features")
        if isinstance(features, list):
            self._whole, self.count = features, len(features)
        self.links = document.get("links")
        self.matched = _matched(document.get("numberMatched"), document.get("context"))

    def items(self, band_map: Mapping[str, str], band_index_map: Mapping[str, int]) -> Iterator[list[StacItem]]:
        """Yield the items some hundreds at a time; the page has them no longer.

        Args:
            band_map: as for :func:`~rasteret_assets.harvesting.items.with_bands`, like ``band_index_map``.
            band_index_map: as there.

        Raises:
            BadPageError: if one is not a JSON object.
        """
        for chunk in self._chunks():
            if not all(isinstance(item, dict) for item in chunk):
                raise BadPageError("a page has something else than items among its features")
            # The only loop over items as Python's objects: each has a hash, a key and times of its own.
            yield [read_item(with_bands(item, band_map, band_index_map), strict=self._strict) for item in chunk]

    def _chunks(self) -> Iterator[list[Any]]:
        for first in range(0, len(self._cut), _CHUNK):
            try:
                yield orjson.loads(b"[%b]" % b",".join(self._cut[first : first + _CHUNK]))
            except orjson.JSONDecodeError as error:
                raise BadPageError(f"a page has an item that is not JSON ({error})") from None
        whole, self._whole = self._whole, []
        for first in range(0, len(whole), _CHUNK):
            yield whole[first : first + _CHUNK]


def _cut(text: bytes) -> _Cut | None:
    """Cut a page at its items; None where it has none, or is not strict JSON."""
    try:
        return _CUT.decode(text)
    except msgspec.MsgspecError:
        return None


def _matched(told: Any, context: Any) -> int | None:
    if told is None and isinstance(context, dict):
        told = context.get("matched")
    return told if isinstance(told, int) and not isinstance(told, bool) and told >= 0 else None
