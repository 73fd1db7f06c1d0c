"""Overviews of a build are published beside the header, without further requests, unless they are switched off."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
import rasterio.shutil
import shapely
from rasterio.transform import Affine
from rasterio.warp import transform_bounds

from rasteret_assets import CollectionSpec, build_from_table, load
from rasteret_assets.api import build
from tests.support.rasters import record_table
from tests.support.server import RangeServer

SIDE = 3000


@pytest.fixture
def hrefs(server: RangeServer, tmp_path: Path) -> list[str]:
    """Six COGs whose tables of 16 x 16 tiles do not fit a first read."""
    profile = {
        "driver": "GTiff", "width": SIDE, "height": SIDE, "count": 1, "dtype": "uint8", "crs": "EPSG:32632",
        "transform": Affine(10, 0, 5e5, 0, -10, 5.4e6),
    }  # fmt: skip
    source = tmp_path / "source.tif"
    with rasterio.open(source, "w", **profile) as dataset:
        dataset.write((np.add.outer(np.arange(SIDE), np.arange(SIDE)) % 251).astype(np.uint8)[None])
    first, *others = (server.root / f"{number}.tif" for number in range(6))
    rasterio.shutil.copy(source, first, driver="COG", BLOCKSIZE=128, OVERVIEW_COUNT=4, COMPRESS="ZSTD")
    for other in others:
        shutil.copy(first, other)
    return [f"{server.url}/{number}.tif" for number in range(6)]


def outline() -> shapely.Geometry:
    return shapely.box(*transform_bounds("EPSG:32632", "EPSG:4326", 5e5, 5.4e6 - SIDE * 10, 5e5 + SIDE * 10, 5.4e6))


def test_one_request_for_each_header_after_the_first_of_its_family(server: RangeServer, hrefs: list[str]) -> None:
    table = record_table([f"r{number}" for number in range(6)], {"B": hrefs}, outline=outline())
    collection = build_from_table(table, enrich_cog=True, max_concurrent=1)
    assert [server.paths.count(f"/{number}.tif") for number in range(1, 6)] == [1] * 5
    assert server.paths.count("/0.tif") <= 3
    levels = collection.to_table(["B_metadata"])["B_metadata"][3]["overviews"].as_py()
    assert [level["image_width"] for level in levels] == [1500, 750, 375, 187]


def test_reads_take_the_overview_that_is_fine_enough(server: RangeServer, hrefs: list[str]) -> None:
    collection = build_from_table(record_table(["r"], {"B": hrefs[:1]}, outline=outline()), enrich_cog=True)
    with rasterio.open(server.root / "0.tif", overview_level=1) as source:
        expected = source.read(1)
    server.reset()
    area = shapely.box(5e5, 5.4e6 - SIDE * 10, 5e5 + SIDE * 10, 5.4e6)
    got = collection.get_numpy(area, "B", geometry_crs=32632, resolution=40)[0]
    np.testing.assert_array_equal(got, expected)
    read = sum(int(last) - int(first) + 1 for first, last in (r[6:].split("-") for _, r in server.requests))
    assert read < (server.root / "0.tif").stat().st_size / 8


@pytest.mark.parametrize(("width", "height"), [(1, 164), (164, 1)])
def test_a_strip_is_not_read_from_overviews_of_the_same_width(server: RangeServer, width: int, height: int) -> None:
    profile = {
        "driver": "GTiff", "width": width, "height": height, "count": 1, "dtype": "uint8", "crs": "EPSG:32632",
        "transform": Affine(10, 0, 5e5, 0, -10, 5.4e6), "tiled": True, "blockxsize": 16, "blockysize": 16,
    }  # fmt: skip
    pixels = np.arange(width * height, dtype=np.uint8).reshape(height, width)
    with rasterio.open(server.root / "strip.tif", "w", **profile) as dataset:
        dataset.write(pixels[None])
        dataset.build_overviews([2, 4])
    table = record_table(["r"], {"B": [f"{server.url}/strip.tif"]}, outline=outline())
    area = shapely.box(5e5, 5.4e6 - height * 10, 5e5 + width * 10, 5.4e6)
    got = build_from_table(table, enrich_cog=True).get_numpy(area, "B", geometry_crs=32632)
    np.testing.assert_array_equal(got[0], pixels)


def test_overviews_can_be_left_out(hrefs: list[str], tmp_path: Path) -> None:
    pq.write_table(record_table(["r"], {"B": hrefs[:1]}, outline=outline()), tmp_path / "records.parquet")
    spec = CollectionSpec.of(
        path=tmp_path / "records.parquet", name="plain", workspace_dir=tmp_path, enrich_cog=True, overviews=False
    )
    build(spec)
    header = load(tmp_path / "plain_records").to_table(["B_metadata"])["B_metadata"][0].as_py()
    assert header["image_width"] == SIDE
    assert header["overviews"] is None
