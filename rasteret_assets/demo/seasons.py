"""What a satellite sees of the island in a month: surface reflectance, and the clouds in front of it."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from rasteret_assets.demo.island import CELL_M, SEED, SIZE, Island
from rasteret_assets.demo.noise import Field, fractal, ramp

#: Bands in the order of every spectrum below.
BANDS: Final = ("blue", "green", "red", "nir")

#: Reflectance times 10 000 by band.
_SPECTRA: Final = {
    "deep water": (470, 350, 150, 70),
    "shallows": (860, 900, 430, 150),
    "muddy water": (820, 1080, 860, 330),
    "sand": (1450, 1800, 2150, 2800),
    "tidal flat": (950, 1100, 1180, 1250),
    "marsh": (520, 780, 690, 2500),
    "bare soil": (720, 960, 1260, 1850),
    "young crop": (420, 800, 620, 3300),
    "full crop": (280, 690, 330, 4900),
    "rapeseed": (470, 1420, 1440, 4500),
    "ripe corn": (700, 1210, 1450, 3100),
    "meadow": (380, 860, 520, 3900),
    "heath": (430, 640, 720, 1900),
    "leafless wood": (420, 570, 650, 1700),
    "leafy wood": (230, 560, 270, 4300),
    "conifers": (190, 360, 220, 2300),
    "rock": (900, 1020, 1120, 1600),
    "snow": (7200, 7200, 7100, 6300),
    "town": (1150, 1250, 1400, 1900),
    "cloud": (6900, 7000, 7100, 7300),
}

#: What a parcel shows from April to June, and the share of the farmland that is farmed so.
_ROTATION: Final[tuple[tuple[float, tuple[str, str, str]], ...]] = (
    (0.29, ("meadow", "meadow", "meadow")),
    (0.27, ("young crop", "full crop", "ripe corn")),
    (0.08, ("young crop", "rapeseed", "full crop")),
    (0.36, ("bare soil", "young crop", "full crop")),
)

#: Elevation in metres above which snow lies, and how much of the wood is in leaf, from April to June.
_SNOW_LINE_M: Final = (560, 760, 960)
_LEAF: Final = (0.1, 0.75, 1.0)

#: How far a cloud's shadow falls from it, in metres eastward and southward.
_SHADOW_M: Final = 900


def reflectance(island: Island, season: int) -> npt.NDArray[np.float32]:
    """Reflectance times 10 000 of the whole island, (bands, rows, columns); ``season`` counts months from April."""
    heights = island.elevation
    seen = np.empty((len(BANDS), *heights.shape), np.float32)
    seen[:] = _spectrum("meadow")
    _blend(seen, _spectrum("heath"), ramp(heights, 260, 420))
    _blend(seen, _crops(island, season), island.fields)
    wood = (1 - _LEAF[season]) * _spectrum("leafless wood") + _LEAF[season] * _spectrum("leafy wood")
    _blend(seen, wood, island.forest * (1 - island.conifers))
    _blend(seen, _spectrum("conifers"), island.forest * island.conifers)
    _blend(seen, _spectrum("rock"), ramp(heights + 25 * island.grain, 600, 760))
    _blend(seen, _spectrum("town"), 0.85 * island.town * (0.7 + 0.3 * np.sign(np.mod(island.parcel * 31, 1) - 0.4)))
    _blend(seen, _spectrum("marsh"), 0.9 * island.marsh)
    _blend(seen, _spectrum("sand"), ramp(heights, 3.6, 2.6) * (1 - 0.7 * island.marsh))
    _blend(seen, _spectrum("tidal flat"), ramp(heights, 2.2, 0.8) * np.clip(island.silt * 2, 0, 1))
    line = _SNOW_LINE_M[season]
    _blend(seen, _spectrum("snow"), ramp(heights + 30 * island.grain, line, line + 160))
    seen *= island.shade * (1 + 0.045 * island.grain)
    _blend(seen, _water(island), island.water)
    return seen


def _crops(island: Island, season: int) -> npt.NDArray[np.float32]:
    """What grows on every parcel; those of one crop differ a little, as sowing dates do."""
    grown = np.column_stack([_spectrum(stages[season]).ravel() for _, stages in _ROTATION])
    limits = np.cumsum([share for share, _ in _ROTATION])[:-1]
    crop = np.searchsorted(limits, island.parcel, side="right")
    vigour = 1 + 0.20 * (np.mod(island.parcel * 97, 1) - 0.5)
    return np.asarray(grown[:, crop] * vigour, np.float32)


def _water(island: Island) -> npt.NDArray[np.float32]:
    water = np.empty((len(BANDS), *island.elevation.shape), np.float32)
    water[:] = _spectrum("deep water")
    _blend(water, _spectrum("shallows"), 0.8 * ramp(island.elevation, -22, -1))
    _blend(water, _spectrum("muddy water"), 0.75 * island.silt)
    return water


def clouds(number: int, cover: float) -> Field:
    """Thickness of the clouds over the island, 0 where the sky is clear; about ``cover`` of it is hidden.

    Args:
        number: seeds the weather of one pass.
        cover: from 0 to 1.
    """
    field = fractal(np.random.default_rng((SEED, number)), SIZE, slope=1.9, longest=0.22)
    level = float(np.quantile(field[::4, ::4], 1 - cover))
    return np.asarray(np.clip(field - level + 0.15, 0, None))


def opacity(thickness: Field) -> Field:
    """How much of the ground clouds hide, from 0 to 1."""
    return ramp(thickness, 0, 0.6)


def behind_clouds(ground: npt.NDArray[np.float32], thickness: Field) -> npt.NDArray[np.float32]:
    """The island as seen from above, with clouds and the shadows they cast."""
    hidden = opacity(thickness)
    # The sun stands in the south-east, so a shadow falls to the north-west of its cloud.
    shift = -round(_SHADOW_M / CELL_M)
    seen = ground * (1 - 0.55 * np.roll(hidden, (shift, shift), axis=(0, 1)))
    _blend(seen, _spectrum("cloud") * (0.25 + 0.75 * (1 - np.exp(-1.2 * thickness))), hidden)
    return seen


def _spectrum(name: str) -> npt.NDArray[np.float32]:
    return np.array(_SPECTRA[name], np.float32)[:, None, None]


def _blend(seen: npt.NDArray[np.float32], other: npt.NDArray[np.float32], share: npt.NDArray[np.floating]) -> None:
    """Replace ``share`` of what is seen by something else, in place."""
    weight = share.astype(np.float32)
    for number, replacement in enumerate(other):
        seen[number] *= 1 - weight
        seen[number] += replacement * weight
