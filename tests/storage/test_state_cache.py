"""States are read again if they changed, however small the change, and only then."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow.fs as pafs
import pytest

from rasteret_assets.storage.workspace import Workspace
from rasteret_assets.storage.workspace.state_cache import StateCache
from tests.support.s3 import bucket_server, filesystem_of, requests_seen


@pytest.fixture(params=["local", "s3", "memory"])
def workspace(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Workspace]:
    if request.param == "s3":
        with bucket_server("states") as endpoint:
            yield Workspace.at(f"states/{tmp_path.name}/s2_records", filesystem_of(endpoint))
    elif request.param == "memory":
        yield Workspace.at(f"{tmp_path}/s2_records", fsspec.filesystem("memory", skip_instance_cache=True))
    else:
        yield Workspace.at(str(tmp_path / "s2_records"))


def write(workspace: Workspace, key: str, version: str) -> None:
    workspace.write_json(workspace.state_file(key), {"source_version": version})


def test_cached_states_are_the_stored_ones(workspace: Workspace) -> None:
    known = StateCache()
    assert known.read(workspace) == workspace.states() == {}
    for number in range(3):
        write(workspace, f"2024-0{number + 1}", "a")
    assert known.read(workspace) == workspace.states()
    # Of the same size, and within the same second.
    write(workspace, "2024-02", "b")
    assert known.read(workspace)["2024-02"] == {"source_version": "b"}
    workspace.remove(workspace.state_file("2024-03"))
    write(workspace, "2023-01", "c")
    assert list(known.read(workspace)) == ["2023-01", "2024-01", "2024-02"]


def test_a_damaged_state_is_logged_again(workspace: Workspace) -> None:
    known = StateCache()
    write(workspace, "2024-01", "a")
    known.read(workspace)
    with workspace.fs.open_output_stream(workspace.state_file("2024-01")) as file:
        file.write(b"{")
    for _ in range(2):
        assert known.read(workspace) == workspace.states()


def test_on_an_object_store_only_what_changed_is_read() -> None:
    with bucket_server("known") as endpoint:
        workspace: Workspace = Workspace.at("known/s2_records", filesystem_of(endpoint))
        known = StateCache()
        for number in range(20):
            write(workspace, f"{2000 + number}", "a")
        known.read(workspace)
        write(workspace, "2007", "b")
        with requests_seen() as seen:
            known.read(workspace)
        assert [one for one in seen if one.endswith(".json")] == ["GET /known/s2_stages/collection/2007.json"]


def test_on_a_disk_only_what_changed_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace.at(str(tmp_path / "s2_records"))
    for number in range(3):
        write(workspace, f"{2000 + number}", "a")
    time.sleep(0.05)  # until a further write would have another time
    known = StateCache()
    known.read(workspace)
    read: list[str] = []
    states = Workspace.state

    def noted(self: Workspace, key: str) -> object:
        read.append(key)
        return states(self, key)

    monkeypatch.setattr(Workspace, "state", noted)
    write(workspace, "2001", "b")
    known.read(workspace)
    assert read == ["2001"]
    assert isinstance(workspace.fs, pafs.LocalFileSystem)
