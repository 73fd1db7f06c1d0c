"""The bytes of a file that were read so far, and the exception by which a parser asks for more.

A parse begins anew in every call and stops at the first missing bytes. It raises :class:`NeedBytes` with their ranges;
the caller reads these and parses again with more pieces. This module reads no file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rasteret_assets.errors import CorruptTiffError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: Ranges at most so many bytes apart are asked for as one, because a request costs a round trip, 16 KiB almost nothing.
MERGE_GAP: Final = 16 * 1024

#: Largest image, tile, decoded tile (in bytes) or code, because signed 32-bit columns and GDAL hold no larger number.
MAX_INT32: Final = 2**31 - 1

#: Largest position in a file: offsets of a BigTIFF have 64 bits, those of file systems and object stores 63.
MAX_OFFSET: Final = 2**63 - 1


class NeedBytes(Exception):  # noqa: N818 - not an error: it asks the reader of the file for more bytes
    """The parse cannot go on without these bytes.

    Args:
        ranges: ``(start, length)`` pairs in bytes, ascending and apart: all bytes that are known to be missing so far.
    """

    def __init__(self, ranges: Sequence[tuple[int, int]]) -> None:
        super().__init__("more bytes of the file are needed: " + ", ".join(f"{n} at {start}" for start, n in ranges))
        self.ranges = tuple(ranges)


def merge_ranges(ranges: Iterable[tuple[int, int]], *, gap: int = MERGE_GAP) -> list[tuple[int, int]]:
    """Return ``(start, length)`` pairs in order, with pairs at most ``gap`` bytes apart joined into one."""
    merged: list[tuple[int, int]] = []
    for start, length in sorted(ranges):
        if merged and start <= merged[-1][0] + merged[-1][1] + gap:
            first = merged[-1][0]
            merged[-1] = (first, max(merged[-1][1], start + length - first))
        else:
            merged.append((start, length))
    return merged


def _join_pieces(pieces: Sequence[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """Return pieces in order, with overlapping and touching ones joined; in an overlap the earlier piece wins."""
    runs: list[tuple[int, list[bytes], int]] = []  # start, parts, end
    for start, data in sorted(pieces, key=lambda piece: piece[0]):
        if not data:
            continue
        if runs and start <= runs[-1][2]:
            first, parts, end = runs[-1]
            if start + len(data) > end:
                parts.append(data[end - start :])
                runs[-1] = (first, parts, start + len(data))
        else:
            runs.append((start, [data], start + len(data)))
    return [(start, parts[0] if len(parts) == 1 else b"".join(parts)) for start, parts, _ in runs]


class SparseBuffer:
    """Pieces of one file, addressed by their position in it.

    Args:
        pieces: ``(start, bytes)`` in any order; they may touch or overlap.
        size: bytes of the whole file; ``None`` while the size is unknown.
    """

    __slots__ = ("pieces", "size")

    def __init__(self, pieces: Sequence[tuple[int, bytes]], size: int | None) -> None:
        self.pieces = pieces if len(pieces) == 1 else _join_pieces(pieces)
        self.size = size

    def locate(self, start: int, length: int) -> tuple[bytes, int] | None:
        """Return the piece with ``length`` bytes from ``start`` and their position in it; ``None`` without one."""
        for piece_start, data in self.pieces:
            if piece_start <= start and start + length <= piece_start + len(data):
                return data, start - piece_start
        return None

    def read(self, start: int, length: int) -> bytes | None:
        """Return ``length`` bytes from ``start``, or ``None`` if some of them were not read."""
        found = self.locate(start, length)
        return None if found is None else bytes(found[0][found[1] : found[1] + length])

    def check_inside(self, start: int, length: int, what: str) -> None:
        """Refuse a range that the file cannot hold, before it is asked for.

        Raises:
            CorruptTiffError: if the range ends after the file, whose size is known, or after any possible file.
        """
        end = start + length
        if end > (MAX_OFFSET if self.size is None else self.size):
            limit = "no file can be that long" if self.size is None else f"the file ends at byte {self.size}"
            raise CorruptTiffError(f"truncated or damaged: {what} lies at bytes {start} to {end}, but {limit}")

    def missing(self, start: int, length: int) -> tuple[int, int]:
        """Return a range without the bytes at its beginning that were read already."""
        end = start + length
        if self.size is not None:
            end = min(end, self.size)
        for piece_start, data in self.pieces:
            if piece_start <= start < piece_start + len(data):
                start = piece_start + len(data)
        return start, end - start
