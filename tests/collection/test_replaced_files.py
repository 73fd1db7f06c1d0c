"""A read of a file that was replaced after it was indexed is an error, never wrong pixels."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely

import rasteret_assets as ra
from rasteret_assets.collection import Collection, as_collection
from rasteret_assets.errors import FileReplacedError, PixelReadError, TileError
from rasteret_assets.publish import join, partition
from rasteret_assets.schema import HEADER_STRUCT, PUBLISH_VERSION, VALIDATOR_FIELDS, band_column
from rasteret_assets.source import profile
from tests.support.s3 import KEYS, bucket_server, requests_seen
from tests.support.server import RangeServer

from .support import ORIGIN, UTM32, CountingBackend, noise, write_raster
from .test_get_numpy import box

AREA = box(20, 20, 150, 150)
OLD, NEW = noise(seed=1), noise(seed=9)


def build(hrefs: dict[str, str], folder: Path, backend: ra.StorageBackend | None = None) -> Collection:
    """Build a published collection of one raster a record."""
    folder.mkdir()
    west, north = ORIGIN
    outline = shapely.box(west, north - 2000, west + 2300, north)
    table = pa.table({
        "id": list(hrefs),
        "datetime": pa.array([1_714_000_000_000_000] * len(hrefs), pa.timestamp("us", tz="UTC")),
        "geometry": pa.array([shapely.to_wkb(lonlat(outline))] * len(hrefs), pa.binary()),
        "assets": [{"B": {"href": href}} for href in hrefs.values()],
        "proj:epsg": pa.array([32632] * len(hrefs), pa.int32()),
    })  # fmt: skip
    pq.write_table(table, folder / "records.parquet")
    ra.build(spec_of(folder), backend=backend)
    return ra.load(folder / "x_records")


def spec_of(folder: Path) -> ra.CollectionSpec:
    return ra.CollectionSpec.of(path=folder / "records.parquet", name="x", workspace_dir=folder, enrich_cog=True)


def lonlat(outline: shapely.Geometry) -> shapely.Geometry:
    from rasterio.warp import transform_geom  # noqa: PLC0415

    return shapely.geometry.shape(transform_geom(UTM32, "EPSG:4326", shapely.geometry.mapping(outline)))


def read(found: Collection, **options: object) -> np.ndarray:
    return found.get_numpy(AREA, "B", geometry_crs=UTM32, **options)


@pytest.fixture
def pair(server: RangeServer, tmp_path: Path) -> Collection:
    """Two records whose files are served; ``replace`` is what may take the place of the first."""
    for name, data, tile in (("a", OLD, 64), ("b", OLD, 64), ("replace", NEW, 32)):
        write_raster(server.root / f"{name}.tif", data, tile=tile)
    return build({name: f"{server.url}/{name}.tif?sig=secret" for name in "ab"}, tmp_path / "w")


def replace(server: RangeServer) -> None:
    (server.root / "replace.tif").replace(server.root / "a.tif")
    server.reset()


@pytest.mark.parametrize("conditions", [True, False], ids=["conditions", "ignored"])
def test_a_replaced_file_is_an_error_that_says_what_to_do(server: RangeServer, pair: Collection, conditions) -> None:
    server.conditions = conditions
    np.testing.assert_array_equal(read(pair), np.concatenate([OLD[:, 20:170, 20:170]] * 2))
    asked = len(server.requests)
    replace(server)
    with pytest.raises(FileReplacedError) as caught:
        read(pair)
    message = str(caught.value)
    for part in ("record 'a', band 'B'", "/a.tif was replaced since it was indexed", "build --revalidate"):
        assert part in message
    assert "secret" not in message
    assert not getattr(caught.value, "__notes__", ())
    assert len(server.requests) <= asked


def test_conditions_need_no_further_request(server: RangeServer, pair: Collection) -> None:
    server.reset()
    read(pair, max_concurrent=1)
    told = [headers.get("If-Match") for headers in server.headers]
    ranges = list(server.requests)
    assert all(told)
    plain = without_validators(pair)
    server.reset()
    read(plain, max_concurrent=1)
    assert server.requests == ranges
    assert not any("If-Match" in headers or "If-Unmodified-Since" in headers for headers in server.headers)


def without_validators(found: Collection) -> Collection:
    """Return the records as in an older collection, whose headers state no etag, time and size."""
    table = found.to_table()
    position = table.schema.get_field_index(band_column("B"))
    struct = table.column(position).combine_chunks()
    kept = [field for field in struct.type if field.name not in {one.name for one in VALIDATOR_FIELDS}]
    older = pa.StructArray.from_arrays([struct.field(field.name) for field in kept], fields=kept)
    return as_collection(table.set_column(position, band_column("B"), older))


def test_a_masked_read_leaves_a_replaced_file_out(server: RangeServer, pair: Collection, caplog) -> None:
    replace(server)
    with caplog.at_level(logging.WARNING, logger="rasteret_assets"):
        got = read(pair, masked=True, on_error="mask")
    assert np.ma.getmaskarray(got)[0].all()
    np.testing.assert_array_equal(got[1].data, OLD[0, 20:170, 20:170])
    assert not np.ma.getmaskarray(got)[1].any()
    assert caplog.text.count("was replaced since it was indexed") == 1
    frame = pair.sample_points([box(140, 70, 2, 2).centroid], "B", geometry_crs=UTM32, on_error="mask", masked=True)
    assert sorted(frame["value"].is_valid().to_pylist()) == [False, True]


def test_a_revalidation_indexes_the_new_file(server: RangeServer, pair: Collection, tmp_path: Path) -> None:
    replace(server)
    totals = ra.build(spec_of(tmp_path / "w"), revalidate=True).totals
    assert (totals["headers_drifted"], totals["headers_reused"]) == (1, 1)
    again = ra.load(tmp_path / "w" / "x_records")
    np.testing.assert_array_equal(read(again), np.stack([NEW[0, 20:170, 20:170], OLD[0, 20:170, 20:170]]))


def test_a_file_that_is_uploaded_again_unchanged_is_read_after_a_revalidation(
    server: RangeServer, pair: Collection, tmp_path: Path
) -> None:
    # As with servers that make the ETag from the time: the header is the same, the ETag another.
    server.told["/a.tif"] = {"ETag": '"uploaded again"', "Last-Modified": "Tue, 02 Apr 2024 00:00:00 GMT"}
    with pytest.raises(FileReplacedError):
        read(pair)
    ra.build(spec_of(tmp_path / "w"), revalidate=True)
    np.testing.assert_array_equal(read(ra.load(tmp_path / "w" / "x_records"))[0], OLD[0, 20:170, 20:170])


def test_collections_of_the_version_before_are_published_again_without_a_request(
    server: RangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_raster(server.root / "a.tif", OLD)
    with monkeypatch.context() as before:
        before.setattr(profile, "PUBLISH_VERSION", PUBLISH_VERSION - 1)
        before.setattr(join, "_published", lambda rows: rows["header"].combine_chunks())
        before.setattr(join, "BAND_STRUCT", HEADER_STRUCT)
        before.setattr(partition, "BAND_STRUCT", HEADER_STRUCT)
        earlier = build({"a": f"{server.url}/a.tif"}, tmp_path / "w")
    assert earlier.to_table().schema.field("B_metadata").type == HEADER_STRUCT
    np.testing.assert_array_equal(read(earlier), OLD[:, 20:170, 20:170])
    server.reset()
    totals = ra.build(spec_of(tmp_path / "w")).totals
    assert (server.requests, totals["headers_fetched"]) == ([], 0)
    header = ra.load(tmp_path / "w" / "x_records").to_table()["B_metadata"][0].as_py()
    assert header["etag"].startswith('"')
    assert header["last_modified"] == "Mon, 01 Apr 2024 00:00:00 GMT"
    assert header["content_length"] == (server.root / "a.tif").stat().st_size
    assert not ra.plan(spec_of(tmp_path / "w")).partitions


def test_a_tile_beyond_the_end_of_the_indexed_file_is_not_asked_for(server: RangeServer, pair: Collection) -> None:
    rows = pair.to_table().to_pylist()
    header = rows[0]["B_metadata"]
    header["content_length"] = header["tile_offsets"][-1] + 10
    cut = as_collection(pa.Table.from_pylist(rows, pair.to_table().schema))
    server.reset()
    with pytest.raises(PixelReadError) as caught:
        cut.get_numpy(box(0, 0, 230, 200), "B", geometry_crs=UTM32)
    beyond = [error for error in caught.value.failures if isinstance(error, TileError)]
    assert len(beyond) == 1
    assert f"the file had {header['content_length']} bytes when it was indexed" in str(beyond[0])


def test_local_files_are_compared_by_size_and_time(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", OLD)
    found = build({"a": str(path)}, tmp_path / "w")
    np.testing.assert_array_equal(read(found), OLD[:, 20:170, 20:170])
    before = path.stat()
    write_raster(path, NEW)
    assert path.stat().st_size == before.st_size
    with pytest.raises(FileReplacedError, match="record 'a', band 'B'"):
        read(found)
    write_raster(path, NEW, tile=32)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(FileReplacedError, match=f"it had {before.st_size} bytes"):
        read(found)
    # A user's backend without `read` is read without comparing.
    assert read(found, backend=CountingBackend()).shape == (1, 150, 150)


def test_an_object_on_s3(tmp_path: Path) -> None:
    old, new = (write_raster(tmp_path / f"{seed}.tif", noise(seed=seed), tile=64).read_bytes() for seed in (1, 9))
    with bucket_server("images") as endpoint:
        client = boto3.client("s3", endpoint_url=f"http://{endpoint}", region_name="us-east-1", **KEYS)
        client.put_object(Bucket="images", Key="a.tif", Body=old)
        config = {"endpoint": f"http://{endpoint}", "access_key_id": "k", "secret_access_key": "s"}

        def backend() -> ra.StorageBackend:
            return ra.create_backend(region="us-east-1", default_s3_config=config)

        found = build({"a": "s3://images/a.tif"}, tmp_path / "w", backend=backend())
        np.testing.assert_array_equal(read(found, backend=backend()), OLD[:, 20:170, 20:170])
        client.put_object(Bucket="images", Key="a.tif", Body=new)  # of the same size
        with requests_seen() as seen, pytest.raises(FileReplacedError, match=r"s3://images/a\.tif was replaced"):
            read(found, backend=backend(), max_concurrent=1)
        assert seen == ["GET /images/a.tif"]
        client.close()
