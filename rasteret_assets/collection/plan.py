"""Which bytes to ask for: the tiles that windows touch, joined to runs. Pure; nothing is read here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from rasteret_assets.collection.header import BandHeader
from rasteret_assets.collection.window import Window
from rasteret_assets.errors import TileError
from rasteret_assets.storage.urls import redact

#: Bytes between two tiles that are read and dropped rather than asked around: a request costs more than they do.
MAX_GAP = 64 * 1024

#: A run ends here although its neighbour follows, so that what is in flight stays small. One tile may be larger.
MAX_RUN = 4 * 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Target:
    """A window and the array it is read into, of the window's shape."""

    window: Window
    pixels: npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BandRead:
    """All that is wanted of one band of one record.

    Args:
        record: id of the record, for messages.
        band: name of the band.
        href: address of the file.
        header: of the band.
        targets: windows to read.
    """

    record: str
    band: str
    href: str
    header: BandHeader
    targets: Sequence[Target]

    def tile_error(self, row: int, column: int, reason: object) -> TileError:
        """The error for one of its tiles."""
        return TileError(
            f"record {self.record!r}, band {self.band!r}: tile (row {row}, column {column}) of {redact(self.href)} "
            f"cannot be decoded: {reason}; the file may have changed since it was indexed"
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tile:
    """A stored tile and the windows that need it."""

    row: int
    column: int
    start: int
    length: int
    targets: Sequence[Target]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Run:
    """One request: ``length`` bytes from ``start``, which hold ``tiles``."""

    read: BandRead
    start: int
    length: int
    tiles: Sequence[Tile]


def plan_runs(read: BandRead) -> Iterator[Run]:
    """The requests that bring the tiles of a read, in the order of the file. Tiles that are not stored need none.

    Raises:
        TileError: if the index places a tile where none can be.
    """
    run: list[Tile] = []
    end = 0
    for tile in sorted(_tiles(read), key=lambda tile: tile.start):
        stop = max(end, tile.start + tile.length)
        if run and (tile.start - end > MAX_GAP or stop - run[0].start > MAX_RUN):
            yield Run(read=read, start=run[0].start, length=end - run[0].start, tiles=run)
            run, stop = [], tile.start + tile.length
        run.append(tile)
        end = stop
    if run:
        yield Run(read=read, start=run[0].start, length=end - run[0].start, tiles=run)


def _tiles(read: BandRead) -> Iterator[Tile]:
    header = read.header
    needed: dict[tuple[int, int], list[Target]] = {}
    for target in read.targets:
        for tile in target.window.tiles(header.tile_width, header.tile_height):
            needed.setdefault(tile, []).append(target)
    # No codec makes a tile much larger than it was: a count beyond that is damage, and memory must not be taken for it.
    most = 2 * header.tile_bytes + MAX_GAP
    for (row, column), targets in needed.items():
        start, length = int(header.tile_offsets[row, column]), int(header.tile_byte_counts[row, column])
        if length == 0:
            continue
        if start <= 0 or not 0 < length <= most:
            raise read.tile_error(row, column, f"the index says {length} bytes at {start}")
        yield Tile(row=row, column=column, start=start, length=length, targets=targets)
