"""Ask an API for one window until its answer is whole: complete, without contradiction, and not half of it.

Paging is not a transaction. Items that are added or removed between two pages shift those that follow, so that an item
comes twice or not at all; some APIs lose items under load. A window whose pages do not add up is asked for again from
its first page.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from rasteret_assets.errors import BadPageError
from rasteret_assets.harvesting.client import StacApi
from rasteret_assets.harvesting.items import AssetTypes
from rasteret_assets.harvesting.ledger import digest_of
from rasteret_assets.harvesting.rows import Spool, WindowRows
from rasteret_assets.harvesting.windows import Window

T = TypeVar("T")

_log = logging.getLogger(__name__)

#: Seconds before a window whose pages do not add up is asked for again.
ASKED_AGAIN_AFTER_S: tuple[float, ...] = (1.0, 5.0)


class TooLargeError(Exception):
    """A window that has more items than are asked for at once."""


class StoppedError(Exception):
    """A harvest that somebody ended."""


@dataclass(kw_only=True)
class Answer:
    """What came of one way through the pages of a window.

    Args:
        window: that was asked for.
        rows: items that are stored in this window.
        strays: items that came but are stored in another window, by the hash of their name: id and time.
        matched: how many items the API says that it has.
    """

    window: Window
    rows: WindowRows
    strays: dict[bytes, tuple[str, datetime]]
    matched: int | None = None
    received: int = 0

    @property
    def distinct(self) -> int:
        """Items that came, each counted once."""
        return len(self.rows.contents) + len(self.strays)

    def lost(self, *, trust_count: bool) -> str:
        """Return what is missing or contradictory, in words; empty where nothing is."""
        if self.rows.contradicted:
            return f"{self.rows.contradicted} items came twice, and differently"
        if trust_count and self.matched is not None and self.distinct < self.matched:
            return (
                f"{self.matched} items match, but {self.distinct} came; if the API's counts are estimates, say "
                "trust_count: false"
            )
        return ""

    def odd(self) -> str:
        """Return what looks like items that were lost; such an answer is believed when it comes again."""
        if self.rows.repeated:
            return f"{self.rows.repeated} items came twice"
        if self.matched is not None and self.distinct > self.matched:
            return f"{self.matched} items match, but {self.distinct} came"
        return ""


def ask_window(
    api: StacApi,
    window: Window,
    scratch: str,
    types: AssetTypes,
    *,
    is_first: bool,
    check_stop: Callable[[int], None],
    done: Callable[[Answer], None],
) -> None:
    """Ask an API for a window, and hand its answer on once it is whole.

    Args:
        api: that is asked.
        window: stretch of time.
        scratch: folder for temporary files.
        types: of the assets of the harvest's items.
        is_first: whether items before the window are its own, as no window holds them.
        check_stop: called with the number of items of every page; raises :class:`StoppedError` to end.
        done: takes the answer while its rows are there.

    Raises:
        TooLargeError: if the window can be split, and has more items than the options allow.
        BadPageError: if its pages did not add up, however often they were asked for.
        HarvestError: if the host refuses the search.
    """
    reason, seen = "", set[str]()
    for pause in (*ASKED_AGAIN_AFTER_S, None):
        with Spool(scratch) as spool:
            rows = WindowRows(spool, types)
            answer = Answer(window=window, rows=rows, strays={})
            try:
                _read_pages(api, answer, is_first=is_first, check_stop=check_stop)
            except BadPageError as error:
                reason = str(error)
            else:
                reason = answer.lost(trust_count=api.options.trust_count)
                odd, digest = answer.odd(), digest_of(rows.contents)
                if not reason and (not odd or digest in seen):
                    if odd:
                        _log.warning("window %s: %s, each time that it was asked for", window.key, odd)
                    done(answer)
                    return
                seen.add(digest)
                reason = reason or odd
        if pause is None:
            break
        _log.info("window %s: %s; it is asked for again", window.key, reason)
        time.sleep(pause)
    raise BadPageError(f"{reason} (asked {len(ASKED_AGAIN_AFTER_S) + 1} times)")


def until_whole(search: Callable[[], T], what: str) -> T:
    """Return what a search gives, which is tried again where its pages do not add up.

    Args:
        search: raises :class:`BadPageError` where they do not.
        what: is searched for, for messages.

    Raises:
        BadPageError: if the pages did not add up, however often they were asked for.
    """
    for pause in ASKED_AGAIN_AFTER_S:
        try:
            return search()
        except BadPageError as error:
            _log.info("%s: %s; it is tried again", what, error)
        time.sleep(pause)
    try:
        return search()
    except BadPageError as error:
        raise BadPageError(f"{what}: {error} (asked {len(ASKED_AGAIN_AFTER_S) + 1} times)") from None


def _read_pages(api: StacApi, answer: Answer, *, is_first: bool, check_stop: Callable[[int], None]) -> None:
    window, most = answer.window, api.options.max_items_per_window
    for page in api.pages(window):
        if page.matched is not None:
            answer.matched = page.matched
        answer.received += page.count or 0
        if max(answer.received, answer.matched or 0) > most and window.parts():
            raise TooLargeError
        for items in api.items_of(page):
            own = []
            for item in items:
                if item.moment is None or holds(window, item.moment, is_first=is_first):
                    own.append(item)
                else:
                    answer.strays[item.key] = (str(item.document.get("id")), item.moment)
            answer.rows.add(own)
            check_stop(len(items))


def holds(window: Window, moment: datetime, *, is_first: bool) -> bool:
    """Whether an item of a moment is stored in a window.

    Args:
        window: stretch of time.
        moment: of the item.
        is_first: whether items before the window are its own.
    """
    after_start = window.start is None or is_first or moment >= window.start
    return after_start and (window.end is None or moment < window.end)
