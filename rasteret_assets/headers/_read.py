"""Read and parse the header of one file, with one request if the guess of its family is right, and few otherwise.

The first read of a file is a prefetch, whose place and size are learned per family of files (the files of one band).
All ranges that are still missing are read together in the next round.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from rasteret_assets.errors import (
    BackendError,
    CorruptTiffError,
    NotATiffError,
    RasteretAssetsError,
    TruncatedReadError,
)
from rasteret_assets.headers._prefetch import FILE_HEADER, Prefetch
from rasteret_assets.headers.outcomes import HeaderOutcome, HeaderProgress, HeaderTarget
from rasteret_assets.secrets import redact
from rasteret_assets.storage.addresses.urls import scheme
from rasteret_assets.storage.backend import EndsReader, RangeRead, Revalidator, StorageBackend, Validators, as_reader
from rasteret_assets.tiff import FamilyMember, HeaderFamily, NeedBytes, parse_header

#: Most bytes of a header: enough for the tables of 10^7 tiles, more than any known file has.
LARGEST_HEADER: Final = 256 * 1024 * 1024

_ROUNDS: Final = 11

#: Most shapes of headers that are kept for one band, whose files have one shape, or a few with edges of other sizes.
_MOST_SHAPES: Final = 8

Pieces = list[tuple[int, bytes]]
Ranges = Sequence[tuple[int, int]]


class HeaderReader:
    """Reads the headers of files, and learns from each header where the next one of its family lies.

    Args:
        backend: reads the bytes. Any exception of it that is not of this package becomes a :class:`BackendError`.
        totals: counts requests and bytes.
        overviews: whether to read the overviews that lie with the headers.
    """

    def __init__(self, backend: StorageBackend, totals: HeaderProgress, *, overviews: bool = True) -> None:
        self._reader = as_reader(backend)
        # Looked up once, because an isinstance() of a protocol costs as much as parsing a header.
        self._revalidator = self._reader if isinstance(self._reader, Revalidator) else None
        self._ends_reader = self._reader if isinstance(self._reader, EndsReader) else None
        self._totals = totals
        self._overviews = overviews
        self._families: defaultdict[str, Prefetch] = defaultdict(Prefetch)
        self._shapes: defaultdict[str, list[HeaderFamily]] = defaultdict(list)

    async def read(self, target: HeaderTarget, outcome: HeaderOutcome) -> None:
        """Read a file's header into ``outcome``, with size and validators of the file.

        Raises:
            RasteretAssetsError: if the header cannot be read, or is not that of a tiled GeoTIFF.
        """
        try:
            await self._read_header(target, outcome)
        except NotATiffError as error:
            # Without the file's bytes, because a local file may be private, and others may read the ledger.
            if error.quotes and scheme(target.href) in {"", "file"}:
                raise NotATiffError("not a TIFF: the file does not begin as one, with II or MM and 42 or 43") from None
            raise

    async def _read_header(self, target: HeaderTarget, outcome: HeaderOutcome) -> None:
        prefetch = self._families[target.family]
        pieces: Pieces = []
        with_tail = prefetch.reads_tail and self._ends_reader is not None and not target.stored_validators
        if with_tail:
            await self._read_ends(target, outcome, pieces, prefetch)
        else:
            await self._read(target, outcome, pieces, 0, prefetch.head, target.stored_validators)
            if outcome.unchanged:
                return
            outcome.header = self._alike(target.family, pieces[0][1])
            if outcome.header is not None:
                prefetch.vote(needed_tail=False)
                return
        try:
            outcome.header = parse_header(pieces, size=outcome.size, overviews=self._overviews)
        except NeedBytes as need:
            missing = need.ranges
        else:
            prefetch.vote(needed_tail=with_tail)
            if not with_tail:
                self._remember(target.family, pieces[0][1])
                # As a member of its own family, because headers of one kind become rows without being sorted.
                outcome.header = self._alike(target.family, pieces[0][1]) or outcome.header
            return
        first = len(pieces)
        needed_tail = await self._read_rest(target, outcome, pieces, missing, prefetch)
        if with_tail:
            needed_tail = not self._parses([pieces[0], *pieces[first:]], outcome.size)
        if needed_tail:
            alone = [(0, pieces[0][1][:FILE_HEADER]), *pieces[1:]]
            prefetch.tail_head = FILE_HEADER if self._parses(alone, outcome.size) else prefetch.head
        prefetch.vote(needed_tail=needed_tail)

    def _alike(self, name: str, data: bytes) -> FamilyMember | None:
        """Return the header in ``data`` if it has the shape of an earlier one of the band ``name``; else None."""
        shapes = self._shapes[name]
        for position, shape in enumerate(shapes):
            member = shape.match(data)
            if member is not None:
                # To the front, because files of one shape come one after the other.
                shapes[0], shapes[position] = shapes[position], shapes[0]
                return member
        return None

    def _remember(self, name: str, data: bytes) -> None:
        """Keep the shape of the header in ``data``, the first bytes of a file of the band ``name``."""
        shapes = self._shapes[name]
        if len(shapes) < _MOST_SHAPES and (shape := HeaderFamily.of(data, overviews=self._overviews)) is not None:
            shapes.append(shape)

    async def _read_rest(
        self, target: HeaderTarget, outcome: HeaderOutcome, pieces: Pieces, missing: Ranges, prefetch: Prefetch
    ) -> bool:
        """Read the missing ranges of a header, round by round; return whether some lay at the end of the file."""
        at_end = False
        for _ in range(_ROUNDS):
            if sum(length for _, length in missing) > LARGEST_HEADER:
                raise CorruptTiffError("the header claims more bytes than any file's header has")
            at_end |= prefetch.grow(missing, outcome.size)
            if len(missing) == 1:
                await self._read(target, outcome, pieces, *missing[0])
            else:
                await asyncio.gather(*(self._read(target, outcome, pieces, *part) for part in missing))
            try:
                outcome.header = parse_header(pieces, size=outcome.size, overviews=self._overviews)
            except NeedBytes as need:
                missing = need.ranges
            else:
                return at_end
        raise CorruptTiffError(f"the header still lacks bytes after {_ROUNDS} reads")

    async def _read(
        self, target: HeaderTarget, outcome: HeaderOutcome, pieces: Pieces, start: int, length: int,
        validators: Validators | None = None,
    ) -> None:  # fmt: skip
        """Read one range into ``pieces``; no range if the file still has ``validators``."""
        self._totals.requests += 1
        try:
            if validators and self._revalidator is not None:
                read = await self._revalidator.read_if_changed(target.href, start, length, validators)
            else:
                read = await self._reader.read(target.href, start, length)
        except Exception as error:
            raise _failure(error, target.href) from error
        if read is None:
            outcome.unchanged = True
        else:
            self._take(target, outcome, pieces, start, length, read)

    async def _read_ends(
        self, target: HeaderTarget, outcome: HeaderOutcome, pieces: Pieces, prefetch: Prefetch
    ) -> None:
        """Read start and end of a file into ``pieces``; only the start if its store cannot be asked for the end."""
        assert self._ends_reader is not None  # noqa: S101  (the caller has checked)
        try:
            ends = await self._ends_reader.read_ends(target.href, prefetch.tail_head, prefetch.tail)
        except Exception as error:
            self._totals.requests += 1
            raise _failure(error, target.href) from error
        self._totals.requests += ends.requests
        for start, read in ends.pieces:
            self._take(target, outcome, pieces, start, prefetch.head + prefetch.tail, read)

    def _take(
        self, target: HeaderTarget, outcome: HeaderOutcome, pieces: Pieces, start: int, length: int, read: RangeRead
    ) -> None:
        """Append a range to ``pieces``, and note size and validators that came with it."""
        data = read.data if isinstance(read.data, bytes) else bytes(read.data)
        self._totals.bytes += len(data)
        if pieces and outcome.etag and read.etag and read.etag != outcome.etag:
            where = redact(target.href)
            raise TruncatedReadError(f"{where}: changed while it was read", href=where)
        outcome.etag, outcome.last_modified = read.etag, read.last_modified
        outcome.size = read.size if read.size is not None else outcome.size
        if outcome.size is None and len(data) < length:
            outcome.size = start + len(data)
        # Cut, because a user's backend may return more than it was asked for.
        pieces.append((start, data if len(data) <= length else data[:length]))

    def _parses(self, pieces: Pieces, size: int | None) -> bool:
        """Return whether a file's header lies within ``pieces``."""
        try:
            parse_header(pieces, size=size, overviews=self._overviews)
        except NeedBytes:
            return False
        return True


def _failure(error: Exception, href: str) -> RasteretAssetsError:
    """Return an exception as one of this package, because an exception of a user's backend must not stop a build."""
    if isinstance(error, RasteretAssetsError):
        return error
    where = redact(href)
    reason = str(error).replace(href, where)
    return BackendError(f"{where}: the backend failed: {type(error).__name__}: {reason}", href=where)
