"""Give the memory that allocators keep back to the operating system."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import pyarrow as pa


def give_back() -> None:
    """Return the free memory that Arrow and the C library keep to the operating system.

    Each stage allocates pieces of other sizes than the stage before, so that the kept memory of all stages would add up
    to several hundred megabytes.
    """
    pa.default_memory_pool().release_unused()
    if (trim := _trim()) is not None:
        trim(0)


@cache
def _trim() -> Any:
    """Return glibc's ``malloc_trim``; None where the C library has no such function."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
