"""TIFF files made byte by byte, as no library would write them, and a client that reads a file range by range."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pyproj

from rasteret_assets.tiff import NeedBytes, TiffHeader, parse_header

LETTERS = {
    1: "B",
    3: "H",
    4: "I",
    5: "II",
    6: "b",
    8: "h",
    9: "i",
    11: "f",
    12: "d",
    13: "I",
    16: "Q",
    17: "q",
    18: "Q",
}

Field = tuple[int, Any]  # field type and values: numbers, or bytes for types 2 and 7


def geo_keys(*keys: tuple[int, int, int, int]) -> Field:
    """Return a GeoKeyDirectory of ``(key, place, count, value)``."""
    return 3, [1, 1, 0, len(keys), *(number for key in keys for number in key)]


def base_tags() -> dict[int, Field]:
    """Return the tags of a valid 32 x 32 uint16 image in 4 tiles of 16 x 16, EPSG:32633."""
    return {
        256: (3, [32]),
        257: (3, [32]),
        258: (3, [16]),
        259: (3, [1]),
        262: (3, [1]),
        277: (3, [1]),
        284: (3, [1]),
        322: (3, [16]),
        323: (3, [16]),
        324: (4, [4096 + 512 * i for i in range(4)]),
        325: (4, [512] * 4),
        33550: (12, [10.0, 10.0, 0.0]),
        33922: (12, [0.0, 0.0, 0.0, 500000.0, 4600000.0, 0.0]),
        34735: geo_keys((1024, 0, 1, 1), (1025, 0, 1, 1), (3072, 0, 1, 32633)),
    }


def craft(
    changes: dict[int, Field | None] | None = None, *, order: str = "<", big: bool = False, offset: int | None = None
) -> bytes:
    """Return a TIFF of :func:`base_tags` with some tags changed (``None`` removes one), its pixels at byte 4096.

    Args:
        changes: tag to field type and values.
        order: ``<`` little-endian, ``>`` big-endian.
        big: write a BigTIFF.
        offset: position of the directory; behind the file header if not given.
    """
    tags = {tag: field for tag, field in {**base_tags(), **(changes or {})}.items() if field is not None}
    header = 16 if big else 8
    at = header if offset is None else offset
    inline = 8 if big else 4
    entry = "HHQ" if big else "HHI"
    values_at = at + (8 if big else 2) + len(tags) * (20 if big else 12) + inline
    entries, values = b"", b""
    for tag, (kind, content) in sorted(tags.items()):
        if isinstance(content, bytes):
            data, count = content, len(content)
        else:
            letter = LETTERS.get(kind, "B")
            count = len(content) // len(letter)
            data = struct.pack(f"{order}{len(content)}{letter[0]}", *content)
        if len(data) <= inline:
            place = data.ljust(inline, b"\0")
        else:
            place = struct.pack(order + ("Q" if big else "I"), values_at + len(values))
            values += data + b"\0" * (len(data) % 2)
        entries += struct.pack(order + entry, tag, kind, count) + place
    start = struct.pack(order + "2sH" if order == "<" else ">2sH", b"II" if order == "<" else b"MM", 43 if big else 42)
    start += struct.pack(order + ("HHQ" if big else "I"), *((8, 0, at) if big else (at,)))
    body = struct.pack(order + ("Q" if big else "H"), len(tags)) + entries + bytes(inline) + values
    file = start.ljust(at, b"\0") + body
    return file.ljust(4096, b"\0") + bytes(range(256)) * 8


def serve(
    file: bytes, *, first: int = 16384, tell_size: bool = False, max_rounds: int = 6, most_asked: int | None = None
) -> TiffHeader:
    """Return the header of a file that is read range by range, as a client of an object store reads it.

    Args:
        file: the whole file.
        first: bytes of the first read.
        tell_size: whether the client knows the size from the start; else a short read reveals it.
        max_rounds: reads after which the parser is taken to ask for ever.
        most_asked: bytes that the parser may ask for in one round; the size of the file where the client knows it.

    Raises:
        TiffError: as the parser does.
        AssertionError: if the parser asks for ranges that no client could read, or never has enough.
    """
    pieces = [(0, file[:first])]
    size = len(file) if tell_size or len(file) < first else None
    for _ in range(max_rounds):
        try:
            return parse_header(pieces, size=size)
        except NeedBytes as need:
            wanted = need.ranges
        assert wanted
        assert most_asked is None or sum(length for _, length in wanted) <= (most_asked if size is None else size)
        for start, length in wanted:
            assert start >= 0
            assert length > 0
            data = file[start : start + length]
            if len(data) < length:
                size = len(file)
            pieces.append((start, data))
    raise AssertionError(f"the parser still asks for bytes after {max_rounds} rounds")


def to_degrees(crs: pyproj.CRS, header: TiffHeader) -> np.ndarray:
    """Return longitudes and latitudes, on the CRS's own datum, of three corners and the middle of the image."""
    scale_x, x, scale_y, y = header.transform
    columns, rows = np.array([0, 1, 0.5, 0]) * header.width, np.array([0, 1, 0.5, 1]) * header.height
    transformer = pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
    return np.array(transformer.transform(x + columns * scale_x, y + rows * scale_y))


def as_values(header: TiffHeader) -> dict[str, Any]:
    """Return the fields of a header in a form that compares, in which NaN equals NaN."""
    values = {name: getattr(header, name) for name in TiffHeader.__slots__}
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else repr(value) if isinstance(value, float) else value
        for name, value in values.items()
    }
