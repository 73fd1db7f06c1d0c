"""A read takes a bounded number of bytes beside its result, however large it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

#: Reads a raster that is not stored: every tile is zeros, made when it is requested.
SCRIPT = """
import asyncio, datetime, resource, sys
import numpy as np, pyarrow as pa, shapely
from rasteret_assets import schema
from rasteret_assets.collection import as_collection

side, tile, how = int(sys.argv[1]), 512, sys.argv[2]
tiles = (side // tile) ** 2
size = tile * tile * 2

class Zeros:
    async def get_range(self, url, start, length):
        await asyncio.sleep(0.0005)
        return bytes(length)
    async def get_ranges(self, url, ranges):
        return [await self.get_range(url, *one) for one in ranges]

def collection(side):
    tiles = (side // tile) ** 2
    header = {
        "image_width": side, "image_height": side, "tile_width": tile, "tile_height": tile, "dtype": "uint16",
        "transform": [10.0, 4e5, -10.0, 9e6], "predictor": 1, "compression": 1, "nodata": 7.0,
        "tile_offsets": [1000 + number * size for number in range(tiles)], "tile_byte_counts": [size] * tiles,
        "pixel_scale": [], "tiepoint": [], "samples_per_pixel": 1, "planar_configuration": 1, "photometric": 1,
        "extra_samples": [], "band_index": 0, "epsg": 32632, "crs": "EPSG:32632",
    }
    row = {
        "id": "r", "datetime": datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc),
        "geometry": shapely.box(-180, -90, 180, 90).wkb, "bbox": dict(xmin=-180., ymin=-90., xmax=180., ymax=90.),
        "assets": {"B": {"href": "/nowhere.tif"}}, "B_metadata": header,
    }
    fields = {**schema.RECORD_FIELDS, "assets": pa.struct([("B", pa.struct([("href", pa.string())]))]),
              "B_metadata": schema.BAND_STRUCT}
    return as_collection(pa.Table.from_pylist([row], pa.schema(list(fields.items()))))

def read(side):
    left, top = 4e5, 9e6
    area = shapely.box(left, top - side * 10, left + side * 10, top)
    options = {}
    if how == "polygon":
        area = shapely.Polygon([(left, top), (left + side * 10, top), (left, top - side * 10)])
        options = {"masked": True}
    if how == "warp":
        options = {"resolution": 20, "resampling": "bilinear"}
    if how == "zones":
        # One that is read piece by piece, and many that are not.
        corners = np.linspace(0, side * 5, 30)
        fields = [shapely.box(left + x, top - x - side * 2, left + x + side * 2, top - x) for x in corners]
        return collection(side).zonal([area, *fields], "B", geometry_crs=32632, backend=Zeros())
    return collection(side).get_numpy(area, "B", geometry_crs=32632, backend=Zeros(), **options)

peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
read(2 * tile)
before = peak()
got = read(side)
result = got.nbytes + (np.ma.getmaskarray(got).nbytes if how == "polygon" else 0)
print(peak() - before - result)
"""


@pytest.mark.parametrize("how", ["box", "polygon", "warp", "zones"])
def test_a_read_takes_little_beside_its_result(tmp_path: Path, how: str) -> None:
    script = tmp_path / "read.py"
    script.write_text(SCRIPT)
    # The result is larger than the bound, so that a second copy of it, or all of its tiles in flight, would fail.
    side = int(os.environ.get("READ_MEMORY_SIDE", "12288"))
    done = subprocess.run(
        [sys.executable, str(script), str(side), how], capture_output=True, text=True, check=False, timeout=580
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 256 * 1024 * 1024
