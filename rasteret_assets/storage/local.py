"""Local files by path or ``file://`` URL. Plain positioned reads: every file name works, whatever it holds."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from email.utils import formatdate
from pathlib import Path
from urllib.parse import unquote, urlsplit

from rasteret_assets.errors import AccessDeniedError, ObjectNotFoundError, RangeReadError
from rasteret_assets.storage.backend import EndsRead, RangeRead, ReadingBackend, Validators
from rasteret_assets.storage.urls import scheme


class LocalBackend(ReadingBackend):
    """Byte ranges of files on this machine."""

    async def get_ranges(self, url: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """One buffer per ``(start, length)``; the file is opened once."""
        return await asyncio.to_thread(lambda: [bytes(read.data) for read in _read(url, ranges)])

    async def read(self, url: str, start: int, length: int) -> RangeRead:
        """One range with the file's size and modification time.

        Raises:
            ObjectNotFoundError: if there is no such file.
            AccessDeniedError: if it may not be read.
        """
        return (await asyncio.to_thread(_read, url, [(start, length)]))[0]

    async def read_ends(self, url: str, head: int, tail: int) -> EndsRead:
        """The first ``head`` and the last ``tail`` bytes; the file is opened once."""
        first, last = await asyncio.to_thread(_read, url, [(0, head), (-tail, tail)])
        return EndsRead([(0, first), ((last.size or 0) - len(memoryview(last.data)), last)], 1)

    async def read_if_changed(self, url: str, start: int, length: int, validators: Validators) -> RangeRead | None:
        """One range, or None where the file still has these validators."""
        read = await self.read(url, start, length)
        return None if validators.etag is not None and read.etag == validators.etag else read


def local_path(url: str) -> Path:
    """The file a path or ``file://`` URL names."""
    return Path(unquote(urlsplit(url).path)) if scheme(url) == "file" else Path(url).expanduser()


def _read(url: str, ranges: Sequence[tuple[int, int]]) -> list[RangeRead]:
    """The ranges of a file; a negative start counts from its end."""
    path = local_path(url)
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            stat = os.fstat(descriptor)
            modified = formatdate(stat.st_mtime, usegmt=True)
            places = [(max(0, stat.st_size + start) if start < 0 else start, length) for start, length in ranges]
            return [
                RangeRead(os.pread(descriptor, length, start), stat.st_size, f"{stat.st_mtime_ns:x}", modified)
                for start, length in places
            ]
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ObjectNotFoundError(f"{url}: no such file", href=url) from error
    except PermissionError as error:
        raise AccessDeniedError(f"{url}: may not be read", href=url) from error
    except (OSError, ValueError) as error:
        raise RangeReadError(f"{url}: {error}", href=url) from error
