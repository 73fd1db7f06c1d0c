"""A build in a process of its own that says how much memory it took; its headers come from memory.

``python -m tests.support.peak JOB``: a JSON document with the fields of the ``spec``, the ``header`` that every address
has, and in it the place of the tile ``offsets``, of which every address has others.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rasteret_assets import CollectionSpec, build


class HeadersInMemory:
    """Serve one header for every address, with tile offsets of the address' own.

    Args:
        header: bytes of the file up to its pixels.
        place: of the first offset.
        tiles: how many there are, four bytes each.
    """

    def __init__(self, header: bytes, place: int, tiles: int) -> None:
        self.before, self.behind = header[:place], header[place + 4 * tiles :]
        self.offsets = np.frombuffer(header, "<u4", tiles, place)

    async def get_range(self, url: str, start: int, length: int) -> bytes:
        """Return ``length`` bytes; behind the header there are zeros."""
        offsets = self.offsets + np.uint32(zlib.crc32(url.encode()) & 0xFFFFFF)
        part = b"".join((self.before, offsets.tobytes(), self.behind))[start : start + length]
        return part + bytes(length - len(part))

    async def get_ranges(self, url: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return one buffer for each range."""
        return [await self.get_range(url, start, length) for start, length in ranges]


def main() -> None:
    """Build, and print what was fetched and the most memory this process ever held, in MB."""
    job = json.loads(Path(sys.argv[1]).read_text())
    backend = HeadersInMemory(Path(job["header"]).read_bytes(), job["place"], job["tiles"])
    report = build(CollectionSpec.of(**job["spec"]), backend=backend)
    totals = report.totals
    # Not ru_maxrss, which a child inherits from its parent.
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    answer = {"fetched": totals["headers_fetched"], "records": totals["records"], "peak": round(peak)}
    print(json.dumps({**answer, "partitions": sorted(report.reasons)}))  # noqa: T201


if __name__ == "__main__":
    main()
