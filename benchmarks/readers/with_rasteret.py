"""rasteret's own header batch, as its builds call it; runs in the Python that has rasteret.

Its client refuses plain http, and the server speaks nothing else, so that is switched on in this process.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from harness import Job, measure
from rasteret.fetch import cog
from rasteret.fetch.header_parser import AsyncCOGHeaderParser

cog._OBSTORE_CLIENT_OPTIONS["allow_http"] = "true"  # noqa: SLF001 - there is no public way

if authority := os.environ.get("SSL_CERT_FILE"):
    cog._OBSTORE_CLIENT_OPTIONS["root_certificate"] = Path(authority).read_text()  # noqa: SLF001 - nor for this


async def read(job: Job) -> list[int]:
    async with AsyncCOGHeaderParser(max_concurrent=job.max_concurrent) as parser:
        headers = await parser.process_cog_headers_batch(job.urls)
    return [len(header.tile_offsets or ()) if header else 0 for header in headers]


if __name__ == "__main__":
    measure(lambda job: asyncio.run(read(job)), lambda _, tiles: {"good": sum(count > 0 for count in tiles)})
