"""A header store gets new rows only, and rows that no record needs are dropped once they are a third of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rasteret_assets import CollectionSpec, create_backend
from rasteret_assets.headers import compact as compaction
from rasteret_assets.headers import store as stores
from rasteret_assets.headers.compact import compact
from rasteret_assets.headers.ledger import read_ledger
from rasteret_assets.headers.store import HeaderStore
from rasteret_assets.pipeline import _publish_stage as publication
from rasteret_assets.pipeline.build import build_partitions
from rasteret_assets.pipeline.stage import Build
from rasteret_assets.pipeline.stages import run_stage
from rasteret_assets.schema import BANDS, COLLECTION, HEADERS, NORMALIZED, RAW
from rasteret_assets.source.open import open_source
from rasteret_assets.storage.workspace import Workspace
from tests.headers import compact_and_die
from tests.support.rasters import record_table, tiff_bytes
from tests.support.server import RangeServer

KEY = "2024-05"


class Month:
    """A collection of one month, whose files have different widths."""

    def __init__(self, server: RangeServer, root: Path) -> None:
        self.server, self.root = server, root
        self.files: dict[str, str] = {}
        self.spec = CollectionSpec.of(path="t", name="s", workspace_dir=root, enrich_cog=True, retry_missing_for=0)
        self.workspace = Workspace.of(self.spec)

    def put(self, **files: str) -> None:
        """Give records a file each."""
        self.files |= files
        for name in files.values():
            self.server.objects.setdefault(f"/{name}.tif", tiff_bytes(width=40 + len(self.server.objects)))

    def made(self, **options: Any) -> Build:
        hrefs: list[str | None] = [f"{self.server.url}/{file}.tif" for file in self.files.values()]
        times = [datetime(2024, 5, 1, tzinfo=UTC)] * len(hrefs)
        source = open_source(record_table(list(self.files), {"B02": hrefs}, datetimes=list(times)), self.spec)
        return Build(workspace=self.workspace, spec=self.spec, source=source, backend=create_backend(), **options)

    def build(self, **options: Any) -> int:
        """Build the month; return how many files are asked for."""
        self.server.reset()
        build_partitions(self.made(**options), [KEY])
        return len(self.server.requests)

    def read(self) -> None:
        """Run the stages before the last one, which would compact the store."""
        build = self.made()
        for stage in (RAW, NORMALIZED, BANDS):
            run_stage(stage, build, [KEY])

    def compact(self) -> bool:
        with self.workspace.lock(KEY):
            return compact(self.workspace, KEY)

    def publish(self, *, tidy: bool = True) -> None:
        """Publish the month again; without ``tidy`` its header store is left as it is."""
        with pytest.MonkeyPatch.context() as patch:
            if not tidy:
                patch.setattr(publication, "compact", lambda *_: False)
            run_stage(COLLECTION, Build(workspace=self.workspace, spec=self.spec), [KEY])

    @property
    def store(self) -> HeaderStore:
        return HeaderStore(self.workspace, KEY)

    def rows(self) -> dict[str, int]:
        """Return the number of rows of every file of the store."""
        return {name: self.store.open(name).rows for name in self.store.names}

    def published(self) -> bytes:
        return Path(self.workspace.published_file(KEY)).read_bytes()

    def stored(self) -> dict[str, tuple[Any, ...]]:
        """Return content, times and inode of every file of the store."""
        found = {}
        for path in Path(self.workspace.stages, HEADERS, KEY).glob("*.arrows"):
            status = path.stat()
            found[path.name] = (path.read_bytes(), status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
        return found


def ledger(workspace: Workspace) -> list[dict[str, Any]]:
    """Return the ledger with its headers, without their places."""
    rows = pa.Table.from_batches(read_ledger(workspace, KEY))
    return rows.drop_columns(["header_file", "header_row"]).to_pylist()


@pytest.fixture
def month(server: RangeServer, tmp_path: Path) -> Month:
    made = Month(server, tmp_path / "w")
    made.put(**{f"r{number:02}": f"f{number:02}" for number in range(12)})
    assert made.build() == 12
    return made


def test_a_month_that_grows_gets_the_new_headers_only(month: Month) -> None:
    for number in range(3):
        before = month.stored()
        month.put(**{f"n{number}": f"n{number}", f"m{number}": f"m{number}"})
        assert month.build() == 2
        after = month.stored()
        # Not one file was opened for writing, or given another name.
        assert {name: after[name] for name in before} == before
        (new,) = after.keys() - before.keys()
        assert month.rows()[new] == 2
    assert len(ledger(month.workspace)) == 18


def test_a_build_without_new_headers_writes_none(month: Month) -> None:
    before, published = month.stored(), month.published()
    assert month.build() == 0
    assert (month.stored(), month.published()) == (before, published)
    month.put(r00="f05")  # a record with the file of another
    assert month.build() == 0
    assert month.stored() == before


def test_bands_and_records_that_share_a_file_share_its_row(month: Month) -> None:
    month.put(**{f"s{number}": "f00" for number in range(20)})
    assert month.build() == 0
    assert sum(month.rows().values()) == 12
    rows = ledger(month.workspace)
    assert len(rows) == 32
    width = next(row["header"]["image_width"] for row in rows if row["id"] == "r00")
    assert {row["header"]["image_width"] for row in rows if row["id"].startswith("s")} == {width}


def test_less_than_a_third_of_dead_rows_stays(month: Month) -> None:
    before = month.stored()
    month.put(**{f"r{number:02}": f"g{number:02}" for number in range(4)})
    assert month.build() == 4
    assert before.items() <= month.stored().items()
    assert sorted(month.rows().values()) == [4, 12]


def test_unused_headers_are_removed_when_they_are_more_than_a_third(month: Month) -> None:
    month.put(**{f"r{number:02}": f"g{number:02}" for number in range(7)})
    month.read()
    assert sorted(month.rows().values()) == [7, 12]
    rows = ledger(month.workspace)
    month.publish(tidy=False)
    published = month.published()
    fresh = next(name for name, count in month.rows().items() if count == 7)
    kept = month.stored()[fresh]
    assert month.compact()
    # The file all of whose rows are needed is not touched.
    assert month.stored()[fresh] == kept
    assert sorted(month.rows().values()) == [5, 7]
    assert ledger(month.workspace) == rows
    month.publish()
    assert month.published() == published
    assert not month.compact()
    assert month.build() == 0
    assert month.published() == published


def test_a_forced_build_leaves_one_row_for_each_file(month: Month) -> None:
    month.put(s="f00")
    month.build()
    assert month.build(force=True) == 12
    assert sum(month.rows().values()) == 12
    assert month.build() == 0


def test_records_that_left_count_as_dead_after_a_day(month: Month) -> None:
    for number in range(7):
        del month.files[f"r{number:02}"]
    assert month.build() == 0
    assert sum(month.rows().values()) == 12
    listed = Path(month.store.folder, "unused.parquet")
    past = listed.stat().st_mtime - 25 * 3600
    os.utime(listed, (past, past))
    rows = ledger(month.workspace)
    assert month.compact()
    assert list(month.rows().values()) == [5]
    assert ledger(month.workspace) == rows
    assert not listed.exists()
    assert month.build() == 0


def test_many_small_files_are_joined(month: Month, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "MOST_FILES", 3)
    for number in range(8):
        month.put(**{f"n{number}": f"n{number}"})
        assert month.build() == 1
        assert len(month.rows()) <= 4
    assert sum(month.rows().values()) == 20
    assert [row["id"] for row in ledger(month.workspace) if row["header"] is None] == []
    assert month.build() == 0


def test_a_step_at_a_time_gives_the_same(month: Month, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "_STEP_BYTES", 1)
    monkeypatch.setattr(stores, "GROUP_ROWS", 1)
    month.put(**{f"r{number:02}": f"g{number:02}" for number in range(7)})
    month.read()
    rows = ledger(month.workspace)
    assert month.compact()
    assert ledger(month.workspace) == rows


def test_failures_keep_their_details_in_compaction(month: Month) -> None:
    month.put(bad="missing")
    del month.server.objects["/missing.tif"]
    month.put(**{f"r{number:02}": f"g{number:02}" for number in range(9)})
    month.read()
    assert month.compact()
    (row,) = (row for row in ledger(month.workspace) if row["id"] == "bad")
    assert (row["error_class"], row["header"]) == ("not_found", None)
    assert month.build() == 0


def test_damage_that_compaction_finds_is_reported_and_no_header_is_lost(month: Month) -> None:
    month.put(**{f"r{number:02}": f"g{number:02}" for number in range(7)})
    month.read()
    old = next(name for name, count in month.rows().items() if count == 12)
    path = Path(month.store.path(old))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    before = {name: value[0] for name, value in month.stored().items()}
    with pytest.raises(Exception, match=old):
        month.compact()
    assert {name: value[0] for name, value in month.stored().items()} == before
    # The next build reads again what was in it.
    assert month.build() == 5
    assert len([row for row in ledger(month.workspace) if row["header"]]) == 12


def test_no_header_is_lost_by_a_process_that_ends_between_any_two_steps(month: Month, tmp_path: Path) -> None:
    month.put(**{f"r{number:02}": f"g{number:02}" for number in range(7)})
    month.read()
    month.publish(tidy=False)
    rows, published = ledger(month.workspace), month.published()
    trials = tmp_path / "trials"
    trials.mkdir()
    done = subprocess.run(
        [sys.executable, compact_and_die.__file__, str(month.root), str(trials), KEY],
        capture_output=True, text=True, check=True, timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    died = int(done.stdout)
    assert died >= 6  # a file of headers, the ledger, and what is taken away
    states = set()
    for step in range(died + 1):
        root = trials / str(step)
        workspace = Workspace.at(f"{root}/s_records")
        assert ledger(workspace) == rows
        states.add(len(HeaderStore(workspace, KEY).names))
        shutil.rmtree(month.root)
        shutil.copytree(root, month.root)
        month.publish()
        assert month.published() == published
        assert month.build() == 0
        assert ledger(month.workspace) == rows
        # What was left half done is done by now.
        assert sum(month.rows().values()) == 12
    assert states == {2, 3}
