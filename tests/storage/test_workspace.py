"""Files are replaced in one step, on a disk and on S3, and folders are deleted with their last file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from rasteret_assets.errors import CollectionError, SourceError, SpecError, WorkspaceError
from rasteret_assets.storage.filesystems import list_files, resolve_filesystem
from rasteret_assets.storage.process import batches
from rasteret_assets.storage.workspace import Workspace, placed_files
from rasteret_assets.storage.workspace.disk import make_folder
from rasteret_assets.storage.workspace.files import STAGE_OPTIONS
from tests.storage.conftest import Place
from tests.support.s3 import requests_seen

TABLE = pa.table({"x": [1, 2, 3]})


@pytest.fixture
def workspace(on_disk_or_s3: Place) -> Workspace:
    fs, folder = on_disk_or_s3
    return Workspace.at(f"{folder}/s2_records", fs)


def test_layout(tmp_path: Path) -> None:
    workspace = Workspace.at(str(tmp_path / "s2_records"))
    assert workspace.published_file("2024-01") == f"{tmp_path}/s2_records/year=2024/month=1/part-0.parquet"
    undated = "year=__HIVE_DEFAULT_PARTITION__/month=__HIVE_DEFAULT_PARTITION__"
    assert workspace.published_file("undated") == f"{tmp_path}/s2_records/{undated}/part-0.parquet"
    assert workspace.stage_file("raw_records", "2024-01") == f"{tmp_path}/s2_stages/raw_records/2024-01.arrows"
    assert Workspace.at(str(tmp_path / "any")).stages == f"{tmp_path}/any_stages"
    with pytest.raises(ValueError, match="not a partition key"):
        workspace.published_file("2024-13")


def test_tables_and_documents_come_back(workspace: Workspace) -> None:
    path = workspace.stage_file("raw_records", "2024-01")
    assert workspace.read_table(path) is None
    written = workspace.write_table(path, TABLE)
    assert workspace.fs.get_file_info(path).size == written.size
    assert workspace.read_table(path) == TABLE
    workspace.write_table(path, TABLE.slice(1))
    assert workspace.read_table(path) == TABLE.slice(1)
    assert workspace.read_json(workspace.state_file("2024-01")) is None
    state = {"source_version": "1", "bbox": None}
    for key in ("2024-01", "undated"):
        workspace.write_json(workspace.state_file(key), state)
    assert workspace.states() == {"2024-01": state, "undated": state}


def test_an_object_takes_a_request_to_write_and_one_for_each_part_to_read(
    on_s3: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs, folder = on_s3
    workspace = Workspace.at(f"s3://{folder}/s2_records", fs)
    path = workspace.stage_file("raw_records", "2024-01")
    table = pa.table({f"column{number}": range(2000) for number in range(50)})
    with requests_seen() as asked:
        workspace.write_table(path, table, row_group_size=1000, **STAGE_OPTIONS)
        assert asked == [f"PUT /{path}"]
        asked.clear()
        assert pa.Table.from_batches(workspace.read_batches(path)) == table
        assert asked == [f"GET /{path}"]
        asked.clear()
        monkeypatch.setattr(placed_files, "_OPENED_BYTES", 100)
        assert pa.Table.from_batches(workspace.read_batches(path)) == table
        # What a small object would be, its size, its footer, both row groups.
        assert asked == [f"GET /{path}", f"HEAD /{path}", *2 * [f"GET /{path}"]]
        asked.clear()
        monkeypatch.setattr(batches, "BATCH_BYTES", 50 * 1000 * 8)
        assert pa.Table.from_batches(workspace.read_batches(path, table.column_names)) == table
        assert asked == [f"GET /{path}", f"HEAD /{path}", *3 * [f"GET /{path}"]]
        asked.clear()
        assert list(workspace.read_batches(f"{path}.none")) == []
        assert workspace.read_json(f"{path}.none") is None
        assert asked == 2 * [f"GET /{path}.none"]


def test_removing_the_last_file_removes_its_folders(workspace: Workspace) -> None:
    first, second = workspace.published_file("2023-01"), workspace.published_file("2023-02")
    for path in (first, second):
        workspace.write_table(path, TABLE)
    assert workspace.exists()
    assert workspace.remove(first)
    assert workspace.read_table(second) is not None
    assert workspace.remove(second)
    assert not workspace.remove(second)
    assert not workspace.exists()


def test_removing_one_partition_never_takes_another_along(tmp_path: Path) -> None:
    # Both lie in one folder, which is taken away whenever it is empty.
    workspace = Workspace.at(str(tmp_path / "s2_records"))

    def come_and_go(month: int) -> None:
        path = workspace.published_file(f"2024-{month:02}")
        for _ in range(150):
            workspace.write_table(path, TABLE)
            assert workspace.read_table(path) == TABLE
            assert workspace.remove(path)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(come_and_go, range(1, 5)))
    assert not workspace.exists()


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    workspace = Workspace.at(str(tmp_path / "s2_records"))
    path = workspace.published_file("2024-01")
    workspace.write_table(path, TABLE)
    with pytest.raises(pa.ArrowException):
        workspace.write_table(path, TABLE, compression="no such codec")
    assert workspace.read_table(path) == TABLE
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["part-0.parquet"]


def test_a_damaged_stage_file_is_named(tmp_path: Path) -> None:
    workspace = Workspace.at(str(tmp_path / "s2_records"))
    path = tmp_path / "s2_stages" / "raw_records" / "2024-01.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"PAR1 torso")
    with pytest.raises(CollectionError, match=r"2024-01\.parquet: damaged .* build it again with force=True"):
        workspace.read_table(str(path))


def test_a_store_that_cannot_be_reached_is_not_called_damaged() -> None:
    fs = pafs.S3FileSystem(
        access_key="k", secret_key="s", endpoint_override="127.0.0.1:9", scheme="http", region="us-east-1",
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=1),
    )  # fmt: skip
    workspace = Workspace.at("s3://bucket/s2_records", fs)
    for read, path in (
        (workspace.read_table, workspace.stage_file("raw_records", "2024-01")),
        (workspace.read_json, workspace.state_file("2024-01")),
    ):
        with pytest.raises(CollectionError, match=r"cannot be opened \(.*may read there") as caught:
            read(path)
        assert "damaged" not in str(caught.value)


def test_documents_are_written_the_same_each_time(tmp_path: Path) -> None:
    workspace = Workspace.at(str(tmp_path / "s2_records"))
    workspace.write_json(str(tmp_path / "a.json"), {"b": 1, "a": 2})
    assert list(json.loads((tmp_path / "a.json").read_text())) == ["a", "b"]


def test_junk_beside_the_data_is_skipped(tmp_path: Path) -> None:
    for name in ("a.parquet", "d/b.PARQUET", "_SUCCESS", ".a.parquet.crc", "_log/c.parquet", "x.txt", "k=_v/e.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = list_files(pafs.LocalFileSystem(), str(tmp_path), (".parquet",))
    assert [info.path.removeprefix(f"{tmp_path}/") for info in found] == ["a.parquet", "d/b.PARQUET", "k=_v/e.parquet"]


def test_filesystems_are_resolved_or_refused(tmp_path: Path) -> None:
    fs, path = resolve_filesystem(f"file://{tmp_path}/a")
    assert (fs.type_name, path) == ("local", f"{tmp_path}/a")
    with pytest.raises(SourceError, match="pyarrow cannot open this URI"):
        resolve_filesystem("ftp://host/a?secret=1")
    with pytest.raises(SpecError, match="filesystem=int is neither"):
        resolve_filesystem("/a", 3)


def test_a_file_written_in_batches_appears_whole(workspace: Workspace) -> None:
    path = workspace.stage_file("raw_records", "2024-02")
    with workspace.writer(path, TABLE.schema.with_metadata({b"made_of": b"two"})) as writer:
        writer.write(TABLE)
        assert workspace.read_table(path) is None
        writer.write(TABLE.to_batches()[0])
    assert workspace.read_table(path) == pa.concat_tables([TABLE, TABLE])
    found = workspace.read_schema(path)
    assert found is not None
    assert found.metadata == {b"made_of": b"two"}
    assert sum(batch.num_rows for batch in workspace.read_batches(path, ["x"])) == writer.rows == 6
    assert workspace.fs.get_file_info(path).size == writer.written.size


def test_a_writer_that_fails_leaves_the_old_file(workspace: Workspace) -> None:
    path = workspace.stage_file("raw_records", "2024-03")
    workspace.write_table(path, TABLE)

    def fail() -> None:
        with workspace.writer(path, TABLE.schema) as writer:
            writer.write(TABLE)
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail()
    assert workspace.read_table(path) == TABLE
    if workspace.fs.type_name == "local":
        assert not list((Path(workspace.stages) / ".writing").iterdir())


def test_what_a_killed_writer_left_is_swept_after_a_day(tmp_path: Path) -> None:
    workspace = Workspace.at(str(tmp_path / "s2_records"))
    workspace.write_json(workspace.state_file("undated"), {})
    old, new = (tmp_path / "s2_stages" / ".writing" / name for name in ("old", "new"))
    for file in (old, new):
        file.touch()
    os.utime(old, (0, 0))
    workspace.sweep()
    assert [file.exists() for file in (old, new)] == [False, True]


def test_a_workspace_that_is_not_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    workspace = Workspace.at(str(tmp_path / "taken" / "s2_records"))
    path = workspace.state_file("2024-01")
    with pytest.raises(WorkspaceError, match=rf"^{path} cannot be written \(.*Not a directory"):
        workspace.write_json(path, {})


def test_a_bucket_that_does_not_exist_is_named(s3: pafs.FileSystem) -> None:
    workspace = Workspace.at("s3://elsewhere/s2_records", s3)
    path = workspace.stage_file("raw_records", "2024-01")
    with pytest.raises(WorkspaceError, match=f"^{path} cannot be written"):
        workspace.write_table(path, TABLE)


def test_a_full_disk_leaves_what_was_there_and_nothing_beside(tmp_path: Path) -> None:
    workspace = Workspace.at(str(tmp_path / "s2_records"))
    path = workspace.stage_file("raw_records", "2024-01")
    workspace.write_table(path, TABLE)
    # No file of the process below may grow beyond 64 KiB: as on a full disk, some write of many fails.
    program = f"""if True:
        import resource, pyarrow as pa
        from rasteret_assets.errors import WorkspaceError
        from rasteret_assets.storage.workspace import Workspace
        resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
        try:
            Workspace.at({str(tmp_path / "s2_records")!r}).write_table(
                {path!r}, pa.table({{"x": range(50_000)}}), use_dictionary=False, compression="none"
            )
        except WorkspaceError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.startswith(f"{path} cannot be written ("), done.stderr
    assert workspace.read_table(path) == TABLE
    assert list((tmp_path / "s2_stages" / ".writing").iterdir()) == []


def test_a_workspace_behind_a_link_that_leads_nowhere_is_refused_by_the_name_of_the_link(tmp_path: Path) -> None:
    link = tmp_path / "disk"
    link.symlink_to(tmp_path / "not mounted")
    with pytest.raises(NotADirectoryError) as caught:
        make_folder(link / "index" / "locks")
    assert caught.value.filename == str(link)
