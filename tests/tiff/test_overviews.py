"""Overviews of files that GDAL wrote agree with rasterio and tifffile."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import tifffile
from rasterio.transform import Affine

from rasteret_assets.tiff import NeedBytes, parse_header


def cog(folder: Path, *, side: int = 900, masked: bool = False, **options: object) -> bytes:
    """A COG with overviews, whose image has three bands of noise."""
    source, target = folder / "source.tif", folder / "cog.tif"
    profile = {
        "driver": "GTiff", "width": side, "height": side - 100, "count": 3, "dtype": "uint8", "crs": "EPSG:32632",
        "transform": Affine(10, 0, 5e5, 0, -10, 5e6),
    }  # fmt: skip
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(source, "w", **profile) as dataset:
        dataset.write(np.random.default_rng(0).integers(0, 255, (3, side - 100, side), dtype=np.uint8))
        if masked:
            dataset.write_mask(np.random.default_rng(1).random((side - 100, side)) < 0.5)
    rasterio.shutil.copy(source, target, driver="COG", **{"BLOCKSIZE": 128, "COMPRESS": "DEFLATE", **options})
    return target.read_bytes()


def expected(content: bytes) -> list[tuple]:
    with tifffile.TiffFile(io.BytesIO(content)) as tiff:
        return [
            (page.imagewidth, page.imagelength, page.tilewidth, page.tilelength, tuple(page.dataoffsets),
             tuple(page.databytecounts), page.jpegtables)
            for page in tiff.pages
            if page.subfiletype == 1
        ]  # fmt: skip


def found(content: bytes, **options: bool) -> list[tuple]:
    return [
        (o.width, o.height, o.tile_width, o.tile_height, tuple(o.tile_offsets.tolist()),
         tuple(o.tile_byte_counts.tolist()), o.jpeg_tables)
        for o in parse_header([(0, content)], size=len(content), **options).overviews
        if o.mask_bits is None
    ]  # fmt: skip


def masks(content: bytes) -> list[tuple]:
    header = parse_header([(0, content)], size=len(content))
    return [
        (o.width, o.height, o.mask_bits, o.compression, tuple(o.tile_offsets.tolist()))
        for o in header.overviews
        if o.mask_bits is not None
    ]


@pytest.mark.parametrize("options", [{}, {"COMPRESS": "JPEG"}, {"COMPRESS": "LZW"}, {"BIGTIFF": "YES"}], ids=str)
def test_masks_of_a_cog(tmp_path, options):
    content = cog(tmp_path, masked=True, **options)
    with tifffile.TiffFile(io.BytesIO(content)) as tiff:
        pages = [page for page in tiff.pages if page.subfiletype & 4]
        expected = [(p.imagewidth, p.imagelength, 1, int(p.compression), tuple(p.dataoffsets)) for p in pages]
    assert len(expected) == 1 + len(found(content))
    assert sorted(masks(content)) == sorted(expected)


@pytest.mark.parametrize(
    "options",
    [{}, {"BIGTIFF": "YES"}, {"COMPRESS": "JPEG"}, {"INTERLEAVE": "BAND"}, {"BLOCKSIZE": 512}, {"ADD_ALPHA": "YES"},
     {"COMPRESS": "JPEG", "ADD_MASK": "YES"}],
    ids=str,
)  # fmt: skip
def test_overviews_of_a_cog(tmp_path, options):
    content = cog(tmp_path, **options)
    assert found(content) == expected(content)
    assert len(found(content)) >= 1
    assert found(content, overviews=False) == []


def test_no_more_than_the_front_of_the_file_is_needed(tmp_path):
    content = cog(tmp_path)
    first = min(min(page[4]) for page in expected(content))
    assert parse_header([(0, content[:first])], size=len(content)).overviews
    with pytest.raises(NeedBytes) as caught:
        parse_header([(0, content[:1200])], size=len(content))
    assert len(caught.value.ranges) == 1


def test_overviews_behind_the_pixels_are_left_out(tmp_path):
    path = tmp_path / "a.tif"
    profile = {
        "driver": "GTiff", "width": 700, "height": 700, "count": 1, "dtype": "uint16", "crs": "EPSG:32632",
        "transform": Affine(10, 0, 5e5, 0, -10, 5e6), "tiled": True, "blockxsize": 64, "blockysize": 64,
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as dataset:
        dataset.write(np.random.default_rng(0).integers(0, 65535, (1, 700, 700), dtype=np.uint16))
    with rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([2, 4])
    content = path.read_bytes()
    assert len(expected(content)) == 2
    assert found(content) == []
    # One further read tells that what follows the image is no mask of it.
    with pytest.raises(NeedBytes) as caught:
        parse_header([(0, content[:16384])], size=len(content))
    ((start, length),) = caught.value.ranges
    pieces = [(0, content[:16384]), (start, content[start : start + length])]
    assert parse_header(pieces, size=len(content)).overviews == ()


def test_damage_in_the_chain_leaves_the_header_as_it_is(tmp_path):
    content = bytearray(cog(tmp_path))
    whole = parse_header([(0, bytes(content))], size=len(content), overviews=False)
    with tifffile.TiffFile(io.BytesIO(content)) as tiff:
        second, third = tiff.pages[1].offset, tiff.pages[2].offset
    for place, value in ((second, b"\xff\xff"), (third, b"\0\0"), (third + 2, bytes(200))):
        damaged = bytearray(content)
        damaged[place : place + len(value)] = value
        header = parse_header([(0, bytes(damaged))], size=len(damaged))
        assert (header.width, header.height) == (whole.width, whole.height)
        assert len(header.overviews) < len(expected(bytes(content)))
