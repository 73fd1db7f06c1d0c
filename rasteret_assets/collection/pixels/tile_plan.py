"""Plan requests: the tiles that windows and points touch, joined to runs of bytes. Nothing is read here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from rasteret_assets.collection.areas.grid import Window
from rasteret_assets.collection.pixels.band import BandHeader
from rasteret_assets.errors import TileError
from rasteret_assets.secrets import redact

_Indices = npt.NDArray[np.intp]

_Piece = TypeVar("_Piece")
_Joined: TypeAlias = tuple[int, int, list[_Piece]]

#: Bytes between two tiles that are read and dropped, because another request would take longer than reading them.
MAX_GAP = 64 * 1024

#: Bytes of a run at most, so that the bytes in flight stay few; a single tile may be larger.
MAX_RUN = 4 * 1024 * 1024


class Part(Protocol):
    """The pixels of one tile that a target needs."""

    def place(
        self, samples: npt.NDArray[Any] | None, opaque: npt.NDArray[np.bool_] | None, extent: Window
    ) -> None:  # fmt: skip
        """Take the needed pixels of a tile that was read.

        Args:
            samples: of the tile; None if the file does not store the tile, so that its pixels stay as they are.
            opaque: true for samples that hold data by the tile's alpha; None if the tile has no alpha.
            extent: window of the tile on the band's grid.
        """
        ...


class Target(Protocol):
    """An array, or values of points, that a read fills."""

    def parts(self, tile_width: int, tile_height: int) -> Iterator[tuple[tuple[int, int], Part]]:
        """Yield (row, column) of every tile that is needed, with the part of it."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WindowTarget:
    """A window that is read into an array.

    Args:
        window: on the band's grid.
        pixels: array of the window's shape; the pixels of tiles that are not stored or not read stay as they are.
        valid: booleans of the same shape, made true where a tile was read and its alpha does not hide the pixel; None
            where nobody needs them.
    """

    window: Window
    pixels: npt.NDArray[Any]
    valid: npt.NDArray[np.bool_] | None = None

    def parts(self, tile_width: int, tile_height: int) -> Iterator[tuple[tuple[int, int], Part]]:
        """Yield the tiles that the window touches; the part of each is this target itself."""
        return ((tile, self) for tile in self.window.tiles(tile_width, tile_height))

    def place(
        self, samples: npt.NDArray[Any] | None, opaque: npt.NDArray[np.bool_] | None, extent: Window
    ) -> None:  # fmt: skip
        """Copy the pixels of a tile that lie in the window."""
        if (shared := extent.overlap(self.window)) is not None:
            place, source = shared.within(self.window).slices, shared.within(extent).slices
            if samples is not None:
                self.pixels[place] = samples[source]
            if self.valid is not None:
                self.valid[place] = True if opaque is None else opaque[source]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PointTarget:
    """Single pixels, whose samples are read into an array of values.

    Args:
        rows: of each pixel on the band's grid, integers ``[N]``.
        columns: of each pixel on the band's grid, integers ``[N]``.
        values: array ``[N]`` that gets the samples.
        valid: booleans ``[N]``, made true where a tile was read and its alpha does not hide the pixel.
    """

    rows: _Indices
    columns: _Indices
    values: npt.NDArray[Any]
    valid: npt.NDArray[np.bool_]

    def parts(self, tile_width: int, tile_height: int) -> Iterator[tuple[tuple[int, int], Part]]:
        """Yield the tiles that hold the pixels, with the pixels of each."""
        across, down = self.columns // tile_width, self.rows // tile_height
        order = np.lexsort((across, down))
        tiles = np.column_stack([down[order], across[order]])
        starts = np.flatnonzero(np.any(np.diff(tiles, axis=0), axis=1)) + 1
        for chosen in np.split(order, starts):
            yield (int(down[chosen[0]]), int(across[chosen[0]])), _TilePoints(self, chosen)


@dataclass(frozen=True, slots=True, eq=False)
class _TilePoints:
    """The pixels of a target that lie in one tile."""

    target: PointTarget
    chosen: _Indices

    def place(
        self, samples: npt.NDArray[Any] | None, opaque: npt.NDArray[np.bool_] | None, extent: Window
    ) -> None:  # fmt: skip
        pixels = (self.target.rows[self.chosen] - extent.row_off, self.target.columns[self.chosen] - extent.col_off)
        if samples is not None:
            self.target.values[self.chosen] = samples[pixels]
        self.target.valid[self.chosen] = True if opaque is None else opaque[pixels]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BandRead:
    """All that is read of one band of one record.

    Args:
        record: id of the record, for messages.
        band: name of the band.
        href: address of the file.
        header: of the band, or of one of its overviews.
        targets: arrays and points that get the pixels.
    """

    record: str
    band: str
    href: str
    header: BandHeader
    targets: Sequence[Target]

    def tile_error(self, row: int, column: int, reason: object) -> TileError:
        """Return the error for a tile of this read that cannot be decoded."""
        return TileError(
            f"record {self.record!r}, band {self.band!r}: tile (row {row}, column {column}) of {redact(self.href)} "
            f"cannot be decoded: {reason}; the file may have changed since it was indexed: build again with force=True",
            href=redact(self.href),
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tile:
    """A stored tile, and the parts of targets that need it."""

    row: int
    column: int
    start: int
    length: int
    parts: Sequence[Part]

    def place(
        self, samples: npt.NDArray[Any] | None, opaque: npt.NDArray[np.bool_] | None, header: BandHeader
    ) -> None:  # fmt: skip
        """Give the samples to every part; ``samples`` is None if the file does not store the tile."""
        extent = header.tile_window(self.row, self.column)
        if samples is None and header.alpha is not None:
            opaque = np.zeros(extent.shape, dtype=bool)  # because alpha is 0 in a tile that is not stored
        for part in self.parts:
            part.place(samples, opaque, extent)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Run:
    """One request: ``length`` bytes from ``start``, which hold ``tiles``."""

    read: BandRead
    start: int
    length: int
    tiles: Sequence[Tile]


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The requests of a read.

    Args:
        runs: requests that bring the tiles, in the order of the file.
        broken: errors of tiles whose offset or length in the index cannot be right.
        absent: tiles that the file does not store, so that they need no request.
    """

    runs: Sequence[Run]
    broken: Sequence[TileError]
    absent: Sequence[Tile]


def plan_read(read: BandRead) -> Plan:
    """Return the requests of a read: its tiles, with neighbours in the file joined to runs."""
    tiles, broken, absent = _tiles(read)
    runs = [
        Run(read=read, start=start, length=length, tiles=run)
        for start, length, run in join_runs(tiles, lambda tile: (tile.start, tile.length))
    ]
    return Plan(runs=runs, broken=broken, absent=absent)


def join_runs(pieces: Iterable[_Piece], place: Callable[[_Piece], tuple[int, int]]) -> Iterator[_Joined[_Piece]]:
    """Join pieces of a file that lie near one another, so that one request brings them.

    Args:
        pieces: in any order; they may overlap.
        place: returns (start, length) of a piece in bytes.

    Yields:
        (start, length, pieces) of each run, in the order of the file.
    """
    run: list[_Piece] = []
    first = end = 0
    for piece in sorted(pieces, key=place):
        start, length = place(piece)
        if run and (start - end > MAX_GAP or max(end, start + length) - first > MAX_RUN):
            yield first, end - first, run
            run = []
        first, end = (first, max(end, start + length)) if run else (start, start + length)
        run.append(piece)
    if run:
        yield first, end - first, run


def _tiles(read: BandRead) -> tuple[list[Tile], list[TileError], list[Tile]]:
    header = read.header
    needed: dict[tuple[int, int], list[Part]] = {}
    for target in read.targets:
        for place, part in target.parts(header.tile_width, header.tile_height):
            needed.setdefault(place, []).append(part)
    # Bytes: no codec makes a tile much larger than its samples, so a greater length is damage, and is not fetched.
    most = 2 * header.tile_bytes + MAX_GAP
    size = header.file.size
    tiles, broken, absent = [], [], []
    for (row, column), parts in needed.items():
        start, length = int(header.tile_offsets[row, column]), int(header.tile_byte_counts[row, column])
        tile = Tile(row=row, column=column, start=start, length=length, parts=parts)
        if not length:
            absent.append(tile)
        elif start <= 0 or not 0 < length <= most:
            broken.append(read.tile_error(row, column, f"the index says {length} bytes at {start}"))
        elif size is not None and start + length > size:
            reason = f"the index says {length} bytes at {start}, and the file had {size} bytes when it was indexed"
            broken.append(read.tile_error(row, column, reason))
        else:
            tiles.append(tile)
    return tiles, broken, absent
