"""Statistics of areas equal those that exactextract computes of the files opened with rasterio."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import exactextract
import geopandas as gpd
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import rasterio
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from rasteret_assets import as_collection, build_from_table
from rasteret_assets.collection.formats import zonal
from rasteret_assets.errors import BandNotFoundError, ObjectNotFoundError, SpecError, WindowError

from .support import EXAMPLES, UTM32, CountingBackend, noise, record, records_table, write_raster

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

OPS = [
    "mean", "sum", "count", "min", "max", "stdev", "variance", "median", "mode", "variety", "quantile(q=0.25)",
    "coefficient_of_variation",
]  # fmt: skip
COLUMNS = [*OPS[:10], "quantile_25", OPS[11]]
LEFT, TOP = 500_000.0, 5_000_000.0


def hidden(path: Path, seed: int) -> Path:
    """Give a file an internal mask, drawn at random, and return its path."""
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as target:
        target.write_mask((np.random.default_rng(seed).random(target.shape) > 0.4).astype("uint8") * 255)
    return path


def expected(path: Path, band: int, shape: shapely.Geometry, ops: list[str]) -> dict[str, Any]:
    """Return exactextract's statistics of a file, without nulls, which are either None or NaN."""
    feature = {"type": "Feature", "properties": {}, "geometry": shapely.geometry.mapping(shape)}
    with rasterio.open(path) as source:
        raster = exactextract.raster.RasterioRasterSource(source, band)
        (found,) = exactextract.exact_extract(raster, feature, ops)
    return without_nulls(found["properties"])


def without_nulls(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None and value == value}


def collection_of(rows: list[dict[str, Any]], bands: list[str] | None = None):
    return as_collection(records_table(rows, bands or ["B"]))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("zones")
    made = {
        kind: write_raster(folder / f"{kind}.tif", noise(kind, seed=seed), nodata=None if seed % 2 else 0)
        for seed, kind in enumerate(("uint8", "int16", "uint16", "int32", "float32", "float64"))
    }
    holes = noise("int16", seed=9)
    holes[:, ::3] = -5
    made["nodata"] = write_raster(folder / "nodata.tif", holes, nodata=-5)
    nans = noise("float32", seed=10)
    nans[:, :, ::4] = np.nan
    made["nan"] = write_raster(folder / "nan.tif", nans, nodata=np.nan)
    return made


KINDS = ["uint8", "int16", "uint16", "int32", "float32", "float64", "nodata", "nan"]
place = st.floats(-40, 240, allow_nan=False).map(lambda value: round(value, 3))


@st.composite
def shapes(draw: st.DrawFn) -> shapely.Geometry:
    """Draw a polygon in, across or outside the raster; some have a hole or several parts, some are below a pixel."""
    points = draw(st.lists(st.tuples(place, place), min_size=3, max_size=8, unique=True))
    shape = shapely.make_valid(shapely.Polygon(points))
    parts = [part for part in shapely.get_parts(shape) if part.geom_type == "Polygon" and part.area > 0.01]
    if not parts:
        x, y = points[0]
        parts = [shapely.box(x, y, x + 0.3, y + 0.2)]
    shape = shapely.union_all(parts)
    if draw(st.booleans()):
        shape = shape.difference(shape.centroid.buffer(9)) if shape.area > 900 else shape
    # From pixels right of and below the upper left corner to metres.
    return shapely.transform(shape, lambda xy: np.column_stack([LEFT + xy[:, 0] * 10, TOP - xy[:, 1] * 10]))


@settings(max_examples=EXAMPLES)
@given(kind=st.sampled_from(KINDS), shape=shapes())
def test_statistics_of_any_polygon_equal_exactextract(
    files: dict[str, Path], kind: str, shape: shapely.Geometry
) -> None:
    raster = shapely.box(LEFT, TOP - 2000, LEFT + 2300, TOP)
    whole = shapely.box(-180, -90, 180, 90)
    scene = collection_of([record("a", {"B": (files[kind], 0)}, footprint=whole)])
    if not shape.intersects(raster):
        with pytest.raises(WindowError):
            scene.zonal(shape, "B", OPS, geometry_crs=UTM32)
        return
    try:
        table = scene.zonal(shape, "B", OPS, geometry_crs=UTM32)
    except WindowError:  # it touches a border of the raster
        assert shape.intersection(raster).area < 1e-3
        return
    (row,) = table.select(COLUMNS).to_pylist()
    assert without_nulls(row) == expected(files[kind], 1, shape, OPS)


def test_there_is_a_row_for_each_record_area_and_band_in_this_order(tmp_path: Path) -> None:
    rows, paths = [], {}
    for name, day, resolution in (("late", 9, 10.0), ("early", 3, 10.0), ("undated", None, 10.0)):
        fine = write_raster(tmp_path / f"{name}_fine.tif", noise(seed=len(rows)), resolution=resolution, nodata=0)
        rgb = write_raster(tmp_path / f"{name}_rgb.tif", noise("uint8", bands=3, seed=9 + len(rows)), resolution=20.0)
        paths[name] = {"fine": (fine, 0), "green": (rgb, 1)}
        moment = day and dt.datetime(2024, 1, day, tzinfo=dt.UTC)
        rows.append(record(name, paths[name], moment=moment, missing=["green"] if name == "undated" else []))
    areas = gpd.GeoDataFrame(
        {"crop": ["wheat", "rye", "none"]},
        geometry=[
            shapely.Point(LEFT + 505, TOP - 505).buffer(333), shapely.box(LEFT + 3, TOP - 97, LEFT + 155, TOP - 12),
            shapely.box(0, 0, 1, 1),
        ], crs=UTM32,
    )  # fmt: skip
    table = collection_of(rows, ["fine", "green"]).zonal(areas, ["fine", "green"], ["mean", "m=max", "count"])
    assert table.column_names == [
        "record_id", "datetime", "collection", "geometry_id", "band", "mean", "m", "count", "crop",
    ]  # fmt: skip
    found = table.to_pylist()
    assert [(row["record_id"], row["geometry_id"], row["band"], row["crop"]) for row in found] == [
        (name, area, band, crop)
        for name in ("early", "late", "undated")
        for area, crop in ((0, "wheat"), (1, "rye"))
        for band in (("fine", "green") if name != "undated" else ("fine",))
    ]
    for row in found:
        path, index = paths[row["record_id"]][row["band"]]
        wanted = expected(path, index + 1, areas.geometry[row["geometry_id"]], ["mean", "max", "count"])
        assert (row["mean"], row["m"], row["count"]) == (wanted["mean"], wanted["max"], wanted["count"])


def test_internal_masks_and_scales_are_applied(tmp_path: Path) -> None:
    masked = hidden(write_raster(tmp_path / "masked.tif", noise("int16", seed=2)), seed=3)
    with rasterio.open(masked, "r+") as target:
        target.scales, target.offsets = [0.5], [-7.0]
    row = record("a", {"B": (masked, 0)})
    plain = {name: row[name] for name in ("id", "datetime", "geometry", "assets")}
    scene = build_from_table(pa.Table.from_pylist([plain]), enrich_cog=True)
    shape = shapely.Point(LEFT + 900, TOP - 900).buffer(555)
    found = scene.zonal(shape, "B", ["mean", "count", "min"], geometry_crs=UTM32).to_pylist()[0]
    scaled = scene.zonal(shape, "B", ["mean", "count", "min"], geometry_crs=UTM32, mask_and_scale=True).to_pylist()[0]
    with rasterio.open(masked) as source:
        pixels = np.where(source.read_masks(1) == 0, np.nan, source.read(1))
        raster = exactextract.raster.NumPyRasterSource(pixels, *source.bounds)
    feature = {"type": "Feature", "properties": {}, "geometry": shapely.geometry.mapping(shape)}
    (wanted,) = exactextract.exact_extract(raster, feature, ["mean", "count", "min"])
    assert {name: found[name] for name in ("mean", "count", "min")} == pytest.approx(wanted["properties"])
    assert scaled["mean"] == pytest.approx(0.5 * found["mean"] - 7)
    assert (scaled["count"], scaled["min"]) == (found["count"], 0.5 * found["min"] - 7)


def test_operations_that_return_arrays_become_list_columns(files: dict[str, Path]) -> None:
    shape = shapely.box(LEFT + 5, TOP - 35, LEFT + 25, TOP - 10)
    scene = collection_of([record("a", {"B": (files["uint8"], 0)})])
    found = scene.zonal(shape, "B", ["values", "coverage"], geometry_crs=UTM32)
    with rasterio.open(files["uint8"]) as source:
        pixels = source.read(1, masked=True)[1:4, 0:3]
    there = ~np.ma.getmaskarray(pixels)
    assert found["values"].to_pylist() == [pixels.data[there].tolist()]
    coverage = np.outer([1, 1, 0.5], [0.5, 1, 0.5])
    np.testing.assert_allclose(found["coverage"].to_pylist()[0], coverage[there])


def test_statistics_without_valid_pixels_are_null(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "empty.tif", np.zeros((1, 64, 64), "uint16"), nodata=0)
    scene = collection_of([record("a", {"B": (path, 0)})])
    table = scene.zonal(
        shapely.box(LEFT, TOP - 100, LEFT + 100, TOP), "B", ["mean", "min", "count"], geometry_crs=UTM32
    )
    assert table.select(["mean", "min", "count"]).to_pylist() == [{"mean": None, "min": None, "count": 0.0}]


def test_a_box_of_four_numbers_equals_the_polygon_of_its_corners(files: dict[str, Path]) -> None:
    scene = collection_of([record("a", {"B": (files["uint16"], 0)})])
    west, south, east, north = 9.005, 45.14, 9.02, 45.15
    box = scene.zonal((west, south, east, north), "B")
    polygon = scene.zonal(shapely.box(west, south, east, north), "B")
    assert box.equals(polygon)


def test_rasters_whose_rows_run_northward(tmp_path: Path) -> None:
    path = tmp_path / "up.tif"
    profile = {
        "driver": "GTiff", "width": 96, "height": 64, "count": 1, "dtype": "uint16", "crs": UTM32, "tiled": True,
        "blockxsize": 32, "blockysize": 32, "transform": rasterio.Affine(10, 0, LEFT, 0, 10, TOP),
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as target:
        target.write(noise(rows=64, columns=96))
    scene = collection_of([record("a", {"B": (path, 0)}, footprint=shapely.box(8, 44, 10, 46))])
    shape = shapely.box(LEFT + 7, TOP + 13, LEFT + 333, TOP + 208)
    (row,) = scene.zonal(shape, "B", ["mean", "count"], geometry_crs=UTM32).to_pylist()
    with rasterio.open(path) as source:
        upright = exactextract.raster.NumPyRasterSource(source.read(1)[::-1], LEFT, TOP, LEFT + 960, TOP + 640)
    feature = {"type": "Feature", "properties": {}, "geometry": shapely.geometry.mapping(shape)}
    (wanted,) = exactextract.exact_extract(upright, feature, ["mean", "count"])
    assert {name: row[name] for name in ("mean", "count")} == wanted["properties"]


def test_a_tile_under_many_areas_is_requested_once_a_record(files: dict[str, Path]) -> None:
    backend = CountingBackend()
    scene = collection_of([record(name, {"B": (files["uint16"], 0)}) for name in ("a", "b")])
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 500, (40, 2))
    fields = [shapely.box(LEFT + x, TOP - 40 - y, LEFT + x + 37, TOP - y) for x, y in corners]
    table = scene.zonal(fields, "B", geometry_crs=UTM32, backend=backend)
    assert table.num_rows == 80
    # All areas lie in the first tile, of 64 x 64 pixels of 10 m, so that each record takes one request.
    assert len(backend.ranges) == 2


@pytest.mark.parametrize("most", [1, 50, 5000])
def test_large_windows_are_read_in_pieces(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, most: int
) -> None:  # fmt: skip
    monkeypatch.setattr(zonal, "_LARGE", most)
    monkeypatch.setattr(zonal, "_BYTES_AT_ONCE", 2000)
    shapes = [shapely.Point(LEFT + x, TOP - 300).buffer(size) for x, size in ((90, 80), (200, 150), (400, 40), (10, 5))]
    scene = collection_of([record("a", {"B": (files["nodata"], 0)})])
    table = scene.zonal(shapes, "B", ["mean", "sum", "count", "max"], geometry_crs=UTM32)
    for row, shape in zip(table.to_pylist(), shapes, strict=True):
        wanted = expected(files["nodata"], 1, shape, ["mean", "sum", "count", "max"])
        for name, value in wanted.items():
            assert row[name] == pytest.approx(value, rel=1e-12)


def test_a_missing_file_is_an_error_or_with_mask_has_no_valid_pixels(files: dict[str, Path], tmp_path: Path) -> None:
    gone = tmp_path / "gone.tif"
    rows = [record(name, {"B": (files["uint16"], 0)}) for name in ("a", "b")]
    rows[1]["assets"]["B"]["href"] = str(gone)
    scene, shape = collection_of(rows), shapely.box(LEFT, TOP - 900, LEFT + 900, TOP)
    with pytest.raises(ObjectNotFoundError, match=r"gone\.tif"):
        scene.zonal(shape, "B", geometry_crs=UTM32)
    table = scene.zonal(shape, "B", geometry_crs=UTM32, on_error="mask")
    assert table["count"].to_pylist() == [
        8100.0 - np.count_nonzero(rasterio.open(files["uint16"]).read(1)[:90, :90] == 0),
        0,
    ]
    assert table["mean"].to_pylist()[1] is None


@pytest.mark.parametrize(
    ("ops", "message"),
    [
        ("average", "Unsupported stat: average"),
        (["mean", "mean(coverage_weight=none)"], "Operation name is not unique: mean"),
        ("quantile", "Missing required argument: q"),
        ([], "must name operations"),
        (["band=mean"], "which the result has already"),
        (["weighted_mean"], "No weights"),
    ],
)
def test_wrong_operations_are_refused(files: dict[str, Path], ops: Any, message: str) -> None:
    scene = collection_of([record("a", {"B": (files["uint16"], 0)})])
    with pytest.raises(SpecError, match=message):
        scene.zonal(shapely.box(LEFT, TOP - 90, LEFT + 90, TOP), "B", ops, geometry_crs=UTM32)


def test_wrong_bands_areas_and_columns_are_refused(files: dict[str, Path]) -> None:
    scene = collection_of([record("a", {"B": (files["uint16"], 0)})])
    box = shapely.box(LEFT, TOP - 90, LEFT + 90, TOP)
    with pytest.raises(BandNotFoundError):
        scene.zonal(box, "C", geometry_crs=UTM32)
    with pytest.raises(WindowError, match="has no area to read"):
        scene.zonal(shapely.Point(LEFT, TOP), "B", geometry_crs=UTM32)
    with pytest.raises(WindowError, match="no record meets the area"):
        scene.where(pc.field("id") == "other").zonal(box, "B", geometry_crs=UTM32)
    with pytest.raises(SpecError, match="columns \\['mean'\\] of the areas' table"):
        scene.zonal(gpd.GeoDataFrame({"mean": [1]}, geometry=[box], crs=UTM32), "B")


def test_integers_that_exactextract_cannot_hold_are_refused(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "wide.tif", np.full((1, 64, 64), 2**63 + 5, "uint64"))
    scene = collection_of([record("a", {"B": (path, 0)})])
    box = shapely.box(LEFT, TOP - 90, LEFT + 90, TOP)
    with pytest.raises(SpecError, match="mask_and_scale"):
        scene.zonal(box, "B", geometry_crs=UTM32)
    assert scene.zonal(box, "B", geometry_crs=UTM32, mask_and_scale=True)["mean"].to_pylist() == [float(2**63)]
    exact = write_raster(tmp_path / "exact.tif", np.full((1, 64, 64), 2**53 + 1, "int64"))
    scene = collection_of([record("a", {"B": (exact, 0)})])
    assert scene.zonal(box, "B", "max", geometry_crs=UTM32)["max"].to_pylist() == [2**53 + 1]
