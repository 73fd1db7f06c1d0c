"""libcurl by pycurl's own asyncio multi, on uvloop: one range per file, not parsed.

Handles are used again, which keeps what they have been told. Heads and bodies go to a list's ``append``: a function of
Python would be called for every line of a head. Bodies are bounded by libcurl itself.
"""

from __future__ import annotations

import os
from collections import Counter

import pycurl
import uvloop
from harness import Job, fetch_all, judge_outcomes, measure, refuse_other


class Handle:
    """An easy handle, told once what all requests have in common."""

    def __init__(self, job: Job) -> None:
        self.head: list[bytes] = []
        self.body: list[bytes] = []
        self.curl = curl = pycurl.Curl()
        options = {
            pycurl.RANGE: f"0-{job.length - 1}", pycurl.MAXFILESIZE_LARGE: job.length, pycurl.FOLLOWLOCATION: 1,
            pycurl.NOSIGNAL: 1, pycurl.PATH_AS_IS: 1, pycurl.CONNECTTIMEOUT: 10, pycurl.LOW_SPEED_LIMIT: 1,
            pycurl.LOW_SPEED_TIME: max(1, round(job.idle_s)), pycurl.HEADERFUNCTION: self.head.append,
            pycurl.WRITEFUNCTION: self.body.append,
        }  # fmt: skip
        if authority := os.environ.get("SSL_CERT_FILE"):
            options[pycurl.CAINFO] = authority
        for option, value in options.items():
            curl.setopt(option, value)

    def told_range(self) -> str | None:
        """``Content-Range`` of the last answer."""
        for line in reversed(self.head):
            if line[:14].lower() == b"content-range:":
                return line[14:].strip().decode("latin-1")
        return None


async def read(job: Job) -> Counter[str]:
    free: list[Handle] = []
    async with pycurl.AsyncCurlMulti() as multi:
        multi.setopt(pycurl.M_MAXCONNECTS, 1024)

        async def fetch(url: str) -> bytes:
            handle = free.pop() if free else Handle(job)
            handle.head.clear()
            handle.body.clear()
            handle.curl.setopt(pycurl.URL, url)
            try:
                await multi.perform(handle.curl)
                refuse_other(handle.curl.getinfo(pycurl.RESPONSE_CODE), handle.told_range(), job)
                return handle.body[0] if len(handle.body) == 1 else b"".join(handle.body)
            finally:
                free.append(handle)

        return await fetch_all(job, job.urls, fetch)


if __name__ == "__main__":
    measure(lambda job: uvloop.run(read(job)), judge_outcomes)
