"""Twelve scenes of the island: four tiles in two UTM zones, once a month from April to June 2024.

Every scene is a folder with a COG per band, a thumbnail and a metadata document, as providers lay them out.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import imagecodecs
import numpy as np
import numpy.typing as npt
import pyproj

from rasteret_assets.demo.cog import NODATA, Placement, write_cog
from rasteret_assets.demo.colours import true_colour
from rasteret_assets.demo.island import CELL_M, HALF_M, LOCAL_CRS, SEED, make_island
from rasteret_assets.demo.noise import Field, bilinear
from rasteret_assets.demo.seasons import BANDS, behind_clouds, clouds, opacity, reflectance

SCENE_PIXELS: Final = 768
PIXEL_M: Final = 40.0

#: Tiles by name: EPSG code, and the centre in local metres (east, north). The zones overlap, as tiles of satellites do.
_TILES: Final = {
    "A1": (32631, (-8000, 14360)),
    "A2": (32631, (-8000, -14360)),
    "B1": (32632, (8000, 14360)),
    "B2": (32632, (8000, -14360)),
}

#: Passes of the satellite: month counted from April, first letter of the tiles it saw, time, share of clouds, and a
#: seed of the weather.
_PASSES: Final = (
    (0, "A", datetime(2024, 4, 13, 10, 50, 31, tzinfo=UTC), 0.04, 16),
    (0, "B", datetime(2024, 4, 20, 10, 40, 19, tzinfo=UTC), 0.30, 20),
    (1, "B", datetime(2024, 5, 11, 10, 40, 24, tzinfo=UTC), 0.05, 8),
    (1, "A", datetime(2024, 5, 23, 10, 50, 29, tzinfo=UTC), 0.38, 21),
    (2, "A", datetime(2024, 6, 8, 10, 50, 33, tzinfo=UTC), 0.05, 23),
    (2, "B", datetime(2024, 6, 25, 10, 40, 21, tzinfo=UTC), 0.10, 1),
)

#: Months with scenes, each a partition.
MONTHS: Final = len({month for month, *_ in _PASSES})

#: One upload broke off after a few bytes. The demo shows what becomes of it.
BROKEN: Final = ("frisland_A1_20240523", "nir")
_BROKEN_BYTES: Final = 180

THUMBNAIL: Final = "thumbnail.jpg"
METADATA: Final = "metadata.xml"


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One acquisition of one tile.

    Args:
        id: such as ``frisland_A1_20240413``; also the name of its folder.
        tile: name of the tile.
        time: of acquisition, UTC.
        placement: of its rasters.
        cloud_cover: percent of its pixels behind clouds.
    """

    id: str
    tile: str
    time: datetime
    placement: Placement
    cloud_cover: float

    def footprint(self) -> list[tuple[float, float]]:
        """Corners in lon/lat, counterclockwise and closed, with points between: edges of a UTM tile bend in lon/lat."""
        left, right, bottom, top = self.placement.extent((SCENE_PIXELS, SCENE_PIXELS))
        corners = np.array([(left, bottom), (right, bottom), (right, top), (left, top), (left, bottom)])
        steps = np.linspace(0, 4, 33)
        x, y = (np.interp(steps, range(5), corners[:, axis]) for axis in (0, 1))
        to_lonlat = pyproj.Transformer.from_crs(self.placement.epsg, "OGC:CRS84", always_xy=True)
        lon, lat = to_lonlat.transform(x, y)
        return [(round(a, 6), round(b, 6)) for a, b in zip(lon.tolist(), lat.tolist(), strict=True)]


def write_scenes(folder: Path, progress: Callable[[int, int], None]) -> list[Scene]:
    """Write all scenes below ``folder``; the same bytes every time.

    Args:
        folder: gets one folder per scene.
        progress: called with the number of scenes written and to write.
    """
    total = sum(tile[0] == letter for _, letter, *_ in _PASSES for tile in _TILES)
    scenes: list[Scene] = []
    with ThreadPoolExecutor() as pool:
        for scene in _scenes(folder, pool):
            scenes.append(scene)
            progress(len(scenes), total)
    name, band = BROKEN
    path = folder / name / f"{band}.tif"
    path.write_bytes(path.read_bytes()[:_BROKEN_BYTES])
    return sorted(scenes, key=lambda scene: scene.id)


def _scenes(folder: Path, pool: ThreadPoolExecutor) -> Iterator[Scene]:
    island = make_island()
    month, ground = -1, np.empty(0, np.float32)
    for season, letter, time, cover, weather in _PASSES:
        if season != month:
            month, ground = season, reflectance(island, season)
        sky = clouds(weather, cover)
        seen = behind_clouds(ground, sky)
        work = [pool.submit(_write_scene, folder, tile, time, seen, sky) for tile in _TILES if tile.startswith(letter)]
        for job in work:
            yield job.result()


def _write_scene(folder: Path, tile: str, time: datetime, seen: npt.NDArray[np.float32], sky: Field) -> Scene:
    placement = _placement(tile)
    rows, columns = _positions(placement)
    scene_id = f"frisland_{tile}_{time:%Y%m%d}"
    noise = np.random.default_rng([SEED, *scene_id.encode()])
    cover = 100 * float((opacity(bilinear(sky, rows, columns)) > 0.3).mean())
    pixels = bilinear(seen, rows, columns)
    pixels += noise.standard_normal(pixels.shape, np.float32) * 8  # the sensor's
    digital = np.clip(pixels.round(), NODATA + 1, 10_000).astype(np.uint16)
    home = folder / scene_id
    home.mkdir(parents=True, exist_ok=True)
    for band, raster in zip(BANDS, digital, strict=True):
        write_cog(home / f"{band}.tif", raster, placement)
    small = true_colour(*(digital[BANDS.index(band), ::2, ::2] for band in ("red", "green", "blue")))
    (home / THUMBNAIL).write_bytes(imagecodecs.jpeg_encode((small * 255).astype(np.uint8), level=85))
    scene = Scene(id=scene_id, tile=tile, time=time, placement=placement, cloud_cover=round(cover, 1))
    (home / METADATA).write_text(_document(scene), encoding="utf-8")
    return scene


def _placement(tile: str) -> Placement:
    epsg, centre = _TILES[tile]
    # Both tiles of a zone hang on one point, so that their pixels fall into line.
    to_utm = pyproj.Transformer.from_crs(LOCAL_CRS, epsg, always_xy=True)
    x, y = to_utm.transform(centre[0], 0)
    half = SCENE_PIXELS * PIXEL_M / 2
    snapped_x, snapped_y = (round(value / PIXEL_M) * PIXEL_M for value in (x, y))
    return Placement(epsg=epsg, left=snapped_x - half, top=snapped_y + centre[1] + half, pixel=PIXEL_M)


@functools.cache
def _positions(placement: Placement) -> tuple[Field, Field]:
    """Row and column in the island's grid of every pixel of a scene.

    Projected exactly on a coarse lattice and interpolated between: the error is far below a pixel.
    """
    lattice = np.linspace(0, SCENE_PIXELS, 25)
    x = placement.left + lattice * placement.pixel
    y = placement.top - lattice * placement.pixel
    to_local = pyproj.Transformer.from_crs(placement.epsg, LOCAL_CRS, always_xy=True)
    east, north = to_local.transform(*np.meshgrid(x, y))
    centres = (np.arange(SCENE_PIXELS) + 0.5) / SCENE_PIXELS * 24
    down, right = np.meshgrid(centres, centres, indexing="ij")
    rows = bilinear((HALF_M - north) / CELL_M - 0.5, down, right)
    columns = bilinear((HALF_M + east) / CELL_M - 0.5, down, right)
    return rows, columns


def _document(scene: Scene) -> str:
    facts = {"time": scene.time.isoformat(), "tile": scene.tile, "cloudCover": scene.cloud_cover}
    lines = "".join(f"  <{name}>{json.dumps(value).strip(chr(34))}</{name}>\n" for name, value in facts.items())
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<scene id="{scene.id}">\n{lines}</scene>\n'
