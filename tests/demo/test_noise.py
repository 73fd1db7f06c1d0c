"""The functions that the made-up landscape is shaped with."""

import numpy as np
import pytest

from rasteret_assets.demo.noise import bilinear, fractal, hashed, ramp


def test_fractal_noise_is_seeded_and_normalized() -> None:
    one, same = (fractal(np.random.default_rng(3), 64, slope=2.0) for _ in range(2))
    np.testing.assert_array_equal(one, same)
    assert one.dtype == np.float32
    assert one.std() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0, 1, [0, 0, 0.5, 1]), (1, 0, [1, 1, 0.5, 0])], ids=["rising", "falling"]
)
def test_ramp(low: float, high: float, expected: list[float]) -> None:
    np.testing.assert_allclose(ramp(np.array([-1.0, 0.0, 0.5, 1.0]), low, high), expected)


def test_bilinear_is_exact_on_a_plane() -> None:
    rows, columns = np.meshgrid(np.arange(5.0), np.arange(6.0), indexing="ij")
    plane = np.stack([rows * 2 + columns, columns]).astype(np.float32)
    found = bilinear(plane, np.array([0.25, 3.5]), np.array([1.5, 4.75]))
    np.testing.assert_allclose(found, [[2.0, 11.75], [1.5, 4.75]], rtol=1e-6)


def test_hashed_depends_on_keys_alone() -> None:
    keys = np.array([-5, 0, 5, -5], np.int32)
    values = hashed(keys, salt=1)
    assert values[0] == values[3]
    assert len(set(values.tolist())) == 3
    assert ((values >= 0) & (values < 1)).all()
