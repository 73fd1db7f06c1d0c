"""An island that does not exist, in the open North Sea at 6° E, as a satellite sees it from April to June.

The UTM zones 31 and 32 meet at 6° E, so that the scenes of one island lie in two coordinate reference systems. All
arrays cover one square grid in a local transverse Mercator projection; row 0 is the northern edge. The same seed gives
the same island.
"""

from __future__ import annotations

import functools
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.floating[Any]]

LOCAL_CRS: Final = "+proj=tmerc +lon_0=6 +lat_0=55.4 +k=1 +x_0=0 +y_0=0 +ellps=WGS84 +units=m"
CELL_M: Final = 40.0
SIZE: Final = 1620
HALF_M: Final = SIZE * CELL_M / 2

#: Seeds the island, its clouds and the noise of the sensor.
SEED: Final = 1953

#: Bands in the order of every spectrum below.
BANDS: Final = ("blue", "green", "red", "nir")

#: Reflectance times 10 000 by band. A list holds April, May and June.
_SPECTRA: Final = {
    "deep water": (470, 350, 150, 70),
    "shallows": (860, 900, 430, 150),
    "mud": (820, 1080, 860, 330),
    "sand": (1450, 1800, 2150, 2800),
    "tidal flat": (950, 1100, 1180, 1250),
    "meadow": (380, 860, 520, 3900),
    "heath": (430, 640, 720, 1900),
    "wood": [(410, 570, 610, 1960), (280, 560, 365, 3650), (230, 560, 270, 4300)],
    "conifers": (190, 360, 220, 2300),
    "rock": (900, 1020, 1120, 1600),
    "snow": (7200, 7200, 7100, 6300),
    "cloud": (6900, 7000, 7100, 7300),
    "corn": [(420, 800, 620, 3300), (280, 690, 330, 4900), (700, 1210, 1450, 3100)],
    "rapeseed": [(420, 800, 620, 3300), (470, 1420, 1440, 4500), (280, 690, 330, 4900)],
    "beets": [(720, 960, 1260, 1850), (420, 800, 620, 3300), (280, 690, 330, 4900)],
}

#: What grows on parcels of farmland, and the share of the parcels.
_CROPS: Final = {"meadow": 0.29, "corn": 0.27, "rapeseed": 0.08, "beets": 0.36}

#: Elevation in metres above which snow lies, from April to June.
_SNOW_LINE_M: Final = (560, 760, 960)

#: Turning points of the rivers in shares of the half side (east, north), and half their width in metres. The first
#: three rise inland; the others are the arms of the delta.
_RIVERS: Final = (
    (((-0.14, 0.20), (-0.02, 0.02), (0.07, -0.10), (0.01, -0.22), (0.03, -0.33)), 70),
    (((0.34, 0.26), (0.20, -0.02), (0.07, -0.10)), 40),
    (((-0.40, 0.14), (-0.16, -0.10), (0.01, -0.22)), 35),
    (((0.03, -0.33), (-0.09, -0.51), (-0.16, -0.78)), 140),
    (((0.03, -0.33), (0.06, -0.43), (0.05, -0.86)), 210),
    (((0.05, -0.40), (0.15, -0.56), (0.24, -0.80)), 130),
)

#: Metres to the north-west that the shadow of a cloud falls, because the sun stands in the south-east.
_SHADOW_M: Final = 900


def _fractal(rng: np.random.Generator, *, slope: float, longest: float) -> Field:
    """Return noise of mean 0 and deviation 1. Slope 1 is rough, 2.5 rolls; the longest wave is a share of the side."""
    spectrum = np.fft.rfft2(rng.standard_normal((SIZE, SIZE), dtype=np.float32))
    frequency = np.hypot(np.fft.fftfreq(SIZE, 1 / SIZE)[:, None], np.fft.rfftfreq(SIZE, 1 / SIZE)[None, :])
    spectrum *= np.maximum(frequency, 1 / longest) ** -slope
    spectrum[0, 0] = 0
    field = np.fft.irfft2(spectrum, s=(SIZE, SIZE))
    return np.asarray(field / field.std(), np.float32)


def _ramp(values: npt.NDArray[np.floating], low: float, high: float) -> Field:
    """Return 0 below ``low``, 1 above ``high``, a smooth rise between; it falls where ``low`` is above ``high``."""
    t = np.clip((values - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)


@functools.cache
def _terrain() -> dict[str, Field]:
    """Return what does not change with the season; every field is :data:`SIZE` by :data:`SIZE`."""
    rng = np.random.default_rng(SEED)
    axis = (np.arange(SIZE, dtype=np.float32) + 0.5) * (2 / SIZE) - 1
    east, north = np.meshgrid(axis, -axis)
    rolling, rough = _fractal(rng, slope=2.2, longest=0.5), _fractal(rng, slope=1.8, longest=0.2)
    ridges = 1 - np.abs(_fractal(rng, slope=2.1, longest=0.15)) / 1.4

    # How far inland: negative at sea. The delta grows southward.
    mass = 0.63 - np.hypot(east * 1.02, (north - 0.04) * 1.06) + 0.11 * rolling + 0.022 * rough
    mass += 0.13 * np.exp(-((east - 0.07) ** 2 / 0.035 + (north + 0.52) ** 2 / 0.020))
    inland = _ramp(mass, 0.0, 0.30)
    mountains = inland * np.exp(-((east + 0.20) ** 2 / 0.060 + (north - 0.33) ** 2 / 0.040))
    elevation = np.where(mass > 0, 8 * _ramp(mass, 0, 0.03) + 90 * mass, 300 * mass)
    elevation += mountains * (160 + 1250 * np.clip(ridges, 0, 1)) + inland * (12 * rolling + 4 * rough)
    # At the mouths of the rivers the land dissolves into flats and islets.
    mouths = np.exp(-((east - 0.08) ** 2 / 0.070 + (north + 0.74) ** 2 / 0.030))
    shoals = 30 * mass + 1.5 * _fractal(rng, slope=1.5, longest=0.06) + 1.0
    elevation += (shoals - elevation) * _ramp(mouths, 0.25, 0.75)

    river = _rivers(east + 0.02 * rough, north + 0.02 * rolling)
    sea = _ramp(elevation, 1.0, -1.0)
    patches = _fractal(rng, slope=1.7, longest=0.12)
    slope = np.hypot(*np.gradient(elevation, CELL_M))
    wood = _ramp(patches + _ramp(elevation, 60, 240) * 1.9 + slope * 3, 0.95, 1.15) * _ramp(elevation, 640, 540)
    wood *= _ramp(elevation, 4, 6) * _ramp(mouths, 0.5, 0.2)
    fields = _ramp(slope, 0.12, 0.06) * _ramp(elevation + rough, 4.0, 5.0) * _ramp(elevation, 220, 160) * (1 - wood)
    silt = np.clip(mouths * (0.80 + 0.30 * rolling + 0.12 * rough) + 0.75 * river * (1 - sea), 0, 1)
    grain = _fractal(rng, slope=0.6, longest=0.02)  # keeps surfaces from looking painted
    # Lambert's cosine law for a sun in the south-east, 1 on level ground, over a relief that is exaggerated a little.
    down, right = np.gradient(1.4 * elevation, CELL_M)
    shade = np.clip((0.73 - 0.52 * right - 0.45 * down) / 0.73 / np.sqrt(1 + right**2 + down**2), 0.25, 1.7)
    return {
        "elevation": elevation, "water": np.maximum(sea, river), "silt": silt, "wood": wood, "fields": fields,
        "grain": grain, "shade": shade, "parcel": _parcels(east + 0.012 * rolling, north - 0.012 * rolling),
    }  # fmt: skip


def _rivers(east: Field, north: Field) -> Field:
    """Return 1 in the water of a river. Coordinates with noise in them make the rivers wind."""
    inside = np.full_like(east, -1)
    for turns, half_width in _RIVERS:
        for (x, y), (to_x, to_y) in pairwise(turns):
            run, rise = to_x - x, to_y - y
            along = np.clip(((east - x) * run + (north - y) * rise) / (run**2 + rise**2), 0, 1)
            away = np.hypot(east - x - along * run, north - y - along * rise)
            np.maximum(inside, half_width / HALF_M - away, out=inside)
    return _ramp(inside * HALF_M, -CELL_M / 2, CELL_M / 2)


def _parcels(east: Field, north: Field) -> Field:
    """Return a number in [0, 1) for every parcel of farmland: blocks of one bearing, each cut into strips."""
    x, y = east * HALF_M, north * HALF_M
    block = np.floor(y / 1500) * 977 + np.floor(x / 1900 + 0.3 * np.floor(y / 1500))
    bearing = (_hashed(block) - 0.5) * 0.9
    u, v = x * np.cos(bearing) + y * np.sin(bearing), y * np.cos(bearing) - x * np.sin(bearing)
    strip = np.floor(u / (170 + 330 * _hashed(block + 0.5)))
    return _hashed(block + 0.37 * strip + 0.011 * np.floor(v / (260 + 500 * _hashed(block + 0.25))))


def _hashed(keys: Field) -> Field:
    """Return a number in [0, 1) for every key, which is the same for the same key and unrelated for others."""
    return np.asarray(np.mod(np.sin(keys.astype(np.float64) * 12.9898) * 43758.5453, 1))


def reflectance(season: int) -> Field:
    """Return reflectance times 10 000 under a clear sky, ``[bands, SIZE, SIZE]``, ``season`` months after April."""
    land = _terrain()
    heights, snow_line = land["elevation"], _SNOW_LINE_M[season]
    crops = np.searchsorted(np.cumsum(list(_CROPS.values()))[:-1], land["parcel"], side="right")
    grown = np.concatenate([_spectrum(name, season)[:, :, 0] for name in _CROPS], axis=1)
    vigour = 0.9 + 0.2 * np.mod(land["parcel"] * 97, 1)  # because sowing dates differ
    layers = (
        (_spectrum("heath"), _ramp(heights, 260, 420)),
        (grown[:, crops] * vigour, land["fields"]),
        (_spectrum("wood", season), land["wood"]),
        (_spectrum("conifers"), land["wood"] * _ramp(heights, 190, 330)),
        (_spectrum("rock"), _ramp(heights + 25 * land["grain"], 600, 760)),
        (_spectrum("sand"), _ramp(heights, 3.6, 2.6)),
        (_spectrum("tidal flat"), _ramp(heights, 2.2, 0.8) * np.clip(land["silt"] * 2, 0, 1)),
        (_spectrum("snow"), _ramp(heights + 30 * land["grain"], snow_line, snow_line + 160)),
    )
    seen = _layered(_spectrum("meadow"), *layers) * (land["shade"] * (1 + 0.045 * land["grain"]))
    shallows = (_spectrum("shallows"), 0.8 * _ramp(heights, -22, -1))
    water = _layered(_spectrum("deep water"), shallows, (_spectrum("mud"), 0.75 * land["silt"]))
    return _layered(seen, (water, land["water"]))


def with_clouds(ground: Field, weather: int, cover: float) -> tuple[Field, Field]:
    """Return the island with clouds and their shadows, and which share of every cell the clouds hide.

    Args:
        ground: as :func:`reflectance` returns it.
        weather: seed of the clouds of one pass.
        cover: share of the sky with clouds, about.
    """
    field = _fractal(np.random.default_rng((SEED, weather)), slope=1.9, longest=0.22)
    thickness = np.clip(field - np.quantile(field[::4, ::4], 1 - cover) + 0.15, 0, None)
    hidden, shift = _ramp(thickness, 0, 0.6), -round(_SHADOW_M / CELL_M)
    shaded = ground * (1 - 0.55 * np.roll(hidden, (shift, shift), axis=(0, 1)))
    brightness = 0.25 + 0.75 * (1 - np.exp(-1.2 * thickness))
    return _layered(shaded, (_spectrum("cloud") * brightness, hidden)), hidden


def _spectrum(name: str, season: int = 0) -> Field:
    spectrum = _SPECTRA[name]
    return np.array(spectrum[season] if isinstance(spectrum, list) else spectrum, np.float32)[:, None, None]


def _layered(ground: Field, *layers: tuple[Field, Field]) -> Field:
    """Return ``ground`` under layers of a reflectance and the share of the ground that it hides."""
    for layer, share in layers:
        ground = ground + (layer - ground) * share.astype(np.float32)
    return ground.astype(np.float32)
