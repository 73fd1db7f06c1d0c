"""Requests are planned before they are read, carried out in another process, and put on the grid of another raster."""

from __future__ import annotations

import datetime as dt
import inspect
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
import xarray as xr
from odc.geo.geobox import GeoBox

from rasteret_assets.collection import Collection, as_collection
from rasteret_assets.errors import SpecError, WindowError

from .support import ORIGIN, UTM32, CountingBackend, noise, record, records_table, write_raster
from .test_get_numpy import box

HERE: dict[str, Any] = {"geometry_crs": UTM32}
WHOLE = box(0, 0, 230, 200)


def moment(day: int, hour: int = 10, month: int = 1) -> dt.datetime:
    return dt.datetime(2024, month, day, hour, tzinfo=dt.UTC)


@pytest.fixture
def scenes(tmp_path: Path) -> Collection:
    """Two records of two bands of 16 bits, the second with nodata 0."""
    rows = []
    for number, nodata in enumerate([None, 0]):
        data = noise(bands=2, seed=number) // 8
        path = write_raster(tmp_path / f"{number}.tif", data, nodata=nodata, compress="deflate", interleave="band")
        rows.append(record(f"r{number}", {"B": (path, 0), "C": (path, 1)}, moment=moment(1 + number)))
    return as_collection(records_table(rows, ["B", "C"]))


# --- plans ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"resolution": 25}, {"target_crs": 25832, "resampling": "cubic"}], ids=str)
def test_a_plan_tells_what_a_read_asks_for(scenes: Collection, options: dict) -> None:
    backend = CountingBackend()
    request = scenes.read(box(10, 10, 100, 90), ["B", "C"], backend=backend, **options, **HERE)
    plan = request.plan()
    assert backend.ranges == []
    pixels = request.to_numpy()
    assert plan.requests == len(backend.ranges)
    assert plan.bytes == sum(length for _, _, length in backend.ranges)
    assert (plan.records, plan.windows) == (2, 2)
    assert plan.pixels == pixels.size
    assert plan.tiles >= 2 * 2 * 4
    assert f"in {plan.requests} requests" in str(plan)


def test_a_request_is_carried_out_in_another_process(scenes: Collection, tmp_path: Path) -> None:
    request = scenes.read(WHOLE, "B", **HERE)
    (tmp_path / "request").write_bytes(pickle.dumps(request))
    code = "import pickle, sys, numpy; r = pickle.load(open(sys.argv[1], 'rb')); numpy.save(sys.argv[2], r.to_numpy())"
    subprocess.run([sys.executable, "-c", code, tmp_path / "request", tmp_path / "a.npy"], check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), request.to_numpy())
    assert repr(request) == "ReadRequest(1 areas, 2 records, bands B)"


def test_the_forms_of_a_request_are_those_of_the_collection(scenes: Collection) -> None:
    request = scenes.read(WHOLE, ["B"], masked=True, **HERE)
    np.testing.assert_array_equal(request.to_numpy(), scenes.get_numpy(WHOLE, ["B"], masked=True, **HERE))
    xr.testing.assert_identical(request.to_xarray(), scenes.get_xarray(WHOLE, ["B"], masked=True, **HERE))
    assert request.to_geopandas().columns.tolist() == scenes.get_gdf(WHOLE, ["B"], **HERE).columns.tolist()


def test_help_shows_every_argument_and_its_default() -> None:
    for read in (Collection.get_numpy, Collection.get_xarray, Collection.get_gdf, Collection.sample_points):
        found = inspect.signature(read).parameters
        assert found["max_concurrent"].default == 128
        assert found["masked"].default is False
        assert found["on_error"].default == "raise"
        assert not any(one.kind is one.VAR_KEYWORD for one in found.values())
    assert inspect.signature(Collection.get_xarray).parameters["groupby"].default is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resoluton": 3}, "unknown argument 'resoluton': did you mean 'resolution'"),
        ({"chunks": {}}, "unknown argument 'chunks'"),
        ({"dtype": "uint8"}, "does not hold all values of uint16"),
        ({"dtype": "complex64"}, "cannot hold pixels"),
        ({"dtype": "number"}, "not a type of numpy"),
        ({"like": 3}, "int has no pixel grid"),
        ({"like": xr.Dataset(coords={"x": [1.0, 2], "y": [2.0, 1]})}, "states no CRS"),
        ({"like": GeoBox((2, 2), rasterio.Affine(1, 0, 0, 0, -1, 0), 4326), "resolution": 2}, "each choose a grid"),
    ],
)
def test_wrong_arguments_are_refused(scenes: Collection, options: dict, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        scenes.get_numpy(WHOLE, "B", **options, **HERE)
    with pytest.raises(SpecError, match="geometries is None"):
        scenes.get_numpy(None, "B")


# --- the grid of another raster ---------------------------------------------------------------------------------------

GEOBOX = GeoBox((70, 90), rasterio.Affine(20, 0, ORIGIN[0] + 105, 0, -20, ORIGIN[1] - 55), UTM32)


def as_xarray(named: dict[str, str]) -> xr.DataArray:
    coords = {named[name]: axis.values for name, axis in GEOBOX.coordinates.items()}
    return xr.DataArray(
        np.zeros(GEOBOX.shape), dims=tuple(coords),
        coords={**coords, "spatial_ref": ((), 0, {"crs_wkt": GEOBOX.crs.to_wkt()})},
    )  # fmt: skip


@pytest.mark.parametrize("method", ["nearest", "average"])
def test_pixels_on_the_grid_of_another_raster(scenes: Collection, tmp_path: Path, method: str) -> None:
    expected = scenes.get_numpy(
        tuple(GEOBOX.boundingbox), "B", resolution=20, resampling=method, overviews=False, **HERE
    )  # fmt: skip
    # Pixels of the same size, moved by half a pixel, so that only the grid counts.
    with rasterio.open(
        tmp_path / "like.tif", "w", driver="GTiff", count=1, dtype="uint8", height=70, width=90, crs=UTM32,
        transform=GEOBOX.affine,
    ) as like:  # fmt: skip
        like.write(np.zeros((1, 70, 90), np.uint8))
    with rasterio.open(tmp_path / "like.tif") as dataset:
        likes = [GEOBOX, as_xarray({"y": "y", "x": "x"}), as_xarray({"y": "lat", "x": "lon"}), dataset]
        got = [scenes.get_numpy(None, "B", like=like, resampling=method, overviews=False) for like in likes]
    got.append(scenes.get_numpy(None, "B", geobox=GEOBOX, resampling=method, overviews=False))
    for one in got:
        assert one.shape == (2, 70, 90)
        np.testing.assert_array_equal(one, got[0])
    assert expected.shape != got[0].shape  # lines up with the raster, not with the other grid


def test_cubes_like_another_cube_line_up(scenes: Collection) -> None:
    like = scenes.get_xarray(box(20, 20, 60, 50), "B", resolution=30, **HERE)
    for chunks in (None, {}):
        cube = scenes.get_xarray(None, "C", like=like, chunks=chunks)
        np.testing.assert_array_equal(cube.x, like.x)
        np.testing.assert_array_equal(cube.y, like.y)
        assert cube.spatial_ref.attrs["GeoTransform"] == like.spatial_ref.attrs["GeoTransform"]
    # An area masks pixels, and does not change the grid.
    field = shapely.box(ORIGIN[0] + 300, ORIGIN[1] - 500, ORIGIN[0] + 500, ORIGIN[1] - 300)
    part = scenes.get_xarray(field, "C", like=like, masked=True, **HERE)
    assert part.sizes == cube.sizes
    assert 0 < np.isfinite(part.C.values[0]).sum() < part.C.values[0].size / 2


def test_the_grid_of_a_dataset_whose_crs_is_stated_by_a_variable(scenes: Collection) -> None:
    array = as_xarray({"y": "y", "x": "x"})
    like = array.drop_vars("spatial_ref").to_dataset(name="values").assign(spatial_ref=array.spatial_ref.variable)
    got = scenes.get_numpy(None, "B", like=like)
    np.testing.assert_array_equal(got, scenes.get_numpy(None, "B", like=array))


def test_a_grid_that_does_not_fit_in_memory_is_refused(scenes: Collection) -> None:
    huge = GeoBox((60_000, 60_000), GEOBOX.affine, UTM32)
    for read in (scenes.get_numpy, scenes.get_xarray, scenes.get_gdf):
        with pytest.raises(WindowError, match="60000 x 60000 pixels"):
            read(None, "B", like=huge)
    assert scenes.get_xarray(None, "B", like=huge, chunks={}).sizes["x"] == 60_000


def test_wrong_grids_are_refused(scenes: Collection) -> None:
    rotated = GeoBox((5, 5), rasterio.Affine.rotation(30), UTM32)
    with pytest.raises(WindowError, match="rotated or sheared"):
        scenes.get_numpy(None, "B", like=rotated)
    uneven = as_xarray({"y": "y", "x": "x"}).isel(x=[0, 1, 3])
    with pytest.raises(WindowError, match="not evenly spaced"):
        scenes.get_numpy(None, "B", like=uneven)


# --- types and units --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint16", "int32", "float32", "float64"])
def test_dtype_of_the_result(scenes: Collection, dtype: str) -> None:
    expected = scenes.get_numpy(WHOLE, "B", **HERE)
    got = scenes.get_numpy(WHOLE, "B", dtype=dtype, **HERE)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, expected)
    for chunks in (None, {}):
        if dtype != "uint16":  # which has no value to mark the nodata of both records
            cube = scenes.get_xarray(WHOLE, "B", dtype=dtype, masked=dtype.startswith("float"), chunks=chunks, **HERE)
            assert cube.B.dtype == dtype
            np.testing.assert_array_equal(cube.B.values[0], expected[0])
    frame = scenes.get_gdf(WHOLE, "B", dtype=dtype, **HERE)
    assert {cell.dtype.name for cell in frame["data"]} == {dtype}


def test_nodata_is_compared_exactly_whatever_the_type(tmp_path: Path) -> None:
    data = noise("int32")
    data[0, :50] = 2**31 - 1
    data[0, 50:60] = 2**31 - 20  # the same number as float32
    path = write_raster(tmp_path / "a.tif", data, nodata=2**31 - 1)
    scenes = as_collection(records_table([record("r", {"B": (path, 0)})]))
    got = scenes.get_numpy(WHOLE, "B", dtype="float32", masked=True, **HERE)[0]
    assert got.dtype == "float32"
    np.testing.assert_array_equal(got.mask, data[0] == 2**31 - 1)


@pytest.fixture
def scaled(tmp_path: Path) -> tuple[Collection, np.ndarray]:
    """A record with scale 0.1, offset -5 and nodata, and its values."""
    data = noise("int16", seed=3)
    data[0, :30] = -9999
    path = write_raster(tmp_path / "scaled.tif", data, nodata=-9999)
    row = record("r", {"B": (path, 0)})
    row["B_metadata"] |= {"scale": 0.1, "offset": -5.0}
    values = np.where(data[0] == -9999, np.nan, data[0] * np.float64(0.1) - 5)
    return as_collection(records_table([row])), values


def test_mask_and_scale_gives_values_in_their_unit(scaled) -> None:
    scenes, values = scaled
    options: dict[str, Any] = {"mask_and_scale": True, **HERE}
    got = scenes.get_numpy(WHOLE, "B", **options)[0]
    assert got.dtype == "float32"
    np.testing.assert_allclose(got, values, rtol=1e-6)
    exact = scenes.get_numpy(WHOLE, "B", dtype="float64", **options)[0]
    np.testing.assert_allclose(exact, values, rtol=1e-14)
    masked = scenes.get_numpy(WHOLE, "B", masked=True, **options)[0]
    np.testing.assert_array_equal(masked.mask, np.isnan(values))
    for chunks in (None, {}):
        cube = scenes.get_xarray(WHOLE, "B", chunks=chunks, **options)
        np.testing.assert_array_equal(cube.B.values[0], got)
        assert "_FillValue" not in cube.B.attrs
    np.testing.assert_array_equal(scenes.get_gdf(WHOLE, "B", **options)["data"][0], got)
    inside = [box(3, 4, 1, 1).centroid, box(3, 90, 1, 1).centroid]
    points = scenes.sample_points(inside, "B", **options)["value"].to_pylist()
    assert points[0] is None
    assert points[1] == pytest.approx(values[90, 3], rel=1e-6)


# --- tables of arrays -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True])
def test_frames_go_to_parquet_and_back(scenes: Collection, tmp_path: Path, masked: bool) -> None:
    frame = scenes.get_gdf([box(0, 0, 30, 20), box(50, 50, 7, 9)], ["B", "C"], masked=masked, **HERE)
    assert frame.raster_transform[0][0] == 10.0
    assert set(frame.raster_crs) == {UTM32}
    frame.to_parquet(tmp_path / "a.parquet")
    back = gpd.read_parquet(tmp_path / "a.parquet")
    assert (
        back.drop(columns=["data", "geometry"]).columns.tolist()
        == frame.drop(columns=["data", "geometry"]).columns.tolist()
    )
    for cell, rows in zip(frame["data"], back["data"], strict=True):
        np.testing.assert_array_equal(np.ma.filled(cell.astype(float), np.nan), np.array([list(row) for row in rows]))
    sorted_frame = frame.sort_values("band", kind="stable")
    assert [cell.shape for cell in sorted_frame["data"]] == [(20, 30), (9, 7)] * 4
    assert frame[frame["band"] == "B"]["data"].iloc[0].shape == (20, 30)
    assert frame["cloud_cover"].dtype == float


# --- cubes ------------------------------------------------------------------------------------------------------------


def stacked(folder: Path, layers: list[np.ndarray], moments: list[dt.datetime | None]) -> Collection:
    rows = []
    for number, (layer, when) in enumerate(zip(layers, moments, strict=True)):
        path = write_raster(folder / f"{number}.tif", layer[None], nodata=0, compress="deflate")
        rows.append(record(f"r{number}", {"B": (path, 0)}, moment=when))
    return as_collection(records_table(rows))


@pytest.fixture
def layers() -> list[np.ndarray]:
    found = [noise("uint8", seed=seed)[0] // 2 + 1 for seed in range(5)]
    for seed, layer in enumerate(found):
        layer[np.random.default_rng(100 + seed).random(layer.shape) < 0.4] = 0
    return found


RULES = {
    "first": lambda some: np.take_along_axis(some, (some != 0).argmax(0)[None], 0)[0],
    "last": lambda some: np.take_along_axis(some[::-1], (some[::-1] != 0).argmax(0)[None], 0)[0],
    "min": lambda some: np.where((some != 0).any(0), np.where(some == 0, 255, some).min(0), 0),
    "max": lambda some: some.max(0),
    "mean": lambda some: np.nanmean(np.where(some == 0, np.nan, some.astype(float)), axis=0),
    "median": lambda some: np.nanmedian(np.where(some == 0, np.nan, some.astype(float)), axis=0),
}


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:All-NaN slice")
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("chunks", [None, {}])
def test_records_of_a_day_become_one(tmp_path: Path, layers: list[np.ndarray], rule: str, chunks: Any) -> None:
    when = [moment(1, 8), moment(1, 9), moment(2), moment(2, 11), moment(2, 12)]
    scenes = stacked(tmp_path, layers, when)
    cube = scenes.get_xarray(WHOLE, "B", groupby="day", mosaic=rule, chunks=chunks, **HERE)
    assert cube.records.values.tolist() == [2, 3]
    assert cube.id.values.tolist() == ["r0", "r2"]
    for step, some in enumerate([np.stack(layers[:2]), np.stack(layers[2:])]):
        np.testing.assert_allclose(cube.B.values[step], RULES[rule](some), rtol=1e-6)
    masked = scenes.get_xarray(WHOLE, "B", groupby="day", mosaic=rule, masked=True, chunks=chunks, **HERE).B.values
    assert np.isnan(masked[0]).tolist() == (~(np.stack(layers[:2]) != 0).any(0)).tolist()


def test_records_are_grouped_by_time(tmp_path: Path, layers: list[np.ndarray]) -> None:
    # At 9 degrees east a solar day begins 36 minutes early: the second and third record are of the third of the month.
    when = [moment(1), dt.datetime(2024, 1, 2, 23, 50, tzinfo=dt.UTC), moment(3), moment(3), None]
    scenes = stacked(tmp_path, layers, when)

    def counts(groupby: str | None) -> list[int]:
        cube = scenes.get_xarray(WHOLE, "B", groupby=groupby, chunks={}, **HERE)
        return [1] * cube.sizes["time"] if groupby in {None, "id"} else cube.records.values.tolist()

    assert counts(None) == counts("id") == [1] * 5
    assert counts("time") == [1, 1, 2, 1]
    assert counts("day") == [1, 1, 2, 1]
    assert counts("solar_day") == [1, 3, 1]
    assert counts("month") == counts("year") == [4, 1]
    with pytest.raises(SpecError, match="groupby='week' must be one of"):
        counts("week")
    with pytest.raises(SpecError, match="mosaic='best' must be one of"):
        scenes.get_xarray(WHOLE, "B", groupby="day", mosaic="best", **HERE)


@pytest.mark.parametrize("area", [WHOLE, box(70, 30, 100, 120), box(64, 64, 64, 64)], ids=["whole", "part", "a tile"])
def test_chunks_are_the_tiles_of_the_file(scenes: Collection, area: Any) -> None:
    backend = CountingBackend()
    cube = scenes.get_xarray(area, "B", chunks={}, backend=backend, **HERE)
    left, top = round((float(cube.x[0]) - ORIGIN[0]) // 10), round((ORIGIN[1] - float(cube.y[0])) // 10)
    for sizes, begin in zip(cube.B.chunks[1:], (top, left), strict=True):
        borders = begin + np.cumsum(sizes)[:-1]
        assert not (borders % 64).any()
    assert cube.B.chunks[0] == (1, 1)
    cube.B.values  # noqa: B018
    assert len(set(backend.ranges)) == len(backend.ranges)  # no tile is asked for twice
    joined = scenes.get_xarray(area, "B", chunks="auto", **HERE)
    assert joined.B.chunks[1:] == tuple((sum(sizes),) for sizes in cube.B.chunks[1:])


def test_areas_far_apart_are_not_one_cube(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", np.ones((1, 4000, 4000), np.uint8), tile=256, compress="deflate")
    scenes = as_collection(records_table([record("r", {"B": (path, 0)})]))
    corners = [box(5, 5, 20, 20), box(3900, 3900, 20, 20)]
    with pytest.raises(WindowError, match=r"2 areas lie far apart: one cube around all would have 3915 x 3915"):
        scenes.get_xarray(corners, "B", **HERE)
    backend = CountingBackend()
    assert scenes.get_numpy(corners, "B", backend=backend, **HERE).shape == (2, 20, 20)
    tiles = len(backend.ranges)
    # One geometry of two parts is one array, of which only what the parts touch is read.
    both = shapely.union_all(corners)
    backend.ranges.clear()
    pixels = scenes.get_numpy(both, "B", backend=backend, **HERE)
    assert pixels.shape == (1, 3915, 3915)
    assert int(pixels.sum()) == 800
    assert len(backend.ranges) == tiles
    lazy = scenes.get_xarray(corners, "B", chunks={}, backend=backend, **HERE)
    backend.ranges.clear()
    assert int(lazy.B.sum()) == 800
    assert len(backend.ranges) == 2


# --- points -----------------------------------------------------------------------------------------------------------


def centre(row: int, column: int, dx: float = 0, dy: float = 0) -> shapely.Point:
    return shapely.Point(ORIGIN[0] + 10 * (column + 0.5 + dx), ORIGIN[1] - 10 * (row + 0.5 + dy))


def test_the_latest_with_data(tmp_path: Path) -> None:
    layers = [np.full((60, 60), value, np.uint8) for value in (1, 2, 3)]
    layers[2][:, 20:] = 0
    layers[1][:, 40:] = 0
    layers[0][:, 50:] = 0
    scenes = stacked(tmp_path, layers, [moment(1), moment(2), moment(3)])
    found = scenes.sample_points([centre(5, column) for column in (5, 30, 45, 55)], "B", match="latest", **HERE)
    assert found["value"].to_pylist() == [3, 2, 1, 0]
    assert found["record_id"].to_pylist() == ["r2", "r1", "r0", "r2"]
    masked = scenes.sample_points([centre(5, 55)], "B", match="latest", masked=True, **HERE)
    assert masked["value"].to_pylist() == [None]


def test_older_records_are_read_only_where_newer_ones_have_no_data(tmp_path: Path) -> None:
    layers = [np.full((128, 128), value, np.uint8) for value in (1, 2)]
    layers[1][:64, :64] = 0
    scenes = stacked(tmp_path, layers, [moment(1), moment(2)])
    backend = CountingBackend()
    points = [centre(5, 5), centre(100, 100)]
    found = scenes.sample_points(points, "B", match="latest", backend=backend, **HERE)
    assert found["value"].to_pylist() == [1, 2]
    assert sorted(Path(path).name for path, _, _ in backend.ranges).count("0.tif") == 1


@pytest.mark.parametrize("seed", range(4))
def test_the_nearest_pixel_with_data_replaces_one_without(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    layer = noise("uint8", seed=seed)[0] // 2 + 1
    layer[rng.random(layer.shape) < 0.85] = 0
    scenes = stacked(tmp_path, [layer], [moment(1)])
    places = [(int(r), int(c), *rng.uniform(-0.49, 0.49, 2)) for r, c in rng.integers(0, 200, (60, 2))]
    reach = 2
    found = scenes.sample_points(
        [centre(row, column, dx, dy) for row, column, dx, dy in places], "B", max_distance_pixels=reach,
        return_neighbourhood="always", masked=True, **HERE,
    )  # fmt: skip
    for (row, column, dx, dy), value, around in zip(
        places, found["value"].to_pylist(), found["neighbourhood_values"].to_pylist(), strict=True
    ):
        best = None
        window = []
        for r in range(row - reach, row + reach + 1):
            for c in range(column - reach, column + reach + 1):
                there = 0 <= r < layer.shape[0] and 0 <= c < layer.shape[1] and layer[r, c] != 0
                window.append(int(layer[r, c]) if there else None)
                if there:
                    across = max(abs(c - column - dx) - 0.5, 0)
                    down = max(abs(r - row - dy) - 0.5, 0)
                    key = (max(abs(r - row), abs(c - column)), np.hypot(across, down))
                    if best is None or key < best[0]:
                        best = key, int(layer[r, c])
        assert value == (None if best is None else best[1])
        assert around == window


def test_neighbourhoods_only_where_the_centre_has_no_data(tmp_path: Path) -> None:
    layer = np.ones((64, 64), np.uint8)
    layer[10, 10] = 0
    scenes = stacked(tmp_path, [layer], [moment(1)])
    found = scenes.sample_points(
        [centre(10, 10), centre(20, 20)], "B", max_distance_pixels=1, return_neighbourhood="if_center_nodata", **HERE
    )  # fmt: skip
    assert found["neighbourhood_values"].to_pylist() == [[1, 1, 1, 1, None, 1, 1, 1, 1], None]
    with pytest.raises(SpecError, match="needs max_distance_pixels"):
        scenes.sample_points([centre(1, 1)], "B", return_neighbourhood="always", **HERE)
    with pytest.raises(SpecError, match="whole number of pixels"):
        scenes.sample_points([centre(1, 1)], "B", max_distance_pixels=-1, **HERE)


# --- progress ---------------------------------------------------------------------------------------------------------


def test_progress_is_reported_request_by_request(scenes: Collection) -> None:
    told: list[Any] = []
    request = scenes.read(WHOLE, ["B", "C"], progress=told.append, **HERE)
    request.to_numpy()
    plan = request.plan()
    assert [one.requests for one in told] == list(range(1, plan.requests + 1))
    assert {one.total for one in told} == {plan.requests}
    assert told[-1].bytes == plan.bytes
    told.clear()
    scenes.sample_points([centre(5, 5), centre(150, 150)], ["B", "C"], progress=told.append, **HERE)
    assert told[-1].requests == told[-1].total == 4
    np.testing.assert_array_equal(
        scenes.get_numpy(WHOLE, "B", progress=True, **HERE), scenes.get_numpy(WHOLE, "B", **HERE)
    )
