"""Recognise headers that equal a parsed one in all bytes but those of tables, position, CRS and nodata.

One program writes the files of a collection with one set of options, so their headers hold the same bytes except for
the tile tables, the tie point, and a few values such as CRS and nodata. Comparing the same bytes with those of a parsed
file takes a fraction of the time of parsing, and the tables of many files can then be cut out together. Any other
header goes through :func:`~.parse.parse_header`, and so does a header that it might refuse.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from rasteret_assets.errors import TiffError
from rasteret_assets.tiff.buffer import NeedBytes, SparseBuffer, merge_ranges
from rasteret_assets.tiff.constants import ALPHA, ALPHA_BANDS, REAL_TYPES, PlanarConfiguration, Tag
from rasteret_assets.tiff.ifd import read_first_ifd
from rasteret_assets.tiff.overviews import Trail, read_overviews
from rasteret_assets.tiff.parse import Directory, Shared, parse_header, read_directory, read_shared
from rasteret_assets.tiff.scaling import UNSCALED, Scaling, read_scaling
from rasteret_assets.tiff.transform import is_surely_placed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from rasteret_assets.tiff.header import TiffHeader
    from rasteret_assets.tiff.ifd import Entry
    from rasteret_assets.tiff.overviews import TiffOverview

#: Field types of tables: SHORT and LONG, of which every value is a valid position or size, and LONG8, of which values
#: below 2**63 are (TIFF 6.0 p. 15, BigTIFF design).
_SHORT, _LONG, _LONG8 = 3, 4, 16
_FLOAT, _DOUBLE = 11, 12
#: The first bytes of a file are cut to its header if they are more than so many times longer.
_KEPT_SHARE: Final = 2
_STACKED_BYTES: Final = 2 * 2**20


Cut = Callable[[bytes], tuple[bytes, ...]]
"""Cuts parts out of the first bytes of a file."""


class Table(NamedTuple):
    """The place of a table of numbers, which is the same in every file of a family."""

    dtype: np.dtype
    """Type of a value as it is stored."""
    values: int
    """Number of values; in a tile table, one per tile."""
    start: int
    """Position of the first value in the file, in bytes."""


class Image(NamedTuple):
    """The tables of an image or of one of its overviews, with all bands."""

    offsets: Table
    byte_counts: Table


class StackedTables(NamedTuple):
    """Tile tables and tie points of N files."""

    image: tuple[NDArray[np.int64], NDArray[np.int64]]
    """Offsets and byte counts, ``int64[N, tiles]`` each."""
    overviews: tuple[NDArray[np.int64], NDArray[np.int64]]
    """Offsets and byte counts of all overviews, one after the other: ``int64[N, tiles of all overviews]``."""
    overview_tiles: tuple[int, ...]
    """Number of tiles of each overview."""
    tiepoints: NDArray[np.float64]
    """Values of ModelTiepoint, ``float64[N, 6 or more]``."""


class FamilyMember(NamedTuple):
    """The header of a file that belongs to a family, as bytes."""

    family: HeaderFamily
    data: bytes
    """The start of the file, at least up to the end of its header."""
    shared: Shared
    scaling: Scaling
    """Scale and offset of the file's bands."""

    @property
    def samples_per_pixel(self) -> int:
        """Number of bands."""
        return self.family.directory.grid.samples_per_pixel

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the member takes."""
        return len(self.data)

    def header(self) -> TiffHeader:
        """Return the header, parsed from its bytes."""
        return parse_header([(0, self.data)], overviews=self.family.with_overviews)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeaderFamily:
    """The common bytes of the headers of a family, and the places of the others."""

    directory: Directory
    fixed: Cut
    """Cuts out the bytes that are the same in all members."""
    content: tuple[bytes, ...]
    """The bytes that are the same in all members."""
    shared: Cut
    """Cuts out the values of shared tags."""
    metadata: slice | None
    """Place of GDAL's metadata, which may hold scales and may differ from member to member."""
    images: tuple[Image, ...]
    """The image, then its overviews, from the finest to the coarsest."""
    long_tables: tuple[slice, ...]
    """The highest byte of every 64-bit table value, which is below 128 in a valid header."""
    tiepoint: Table
    """Place of the values of the tie point."""
    reals: struct.Struct
    """Format of the values of the tie point."""
    end: int
    """Position after the last byte of a header."""
    with_overviews: bool

    @classmethod
    def of(cls, data: bytes, *, overviews: bool) -> HeaderFamily | None:
        """Return the family of a file whose header was parsed from its first bytes; None if it cannot have a family.

        Args:
            data: the start of the file.
            overviews: whether headers describe their overviews.
        """
        ifd = read_first_ifd(SparseBuffer([(0, data)], None))
        directory = read_directory(ifd.layout, ifd.block, ifd.start)
        entries, layout, grid = directory.entries, directory.layout, directory.grid
        kind, count, tiepoint_at, size = entries.get(Tag.MODEL_TIEPOINT, (0, 0, 0, 0))
        trail = Trail()
        pages: Sequence[TiffOverview] = ()
        try:
            if overviews:
                pages = read_overviews(ifd, directory.end, trail)
        except NeedBytes:
            return None  # the chain of directories leads out of these bytes
        if grid.planar_configuration == PlanarConfiguration.SEPARATE:
            # Masks and alpha have one plane and an image has one for each band, so their tables are cut differently.
            _, _, _, extra = entries.get(Tag.EXTRA_SAMPLES, (0, 0, 0, 0))
            may_have_alpha = grid.samples_per_pixel in ALPHA_BANDS and (
                extra > layout.inline or not ALPHA.isdisjoint(ifd.integers(Tag.EXTRA_SAMPLES))
            )
            if may_have_alpha or any(page.mask_bits is not None for page in pages):
                return None
        pairs = [(entries[grid.offsets_tag], entries[grid.counts_tag]), *trail.tables]
        if kind not in (_FLOAT, _DOUBLE) or count < 6 or trail.is_broken or any(
            table[0] not in (_SHORT, _LONG, _LONG8) for pair in pairs for table in pair
        ):  # fmt: skip
            return None
        blocks = [(ifd.start - layout.count.size, ifd.start + len(ifd.block)), *trail.directories]
        others = [(0, 8 if layout.inline == 4 else 16), *trail.others]
        if (jpeg := entries.get(Tag.JPEG_TABLES)) is not None:
            others.append((jpeg[2], jpeg[2] + jpeg[3]))
        own = [(at, at + length) for pair in pairs for _, _, at, length in pair]
        own.append((tiepoint_at, tiepoint_at + size))
        metadata = directory.metadata
        metadata_end = 0 if metadata is None else metadata.stop
        end = max(directory.end, metadata_end, *(last for _, last in (*blocks, *others, *own)))
        # Small tables lie in the directory itself. Any other overlap means that the file is damaged.
        outside = [span for span in own if span[1] - span[0] > layout.inline]
        if end > len(data) or _overlap(own, [*others, *directory.shared_spans]) or _overlap(outside, blocks):
            return None
        fixed = _cut(_without([*blocks, *others], own))
        return cls(
            directory=directory,
            fixed=fixed,
            content=fixed(data),
            shared=_cut(directory.shared_spans),
            metadata=metadata,
            images=tuple(Image(*(_table(directory, table) for table in pair)) for pair in pairs),
            long_tables=tuple(
                slice(at + (7 if layout.order == "<" else 0), at + size, 8)
                for pair in pairs for kind, _, at, size in pair if kind == _LONG8
            ),
            tiepoint=Table(np.dtype(layout.order + REAL_TYPES[kind]), count, tiepoint_at),
            reals=struct.Struct(f"{layout.order}{count}{REAL_TYPES[kind]}"),
            end=end,
            with_overviews=overviews,
        )  # fmt: skip

    def match(self, data: bytes) -> FamilyMember | None:
        """Return the header in the first bytes of another file; None unless it belongs to the family for sure."""
        if len(data) < self.end:
            return None
        if self.fixed(data) != self.content:
            return None
        for highest in self.long_tables:
            if not data[highest].isascii():
                return None
        try:
            shared = read_shared(self.directory, self.shared(data))
        except TiffError:
            return None
        tiepoint = self.reals.unpack_from(data, self.tiepoint.start)
        if shared.steps is None or not is_surely_placed(shared.steps, tiepoint):
            return None  # placed by a matrix, or not at all
        kept = data if len(data) < _KEPT_SHARE * self.end else data[: self.end]
        scaling = UNSCALED
        if self.metadata is not None:
            scaling = read_scaling(data[self.metadata], self.directory.grid.samples_per_pixel)
        return FamilyMember(self, kept, shared, scaling)

    def band_part(self, band_index: int) -> int:
        """Return the part of every table that holds a band: 0 if a tile holds all bands."""
        return band_index if self._parts > 1 else 0

    @property
    def _parts(self) -> int:
        """Number of parts of every table: one for each band if a tile holds one band, else one."""
        grid = self.directory.grid
        return grid.samples_per_pixel if grid.planar_configuration == PlanarConfiguration.SEPARATE else 1

    def stack_tables(self, members: Sequence[FamilyMember], part: int) -> StackedTables:
        """Return tile tables and tie points of many members.

        Args:
            members: N members of this family.
            part: part of every table, from :meth:`band_part`.
        """
        tiles = [image.offsets.values // self._parts for image in self.images]
        image, overviews = (
            (np.empty((len(members), width), np.int64), np.empty((len(members), width), np.int64))
            for width in (tiles[0], sum(tiles[1:]))
        )
        # Tables are views of these arrays, because memory that is touched for the first time costs more than all else.
        ends = np.cumsum([0, *tiles[1:]])
        tiepoints = np.empty((len(members), self.tiepoint.values), np.float64)
        places = [image, *((overviews[0][:, a:b], overviews[1][:, a:b]) for a, b in pairwise(ends))]
        tables: list[tuple[np.dtype, int, NDArray[Any]]] = [
            (table.dtype, table.start + part * width * table.dtype.itemsize, values)
            for stored, pair, width in zip(self.images, places, tiles, strict=True)
            for table, values in zip(stored, pair, strict=True)
        ]
        tables.append((self.tiepoint.dtype, self.tiepoint.start, tiepoints))
        # A few megabytes at a time, so that the allocator reuses the same memory.
        step = max(1, _STACKED_BYTES // self.end)
        for first in range(0, len(members), step):
            some = members[first : first + step]
            joined = b"".join([memoryview(member.data)[: self.end] for member in some])
            for dtype, start, values in tables:
                shape = (len(some), values.shape[1])
                values[first : first + step] = np.ndarray(shape, dtype, joined, start, (self.end, dtype.itemsize))
        return StackedTables(image, overviews, tuple(tiles[1:]), tiepoints)


def _table(directory: Directory, entry: Entry) -> Table:
    kind, count, start, _ = entry
    return Table(directory.layout.tables[kind], count, start)


def _cut(spans: Sequence[tuple[int, int]]) -> Cut:
    """Return a function that cuts these spans out of a file's bytes."""
    slices = [slice(start, end) for start, end in spans]
    # itemgetter, because it cuts several spans in one step of the interpreter, for every header of a band.
    return itemgetter(*slices) if len(slices) > 1 else lambda data: tuple(data[part] for part in slices)


def _overlap(ones: Iterable[tuple[int, int]], others: Sequence[tuple[int, int]]) -> bool:
    return any(start < last and first < end for start, end in ones for first, last in others)


def _without(spans: Iterable[tuple[int, int]], own: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return spans in order, joined where they touch, without the spans ``own``."""
    joined = merge_ranges(((start, end - start) for start, end in spans), gap=0)
    left = [(start, start + length) for start, length in joined]
    for first, last in own:
        left = [
            part for start, end in left for part in ((start, min(end, first)), (max(start, last), end))
            if part[0] < part[1]
        ]  # fmt: skip
    return left
