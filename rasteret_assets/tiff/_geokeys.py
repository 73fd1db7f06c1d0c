"""Read GeoKeys: the CRS of an image, and whether its coordinates are those of pixel corners or centres.

A GeoKey directory (OGC 19-008r4 section 7.1) is a list of four 16-bit numbers: key, place, count, value. The value is
the number itself, or the place is another tag and the value an index into it. Codes take precedence over the text of a
citation.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from rasteret_assets.tiff._crs import resolve_crs
from rasteret_assets.tiff.constants import RASTER_PIXEL_IS_POINT, GeoKey, Tag

if TYPE_CHECKING:
    from rasteret_assets.tiff.projections import Keys

#: Most numbers and characters of GeoKeys that are cached, because a hostile file must not fill the memory.
MAX_CACHED: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class GeoReference:
    """CRS and raster type in GeoKeys."""

    epsg: int | None
    """EPSG code of the horizontal CRS; ``None`` if user-defined or absent."""
    crs: str | None
    """``EPSG:n`` or the WKT2 of a user-defined CRS; ``None`` if absent or beyond what can be built faithfully."""
    pixel_is_point: bool
    """Whether coordinates are those of pixel centres; corners otherwise."""


def read_geokeys(directory: tuple[int, ...], doubles: tuple[float, ...], text: bytes) -> GeoReference:
    """Return the CRS and the raster type in the values of the three GeoKey tags.

    Args:
        directory: values of GeoKeyDirectory.
        doubles: values of GeoDoubleParams.
        text: bytes of GeoAsciiParams.
    """
    if len(directory) + len(doubles) + len(text) > MAX_CACHED:
        return _interpret(directory, doubles, text)
    return _interpret_cached(directory, doubles, text)


def _interpret(directory: tuple[int, ...], doubles: tuple[float, ...], text: bytes) -> GeoReference:
    keys = parse_directory(directory, doubles, text)
    epsg, crs = resolve_crs(keys)
    # Only an integer, because a measure of 2.0 in the place of the code 2 is not a code.
    raster_type = keys.get(GeoKey.GT_RASTER_TYPE)
    is_point = isinstance(raster_type, int) and raster_type == RASTER_PIXEL_IS_POINT
    return GeoReference(epsg=epsg, crs=crs, pixel_is_point=is_point)


#: Cached, because the files of a collection share a few directories, and PROJ takes milliseconds for a CRS.
_interpret_cached: Final = lru_cache(maxsize=1024)(_interpret)


def parse_directory(directory: tuple[int, ...], doubles: tuple[float, ...], text: bytes) -> Keys:
    """Return keys and values: codes as ints, measures as floats, citations as text, a datum shift as a tuple of floats.

    As in libgeotiff, a directory that contradicts itself anywhere has no keys at all, because other keys may be shifted
    too.
    """
    # Version 1 is the only version; the fourth number counts the keys.
    if len(directory) < 4 or directory[0] != 1 or 4 + 4 * directory[3] > len(directory):
        return {}
    keys: Keys = {}
    for at in range(4, 4 + 4 * directory[3], 4):
        key, place, count, value = directory[at : at + 4]
        if place == 0 and count == 1:
            keys[key] = value
        elif place == Tag.GEO_DOUBLE_PARAMS and value + max(count, 1) <= len(doubles):
            many = key == GeoKey.GEOG_TOWGS84
            keys[key] = tuple(map(float, doubles[value : value + count])) if many else float(doubles[value])
        elif place == Tag.GEO_ASCII_PARAMS and value < len(text):
            keys[key] = text[value : value + count].decode("utf-8", "replace").rstrip("\0|")
        elif place != Tag.GEO_KEY_DIRECTORY:  # a list of codes, which no key for a CRS has
            return {}
    return keys
