"""Giving memory back to the system, which allocators keep for a while."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import pyarrow as pa


def give_back() -> None:
    """Return the memory that Arrow and the C library hold and nobody uses.

    A stage needs memory in pieces of other sizes than the stage before it. What both allocators keep would add up to
    several hundred megabytes.
    """
    pa.default_memory_pool().release_unused()
    if (trim := _trim()) is not None:
        trim(0)


@cache
def _trim() -> Any:
    """Glibc's ``malloc_trim``; None where the C library is another."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
