"""Read the numpy type, the codec and the predictor of samples.

Sources: TIFF 6.0 sections 8, 14 and 19, TIFF Technical Note 3 for Predictor 3; undefined formats as GDAL reads them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from rasteret_assets.errors import CorruptTiffError, UnsupportedTiffError
from rasteret_assets.tiff.constants import (
    ALPHA,
    ALPHA_BANDS,
    COMPRESSIONS,
    JPEG_COMPRESSION,
    PREDICTOR_COMPRESSIONS,
    REFUSED_COMPRESSIONS,
    Predictor,
    SampleFormat,
    Tag,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rasteret_assets.tiff.ifd import Ifd

#: numpy's kind letter and the valid bits, by sample format. Undefined samples (4) are unsigned, as in GDAL.
_KINDS: Final = {
    SampleFormat.UINT: ("u", (8, 16, 32, 64)),
    SampleFormat.INT: ("i", (8, 16, 32, 64)),
    SampleFormat.FLOAT: ("f", (16, 32, 64)),
    SampleFormat.VOID: ("u", (8, 16, 32, 64)),
}
#: Most values of a tag in a message.
_MOST_LISTED: Final = 8

_DTYPES: Final = {
    (order, int(sample_format), bits): np.dtype(f"{order}{kind}{bits // 8}")
    for order in "<>"
    for sample_format, (kind, widths) in _KINDS.items()
    for bits in widths
}


def read_dtype(ifd: Ifd) -> np.dtype:
    """Return the numpy type of the samples, which all bands share.

    Raises:
        UnsupportedTiffError: if bands have different types, or a type that numpy does not have.
    """
    bits = set(ifd.integers(Tag.BITS_PER_SAMPLE)) or {1}
    formats = set(ifd.integers(Tag.SAMPLE_FORMAT)) or {SampleFormat.UINT}
    if len(bits) > 1 or len(formats) > 1:
        raise UnsupportedTiffError(
            f"bands of different types (BitsPerSample {_few(bits)}, SampleFormat {_few(formats)}); one was expected"
        )
    (width,), (sample_format,) = bits, formats
    dtype = _DTYPES.get((ifd.layout.order, sample_format, width))
    if dtype is None:
        kind = {
            SampleFormat.FLOAT: "float",
            SampleFormat.COMPLEX_INT: "complex integer",
            SampleFormat.COMPLEX_FLOAT: "complex",
        }.get(sample_format, "packed" if sample_format in _KINDS else "unknown")  # type: ignore[call-overload]
        raise UnsupportedTiffError(
            f"{kind} samples (BitsPerSample={width}, SampleFormat={sample_format}); integers of 8 to 64 bits "
            "or floats of 16 to 64 were expected"
        )
    return dtype


def _few(values: set[int]) -> str:
    """Return some of the values for a message, because a damaged tag may hold thousands."""
    listed = ", ".join(map(str, sorted(values)[:_MOST_LISTED]))
    return f"[{listed}, ... {len(values)} values]" if len(values) > _MOST_LISTED else f"[{listed}]"


def read_compression(ifd: Ifd) -> int:
    """Return the codec of the tiles.

    Raises:
        UnsupportedTiffError: if a tile cannot be decoded by itself.
        CorruptTiffError: if the tag holds several codecs.
    """
    # Before TIFF 6.0 the tag had one value per sample.
    codecs = set(ifd.integers(Tag.COMPRESSION)) or {1}
    if len(codecs) > 1:
        raise CorruptTiffError(f"Compression holds {_few(codecs)}; one codec was expected")
    (compression,) = codecs
    if compression not in COMPRESSIONS:
        name = REFUSED_COMPRESSIONS.get(compression, "unknown")
        raise UnsupportedTiffError(f"compression {compression} ({name}) cannot be decoded tile by tile")
    # TIFF 6.0 p. 32: bits of each byte stored in reverse. JPEG data are never reversed.
    if ifd.integer(Tag.FILL_ORDER, 1) == 2 and compression != JPEG_COMPRESSION:
        raise UnsupportedTiffError("FillOrder is 2: the bits of every byte are stored in reverse")
    return compression


def read_predictor(ifd: Ifd, compression: int, dtype: np.dtype) -> int:
    """Return the predictor that a reader must undo; 1 (none) for codecs without one.

    Raises:
        UnsupportedTiffError: if the predictor is unknown.
        CorruptTiffError: if the predictor does not fit the samples.
    """
    if compression not in PREDICTOR_COMPRESSIONS:
        return Predictor.NONE.value
    predictor = ifd.integer(Tag.PREDICTOR, Predictor.NONE)
    if predictor not in (Predictor.NONE, Predictor.HORIZONTAL, Predictor.FLOATING_POINT):
        raise UnsupportedTiffError(f"Predictor is {predictor}; 1, 2 or 3 was expected")
    if predictor == Predictor.FLOATING_POINT and dtype.kind != "f":
        raise CorruptTiffError(f"Predictor is 3 (floating point), but the samples are {dtype.name}")
    return predictor


def find_alpha(samples_per_pixel: int, extra_samples: Sequence[int], dtype: np.dtype) -> int | None:
    """Return the position of the alpha band (ExtraSamples, TIFF 6.0 p. 31); None without one.

    As for GDAL, alpha is the last of two or four bands, has 8 or 16 bits, and hides pixels of the other bands.

    Args:
        samples_per_pixel: number of bands.
        extra_samples: meaning of each band beyond the photometric ones.
        dtype: type of a sample.
    """
    is_alpha = samples_per_pixel in ALPHA_BANDS and not ALPHA.isdisjoint(extra_samples[-1:])
    return samples_per_pixel - 1 if is_alpha and dtype.kind == "u" and dtype.itemsize <= 2 else None
