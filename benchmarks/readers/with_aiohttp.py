"""aiohttp alone, on uvloop: one range per file, not parsed."""

from __future__ import annotations

from collections import Counter

import aiohttp
import uvloop
from harness import Job, fetch_all, judge_outcomes, measure, refuse_other
from yarl import URL


async def read(job: Job) -> Counter[str]:
    headers = {"Range": f"bytes=0-{job.length - 1}"}
    connector = aiohttp.TCPConnector(limit=0, happy_eyeballs_delay=0.25)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=job.idle_s)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:

        async def fetch(url: str) -> bytes:
            async with session.get(URL(url, encoded=True), headers=headers) as response:
                refuse_other(response.status, response.headers.get("Content-Range"), job)
                return await response.content.readexactly(job.length)

        return await fetch_all(job, job.urls, fetch)


if __name__ == "__main__":
    measure(lambda job: uvloop.run(read(job)), judge_outcomes)
