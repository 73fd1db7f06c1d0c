"""Harvest a STAC API or catalog: ask for the windows that can have changed, and note in the ledger what they brought.

A window is asked for again if it was never harvested or failed, if its file is lost, if an item in it was updated, if
it is young, or if it is time for all windows. The items that come are compared with the stored ones by content, and the
file of the window is replaced only if they differ. A window that fails keeps its old file, and the others go on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from datetime import UTC, datetime
from itertools import islice
from typing import Final

import numpy as np

from rasteret_assets.errors import BadPageError, HarvestError, SpecError
from rasteret_assets.harvest_options import HarvestOptions, WindowSize
from rasteret_assets.harvesting._static_catalog import StaticCatalog
from rasteret_assets.harvesting._window_files import HarvestStore
from rasteret_assets.harvesting._windows_to_ask import bounds, named_windows, planned_windows, windows_to_ask
from rasteret_assets.harvesting.ask import Answer, Question, StoppedError, TooLargeError, WindowReader
from rasteret_assets.harvesting.client import StacApi
from rasteret_assets.harvesting.harvest_report import HarvestReport, WindowResult
from rasteret_assets.harvesting.items import AssetTypes, StacItem, first_half
from rasteret_assets.harvesting.window_ledger import (
    HARVEST_VERSION,
    WindowState,
    age_days,
    read_hashes,
    read_ledger,
)
from rasteret_assets.harvesting.window_rows import Spool, WindowRows
from rasteret_assets.harvesting.windows import UNDATED, Calendar, Window, moment_of, utc_text, window_at
from rasteret_assets.message_lists import some
from rasteret_assets.secrets import redact
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.process.collector import fewer_collections
from rasteret_assets.storage.workspace import Workspace
from rasteret_assets.versions import spec_version

_log = logging.getLogger(__name__)

#: Called with the number of windows that are done, of windows that are asked for, and of items that have come.
HarvestProgress = Callable[[int, int, int], None]

#: Windows that are asked for at a time: several, because most time is waiting for pages; few, to spare the API.
WINDOWS_AT_ONCE: Final = 4
#: Seconds between writes of the ledger while windows come in.
_LEDGER_EVERY_S: Final = 10.0
_LISTED: Final = 10
#: Items of a static catalog that are sorted into windows at once, and Arrow bytes of all windows that memory holds.
_CHUNK: Final = 2048
_HELD_BYTES: Final = 96 * 2**20
#: Items of the largest page that OGC's standard lets an API be asked for.
_LARGEST_PAGE: Final = 10_000
#: New objects between two passes of Python's garbage collector: more than the pages in memory have, because reference
#: counts free these objects.
_OBJECTS: Final = 1_000_000


def harvest_items(
    spec: CollectionSpec,
    workspace: Workspace,
    *,
    force: bool = False,
    windows: Collection[str] | None = None,
    now: datetime | None = None,
    progress: HarvestProgress | None = None,
) -> HarvestReport:
    """Bring the harvested items of a collection up to date with its STAC API or catalog.

    Args:
        spec: of the collection, with ``harvest``.
        workspace: of the collection.
        force: ask for all windows.
        windows: keys (``2024-05``) of the only windows that an API is asked for, whether they can have changed or not.
            Ignored if something else was harvested before, and for a static catalog, which is read as a whole. By
            default the windows that can have changed.
        now: moment that counts as now; the clock's when omitted.
        progress: called as windows and pages come in, from several threads.

    Raises:
        SpecError: if the collection is not harvested.
        HarvestError: if the API refuses the search or lacks a collection, or a key names no window. Windows that fail
            are listed in the report instead.
        WorkspaceError: if files cannot be written.
    """
    if spec.harvest is None:
        raise SpecError(f"{spec.name}: has no harvest options, which say where its STAC items come from")
    with workspace.lock_harvest(), fewer_collections(_OBJECTS):
        workspace.sweep()
        harvest = _Harvest(spec, workspace, now or datetime.now(UTC), progress, force=force, named=windows)
        report = harvest.of_catalog() if spec.harvest.stac_catalog is not None else harvest.of_api()
    for name, count in report.without.items():
        if count:
            _log.warning("%s: %d harvested items have no %s", spec.name, count, name)
    for reason in islice(report.unread.values(), _LISTED):
        _log.warning("%s: a document of the catalog cannot be read: %s", spec.name, reason)
    if report.unread:
        _log.warning(
            "%s: %d documents of the catalog cannot be read; items that were stored before and were not seen now are "
            "kept, and what is new in these documents is missing", spec.name, len(report.unread),
        )  # fmt: skip
    return report


def is_harvested(spec: CollectionSpec, workspace: Workspace) -> bool:
    """Tell whether all windows of a collection were harvested before, with its present options."""
    if spec.harvest is None:
        return False
    ledger = read_ledger(workspace)
    return ledger.question == _question(spec.harvest) and ledger.full is not None and ledger.full_since is None


def _question(options: HarvestOptions) -> str:
    # Without secrets in the address, because another key of the API asks for the same items.
    address = {"stac_api": None, "stac_catalog": None, "address": redact(options.address)}
    return spec_version({**options.question, **address, "version": HARVEST_VERSION}, None)


def refuse_failed_windows(spec: CollectionSpec, report: HarvestReport) -> None:
    """Refuse a harvest in which windows failed.

    Raises:
        HarvestError: naming the failed windows, with the reason of each.
    """
    if not report.failed:
        return
    lines = [f"{key}: {reason}" for key, reason in sorted(report.failed.items())]
    more = f"\n... and {len(lines) - _LISTED} more" if len(lines) > _LISTED else ""
    listing = "\n".join(lines[:_LISTED])
    raise HarvestError(
        f"{spec.name}: {len(lines)} of {report.windows} windows could not be harvested; they keep what they had, and "
        f"are asked for again by the next harvest\n{listing}{more}",
        report.failed,
    )


def _silent(done: int, total: int, items: int) -> None:
    """Show no progress."""
    del done, total, items


class _Harvest:
    """Runs one harvest, whose lock is held."""

    def __init__(
        self,
        spec: CollectionSpec,
        workspace: Workspace,
        now: datetime,
        progress: HarvestProgress | None,
        *,
        force: bool,
        named: Collection[str] | None,
    ) -> None:
        if spec.harvest is None:
            raise SpecError("no harvest options")
        self.options, self.workspace, self.now = spec.harvest, workspace, now
        self.link_local = spec.link_local == "allow"
        self.report_progress = progress or _silent
        self.ledger = read_ledger(workspace)
        question = _question(self.options)
        self.is_other = self.ledger.question != question
        #: Keys of the only windows to ask for; None to ask for every window that can have changed.
        self.named = None if self.is_other or self.options.stac_catalog is not None else named
        begins = self.is_other or (
            self.named is None and (force or (self.ledger.full_since is None and self._is_due()))
        )  # fmt: skip
        if self.is_other:
            self.ledger.forget(self.ledger.windows)
        if begins:
            self.ledger.full_since = utc_text(now)
            self.ledger.gives_large_pages = True  # so that a large page is tried again
        self.begins = begins
        # Files of a harvest that was killed may share items, or differ in types.
        self.is_resumed, self.ledger.unfinished = self.ledger.unfinished, True
        self.ledger.question = question
        self.store = HarvestStore(workspace, self.ledger.texts)
        self.results: dict[str, WindowResult] = {}
        self.failed: dict[str, str] = {}
        self.types = AssetTypes()
        self.unsure: frozenset[str] = frozenset()
        self.strays: dict[bytes, tuple[str, datetime]] = {}
        self.items = 0
        self.stopped = threading.Event()
        self.guard = threading.Lock()
        self.saved = time.monotonic()

    # --- an API ------------------------------------------------------------------------------------------------------

    def of_api(self) -> HarvestReport:
        """Harvest a STAC API."""
        api = StacApi(self.options, link_local=self.link_local)
        windows = planned_windows(api, self.ledger, self.now, full=self.begins)
        if not self.is_other:
            windows = [leaf for window in windows for leaf in window.leaves(self.ledger.windows)]
        self.first = windows[0].start
        if self.named is None:
            asked, self.unsure = windows_to_ask(
                api, windows, self.ledger, self.workspace, self.store.present, self.now
            )  # fmt: skip
        else:
            asked = named_windows(windows, self.named)
            # Noted before newer items come, which say nothing of changes in the windows that are not asked for.
            self.ledger.updated_until = self.ledger.updated_until or self.ledger.updated
        leaves = {window.key: window for window in windows}
        reader = WindowReader(api, self.workspace.scratch, self._count, self._take)
        reader.gives_large_pages = self.ledger.gives_large_pages
        if asked:
            self.ledger.forget(window.key for window in asked)
            self._save()
        try:
            self._ask_all(reader, asked, leaves)
            if self.store.is_written or self.is_resumed:
                # Items whose time changed may be in their old and in their new window.
                sharing = [leaves[key] for key in self.store.windows_that_share() if key in leaves]
                self._ask_all(reader, sharing, leaves)
            self._check_strays(leaves)
        finally:
            self.ledger.gives_large_pages = reader.gives_large_pages
            self._save()
        if not self.ledger.items and not self.failed:
            api.check_collections()  # because a search for an unknown collection finds no item, and is not an error
        return self._end(leaves, api.io.requests)

    def _is_due(self) -> bool:
        return age_days(self.ledger.full, self.now) >= self.options.full_every

    def _ask_all(self, reader: WindowReader, asked: Sequence[Window], leaves: dict[str, Window]) -> None:
        """Ask for windows side by side; windows that are too large are replaced by their parts."""
        waiting, total = list(reversed(asked)), len(asked)
        running: dict[Future[None], Window] = {}
        with ThreadPoolExecutor(WINDOWS_AT_ONCE) as pool:
            try:
                while waiting or running:
                    while waiting and len(running) < WINDOWS_AT_ONCE:
                        window = waiting.pop()
                        # In a copy of this context, which says that the lock is held.
                        running[pool.submit(copy_context().run, reader.ask, self._question(window))] = window
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        window = running.pop(future)
                        parts = self._ended(future, window, leaves)
                        waiting += reversed(parts)
                        total += len(parts) - bool(parts)
                    self.report_progress(total - len(waiting) - len(running), total, self.items)
                    self._save(every=_LEDGER_EVERY_S)
            except BaseException:
                self.stopped.set()  # before the pool waits for its threads
                raise

    def _ended(self, future: Future[None], window: Window, leaves: dict[str, Window]) -> list[Window]:
        """Note how the question for a window ended; return the parts of a window that is too large."""
        try:
            future.result()
        except TooLargeError:
            parts = window.parts()
            leaves.pop(window.key, None)
            leaves.update((part.key, part) for part in parts)
            return parts
        except BadPageError as error:
            self._fail(window, str(error))
        return []

    def _question(self, window: Window) -> Question:
        state, size = self.ledger.windows.get(window.key), None
        if state is not None and window.key in self.unsure:
            # A page for the items that the window had and some more: one request, if the window is as it was.
            size = min(_LARGEST_PAGE, state.items + state.items // 8 + 16)
        return Question(
            window=window, is_first=window.start == self.first,
            page_size=size if size is not None and size > self.options.limit else None,
        )  # fmt: skip

    def _count(self, items: int) -> None:
        if self.stopped.is_set():
            raise StoppedError
        with self.guard:
            self.items += items

    def _take(self, answer: Answer) -> None:
        self._put(answer.window, answer.rows, answer.matched)
        with self.guard:
            self.strays.update(answer.strays)

    def _put(self, window: Window, rows: WindowRows, matched: int | None = None) -> None:
        before = self.ledger.windows.get(window.key)
        digest, found, rewritten = self.store.put(window.key, rows)
        start, end = bounds(window)
        now = utc_text(self.now)
        state = WindowState(
            start=start, end=end, items=len(rows.contents), digest=digest, asked=now,
            changed=now if rewritten or before is None else before.changed, updated=rows.updated, newest=rows.newest,
            without={name: count for name, count in rows.without.items() if count}, matched=matched,
        )  # fmt: skip
        with self.guard:
            self.ledger.windows[window.key] = state
            first = self.results.get(window.key, WindowResult(items=0))
            self.results[window.key] = first.then(state.items, *found, rewritten=rewritten)

    def _fail(self, window: Window, reason: str) -> None:
        start, end = bounds(window)
        with self.guard:
            self.failed[window.key] = reason
            self.ledger.fail(window.key, WindowState(start=start, end=end), reason)

    def _check_strays(self, leaves: dict[str, Window]) -> None:
        """Fail windows that should hold an item, by its time, which came only in the answer for another window."""
        calendar = Calendar(sorted(leaves.values(), key=lambda window: (window.start is not None, window.start)))
        homes: dict[str, dict[bytes, str]] = {}
        for item, (name, moment) in self.strays.items():
            home = calendar.window_of(moment)
            if home is not None and home.key in self.results:
                homes.setdefault(home.key, {})[item] = name
        for key, items in homes.items():
            stored = read_hashes(self.workspace, key) or {}
            if missing := list(dict.fromkeys(name for item, name in items.items() if item not in stored)):
                when = "when it is asked for another window, but not for this one, which holds their datetime"
                self._fail(leaves[key], f"the API gives {some(missing)} {when}")

    # --- a static catalog --------------------------------------------------------------------------------------------

    def of_catalog(self) -> HarvestReport:
        """Harvest a static catalog, all of whose items are read."""
        self.ledger.full_since = utc_text(self.now)
        catalog = StaticCatalog(self.options, link_local=self.link_local)
        leaves: dict[str, Window] = {}
        rows: dict[str, WindowRows] = {}
        with Spool(self.workspace.scratch) as spool:
            for items in _in_chunks(catalog.items()):
                for window, own in _by_window(items, self.options.window):
                    leaves[window.key] = window
                    rows.setdefault(window.key, WindowRows(spool, self.types)).add(own)
                if sum(found.held_bytes for found in rows.values()) > _HELD_BYTES:
                    for found in rows.values():
                        found.spill()
                self.items += len(items)
                self.report_progress(0, len(rows), self.items)
            if catalog.unread:
                self._keep_unseen(catalog, leaves, rows, spool)
            self._put_all(leaves, rows)
        self._save()
        return self._end(leaves, catalog.io.requests, catalog.unread)

    def _keep_unseen(
        self, catalog: StaticCatalog, leaves: dict[str, Window], rows: dict[str, WindowRows], spool: Spool
    ) -> None:
        """Keep the stored items that were not seen, because the documents that could not be read may be theirs."""
        if self.is_other:
            return  # because the options may no longer choose the stored items
        seen = [first_half(key) for found in rows.values() for key in found.contents]
        every = np.concatenate([np.array(seen, np.uint64), np.frombuffer(catalog.passed_over, np.uint64)])
        for key in sorted(self.store.present):
            state = self.ledger.windows.get(key) or WindowState(start=None, end=None)
            for batch, contents in self.store.kept_rows(key, every):
                start, end, newest = (moment_of(text or "") for text in (state.start, state.end, state.newest))
                leaves.setdefault(key, Window(key=key, start=start, end=end))
                rows.setdefault(key, WindowRows(spool, self.types)).keep(batch, contents, newest)

    def _put_all(self, leaves: dict[str, Window], rows: dict[str, WindowRows]) -> None:
        for done, (key, found) in enumerate(sorted(rows.items()), 1):
            if found.contradicted:
                self._fail(leaves[key], f"{found.contradicted} items are in the catalog twice, with different content")
            else:
                self._put(leaves[key], found)
            self.report_progress(done, len(rows), self.items)

    # --- the end -----------------------------------------------------------------------------------------------------

    def _end(self, leaves: dict[str, Window], requests: int, unread: Mapping[str, str] | None = None) -> HarvestReport:
        """Delete the files of windows that are gone, unite the types of columns, and return the report."""
        if self.store.is_written or self.is_resumed:
            self.store.settle_types()
        full = self.named is None and self.ledger.full_since is not None
        if not self.failed:
            gone = (self.store.present | self.ledger.windows.keys()) - leaves.keys()
            lost = {key: self.store.remove(key) for key in sorted(gone)}
            self._count_gone(lost)
            # A window that was not asked for yet, such as a new month, stays unknown: the next harvest asks for it.
            windows = self.ledger.windows
            self.ledger.windows = {key: windows[key] for key in sorted(leaves) if key in windows}
            if self.named is None:
                self.ledger.full = self.ledger.full_since or self.ledger.full
                self.ledger.full_since = None
        if self.named is None:
            self.ledger.harvested, self.ledger.updated_until = utc_text(self.now), None
        self.ledger.unfinished = False
        self._save()
        without: Counter[str] = Counter()
        for state in self.ledger.windows.values():
            without.update(state.without)
        return HarvestReport(
            path=self.workspace.harvested, full=full, windows=len(leaves), asked=self.results, failed=self.failed,
            items=self.ledger.items, newest=self.ledger.newest, requests=requests, without=dict(without),
            unread=unread or {},
        )  # fmt: skip

    def _count_gone(self, lost: dict[str, int]) -> None:
        """Count the items of deleted files as gone, unless parts of their windows hold them now."""
        for key, items in lost.items():
            if items and not any(other.startswith(key) for other in self.results):
                self.results[key] = WindowResult(items=0, gone=items, rewritten=True)

    def _save(self, every: float = 0.0) -> None:
        if time.monotonic() - self.saved >= every:
            with self.guard:
                document = self.ledger.to_json()
            self.workspace.write_json(self.workspace.harvest_ledger, document)
            self.saved = time.monotonic()


def _in_chunks(items: Iterable[StacItem]) -> Iterator[list[StacItem]]:
    found = iter(items)
    while chunk := list(islice(found, _CHUNK)):
        yield chunk


def _by_window(items: Iterable[StacItem], size: WindowSize) -> Iterator[tuple[Window, list[StacItem]]]:
    """Yield items of a static catalog by the window that holds their time."""
    found: dict[Window, list[StacItem]] = {}
    for item in items:
        at = item.moment
        window = Window(key=UNDATED, start=None, end=None) if at is None else window_at(at, size)
        found.setdefault(window, []).append(item)
    yield from found.items()
