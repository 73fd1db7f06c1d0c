"""Reflectance as colours a person can look at."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

#: Reflectance (times 10 000) at which a channel is bright; beyond it the curve flattens, so that clouds keep a shape.
_BRIGHT = 1350.0
#: Leaves throw back twice as much infrared as anything else of what they meet.
_BRIGHT_NIR = 3000.0


def true_colour(
    red: npt.NDArray[np.uint16], green: npt.NDArray[np.uint16], blue: npt.NDArray[np.uint16]
) -> npt.NDArray[np.float32]:
    """(rows, columns, 3) from 0 to 1, as the eye would see it."""
    return _stretch((red, _BRIGHT), (green, _BRIGHT), (blue, _BRIGHT))


def false_colour(
    nir: npt.NDArray[np.uint16], red: npt.NDArray[np.uint16], green: npt.NDArray[np.uint16]
) -> npt.NDArray[np.float32]:
    """(rows, columns, 3) from 0 to 1 with near infrared shown as red: the more leaves, the redder."""
    return _stretch((nir, _BRIGHT_NIR), (red, _BRIGHT), (green, _BRIGHT))


def _stretch(*channels: tuple[npt.NDArray[np.uint16], float]) -> npt.NDArray[np.float32]:
    stacked = np.stack([band.astype(np.float32) / bright for band, bright in channels], axis=-1)
    result: npt.NDArray[np.float32] = 1 - np.exp(-stacked)
    return result
