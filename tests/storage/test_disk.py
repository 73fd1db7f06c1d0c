"""On a disk nothing outside of the workspace is written, folders may vanish at any moment, and errors name the file."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pytest

from rasteret_assets.errors import WorkspaceError
from rasteret_assets.storage.workspace import Workspace, disk

TABLE = pa.table({"x": [1, 2, 3]})


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.at(str(tmp_path / "w" / "s2_records"))


def test_a_folder_that_goes_while_it_is_made_is_made_again(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process deletes an empty folder right after this process found it."""
    stages = Path(workspace.stages)
    folders = [stages / ".writing", stages / "raw_records", stages / "locks", stages / "collection"]
    for folder in folders:
        folder.mkdir(parents=True)
    taken, make = set(), os.mkdir

    def mkdir(path: str, *args: int, **options: int) -> None:
        try:
            make(path, *args, **options)
        except FileExistsError:
            if Path(path) in folders and path not in taken:
                taken.add(path)
                Path(path).rmdir()
            raise

    monkeypatch.setattr(os, "mkdir", mkdir)
    workspace.write_table(workspace.stage_file("raw_records", "2024-01"), TABLE)
    with workspace.lock("2024-01"):
        workspace.write_json(workspace.state_file("2024-01"), {"source_version": ""})
    assert len(taken) == len(folders)
    assert workspace.read_table(workspace.stage_file("raw_records", "2024-01")) == TABLE


@pytest.mark.parametrize("name", [".writing", "raw_records", "locks", "collection", "band_metadata.left"])
def test_a_folder_that_is_a_link_is_refused_by_name(workspace: Workspace, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    precious = [outside / file for file in ("2024-01", "2024-01.parquet", "2024-01.json")]
    for file in precious:
        file.write_text("precious")
        os.utime(file, (1, 1))
    link = Path(workspace.stages) / name
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)

    def use() -> None:
        workspace.sweep()
        workspace.sweep("band_metadata.left")
        with workspace.lock("2024-01"):
            workspace.write_table(workspace.stage_file("raw_records", "2024-01"), TABLE)
            workspace.write_json(workspace.state_file("2024-01"), {})

    with pytest.raises(WorkspaceError, match=f"{name}.*symbolic link"):
        use()
    if name != "locks":
        with pytest.raises(WorkspaceError, match=f"{name}.*symbolic link"):
            workspace.remove(str(link / "2024-01.parquet"))
    assert [file.read_text() for file in outside.iterdir()] == ["precious"] * 3


def test_a_file_that_is_a_link_is_replaced_itself(workspace: Workspace, tmp_path: Path) -> None:
    outside = tmp_path / "outside.parquet"
    outside.write_text("precious")
    path = Path(workspace.stage_file("raw_records", "2024-01"))
    path.parent.mkdir(parents=True)
    path.symlink_to(outside)
    workspace.write_table(str(path), TABLE)
    assert outside.read_text() == "precious"
    assert not path.is_symlink()


def test_a_file_that_is_still_open_is_not_swept(workspace: Workspace) -> None:
    """A writer may wait for its next rows for longer than a day."""
    path = workspace.stage_file("band_metadata", "2024-01")
    with workspace.writer(path, TABLE.schema) as writer:
        (beside,) = (Path(workspace.stages) / ".writing").iterdir()
        os.utime(beside, (1, 1))
        workspace.sweep()
        assert beside.exists()
        writer.write(TABLE)
    assert workspace.read_table(path) == TABLE


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_lost_permission_is_named(workspace: Workspace) -> None:
    path = workspace.stage_file("raw_records", "2024-01")
    workspace.write_table(path, TABLE)

    def lose() -> None:
        with workspace.writer(path, TABLE.schema) as writer:
            writer.write(TABLE)
            for folder in (Path(path).parent, Path(workspace.stages) / ".writing"):
                folder.chmod(0o500)

    try:
        with pytest.raises(WorkspaceError, match=f"^{path} cannot be written"):
            lose()
    finally:
        for folder in (Path(path).parent, Path(workspace.stages) / ".writing"):
            folder.chmod(0o700)


def test_content_is_synced_before_its_name(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut leaves the old file or the new one, and never a name without content."""
    steps: list[str] = []
    sync, rename = os.fsync, disk._rename

    def synced(file: int) -> None:
        steps.append("folder" if Path(f"/proc/self/fd/{file}").resolve().is_dir() else "file")
        sync(file)

    def renamed(source: Path, target: Path) -> None:
        steps.append("name")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(disk, "_rename", renamed)
    workspace.write_json(workspace.state_file("2024-01"), {})
    assert steps[:3] == ["file", "name", "folder"]
    steps.clear()
    workspace.write_table(workspace.published_file("2024-01"), TABLE)
    assert steps[:3] == ["file", "name", "folder"]
    steps.clear()
    workspace.write_table(workspace.stage_file("raw_records", "2024-01"), TABLE, durable=False)
    assert steps == ["name"]
