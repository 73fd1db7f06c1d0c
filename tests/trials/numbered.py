"""Files by number, served from memory inside the building process; their headers tell the number they are of.

What is asked for is noted in a file, which outlives the process.
"""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import tifffile

from tests.support.rasters import record_table, tiff_bytes

HOST = "https://data.example/"
_WEST = 500_000.0
_TIEPOINT = 33922


class NumberedFiles:
    """Serve ``https://data.example/<number>.tif``.

    Args:
        log: file that gets a line for every request.
    """

    def __init__(self, log: str | Path) -> None:
        body = tiff_bytes(width=40, height=40, origin=(_WEST, 5_400_000.0))
        beside = Path(f"{log}.{os.getpid()}.tif")
        beside.write_bytes(body)
        with tifffile.TiffFile(beside) as tiff:
            # Column, row and height of the tie point stand before its easting.
            place = tiff.pages[0].tags[_TIEPOINT].valueoffset + 3 * 8
        beside.unlink()
        self._before, self._behind = body[:place], body[place + 8 :]
        self._log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def get_range(self, url: str, start: int, length: int) -> bytes:
        """Return ``length`` bytes of a file from ``start``; fewer where it ends."""
        number = int(url.removeprefix(HOST).removesuffix(".tif"))
        os.write(self._log, f"{number}\n".encode())
        return b"".join((self._before, struct.pack("<d", _WEST + number), self._behind))[start : start + length]

    async def get_ranges(self, url: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return one buffer for each range."""
        return [await self.get_range(url, start, length) for start, length in ranges]


def asked_for(log: Path) -> Counter[int]:
    """Return how often every file was asked for."""
    return Counter(map(int, log.read_text().split())) if log.exists() else Counter()


def number_of(header: dict[str, Any] | None) -> int | None:
    """Return the number of the file that a header is of."""
    return None if header is None else round(header["transform"][1] - _WEST)


def numbered_records(first: int, last: int) -> pa.Table:
    """Return the records of some numbers, with one file each."""
    numbers = range(first, last)
    hrefs = {"B02": [f"{HOST}{number}.tif" for number in numbers]}
    times = [datetime(2024, 5, 1, tzinfo=UTC)] * len(numbers)
    return record_table([f"r{number:06}" for number in numbers], hrefs, datetimes=times)
