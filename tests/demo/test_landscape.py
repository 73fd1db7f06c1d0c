"""The made-up landscape: plausible numbers, the same ones every time."""

import numpy as np
import pytest

from rasteret_assets.demo._landscape import BANDS, SIZE, reflectance, with_clouds


@pytest.fixture(scope="module")
def may() -> np.ndarray:
    return reflectance(1)


def test_every_cell_reflects_something(may: np.ndarray) -> None:
    assert may.shape == (len(BANDS), SIZE, SIZE)
    assert 0 < may.min() < may.max() < 15_000


def test_leaves_come_out_in_spring_and_the_sea_stays_as_it_is(may: np.ndarray) -> None:
    april, nir = reflectance(0), BANDS.index("nir")
    on_land = may[nir] > 1500
    assert 0.2 < on_land.mean() < 0.6
    assert may[nir][on_land].mean() > 1.1 * april[nir][on_land].mean()
    np.testing.assert_array_equal(may[:, :50, :50], april[:, :50, :50])


@pytest.mark.parametrize("cover", [0.05, 0.35])
def test_clouds_hide_about_the_share_that_is_asked_for(may: np.ndarray, cover: float) -> None:
    seen, hidden = with_clouds(may, 3, cover)
    assert (hidden > 0.3).mean() == pytest.approx(cover, rel=0.3)
    blue = BANDS.index("blue")
    assert seen[blue][hidden == 1].mean() > 3 * seen[blue][hidden == 0].mean()


def test_weather_is_seeded(may: np.ndarray) -> None:
    one, same, other = (with_clouds(may, weather, 0.2)[0] for weather in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
