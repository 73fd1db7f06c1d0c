"""Raw rows by partition: every row once, whatever the order, and messages of unchanged files taken over as they are."""

from __future__ import annotations

import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rasteret_assets import CollectionSpec, build, load
from rasteret_assets.errors import DamagedFileError, SourceChangedError
from rasteret_assets.pipeline import _raw_stage as stages
from rasteret_assets.pipeline.stage import Build
from rasteret_assets.pipeline.stages import run_stage
from rasteret_assets.schema import RAW
from rasteret_assets.source import spool as spools
from rasteret_assets.source import stored
from rasteret_assets.source.open import Source, open_source
from rasteret_assets.source.spool import Spool
from rasteret_assets.storage.workspace import Workspace
from rasteret_assets.storage.workspace.files import Files
from rasteret_assets.storage.workspace.streams import StreamTable, open_stream
from tests.support.rasters import record_table

SCHEMA = pa.schema([("file", pa.string()), ("row", pa.int64())])
KEYS = ("2024-01", "2024-02", "undated")

#: A file of the source: the numbers of its rows by partition. Files with the same numbers hold equal rows.
Rows = dict[str, list[int]]


def batch(name: str, rows: list[int]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([name] * len(rows)), pa.array(rows, pa.int64())], schema=SCHEMA)


class Raw:
    """Raw records of a source of several files, put again and again: what a build does, without the source."""

    def __init__(self, folder: str) -> None:
        self.files = Files(fs=pafs.LocalFileSystem(), stages=folder)

    def path(self, key: str) -> str:
        return f"{self.files.stages}/{RAW}/{key}.arrows"

    def last(self, key: str) -> StreamTable | None:
        return open_stream(self.files, self.path(key))

    def read(self, key: str) -> Counter[int]:
        table = self.last(key)
        assert table is not None
        rows = Counter(value for part in table.batches(["row"]) for value in part.column(0).to_pylist())
        assert rows.total() == table.rows
        return rows

    def put(self, source: dict[str, Rows], *, step: int = 1000) -> dict[str, set[str]]:
        """Put the rows of all files, by version; return the versions that were taken over, by partition."""
        reused: dict[str, set[str]] = {}
        with Spool(self.files, SCHEMA, "the table") as spool:
            for key in KEYS:
                digests = {version: digest(rows[key]) for version, rows in source.items() if rows.get(key)}
                last = self.last(key)
                reused[key] = spool.reuse(key, last, digests) if last is not None else set()
                assert reused[key] <= digests.keys()
            for version, rows in source.items():
                for key in KEYS:
                    numbers = rows.get(key, [])
                    if version not in reused[key]:
                        for first in range(0, len(numbers), step):
                            spool.add(version, key, batch(version, numbers[first : first + step]))
            for key in KEYS:
                digests = {version: digest(rows[key]) for version, rows in source.items() if rows.get(key)}
                assert spool.rows[key] == sum(len(rows.get(key, [])) for rows in source.values())
                spool.put(key, self.path(key), {}, digests)
        return reused


def digest(rows: list[int]) -> str:
    return ",".join(map(str, sorted(rows)))


def expected(source: dict[str, Rows], key: str) -> Counter[int]:
    return Counter(value for rows in source.values() for value in rows.get(key, []))


@contextmanager
def small_messages() -> Iterator[None]:
    """Files of less than three rows share a message; no message has more than about five."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(spools, "_SHARED_ROWS", 3)
        patched.setattr(spools, "BATCH_ROWS", 5)
        patched.setattr(spools, "_HELD_BYTES", 300)
        yield


NUMBERS = st.lists(st.integers(0, 6), max_size=8)
FILES = st.dictionaries(st.sampled_from("abcdef"), st.dictionaries(st.sampled_from(KEYS), NUMBERS), max_size=6)


@settings(max_examples=300)
@given(sources=st.lists(FILES, min_size=2, max_size=5), step=st.integers(1, 9), again=st.data())
def test_no_row_is_lost_or_doubled_whatever_changes(
    sources: list[dict[str, Rows]], step: int, again: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder, small_messages():
        raw = Raw(folder)
        before: dict[str, Rows] = {}
        for number, files in enumerate(sources):
            # A file of the same rows is sometimes the same one, and sometimes a new one that holds equal rows.
            source = {
                name if before.get(name) == rows and again.draw(st.booleans()) else f"{name}{number}": rows
                for name, rows in files.items()
            }
            raw.put(source, step=step)
            for key in KEYS:
                assert raw.read(key) == expected(source, key)
            before = source


def test_unchanged_files_are_taken_over_and_no_others(tmp_path: Path) -> None:
    raw = Raw(str(tmp_path))
    many = list(range(100))
    raw.put({"a": {KEYS[0]: many}, "b": {KEYS[0]: [*many, 1000], KEYS[1]: many}})
    first = raw.last(KEYS[0])
    assert first is not None
    assert [message.rows for message in first.messages] == [100, 101]
    content = bytes(memoryview(first.content(first.messages[0])))
    # b changes in one of its partitions, c is new.
    changed = {"a": {KEYS[0]: many}, "b2": {KEYS[0]: many[:90], KEYS[1]: many}, "c": {KEYS[0]: [7]}}
    assert raw.put(changed) == {KEYS[0]: {"a"}, KEYS[1]: {"b2"}, KEYS[2]: set()}
    second = raw.last(KEYS[0])
    assert second is not None
    assert bytes(memoryview(second.content(second.messages[0]))) == content
    assert raw.read(KEYS[0]) == expected(changed, KEYS[0])
    assert raw.put(changed) == {KEYS[0]: {"a", "b2", "c"}, KEYS[1]: {"b2"}, KEYS[2]: set()}


def test_small_files_share_a_message_and_are_read_again_together(tmp_path: Path) -> None:
    raw = Raw(str(tmp_path))
    source: dict[str, Rows] = {f"f{number}": {KEYS[0]: [number]} for number in range(200)}
    raw.put(source)
    table = raw.last(KEYS[0])
    assert table is not None
    assert len(table.messages) == 4
    del source["f70"]
    source["new"] = {KEYS[0]: [1000]}
    reused = raw.put(source)[KEYS[0]]
    assert raw.read(KEYS[0]) == expected(source, KEYS[0])
    # Of the four messages the one goes that held the row of the file that is gone.
    assert reused == source.keys() - {"new"} - {f"f{number}" for number in range(64, 128)}


@pytest.mark.parametrize("copies", [1, 2, 3])
@pytest.mark.parametrize("size", [3, 100])
def test_files_of_equal_rows_are_taken_over_one_by_one(tmp_path: Path, copies: int, size: int) -> None:
    raw = Raw(str(tmp_path))
    rows = {KEYS[0]: list(range(size))}
    raw.put({"one": rows, "two": rows})
    for later in range(2):
        source = {f"later{later}-{number}": rows for number in range(copies)}
        raw.put(source)
        assert raw.read(KEYS[0]) == expected(source, KEYS[0])


def test_many_threads_add_rows_and_none_is_lost(tmp_path: Path) -> None:
    raw = Raw(str(tmp_path))
    with small_messages(), Spool(raw.files, SCHEMA, "the table") as spool:

        def add(thread: int) -> None:
            for number in range(200):
                spool.add(f"v{thread}", KEYS[number % 3], batch("x", [1000 * thread + number]))

        threads = [threading.Thread(target=add, args=(thread,)) for thread in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for key in KEYS:
            spool.put(key, raw.path(key), {}, {f"v{thread}": str(thread) for thread in range(4)})
    everything = {1000 * thread + number for thread in range(4) for number in range(200)}
    found = sum((raw.read(key) for key in KEYS), Counter[int]())
    assert found == Counter(everything)
    assert raw.read(KEYS[1]) == Counter(number for number in everything if number % 1000 % 3 == 1)


def test_columns_that_repeat_their_values_are_kept_as_plain_ones(tmp_path: Path) -> None:
    raw, schema = Raw(str(tmp_path)), pa.schema([("kind", pa.dictionary(pa.int8(), pa.string()))])
    with Spool(raw.files, schema, "the table") as spool:
        for values in (["dawn", None], ["dusk", "dawn"]):
            column = pa.array(values).dictionary_encode().cast(schema.field(0).type)
            spool.add("v", KEYS[0], pa.RecordBatch.from_arrays([column], schema=schema))
        spool.put(KEYS[0], raw.path(KEYS[0]), {}, {"v": "d"})
    table = raw.last(KEYS[0])
    assert table is not None
    assert table.schema.field("kind").type == pa.string()
    assert [value for part in table.batches() for value in part.column(0).to_pylist()] == ["dawn", None, "dusk", "dawn"]


def test_rows_of_another_schema_are_not_taken_over(tmp_path: Path) -> None:
    raw = Raw(str(tmp_path))
    raw.put({"a": {KEYS[0]: [1, 2]}})
    last = raw.last(KEYS[0])
    assert last is not None
    with Spool(raw.files, SCHEMA.append(pa.field("new", pa.string())), "the table") as spool:
        assert spool.reuse(KEYS[0], last, {"a": digest([1, 2])}) == set()
        assert spool.rows[KEYS[0]] == 0


# --- through builds --------------------------------------------------------------------------------------------------


@pytest.fixture
def spec(tmp_path: Path) -> CollectionSpec:
    (tmp_path / "source").mkdir()
    return CollectionSpec.of(path=tmp_path / "source", name="s", workspace_dir=tmp_path / "w")


def put(spec: CollectionSpec, name: str, ids: list[str], **months: int) -> None:
    """Write a file of the source, all of whose records are of January unless said otherwise."""
    times = [datetime(2024, months.get(record, 1), 5, tzinfo=UTC) for record in ids]
    table = record_table(ids, {"B02": [f"/{record}.tif" for record in ids]}, datetimes=list(times))
    pq.write_table(table, Path(spec.path) / name)
    # Of a file that was written a moment ago nobody can tell that it is not written once more within the same tick.
    time.sleep(0.03)


def published(spec: CollectionSpec) -> list[str]:
    return sorted(load(spec.published_path or "", verify="full").to_table(["id"])["id"].to_pylist())


def raw_bytes(spec: CollectionSpec) -> dict[str, int]:
    folder = Path(Workspace.of(spec).stages) / RAW
    return {path.stem: path.stat().st_size for path in folder.glob("*.arrows")}


def test_a_file_and_its_copy_are_built_on(spec: CollectionSpec) -> None:
    put(spec, "one.parquet", ["a", "b"])
    put(spec, "copy.parquet", ["a", "b"])
    build(spec)
    put(spec, "more.parquet", ["c"])
    build(spec)
    assert published(spec) == ["a", "b", "c"]
    (Path(spec.path) / "copy.parquet").unlink()
    build(spec)
    assert published(spec) == ["a", "b", "c"]
    put(spec, "third.parquet", ["a", "b"])
    put(spec, "copy.parquet", ["a", "b"])
    build(spec)
    assert published(spec) == ["a", "b", "c"]


def test_raw_records_that_are_damaged_are_read_again(spec: CollectionSpec) -> None:
    put(spec, "one.parquet", [f"a{number}" for number in range(200)])
    build(spec)
    path = Path(Workspace.of(spec).stage_file(RAW, "2024-01"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    put(spec, "two.parquet", ["b"])
    build(spec)
    assert len(published(spec)) == 201


@pytest.mark.parametrize("content", [b"", b"PAR1", bytes(5000)])
def test_raw_records_that_are_not_a_stream_are_read_again(spec: CollectionSpec, content: bytes) -> None:
    put(spec, "one.parquet", ["a"])
    build(spec)
    Path(Workspace.of(spec).stage_file(RAW, "2024-01")).write_bytes(content)
    put(spec, "two.parquet", ["b"])
    build(spec)
    assert published(spec) == ["a", "b"]


def test_a_lone_stage_does_not_take_damage_for_records(spec: CollectionSpec) -> None:
    put(spec, "one.parquet", ["a"])
    build(spec)
    Path(Workspace.of(spec).stage_file(RAW, "2024-01")).write_bytes(b"")
    with pytest.raises(DamagedFileError, match=r"raw_records/2024-01\.arrows"):
        run_stage("normalized_records", Build(workspace=Workspace.of(spec), spec=spec), ["2024-01"])
    assert published(spec) == ["a"]


def test_only_files_that_changed_are_read(spec: CollectionSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    put(spec, "one.parquet", [f"a{number}" for number in range(100)])
    put(spec, "two.parquet", [f"b{number}" for number in range(100)])
    build(spec)
    read: list[str] = []
    batches = Source.batches

    def noted(self: Source, part: Any) -> Iterator[pa.RecordBatch]:
        read.append(part.version)
        return batches(self, part)

    monkeypatch.setattr(Source, "batches", noted)
    put(spec, "three.parquet", ["c"])
    build(spec)
    assert len(read) == 1
    assert len(published(spec)) == 201
    read.clear()
    build(spec, force=True)
    assert len(set(read)) == 3


# --- a source that is rewritten while it is read ---------------------------------------------------------------------


class Rewritten:
    """Somebody rewrites a file of a source, each time that a build is about to scan it after it was profiled.

    Args:
        patched: until the end of the test.
        change: rewrites the file; called with how often it was before.
        times: how often at most.
    """

    def __init__(self, patched: pytest.MonkeyPatch, change: Callable[[int], None], times: int) -> None:
        self.looks = 0
        changes = 0
        scan, look = stages.scan_parts, stored.profile_files

        def scanned(*args: Any) -> Any:
            nonlocal changes
            if changes < times:
                change(changes)
                changes += 1
            return scan(*args)

        def looked(*args: Any, **options: Any) -> Any:
            self.looks += 1
            return look(*args, **options)

        patched.setattr(stages, "scan_parts", scanned)
        patched.setattr(stored, "profile_files", looked)


def raw_of(spec: CollectionSpec) -> list[str]:
    """Run the first stage by itself, as a step of a run does; return the ids it wrote."""
    workspace = Workspace.of(spec)
    run_stage(RAW, Build(workspace=workspace, spec=spec, source=open_source(spec.path, spec)), ["2024-01"])
    table = open_stream(workspace, workspace.stage_file(RAW, "2024-01"))
    assert table is not None
    return sorted(value for part in table.batches(["id"]) for value in part.column(0).to_pylist())


def test_a_source_that_is_rewritten_after_its_profile_is_profiled_again(
    spec: CollectionSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(spec, "one.parquet", ["a", "b"])
    seen = Rewritten(monkeypatch, lambda _: put(spec, "one.parquet", ["a", "c", "d"]), times=1)
    assert raw_of(spec) == ["a", "c", "d"]
    assert seen.looks == 2


def test_a_source_that_keeps_changing_is_reported(spec: CollectionSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    put(spec, "one.parquet", ["a", "b"])
    build(spec)
    before = raw_of(spec)
    put(spec, "one.parquet", ["a", "x"])
    seen = Rewritten(monkeypatch, lambda again: put(spec, "one.parquet", ["a", f"c{again}"]), times=99)
    with pytest.raises(SourceChangedError, match=r"so it is being rewritten: build again when that is done"):
        raw_of(spec)
    assert seen.looks == 2
    monkeypatch.undo()
    assert published(spec) == before
    build(spec)
    assert published(spec) == ["a", "c1"]


def test_rows_of_another_month_that_come_and_go_are_noticed(
    spec: CollectionSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(spec, "one.parquet", ["a", "b"])
    put(spec, "two.parquet", ["c"])
    # A record leaves the month that is built; another file is as it was.
    Rewritten(monkeypatch, lambda _: put(spec, "one.parquet", ["a", "b"], b=2), times=1)
    assert raw_of(spec) == ["a", "c"]
