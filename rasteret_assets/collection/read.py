"""The read engine: planned runs are fetched side by side, decoded in threads and copied into place.

Memory in flight is bounded by the number of requests times the size of a run, beside the arrays that are filled.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from rasteret_assets.collection.codecs import decode_tile
from rasteret_assets.collection.plan import BandRead, Run, plan_runs
from rasteret_assets.errors import RangeReadError, TileError
from rasteret_assets.storage.backend import StorageBackend

_DECODE_THREADS = min(16, os.cpu_count() or 1)


async def read_bands(reads: Iterable[BandRead], backend: StorageBackend, *, max_concurrent: int) -> None:
    """Fill the targets of ``reads``. Pixels that are not stored are left as they are.

    Args:
        reads: what to read; consumed as it goes.
        backend: brings the bytes; asked for one range per run.
        max_concurrent: requests in flight at most.

    Raises:
        TileError: if a tile is damaged, naming record, band, tile and file.
        RangeReadError: if bytes cannot be read, with a note naming record and band.
    """
    # Shared by the workers: each takes the next run as soon as it is done with one.
    runs = (run for read in reads for run in plan_runs(read))
    loop = asyncio.get_running_loop()

    async def work(pool: ThreadPoolExecutor) -> None:
        for run in runs:
            data = await _fetch(run, backend)
            await loop.run_in_executor(pool, _place, run, data)

    with ThreadPoolExecutor(_DECODE_THREADS, thread_name_prefix="decode") as pool:
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(max_concurrent):
                    group.create_task(work(pool))
        except ExceptionGroup as failures:
            # The first failure stopped the others, so it alone says what happened.
            raise failures.exceptions[0] from failures.exceptions[0].__cause__


async def _fetch(run: Run, backend: StorageBackend) -> memoryview:
    try:
        (data,) = await backend.get_ranges(run.read.href, [(run.start, run.length)])
    except RangeReadError as error:
        error.add_note(f"while reading band {run.read.band!r} of record {run.read.record!r}")
        raise
    return memoryview(data)


def _place(run: Run, data: memoryview) -> None:
    """Decode the tiles of a run and copy each into the windows that need it."""
    header = run.read.header
    for tile in run.tiles:
        begin = tile.start - run.start
        stored = bytes(data[begin : begin + tile.length])
        try:
            if len(stored) < tile.length:
                raise TileError(f"the file ends within it ({len(stored)} of {tile.length} bytes)")  # noqa: TRY301
            samples = decode_tile(stored, header)
        except TileError as error:
            raise run.read.tile_error(tile.row, tile.column, error) from error
        extent = header.tile_window(tile.row, tile.column)
        for target in tile.targets:
            if (shared := extent.overlap(target.window)) is not None:
                target.pixels[shared.within(target.window).slices] = samples[shared.within(extent).slices]
