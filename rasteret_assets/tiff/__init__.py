"""TIFF headers: bytes in, values out. Nothing here awaits, opens a file or knows Arrow.

:func:`parse_header` is given what has been read of a file so far. It returns a :class:`TiffHeader`, or raises
:class:`NeedBytes` with the ranges to read before it is called again, or a :class:`~rasteret_assets.errors.TiffError`
that says why the file cannot be indexed. A typical COG needs one read of its first 16 KiB, a file whose directory lies
at its end two or three. :class:`HeaderFamily` takes the headers of files that are like one that was parsed.
"""

from __future__ import annotations

from rasteret_assets.tiff._family import FamilyMember, HeaderFamily, StackedTables
from rasteret_assets.tiff.buffer import NeedBytes
from rasteret_assets.tiff.header import TiffHeader
from rasteret_assets.tiff.parse import parse_header

__all__ = ["FamilyMember", "HeaderFamily", "NeedBytes", "StackedTables", "TiffHeader", "parse_header"]
