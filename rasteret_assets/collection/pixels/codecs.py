"""Decode tiles to samples: decompression, byte order, predictor, and the colours of JPEG.

Sources: TIFF 6.0 sections 9, 13, 14 and 22, TIFF Technical Notes 2 (JPEG) and 3 (predictor 3), and GDAL's GTiff driver
page for LERC, LZMA, WebP and zstd.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rasteret_assets.collection.pixels.band import BandHeader
from rasteret_assets.errors import TileError

#: Names of TIFF compressions by number, for messages, also of those that cannot be decoded here.
COMPRESSION_NAMES: Final = {
    1: "none",
    5: "LZW",
    6: "old-style JPEG",
    7: "JPEG",
    8: "deflate",
    32773: "PackBits",
    32946: "deflate",
    34712: "JPEG 2000",
    34887: "LERC",
    34925: "LZMA",
    50000: "zstd",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
_YCBCR = 6

_Samples = npt.NDArray[Any]
#: An object with the buffer protocol; ``Any``, because the annotations of imagecodecs leave memoryview out.
_Bytes = Any
#: Takes bytes and the expected size, returns that many bytes or fewer; bytes of a stream beyond the size are dropped.
_Decompressor = Callable[[_Bytes, int], _Bytes]
#: Takes bytes of an image format, returns samples of shape (rows, columns, samples).
_ImageDecoder = Callable[[_Bytes, BandHeader], _Samples]


def check_supported(header: BandHeader, where: str) -> None:
    """Refuse a compression or predictor that cannot be decoded, before a byte is read.

    Args:
        header: of a band.
        where: record and band, for the message.

    Raises:
        TileError: with the compression or predictor, and ``where``.
    """
    if header.compression not in _decompressors() and header.compression not in _image_decoders():
        name = COMPRESSION_NAMES.get(header.compression, "unknown")
        readable = sorted({COMPRESSION_NAMES[number] for number in (*_decompressors(), *_image_decoders())})
        raise TileError(
            f"{where} is compressed by {name} ({header.compression}), which cannot be decoded; compressions that can: "
            f"{', '.join(readable)}"
        )
    kinds = {1: "iuf", 2: "iuf", 3: "f"}
    if header.dtype.kind not in kinds.get(header.predictor, ""):
        raise TileError(f"{where} has predictor {header.predictor} for {header.dtype}, which cannot be decoded")
    if header.mask is not None:
        check_supported(header.mask, f"the mask of {where}")


def decode_tile(data: _Bytes, header: BandHeader) -> tuple[_Samples, _Samples | None]:
    """Return the band's samples of one tile, and which of them hold data by the tile's alpha.

    Args:
        data: the stored bytes.
        header: of a band that :func:`check_supported` let pass.

    Returns:
        Array of shape (tile_height, tile_width) in native byte order, and booleans of that shape; None if the tile has
        no alpha.

    Raises:
        TileError: if the bytes are damaged, or too few.
    """
    decoder = _image_decoders().get(header.compression)
    try:
        samples = _inflate(data, header) if decoder is None else decoder(data, header)
    except RuntimeError as error:  # the base class of all errors of imagecodecs
        raise TileError(
            f"its {len(data)} bytes are not a {COMPRESSION_NAMES[header.compression]} stream ({error})"
        ) from error
    shape = (header.tile_height, header.tile_width, header.samples)
    if samples.shape != shape or samples.dtype != header.sample_type:
        raise TileError(f"it holds {samples.dtype} of shape {samples.shape}, not {header.sample_type} of {shape}")
    opaque = None if header.alpha is None else samples[:, :, header.alpha] != 0
    return samples[:, :, header.band_index], opaque


def _inflate(data: _Bytes, header: BandHeader) -> _Samples:
    """Return samples of shape (rows, columns, samples) of a tile whose decompressed bytes are samples."""
    raw = _decompressors()[header.compression](data, header.tile_bytes)
    if len(raw) < header.tile_bytes:
        raise TileError(f"it holds {len(raw)} bytes of samples, not {header.tile_bytes}")
    shape = (header.tile_height, header.tile_width, header.samples)
    if header.packed:
        bits = np.frombuffer(raw, np.uint8, header.tile_bytes).reshape(header.tile_height, -1)
        return np.unpackbits(bits, axis=1, count=header.tile_width)[:, :, None]
    # The byte order is undone before predictor 2, which has differences of numbers; predictor 3 has its own byte order.
    if header.predictor == 3:
        return undo_float_predictor(np.frombuffer(raw, np.uint8, header.tile_bytes), shape, header.dtype.itemsize)
    stored = np.frombuffer(raw, header.dtype, header.tile_bytes // header.dtype.itemsize).reshape(shape)
    samples = stored.astype(header.sample_type, copy=False)
    return undo_differences(samples) if header.predictor == 2 else samples


def undo_differences(samples: _Samples) -> _Samples:
    """Undo predictor 2: each sample is stored as its difference from the pixel to its left.

    Args:
        samples: native array of shape (rows, columns, samples); floats are differenced as integers of their size.

    Returns:
        The samples before they were differenced, in the same shape and type.
    """
    import imagecodecs  # noqa: PLC0415  (see _decompressors)

    whole = samples.view(f"u{samples.dtype.itemsize}")
    # imagecodecs, because it is several times faster than numpy's cumulative sum along an axis.
    return np.asarray(imagecodecs.delta_decode(whole, axis=1)).view(samples.dtype)


def undo_float_predictor(raw: npt.NDArray[np.uint8], shape: tuple[int, int, int], itemsize: int) -> _Samples:
    """Undo predictor 3: a row stores the first byte of all floats, then the second ..., differenced as bytes.

    Args:
        raw: bytes of all rows; those of a float are stored from the most significant, whatever the file's byte order.
        shape: (rows, columns, samples) of the tile.
        itemsize: bytes of a float.

    Returns:
        Native floats of ``shape``.
    """
    rows, columns, samples = shape
    # Differences are between neighbouring pixels, which are ``samples`` bytes apart.
    stored = np.cumsum(raw.reshape(rows, columns * itemsize, samples), axis=1, dtype=np.uint8)
    planes = stored.reshape(rows, itemsize, columns * samples)
    values = np.ascontiguousarray(planes.transpose(0, 2, 1)).view(f">f{itemsize}")
    return values.reshape(shape).astype(f"=f{itemsize}")


@functools.cache
def _decompressors() -> dict[int, _Decompressor]:
    """Return the decompressors, whose results are the bytes of samples, by TIFF compression number."""
    # Imported here, because the import takes a quarter of a second and queries need no codec.
    import imagecodecs  # noqa: PLC0415

    def sized(decode: Callable[..., _Bytes], decode_start: _Decompressor | None = None) -> _Decompressor:
        def decompress(data: _Bytes, size: int) -> _Bytes:
            try:
                return decode(data, out=size)
            except RuntimeError:  # the base class of all errors of imagecodecs
                # Tried once more, because some writers pad tiles before they compress them, and imagecodecs refuses a
                # result longer than ``size``.
                start = None if decode_start is None else decode_start(data, size)
                if start is None or len(start) < size:
                    raise
                return start

        return decompress

    # libdeflate, because it is faster than zlib and reads the same streams.
    deflate = sized(imagecodecs.deflate_decode, _start_of_deflate)
    return {
        1: lambda data, _: data,
        5: sized(imagecodecs.lzw_decode),
        8: deflate,
        32946: deflate,
        32773: sized(imagecodecs.packbits_decode, _start_of_packbits),
        34925: sized(imagecodecs.lzma_decode),
        50000: sized(imagecodecs.zstd_decode, _start_of_zstd),
    }


def _start_of_deflate(data: _Bytes, size: int) -> _Bytes:
    """Return the first ``size`` bytes of a deflate stream that holds more; no bytes of another or damaged stream."""
    try:
        # One byte more than a tile tells a long stream from one of the right size that fails its checksum.
        start = zlib.decompressobj().decompress(data, size + 1)
    except zlib.error:
        return b""
    return start[:size] if len(start) > size else b""


def _start_of_zstd(data: _Bytes, size: int) -> _Bytes:
    """Return the first ``size`` bytes of a zstd stream, whatever follows them; no bytes if the stream is damaged."""
    try:
        with pa.CompressedInputStream(pa.BufferReader(data), "zstd") as stream:
            start: bytes = stream.read(size)
    except OSError:
        return b""
    return start


def _start_of_packbits(data: _Bytes, size: int) -> _Bytes:
    """Return the first ``size`` bytes of a PackBits stream, or fewer if the stream ends before (TIFF 6.0 section 9)."""
    data, start, at = bytes(data), bytearray(), 0
    while len(start) < size and at < len(data):
        head, at = data[at], at + 1
        if head < 128:
            start += data[at : at + head + 1]
            at += head + 1
        elif head > 128:
            start += data[at : at + 1] * (257 - head)
            at += 1
    return start[:size]


@functools.cache
def _image_decoders() -> dict[int, _ImageDecoder]:
    """Return the decoders of image formats by TIFF compression number; their streams state rows and columns."""
    return {7: _decode_jpeg, 34887: _decode_lerc, 50001: _decode_webp}


def _decode_jpeg(data: _Bytes, header: BandHeader) -> _Samples:
    import imagecodecs  # noqa: PLC0415

    spaces = imagecodecs.JPEG8.CS
    # Only YCbCr becomes RGB, because GDAL reads other colours as they are stored.
    stored = shown = {1: spaces.GRAYSCALE, 3: spaces.RGB, 4: spaces.CMYK}.get(header.samples, spaces.UNKNOWN)
    if header.photometric == _YCBCR and header.samples == 3:
        stored = spaces.YCbCr
    image = imagecodecs.jpeg8_decode(data, tables=header.jpeg_tables, colorspace=stored, outcolorspace=shown)
    return np.asarray(image).reshape(*image.shape[:2], -1)


def _decode_webp(data: _Bytes, header: BandHeader) -> _Samples:
    import imagecodecs  # noqa: PLC0415

    # Alpha is asked for, because in images with alpha a tile without a transparent pixel is stored without it.
    return np.asarray(imagecodecs.webp_decode(data, hasalpha=header.samples == 4))


def _decode_lerc(data: _Bytes, header: BandHeader) -> _Samples:
    """Decode LERC, which may be compressed once more by deflate or zstd, as the first bytes tell."""
    import imagecodecs  # noqa: PLC0415

    if data[:4] == b"\x28\xb5\x2f\xfd":
        data = imagecodecs.zstd_decode(data)
    elif data[:1] == b"\x78":
        data = imagecodecs.zlib_decode(data)
    image, masks = imagecodecs.lerc_decode(data, masks=True)
    hidden = None if masks is None else _bands_last(~np.asarray(masks, dtype=bool))
    # LERC stores the samples of a pixel together where they share a mask, else one band after the other. The shape
    # tells which, except for as many bands as rows and columns; several masks mean one band after the other.
    apart = image.shape[:2] != (header.tile_height, header.tile_width) or (hidden is not None and hidden.shape[2] > 1)
    image = np.array(_bands_last(image) if apart or image.ndim == 2 else image)
    if image.shape[2] == header.samples - 1:  # because GDAL writes alpha as LERC's own mask
        alpha = np.full((*image.shape[:2], 1), 255, image.dtype)
        if hidden is not None:
            alpha[hidden] = 0
        image = np.concatenate([image, alpha], axis=2)
    elif hidden is not None and image.dtype.kind == "f":
        image[np.broadcast_to(hidden, image.shape)] = np.nan
    # LERC has no byte order: libtiff swaps samples before it encodes them for a file of the other order.
    return image if header.dtype.isnative else image.byteswap()


def _bands_last(values: _Samples) -> _Samples:
    """Return LERC's bands of shape (bands, rows, columns), or the only band, as (rows, columns, bands)."""
    return np.moveaxis(values, 0, 2) if values.ndim == 3 else values[:, :, None]
