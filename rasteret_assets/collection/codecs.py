"""Tile bytes to samples: decompression, byte order, predictor."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from rasteret_assets.collection.header import BandHeader
from rasteret_assets.errors import TileError

#: TIFF compression numbers by name: what messages say, whether it is read here or not.
_NAMES = {
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

_Decoder = Callable[[bytes, int], bytes]


def check_supported(header: BandHeader, where: str) -> None:
    """Refuse, before a byte is read, what cannot be decoded.

    Raises:
        TileError: naming the compression or predictor of ``where``.
    """
    if header.compression not in _decoders():
        name = _NAMES.get(header.compression, "unknown")
        readable = sorted({_NAMES[number] for number in _decoders()})
        raise TileError(f"{where} is compressed by {name} ({header.compression}), which is not read; {readable} are")
    kinds = {1: "iuf", 2: "iuf", 3: "f"}
    if header.dtype.kind not in kinds.get(header.predictor, ""):
        raise TileError(f"{where} has predictor {header.predictor} for {header.dtype}, which is not read")


def decode_tile(data: bytes, header: BandHeader) -> npt.NDArray[Any]:
    """The band's samples of one tile.

    Args:
        data: the stored bytes.
        header: of a band that :func:`check_supported` let pass.

    Returns:
        Array of shape (tile_height, tile_width) in native byte order.

    Raises:
        TileError: if the bytes are damaged, or too few.
    """
    try:
        raw = _decoders()[header.compression](data, header.tile_bytes)
    except RuntimeError as error:  # the base of every imagecodecs error
        raise TileError(f"its {len(data)} bytes are no {_NAMES[header.compression]} stream ({error})") from error
    if len(raw) < header.tile_bytes:
        raise TileError(f"it holds {len(raw)} bytes of {header.tile_bytes}")
    shape = (header.tile_height, header.tile_width, header.samples)
    # Differences of predictor 2 are of numbers, so the byte order comes first; predictor 3 has an order of its own.
    if header.predictor == 3:
        samples = undo_float_predictor(np.frombuffer(raw, np.uint8, header.tile_bytes), shape, header.dtype.itemsize)
    else:
        stored = np.frombuffer(raw, header.dtype, header.tile_bytes // header.dtype.itemsize).reshape(shape)
        samples = stored.astype(header.dtype.newbyteorder("="), copy=False)
    if header.predictor == 2:
        samples = undo_differences(samples)
    return samples[:, :, header.band_index]


def undo_differences(samples: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Undo predictor 2: each sample is stored as its difference from the pixel to its left.

    Args:
        samples: native array of shape (rows, columns, samples); floats are differenced as integers of their size.
    """
    import imagecodecs  # noqa: PLC0415  (see _decoders)

    whole = samples.view(f"u{samples.dtype.itemsize}")
    # Several times faster than numpy's cumulative sum along an axis.
    return np.asarray(imagecodecs.delta_decode(whole, axis=1)).view(samples.dtype)


def undo_float_predictor(raw: npt.NDArray[np.uint8], shape: tuple[int, int, int], itemsize: int) -> npt.NDArray[Any]:
    """Undo predictor 3: the bytes of a row are stored significance by significance, then differenced as bytes.

    Args:
        raw: the row bytes, most significant first whatever the byte order of the file.
        shape: (rows, columns, samples) of the tile.
        itemsize: bytes of a float.

    Returns:
        Native floats of ``shape``.
    """
    rows, columns, samples = shape
    # Differences run between neighbouring pixels, so bytes ``samples`` apart.
    stored = np.cumsum(raw.reshape(rows, columns * itemsize, samples), axis=1, dtype=np.uint8)
    planes = stored.reshape(rows, itemsize, columns * samples)
    values = np.ascontiguousarray(planes.transpose(0, 2, 1)).view(f">f{itemsize}")
    return values.reshape(shape).astype(f"=f{itemsize}")


@functools.cache
def _decoders() -> dict[int, _Decoder]:
    """Decoders by compression number: bytes and the expected size to that many bytes, or fewer."""
    # Imported here because it takes a quarter of a second, which queries need not wait for.
    import imagecodecs  # noqa: PLC0415

    def deflate(data: bytes, size: int) -> bytes:
        # libdeflate: faster than zlib, and its streams are the same.
        return bytes(imagecodecs.deflate_decode(data, out=size))

    def lzw(data: bytes, size: int) -> bytes:
        return bytes(imagecodecs.lzw_decode(data, out=size))

    def zstd(data: bytes, size: int) -> bytes:
        return bytes(imagecodecs.zstd_decode(data, out=size))

    return {1: lambda data, _: data, 5: lzw, 8: deflate, 32946: deflate, 50000: zstd}
