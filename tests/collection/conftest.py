"""Collections that several modules of tests read."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pyarrow as pa
import pytest

from rasteret_assets.collection import Collection, as_collection

from .support import ORIGIN, noise, record, records_table, write_raster

LEFT, TOP = ORIGIN


@pytest.fixture
def scenes(tmp_path: Path) -> Collection:
    """Two scenes side by side on one pixel grid, with a fine and a coarse band."""
    rows = []
    for number in range(2):
        origin = (LEFT + number * 1000, TOP)
        fine = write_raster(
            tmp_path / f"f{number}.tif", noise(rows=200, columns=200, seed=number), origin=origin, nodata=0
        )
        coarse = write_raster(
            tmp_path / f"c{number}.tif", noise("float32", rows=100, columns=100, seed=number), origin=origin,
            resolution=20.0,
        )  # fmt: skip
        moment = dt.datetime(2024, 1, 1 + number, 10, tzinfo=dt.UTC)
        bands = {"fine": (fine, 0), "coarse": (coarse, 0)}
        rows.append(record(f"s{number}", bands, moment=moment, **{"eo:cloud_cover": 10.0 - number, "split": "train"}))
    types = {"eo:cloud_cover": pa.float64(), "split": pa.string()}
    return as_collection(records_table(rows, ["fine", "coarse"], **types), name="scenes")
