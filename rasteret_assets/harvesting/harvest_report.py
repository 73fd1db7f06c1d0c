"""Hold what a harvest did, for messages, reports and metadata of runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rasteret_assets.message_lists import count_of


@dataclass(frozen=True, kw_only=True)
class WindowResult:
    """Says what one window that was asked for has brought.

    Args:
        items: that it has now.
        new: items that it did not have before.
        changed: items whose content is another.
        gone: items that it has no longer.
        rewritten: whether its file was replaced.
    """

    items: int
    new: int = 0
    changed: int = 0
    gone: int = 0
    rewritten: bool = False

    def then(self, items: int, new: int, changed: int, gone: int, *, rewritten: bool) -> WindowResult:
        """Return the result of a window that was asked for again, and then had ``items``."""
        return WindowResult(
            items=items, new=self.new + new, changed=self.changed + changed, gone=self.gone + gone,
            rewritten=self.rewritten or rewritten,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class HarvestReport:
    """Says what a harvest did.

    Args:
        path: folder of the harvested items.
        full: whether all windows were asked for.
        windows: number of windows of the harvest.
        asked: results of the windows that were asked for, by key.
        failed: why windows could not be harvested, by key.
        items: of all windows.
        newest: time of the newest item, as ISO 8601; None without items.
        requests: number of requests that were sent and of files that were read.
        without: items without ``geometry``, ``assets`` and ``id``, of all windows.
        unread: why documents of a static catalog could not be read, by address. Stored items that were not seen stay.
    """

    path: str
    full: bool
    windows: int
    asked: Mapping[str, WindowResult]
    failed: Mapping[str, str] = field(default_factory=dict)
    items: int
    newest: str | None
    requests: int
    without: Mapping[str, int] = field(default_factory=dict)
    unread: Mapping[str, str] = field(default_factory=dict)

    @property
    def totals(self) -> dict[str, int]:
        """Items that are new, changed and gone, and files that were replaced, over all windows that were asked for."""
        counts: Counter[str] = Counter(new=0, changed=0, gone=0, rewritten=0)
        for result in self.asked.values():
            counts.update(
                new=result.new, changed=result.changed, gone=result.gone, rewritten=int(result.rewritten)
            )  # fmt: skip
        return dict(counts)

    def to_json(self) -> dict[str, Any]:
        """Return the report as a JSON document."""
        return {
            "path": self.path, "full": self.full, "windows": self.windows, "asked": sorted(self.asked),
            "failed": dict(self.failed), "items": self.items, "newest": self.newest, "requests": self.requests,
            "without": dict(self.without), "unread": dict(self.unread), **self.totals,
        }  # fmt: skip

    def __str__(self) -> str:
        totals = self.totals
        text = (
            f"{count_of(self.items, 'item')} in {count_of(self.windows, 'window')}, {len(self.asked)} asked for: "
            f"{totals['new']} new, {totals['changed']} changed, {totals['gone']} gone; "
            f"{count_of(self.requests, 'request')}"
        )
        lacking = [f"{count} without {name}" for name, count in sorted(self.without.items()) if count]
        lacking += [f"{count_of(len(self.unread), 'document')} not read"] if self.unread else []
        return f"{text}; {', '.join(lacking)}" if lacking else text
