"""Cloud-optimized GeoTIFFs of one band: tiled, with overviews, all directories in front of the pixels."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import tifffile

Raster = npt.NDArray[np.uint16]

TILE: Final = 256
NODATA: Final = 0

#: Noisy pixels come out no smaller at higher levels, only slower.
_DEFLATE_LEVEL: Final = 1
_REDUCED: Final = 1

_OFFSETS, _COUNTS = 324, 325
_TABLES: Final = frozenset({_OFFSETS, _COUNTS})
_SHORT, _LONG, _INLINE = 3, 4, 4
#: Bytes of a value by its type (TIFF 6.0 p. 15), of those that tifffile writes here.
_SIZES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 12: 8}

_MODEL_PIXEL_SCALE, _MODEL_TIEPOINT, _GEO_KEYS, _GDAL_NODATA = 33550, 33922, 34735, 42113


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a raster lies.

    Args:
        epsg: code of its projected CRS.
        left: x of its outer edge in the west.
        top: y of its outer edge in the north.
        pixel: size of its square pixels in units of the CRS.
    """

    epsg: int
    left: float
    top: float
    pixel: float

    def extent(self, shape: tuple[int, int]) -> tuple[float, float, float, float]:
        """(left, right, bottom, top) of a raster of this shape (rows, columns)."""
        return self.left, self.left + shape[1] * self.pixel, self.top - shape[0] * self.pixel, self.top


def write_cog(path: Path, raster: Raster, placement: Placement) -> None:
    """Write a raster with overviews of half the size each, down to the one that fits a tile."""
    options: dict[str, Any] = {
        "tile": (TILE, TILE), "photometric": "minisblack", "compression": "adobe_deflate", "predictor": 2,
        "compressionargs": {"level": _DEFLATE_LEVEL}, "metadata": None, "software": False,
    }  # fmt: skip
    file = io.BytesIO()
    with tifffile.TiffWriter(file, byteorder="<") as tiff:
        tiff.write(raster, extratags=_georeference(placement), **options)
        for overview in _overviews(raster):
            tiff.write(overview, subfiletype=_REDUCED, **options)
    path.write_bytes(_directories_first(file.getvalue()))


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """An entry of a directory (TIFF 6.0 p. 14), its values wherever they stand."""

    tag: int
    kind: int
    count: int
    values: bytes


def _directories_first(tiff: bytes) -> bytes:
    """The same file with its directories, and their values, before the pixels, as the COG layout has them.

    Args:
        tiff: a little-endian TIFF of 32-bit offsets whose images are tiled.
    """
    images = list(_read_directories(tiff))
    # Values of more than four bytes follow their directory; they begin at even positions.
    sizes = [6 + 12 * len(image) + sum(_even(entry.values) for entry in image) for image in images]
    *starts, end = accumulate(sizes, initial=8)
    written, pixels = [b"II*\0" + struct.pack("<I", 8)], []
    for image, start, following in zip(images, starts, [*starts[1:], 0], strict=True):
        tables = {entry.tag: struct.unpack(f"<{entry.count}I", entry.values) for entry in image if entry.tag in _TABLES}
        tiles = [tiff[first : first + size] for first, size in zip(tables[_OFFSETS], tables[_COUNTS], strict=True)]
        moved = list(accumulate(map(len, tiles), initial=end))
        pixels += tiles
        end = moved.pop()
        written.append(_directory(image, start, following, {_OFFSETS: struct.pack(f"<{len(moved)}I", *moved)}))
    return b"".join([*written, *pixels])


def _read_directories(tiff: bytes) -> Iterator[list[_Entry]]:
    (start,) = struct.unpack_from("<I", tiff, 4)
    while start:
        (count,) = struct.unpack_from("<H", tiff, start)
        image = []
        for place in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, values = struct.unpack_from("<HHI", tiff, place)
            size = values * _SIZES[kind]
            at = place + 8 if size <= _INLINE else struct.unpack_from("<I", tiff, place + 8)[0]
            content = tiff[at : at + size]
            if tag in _TABLES and kind == _SHORT:  # sizes of small tiles; tables have one type here
                kind, content = _LONG, struct.pack(f"<{values}I", *struct.unpack(f"<{values}H", content))
            image.append(_Entry(tag=tag, kind=kind, count=values, values=content))
        yield image
        (start,) = struct.unpack_from("<I", tiff, start + 2 + 12 * count)


def _directory(image: list[_Entry], start: int, following: int, replaced: dict[int, bytes]) -> bytes:
    """Bytes of a directory at ``start``, with the values that do not fit in it behind it."""
    entries, behind = struct.pack("<H", len(image)), b""
    for entry in image:
        values = replaced.get(entry.tag, entry.values)
        place = values.ljust(_INLINE, b"\0")
        if len(values) > _INLINE:
            place = struct.pack("<I", start + 6 + 12 * len(image) + len(behind))
            behind += values.ljust(_even(values), b"\0")
        entries += struct.pack("<HHI", entry.tag, entry.kind, entry.count) + place
    return entries + struct.pack("<I", following) + behind


def _even(values: bytes) -> int:
    """Bytes that values take behind their directory."""
    return 0 if len(values) <= _INLINE else len(values) + len(values) % 2


def _overviews(raster: Raster) -> Iterator[Raster]:
    while max(raster.shape) > TILE:
        rows, columns = (size // 2 for size in raster.shape)
        blocks = raster[: rows * 2, : columns * 2].reshape(rows, 2, columns, 2)
        raster = blocks.mean(axis=(1, 3)).round().astype(np.uint16)
        yield raster


def _georeference(placement: Placement) -> list[tuple[int, str, int, Any, bool]]:
    """Pixel size, the position of the first pixel's corner, the CRS by its code, and nodata as GDAL writes it."""
    # Version 1.1.0 and three keys: a projected model (1024), pixels are areas (1025), the CRS (3072).
    keys = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, placement.epsg)
    return [
        (_MODEL_PIXEL_SCALE, "d", 3, (placement.pixel, placement.pixel, 0.0), True),
        (_MODEL_TIEPOINT, "d", 6, (0.0, 0.0, 0.0, placement.left, placement.top, 0.0), True),
        (_GEO_KEYS, "H", len(keys), keys, True),
        (_GDAL_NODATA, "s", 0, str(NODATA), True),
    ]
