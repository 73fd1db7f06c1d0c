"""A look at a source is done by one process at a time, kept as it goes, and continued where it was killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rasteret_assets.source import _found_parts as found
from rasteret_assets.source.open import Source
from rasteret_assets.source.profile import SourceProfile
from rasteret_assets.source.profiling import profile_source
from rasteret_assets.source.stored import ProfilingCost, listed_profile, load_profile, open_record_table
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.workspace import Workspace
from tests.support.rasters import record_table
from tests.support.s3 import KEYS, bucket_server

# Looks at a source and notes in a file each time it begins to read one of the source's; stops for good at the n-th.
CHILD = """
import sys, time
from rasteret_assets.source import _found_parts as found
from rasteret_assets.source.open import Source
from rasteret_assets.source.stored import load_profile, open_record_table
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.workspace import Workspace

path, published, notes, stop = sys.argv[1:]
found.KEPT_EVERY_S = 0.0
batches, read = Source.batches, []

def noted(self, part=None):
    read.append(part)
    with open(notes, "a") as file:
        file.write(part.label + "\\n")
    time.sleep(3600 if len(read) > int(stop) else 0.05)
    return batches(self, part)

Source.batches = noted
spec = CollectionSpec.of(path=path, name="s2")
workspace = Workspace.at(published)
source = open_record_table(workspace, path, spec)
print("ready", flush=True)
sys.stdin.readline()
print(sum(found.rows for found in load_profile(workspace, source, spec).partitions.values()), flush=True)
"""


def write(folder: Path, name: str, ids: list[str]) -> None:
    folder.mkdir(exist_ok=True)
    pq.write_table(record_table(ids, {"B02": [f"https://example.com/{one}.tif" for one in ids]}), folder / name)
    # Until a further write would have another time: the next look reads the file once more before that.
    time.sleep(0.05)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Eight files of two records each."""
    folder = tmp_path / "records"
    for number in range(8):
        write(folder, f"{number}.parquet", [f"a{number}", f"b{number}"])
    return folder


@pytest.fixture
def spec(table: Path) -> CollectionSpec:
    return CollectionSpec.of(path=table, name="s2")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.at(str(tmp_path / "w" / "s2_records"))


def child(table: Path, published: str, notes: Path, stop: int = 99) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(table), published, str(notes), str(stop)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def names(notes: Path) -> list[str]:
    """The files that were read, in order."""
    return [Path(line).name for line in notes.read_text().splitlines()] if notes.exists() else []


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that this process reads."""
    seen: list[str] = []
    batches = Source.batches

    def noted(self: Source, part: object = None) -> object:
        seen.append(Path(part.label).name)  # type: ignore[attr-defined]
        return batches(self, part)  # type: ignore[arg-type]

    monkeypatch.setattr(Source, "batches", noted)
    return seen


def look(workspace: Workspace, spec: CollectionSpec, **options: bool) -> SourceProfile:
    return load_profile(workspace, open_record_table(workspace, spec.path, spec), spec, **options)


def tables(workspace: Workspace) -> list[Path]:
    return sorted(Path(workspace.stages, "source_files").glob("*"))


def test_a_profile_that_was_killed_is_continued(
    table: Path, spec: CollectionSpec, workspace: Workspace, tmp_path: Path, read: list[str]
) -> None:
    notes = tmp_path / "notes"
    with child(table, workspace.published, notes, stop=4) as process:
        go(process)
        # Two files are read at once: both stand still, so that what was found in the four before was written.
        while len(names(notes)) < 6:
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    assert not Path(workspace.stages, "source.json").exists()
    profile = look(workspace, spec)
    assert sorted(read) == sorted([*names(notes)[4:], "6.parquet", "7.parquet"])
    read.clear()
    assert look(workspace, spec) == profile
    assert read == []
    assert profile == profile_source(open_record_table(workspace, spec.path, spec), spec)
    # What the killed look wrote belongs to the finished one.
    named = json.loads(Path(workspace.stages, "source.json").read_text())["tables"]
    assert named == [path.name for path in tables(workspace)]


@pytest.fixture
def places(tmp_path: Path) -> Iterator[dict[str, str]]:
    with bucket_server("looked") as endpoint:
        key, secret = KEYS["aws_access_key_id"], KEYS["aws_secret_access_key"]
        options = f"endpoint_override={endpoint}&scheme=http&region=us-east-1"
        yield {
            "local": str(tmp_path / "w" / "s2_records"),
            "s3": f"s3://{key}:{secret}@looked/{tmp_path.name}/s2_records?{options}",
        }


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_of_several_processes_one_looks(table: Path, places: dict[str, str], tmp_path: Path, kind: str) -> None:
    notes = tmp_path / "notes"
    processes = [child(table, places[kind], notes) for _ in range(3)]
    for process in processes:
        go(process)
    assert [process.communicate()[0] for process in processes] == ["16\n"] * 3
    assert sorted(names(notes)) == [f"{number}.parquet" for number in range(8)]


def test_a_change_adds_a_table_and_rewrites_none(
    table: Path, spec: CollectionSpec, workspace: Workspace, read: list[str]
) -> None:
    look(workspace, spec)
    (first,) = tables(workspace)
    before = first.stat()
    write(table, "8.parquet", ["new"])
    read.clear()
    look(workspace, spec)
    assert read == ["8.parquet"]
    assert first in tables(workspace)
    assert len(tables(workspace)) == 2
    assert first.stat().st_mtime_ns == before.st_mtime_ns


def test_many_changes_leave_few_tables(table: Path, spec: CollectionSpec, workspace: Workspace) -> None:
    for number in range(30):
        write(table, "8.parquet", [f"{number}-{count}" for count in range(20)])
        profile = look(workspace, spec)
        assert profile == profile_source(open_record_table(workspace, spec.path, spec), spec)
    assert len(tables(workspace)) <= 3


@pytest.mark.parametrize("damage", ["table", "document", "both", "list"])
def test_damaged_files_of_a_profile_are_made_again(
    table: Path, spec: CollectionSpec, workspace: Workspace, read: list[str], damage: str
) -> None:
    look(workspace, spec)
    write(table, "8.parquet", ["new"])
    document = Path(workspace.stages, "source.json")
    if damage == "list":
        document.write_text(json.dumps({**json.loads(document.read_text()), "tables": [1, {}]}))
    if damage in {"document", "both"}:
        document.write_text("{")
    if damage in {"table", "both"}:
        (path,) = tables(workspace)
        path.write_bytes(path.read_bytes()[:-100])
    read.clear()
    profile = look(workspace, spec)
    assert len(read) == (9 if damage in {"table", "both"} else 1)
    assert profile == profile_source(open_record_table(workspace, spec.path, spec), spec)
    read.clear()
    look(workspace, spec)
    assert read == []


def test_a_file_that_cannot_be_read_loses_nothing_of_the_others(
    table: Path, spec: CollectionSpec, workspace: Workspace, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(found, "KEPT_EVERY_S", 3600.0)
    opened = open_record_table(workspace, spec.path, spec)
    content = (table / "7.parquet").read_bytes()
    (table / "7.parquet").unlink()
    with pytest.raises(Exception, match=r"7\.parquet"):
        load_profile(workspace, opened, spec)
    (table / "7.parquet").write_bytes(content)
    time.sleep(0.05)
    read.clear()
    look(workspace, spec)
    assert read == ["7.parquet"]


def test_a_forced_profile_reads_every_file(spec: CollectionSpec, workspace: Workspace, read: list[str]) -> None:
    profile = look(workspace, spec)
    (first,) = tables(workspace)
    read.clear()
    assert look(workspace, spec, trust_stored=False) == profile
    assert len(read) == 8
    (second,) = tables(workspace)
    assert second != first


def test_the_files_that_a_profile_would_read_are_found_from_the_listing(
    table: Path, spec: CollectionSpec, workspace: Workspace, read: list[str]
) -> None:
    sizes = [path.stat().st_size for path in table.iterdir()]
    assert listed_profile(workspace, spec) == (None, ProfilingCost(files=8, bytes=sum(sizes)))
    profile = look(workspace, spec)
    assert listed_profile(workspace, spec) == (profile, ProfilingCost(files=0, bytes=0))
    write(table, "8.parquet", ["new"])
    read.clear()
    size = (table / "8.parquet").stat().st_size
    assert listed_profile(workspace, spec) == (None, ProfilingCost(files=1, bytes=size + 16 * found.ID_BYTES))
    assert read == []
    # Where ids repeat, every file may have to be compared with the new ones.
    write(table, "8.parquet", ["a0"])
    look(workspace, spec)
    write(table, "9.parquet", ["other"])
    assert listed_profile(workspace, spec)[1].files == 10
