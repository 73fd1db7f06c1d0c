"""A public mirror as they are: an archive file a month, a live file that overlaps them, a Collection that names all.

Served over HTTPS by the certificate of an authority of the tests' own.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import shapely
import trustme

from tests.support.server import RangeServer

_DAY_US = 86_400 * 10**6
#: 1 January 2020 in microseconds since 1970.
_START_US = 1_577_836_800 * 10**6


class Mirror:
    """Files of a mirror in a folder; a record is known by its number, and has a revision.

    Args:
        folder: to write in.
        months: that the archive has, from January 2020.
        rows: of a month.
        files: distinct addresses of all records, whose headers are asked for once.
    """

    def __init__(self, folder: Path, months: int, rows: int, files: int) -> None:
        self.folder, self.months, self.rows, self.files = folder, months, rows, files
        self.archive = {month: self.numbers(month) for month in range(months)}
        self.revisions = np.zeros((months + 1) * rows, np.int64)
        self.live = np.zeros(0, np.int64)
        for month in range(months):
            self.write_month(month)
        self.write_live()
        names = [*(f"{key(month)}.parquet" for month in range(months)), "live.parquet"]
        assets = {name: {"href": f"./{name}", "type": "application/vnd.apache.parquet"} for name in names}
        document = {"type": "Collection", "id": "mirror", "stac_version": "1.1.0", "assets": assets, "links": []}
        (folder / "collection.json").write_text(json.dumps(document))

    def numbers(self, month: int, count: int | None = None) -> npt.NDArray[np.int64]:
        """The first records of a month."""
        return month * self.rows + np.arange(self.rows if count is None else count)

    def change(self, numbers: npt.NDArray[np.int64]) -> None:
        """Give records another revision, or their first, and put them into the live file alone."""
        self.revisions[numbers] += 1
        self.live = np.union1d(self.live, numbers)
        self.write_live()

    def merge(self) -> list[str]:
        """Put the records of the live file into the archive, as the first half of a fold; the files that changed."""
        months = np.unique(self.live // self.rows)
        for month in months.tolist():
            here = self.live[self.live // self.rows == month]
            at = min(month, self.months - 1)
            self.archive[at] = np.union1d(self.archive[at], here)
        changed = sorted({min(month, self.months - 1) for month in months.tolist()})
        for month in changed:
            self.write_month(month)
        return [f"/{key(month)}.parquet" for month in changed]

    def empty(self) -> None:
        """Empty the live file, as the second half of a fold."""
        self.live = self.live[:0]
        self.write_live()

    def write_month(self, month: int) -> None:
        """Write an archive file."""
        self._write(f"{key(month)}.parquet", self.archive[month], self.revisions)

    def write_live(self) -> None:
        """Write the live file."""
        self._write("live.parquet", self.live, self.revisions)

    def _write(self, name: str, numbers: npt.NDArray[np.int64], revisions: npt.NDArray[np.int64]) -> None:
        pq.write_table(self.table(numbers, revisions[numbers]), self.folder / name, row_group_size=6000)

    def table(self, numbers: npt.NDArray[np.int64], revisions: npt.NDArray[np.int64]) -> pa.Table:
        """Records as a mirror has them; assets are JSON texts."""
        months = numbers // self.rows
        starts = np.array(
            [f"{2020 + month // 12}-{1 + month % 12:02d}" for month in range(self.months + 1)], "datetime64[us]"
        ).astype(np.int64)
        times = starts[months] + (numbers % 28) * _DAY_US
        west, south = numbers % 300 - 150.0, numbers % 120 - 60.0
        files = pa.array(numbers % self.files).cast(pa.string())
        assets = pc.binary_join_element_wise('{"B02":{"href":"https://cog.test/', files, '.tif"}}', "")
        utc = pa.timestamp("us", "UTC")
        return pa.table({
            "id": pc.binary_join_element_wise("scene", pa.array(numbers).cast(pa.string()), "-"),
            "datetime": pa.array(times).cast(pa.timestamp("us")).cast(utc),
            "updated": pa.array(_START_US + revisions * _DAY_US).cast(pa.timestamp("us")).cast(utc),
            "eo:cloud_cover": revisions.astype(np.float64),
            "assets": assets,
            "geometry": pa.array(shapely.to_wkb(shapely.box(west, south, west + 1, south + 1)), pa.binary()),
        })  # fmt: skip


def key(month: int) -> str:
    """The partition of a month, which is the name of its archive file."""
    return f"{2020 + month // 12}-{1 + month % 12:02d}"


@contextmanager
def serving(folder: Path, bundle: Path) -> Iterator[RangeServer]:
    """Serve a folder over HTTPS.

    Args:
        folder: of the files.
        bundle: gets the certificate of the authority, for ``SSL_CERT_FILE``.
    """
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(bundle)
    with RangeServer(folder).running(context) as server:
        yield server


def bytes_asked(server: RangeServer) -> int:
    """Bytes of all ranges that were asked for; documents count as nothing."""
    ranges = [ranged.removeprefix("bytes=").split("-") for path, ranged in server.requests if "parquet" in path]
    return sum(int(last) - int(first) + 1 for first, last in ranges)
