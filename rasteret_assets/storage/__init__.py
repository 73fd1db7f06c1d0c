"""Bytes in and files out: byte-range backends, filesystems, the workspace.

Only this package imports obstore and aiohttp.
"""

from rasteret_assets.storage.backend import RangeRead, RangeReader, StorageBackend, read_range
from rasteret_assets.storage.create import AutoBackend, close_backend, create_backend

__all__ = [
    "AutoBackend",
    "RangeRead",
    "RangeReader",
    "StorageBackend",
    "close_backend",
    "create_backend",
    "read_range",
]
