"""xarray reads through Icechunk the pixels that the collection reads, for every codec and layout of tiles."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile

from rasteret_assets import build_from_table
from rasteret_assets.collection import Collection, as_collection
from rasteret_assets.errors import TileError
from tests.collection.support import noise, record, records_table, write_raster

from .support import CODECS, assert_same, opened, whole

pytestmark = [CODECS, pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")]

#: Ways to store a band by name: its dtype, and options of GDAL's writer.
STORED: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("uint16", {}),
    "deflate": ("uint16", {"compress": "deflate"}),
    "zstd": ("int32", {"compress": "zstd"}),
    "lzw": ("uint8", {"compress": "lzw"}),
    "lzma": ("int16", {"compress": "lzma"}),
    "packbits": ("uint8", {"compress": "packbits"}),
    "double": ("float64", {"compress": "deflate"}),
    "signed8": ("int8", {"compress": "deflate", "predictor": 2}),
    "long": ("int64", {"compress": "zstd", "predictor": 2}),
    "deflate2": ("uint16", {"compress": "deflate", "predictor": 2}),
    "zstd2": ("int16", {"compress": "zstd", "predictor": 2}),
    "lzw2": ("uint8", {"compress": "lzw", "predictor": 2}),
    "float2": ("float32", {"compress": "deflate", "predictor": 2}),
    "deflate3": ("float32", {"compress": "deflate", "predictor": 3}),
    "zstd3": ("float64", {"compress": "zstd", "predictor": 3}),
    "lzw3": ("float32", {"compress": "lzw", "predictor": 3}),
    "big": ("uint16", {"endianness": "big"}),
    "big_deflate": ("float32", {"compress": "deflate", "endianness": "big"}),
    "big2": ("uint16", {"compress": "deflate", "predictor": 2, "endianness": "big"}),
    "big2_long": ("int32", {"compress": "zstd", "predictor": 2, "endianness": "big"}),
    "big3": ("float32", {"compress": "deflate", "predictor": 3, "endianness": "big"}),
    "big3_double": ("float64", {"compress": "lzw", "predictor": 3, "endianness": "big"}),
    "wide_tiles": ("uint16", {"compress": "deflate", "tile": 256}),
}
INTERLEAVED = [
    "deflate", "zstd", "lzw2", "plain", "float2", "deflate3", "zstd3", "lzw3", "big", "big2", "big2_long", "big3",
    "big3_double",
]  # fmt: skip


def moment(day: int) -> dt.datetime:
    return dt.datetime(2024, 5, day, 10, tzinfo=dt.UTC)


def test_pixels_equal_for_every_codec_and_dtype(tmp_path: Path) -> None:
    rows = []
    for number in range(2):
        files = {
            name: (write_raster(tmp_path / f"{name}{number}.tif", noise(dtype, seed=number), nodata=7, **options), 0)
            for name, (dtype, options) in STORED.items()
        }
        rows.append(record(f"r{number}", files, moment=moment(2 - number)))
    scenes = as_collection(records_table(rows, list(STORED)))
    report = scenes.to_icechunk(tmp_path / "repository")
    assert report.arrays == len(STORED)
    assert_same(opened(tmp_path / "repository", report), whole(scenes, list(STORED)), list(STORED))


READER = """
import sys, icechunk, xarray
folder, group, prefix, *bands = sys.argv[1:]
storage = icechunk.local_filesystem_storage(folder)
access = {prefix: icechunk.credentials.LocalFileSystemAccess}
repository = icechunk.Repository.open(storage, authorize_virtual_chunk_access=access)
cube = xarray.open_zarr(repository.readonly_session("main").store, group=f"{group}/full", consolidated=False)
print(*(int(cube[band].values.sum()) for band in bands))
print(*sorted(name for name in sys.modules if name in {"virtual_tiff", "rasteret_assets"}))
"""


def test_a_process_without_this_package_decodes_the_pixels(tmp_path: Path) -> None:
    for bands, imported in ((["plain", "deflate", "zstd", "lzma"], ""), (["lzw", "deflate2"], "virtual_tiff")):
        files = {}
        for name in bands:
            dtype, options = STORED[name]
            files[name] = (write_raster(tmp_path / f"{name}.tif", noise(dtype), **options), 0)
        repository = tmp_path / f"repository_{bands[0]}"
        report = as_collection(records_table([record("r", files)], bands)).to_icechunk(repository)
        command = [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            READER,
            str(repository),
            *report.groups,
            *report.containers,
            *bands,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        sums = [str(int(noise(STORED[name][0]).sum())) for name in bands]
        assert done.stdout.splitlines() == [" ".join(sums), imported]


def test_pixel_interleaved_files_have_a_band_dimension(tmp_path: Path) -> None:
    for name in INTERLEAVED:
        dtype, options = STORED[name]
        bands = ["red", "green", "blue"]
        rows = []
        for number in range(2):
            data = noise(dtype, bands=3, seed=number)
            path = write_raster(tmp_path / f"{name}{number}.tif", data, nodata=7, interleave="pixel", **options)
            rows.append(record(f"r{number}", {band: (path, place) for place, band in enumerate(bands)}))
        scenes = as_collection(records_table(rows, bands))
        report = scenes.to_icechunk(tmp_path / f"repository_{name}")
        cube = opened(tmp_path / f"repository_{name}", report)
        assert cube.image.dims == ("time", "band", "y", "x")
        assert cube.band.values.tolist() == bands
        cube = cube.assign({band: cube.image.sel(band=band) for band in bands})
        assert_same(cube, whole(scenes, bands), bands)


def test_single_bands_of_pixel_and_band_interleaved_files(tmp_path: Path) -> None:
    data = noise(bands=4, seed=3)
    side = write_raster(tmp_path / "side.tif", data, interleave="pixel", compress="deflate")
    apart = write_raster(tmp_path / "apart.tif", data, interleave="band", compress="deflate", predictor=2)
    files = {"third": (side, 2), "a": (apart, 0), "d": (apart, 3)}
    scenes = as_collection(records_table([record("r", files)], list(files)))
    report = scenes.to_icechunk(tmp_path / "repository")
    cubes = [opened(tmp_path / "repository", report, group) for group in report.groups]
    (image,) = (cube for cube in cubes if "image" in cube)
    (planes,) = (cube for cube in cubes if "image" not in cube)
    assert image.band.values.tolist() == ["sample_0", "sample_1", "third", "sample_3"]
    np.testing.assert_array_equal(image.image.values[0], data)
    assert set(planes.data_vars) == {"a", "d"}
    assert_same(planes, whole(scenes, ["a", "d"]), ["a", "d"])


def test_alpha_is_written_as_a_sample_named_alpha(tmp_path: Path) -> None:
    data = noise("uint8", bands=4, seed=3)
    data[3, :50] = 0
    path = write_raster(tmp_path / "a.tif", data, interleave="pixel", photometric="RGB", alpha="yes")
    table = records_table([record("r", {"green": (path, 1)})], ["green"])
    plain = table.select(["id", "datetime", "geometry", "assets"])
    scenes = build_from_table(plain, enrich_cog=True)
    cube = opened(tmp_path / "repository", scenes.to_icechunk(tmp_path / "repository"))
    assert cube.band.values.tolist() == ["sample_0", "green", "sample_2", "alpha"]
    green = cube.image.sel(band="green")
    np.testing.assert_array_equal(green.values, whole(scenes, "green").green.values)
    shown = green.where(cube.image.sel(band="alpha") > 0)
    np.testing.assert_array_equal(shown.values, whole(scenes, "green", masked=True).green.values)


def test_tiles_that_are_not_stored_are_nodata(tmp_path: Path) -> None:
    rows = []
    for number, nodata in enumerate((None, None, 9, 9)):
        path = tmp_path / f"sparse{number}.tif"
        empty = np.full((1, 200, 230), 0 if nodata is None else nodata, "uint16")
        write_raster(path, empty, nodata=nodata, compress="deflate", sparse_ok=True)
        with rasterio.open(path, "r+") as target:
            target.write(noise(rows=80, columns=50, seed=number)[0], 1, window=((70, 150), (70, 120)))
        with tifffile.TiffFile(path) as tiff:
            assert sum(size > 0 for size in tiff.pages[0].databytecounts) == 2
        rows.append(record(f"r{number}", {"B": (path, 0)}))
    for part in (rows[:2], rows[2:]):
        scenes = as_collection(records_table(part))
        folder = tmp_path / part[0]["id"]
        report = scenes.to_icechunk(folder)
        assert report.references == 4  # of 2 x 16 tiles
        assert_same(opened(folder, report), whole(scenes, "B"), ["B"])


@pytest.mark.parametrize(("dtype", "nodata"), [("uint16", 7), ("float32", np.nan), ("float32", -9999), ("int64", -1)])
def test_nodata_and_scales_are_applied_by_cf_readers(tmp_path: Path, dtype: str, nodata: float) -> None:
    data = noise(dtype, seed=4)
    data[0, :50, :70] = nodata
    path = write_raster(tmp_path / "a.tif", data, nodata=nodata, compress="deflate")
    row = record("r", {"B": (path, 0)})
    row["B_metadata"] |= {"scale": 0.5, "offset": -3.0}
    scenes = as_collection(records_table([row]))
    report = scenes.to_icechunk(tmp_path / "repository")
    found = opened(tmp_path / "repository", report, mask_and_scale=True).B
    expected = whole(scenes, "B", mask_and_scale=True).B
    assert np.isnan(found.values[0, :50, :70]).all()
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"compress": "jpeg", "photometric": "YCBCR"}, "band 'B' has no place in Zarr: tiles compressed by JPEG"),
        ({"compress": "jpeg"}, "compressed by JPEG with shared tables have no codec"),
        ({"compress": "lerc"}, "compressed by LERC"),
        ({"compress": "webp", "webp_lossless": True}, "compressed by WebP"),
    ],
)
def test_tiles_without_a_zarr_codec_are_refused(tmp_path: Path, options: dict[str, Any], error: str) -> None:
    path = write_raster(tmp_path / "a.tif", noise("uint8", bands=3), interleave="pixel", **options)
    scenes = as_collection(records_table([record("first", {"B": (path, 0)})]))
    with pytest.raises(TileError, match=rf"record 'first', .*{error}"):
        scenes.to_icechunk(tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


def test_files_with_internal_masks_are_refused(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", noise())
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as target:
        target.write_mask(np.eye(200, 230, dtype="uint8") * 255)
    row = record("first", {"B": (path, 0)})
    plain = records_table([row]).select(["id", "datetime", "geometry", "assets"])
    scenes: Collection = build_from_table(plain, enrich_cog=True)
    with pytest.raises(TileError, match="a mask or an alpha plane of its own"):
        scenes.to_icechunk(tmp_path / "repository")
