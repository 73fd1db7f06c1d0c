"""async-geotiff: every file opened by its header, then its window read; many at once. It does not warp."""

from __future__ import annotations

import asyncio

from async_geotiff import GeoTIFF, Window
from harness import Job, measure, total
from obstore.store import HTTPStore


async def read(job: Job) -> int:
    store = HTTPStore(job.url, client_options={"allow_http": True})
    limit = asyncio.Semaphore(128)

    async def one(href: str) -> int:
        async with limit:
            opened = await GeoTIFF.open(href.removeprefix(job.url + "/"), store=store)
            size, left, top = opened.transform.a, opened.transform.c, opened.transform.f
            boxes = job.areas
            if job.scenario == "points":
                boxes = [(x // size * size, y // size * size, x // size * size + size, y // size * size + size)
                         for x, y in job.points]  # fmt: skip
            windows = [
                Window(
                    col_off=round((west - left) / size), row_off=round((top - north) / size),
                    width=round((east - west) / size), height=round((north - south) / size),
                )
                for west, south, east, north in boxes
            ]  # fmt: skip
            arrays = await asyncio.gather(*(opened.read(window=window) for window in windows))
            return sum(total(array.data) for array in arrays)

    return sum(await asyncio.gather(*(one(href) for href in job.hrefs)))


if __name__ == "__main__":
    measure(lambda job: asyncio.run(read(job)))
