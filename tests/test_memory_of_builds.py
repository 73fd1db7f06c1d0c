"""A build takes a bounded number of bytes, however many records a month has and however large their headers are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import rasterio
import shapely
import tifffile
from affine import Affine

import rasteret_assets

TILE = 16


def save_header(side: int, path: Path) -> dict[str, Any]:
    """Write the header of a file of ``side`` x ``side`` tiles, all of them there; return where its offsets stand."""
    profile = {
        "driver": "GTiff", "width": side * TILE, "height": side * TILE, "count": 1, "dtype": "uint8", "tiled": True,
        "blockxsize": TILE, "blockysize": TILE, "crs": "EPSG:32632", "transform": Affine(10, 0, 4e5, 0, -10, 5e6),
        "sparse_ok": True,
    }  # fmt: skip
    with rasterio.open(path, "w", **profile):
        pass
    with tifffile.TiffFile(path) as tiff:
        offsets, counts = (tiff.pages[0].tags[name] for name in ("TileOffsets", "TileByteCounts"))
    content = bytearray(path.read_bytes())
    # GDAL wrote none of the tiles; sizes that repeat as little as real ones do.
    tables = {
        offsets: [65536 + 2048 * number for number in range(side * side)],
        counts: [1000 + 7919 * number % 1009 for number in range(side * side)],
    }
    for tag, values in tables.items():
        packed = np.array(values, {tifffile.DATATYPE.SHORT: "<u2", tifffile.DATATYPE.LONG: "<u4"}[tag.dtype]).tobytes()
        content[tag.valueoffset : tag.valueoffset + len(packed)] = packed
    path.write_bytes(content)
    return {"header": str(path), "place": offsets.valueoffset, "tiles": side * side}


def write_records(path: Path, records: int, bands: int, cloud_cover: float) -> None:
    """Write a month of records without holding more than ten thousand of them."""
    schema = None
    writer = None
    for first in range(0, records, 10_000):
        count = min(10_000, records - first)
        numbers = pa.array(range(first, first + count)).cast(pa.string())
        stem = "https://data.example/sentinel-s2-l2a-cogs/32/T/NS/2024/1/S2A_32TNS_"
        assets = {
            f"B{band:02}": pa.StructArray.from_arrays(
                [pc.binary_join_element_wise(stem, numbers, f"/B{band:02}.tif", "")], ["href"]
            )
            for band in range(bands)
        }
        table = pa.table({
            "id": pc.binary_join_element_wise("r", numbers, ""),
            "datetime": pa.array([datetime(2024, 1, 5, tzinfo=UTC)] * count, pa.timestamp("us", "UTC")),
            "geometry": pa.array([shapely.to_wkb(shapely.box(9, 48, 9.1, 48.1))] * count, pa.binary()),
            "assets": pa.StructArray.from_arrays(list(assets.values()), list(assets)),
            "eo:cloud_cover": pa.array([cloud_cover] * count),
        })  # fmt: skip
        schema = schema or table.schema
        writer = writer or pq.ParquetWriter(path, schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


def peak_of_a_build(folder: Path, header: dict[str, Any]) -> dict[str, Any]:
    """Return the peak in MB, libraries and all, of a build in a process of its own, and what it fetched."""
    spec = {
        "path": str(folder / "records.parquet"), "name": "m", "workspace_dir": str(folder / "w"), "enrich_cog": True,
    }  # fmt: skip
    (folder / "job.json").write_text(json.dumps({"spec": spec, **header}))
    root = Path(rasteret_assets.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.peak", str(folder / "job.json")], capture_output=True, text=True,
        check=False, timeout=3600, cwd=root, env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("records", "bands", "side", "most"),
    [
        pytest.param(1500, 1, 79, 600, id="1500 records of 6241 tiles"),
        pytest.param(8000, 1, 79, 600, id="8000 records of 6241 tiles", marks=pytest.mark.slow),
        pytest.param(100_000, 13, 11, 600, id="100000 records of 13 bands", marks=pytest.mark.slow),
    ],
)
def test_a_build_takes_a_bounded_number_of_bytes(
    tmp_path: Path, records: int, bands: int, side: int, most: int
) -> None:
    header = save_header(side, tmp_path / "header.tif")
    write_records(tmp_path / "records.parquet", records, bands, cloud_cover=1.0)
    first = peak_of_a_build(tmp_path, header)
    # Every record is stated anew, so that all headers are read again from where they are kept.
    write_records(tmp_path / "records.parquet", records, bands, cloud_cover=2.0)
    second = peak_of_a_build(tmp_path, header)
    assert (first["records"], first["fetched"]) == (records, records * bands)
    assert (second["records"], second["fetched"]) == (records, 0)
    assert first["peak"] < most
    assert second["peak"] < most
