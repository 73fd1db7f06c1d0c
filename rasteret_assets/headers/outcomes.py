"""Hold the values of a header fetch: its targets, their outcomes, and its progress."""

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
        href: address of the file as it is fetched.
        family: name of the files that share a prefetch size.
        stored_validators: validators of the stored header; then the file is read only if it has others now.
    """

    href: str
    family: str = ""
    stored_validators: Validators | None = None


@dataclass(slots=True, kw_only=True)
class HeaderOutcome:
    """The outcome of one file.

    Args:
        header: the header, or None where it could not be read.
        error: the failure, where ``header`` is None and the file is not ``unchanged``.
        unchanged: whether the file still has the validators of its target, and was not read.
        attempts: how often the file was tried.
        size: bytes of the object, if the store told the size.
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
    """A histogram of the seconds that headers took; bins grow by a tenth, so that memory is bounded."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._waiting = array("d")

    def add(self, seconds: float) -> None:
        """Count a header that took ``seconds``."""
        self._waiting.append(seconds)
        if len(self._waiting) == _BINNED:
            self._bin()

    def update(self, others: Latencies) -> None:
        """Add the counts of another histogram."""
        others._bin()
        self._counts.update(others._counts)

    def percentile(self, share: float) -> float | None:
        """Return the seconds within which the ``share`` (0 to 1) of headers came, to a tenth; None without headers."""
        self._bin()
        wanted, seen = share * self._counts.total(), 0
        for place in sorted(self._counts):
            seen += self._counts[place]
            if seen >= wanted:
                return _SHORTEST_S * math.exp((place + 0.5) * _BIN)
        return None

    def _bin(self) -> None:
        """Count the waiting headers, 4096 at once, because a logarithm for each would take 1/20 of a header's time."""
        seconds = np.maximum(np.frombuffer(self._waiting), _SHORTEST_S)
        self._waiting = array("d")
        places, counts = np.unique((np.log(seconds / _SHORTEST_S) / _BIN).astype(np.int64), return_counts=True)
        self._counts.update(dict(zip(places.tolist(), counts.tolist(), strict=True)))


@dataclass(kw_only=True)
class HeaderProgress:
    """Running totals of a header fetch; at its end, what the fetch took."""

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
        """Seconds since the fetch began."""
        return time.monotonic() - self.started


ProgressCallback = Callable[[HeaderProgress], None]

#: Takes finished headers: their positions among the targets, and the outcome of each.
HeaderSink = Callable[[Sequence[int], Sequence[HeaderOutcome]], None]
