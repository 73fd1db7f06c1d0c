"""GeoKeys: the CRS of an image, and whether its coordinates mean pixel corners or centres.

A GeoKey directory (OGC 19-008r4 section 7.1) is a list of four 16-bit numbers: key, place, count, value. The value is
the number itself, or the place is another tag and the value an index into it. Codes are trusted only as numbers: what
a citation text says never wins over them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from rasteret_assets.tiff.constants import (
    MODEL_GEOGRAPHIC,
    MODEL_PROJECTED,
    RASTER_PIXEL_IS_POINT,
    USER_DEFINED,
    GeoKey,
    Tag,
)
from rasteret_assets.tiff.user_crs import build_user_crs

#: Codes GeoTIFF hands to EPSG (OGC 19-008r4 section 7.4); below are obsolete ones, above 32767 private ones.
EPSG_CODES: Final = range(1024, USER_DEFINED)

#: Bytes of GeoKeys that are worth remembering: a hostile file must not fill the cache.
MAX_CACHED_BYTES: Final = 16 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class GeoReference:
    """What GeoKeys say."""

    epsg: int | None
    """EPSG code of the horizontal CRS, ``None`` where it is user-defined or absent."""
    crs: str | None
    """``EPSG:n`` or the WKT2 of a user-defined CRS; ``None`` if absent or beyond what can be built faithfully."""
    pixel_is_point: bool
    """Whether coordinates are those of pixel centres; corners otherwise."""


def read_geokeys(order: str, directory: bytes, doubles: bytes, text: bytes) -> GeoReference:
    """The CRS and raster type in the bytes of the three GeoKey tags; a damaged directory says nothing, as in GDAL.

    Args:
        order: struct prefix of the file's byte order, ``<`` or ``>``.
        directory: bytes of GeoKeyDirectory.
        doubles: bytes of GeoDoubleParams.
        text: bytes of GeoAsciiParams.
    """
    if len(directory) + len(doubles) + len(text) > MAX_CACHED_BYTES:
        return _interpret(order, directory, doubles, text)
    return _interpret_cached(order, directory, doubles, text)


def _interpret(order: str, directory: bytes, doubles: bytes, text: bytes) -> GeoReference:
    keys = parse_directory(order, directory, doubles, text)
    epsg = _find_epsg(keys)
    crs = f"EPSG:{epsg}" if epsg is not None else build_user_crs(keys)
    return GeoReference(epsg=epsg, crs=crs, pixel_is_point=keys.get(GeoKey.GT_RASTER_TYPE) == RASTER_PIXEL_IS_POINT)


#: A collection's files share a few directories, and building a user-defined CRS takes milliseconds.
_interpret_cached: Final = lru_cache(maxsize=1024)(_interpret)


def parse_directory(order: str, directory: bytes, doubles: bytes, text: bytes) -> dict[int, int | float | str]:
    """Key to value. Codes are ints, measures floats, citations text; keys whose values lie nowhere are left out."""
    shorts = struct.unpack(f"{order}{len(directory) // 2}H", directory[: len(directory) // 2 * 2])
    # Version 1 is the only one there is; the fourth number counts the keys that follow.
    if len(shorts) < 4 or shorts[0] != 1 or 4 + 4 * shorts[3] > len(shorts):
        return {}
    keys: dict[int, int | float | str] = {}
    for at in range(4, 4 + 4 * shorts[3], 4):
        key, place, count, value = shorts[at : at + 4]
        if place == 0:
            keys[key] = value
        elif place == Tag.GEO_KEY_DIRECTORY and count == 1 and value < len(shorts):
            keys[key] = shorts[value]
        elif place == Tag.GEO_DOUBLE_PARAMS and count == 1 and 8 * value + 8 <= len(doubles):
            keys[key] = struct.unpack_from(order + "d", doubles, 8 * value)[0]
        elif place == Tag.GEO_ASCII_PARAMS and value + count <= len(text):
            keys[key] = text[value : value + count].decode("utf-8", "replace").rstrip("\0|")
    return keys


def _find_epsg(keys: dict[int, int | float | str]) -> int | None:
    """The code of the horizontal CRS that the model type asks for; vertical codes say nothing about pixels."""
    match keys.get(GeoKey.GT_MODEL_TYPE):
        case model if model == MODEL_PROJECTED:
            code = keys.get(GeoKey.PROJECTED_CS_TYPE)
        case model if model == MODEL_GEOGRAPHIC:
            code = keys.get(GeoKey.GEOGRAPHIC_TYPE)
        case _:
            return None
    return code if isinstance(code, int) and code in EPSG_CODES else None
