"""Random GeoTIFFs written by GDAL: the parser must agree with rasterio and tifffile."""

from __future__ import annotations

import io
import math
import warnings
from typing import Any

import numpy as np
import pyproj
import pytest
import rasterio
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile
from rasterio.transform import Affine

from rasteret_assets.tiff import TiffHeader, parse_header
from tests.tiff.support import as_values, serve, to_degrees

DTYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64"]
PREDICTOR_CODECS = {"deflate", "lzw", "zstd"}
SLOW = settings(max_examples=60, suppress_health_check=list(HealthCheck))


@st.composite
def profiles(draw: st.DrawFn) -> dict[str, Any]:
    """Keyword arguments of ``rasterio.open`` for a tiled GeoTIFF."""
    dtype = draw(st.sampled_from(DTYPES))
    codec = draw(st.sampled_from(["none", "deflate", "lzw", "zstd"]))
    predictors = [1]
    if codec in PREDICTOR_CODECS:
        predictors += [3] if dtype.startswith("float") else [2]
    scale = st.floats(1e-4, 1e4)
    origin = st.floats(-1e6, 1e6)
    north_up = draw(st.booleans())
    scale_y = draw(scale)
    profile = {
        "driver": "GTiff",
        "width": draw(st.integers(1, 150)),
        "height": draw(st.integers(1, 150)),
        "count": draw(st.integers(1, 4)),
        "dtype": dtype,
        "crs": draw(st.sampled_from([None, "EPSG:4326", "EPSG:32633", "EPSG:3857", "EPSG:3031", "EPSG:2263"])),
        "transform": Affine(draw(scale), 0, draw(origin), 0, -scale_y if north_up else scale_y, draw(origin)),
        "tiled": True,
        "blockxsize": draw(st.sampled_from([16, 32, 64])),
        "blockysize": draw(st.sampled_from([16, 48])),
        "compress": codec,
        "predictor": draw(st.sampled_from(predictors)),
        "interleave": draw(st.sampled_from(["pixel", "band"])),
        "BIGTIFF": draw(st.sampled_from(["YES", "NO"])),
        "ENDIANNESS": draw(st.sampled_from(["BIG", "LITTLE"])),
        "SPARSE_OK": draw(st.booleans()),
    }
    if "64" not in dtype or dtype == "float64":  # rasterio writes 64-bit integers in a way GDAL misreads
        limits = np.finfo(dtype) if dtype.startswith("float") else np.iinfo(dtype)
        nodata = [None, 0, 1, int(limits.max) if not dtype.startswith("float") else float(limits.max)]
        nodata += [math.nan, -9999.5] if dtype.startswith("float") else [int(limits.min)]
        profile["nodata"] = draw(st.sampled_from(nodata))
    return profile


def write_geotiff(profile: dict[str, Any], *, area_or_point: str = "Area") -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with MemoryFile() as memory:
            with memory.open(**profile) as dataset:
                dataset.update_tags(AREA_OR_POINT=area_or_point)
                dataset.write(np.ones((1, 1), dtype=profile["dtype"]), 1, window=((0, 1), (0, 1)))
            return bytes(memory.read())


@SLOW
@given(profile=profiles(), area_or_point=st.sampled_from(["Area", "Point"]))
def test_the_header_is_the_one_that_gdal_reads(profile: dict[str, Any], area_or_point: str) -> None:
    file = write_geotiff(profile, area_or_point=area_or_point)
    header = parse_header([(0, file)], size=len(file))
    assert_same_as_rasterio(header, file)
    assert_same_tables(header, file)
    order = ">" if profile["ENDIANNESS"] == "BIG" else "<"
    assert header.dtype == np.dtype(profile["dtype"]).newbyteorder(order)
    assert header.predictor == profile["predictor"]
    big_multibyte = order == ">" and header.dtype.itemsize > 1
    assert header.dtype_name == (header.dtype.str if big_multibyte else profile["dtype"])


def assert_same_as_rasterio(header: TiffHeader, file: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with MemoryFile(file) as memory, memory.open() as dataset:
            assert (header.width, header.height, header.samples_per_pixel) == (*dataset.shape[::-1], dataset.count)
            assert (header.tile_height, header.tile_width) == dataset.block_shapes[0]
            origin_x, scale_x, _, origin_y, _, scale_y = dataset.transform.to_gdal()
            assert header.transform == pytest.approx((scale_x, origin_x, scale_y, origin_y), rel=1e-12)
            assert header.epsg == (dataset.crs.to_epsg() if dataset.crs else None)
            if dataset.nodata is not None and math.isnan(dataset.nodata):
                assert header.nodata is not None
                assert math.isnan(header.nodata)
            else:
                assert header.nodata == dataset.nodata


def assert_same_tables(header: TiffHeader, file: bytes) -> None:
    with tifffile.TiffFile(io.BytesIO(file)) as tiff:
        tags = tiff.pages[0].tags
        offsets, counts = (np.ravel(tags[tag].value).tolist() for tag in (324, 325))
    assert header.tile_offsets.tolist() == offsets
    assert header.tile_byte_counts.tolist() == counts
    tiles = header.tiles_across * header.tiles_down
    for band in range(header.samples_per_pixel):
        first = band * tiles if header.planar_configuration == 2 else 0
        band_offsets, band_counts = header.band_tiles(band)
        assert band_offsets.tolist() == offsets[first : first + tiles]
        assert band_counts.tolist() == counts[first : first + tiles]


@SLOW
@given(profile=profiles(), data=st.data())
def test_header_is_the_same_however_the_file_is_cut(profile: dict[str, Any], data: st.DataObject) -> None:
    file = write_geotiff(profile)
    first = data.draw(st.integers(0, len(file)))
    whole = as_values(parse_header([(0, file)], size=len(file)))
    assert as_values(serve(file, first=first)) == whole
    assert as_values(serve(file, first=first, tell_size=True)) == whole


FRENCH_ZONE = pyproj.CRS(5708).to_wkt().replace("46.85", "46.9")
USER_DEFINED = {
    "albers": "+proj=aea +lat_0=23 +lon_0=-96 +lat_1=29.5 +lat_2=45.5 +x_0=10 +y_0=20 +ellps=clrk66 +units=m",
    "albers in feet": "+proj=aea +lat_0=23 +lon_0=-96 +lat_1=29.5 +lat_2=45.5 +x_0=304.8 +y_0=0 +ellps=GRS80 +units=ft",
    "conic 2sp": "+proj=lcc +lat_0=40 +lon_0=-96 +lat_1=33 +lat_2=45 +x_0=1000 +y_0=2000 +datum=WGS84 +units=m",
    "conic 2sp us feet": "+proj=lcc +lat_0=40 +lon_0=-96 +lat_1=33 +lat_2=45 +x_0=600000 +datum=NAD83 +units=us-ft",
    "conic 1sp": "+proj=lcc +lat_1=40 +lat_0=40 +lon_0=-96 +k_0=0.9996 +x_0=1000 +y_0=2000 +datum=WGS84 +units=m",
    "transverse mercator": "+proj=tmerc +lat_0=5 +lon_0=11.5 +k=0.9999 +x_0=300000 +y_0=-20 +ellps=bessel +units=m",
    "sinusoidal sphere": "+proj=sinu +lon_0=10 +x_0=0 +y_0=0 +R=6371007.181 +units=m",
    "polar from latitude": "+proj=stere +lat_0=90 +lat_ts=70 +lon_0=-45 +x_0=0 +y_0=0 +datum=WGS84 +units=m",
    "polar from scale": "+proj=stere +lat_0=-90 +lon_0=30 +k=0.99 +x_0=2000000 +y_0=2000000 +datum=WGS84 +units=m",
    "azimuthal": "+proj=laea +lat_0=-15 +lon_0=-60 +x_0=0 +y_0=5 +ellps=GRS80 +units=m",
    "mercator 1sp": "+proj=merc +lon_0=100 +k=0.98 +x_0=500 +y_0=600 +ellps=GRS80 +units=m",
    "mercator 2sp": "+proj=merc +lon_0=100 +lat_ts=42 +x_0=500 +y_0=600 +ellps=GRS80 +units=m",
    "equirectangular": "+proj=eqc +lat_ts=30 +lat_0=0 +lon_0=5 +x_0=0 +y_0=0 +a=3396190 +b=3396190 +units=m",
    "equal area cylinder": "+proj=cea +lat_ts=35 +lon_0=5 +x_0=500 +y_0=600 +ellps=bessel +units=m",
    "equal area cylinder, sphere": "+proj=cea +lat_ts=30 +lon_0=0 +x_0=0 +y_0=0 +R=6371228 +units=m",
    "equidistant azimuthal": "+proj=aeqd +lat_0=40 +lon_0=-100 +x_0=8264722 +y_0=4867518 +datum=WGS84 +units=m",
    "equidistant conic": "+proj=eqdc +lat_0=39 +lon_0=-96 +lat_1=33 +lat_2=45 +x_0=10 +y_0=20 +datum=NAD83 +units=m",
    "stereographic": "+proj=stere +lat_0=40 +lon_0=10 +k=0.9 +x_0=10 +y_0=20 +ellps=bessel +units=m",
    "oblique stereographic": "+proj=sterea +lat_0=52 +lon_0=5 +k=0.9999 +x_0=155000 +y_0=463000 +ellps=intl +units=m",
    "skewed": "+proj=omerc +no_uoff +lat_0=4 +lonc=102 +alpha=53 +gamma=50 +k=0.99 +x_0=80 +y_0=70 +ellps=intl",
    "skewed, centred": "+proj=omerc +lat_0=4 +lonc=115 +alpha=53 +gamma=50 +k=0.99 +x_0=59 +y_0=44 +ellps=intl",
    "cassini": "+proj=cass +lat_0=10 +lon_0=-61 +x_0=86501 +y_0=65379 +a=6378293 +b=6356617 +units=m",
    "gnomonic": "+proj=gnom +lat_0=40 +lon_0=10 +x_0=1 +y_0=2 +R=6370997 +units=m",
    "miller": "+proj=mill +lon_0=11 +x_0=1 +y_0=2 +R=6371000 +units=m",
    "orthographic": "+proj=ortho +lat_0=42 +lon_0=10 +x_0=1 +y_0=2 +R=6370997 +units=m",
    "polyconic": "+proj=poly +lat_0=0 +lon_0=-54 +x_0=500000 +y_0=1000000 +ellps=aust_SA +units=m",
    "robinson": "+proj=robin +lon_0=10 +x_0=3 +y_0=4 +R=6371000 +units=m",
    "van der grinten": "+proj=vandg +lon_0=10 +x_0=3 +y_0=4 +R=6371000 +units=m",
    "new zealand": "+proj=nzmg +lat_0=-41 +lon_0=173 +x_0=2510000 +y_0=6023150 +ellps=GRS80 +units=m",
    "mollweide, for which there are no keys": "+proj=moll +lon_0=10 +x_0=3 +y_0=4 +R=6371000 +units=m",
    "geographic": "+proj=longlat +a=3396190 +b=3376200 +no_defs",
    "angles in the grads of NTF (Paris), which no key names": FRENCH_ZONE,
}


@pytest.mark.parametrize("definition", USER_DEFINED.values(), ids=USER_DEFINED)
def test_user_defined_crs_places_pixels_where_gdal_does(definition: str) -> None:
    # Degrees or metres: small pixels near the origin of every projection above.
    scale = 0.5 if "longlat" in definition else 20_000.0
    profile: dict[str, Any] = {"driver": "GTiff", "width": 20, "height": 20, "count": 1, "dtype": "uint8"}
    profile |= {"tiled": True, "blockxsize": 16, "blockysize": 16, "crs": definition}
    file = write_geotiff(profile | {"transform": Affine(scale, 0, -5 * scale, 0, -scale, 6 * scale)})
    header = parse_header([(0, file)], size=len(file))
    assert header.epsg is None
    assert header.crs is not None
    with MemoryFile(file) as memory, memory.open() as dataset:
        expected = pyproj.CRS(dataset.crs.to_wkt())
    ours, theirs = (to_degrees(crs, header) for crs in (pyproj.CRS(header.crs), expected))
    assert np.isfinite(ours).all()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)


def test_rasterio_is_the_version_with_int8() -> None:
    """The oracle above must know every dtype it is asked for."""
    assert set(DTYPES) <= set(rasterio.dtypes.dtype_rev)
