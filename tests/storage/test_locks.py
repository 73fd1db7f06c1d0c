"""One holder at a time, on a disk and on an object store; a dead holder's lock is taken over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from rasteret_assets.storage import locks
from rasteret_assets.storage.locks import held
from tests.support.s3 import bucket_server, filesystem_of


@pytest.fixture(scope="module")
def bucket() -> Iterator[pafs.FileSystem]:
    with bucket_server("locks") as endpoint:
        yield filesystem_of(endpoint)


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[pafs.FileSystem, str]:
    if request.param == "local":
        return pafs.LocalFileSystem(), str(tmp_path / "locks" / "2024-01")
    return request.getfixturevalue("bucket"), f"locks/{tmp_path.name}/2024-01"


def test_holders_never_overlap(place: tuple[pafs.FileSystem, str]) -> None:
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


def test_whoever_waits_says_so_once(place: tuple[pafs.FileSystem, str]) -> None:
    said: list[str] = []
    told, done = threading.Event(), threading.Event()

    def wait() -> None:
        with held(*place, lambda: (said.append("waiting"), told.set())[0]):
            done.set()

    thread = threading.Thread(target=wait)
    with held(*place):
        thread.start()
        assert told.wait(20)
        assert not done.is_set()
    thread.join()
    assert done.is_set()
    assert said == ["waiting"]


def test_an_error_gives_the_lock_back(place: tuple[pafs.FileSystem, str]) -> None:
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
        "import sys, time, pyarrow.fs as pafs; from rasteret_assets.storage.locks import held\n"
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


def test_the_claim_of_a_dead_process_is_taken_away(bucket: pafs.FileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    with bucket.open_output_stream("locks/dead/2024-01/somebody") as sink:
        sink.write(b"claimed")
    monkeypatch.setattr(locks, "DEAD_AFTER_S", -1.0)
    with held(bucket, "locks/dead/2024-01", lambda: pytest.fail("waited for a dead process")):
        claims = [info.base_name for info in bucket.get_file_info(pafs.FileSelector("locks/dead/2024-01"))]
        assert "somebody" not in claims


def test_a_claim_is_renewed_while_it_is_held(bucket: pafs.FileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "RENEWED_EVERY_S", 0.2)
    with held(bucket, "locks/renewed/2024-01"):
        (claim,) = bucket.get_file_info(pafs.FileSelector("locks/renewed/2024-01"))
        for _ in range(100):
            time.sleep(0.1)
            if bucket.get_file_info(claim.path).mtime > claim.mtime:
                return
    pytest.fail("the claim was not renewed")
