"""Make COGs whose tile tables differ from file to file, as those of an archive do, from one of each kind.

Equal tables would repeat, and an encoding could make nothing of them. So every copy of a file gets byte counts drawn
from a log-normal distribution, as real tiles compress to, and the offsets that follow from them where tiles lie one
behind the other as GDAL's COG driver writes them: the coarsest overview first, with each tile the four bytes of its
size before it and four repeated ones behind it. Only headers are read, so no pixel is written: the files are sparse,
and as long as their tables say.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import numpy as np
import tifffile
from cogs import Kind, ServedFile

#: Median bytes of a pixel after compression, and the standard deviation of its logarithm.
BYTES_PER_PIXEL: Final = 0.7
SPREAD: Final = 0.25
_BETWEEN: Final = 8


def vary(file: ServedFile, folder: Path, count: int, seed: int = 0) -> list[ServedFile]:
    """Return ``count`` copies of a file's header, each with tile tables of its own."""
    header = np.fromfile(file.path, np.uint8, file.header_bytes)
    tables = tile_tables(file.path)
    made = []
    for number in range(count):
        name = f"{file.kind.name}-{number}"
        path, rng = folder / f"{name}.tif", np.random.default_rng([seed, number])
        content, end = header.copy(), len(header)
        for offsets, counts, tiles in tables:
            size = np.exp(rng.normal(np.log(_typical(file.kind)), SPREAD, tiles)).astype(np.int64)
            starts = end + 4 + np.concatenate([[0], np.cumsum(size + _BETWEEN)[:-1]])
            end = int(starts[-1] + size[-1]) + 4
            for place, values in ((offsets, starts), (counts, size)):
                content[place : place + 4 * tiles] = values.astype("<u4").view(np.uint8)
        content.tofile(path)
        os.truncate(path, end)
        made.append(ServedFile(kind=file.kind, path=path, oracle=file.oracle))
    return made


def _typical(kind: Kind) -> float:
    return BYTES_PER_PIXEL * np.dtype(kind.dtype).itemsize * kind.tile**2 * kind.bands


def tile_tables(path: Path) -> list[tuple[int, int, int]]:
    """Return place and number of the offsets and byte counts of every image of a file, the coarsest first.

    Raises:
        ValueError: if the values are not 32-bit little-endian numbers.
    """
    found = []
    with tifffile.TiffFile(path) as tiff:
        for page in reversed(tiff.pages):
            offsets, counts = page.tags["TileOffsets"], page.tags["TileByteCounts"]
            if tiff.byteorder != "<" or {offsets.dtype, counts.dtype} != {tifffile.DATATYPE.LONG}:
                raise ValueError(f"{path}: tables of {offsets.dtype} and {counts.dtype} cannot be changed in place")
            found.append((offsets.valueoffset, counts.valueoffset, offsets.count))
    return found
