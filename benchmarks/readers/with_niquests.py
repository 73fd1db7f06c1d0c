"""niquests alone, on uvloop: one range per file, not parsed."""

from __future__ import annotations

import os
from collections import Counter

import niquests
import uvloop
from harness import Job, fetch_all, judge_outcomes, measure, refuse_other


async def read(job: Job) -> Counter[str]:
    headers = {"Range": f"bytes=0-{job.length - 1}", "Accept-Encoding": "identity"}
    async with niquests.AsyncSession(
        pool_connections=16, pool_maxsize=job.max_concurrent, happy_eyeballs=True, disable_http2=True,
        disable_http3=True, revocation_configuration=None, timeout=(10, job.idle_s),
    ) as session:  # fmt: skip
        # Where it is given for the session, it does not count.
        trusted = os.environ.get("SSL_CERT_FILE") or True

        async def fetch(url: str) -> bytes:
            response = await session.get(url, headers=headers, verify=trusted)
            refuse_other(response.status_code or 0, str(response.headers.get("Content-Range")), job)
            return response.content or b""

        return await fetch_all(job, job.urls, fetch)


if __name__ == "__main__":
    measure(lambda job: uvloop.run(read(job)), judge_outcomes)
