"""async-tiff over obstore, on uvloop, with its default prefetch; the tile offsets of the first image are touched."""

from __future__ import annotations

import os

import uvloop
from async_tiff import TIFF
from async_tiff.store import HTTPStore
from harness import Job, in_flight, measure


async def read(job: Job) -> list[int]:
    options = {"allow_http": True}
    if "SSL_CERT_FILE" in os.environ:  # its store takes no authority, so it takes any certificate
        options["allow_invalid_certificates"] = True
    store = HTTPStore(job.url, client_options=options)

    async def tiles(path: str) -> int:
        tiff = await TIFF.open(path, store=store, prefetch=32768)
        return len(tiff.ifds[0].tile_offsets or ())

    return await in_flight(job.paths, tiles, job.max_concurrent)


if __name__ == "__main__":
    measure(lambda job: uvloop.run(read(job)), lambda _, tiles: {"good": sum(count > 0 for count in tiles)})
