"""Make rasters, record tables and a counting backend for the tests of the collection.

Headers come from tifffile and expected pixels from rasterio, so that nothing here uses the code under test.
"""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import rasterio
import rasterio.warp
import shapely
import tifffile
from affine import Affine

from rasteret_assets import schema
from rasteret_assets.partitions import hive_schema

#: Random examples that a property test of pixels draws.
EXAMPLES = int(os.environ.get("READ_EXAMPLES", "20"))

UTM32 = "EPSG:32632"
ORIGIN = (500_000.0, 5_000_000.0)


@dataclass
class CountingBackend:
    """Read local files, and record every requested range."""

    ranges: list[tuple[str, int, int]] = field(default_factory=list)
    most_at_once: int = 0
    _now: int = 0

    async def get_range(self, url: str, start: int, length: int) -> bytes:
        self.ranges.append((url, start, length))
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        await asyncio.sleep(0.001)
        data = _read(Path(url.partition("?")[0]), start, length)
        self._now -= 1
        return data

    async def get_ranges(self, url: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        return [await self.get_range(url, start, length) for start, length in ranges]


def _read(path: Path, start: int, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(length)


def write_raster(
    path: Path,
    data: np.ndarray,
    *,
    nodata: float | None = None,
    crs: str = UTM32,
    resolution: float = 10.0,
    origin: tuple[float, float] = ORIGIN,
    tile: int = 64,
    **options: Any,
) -> Path:
    """Write ``data`` of shape (bands, rows, columns) as a tiled GeoTIFF."""
    profile = {
        "driver": "GTiff",
        "count": data.shape[0],
        "height": data.shape[1],
        "width": data.shape[2],
        "dtype": data.dtype,
        "crs": crs,
        "transform": Affine(resolution, 0, origin[0], 0, -resolution, origin[1]),
        "tiled": True,
        "blockxsize": tile,
        "blockysize": tile,
        "nodata": nodata,
        **options,
    }
    with rasterio.open(path, "w", **profile) as target:
        target.write(data)
    return path


def noise(dtype: str = "uint16", *, bands: int = 1, rows: int = 200, columns: int = 230, seed: int = 0) -> np.ndarray:
    """Return reproducible samples that differ everywhere and use the range of their type."""
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return rng.normal(scale=1e3, size=(bands, rows, columns)).astype(kind)
    limits = np.iinfo(kind)
    return rng.integers(limits.min, limits.max, (bands, rows, columns), dtype=kind, endpoint=True)


def header_of(path: Path, band_index: int = 0) -> dict[str, Any]:
    """Return the ``BAND_STRUCT`` value of one band of a file, read with tifffile and rasterio."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        order = tiff.byteorder
        tiles = -(-page.imagewidth // page.tilewidth) * -(-page.imagelength // page.tilelength)
        planar = int(page.planarconfig)
        own = slice(band_index * tiles, (band_index + 1) * tiles) if planar == 2 else slice(None)
        dtype = np.dtype(page.dtype).newbyteorder(order)
        tables = list(page.dataoffsets)[own], list(page.databytecounts)[own]
        values = {
            "image_width": page.imagewidth,
            "image_height": page.imagelength,
            "tile_width": page.tilewidth,
            "tile_height": page.tilelength,
            "dtype": dtype.str if order == ">" and dtype.itemsize > 1 else dtype.name,
            "predictor": int(page.predictor),
            "compression": int(page.compression),
            "tile_offsets": tables[0],
            "tile_byte_counts": tables[1],
            "samples_per_pixel": page.samplesperpixel,
            "planar_configuration": planar,
            "photometric": int(page.photometric),
            "jpeg_tables": base64.b64encode(page.jpegtables).decode() if page.jpegtables else None,
            "band_index": band_index,
        }
    with rasterio.open(path) as source:
        affine = source.transform
        values |= {
            "transform": [affine.a, affine.c, affine.e, affine.f],
            "nodata": source.nodata,
            "epsg": source.crs.to_epsg(),
            "crs": source.crs.to_string(),
        }
    return values


def footprint_of(path: Path) -> shapely.Geometry:
    """Return the outline of a file in lon/lat."""
    with rasterio.open(path) as source:
        outline = shapely.segmentize(shapely.box(*source.bounds), max(source.bounds.right - source.bounds.left, 1) / 32)
        return shapely.geometry.shape(rasterio.warp.transform_geom(source.crs, "OGC:CRS84", outline.__geo_interface__))


def record(
    name: str,
    bands: dict[str, tuple[Path, int]] | None = None,
    *,
    moment: dt.datetime | None = dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
    footprint: shapely.Geometry | None = None,
    bbox: tuple[float, float, float, float] | None = None,
    missing: Sequence[str] = (),
    **columns: Any,
) -> dict[str, Any]:
    """Return a row whose ``bands`` are (file, band index) by name; the bands in ``missing`` have no header."""
    bands = bands or {}
    if footprint is None and bands:
        footprint = footprint_of(next(iter(bands.values()))[0])
    if bbox is None and footprint is not None:
        bbox = footprint.bounds
    return {
        "id": name,
        "datetime": moment,
        "geometry": None if footprint is None else footprint.wkb,
        "bbox": None if bbox is None else dict(zip(("xmin", "ymin", "xmax", "ymax"), bbox, strict=True)),
        "assets": {band: {"href": str(path), "band_index": index} for band, (path, index) in bands.items()},
        "year": None if moment is None else moment.year,
        "month": None if moment is None else moment.month,
        **{
            schema.band_column(band): None if band in missing else header_of(path, index)
            for band, (path, index) in bands.items()
        },
        **columns,
    }


def records_table(rows: Sequence[dict[str, Any]], bands: Sequence[str] = ("B",), **types: pa.DataType) -> pa.Table:
    """Return the published table of ``rows``; ``types`` are the types of further columns."""
    asset = pa.struct([("href", pa.string()), ("band_index", pa.int32())])
    contract = {**schema.RECORD_FIELDS, **{key.name: key.type for key in hive_schema("month")}}
    fields = [(name, kind) for name, kind in contract.items() if name not in types]
    fields += [("assets", pa.struct([(band, asset) for band in bands]))]
    fields += list(types.items())
    fields += [(schema.band_column(band), schema.BAND_STRUCT) for band in bands]
    return pa.Table.from_pylist(list(rows), schema=pa.schema(fields))
