"""Records that get another date keep their headers, and no host is asked."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rasteret_assets import CollectionSpec, build, create_backend, load
from rasteret_assets.headers.store import HeaderStore
from rasteret_assets.pipeline.build import build_partitions
from rasteret_assets.pipeline.stage import Build
from rasteret_assets.pipeline.stages import run_stage
from rasteret_assets.schema import BANDS, COLLECTION, HEADERS, NORMALIZED, RAW
from rasteret_assets.source.stored import open_record_table
from rasteret_assets.storage.workspace import Workspace
from tests.support.rasters import record_table, tiff_bytes
from tests.support.server import RangeServer

DAY = 24 * 3600


class Scenes:
    """A collection of records with their months, each with a file of another width."""

    def __init__(self, server: RangeServer, root: Path) -> None:
        self.server = server
        self.path = root / "t.parquet"
        self.spec = CollectionSpec.of(path=self.path, name="s", workspace_dir=root / "w", enrich_cog=True)
        self.workspace = Workspace.of(self.spec)
        self.months: dict[str, int | None] = {}
        self.widths: dict[str, int] = {}

    def put(self, **months: int | None) -> None:
        """Give each record a month of 2024, or no date."""
        self.months |= months
        for name in months:
            self.widths.setdefault(name, 64 + len(self.widths))
            self.server.objects[f"/{name}.tif"] = tiff_bytes(width=self.widths[name])
        self.write()

    def remove(self, *names: str) -> None:
        for name in names:
            del self.months[name]
        self.write()

    def write(self) -> None:
        times = [month and datetime(2024, month, 5, tzinfo=UTC) for month in self.months.values()]
        hrefs: list[str | None] = [f"{self.server.url}/{name}.tif" for name in self.months]
        pq.write_table(record_table(list(self.months), {"B02": hrefs}, datetimes=list(times)), self.path)
        time.sleep(0.03)

    def asked(self, work: Callable[[], object]) -> list[str]:
        """Yield a list of the files that are asked for during the block."""
        self.server.reset()
        work()
        return sorted(path.strip("/").removesuffix(".tif") for path in self.server.paths)

    def build(self, *keys: str) -> list[str]:
        """Build some partitions, or all; return the files that are asked for."""
        return self.asked(lambda: build(self.spec, partitions=keys or None))

    def check(self) -> None:
        """Check that every record is published once, in its month, with the header of its own file."""
        table = load(self.spec.published_path or "", verify="full").to_table(["id", "month", "B02_metadata"])
        found = {row["id"]: (row["month"], row["B02_metadata"]["image_width"]) for row in table.to_pylist()}
        assert table.num_rows == len(found)
        assert found == {name: (month, self.widths[name]) for name, month in self.months.items()}

    def age(self, key: str, seconds: float) -> None:
        """Let the headers of a partition be older than they are."""
        for path in Path(self.workspace.stages, HEADERS, key).iterdir():
            past = path.stat().st_mtime - seconds
            os.utime(path, (past, past))


@pytest.fixture
def scenes(server: RangeServer, tmp_path: Path) -> Scenes:
    made = Scenes(server, tmp_path)
    made.put(a=3, b=3, c=3, d=3, e=4, f=2)
    assert len(made.build()) == 6
    return made


@pytest.mark.parametrize("month", [1, 2, 4, 12, None], ids=["new", "earlier", "later", "last", "undated"])
def test_a_record_that_moves_in_one_build_is_not_asked_for(scenes: Scenes, month: int | None) -> None:
    scenes.put(b=month)
    assert scenes.build() == []
    scenes.check()
    # And back again.
    scenes.put(b=3)
    assert scenes.build() == []
    scenes.check()


@pytest.mark.parametrize("moved", ["a", "abc", "abcd"], ids=["one", "most", "all"])
@pytest.mark.parametrize(("month", "key"), [(2, "2024-02"), (4, "2024-04"), (None, "undated"), (7, "2024-07")])
def test_the_partition_that_a_record_leaves_may_be_built_first(
    scenes: Scenes, moved: str, month: int | None, key: str
) -> None:
    scenes.put(**dict.fromkeys(moved, month))
    assert scenes.build("2024-03") == []
    assert scenes.build(key) == []
    scenes.check()


def test_records_that_change_places_are_not_asked_for(scenes: Scenes) -> None:
    scenes.put(e=2, f=4, a=4, b=2)
    assert scenes.build() == []
    scenes.check()


def test_the_stages_one_by_one_ask_for_nothing_either(scenes: Scenes) -> None:
    """Run the stages one by one, each as a build of its own, as the steps of a run do."""
    scenes.put(a=2, b=4, e=None)
    keys = ["2024-02", "2024-03", "2024-04", "undated"]

    def work() -> None:
        for stage in (RAW, NORMALIZED, BANDS, COLLECTION):
            source = open_record_table(scenes.workspace, scenes.spec.path, scenes.spec) if stage == RAW else None
            made = Build(workspace=scenes.workspace, spec=scenes.spec, source=source, backend=create_backend())
            run_stage(stage, made, keys)

    assert scenes.asked(work) == []
    scenes.check()


def test_headers_of_a_vanished_partition_are_found_for_a_day(scenes: Scenes) -> None:
    scenes.remove("e")
    assert scenes.build() == []
    assert not scenes.workspace.has(scenes.workspace.stage_file(BANDS, "2024-04"))
    scenes.age("2024-04", DAY - 600)
    scenes.put(e=9)
    assert scenes.build() == []
    scenes.check()
    # Its own month may come back too.
    scenes.put(e=4)
    assert scenes.build() == []
    scenes.check()


def test_headers_of_a_vanished_partition_are_deleted_after_a_day(scenes: Scenes) -> None:
    scenes.remove("e")
    scenes.build()
    scenes.age("2024-04", DAY + 600)
    scenes.put(g=3)
    assert scenes.build() == ["g"]
    assert HeaderStore(scenes.workspace, "2024-04").names == []
    scenes.put(e=9)
    assert scenes.build() == ["e"]
    scenes.check()


def test_a_header_that_was_fetched_again_is_not_taken_from_another_partition(scenes: Scenes) -> None:
    scenes.put(b=4)
    scenes.server.objects["/b.tif"] = tiff_bytes(width=300)
    scenes.widths["b"] = 300
    assert scenes.asked(lambda: build(scenes.spec, force=True)) == ["a", "b", "c", "d", "e", "f"]
    scenes.check()


@pytest.mark.parametrize("file", ["2024-03", "2024-04"])
def test_damaged_headers_of_either_partition_are_asked_for_again(scenes: Scenes, file: str) -> None:
    (path,) = Path(scenes.workspace.stages, HEADERS, file).glob("*.arrows")
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    scenes.put(b=4)
    asked = scenes.build()
    assert asked == (["a", "b", "c", "d"] if file == "2024-03" else ["e"])
    scenes.check()


def test_damaged_headers_of_the_partition_that_a_record_left_are_asked_for_again(scenes: Scenes) -> None:
    scenes.put(b=5)
    assert scenes.build("2024-03") == []
    for path in Path(scenes.workspace.stages, HEADERS, "2024-03").glob("*.arrows"):
        content = bytearray(path.read_bytes())
        content[len(content) // 3] ^= 1
        path.write_bytes(content)
    assert scenes.build("2024-05") == ["b"]
    scenes.check()
    # The partition that the file was of is built on all the same.
    scenes.put(g=3)
    assert set(scenes.build()) <= {"a", "c", "d", "g"}
    scenes.check()
    scenes.remove("a")
    assert scenes.build() == []
    scenes.check()


def test_headers_of_an_interrupted_build_are_found_by_other_partitions(scenes: Scenes) -> None:
    """The process ends after the partition has listed its unused headers, and before the other partition is read."""
    scenes.put(b=4, c=1)

    class Ended(BaseException):
        pass

    def end(key: str) -> None:
        if key != "2024-03":
            raise Ended

    keys = ["2024-01", "2024-03", "2024-04"]
    made = Build(
        workspace=scenes.workspace, spec=scenes.spec, backend=create_backend(), progress=end,
        source=open_record_table(scenes.workspace, scenes.spec.path, scenes.spec),
    )  # fmt: skip
    with pytest.raises(Ended):
        build_partitions(made, keys)
    assert scenes.build() == []
    scenes.check()
