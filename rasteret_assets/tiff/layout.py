"""Read the file header of a TIFF: its byte order, whether it is classic or Big, and the place of its first directory.

Sources: TIFF 6.0 section 2, and the BigTIFF design page of libtiff for version 43.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from rasteret_assets.errors import CorruptTiffError, NotATiffError
from rasteret_assets.tiff.buffer import NeedBytes
from rasteret_assets.tiff.constants import INTEGER_TYPES

if TYPE_CHECKING:
    from rasteret_assets.tiff.buffer import SparseBuffer

#: Bytes to ask for if the length is unknown; they hold header, directory and tag values of most COGs.
READ_AHEAD: Final = 16 * 1024


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layout:
    """Byte order and field widths of a file, which differ between classic TIFF and BigTIFF."""

    order: str
    """Struct prefix of the byte order: ``<`` or ``>``."""
    count: struct.Struct
    """The number of entries, at the start of the directory."""
    entry: struct.Struct
    """One entry: tag, field type, count of values, position of the values."""
    inline: int
    """Bytes of a value that is stored in the entry itself, in place of its position."""
    integers: dict[int, struct.Struct]
    """How to read one integer of each integer field type."""
    tables: dict[int, np.dtype]
    """numpy's type for each integer field type."""


LAYOUTS: Final = {
    (order, version): Layout(
        order=order,
        count=struct.Struct(order + ("H" if version == 42 else "Q")),
        entry=struct.Struct(order + ("HHII" if version == 42 else "HHQQ")),
        inline=4 if version == 42 else 8,
        integers={kind: struct.Struct(order + letter) for kind, letter in INTEGER_TYPES.items()},
        tables={kind: np.dtype(order + letter) for kind, letter in INTEGER_TYPES.items()},
    )
    for order in "<>"
    for version in (42, 43)
}


def read_file_header(buffer: SparseBuffer) -> tuple[Layout, int]:
    """Return the layout of the file and the position of its first directory, from the first 8 (BigTIFF: 16) bytes.

    Raises:
        NeedBytes: if bytes of the file header are missing.
        NotATiffError: if the file does not begin as a TIFF does.
        CorruptTiffError: if the file header contradicts itself.
    """
    if buffer.size is not None and buffer.size < 8:
        found = "the file is empty" if buffer.size == 0 else f"the file has {buffer.size} bytes"
        raise NotATiffError(f"not a TIFF: {found}; a TIFF header takes 8")
    mark = buffer.read(0, 4)
    if mark is None:
        raise NeedBytes([buffer.missing(0, READ_AHEAD)])
    order = {b"II": "<", b"MM": ">"}.get(mark[:2])
    if order is None:
        message = f"the file starts with {mark!r}{_guess_content(mark)}; II or MM was expected"
        raise NotATiffError(f"not a TIFF: {message}", quotes=True)
    version = int.from_bytes(mark[2:], "little" if order == "<" else "big")
    layout = LAYOUTS.get((order, version))
    if layout is None:
        raise NotATiffError(
            f"not a TIFF: the version is {version}; 42 (TIFF) or 43 (BigTIFF) was expected", quotes=True
        )
    head = read_ahead(buffer, 0, 8 if version == 42 else 16, "the file header")
    if version == 42:
        offset: int = struct.unpack_from(order + "I", head, 4)[0]
    else:
        offset_size, zero, offset = struct.unpack_from(order + "HHQ", head, 4)
        if offset_size != 8 or zero != 0:
            raise CorruptTiffError(f"the BigTIFF header holds offset size {offset_size} and {zero}; 8 and 0 are fixed")
    if offset < len(head):
        raise CorruptTiffError(f"the header puts the first directory at byte {offset}, inside the header itself")
    return layout, offset


def read_ahead(buffer: SparseBuffer, start: int, length: int, what: str) -> bytes:
    """Return ``length`` bytes from ``start``; if they are missing, ask for at least 16 KiB from there.

    Raises:
        NeedBytes: if the bytes are missing.
        CorruptTiffError: if the file cannot have them.
    """
    data = buffer.read(start, length)
    if data is None:
        buffer.check_inside(start, length, what)
        raise NeedBytes([buffer.missing(start, max(length, READ_AHEAD))])
    return data


def _guess_content(mark: bytes) -> str:
    """Return a guess of the content for a message, because servers send error pages in place of images."""
    text = mark.lstrip().lower()
    if text.startswith((b"<", b"{")):
        return " (an HTML, XML or JSON page)"
    if mark == b"\x89PNG":
        return " (a PNG)"
    if mark == b"vers":
        return " (a Git LFS pointer)"
    return ""
