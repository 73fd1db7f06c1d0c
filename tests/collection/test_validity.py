"""Pixels that were not read are not valid in any output; a missing header masks only its own band."""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray as xr

from rasteret_assets.collection import Collection, as_collection
from rasteret_assets.errors import PixelReadError, WindowError
from tests.support.server import RangeServer

from .support import UTM32, footprint_of, noise, record, records_table, write_raster
from .test_get_numpy import box

WHOLE = box(0, 0, 230, 200)
HERE = {"geometry_crs": UTM32}


def half_dead(folder: Path, count: int) -> tuple[Collection, np.ndarray]:
    """Records of one file and of files that do not exist, alternating."""
    pixels = noise(seed=1)
    path = write_raster(folder / "good.tif", pixels)
    rows = []
    for number in range(2 * count):
        row = record(f"{number:04}", {"B": (path, 0)})
        if number % 2:
            row["assets"]["B"]["href"] = str(folder / f"gone{number}.tif")
        rows.append(row)
    return as_collection(records_table(rows)), pixels[0]


def test_missing_files_mask_only_their_own_records(tmp_path: Path, caplog) -> None:
    scenes, pixels = half_dead(tmp_path, 150)
    with caplog.at_level(logging.WARNING, logger="rasteret_assets"):
        stack = scenes.get_numpy(WHOLE, "B", masked=True, on_error="mask", **HERE)
    assert "150 parts of this read failed (150 not_found" in caplog.text
    assert stack.mask[1::2].all()
    assert not stack.mask[::2].any()
    assert (stack.data[::2] == pixels).all()
    points = scenes.sample_points([box(3, 4, 1, 1).centroid], "B", masked=True, on_error="mask", **HERE)
    assert points["value"].to_pylist() == [int(pixels[4, 3]), None] * 150
    cube = scenes.get_xarray(WHOLE, "B", masked=True, on_error="mask", **HERE).B.values
    assert np.isnan(cube[1::2]).all()
    assert (cube[::2] == pixels).all()


def test_the_error_counts_failures_by_class_and_host(tmp_path: Path) -> None:
    server = RangeServer()
    rows = []
    path = write_raster(tmp_path / "a.tif", noise())
    with server.running():
        server.fault = lambda path, before: "403" if "private" in path else None
        for name in ("private1", "private2", "gone"):
            row = record(name, {"B": (path, 0)})
            row["assets"]["B"]["href"] = f"{server.url}/{name}.tif?sig=verysecret"
            rows.append(row)
        with pytest.raises(PixelReadError) as caught:
            as_collection(records_table(rows)).get_numpy(WHOLE, "B", **HERE)
    host = server.url.removeprefix("http://")
    assert str(caught.value).startswith(f"3 parts of this read failed (2 forbidden, 1 not_found; {host} 3)")
    assert "verysecret" not in str(caught.value)


@pytest.mark.parametrize("method", ["bilinear", "cubic", "lanczos", "average", "max", "sum"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "uint32", "float32"])
def test_lost_tiles_are_not_mixed_into_their_neighbours(tmp_path: Path, method: str, dtype: str) -> None:
    path = write_raster(tmp_path / "a.tif", np.full((1, 200, 230), 100, dtype), compress="deflate")
    row = record("r", {"B": (path, 0)})
    row["B_metadata"]["tile_byte_counts"][5] = 3  # cut off, so that it cannot be decoded
    scenes = as_collection(records_table([row]))
    asked = {"resolution": 13.0, "resampling": method, "on_error": "mask", **HERE}
    got = scenes.get_numpy(WHOLE, "B", masked=True, **asked)
    assert 0 < got.mask.sum() < got.size / 2
    if method != "sum":
        assert (got.compressed() == 100).all()
    # Without a mask, pixels of the lost tile are 0, and the others are right.
    bare = scenes.get_numpy(WHOLE, "B", **asked)
    np.testing.assert_array_equal(bare, got.filled(0))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32"])
@pytest.mark.parametrize("chunks", [None, {"time": 1}])
def test_records_of_different_nodata_decode_right(tmp_path: Path, dtype: str, chunks: dict[str, int] | None) -> None:
    rows, expected = [], []
    for seed, nodata in enumerate([0, 100, None]):
        pixels = noise("uint8", seed=seed).astype(dtype)
        path = write_raster(tmp_path / f"{nodata}.tif", pixels, nodata=nodata)
        rows.append(record(f"r{seed}", {"B": (path, 0)}))
        with rasterio.open(path) as source:
            expected.append(float(source.read(1, masked=True).mean(dtype="float64")))
    cube = xr.decode_cf(as_collection(records_table(rows)).get_xarray(WHOLE, "B", chunks=chunks, **HERE))
    means = cube.B.mean(("y", "x"), dtype="float64").values
    np.testing.assert_allclose(means, expected, rtol=1e-6)


def test_nodata_that_no_type_can_hold_is_refused(tmp_path: Path) -> None:
    rows = [
        record(f"r{nodata}", {"B": (write_raster(tmp_path / f"{nodata}.tif", noise("int64"), nodata=nodata), 0)})
        for nodata in (0, 5)
    ]
    with pytest.raises(WindowError, match=r"band 'B': the records have different nodata \(0, 5\).*masked=True"):
        as_collection(records_table(rows)).get_xarray(WHOLE, "B", **HERE)


@pytest.fixture
def lacking(tmp_path: Path) -> tuple[Collection, np.ndarray, np.ndarray]:
    """Two records of two bands, the second without the header of ``C``."""
    data = noise(seed=1), noise(seed=2)
    b, c = (write_raster(tmp_path / f"{name}.tif", pixels) for name, pixels in zip("bc", data, strict=True))
    rows = [
        record("whole", {"B": (b, 0), "C": (c, 0)}),
        record("without C", {"B": (b, 0), "C": (c, 0)}, missing=["C"]),
    ]
    return as_collection(records_table(rows, bands=("B", "C"))), data[0][0], data[1][0]


def test_a_record_without_the_header_of_a_band_has_only_that_band_masked(lacking, caplog) -> None:
    scenes, b, c = lacking
    stack = scenes.get_numpy(WHOLE, ["B", "C"], masked=True, **HERE)
    assert (stack[:, 0] == b).all()
    assert (stack[0, 1] == c).all()
    assert stack.mask[1, 1].all()
    assert "masked bands of 1 records, because their headers are not in the index: without C (C)" in caplog.text
    frame = scenes.get_gdf(WHOLE, ["B", "C"], **HERE)
    assert list(zip(frame["record_id"], frame["band"], strict=True)) == [
        ("whole", "B"), ("whole", "C"), ("without C", "B")
    ]  # fmt: skip
    points = scenes.sample_points([box(3, 4, 1, 1).centroid], ["B", "C"], **HERE)
    assert points["value"].to_pylist() == [b[4, 3], c[4, 3], b[4, 3]]
    cube = xr.decode_cf(scenes.get_xarray(WHOLE, ["B", "C"], **HERE))
    assert (cube.B.values == b).all()
    assert np.isnan(cube.C.values[1]).all()
    assert (cube.C.values[0] == c).all()


def test_records_that_lack_a_band_can_be_dropped_or_refused(lacking) -> None:
    scenes, *_ = lacking
    assert len(scenes.get_numpy(WHOLE, ["B", "C"], missing="drop", **HERE)) == 1
    with pytest.raises(WindowError, match=r"has no header of bands .*\(without C \(C\)\)"):
        scenes.get_numpy(WHOLE, ["B", "C"], missing="raise", **HERE)


def test_a_list_of_one_band_keeps_its_dimension(lacking) -> None:
    scenes, b, _ = lacking
    assert scenes.get_numpy(WHOLE, ["B"], **HERE).shape == (2, 1, *b.shape)
    assert scenes.get_numpy(WHOLE, "B", **HERE).shape == (2, *b.shape)


def test_a_lazy_cube_reads_in_another_process_after_a_read_here(tmp_path: Path) -> None:
    pixels = noise(seed=4)
    server = RangeServer(tmp_path)
    path = write_raster(tmp_path / "a.tif", pixels, compress="deflate")
    row = record("r", {"B": (path, 0)}, footprint=footprint_of(path))
    with server.running():
        row["assets"]["B"]["href"] = f"{server.url}/a.tif"
        scenes = as_collection(records_table([row]))
        assert (scenes.get_numpy(WHOLE, "B", **HERE) == pixels).all()
        lazy = scenes.get_xarray(WHOLE, "B", chunks={"time": 1}, **HERE)
        (tmp_path / "lazy.pickle").write_bytes(pickle.dumps(lazy))
        script = "import pickle, sys; print(int(pickle.load(open(sys.argv[1], 'rb')).B.values.astype('int64').sum()))"
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "lazy.pickle")], capture_output=True, text=True, check=False,
            timeout=600,
        )  # fmt: skip
    assert done.stdout.strip() == str(pixels.astype("int64").sum()), done.stderr[-1000:]
