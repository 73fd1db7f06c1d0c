"""Processes that fetch headers of one collection share the hosts, and never fail because of that."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from rasteret_assets import CollectionSpec, build, load
from rasteret_assets.headers import workers as workers_module
from rasteret_assets.headers.workers import FEW_FILES, MANY_FILES, Workers
from rasteret_assets.storage.hosts import HostState
from rasteret_assets.storage.workspace import Workspace
from tests.support.rasters import record_table, tiff_bytes
from tests.support.s3 import bucket_server, filesystem_of, requests_seen
from tests.support.server import RangeServer

HOST = "data.example"
#: Stands for a fetch.
FETCH = object()


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.at(str(tmp_path / "s_records"))


@pytest.fixture
def remote() -> Iterator[Workspace]:
    with bucket_server("bucket") as endpoint:
        # All servers of a process have the same objects.
        yield Workspace.at(f"bucket/{uuid.uuid4().hex}_records", filesystem_of(endpoint))


def document(workspace: Workspace) -> dict[str, Any]:
    return workspace.read_json(f"{workspace.stages}/workers.json") or {}


def throttled(limit: float = 12.0, pause: float = 0.0) -> HostState:
    """A host that has stated a time to wait."""
    return HostState.throttled(300, limit, time.monotonic() + pause)


@pytest.mark.parametrize("place", ["workspace", "remote"])
def test_processes_know_how_many_they_are(place: str, request: pytest.FixtureRequest) -> None:
    workspace: Workspace = request.getfixturevalue(place)
    with Workers(workspace) as first:
        assert first.begin(MANY_FILES).workers == 1
        with Workers(workspace) as second, Workers(workspace) as third:
            assert second.begin(MANY_FILES).workers == 2
            assert third.begin(MANY_FILES).workers == 3
        with Workers(workspace) as fourth:
            assert fourth.begin(FEW_FILES).workers == 2
        assert len(document(workspace)["workers"]) == 1
    assert document(workspace) == {"workers": {}, "hosts": {}}


def test_a_process_that_was_killed_is_forgotten(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    Workers(workspace).begin(MANY_FILES)
    assert Workers(workspace).begin(FEW_FILES).workers == 2
    monkeypatch.setattr(workers_module, "FORGOTTEN_S", 0.0)
    assert Workers(workspace).begin(FEW_FILES).workers == 1


@pytest.mark.parametrize("place", ["workspace", "remote"])
def test_processes_share_the_pace_that_a_host_allowed_one_of_them(place: str, request: pytest.FixtureRequest) -> None:
    workspace: Workspace = request.getfixturevalue(place)
    with Workers(workspace) as first:
        first.begin(FEW_FILES)
        first.tell(FETCH, {HOST: throttled(12.0, pause=40.0)})
        while not document(workspace):  # written at once, by a thread
            time.sleep(0.01)
        with Workers(workspace) as second:
            view = second.begin(MANY_FILES)
            assert view.state_of("other.example", 300) is None
            known = view.state_of(HOST, 300)
            assert known is not None
            assert known.is_throttled
            assert known.limit == 6
            assert 30 < known.paused_until - time.monotonic() <= 40
    # It counts for a while, also where nobody is left.
    assert document(workspace)["workers"] == {}
    known = Workers(workspace).begin(FEW_FILES).state_of(HOST, 300)
    assert known is not None
    assert known.limit == 12


def test_fetches_that_are_soon_over_cost_few_requests(remote: Workspace) -> None:
    assert remote.conditional is not None  # asks once whether the store honours conditions
    asked = {}
    for files in (1, FEW_FILES - 1, FEW_FILES, MANY_FILES - 1, MANY_FILES):
        with requests_seen() as seen:
            with Workers(remote) as workers:
                workers.begin(files)
                workers.begin(files)
            asked[files] = Counter(line.partition(" ")[0] for line in seen)
    assert asked == {
        1: {}, FEW_FILES - 1: {}, FEW_FILES: {"GET": 1}, MANY_FILES - 1: {"GET": 1}, MANY_FILES: {"GET": 1, "PUT": 2},
    }  # fmt: skip


@pytest.mark.parametrize("text", ["", "{", "[]", '{"workers": 3}', '{"workers": {"a": {}}}', '{"format": 99}'])
def test_a_document_of_another_form_stops_nobody(workspace: Workspace, text: str) -> None:
    path = Path(workspace.stages, "workers.json")
    path.parent.mkdir()
    path.write_text(text)
    with Workers(workspace) as workers:
        assert workers.begin(MANY_FILES).workers == 1
    path.unlink()
    path.mkdir()
    with Workers(workspace) as workers:
        assert workers.begin(MANY_FILES).workers == 1


def test_a_share_of_a_host_changes_with_the_number_of_processes() -> None:
    state = throttled(12.0)
    state.share(150, 1 / 2)
    assert (state.ceiling, state.limit) == (150, 6.0)
    state.share(300, 2.0)
    assert state.limit == 12.0
    fresh = HostState(ceiling=300)
    before = fresh.limit
    fresh.share(150, 1 / 2)
    assert fresh.limit == before  # it has not shown what it can take
    fresh.share(10, 1 / 15)
    assert fresh.limit == 10


class Busy(RangeServer):
    """A server that counts the requests that it has at once, and delays each."""

    def __init__(self) -> None:
        super().__init__()
        self.lock, self.now, self.most = threading.Lock(), 0, 0

    def body(self, path: str) -> bytes | None:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.005)
        with self.lock:
            self.now -= 1
        return super().body(path)


def spec_of(folder: Path, server: RangeServer, months: int, files: int, **options: Any) -> CollectionSpec:
    """A collection of so many months with so many files each."""
    names = [f"m{month}-{number}" for month in range(1, months + 1) for number in range(files)]
    content = tiff_bytes(width=40, height=40)
    server.objects |= {f"/{name}.tif": content for name in names}
    times = [datetime(2024, month, 1, tzinfo=UTC) for month in range(1, months + 1) for _ in range(files)]
    table = record_table(names, {"B02": [f"{server.url}/{name}.tif" for name in names]}, datetimes=list(times))
    pq.write_table(table, folder / "t.parquet")
    values = {"path": folder / "t.parquet", "name": "s", "workspace_dir": folder / "w", "enrich_cog": True}
    return CollectionSpec.of(**values, **options)


@pytest.mark.parametrize(("others", "most"), [(0, 8), (1, 4), (3, 2), (20, 1)])
def test_a_build_takes_its_share_of_the_ceiling(tmp_path: Path, others: int, most: int) -> None:
    server = Busy()
    with server.running():
        spec = spec_of(tmp_path, server, 1, FEW_FILES, max_concurrent=8)
        for _ in range(others):
            Workers(Workspace.of(spec)).begin(MANY_FILES)
        assert build(spec).totals["headers_failed"] == 0
    assert len(server.requests) == FEW_FILES
    assert server.most <= most
    assert others or server.most > 4


def test_a_build_begins_with_what_others_have_learned(tmp_path: Path) -> None:
    server = Busy()
    with server.running():
        spec = spec_of(tmp_path, server, 1, FEW_FILES)
        with Workers(Workspace.of(spec)) as other:
            other.tell(FETCH, {server.url.removeprefix("http://"): throttled(4.0)})
            other.begin(MANY_FILES)
            assert build(spec).totals["headers_failed"] == 0
    assert server.most <= 3  # two, and one more for many answers


CHILD = """
import json, sys
from rasteret_assets import CollectionSpec, build
values, month = json.loads(sys.argv[1])
print(json.dumps(build(CollectionSpec.of(**values), partitions=[month]).totals))
"""


def test_processes_that_build_one_collection_at_a_throttled_host_all_succeed(tmp_path: Path) -> None:
    server = RangeServer()
    server.retry_after = "1"
    window = [0.0, 0]

    def fault(path: str, before: int) -> str | None:
        if time.monotonic() - window[0] > 1:
            window[:] = [time.monotonic(), 0]
        window[1] += 1
        return "429" if window[1] > 60 else None

    server.fault = fault
    files = 40
    with server.running():
        spec = spec_of(tmp_path, server, 4, files)
        values = {"path": spec.path, "name": "s", "workspace_dir": spec.workspace_dir, "enrich_cog": True}
        children = [
            subprocess.Popen(
                [sys.executable, "-c", CHILD, json.dumps([values, f"2024-0{month}"])], stdout=subprocess.PIPE, text=True
            )
            for month in range(1, 5)
        ]
        totals = [json.loads(child.communicate(timeout=600)[0]) for child in children]
    assert [one["headers_failed"] for one in totals] == [0] * 4
    assert len(load(spec.published_path or "", verify="full")) == 4 * files
    # Whatever moment each of them begins at, no file is asked for three times, on the whole.
    assert 4 * files <= len(server.requests) < 3 * 4 * files
    kept = sorted(path.name for path in Path(spec.published_path or "").rglob("*") if path.is_file())
    assert kept == ["part-0.parquet"] * 4
