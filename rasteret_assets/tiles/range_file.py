"""A file for GDAL whose directories come from the index, and whose tiles from the backend when GDAL asks for them.

GDAL names the tiles of a read all at once where the file offers that (rasterio's ``MultiByteRangeResource``), so they
are requested side by side, neighbours together.
"""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import rasterio
from rasterio.abc import MultiByteRangeResourceContainer

from rasteret_assets.collection.pixels.backends import Source
from rasteret_assets.collection.pixels.fetching import RangeFetcher, replaced_error
from rasteret_assets.collection.pixels.tile_plan import join_runs
from rasteret_assets.errors import FileReplacedError, RasteretAssetsError, TileError
from rasteret_assets.secrets import redact
from rasteret_assets.storage.process.processes import run_sync
from rasteret_assets.storage.unchanged import IndexedFile
from rasteret_assets.tiles.tiff_bytes import TiffBytes

#: Name of the file for GDAL.
NAME: Final = "indexed.tif"

#: Bytes of tiles that are kept for a record while it is read: those of a map tile are a few hundred kilobytes.
_KEPT_BYTES: Final = 32 * 2**20

Range = tuple[int, int]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BandFile:
    """A band of a record, and the file that holds it.

    Args:
        record: id of the record.
        band: name of the band.
        href: address of the file.
        tiff: the file without its tiles.
        sample: number of the band in ``tiff``, from 1.
        crs: of the raster.
        transform: (scale_x, origin_x, scale_y, origin_y) of its pixels.
        size: its columns and rows.
        indexed: what the index knows of the file.
        has_palette: whether pixels are numbers of colours, which the index does not have.
    """

    record: str
    band: str
    href: str
    tiff: TiffBytes
    sample: int
    crs: str
    transform: tuple[float, ...]
    size: tuple[int, int]
    indexed: IndexedFile
    has_palette: bool = False

    def __str__(self) -> str:
        # Without the address, which may grant access, because rio-tiler writes this text into headers of answers.
        return f"{self.record}/{self.band}"


class TileBytes:
    """Bytes of tiles, for all bands of a record. A tile is fetched once: GDAL reads some twice, and bands share files.

    Threads may share it.

    Args:
        source: says where bytes come from.
        max_concurrent: requests in flight at most, of one band.
    """

    def __init__(self, source: Source, max_concurrent: int) -> None:
        self._source = source
        self._max_concurrent = max_concurrent
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, Range], Future[bytes]] = {}

    def get(self, file: BandFile, ranges: Sequence[Range]) -> list[bytes]:
        """Return the bytes of some tiles.

        Args:
            file: that holds them.
            ranges: (position, length) of each.

        Raises:
            RangeReadError: if bytes do not come.
            FileReplacedError: if the file is not the one that was indexed.
            TileError: if the file ends within a tile.
        """
        with self._lock:
            new = {place: Future[bytes]() for place in ranges if (file.href, place) not in self._kept}
            self._kept |= {(file.href, place): future for place, future in new.items()}
            awaited = [self._kept[file.href, place] for place in ranges]
        try:
            came = self._fetch(file, list(new))
            for place, future in new.items():
                future.set_result(came.pop(place))
        except BaseException as error:
            with self._lock:  # another try may end better
                for place, future in new.items():
                    del self._kept[file.href, place]
                    future.set_exception(error)
            raise
        found = [future.result() for future in awaited]
        self._keep(file, came)
        return found

    def _keep(self, file: BandFile, between: Mapping[Range, bytes]) -> None:
        """Keep tiles that came because they lie between others: GDAL asks for masks after pixels, and they are mixed.

        Where too many are kept, those that came first are forgotten.
        """
        with self._lock:
            for place, data in between.items():
                if (file.href, place) not in self._kept:
                    self._kept[file.href, place] = Future()
                    self._kept[file.href, place].set_result(data)
            excess = sum(length for _, (_, length) in self._kept) - _KEPT_BYTES
            for key, future in list(self._kept.items()) if excess > 0 else ():
                if excess <= 0 or not future.done():
                    break
                excess -= key[1][1]
                del self._kept[key]

    def _fetch(self, file: BandFile, ranges: Sequence[Range]) -> dict[Range, bytes]:
        """The bytes of some tiles, and of those that lie between them."""
        if not ranges:
            return {}
        runs = [(start, length) for start, length, _ in join_runs(set(ranges), lambda place: place)]
        try:
            pieces = run_sync(self._fetch_runs(file, runs))
        except FileReplacedError as error:
            raise replaced_error(file.record, file.band, error) from error
        except RasteretAssetsError as error:
            error.add_note(f"while reading band {file.band!r} of record {file.record!r}")
            raise
        found: dict[Range, bytes] = {}
        for (start, length), data in zip(runs, pieces, strict=True):
            for number in range(*file.tiff.tiles_in(start, start + length)):
                position, size = file.tiff.tile(number)
                if start <= position and position + size <= start + len(data):
                    found[position, size] = bytes(data[position - start : position - start + size])
        for position, size in ranges:
            if (position, size) not in found:
                raise TileError(
                    f"record {file.record!r}, band {file.band!r}: {redact(file.href)} ends within a tile ({size} bytes "
                    f"at {position}): build again with force=True",
                    href=redact(file.href),
                )
        return found

    async def _fetch_runs(self, file: BandFile, runs: Sequence[Range]) -> list[memoryview]:
        fetcher = RangeFetcher(self._source.open(), self._max_concurrent)
        return await asyncio.gather(
            *(fetcher.fetch(file.href, start, length, file.indexed) for start, length in runs)
        )  # fmt: skip


@dataclass(eq=False)
class RangeFile:
    """A file that GDAL reads. What fails is kept in ``failure``, because GDAL passes no exceptions on.

    Args:
        file: what is read.
        tiles: brings the bytes of tiles.
    """

    file: BandFile
    tiles: TileBytes
    failure: RasteretAssetsError | None = None

    def fetch(self, tiles: Sequence[Range]) -> list[bytes] | None:
        """Return the bytes of some tiles; None where that fails, and ever after."""
        if self.failure is not None:
            return None
        try:
            return self.tiles.get(self.file, tiles)
        except RasteretAssetsError as error:
            self.failure = error
            return None


class _Opening:
    """One opening of a file, with a position of its own."""

    def __init__(self, whole: RangeFile) -> None:
        self._whole = whole
        self._tiff = whole.file.tiff
        self._position = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:  # fmt: skip
        """Close nothing: connections belong to the backend."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position; from the start, from here, or from the end."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._tiff.size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Return bytes from the position on: tiles, directories, or zeros between them; nothing after a failure."""
        end = self._tiff.size if size < 0 else min(self._position + size, self._tiff.size)
        (data,) = self._read([(self._position, max(0, end - self._position))]) or (b"",)
        self._position += len(data)
        return data

    def get_byte_ranges(self, offsets: list[int], sizes: list[int]) -> list[bytes]:
        """Return the bytes of several tiles; zeros after a failure, because rasterio copies no errors to GDAL."""
        ranges = list(zip(offsets, sizes, strict=True))
        return self._read(ranges) or [bytes(size) for size in sizes]

    def _read(self, ranges: Sequence[Range]) -> list[bytes] | None:
        """The bytes of some ranges, which may hold several tiles each; None after a failure."""
        tiff = self._tiff
        # GDAL looks at the first kilobyte to learn what a file is, whether a tile lies there or not.
        spans = [(0, 0) if not start else tiff.tiles_in(start, start + length) for start, length in ranges]
        wanted = [tiff.tile(number) for first, last in spans for number in range(first, last)]
        pieces = self._whole.fetch(wanted) if wanted else []
        if pieces is None:
            return None
        found, at = [], 0
        for (start, length), (first, last) in zip(ranges, spans, strict=True):
            tiles = zip(wanted[at : at + last - first], pieces[at : at + last - first], strict=True)
            found.append(_compose(tiff, start, length, list(tiles)))
            at += last - first
        return found

    def close(self) -> None:
        """Close nothing: connections belong to the backend."""


def _compose(tiff: TiffBytes, start: int, length: int, tiles: Sequence[tuple[Range, bytes]]) -> bytes:
    """The bytes of a range of a file, of which its tiles are given."""
    found = bytearray(length)
    for (position, _), data in [((0, 0), tiff.start), *tiles, ((tiff.position, 0), tiff.directories)]:
        first, last = max(start, position), min(start + length, position + len(data))
        if first < last:
            found[first - start : last - start] = data[first - position : last - position]
    return bytes(found)


class RangeFiles(MultiByteRangeResourceContainer):  # type: ignore[misc]  # Any to mypy, which has no rasterio
    """A folder that holds one file and nothing beside it: no sidecar is looked for anywhere else.

    Args:
        file: the file.
    """

    def __init__(self, file: RangeFile) -> None:
        self.file = file

    def open(self, path: str, mode: str = "r", **_: Any) -> _Opening:
        """Open the file at a position of its own."""
        if not self.isfile(path) or "w" in mode or "+" in mode:
            raise FileNotFoundError(path)
        return _Opening(self.file)

    def isfile(self, path: str) -> bool:
        """Tell whether a path is that of the file."""
        return path == NAME

    def isdir(self, path: str) -> bool:  # noqa: ARG002
        """Tell that a path is not a folder."""
        return False

    def ls(self, path: str) -> list[str]:  # noqa: ARG002
        """Return the names in the folder."""
        return [NAME]

    def mtime(self, path: str) -> int:  # noqa: ARG002
        """Return the same time for every path."""
        return 0

    def size(self, path: str) -> int:
        """Return the bytes of the file."""
        if not self.isfile(path):
            raise FileNotFoundError(path)
        return self.file.file.tiff.size

    def rm(self, path: str) -> None:
        """Refuse to delete anything."""
        raise PermissionError(path)


def open_dataset(file: RangeFile) -> Any:
    """Open a file with rasterio.

    Args:
        file: what is read; it says afterwards what failed.
    """
    return rasterio.open(NAME, opener=RangeFiles(file), driver="GTiff", sharing=False)
