"""What readers see while a collection is published anew, on a disk and on S3, by one build or by several at once."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from rasteret_assets import Collection, CollectionSpec, build, load
from rasteret_assets.errors import CollectionError
from tests.support.rasters import record_table, tiff_bytes
from tests.support.s3 import KEYS, bucket_server, requests_seen
from tests.support.server import RangeServer

ROWS = 60


def scenes(version: int, rows: int = ROWS) -> pa.Table:
    """Records of two months that all carry one version; a later version has wider columns, so that files differ."""
    names = [f"r{number:03}" for number in range(rows)]
    months = [datetime(2024, 1 + number % 2, 5, tzinfo=UTC) for number in range(rows)]
    table = record_table(names, {"B02": [f"/{name}.tif" for name in names]}, datetimes=months)
    noise = [f"{version}" * (50 * (version % 5) + 1)] * rows
    return table.append_column("version", pa.array([version] * rows)).append_column("noise", pa.array(noise))


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with bucket_server("records") as endpoint:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{endpoint}", "AWS_DEFAULT_REGION": "us-east-1",
            **{name.upper(): value for name, value in KEYS.items()},
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        yield "s3://records"


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else request.getfixturevalue("bucket")


def write(table: pa.Table, path: str) -> None:
    fs, inside = pafs.FileSystem.from_uri(path) if "://" in path else (pafs.LocalFileSystem(), path)
    pq.write_table(table, inside, filesystem=fs)


def check(rows: pa.Table) -> None:
    """No record is missing, double or from another moment than its month."""
    assert sorted(rows["id"].to_pylist()) == [f"r{number:03}" for number in range(ROWS)]
    for month in (1, 2):
        assert len(set(rows.filter(ds.field("month") == month)["version"].to_pylist())) == 1


def test_a_reader_never_sees_half_a_publication(place: str) -> None:
    spec = CollectionSpec.of(path=f"{place}/t.parquet", name="r", workspace_dir=f"{place}/w")
    write(scenes(0), spec.path)
    build(spec)
    path = spec.published_path or ""
    over = threading.Event()
    problems: list[BaseException] = []
    looks = {"fresh": 0, "kept": 0, "again": 0}
    columns = ["id", "month", "version", "noise"]

    def read(kind: str, opened: Callable[[], Collection]) -> None:
        kept = opened()
        while not over.is_set() and not problems:
            try:
                check((opened() if kind == "fresh" else kept).to_table(columns))
                looks[kind] += 1
            except CollectionError as error:
                # An object store cannot keep what it replaces: a reader is told, and never given anything else.
                if place.startswith("s3") and "load the collection again" in str(error):
                    looks["again"] += 1
                    kept = opened()
                else:
                    problems.append(error)
            except (AssertionError, OSError, pa.ArrowException) as error:
                problems.append(error)

    readers = [threading.Thread(target=read, args=(kind, lambda: load(path))) for kind in ("fresh", "kept")]
    for reader in readers:
        reader.start()
    until = time.monotonic() + 3
    version = 0
    while time.monotonic() < until or version < 4 or min(looks["fresh"], looks["kept"] + looks["again"]) < 3:
        version += 1
        write(scenes(version), spec.path)
        build(spec)
        if problems:
            break
    over.set()
    for reader in readers:
        reader.join()
    assert not problems


def test_builds_at_the_same_time_leave_one_whole_collection(tmp_path: Path) -> None:
    code = (
        "import sys; from rasteret_assets import CollectionSpec, build\n"
        "spec = CollectionSpec.of(path=sys.argv[1], name='r', workspace_dir=sys.argv[2])\n"
        "for _ in range(4): build(spec, force=True)"
    )
    sources = [tmp_path / f"{version}.parquet" for version in (1, 2)]
    for version, source in enumerate(sources, 1):
        pq.write_table(scenes(version), source)
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(source), str(tmp_path / "w")], stderr=subprocess.PIPE)
        for source in sources
    ]
    for process in running:
        _, said = process.communicate()
        # Either it published, or it says that the other came between its stages.
        assert process.returncode == 0 or b"another run" in said, said.decode()
    for source in sources:
        spec = CollectionSpec.of(path=source, name="r", workspace_dir=tmp_path / "w")
        build(spec)
        check(load(spec.published_path or "", verify="full").to_table())


def test_a_collection_lives_on_s3_altogether(bucket: str, server: RangeServer) -> None:
    server.objects |= {f"/{name}.tif": tiff_bytes(seed=seed) for seed, name in enumerate("abc")}
    table = record_table(list("abc"), {"B02": [f"{server.url}/{name}.tif" for name in "abc"]})
    fs, _ = pafs.FileSystem.from_uri(bucket)
    fs.create_dir("records/source")
    write(table.slice(0, 2), f"{bucket}/source/one.parquet")
    spec = CollectionSpec.of(path=f"{bucket}/source", name="s3", workspace_dir=f"{bucket}/w", enrich_cog=True)
    with requests_seen() as asked:
        assert build(spec).totals["headers_fetched"] == 2
    assert not [request for request in asked if request.startswith("POST")]  # small objects in one request each
    write(table.slice(2), f"{bucket}/source/two.parquet")
    report = build(spec)
    assert (report.totals["headers_fetched"], len(report.reasons), len(server.requests)) == (1, 1, 3)
    assert build(spec).reasons == {}
    with requests_seen() as asked:
        load(f"{bucket}/w/s3_records")
    assert [request[:4] for request in asked if "part-0" in request] == 3 * ["GET "]  # their sizes were listed
    collection = load(f"{bucket}/w/s3_records", verify="full")
    assert sorted(collection.to_table(["id"])["id"].to_pylist()) == ["a", "b", "c"]
    assert collection.bands == ["B02"]
    fs.delete_file("records/source/one.parquet")
    build(spec)
    assert load(f"{bucket}/w/s3_records").to_table(["id"])["id"].to_pylist() == ["c"]
    left = fs.get_file_info(pafs.FileSelector("records/w/s3_stages/locks", recursive=True))
    locks = [info.path for info in left if info.type == pafs.FileType.File and not info.base_name.startswith(".")]
    assert [json.loads(fs.open_input_stream(path).read())["holder"] for path in locks] == 4 * [
        ""
    ]  # nobody holds them, nor looks
    with suppress(FileNotFoundError):
        fs.delete_file("records/w/s3_records/year=2024/month=6/part-0.parquet")
    with pytest.raises(CollectionError, match=r"partition 2024-06 is missing|has no"):
        load(f"{bucket}/w/s3_records")
