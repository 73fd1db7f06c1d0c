"""Parse GDAL's nodata text as GDAL does, and keep the value only if a pixel can have it.

The text is a number in the ``GDAL_NODATA`` tag (42113). GDAL parses a leading number and ignores the rest, takes a
comma for a decimal point if no point comes before it, and rounds to float32 on a float32 raster. On a raster of
integers GDAL reports the value with its fraction, which is published, and compares pixels with the value without its
fraction, which masks. A value beyond the range of the raster (-9999 on uint8, NaN on an integer) masks no pixel, so the
raster has no nodata value.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import Final

import numpy as np

_REAL: Final = re.compile(r"\+?[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_INTEGER: Final = re.compile(r"[+-]?\d+", re.ASCII)

#: NaN as C, Java, JavaScript and Python write it, and as the C runtime of Windows did until 2015 ("1.#QNAN", with zeros
#: after it up to the wanted precision).
_NAN: Final = re.compile(r"[+-]?(?:nan(?:\(.*)?$|1\.#(?:[qs]?nan|ind))", re.IGNORECASE)
_INFINITY: Final = re.compile(r"([+-]?)(?:inf(?:inity)?$|1\.#inf)", re.IGNORECASE)

#: Most characters of a number; longer texts are cut before they are converted.
_MAX_TEXT: Final = 400


def parse_nodata(text: str | None, dtype: np.dtype) -> float | None:
    """Return the nodata value that GDAL reports for a raster, as a float.

    Args:
        text: content of the ``GDAL_NODATA`` tag, ``None`` without the tag.
        dtype: type of the pixels; its byte order does not matter.

    Returns:
        A value in the range of ``dtype``, with its fraction also for rasters of integers (whose pixels are compared
        with :func:`exact_nodata`). ``None`` if no pixel can have the value, and for an integer beyond 2**53 that no
        float equals, which is kept as text only. NaN and infinities only for float rasters.
    """
    value = exact_nodata(text, dtype)
    if value is None or isinstance(value, float):
        return value
    if dtype.itemsize < 8:
        return parse_real(text or "")
    return float(value) if float(value) == value else None


@lru_cache(maxsize=1024)
def exact_nodata(text: str | None, dtype: np.dtype) -> int | float | None:
    """Return the value of pixels without data; ``None`` without one that a pixel can have.

    Args:
        text: content of the ``GDAL_NODATA`` tag, ``None`` without the tag.
        dtype: type of the pixels; its byte order does not matter.

    Returns:
        A value that is exact in ``dtype``: an integer for rasters of integers, else a float.
    """
    text = _cut(text)
    if dtype.kind == "f":
        value = parse_real(text)
        return None if value is None else _fit_float(value, dtype)
    whole = _parse_integer(text) if dtype.itemsize == 8 else parse_real(text)
    return None if whole is None else _fit_integer(whole, dtype)


def _cut(text: str | None) -> str:
    return (text or "")[:_MAX_TEXT].strip()


def parse_real(text: str) -> float | None:
    """Return the number at the start of a text, as GDAL's ``CPLAtofM`` reads it; None without one.

    Args:
        text: a comma in it is the decimal mark unless a point comes before it.
    """
    text = _cut(text)
    if _NAN.match(text):
        return math.nan
    infinity = _INFINITY.match(text)
    if infinity is not None:
        return -math.inf if infinity[1] == "-" else math.inf
    comma, point = text.find(","), text.find(".")
    if comma >= 0 and (point < 0 or comma < point):
        text = text[:comma] + "." + text[comma + 1 :].replace(".", " ")
    match = _REAL.match(text)
    return None if match is None else float(match[0].removeprefix("+"))


def _parse_integer(text: str) -> int | None:
    """Return the whole number at the start of ``text``, without exponents, as GDAL does for 64-bit integers."""
    match = _INTEGER.match(text)
    return None if match is None else int(match[0])


def _fit_float(value: float, dtype: np.dtype) -> float | None:
    """Return ``value`` rounded to float32, as GDAL does; None if float16 cannot hold it exactly."""
    if not math.isfinite(value) or dtype.itemsize == 8:
        return value
    with np.errstate(over="ignore"):
        # The shortest text of the largest float32 is a little more than its value; much larger values become infinite.
        rounded = float(dtype.type(value))
    return rounded if dtype.itemsize == 4 or rounded == value else None


def _fit_integer(value: float, dtype: np.dtype) -> int | None:
    """Return ``value`` without its fraction, which GDAL compares with pixels; None outside the range of ``dtype``."""
    limits = np.iinfo(dtype)
    return int(value) if limits.min <= value <= limits.max else None  # NaN fails the comparison
