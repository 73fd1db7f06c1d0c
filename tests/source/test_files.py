"""The files of a record table: what tells two contents apart, what is opened at a look, and what is refused by name."""

from __future__ import annotations

import gc
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.memory import MemoryFile

from rasteret_assets import CollectionSpec, build, load
from rasteret_assets.errors import SourceError
from rasteret_assets.source import parquet_files as source_files
from rasteret_assets.source._kept_schemas import KeptSchemas
from rasteret_assets.source.open import open_source
from rasteret_assets.source.stored import load_profile, open_record_table
from rasteret_assets.storage.object_stores.listing import Listed
from rasteret_assets.storage.workspace import Workspace
from tests.support.rasters import record_table
from tests.support.s3 import bucket_server, filesystem_of, requests_seen


def records(*ids: str, month: int = 1, **columns: Any) -> pa.Table:
    times = [datetime(2024, month, 1, tzinfo=UTC)] * len(ids)
    return record_table(list(ids), {"B02": ["/x.tif"] * len(ids)}, datetimes=times, **columns)


def write(table: pa.Table, path: Path) -> int:
    """Write a file whose size depends on its shape alone; its size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="none", use_dictionary=False)
    return path.stat().st_size


def settle() -> None:
    """Wait until a further write would have another time."""
    time.sleep(0.05)


def spec(path: object, folder: Path | None = None) -> CollectionSpec:
    place = {} if folder is None else {"workspace_dir": folder}
    return CollectionSpec.of(path=str(path), name="s2", **place)


def fingerprint(path: object, filesystem: Any = None) -> str:
    return open_source(str(path), spec(path), filesystem).fingerprint


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.at(str(tmp_path / "w" / "s2_records"))


# --- identity --------------------------------------------------------------------------------------------------------


def test_a_file_put_in_place_of_another_of_equal_size_and_time_is_another(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    size = write(records("a"), path)
    os.utime(path, ns=(10**18, 10**18))
    settle()
    first = fingerprint(path)
    assert fingerprint(path) == first
    assert write(records("b"), path) == size
    os.utime(path, ns=(10**18, 10**18))
    assert fingerprint(path) != first


def test_equal_files_of_two_paths_are_two(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(records("a"), tmp_path / name / "t.parquet")
        os.utime(tmp_path / name / "t.parquet", ns=(10**18, 10**18))
    settle()
    assert fingerprint(tmp_path / "one") != fingerprint(tmp_path / "two")


def test_a_file_that_may_be_written_again_unseen_is_read_again(tmp_path: Path, workspace: Workspace) -> None:
    path = tmp_path / "t.parquet"
    write(records("a"), path)
    first = fingerprint(path)
    assert fingerprint(path) != first
    settle()
    later = fingerprint(path)
    assert later not in {first, fingerprint(tmp_path / "t.parquet") + "x"}
    assert fingerprint(path) == later
    assert len(KeptSchemas(workspace).load()) == 0


@pytest.mark.parametrize(
    "told",
    [
        lambda times: {"ETag": f'"{len(times)}"'},
        lambda times: {"generation": len(times)},
        lambda times: {"mtime": 100.0 + len(times)},
        lambda times: {"LastModified": datetime(2024, 1, len(times), tzinfo=UTC)},
        lambda times: {"updated": f"2024-01-0{len(times)}T00:00:00.000Z"},
        lambda times: {"created": datetime(2024, 1, len(times), tzinfo=UTC)},
        lambda times: {"date_time": (2024, 1, len(times), 0, 0, 0)},
    ],
    ids=["etag", "generation", "seconds", "LastModified", "text", "created", "zip"],
)
def test_whatever_a_filesystem_calls_it_a_change_is_seen(told: Callable[[list[int]], dict[str, Any]]) -> None:
    store, writes = Told(told), list[int]()
    store.writes = writes
    store.write("/told/t.parquet", records("a"))
    first = fingerprint("/told", store)
    assert fingerprint("/told", store) == first == open_source("/told", spec("x"), store).fingerprint
    store.write("/told/t.parquet", records("b"))
    assert fingerprint("/told", store) != first


def test_a_filesystem_that_tells_nothing_is_read_at_each_look(caplog: pytest.LogCaptureFixture) -> None:
    store = Told(lambda _: {})
    store.write("/silent/t.parquet", records("a"))
    with caplog.at_level(logging.WARNING):
        assert len({fingerprint("/silent", store) for _ in range(3)}) == 3
    (record,) = caplog.records
    assert record.message.startswith(
        "/silent: its filesystem (py::fsspec+told) tells neither when a file was changed nor"
    )


@pytest.mark.parametrize(
    "time",
    [math.nan, math.inf, 1e300, datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31), (1980, 0, 0, 0, 0, 0)],  # noqa: DTZ001
)
def test_a_time_that_is_not_a_time_is_left_out_and_the_etag_tells_of_changes(time: Any) -> None:
    store = Told(lambda writes: {"mtime": time, "ETag": str(len(writes))})
    store.write("/odd/t.parquet", records("a"))
    first = fingerprint("/odd", store)
    assert fingerprint("/odd", store) == first
    store.write("/odd/t.parquet", records("b"))
    assert fingerprint("/odd", store) != first


class Told(fsspec.AbstractFileSystem):
    """Files in memory of which a test says what is told."""

    protocol = "told"
    cachable = False

    def __init__(self, told: Callable[[list[int]], dict[str, Any]]) -> None:
        super().__init__()
        self.told, self.writes, self.content = told, list[int](), dict[str, bytes]()

    def write(self, path: str, table: pa.Table) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="none", use_dictionary=False)
        self.content[path] = sink.getvalue().to_pybytes()
        self.writes.append(1)

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        path = path.rstrip("/")
        if path in self.content:
            found = [self.content_of(path)]
        else:
            found = [self.content_of(name) for name in self.content if name.startswith(f"{path}/")]
            if not found:
                raise FileNotFoundError(path)
        return found if detail else [one["name"] for one in found]

    def content_of(self, path: str) -> dict[str, Any]:
        return {"name": path, "size": len(self.content[path]), "type": "file", **self.told(self.writes)}

    def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        return MemoryFile(self, path, self.content[path])


@contextmanager
def bucket() -> Iterator[pafs.S3FileSystem]:
    with bucket_server("tables") as endpoint:
        yield filesystem_of(endpoint)


def test_an_object_replaced_within_a_second_is_noticed_by_its_etag(tmp_path: Path) -> None:
    with bucket() as fs:
        sizes = []
        for place in ("tables/one/t.parquet", "tables/two.parquet"):
            path, found = place.removesuffix("/t.parquet"), set()
            for name in ("a", "b"):
                sizes.append(write(records(name), tmp_path / "t.parquet"))
                with fs.open_output_stream(place) as sink:
                    sink.write((tmp_path / "t.parquet").read_bytes())
                found.add(fingerprint(path, fs))
                assert fingerprint(path, fs) in found
            assert len(found) == 2
        assert len(set(sizes)) == 1


def test_a_folder_of_objects_costs_one_listing(tmp_path: Path, workspace: Workspace) -> None:
    with bucket() as fs:
        write(records("a"), tmp_path / "t.parquet")
        for number in range(20):
            with fs.open_output_stream(f"tables/many/{number}.parquet") as sink:
                sink.write((tmp_path / "t.parquet").read_bytes())
        open_record_table(workspace, "tables/many", spec("x"), fs)
        with requests_seen() as seen:
            open_record_table(workspace, "tables/many", spec("x"), fs)
        assert not [request for request in seen if request.endswith(".parquet")]
        assert len(seen) < 6


def test_a_table_in_memory_is_its_content(tmp_path: Path) -> None:
    versions = [open_source(records("a", cloud=pa.array([cloud])), spec("")).fingerprint for cloud in (1.0, 2.0, 1.0)]
    gc.collect()
    assert versions[0] == versions[2] != versions[1]
    geo = {"geo": '{"columns": {"geometry": {"crs": null}}}'}
    other = records("a", cloud=pa.array([1.0])).replace_schema_metadata(geo)
    assert open_source(other, spec("")).fingerprint not in versions


# --- what is opened ---------------------------------------------------------------------------------------------------


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files whose footer is opened."""
    names: list[str] = []
    read = source_files._file_schema

    def noted(fs: pafs.FileSystem, file: Listed) -> pa.Schema:
        names.append(Path(file.path).stem)
        return read(fs, file)

    monkeypatch.setattr(source_files, "_file_schema", noted)
    return names


def test_only_footers_of_files_that_changed_are_opened(tmp_path: Path, workspace: Workspace, opened: list[str]) -> None:
    for name in "abc":
        write(records(name, extra=pa.array([name])), tmp_path / "t" / f"{name}.parquet")
    settle()
    first = open_record_table(workspace, tmp_path / "t", spec("x"))
    assert opened == ["a", "b", "c"]
    opened.clear()
    again = open_record_table(workspace, tmp_path / "t", spec("x"))
    assert opened == []
    assert (again.schema, again.fingerprint) == (first.schema, first.fingerprint)
    assert again.table() == first.table()
    write(records("d"), tmp_path / "t" / "b.parquet")
    settle()
    open_record_table(workspace, tmp_path / "t", spec("x"))
    assert opened == ["b"]
    (tmp_path / "t" / "a.parquet").unlink()
    open_record_table(workspace, tmp_path / "t", spec("x"))
    assert opened == ["b"]
    assert len(KeptSchemas(workspace).load()) == 2
    open_record_table(workspace, tmp_path / "t", spec("x"), trust_stored=False)
    assert sorted(opened) == ["b", "b", "c"]


def test_schemas_that_were_damaged_are_read_from_the_footers(
    tmp_path: Path, workspace: Workspace, opened: list[str]
) -> None:
    write(records("a"), tmp_path / "t.parquet")
    settle()
    open_record_table(workspace, tmp_path / "t.parquet", spec("x"))
    (kept,) = Path(workspace.stages).glob("source_schemas.*")
    kept.write_bytes(b"PAR1 damaged")
    open_record_table(workspace, tmp_path / "t.parquet", spec("x"))
    open_record_table(workspace, tmp_path / "t.parquet", spec("x"))
    assert opened == ["t", "t"]


def test_force_reads_the_table(tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a disk that does not tell that a file was replaced."""
    monkeypatch.setattr(
        source_files, "file_version", lambda *_, **__: source_files.FileVersion("same", is_reliable=True)
    )
    path = tmp_path / "t.parquet"
    write(records("a", "b"), path)
    build(spec(path, tmp_path / "w"))
    write(pa.concat_tables([records("a"), records("b", month=2)]), path)
    assert build(spec(path, tmp_path / "w")).reasons == {}
    build(spec(path, tmp_path / "w"), force=True)
    rows = load(tmp_path / "w" / "s2_records").to_table(["id", "month"]).to_pylist()
    assert sorted((row["id"], row["month"]) for row in rows) == [("a", 1), ("b", 2)]
    source = open_record_table(workspace, path, spec(path))
    assert set(load_profile(workspace, source, spec(path)).partitions) == {"2024-01", "2024-02"}


def test_rows_that_move_to_other_files_change_nothing(tmp_path: Path) -> None:
    names = [f"r{number}" for number in range(6)]
    for number, name in enumerate(names):
        write(records(name), tmp_path / "t" / f"{number}.parquet")
    build(spec(tmp_path / "t", tmp_path / "w"))
    for file in (tmp_path / "t").iterdir():
        file.unlink()
    write(records(*names[::-1]), tmp_path / "t" / "all.parquet")
    assert build(spec(tmp_path / "t", tmp_path / "w")).reasons == {}
    write(records(*names[:-1]), tmp_path / "t" / "all.parquet")
    assert build(spec(tmp_path / "t", tmp_path / "w")).reasons == {"2024-01": "source changed"}


# --- what is there ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", ["", "year=2024", "tables/one"])
@pytest.mark.parametrize(
    ("log", "sentence"),
    [
        ("_delta_log/00000000000000000000.json", r"a Delta table: its _delta_log .*deltalake's DeltaTable"),
        ("metadata/v1.metadata.json", r"an Iceberg table: its metadata .*pyiceberg"),
        (".hoodie/hoodie.properties", r"a Hudi table: its \.hoodie .*HudiTable"),
    ],
)
def test_tables_that_keep_a_log_are_refused(tmp_path: Path, log: str, sentence: str, inside: str) -> None:
    root = tmp_path / "root"
    table = root / inside if inside.startswith("tables") else root
    write(records("a"), table / (inside if "=" in inside else "") / "part-0.parquet")
    (table / log).parent.mkdir()
    (table / log).write_text(json.dumps({}))
    stores = [None, pafs.PyFileSystem(pafs.FSSpecHandler(fsspec.filesystem("memory")))]
    memory = fsspec.filesystem("memory")
    for file in filter(Path.is_file, root.rglob("*")):
        memory.pipe_file(str(file), file.read_bytes())
    for store in stores:
        with pytest.raises(SourceError, match=rf"is {sentence}"):
            fingerprint(root / inside if "=" in inside else root, store)
    memory.rm(str(root), recursive=True)


def test_a_data_folder_of_iceberg_is_refused_and_any_other_is_not(tmp_path: Path) -> None:
    write(records("a"), tmp_path / "data" / "part-0.parquet")
    assert fingerprint(tmp_path / "data")
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata" / "readme.json").touch()
    assert fingerprint(tmp_path / "data")
    (tmp_path / "metadata" / "00000-1.metadata.json").touch()
    with pytest.raises(SourceError, match="an Iceberg table"):
        fingerprint(tmp_path / "data")


def test_links_in_a_circle_end_and_links_elsewhere_are_followed(tmp_path: Path) -> None:
    write(records("a"), tmp_path / "t" / "real" / "a.parquet")
    write(records("b"), tmp_path / "elsewhere" / "b.parquet")
    (tmp_path / "t" / "again").symlink_to(tmp_path / "t" / "real")
    (tmp_path / "t" / "real" / "up").symlink_to(tmp_path / "t")
    (tmp_path / "t" / "self").symlink_to(tmp_path / "t" / "self")
    (tmp_path / "t" / "gone.parquet").symlink_to(tmp_path / "none")
    (tmp_path / "t" / "other").symlink_to(tmp_path / "elsewhere")
    local = fsspec.filesystem("file")
    below = [pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem()), DirFileSystem(str(tmp_path), local)]
    for store in (None, local, *below):
        path = "t" if store in below else tmp_path / "t"
        assert sorted(open_source(path, spec("x"), store).table()["id"].to_pylist()) == ["a", "b"]


def test_a_folder_under_two_hive_keys_is_two(tmp_path: Path) -> None:
    write(records("a"), tmp_path / "t" / "tile=x" / "a.parquet")
    (tmp_path / "t" / "tile=y").symlink_to(tmp_path / "t" / "tile=x")
    assert sorted(open_source(tmp_path / "t", spec("x")).table()["tile"].to_pylist()) == ["x", "y"]


@pytest.mark.parametrize("inside", [False, True])
def test_a_pipe_is_refused_and_never_opened(tmp_path: Path, *, inside: bool) -> None:
    write(records("a"), tmp_path / "t" / "a.parquet")
    os.mkfifo(tmp_path / "t" / "pipe.parquet")
    with pytest.raises(SourceError, match=r"pipe\.parquet: is a named pipe, not a regular file"):
        fingerprint(tmp_path / "t" if inside else tmp_path / "t" / "pipe.parquet")
    with pytest.raises(SourceError, match="/dev/null: is a device, not a regular file"):
        fingerprint("/dev/null")


@pytest.mark.parametrize("path", ["s3://KEY:TOPSECRET@bucket/p?nope=1", "foo://KEY:TOPSECRET@bucket/p"])
def test_no_error_shows_the_keys_of_an_address(path: str) -> None:
    with pytest.raises(SourceError, match="bucket/p: pyarrow cannot open this URI") as error:
        fingerprint(path)
    assert "TOPSECRET" not in str(error.value)
    assert error.value.__cause__ is None
