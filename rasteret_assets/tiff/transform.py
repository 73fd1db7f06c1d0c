"""Make one axis-aligned transform of the GeoTIFF tags of a position, by GDAL's rules.

OGC 19-008r4 section 7.2 has two forms: a tie point with a pixel scale, or a 4x4 matrix. GDAL takes the first form if
both are present, uses the first of several tie points, and reads a negative ScaleY as north-up nevertheless
(``GTIFF_HONOUR_NEGATIVE_SCALEY`` in its GTiff driver page). If the raster type is PixelIsPoint, the coordinates are
those of a pixel's centre, half a pixel inside the corner that PixelIsArea means.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rasteret_assets.errors import NotGeoreferencedError, UnsupportedTiffError

Transform = tuple[float, float, float, float]
"""``(scale_x, translate_x, scale_y, translate_y)``: x = translate_x + column * scale_x, y likewise by row."""

#: Coordinates and scales below this value can be added and halved without overflow.
_FAR: Final = 1e300

#: Pixels by which off-diagonal terms may move the far corner of the image and still count as rounding noise.
SHEAR_TOLERANCE: Final = 1e-3


def read_transform(
    *,
    pixel_scale: tuple[float, ...],
    tiepoint: tuple[float, ...],
    matrix: tuple[float, ...],
    pixel_is_point: bool,
    shape: tuple[int, int],
) -> Transform:
    """Return the transform of an image.

    Args:
        pixel_scale: values of ModelPixelScale: size of a pixel in x, y, z.
        tiepoint: values of ModelTiepoint: I, J, K in pixels, then X, Y, Z in the CRS, for each tie point.
        matrix: values of ModelTransformation, row by row.
        pixel_is_point: whether GTRasterType says that coordinates are those of pixel centres.
        shape: width and height of the image in pixels, to tell shear from rounding noise.

    Raises:
        NotGeoreferencedError: if the tags give no position, or one without a finite, nonzero scale.
        UnsupportedTiffError: if the image is rotated or sheared.
    """
    scale_usable = len(pixel_scale) >= 2 and pixel_scale[0] != 0 and pixel_scale[1] != 0
    if scale_usable:
        if len(tiepoint) < 6:
            raise NotGeoreferencedError(
                f"no georeferencing: ModelPixelScale is there, but ModelTiepoint has {len(tiepoint)} of 6 values"
            )
        scale_x, scale_y = _steps(pixel_scale)
        x, y = tied_corner((scale_x, scale_y), tiepoint)
    elif len(matrix) == 16:
        scale_x, scale_y, x, y = matrix[0], matrix[5], matrix[3], matrix[7]
        _refuse_shear(scale_x, matrix[1], matrix[4], scale_y, shape)
    elif pixel_scale:
        raise NotGeoreferencedError(
            f"no usable georeferencing: the pixel scale is {list(pixel_scale[:3])}, zero or incomplete"
        )
    else:
        raise NotGeoreferencedError(f"no georeferencing: ModelTransformation has {len(matrix)} values instead of 16")
    if pixel_is_point:
        x -= scale_x / 2
        y -= scale_y / 2
    transform = (scale_x, x, scale_y, y)
    if not (math.isfinite(scale_x) and math.isfinite(x) and math.isfinite(scale_y) and math.isfinite(y)):
        raise NotGeoreferencedError(f"no usable georeferencing: the transform {list(transform)} is not finite")
    if scale_x == 0 or scale_y == 0:
        raise NotGeoreferencedError(f"no usable georeferencing: the transform {list(transform)} has a zero scale")
    return transform


def tied_steps(pixel_scale: tuple[float, ...]) -> tuple[float, float] | None:
    """Return ``(scale_x, scale_y)`` of a pixel scale; None if :func:`read_transform` has to check the scale."""
    if len(pixel_scale) < 2 or not all(0 < abs(step) < _FAR for step in pixel_scale[:2]):
        return None
    return _steps(pixel_scale)


def _steps(pixel_scale: tuple[float, ...]) -> tuple[float, float]:
    return pixel_scale[0], -abs(pixel_scale[1])


def tied_corner(steps: Any, tiepoint: Any) -> tuple[Any, Any]:
    """Return x and y of an image's origin by its tie point, before its raster type counts.

    Args:
        steps: scale in x and in y: two numbers, or two columns.
        tiepoint: values of ModelTiepoint: numbers or columns.
    """
    return tiepoint[3] - tiepoint[0] * steps[0], tiepoint[4] - tiepoint[1] * steps[1]


def is_surely_placed(steps: tuple[float, float], tiepoint: tuple[float, ...]) -> bool:
    """Return whether :func:`read_transform` accepts a tie point for sure; False if that takes a closer check."""
    x, y = tied_corner(steps, tiepoint)
    return bool(abs(x) + abs(y) < _FAR)


def tied_transforms(
    steps: NDArray[np.float64], tiepoints: NDArray[np.float64], pixel_is_point: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the transforms of many images with valid pixel scales and tie points, as :func:`read_transform` does.

    Args:
        steps: of :func:`tied_steps`, ``[N, 2]``.
        tiepoints: values of ModelTiepoint, ``[N, 6 or more]``.
        pixel_is_point: whether coordinates are those of pixel centres, ``[N]``.

    Returns:
        ``[N, 4]``, in the order of :data:`Transform`.
    """
    x, y = tied_corner(steps.T, tiepoints.T)
    half_x, half_y = np.where(pixel_is_point, steps.T / 2, 0)
    return np.column_stack([steps[:, 0], x - half_x, steps[:, 1], y - half_y])


def _refuse_shear(a: float, b: float, d: float, e: float, shape: tuple[int, int]) -> None:
    """Refuse a matrix x = a*column + b*row, y = d*column + e*row whose axes are not those of the CRS."""
    width, height = shape
    if abs(b) * height <= SHEAR_TOLERANCE * abs(a) and abs(d) * width <= SHEAR_TOLERANCE * abs(e):
        return
    terms = f"x = {a:g}*column + {b:g}*row, y = {d:g}*column + {e:g}*row"
    if not all(math.isfinite(term) for term in (a, b, d, e)):
        raise NotGeoreferencedError(f"no usable georeferencing: the transform {terms} is not finite")
    # Perpendicular axes are a rotation (with or without a flip), other axes a shear.
    rotated = abs(a * b + d * e) <= 1e-9 * math.hypot(a, d) * math.hypot(b, e)
    kind = "rotated" if rotated and (b or d) and not (a == e == b == d == 0) else "sheared"
    raise UnsupportedTiffError(f"{kind} geotransform ({terms}); only axis-aligned images can be indexed")
