"""Records on a given grid equal ``rasterio.merge.merge`` of the files, and rasteret, pixel for pixel."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import rasterio
import rasterio.shutil
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.enums import Resampling
from rasterio.merge import merge
from rasterio.warp import reproject, transform_bounds

from rasteret_assets import build_from_table, load
from rasteret_assets.collection import Collection, as_collection
from rasteret_assets.errors import (
    BandNotFoundError,
    CollectionError,
    PixelReadError,
    SpecError,
    StaleRowsError,
    TileError,
    WindowError,
)

from .support import ORIGIN, footprint_of, noise, record, records_table, write_raster

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

LEFT, TOP = ORIGIN
GROUPED = {"bounds": (LEFT, TOP - 640, LEFT + 640, TOP), "res": (10, 10)}
MIDDLE = {"bounds": (LEFT + 100, TOP - 500, LEFT + 500, TOP - 100), "res": 10, "bands": ["B"]}
drawn = settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("window")


def positive(dtype: str, seed: int, rows: int = 120, columns: int = 150) -> np.ndarray:
    """Return pixels without zeros, because merge takes zeros of files without nodata for empty pixels."""
    data = noise(dtype, rows=rows, columns=columns, seed=seed)
    return np.where(data == 0, 1, data).astype(dtype)


@pytest.fixture(scope="module", params=["uint16", "int16", "uint8", "float32", "float64"])
def pair(request, folder) -> tuple[Collection, list[Path]]:
    """Two overlapping rasters, half a pixel apart, the first with nodata pixels."""
    dtype, nodata = request.param, 7
    rows, paths = [], []
    for number in range(2):
        data = positive(dtype, seed=number)
        data[:, 20:60, 100 : 140 + number] = nodata
        path = write_raster(
            folder / f"{dtype}_{number}.tif", data, nodata=nodata, tile=32, compress="deflate",
            origin=(LEFT + 905 * number, TOP - 303 * number),
        )  # fmt: skip
        paths.append(path)
        rows.append(record(f"r{number}", {"B": (path, 0)}, moment=dt.datetime(2024, 1, 2 - number, tzinfo=dt.UTC)))
    return as_collection(records_table(rows)), paths


def merged(paths: list[Path], bounds, res, **options) -> np.ndarray:
    kind = rasterio.open(paths[0]).dtypes[0]
    method = Resampling.bilinear if kind.startswith("float") else Resampling.nearest
    return merge(paths, bounds=bounds, res=res, resampling=method, **options)[0]


def same(got: np.ndarray, expected: np.ndarray) -> None:
    """Assert equal pixels; floats to rounding, because GDAL's weights depend on where a window begins."""
    if got.dtype.kind == "f":
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-5)  # samples are about 1e3
    else:
        np.testing.assert_array_equal(got, expected)


places = st.one_of(st.integers(-20, 160), st.floats(-20, 160).map(lambda value: round(value, 3)))


@drawn
@given(
    x=places, y=places, width=st.integers(1, 60), height=st.integers(1, 60),
    factor=st.sampled_from([1, 1, 1, 0.5, 2, 3, 0.7, 1.3]), order=st.booleans(), skew=st.sampled_from([1, 1, 1.5]),
)  # fmt: skip
def test_pixels_are_those_of_merge(pair, x, y, width, height, factor, order, skew):
    collection, paths = pair
    left, top = LEFT + x * 10, TOP - y * 10
    res = 10 * factor, 10 * factor * skew
    bounds = (left, top - height * res[1], left + width * res[0], top)
    ids = ["r0", "r1"] if order else ["r1", "r0"]
    got = collection.read_window(record_ids=ids, bounds=bounds, res=res, bands=["B"])
    expected = merged(paths if order else paths[::-1], bounds, res)
    assert got.dtype == expected.dtype
    same(got, expected)


def test_bounds_that_are_no_whole_number_of_pixels_are_rounded(pair):
    collection, paths = pair
    bounds = (LEFT + 103, TOP - 777, LEFT + 1007, TOP - 12)
    got = collection.read_window(record_ids=["r0"], bounds=bounds, res=10, bands="B")
    assert got.shape == (1, round(765 / 10), round(904 / 10))
    same(got, merged(paths[:1], bounds, 10))


def test_rows_that_run_northward_are_turned(folder):
    data = positive("uint16", seed=5)
    upright = write_raster(folder / "up.tif", data)
    path = folder / "down.tif"
    with rasterio.open(upright) as source:
        profile = source.profile | {"transform": rasterio.Affine(10, 0, LEFT, 0, 10, TOP - 1200)}
    with rasterio.open(path, "w", **profile) as target:
        target.write(data[:, ::-1])
    collection = as_collection(records_table([record("a", {"B": (path, 0)}, footprint=footprint_of(upright))]))
    bounds = (LEFT - 50, TOP - 700, LEFT + 400, TOP + 30)
    got = collection.read_window(record_ids=["a"], bounds=bounds, res=10, bands=["B"])
    np.testing.assert_array_equal(got, merged([upright], bounds, 10))


@pytest.mark.parametrize("kind", ["mask", "alpha", "zero"])
def test_validity_comes_from_the_file_and_not_from_values(folder, kind):
    first, second = positive("uint8", seed=1), positive("uint8", seed=2)
    first[:, :40, :40] = 0
    path, other = folder / f"{kind}.tif", folder / f"{kind}_below.tif"
    hidden = np.zeros((120, 150), bool)
    hidden[10:30, 10:30] = True
    below = write_raster(other, second)
    if kind == "alpha":
        opaque = np.where(hidden, 0, 255).astype(np.uint8)[None]
        write_raster(path, np.concatenate([first, opaque]), photometric="minisblack", alpha="yes")
    else:
        write_raster(path, first)
    table = [
        {"id": "a", "assets": {"B": {"href": str(path), "band_index": 0}}},
        {"id": "b", "assets": {"B": {"href": str(below)}}},
    ]
    if kind == "mask":
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as target:
            target.write_mask(~hidden)
    rows = [
        row | {"geometry": footprint_of(below).wkb, "datetime": dt.datetime(2024, 1, 1, tzinfo=dt.UTC)} for row in table
    ]
    home = folder / f"{kind}_home"
    collection = build_from_table(pa.Table.from_pylist(rows), name="x", workspace_dir=home, enrich_cog=True)
    got = collection.read_window(
        record_ids=["a", "b"], bounds=(LEFT, TOP - 1200, LEFT + 1500, TOP), res=10, bands=["B"]
    )  # fmt: skip
    # A zero with data is data here, although merge itself would take the second file there.
    expected = first[0] if kind == "zero" else np.where(hidden, second[0], first[0])
    np.testing.assert_array_equal(got[0], expected)
    smooth = collection.read_window(
        record_ids=["a"], bounds=(LEFT, TOP - 1200, LEFT + 1500, TOP), res=10, bands=["B"], target_crs=32632
    )  # fmt: skip
    np.testing.assert_array_equal(smooth[0], first[0] if kind == "zero" else np.where(hidden, 0, first[0]))


def test_masked_floats_are_computed_as_merge_does(folder):
    data = positive("float32", seed=3)
    path = write_raster(folder / "soft.tif", data)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as target:
        target.write_mask(noise("uint8", rows=120, columns=150)[0] > 60)
    row = {
        "id": "a", "geometry": footprint_of(path).wkb, "datetime": dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
        "assets": {"B": {"href": str(path)}},
    }  # fmt: skip
    collection = build_from_table(
        pa.Table.from_pylist([row]), name="x", workspace_dir=folder / "soft", enrich_cog=True
    )  # fmt: skip
    bounds = (LEFT + 13, TOP - 700, LEFT + 613, TOP - 100)
    for res in (7.5, 20, 23):
        got = collection.read_window(record_ids=["a"], bounds=bounds, res=res, bands=["B"])
        same(got, merged([path], bounds, res))


def test_overviews_are_not_read(folder):
    path = write_raster(folder / "plain.tif", positive("uint16", seed=4, rows=300, columns=300))
    cog = folder / "cog.tif"
    rasterio.shutil.copy(path, cog, driver="COG", BLOCKSIZE=128)
    row = {
        "id": "a", "geometry": footprint_of(path).wkb, "datetime": dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
        "assets": {"B": {"href": str(cog)}},
    }  # fmt: skip
    collection = build_from_table(pa.Table.from_pylist([row]), name="x", workspace_dir=folder / "cog", enrich_cog=True)
    bounds = (LEFT, TOP - 3000, LEFT + 3000, TOP)
    got = collection.read_window(record_ids=["a"], bounds=bounds, res=40, bands=["B"])
    np.testing.assert_array_equal(got, merged([path], bounds, 40))


def test_records_in_another_crs_are_warped(folder):
    path = write_raster(folder / "warped.tif", noise(seed=8), tile=32)
    collection = as_collection(records_table([record("a", {"B": (path, 0)})]))
    west, south, east, _ = transform_bounds("EPSG:32632", "EPSG:3857", LEFT, TOP - 1000, LEFT + 1000, TOP)
    res = (east - west) / 100
    got = collection.read_window(
        record_ids=["a"], bounds=(west, south, west + 100 * res, south + 80 * res), res=res, bands=["B"],
        target_crs=3857,
    )[0]  # fmt: skip
    expected = np.zeros((80, 100), np.uint16)
    with rasterio.open(path) as source:
        transform = rasterio.Affine(res, 0, west, 0, -res, south + 80 * res)
        reproject(rasterio.band(source, 1), expected, dst_transform=transform, dst_crs="EPSG:3857", tolerance=0)
    assert (got == expected).mean() > 0.97  # ``reproject`` approximates the transform
    assert (got != 0).mean() > 0.8


@pytest.fixture(scope="module")
def scenes(folder) -> tuple[Collection, list[np.ndarray]]:
    """Two halves of one datetime, an earlier scene and an undated one, of two bands."""
    rows, data = [], []
    moments = [dt.datetime(2024, 1, 2, tzinfo=dt.UTC)] * 2 + [dt.datetime(2024, 1, 1, tzinfo=dt.UTC), None]
    for number, moment in enumerate(moments):
        pixels = positive("uint16", seed=20 + number, rows=64, columns=64)[0]
        pixels = np.stack([pixels, pixels // 2 + 1])
        if number < 2:
            pixels[:, :, slice(32) if number else slice(32, 64)] = 0
        path = write_raster(folder / f"g{number}.tif", pixels, nodata=0)
        data.append(pixels)
        rows.append(record(f"g{number}", {"B": (path, 0), "C": (path, 1)}, moment=moment))
    return as_collection(records_table(rows, ["B", "C"])), data


class TestGroups:
    def test_by_datetime(self, scenes):
        collection, data = scenes
        got = collection.read_window(
            record_ids=["g3", "g1", "g0", "g2"], bands=["B", "C"], group_by="datetime", **GROUPED
        )  # fmt: skip
        np.testing.assert_array_equal(got, np.stack([data[2], data[0] + data[1], data[3]]))

    def test_by_id(self, scenes):
        collection, data = scenes
        got = collection.read_window(
            record_ids=pa.array(["g1", "g0", "g3"]), bands=["B", "C"], group_by="id", **GROUPED
        )  # fmt: skip
        np.testing.assert_array_equal(got, np.stack([data[1], data[0], data[3]]))

    def test_priority(self, scenes):
        collection, data = scenes
        for order in ([2, 3], [3, 2]):
            got = collection.read_window(record_ids=[f"g{n}" for n in order], bands=["C"], **GROUPED)
            np.testing.assert_array_equal(got, data[order[0]][1:])

    def test_a_record_without_headers_is_an_empty_step(self, scenes):
        collection, data = scenes
        table = collection.to_table().to_pylist()
        table[0]["B_metadata"] = table[0]["C_metadata"] = table[1]["C_metadata"] = None
        partly = as_collection(pa.Table.from_pylist(table, collection.schema))
        got = partly.read_window(record_ids=["g0", "g1", "g2"], bands=["B", "C"], group_by="id", **GROUPED)
        assert not got[0].any()
        assert not got[1, 1].any()
        np.testing.assert_array_equal(got[1, 0], data[1][0])
        np.testing.assert_array_equal(got[2], data[2])
        assert len(partly.read_window(record_ids=["g0", "g2"], bands=["B"], group_by="datetime", **GROUPED)) == 1
        with pytest.raises(WindowError, match=r"no header of bands .* for any of the 1 records"):
            partly.read_window(record_ids=["g0"], bands=["B"], **GROUPED)

    def test_filters_hold(self, scenes):
        collection, data = scenes
        dated = collection.subset(date_range=("2024-01-02", None))
        np.testing.assert_array_equal(dated.read_window(record_ids=["g0"], bands=["B"], **GROUPED), data[0][:1])
        with pytest.raises(
            CollectionError, match="2 of 3 ids are not among the records that meet the filters: g2, nowhere"
        ):
            dated.read_window(record_ids=["g2", "g1", "nowhere"], bands=["B"], **GROUPED)

    @pytest.mark.parametrize(
        ("wrong", "error", "message"),
        [
            ({"record_ids": []}, SpecError, "record_ids is empty"),
            ({"record_ids": "g0"}, SpecError, "not a list of ids"),
            ({"record_ids": ["x"]}, CollectionError, "1 of 1 ids are not in this collection: x"),
            ({"bounds": (1, 2, 3)}, WindowError, "is not"),
            ({"bounds": (LEFT, TOP, LEFT, TOP + 5)}, WindowError, "has no extent"),
            ({"bounds": (LEFT, TOP - 1, LEFT + 1, TOP)}, WindowError, "smaller than half a pixel"),
            ({"bounds": (0, 0, 1e9, 1e9)}, WindowError, "pixels"),
            ({"res": 0}, SpecError, "resolution"),
            ({"res": None}, SpecError, "res is needed"),
            ({"bands": ["Z"]}, BandNotFoundError, "'Z' is not in this collection"),
            ({"group_by": "day"}, SpecError, "group_by='day'"),
            ({"target_crs": "no"}, SpecError, "not a known CRS"),
        ],
    )
    def test_wrong_arguments_are_refused(self, scenes, wrong, error, message):
        with pytest.raises(error, match=message):
            scenes[0].read_window(**({"record_ids": ["g0"], "bands": ["B"], **GROUPED} | wrong))


def test_a_damaged_tile_is_raised_or_filled_by_the_next_record(folder):
    paths = [write_raster(folder / f"lost{n}.tif", positive("uint16", seed=n), compress="deflate") for n in range(2)]
    collection = as_collection(records_table([record(f"l{n}", {"B": (path, 0)}) for n, path in enumerate(paths)]))
    wanted = {"record_ids": ["l0", "l1"], "bounds": (LEFT, TOP - 1200, LEFT + 1500, TOP), "res": 10, "bands": ["B"]}
    expected = collection.read_window(**wanted)
    header = collection.to_table()["B_metadata"][0].as_py()
    with paths[0].open("r+b") as file:
        file.seek(header["tile_offsets"][0])
        file.write(b"\xff" * 100)
    with pytest.raises((TileError, PixelReadError), match="record 'l0', band 'B'"):
        collection.read_window(**wanted)
    with rasterio.open(paths[1]) as other:
        expected[0, :64, :64] = other.read(1)[:64, :64]
    np.testing.assert_array_equal(collection.read_window(**wanted, on_error="mask"), expected)


@pytest.fixture(scope="module")
def zones(folder) -> Collection:
    one = write_raster(folder / "f1.tif", noise(bands=2), crs="EPSG:32632")
    two = write_raster(folder / "f2.tif", noise(bands=2), crs="EPSG:32633", resolution=20)
    rows = [record("a", {"B": (one, 0), "C": (one, 1)}), record("b", {"B": (two, 0), "C": (two, 1)}, missing=["C"])]
    return as_collection(records_table(rows, ["B", "C"]))


class TestFootprints:
    def test_native(self, zones):
        frame = zones.footprints()
        assert list(frame.columns) == ["id", "datetime", "geometry"]
        assert frame["id"].tolist() == ["a", "b"]
        assert str(frame["datetime"].dt.tz) == "UTC"
        assert frame.crs is None
        assert frame.geometry[0].equals(shapely.box(LEFT, TOP - 2000, LEFT + 2300, TOP))
        assert frame.geometry[1].equals(shapely.box(LEFT, TOP - 4000, LEFT + 4600, TOP))

    def test_of_a_band_and_in_a_crs(self, zones):
        only = zones.footprints(band="C")
        assert only["id"].tolist() == ["a"]
        assert only.crs.to_epsg() == 32632
        for crs in (4326, "EPSG:3857", 32632):
            frame = zones.footprints(crs=crs)
            assert len(frame) == 2
            for shape, source, extent in zip(
                frame.geometry, ("EPSG:32632", "EPSG:32633"), zones.footprints().geometry, strict=True
            ):
                expected = transform_bounds(source, frame.crs, *extent.bounds)
                np.testing.assert_allclose(shape.bounds, expected, rtol=1e-5)

    def test_resolution(self, zones):
        assert zones.native_res() == (10, 10)
        assert zones.subset(date_range=("2024", "2025")).native_res("C") == (10, 10)
        with pytest.raises(BandNotFoundError):
            zones.native_res("Z")
        with pytest.raises(BandNotFoundError):
            zones.footprints(band="Z")
        with pytest.raises(WindowError, match="the index has no header of band"):
            zones.where(pa.compute.field("id") == "b").native_res("C")


class TestPublishedFiles:
    """Rows are read by their row groups, from the files that were listed."""

    @pytest.fixture
    def home(self, tmp_path) -> Path:
        """Records of three months in row groups of two; one file has a column less."""
        (tmp_path / "c").mkdir()
        for month in range(3):
            rows = []
            for number in range(5):
                path = write_raster(tmp_path / f"{month}{number}.tif", noise(seed=10 * month + number), tile=64)
                rows.append(
                    record(
                        f"{month}{number}",
                        {"B": (path, 0)},
                        moment=dt.datetime(2024, month + 1, 1 + number, tzinfo=dt.UTC),
                    )
                )
            self.write(tmp_path, month, rows)
        return tmp_path / "c"

    @staticmethod
    def write(folder: Path, month: int, rows: list[dict]) -> None:
        table = records_table(rows).drop_columns(["year", "month", *(["crs"] if month == 1 else [])])
        path = folder / "c" / "year=2024" / f"month={month + 1}" / "part-0.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, row_group_size=2)

    def expected(self, name: str) -> np.ndarray:
        return noise(seed=int(name))[:, 10:50, 10:50]

    @pytest.mark.parametrize("kind", ["files", "memory", "batches"])
    def test_every_record_is_found_under_its_id(self, home, kind):
        collection = load(home)
        if kind != "files":
            table = collection.to_table()
            collection = as_collection(table if kind == "memory" else ds.dataset(table))
        for wanted in (collection, collection.subset(date_range=("2024-01-03", "2024-03-02"))):
            ids = wanted.to_table(["id"])["id"].to_pylist()
            got = wanted.read_window(record_ids=ids[::-1], group_by="id", **MIDDLE)
            np.testing.assert_array_equal(got, np.stack([self.expected(name) for name in ids[::-1]]))
            assert wanted.footprints()["id"].tolist() == ids

    def test_areas_hold(self, home):
        near = load(home).subset(bbox=footprint_of(home.parent / "00.tif").bounds)
        assert len(near.footprints()) == 15
        assert near.native_res() == (10, 10)
        far = load(home).subset(bbox=(0, 0, 1, 1))
        assert len(far.footprints()) == 0
        with pytest.raises(WindowError):
            far.native_res()

    def test_a_replaced_file_is_listed_again(self, home):
        collection = load(home)
        read = collection.read_window(record_ids=["21"], **MIDDLE)
        np.testing.assert_array_equal(read, self.expected("21"))
        path = write_raster(home.parent / "new.tif", noise(seed=99))
        self.write(home.parent, 2, [record("21", {"B": (path, 0)}, moment=dt.datetime(2024, 3, 2, tzinfo=dt.UTC))])
        # Cached headers are of the old file; the next read of the file finds that it was replaced.
        np.testing.assert_array_equal(collection.read_window(record_ids=["21"], **MIDDLE), read)
        with pytest.raises(CollectionError, match="1 of 2 ids are not in this collection: 24"):
            collection.read_window(record_ids=["21", "24"], **MIDDLE)
        got = collection.read_window(record_ids=["21"], **MIDDLE)
        np.testing.assert_array_equal(got, noise(seed=99)[:, 10:50, 10:50])

    def test_rows_of_a_replaced_file_are_refused(self, home):
        collection = load(home)
        collection.read_window(record_ids=["00"], **MIDDLE)  # lists all ids
        rows, _, places = collection.by_id._listed  # type: ignore[misc]
        self.write(home.parent, 2, [])
        with pytest.raises(StaleRowsError, match=r"month=3/part-0\.parquet was replaced by a build"):
            rows.group(int(places[-1]) >> 26, {"id": ("id",)})
        (home / "year=2024" / "month=2" / "part-0.parquet").unlink()
        with pytest.raises(CollectionError, match="was removed after the collection was opened"):
            rows.group(int(places[7]) >> 26, {"id": ("id",)})


WINDOW = """
import json, sys
import numpy, rasteret
collection = rasteret.load(sys.argv[1])
given = json.loads(sys.argv[2])
tuples = [one | {key: tuple(one[key]) for key in ("bounds", "res")} for one in given]
found = {str(number): collection.read_window(**one) for number, one in enumerate(tuples)}
frame = collection.footprints()
extra = {
    "native": list(collection.native_res()), "ids": frame["id"].tolist(), "crs": str(frame.crs),
    "bounds": frame.geometry.bounds.values.tolist(),
}
numpy.savez(sys.argv[3], **found)
print(json.dumps(extra))
"""


@pytest.mark.skipif("RASTERET_PYTHON" not in os.environ, reason="RASTERET_PYTHON names no Python with rasteret")
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_rasteret_reads_the_same(folder, dtype):
    rows = []
    for number in range(3):
        data = positive(dtype, seed=40 + number, rows=200, columns=200)
        data[:, 30:70, 50 * number : 50 * number + 40] = 0
        path = write_raster(
            folder / f"peer_{dtype}_{number}.tif", data, nodata=0, tile=64, compress="deflate",
            origin=(LEFT + 800 * number, TOP - 330 * number),
        )  # fmt: skip
        rows.append({
            "id": f"p{number}", "geometry": footprint_of(path).wkb, "assets": {"B": {"href": str(path)}},
            "datetime": dt.datetime(2024, 1, 1 + number // 2, tzinfo=dt.UTC), "proj:epsg": 32632,
        })  # fmt: skip
    home = folder / f"peer_{dtype}"
    ours = build_from_table(pa.Table.from_pylist(rows), name="peer", workspace_dir=home, enrich_cog=True)
    ids = ["p1", "p0", "p2"]
    given = [
        {"record_ids": ids, "bounds": bounds, "res": res, "bands": ["B"], "group_by": group}
        for bounds in ((LEFT, TOP - 1000, LEFT + 2000, TOP), (LEFT + 333, TOP - 1403, LEFT + 1833, TOP - 3))
        for res in ((10, 10), (20, 20), (15, 7.5))
        for group in (None, "datetime", "id")
    ]
    out = folder / f"peer_{dtype}.npz"
    command = [os.environ["RASTERET_PYTHON"], "-c", WINDOW, str(home / "peer_records"), json.dumps(given), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, cwd=folder)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    with np.load(out) as theirs:
        for number, one in enumerate(given):
            got = ours.read_window(**one)
            expected = theirs[str(number)]
            assert got.dtype == expected.dtype
            # Without edges, because rasteret reads floats within the window only: weights at edges lack neighbours.
            inner = slice(None) if dtype == "uint16" else slice(1, -1)
            same(got[..., inner, inner], expected[..., inner, inner])
    frame = ours.footprints()
    assert tuple(told["native"]) == ours.native_res()
    assert told["ids"] == frame["id"].tolist()
    assert told["crs"] == str(frame.crs)
    np.testing.assert_allclose(told["bounds"], frame.geometry.bounds.to_numpy())
