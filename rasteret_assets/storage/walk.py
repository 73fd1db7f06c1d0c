"""Walk over folders of a local disk, and yield every file once, wherever symbolic links lead."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple


class LocalEntry(NamedTuple):
    """A file below a folder, or a hidden folder, whose content is left out.

    Args:
        path: of the entry.
        is_file: whether the entry is a regular file; False for folders, pipes, sockets and devices.
        facts: the operating system's facts about the entry, with links followed.
    """

    path: str
    is_file: bool
    facts: os.stat_result


def is_hidden(name: str) -> bool:
    """Return whether a name is that of a marker, a checksum or a table log, and not of a hive partition."""
    return name.startswith((".", "_")) and "=" not in name


def walk(folder: str) -> Iterator[LocalEntry]:
    """Yield the entries below a folder, depth by depth.

    A folder is entered once, so that a circle of links ends, and once more for every other path of hive keys
    (``region=a``), because its rows then have other values. Links are followed last, so that a file below ``folder``
    has its own path rather than that of a link. Links to nothing are left out.

    Raises:
        OSError: if a folder may not be read. A folder that does not exist has no entries.
    """
    seen: set[tuple[int, int, tuple[str, ...]]] = set()
    folders, links = deque([folder.rstrip("/") or "/"]), deque[str]()
    while folders or links:
        place = folders.popleft() if folders else links.popleft()
        keys = tuple(part for part in place.removeprefix(folder).split("/") if "=" in part)
        # A folder may be deleted while others are listed.
        with suppress(FileNotFoundError):
            facts = os.stat(place)  # noqa: PTH116  (as below, on texts: thousands of files)
            if (facts.st_dev, facts.st_ino, keys) in seen:
                continue
            seen.add((facts.st_dev, facts.st_ino, keys))
            for entry, found in _entries(place):
                if stat.S_ISDIR(found.st_mode) and not is_hidden(entry.name):
                    (links if entry.is_symlink() else folders).append(entry.path)
                else:
                    yield LocalEntry(entry.path, stat.S_ISREG(found.st_mode), found)


def _entries(folder: str) -> list[tuple[os.DirEntry[str], os.stat_result]]:
    """Return the entries of a folder, links followed, without links to nothing and entries deleted meanwhile."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                found.append((entry, entry.stat()))
            except FileNotFoundError:
                continue
            except OSError:
                if not entry.is_symlink():  # a link to itself is a link to nothing, with an error of its own
                    raise
    return found
