"""Map tiles of a record equal those that rio-tiler makes of its files, and only tiles of the files are requested."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from rasterio.crs import CRS
from rio_tiler.errors import InvalidAssetName, MissingAssets, PointOutsideBounds, TileOutsideBounds
from rio_tiler.io import MultiBaseReader, Reader
from rio_tiler.types import AssetInfo

from rasteret_assets.collection.collection import Collection
from rasteret_assets.errors import CollectionError, FileReplacedError, ObjectNotFoundError, TileError
from rasteret_assets.tiles import PaletteWarning, RecordReader, record
from tests.support.server import RangeServer

from .support import collect, own_reader, pixels, write_cog

pytestmark = pytest.mark.filterwarnings(
    "ignore:Use `@` matmul:PendingDeprecationWarning", "ignore::rio_tiler.errors.NoOverviewWarning"
)

HOLES = np.random.default_rng(9).random((700, 900)) < 0.2
HALF = np.zeros((700, 900), bool)
HALF[100:500, 200:800] = True


def punched(data: np.ndarray, value: float) -> np.ndarray:
    data[:, HALF] = value
    return data


def with_alpha(data: np.ndarray) -> np.ndarray:
    return np.concatenate([data, np.where(HALF, 0, 255).astype(data.dtype)[None]])


#: Files by name: their pixels, and how they are written.
FILES: dict[str, tuple[Any, dict[str, Any]]] = {
    "uint16": (lambda: punched(pixels(), 0), {"compress": "deflate", "predictor": 2, "describe": {"nodata": 0}}),
    "int16": (
        lambda: punched(pixels("int16"), -9),
        {"compress": "lzw", "crs": "EPSG:4326", "describe": {"nodata": -9}},
    ),
    "float32": (
        lambda: punched(pixels("float32"), np.nan),
        {"compress": "zstd", "predictor": 3, "describe": {"nodata": np.nan}},
    ),
    "float64": (lambda: pixels("float64"), {"crs": "EPSG:3857", "compress": "lzma"}),
    "int8": (lambda: pixels("int8"), {"crs": "EPSG:3857", "compress": "packbits"}),
    "uint32": (lambda: pixels("uint32"), {"compress": "lerc"}),
    "big_endian": (pixels, {"endianness": "big", "compress": "deflate", "predictor": 2}),
    "masked": (lambda: pixels("uint8"), {"mask": HOLES, "compress": "deflate", "crs": "EPSG:3857"}),
    "masked_utm": (lambda: pixels("uint16", bands=2), {"mask": HALF, "compress": "deflate"}),
    "jpeg": (lambda: pixels("uint8", bands=3), {"compress": "jpeg", "photometric": "YCBCR"}),
    "grey_jpeg": (lambda: pixels("uint8"), {"compress": "jpeg", "crs": "EPSG:4326"}),
    "webp": (lambda: pixels("uint8", bands=3), {"compress": "webp", "webp_lossless": True, "photometric": "RGB"}),
    "rgba": (lambda: with_alpha(pixels("uint8", bands=3)), {"photometric": "RGB", "alpha": "unspecified"}),
    "alpha_and_nodata": (
        lambda: with_alpha(punched(pixels("uint8"), 7)),
        {"alpha": "unspecified", "describe": {"nodata": 7}, "compress": "deflate"},
    ),
    "planes": (
        lambda: punched(pixels("uint16", bands=3), 0),
        {"interleave": "band", "compress": "deflate", "describe": {"nodata": 0}},
    ),
    "planes_with_alpha": (
        lambda: with_alpha(pixels("uint8", bands=3)),
        {"interleave": "band", "compress": "deflate", "photometric": "RGB", "alpha": "unspecified"},
    ),
    "sparse": (
        lambda: np.where(np.arange(900) < 400, pixels(), 0).astype("uint16"),
        {"sparse_ok": True, "compress": "deflate", "describe": {"nodata": 0}},
    ),
    "scaled": (pixels, {"describe": {"scales": [0.0001], "offsets": [-0.1]}, "compress": "deflate"}),
    "without_overviews": (lambda: pixels(rows=300, columns=400), {"overviews": (), "compress": "deflate"}),
    "south_up": (
        pixels, {"transform": Affine(10, 0, 500_000, 0, 10, 5_000_000), "compress": "deflate"}
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for name, (make, options) in FILES.items():
        write_cog(folder / f"{name}.tif", make(), **options)
    return folder


@pytest.fixture(scope="module")
def files(folder: Path, server: RangeServer) -> Collection:
    """Make a record for each file, with its first three bands."""
    counts = {name: make().shape[0] for name, (make, _) in FILES.items()}
    return collect(
        folder,
        server.url,
        {
            name: {f"band{min(index, count - 1)}": (f"{name}.tif", min(index, count - 1)) for index in range(3)}
            for name, count in counts.items()
        },
    )


def tiles_of(reader: RecordReader) -> list[tuple[int, int, int]]:
    """Return map tiles at the edges and inside of a raster, of all its zooms and of one more on either side."""
    bounds = reader.get_geographic_bounds(reader.tms.rasterio_geographic_crs)
    rng = np.random.default_rng(3)
    chosen = []
    for zoom in range(reader.minzoom - 1, reader.maxzoom + 2):
        every = [(tile.x, tile.y, tile.z) for tile in reader.tms.tiles(*bounds, zoom)]
        chosen += [every[index] for index in sorted(rng.choice(len(every), min(3, len(every)), replace=False))]
    return chosen


def tile_ranges(collection: Collection, name: str) -> set[tuple[int, int]]:
    """Return (position, bytes) of every tile that the index has of the files of a record."""
    return {
        place
        for file in record(collection, name).files().values()
        for place in zip(file.tiff.offsets.tolist(), file.tiff.byte_counts.tolist(), strict=True)
    }


def asked(server: RangeServer) -> list[tuple[int, int]]:
    """Return (position, bytes) of every request."""
    found = [re.fullmatch(r"bytes=(\d+)-(\d+)", ranged or "") for _, ranged in server.requests]
    assert all(found)
    return [(int(part[1]), int(part[2]) - int(part[1]) + 1) for part in found if part]


class OwnRecordReader(MultiBaseReader):
    """Read the bands of a record with rio-tiler's own readers of files."""

    def __init__(self, path: Path, count: int) -> None:
        super().__init__(str(path))
        self.count = count
        self.reader = Reader
        with Reader(str(path)) as own:
            self.bounds, self.crs = own.bounds, own.crs

    def _get_asset_info(self, asset: Any) -> AssetInfo:
        index = int(asset.removeprefix("band")) + 1
        return AssetInfo(
            url=self.input, name=asset, media_type=None, reader_options={}, method_options={"indexes": index}
        )


@pytest.mark.parametrize("name", FILES)
def test_tiles_equal_rio_tilers_for_every_zoom_and_resampling(name: str, folder: Path, files: Collection) -> None:
    path = folder / f"{name}.tif"
    with RecordReader(record(files, name)) as ours, Reader(str(path)) as own:
        assert (ours.minzoom, ours.maxzoom) == (own.minzoom, own.maxzoom)
        assert ours.crs == own.crs
        assert ours.bounds == pytest.approx(own.bounds)
        assert ours.transform == own.transform
        together = OwnRecordReader(path, len(ours.assets))
        for (x, y, z), resampling in itertools.product(tiles_of(ours), ("nearest", "bilinear", "cubic")):
            how: dict[str, Any] = {"resampling_method": resampling, "reproject_method": resampling}
            if name == "scaled":
                how["unscale"] = True
            try:
                expected = together.tile(x, y, z, assets=ours.assets, **how)
            except TileOutsideBounds:
                with pytest.raises(TileOutsideBounds):
                    ours.tile(x, y, z, assets=ours.assets, **how)
                continue
            found = ours.tile(x, y, z, assets=ours.assets, **how)
            np.testing.assert_array_equal(found.mask, expected.mask)
            if name == "planes" and resampling == "cubic":
                # At the edge of nodata GDAL lets the other bands of a file decide, from 3.12 on. A header of the index
                # has the tiles of one band, so that the result is that of a file with this band alone.
                assert np.mean(found.data != expected.data) < 1e-3
                continue
            np.testing.assert_array_equal(found.data, expected.data)
            if len(ours.assets) != 2:  # which is not a picture
                for image in (found, expected):
                    image.array = np.ma.MaskedArray(np.nan_to_num(image.array.data), image.array.mask)
                    image.rescale([(0, 200)])
                assert found.render(img_format="PNG") == expected.render(img_format="PNG")


@pytest.mark.parametrize("name", ["uint16", "int16", "masked", "masked_utm", "jpeg", "sparse"])
def test_only_tiles_that_gdal_would_read_are_requested(
    name: str, folder: Path, files: Collection, server: RangeServer
) -> None:
    every = tile_ranges(files, name)
    with RecordReader(record(files, name)) as reader:
        places = tiles_of(reader)
    for x, y, z in places:
        server.reset()
        with RecordReader(record(files, name)) as ours, own_reader(folder / f"{name}.tif") as (own, watched):
            before = set(watched.ranges)
            try:
                own.tile(x, y, z, indexes=1)
            except TileOutsideBounds:
                continue
            ours.tile(x, y, z, assets="band0")
        read = watched.ranges - before
        touched = {tile for tile in every if any(within(tile, place) for place in read)}
        requests = asked(server)
        assert len(requests) <= len(touched)
        for start, size in requests:
            inside = {tile for tile in touched if within(tile, (start, size))}
            assert inside, "a request that brings no tile"
            assert (start, start + size) == (min(inside)[0], sum(max(inside)))
            touched -= inside
        assert not touched


def within(tile: tuple[int, int], place: tuple[int, int]) -> bool:
    return place[0] <= tile[0] and sum(tile) <= sum(place)


@pytest.mark.parametrize("name", ["planes", "planes_with_alpha"])
def test_of_band_interleaved_files_only_the_band_and_alpha_are_requested(
    name: str, files: Collection, server: RangeServer
) -> None:
    (file,) = (file for band, file in record(files, name).files().items() if band == "band1")
    own = set(zip(file.tiff.offsets.tolist(), file.tiff.byte_counts.tolist(), strict=True))
    server.reset()
    with RecordReader(record(files, name)) as reader:
        reader.preview(assets="band1", max_size=None)
    requests = asked(server)
    assert requests
    assert sum(size for _, size in requests) < sum(size for _, size in own) + 2**18
    assert all(any(within(tile, request) for tile in own) for request in requests)


def test_tiles_far_apart_are_separate_requests(tmp_path: Path) -> None:
    write_cog(tmp_path / "a.tif", np.random.default_rng(0).integers(0, 60000, (1, 1400, 1800)).astype("uint16"))
    with RangeServer(tmp_path).running() as server:
        found = collect(tmp_path, server.url, {"a": {"grey": ("a.tif", 0)}})
        every = tile_ranges(found, "a")
        server.reset()
        with RecordReader(record(found, "a")) as reader:
            assert server.requests == []  # opening takes no request
            bounds = reader.get_geographic_bounds(reader.tms.rasterio_geographic_crs)
            tile = list(reader.tms.tiles(*bounds, reader.maxzoom))[8]
            reader.tile(tile.x, tile.y, tile.z, assets="grey")
        requests = asked(server)
        assert 1 < len(requests) <= 9
        assert sum(size for _, size in requests) < 9 * max(size for _, size in every) + 9 * 65536


def test_a_tile_of_several_bands_is_requested_once(files: Collection, server: RangeServer) -> None:
    counts = []
    for assets in (["band0"], ["band0", "band1", "band2"]):
        server.reset()
        with RecordReader(record(files, "jpeg")) as reader:
            reader.part(reader.bounds, assets=assets, dst_crs=reader.crs, bounds_crs=reader.crs)
        counts.append(sorted(asked(server)))
    assert counts[0] == counts[1]


def test_parts_points_previews_features_and_statistics_equal_rio_tilers(folder: Path, files: Collection) -> None:
    with RecordReader(record(files, "int16")) as ours, Reader(str(folder / "int16.tif")) as own:
        west, south, east, north = own.bounds
        box = (west + 0.01, south + 0.01, east - 0.02, north - 0.02)
        ring = [[box[0], box[1]], [box[2], box[1]], [box[0], box[3]], [box[0], box[1]]]
        shape = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
        pairs = [
            (ours.part(box, assets="band0", max_size=300), own.part(box, max_size=300)),
            (ours.part(box, assets="band0", dst_crs=CRS.from_epsg(3857)), own.part(box, dst_crs=CRS.from_epsg(3857))),
            (ours.preview(assets="band0", max_size=128), own.preview(max_size=128)),
            (ours.feature(shape, assets="band0"), own.feature(shape)),
        ]
        for found, expected in pairs:
            np.testing.assert_array_equal(found.data, expected.data)
            np.testing.assert_array_equal(found.mask, expected.mask)
            assert found.bounds == expected.bounds
        lon, lat = box[0], box[3]
        np.testing.assert_array_equal(ours.point(lon, lat, assets="band0").array, own.point(lon, lat).array)
        with pytest.raises(PointOutsideBounds):
            ours.point(0, 0, assets="band0")
        assert ours.statistics(assets="band0")["band0"]["b1"] == own.statistics()["b1"]
        info, expected = ours.info(assets="band0")["band0"], own.info()
        for name in ("bounds", "crs", "dtype", "nodata_type", "nodata_value", "width", "height", "overviews", "scales"):
            assert getattr(info, name) == getattr(expected, name), name


def own_ratio(own: Reader, x: int, y: int, z: int) -> np.ma.MaskedArray:
    second, third = (own.tile(x, y, z, indexes=index).array.astype("float64") for index in (2, 3))
    return second / third


def test_expressions_combine_bands_of_different_files(folder: Path, files: Collection) -> None:
    with RecordReader(record(files, "planes")) as ours, Reader(str(folder / "planes.tif")) as own:
        x, y, z = tiles_of(ours)[-4]
        found = ours.tile(x, y, z, assets=["band1", "band2"], expression="b1/b2")
        np.testing.assert_array_equal(found.array, own_ratio(own, x, y, z))
        single = ours.tile(x, y, z, assets=[{"name": "band2", "expression": "b1*2"}])
        np.testing.assert_array_equal(single.array, own.tile(x, y, z, expression="b3*2").array)
        with pytest.raises(IndexError, match="b1"):
            ours.tile(x, y, z, assets=[{"name": "band2", "indexes": 2}])
        with pytest.raises(InvalidAssetName, match="is not a band of the collection"):
            ours.tile(x, y, z, assets="B99")


def test_palettes_are_returned_beside_their_indices(tmp_path: Path) -> None:
    colours = {number: (number, 255 - number, 7, 255) for number in range(256)}
    write_cog(tmp_path / "p.tif", pixels("uint8"), describe={"colormap": colours}, photometric="PALETTE")
    found = collect(tmp_path, str(tmp_path), {"p": {"classes": ("p.tif", 0)}})
    with RecordReader(record(found, "p")) as ours, Reader(str(tmp_path / "p.tif")) as own:
        x, y, z = tiles_of(ours)[-1]
        with pytest.warns(PaletteWarning, match="give its colours"):
            tile = ours.tile(x, y, z, assets="classes")
        expected = own.tile(x, y, z)
        assert tile.render(colormap=own.colormap) == expected.render(colormap=own.colormap)


def test_errors_name_record_band_and_file(tmp_path: Path) -> None:
    write_cog(tmp_path / "a.tif", pixels(), compress="deflate")
    with RangeServer(tmp_path).running() as server:
        data = (tmp_path / "a.tif").read_bytes()
        found = collect(tmp_path, server.url, {"a": {"grey": ("a.tif", 0)}})
        with RecordReader(record(found, "a")) as reader:
            x, y, z = tiles_of(reader)[-4]
            server.objects["/a.tif"] = data[:-40] + bytes(40)  # another ETag
            with pytest.raises(FileReplacedError, match=r"record 'a', band 'grey'.*revalidate"):
                reader.tile(x, y, z, assets="grey")
            server.objects.clear()
            server.fault = lambda path, before: "404"
            with pytest.raises(ObjectNotFoundError, match=r"a\.tif") as caught:
                reader.tile(x, y, z, assets="grey")
            assert any("band 'grey' of record 'a'" in note for note in caught.value.__notes__)


def test_a_damaged_tile_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    path = write_cog(tmp_path / "a.tif", pixels(), compress="deflate")
    found = collect(tmp_path, str(tmp_path), {"a": {"grey": ("a.tif", 0)}})
    data = bytearray(path.read_bytes())
    (file,) = record(found, "a").files().values()
    for start, size in zip(file.tiff.offsets.tolist(), file.tiff.byte_counts.tolist(), strict=True):
        data[start : start + size] = bytes(size)
    times = path.stat()
    path.write_bytes(bytes(data))
    # With the time that was indexed, because the file would count as replaced otherwise.
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with RecordReader(record(found, "a")) as reader:
        x, y, z = tiles_of(reader)[-4]
        with pytest.raises(TileError, match=r"record 'a', band 'grey'.*build again"):
            reader.tile(x, y, z, assets="grey")


def test_a_band_without_a_header_is_refused_by_name(tmp_path: Path) -> None:
    write_cog(tmp_path / "a.tif", pixels(), compress="deflate")
    found = collect(
        tmp_path,
        str(tmp_path),
        {"a": {"grey": ("a.tif", 0), "lost": ("none.tif", 0)}, "b": {"grey": ("a.tif", 0), "lost": ("a.tif", 0)}},
    )
    with RecordReader(record(found, "a")) as reader:
        x, y, z = tiles_of(reader)[-4]
        assert reader.assets == ["grey"]
        with pytest.raises(MissingAssets, match="no header of band 'lost'"):
            reader.tile(x, y, z, assets="lost")
    with pytest.raises(CollectionError, match="no record 'c'"):
        record(found, "c")
