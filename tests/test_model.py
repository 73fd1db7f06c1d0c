"""A published collection against a model of it, over hundreds of random changes of its record table and random deaths.

``RASTERET_ASSETS_ROUNDS`` sets how many rounds are played, a round being a few changes and a build; 200 by default.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from rasteret_assets import CollectionSpec, build, load, plan
from rasteret_assets.headers import fetch, rows
from rasteret_assets.storage.workspace import PART_NAME, Workspace
from rasteret_assets.storage.workspace.files import TableWriter
from rasteret_assets.storage.workspace.streams import StreamWriter
from tests.support.rasters import record_table, tiff_bytes
from tests.support.server import RangeServer

STEPS = 25
ROUNDS = int(os.environ.get("RASTERET_ASSETS_ROUNDS", "200"))
NAMES = st.sampled_from([f"r{number:02}" for number in range(16)])
MONTHS = st.sampled_from([*range(1, 7), None])
FILES = st.sampled_from(["one", "two", "three"])
#: Types of a column that some files have, each of which holds the ones before.
KINDS = (None, pa.int32(), pa.int64(), pa.float64())


class Died(BaseException):
    """The death of the building process."""


@cache
def raster(version: int) -> bytes:
    """A file that its width tells from all others."""
    return tiff_bytes(width=33 + version % 64, height=33 + version // 64)


class PublishedCollection(RuleBasedStateMachine):
    """The model: for every record its file of the table, its month (None is undated) and the version of its raster.

    For every file, which of :data:`KINDS` its column ``extra`` has.
    """

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.serving = RangeServer()
        self.running = self.serving.running()
        self.running.__enter__()
        self.records: dict[str, tuple[str, int | None, int]] = {}
        self.kinds: dict[str, int] = {}
        self.versions = 0
        self.fetched: set[str] = set()
        # What was lost is missed only when its partition is built.
        self.lost_headers: set[str] = set()
        self.lost = False
        (self.folder / "source").mkdir()
        self.spec = CollectionSpec.of(
            path=self.folder / "source", name="m", workspace_dir=self.folder / "w", enrich_cog=True, band_codes=["B02"]
        )
        self.put(record="r00", file="one", month=1)
        self.write()
        self.run()

    def teardown(self) -> None:
        self.running.__exit__(None, None, None)
        shutil.rmtree(self.folder)

    # --- changes of the table ----------------------------------------------------------------------------------------

    @rule(record=NAMES, file=FILES, month=MONTHS)
    def put(self, record: str, file: str, month: int | None) -> None:
        """Add a record, or replace one by another whose raster is at a new address."""
        self.versions += 1
        self.records[record] = (file, month, self.versions)
        self.serving.objects[f"/{self.versions}.tif"] = raster(self.versions)

    @rule(record=NAMES, file=FILES, month=MONTHS)
    def move(self, record: str, file: str, month: int | None) -> None:
        """Move a record to another file and month; its raster stays where it is."""
        if record in self.records:
            self.records[record] = (file, month, self.records[record][2])

    @rule(record=NAMES)
    def remove(self, record: str) -> None:
        if len(self.records) > 1:
            self.records.pop(record, None)

    @rule(file=FILES, kind=st.integers(0, len(KINDS) - 1))
    def store(self, file: str, kind: int) -> None:
        """A file of the table brings a column, loses it, or has it in another type."""
        self.kinds[file] = kind

    # --- accidents ---------------------------------------------------------------------------------------------------

    @rule(which=st.integers(0, 999), cut=st.booleans())
    def lose(self, which: int, cut: bool) -> None:
        """Somebody deletes a file of the workspace, or cuts a published one short; lost headers are asked for again."""
        files = [path for path in sorted((self.folder / "w").rglob("*")) if path.is_file()]
        if not files:
            return
        file = files[which % len(files)]
        if cut and file.name == PART_NAME:
            file.write_bytes(file.read_bytes()[:-9])
        else:
            file.unlink()
            if "headers" in file.parts or "band_metadata" in file.parts:
                self.lost_headers |= self.fetched
        self.lost, self.published = True, {}

    # --- builds ------------------------------------------------------------------------------------------------------

    @rule(steps=st.integers(0, 20), force=st.booleans())
    def die(self, steps: int, force: bool) -> None:
        """A build that dies at some moment: before a file is put in place or taken away, while rows are written."""
        self.write()
        left = steps

        def count(*_: object) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Died

        with pytest.MonkeyPatch.context() as patched:
            for kind, name in (
                (Workspace, "put_file"),
                (StreamWriter, "write"),
                (Workspace, "remove"),
                (TableWriter, "write"),
            ):
                patched.setattr(kind, name, _counting(getattr(kind, name), count))
            patched.setattr(fetch, "BATCH_HEADERS", 2)
            patched.setattr(rows, "SAVED_ROWS", 2)
            try:
                build(self.spec, force=force)
            except BaseException as error:  # alone, or in the group of a task that fetched
                if not _died(error):
                    raise
            else:
                self.lost, self.published = False, self.state()
        # Whatever was published is whole and of one moment per partition.
        if not self.lost:
            load(self.spec.published_path or "", verify="full").to_table()

    @rule()
    def run(self) -> None:
        """A build: every header that is new is asked for once, and no other."""
        self.write()
        self.serving.reset()
        build(self.spec)
        wanted = {f"/{version}.tif" for _, _, version in self.records.values()}
        asked = self.asked()
        assert len(self.serving.paths) == len(asked)
        assert asked <= wanted - (self.fetched - self.lost_headers), "a header was fetched that was known"
        self.lost_headers -= asked
        self.fetched = wanted
        self.lost, self.published = False, self.state()
        assert not plan(self.spec).partitions

    @rule()
    def rest(self) -> None:
        """A build with nothing to do asks for nothing."""
        self.run()
        self.serving.reset()
        assert build(self.spec).reasons == {}
        assert not self.serving.paths

    @invariant()
    def equals(self) -> None:
        if getattr(self, "published", None) != self.state():
            return
        table = load(self.spec.published_path or "", verify="full").to_table()
        widest = KINDS[max(kind for *_, kind in self.published.values())]
        assert (table.schema.field("extra").type if "extra" in table.schema.names else None) == widest
        if widest is not None:
            extra = dict(zip(table["id"].to_pylist(), table["extra"].to_pylist(), strict=True))
            assert extra == {name: version if kind else None for name, (*_, version, kind) in self.published.items()}
        rows = table.select(["id", "month", "B02_metadata"])
        found = {row["id"]: (row["month"], row["B02_metadata"]) for row in rows.to_pylist()}
        assert rows.num_rows == len(found)
        assert found.keys() == self.records.keys()
        for record, (_, month, version) in self.records.items():
            header = found[record][1]
            assert found[record][0] == month
            assert (header["image_width"], header["image_height"]) == (33 + version % 64, 33 + version // 64)

    # --- helpers -----------------------------------------------------------------------------------------------------

    def asked(self) -> set[str]:
        return set(self.serving.paths)

    def state(self) -> dict[str, tuple[str, int | None, int, int]]:
        return {record: (*where, self.kinds.get(where[0], 0)) for record, where in self.records.items()}

    def write(self) -> None:
        for file in ("one", "two", "three"):
            path = self.folder / "source" / f"{file}.parquet"
            rows = [(name, month, version) for name, (at, month, version) in sorted(self.records.items()) if at == file]
            table = _table(rows, self.serving.url, KINDS[self.kinds.get(file, 0)])
            if table is None:
                path.unlink(missing_ok=True)
            elif not path.exists() or pq.read_table(path) != table:
                pq.write_table(table, path)


def _table(rows: list[tuple[str, int | None, int]], url: str, kind: pa.DataType | None) -> pa.Table | None:
    if not rows:
        return None
    times = [None if month is None else datetime(2024, month, 5, tzinfo=UTC) for _, month, _ in rows]
    hrefs = [f"{url}/{version}.tif" for _, _, version in rows]
    table = record_table([name for name, _, _ in rows], {"B02": hrefs}, datetimes=times)
    if kind is None:
        return table
    return table.append_column("extra", pa.array([version for _, _, version in rows]).cast(kind))


def _died(error: BaseException) -> bool:
    return isinstance(error, Died) or (isinstance(error, BaseExceptionGroup) and error.subgroup(Died) is not None)


def _counting(method, count):
    def counted(self, *args, **kwargs):
        count()
        return method(self, *args, **kwargs)

    return counted


TestPublishedCollection = PublishedCollection.TestCase
TestPublishedCollection.settings = settings(
    max_examples=max(1, ROUNDS // STEPS),
    stateful_step_count=STEPS,
    suppress_health_check=list(HealthCheck),
    # A failing run of builds is slow to make smaller, and short enough to read.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
