"""Reduced pages that are not copies of their image in its sample type are not read as overviews."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
import tifffile

from rasteret_assets import build_from_table
from tests.support.rasters import record_table

SIDE = 128
GEO = [
    (33550, 12, 3, (10.0, 10.0, 0.0), True),
    (33922, 12, 6, (0, 0, 0, 500_000.0, 5_400_000.0, 0), True),
    (34735, 3, 16, (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32632), True),
]
AREA = shapely.box(5e5, 5.4e6 - SIDE * 10, 5e5 + SIDE * 10, 5.4e6)
OUTLINE = shapely.box(8.9, 48.6, 9.1, 48.8)


def picture(dtype: str, samples: int = 1) -> np.ndarray:
    """Return a ramp of shape (rows, columns) or (samples, rows, columns)."""
    ramp = (np.arange(SIDE) % 100).astype(dtype) + np.zeros((SIDE, 1), dtype)
    return ramp if samples == 1 else np.stack([ramp + np.asarray(band, dtype) for band in range(samples)])


def write(path: Path, image: np.ndarray, pages: list[tuple[np.ndarray, dict[str, Any]]], **options: Any) -> Path:
    """Write an image and further pages, which call themselves reduced unless they say otherwise."""
    common = {"tile": (32, 32), "compression": "zlib", "photometric": "minisblack", "metadata": None, **options}
    with tifffile.TiffWriter(
        path, bigtiff=common.pop("bigtiff", False), byteorder=common.pop("byteorder", "<")
    ) as file:
        file.write(image, extratags=GEO, **common)
        for data, others in pages:
            file.write(data, **{**common, "subfiletype": 1, **others})
    return path


def read(path: Path, resolution: float = 20.0) -> tuple[np.ndarray, list[int]]:
    """Return the whole image at a resolution in metres, and the widths of the overviews that were published."""
    scene = build_from_table(record_table(["r"], {"B": [str(path)]}, outline=OUTLINE), enrich_cog=True)
    levels = scene.to_table(["B_metadata"])["B_metadata"][0]["overviews"].as_py() or []
    pixels = scene.get_numpy(AREA, "B", geometry_crs=32632, resolution=resolution)[0]
    return pixels, [level["image_width"] for level in levels]


def check_left_out(path: Path) -> None:
    """Check that the image itself is read, where one of two neighbours is taken."""
    pixels, levels = read(path)
    assert levels == []
    with rasterio.open(path) as source:
        whole = source.read(1)
    assert pixels.shape == (SIDE // 2, SIDE // 2)
    near = [whole[row::2, column::2] for row in (0, 1) for column in (0, 1)]
    assert np.any([pixels == one for one in near], axis=0).all()


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize(
    ("image", "page"),
    [
        ("float32", "int32"), ("float32", "uint32"), ("int16", "uint16"), ("uint16", "int16"), ("uint8", "uint16"),
        ("uint16", "uint8"), ("float64", "float32"), ("uint32", "float32"), ("uint8", "int8"),
    ],
)  # fmt: skip
def test_pages_of_another_sample_type(tmp_path, image, page, byteorder, bigtiff):
    whole = picture(image)
    pages = [(whole[::2, ::2].astype(page), {})]
    check_left_out(write(tmp_path / "a.tif", whole, pages, byteorder=byteorder, bigtiff=bigtiff))


@pytest.mark.parametrize("planarconfig", ["contig", "separate"])
@pytest.mark.parametrize("page", ["uint16", "int16", "float32"])
def test_pages_of_another_type_with_values_behind_the_directory(tmp_path, page, planarconfig):
    """Five samples: their types do not fit into the directory itself."""
    whole = picture("uint16", 5)
    last = np.moveaxis(whole, 0, 2) if planarconfig == "contig" else whole
    half = np.ascontiguousarray(whole[:, ::2, ::2].astype(page))
    half = np.moveaxis(half, 0, 2) if planarconfig == "contig" else half
    path = write(tmp_path / "a.tif", np.ascontiguousarray(last), [(half, {})], planarconfig=planarconfig)
    if page == "uint16":
        pixels, levels = read(path)
        assert levels == [SIDE // 2]
        np.testing.assert_array_equal(pixels, whole[0, ::2, ::2])
    else:
        check_left_out(path)


def test_pages_of_another_interleaving(tmp_path):
    whole = picture("uint8", 3)
    page = (np.ascontiguousarray(np.moveaxis(whole[:, ::2, ::2], 0, 2)), {"planarconfig": "contig"})
    check_left_out(write(tmp_path / "a.tif", whole, [page], planarconfig="separate"))


def test_pages_of_fewer_samples(tmp_path):
    whole = np.ascontiguousarray(np.moveaxis(picture("uint8", 3), 0, 2))
    page = (np.ascontiguousarray(whole[::2, ::2, 0]), {"planarconfig": None})
    check_left_out(write(tmp_path / "a.tif", whole, [page], planarconfig="contig"))


@pytest.mark.parametrize("kind", [5, 4, 2, 0])
def test_pages_that_are_masks_or_other_images(tmp_path, kind):
    whole = picture("uint8")
    path = write(tmp_path / "a.tif", whole, [(whole[::2, ::2] * 0 + 255, {})])
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[1].tags["NewSubfileType"].overwrite(kind)
    check_left_out(path)


def test_good_pages_behind_one_of_another_type_are_read(tmp_path):
    whole = picture("float32")
    pages = [(whole[::2, ::2].astype("int32"), {}), (whole[::4, ::4], {})]
    path = write(tmp_path / "a.tif", whole, pages)
    pixels, levels = read(path, 40.0)
    assert levels == [SIDE // 4]
    np.testing.assert_array_equal(pixels, whole[::4, ::4])


def test_files_that_are_alike_but_for_the_type_of_a_page(tmp_path):
    """Headers are compared with earlier ones of a band, which must not lend them their overviews."""
    whole = np.ascontiguousarray(np.moveaxis(picture("uint16", 5), 0, 2))
    hrefs = []
    for number, page in enumerate(["uint16"] * 4 + ["int16", "uint16", "int16"]):
        half = np.ascontiguousarray(whole[::2, ::2]).astype(page)
        path = tmp_path / f"{number}.tif"
        hrefs.append(str(write(path, whole, [(half, {})], planarconfig="contig")))
    table = record_table([str(number) for number in range(7)], {"B": hrefs}, outline=OUTLINE)
    headers = build_from_table(table, enrich_cog=True, max_concurrent=1).to_table(["id", "B_metadata"]).to_pylist()
    found = {row["id"]: len(row["B_metadata"]["overviews"] or []) for row in headers}
    assert [found[str(number)] for number in range(7)] == [1, 1, 1, 1, 0, 1, 0]
