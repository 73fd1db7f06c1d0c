"""Every TIFF of the shared corpus through the header parser, against what GDAL and tifffile say of it."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest

from rasteret_assets.errors import TiffError
from rasteret_assets.tiff import TiffHeader
from tests.tiff.support import serve, to_degrees

#: What a refusal must say, by the oracle's reason for it.
REASONS = {
    "bad version": "the version is 44",
    "table length mismatch": "table length mismatch: TileByteCounts",
    "empty file": "the file is empty",
    "truncated header": "truncated or damaged: the first directory",
    "not a TIFF": "not a TIFF",
    "absurd tag count": "has 4294967280 entries",
    "bad IFD offset": "truncated or damaged: the first directory",
    "zero tile width": "TileWidth is 0",
    "too few tile entries": "table length mismatch: TileOffsets has 12 entries",
    "truncated IFD": "truncated or damaged: the first directory",
    "truncated tag arrays": "truncated or damaged",
    "unreadable header: tag value beyond EOF: 393473+71168 > 2775": "ImageWidth holds 790888454 values",
    "GCP-only georeferencing": "ground control point",
    "no georeferencing": "no georeferencing",
    "rotated geotransform": "rotated geotransform",
    "sheared geotransform": "sheared geotransform",
    "zero pixel scale": r"the pixel scale is \[0.0, 0.0, 0.0\]",
    "complex samples": "complex samples",
    "BitsPerSample=12 (packed)": "packed samples .BitsPerSample=12",
    "unreadable header: too short": "a TIFF header takes 8",
    "striped (no TileWidth/TileLength)": "stored in strips",
}


def read_header(path: Path) -> TiffHeader:
    """Return the header, read as from an object store: 16 KiB, then at most two rounds of ranges."""
    return serve(path.read_bytes(), max_rounds=3)


def test_refused_with_the_reason(corpus: Path, refusable: dict[str, Any]) -> None:
    with pytest.raises(TiffError, match=REASONS[refusable["reason"]]):
        read_header(corpus / refusable["file"])


def test_indexed_with_the_right_values(corpus: Path, indexable: dict[str, Any]) -> None:
    header = read_header(corpus / indexable["file"])
    for field, key in (
        ("width", "width"),
        ("height", "height"),
        ("tile_width", "tile_width"),
        ("tile_height", "tile_height"),
        ("tiles_across", "tiles_across"),
        ("tiles_down", "tiles_down"),
        ("samples_per_pixel", "count"),
        ("planar_configuration", "planar_config"),
        ("compression", "compression"),
        ("predictor", "predictor"),
        ("photometric", "photometric"),
        ("nodata_text", "nodata_tag"),
    ):
        assert getattr(header, field) == indexable[key], field
    assert list(header.extra_samples) == indexable["extra_samples"]
    assert list(header.pixel_scale) == (indexable["pixel_scale"] or [])
    assert len(header.tiepoint) == 6 * indexable["tiepoints"]
    assert_dtype(header, indexable)
    assert_position(header, indexable)
    assert_nodata(header, indexable.get("nodata_accept", [indexable["nodata"]]))
    assert_tables(header, indexable)


def assert_dtype(header: TiffHeader, expected: dict[str, Any]) -> None:
    # GDAL reports half floats as float32; the index keeps what is stored.
    assert header.dtype.newbyteorder("=").name == expected.get("file_dtype", expected["dtype"])
    big = expected["byteorder"] == "big" and header.dtype.itemsize > 1
    assert header.dtype_name.startswith(">") == big


def assert_position(header: TiffHeader, expected: dict[str, Any]) -> None:
    x, scale_x, _, y, _, scale_y = expected["transform"]
    assert header.transform == pytest.approx((scale_x, x, scale_y, y), rel=1e-9)
    assert header.epsg in expected.get("crs_epsg_accept", [expected["crs_epsg"]])
    if header.epsg is not None:
        assert header.crs == f"EPSG:{header.epsg}"
    elif header.crs is not None:
        ours, theirs = (to_degrees(pyproj.CRS(crs), header) for crs in (header.crs, expected["crs_wkt"]))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


def assert_nodata(header: TiffHeader, accepted: list[Any]) -> None:
    for value in accepted:
        if value is None or header.nodata is None:
            if value is header.nodata:
                return
        elif float(value) == header.nodata or (math.isnan(float(value)) and math.isnan(header.nodata)):
            return
    raise AssertionError(f"nodata is {header.nodata}, one of {accepted} was expected")


def assert_tables(header: TiffHeader, expected: dict[str, Any]) -> None:
    assert digest(header.tile_offsets) == expected["tile_offsets"]["sha256"]
    assert digest(header.tile_byte_counts) == expected["tile_byte_counts"]["sha256"]
    assert np.count_nonzero(header.tile_byte_counts == 0) == expected["sparse_tiles"]
    for plane in expected.get("planes") or []:
        offsets, counts = header.band_tiles(plane["band"] - 1)
        assert digest(offsets) == plane["tile_offsets_sha256"]
        assert digest(counts) == plane["tile_byte_counts_sha256"]


def digest(table: np.ndarray) -> str:
    """The oracle's hash of a table: sha256 of little-endian 64-bit integers."""
    return hashlib.sha256(table.astype("<i8").tobytes()).hexdigest()
