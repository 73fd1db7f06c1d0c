"""Keep the ledger of a harvest: a JSON document that says of each window when it was asked for, and what it brought.

The ledger is replaced in one step, after the files that it describes, so that the harvest after a killed one asks again
for windows whose files are newer than the ledger. A table per window holds a hash of each item, by which a later
harvest finds the items that changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from typing import Any, Final, NamedTuple, Self

import pyarrow as pa
from xxhash import xxh3_128_hexdigest

from rasteret_assets.harvesting.text_columns import Texts
from rasteret_assets.harvesting.windows import moment_of
from rasteret_assets.storage.workspace import Workspace
from rasteret_assets.storage.workspace.documents import FORMAT, FORMAT_KEY

#: Raised whenever the same items would be stored as other rows.
HARVEST_VERSION: Final = 1

_HASH: Final = pa.binary(16)
_HASHES_SCHEMA: Final = pa.schema([("item", _HASH), ("content", _HASH)])
#: Hash of the content of each item of a window, by the item's key.
Hashes = Mapping[bytes, bytes]


@dataclass(frozen=True, kw_only=True)
class WindowState:
    """Says what a window brought when it was asked for last. Times are texts of ISO 8601.

    Args:
        start: first moment; None where the window is open.
        end: the moment right after the last one; None where the window is open.
        items: items in its file; 0 where it has no file.
        digest: changes with any of these items.
        asked: when it was asked for.
        changed: when its items became what they are.
        updated: the newest ``updated`` of its items; None where an item has none.
        newest: time of its newest item.
        without: items without a geometry, without assets and without an id.
        matched: how many items the API said that it has; None where the API does not count, and of a static catalog.
        failed: why it could not be harvested at a later try; empty if no later try failed.
    """

    start: str | None
    end: str | None
    items: int = 0
    digest: str = ""
    asked: str | None = None
    changed: str | None = None
    updated: str | None = None
    newest: str | None = None
    without: Mapping[str, int] = field(default_factory=dict)
    matched: int | None = None
    failed: str = ""

    @classmethod
    def from_json(cls, document: Any) -> Self | None:
        """Return the state in a document; None for a document of another form, whose window is asked for again."""
        if not isinstance(document, dict):
            return None
        names = {name.name for name in fields(cls)}
        values = {name: value for name, value in document.items() if name in names}
        try:
            state = cls(**values)
        except TypeError:
            return None
        times = (state.start, state.end, state.asked, state.changed, state.updated, state.newest)
        fit = all(time is None or (isinstance(time, str) and moment_of(time) is not None) for time in times)
        return state if fit and isinstance(state.items, int) and isinstance(state.digest, str) else None


@dataclass(kw_only=True)
class Ledger:
    """Holds the state of all windows of a harvest. Times are texts of ISO 8601.

    Args:
        question: hash of what was asked for; another question means that all windows are asked for.
        windows: by key.
        harvested: when a harvest came to its end last.
        full: when all windows were asked for last, without a failure.
        full_since: when a harvest of all windows began; None once every window was harvested since.
        updated_until: the newest ``updated`` of all items before single windows were harvested by name; None if none
            were since the last harvest. The next search for updated items begins at this time.
        first: the start of the catalog's extent.
        unfinished: whether a harvest began to write files, and did not come to its end.
        gives_large_pages: whether the API gives pages larger than ``limit`` of the options; True until it refused one.
        texts: columns, and fields of assets, that are text because items disagree about their type.
    """

    question: str = ""
    windows: dict[str, WindowState] = field(default_factory=dict)
    harvested: str | None = None
    full: str | None = None
    full_since: str | None = None
    updated_until: str | None = None
    first: str | None = None
    unfinished: bool = False
    gives_large_pages: bool = True
    texts: Texts = field(default_factory=Texts)

    @property
    def items(self) -> int:
        """Number of items of all windows."""
        return sum(state.items for state in self.windows.values())

    @property
    def newest(self) -> str | None:
        """Time of the newest item."""
        return max((state.newest for state in self.windows.values() if state.newest), default=None)

    @property
    def updated(self) -> str | None:
        """The newest ``updated`` of the items of all windows."""
        newest = [
            (moment, state.updated)
            for state in self.windows.values()
            if state.updated and (moment := moment_of(state.updated)) is not None
        ]
        return max(newest, default=(None, None))[1]

    def forget(self, keys: Iterable[str]) -> None:
        """Note that the windows ``keys`` have to be asked for again."""
        for key in keys:
            if key in self.windows:
                self.windows[key] = replace(self.windows[key], asked=None)

    def fail(self, key: str, state: WindowState, reason: str) -> None:
        """Note that a window could not be harvested; what it brought before stays."""
        self.windows[key] = replace(self.windows.get(key, state), failed=reason)

    def to_json(self) -> dict[str, Any]:
        """Return the ledger as a document."""
        return {
            FORMAT_KEY: FORMAT, "question": self.question, "harvested": self.harvested, "full": self.full,
            "full_since": self.full_since, "updated_until": self.updated_until,
            "first": self.first, "unfinished": self.unfinished, "gives_large_pages": self.gives_large_pages,
            "texts": sorted(self.texts.columns),
            "asset_texts": sorted(self.texts.asset_fields),
            "windows": {key: asdict(state) for key, state in sorted(self.windows.items())},
        }  # fmt: skip


def read_ledger(workspace: Workspace) -> Ledger:
    """Return the ledger of a harvest; an empty one where it does not exist or is damaged.

    Raises:
        CollectionError: if the document cannot be read, or a newer version wrote it.
    """
    document = workspace.read_json(workspace.harvest_ledger, cache=True)
    if document is None:
        return Ledger()
    windows = document.get("windows")
    states = {
        key: WindowState.from_json(found) for key, found in (windows if isinstance(windows, dict) else {}).items()
    }
    times = {name: _time(document.get(name)) for name in ("harvested", "full", "full_since", "updated_until", "first")}
    texts = Texts(_names(document.get("texts")), _names(document.get("asset_texts")))
    found = {key: state for key, state in states.items() if state is not None}
    unfinished = bool(document.get("unfinished"))
    return Ledger(
        question=str(document.get("question")), windows=found, unfinished=unfinished, texts=texts,
        gives_large_pages=document.get("gives_large_pages") is not False, **times,
    )  # fmt: skip


def _time(value: Any) -> str | None:
    return value if isinstance(value, str) and moment_of(value) is not None else None


def _names(value: Any) -> set[str]:
    return {name for name in value if isinstance(name, str)} if isinstance(value, list) else set()


# --- hashes of items -------------------------------------------------------------------------------------------------


class Changes(NamedTuple):
    """Counts the items of a window that are new, have another content, and are gone."""

    new: int
    changed: int
    gone: int


def digest_of(hashes: Hashes) -> str:
    """Return a digest that changes with any item of a window, but not with their order."""
    return xxh3_128_hexdigest(b"".join(item + content for item, content in sorted(hashes.items())))


def changes(before: Hashes, after: Hashes) -> Changes:
    """Compare the items of a window with those that it had before."""
    return Changes(
        new=len(after.keys() - before.keys()),
        changed=sum(before[item] != content for item, content in after.items() if item in before),
        gone=len(before.keys() - after.keys()),
    )


def write_hashes(workspace: Workspace, key: str, hashes: Hashes) -> None:
    """Keep the hashes of a window's items."""
    columns = [pa.array(list(values), _HASH) for values in (hashes.keys(), hashes.values())]
    workspace.write_table(workspace.harvest_hashes(key), pa.table(columns, _HASHES_SCHEMA), durable=False)


def read_hashes(workspace: Workspace, key: str) -> Hashes | None:
    """Return the hashes of a window's items; None where they are lost."""
    table = workspace.read_table(workspace.harvest_hashes(key), cache=True)
    if table is None or not table.schema.equals(_HASHES_SCHEMA):
        return None
    items, contents = (column.to_pylist() for column in table.columns)
    return dict(zip(items, contents, strict=True))


def age_days(text: str | None, now: datetime) -> float:
    """Return the days from the time ``text`` until ``now``; infinite for None."""
    moment = None if text is None else moment_of(text)
    return float("inf") if moment is None else (now - moment).total_seconds() / 86_400
