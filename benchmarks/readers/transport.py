"""The transport alone: one range per file through the project's own backend, not parsed."""

from __future__ import annotations

from collections import Counter
from typing import Any

from harness import Job, fetch_all, judge_outcomes, measure

from rasteret_assets import create_backend
from rasteret_assets.storage.backend import as_reader
from rasteret_assets.storage.create import close_backend
from rasteret_assets.storage.http import ranges as http_ranges
from rasteret_assets.storage.process.processes import run_sync


def read(job: Job) -> Counter[str]:
    http_ranges.IDLE_TIMEOUT_S = job.idle_s
    return run_sync(_read(job))


async def _read(job: Job) -> Counter[str]:
    backend = create_backend()
    reader = as_reader(backend)  # looked up once, as a header fetch does

    async def fetch(url: str) -> Any:
        return (await reader.read(url, 0, job.length)).data

    try:
        return await fetch_all(job, job.urls, fetch)
    finally:
        await close_backend(backend)


if __name__ == "__main__":
    measure(read, judge_outcomes)
