"""Twelve scenes of the island: four tiles in two UTM zones, once a month from April to June 2024.

Every scene is a folder with a COG per band and a thumbnail, as providers lay them out, and a row of a record table, as
STAC catalogs export it.
"""

from __future__ import annotations

import functools
import io
import itertools
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import imagecodecs
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pyproj
import shapely
import tifffile

from rasteret_assets.demo._landscape import BANDS, CELL_M, HALF_M, LOCAL_CRS, SEED, Field, reflectance, with_clouds

PIXEL_M: Final = 40.0
SIDE_M: Final = 768 * PIXEL_M
TILE_SIDE: Final = 256
_NODATA: Final = 0

#: Tiles by name: EPSG code, and x and y of the upper left corner. The zones overlap, as tiles of satellites do.
_TILES: Final = {
    "A1": (32631, 666600.0, 6172760.0),
    "A2": (32631, 666600.0, 6144040.0),
    "B1": (32632, 302680.0, 6172760.0),
    "B2": (32632, 302680.0, 6144040.0),
}

#: Passes of the satellite: month counted from April, first letter of the tiles that it saw, time, share of clouds, and
#: a seed of the weather.
_PASSES: Final = (
    (0, "A", datetime(2024, 4, 13, 10, 50, 31, tzinfo=UTC), 0.04, 16),
    (0, "B", datetime(2024, 4, 20, 10, 40, 19, tzinfo=UTC), 0.30, 20),
    (1, "B", datetime(2024, 5, 11, 10, 40, 24, tzinfo=UTC), 0.05, 8),
    (1, "A", datetime(2024, 5, 23, 10, 50, 29, tzinfo=UTC), 0.38, 21),
    (2, "A", datetime(2024, 6, 8, 10, 50, 33, tzinfo=UTC), 0.05, 23),
    (2, "B", datetime(2024, 6, 25, 10, 40, 21, tzinfo=UTC), 0.10, 1),
)

#: How many scenes there are: every pass sees two tiles.
SCENES: Final = 2 * len(_PASSES)

#: The file whose upload broke off after a few bytes: its record is published without a header of this band.
BROKEN: Final = ("frisland_A1_20240523", "nir")

THUMBNAIL: Final = "thumbnail.jpg"

#: Reflectance times 10 000 at which a channel is bright. Beyond it the curve flattens, so that clouds keep a shape.
_BRIGHT: Final = {"blue": 1350, "green": 1350, "red": 1350, "nir": 3000}

_COG: Final = "image/tiff; application=geotiff; profile=cloud-optimized"
_GEOMETRY: Final = {"geometry": {"encoding": "WKB", "geometry_types": ["Polygon"]}}
_GEO: Final = {"version": "1.1.0", "primary_column": "geometry", "columns": _GEOMETRY}


def write_scenes(folder: Path, written: Callable[[], None]) -> list[dict[str, Any]]:
    """Write all scenes, each into its own folder below ``folder``; the same bytes every time.

    Args:
        folder: that exists.
        written: called for every scene that was written.

    Returns:
        A row of the record table for every scene; addresses are relative to ``folder``.
    """
    rows: list[dict[str, Any]] = []
    with ThreadPoolExecutor() as pool:
        for season, letter, time, cover, weather in _PASSES:
            seen, hidden = with_clouds(reflectance(season), weather, cover)
            write = functools.partial(_write_scene, folder=folder, time=time, seen=seen, hidden=hidden)
            for row in pool.map(write, [tile for tile in _TILES if tile.startswith(letter)]):
                rows.append(row)
                written()
    path = folder / BROKEN[0] / f"{BROKEN[1]}.tif"
    path.write_bytes(path.read_bytes()[:180])
    return rows


def write_records(path: Path, rows: Sequence[dict[str, Any]], base_url: str) -> None:
    """Write a record table of scenes, whose addresses ``<scene>/<file>`` get another base URL if they have one."""

    def moved(asset: dict[str, str]) -> dict[str, str]:
        return asset | {"href": "/".join([base_url, *asset["href"].split("/")[-2:]])}

    rows = [row | {"assets": {name: moved(asset) for name, asset in row["assets"].items()}} for row in rows]
    pq.write_table(pa.Table.from_pylist(rows).replace_schema_metadata({"geo": json.dumps(_GEO)}), path)


def coloured(pixels: npt.NDArray[Any], bands: Sequence[str]) -> Field:
    """Return three bands ``[3, rows, columns]`` as red, green and blue, ``[rows, columns, 3]`` from 0 to 1."""
    bright = np.array([_BRIGHT[band] for band in bands], np.float32)
    return np.asarray(1 - np.exp(-np.moveaxis(pixels, 0, -1).astype(np.float32) / bright))


def _write_scene(tile: str, *, folder: Path, time: datetime, seen: Field, hidden: Field) -> dict[str, Any]:
    """Write the files of a scene, and return its row."""
    (epsg, left, top), name = _TILES[tile], f"frisland_{tile}_{time:%Y%m%d}"
    (folder / name).mkdir(parents=True, exist_ok=True)
    cells = _cells(tile)
    noise = np.random.default_rng([SEED, *name.encode()])  # the sensor's
    pixels = seen[:, *cells] + 8 * noise.standard_normal((len(BANDS), *cells[0].shape), np.float32)
    digital = np.clip(pixels.round(), _NODATA + 1, 10_000).astype(np.uint16)
    for band, raster in zip(BANDS, digital, strict=True):
        write_cog(folder / name / f"{band}.tif", raster, epsg, left, top)
    small = coloured(digital[[2, 1, 0], ::2, ::2], ("red", "green", "blue"))
    jpeg = imagecodecs.jpeg_encode(np.ascontiguousarray(small * 255, np.uint8), level=85)
    (folder / name / THUMBNAIL).write_bytes(jpeg)
    # The footprint has points between its corners, because the edges of a UTM tile bend in lon/lat.
    box = shapely.segmentize(shapely.box(left, top - SIDE_M, left + SIDE_M, top), SIDE_M / 8)
    to_lonlat = pyproj.Transformer.from_crs(epsg, "OGC:CRS84", always_xy=True)
    footprint = shapely.transform(box, lambda xy: np.column_stack(to_lonlat.transform(*xy.T)).round(6))
    assets = {band: {"href": f"{name}/{band}.tif", "type": _COG, "roles": ["data"]} for band in BANDS}
    assets["thumbnail"] = {"href": f"{name}/{THUMBNAIL}", "type": "image/jpeg", "roles": ["thumbnail"]}
    cover = round(100 * float((hidden[cells] > 0.3).mean()), 1)
    return {
        "id": name, "collection": "frisland", "datetime": time, "eo:cloud_cover": cover, "proj:epsg": epsg,
        "geometry": footprint.wkb, "assets": assets,
    }  # fmt: skip


@functools.cache
def _cells(tile: str) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return row and column of the cell of the island under every pixel of a tile."""
    epsg, left, top = _TILES[tile]
    centres = np.arange(PIXEL_M / 2, SIDE_M, PIXEL_M)
    to_local = pyproj.Transformer.from_crs(epsg, LOCAL_CRS, always_xy=True)
    east, north = to_local.transform(*np.meshgrid(left + centres, top - centres))
    return ((HALF_M - north) // CELL_M).astype(np.intp), ((HALF_M + east) // CELL_M).astype(np.intp)


def write_cog(path: Path, raster: npt.NDArray[np.uint16], epsg: int, left: float, top: float) -> None:
    """Write ``raster`` as a cloud-optimized GeoTIFF from its upper left corner, with overviews down to one tile."""
    # GeoTIFF 1.1 with three keys: a projected model (1024), pixels are areas (1025), the CRS (3072).
    keys = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, epsg)
    georeference = [
        (33550, "d", 3, (PIXEL_M, PIXEL_M, 0.0), True),  # ModelPixelScale
        (33922, "d", 6, (0.0, 0.0, 0.0, left, top, 0.0), True),  # ModelTiepoint
        (34735, "H", len(keys), keys, True),  # GeoKeyDirectory
        (42113, "s", 0, str(_NODATA), True),  # GDAL's nodata
    ]
    # Level 1, because noisy pixels come out hardly smaller at higher levels, only slower.
    options: dict[str, Any] = {
        "tile": (TILE_SIDE, TILE_SIDE), "photometric": "minisblack", "compression": "adobe_deflate", "predictor": 2,
        "compressionargs": {"level": 1}, "metadata": None, "software": False,
    }  # fmt: skip
    levels = [raster]
    while max(levels[-1].shape) > TILE_SIDE:  # means of four pixels each
        rows, columns = (size // 2 for size in levels[-1].shape)
        blocks = levels[-1][: rows * 2, : columns * 2].reshape(rows, 2, columns, 2)
        levels.append(blocks.mean(axis=(1, 3)).round().astype(np.uint16))
    # A cloud-optimized file has all directories before all tiles, and tifffile writes every directory before its own
    # tiles. So the directories are written with empty tiles first, and the tiles, encoded in memory, behind them.
    with tifffile.TiffWriter(path, byteorder="<") as tiff:
        for level in levels:
            kind = {"extratags": georeference} if level is raster else {"subfiletype": 1}
            tiff.write(itertools.repeat(b""), shape=level.shape, dtype=level.dtype, **kind, **options)
    encoded = io.BytesIO()
    with tifffile.TiffWriter(encoded, byteorder="<") as tiff:
        for level in levels:
            tiff.write(level, **options)
    encoded.seek(0)
    with tifffile.TiffFile(encoded) as tiles, tifffile.TiffFile(path, mode="r+") as file:
        for source, target in reversed(list(zip(tiles.pages, file.pages, strict=True))):
            end = file.filehandle.seek(0, io.SEEK_END)
            moved = [end + offset - source.dataoffsets[0] for offset in source.dataoffsets]
            tiles.filehandle.seek(source.dataoffsets[0])
            file.filehandle.write(tiles.filehandle.read(sum(source.databytecounts)))
            target.aspage().tags["TileOffsets"].overwrite(moved)
            target.aspage().tags["TileByteCounts"].overwrite(source.databytecounts)
