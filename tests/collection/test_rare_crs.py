"""Rasters whose CRS cannot be transformed to lon/lat, or has its own datum: planets, geostationary disks, shifts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyproj
import pytest
import rasterio
import shapely
from affine import Affine
from rasterio.windows import from_bounds

from rasteret_assets import build_from_table
from rasteret_assets.collection import Collection
from rasteret_assets.collection.areas.reproject import crs_name
from rasteret_assets.collection.pixels.own_crs import same_crs
from rasteret_assets.errors import WindowError
from tests.support.rasters import record_table

GOES = "+proj=geos +h=35786023 +lon_0=-75 +sweep=x +a=6378137 +b=6356752.31414 +units=m +no_defs"
METEOSAT = "+proj=geos +h=35785831 +lon_0=9.5 +a=6378169 +b=6356583.8 +units=m"
BESSEL = "+proj=utm +zone=33 +ellps=bessel +towgs84=577,90,463,5,1,2,2.4 +units=m"
EDGE = 5_434_894.885
WORLD = shapely.box(-180, -90, 180, 90)


def write(path: Path, crs: str, transform: Affine, shape: tuple[int, int]) -> Path:
    pixels = np.arange(shape[0] * shape[1], dtype=np.int32).reshape(shape)
    profile = {
        "driver": "GTiff", "height": shape[0], "width": shape[1], "count": 1, "dtype": "int32", "crs": crs,
        "transform": transform, "tiled": True, "blockxsize": 64, "blockysize": 64, "nodata": -1,
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as target:
        target.write(pixels, 1)
    return path


def scenes(*paths: Path, outline: shapely.Geometry = WORLD) -> Collection:
    table = record_table([path.stem for path in paths], {"B": [str(path) for path in paths]}, outline=outline)
    return build_from_table(table, enrich_cog=True)


def moon(folder: Path, crs: str = "IAU_2015:30100") -> Path:
    return write(folder / "moon.tif", crs, Affine(1, 0, -180, 0, -1, 90), (180, 360))


def disk(folder: Path, crs: str) -> Path:
    size = EDGE * 2 / 100
    return write(folder / "disk.tif", crs, Affine(size, 0, -EDGE, 0, -size, EDGE), (100, 100))


def test_area_in_the_own_crs_of_another_planet(tmp_path):
    path = moon(tmp_path)
    area = (10, 20, 12, 22)
    with rasterio.open(path) as source:
        expected, own = source.read(1, window=from_bounds(*area, source.transform)), source.crs.to_wkt()
    for crs in ("IAU_2015:30100", own):
        got = scenes(path).get_numpy(shapely.box(*area), "B", geometry_crs=crs)
        np.testing.assert_array_equal(np.squeeze(got), expected)


def test_polygon_and_points_on_another_planet(tmp_path):
    collection = scenes(moon(tmp_path))
    triangle = shapely.Polygon([(10, 20), (14, 20), (10, 24)])
    got = collection.get_numpy(triangle, "B", geometry_crs="IAU_2015:30100", masked=True)
    assert 0 < got.count() < 16
    table = collection.sample_points([shapely.Point(10.5, 20.5)], "B", geometry_crs="IAU_2015:30100")
    assert table["value"].to_pylist() == [69 * 360 + 190]
    with pytest.raises(WindowError, match="no raster holds a point"):
        collection.sample_points([shapely.Point(10.5, 95)], "B", geometry_crs="IAU_2015:30100")


def test_projected_raster_of_another_planet_and_an_area_in_its_lonlat(tmp_path):
    scale = np.pi * 1_737_400 / 180
    path = write(tmp_path / "moon.tif", "IAU_2015:30110", Affine(scale, 0, 0, 0, -scale, 0), (64, 64))
    collection = scenes(path)
    for area, crs in (((10, -12, 12, -10), "IAU_2015:30100"), ((10 * scale, -12 * scale, 12 * scale, -10 * scale), 0)):
        shrunk = shapely.box(*area).buffer(-1e-6 if crs else -1, join_style="mitre")
        got = collection.get_numpy(shrunk, "B", geometry_crs=crs or "IAU_2015:30110")
        np.testing.assert_array_equal(np.squeeze(got), [[650, 651], [714, 715]])


def test_records_of_the_earth_are_left_out_for_an_area_on_another_planet(tmp_path):
    earth = write(tmp_path / "earth.tif", "EPSG:32632", Affine(10, 0, 5e5, 0, -10, 5e6), (64, 64))
    collection = scenes(moon(tmp_path), earth)
    got = collection.get_numpy(shapely.box(10, 20, 12, 22), "B", geometry_crs="IAU_2015:30100")
    assert np.squeeze(got).shape == (2, 2)
    with pytest.raises(WindowError, match="no transformation leads"):
        scenes(earth).get_numpy(shapely.box(10, 20, 12, 22), "B", geometry_crs="IAU_2015:30100")
    with pytest.raises(WindowError, match="no transformation leads"):
        collection.get_numpy(shapely.box(10, 20, 12, 22), "B", geometry_crs="IAU_2015:49900")


@pytest.mark.parametrize("rows_columns", [((40, 44), (45, 50)), ((0, 8), (0, 12)), ((0, 100), (0, 100))])
@pytest.mark.parametrize("crs", [GOES, METEOSAT])
def test_areas_in_the_own_crs_of_a_geostationary_disk(tmp_path, crs, rows_columns):
    """Corners of a full disk show space, which has no longitude and latitude."""
    path = disk(tmp_path, crs)
    (top, bottom), (left, right) = rows_columns
    with rasterio.open(path) as source:
        expected = source.read(1)[top:bottom, left:right]
        own, size = source.crs.to_wkt(), source.transform.a
    west, east = ((column * size) - EDGE for column in (left + 0.25, right - 0.25))
    north, south = (EDGE - row * size for row in (top + 0.25, bottom - 0.25))
    collection = scenes(path, outline=shapely.box(-120, -60, 60, 60))
    for name in (own, crs):
        got = collection.get_numpy(shapely.box(west, south, east, north), "B", geometry_crs=name)
        np.testing.assert_array_equal(np.squeeze(got), expected)


def test_pixels_of_a_geostationary_disk_at_places_in_lonlat(tmp_path):
    for crs, lon in ((GOES, -75.0), (METEOSAT, 9.5)):
        path = disk(tmp_path, crs)
        x, y = pyproj.Transformer.from_crs("OGC:CRS84", crs, always_xy=True).transform(lon + 20, 35)
        with rasterio.open(path) as source:
            expected = int(source.read(1)[source.index(x, y)])
        table = scenes(path).sample_points([shapely.Point(lon + 20, 35)], "B")
        assert table["value"].to_pylist() == [expected]


def test_pixels_at_places_in_lonlat_of_a_shifted_datum(tmp_path):
    path = write(tmp_path / "bessel.tif", BESSEL, Affine(10, 0, 5e5, 0, -10, 5.4e6), (100, 100))
    with rasterio.open(path) as source:
        way = pyproj.Transformer.from_crs(source.crs.to_wkt(), "OGC:CRS84", always_xy=True)
        lon, lat = way.transform(*source.xy(50, 50))
    collection = scenes(path)
    assert collection.sample_points([shapely.Point(lon, lat)], "B")["value"].to_pylist() == [5050]
    got = collection.get_numpy(shapely.box(lon - 1e-5, lat - 1e-5, lon + 1e-5, lat + 1e-5), "B")
    assert 5050 in got
    area = shapely.box(500_105, 5_399_405, 500_195, 5_399_495)
    cube = collection.get_xarray(area, ["B"], geometry_crs=BESSEL, target_crs="EPSG:32633", resolution=10)
    assert (cube["B"].values > 0).any()


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("IAU_2015:30100", "+proj=longlat +R=1737400", True), ("IAU_2015:30100", "IAU_2015:49900", False),
        (GOES, GOES.replace("sweep=x", "sweep=y"), False), (GOES, GOES.replace("-75", "-137"), False),
        (GOES, GOES.replace("+a=6378137 +b=6356752.31414", "+ellps=GRS80"), True), (GOES, METEOSAT, False),
        ("EPSG:32632", "EPSG:25832", False), ("EPSG:32632", "EPSG:32633", False),
        (BESSEL, BESSEL.replace("577", "570"), False),
    ],
)  # fmt: skip
def test_crss_that_are_the_same_in_another_spelling(one, other, expected):
    assert same_crs(crs_name(one), crs_name(other)) == expected
