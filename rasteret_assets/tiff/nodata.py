"""GDAL's nodata text, read as GDAL reads it and kept only where a pixel can hold it.

The text is a number in the ``GDAL_NODATA`` tag (42113). GDAL parses a leading number and ignores what follows, takes a
comma for a decimal point where no point comes first, and rounds to float32 on a float32 raster. A value that no pixel
of the raster can have (-9999 on uint8, NaN or 0.5 on an integer) masks nothing: it is no nodata value.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import Final

import numpy as np

_REAL: Final = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_INTEGER: Final = re.compile(r"[+-]?\d+")

#: Texts that mean a number without being one, in lower case; those with ``#`` come from old Windows writers.
_SPECIAL: Final = {
    "nan": math.nan,
    "inf": math.inf,
    "-inf": -math.inf,
    "1.#qnan": math.nan,
    "-1.#qnan": math.nan,
    "-1.#ind": math.nan,
    "1.#inf": math.inf,
    "-1.#inf": -math.inf,
}

#: No number needs more; longer ones are cut before they are converted.
_MAX_TEXT: Final = 400


@lru_cache(maxsize=1024)
def parse_nodata(text: str | None, dtype: np.dtype) -> float | None:
    """The nodata value of a raster, ``None`` where there is none that a pixel could have.

    Args:
        text: content of the ``GDAL_NODATA`` tag, ``None`` without the tag.
        dtype: type of the pixels; its byte order does not matter.

    Returns:
        A value that is exact both as a Python float and in ``dtype``; NaN and infinities only for float rasters.
    """
    if not text:
        return None
    text = text[:_MAX_TEXT].strip()
    if dtype.kind == "f":
        value = _parse_real(text)
        return None if value is None else _fit_float(value, dtype)
    value = _parse_integer(text) if dtype.itemsize == 8 else _parse_real(text)
    return None if value is None else _fit_integer(value, dtype)


def _parse_real(text: str) -> float | None:
    """The number at the start of ``text``; a comma is the decimal mark unless a point comes first."""
    special = _SPECIAL.get(text.lower())
    if special is not None:
        return special
    comma, point = text.find(","), text.find(".")
    if comma >= 0 and (point < 0 or comma < point):
        text = text[:comma] + "." + text[comma + 1 :].replace(".", " ")
    match = _REAL.match(text)
    return None if match is None else float(match[0])


def _parse_integer(text: str) -> int | None:
    """The whole number at the start of ``text``; GDAL reads the nodata of 64-bit integers so, without exponents."""
    match = _INTEGER.match(text)
    return None if match is None else int(match[0])


def _fit_float(value: float, dtype: np.dtype) -> float | None:
    """``value`` as ``dtype`` holds it. Float32 rounds, as GDAL does; float16 must hold it exactly."""
    if not math.isfinite(value) or dtype.itemsize == 8:
        return value
    limit = float(np.finfo(dtype).max)
    if abs(value) > limit:
        # The largest float32, written with too few digits, may read as a little more than itself.
        return math.copysign(limit, value) if dtype.itemsize == 4 and abs(value) <= limit * (1 + 1e-10) else None
    rounded = float(dtype.type(value))
    return rounded if dtype.itemsize == 4 or rounded == value else None


def _fit_integer(value: float, dtype: np.dtype) -> float | None:
    """``value`` if it is a whole number in the range of ``dtype`` and exact as a float."""
    limits = np.iinfo(dtype)
    if not limits.min <= value <= limits.max or value != int(value):  # NaN fails the first comparison
        return None
    exact = float(value)
    return exact if exact == value else None
