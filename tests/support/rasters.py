"""Small tiled GeoTIFFs and record tables that describe them, for tests of the stages."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import rasterio
import shapely
from affine import Affine
from rasterio.warp import transform_bounds


def tiff_bytes(
    *, width: int = 100, height: int = 80, bands: int = 1, dtype: str = "uint16", seed: int = 0, epsg: int = 32632,
    origin: tuple[float, float] = (500_000.0, 5_400_000.0), pixel: float = 10.0, nodata: float | None = 0, **options,
) -> bytes:  # fmt: skip
    """A GDAL-written tiled GeoTIFF with random pixels."""
    pixels = np.random.default_rng(seed).integers(1, 200, (bands, height, width)).astype(dtype)
    profile = {
        "driver": "GTiff", "width": width, "height": height, "count": bands, "dtype": dtype, "crs": f"EPSG:{epsg}",
        "transform": Affine(pixel, 0, origin[0], 0, -pixel, origin[1]), "nodata": nodata, "tiled": True,
        "blockxsize": 32, "blockysize": 32, "compress": "deflate", **options,
    }  # fmt: skip
    with rasterio.MemoryFile() as memory:
        with memory.open(**profile) as dataset:
            dataset.write(pixels)
        return bytes(memory.read())


def footprint(tiff: bytes) -> shapely.Geometry:
    """The lon/lat outline of a GeoTIFF."""
    with rasterio.open(io.BytesIO(tiff)) as dataset:
        return shapely.box(*transform_bounds(dataset.crs, "EPSG:4326", *dataset.bounds))


def record_table(
    ids: list[str], hrefs: dict[str, list[str | None]], *, datetimes: list[datetime | None] | None = None,
    outline: shapely.Geometry | None = None, **columns,
) -> pa.Table:  # fmt: skip
    """A clean record table: one row per id, one asset per key of ``hrefs``."""
    rows = len(ids)
    times = datetimes or [datetime(2024, 4 + row % 3, 1 + row % 28, 10, tzinfo=UTC) for row in range(rows)]
    wkb = shapely.to_wkb(outline or shapely.box(9, 48, 9.1, 48.1))
    assets = pa.StructArray.from_arrays(
        [pa.StructArray.from_arrays([pa.array(values, pa.string())], names=["href"]) for values in hrefs.values()],
        names=list(hrefs),
    )
    return pa.table({
        "id": pa.array(ids, pa.string()), "datetime": pa.array(times, pa.timestamp("us", tz="UTC")),
        "geometry": pa.array([wkb] * rows, pa.binary()), "assets": assets, **columns,
    })  # fmt: skip
