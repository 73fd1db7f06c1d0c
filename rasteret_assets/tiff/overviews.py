"""Read the further pages of a file that belong to its image: smaller copies, and masks of the pixels with data.

GDAL's COG driver writes all directories in front of the pixels, each with its tables behind it, so that nearly all of
them lie in the same first bytes as the header. Overviews that were appended later lie behind the pixels and are left
out, because each would take another request. The mask of the image is never left out, because without it pixels without
data would be read as data. GDAL writes the mask next to the image in the chain, so the second directory is asked for
wherever it lies. Other pages (thumbnails, other images, damaged ones) are left out, and the header stays valid.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np

from rasteret_assets.errors import CorruptTiffError, TiffError
from rasteret_assets.tiff.buffer import MAX_INT32, MAX_OFFSET, NeedBytes, SparseBuffer
from rasteret_assets.tiff.constants import Tag
from rasteret_assets.tiff.ifd import MAX_ENTRIES, MAX_REMEMBERED, Entry, Ifd, index_entries
from rasteret_assets.tiff.layout import READ_AHEAD, Layout

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

#: A missing directory or table is asked for if it lies at most so many bytes from the last directory.
_NEAR: Final = 64 * 1024
#: Bytes of one tile in both tables of a BigTIFF.
_TABLE_BYTES: Final = 16
#: Most directories of a chain, because each overview has half the size of the one before.
_MOST_DIRECTORIES: Final = 32
#: NewSubfileType (TIFF 6.0 p. 36): bit 0 means reduced resolution, bit 2 transparency mask.
_REDUCED, _MASK, _KIND_BITS = 1, 4, 5

#: Tags with the same value in an overview and its image, whose tiles are read in the same way.
_COMMON_TAGS: Final = (
    Tag.COMPRESSION,
    Tag.PREDICTOR,
    Tag.PHOTOMETRIC,
    Tag.SAMPLES_PER_PIXEL,
    Tag.PLANAR_CONFIGURATION,
    Tag.FILL_ORDER,
)
#: Further tags with the same values in both; these values (one per sample) may lie behind the directory.
_SAMPLE_TAGS: Final = (Tag.BITS_PER_SAMPLE, Tag.SAMPLE_FORMAT)
#: A buffer without bytes, for a directory of which only the entries are read.
_NOTHING: Final = SparseBuffer((), None)

_DEFAULTS: Final = {
    Tag.COMPRESSION: 1,
    Tag.PREDICTOR: 1,
    Tag.SAMPLES_PER_PIXEL: 1,
    Tag.PLANAR_CONFIGURATION: 1,
    Tag.FILL_ORDER: 1,
    Tag.BITS_PER_SAMPLE: 1,
    Tag.SAMPLE_FORMAT: 1,
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TiffOverview:
    """An image of the same place with fewer pixels, or a mask of the image or of an overview."""

    width: int
    """Columns, in pixels."""
    height: int
    """Rows, in pixels."""
    tile_width: int
    """Columns of a tile."""
    tile_height: int
    """Rows of a tile."""
    tile_offsets: NDArray[np.integer]
    """As in :class:`~.header.TiffHeader`, like the next two."""
    tile_byte_counts: NDArray[np.integer]
    jpeg_tables: bytes | None
    mask_bits: int | None = None
    """Bits of a sample of a mask, which is 0 where pixels have no data; None for an image."""
    compression: int | None = None
    """Codec of a mask that has one of its own; None where codec and predictor are those of the image."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Directory:
    """The facts in the entries of a directory."""

    is_reduced: bool
    """Whether the directory is marked as reduced resolution, and has tables of the right length."""
    mask_bits: int | None
    """Bits of a sample, if the directory is marked as a mask and has tables of the right length; else None."""
    size: tuple[int, int]
    tile: tuple[int, int]
    common: tuple[int, ...]
    """Values of the tags in ``_COMMON_TAGS``."""
    tables: tuple[Entry, ...]
    """Places of offsets and byte counts."""
    entries: dict[int, Entry]
    """Places of the values of all tags."""
    jpeg: tuple[int, int] | None
    """Position and length of the JPEG tables."""
    end: int
    tiles: int

    def is_overview_of(self, whole: _Directory, before: tuple[int, int]) -> bool:
        """Return whether this is a copy of the image ``whole``, with a smaller size than ``before``."""
        smaller = self.size[0] <= before[0] and self.size[1] <= before[1] and self.size != before
        return self.is_reduced and smaller and self.common == whole.common

    def is_mask_of(self, whole: tuple[int, int], found: Sequence[TiffOverview]) -> bool:
        """Return whether this is the first mask of the whole image or of an overview in ``found``."""
        masked = [(page.width, page.height) for page in found if page.mask_bits is not None]
        images = [whole, *((page.width, page.height) for page in found if page.mask_bits is None)]
        return self.mask_bits is not None and self.size in images and self.size not in masked


@dataclass(slots=True, kw_only=True)
class Trail:
    """The bytes on which the result of :func:`read_overviews` depends."""

    directories: list[tuple[int, int]] = field(default_factory=list)
    """Start and end of each directory in the file."""
    others: list[tuple[int, int]] = field(default_factory=list)
    """Start and end of the links between directories, and of JPEG tables."""
    tables: list[tuple[Entry, ...]] = field(default_factory=list)
    """Places of offsets and byte counts of every page, in order."""
    is_broken: bool = False
    """Whether a page is damaged."""


def read_overviews(first: Ifd, end: int, trail: Trail | None = None) -> tuple[TiffOverview, ...]:
    """Return the overviews of a file, from the finest to the coarsest, and the masks of image and overviews.

    Args:
        first: the directory of the image itself, which has been checked.
        end: position after the last byte of this directory and its tables.
        trail: gets the places of all bytes that were examined.

    Raises:
        NeedBytes: if bytes of the second directory, or of others near the first one, are missing.
    """
    trail = trail or Trail()
    found: list[tuple[TiffOverview, tuple[Entry, ...]]] = []
    try:
        whole = _describe(first.layout, first.block, first.start)
        # All overviews together have a third of the image's tiles, and a little more where sizes are odd.
        near = _Nearby(first.buffer, READ_AHEAD // 2 + sum(size for _, _, _, size in whole.tables) * 3 // 8)
        size = whole.size
        for described, start, behind in _directories(first, near, end, trail):
            is_smaller = described.is_overview_of(whole, size) and _has_samples_of(
                first, described, near, start, behind, trail
            )
            if is_smaller or described.is_mask_of(whole.size, [page for page, _ in found]):
                found.append((_read(first.layout, described, near, behind, trail), described.tables))
            if is_smaller:
                size = described.size
    except _FarError:
        pass
    except TiffError:
        trail.is_broken = True
    trail.tables.extend(tables for _, tables in found)
    return tuple(page for page, _ in found)


def _directories(
    first: Ifd, near: _Nearby, end: int, trail: Trail
) -> Iterator[tuple[_Directory, int, int]]:  # fmt: skip
    """Yield the directories after the first one, each with the start and the end of its entries."""
    layout = first.layout
    link = layout.integers[13 if layout.inline == 4 else 18]
    pointer = first.start + len(first.block)
    for number in range(_MOST_DIRECTORIES):
        data, at = near.locate(pointer, link.size, end)
        trail.others.append((pointer, pointer + link.size))
        offset = link.unpack_from(data, at)[0]
        if not offset:
            return
        is_far = number == 0 and abs(offset - end) > _NEAR
        if is_far:
            end = offset  # the directory may be the image's mask, which is asked for wherever it lies
        data, at = near.locate(offset, layout.count.size, end)
        trail.directories.append((offset, offset + layout.count.size))
        length = layout.count.unpack_from(data, at)[0] * layout.entry.size
        start = offset + layout.count.size
        if not 0 < length <= MAX_ENTRIES * layout.entry.size:
            return
        data, at = near.locate(start, length, end)
        trail.directories.append((offset, start + length))
        described = _describe(layout, bytes(data[at : at + length]), start)
        if is_far and described.mask_bits is None:
            return
        pointer, end = start + length, max(end, described.end)
        yield described, start, pointer


class _FarError(Exception):
    """Bytes that lie too far from the last directory to be asked for."""


class _Nearby:
    """The bytes of a file near the last directory. Bytes far from it are not examined, even if they were read.

    So the overviews of a file do not depend on which of its bytes happened to be read.

    Args:
        buffer: the bytes read so far.
        request: number of bytes to ask for if some are missing.
    """

    __slots__ = ("buffer", "head", "request")

    def __init__(self, buffer: SparseBuffer, request: int) -> None:
        self.buffer = buffer
        self.request = request
        # The first piece, which nearly always holds all bytes, so that no piece has to be searched.
        first, data = buffer.pieces[0]
        self.head = data if first == 0 else b""

    def locate(self, start: int, length: int, end: int, reach: int = 0) -> tuple[bytes, int]:
        """Return the piece that holds ``length`` bytes from ``start``, and their position in it.

        Raises:
            _FarError: if ``start`` lies further from ``end`` than 64 KiB, and ``reach`` behind it.
            NeedBytes: if the bytes are missing.
            CorruptTiffError: if the file cannot have these bytes.
        """
        if not end - _NEAR <= start <= end + _NEAR + reach:
            raise _FarError
        if start + length <= len(self.head):
            return self.head, start
        found = self.buffer.locate(start, length)
        if found is None:
            self.buffer.check_inside(start, length, "an overview's directory")
            raise NeedBytes([self.buffer.missing(start, max(length, self.request))])
        return found


def _has_samples_of(first: Ifd, described: _Directory, near: _Nearby, start: int, end: int, trail: Trail) -> bool:
    """Return whether an image and a smaller copy, whose directory lies from ``start`` to ``end``, have one sample type.

    A copy of another type (of a tool that averages in integers, for example) would be read as the image's type.
    """
    whole, inline = first.entries, first.layout.inline
    for tag in _SAMPLE_TAGS:
        places = [entries[tag] for entries in (whole, described.entries) if tag in entries]
        # Noted even for copies that are left out, because files of a family have to agree in these bytes too.
        trail.others.extend((at, at + size) for _, _, at, size in places if size > inline)
        stated = set(first.integers(tag))
        copied: set[int] = set()
        if tag in described.entries:
            _, _, at, size = described.entries[tag]
            data, position = near.locate(at, size, end, described.tiles * _TABLE_BYTES)
            values = SparseBuffer([(at, bytes(data[position : position + size]))], None)
            ifd = Ifd(buffer=values, layout=first.layout, block=b"", start=start, entries=described.entries)
            copied = set(ifd.integers(tag))
        if (stated or {_DEFAULTS[tag]}) != (copied or {_DEFAULTS[tag]}):
            return False
    return True


def _read(layout: Layout, described: _Directory, near: _Nearby, end: int, trail: Trail) -> TiffOverview:
    """Return the overview or mask of a directory that ends at ``end``."""
    try:
        page = _read_page(layout, described, near, end)
    except _FarError:
        trail.is_broken = True  # one of the page's tables may have been examined
        raise
    if described.jpeg is not None:
        trail.others.append((described.jpeg[0], sum(described.jpeg)))
    return page


def _read_page(layout: Layout, described: _Directory, near: _Nearby, end: int) -> TiffOverview:
    tables = []
    for kind, count, start, size in described.tables:
        data, at = near.locate(start, size, end, described.tiles * _TABLE_BYTES)
        values = np.frombuffer(data, layout.tables[kind], count, at)
        # As for the image's own tables, because no position in a file is negative or beyond 63 bits.
        if kind > 4 and (values.min() < 0 or values.max() > MAX_OFFSET):
            raise CorruptTiffError("an overview's table holds a value that is negative or beyond 63 bits")
        # A copy, so that the bytes around the table can be freed.
        tables.append(values.copy())
    jpeg = None
    if described.jpeg is not None:
        data, at = near.locate(*described.jpeg, end, described.tiles * _TABLE_BYTES)
        jpeg = bytes(data[at : at + described.jpeg[1]])
    return TiffOverview(
        width=described.size[0],
        height=described.size[1],
        tile_width=described.tile[0],
        tile_height=described.tile[1],
        tile_offsets=tables[0],
        tile_byte_counts=tables[1],
        jpeg_tables=jpeg,
        mask_bits=described.mask_bits,
        compression=None if described.mask_bits is None else described.common[0],
    )


# Cached, because the files of a collection repeat a few directories thousands of times.
@lru_cache(maxsize=MAX_REMEMBERED)
def _describe(layout: Layout, block: bytes, start: int) -> _Directory:
    """Return the facts in the entries of a directory.

    Raises:
        CorruptTiffError: if a size is missing.
    """
    entries = index_entries(layout, block, start)
    ifd = Ifd(buffer=_NOTHING, layout=layout, block=block, start=start, entries=entries)
    size = ifd.integer(Tag.IMAGE_WIDTH), ifd.integer(Tag.IMAGE_LENGTH)
    kind = ifd.integer(Tag.NEW_SUBFILE_TYPE, 0)
    is_tiled = Tag.TILE_OFFSETS in entries and Tag.TILE_BYTE_COUNTS in entries
    tile = (ifd.integer(Tag.TILE_WIDTH), ifd.integer(Tag.TILE_LENGTH)) if is_tiled else (0, 0)
    common = tuple(ifd.integer(tag, _DEFAULTS.get(tag, -1)) for tag in _COMMON_TAGS)
    tiles = 0
    if min(*size, *tile) > 0 and max(*size, *tile) <= MAX_INT32:
        planes = common[3] if common[4] == 2 else 1
        tiles = -(-size[0] // tile[0]) * -(-size[1] // tile[1]) * planes
    tables = tuple(entries[tag] for tag in (Tag.TILE_OFFSETS, Tag.TILE_BYTE_COUNTS) if tag in entries)
    sound = tiles > 0 and all(kind in layout.tables and count == tiles for kind, count, _, _ in tables)
    # A mask has one sample per pixel, of one bit by the standard (TIFF 6.0 p. 37), or of eight by some writers.
    bits = ifd.integer(Tag.BITS_PER_SAMPLE, 1) if kind & _MASK and common[3:4] == (1,) else 0
    is_plain = bits in {1, 8} and common[1] == 1 and common[5] == 1
    jpeg = entries.get(Tag.JPEG_TABLES)
    ifd.check_claims((Tag.TILE_OFFSETS, Tag.TILE_BYTE_COUNTS, Tag.JPEG_TABLES, *_SAMPLE_TAGS))
    return _Directory(
        is_reduced=kind & _KIND_BITS == _REDUCED and len(tables) == 2 and sound,
        mask_bits=bits if is_plain and len(tables) == 2 and sound else None,
        size=size,
        tile=tile,
        common=common,
        tables=tables,
        entries=entries,
        jpeg=None if jpeg is None else jpeg[2:],
        end=max([start + len(block), *(table[2] + table[3] for table in tables)]),
        tiles=tiles,
    )
