"""The transport alone: one range per file through the project's own backend, not parsed."""

from __future__ import annotations

from harness import Job, in_flight, measure

from rasteret_assets import create_backend
from rasteret_assets.storage.backend import as_reader
from rasteret_assets.storage.create import close_backend
from rasteret_assets.storage.processes import run_sync


def read(job: Job) -> list[int]:
    return run_sync(_read(job))


async def _read(job: Job) -> list[int]:
    backend = create_backend()
    reader = as_reader(backend)  # looked up once, as a header fetch does

    async def fetch(url: str) -> int:
        return len(memoryview((await reader.read(url, 0, job.length)).data))

    try:
        return await in_flight(job.urls, fetch, job.max_concurrent)
    finally:
        await close_backend(backend)


if __name__ == "__main__":
    measure(read, lambda job, lengths: {"good": lengths.count(job.length)})
