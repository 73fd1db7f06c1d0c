"""The first image file directory of a classic TIFF or BigTIFF, read from a :class:`~.buffer.SparseBuffer`.

A directory is a list of fixed-size entries: tag, field type, count, and the values or the position of the values (TIFF
6.0 section 2; BigTIFF widens counts and positions to 64 bits). A directory is read in two steps, because the entries
alone tell where every value lies: :func:`read_first_ifd` needs the block of entries, :meth:`Ifd.require` then asks for
all values at once.

Only the first directory is read, which is the full-resolution image by convention and the one that GDAL opens. A loop
in the chain of directories is therefore never followed.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np

from rasteret_assets.errors import CorruptTiffError
from rasteret_assets.tiff.buffer import MAX_OFFSET, NeedBytes, SparseBuffer, merge_ranges
from rasteret_assets.tiff.constants import BYTE_TYPES, INTEGER_TYPES, REAL_TYPES, TYPE_SIZES, WANTED_TAGS, Tag
from rasteret_assets.tiff.layout import Layout, read_ahead, read_file_header

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from numpy.typing import NDArray

#: Most tags in a directory. Writers use 15 to 40; libtiff reads 4096 at most.
MAX_ENTRIES: Final = 4096

#: Most bytes of a value other than a tile table. The largest known ones are lists of thousands of ground control
#: points.
MAX_VALUE_BYTES: Final = 1024 * 1024

#: Most bytes of a tile table: 8 million tiles of a BigTIFF, 2 terapixels in tiles of 512. A larger count is damage or
#: an attack, and would be asked for as long as the file's size is unknown.
MAX_TABLE_BYTES: Final = 64 * 1024 * 1024

#: Most directories in a cache, because a directory has up to 80 kB, and a hostile file must not fill the memory.
MAX_REMEMBERED: Final = 128

#: A table is copied if the bytes it was read with are more than so many times larger, so that these can be freed.
_KEPT_SHARE: Final = 4

TABLE_TAGS: Final = frozenset({Tag.TILE_OFFSETS, Tag.TILE_BYTE_COUNTS, Tag.STRIP_OFFSETS, Tag.STRIP_BYTE_COUNTS})


Entry = tuple[int, int, int, int]
"""The place of the values of one tag: field type, number of values, position of the first value in the file (inside the
directory for small values), bytes of all values (0 where the field type is unknown). The numbers are not checked yet. A
plain tuple, because some twenty are made for every header.
"""


_NO_ENTRY: Final[Entry] = (0, 0, 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ifd:
    """The entries of one directory, and the bytes with their values."""

    buffer: SparseBuffer
    """The bytes read so far."""
    layout: Layout
    """Byte order and widths of the file."""
    block: bytes
    """The directory's entries, and with them every value that is stored inline."""
    start: int
    """Position of ``block`` in the file, in bytes."""
    entries: dict[int, Entry]
    """Place of the values of each tag of :class:`~.constants.Tag` that is present and not empty."""

    def check_claims(self, tags: Iterable[int]) -> None:
        """Refuse values that are larger than any valid one, whether their bytes were read or not.

        Raises:
            CorruptTiffError: naming the first such tag.
        """
        for tag in tags:
            _, count, _, size = self.entries.get(tag, _NO_ENTRY)
            if size > (MAX_TABLE_BYTES if tag in TABLE_TAGS else MAX_VALUE_BYTES):
                raise CorruptTiffError(
                    f"{Tag(tag).label} claims {count} values, {size} bytes: more than any header holds"
                )

    def require(self, tags: Collection[int], optional: Collection[int] = ()) -> None:
        """Check that the bytes of the values of these tags were read.

        Args:
            tags: tags that the header needs.
            optional: tags whose values may lie outside the file, and are ignored then.

        Raises:
            NeedBytes: with the ranges of all missing values.
            CorruptTiffError: if a value is larger than any valid one, or lies outside the file.
        """
        self.check_claims(tags)
        missing = []
        locate = self.buffer.locate
        for tag in (*tags, *optional):
            entry = self.entries.get(tag)
            if entry is None:
                continue
            _, _, start, size = entry
            if locate(start, size) is not None:
                continue
            try:
                self.buffer.check_inside(start, size, Tag(tag).label)
            except CorruptTiffError:
                if tag in optional:
                    continue
                raise
            missing.append(self.buffer.missing(start, size))
        if missing:
            raise NeedBytes(merge_ranges(missing))

    def count(self, tag: Tag) -> int:
        """Return the number of values of a tag; 0 if it is missing."""
        entry = self.entries.get(tag)
        return 0 if entry is None else entry[1]

    def integer(self, tag: Tag, default: int | None = None) -> int:
        """Return the only value of an integer tag, which is always stored in the directory itself.

        Raises:
            CorruptTiffError: if the tag is missing and has no default, or is not one integer.
        """
        entry = self.entries.get(tag)
        if entry is None:
            if default is None:
                raise CorruptTiffError(f"the first directory has no {tag.label} tag")
            return default
        kind, count, start, size = entry
        number = self.layout.integers.get(kind)
        if number is None or count != 1 or size > self.layout.inline:
            raise CorruptTiffError(f"{tag.label} holds {count} values of field type {kind}; one integer was expected")
        value: int = number.unpack_from(self.block, start - self.start)[0]
        return value

    def integers(self, tag: Tag) -> tuple[int, ...]:
        """Return all values of an integer tag; empty if the tag is missing."""
        entry = self.entries.get(tag)
        if entry is None:
            return ()
        return self._unpack(tag, entry, INTEGER_TYPES)  # type: ignore[return-value]  # letters of integers only

    def reals(self, tag: Tag) -> tuple[float, ...]:
        """Return all values of a tag of reals; empty if the tag is missing."""
        entry = self.entries.get(tag)
        if entry is None:
            return ()
        values = self._unpack(tag, entry, REAL_TYPES)
        return tuple(map(float, values)) if entry[0] in INTEGER_TYPES else values

    def raw(self, tag: Tag) -> bytes:
        """Return the bytes of a tag's values in the file's byte order; empty if the tag is missing."""
        entry = self.entries.get(tag)
        if entry is None:
            return b""
        _, _, start, size = entry
        data, at = self._locate(tag, start, size)
        return bytes(data[at : at + size])

    def optional(self, tag: Tag) -> bytes | None:
        """Return the bytes of a tag's values; None if the tag is missing or they lie outside the file."""
        _, _, start, size = self.entries.get(tag, _NO_ENTRY)
        value = self.buffer.read(start, size) if size else None
        if value is None:
            self.require((), (tag,))
        return value

    def text(self, tag: Tag) -> str | None:
        """Return the text of a tag up to its first NUL; ``None`` if the tag is missing or is not of bytes."""
        entry = self.entries.get(tag)
        if entry is None or entry[0] not in BYTE_TYPES:
            return None
        return self.raw(tag).split(b"\0", 1)[0].decode("ascii", "replace")

    def table(self, tag: Tag) -> NDArray[np.integer]:
        """Return the values ``[N]`` of an integer tag as a read-only array of the stored type, with no object per tile.

        Raises:
            CorruptTiffError: if the values are not integers, or one is negative or beyond 63 bits.
        """
        kind, count, start, size = self.entries[tag]
        dtype = self.layout.tables.get(kind)
        if dtype is None:
            raise CorruptTiffError(f"{tag.label} is of field type {kind}; integers were expected")
        data, at = self._locate(tag, start, size)
        values: NDArray[np.integer] = np.frombuffer(data, dtype, count, at)
        # Only signed values can be negative, and only 64 unsigned bits exceed 2**63: neither is a position in a file.
        if kind > 4 and (values.min() < 0 or values.max() > MAX_OFFSET):
            raise CorruptTiffError(f"{tag.label} holds a value that is negative or beyond 63 bits")
        if size * _KEPT_SHARE < len(data):
            values = values.copy()
        values.flags.writeable = False
        return values

    def _unpack(self, tag: Tag, entry: Entry, letters: dict[int, str]) -> tuple[float, ...]:
        kind, count, start, size = entry
        letter = letters.get(kind)
        if letter is None:
            expected = "integers" if letters is INTEGER_TYPES else "reals"
            raise CorruptTiffError(f"{tag.label} is of field type {kind}; {expected} were expected")
        data, at = self._locate(tag, start, size)
        return struct.unpack_from(f"{self.layout.order}{count}{letter}", data, at)

    def _locate(self, tag: Tag, start: int, size: int) -> tuple[bytes, int]:
        found = self.buffer.locate(start, size)
        if found is None:
            self.require((tag,))
            raise CorruptTiffError(f"{tag.label} cannot be read")  # require() raises first
        return found


def read_first_ifd(buffer: SparseBuffer) -> Ifd:
    """Return the first directory of the file.

    Raises:
        NeedBytes: if bytes of the file's header or of the directory's entries are missing.
        NotATiffError: if the file does not start as a TIFF does.
        CorruptTiffError: if the directory cannot lie at the position in the header.
    """
    layout, offset = read_file_header(buffer)
    head = read_ahead(buffer, offset, layout.count.size, "the first directory")
    count: int = layout.count.unpack(head)[0]
    if not 0 < count <= MAX_ENTRIES:
        raise CorruptTiffError(f"the first directory, at byte {offset}, claims {count} tags; 1 to {MAX_ENTRIES} may be")
    start = offset + layout.count.size
    block = read_ahead(buffer, start, count * layout.entry.size, "the first directory")
    entries = index_entries(layout, block, start)
    return Ifd(buffer=buffer, layout=layout, block=block, start=start, entries=entries)


# Cached, because the files of a collection repeat a few directories thousands of times.
@lru_cache(maxsize=MAX_REMEMBERED)
def index_entries(layout: Layout, block: bytes, start: int) -> dict[int, Entry]:
    """Return the place of the values of each wanted tag; of a repeated tag the first entry, as in libtiff."""
    entries: dict[int, Entry] = {}
    inline = layout.inline
    step = layout.entry.size
    value_at = start + step - inline
    for tag, kind, count, position in layout.entry.iter_unpack(block):
        if tag in WANTED_TAGS and count and tag not in entries:
            size = count * TYPE_SIZES.get(kind, 0)
            entries[tag] = (kind, count, value_at if size <= inline else position, size)
        value_at += step
    return entries
