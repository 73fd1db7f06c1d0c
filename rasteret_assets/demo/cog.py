"""Cloud-optimized GeoTIFFs of one band: every directory before the pixels, overviews before the full resolution.

tifffile writes each directory right before its own pixels; the layout here, which is that of GDAL's COG driver, needs
all tile tables known before the first byte is written, and is short enough to write out.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import imagecodecs
import numpy as np
import numpy.typing as npt

Raster = npt.NDArray[np.uint16]

TILE: Final = 256
NODATA: Final = 0

_SHORT, _LONG, _ASCII, _DOUBLE = 3, 4, 2, 12
_FORMATS: Final = {_SHORT: "H", _LONG: "I", _ASCII: "B", _DOUBLE: "d"}

_ADOBE_DEFLATE, _HORIZONTAL, _MIN_IS_BLACK = 8, 2, 1
#: Noisy pixels come out no smaller at higher levels, only slower.
_DEFLATE_LEVEL: Final = 1

#: A directory: (tag, type, values), ascending by tag.
_Entries = list[tuple[int, int, Sequence[float]]]


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
    levels = [_encode(level) for level in _pyramid(raster)]
    # A directory's length does not depend on the offsets in it, so a first pass with zeros tells where pixels begin.
    offset, position = 8, 8
    for number, level in enumerate(levels):
        position += len(_directory(level, [0] * len(level.tiles), placement if number == 0 else None, 0, last=False))
    starts: dict[int, list[int]] = {}
    for number in reversed(range(len(levels))):
        sizes = [len(tile) for tile in levels[number].tiles]
        starts[number] = [position + before for before in np.cumsum([0, *sizes[:-1]]).tolist()]
        position += sum(sizes)
    parts = [struct.pack("<2sHI", b"II", 42, offset)]
    for number, level in enumerate(levels):
        last = number == len(levels) - 1
        parts.append(_directory(level, starts[number], placement if number == 0 else None, offset, last=last))
        offset += len(parts[-1])
    parts += [tile for level in reversed(levels) for tile in level.tiles]
    path.write_bytes(b"".join(parts))


@dataclass(frozen=True, kw_only=True)
class _Level:
    """An encoded resolution level: its size in pixels and its tiles, row by row."""

    width: int
    height: int
    tiles: list[bytes]
    reduced: bool


def _pyramid(raster: Raster) -> Iterator[tuple[Raster, bool]]:
    """The raster and its overviews, each with whether it is one."""
    level, reduced = raster, False
    while True:
        yield level, reduced
        if max(level.shape) <= TILE:
            return
        rows, columns = (size // 2 for size in level.shape)
        blocks = level[: rows * 2, : columns * 2].reshape(rows, 2, columns, 2)
        level, reduced = blocks.mean(axis=(1, 3)).round().astype(np.uint16), True


def _encode(level: tuple[Raster, bool]) -> _Level:
    raster, reduced = level
    height, width = raster.shape
    padded = np.pad(raster, ((0, -height % TILE), (0, -width % TILE)), constant_values=NODATA)
    tiles = []
    for row in range(0, padded.shape[0], TILE):
        for column in range(0, padded.shape[1], TILE):
            tile = padded[row : row + TILE, column : column + TILE].copy()
            tile[:, 1:] -= tile[:, :-1].copy()  # the predictor: differences wrap around, as readers undo them
            tiles.append(bytes(imagecodecs.deflate_encode(tile.astype("<u2").tobytes(), level=_DEFLATE_LEVEL)))
    return _Level(width=width, height=height, tiles=tiles, reduced=reduced)


def _directory(level: _Level, starts: Sequence[int], placement: Placement | None, offset: int, *, last: bool) -> bytes:
    """A directory at ``offset``, followed by its values that do not fit in it; the next one follows, or none."""
    entries: _Entries = [
        (254, _LONG, [int(level.reduced)]),
        (256, _LONG, [level.width]),
        (257, _LONG, [level.height]),
        (258, _SHORT, [16]),
        (259, _SHORT, [_ADOBE_DEFLATE]),
        (262, _SHORT, [_MIN_IS_BLACK]),
        (277, _SHORT, [1]),
        (284, _SHORT, [1]),
        (317, _SHORT, [_HORIZONTAL]),
        (322, _SHORT, [TILE]),
        (323, _SHORT, [TILE]),
        (324, _LONG, starts),
        (325, _LONG, [len(tile) for tile in level.tiles]),
        (339, _SHORT, [1]),
    ]
    if placement is not None:
        entries += _georeference(placement)
    body = struct.pack("<H", len(entries))
    values_at = offset + 2 + 12 * len(entries) + 4
    values = b""
    for tag, kind, numbers in entries:
        packed = struct.pack(f"<{len(numbers)}{_FORMATS[kind]}", *numbers)
        if len(packed) > 4:
            place = struct.pack("<I", values_at + len(values))
            values += packed + b"\0" * (len(packed) % 2)
        else:
            place = packed.ljust(4, b"\0")
        body += struct.pack("<HHI", tag, kind, len(numbers)) + place
    return body + struct.pack("<I", 0 if last else values_at + len(values)) + values


def _georeference(placement: Placement) -> _Entries:
    """Pixel size, the position of the first pixel's corner, the CRS by its code, and nodata as GDAL writes it."""
    keys = [1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, placement.epsg]
    return [
        (33550, _DOUBLE, [placement.pixel, placement.pixel, 0.0]),
        (33922, _DOUBLE, [0.0, 0.0, 0.0, placement.left, placement.top, 0.0]),
        (34735, _SHORT, keys),
        (42113, _ASCII, [*str(NODATA).encode(), 0]),
    ]
