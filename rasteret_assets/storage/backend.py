"""The interface of a storage backend: two coroutines that return byte ranges of an object.

Any object with ``get_range`` and ``get_ranges`` is a backend, so users can bring their own (an obstore wrapper, an
fsspec adapter, a recorder in a test). The backends of this package have more: ``read`` (:class:`RangeReader`) tells the
object's size and validators too, which the ledger keeps and revalidation sends, and ``read_unchanged``
(:mod:`~rasteret_assets.storage.unchanged`) notices that a file was replaced after it was indexed.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from typing_extensions import Buffer


class RangeRead(NamedTuple):
    """One byte range of an object, with what the store told of the object.

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
        """Return ``length`` bytes of ``url`` from ``start``; fewer only where the object ends."""
        ...

    async def get_ranges(self, url: str, ranges: Sequence[tuple[int, int]]) -> Sequence[Buffer]:
        """Return one buffer for each ``(start, length)``, in the order of ``ranges``."""
        ...


@runtime_checkable
class RangeReader(StorageBackend, Protocol):
    """A backend that also reports size and validators of the objects that it reads."""

    async def read(self, url: str, start: int, length: int) -> RangeRead:
        """Return one range with the object's size and validators.

        Raises:
            RangeReadError: in the subclass that fits the failure.
        """
        ...


@dataclass(frozen=True, slots=True)
class EndsRead:
    """The start and the end of one object.

    Args:
        pieces: pairs of the first byte and the range from there; without the end where the store cannot be asked for
            the end of an object.
        requests: number of requests made.
    """

    pieces: Sequence[tuple[int, RangeRead]]
    requests: int


@runtime_checkable
class EndsReader(Protocol):
    """A reader that can ask for the end of an object without knowing its size, together with its start."""

    async def read_ends(self, url: str, head: int, tail: int) -> EndsRead:
        """Return the first ``head`` and the last ``tail`` bytes in one round trip, and in one request where possible.

        Raises:
            RangeReadError: in the subclass that fits the failure.
        """
        ...


class ReadingBackend(ABC):
    """Base of backends that get all their ranges from :meth:`read`."""

    @abstractmethod
    async def read(self, url: str, start: int, length: int) -> RangeRead:
        """Return one range with the object's size and validators."""

    async def get_range(self, url: str, start: int, length: int) -> bytes:
        """Return ``length`` bytes from ``start``; fewer only where the object ends."""
        return bytes((await self.read(url, start, length)).data)

    async def get_ranges(self, url: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes of each ``(start, length)``, read concurrently."""
        return list(await asyncio.gather(*(self.get_range(url, start, length) for start, length in ranges)))


@runtime_checkable
class Revalidator(Protocol):
    """A reader that can ask an object's store whether the object has changed."""

    async def read_if_changed(self, url: str, start: int, length: int, validators: Validators) -> RangeRead | None:
        """Return one range, or None where the object still has ``validators``."""
        ...


@dataclass(frozen=True, slots=True)
class Validators:
    """Entity tag and modification time that a store told of an object (RFC 9110, 8.8).

    Args:
        etag: entity tag.
        last_modified: modification time as the store wrote it.
    """

    etag: str | None = None
    last_modified: str | None = None

    def __bool__(self) -> bool:
        return bool(self.etag or self.last_modified)


class _Adapted:
    """A user's backend as a reader, which tells neither sizes nor validators."""

    def __init__(self, backend: StorageBackend) -> None:
        self.get_range = backend.get_range
        self.get_ranges = backend.get_ranges

    async def read(self, url: str, start: int, length: int) -> RangeRead:
        return RangeRead(data=await self.get_range(url, start, length))


def as_reader(backend: StorageBackend) -> RangeReader:
    """Return ``backend`` as a reader; size and validators of its ranges are None if the backend tells neither."""
    return backend if isinstance(backend, RangeReader) else _Adapted(backend)


async def read_range(backend: StorageBackend, url: str, start: int, length: int) -> RangeRead:
    """Return one range of ``url``, with size and validators if ``backend`` tells them."""
    return await as_reader(backend).read(url, start, length)
