"""A later call of ``to_icechunk`` writes new records and replaced files, and nothing else."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pyarrow as pa
import pytest

from rasteret_assets import build_from_table, create_backend
from rasteret_assets.collection import Collection, as_collection
from rasteret_assets.collection.formats.virtual_zarr import icechunk as formats
from rasteret_assets.errors import CollectionError
from tests.collection.support import footprint_of, noise, record, records_table, write_raster
from tests.support.s3 import KEYS, bucket_server
from tests.support.server import RangeServer

from .support import CODECS, assert_same, icechunk, opened, whole

pytestmark = [CODECS, pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")]

TIMES = ("Mon, 01 Apr 2024 00:00:00 GMT", "Tue, 02 Apr 2024 00:00:00 GMT")


def moment(day: int) -> dt.datetime:
    return dt.datetime(2024, 5, day, 10, tzinfo=dt.UTC)


def local(folder: Path, names: list[str], **options: Any) -> list[dict[str, Any]]:
    return [
        record(
            name, {"B": (write_raster(folder / f"{name}.tif", noise(seed=seed), nodata=5, **options), 0)},
            moment=moment(seed + 1),
        )
        for seed, name in enumerate(names)
    ]  # fmt: skip


def snapshots(folder: Path) -> int:
    repository = icechunk.Repository.open(icechunk.local_filesystem_storage(str(folder)))
    return len(list(repository.ancestry(branch="main")))


def test_only_new_records_are_appended(tmp_path: Path) -> None:
    rows = local(tmp_path, ["c", "a", "b", "d"])
    repository = tmp_path / "repository"
    first = as_collection(records_table(rows[1:3])).to_icechunk(repository)
    assert (first.appended, first.unchanged, first.references) == (2, 0, 32)
    scenes = as_collection(records_table(rows))
    second = scenes.to_icechunk(repository)
    assert (second.appended, second.unchanged, second.references) == (2, 2, 32)
    assert second.groups == first.groups
    third = scenes.to_icechunk(repository)
    assert (third.appended, third.unchanged, third.references, third.commit, third.groups) == (0, 4, 0, None, ())
    # One snapshot of the empty repository, and one for each of the two calls that wrote.
    assert snapshots(repository) == 3
    cube = opened(repository, second)
    assert cube.id.values.tolist() == ["a", "b", "c", "d"]  # by time within each call
    assert_same(cube.sortby("time"), whole(scenes, "B"), ["B"])


def test_a_group_is_written_for_a_further_band_of_written_records(tmp_path: Path) -> None:
    path, other = (write_raster(tmp_path / f"{name}.tif", noise(seed=seed)) for seed, name in enumerate("xy"))
    coarse = write_raster(tmp_path / "z.tif", noise(rows=100, columns=115), resolution=20.0)
    rows = [record("r", {"A": (path, 0), "B": (coarse, 0), "C": (other, 0)})]
    scenes = as_collection(records_table(rows, ["A", "B", "C"]))
    first = scenes.to_icechunk(tmp_path / "repository", ["A", "B"])
    second = scenes.to_icechunk(tmp_path / "repository", ["B", "A"])
    assert (first.appended, second.unchanged, second.commit) == (1, 1, None)
    third = scenes.to_icechunk(tmp_path / "repository", ["A", "B", "C"])
    # A and C share a grid, and so a group; the group of B is not written again.
    assert (third.appended, len(third.groups), third.rewritten, third.moved) == (1, 1, (), ())
    assert set(opened(tmp_path / "repository", third).data_vars) == {"A", "C"}


def remote(server: RangeServer, files: dict[str, Path], **options: Any) -> Collection:
    """Build a collection of files that a web server serves."""
    table = pa.Table.from_pylist([
        {
            "id": name, "datetime": moment(number + 1), "geometry": footprint_of(path).wkb,
            "assets": {"B": {"href": f"{server.url}/{name}.tif"}},
        }
        for number, (name, path) in enumerate(files.items())
    ])  # fmt: skip
    for name, path in files.items():
        server.objects[f"/{name}.tif"] = path.read_bytes()
    return build_from_table(table, enrich_cog=True, **options)


def test_a_replaced_file_cannot_be_read_until_it_is_written_again(server: RangeServer, tmp_path: Path) -> None:
    files = {
        name: write_raster(tmp_path / f"{name}.tif", noise(seed=seed), nodata=5) for seed, name in enumerate("abc")
    }
    server.told = {f"/{name}.tif": {"Last-Modified": TIMES[0]} for name in files}
    scenes = remote(server, files)
    server.reset()
    report = scenes.to_icechunk(tmp_path / "repository")
    assert not server.requests
    assert (report.references, report.unchecked, report.containers) == (48, 0, (f"{server.url}/",))
    assert_same(opened(tmp_path / "repository", report), whole(scenes, "B"), ["B"])

    # Of the same size and layout, so that only the time differs.
    server.objects["/b.tif"] = write_raster(tmp_path / "new.tif", noise(seed=9), nodata=5).read_bytes()
    server.told["/b.tif"] = {"Last-Modified": TIMES[1]}
    cube = opened(tmp_path / "repository", report)
    assert (cube.B[0].values == noise(seed=0)[0]).all()
    with pytest.raises(icechunk.IcechunkError, match="the checksum of the object owning the virtual chunk has changed"):
        cube.B[1].load()

    again = remote(server, files | {"b": tmp_path / "new.tif"})
    second = again.to_icechunk(tmp_path / "repository")
    assert (second.appended, second.rewritten, second.unchanged, second.references) == (0, ("b",), 2, 16)
    assert_same(opened(tmp_path / "repository", second), whole(again, "B"), ["B"])


def test_tiles_that_a_replaced_file_does_not_store_lose_their_references(server: RangeServer, tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", noise(), nodata=5, compress="deflate", sparse_ok=True)
    server.told = {"/a.tif": {"Last-Modified": TIMES[0]}}
    remote(server, {"a": path}).to_icechunk(tmp_path / "repository")
    data = noise()
    data[:, 64:] = 5
    sparse = write_raster(tmp_path / "sparse.tif", data, nodata=5, compress="deflate", sparse_ok=True)
    server.told = {"/a.tif": {"Last-Modified": TIMES[1]}}
    again = remote(server, {"a": sparse})
    report = again.to_icechunk(tmp_path / "repository")
    assert (report.rewritten, report.references) == (("a",), 4)
    assert_same(opened(tmp_path / "repository", report), whole(again, "B"), ["B"])


def test_a_file_replaced_by_one_of_another_compression_moves_to_another_group(
    server: RangeServer, tmp_path: Path
) -> None:
    server.told = {"/a.tif": {"Last-Modified": TIMES[0]}}
    old = remote(server, {"a": write_raster(tmp_path / "a.tif", noise())}).to_icechunk(tmp_path / "repository")
    server.told = {"/a.tif": {"Last-Modified": TIMES[1]}}
    again = remote(server, {"a": write_raster(tmp_path / "new.tif", noise(), compress="deflate")})
    new = again.to_icechunk(tmp_path / "repository")
    assert (new.moved, new.appended, new.rewritten) == (("a",), 0, ())
    assert not set(new.groups) & set(old.groups)
    with pytest.raises(icechunk.IcechunkError, match="checksum"):
        opened(tmp_path / "repository", old).B.load()


def test_references_to_files_without_a_time_are_counted_as_unchecked(server: RangeServer, tmp_path: Path) -> None:
    server.told = {"/a.tif": {"ETag": '"strong"'}}
    scenes = remote(server, {"a": write_raster(tmp_path / "a.tif", noise())})
    report = scenes.to_icechunk(tmp_path / "repository")
    assert report.unchecked == report.references == 16
    assert_same(opened(tmp_path / "repository", report), whole(scenes, "B"), ["B"])


def test_a_replaced_file_on_a_disk_cannot_be_read(tmp_path: Path) -> None:
    import os  # noqa: PLC0415

    path = write_raster(tmp_path / "a.tif", noise())
    row = record("a", {"B": (path, 0)})
    plain = records_table([row]).select(["id", "datetime", "geometry", "assets"])
    report = build_from_table(plain, enrich_cog=True).to_icechunk(tmp_path / "repository")
    assert report.unchecked == 0
    assert (opened(tmp_path / "repository", report).B.values == noise()).all()
    os.utime(path, (path.stat().st_mtime + 60, path.stat().st_mtime + 60))
    with pytest.raises(icechunk.IcechunkError, match="checksum"):
        opened(tmp_path / "repository", report).B.load()


def test_a_bucket_is_read_through_a_container_that_the_user_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, KEYS[name.lower()])
    path = write_raster(tmp_path / "a.tif", noise(), compress="deflate", predictor=2)
    with bucket_server("rasters") as endpoint:
        client = boto3.client("s3", endpoint_url=f"http://{endpoint}", region_name="us-east-1", **KEYS)
        client.upload_file(str(path), "rasters", "deep/a b.tif")
        row = record("a", {"B": (path, 0)})
        row["assets"]["B"]["href"] = "s3://rasters/deep/a b.tif"
        plain = records_table([row]).select(["id", "datetime", "geometry", "assets"])
        s3 = {"endpoint": f"http://{endpoint}", "region": "us-east-1", "allow_http": True}
        backend = create_backend(default_s3_config=s3)
        scenes = build_from_table(plain, enrich_cog=True, backend=backend)
        config = icechunk.RepositoryConfig.default()
        own = icechunk.s3_store(
            region="us-east-1", endpoint_url=f"http://{endpoint}", allow_http=True, s3_compatible=True,
            force_path_style=True,
        )  # fmt: skip
        config.set_virtual_chunk_container(icechunk.VirtualChunkContainer("s3://rasters/", own))
        storage = icechunk.in_memory_storage()
        report = scenes.to_icechunk(icechunk.Repository.create(storage, config=config))
        assert (report.references, report.unchecked, report.containers) == (16, 0, ("s3://rasters/",))
        keys = icechunk.s3_static_credentials(**{name[4:]: value for name, value in KEYS.items()})
        reader = icechunk.Repository.open(
            storage, authorize_virtual_chunk_access=icechunk.containers_credentials({"s3://rasters/": keys})
        )
        import zarr  # noqa: PLC0415

        def pixels() -> np.ndarray:
            group = zarr.open_group(reader.readonly_session("main").store, mode="r")
            return group[f"{report.groups[0]}/full/B"][0]

        assert (pixels() == noise()[0]).all()
        client.upload_file(str(write_raster(path, noise(seed=4))), "rasters", "deep/a b.tif")
        client.close()
        with pytest.raises(icechunk.IcechunkError, match="checksum"):
            pixels()


def test_a_write_that_another_writer_overtook_is_refused_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = local(tmp_path, ["a", "b", "c"])
    repository = tmp_path / "repository"
    as_collection(records_table(rows[:1])).to_icechunk(repository)
    slow = as_collection(records_table(rows[1:2]))
    commit = icechunk.Session.commit

    def after_another(session: Any, message: str) -> str:
        monkeypatch.setattr(icechunk.Session, "commit", commit)
        as_collection(records_table(rows[2:])).to_icechunk(repository)
        return commit(session, message)

    monkeypatch.setattr(icechunk.Session, "commit", after_another)
    with pytest.raises(CollectionError, match="was changed by somebody else meanwhile, and nothing was written"):
        slow.to_icechunk(repository)
    report = slow.to_icechunk(repository)
    assert opened(repository, report).id.values.tolist() == ["a", "c", "b"]


def test_records_with_a_changed_datetime_or_scale_are_written_again(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", noise())
    asset = pa.struct([("href", pa.string()), ("raster:scale", pa.float64())])

    def scenes(day: int, scale: float | None) -> Collection:
        rows = [record(name, {"B": (path, 0)}, moment=moment(day)) for name in "ab"]
        rows[1]["assets"]["B"] |= {"raster:scale": scale}
        table = records_table(rows)
        assets = pa.array([row["assets"] for row in rows], pa.struct([("B", asset)]))
        return as_collection(table.set_column(table.schema.get_field_index("assets"), "assets", assets))

    repository = tmp_path / "repository"
    scenes(1, None).to_icechunk(repository)
    moved = scenes(2, None).to_icechunk(repository)
    assert (moved.rewritten, moved.appended) == (("a", "b"), 0)
    days = opened(repository, moved).time.values.astype("datetime64[D]")
    assert (days == np.datetime64("2024-05-02")).all()
    scaled = scenes(2, 0.5).to_icechunk(repository)
    assert (scaled.moved, scaled.unchanged, scaled.rewritten) == (("b",), 1, ())
    assert opened(repository, scaled, mask_and_scale=True).B.values[0, 0, 0] == noise()[0, 0, 0] * 0.5


def test_containers_are_added_to_a_repository_that_has_none(tmp_path: Path) -> None:
    rows = local(tmp_path, ["a"])
    storage = icechunk.local_filesystem_storage(str(tmp_path / "repository"))
    report = as_collection(records_table(rows)).to_icechunk(icechunk.Repository.create(storage))
    assert report.containers == (f"file://{tmp_path}/",)
    assert_same(opened(tmp_path / "repository", report), whole(as_collection(records_table(rows)), "B"), ["B"])
    other = tmp_path / "repository" / "other"
    other.mkdir()
    more = as_collection(records_table([*rows, *local(other, ["b"])])).to_icechunk(storage)
    assert more.containers == report.containers


@pytest.mark.parametrize("is_there", [False, True])
def test_appending_few_records_writes_few_bytes(tmp_path: Path, is_there: bool) -> None:
    """Ten records are appended to 100,000 references, and take less than a tenth of their bytes."""

    def scenes(first: int, count: int) -> pa.Table:
        tiles = 11 * 11
        rows = []
        for number in range(first, first + count):
            row = record(f"{number:05}", footprint=footprint, moment=moment(1) + dt.timedelta(hours=number))
            row["assets"] = {"B": {"href": f"s3://bucket/some/long/path/S2A_{number:05}/B.tif", "band_index": 0}}
            row["B_metadata"] = header | {
                "tile_offsets": (np.arange(tiles) * 900_000 + number + 8).tolist(),
                "tile_byte_counts": [800_000] * tiles,
                "etag": f'"{number:032x}"', "last_modified": TIMES[0], "content_length": 10**8,
            }  # fmt: skip
            rows.append(row)
        return records_table(rows)

    path = write_raster(tmp_path / "a.tif", noise())
    footprint, (row,) = footprint_of(path), local(tmp_path, ["a"])
    header = row["B_metadata"] | {"image_width": 10980, "image_height": 10980, "tile_width": 1024, "tile_height": 1024}
    repository = tmp_path / "repository"

    def size() -> int:
        return sum(path.stat().st_size for path in repository.rglob("*") if path.is_file())

    if is_there:
        icechunk.Repository.create(icechunk.local_filesystem_storage(str(repository)))
    first = scenes(0, 830)
    report = as_collection(first).to_icechunk(repository)
    assert report.references == 830 * 121
    before = size()
    more = as_collection(pa.concat_tables([first, scenes(830, 10)])).to_icechunk(repository)
    assert (more.appended, more.unchanged, more.references) == (10, 830, 1210)
    assert size() - before < before / 10


def branches(folder: Path) -> list[str]:
    return list(icechunk.Repository.open(icechunk.local_filesystem_storage(str(folder))).list_branches())


def many(folder: Path, count: int) -> list[dict[str, Any]]:
    return local(folder, [f"r{number}" for number in range(count)])


def test_a_call_that_flushes_several_times_is_one_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers see nothing of what is flushed before the end of the call."""
    monkeypatch.setattr(formats, "_HEADERS_AT_ONCE", 1)
    monkeypatch.setattr(formats, "_REFERENCES_HELD", 10)
    rows = many(tmp_path, 6)
    repository = tmp_path / "repository"
    seen: list[int] = []
    flush = icechunk.Session.flush
    amend = icechunk.Session.amend

    def watched(method: Any) -> Any:
        def call(session: Any, message: str) -> str:
            snapshot = method(session, message)
            seen.append(snapshots(repository))
            return snapshot

        return call

    as_collection(records_table(rows[:1])).to_icechunk(repository)
    before = snapshots(repository)
    monkeypatch.setattr(icechunk.Session, "flush", watched(flush))
    monkeypatch.setattr(icechunk.Session, "amend", watched(amend))
    report = as_collection(records_table(rows)).to_icechunk(repository)
    assert len(seen) > 2
    assert set(seen) == {before}
    assert snapshots(repository) == before + 1
    assert list(icechunk.Repository.open(icechunk.local_filesystem_storage(str(repository))).list_branches()) == [
        "main"
    ]
    assert (report.appended, report.unchanged) == (5, 1)
    cube = opened(repository, report)
    scenes = as_collection(records_table(rows))
    assert_same(cube, whole(scenes, ["B"]), ["B"])


def test_a_call_that_fails_after_a_flush_leaves_no_branch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "_HEADERS_AT_ONCE", 1)
    monkeypatch.setattr(formats, "_REFERENCES_HELD", 10)
    rows = many(tmp_path, 4)
    repository = tmp_path / "repository"
    as_collection(records_table(rows[:1])).to_icechunk(repository)
    before = snapshots(repository)
    amend = icechunk.Session.amend

    def after_another(session: Any, message: str) -> str:
        monkeypatch.setattr(icechunk.Session, "amend", amend)
        monkeypatch.setattr(formats, "_REFERENCES_HELD", 10**6)
        as_collection(records_table(rows[:2])).to_icechunk(repository)
        return amend(session, message)

    monkeypatch.setattr(icechunk.Session, "amend", after_another)
    with pytest.raises(CollectionError, match="was changed by somebody else meanwhile, and nothing was written"):
        as_collection(records_table([rows[0], *rows[2:]])).to_icechunk(repository)
    assert snapshots(repository) == before + 1
    assert list(icechunk.Repository.open(icechunk.local_filesystem_storage(str(repository))).list_branches()) == [
        "main"
    ]
    report = as_collection(records_table(rows)).to_icechunk(repository)
    assert sorted(opened(repository, report).id.values.tolist()) == [row["id"] for row in rows]
