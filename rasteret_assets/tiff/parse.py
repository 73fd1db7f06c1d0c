"""Make a :class:`~.header.TiffHeader` of a directory, with all checks that an index depends on, the cheapest first.

Faults that the entries alone reveal (strips, a grid without tables, no position) are refused before more bytes are
asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from rasteret_assets.errors import CorruptTiffError, NotGeoreferencedError, NotTiledError, UnsupportedTiffError
from rasteret_assets.tiff._geokeys import GeoReference, read_geokeys
from rasteret_assets.tiff.buffer import MAX_INT32, SparseBuffer
from rasteret_assets.tiff.constants import BYTE_TYPES, PlanarConfiguration, Tag
from rasteret_assets.tiff.header import TiffHeader
from rasteret_assets.tiff.ifd import MAX_REMEMBERED, Entry, Ifd, index_entries, read_first_ifd
from rasteret_assets.tiff.layout import Layout
from rasteret_assets.tiff.nodata import parse_nodata
from rasteret_assets.tiff.overviews import read_overviews
from rasteret_assets.tiff.samples import read_compression, read_dtype, read_predictor
from rasteret_assets.tiff.scaling import MAX_METADATA_BYTES, UNSCALED, Scaling, read_scaling
from rasteret_assets.tiff.transform import read_transform, tied_steps

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

_VALUE_TAGS: Final = (
    Tag.COMPRESSION,
    Tag.BITS_PER_SAMPLE,
    Tag.SAMPLE_FORMAT,
    Tag.EXTRA_SAMPLES,
    Tag.MODEL_PIXEL_SCALE,
    Tag.MODEL_TIEPOINT,
    Tag.MODEL_TRANSFORMATION,
    Tag.GEO_KEY_DIRECTORY,
    Tag.GEO_DOUBLE_PARAMS,
    Tag.GEO_ASCII_PARAMS,
    Tag.GDAL_NODATA,
    Tag.JPEG_TABLES,
)


#: Tags whose values files of one family share. Files differ in tie point, tile tables and JPEG tables.
_SHARED_TAGS: Final = tuple(
    tag for tag in _VALUE_TAGS if tag not in (Tag.MODEL_TIEPOINT, Tag.MODEL_TRANSFORMATION, Tag.JPEG_TABLES)
)


def parse_header(pieces: Sequence[tuple[int, bytes]], *, size: int | None = None, overviews: bool = True) -> TiffHeader:
    """Return the header of the first image of a tiled GeoTIFF.

    Args:
        pieces: the bytes read so far as ``(start, bytes)``, in any order.
        size: bytes of the whole file, if known. Pass the size as soon as a short read has revealed it; without it the
            parser asks again and again for bytes that a truncated file does not have.
        overviews: whether to describe the overviews whose directories lie with the first one, too.

    Raises:
        NeedBytes: if bytes are missing; call again with these and the ones already given.
        NotATiffError: if the bytes are not those of a TIFF.
        CorruptTiffError: if the header contradicts itself or the size of the file.
        NotTiledError: if the image is stored in strips.
        NotGeoreferencedError: if the image has no usable position.
        UnsupportedTiffError: if the image is sound but beyond a tile index.
    """
    ifd = read_first_ifd(SparseBuffer(pieces, size))
    directory = read_directory(ifd.layout, ifd.block, ifd.start)
    found = ifd.buffer.locate(0, directory.end)
    if found is None:
        ifd.require(directory.required, directory.optional)
        shared_values = tuple(ifd.raw(tag) for tag in directory.shared)
    else:
        shared_values = tuple(bytes(found[0][start:end]) for start, end in directory.shared_spans)
    shared = read_shared(directory, shared_values)
    grid = directory.grid
    tiepoint = ifd.reals(Tag.MODEL_TIEPOINT)
    scaling = _read_scaling(ifd, directory)
    return TiffHeader(
        width=grid.width,
        height=grid.height,
        tile_width=grid.tile_width,
        tile_height=grid.tile_height,
        dtype=shared.dtype,
        samples_per_pixel=grid.samples_per_pixel,
        planar_configuration=grid.planar_configuration,
        compression=shared.compression,
        predictor=shared.predictor,
        photometric=shared.photometric,
        extra_samples=shared.extra_samples,
        tile_offsets=ifd.table(grid.offsets_tag),
        tile_byte_counts=ifd.table(grid.counts_tag),
        transform=read_transform(
            pixel_scale=shared.pixel_scale,
            tiepoint=tiepoint,
            matrix=ifd.reals(Tag.MODEL_TRANSFORMATION),
            pixel_is_point=shared.geo.pixel_is_point,
            shape=(grid.width, grid.height),
        ),
        pixel_scale=shared.pixel_scale,
        tiepoint=tiepoint,
        nodata=shared.nodata,
        nodata_text=shared.nodata_text,
        epsg=shared.geo.epsg,
        crs=shared.geo.crs,
        jpeg_tables=ifd.raw(Tag.JPEG_TABLES) or None,
        scales=scaling.scales,
        offsets=scaling.offsets,
        overviews=read_overviews(ifd, directory.end) if overviews else (),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Directory:
    """The facts in the entries of a directory, which are the same bytes in all files of a family."""

    layout: Layout
    block: bytes
    start: int
    entries: dict[int, Entry]
    grid: TileGrid
    required: tuple[Tag, ...]
    """Tags whose values the header needs."""
    shared: tuple[Tag, ...]
    """Required tags whose values lie outside the entries and are, as a rule, the same in files of one family."""
    shared_spans: tuple[tuple[int, int], ...]
    """Start and end, in the file, of the values of each shared tag."""
    end: int
    """Position after the last byte of all required values."""
    optional: tuple[Tag, ...]
    """GDAL's metadata tag, if it can hold a scale. It often differs from file to file, and some files have none."""

    @property
    def metadata(self) -> slice | None:
        """Place of the value of GDAL's metadata tag in the file, if it can hold a scale."""
        if not self.optional:
            return None
        _, _, start, size = self.entries[Tag.GDAL_METADATA]
        return slice(start, start + size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """The facts in the values of a directory's shared tags."""

    dtype: np.dtype
    compression: int
    predictor: int
    photometric: int
    extra_samples: tuple[int, ...]
    pixel_scale: tuple[float, ...]
    steps: tuple[float, float] | None
    """The steps of the transform in x and y; None if they need a closer check."""
    geo: GeoReference
    nodata: float | None
    nodata_text: str | None


# Cached, because the files of a collection repeat a few directories thousands of times.
@lru_cache(maxsize=MAX_REMEMBERED)
def read_directory(layout: Layout, block: bytes, start: int) -> Directory:
    """Return the facts in the entries of a directory.

    Args:
        layout: of the file.
        block: bytes of the entries.
        start: position of ``block`` in the file.

    Raises:
        TiffError: if the entries show that the image cannot be indexed.
    """
    entries = index_entries(layout, block, start)
    ifd = Ifd(buffer=SparseBuffer((), None), layout=layout, block=block, start=start, entries=entries)
    grid = _read_grid(ifd)
    _check_positioned(ifd)
    required = tuple(tag for tag in (*_VALUE_TAGS, grid.offsets_tag, grid.counts_tag) if tag in entries)
    ifd.check_claims(required)
    outside = [tag for tag in _SHARED_TAGS if tag in entries and entries[tag][3] > layout.inline]
    spans = tuple((entries[tag][2], entries[tag][2] + entries[tag][3]) for tag in outside)
    end = max(start + len(block), *(entries[tag][2] + entries[tag][3] for tag in required))
    kind, _, _, size = entries.get(Tag.GDAL_METADATA, (0, 0, 0, 0))
    has_metadata = kind in BYTE_TYPES and layout.inline < size <= MAX_METADATA_BYTES
    return Directory(
        layout=layout, block=block, start=start, entries=entries, grid=grid, required=required, shared=tuple(outside),
        shared_spans=spans, end=end, optional=(Tag.GDAL_METADATA,) if has_metadata else (),
    )  # fmt: skip


@lru_cache(maxsize=MAX_REMEMBERED)
def read_shared(directory: Directory, values: tuple[bytes, ...]) -> Shared:
    """Return the facts in shared values, which are in the order of ``directory.shared``.

    Raises:
        TiffError: if the values show that the image cannot be indexed.
    """
    pieces = [(directory.start, directory.block)]
    pieces += zip((start for start, _ in directory.shared_spans), values, strict=True)
    ifd = Ifd(
        buffer=SparseBuffer(pieces, None), layout=directory.layout, block=directory.block, start=directory.start,
        entries=directory.entries,
    )  # fmt: skip
    dtype = read_dtype(ifd)
    compression = read_compression(ifd)
    _check_tile_size(directory.grid, dtype)
    nodata_text = ifd.text(Tag.GDAL_NODATA)
    pixel_scale = ifd.reals(Tag.MODEL_PIXEL_SCALE)
    return Shared(
        dtype=dtype,
        compression=compression,
        predictor=read_predictor(ifd, compression, dtype),
        photometric=_checked_code(Tag.PHOTOMETRIC, ifd.integer(Tag.PHOTOMETRIC, 1)),
        extra_samples=tuple(_checked_code(Tag.EXTRA_SAMPLES, code) for code in ifd.integers(Tag.EXTRA_SAMPLES)),
        pixel_scale=pixel_scale,
        steps=tied_steps(pixel_scale),
        geo=read_geokeys(
            ifd.integers(Tag.GEO_KEY_DIRECTORY), ifd.reals(Tag.GEO_DOUBLE_PARAMS), ifd.raw(Tag.GEO_ASCII_PARAMS)
        ),
        nodata=parse_nodata(nodata_text, dtype),
        nodata_text=nodata_text,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TileGrid:
    """Image and tile sizes in pixels, and the tags of tables that have one entry for each tile."""

    width: int
    height: int
    tile_width: int
    tile_height: int
    samples_per_pixel: int
    planar_configuration: int
    offsets_tag: Tag
    counts_tag: Tag


def _read_grid(ifd: Ifd) -> TileGrid:
    """Return the tile grid, after checking the lengths of its tables, which are not read yet."""
    width, height = _read_extent(ifd, Tag.IMAGE_WIDTH), _read_extent(ifd, Tag.IMAGE_LENGTH)
    present = ifd.entries
    if not (Tag.TILE_WIDTH in present or Tag.TILE_LENGTH in present or Tag.TILE_OFFSETS in present):
        raise NotTiledError("stored in strips, not tiles (no TileWidth and TileLength): there are no tiles to index")
    tile_width, tile_height = _read_extent(ifd, Tag.TILE_WIDTH), _read_extent(ifd, Tag.TILE_LENGTH)
    samples = ifd.integer(Tag.SAMPLES_PER_PIXEL, 1)
    if not 0 < samples <= 65535:
        raise CorruptTiffError(f"SamplesPerPixel is {samples}; 1 to 65535 may be")
    planar = ifd.integer(Tag.PLANAR_CONFIGURATION, PlanarConfiguration.CHUNKY)
    if planar not in (PlanarConfiguration.CHUNKY, PlanarConfiguration.SEPARATE):
        raise CorruptTiffError(f"PlanarConfiguration is {planar}; 1 (chunky) or 2 (separate) may be")
    # Some old writers put the tables of tiles into the tags of strips; libtiff reads them from either.
    offsets_tag = Tag.TILE_OFFSETS if Tag.TILE_OFFSETS in present else Tag.STRIP_OFFSETS
    counts_tag = Tag.TILE_BYTE_COUNTS if Tag.TILE_BYTE_COUNTS in present else Tag.STRIP_BYTE_COUNTS
    across, down = -(-width // tile_width), -(-height // tile_height)
    planes = samples if planar == PlanarConfiguration.SEPARATE else 1
    for tag, name in ((offsets_tag, "TileOffsets"), (counts_tag, "TileByteCounts")):
        found = ifd.count(tag)
        if found != across * down * planes:
            raise CorruptTiffError(
                f"table length mismatch: {name} has {found} entries, but {width} x {height} pixels in tiles of "
                f"{tile_width} x {tile_height} and {planes} plane(s) make {across * down * planes} tiles"
            )
    return TileGrid(
        width=width,
        height=height,
        tile_width=tile_width,
        tile_height=tile_height,
        samples_per_pixel=samples,
        planar_configuration=planar,
        offsets_tag=offsets_tag,
        counts_tag=counts_tag,
    )


def _read_scaling(ifd: Ifd, directory: Directory) -> Scaling:
    # Asked for wherever the tag lies, because pixels without their scale would be wrong values.
    xml = ifd.optional(Tag.GDAL_METADATA) if directory.optional else None
    return UNSCALED if xml is None else read_scaling(xml, directory.grid.samples_per_pixel)


def _read_extent(ifd: Ifd, tag: Tag) -> int:
    """Return a size in pixels, which must be positive and within 31 bits."""
    value = ifd.integer(tag)
    if not 0 < value <= MAX_INT32:
        what = "zero or negative" if value <= 0 else "beyond 31 bits"
        raise CorruptTiffError(f"{tag.label} is {value}, {what}: no image has such a size")
    return value


def _checked_code(tag: Tag, code: int) -> int:
    """Return a code of a tag, which must be within 31 bits, as all codes of standards and writers are."""
    if abs(code) > MAX_INT32:
        raise CorruptTiffError(f"{tag.label} is {code}, beyond 31 bits: no such code exists")
    return code


def _check_positioned(ifd: Ifd) -> None:
    """Refuse an image whose directory has neither a pixel scale nor a matrix."""
    if Tag.MODEL_PIXEL_SCALE in ifd.entries or Tag.MODEL_TRANSFORMATION in ifd.entries:
        return
    if Tag.MODEL_TIEPOINT in ifd.entries:
        points = ifd.count(Tag.MODEL_TIEPOINT) // 6
        raise NotGeoreferencedError(
            f"georeferenced by {points} ground control point(s) only (tie points without a pixel scale): no transform"
        )
    raise NotGeoreferencedError("no georeferencing: no ModelPixelScale, ModelTiepoint or ModelTransformation tag")


def _check_tile_size(grid: TileGrid, dtype: np.dtype) -> None:
    """Refuse tiles that no reader could hold in memory."""
    samples = grid.samples_per_pixel if grid.planar_configuration == PlanarConfiguration.CHUNKY else 1
    size = grid.tile_width * grid.tile_height * samples * dtype.itemsize
    if size > MAX_INT32:
        raise UnsupportedTiffError(
            f"a tile of {grid.tile_width} x {grid.tile_height} pixels takes {size} bytes decoded, more than {MAX_INT32}"
        )
