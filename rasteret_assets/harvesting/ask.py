"""Ask an API for one window until the answer is whole: no item is missing, and none comes in two versions.

Paging is not a transaction. Items that are added or removed between two pages shift the items after them, so that one
comes twice or not at all; some APIs lose items under load. A window whose pages do not add up is asked for again from
its first page.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from rasteret_assets.errors import BadPageError, HarvestError
from rasteret_assets.harvesting.client import StacApi
from rasteret_assets.harvesting.items import AssetTypes
from rasteret_assets.harvesting.window_ledger import digest_of
from rasteret_assets.harvesting.window_rows import Spool, WindowRows
from rasteret_assets.harvesting.windows import Window

T = TypeVar("T")

_log = logging.getLogger(__name__)

#: Seconds before a window whose pages do not add up is asked for again.
ASKED_AGAIN_AFTER_S: tuple[float, ...] = (1.0, 5.0)


class TooLargeError(Exception):
    """Raised for a window that has more items than ``max_items_per_window``."""


class StoppedError(Exception):
    """Raised in the threads of a harvest that was interrupted."""


@dataclass(kw_only=True)
class Answer:
    """Holds the items of one pass through the pages of a window.

    Args:
        window: that was asked for.
        rows: items that are stored in this window.
        strays: id and time of items that came but belong to another window, by the item's key.
        matched: number of items that the API says match; None where it does not count.
        received: number of items in the pages so far, repeated ones included.
    """

    window: Window
    rows: WindowRows
    strays: dict[bytes, tuple[str, datetime]]
    matched: int | None = None
    received: int = 0

    @property
    def distinct(self) -> int:
        """Number of items that came, each counted once."""
        return len(self.rows.contents) + len(self.strays)

    def lost(self, *, trust_count: bool) -> str:
        """Return in words what is missing or contradictory in the answer; an empty text if nothing is."""
        if self.rows.contradicted:
            return f"{self.rows.contradicted} items came twice, with different content"
        if trust_count and self.matched is not None and self.distinct < self.matched:
            return (
                f"{self.matched} items match, but {self.distinct} came; if the API's counts are estimates, say "
                "trust_count: false"
            )
        return ""

    def odd(self) -> str:
        """Return in words why items may be missing; an empty text for no reason. Such an answer has to come twice."""
        if self.rows.repeated:
            return f"{self.rows.repeated} items came twice"
        if self.matched is not None and self.distinct > self.matched:
            return f"{self.matched} items match, but {self.distinct} came"
        return ""


@dataclass(frozen=True, kw_only=True)
class Question:
    """Says how a window is asked for.

    Args:
        window: stretch of time.
        is_first: whether the window also holds the items before its start, because no other window does.
        page_size: items per page of a first try, more than ``limit`` of the options; None for no such try.
    """

    window: Window
    is_first: bool
    page_size: int | None = None


class WindowReader:
    """Asks an API for windows, each until its answer is whole.

    Args:
        api: that is asked.
        scratch: folder for temporary files.
        check_stop: called with the number of items as they come; raises :class:`StoppedError` to end.
        take: called with each whole answer, whose rows exist only during the call.
    """

    def __init__(
        self, api: StacApi, scratch: str, check_stop: Callable[[int], None], take: Callable[[Answer], None]
    ) -> None:
        self._api, self._scratch, self._check_stop, self._take = api, scratch, check_stop, take
        self._types = AssetTypes()
        self._one_large = threading.Lock()
        #: Whether the API gives pages larger than ``limit`` of the options; True until it refused one.
        self.gives_large_pages = True

    def ask(self, question: Question) -> None:
        """Ask the API for a window, and call ``take`` with the answer once it is whole.

        Raises:
            TooLargeError: if the window can be split, and has more items than the options allow.
            BadPageError: if the pages did not add up in any of three tries.
            HarvestError: if the host refuses the search.
        """
        window, size, is_refused = question.window, question.page_size, False
        if size is not None and self.gives_large_pages:
            try:
                with self._one_large:  # because the text of a page of 10,000 items takes 64 MB of memory
                    if not self._ask_once(question, set(), size):
                        return
            except HarvestError as error:
                is_refused = True
                _log.info(
                    "window %s: a page of %d items did not come (%s); pages of the usual size are asked for",
                    window.key, size, error,
                )  # fmt: skip
        reason, seen = "", set[str]()
        for pause in (*ASKED_AGAIN_AFTER_S, None):
            try:
                reason = self._ask_once(question, seen)
            except BadPageError as error:
                reason = str(error)
            if not reason:
                # Only after pages of the usual size came, because a host that is down refuses pages of any size.
                self.gives_large_pages &= not is_refused
                return
            if pause is None:
                break
            _log.info("window %s: %s; it is asked for again", window.key, reason)
            time.sleep(pause)
        raise BadPageError(f"{reason} (asked {len(ASKED_AGAIN_AFTER_S) + 1} times)")

    def _ask_once(self, question: Question, seen: set[str], page_size: int | None = None) -> str:
        """Go once through the pages of a window; return why the answer is not whole, or an empty text."""
        with Spool(self._scratch) as spool:
            answer = Answer(window=question.window, rows=WindowRows(spool, self._types), strays={})
            self._read_pages(answer, question, page_size)
            reason = answer.lost(trust_count=self._api.options.trust_count)
            odd, digest = answer.odd(), digest_of(answer.rows.contents)
            if not reason and (not odd or digest in seen):
                if odd:
                    _log.warning("window %s: %s, each time that it was asked for", question.window.key, odd)
                self._take(answer)
                return ""
            seen.add(digest)
            return reason or odd

    def _read_pages(self, answer: Answer, question: Question, page_size: int | None) -> None:
        window, most = answer.window, self._api.options.max_items_per_window
        pages = (
            self._api.pages(window)
            if page_size is None
            else self._api.pages(window, patient=False, limit=page_size)
        )  # fmt: skip
        for page in pages:
            if page.matched is not None:
                answer.matched = page.matched
            answer.received += page.count or 0
            if max(answer.received, answer.matched or 0) > most and window.parts():
                raise TooLargeError
            for items in self._api.items_of(page):
                own = []
                for item in items:
                    if item.moment is None or holds(window, item.moment, is_first=question.is_first):
                        own.append(item)
                    else:
                        answer.strays[item.key] = (str(item.document.get("id")), item.moment)
                answer.rows.add(own)
                self._check_stop(len(items))


def until_whole(search: Callable[[], T], what: str) -> T:
    """Return the result of ``search``, which is called again while its pages do not add up.

    Args:
        search: raises :class:`BadPageError` if its pages do not add up.
        what: name of the search in messages.

    Raises:
        BadPageError: if the pages did not add up in any of three tries.
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


def holds(window: Window, moment: datetime, *, is_first: bool) -> bool:
    """Tell whether an item of the time ``moment`` is stored in ``window``.

    Args:
        window: stretch of time.
        moment: of the item.
        is_first: whether the window also holds the items before its start.
    """
    after_start = window.start is None or is_first or moment >= window.start
    return after_start and (window.end is None or moment < window.end)
