"""Cloud-optimized GeoTIFFs: tiled, with overviews, all directories in front of all tiles."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import tifffile

TILE: Final = 256
NODATA: Final = 0


def write_cog(path: Path, raster: npt.NDArray[np.uint16], epsg: int, left: float, top: float, pixel: float) -> None:
    """Write a raster as a cloud-optimized GeoTIFF, with overviews down to the one that fits a tile.

    Args:
        path: of the file.
        raster: ``[rows, columns]``.
        epsg: code of its projected CRS.
        left: x of its western edge.
        top: y of its northern edge.
        pixel: size of its square pixels, in units of the CRS.
    """
    # GeoTIFF 1.1 with three keys: a projected model (1024), pixels are areas (1025), the CRS (3072).
    keys = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, epsg)
    georeference = [
        (33550, "d", 3, (pixel, pixel, 0.0), True),  # ModelPixelScale
        (33922, "d", 6, (0.0, 0.0, 0.0, left, top, 0.0), True),  # ModelTiepoint
        (34735, "H", len(keys), keys, True),  # GeoKeyDirectory
        (42113, "s", 0, str(NODATA), True),  # GDAL's nodata
    ]
    # Level 1, because noisy pixels come out hardly smaller at higher levels, only slower.
    options: dict[str, Any] = {
        "tile": (TILE, TILE), "photometric": "minisblack", "compression": "adobe_deflate", "predictor": 2,
        "compressionargs": {"level": 1}, "metadata": None, "software": False,
    }  # fmt: skip
    levels = [raster]
    while max(levels[-1].shape) > TILE:  # means of four pixels each
        rows, columns = (size // 2 for size in levels[-1].shape)
        blocks = levels[-1][: rows * 2, : columns * 2].reshape(rows, 2, columns, 2)
        levels.append(blocks.mean(axis=(1, 3)).round().astype(np.uint16))
    # A cloud-optimized file has all directories before all tiles, and tifffile writes every directory before its own
    # tiles. So the directories are written with empty tiles first, and the tiles, encoded in memory, behind them.
    with tifffile.TiffWriter(path, byteorder="<") as tiff:
        for level in levels:
            kind = {"extratags": georeference} if level is raster else {"subfiletype": 1}
            tiff.write(itertools.repeat(b""), shape=level.shape, dtype=level.dtype, **kind, **options)
    encoded = io.BytesIO()
    with tifffile.TiffWriter(encoded, byteorder="<") as tiff:
        for level in levels:
            tiff.write(level, **options)
    encoded.seek(0)
    with tifffile.TiffFile(encoded) as tiles, tifffile.TiffFile(path, mode="r+") as file:
        for source, target in reversed(list(zip(tiles.pages, file.pages, strict=True))):
            end = file.filehandle.seek(0, io.SEEK_END)
            moved = [end + offset - source.dataoffsets[0] for offset in source.dataoffsets]
            tiles.filehandle.seek(source.dataoffsets[0])
            file.filehandle.write(tiles.filehandle.read(sum(source.databytecounts)))
            target.aspage().tags["TileOffsets"].overwrite(moved)
            target.aspage().tags["TileByteCounts"].overwrite(source.databytecounts)
