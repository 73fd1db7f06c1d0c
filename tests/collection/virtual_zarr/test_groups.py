"""Records of one grid and storage share a group, which readers of CF, multiscales and CRSs understand."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import odc.geo.xr  # noqa: F401
import pyarrow as pa
import pytest
import rasterio
import rasterio.shutil
import shapely
import xarray as xr

from rasteret_assets import build_from_table
from rasteret_assets.collection import Collection, as_collection
from rasteret_assets.errors import CollectionError, SpecError, WindowError
from tests.collection.support import UTM32, footprint_of, noise, record, records_table, write_raster

from .support import CODECS, assert_same, icechunk, opened, store_of, whole

pytestmark = [CODECS, pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")]

UTM33 = "EPSG:32633"


def moment(day: int) -> dt.datetime:
    return dt.datetime(2024, 5, day, 10, tzinfo=dt.UTC)


def test_records_share_a_group_if_grid_and_storage_are_equal(tmp_path: Path) -> None:
    kinds = {
        "plain": {}, "same": {}, "crs": {"crs": UTM33}, "place": {"origin": (500_010.0, 5_000_000.0)},
        "pixel": {"resolution": 20.0}, "tile": {"tile": 32}, "codec": {"compress": "deflate"}, "nodata": {"nodata": 3},
        "rounded": {"origin": (500_000.0000001, 5_000_000.0)},
    }  # fmt: skip
    rows = [
        record(name, {"B": (write_raster(tmp_path / f"{name}.tif", noise(seed=seed), **options), 0)})
        for seed, (name, options) in enumerate(kinds.items())
    ]
    report = as_collection(records_table(rows)).to_icechunk(tmp_path / "repository")
    found = {tuple(opened(tmp_path / "repository", report, group).id.values.tolist()): group for group in report.groups}
    assert set(found) == {
        ("plain", "rounded", "same"), ("crs",), ("place",), ("pixel",), ("tile",), ("codec",), ("nodata",),
    }  # fmt: skip
    assert found["crs",].startswith("EPSG-32633_10_")
    assert found["pixel",].startswith("EPSG-32632_20_")
    # A group has the same name in every repository.
    again = as_collection(records_table(rows[2:3])).to_icechunk(tmp_path / "other")
    assert again.groups == (found["crs",],)


def test_bands_of_several_resolutions_are_groups_of_one_record(tmp_path: Path) -> None:
    rows = []
    for number in range(2):
        fine = write_raster(tmp_path / f"fine{number}.tif", noise(seed=number))
        coarse = write_raster(tmp_path / f"coarse{number}.tif", noise(rows=100, columns=115), resolution=20.0)
        rows.append(record(f"r{number}", {"B04": (fine, 0), "B08": (fine, 0), "B11": (coarse, 0)}))
    scenes = as_collection(records_table(rows, ["B04", "B08", "B11"]))
    report = scenes.to_icechunk(tmp_path / "repository")
    assert (report.appended, report.arrays) == (2, 3)
    cubes = {
        tuple(sorted(cube.data_vars)): cube
        for group in report.groups
        if (cube := opened(tmp_path / "repository", report, group))
    }
    assert set(cubes) == {("B04", "B08"), ("B11",)}
    assert_same(cubes["B11",], whole(scenes, "B11"), ["B11"])


def test_groups_can_be_divided_and_named_by_a_column(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", noise())
    rows = [
        record(name, {"B": (path, 0)}, code=code) for name, code in (("a", "MGRS-32UPU"), ("b", "x/y z"), ("c", None))
    ]
    scenes = as_collection(records_table(rows, code=pa.string()))
    report = scenes.to_icechunk(tmp_path / "repository", groups="code")
    assert [group.rpartition("_")[0] for group in report.groups] == ["EPSG-32632_10", "MGRS-32UPU_10", "x-y-z_10"]
    with pytest.raises(CollectionError, match="groups='tile': this collection has no such column"):
        scenes.to_icechunk(tmp_path / "other", groups="tile")


def test_records_are_sorted_by_time_and_id(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", noise())
    when = {"d": None, "c": moment(2), "b": moment(1), "a": moment(2), "e": None}
    rows = [record(name, {"B": (path, 0)}, moment=time) for name, time in when.items()]
    scenes = as_collection(records_table(rows))
    report = scenes.to_icechunk(tmp_path / "repository")
    cube = opened(tmp_path / "repository", report)
    assert cube.id.values.tolist() == ["b", "a", "c", "d", "e"]
    assert_same(cube, whole(scenes, "B"), ["B"])
    assert np.isnat(cube.time.values).tolist() == [False] * 3 + [True] * 2


@pytest.fixture
def pyramids(tmp_path: Path) -> Collection:
    rows = []
    for number in range(2):
        source = write_raster(tmp_path / "source.tif", noise(seed=number), nodata=7)
        path = tmp_path / f"o{number}.tif"
        options = {"blocksize": 128, "compress": "deflate", "predictor": 2, "overview_count": 2}
        rasterio.shutil.copy(source, path, driver="COG", overview_resampling="nearest", **options)
        rows.append({
            "id": f"r{number}", "datetime": moment(number + 1), "geometry": footprint_of(path).wkb,
            "assets": {"B": {"href": str(path)}},
        })  # fmt: skip
    return build_from_table(pa.Table.from_pylist(rows), enrich_cog=True)


def test_overviews_are_levels_of_a_data_tree(pyramids: Collection, tmp_path: Path) -> None:
    report = pyramids.to_icechunk(tmp_path / "repository")
    (group,) = report.groups
    assert report.arrays == 3
    store = store_of(tmp_path / "repository", report.containers)
    tree = xr.open_datatree(store, group=group, engine="zarr", consolidated=False, chunks=None, mask_and_scale=False)
    layout = tree.attrs["multiscales"]["layout"]
    assert [level["asset"] for level in layout] == sorted(tree.children) == ["full", "overview_1", "overview_2"]
    assert [level["transform"]["scale"] for level in layout] == [[1.0, 1.0], [2.0, 2.0], [4.0, 230 / 57]]
    for number, name in enumerate(sorted(tree.children)):
        with rasterio.open(tmp_path / "o0.tif", **({"overview_level": number - 1} if number else {})) as source:
            np.testing.assert_array_equal(tree[name].B.values[0], source.read(1))
            box = tree[name].to_dataset().odc.geobox
            assert box.affine.almost_equals(source.transform, 1e-9)
            assert box.crs == source.crs
    assert tree["overview_2"].id.values.tolist() == ["r0", "r1"]


def test_only_records_that_meet_the_area_are_written(tmp_path: Path) -> None:
    rows = []
    for number in range(3):
        path = write_raster(tmp_path / f"{number}.tif", noise(), origin=(500_000.0 + 10_000 * number, 5_000_000.0))
        rows.append(record(f"r{number}", {"B": (path, 0)}))
    scenes = as_collection(records_table(rows))
    area = shapely.box(511_000, 4_999_000, 512_000, 4_999_500)
    report = scenes.to_icechunk(tmp_path / "repository", "B", area=area, geometry_crs=UTM32)
    assert opened(tmp_path / "repository", report).id.values.tolist() == ["r1"]


def test_records_without_a_header_of_every_band_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_raster(tmp_path / "a.tif", noise())
    bands = {"A": (path, 0), "B": (path, 0)}
    rows = [record("a", bands), record("b", bands, missing=["A"])]
    report = as_collection(records_table(rows, ["A", "B"])).to_icechunk(tmp_path / "repository")
    assert (report.appended, report.left_out) == (1, 1)
    assert "1 records are left out, whose headers of ['A', 'B']" in caplog.text
    with pytest.raises(WindowError, match="no record has the headers"):
        as_collection(records_table(rows[1:], ["A", "B"])).to_icechunk(tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("href", "error"),
    [
        ("https://host/a.tif?version=3", r"record 'r', band 'B': Icechunk drops the query of 'https://host/a.tif"),
        ("az://container/a.tif", "Icechunk reads no address such as 'az://container/a.tif'"),
    ],
)
def test_addresses_that_icechunk_cannot_read_are_refused(tmp_path: Path, href: str, error: str) -> None:
    row = record("r", {"B": (write_raster(tmp_path / "a.tif", noise()), 0)})
    row["assets"]["B"]["href"] = href
    with pytest.raises(CollectionError, match=error):
        as_collection(records_table([row])).to_icechunk(tmp_path / "repository")


def test_addresses_are_written_in_the_spelling_of_icechunk_containers(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", noise())
    hrefs = ["https://Host.example:443/A/b%20c.tif", "HTTP://host.example:8080/a.tif", "s3a://bucket/50%/a?b.tif"]
    rows = [record(f"r{number}", {"B": (path, 0)}) for number in range(len(hrefs))]
    for row, href in zip(rows, hrefs, strict=True):
        row["assets"]["B"]["href"] = href
    report = as_collection(records_table(rows)).to_icechunk(tmp_path / "repository")
    assert report.containers == ("http://host.example:8080/", "https://host.example/", "s3://bucket/")
    repository = icechunk.Repository.open(icechunk.local_filesystem_storage(str(tmp_path / "repository")))
    assert set(repository.readonly_session("main").all_virtual_chunk_locations()) == {
        "https://host.example/A/b%20c.tif", "http://host.example:8080/a.tif", "s3://bucket/50%25/a%3Fb.tif",
    }  # fmt: skip


def test_passwords_and_signatures_are_not_written(tmp_path: Path) -> None:
    row = record("r", {"B": (write_raster(tmp_path / "a.tif", noise()), 0)})
    row["assets"]["B"]["href"] = "https://me:planted@host/a.tif?AWSAccessKeyId=planted&Signature=planted&Expires=9"
    report = as_collection(records_table([row])).to_icechunk(tmp_path / "repository")
    assert report.containers == ("https://host/",)
    repository = icechunk.Repository.open(icechunk.local_filesystem_storage(str(tmp_path / "repository")))
    assert set(repository.readonly_session("main").all_virtual_chunk_locations()) == {"https://host/a.tif"}
    written = [path for path in (tmp_path / "repository").rglob("*") if path.is_file()]
    assert written
    assert not [path for path in written if b"planted" in path.read_bytes()]


def test_reserved_band_names_and_web_servers_are_refused(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", noise())
    scenes = as_collection(records_table([record("r", {"time": (path, 0)})], ["time"]))
    with pytest.raises(SpecError, match="band 'time' cannot be the name of an array"):
        scenes.to_icechunk(tmp_path / "repository")
    with pytest.raises(SpecError, match="cannot hold an Icechunk repository"):
        as_collection(records_table([record("r", {"B": (path, 0)})])).to_icechunk("https://host/repository")


def test_file_names_with_special_characters_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "a b%20ü"
    folder.mkdir()
    paths = [write_raster(folder / name, noise(seed=3)) for name in ("x#1?.tif", "100%25.tif")]
    scenes = as_collection(records_table([record(path.name, {"B": (path, 0)}) for path in paths]))
    report = scenes.to_icechunk(tmp_path / "repository")
    assert_same(opened(tmp_path / "repository", report), whole(scenes, "B"), ["B"])
