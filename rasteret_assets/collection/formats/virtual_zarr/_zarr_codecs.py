"""Describe the codecs, as JSON, by which Zarr reads the tiles of a GeoTIFF as chunks of an array.

A chunk is a tile as it is stored, so its codecs are those of TIFF. Those that stock zarr-python has are preferred
(``bytes``, ``transpose``, ``zstd``, ``numcodecs.zlib``, ``numcodecs.lzma``); LZW, PackBits and both predictors take
codecs of the package ``virtual-tiff``, under the names that it registers.

Sources: the Zarr v3 specification's codecs, virtual-tiff 0.5 for the names and configurations of its own, and TIFF 6.0
sections 13 and 14 and TIFF Technical Note 3 for the order in which they apply.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, Final

import numpy as np

from rasteret_assets.collection.pixels.band import BandHeader
from rasteret_assets.collection.pixels.codecs import COMPRESSION_NAMES

Codec = dict[str, Any]

#: Codecs of bytes by TIFF compression number. Levels count for writing only, and nothing is ever written.
_COMPRESSORS: Final[dict[int, list[Codec]]] = {
    1: [],
    5: [{"name": "imagecodecs_lzw"}],
    8: [{"name": "numcodecs.zlib", "configuration": {"level": 6}}],
    32773: [{"name": "imagecodecs_packbits"}],
    32946: [{"name": "numcodecs.zlib", "configuration": {"level": 6}}],
    34925: [{"name": "numcodecs.lzma", "configuration": {"format": 1, "check": -1, "preset": None, "filters": None}}],
    50000: [{"name": "zstd", "configuration": {"level": 0, "checksum": False}}],
}
_DIFFERENCES, _FLOATS = 2, 3


def refusal(header: BandHeader) -> str | None:
    """Say why tiles of a band cannot be chunks of a Zarr array; None where they can.

    Args:
        header: of a band that :func:`~rasteret_assets.collection.pixels.codecs.check_supported` let pass.
    """
    if header.compression not in _COMPRESSORS:
        name = COMPRESSION_NAMES.get(header.compression, f"compression {header.compression}")
        tables = " with shared tables" if header.jpeg_tables else ""
        readable = sorted({COMPRESSION_NAMES[number] for number in _COMPRESSORS})
        return f"tiles compressed by {name}{tables} have no codec of Zarr's that reads them, as {readable} have"
    if header.mask is not None:
        return "a mask or an alpha plane of its own says which pixels hold data, which an array of Zarr's cannot state"
    return None


def codec_chain(header: BandHeader) -> str:
    """Return the codecs of the array (time, y, x), or (time, band, y, x) of interleaved samples, of a band.

    They stand in the order in which Zarr encodes; reading undoes them from the last to the first.

    Args:
        header: of a band for which :func:`refusal` says nothing.

    Returns:
        JSON object with ``filters`` (arrays to arrays), ``serializer`` (arrays to bytes) and ``compressors`` (bytes to
        bytes), as zarr-python's ``create_array`` takes them.
    """
    tile = header.tile_height, header.tile_width
    return _codec_chain(header.compression, header.predictor, header.samples, header.dtype, tile)


# Millions of headers share few chains.
@lru_cache(maxsize=1024)
def _codec_chain(compression: int, predictor: int, samples: int, dtype: np.dtype[Any], tile: tuple[int, int]) -> str:
    filters: list[Codec] = []
    shape = [1, *tile]
    if predictor == _DIFFERENCES:
        filters.append({"name": "virtual_tiff.HorizontalDeltaCodec"})  # along x, the last dimension
    if samples > 1:
        # A tile holds the samples of a pixel side by side: (y, x, band).
        filters.append({"name": "transpose", "configuration": {"order": [0, 2, 3, 1]}})
        shape.append(samples)
    is_little = dtype.newbyteorder("<") == dtype
    if predictor == _DIFFERENCES and not is_little:
        # zarr-python 3.1 leaves numbers in the byte order of the file, and virtual-tiff's codec takes their bytes for
        # the machine's: without this, sums of the differences would be wrong.
        orders = {"encode_dtype": dtype.newbyteorder(">").str, "decode_dtype": dtype.newbyteorder("<").str}
        filters.append({"name": "numcodecs.astype", "configuration": orders})
    if predictor == _FLOATS:
        axis = -2 if samples > 1 else -1
        configuration = {"shape": shape, "dtype": dtype.newbyteorder("<").str, "axis": axis, "dist": 1}
        filters.append({"name": "imagecodecs_floatpred", "configuration": configuration})
    serializer: Codec = {"name": "bytes"}
    if dtype.itemsize > 1:
        # Predictor 3 stores the most significant bytes first, whatever the byte order of the file.
        serializer["configuration"] = {"endian": "little" if is_little or predictor == _FLOATS else "big"}
    return json.dumps({"filters": filters, "serializer": serializer, "compressors": _COMPRESSORS[compression]})
