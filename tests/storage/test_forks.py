"""Workers, forked and spawned, that read beside their parent: over HTTP, from an object store, and whole areas."""

from __future__ import annotations

import datetime as dt
import json
import multiprocessing
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pyarrow.fs as pafs
import pytest
import shapely
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from rasteret_assets import build_from_table, create_backend
from rasteret_assets.collection import Collection
from rasteret_assets.errors import LoopThreadError
from rasteret_assets.storage.backend import StorageBackend
from rasteret_assets.storage.process.processes import OfProcess, run_sync
from rasteret_assets.storage.workspace import holds
from rasteret_assets.storage.workspace._locks import held
from tests.support.rasters import footprint, record_table, tiff_bytes
from tests.support.s3 import KEYS, bucket_server
from tests.support.server import RangeServer

# Python warns of forks beside threads, which these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

#: What hangs fails.
LIMIT_S = 300
OBJECTS = 60
AREA = shapely.box(500_000.0, 5_399_200.0, 501_000.0, 5_400_000.0)


@pytest.fixture
def letters(server: RangeServer) -> RangeServer:
    """Objects of 1000 bytes, all different."""
    server.objects = {f"/{number}": f"{number:04}".encode() * 250 for number in range(OBJECTS)}
    return server


@pytest.fixture
def scenes(server: RangeServer) -> tuple[Collection, np.ndarray]:
    """Eight records of one place behind HTTP, and their pixels."""
    tiffs = [tiff_bytes(seed=seed) for seed in range(8)]
    server.objects = {f"/{number}.tif": tiff for number, tiff in enumerate(tiffs)}
    hrefs = [f"{server.url}/{number}.tif" for number in range(8)]
    days = [dt.datetime(2024, 4, 1 + number, tzinfo=dt.UTC) for number in range(8)]
    table = record_table(
        [f"r{number}" for number in range(8)], {"B": hrefs}, outline=footprint(tiffs[0]), datetimes=days
    )
    built = build_from_table(table, enrich_cog=True)
    return built, np.stack([np.random.default_rng(seed).integers(1, 200, (80, 100)) for seed in range(8)])


def wrong_objects(backend: StorageBackend, url: str) -> list[str]:
    """Read every object, and return the objects whose bytes are those of another."""
    found = [bytes(run_sync(backend.get_range(f"{url}/{number}", 0, 4))).decode() for number in range(OBJECTS)]
    return [text for number, text in enumerate(found) if text != f"{number:04}"]


def mean_of(built: Collection, number: int) -> float:
    """A torch worker's item: the pixels of one record."""
    return float(day(built, number).get_numpy(AREA, "B", geometry_crs=32632).mean())


def day(built: Collection, number: int) -> Collection:
    return built.subset(date_range=f"2024-04-{1 + number:02}")


def one_range(backend: StorageBackend, url: str) -> str:
    try:
        return bytes(run_sync(backend.get_range(url, 0, 4))).decode()
    except Exception as error:  # noqa: BLE001  (whatever it is crosses to the parent as text)
        return f"{type(error).__name__}: {error}"


@pytest.fixture(autouse=True)
def _workers_end_when_told() -> Iterator[None]:
    """Let workers end by the signal that their pool sends; Dagster, in tests before, has taken its default away.

    Not in the workers themselves: a pool that has its results ends one that has only begun, whose signal would be lost.
    """
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_and_their_parent_read_at_once_over_http(letters: RangeServer, method: str) -> None:
    backend = create_backend()
    assert wrong_objects(backend, letters.url) == []  # leaves connections open
    with multiprocessing.get_context(method).Pool(2) as pool:
        there = [pool.apply_async(wrong_objects, (backend, letters.url)) for _ in range(6)]
        with ThreadPoolExecutor(2) as threads:
            here = [threads.submit(wrong_objects, backend, letters.url) for _ in range(6)]
            assert [reading.result(LIMIT_S) for reading in here] == [[]] * 6
        assert [reading.get(LIMIT_S) for reading in there] == [[]] * 6


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_the_items_of_a_dataset(scenes: tuple[Collection, np.ndarray], method: str) -> None:
    built, pixels = scenes
    expected = [float(image.mean()) for image in pixels]
    # A read before, as everybody makes one, and one of each worker beside one of the parent.
    assert mean_of(built, 0) == expected[0]
    with multiprocessing.get_context(method).Pool(2) as pool:
        there = pool.starmap_async(mean_of, [(built, number) for number in range(8)], chunksize=1)
        assert [mean_of(built, number) for number in range(8)] == expected
        assert there.get(LIMIT_S) == expected


CHILD_THAT_ENDS_LIKE_A_PROGRAM = """
import os, sys
from rasteret_assets import create_backend
from rasteret_assets.storage.process.processes import run_sync
backend = create_backend()
read = lambda number: bytes(run_sync(backend.get_range(f"{sys.argv[1]}/{number}", 0, 4))).decode()
read(1)
if not (child := os.fork()):
    print(read(2), flush=True)
    del backend
    sys.exit()  # with all that an interpreter does at its end
os.waitpid(child, 0)
print(read(3), read(4))
"""


def test_the_end_of_a_child_leaves_the_connections_of_its_parent(letters: RangeServer) -> None:
    done = run_script(CHILD_THAT_ENDS_LIKE_A_PROGRAM, letters.url)
    assert done.stdout.split() == ["0002", "0003", "0004"]
    assert done.stderr == ""
    assert len(letters.clients) == 2  # one of the parent's, before and after, and one of the child's


FREED = """
import gc, os, sys
from rasteret_assets.storage.process.processes import OfProcess

class Connection:
    def __del__(self):
        print(os.getpid() == opener)  # an open one would be closed here

opener = os.getpid()
value = OfProcess(lambda: Connection())
value.get()
if not (child := os.fork()):
    value.get()
    del value
    gc.collect()
    sys.exit()
os.waitpid(child, 0)
"""


def test_a_child_frees_nothing_that_its_parent_opened() -> None:
    done = run_script(FREED)
    # The child's own one, and at the end of the parent the parent's.
    assert (sorted(done.stdout.split()), done.stderr) == (["False", "True"], "")


def run_script(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code, *arguments],
        capture_output=True, text=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def bucket() -> Iterator[dict[str, Any]]:
    """S3 configuration of a server with an object ``a`` in the bucket ``bucket``."""
    with bucket_server("bucket") as endpoint:
        client = boto3.client("s3", endpoint_url=f"http://{endpoint}", region_name="us-east-1", **KEYS)
        client.put_object(Bucket="bucket", Key="a", Body=b"abcdefgh")
        client.close()
        yield {
            "endpoint": f"http://{endpoint}", "region": "us-east-1", "access_key_id": "k", "secret_access_key": "s",
        }  # fmt: skip


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_an_object_store_is_read_by_workers_or_refused_at_once(bucket: dict[str, Any], method: str) -> None:
    backend = create_backend(default_s3_config=bucket)
    assert one_range(backend, "s3://bucket/a") == "abcd"
    with multiprocessing.get_context(method).Pool(2) as pool:
        there = [pool.apply_async(one_range, (backend, "s3://bucket/a")) for _ in range(4)]
        assert one_range(backend, "s3://bucket/a") == "abcd"
        found = {reading.get(LIMIT_S) for reading in there}
    if method == "fork":
        (text,) = found
        assert text.startswith("ForkedProcessError: s3://bucket/a: cannot be read in this process")
        assert "multiprocessing_context='forkserver'" in text
    else:
        assert found == {"abcd"}


CHILD_BEFORE_THE_FIRST_READ = """
import json, os, sys
from rasteret_assets import create_backend
from rasteret_assets.storage.process.processes import run_sync
backend = create_backend(default_s3_config=json.loads(sys.argv[1]))
read = lambda: print(bytes(run_sync(backend.get_range("s3://bucket/a", 0, 4))).decode(), flush=True)
if not (child := os.fork()):
    read()
    os._exit(0)
os.waitpid(child, 0)
read()
"""


def test_an_object_store_is_read_by_a_child_whose_parent_had_read_none(bucket: dict[str, Any]) -> None:
    done = run_script(CHILD_BEFORE_THE_FIRST_READ, json.dumps(bucket))
    assert (done.stdout.split(), done.stderr) == (["abcd", "abcd"], "")


def test_what_travels_to_a_worker_is_pickled_before_and_after_a_read(scenes: tuple[Collection, np.ndarray]) -> None:
    built, pixels = scenes
    backend = create_backend(headers={"X-Key": "1"})
    things = [
        built,
        built.read(AREA, "B", geometry_crs=32632, backend=backend),
        built.get_xarray(AREA, "B", geometry_crs=32632, backend=backend, chunks={}),
        backend,
    ]
    pickle.dumps(things)
    np.testing.assert_array_equal(things[2].B, pixels)
    np.testing.assert_array_equal(things[1].to_numpy(), pixels)
    copies = pickle.loads(pickle.dumps(things))
    np.testing.assert_array_equal(copies[1].to_numpy(), pixels)
    np.testing.assert_array_equal(copies[2].B, pixels)


def test_a_synchronous_read_within_a_coroutine_is_refused(scenes: tuple[Collection, np.ndarray]) -> None:
    built, pixels = scenes
    own = create_backend()

    class Nested:
        """A backend that reads another collection before each range."""

        def __init__(self, *, waits: bool) -> None:
            self.waits = waits

        async def get_range(self, url: str, start: int, length: int) -> Any:
            if self.waits:
                day(built, 0).get_numpy(AREA, "B", geometry_crs=32632)
            else:
                found = await day(built, 0).get_numpy_async(AREA, "B", geometry_crs=32632)
                assert found.size
            return await own.get_range(url, start, length)

        async def get_ranges(self, url: str, ranges: Any) -> Any:
            return [await self.get_range(url, *span) for span in ranges]

    one = day(built, 3)
    with ThreadPoolExecutor(1) as thread:
        reading = thread.submit(one.get_numpy, AREA, "B", geometry_crs=32632, backend=Nested(waits=True))
        with pytest.raises(Exception, match="await the method that ends in _async") as caught:
            reading.result(LIMIT_S)
        assert isinstance(caught.value, LoopThreadError)
        reading = thread.submit(one.get_numpy, AREA, "B", geometry_crs=32632, backend=Nested(waits=False))
        np.testing.assert_array_equal(np.squeeze(reading.result(LIMIT_S)), pixels[3])


def test_a_lock_is_given_back_although_a_child_lives_on(tmp_path: Path) -> None:
    fs, path = pafs.LocalFileSystem(), str(tmp_path / "lock")
    with held(fs, path):
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(10 * LIMIT_S,))
        child.start()

    def again() -> int:
        with held(fs, path) as hold:
            return hold.fence

    try:
        with ThreadPoolExecutor(1) as thread:
            fence = thread.submit(again)
            try:
                assert fence.result(LIMIT_S) == 2
            finally:
                child.kill()
    finally:
        child.join(LIMIT_S)
        child.close()


def test_a_child_renews_no_lease_of_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lease of a dead parent ends, although its child goes on."""
    memory = pafs.PyFileSystem(pafs.FSSpecHandler(DirFileSystem(str(tmp_path), LocalFileSystem())))
    monkeypatch.setattr(holds, "RENEWED_EVERY_S", 0.2)
    with held(memory, "parents"):
        (claim,) = (tmp_path / "parents").iterdir()
        child = multiprocessing.get_context("fork").Process(target=hold_for, args=(memory, "childs", 2.0))
        child.start()
        with holds._renewals.get()._guard:  # the parent stands still
            child.join(LIMIT_S)
            assert time.time() - claim.stat().st_mtime > 1.5
    assert child.exitcode == 0
    child.close()


def hold_for(fs: pafs.FileSystem, path: str, seconds: float) -> None:
    with held(fs, path) as hold:
        time.sleep(seconds)
        assert hold.seconds_since_proof() < seconds / 2


def test_a_value_of_a_process_is_made_once_by_threads_and_never_taken_along() -> None:
    value = OfProcess(object)
    with ThreadPoolExecutor(8) as threads:
        assert len({id(found) for found in threads.map(lambda _: value.get(), range(64))}) == 1
    copy = pickle.loads(pickle.dumps(value))
    assert copy.get() is not value.get()
