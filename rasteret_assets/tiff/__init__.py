"""Parse TIFF headers from bytes. This package neither awaits nor opens files, and does not use Arrow.

:func:`parse_header` takes the bytes of a file that were read so far. It returns a :class:`TiffHeader`, or raises
:class:`NeedBytes` with the ranges to read before the next call, or a :class:`~rasteret_assets.errors.TiffError` that
says why the file cannot be indexed. A typical COG needs one read of its first 16 KiB, a file whose directory lies at
its end two or three reads. :class:`HeaderFamily` recognises headers that equal a parsed one in all but a few bytes.
"""

from __future__ import annotations

from rasteret_assets.tiff._family import FamilyMember, HeaderFamily, StackedTables
from rasteret_assets.tiff.buffer import NeedBytes
from rasteret_assets.tiff.header import TiffHeader
from rasteret_assets.tiff.parse import parse_header

__all__ = ["FamilyMember", "HeaderFamily", "NeedBytes", "StackedTables", "TiffHeader", "parse_header"]
