"""Forms of results (xarray, GeoDataFrame, point tables, pictures): what they keep, and their errors."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import duckdb
import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import rasterio
import shapely
import xarray as xr
from matplotlib.colors import to_hex
from matplotlib.image import imread
from pyproj import CRS

from rasteret_assets.collection import as_collection
from rasteret_assets.errors import CollectionError, MissingExtraError, SpecError, WindowError

from .support import ORIGIN, UTM32, CountingBackend, noise, record, records_table, write_raster
from .test_get_numpy import box

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")
LEFT, TOP = ORIGIN
HERE = {"geometry_crs": UTM32}


def pixels(tmp_path: Path, name: str) -> np.ndarray:
    with rasterio.open(tmp_path / f"{name}.tif") as source:
        return source.read(1)


def test_dataset_has_one_grid_for_all_records(scenes, tmp_path):
    cube = scenes.get_xarray(box(80, 10, 150, 50), "fine", **HERE)
    assert dict(cube.sizes) == {"time": 2, "y": 50, "x": 150}
    assert cube["fine"].dtype == np.uint16
    assert list(cube["id"].to_numpy()) == ["s0", "s1"]
    np.testing.assert_array_equal(cube["time"], np.array(["2024-01-01T10", "2024-01-02T10"], "datetime64[ns]"))
    np.testing.assert_array_equal(cube["fine"][0, :, :120], pixels(tmp_path, "f0")[10:60, 80:])
    assert not cube["fine"][0, :, 120:].any()
    np.testing.assert_array_equal(cube["fine"][1, :, 20:], pixels(tmp_path, "f1")[10:60, :130])
    assert cube["x"].to_numpy()[0] == LEFT + 805
    assert cube["y"].to_numpy()[0] == TOP - 105


def test_dataset_is_understood_by_cf_readers(scenes, tmp_path):
    cube = scenes.get_xarray(box(0, 0, 50, 40), "fine", **HERE)
    mapping = cube[cube["fine"].attrs["grid_mapping"]].attrs
    assert CRS.from_cf(mapping).to_epsg() == 32632
    assert mapping["GeoTransform"] == f"{LEFT} 10.0 0.0 {TOP} 0.0 -10.0"
    assert cube["fine"].attrs["_FillValue"] == 0
    assert cube["x"].attrs["standard_name"] == "projection_x_coordinate"


def test_datetimes_beyond_nanoseconds_and_calendars(scenes):
    """Foreign tables may hold the end of 2499, beyond datetime64[ns], and the year 20000, beyond Python's datetimes."""
    table = scenes.to_table()
    seconds = [(year - 1970) * 31_556_952 for year in (2500, 20_000)]
    column = pa.array(seconds, pa.timestamp("s")).cast(pa.timestamp("ms"))
    far = as_collection(table.set_column(table.schema.get_field_index("datetime"), "datetime", column))
    cube = far.get_xarray(box(80, 10, 150, 50), "fine", **HERE)
    assert list(cube["id"].to_numpy()) == ["s0", "s1"]
    assert [str(moment)[:4] for moment in cube["time"].to_numpy()] == ["2499", "NaT"]
    assert far.plot().get_title(loc="left").endswith("2 footprints")


def test_a_masked_dataset_is_nan_without_data(scenes, tmp_path):
    area = shapely.Point(LEFT + 1500, TOP - 500).buffer(300)
    cube = scenes.get_xarray(area, "fine", masked=True, **HERE)
    assert cube["fine"].dtype == np.float32
    assert "_FillValue" not in cube["fine"].attrs
    expected = scenes.get_numpy(area, "fine", masked=True, **HERE)
    assert np.isfinite(cube["fine"].values).sum() == (~np.ma.getmaskarray(expected)).sum()


@pytest.mark.parametrize("options", [{}, {"resolution": 20, "resampling": "average"}, {"masked": True}], ids=str)
def test_lazy_datasets_read_only_the_pixels_that_are_computed(scenes, options):
    area, backend = box(0, 0, 300, 200), CountingBackend()
    lazy = scenes.get_xarray(area, "fine", chunks={"time": 1, "y": 64, "x": 100}, backend=backend, **HERE, **options)
    assert backend.ranges == []
    corner = lazy.isel(time=0, y=slice(10), x=slice(10)).compute()
    few = len(backend.ranges)
    assert few >= 1
    eager = scenes.get_xarray(area, "fine", **HERE, **options)
    xr.testing.assert_identical(lazy.compute(), eager)
    xr.testing.assert_identical(corner, eager.isel(time=0, y=slice(10), x=slice(10)))
    assert few < len(backend.ranges) - few
    with pytest.raises(SpecError, match=r"names \['band'\]"):
        scenes.get_xarray(area, "fine", chunks={"band": 1}, **HERE)


def test_bands_on_different_grids_need_an_option(scenes, tmp_path):
    with pytest.raises(WindowError, match="allow_resample=True or resolution="):
        scenes.get_numpy(box(0, 0, 40, 40), ["fine", "coarse"], **HERE)
    got = scenes.get_numpy(box(0, 0, 40, 40), ["fine", "coarse"], allow_resample=True, **HERE)
    assert got.shape == (1, 2, 40, 40)
    np.testing.assert_array_equal(got[0, 1], pixels(tmp_path, "c0")[:20, :20].repeat(2, 0).repeat(2, 1))
    both = scenes.get_xarray(box(0, 0, 40, 40), ["fine", "coarse"], resolution=20, **HERE)
    np.testing.assert_array_equal(both["coarse"][0], pixels(tmp_path, "c0")[:20, :20])


def test_records_of_several_crss_or_grids_need_an_option(scenes, tmp_path):
    far = write_raster(tmp_path / "z.tif", noise(rows=200, columns=200), crs="EPSG:32633", origin=(23_000, TOP + 9_000))
    off = write_raster(tmp_path / "o.tif", noise(rows=200, columns=200), origin=(LEFT + 3, TOP))
    rows = scenes.to_table().to_pylist()
    for path, message, remedy in ((far, "2 CRSs", {"target_crs": 32632}), (off, "do not coincide", {"resolution": 10})):
        extra = record("odd", {"fine": (path, 0), "coarse": (path, 0)}, footprint=shapely.from_wkb(rows[0]["geometry"]))
        mixed = as_collection(records_table([rows[0], extra], ["fine", "coarse"]))
        area = box(0, 0, 20, 20).buffer(9000)
        with pytest.raises(WindowError, match=f"{message}.*{next(iter(remedy))}="):
            mixed.get_xarray(area, "fine", **HERE)
        assert mixed.get_xarray(area, "fine", **HERE, **remedy).sizes["time"] == 2


def test_frame_has_a_row_for_each_record_area_and_band(scenes, tmp_path):
    fields = gpd.GeoDataFrame(
        {"field": ["north", "south"], "crop": [1, 2]}, geometry=[box(110, 0, 20, 30), box(110, 100, 20, 30)], crs=UTM32
    )
    frame = scenes.get_gdf(fields, ["fine", "coarse"], allow_resample=True)
    assert len(frame) == 8
    assert frame.crs == UTM32
    assert frame["record_id"].tolist() == ["s0"] * 4 + ["s1"] * 4
    assert frame["field"].tolist() == ["north", "north", "south", "south"] * 2
    assert frame["geometry_id"].tolist() == [0, 0, 1, 1] * 2
    first = frame.iloc[0]
    np.testing.assert_array_equal(first["data"], pixels(tmp_path, "f0")[0:30, 110:130])
    assert first["raster_transform"] == (10.0, 0.0, LEFT + 1100, 0.0, -10.0, TOP)
    assert first["nodata"] == 0
    assert first["cloud_cover"] == 10.0
    with pytest.raises(SpecError, match=r"\(band\): rename"):
        scenes.get_gdf(fields.rename(columns={"crop": "band"}), "fine")


def point_tables() -> list:
    x, y = np.array([LEFT + 1505.0, LEFT + 15.0]), np.array([TOP - 505.0, TOP - 1995.0])
    plain = pa.table({"plot": ["p", "q"], "x": x, "y": y})
    frame = gpd.GeoDataFrame({"plot": ["p", "q"]}, geometry=gpd.points_from_xy(x, y), crs=UTM32)
    wkb = pa.table({"plot": ["p", "q"], "geom": pa.array(shapely.to_wkb(shapely.points(x, y)))})
    return [
        pytest.param(lambda: plain, id="arrow"),
        pytest.param(plain.to_pandas, id="pandas"),
        pytest.param(lambda: duckdb.from_arrow(plain), id="duckdb"),
        pytest.param(lambda: frame, id="geopandas"),
        pytest.param(lambda: wkb, id="wkb"),
        pytest.param(lambda: plain.rename_columns(["plot", "Lon", "LAT"]), id="other names"),
    ]


@pytest.mark.parametrize("make", point_tables())
def test_points_of_every_table_keep_their_columns(scenes, tmp_path, make):
    got = scenes.sample_points(make(), ["fine", "coarse"], **HERE)
    assert got["plot"].to_pylist() == ["p"] * 4 + ["q"] * 2
    assert got["record_id"].to_pylist() == ["s0", "s0", "s1", "s1", "s0", "s0"]
    assert got["band"].to_pylist() == ["fine", "coarse"] * 3
    assert got["point_index"].to_pylist() == [0, 0, 0, 0, 1, 1]
    expected = [
        pixels(tmp_path, "f0")[50, 150], pixels(tmp_path, "c0")[25, 75], pixels(tmp_path, "f1")[50, 50],
        pixels(tmp_path, "c1")[25, 25], pixels(tmp_path, "f0")[199, 1], pixels(tmp_path, "c0")[99, 0],
    ]  # fmt: skip
    np.testing.assert_array_equal(got["value"].to_numpy(), np.array(expected, got["value"].to_numpy().dtype))


def test_points_keep_their_type_and_latest_is_one_record(scenes, tmp_path):
    table = pa.table({"x": [LEFT + 1505.0], "y": [TOP - 505.0]})
    latest = scenes.sample_points(table, "fine", match="latest", **HERE)
    assert latest["record_id"].to_pylist() == ["s1"]
    assert latest["value"].type == pa.uint16()
    first_day = {"date_range": ("2024-01-01", "2024-01-01")}
    assert scenes.sample_points(shapely.Point(LEFT + 1505, TOP - 505), "fine", **first_day, **HERE).num_rows == 1


@pytest.mark.parametrize(
    ("points", "options", "error", "message"),
    [
        (pa.table({"q": [1.0]}), {}, SpecError, r"\(q\).*geometry_column="),
        (pa.table({"x": [1.0], "y": [2.0]}), {"x_column": "x"}, SpecError, "give both"),
        (
            pa.table({"x": [1.0], "y": [2.0]}),
            {"x_column": "x", "y_column": "z"},
            SpecError,
            "y_column='z' is not a column",
        ),
        (pa.table({"x": [None], "y": [2.0]}), {}, WindowError, "point 0 has no finite x"),
        (pa.table({"x": ["a"], "y": ["b"]}), {}, SpecError, "does not hold coordinates"),
        (pa.table({"x": [5e5], "y": [5e6]}), {"geometry_crs": "auto"}, WindowError, "geometry_crs='EPSG:...'"),
        (shapely.box(0, 0, 1, 1), {}, SpecError, "is a Polygon, not a Point"),
        (shapely.Point(), {}, WindowError, "missing or empty"),
        (shapely.Point(0, 0), {"match": "first"}, SpecError, "must be one of 'all', 'latest'"),
        (shapely.Point(LEFT + 9e4, TOP), {}, WindowError, "no record meets the points"),
        ([], {}, WindowError, "points is empty"),
    ],
)
def test_wrong_points_are_refused(scenes, points, options, error, message):
    with pytest.raises(error, match=message):
        scenes.sample_points(points, "fine", **{**HERE, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cloud": 3}, "unknown argument 'cloud'"),
        ({"resampling": "best"}, "must be one of nearest"),
        ({"resolution": 0}, "not the size of a pixel"),
        ({"resolution": "fine"}, "neither a number nor a pair"),
        ({"target_crs": "EPSG:1"}, "not a known CRS"),
        ({"on_error": "ignore"}, "must be one of 'raise', 'mask'"),
        ({"max_concurrent": 0}, "whole number of requests, 1 or more"),
        ({"geometry_column": "geom"}, "needs a table"),
    ],
)
def test_wrong_options_are_refused(scenes, options, message):
    with pytest.raises(SpecError, match=message):
        scenes.get_numpy(box(0, 0, 9, 9), "fine", **{**HERE, **options})


def test_areas_in_tables(scenes):
    table = pa.table({"name": ["a"], "where": [box(0, 0, 5, 5).wkb]})
    assert scenes.get_numpy(table, "fine", geometry_column="where", **HERE).shape == (1, 5, 5)
    with pytest.raises(SpecError, match="geometry_column"):
        scenes.get_numpy(table, "fine", **HERE)
    found = scenes.subset(geometries=duckdb.from_arrow(table), geometry_column="where", geometry_crs=UTM32)
    assert len(found) == 1


def test_splits(scenes):
    assert len(scenes.subset(split="train")) == 2
    assert len(scenes.subset(split=["test", "validation"])) == 0
    without = as_collection(scenes.to_table(["id", "datetime", "geometry", "bbox", "assets", "fine_metadata"]))
    with pytest.raises(CollectionError, match="needs the column 'split'"):
        without.subset(split="train")


@pytest.mark.parametrize(
    ("module", "call", "extra"),
    [
        ("xarray", lambda c: c.get_xarray(box(0, 0, 9, 9), "fine", **HERE), "xarray"),
        ("geopandas", lambda c: c.get_gdf(box(0, 0, 9, 9), "fine", **HERE), "geopandas"),
        ("rasterio", lambda c: c.get_numpy(box(0, 0, 9, 9), "fine", resolution=7, **HERE), "warp"),
        ("torchgeo.datasets", lambda c: c.to_torchgeo_dataset("fine"), "torchgeo"),
        ("pyogrio", lambda c: c.to_gti("x.gti.gpkg", "fine"), "gti"),
        ("exactextract", lambda c: c.zonal(box(0, 0, 9, 9), "fine", **HERE), "zonal"),
    ],
)
def test_missing_packages_are_named_with_their_extra(scenes, monkeypatch, module, call, extra):
    for name in [name for name in sys.modules if name.split(".")[0] == module.split(".")[0]]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module.split(".")[0], None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'rasteret-assets\[{extra}\]'"):
        call(scenes)


def test_footprints_are_drawn_where_they_lie(scenes):
    axes = scenes.plot()
    west, east = axes.get_xlim()
    assert west < scenes.bounds[0] < scenes.bounds[2] < east
    assert "scenes: 2 footprints" in axes.get_title(loc="left")
    assert scenes.plot(axes) is axes
    assert to_hex(scenes.plot(color="#ff4d6d").collections[-1].get_edgecolor()[0]) == "#ff4d6d"
    assert "first 1 footprint" in scenes.plot(limit=1).get_title(loc="left")
    with pytest.raises(WindowError, match="no footprint to draw"):
        scenes.subset(date_range=("1999", "1999")).plot()
    assert "scenes: 2 footprints</text>" in scenes._repr_html_()


def test_footprints_over_the_antimeridian_lie_side_by_side():
    halves = shapely.MultiPolygon([shapely.box(179, 0, 180, 1), shapely.box(-180, 0, -179.5, 1)])
    table = records_table([record("r", footprint=halves, bbox=(179, 0, -179.5, 1))], bands=())
    west, east = as_collection(table, require_band_metadata=False).plot().get_xlim()
    assert east - west < 3


def test_previews_show_the_clearest_record(scenes, tmp_path):
    picture = scenes.preview(box(110, 10, 60, 40), "fine", geometry_crs=UTM32)
    assert picture.record == "s1"
    assert picture.pixels.shape == (40, 60, 4)
    image = imread(io.BytesIO(picture.png))
    np.testing.assert_array_equal((image * 255).round().astype(np.uint8), picture.pixels)
    grey = pixels(tmp_path, "f1")[10:50, 10:70]
    assert (np.diff(picture.pixels[..., 0].ravel()[np.argsort(grey, axis=None)].astype(int)) >= 0).all()
    whole = scenes.preview("s0", ["fine", "coarse", "fine"][:1], size=50)
    assert whole.pixels.shape == (50, 50, 4)
    assert whole.save(tmp_path / "p.png").read_bytes() == whole._repr_png_()
    with pytest.raises(CollectionError, match="no record 'nobody'"):
        scenes.preview("nobody")
    with pytest.raises(WindowError, match=r"one band \(grey\) or three"):
        scenes.preview("s0", ["fine", "coarse"])


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (lambda scenes, path: scenes.preview("s0", "fine").save(path), "p.png"),
        (lambda scenes, path: scenes.explore().save(path), "p.html"),
        (lambda scenes, path: scenes.to_gti(path), "p.gti.gpkg"),
        (lambda scenes, path: scenes.export(path), "p"),
        (lambda scenes, path: scenes.export(path, None), "p.parquet"),
    ],
)
def test_a_target_that_cannot_be_written_is_named(scenes, tmp_path, write, name):
    place = tmp_path / "place"
    place.write_text("a file, and not a folder")
    with pytest.raises(CollectionError) as caught:
        write(scenes, place / name)
    advice = "choose a folder that may be written to, on a disk with room"
    assert str(caught.value) == f"{place / name} cannot be written (Not a directory): {advice}"


def test_values_of_pandas_are_not_needed(scenes):
    frame = pd.DataFrame({"lon": [9.0], "lat": [45.15]})
    assert scenes.sample_points(frame, "fine").num_rows >= 1
