"""Pixels band by band, of which formats of other projects are made: values, places and which of them hold data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
import rasterio.windows
import shapely
from affine import Affine

from rasteret_assets.collection import as_collection

from .support import ORIGIN, UTM32, noise, record, records_table, write_raster

LEFT, TOP = ORIGIN


def test_each_band_comes_with_its_place(scenes, tmp_path):
    area = shapely.box(LEFT + 203, TOP - 417, LEFT + 397, TOP - 103)
    reads = [read for band in ("fine", "coarse") for read in scenes.read(area, band, geometry_crs=UTM32).read_bands()]
    assert [(read.record.id, read.area, read.band) for read in reads] == [("s0", 0, "fine"), ("s0", 0, "coarse")]
    for read, name in zip(reads, ("f0", "c0"), strict=True):
        with rasterio.open(tmp_path / f"{name}.tif") as source:
            window = rasterio.windows.from_bounds(*read.grid.bounds, transform=source.transform)
            expected = source.read(1, window=window)
        x, y = read.centres
        columns, rows = np.meshgrid(np.arange(len(x)), np.arange(len(y)))
        assert np.array_equal(np.array(Affine(*read.transform) @ (columns + 0.5, rows + 0.5)), np.meshgrid(x, y))
        inside = shapely.contains_xy(area, *np.meshgrid(x, y))
        assert np.array_equal(read.pixels[inside], expected[inside])
        assert np.array_equal(read.valid, inside & (expected != 0) if name == "f0" else inside)
        assert (read.pixels[~inside] == read.empty).all()
        assert (read.crs, read.pixels.dtype) == (UTM32, expected.dtype)
    assert [read.nodata for read in reads] == [0, None]


def test_a_band_without_a_header_is_left_out(tmp_path: Path):
    path = write_raster(tmp_path / "a.tif", noise(), nodata=7)
    rows = [record("a", {"red": (path, 0)}), record("b", {"red": (path, 0), "nir": (path, 0)})]
    found = as_collection(records_table(rows, ["red", "nir"]))
    area = shapely.box(LEFT, TOP - 100, LEFT + 100, TOP)
    reads = found.read(area, ["red", "nir"], geometry_crs=UTM32).read_bands(with_valid=False)
    assert [(read.record.id, read.band, read.valid) for read in reads] == [
        ("a", "red", None), ("b", "red", None), ("b", "nir", None),
    ]  # fmt: skip


def test_options_of_the_read_hold(scenes):
    area = shapely.box(LEFT, TOP - 400, LEFT + 400, TOP)
    options = {"geometry_crs": UTM32, "resolution": 40, "mask_and_scale": True, "dtype": "float64"}
    (read,) = scenes.read(area, "fine", **options).read_bands()
    assert (read.pixels.shape, read.pixels.dtype, read.transform[0]) == ((10, 10), np.dtype("float64"), 40)
    assert np.isnan(read.empty)


def test_a_request_is_split_into_records_and_areas(scenes):
    areas = [shapely.box(LEFT + x, TOP - 400, LEFT + x + 400, TOP) for x in (0, 1200)]
    request = scenes.read(areas, "fine", geometry_crs=UTM32)
    whole = request.read_bands()
    parts = [part.read_bands() for part in request.split()]
    assert [len(part) for part in parts] == [1] * len(whole)
    places = [(read.record.id, read.area) for read in whole]
    assert [(read.record.id, read.area) for (read,) in parts] == places == [("s0", 0), ("s0", 1), ("s1", 1)]
    for read, (part,) in zip(whole, parts, strict=True):
        assert np.array_equal(read.pixels, part.pixels)
