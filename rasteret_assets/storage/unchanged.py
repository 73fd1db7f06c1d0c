"""Tell whether a file is still the one whose header was indexed, by its size, entity tag and modification time.

A replaced file has other bytes at the places that the index names, and these may decode to wrong pixels. A read of
pixels therefore states as a condition which file it means (RFC 9110, 13.1). The answer's own tag, time and size are
compared too, because many servers ignore conditions.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, NamedTuple, Protocol, runtime_checkable

from rasteret_assets.errors import FileReplacedError
from rasteret_assets.secrets import redact
from rasteret_assets.storage.backend import RangeRead, RangeReader, StorageBackend

# Only ASCII, because other bytes of a tag, which RFC 9110, 8.8.3, allows, would not be sent back as they came.
_STRONG_TAG: Final = re.compile(r'"[\x21\x23-\x7e]*"')
_HTTP_DATE: Final = re.compile(r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT")


class IndexedFile(NamedTuple):
    """Tag, time and size of a file as its host told them when the header was read.

    Args:
        etag: entity tag.
        last_modified: modification time as the store wrote it (HTTP date or ISO 8601).
        size: of the whole file in bytes.
    """

    etag: str | None = None
    last_modified: str | None = None
    size: int | None = None

    @property
    def strong_etag(self) -> str | None:
        """The entity tag if it may stand in ``If-Match``, which no weak tag ever matches (RFC 9110, 13.1.1)."""
        return self.etag if self.etag and _STRONG_TAG.fullmatch(self.etag) else None

    @property
    def http_date(self) -> str | None:
        """The modification time if it may stand in ``If-Unmodified-Since``: a date as RFC 9110, 5.6.7, prefers it."""
        return self.last_modified if self.last_modified and _HTTP_DATE.fullmatch(self.last_modified) else None


@runtime_checkable
class UnchangedReader(Protocol):
    """A backend that reads a range only of the file that was indexed.

    Of a backend that has no such method, the tag, time and size that come with each range are compared with the index.
    """

    async def read_unchanged(self, url: str, start: int, length: int, indexed: IndexedFile) -> RangeRead:
        """Return ``length`` bytes from ``start``, in no more requests than without ``indexed``.

        Raises:
            FileReplacedError: if the file is not the one that was indexed.
            RangeReadError: in the subclass that fits any other failure.
        """
        ...


class _Compared:
    """A user's backend, whose ranges are compared with the index as far as they have tag, time or size."""

    def __init__(self, backend: StorageBackend) -> None:
        self._backend = backend
        self._reader = backend if isinstance(backend, RangeReader) else None

    async def read_unchanged(self, url: str, start: int, length: int, indexed: IndexedFile) -> RangeRead:
        if self._reader is not None:
            return check_unchanged(await self._reader.read(url, start, length), url, indexed)
        (data,) = await self._backend.get_ranges(url, [(start, length)])
        return RangeRead(data)


def as_unchanged_reader(backend: StorageBackend) -> UnchangedReader:
    """Return a backend as a reader of indexed files; plain ranges of a user's own backend are not compared."""
    return backend if isinstance(backend, UnchangedReader) else _Compared(backend)


def check_unchanged(read: RangeRead, url: str, indexed: IndexedFile) -> RangeRead:
    """Return ``read`` if neither its tag nor its time nor its size contradicts the index.

    Raises:
        FileReplacedError: if one of the three does.
    """
    if (reason := difference(indexed, read.etag, read.last_modified, read.size)) is not None:
        raise replaced(url, reason)
    return read


def replaced(url: str, reason: str) -> FileReplacedError:
    """Return the error for a file that is not the one that was indexed."""
    where = redact(url)
    return FileReplacedError(f"{where} was replaced since it was indexed ({reason})", href=where)


def difference(
    indexed: IndexedFile, etag: str | None, last_modified: str | None, size: int | None = None
) -> str | None:
    """Return in which respect a file differs from the indexed one; None where nothing tells them apart.

    Sizes are compared first, because no tag or time explains another size. Equal strong tags mean equal bytes, whatever
    the times say (a copied object has a new time); equal weak tags mean equal content only, so that times count too
    (RFC 9110, 8.8.1).

    Args:
        indexed: tag, time and size in the index.
        etag: entity tag of the answer.
        last_modified: modification time of the answer.
        size: bytes of the whole file by the answer; None where the answer does not tell.
    """
    if indexed.size is not None and size is not None and indexed.size != size:
        return f"it had {indexed.size} bytes and now has {size}"
    if indexed.etag and etag:
        if _opaque(indexed.etag) != _opaque(etag):
            return "its ETag is another"
        if indexed.strong_etag == etag:
            return None
    if indexed.last_modified and last_modified and not _same_time(indexed.last_modified, last_modified):
        return f"it was last modified at {indexed.last_modified!r} and now at {last_modified!r}"
    return None


def _opaque(etag: str) -> str:
    """Return the part of a tag that weak comparison compares (RFC 9110, 8.8.3.2)."""
    return etag.removeprefix("W/")


def _same_time(one: str, other: str) -> bool:
    """Return whether two times are equal in whole seconds, because HTTP dates have no fractions and ISO 8601 may."""
    if one == other:
        return True
    first, second = (found and found.replace(microsecond=0) for found in (parse_instant(one), parse_instant(other)))
    return first is not None and first == second


def parse_instant(text: str) -> datetime | None:
    """Return the instant of a modification time: an HTTP date, or ISO 8601 with UTC as default; None if invalid."""
    for parse in _PARSERS:
        try:
            found = parse(text)
        except (ValueError, TypeError, OverflowError):
            continue
        return found if found.tzinfo else found.replace(tzinfo=UTC)
    return None


_PARSERS: Final = (parsedate_to_datetime, datetime.fromisoformat)
