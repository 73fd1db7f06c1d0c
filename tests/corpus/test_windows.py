"""Every window of the corpus read through a published collection, against what rasterio read."""

from __future__ import annotations

import datetime as dt
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import rasterio
import rasterio.windows
import shapely

from rasteret_assets import Collection, build_from_table
from rasteret_assets.collection.areas.area import Area
from rasteret_assets.collection.areas.grid import Window
from rasteret_assets.collection.formats.numpy import read_stack
from rasteret_assets.collection.pixels.backends import Source
from rasteret_assets.collection.pixels.band import parse_header
from rasteret_assets.collection.pixels.pixel_request import PixelRequest
from rasteret_assets.collection.pixels.read_options import AREA_DEFAULTS, ReadOptions
from rasteret_assets.collection.pixels.select import Record
from rasteret_assets.collection.pixels.views import View
from rasteret_assets.errors import TileError
from tests.corpus.conftest import load_oracle

LOSSY_WORST, LOSSY_MEAN = 16, 1.0


@pytest.fixture(scope="module")
def indexed(corpus: Path, address: str) -> Collection:
    """All files of the corpus that can be indexed, one record each, with their first and last band."""
    rows = []
    for answer in load_oracle():
        if answer["expect"] != "ok":
            continue
        href = f"{address}{answer['file']}"
        last = answer["count"] - 1
        rows.append({
            "id": Path(answer["file"]).stem, "datetime": dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
            "geometry": shapely.to_wkb(shapely.box(0, 0, 1, 1)),
            "assets": {"first": {"href": href, "band_index": 0}, "last": {"href": href, "band_index": last}},
        })  # fmt: skip
    return build_from_table(pa.Table.from_pylist(rows), enrich_cog=True)


def read_window(indexed: Collection, name: str, band: str, window: dict[str, int]) -> np.ndarray:
    """Pixels by column and row: the files' CRSs and places are too odd to be asked for by areas."""
    table = indexed.to_table()
    row = table["id"].to_pylist().index(name)
    header = parse_header(table[f"{band}_metadata"][row], band_index=0, where=name)
    record = Record(
        id=name, order=(False, 0, name), moment=None, cloud_cover=None, collection=None, crs="OGC:CRS84",
        headers=[header], hrefs=[table["assets"][row][band]["href"].as_py()], areas=[0],
    )  # fmt: skip
    part = Window(col_off=window["x"], row_off=window["y"], width=window["w"], height=window["h"])
    grid = header.grid.part(part)
    area = Area(geometry=shapely.box(*grid.bounds), crs=record.crs, is_box=True)
    view = View(record=record, areas=[(0, area)], crs=record.crs, grid=grid)
    request = PixelRequest(
        views=[view], areas=[], bands=[band], is_one_band=True, source=Source.of(indexed, AREA_DEFAULTS),
        options=ReadOptions(max_concurrent=8),
    )  # fmt: skip
    return read_stack(request)[0, 0]


def assert_window(pixels: np.ndarray, window: dict[str, Any], answer: dict[str, Any], file: Path, band: int) -> None:
    if answer.get("lossy"):
        # Decoders differ by a few counts, so the pixels themselves are compared.
        with rasterio.open(file) as source:
            place = rasterio.windows.Window(window["x"], window["y"], window["w"], window["h"])
            expected = source.read(band, window=place)
        error = np.abs(pixels.astype(int) - expected)
        assert error.max(initial=0) <= LOSSY_WORST
        assert error.mean() <= LOSSY_MEAN
        return
    # GDAL reads half floats as floats.
    pixels = pixels.astype(np.float32) if pixels.dtype == np.float16 else pixels
    little = np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder("<")))
    assert hashlib.sha256(little.tobytes()).hexdigest() == window["sha256"]


def test_every_window(corpus: Path, indexed: Collection, indexable: dict[str, Any]) -> None:
    file = corpus / indexable["file"]
    last = indexable.get("windows_last_band") or {"band": indexable["count"], "windows": []}
    for name, band, windows in (("first", 1, indexable["windows"]), ("last", last["band"], last["windows"])):
        for window in windows:
            assert_window(read_window(indexed, file.stem, name, window), window, indexable, file, band)
    if indexable.get("band1_full_sha256") and indexable["pixels"] == "ok":
        whole = {"x": 0, "y": 0, "w": indexable["width"], "h": indexable["height"]}
        whole["sha256"] = indexable["band1_full_sha256"]
        assert_window(read_window(indexed, file.stem, "first", whole), whole, indexable, file, 1)


DAMAGED = [answer for answer in load_oracle() if answer.get("pixels") == "error"]


@pytest.mark.parametrize("answer", DAMAGED, ids=lambda answer: Path(answer["file"]).stem)
def test_damaged_tiles_raise(indexed: Collection, answer: dict[str, Any]) -> None:
    name = Path(answer["file"]).stem
    width, height = answer["tile_width"], answer["tile_height"]
    for row, column in answer["bad_tiles_row_col"]:
        window = {"x": column * width, "y": row * height, "w": 8, "h": 8}
        what = (
            rf"record '{name}', band 'first': tile \(row {row}, column {column}\) of http.*{name}.tif cannot be decoded"
        )
        with pytest.raises(TileError, match=what):
            read_window(indexed, name, "first", window)
