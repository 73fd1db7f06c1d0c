"""Choose the windows of an API that have to be asked for: new, failed, lost, updated or young ones."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, NamedTuple

from rasteret_assets.errors import BadPageError, HarvestError
from rasteret_assets.harvest_options import Interval
from rasteret_assets.harvesting.ask import until_whole
from rasteret_assets.harvesting.client import StacApi, changed_since
from rasteret_assets.harvesting.items import StacItem
from rasteret_assets.harvesting.window_ledger import Hashes, Ledger, WindowState, read_hashes
from rasteret_assets.harvesting.windows import (
    ALL,
    Calendar,
    Window,
    moment_of,
    plan_windows,
    utc_text,
)
from rasteret_assets.message_lists import some
from rasteret_assets.storage.workspace import Workspace

_log = logging.getLogger(__name__)

#: Longest time from an item's ``updated`` until the API gives the item.
UPDATED_OVERLAP: Final = timedelta(days=1)
#: Error of an API that compares times as text: ``.``, which begins a fraction of a second, sorts before ``Z``.
_SAME: Final = timedelta(seconds=1)


def planned_windows(api: StacApi, ledger: Ledger, now: datetime, *, full: bool) -> list[Window]:
    """Return all windows of a harvest, in order of time; note in the ledger where the catalog begins.

    Args:
        api: asked for its extent if the ledger does not tell it.
        ledger: of the harvest.
        now: the moment that counts as now.
        full: whether this harvest asks for all windows.
    """
    options = api.options
    extent = Interval(None, None)
    if options.interval.start is None:
        first, last = moment_of(ledger.first or ""), _last_end(ledger)
        if full or first is None:
            extent = api.extent()
            ledger.first = None if extent.start is None else utc_text(extent.start)
        else:
            # The extent of the last harvest, so that harvested windows keep their bounds.
            extent = Interval(first, last and last - timedelta(microseconds=1))
    return plan_windows(options.interval, extent, options.window, now)


def _last_end(ledger: Ledger) -> datetime | None:
    ends = [moment_of(state.end) for state in ledger.windows.values() if state.start and state.end]
    return max((end for end in ends if end is not None), default=None)


class WindowsToAsk(NamedTuple):
    """Names the windows of an API that can have changed.

    Args:
        windows: all windows that have to be asked for.
        unsure: keys of the windows that are asked for only because they are young, and have probably not changed.
    """

    windows: list[Window]
    unsure: frozenset[str] = frozenset()


def windows_to_ask(
    api: StacApi, windows: Sequence[Window], ledger: Ledger, workspace: Workspace, present: set[str], now: datetime
) -> WindowsToAsk:
    """Return the windows of an API that can have changed since they were asked for.

    Args:
        api: asked which items were updated, if it can tell.
        windows: all windows of the harvest.
        ledger: of the harvest.
        workspace: of the collection.
        present: windows that have a file.
        now: the moment that counts as now.
    """
    pending = moment_of(ledger.full_since or "")
    lasting = {
        window.key
        for window in windows
        if _is_settled(window, state := ledger.windows.get(window.key), present)
        and (pending is None or (state is not None and (moment_of(state.asked or "") or now) >= pending))
    }
    updated = _updated_windows(api, windows, ledger, workspace) if lasting else set()
    if updated is None:
        days = api.options.lookback_days
        young = frozenset(
            window.key
            for window in windows
            if window.key in lasting and _is_young(window, ledger.windows[window.key], days, now)
        )
        asked = [window for window in windows if window.key not in lasting or window.key in young]
        return WindowsToAsk(asked, young)
    return WindowsToAsk([window for window in windows if window.key not in lasting or window.key in updated])


def named_windows(windows: Sequence[Window], keys: Collection[str]) -> list[Window]:
    """Return the windows that a user names by keys.

    Args:
        windows: all windows of the harvest.
        keys: of windows or partitions; the key of a window that was split names its parts.

    Raises:
        HarvestError: if a key names no window.
    """
    found = [window for window in windows if any(window.is_of(key) for key in keys)]
    if unknown := sorted(key for key in keys if not any(window.is_of(key) for window in found)):
        raise HarvestError(
            f"{some(unknown)}: not among the {len(windows)} windows of this harvest ({windows[0].key} ... "
            f"{windows[-1].key}); harvest without naming windows, which finds new ones"
        )
    return found


def _is_settled(window: Window, state: WindowState | None, present: set[str]) -> bool:
    """Tell whether a window was harvested with its present bounds, and its file exists."""
    return (
        state is not None
        and state.asked is not None
        and not state.failed
        and (state.start, state.end) == bounds(window)
        and (state.items == 0 or window.key in present)
    )


def bounds(window: Window) -> tuple[str | None, str | None]:
    """Return start and end of a window as the ledger has them."""
    start, end = (None if moment is None else utc_text(moment) for moment in (window.start, window.end))
    return start, end


def _is_young(window: Window, state: WindowState, days: float, now: datetime) -> bool:
    """Tell whether a window ended less than ``days`` before it was last asked for; later it may have got items."""
    asked = moment_of(state.asked or "") or now
    return window.end is None or window.end >= asked - timedelta(days=days)


def _updated_windows(
    api: StacApi, windows: Sequence[Window], ledger: Ledger, workspace: Workspace
) -> set[str] | None:  # fmt: skip
    """Return the keys of windows with updated items; None where the API cannot tell, or items have no ``updated``."""
    texts = [state.updated for state in ledger.windows.values() if state.items]
    moments = [moment for text in texts if text and (moment := moment_of(text)) is not None]
    if not moments or len(moments) < len(texts):
        return None
    newest = moment_of(ledger.updated_until or "") or max(moments)
    harvested = moment_of(ledger.harvested or "")
    # From a day earlier, because items may appear late, unless the last harvest was a day after the newest update.
    recent = harvested is None or harvested < newest + UPDATED_OVERLAP
    since = (newest - UPDATED_OVERLAP).replace(microsecond=0) if recent else newest
    failure: BadPageError | None = None
    for way in changed_since(api, _as_written(since), included=recent):
        try:
            return until_whole(
                partial(_updated_since, api, windows, workspace, since, way, included=recent),
                "the search for updated items",
            )
        except _NoUpdatedError as error:
            _log.info("%s; windows are asked for by their age", error)
        except BadPageError as error:
            _log.info("%s", error)
            failure = failure or error
        except HarvestError as error:
            _log.info("the API does not tell which items were updated: %s", error)
    if failure is not None:
        # Not None, because the failed search may have found updated items, which must not be missed.
        raise failure
    return None


def _as_written(moment: datetime) -> str:
    """Return a moment as most catalogs write it, for APIs that compare text: in milliseconds where these are exact."""
    is_short = moment.microsecond and moment.microsecond % 1000 == 0
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z") if is_short else utc_text(moment)


def _updated_since(
    api: StacApi, windows: Sequence[Window], workspace: Workspace, since: datetime, way: Mapping[str, Any], *,
    included: bool,
) -> set[str]:  # fmt: skip
    return _Probe(windows, workspace, since, included=included).windows_of(api, way)


class _NoUpdatedError(Exception):
    """Raised if an API takes a search for updated items, but ignores its condition or order."""


class _Probe:
    """Finds the windows of items that are new or differ from what was harvested.

    Args:
        windows: of the harvest.
        workspace: of the collection.
        since: items that were updated before this moment are not compared.
        included: whether items that were updated at this very moment are compared.
    """

    def __init__(self, windows: Sequence[Window], workspace: Workspace, since: datetime, *, included: bool) -> None:
        self._windows = windows
        self._calendar = Calendar(windows)
        self._workspace = workspace
        self._since = since
        self._included = included
        self._found: set[str] = set()
        self._stored: dict[str, Hashes] = {}

    def windows_of(self, api: StacApi, way: Mapping[str, Any]) -> set[str]:
        """Return the keys of windows with updated items, which a search with the arguments ``way`` finds.

        Raises:
            HarvestError: if the API does not take the search.
            BadPageError: if pages cannot be had, or fewer items come than the API says.
            _NoUpdatedError: if the API takes the search, but ignores its condition or order.
        """
        last, matched, received, again = None, None, set[bytes](), 0
        whole = Window(key=ALL, start=api.options.interval.start, end=api.options.interval.end)
        for page in api.pages(whole, **way):
            matched = page.matched if page.matched is not None else matched
            for item in (item for items in api.items_of(page) for item in items):
                at = item.updated
                if at is None:
                    raise _NoUpdatedError("the API gives items that do not say when they were updated")
                if "sortby" in way and last is not None and at > last + _SAME:
                    raise _NoUpdatedError("the API does not sort by updated, though it says so")
                if at < self._since or (at == self._since and not self._included):
                    if "sortby" in way:
                        return self._found
                    again += 1
                    if at < self._since - _SAME or again > api.options.limit:
                        raise _NoUpdatedError("the API does not filter by updated, though it says so")
                last = at
                received.add(self._note(item))
        if matched is not None and api.options.trust_count and len(received) < matched:
            raise BadPageError(f"{matched} items match, but {len(received)} came")
        return self._found

    def _note(self, item: StacItem) -> bytes:
        """Note the window of an item that is new or differs from what was harvested; return the item's key."""
        window = self._calendar.window_of(item.moment)
        if window is None or window.key in self._found:
            return item.key
        if window.key not in self._stored:
            self._stored[window.key] = read_hashes(self._workspace, window.key) or {}
        if self._stored[window.key].get(item.key) != item.content:
            self._found.add(window.key)
        return item.key
