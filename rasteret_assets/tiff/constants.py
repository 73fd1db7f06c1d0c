"""Numbers of the TIFF, BigTIFF, GeoTIFF and GDAL formats, under the names their specifications give them.

Sources: TIFF 6.0 (1992) section 8 and appendix A, TIFF Technical Note 3 (Predictor 3), the BigTIFF design page of
libtiff, OGC GeoTIFF 1.1 (OGC 19-008r4) and GDAL's GTiff driver page for the codecs and tags registered by GDAL.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class Tag(IntEnum):
    """The tags of an image file directory that an index needs; every other tag is skipped unread."""

    NEW_SUBFILE_TYPE = 254
    IMAGE_WIDTH = 256
    IMAGE_LENGTH = 257
    BITS_PER_SAMPLE = 258
    COMPRESSION = 259
    PHOTOMETRIC = 262
    FILL_ORDER = 266
    STRIP_OFFSETS = 273
    SAMPLES_PER_PIXEL = 277
    STRIP_BYTE_COUNTS = 279
    PLANAR_CONFIGURATION = 284
    PREDICTOR = 317
    TILE_WIDTH = 322
    TILE_LENGTH = 323
    TILE_OFFSETS = 324
    TILE_BYTE_COUNTS = 325
    EXTRA_SAMPLES = 338
    SAMPLE_FORMAT = 339
    JPEG_TABLES = 347
    MODEL_PIXEL_SCALE = 33550
    MODEL_TIEPOINT = 33922
    MODEL_TRANSFORMATION = 34264
    GEO_KEY_DIRECTORY = 34735
    GEO_DOUBLE_PARAMS = 34736
    GEO_ASCII_PARAMS = 34737
    GDAL_METADATA = 42112
    GDAL_NODATA = 42113

    @property
    def label(self) -> str:
        """The tag's name as the specifications write it, for messages: ``TileOffsets``."""
        return _LABELS.get(self, self.name.title().replace("_", ""))


_LABELS: Final = {
    Tag.JPEG_TABLES: "JPEGTables",
    Tag.GDAL_METADATA: "GDAL_METADATA",
    Tag.GDAL_NODATA: "GDAL_NODATA",
    Tag.PHOTOMETRIC: "PhotometricInterpretation",
}

#: As plain integers, because looking up a tag is the inner loop of a header parse.
WANTED_TAGS: Final = frozenset(int(tag) for tag in Tag)

#: Struct letters of the integer field types, unsigned and signed; 13 and 18 are offsets to a directory.
INTEGER_TYPES: Final = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}

#: Struct letters of the field types libtiff accepts where a tag holds reals (DOUBLE by the GeoTIFF standard).
REAL_TYPES: Final = {11: "f", 12: "d", **INTEGER_TYPES}

#: Field types whose values are bytes: BYTE, ASCII, SBYTE and UNDEFINED.
BYTE_TYPES: Final = frozenset({1, 2, 6, 7})

#: Bytes of one value by field type (TIFF 6.0 p. 15; 16-18 are BigTIFF's). The size of any other type is unknown.
TYPE_SIZES: Final = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}


class SampleFormat(IntEnum):
    """How the bits of a sample are to be read (TIFF 6.0 section 19)."""

    UINT = 1
    INT = 2
    FLOAT = 3
    VOID = 4
    COMPLEX_INT = 5
    COMPLEX_FLOAT = 6


class PlanarConfiguration(IntEnum):
    """Whether a tile holds all bands of its pixels, or one band."""

    CHUNKY = 1
    SEPARATE = 2


#: Values of ExtraSamples for an alpha band (TIFF 6.0 p. 31): with colours that were multiplied with alpha, or were not.
ALPHA: Final = frozenset({1, 2})

#: Numbers of bands with which GDAL takes the last band for alpha, which hides pixels of the other bands.
ALPHA_BANDS: Final = frozenset({2, 4})


class Predictor(IntEnum):
    """What was done to the samples before they were compressed."""

    NONE = 1
    HORIZONTAL = 2
    FLOATING_POINT = 3


#: Codecs whose tiles can be decoded from the tile's bytes and this header alone.
COMPRESSIONS: Final = {
    1: "none",
    5: "LZW",
    7: "JPEG",
    8: "Deflate",
    32773: "PackBits",
    32946: "Deflate (old code)",
    34712: "JPEG 2000",
    34887: "LERC",
    34925: "LZMA",
    50000: "ZSTD",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}

#: Names, for messages, of known codecs that an index refuses.
REFUSED_COMPRESSIONS: Final = {
    2: "CCITT RLE",
    3: "CCITT Group 3 fax",
    4: "CCITT Group 4 fax",
    6: "old-style JPEG",
    32766: "NeXT",
    32809: "ThunderScan",
    32909: "PixarLog",
    34661: "JBIG",
    34676: "SGI LogLuv",
    34677: "SGI LogLuv 24",
}

#: The codecs libtiff applies a predictor to. With any other codec the Predictor tag has no effect.
PREDICTOR_COMPRESSIONS: Final = frozenset({5, 8, 32946, 34925, 50000})
JPEG_COMPRESSION: Final = 7


class GeoKey(IntEnum):
    """GeoKeys a CRS or a pixel's place depends on (OGC 19-008r4 annex B)."""

    GT_MODEL_TYPE = 1024
    GT_RASTER_TYPE = 1025
    GT_CITATION = 1026
    GEOGRAPHIC_TYPE = 2048
    GEOG_CITATION = 2049
    GEOG_GEODETIC_DATUM = 2050
    GEOG_PRIME_MERIDIAN = 2051
    GEOG_ANGULAR_UNITS = 2054
    GEOG_ELLIPSOID = 2056
    GEOG_SEMI_MAJOR_AXIS = 2057
    GEOG_SEMI_MINOR_AXIS = 2058
    GEOG_INV_FLATTENING = 2059
    GEOG_PRIME_MERIDIAN_LONG = 2061
    GEOG_TOWGS84 = 2062
    PROJECTED_CS_TYPE = 3072
    PROJECTED_CITATION = 3073
    PROJECTION = 3074
    PROJ_COORD_TRANS = 3075
    PROJ_LINEAR_UNITS = 3076
    PROJ_LINEAR_UNIT_SIZE = 3077
    PROJ_STD_PARALLEL_1 = 3078
    PROJ_STD_PARALLEL_2 = 3079
    PROJ_NAT_ORIGIN_LONG = 3080
    PROJ_NAT_ORIGIN_LAT = 3081
    PROJ_FALSE_EASTING = 3082
    PROJ_FALSE_NORTHING = 3083
    PROJ_FALSE_ORIGIN_LONG = 3084
    PROJ_FALSE_ORIGIN_LAT = 3085
    PROJ_FALSE_ORIGIN_EASTING = 3086
    PROJ_FALSE_ORIGIN_NORTHING = 3087
    PROJ_CENTER_LONG = 3088
    PROJ_CENTER_LAT = 3089
    PROJ_CENTER_EASTING = 3090
    PROJ_CENTER_NORTHING = 3091
    PROJ_SCALE_AT_NAT_ORIGIN = 3092
    PROJ_SCALE_AT_CENTER = 3093
    PROJ_AZIMUTH_ANGLE = 3094
    PROJ_STRAIGHT_VERT_POLE_LONG = 3095
    PROJ_RECTIFIED_GRID_ANGLE = 3096


MODEL_PROJECTED: Final = 1
MODEL_GEOGRAPHIC: Final = 2
MODEL_GEOCENTRIC: Final = 3
RASTER_PIXEL_IS_POINT: Final = 2

#: "User-defined": the value of a GeoKey for codes that stands for "has no code".
USER_DEFINED: Final = 32767
