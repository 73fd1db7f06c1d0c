"""Cloud-optimized GeoTIFFs of one band: tiled, with overviews, the header of the full resolution first in the file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
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
    with tifffile.TiffWriter(path, byteorder="<") as tiff:
        tiff.write(raster, extratags=_georeference(placement), **options)
        for overview in _overviews(raster):
            tiff.write(overview, subfiletype=_REDUCED, **options)


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
