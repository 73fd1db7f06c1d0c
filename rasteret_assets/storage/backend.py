"""What a byte source is: two coroutines that return ranges of an object.

Anything with ``get_range`` and ``get_ranges`` serves as a backend, so a user's own object (an obstore wrapper, an
fsspec adapter, a recorder in a test) is as good as ours. Ours implement :class:`RangeReader` as well, whose ``read``
also tells the object's size and validators, which the failure ledger and revalidation keep; and the ``read_unchanged``
of :mod:`~rasteret_assets.storage.unchanged`, by which reads of pixels notice a file that was replaced.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from typing_extensions import Buffer


class RangeRead(NamedTuple):
    """One range as it came from a store.

    Args:
        data: the bytes; fewer than asked for only where the object ends.
        size: size of the whole object in bytes, where the store told it.
        etag: entity tag, where the store told it.
        last_modified: modification time as the store wrote it (HTTP date or ISO 8601).
    """

    data: Buffer
    size: int | None = None
    etag: str | None = None
    last_modified: str | None = None


@runtime_checkable
class StorageBackend(Protocol):
    """Byte ranges of objects by URL. Ranges are ``(start, length)`` in bytes."""

    async def get_range(self, url: str, start: int, length: int) -> Buffer:
        """``length`` bytes of ``url`` from ``start``; fewer only where the object ends."""
        ...

    async def get_ranges(self, url: str, ranges: Sequence[tuple[int, int]]) -> Sequence[Buffer]:
        """One buffer per ``(start, length)``, in the order asked for."""
        ...


@runtime_checkable
class RangeReader(StorageBackend, Protocol):
    """A backend that also reports size and validators of what it reads."""

    async def read(self, url: str, start: int, length: int) -> RangeRead:
        """One range with the object's size and validators.

        Raises:
            RangeReadError: in the subclass that says why.
        """
        ...


@dataclass(frozen=True, slots=True)
class EndsRead:
    """The start and the end of one object.

    Args:
        pieces: ``(start, what was read there)``; the end is left out where the store could not be asked for it.
        requests: requests it took.
    """

    pieces: Sequence[tuple[int, RangeRead]]
    requests: int


@runtime_checkable
class EndsReader(Protocol):
    """A reader that can ask for the end of an object without knowing its size, together with its start."""

    async def read_ends(self, url: str, head: int, tail: int) -> EndsRead:
        """The first ``head`` and the last ``tail`` bytes in one round trip, and in one request where possible.

        Raises:
            RangeReadError: in the subclass that says why.
        """
        ...


class ReadingBackend(ABC):
    """A backend whose ranges all come from its :meth:`read`."""

    @abstractmethod
    async def read(self, url: str, start: int, length: int) -> RangeRead:
        """One range with the object's size and validators."""

    async def get_range(self, url: str, start: int, length: int) -> bytes:
        """``length`` bytes from ``start``; fewer only where the object ends."""
        return bytes((await self.read(url, start, length)).data)

    async def get_ranges(self, url: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """One buffer per ``(start, length)``, read concurrently."""
        return list(await asyncio.gather(*(self.get_range(url, start, length) for start, length in ranges)))


@runtime_checkable
class Revalidator(Protocol):
    """A reader that can ask whether an object is still what it was."""

    async def read_if_changed(self, url: str, start: int, length: int, validators: Validators) -> RangeRead | None:
        """One range, or None where the object still has these validators."""
        ...


@dataclass(frozen=True, slots=True)
class Validators:
    """What an object's store said of it when it was last read (RFC 9110, 8.8).

    Args:
        etag: entity tag.
        last_modified: modification time as the store wrote it.
    """

    etag: str | None = None
    last_modified: str | None = None

    def __bool__(self) -> bool:
        return bool(self.etag or self.last_modified)


class _Adapted:
    """A plain backend as a reader that cannot tell sizes and validators."""

    def __init__(self, backend: StorageBackend) -> None:
        self.get_range = backend.get_range
        self.get_ranges = backend.get_ranges

    async def read(self, url: str, start: int, length: int) -> RangeRead:
        return RangeRead(data=await self.get_range(url, start, length))


def as_reader(backend: StorageBackend) -> RangeReader:
    """A backend as a reader; size and validators stay None where it cannot tell them."""
    return backend if isinstance(backend, RangeReader) else _Adapted(backend)


async def read_range(backend: StorageBackend, url: str, start: int, length: int) -> RangeRead:
    """One range through whatever ``backend`` offers."""
    return await as_reader(backend).read(url, start, length)
