"""A backend that answers at once, with the header of one kind of file and other tile tables at every address.

What a build costs beside its requests is measured with it: nothing waits, nothing is read from a disk. A table of
sizes is drawn once, as ``varied.py`` draws them; an address has the stretch of it that begins at a place of its own, so
that an answer takes microseconds and no two are equal. The offsets follow from the sizes.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from cogs import ServedFile
from varied import BYTES_PER_PIXEL, SPREAD, tile_tables

#: Tile sizes that are drawn; stretches of them are the tables of all addresses.
DRAWN: Final = 1 << 20
_BETWEEN: Final = 8


def save_header(file: ServedFile, path: Path) -> None:
    """Write what :class:`HeaderPool` needs of a file, so that a process without GDAL can serve its headers."""
    header = np.fromfile(file.path, np.uint8, file.header_bytes)
    kind = file.kind
    typical = BYTES_PER_PIXEL * np.dtype(kind.dtype).itemsize * kind.tile**2 * kind.bands
    with path.open("wb") as opened:
        np.savez(opened, header=header, tables=np.array(tile_tables(file.path)), typical=typical)


class HeaderPool:
    """Headers by address, from memory.

    Args:
        path: of what :func:`save_header` wrote.
    """

    def __init__(self, path: Path) -> None:
        with np.load(path) as saved:
            self._header, tables, typical = saved["header"].tobytes(), saved["tables"].tolist(), float(saved["typical"])
        self._tiles = sum(tiles for *_, tiles in tables)
        # Where the bytes of a table go, which table, and which of its bytes; in the order of the file.
        self._places: list[tuple[int, int, int, int]] = []
        first = 0
        for offsets, counts, tiles in tables:
            part = (4 * first, 4 * (first + tiles))
            self._places += [(offsets, 0, *part), (counts, 1, *part)]
            first += tiles
        self._places.sort()
        drawn = np.random.default_rng(0).normal(np.log(typical), SPREAD, DRAWN)
        self._sizes = np.exp(drawn).astype("<u4")
        self._starts = np.concatenate([[0], np.cumsum(self._sizes + np.int64(_BETWEEN))[:-1]])
        self.asked = 0

    async def get_range(self, url: str, start: int, length: int) -> bytes:
        """Return ``length`` bytes of the file at an address; behind the header there are zeros."""
        self.asked += 1
        part = self.header(url)[start : start + length]
        return part + bytes(length - len(part))

    async def get_ranges(self, url: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return one buffer for each range."""
        return [await self.get_range(url, start, length) for start, length in ranges]

    def header(self, url: str) -> bytes:
        """Return the header of the file at an address."""
        at = zlib.crc32(url.encode()) % (DRAWN - self._tiles)
        starts = self._starts[at : at + self._tiles]
        starts = starts - (starts[0] - len(self._header) - 4)
        tables = starts.astype("<u4").tobytes(), self._sizes[at : at + self._tiles].tobytes()
        pieces, done = [], 0
        for place, which, begin, end in self._places:
            pieces += [self._header[done:place], tables[which][begin:end]]
            done = place + end - begin
        return b"".join([*pieces, self._header[done:]])
