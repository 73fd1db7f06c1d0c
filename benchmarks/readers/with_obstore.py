"""obstore alone, on uvloop: one range per file, not parsed. It does not retry, as the other transports do not."""

from __future__ import annotations

import os
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import uvloop
from harness import Job, fetch_all, judge_outcomes, measure
from obstore.store import HTTPStore


def client_options(job: Job) -> dict[str, Any]:
    options: dict[str, Any] = {
        "allow_http": True, "timeout": timedelta(hours=1), "read_timeout": timedelta(seconds=job.idle_s)
    }  # fmt: skip
    if authority := os.environ.get("SSL_CERT_FILE"):
        options["root_certificate"] = Path(authority).read_text()
    return options


async def read(job: Job) -> Counter[str]:
    store = HTTPStore(job.url, client_options=client_options(job), retry_config={"max_retries": 0})

    async def fetch(path: str) -> Any:
        return await store.get_range_async(path, start=0, length=job.length)

    return await fetch_all(job, job.paths, fetch)


if __name__ == "__main__":
    measure(lambda job: uvloop.run(read(job)), judge_outcomes)
