"""Tiles whose stream holds more than a tile, as some writers pad them, are read as rasterio reads them."""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import rasterio
import tifffile

from rasteret_assets.errors import RasteretAssetsError

from .support import UTM32, CountingBackend, noise
from .test_get_numpy import box, collection_of

SIDE, TILE = 128, 64
ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "zlib": zlib.compress,
    "zstd": imagecodecs.zstd_encode,
    "lzma": lzma.compress,
    "lzw": imagecodecs.lzw_encode,
    "packbits": imagecodecs.packbits_encode,
}
#: Bytes that follow the stream of a tile.
BEHIND = [b"", b"\x00\x01\x02"]


def write(path: Path, tiles: Sequence[bytes], dtype: str, compression: str, samples: int = 1) -> Path:
    """Write compressed tiles, row by row."""
    shape = (SIDE, SIDE) if samples == 1 else (SIDE, SIDE, samples)
    geo = [
        (33550, 12, 3, (10.0, 10.0, 0.0), True),
        (33922, 12, 6, (0, 0, 0, 500_000.0, 5_000_000.0, 0), True),
        (34735, 3, 16, (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32632), True),
    ]
    tifffile.imwrite(
        path, iter(tiles), shape=shape, dtype=dtype, tile=(TILE, TILE), compression=compression,
        photometric="minisblack", planarconfig="contig" if samples > 1 else None, metadata=None, extratags=geo,
    )  # fmt: skip
    return path


def tiles_of(data: np.ndarray) -> list[bytes]:
    """Return the bytes of each tile of ``data``, of shape (rows, columns) or (rows, columns, samples)."""
    corners = [(row, column) for row in range(0, SIDE, TILE) for column in range(0, SIDE, TILE)]
    return [data[row : row + TILE, column : column + TILE].tobytes() for row, column in corners]


def read(path: Path, band: int = 0) -> np.ndarray:
    area = box(0, 0, SIDE, SIDE)
    return collection_of(path, band).get_numpy(area, "B", geometry_crs=UTM32, backend=CountingBackend())[0]


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("extra", [1, 130, TILE * TILE * 20])
@pytest.mark.parametrize("compression", ENCODERS)
def test_what_exceeds_a_tile_is_dropped(tmp_path, compression, extra, behind):
    data = noise("uint16", rows=SIDE, columns=SIDE)[0]
    encode = ENCODERS[compression]
    tiles = [encode(tile + b"\x07" * extra) + behind for tile in tiles_of(data)]
    path = write(tmp_path / "a.tif", tiles, "uint16", compression)
    # GDAL itself reads wrong pixels from a deflate stream that is one byte too long.
    if (compression, extra) != ("zlib", 1):
        with rasterio.open(path) as source:
            np.testing.assert_array_equal(source.read(1), data)
    np.testing.assert_array_equal(read(path), data)


@pytest.mark.parametrize("compression", ["zlib", "zstd", "lzma", "lzw", "packbits"])
def test_bytes_behind_the_stream_of_a_tile(tmp_path, compression):
    data = noise("uint8", rows=SIDE, columns=SIDE)[0]
    path = write(
        tmp_path / "a.tif", [ENCODERS[compression](tile) + b"abc" for tile in tiles_of(data)], "uint8", compression
    )
    with rasterio.open(path) as source:
        np.testing.assert_array_equal(source.read(1), data)
    np.testing.assert_array_equal(read(path), data)


@pytest.mark.parametrize("compression", ENCODERS)
def test_padded_tiles_of_several_samples(tmp_path, compression):
    data = np.moveaxis(noise("int16", bands=3, rows=SIDE, columns=SIDE), 0, 2)
    tiles = [ENCODERS[compression](tile + b"\x00" * 300) for tile in tiles_of(data)]
    path = write(tmp_path / "a.tif", tiles, "int16", compression, samples=3)
    with rasterio.open(path) as source:
        expected = source.read()
    for band in range(3):
        np.testing.assert_array_equal(read(path, band), expected[band])


@pytest.mark.parametrize("missing", [1, 100, TILE * TILE])
@pytest.mark.parametrize("compression", ENCODERS)
def test_less_than_a_tile_is_refused(tmp_path, compression, missing):
    data = noise("uint16", rows=SIDE, columns=SIDE)[0]
    tiles = [ENCODERS[compression](tile[:-missing]) for tile in tiles_of(data)]
    path = write(tmp_path / "a.tif", tiles, "uint16", compression)
    with pytest.raises(RasteretAssetsError, match=r"holds \d+ bytes of samples, not 8192"):
        read(path)


@pytest.mark.parametrize("compression", ["zlib", "zstd", "lzma", "packbits"])
def test_streams_that_are_cut_are_refused(tmp_path, compression):
    data = noise("uint16", rows=SIDE, columns=SIDE)[0]
    for pad in (b"", b"\x07" * 130):
        tiles = [ENCODERS[compression](tile + pad) for tile in tiles_of(data)]
        path = write(tmp_path / "a.tif", [tile[: len(tile) // 2] for tile in tiles], "uint16", compression)
        with pytest.raises(RasteretAssetsError):
            read(path)


def test_checksums_of_tiles_are_still_compared(tmp_path):
    data = noise("uint16", rows=SIDE, columns=SIDE)[0]
    tiles = [zlib.compress(tile) for tile in tiles_of(data)]
    path = write(tmp_path / "a.tif", [tile[:-1] + bytes([tile[-1] ^ 1]) for tile in tiles], "uint16", "zlib")
    with pytest.raises(RasteretAssetsError, match="not a deflate stream"):
        read(path)
