"""The value of a pixel depends on the file and the target grid, not on the area, the parts or the chunks of a read."""

from __future__ import annotations

import itertools
from pathlib import Path

import dask
import numpy as np
import pytest
import rasterio
import rasterio.shutil
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from rasteret_assets import build_from_table
from rasteret_assets.collection import Collection
from rasteret_assets.collection.pixels import warp
from rasteret_assets.collection.pixels.read_options import KERNELS
from tests.support.rasters import record_table

from .support import EXAMPLES, UTM32, footprint_of, noise, write_raster

SIDE = 600
TARGETS = [UTM32, "EPSG:3857", "EPSG:4326", "EPSG:3035"]
SIZES = {UTM32: 25.0, "EPSG:3857": 33.0, "EPSG:4326": 0.0003, "EPSG:3035": 17.0}


def indexed(path: Path, data: np.ndarray, *, overviews: bool, nodata: float | None = None) -> Collection:
    """Return a collection of one file, with its overviews in the index."""
    write_raster(path, data, nodata=nodata, compress="deflate")
    if overviews:
        # In front of the pixels, as in COGs, because appended overviews are not indexed.
        bare = path.rename(path.with_suffix(".bare.tif"))
        rasterio.shutil.copy(bare, path, driver="COG", blocksize=128, compress="deflate", overview_resampling="average")
    table = record_table(["r"], {"B": [str(path)]}, outline=footprint_of(path))
    found = build_from_table(table, enrich_cog=True, band_codes=["B"])
    (pages,) = found.to_table()["B_metadata"].combine_chunks().field("overviews").to_pylist()
    assert bool(pages) == overviews
    return found


@pytest.fixture(scope="module", params=[True, False], ids=["with overviews", "without overviews"])
def scenes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """Write a raster that is much larger than the reach of any kernel."""
    path = tmp_path_factory.mktemp("raster") / "a.tif"
    data = noise("uint16", rows=SIDE, columns=SIDE, seed=3)
    return indexed(path, data, overviews=request.param, nodata=0)


def square(scenes: Collection, left: float, top: float, size: float) -> shapely.Geometry:
    """Return a box of the raster, in shares of its side."""
    west, south, east, north = scenes.bounds
    width, height = east - west, north - south
    return shapely.box(
        west + left * width, north - (top + size) * height, west + (left + size) * width, north - top * height
    )


@settings(max_examples=EXAMPLES)
@given(
    method=st.sampled_from(sorted(KERNELS)),
    target=st.sampled_from(TARGETS),
    factor=st.sampled_from([0.5, 1.0, 2.7]),
    big=st.tuples(st.floats(0, 0.4), st.floats(0, 0.4), st.floats(0.4, 0.6)),
    small=st.tuples(st.floats(0.1, 0.5), st.floats(0.1, 0.5), st.floats(0.1, 0.4)),
)
def test_a_pixel_does_not_depend_on_the_area(scenes, method, target, factor, big, small):
    asked = {"target_crs": target, "resolution": SIZES[target] * factor, "resampling": method}
    one, other = (scenes.get_xarray(square(scenes, *where).bounds, "B", **asked).B[0] for where in (big, small))
    # Coordinates of one grid are equal apart from the last digits.
    x, y = (np.round(one[axis].values / asked["resolution"], 3) for axis in "xy")
    u, v = (np.round(other[axis].values / asked["resolution"], 3) for axis in "xy")
    rows, columns = np.isin(y, v), np.isin(x, u)
    shared = one.values[np.ix_(rows, columns)]
    np.testing.assert_array_equal(shared, other.values[np.ix_(np.isin(v, y), np.isin(u, x))])


@pytest.mark.parametrize("ratio", [2, 5])
def test_sums_are_exact_wherever_the_area_ends(tmp_path: Path, ratio: int) -> None:
    # Because GDAL may add a source pixel a little beyond the area to whole rows, depending on where the area ends.
    data = noise("uint16", rows=300, columns=300, seed=4) // 32
    found = indexed(tmp_path / "a.tif", data, overviews=False)
    with rasterio.open(tmp_path / "a.tif") as source:
        west, size, north = source.bounds.left, source.res[0], source.bounds.top
    sums = data[0].reshape(300 // ratio, ratio, 300 // ratio, ratio).sum(axis=(1, 3))
    step = ratio * size
    for columns, rows in itertools.product(range(10, 40, 2), range(10, 40, 3)):
        left, top = columns % 7 + 4, rows % 5 + 4
        x, y = west + left * step, north - top * step
        area = shapely.box(x, y - rows * step, x + columns * step, y).buffer(-step / 4)
        got = found.get_numpy(area, "B", geometry_crs=UTM32, resolution=step, resampling="sum")[0]
        np.testing.assert_array_equal(got, sums[top : top + rows, left : left + columns])


@pytest.mark.parametrize("method", sorted(KERNELS))
@pytest.mark.parametrize("target", [UTM32, "EPSG:3857"])
def test_lazy_cubes_and_parts_change_no_pixel(scenes, method, target, monkeypatch):
    asked = {"target_crs": target, "resolution": SIZES[target], "resampling": method}
    area = square(scenes, 0.1, 0.1, 0.7).bounds
    eager = scenes.get_xarray(area, "B", **asked).B.values
    with dask.config.set(scheduler="synchronous"):
        lazy = scenes.get_xarray(area, "B", chunks={"time": 1, "y": 61, "x": 87}, **asked).B.values
    np.testing.assert_array_equal(lazy, eager)
    monkeypatch.setattr(warp, "_MOST_BYTES", 20_000)
    np.testing.assert_array_equal(scenes.get_xarray(area, "B", **asked).B.values, eager)


@pytest.mark.parametrize(
    ("method", "expected"), [("sum", 100.0), ("min", 1.0), ("max", 9.0), ("mode", 1.0), ("q3", 1.0), ("rms", None)]
)
def test_methods_that_count_or_choose_read_the_image(tmp_path: Path, method: str, expected: float | None) -> None:
    data = np.ones((1, 512, 512), "float32")
    if method == "max":
        data[0, 5::10, 5::10] = 9
    got = {}
    for overviews in (True, False):
        path = tmp_path / f"{overviews}.tif"
        found = indexed(path, data, overviews=overviews, nodata=-1)
        with rasterio.open(path) as source:
            west, _, _, north = source.bounds
        area = shapely.box(west + 1000, north - 3000, west + 3000, north - 1000)
        got[overviews] = found.get_numpy(area, "B", geometry_crs=UTM32, resolution=100, resampling=method)
    np.testing.assert_array_equal(got[True], got[False])
    if expected is not None:
        assert (got[True] == expected).all()


def test_overviews_can_be_declined(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    found = indexed(path, noise("uint16", rows=512, columns=512, seed=1), overviews=True)
    with rasterio.open(path) as source:
        area, whole = shapely.box(*source.bounds), source.read(1)
    asked = {"geometry_crs": UTM32, "resolution": 80, "resampling": "average"}
    expected = whole.reshape(64, 8, 64, 8).mean(axis=(1, 3))
    np.testing.assert_allclose(found.get_numpy(area, "B", overviews=False, **asked)[0], expected, atol=0.51)
