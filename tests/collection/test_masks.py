"""Internal masks and alpha bands say which pixels hold data, as rasterio's masks do, in every output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import rasterio
import rasterio.shutil
import shapely
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.enums import ColorInterp, Compression, Resampling
from rasterio.vrt import WarpedVRT

from rasteret_assets import Collection, build_from_table
from rasteret_assets.errors import TileError
from tests.support.rasters import record_table

from .support import EXAMPLES, ORIGIN, UTM32, footprint_of, noise, write_raster

HERE: dict[str, Any] = {"geometry_crs": UTM32}
ROWS, COLUMNS = 200, 230


def patches(seed: int = 0, rows: int = ROWS, columns: int = COLUMNS) -> np.ndarray:
    """Return which pixels hold data: patches of about seven pixels, in every part of the raster."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((rows // 7 + 1, columns // 7 + 1)) < 0.6
    return np.kron(coarse, np.ones((7, 7), bool))[:rows, :columns]


def with_mask(path: Path, data: np.ndarray, valid: np.ndarray, **options: Any) -> Path:
    """Write a COG with an internal mask, and overviews of it if the image has some."""
    bare = path.with_suffix(".bare.tif")
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        write_raster(bare, data, nodata=options.pop("nodata", None))
        with rasterio.open(bare, "r+") as target:
            target.write_mask(valid)
        rasterio.shutil.copy(bare, path, driver="COG", **{"blocksize": 128, "compress": "DEFLATE", **options})
    bare.unlink()
    return path


def with_alpha(path: Path, data: np.ndarray, valid: np.ndarray, **options: Any) -> Path:
    """Write a GeoTIFF whose last band is alpha, also with values between 0 and 255."""
    most = np.iinfo(data.dtype).max
    alpha = np.where(valid, np.random.default_rng(9).integers(1, most, valid.shape), 0).astype(data.dtype)
    write_raster(path, np.concatenate([data, alpha[None]]), alpha="YES", **{"compress": "deflate", **options})
    with rasterio.open(path) as source:
        assert ColorInterp.alpha in source.colorinterp
    return path


def plain_with_mask(path: Path, data: np.ndarray, valid: np.ndarray) -> Path:
    """Write a file whose mask lies behind the pixels of the image."""
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        write_raster(path, np.concatenate([data] * 3), compress="deflate")
        with rasterio.open(path, "r+") as target:
            target.write_mask(valid)
    return path


FILES: dict[str, Any] = {
    "mask": lambda path, valid: with_mask(path, noise("uint8", bands=3), valid),
    "mask beside nodata": lambda path, valid: with_mask(path, noise("uint8"), valid, nodata=7),
    "mask of floats": lambda path, valid: with_mask(path, noise("float32"), valid, compress="ZSTD"),
    "mask of JPEG": lambda path, valid: with_mask(path, noise("uint8"), valid, compress="JPEG"),
    "mask behind the pixels": lambda path, valid: plain_with_mask(path, noise("uint16"), valid),
    "rgba": lambda path, valid: with_alpha(path, noise("uint8", bands=3), valid, photometric="RGB"),
    "rgba of 16 bits": lambda path, valid: with_alpha(path, noise("uint16", bands=3), valid, photometric="RGB"),
    "rgba in planes": lambda path, valid: with_alpha(path, noise("uint8", bands=3), valid, interleave="band"),
    "grey and alpha": lambda path, valid: with_alpha(path, noise("uint8"), valid, predictor=2),
    "alpha beside nodata": lambda path, valid: with_alpha(path, noise("uint8"), valid, nodata=7),
    "planes beside nodata": lambda path, valid: with_alpha(path, noise("uint8"), valid, nodata=7, interleave="band"),
    "five bands": lambda path, valid: with_alpha(path, noise("uint8", bands=4), valid, photometric="RGB"),
    "alpha of 32 bits": lambda path, valid: with_alpha(path, noise("uint32"), valid),
}


def indexed(folder: Path, path: Path) -> Collection:
    """Return a collection of one record that has a band for each band of the file."""
    with rasterio.open(path) as source:
        names = [f"B{number}" for number in source.indexes]
    table = record_table(["r"], {"B1": [str(path)]}, outline=footprint_of(path))
    assets = [{name: {"href": str(path), "band_index": number} for number, name in enumerate(names)}]
    table = table.set_column(table.schema.get_field_index("assets"), "assets", pa.array(assets))
    return build_from_table(table, name="scenes", workspace_dir=folder, enrich_cog=True)


@pytest.fixture(params=FILES)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return FILES[request.param](tmp_path / "a.tif", patches())


def whole(path: Path) -> tuple[float, float, float, float]:
    with rasterio.open(path) as source:
        return tuple(source.bounds)


def assert_close(got: Any, expected: Any, path: Path) -> None:
    """Assert that pixels are equal, apart from the rounding of JPEG decoders."""
    with rasterio.open(path) as source:
        is_lossy = source.compression is Compression.jpeg
    np.testing.assert_allclose(np.asarray(got, float), np.asarray(expected, float), rtol=1e-7, atol=2 * is_lossy)


def test_masks_are_those_of_rasterio(tmp_path: Path, path: Path) -> None:
    scenes = indexed(tmp_path, path)
    area = (ORIGIN[0] + 110, ORIGIN[1] - 1710, ORIGIN[0] + 1990, ORIGIN[1] - 90)
    with rasterio.open(path) as source:
        window = source.window(*area).round_lengths().round_offsets()
        for number in source.indexes:
            expected = source.read(number, masked=True, window=window)
            got = scenes.get_numpy(area, f"B{number}", masked=True, **HERE)[0]
            np.testing.assert_array_equal(np.ma.getmaskarray(got), np.ma.getmaskarray(expected), err_msg=f"{number}")
            assert_close(got.compressed(), expected.compressed(), path)
            assert_close(scenes.get_numpy(area, f"B{number}", **HERE)[0], expected.data, path)


def test_every_output_masks_them(tmp_path: Path, path: Path) -> None:
    scenes, area = indexed(tmp_path, path), whole(path)
    with rasterio.open(path) as source:
        expected = source.read(1, masked=True)
    hidden = np.ma.getmaskarray(expected)
    cube = scenes.get_xarray(area, "B1", masked=True, **HERE).B1.values[0]
    np.testing.assert_array_equal(np.isnan(cube), hidden)
    assert_close(cube[~hidden], expected.data[~hidden], path)
    lazy = scenes.get_xarray(area, "B1", masked=True, chunks={"y": 70, "x": 50}, **HERE).B1.values[0]
    np.testing.assert_array_equal(lazy, cube)
    frame = scenes.get_gdf(area, "B1", masked=True, **HERE)
    np.testing.assert_array_equal(np.ma.getmaskarray(frame["data"][0]), hidden)
    rows, columns = np.divmod(np.random.default_rng(0).choice(ROWS * COLUMNS, 300, replace=False), COLUMNS)
    points = shapely.points(ORIGIN[0] + 10 * (columns + 0.5), ORIGIN[1] - 10 * (rows + 0.5))
    values = scenes.sample_points(list(points), "B1", masked=True, **HERE)["value"].to_pylist()
    assert [value is None for value in values] == hidden[rows, columns].tolist()
    assert_close([0 if value is None else value for value in values], expected.filled(0)[rows, columns], path)
    picture = scenes.preview("r", "B1", size=1000).pixels[:, :, 3]
    np.testing.assert_array_equal(picture == 0, hidden)


def test_points_without_masked_ask_for_no_mask(tmp_path: Path) -> None:
    scenes = indexed(tmp_path, FILES["mask"](tmp_path / "a.tif", np.zeros((ROWS, COLUMNS), bool)))
    with rasterio.open(tmp_path / "a.tif") as source:
        expected = source.read(1)
    point = shapely.Point(ORIGIN[0] + 5, ORIGIN[1] - 5)
    assert scenes.sample_points([point], "B1", **HERE)["value"].to_pylist() == [expected[0, 0]]


@pytest.mark.parametrize("method", ["nearest", "bilinear", "average"])
def test_hidden_pixels_are_not_mixed_into_their_neighbours(tmp_path: Path, path: Path, method: str) -> None:
    scenes = indexed(tmp_path, path)
    left, _, _, top = whole(path)
    with rasterio.open(path) as source:
        pixels = source.read(1, masked=True)
        profile = {"driver": "GTiff", "height": ROWS, "width": COLUMNS, "crs": UTM32, "transform": source.transform}
    # Without masks of GDAL's, which warps weigh with alpha: what is hidden is no number.
    with rasterio.MemoryFile() as memory:
        with memory.open(count=1, dtype="float64", nodata=np.nan, **profile) as target:
            target.write(pixels.astype("float64").filled(np.nan), 1)
        with (
            memory.open() as source,
            WarpedVRT(
                source, crs=UTM32, transform=rasterio.Affine(13, 0, left, 0, -13, top), width=170, height=150,
                resampling=Resampling[method], tolerance=1e-9, XSCALE=10 / 13, YSCALE=10 / 13,
            ) as warped,
        ):  # fmt: skip
            expected = warped.read(1)
    asked = {"resolution": 13.0, "resampling": method, "overviews": False, **HERE}
    area = (left, top - 13 * 150, left + 13 * 170, top)
    got = scenes.get_numpy(area, "B1", masked=True, **asked)[0]
    np.testing.assert_array_equal(np.ma.getmaskarray(got), np.isnan(expected))
    there = ~got.mask
    # Rounded, and one beside nodata where nodata would come out.
    np.testing.assert_allclose(got.data[there], expected[there], rtol=1e-6, atol=2.001)


def test_overviews_have_masks_of_their_own(tmp_path: Path) -> None:
    rows, columns = 500, 610
    valid = patches(3, rows, columns)
    path = with_mask(tmp_path / "a.tif", noise("uint8", bands=3, rows=rows, columns=columns), valid)
    scenes = indexed(tmp_path, path)
    with rasterio.open(path, overview_level=0) as source:
        expected = source.read(1, masked=True)
    got = scenes.get_numpy(whole(path), "B1", masked=True, resolution=20, **HERE)[0]
    np.testing.assert_array_equal(np.ma.getmaskarray(got), np.ma.getmaskarray(expected))
    np.testing.assert_array_equal(got.compressed(), expected.compressed())


@pytest.mark.parametrize("bits", [1, 8])
@pytest.mark.parametrize("tile", [64, 80])
def test_masks_that_tifffile_writes(tmp_path: Path, bits: int, tile: int) -> None:
    path, valid = tmp_path / "a.tif", patches(5)
    place = [
        (33550, 12, 3, (10.0, 10.0, 0.0), True), (33922, 12, 6, (0, 0, 0, *ORIGIN, 0), True),
        (34735, 3, 16, (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32632), True),
    ]  # fmt: skip
    data = noise("uint16")[0]
    options: dict[str, Any] = {"tile": (tile, tile), "photometric": "minisblack", "metadata": None}
    with tifffile.TiffWriter(path) as file:
        file.write(data, extratags=place, compression="zlib", **options)
        mask = valid if bits == 1 else valid.astype(np.uint8) * 255
        file.write(mask, subfiletype=1, **options)
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[1].tags[254].overwrite(4)
    scenes = indexed(tmp_path, path)
    got = scenes.get_numpy(whole(path), "B1", masked=True, **HERE)[0]
    np.testing.assert_array_equal(np.ma.getmaskarray(got), ~valid)
    np.testing.assert_array_equal(got.data[valid], data[valid])


def test_an_unreadable_mask_hides_the_pixels_of_its_tiles(tmp_path: Path) -> None:
    path = with_mask(tmp_path / "a.tif", noise("uint8"), np.ones((ROWS, COLUMNS), bool))
    with tifffile.TiffFile(path) as file:
        (page,) = (page for page in file.pages if page.subfiletype == 4)
        start, length = page.dataoffsets[1], page.databytecounts[1]
    content = bytearray(path.read_bytes())
    content[start : start + length] = bytes(length)
    path.write_bytes(content)
    scenes = indexed(tmp_path, path)
    with pytest.raises(TileError, match=r"tile \(row 0, column 1\)"):
        scenes.get_numpy(whole(path), "B1", masked=True, **HERE)
    got = scenes.get_numpy(whole(path), "B1", masked=True, on_error="mask", **HERE)[0]
    assert got.mask[:128, 128:].all()
    assert not got.mask[:, :128].any()
    assert not np.ma.getmaskarray(scenes.get_numpy(whole(path), "B1", **HERE)).any()


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["mask", "rgba", "grey and alpha"]), st.integers(0, 2**31), st.tuples(*[st.floats(0, 0.99)] * 4))
def test_any_window_of_any_mask(tmp_path: Path, kind: str, seed: int, corners: tuple[float, ...]) -> None:
    path = tmp_path / f"{kind}-{seed}.tif"
    if not path.exists():
        FILES[kind](path, patches(seed))
    scenes = indexed(tmp_path / f"{kind}-{seed}", path)
    x, y = (sorted(pair) for pair in (corners[:2], corners[2:]))
    area = (
        ORIGIN[0] + 10 * COLUMNS * x[0], ORIGIN[1] - 10 * ROWS * y[1] - 1,
        ORIGIN[0] + 10 * COLUMNS * x[1] + 1, ORIGIN[1] - 10 * ROWS * y[0],
    )  # fmt: skip
    got = scenes.get_gdf(area, "B1", masked=True, **HERE)
    with rasterio.open(path) as source:
        (_, _, x0, _, _, y0), (rows, columns) = got["raster_transform"][0], got["data"][0].shape
        top, left = source.index(x0 + 5, y0 - 5)
        expected = source.read(1, masked=True)[top : top + rows, left : left + columns]
    np.testing.assert_array_equal(np.ma.getmaskarray(got["data"][0]), np.ma.getmaskarray(expected))
