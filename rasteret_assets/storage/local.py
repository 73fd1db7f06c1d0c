"""Byte ranges of local files, by path or ``file://`` URL.

Plain positioned reads take every file name, whatever letters it has. Only regular files are opened, because opening a
pipe waits for a writer, and opening a device may do anything.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Sequence
from email.utils import formatdate
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from rasteret_assets.errors import AccessDeniedError, ObjectNotFoundError, RangeReadError
from rasteret_assets.secrets import redact
from rasteret_assets.storage.addresses.urls import scheme
from rasteret_assets.storage.backend import EndsRead, RangeRead, ReadingBackend, Validators
from rasteret_assets.storage.unchanged import IndexedFile, check_unchanged


class LocalBackend(ReadingBackend):
    """Byte ranges of files on this machine."""

    async def get_ranges(self, url: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes of each ``(start, length)``; the file is opened once."""
        return await asyncio.to_thread(lambda: [bytes(read.data) for read in _read(url, ranges)])

    async def read(self, url: str, start: int, length: int) -> RangeRead:
        """Return one range, with the file's size, modification time and a tag made of these and the inode.

        Raises:
            ObjectNotFoundError: if the file does not exist.
            AccessDeniedError: if the file may not be read.
            RangeReadError: if the file is a folder, a pipe or a device, or cannot be read.
        """
        return (await asyncio.to_thread(_read, url, [(start, length)]))[0]

    async def read_ends(self, url: str, head: int, tail: int) -> EndsRead:
        """Return the first ``head`` and the last ``tail`` bytes; the file is opened once."""
        first, last = await asyncio.to_thread(_read, url, [(0, head), (-tail, tail)])
        return EndsRead([(0, first), ((last.size or 0) - len(memoryview(last.data)), last)], 1)

    async def read_if_changed(self, url: str, start: int, length: int, validators: Validators) -> RangeRead | None:
        """Return one range, or None where the file still has ``validators``."""
        read = await self.read(url, start, length)
        return None if validators.etag is not None and read.etag == validators.etag else read

    async def read_unchanged(self, url: str, start: int, length: int, indexed: IndexedFile) -> RangeRead:
        """Return one range of the indexed file, which is told by its size and modification time.

        Raises:
            FileReplacedError: if the size or the time is another.
            RangeReadError: as :meth:`read`.
        """
        read = await self.read(url, start, length)
        # Without the inode, because network drives and FUSE number their files anew with every mount.
        seen, stored = (one and _time_of(one) for one in (read.etag, indexed.etag))
        check_unchanged(read._replace(etag=seen), url, indexed._replace(etag=stored))
        return read


def _time_of(tag: str) -> str:
    """Return the modification time (hexadecimal ns) of a file's tag; tags of earlier versions hold nothing else."""
    return tag.partition("-")[0]


def local_path(url: str) -> Path:
    """Return the path of the file that a path or ``file://`` URL names."""
    return Path(unquote(urlsplit(url).path)) if scheme(url) == "file" else Path(url).expanduser()


# Names of files that are not regular, by the format bits of their mode.
_KINDS: Final = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}  # fmt: skip
# O_NONBLOCK, because a pipe may take the file's place between the check and the opening: it would wait for a writer.
_FLAGS: Final = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def _read(url: str, ranges: Sequence[tuple[int, int]]) -> list[RangeRead]:
    """Return ranges of a file; a negative start counts from its end."""
    try:
        path = local_path(url)
        _check_regular(os.stat(path), url)  # noqa: PTH116  (a Path would only wrap it)
        descriptor = os.open(path, _FLAGS)
        try:
            facts = os.fstat(descriptor)
            _check_regular(facts, url)
            size, modified = facts.st_size, formatdate(facts.st_mtime, usegmt=True)
            # A copy that keeps the time (cp -p, rsync, tar) has another size or another inode.
            tag = f"{facts.st_mtime_ns:x}-{size:x}-{facts.st_ino:x}"
            places = [(max(0, size + start) if start < 0 else start, length) for start, length in ranges]
            return [RangeRead(os.pread(descriptor, length, start), size, tag, modified) for start, length in places]
        finally:
            os.close(descriptor)
    # Without the cause, which repeats the path: a path that is really an address may hold a secret.
    except (FileNotFoundError, NotADirectoryError):
        raise ObjectNotFoundError(f"{redact(url)}: no such file", href=url) from None
    except PermissionError:
        raise AccessDeniedError(f"{redact(url)}: may not be read", href=url) from None
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: ``~user`` of a user that does not exist
        reason = getattr(error, "strerror", None) or str(error)
        raise RangeReadError(f"{redact(url)}: {reason}", href=url) from None


def _check_regular(facts: os.stat_result, url: str) -> None:
    if not stat.S_ISREG(facts.st_mode):
        kind = _KINDS.get(stat.S_IFMT(facts.st_mode), "of another kind")
        raise RangeReadError(f"{redact(url)}: is {kind}, not a regular file", href=url)
