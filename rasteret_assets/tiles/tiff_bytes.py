"""The directories of a TIFF file, written from its header in the index, for GDAL to find the tiles by.

GDAL chooses overviews, tiles and masks itself where it is given a file. The file described here has the size, tiles,
codecs, nodata, transform and CRS of the indexed one, and its tiles at their positions; only its directories are our
own, behind the last tile (BigTIFF, https://www.awaresystems.be/imaging/tiff/bigtiff.html). So no request is made for
a header, and what GDAL makes of the tiles is what it makes of the file itself.
"""

from __future__ import annotations

import base64
import functools
import io
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import tifffile

from rasteret_assets.collection.extras import optional
from rasteret_assets.errors import CollectionError
from rasteret_assets.schema import OVERVIEWS, TILE_TABLES
from rasteret_assets.tiff.constants import PlanarConfiguration, SampleFormat, Tag

_YCBCR_SUBSAMPLING: Final = 530
_PALETTE, _MIN_IS_BLACK, _RGB, _YCBCR, _TRANSPARENCY_MASK = 3, 1, 2, 6, 4
#: NewSubfileType (TIFF 6.0 p. 36): a smaller copy of the image, a mask of it.
_REDUCED, _MASK = 1, 4
_ALPHA: Final = 2
#: Directories begin at a multiple of this many bytes, because libtiff reads tile tables by pages of 4096.
_PAGE: Final = 4096
_FILE_HEADER_BYTES: Final = 16

#: Field types of BigTIFF: number and numpy's letter.
_ASCII, _SHORT, _LONG, _UNDEFINED, _DOUBLE, _LONG8 = (2, "S1"), (3, "u2"), (4, "u4"), (7, "S1"), (12, "f8"), (16, "u8")

Tables = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TiffBytes:
    """A TIFF file without its tiles.

    Args:
        start: the bytes of the file from 0.
        directories: the bytes from ``position`` to the end of the file.
        position: where the directories begin, behind every tile.
        offsets: int64 ``[N]``, ascending: where each stored tile begins.
        byte_counts: int64 ``[N]``, the bytes of each.
    """

    start: bytes
    directories: bytes
    position: int
    offsets: npt.NDArray[np.int64]
    byte_counts: npt.NDArray[np.int64]

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self.position + len(self.directories)

    def tiles_in(self, start: int, end: int) -> tuple[int, int]:
        """Return the first tile that has a byte between two positions, and the one behind the last that has."""
        first = int(np.searchsorted(self.offsets + self.byte_counts, start, side="right"))
        return first, max(first, int(np.searchsorted(self.offsets, end)))

    def tile(self, number: int) -> tuple[int, int]:
        """Return (position, bytes) of a tile."""
        return int(self.offsets[number]), int(self.byte_counts[number])

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it takes."""
        return len(self.directories) + self.offsets.nbytes + self.byte_counts.nbytes


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Image:
    """One directory: an image, an overview or a mask, and what its tags are."""

    width: int
    height: int
    tile: tuple[int, int]
    dtype: np.dtype[Any]
    bits: int
    samples: int
    planar: int
    compression: int
    predictor: int
    photometric: int
    extra_samples: Sequence[int]
    tables: Tables
    jpeg_tables: bytes | None = None
    subfile: int = 0
    further: Sequence[tuple[int, tuple[int, str], Any]] = ()


def write_tiff(header: Mapping[str, Any], crs: str) -> TiffBytes:
    """Return a TIFF file that has the tiles of an indexed file at their positions.

    Of a file whose bands lie in planes of their own, it has the tiles of the band, and those of alpha where there are
    some: the others are left out, as in a sparse file. A palette is not in the index: pixels are its numbers.

    Args:
        header: value of a ``{band}_metadata`` column, tile tables as numpy arrays.
        crs: of the raster, as ``EPSG:n`` or WKT.

    Raises:
        CollectionError: if fields contradict one another.
        MissingExtraError: if rasterio is not installed.
    """
    try:
        images = list(_images(header, crs))
    except (TypeError, ValueError, KeyError) as error:
        raise CollectionError(f"the header contradicts itself ({error}): index the file again") from error
    offsets = np.concatenate([image.tables[0] for image in images])
    byte_counts = np.concatenate([image.tables[1] for image in images])
    stored = byte_counts > 0
    order = np.argsort(offsets[stored], kind="stable")
    offsets, byte_counts = offsets[stored][order], byte_counts[stored][order]
    if len(offsets) and offsets[0] < _FILE_HEADER_BYTES // 2:
        raise CollectionError("the header contradicts itself (a tile lies in the file's first bytes): index it again")
    end = int((offsets + byte_counts).max(initial=_FILE_HEADER_BYTES))
    position = -(-end // _PAGE) * _PAGE
    letter = ">" if images[0].dtype.byteorder == ">" else "<"
    mark = b"MM" if letter == ">" else b"II"
    return TiffBytes(
        start=mark + struct.pack(f"{letter}HHHQ", 43, 8, 0, position),
        directories=_directories(images, position, letter),
        position=position,
        offsets=offsets,
        byte_counts=byte_counts,
    )


def _images(header: Mapping[str, Any], crs: str) -> list[_Image]:
    """The image of a header, and its overviews and masks, in the order of their directories."""
    dtype = np.dtype(header["dtype"])
    planar = header.get("planar_configuration") or 1
    samples = header.get("samples_per_pixel") or 1
    extra = list(header.get("extra_samples") or ())
    photometric = header.get("photometric")
    photometric = _MIN_IS_BLACK if photometric in {None, _PALETTE} else photometric
    pages = header.get(OVERVIEWS) or []
    alphas: dict[tuple[int, int], Mapping[str, Any]] = {}
    if planar == PlanarConfiguration.SEPARATE:
        # The index has the plane of alpha as a mask that is stored as the band is.
        alphas = {_size(page): page for page in pages if page["mask_bits"] is not None and page["compression"] is None}
    planes = functools.partial(_layout, header=header, alphas=alphas)
    common: dict[str, Any] = {
        "dtype": dtype, "bits": 8 * dtype.itemsize, "samples": samples, "planar": planar,
        "compression": header.get("compression") or 1, "predictor": header.get("predictor") or 1,
        "photometric": photometric, "extra_samples": extra,
    }  # fmt: skip
    nodata = _nodata_tags(header)
    whole = _Image(
        **common,
        **planes(header),
        further=[*_place_tags(header["transform"], crs), *nodata, *_scaling_tags(header)],
    )
    images = [whole]
    for page in pages:
        if page["mask_bits"] is None:
            images.append(_Image(**common, **planes(page), subfile=_REDUCED, further=nodata))
        elif alphas.get(_size(page)) is not page:
            own = {
                "bits": page["mask_bits"], "dtype": np.dtype(f"{dtype.byteorder}u1"), "samples": 1, "planar": 1,
                "compression": page["compression"], "predictor": 1, "photometric": _TRANSPARENCY_MASK,
                "extra_samples": (),
            }  # fmt: skip
            kind = _MASK if _size(page) == _size(header) else _MASK | _REDUCED
            images.append(_Image(**own, **_layout(page), subfile=kind))
    # GDAL's chain: each mask behind the image that it has the size of, images from the finest to the coarsest.
    return sorted(images, key=lambda image: (-image.width * image.height, image.subfile & _MASK))


def _size(image: Mapping[str, Any]) -> tuple[int, int]:
    return image["image_width"], image["image_height"]


def _layout(
    image: Mapping[str, Any],
    header: Mapping[str, Any] | None = None,
    alphas: Mapping[tuple[int, int], Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Size, tiles and tables of an image.

    Args:
        image: as the index has it.
        header: of the file, where each band has tiles of its own; the tiles of the others are left out.
        alphas: images of the plane of alpha by their size.
    """
    width, height, across, down = (
        int(image[name]) for name in ("image_width", "image_height", "tile_width", "tile_height")
    )
    tables = [np.asarray(image[name], np.int64) for name in TILE_TABLES]
    tiles = -(-width // across) * -(-height // down)
    if any(len(table) != tiles for table in tables):
        raise ValueError(f"an image of {width} x {height} pixels has {len(tables[0])} tiles of {across} x {down}")
    if header is not None and _is_planar(header):
        planes = np.zeros((2, header.get("samples_per_pixel") or 1, tiles), np.int64)
        planes[:, header.get("band_index") or 0] = tables
        if alphas and (alpha := alphas.get(_size(image))) is not None:
            planes[:, -1] = [alpha[name] for name in TILE_TABLES]
        tables = [plane.reshape(-1) for plane in planes]
    jpeg = image.get("jpeg_tables")
    return {
        "width": width, "height": height, "tile": (across, down), "tables": (tables[0], tables[1]),
        "jpeg_tables": base64.b64decode(jpeg) if isinstance(jpeg, str) else jpeg,
    }  # fmt: skip


def _place_tags(transform: Sequence[float], crs: str) -> list[tuple[int, tuple[int, str], Any]]:
    """Where the image lies: a matrix, whose values GDAL takes as they are, and the keys of the CRS."""
    scale_x, x, scale_y, y = transform
    matrix = [scale_x, 0, 0, x, 0, scale_y, 0, y, 0, 0, 0, 0, 0, 0, 0, 1]
    return [(Tag.MODEL_TRANSFORMATION, _DOUBLE, matrix), *_geo_keys(crs)]


@functools.lru_cache(maxsize=64)
def _geo_keys(crs: str) -> tuple[tuple[int, tuple[int, str], Any], ...]:
    """GeoTIFF's keys of a CRS, as GDAL writes them."""
    rasterio = optional("rasterio", extra="tiles", purpose="rasteret_assets.tiles")
    affine = rasterio.Affine(2, 0, 1, 0, -2, 1)  # any but the identity, which GDAL takes for none
    with rasterio.MemoryFile() as memory:
        with memory.open(driver="GTiff", width=1, height=1, count=1, dtype="uint8", crs=crs, transform=affine):
            pass
        with tifffile.TiffFile(io.BytesIO(memory.read())) as tiff:
            tags = tiff.pages.first.tags
            found = [
                (tag, kind, tags[int(tag)].value)
                for tag, kind in (
                    (Tag.GEO_KEY_DIRECTORY, _SHORT), (Tag.GEO_DOUBLE_PARAMS, _DOUBLE), (Tag.GEO_ASCII_PARAMS, _ASCII),
                )
                if int(tag) in tags
            ]  # fmt: skip
    return tuple(
        (tag, kind, value.encode() + b"\0" if isinstance(value, str) else value) for tag, kind, value in found
    )  # fmt: skip


def _nodata_tags(header: Mapping[str, Any]) -> list[tuple[int, tuple[int, str], Any]]:
    """Nodata, which GDAL writes into the directories of overviews too, and reads from there."""
    text = header.get("nodata_text")
    if text is None and header.get("nodata") is not None:  # of a collection that another tool wrote
        text = repr(header["nodata"])
    return [] if text is None else [(Tag.GDAL_NODATA, _ASCII, text.encode() + b"\0")]


def _scaling_tags(header: Mapping[str, Any]) -> list[tuple[int, tuple[int, str], Any]]:
    """Scale and offset, in GDAL's tag."""
    sample = header.get("band_index") or 0
    items = "".join(
        f'<Item name="{role.upper()}" sample="{sample}" role="{role}">{float(header[role])!r}</Item>'
        for role in ("offset", "scale")
        if header.get(role) is not None
    )
    return [(Tag.GDAL_METADATA, _ASCII, f"<GDALMetadata>{items}</GDALMetadata>".encode() + b"\0")] if items else []


def _is_planar(header: Mapping[str, Any]) -> bool:
    return header.get("planar_configuration") == PlanarConfiguration.SEPARATE


def _tags(image: _Image) -> list[tuple[int, tuple[int, str], Any]]:
    """The tags of a directory: number, field type and values."""
    formats = {"u": SampleFormat.UINT, "i": SampleFormat.INT, "f": SampleFormat.FLOAT}
    tags: list[tuple[int, tuple[int, str], Any]] = [
        (Tag.NEW_SUBFILE_TYPE, _LONG, [image.subfile]),
        (Tag.IMAGE_WIDTH, _LONG, [image.width]),
        (Tag.IMAGE_LENGTH, _LONG, [image.height]),
        (Tag.BITS_PER_SAMPLE, _SHORT, [image.bits] * image.samples),
        (Tag.COMPRESSION, _SHORT, [image.compression]),
        (Tag.PHOTOMETRIC, _SHORT, [image.photometric]),
        (Tag.SAMPLES_PER_PIXEL, _SHORT, [image.samples]),
        (Tag.PLANAR_CONFIGURATION, _SHORT, [image.planar]),
        (Tag.PREDICTOR, _SHORT, [image.predictor]),
        (Tag.TILE_WIDTH, _LONG, [image.tile[0]]),
        (Tag.TILE_LENGTH, _LONG, [image.tile[1]]),
        (Tag.TILE_OFFSETS, _LONG8, np.where(image.tables[1] > 0, image.tables[0], 0)),
        (Tag.TILE_BYTE_COUNTS, _LONG8, image.tables[1]),
        (Tag.SAMPLE_FORMAT, _SHORT, [formats[image.dtype.kind]] * image.samples),
        *image.further,
    ]
    if image.extra_samples:
        tags.append((Tag.EXTRA_SAMPLES, _SHORT, image.extra_samples))
    if image.jpeg_tables:
        tags.append((Tag.JPEG_TABLES, _UNDEFINED, image.jpeg_tables))
    if image.photometric == _YCBCR:
        # Without the tag libtiff would read a tile to learn it; where tiles say otherwise, libtiff goes by them.
        tags.append((_YCBCR_SUBSAMPLING, _SHORT, [2, 2]))
    return sorted(tags, key=lambda tag: int(tag[0]))


def _directories(images: Sequence[_Image], position: int, order: str) -> bytes:
    """The directories of a BigTIFF, each with its values behind it."""
    pieces: list[bytes] = []
    for number, image in enumerate(images):
        tags = _tags(image)
        at = position + 8 + 20 * len(tags) + 8
        entries, values = b"", b""
        for tag, (kind, letter), value in tags:
            if isinstance(value, bytes):
                data, count = value, len(value)
            else:
                array = np.asarray(value, f"{order}{letter}")
                data, count = array.tobytes(), array.size
            inline = data.ljust(8, b"\0") if len(data) <= 8 else struct.pack(f"{order}Q", at + len(values))
            values += b"" if len(data) <= 8 else data + bytes(-len(data) % 8)
            entries += struct.pack(f"{order}HHQ", tag, kind, count) + inline
        following = 0 if number == len(images) - 1 else at + len(values)
        piece = struct.pack(f"{order}Q", len(tags)) + entries + struct.pack(f"{order}Q", following) + values
        pieces.append(piece)
        position += len(piece)
    return b"".join(pieces)
