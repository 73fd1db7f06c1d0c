"""obstore alone, on uvloop: one range per file, not parsed."""

from __future__ import annotations

import uvloop
from harness import Job, in_flight, measure
from obstore.store import HTTPStore


async def read(job: Job) -> list[int]:
    store = HTTPStore(job.url, client_options={"allow_http": True})

    async def fetch(path: str) -> int:
        return len(await store.get_range_async(path, start=0, length=job.length))

    return await in_flight(job.paths, fetch, job.max_concurrent)


if __name__ == "__main__":
    measure(lambda job: uvloop.run(read(job)), lambda job, lengths: {"good": lengths.count(job.length)})
