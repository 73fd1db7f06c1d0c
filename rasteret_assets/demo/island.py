"""The island: terrain, rivers and land use of a place that does not exist, in the open North Sea at 6° E.

It lies there because the UTM zones 31 and 32 meet at 6° E, so that one landscape falls into two coordinate reference
systems, and because nobody can mistake it for a real one. All fields share one square grid in a local transverse
Mercator projection; row 0 is the northern edge.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from rasteret_assets.demo.noise import Field, fractal, hashed, ramp

CENTRE: Final = (6.0, 55.4)
LOCAL_CRS: Final = f"+proj=tmerc +lon_0={CENTRE[0]} +lat_0={CENTRE[1]} +k=1 +x_0=0 +y_0=0 +ellps=WGS84 +units=m"
CELL_M: Final = 40.0
SIZE: Final = 1620
HALF_M: Final = SIZE * CELL_M / 2

#: Seeds the island, its clouds and the sensor's noise.
SEED: Final = 1953

#: Turning points of the rivers in shares of the half side (east, north), and their widths in metres at both ends. The
#: first two rise in the mountains; the others are the arms of the delta.
_RIVERS: Final[tuple[tuple[tuple[tuple[float, float], ...], float, float], ...]] = (
    (((-0.14, 0.20), (-0.05, 0.10), (-0.02, 0.02), (0.07, -0.10), (0.01, -0.22), (0.03, -0.33)), 40, 240),
    (((0.34, 0.26), (0.27, 0.12), (0.20, -0.02), (0.08, -0.09)), 40, 120),
    (((-0.40, 0.14), (-0.30, 0.02), (-0.16, -0.10), (-0.05, -0.17), (0.01, -0.22)), 40, 100),
    (((0.03, -0.33), (0.00, -0.42), (-0.09, -0.51), (-0.16, -0.78)), 150, 420),
    (((0.03, -0.33), (0.06, -0.43), (0.03, -0.54), (0.05, -0.86)), 200, 640),
    (((0.05, -0.40), (0.13, -0.46), (0.15, -0.56), (0.24, -0.80)), 140, 420),
    (((-0.01, -0.44), (-0.02, -0.52), (-0.04, -0.58), (-0.05, -0.82)), 90, 300),
    (((0.13, -0.46), (0.21, -0.49), (0.26, -0.55), (0.38, -0.72)), 90, 320),
)

#: Half the side, in cells, of the square around a point of a river in which distances to it matter.
_STAMP: Final = 15


@dataclass(frozen=True, kw_only=True)
class Island:
    """What does not change with the season; every field is :data:`SIZE` by :data:`SIZE`.

    Args:
        elevation: metres; negative under the sea.
        water: 1 in the sea and in rivers, with soft shores.
        shade: brightness of the slopes under a morning sun, 1 on level ground.
        silt: share of mud in the water, thickest at the river mouths.
        marsh: 1 on the salt marshes of the delta.
        fields: 1 on farmland.
        parcel: a number in [0, 1) for every parcel of farmland, which decides what grows there.
        forest: 1 in woods.
        conifers: 1 where the woods are evergreen.
        town: 1 in built-up places.
        grain: rough noise that keeps surfaces from looking painted.
    """

    elevation: Field
    water: Field
    shade: Field
    silt: Field
    marsh: Field
    fields: Field
    parcel: Field
    forest: Field
    conifers: Field
    town: Field
    grain: Field


@functools.cache
def make_island() -> Island:
    """The island, always the same one."""
    rng = np.random.default_rng(SEED)
    axis = (np.arange(SIZE, dtype=np.float32) + 0.5) * (2 / SIZE) - 1
    east, north = np.meshgrid(axis, -axis)
    rolling, rough = fractal(rng, SIZE, slope=2.2, longest=0.5), fractal(rng, SIZE, slope=1.8, longest=0.2)
    ridged = [1 - np.abs(fractal(rng, SIZE, slope=2.1, longest=wave)) / 1.4 for wave in (0.20, 0.08)]
    ridges = np.clip(0.7 * ridged[0] + 0.3 * ridged[1], 0, 1)

    mass = 0.63 - np.hypot(east * 1.02, (north - 0.04) * 1.06) + 0.11 * rolling + 0.022 * rough
    mass += 0.13 * np.exp(-((east - 0.07) ** 2 / 0.035 + (north + 0.52) ** 2 / 0.020))  # the delta grows seaward
    inland = ramp(mass, 0.0, 0.30)
    mountains = inland * np.exp(-((east + 0.20) ** 2 / 0.060 + (north - 0.33) ** 2 / 0.040))
    hills = inland * np.exp(-((east - 0.36) ** 2 / 0.03 + (north - 0.22) ** 2 / 0.05))
    # Land rises within a few hundred metres of the shore and gently behind; the sea floor falls off evenly.
    shore = 8 * (1 - np.exp(-np.clip(mass, 0, None) / 0.012))
    elevation = np.where(mass > 0, shore + 90 * mass, 300 * mass).astype(np.float32)
    elevation += mountains * (160 + 1250 * ridges) + hills * (60 + 330 * ridges)
    elevation += inland * (12 * rolling + 4 * rough)
    # Towards the river mouths the land dissolves into marshes, flats and islets.
    mouths = np.exp(-((east - 0.08) ** 2 / 0.070 + (north + 0.74) ** 2 / 0.030))
    shoals = 30 * mass + 1.5 * fractal(rng, SIZE, slope=1.5, longest=0.06) + 1.0
    elevation += (shoals - elevation) * ramp(mouths, 0.25, 0.75)

    reach, river = _rivers()
    elevation -= ramp(reach, 600, 0) * np.clip(elevation - 2, 0, None) * 0.6
    sea = ramp(elevation, 1.0, -1.0)
    silt = np.clip(mouths * (0.80 + 0.30 * rolling + 0.12 * rough) + 0.75 * river * (1 - sea), 0, 1)
    marsh = mouths * ramp(elevation, 1.0, 2.0) * ramp(mouths, 0.2, 0.5)

    slope = np.hypot(*np.gradient(elevation, CELL_M))
    patches = fractal(rng, SIZE, slope=1.7, longest=0.12)
    forest = ramp(patches + ramp(elevation, 60, 240) * 1.9 + slope * 3, 0.95, 1.15) * ramp(elevation, 640, 540)
    forest *= ramp(elevation, 4, 6) * (1 - ramp(mouths, 0.2, 0.5))
    fields = ramp(slope, 0.12, 0.06) * ramp(elevation + rough, 4.0, 5.0) * ramp(elevation, 220, 160) * (1 - forest)
    return Island(
        elevation=elevation,
        water=np.maximum(sea, river),
        shade=_shade(elevation),
        silt=silt.astype(np.float32),
        marsh=marsh.astype(np.float32),
        fields=fields,
        parcel=_parcels(east, north, rolling),
        forest=forest,
        conifers=ramp(elevation + 60 * patches, 190, 330),
        town=_towns(east, north, rough),
        grain=fractal(rng, SIZE, slope=0.6, longest=0.02),
    )


def _shade(elevation: Field) -> Field:
    """Lambert's cosine law for a sun in the south-east, relative to level ground."""
    south, east = np.gradient(1.4 * elevation, CELL_M)  # a little exaggerated, as relief maps are
    sun = np.array([0.52, 0.45, 0.73], np.float32)  # east, south, up
    light = (-east * sun[0] - south * sun[1] + sun[2]) / np.sqrt(1 + east**2 + south**2)
    return np.asarray(np.clip(light / sun[2], 0.25, 1.7), np.float32)


def _rivers() -> tuple[Field, Field]:
    """Distance to the nearest river bed (metres, up to 600), and 1 in the water of a river."""
    rng = np.random.default_rng(SEED + 1)
    reach = np.full((SIZE, SIZE), 600, np.float32)
    inside = np.full((SIZE, SIZE), -600, np.float32)
    offsets = np.arange(-_STAMP, _STAMP + 1)
    for turns, first_width, last_width in _RIVERS:
        course = _meander(np.array(turns), rng)
        widths = np.linspace(first_width, last_width, len(course))
        for (x, y), width in zip(course, widths, strict=True):
            # Stamping a disc of distances per step is exact and touches only the river's own surroundings.
            column, row = round((x + HALF_M) / CELL_M), round((HALF_M - y) / CELL_M)
            if not _STAMP < row < SIZE - _STAMP - 1 or not _STAMP < column < SIZE - _STAMP - 1:
                continue
            box = slice(row - _STAMP, row + _STAMP + 1), slice(column - _STAMP, column + _STAMP + 1)
            to_x = (column + offsets + 0.5) * CELL_M - HALF_M - x
            to_y = HALF_M - (row + offsets + 0.5) * CELL_M - y
            away = np.hypot(to_x[None, :], to_y[:, None]).astype(np.float32)
            np.minimum(reach[box], away, out=reach[box])
            np.maximum(inside[box], width / 2 - away, out=inside[box])
    return reach, ramp(inside, -CELL_M / 2, CELL_M / 2)


def _meander(turns: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """A winding course in metres through turning points, one point every 20 m or so; both ends stay in place."""
    distance = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(turns, axis=0).T))])
    steps = int(distance[-1] * HALF_M / 20)
    along = np.linspace(0, 1, steps)
    knots = distance / distance[-1]
    course = np.column_stack([_smooth(np.interp(along, knots, turns[:, axis]), steps // 8) for axis in (0, 1)])
    length_km = distance[-1] * HALF_M / 1000
    phase = rng.uniform(0, 6, 3)
    waves = np.array([4.5, 2.1, 1.0])  # km
    bends = waves @ np.sin(2 * np.pi * length_km / waves[:, None] * along + phase[:, None])
    heading = np.gradient(course, axis=0)
    across = np.column_stack([-heading[:, 1], heading[:, 0]]) / np.hypot(*heading.T)[:, None]
    calm = np.minimum(1, np.minimum(along, 1 - along) * 8)[:, None]
    return np.asarray(course * HALF_M + across * bends[:, None] * 85 * calm)


def _smooth(values: npt.NDArray[np.float64], width: int) -> npt.NDArray[np.float64]:
    """A running mean that leaves both ends where they are."""
    padded = np.concatenate([2 * values[0] - values[width:0:-1], values, 2 * values[-1] - values[-2 : -width - 2 : -1]])
    return np.convolve(padded, np.ones(2 * width + 1) / (2 * width + 1), mode="valid")


def _parcels(east: Field, north: Field, bend: Field) -> Field:
    """Farmland divided as land is: blocks turned to their own bearing, each cut into strips of its own width."""
    x, y = (east + 0.012 * bend) * HALF_M, (north - 0.012 * bend) * HALF_M
    block_x, block_y = np.floor(x / 1900 + 0.3 * np.floor(y / 1500)), np.floor(y / 1500)
    keys = block_x.astype(np.int32), block_y.astype(np.int32)
    bearing = (hashed(*keys, salt=7) - 0.5) * 0.9
    u, v = x * np.cos(bearing) + y * np.sin(bearing), y * np.cos(bearing) - x * np.sin(bearing)
    strip = np.floor(u / (170 + 330 * hashed(*keys, salt=8))).astype(np.int32)
    piece = np.floor(v / (260 + 500 * hashed(*keys, salt=9))).astype(np.int32)
    return hashed(*keys, strip, piece, salt=11)


def _towns(east: Field, north: Field, rough: Field) -> Field:
    """Built-up places at the river's fork, at the delta's apex and on the coasts."""
    places = (
        (0.10, -0.085, 0.026),
        (0.085, -0.335, 0.022),
        (-0.40, -0.16, 0.016),
        (0.46, 0.02, 0.014),
        (0.10, 0.47, 0.014),
    )
    town = np.zeros_like(east)
    for x, y, radius in places:
        town = np.maximum(town, ramp(np.hypot(east - x, north - y) / radius + 0.5 * rough, 1.2, 0.8))
    return town
