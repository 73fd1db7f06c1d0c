"""aiohttp alone, on uvloop: one range per file, not parsed."""

from __future__ import annotations

import aiohttp
import uvloop
from harness import Job, in_flight, measure


async def read(job: Job) -> list[int]:
    headers = {"Range": f"bytes=0-{job.length - 1}"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def fetch(url: str) -> int:
            async with session.get(url, headers=headers) as response:
                return len(await response.read())

        return await in_flight(job.urls, fetch, job.max_concurrent)


if __name__ == "__main__":
    measure(lambda job: uvloop.run(read(job)), lambda job, lengths: {"good": lengths.count(job.length)})
