"""A record table that changes at random, a model of what is then to be published, and the server of its files.

Every header tells which file it is of, by width and height of its image, so that one in the wrong row is seen.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rasteret_assets import CollectionSpec, load
from tests.support.rasters import record_table, tiff_bytes
from tests.support.server import RangeServer

BANDS = ("B02", "B03")
MONTHS = (1, 2, 3, 4, 5, 6, None)
#: How partitions are cut, where the version under trial knows more than months. All records of a month are of one day.
BY = os.environ.get("TRIAL_BY", "month")

#: Of a record that is published: the files of both bands, a number that the table states, and one that only some of its
#: files have a column for.
Values = tuple[int | None, int | None, int, int | None]
#: What is published: records by id, by month.
Published = dict[int | None, dict[str, Values]]


def spec_of(source: str | Path, workspace: str | Path) -> dict[str, Any]:
    """Return the fields of a collection's spec, as JSON carries them."""
    options = {"partition_by": BY} if BY != "month" else {}
    return {
        "path": str(source), "name": "m", "workspace_dir": str(workspace), "enrich_cog": True,
        "band_codes": list(BANDS), **options,
    }  # fmt: skip


class Headers(RangeServer):
    """Serve the file of every address ``/<version>-<band>.tif``, which there are without end."""

    def body(self, path: str) -> bytes | None:
        version, _, band = path.strip("/").removesuffix(".tif").partition("-")
        return raster(int(version), BANDS.index(band))

    @property
    def files(self) -> list[str]:
        """The files that were asked for."""
        return [path.strip("/").removesuffix(".tif") for path in self.paths]


@lru_cache(4096)
def raster(version: int, band: int) -> bytes:
    """Return a file whose width and height tell its version and its band."""
    return tiff_bytes(width=33 + 64 * band + version % 64, height=33 + version // 64)


def version_of(header: dict[str, Any] | None, band: int) -> int | None:
    """Return the version whose file a header is of."""
    return None if header is None else header["image_width"] - 33 - 64 * band + 64 * (header["image_height"] - 33)


def published(path: str) -> Published:
    """Read what is published, every byte held against what its states say.

    Raises:
        CollectionError: if it does not open.
        AssertionError: if an id occurs twice in a month.
    """
    found: Published = {}
    rows = load(path, verify="full").to_table().to_pylist()
    for row in rows:
        versions = [version_of(row[f"{band}_metadata"], place) for place, band in enumerate(BANDS)]
        month = found.setdefault(row["month"], {})
        assert row["id"] not in month, f"{row['id']} is published twice in month {row['month']}"
        month[row["id"]] = (versions[0], versions[1], row["value"], row.get("extra"))
    return found


class World:
    """A record table in a folder.

    Args:
        folder: of the table; it is made.
        url: of the server of its files.
        seed: of all that is random.
    """

    def __init__(self, folder: Path, url: str, seed: int) -> None:
        self.folder, self.url = folder, url
        self.random = random.Random(seed)
        #: Month, version and value of every record.
        self.records: dict[str, tuple[int | None, int, int]] = {}
        #: Records of every file of the table, in order.
        self.files: dict[str, list[str]] = {}
        #: Files that have the column ``extra``.
        self.wide: set[str] = set()
        self._written: dict[str, tuple[Any, ...]] = {}
        self._counted = 0
        folder.mkdir()
        for _ in range(4):
            self._add_file([self._new_record() for _ in range(12)])
        self.write()

    # --- what is right -----------------------------------------------------------------------------------------------

    def published(self) -> Published:
        """Return what is to be published."""
        right: Published = {}
        for file, ids in self.files.items():
            for name in ids:
                month, version, value = self.records[name]
                extra = value if file in self.wide else None
                right.setdefault(month, {})[name] = (version, version, value, extra)
        return right

    def wanted(self) -> set[str]:
        """Return the files whose headers are to be published."""
        return {f"{version}-{band}" for _, version, _ in self.records.values() for band in BANDS}

    # --- changes -----------------------------------------------------------------------------------------------------

    def change(self) -> str:
        """Change the table at random; return what was done."""
        kinds = [self._add, self._restate, self._readdress, self._move, self._remove, self._widen, self._rename,
                 self._split, self._merge, self._shuffle]  # fmt: skip
        done = self.random.choices(kinds, [3, 2, 2, 3, 2, 1, 1, 1, 1, 1], k=self.random.randint(1, 4))
        for kind in done:
            kind()
        self.write()
        return ", ".join(kind.__name__.strip("_") for kind in done)

    def _add(self) -> None:
        names = [self._new_record() for _ in range(self.random.randint(1, 12))]
        if len(self.files) < 8 and self.random.random() < 0.5:
            self._add_file(names)
        else:
            self.files[self._any_file()] += names

    def _restate(self) -> None:
        for name in self._some():
            month, version, _ = self.records[name]
            self.records[name] = (month, version, self._next())

    def _readdress(self) -> None:
        for name in self._some():
            month, _, value = self.records[name]
            self.records[name] = (month, self._next(), value)

    def _move(self) -> None:
        month = self.random.choice(MONTHS)
        for name in self._some():
            self.records[name] = (month, *self.records[name][1:])

    def _remove(self) -> None:
        for name in self._some():
            if len(self.records) > 20:
                del self.records[name]
                file = next(file for file, ids in self.files.items() if name in ids)
                self.files[file].remove(name)
                if not self.files[file]:
                    self._forget(file)

    def _widen(self) -> None:
        """Give a file the column ``extra``, or take it away."""
        self.wide ^= {self._any_file()}

    def _rename(self) -> None:
        """Rename a file as a user does: its bytes, times and inode stay."""
        self.write()
        file, name = self._any_file(), self._file_name()
        (self.folder / file).rename(self.folder / name)
        self.files[name], self._written[name] = self.files.pop(file), self._written.pop(file)
        if file in self.wide:
            self.wide ^= {file, name}

    def _split(self) -> None:
        file = self._any_file()
        ids = self.files[file]
        if len(ids) > 1 and len(self.files) < 10:
            place = self.random.randrange(1, len(ids))
            self.files[file] = ids[:place]
            other = self._add_file(ids[place:])
            self.wide |= {other} if file in self.wide else set()

    def _merge(self) -> None:
        if len(self.files) > 2:
            one, two = self.random.sample(sorted(self.files), 2)
            self.files[one] += self.files[two]
            self._forget(two)

    def _shuffle(self) -> None:
        self.random.shuffle(self.files[self._any_file()])

    # --- helpers -----------------------------------------------------------------------------------------------------

    def _next(self) -> int:
        self._counted += 1
        return self._counted

    def _new_record(self) -> str:
        name = f"r{self._next():05}"
        self.records[name] = (self.random.choice(MONTHS), self._next(), self._next())
        return name

    def _file_name(self) -> str:
        return f"{self.random.choice('abc')}{self._next()}.parquet"

    def _add_file(self, names: list[str]) -> str:
        file = self._file_name()
        self.files[file] = names
        return file

    def _forget(self, file: str) -> None:
        del self.files[file]
        self.wide.discard(file)

    def _any_file(self) -> str:
        return self.random.choice(sorted(self.files))

    def _some(self) -> list[str]:
        return self.random.sample(sorted(self.records), self.random.randint(1, 4))

    def write(self) -> None:
        """Write the files that changed, each in one step, and take away those that are gone."""
        for file, ids in self.files.items():
            content = (file in self.wide, *((name, *self.records[name]) for name in ids))
            if self._written.get(file) != content:
                # Hidden from whoever lists the folder.
                beside = self.folder / f".{file}"
                pq.write_table(self._table(file), beside)
                beside.rename(self.folder / file)
                self._written[file] = content
        for file in self._written.keys() - self.files.keys():
            (self.folder / file).unlink()
            del self._written[file]

    def _table(self, file: str) -> pa.Table:
        ids = self.files[file]
        months, versions, values = zip(*(self.records[name] for name in ids), strict=True)
        times = [None if month is None else datetime(2024, month, 5, tzinfo=UTC) for month in months]
        hrefs = {band: [f"{self.url}/{version}-{band}.tif" for version in versions] for band in BANDS}
        table = record_table(ids, hrefs, datetimes=times).append_column("value", pa.array(values, pa.int64()))
        return table.append_column("extra", pa.array(values, pa.int64())) if file in self.wide else table


def spec(fields: dict[str, Any]) -> CollectionSpec:
    """Return the spec of some fields."""
    return CollectionSpec.of(**fields)


def within(seconds: float, rounds: int) -> Iterator[int]:
    """Count rounds until there were enough of them, or time is up."""
    until = time.monotonic() + seconds
    for number in range(rounds):
        if time.monotonic() > until:
            return
        yield number
