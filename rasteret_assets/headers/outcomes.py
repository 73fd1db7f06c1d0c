"""The values of a header fetch: what is wanted, what became of it, how far it is."""

from __future__ import annotations

import math
import time
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from rasteret_assets.errors import RasteretAssetsError
from rasteret_assets.storage.backend import Validators
from rasteret_assets.tiff import FamilyMember, TiffHeader

_SHORTEST_S: Final = 1e-4
_BIN: Final = math.log(1.1)
_BINNED: Final = 4096


class HeaderTarget(NamedTuple):
    """A file whose header is wanted.

    Args:
        href: its address as it is fetched.
        family: files that share a prefetch size.
        known: validators of the header we have; the file is read only if it has others now.
    """

    href: str
    family: str = ""
    known: Validators | None = None


@dataclass(slots=True, kw_only=True)
class HeaderOutcome:
    """What became of one file.

    Args:
        header: the header, or None where it could not be had.
        error: why, where there is none.
        unchanged: whether the file still has the validators it was known by, and was not read.
        attempts: how often the file was tried.
        size: of the object in bytes, where the store told it.
        etag: as the store told it.
        last_modified: as the store told it.
    """

    header: TiffHeader | FamilyMember | None = None
    error: RasteretAssetsError | None = None
    unchanged: bool = False
    attempts: int = 0
    size: int | None = None
    etag: str | None = None
    last_modified: str | None = None


class Latencies:
    """How long headers took, as a histogram whose bins grow by a tenth: percentiles in bounded memory."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._waiting = array("d")

    def add(self, seconds: float) -> None:
        """Count one header."""
        self._waiting.append(seconds)
        if len(self._waiting) == _BINNED:
            self._bin()

    def update(self, others: Latencies) -> None:
        """Count all that others counted."""
        others._bin()
        self._counts.update(others._counts)

    def percentile(self, share: float) -> float | None:
        """Seconds within which this share (0 to 1) of the headers came, to a tenth; None where there were none."""
        self._bin()
        wanted, seen = share * self._counts.total(), 0
        for place in sorted(self._counts):
            seen += self._counts[place]
            if seen >= wanted:
                return _SHORTEST_S * math.exp((place + 0.5) * _BIN)
        return None

    def _bin(self) -> None:
        """Many at once: a logarithm each would be a twentieth of what a header costs."""
        seconds = np.maximum(np.frombuffer(self._waiting), _SHORTEST_S)
        self._waiting = array("d")
        places, counts = np.unique((np.log(seconds / _SHORTEST_S) / _BIN).astype(np.int64), return_counts=True)
        self._counts.update(dict(zip(places.tolist(), counts.tolist(), strict=True)))


@dataclass(kw_only=True)
class HeaderProgress:
    """Running totals of a header fetch; the last one is its account."""

    total: int
    done: int = 0
    failed: int = 0
    requests: int = 0
    bytes: int = 0
    concurrency: int = 0
    latencies: Latencies = field(default_factory=Latencies)
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Time since the fetch began."""
        return time.monotonic() - self.started


ProgressCallback = Callable[[HeaderProgress], None]

#: Takes finished headers: their positions among the targets, and what became of each.
HeaderSink = Callable[[Sequence[int], Sequence[HeaderOutcome]], None]
