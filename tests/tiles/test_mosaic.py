"""A collection is a mosaic: the index says which records a map tile needs, and TiTiler serves the mosaic."""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow.compute as pc
import pytest
import rasterio
import uvicorn
from affine import Affine
from fastapi import FastAPI, Query
from rio_tiler.errors import NoAssetFoundError
from rio_tiler.io import Reader
from rio_tiler.mosaic import mosaic_reader
from rio_tiler.mosaic.methods import HighestMethod
from titiler.core.dependencies import AssetsExprParams, DefaultDependency
from titiler.core.errors import DEFAULT_STATUS_CODES, add_exception_handlers
from titiler.core.factory import MultiBaseTilerFactory
from titiler.mosaic.errors import MOSAIC_STATUS_CODES
from titiler.mosaic.factory import MosaicTilerFactory

from rasteret_assets import load
from rasteret_assets.collection.collection import Collection
from rasteret_assets.errors import SpecError
from rasteret_assets.tiles import (
    CollectionBackend,
    IndexedRecord,
    RecordNotFoundError,
    RecordReader,
    TooManyRecordsError,
    record,
)  # fmt: skip
from tests.support.server import RangeServer

from .support import collect, pixels, write_cog

pytestmark = pytest.mark.filterwarnings(
    "ignore:Use `@` matmul:PendingDeprecationWarning", "ignore::rio_tiler.errors.NoOverviewWarning"
)

#: Records by id: where each begins, its day and its clouds. Two overlap, one lies apart.
SCENES = {"east": (503_000.0, 0, 40.0), "middle": (500_000.0, 1, 20.0), "far": (560_000.0, 2, 5.0)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    for seed, (name, (x, _, _)) in enumerate(SCENES.items()):
        data = pixels(rows=400, columns=500, seed=seed)
        data[:, :, 300 + 40 * seed :] = 0
        write_cog(
            folder / f"{name}.tif", data, transform=Affine(10, 0, x, 0, -10, 5_000_000), compress="deflate",
            describe={"nodata": 0},
        )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def scenes(folder: Path, server: RangeServer) -> Collection:
    return collect(
        folder, server.url, {name: {"grey": (f"{name}.tif", 0)} for name in SCENES},
        **{"eo:cloud_cover": [clouds for _, _, clouds in SCENES.values()]},
    )  # fmt: skip


def ids(found: list[IndexedRecord]) -> list[str]:
    return list(map(str, found))


def overlap(mosaic: CollectionBackend, zoom: int = 12) -> tuple[int, int, int]:
    """Return a map tile that two records overlap."""
    lon, lat = rasterio.warp.transform("EPSG:32632", "EPSG:4326", [504_000.0], [4_998_000.0])
    tile = mosaic.tms.tile(lon[0], lat[0], zoom)
    return tile.x, tile.y, tile.z


def test_records_of_a_tile_point_and_box_are_found_in_order_without_a_request(
    scenes: Collection, server: RangeServer
) -> None:
    server.reset()
    with CollectionBackend(scenes) as mosaic:
        tile = overlap(mosaic)
        assert ids(mosaic.assets_for_tile(*tile)) == ["middle", "east"]
        assert ids(mosaic.assets_for_point(500_100, 4_999_000, rasterio.CRS.from_epsg(32632))) == ["middle"]
        assert ids(mosaic.assets_for_bbox(*mosaic.bounds)) == ["far", "middle", "east"]
        assert ids(mosaic.assets_for_bbox(0, 0, 1, 1)) == []
        assert ids(mosaic.assets_for_tile(*tile, cloud_cover_lt=30)) == ["middle"]
        assert ids(mosaic.assets_for_tile(*tile, date_range=("2024-05-01", "2024-05-01"))) == ["east"]
        with pytest.raises(TypeError):
            mosaic.assets_for_tile(*tile, clouds=30)
    with CollectionBackend(scenes, order="oldest") as mosaic:
        assert ids(mosaic.assets_for_tile(*tile)) == ["east", "middle"]
    with CollectionBackend(scenes, order="clearest") as mosaic:
        assert ids(mosaic.assets_for_bbox(*mosaic.bounds)) == ["far", "middle", "east"]
    with CollectionBackend(scenes.where(pc.field("id") == "east")) as mosaic:
        assert ids(mosaic.assets_for_tile(*tile)) == ["east"]
    assert server.requests == []


def test_bounds_and_zooms_are_those_of_the_rasters(scenes: Collection, folder: Path) -> None:
    with CollectionBackend(scenes) as mosaic, Reader(str(folder / "east.tif")) as own:
        assert (mosaic.minzoom, mosaic.maxzoom) == (own.minzoom, own.maxzoom)
        west, _, east, _ = own.get_geographic_bounds(rasterio.CRS.from_epsg(4326))
        assert mosaic.bounds[0] < west < east < mosaic.bounds[2]
        assert mosaic.info().bounds == mosaic.bounds


@pytest.mark.parametrize("selection", [None, HighestMethod])
def test_mosaic_pixels_equal_those_of_rio_tilers_own_readers(
    selection: type | None, scenes: Collection, folder: Path, server: RangeServer
) -> None:
    def own(name: str, x: int, y: int, z: int) -> object:
        with Reader(str(folder / f"{name}.tif")) as reader:
            return reader.tile(x, y, z)

    how = {} if selection is None else {"pixel_selection": selection}
    with CollectionBackend(scenes) as mosaic:
        for zoom in (10, 12, 13):
            tile = overlap(mosaic, zoom)
            server.reset()
            image, used = mosaic.tile(*tile, assets="grey", **how)
            expected, _ = mosaic_reader(["middle", "east"], own, *tile, **how)
            np.testing.assert_array_equal(image.array.filled(7), expected.array.filled(7))
            assert image.render() == expected.render()
            assert used[0] == "middle"
            assert {path for path, _ in server.requests} <= {"/middle.tif", "/east.tif"}
        part, _ = mosaic.part(mosaic.bounds, assets="grey", max_size=200)
        assert part.array.count() > 0
        (_, point), *_ = mosaic.point(500_100, 4_999_000, coord_crs=rasterio.CRS.from_epsg(32632), assets="grey")
        with Reader(str(folder / "middle.tif")) as reader:
            assert point.array == reader.point(500_100, 4_999_000, coord_crs=rasterio.CRS.from_epsg(32632)).array
        with pytest.raises(NoAssetFoundError):
            mosaic.tile(0, 0, 12, assets="grey")


def test_more_records_than_a_tile_may_read_are_refused(scenes: Collection) -> None:
    with CollectionBackend(scenes, max_records=2) as mosaic:
        with pytest.raises(TooManyRecordsError, match=r"meets 3 records, and 2 may be read.*zoom in"):
            mosaic.tile(0, 0, 0, assets="grey")
        assert len(mosaic.assets_for_tile(*overlap(mosaic))) == 2


def test_what_is_not_a_collection_and_unknown_orders_are_refused(scenes: Collection) -> None:
    with pytest.raises(SpecError, match="input='scenes_records' is not a collection: give CollectionBackend what"):
        CollectionBackend("scenes_records")
    with pytest.raises(SpecError, match="order='cloud' must be one of newest, oldest, clearest"):
        CollectionBackend(scenes, order="cloud")


def test_a_record_without_the_header_of_a_band_is_left_out(tmp_path: Path) -> None:
    write_cog(tmp_path / "a.tif", pixels(rows=300, columns=300), compress="deflate")
    found = collect(tmp_path, str(tmp_path), {
        "old": {"grey": ("a.tif", 0), "red": ("a.tif", 0)}, "new": {"grey": ("a.tif", 0), "red": ("none.tif", 0)},
    })  # fmt: skip
    with CollectionBackend(found) as mosaic:
        west, south, east, north = mosaic.bounds
        tile = mosaic.tms.tile((west + east) / 2, (south + north) / 2, 12)
        assert ids(mosaic.assets_for_tile(*tile)) == ["new", "old"]
        assert mosaic.tile(*tile, assets="red")[1] == ["old"]
        assert mosaic.tile(*tile, assets="grey")[1][0] == "new"


def test_a_mosaic_reads_records_that_were_published_again(tmp_path: Path, scenes: Collection) -> None:
    home = tmp_path / "scenes"
    scenes.export(home, "year")
    found = load(home)
    before = record(found, "middle")
    with CollectionBackend(found) as mosaic:
        tile = overlap(mosaic)
        listed = mosaic.assets_for_tile(*tile)
        first, _ = mosaic.tile(*tile, assets="grey")
        before.files()
        scenes.where(pc.field("id") != "far").export(home, "year", overwrite=True)
        with RecordReader(listed[1]) as reader:  # listed by `fresh`, but its rows were not read
            assert reader.tile(*tile, assets="grey").array.count() > 0
        again, _ = mosaic.tile(*tile, assets="grey")
        np.testing.assert_array_equal(first.array, again.array)


# --- TiTiler --------------------------------------------------------------------------------------------------------


@dataclass
class Clouds(DefaultDependency):
    cloud_cover_lt: Annotated[float | None, Query()] = None


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """Run an application under uvicorn on loopback, and return its address."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [place]}, daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{place.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def titiler(scenes: Collection) -> Iterator[str]:
    app = FastAPI()
    mosaic = MosaicTilerFactory(
        backend=CollectionBackend, dataset_reader=RecordReader, path_dependency=lambda: scenes,
        layer_dependency=AssetsExprParams, assets_accessor_dependency=Clouds, router_prefix="/mosaic",
    )  # fmt: skip
    one = MultiBaseTilerFactory(
        reader=RecordReader, path_dependency=lambda record_id: record(scenes, record_id), router_prefix="/record"
    )  # fmt: skip
    app.include_router(mosaic.router, prefix="/mosaic")
    app.include_router(one.router, prefix="/record")
    own = {TooManyRecordsError: 400, RecordNotFoundError: 404}
    add_exception_handlers(app, DEFAULT_STATUS_CODES | MOSAIC_STATUS_CODES | own)
    with serving(app) as address:
        yield address


def get(address: str) -> tuple[bytes, dict[str, str]]:
    with urllib.request.urlopen(address, timeout=300) as answer:
        return answer.read(), dict(answer.headers)


def test_titiler_serves_the_mosaic_byte_for_byte(titiler: str, scenes: Collection, server: RangeServer) -> None:
    with CollectionBackend(scenes) as mosaic:
        x, y, z = overlap(mosaic)
        image, _ = mosaic.tile(x, y, z, assets=["grey"])
        image.rescale([(0, 200)])
        expected = image.render(img_format="PNG")
    server.reset()
    place = f"{titiler}/mosaic/tiles/WebMercatorQuad/{z}/{x}/{y}.png?assets=grey&rescale=0,200"
    found, headers = get(place)
    assert found == expected
    assert headers["content-type"] == "image/png"
    requests = list(server.requests)
    assert requests
    assert all(ranged and int(ranged.removeprefix("bytes=").partition("-")[0]) > 0 for _, ranged in requests)
    # With filters in the request, and of one record.
    assert b'["middle"]' in get(f"{titiler}/mosaic/tiles/WebMercatorQuad/{z}/{x}/{y}/assets?cloud_cover_lt=30")[0]
    alone, _ = get(f"{titiler}/record/tiles/WebMercatorQuad/{z}/{x}/{y}.png?record_id=middle&assets=grey&rescale=0,200")
    with RecordReader(record(scenes, "middle")) as reader:
        image = reader.tile(x, y, z, assets="grey")
        image.rescale([(0, 200)])
        assert alone == image.render(img_format="PNG")


def test_titiler_describes_the_mosaic_and_its_errors(titiler: str, scenes: Collection) -> None:
    with CollectionBackend(scenes) as mosaic:
        document = json.loads(get(f"{titiler}/mosaic/WebMercatorQuad/tilejson.json?assets=grey")[0])
        assert document["bounds"] == pytest.approx(list(mosaic.bounds))
        assert (document["minzoom"], document["maxzoom"]) == (mosaic.minzoom, mosaic.maxzoom)
    assert get(f"{titiler}/mosaic/tiles/WebMercatorQuad/12/0/0.png?assets=grey")[0] == b""  # outside all records
    with pytest.raises(urllib.error.HTTPError) as refused:
        get(f"{titiler}/record/info?record_id=nobody&assets=grey")
    assert refused.value.code == 404
    assert "this collection has no record 'nobody'" in json.loads(refused.value.read())["detail"]
    refused.value.close()
