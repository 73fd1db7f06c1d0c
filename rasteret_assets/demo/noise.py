"""Fractal noise and the few shaping functions a landscape is made with.

Everything is an array function of a seeded generator, so the same seed gives the same landscape.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float32]


def fractal(rng: np.random.Generator, size: int, *, slope: float, longest: float = 1.0) -> Field:
    """A square field of fractal noise with mean 0 and standard deviation 1, which continues over its edges.

    Args:
        rng: seeded generator.
        size: cells along each side.
        slope: how fast amplitudes fall with frequency: 1 is rough, 2.5 is rolling hills.
        longest: wavelength of the largest features, as a share of the side.
    """
    white = rng.standard_normal((size, size), dtype=np.float32)
    spectrum = np.fft.rfft2(white)
    waves = (np.fft.fftfreq(size, 1 / size)[:, None], np.fft.rfftfreq(size, 1 / size)[None, :])
    frequency = np.hypot(*(axis.astype(np.float32) for axis in waves))
    spectrum *= np.maximum(frequency, 1 / longest) ** np.float32(-slope)
    spectrum[0, 0] = 0
    field: Field = np.fft.irfft2(spectrum, s=(size, size)).astype(np.float32)
    field /= field.std()
    return field


def ramp(values: npt.NDArray[np.floating], low: float, high: float) -> Field:
    """0 below ``low``, 1 above ``high`` and a smooth rise between; falling where ``low`` is above ``high``."""
    t: Field = np.clip((values - low) / (high - low), 0, 1).astype(np.float32)
    return np.asarray(t * t * (3 - 2 * t))


def bilinear(
    stack: npt.NDArray[np.floating], rows: npt.NDArray[np.floating], columns: npt.NDArray[np.floating]
) -> Field:
    """Values of ``stack`` (..., rows, columns) at fractional positions, which are clipped to its edges."""
    height, width = stack.shape[-2:]
    rows, columns = np.clip(rows, 0, height - 1.001), np.clip(columns, 0, width - 1.001)
    row, column = rows.astype(np.intp), columns.astype(np.intp)
    down, right = (rows - row).astype(np.float32), (columns - column).astype(np.float32)
    # One flat index instead of two: numpy gathers twice as fast with it.
    flat, corner = stack.reshape(*stack.shape[:-2], height * width), row * width + column
    upper = flat.take(corner, axis=-1) * (1 - right) + flat.take(corner + 1, axis=-1) * right
    lower = flat.take(corner + width, axis=-1) * (1 - right) + flat.take(corner + width + 1, axis=-1) * right
    return np.asarray(upper * (1 - down) + lower * down, np.float32)


def hashed(*keys: npt.NDArray[np.integer], salt: int) -> Field:
    """A number in [0, 1) for every combination of integer keys: the same for the same keys, unrelated for others."""
    mixed = np.full(keys[0].shape, salt, np.uint32)
    for key in keys:
        mixed = (mixed ^ key.astype(np.int64).astype(np.uint32)) * np.uint32(0x9E3779B1)
        mixed ^= mixed >> np.uint32(15)
    mixed *= np.uint32(0x85EBCA77)
    mixed ^= mixed >> np.uint32(13)
    return (mixed >> np.uint32(8)).astype(np.float32) / np.float32(1 << 24)
