"""Image codecs that GDAL writes, against rasterio's pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio

from .support import UTM32, CountingBackend, noise, write_raster
from .test_get_numpy import box, collection_of

EXACT = [
    pytest.param("packbits", "uint8", {}, id="packbits"),
    pytest.param("packbits", "int16", {}, id="packbits-int16"),
    pytest.param("lzma", "uint16", {}, id="lzma"),
    pytest.param("lzma", "float32", {"predictor": 3}, id="lzma-float-predictor"),
    pytest.param("lzma", "uint16", {"predictor": 2}, id="lzma-differences"),
    pytest.param("lerc", "uint8", {}, id="lerc"),
    pytest.param("lerc", "int16", {}, id="lerc-int16"),
    pytest.param("lerc", "float64", {}, id="lerc-float64"),
    pytest.param("lerc_deflate", "uint16", {}, id="lerc-deflate"),
    pytest.param("lerc_zstd", "float32", {}, id="lerc-zstd"),
    pytest.param("webp", "uint8", {"WEBP_LOSSLESS": True}, id="webp"),
]


def smooth(bands: int) -> np.ndarray:
    """Return a smooth picture, because decoders of JPEG differ on noise."""
    rows, columns = np.mgrid[:100, :90]
    return np.stack([np.sin(rows / (9 + band)) * np.cos(columns / 11) * 100 + 128 for band in range(bands)]).astype(
        "u1"
    )


def read(path: Path, band: int) -> np.ndarray:
    area = box(20, 10, 50, 75)
    return collection_of(path, band).get_numpy(area, "B", geometry_crs=UTM32, backend=CountingBackend())[0]


@pytest.mark.parametrize("interleave", ["pixel", "band"])
@pytest.mark.parametrize(("compress", "dtype", "options"), EXACT)
def test_lossless_codecs(tmp_path, compress, dtype, options, interleave):
    if compress == "webp" and interleave == "band":
        pytest.skip("WebP has three or four samples per pixel")
    data = noise(dtype, bands=3, rows=100, columns=90)
    path = write_raster(tmp_path / "a.tif", data, compress=compress, interleave=interleave, tile=32, **options)
    for band in range(3):
        np.testing.assert_array_equal(read(path, band), data[band, 10:85, 20:70])


@pytest.mark.parametrize(
    ("bands", "options"),
    [
        (1, {}),
        (3, {"photometric": "YCBCR"}),
        (3, {"photometric": "RGB"}),
        (3, {"photometric": "MINISBLACK"}),
        (4, {"photometric": "RGB", "alpha": "yes"}),
        (5, {"photometric": "MINISBLACK", "interleave": "band"}),
        (2, {"photometric": "MINISBLACK"}),
    ],
)
def test_jpeg(tmp_path, bands, options):
    path = write_raster(tmp_path / "a.tif", smooth(bands), compress="jpeg", tile=32, **options)
    with rasterio.open(path) as source:
        expected = source.read()[:, 10:85, 20:70]
    for band in range(bands):
        error = np.abs(read(path, band).astype(int) - expected[band])
        # libjpeg-turbo and GDAL's libjpeg interpolate halved colours differently.
        assert error.max() <= (10 if options.get("photometric") == "YCBCR" else 3)
        assert error.mean() < 1


@pytest.mark.parametrize("opaque", [True, False])
def test_webp_with_alpha_in_some_tiles(tmp_path, opaque):
    data = smooth(4)
    data[3] = 255
    if not opaque:
        data[3, :40, :40] = 17
    path = write_raster(tmp_path / "a.tif", data, compress="webp", tile=32, WEBP_LOSSLESS=True, alpha="yes")
    np.testing.assert_array_equal(read(path, 3), data[3, 10:85, 20:70])
    # Equal, because WebP changes colours only of fully transparent pixels, and none is here.
    np.testing.assert_array_equal(read(path, 0), data[0, 10:85, 20:70])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("interleave", ["pixel", "band"])
@pytest.mark.parametrize("holes", [{0: 30}, {0: 30, 1: 30, 2: 30}, {0: 20, 2: 40}], ids=["one", "shared", "two"])
def test_lerc_keeps_nan(tmp_path, dtype, interleave, holes):
    """LERC stores a mask for each band if NaN differs between bands."""
    data = noise(dtype, bands=3, rows=100, columns=90)
    for band, first in holes.items():
        data[band, first : first + 30, 30:60] = np.nan
    options = {"compress": "lerc", "interleave": interleave, "nodata": float("nan")}
    path = write_raster(tmp_path / "a.tif", data, tile=32, **options)
    for band in range(3):
        np.testing.assert_array_equal(read(path, band), data[band, 10:85, 20:70])


def test_lerc_of_as_many_bands_as_rows_and_columns(tmp_path):
    data = noise("float32", bands=16, rows=100, columns=90)
    data[3, 20:50, 30:60] = np.nan
    path = write_raster(tmp_path / "a.tif", data, compress="lerc", tile=16, interleave="pixel")
    for band in (0, 3, 15):
        np.testing.assert_array_equal(read(path, band), data[band, 10:85, 20:70])


@pytest.mark.parametrize("compress", ["lerc", "lerc_zstd", "lerc_deflate"])
@pytest.mark.parametrize("dtype", ["int8", "uint16", "int32", "float32", "float64"])
def test_lerc_in_files_of_either_byte_order(tmp_path, compress, dtype):
    data = noise(dtype, bands=2, rows=100, columns=90)
    path = write_raster(tmp_path / "a.tif", data, compress=compress, tile=32, ENDIANNESS="BIG")
    # Only the mask, because GDAL itself loses floats whose swapped bytes are NaN.
    with rasterio.open(path) as source:
        expected = source.read()[:, 10:85, 20:70]
    for band in range(2):
        np.testing.assert_array_equal(read(path, band), expected[band])
