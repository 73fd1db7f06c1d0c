"""The demo's COG writer against rasterio: what it writes is what GDAL reads."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile

from rasteret_assets.demo.scenes import TILE_SIDE, write_cog
from rasteret_assets.tiff import parse_header

EPSG, LEFT, TOP = 32632, 302680.0, 6172760.0


def _raster(shape: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(1).integers(1, 10_000, shape).astype(np.uint16)


@pytest.mark.parametrize(
    ("shape", "overviews"),
    [((768, 768), [2, 4]), ((600, 300), [2, 4]), ((256, 256), []), ((100, 30), [])],
    ids=["whole tiles", "partial tiles", "one tile", "less than a tile"],
)
def test_rasterio_reads_what_was_written(tmp_path: Path, shape: tuple[int, int], overviews: list[int]) -> None:
    raster = _raster(shape)
    write_cog(tmp_path / "a.tif", raster, EPSG, LEFT, TOP)
    with rasterio.open(tmp_path / "a.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(1), raster)
        assert dataset.crs.to_epsg() == EPSG
        assert tuple(dataset.transform)[:6] == (40.0, 0.0, LEFT, 0.0, -40.0, TOP)
        assert dataset.nodata == 0
        assert dataset.block_shapes == [(TILE_SIDE, TILE_SIDE)]
        assert dataset.overviews(1) == overviews
        assert dataset.tags(ns="IMAGE_STRUCTURE")["PREDICTOR"] == "2"


def test_overviews_are_means_of_four_pixels(tmp_path: Path) -> None:
    raster = _raster((512, 512))
    write_cog(tmp_path / "a.tif", raster, EPSG, LEFT, TOP)
    with rasterio.open(tmp_path / "a.tif", overview_level=0) as overview:
        expected = raster.reshape(256, 2, 256, 2).mean(axis=(1, 3))
        np.testing.assert_allclose(overview.read(1), expected, atol=0.5)


def test_one_small_read_holds_the_whole_header(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    write_cog(path, _raster((768, 768)), EPSG, LEFT, TOP)
    header = parse_header([(0, path.read_bytes()[:2048])], size=path.stat().st_size)
    assert header.epsg == EPSG
    assert len(header.tile_offsets) == 9
    assert [(overview.width, overview.height) for overview in header.overviews] == [(384, 384), (192, 192)]


def test_directories_come_first_and_then_tiles_from_the_coarsest_overview_on(tmp_path: Path) -> None:
    """The order that GDAL's validator of cloud-optimized GeoTIFFs asks for."""
    path = tmp_path / "a.tif"
    write_cog(path, _raster((768, 768)), EPSG, LEFT, TOP)
    with tifffile.TiffFile(path) as file:
        directories = [page.offset for page in file.pages]
        tiles = [page.dataoffsets for page in file.pages]
    assert directories == sorted(directories)
    assert max(directories) < min(tiles[2])
    assert max(tiles[2]) < min(tiles[1])
    assert max(tiles[1]) < min(tiles[0])
    assert all(offsets == tuple(sorted(offsets)) for offsets in tiles)
