"""A lock has one holder at a time, on a disk and on an object store, and is taken over from a dead holder."""

from __future__ import annotations

import contextvars
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import fsspec
import pyarrow.fs as pafs
import pytest

from rasteret_assets.errors import LockLostError, WorkspaceError
from rasteret_assets.storage.workspace import Workspace, holds
from rasteret_assets.storage.workspace._locks import held
from rasteret_assets.storage.workspace.holds import Hold
from tests.storage.conftest import Place
from tests.support.s3 import requests_seen


def unconditional(protocol: str) -> pafs.FileSystem:
    """A store without conditional puts; the one in memory has no times either."""
    return pafs.PyFileSystem(pafs.FSSpecHandler(fsspec.filesystem(protocol, skip_instance_cache=True)))


def place_of(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if kind == "local":
        return pafs.LocalFileSystem(), str(tmp_path / "locks" / "2024-01")
    if kind == "s3":
        fs, folder = request.getfixturevalue("on_s3")
        return fs, f"{folder}/2024-01"
    (tmp_path / "claims").mkdir()
    return unconditional(kind), f"{tmp_path}/claims/2024-01"


@pytest.fixture(params=["local", "s3", "file", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return place_of(request.param, request, tmp_path)


@pytest.fixture(params=["s3", "file"])
def leased(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A store on which a lock is taken over from a holder that did not renew it."""
    return place_of(request.param, request, tmp_path)


def test_holders_never_overlap(place: Place) -> None:
    inside, most = 0, 0
    guard = threading.Lock()

    def work() -> None:
        nonlocal inside, most
        for _ in range(3):
            with held(*place):
                with guard:
                    inside += 1
                    most = max(most, inside)
                time.sleep(0.01)
                with guard:
                    inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_a_waiting_process_says_so_once(place: Place) -> None:
    said: list[str] = []
    told, done = threading.Event(), threading.Event()

    def wait() -> None:
        with held(*place, lambda: (said.append("waiting"), told.set())[0]):
            done.set()

    thread = threading.Thread(target=wait)
    with held(*place):
        thread.start()
        assert told.wait(300)
        assert not done.is_set()
    thread.join()
    assert done.is_set()
    assert said == ["waiting"]


def test_an_error_gives_the_lock_back(place: Place) -> None:
    def fail() -> None:
        with held(*place):
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    with held(*place, lambda: pytest.fail("the lock is still held")):
        pass


def test_the_system_gives_back_the_lock_of_a_killed_process(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    script = (
        "import sys, time, pyarrow.fs as pafs; from rasteret_assets.storage.workspace._locks import held\n"
        "with held(pafs.LocalFileSystem(), sys.argv[1]):\n    print('held', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, path], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"held\n"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with held(pafs.LocalFileSystem(), path, lambda: pytest.fail("the lock is still held")):
        pass


def dead_after(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let leases end after so many seconds, without any renewal."""
    monkeypatch.setattr(holds, "DEAD_AFTER_S", seconds)
    monkeypatch.setattr(holds, "RENEWED_EVERY_S", 1000.0)


def test_a_lock_that_is_not_renewed_is_taken_over_and_stays_so(leased: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    dead_after(monkeypatch, -2.0)
    with held(*leased, what="partition 2024-01") as stopped:
        with held(*leased) as later:
            later.confirm()
            with pytest.raises(LockLostError, match=r"^partition 2024-01 was taken over by another build"):
                stopped.confirm()
            later.confirm()
        # Giving the lock back does not bring the earlier holder into its place again.
        with pytest.raises(LockLostError, match="taken over"):
            stopped.check()
    dead_after(monkeypatch, 1000.0)
    with held(*leased, lambda: pytest.fail("the lock was taken back by a holder that had lost it")):
        pass


def test_a_holder_that_was_stopped_asks_before_it_goes_on(leased: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    dead_after(monkeypatch, -2.0)
    with held(*leased) as stopped, held(*leased):
        dead_after(monkeypatch, 1000.0)
        stopped.check()  # the last proof is young enough
        dead_after(monkeypatch, 0.0)
        with pytest.raises(LockLostError):
            stopped.check()


def test_a_lease_is_renewed_while_it_is_held(leased: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holds, "RENEWED_EVERY_S", 0.1)
    with held(*leased) as hold:
        for _ in range(3):
            before = hold.seconds_since_proof()
            deadline = time.monotonic() + 300
            while hold.seconds_since_proof() >= before:
                before = max(before, hold.seconds_since_proof())
                assert time.monotonic() < deadline, "the lease was not renewed"
                time.sleep(0.01)
        hold.confirm()


def test_each_holder_has_a_higher_number(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    for kind in ("local", "s3"):
        place = place_of(kind, request, tmp_path)
        numbers = []
        for _ in range(3):
            with held(*place) as hold:
                numbers.append(hold.fence)
        assert numbers == [1, 2, 3]
        with held(*place) as hold:
            hold.outrank(41)
            assert hold.fence == 42
        with held(*place) as hold:
            assert hold.fence == 43


def test_a_lock_on_a_store_takes_three_requests(on_s3: Place) -> None:
    fs, folder = on_s3
    path = f"{folder}/requests"
    with held(fs, path):  # the store is asked once whether it honours conditions
        pass
    with requests_seen() as asked, held(fs, path):
        pass
    assert asked == [f"GET /{path}", f"PUT /{path}", f"PUT /{path}"]


def test_a_lock_whose_file_was_deleted_is_lost(tmp_path: Path) -> None:
    place = pafs.LocalFileSystem(), str(tmp_path / "locks" / "2024-01")
    with held(*place) as first:
        Path(place[1]).unlink()
        with held(*place) as second:
            second.confirm()
            with pytest.raises(LockLostError):
                first.confirm()


def test_the_file_of_a_lock_is_neither_emptied_nor_followed(tmp_path: Path) -> None:
    lock, outside = tmp_path / "lock", tmp_path / "outside"
    lock.write_text("not a number, and longer than one")
    with held(pafs.LocalFileSystem(), str(lock)) as hold:
        assert hold.fence == 1
    assert len(lock.read_text()) == 33
    outside.write_text("precious")
    lock.unlink()
    lock.symlink_to(outside)
    with pytest.raises(WorkspaceError, match="symbolic link"), held(pafs.LocalFileSystem(), str(lock)):
        pass
    assert outside.read_text() == "precious"


def test_the_lock_of_a_partition_may_be_taken_again_under_it(tmp_path: Path) -> None:
    workspace = Workspace.at(str(tmp_path / "s2_records"))

    def nested() -> Hold:
        with workspace.lock("2024-01") as inner:
            return inner

    with workspace.lock("2024-01") as outer:
        assert nested() is outer
        with workspace.lock("2024-02") as other:
            assert other is not outer
        assert contextvars.copy_context().run(nested) is outer
        outer.confirm()
    with workspace.lock("2024-01") as later:
        assert later.fence == outer.fence + 1
        with pytest.raises(LockLostError):
            outer.check()


def test_another_thread_waits_for_the_lock_of_a_partition(tmp_path: Path) -> None:
    workspace = Workspace.at(str(tmp_path / "s2_records"))
    done = threading.Event()

    def wait() -> None:
        with workspace.lock("2024-01"):
            done.set()

    with workspace.lock("2024-01"):
        thread = threading.Thread(target=wait)
        thread.start()
        assert not done.wait(0.2)
    thread.join()
    assert done.is_set()
