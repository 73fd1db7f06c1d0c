"""Folders of a local disk: every file once, however symbolic links lead around."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple


class LocalEntry(NamedTuple):
    """A file below a folder, or a hidden folder, which is not looked into.

    Args:
        path: of the entry.
        is_file: whether it is a regular file; False for folders, pipes, sockets and devices.
        facts: what the operating system says of it, links followed.
    """

    path: str
    is_file: bool
    facts: os.stat_result


def is_hidden(name: str) -> bool:
    """Tell whether a name is that of a marker, a checksum or a table log, and not of a hive partition."""
    return name.startswith((".", "_")) and "=" not in name


def walk(folder: str) -> Iterator[LocalEntry]:
    """Yield the entries below a folder, depth by depth.

    A folder that links lead to again is not entered again, so that links in a circle end; but for another path of hive
    keys (``region=a``), under which its rows are other rows. Links are followed after everything else, so that a file
    has the path it lies at where it is below the folder. Links to nothing are left out.

    Raises:
        OSError: if a folder may not be read. One that is not there is empty.
    """
    seen: set[tuple[int, int, tuple[str, ...]]] = set()
    folders, links = deque([folder.rstrip("/") or "/"]), deque[str]()
    while folders or links:
        place = folders.popleft() if folders else links.popleft()
        keys = tuple(part for part in place.removeprefix(folder).split("/") if "=" in part)
        # What is gone by now was taken away while others were listed.
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
    """What lies in a folder, links followed; links to nothing, and what is gone by now, left out."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                found.append((entry, entry.stat()))
            except FileNotFoundError:
                continue
            except OSError:
                if not entry.is_symlink():  # a link to itself says so in other words
                    raise
    return found
