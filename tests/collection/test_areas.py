"""Areas across longitude 180 and over the poles, projected and in lon/lat, against pyproj and rasterio."""

from __future__ import annotations

import functools
import re

import numpy as np
import pyproj
import pytest
import rasterio
import shapely
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from rasterio.features import geometry_mask

from rasteret_assets.collection import as_collection
from rasteret_assets.collection.areas.reproject import crs_name, reproject, tear_of
from rasteret_assets.errors import SpecError, WindowError

from .support import CountingBackend, noise, record, records_table, write_raster

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")
LONLAT = "OGC:CRS84"
WORLD = shapely.box(-180, -90, 180, 90)


@functools.cache
def transformer(source, target):
    return pyproj.Transformer.from_crs(source, target, always_xy=True)


def opened(*rows):
    return as_collection(records_table(rows), require_band_metadata=False)


def ids(collection):
    return sorted(collection.to_table(["id"])["id"].to_pylist())


def raster(path, *, crs="EPSG:4326", origin, resolution, rows=100, columns=100):
    """Write a raster whose pixels are numbered from 1, with nodata 0."""
    numbers = np.arange(1, rows * columns + 1, dtype="int32").reshape(1, rows, columns)
    return write_raster(path, numbers, crs=crs, origin=origin, resolution=resolution, nodata=0)


def centres_of(source):
    """Return longitude and latitude of the centres of all pixels."""
    column, row = np.meshgrid(np.arange(source.width), np.arange(source.height))
    scale_x, _, x, _, scale_y, y = source.transform[:6]
    centres = x + (column.ravel() + 0.5) * scale_x, y + (row.ravel() + 0.5) * scale_y
    return np.array(transformer(source.crs.to_wkt(), LONLAT).transform(*centres))


def pixels_in(path, area, crs, *, by=0.0):
    """Return the numbers of the pixels whose centre pyproj puts into an area, grown by so many units of its CRS."""
    with rasterio.open(path) as source:
        lon, lat = centres_of(source)
        x, y = transformer(LONLAT, crs).transform(lon, lat)
        middle = transformer(crs, LONLAT).transform(area.centroid.x, area.centroid.y)
        # Without the other side of the world, where places may have the same projected coordinates.
        with np.errstate(invalid="ignore"):  # pixels beyond the edge of the world have no longitude
            side = np.cos(np.radians(lat)) * np.cos(np.radians(lon - middle[0])) * np.cos(np.radians(middle[1]))
            side += np.sin(np.radians(lat)) * np.sin(np.radians(middle[1]))
        inside = shapely.contains_xy(area.buffer(by, join_style="mitre"), x, y) & (side > 0)
        return set(source.read(1).ravel()[inside].tolist())


def values(got):
    return set(np.ma.compressed(got).tolist())


CRSS = {
    "UTM 60": ("EPSG:32660", (150_000, 100_000, 1_200_000, 8_500_000), 600_000),
    "UTM 1": ("EPSG:32601", (-200_000, 100_000, 850_000, 8_500_000), 600_000),
    "UTM 60 south": ("EPSG:32760", (150_000, 1_500_000, 1_200_000, 9_900_000), 600_000),
    "Alaska": ("EPSG:3338", (-3_000_000, 300_000, 1_500_000, 2_500_000), 2_000_000),
    "New Zealand": ("EPSG:2193", (1_500_000, 4_800_000, 2_600_000, 6_200_000), 600_000),
    "Antarctic": ("EPSG:3031", (-4_000_000, -4_000_000, 4_000_000, 4_000_000), 4_000_000),
    "Arctic": ("EPSG:3995", (-4_000_000, -4_000_000, 4_000_000, 4_000_000), 4_000_000),
    "sea ice": ("EPSG:3413", (-4_000_000, -4_000_000, 4_000_000, 4_000_000), 4_000_000),
    "Bering Sea": ("EPSG:3571", (-3_000_000, -3_000_000, 3_000_000, 3_000_000), 4_000_000),
}  # fmt: skip


@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), name=st.sampled_from(sorted(CRSS)))
def test_a_record_is_selected_if_pyproj_puts_it_into_the_area(data, name):
    crs, (left, bottom, right, top), widest = CRSS[name]

    def between(low, high):
        return data.draw(st.floats(low, high, allow_subnormal=False))

    x, y = between(left, right), between(bottom, top)
    width, height = between(1000, widest), between(1000, widest)
    area = shapely.box(x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    if data.draw(st.booleans()):  # a triangle with the box's bounds
        west, south, east, north = area.bounds
        area = shapely.Polygon([(west, south), (east, (south + north) / 2), (west, north)])
    places = [(between(x - width, x + width), between(y - height, y + height)) for _ in range(8)]
    lon, lat = transformer(crs, LONLAT).transform(*np.array([*places, (x, y)]).T)
    assume(np.isfinite([lon, lat]).all())
    # Places on the outline may count or not, because the course of edges is rounded.
    near = 3e-6 * np.hypot(width, height) + 1e-3
    kept = [n for n, place in enumerate(places) if area.exterior.distance(shapely.Point(place)) > near]
    rows = [record(str(n), footprint=shapely.Point(lon[n], lat[n])) for n in kept]
    expected = sorted(str(n) for n in kept if area.contains(shapely.Point(places[n])))
    assert ids(opened(*rows).subset(geometries=area, geometry_crs=crs)) == expected


@pytest.mark.parametrize(
    ("crs", "origin", "inside", "outside"),
    [
        ("EPSG:32660", (620_000, 5_850_000), (640_000, 5_790_000, 760_000, 5_830_000), (100_000, 5e6, 110_000, 5.01e6)),
        ("EPSG:32601", (220_000, 5_850_000), (240_000, 5_790_000, 360_000, 5_830_000), (600_000, 5e6, 610_000, 5.01e6)),
        ("EPSG:3031", (-100_000, 90_000), (-50_000, -40_000, 50_000, 40_000), (3e5, 3e5, 4e5, 4e5)),
        ("EPSG:3995", (-100_000, 90_000), (-50_000, -40_000, 50_000, 40_000), (3e5, 3e5, 4e5, 4e5)),
    ],
)
def test_all_outputs_read_an_area_over_the_edge_of_the_map(tmp_path, crs, origin, inside, outside):
    path = raster(tmp_path / "a.tif", crs=crs, origin=origin, resolution=2000)
    outline = reproject(shapely.box(*rasterio.open(path).bounds), crs_name(crs), LONLAT)
    west, _, east, _ = outline.bounds
    around = (west, east) if outline.geom_type == "Polygon" else (179.0, -179.0)
    box = {"footprint": outline, "bbox": (around[0], outline.bounds[1], around[1], outline.bounds[3])}
    scenes, here = opened(record("r", {"B": (path, 0)}, **box)), {"geometry_crs": crs, "backend": CountingBackend()}
    polygon = shapely.Polygon([inside[:2], (inside[2], inside[1]), inside[2:], (inside[0] + 1000, inside[3])])
    with rasterio.open(path) as source:
        expected = source.read(1, window=rasterio.windows.from_bounds(*inside, source.transform))
        masked = set(source.read(1)[geometry_mask([polygon], source.shape, source.transform, invert=True)].tolist())
    np.testing.assert_array_equal(scenes.get_numpy(inside, "B", **here)[0], expected)
    np.testing.assert_array_equal(scenes.get_xarray(inside, "B", **here)["B"][0], expected)
    np.testing.assert_array_equal(scenes.get_gdf(inside, "B", **here)["data"][0], expected)
    assert values(scenes.get_numpy(polygon, "B", masked=True, **here)) == masked
    x, y = np.mean(inside[::2]), np.mean(inside[1::2])
    got = scenes.sample_points(shapely.Point(x + 1000, y + 1000), "B", **here)["value"].to_pylist()
    assert set(got) <= masked
    assert len(got) == 1
    assert ids(scenes.subset(geometries=polygon, geometry_crs=crs)) == ["r"]
    assert ids(scenes.subset(geometries=shapely.box(*outside), geometry_crs=crs)) == []


@pytest.mark.parametrize("source", ["EPSG:32660", "EPSG:32601", "EPSG:3338"])
@pytest.mark.parametrize("target", ["EPSG:4326", "EPSG:3857", "EPSG:3832", "EPSG:6933", "ESRI:54009", "EPSG:3995"])
def test_pixels_of_a_world_raster_under_a_projected_area(tmp_path, source, target):
    extent = 2.0e7 if target != "EPSG:4326" else 180
    path = raster(
        tmp_path / "world.tif", crs=target, origin=(-extent, extent / 2), resolution=extent / 200, rows=200, columns=400
    )
    x, y = transformer(LONLAT, source).transform(180, 60)
    polygon = shapely.Polygon([(x - 8e5, y - 6e5), (x + 8e5, y - 5e5), (x + 7e5, y + 6e5), (x - 7e5, y + 5e5)])
    scenes = opened(record("w", {"B": (path, 0)}, footprint=WORLD))
    got = values(scenes.get_numpy(polygon, "B", geometry_crs=source, masked=True, backend=CountingBackend()))
    surely, perhaps = (pixels_in(path, polygon, source, by=by) for by in (-2000, 2000))
    assert surely
    assert surely <= got <= perhaps


@pytest.mark.parametrize("crs", ["EPSG:3857", "EPSG:4326", "EPSG:6933", "EPSG:3832", "EPSG:4269"])
def test_a_box_over_180_takes_both_edges_of_a_world_raster_and_nothing_between(tmp_path, crs):
    left, right = (-180, 180) if crs in {"EPSG:4326", "EPSG:4269"} else tear_of(crs_name(crs)).ends
    path = raster(
        tmp_path / "w.tif", crs=crs, origin=(left, right), resolution=(right - left) / 400, rows=400, columns=400
    )
    scenes = opened(record("w", {"B": (path, 0)}, footprint=WORLD))
    got = values(scenes.get_numpy((177, 40, -178, 52), "B", masked=True, backend=CountingBackend()))
    with rasterio.open(path) as source:
        lon, lat = centres_of(source)
        numbers = source.read(1).ravel()
    surely, perhaps = (
        set(numbers[((lon - 177 + by) % 360 < 5 + 2 * by) & (lat > 40 - by) & (lat < 52 + by)].tolist())
        for by in (0, 1)
    )
    assert surely
    assert surely <= got <= perhaps


@pytest.mark.parametrize(
    ("origin", "columns", "boxes"),
    [
        ((175.0, 10.0), 1000, {(-179.5, 2, -178, 4): (550, 700), (179, 2, -179, 4): (400, 600)}),
        (
            (0.0, 10.0),
            36000,
            {(-10, 2, -5, 4): (35000, 35500), (170, 2, -170, 4): (17000, 19000), (5, 2, 9, 4): (500, 900)},
        ),
        ((-185.0, 10.0), 1000, {(176, 2, 178, 4): (100, 300), (-179, 2, -178, 4): (600, 700)}),
        ((-180.0, 10.0), 36000, {(185, 2, 190, 4): (500, 1000)}),
    ],
)
def test_rasters_that_run_past_180(tmp_path, origin, columns, boxes):
    path = raster(tmp_path / "a.tif", origin=origin, resolution=0.01, rows=900, columns=columns)
    scenes = opened(record("r", {"B": (path, 0)}, footprint=WORLD))
    with rasterio.open(path) as source:
        data = source.read(1)
    for box, (first, last) in boxes.items():
        expected = data[600:800, first:last]
        np.testing.assert_array_equal(scenes.get_numpy(box, "B", backend=CountingBackend())[0], expected)
        point = shapely.Point(box[0] + 0.005, 2.005)
        assert scenes.sample_points(point, "B")["value"].to_pylist() == [int(expected[-1, 0])]
        turned = shapely.Point(point.x - 360 if point.x > 0 else point.x + 360, 2.005)
        assert scenes.sample_points(turned, "B")["value"].to_pylist() == [int(expected[-1, 0])]
    cube = scenes.get_xarray(next(iter(boxes)), "B", chunks={"x": 64, "y": 64})
    first, last = next(iter(boxes.values()))
    np.testing.assert_array_equal(cube["B"][0].to_numpy(), data[600:800, first:last])


def test_a_box_over_the_ends_of_a_raster_is_masked_in_lazy_cubes_too(tmp_path):
    path = raster(tmp_path / "a.tif", origin=(0.0, 45.0), resolution=1, rows=90, columns=360)
    scenes = opened(record("r", {"B": (path, 0)}, footprint=WORLD))
    eager = scenes.get_xarray((-10, 0, 10, 5), "B")["B"].to_numpy()
    lazy = scenes.get_xarray((-10, 0, 10, 5), "B", chunks={"x": 50})["B"].to_numpy()
    np.testing.assert_array_equal(lazy, eager)
    assert np.count_nonzero(eager) == 20 * 5
    assert (eager[0, :, :10] > 0).all()
    assert (eager[0, :, -10:] > 0).all()


def test_rectangles_of_a_multipolygon_are_masked_as_polygons_are(tmp_path):
    path = write_raster(tmp_path / "a.tif", noise(rows=100, columns=100), nodata=0)
    with rasterio.open(path) as source:
        left, top = source.transform.c, source.transform.f
        fields = shapely.MultiPolygon(
            [
                shapely.box(left + 53, top - 250, left + 157, top - 104),
                shapely.box(left + 500, top - 900, left + 640, top - 700),
            ]
        )
        inside = geometry_mask([fields], source.shape, source.transform, invert=True)
    scenes = opened(record("r", {"B": (path, 0)}))
    got = scenes.get_numpy(fields, "B", geometry_crs=32632, masked=True, backend=CountingBackend())
    window = inside[10:90, 5:64]
    assert got.shape == (1, *window.shape)
    np.testing.assert_array_equal(~np.ma.getmaskarray(got[0]), window)
    both = scenes.get_xarray([tuple(part.bounds) for part in fields.geoms], "B", geometry_crs=32632, masked=True)
    assert int(both["B"].notnull().sum()) == 11 * 15 + 14 * 20


@pytest.mark.parametrize("target", [3857, 4326, 6933, "ESRI:54009"])
@pytest.mark.parametrize("form", ["box", "polygon"])
def test_a_target_grid_around_the_world_is_refused(tmp_path, target, form):
    path = raster(tmp_path / "a.tif", crs="EPSG:32660", origin=(701_000, 5_800_000), resolution=100)
    outline = reproject(shapely.box(*rasterio.open(path).bounds), "EPSG:32660", LONLAT)
    scenes = opened(record("r", {"B": (path, 0)}, footprint=outline, bbox=(179.9, 52.1, -179.9, 52.4)))
    area = (179.95, 52.2, -179.95, 52.3)
    ask = {"target_crs": target, "backend": CountingBackend()}
    if form == "polygon":
        area, ask["geometry_crs"] = shapely.Point(706_000, 5_790_000).buffer(3000), 32660
    for read in (scenes.get_numpy, scenes.get_xarray, scenes.get_gdf):
        with pytest.raises(WindowError, match=r"both sides of the antimeridian.*target_crs"):
            read(area, "B", **ask)
    ask["target_crs"] = 3338
    assert scenes.get_numpy(area, "B", resolution=500, **ask).size < 2000


def test_a_target_grid_beyond_all_bounds_is_refused(tmp_path):
    path = raster(tmp_path / "a.tif", crs="EPSG:32632", origin=(500_000, 5_000_000), resolution=100)
    scenes = opened(record("r", {"B": (path, 0)}))
    area = (9.01, 45.08, 9.05, 45.12)
    for read in (scenes.get_numpy, scenes.get_xarray, scenes.get_gdf):
        with pytest.raises(WindowError, match=r"would have \d+ x \d+ pixels of 1e-08.*coarser resolution"):
            read(area, "B", target_crs=4326, resolution=1e-8, backend=CountingBackend())
    with pytest.raises(WindowError, match="would have"):
        scenes.get_xarray(area, "B", target_crs=4326, resolution=1e-12, chunks="auto")
    lazy = scenes.get_xarray(area, "B", target_crs=4326, resolution=5e-7, chunks={"x": 1000, "y": 1000})
    assert lazy["B"].size > 2**31


@pytest.mark.parametrize("crs", [4326, 3857, None])
@pytest.mark.parametrize("resolution", [1e-7, (1e-8, 3e-6), 1e-11])
def test_the_resolution_that_a_refusal_names_is_not_refused(tmp_path, crs, resolution):
    """One that fits in memory, for all areas of the read; chunks are only asked how large the grid would be."""
    path = raster(tmp_path / "a.tif", crs="EPSG:32632", origin=(500_000, 5_000_000), resolution=100)
    scenes = opened(record("r", {"B": (path, 0)}))
    areas = [shapely.box(9.01, 45.08, 9.011, 45.081), shapely.box(9.01, 45.08, 9.05, 45.09)]
    for read, most in ((scenes.get_numpy, 2**31), (scenes.get_xarray, 2**31)):
        with pytest.raises(WindowError, match="would have") as caught:
            read(areas, "B", target_crs=crs, resolution=resolution, backend=CountingBackend())
        fits = float(re.search(r"from (\S+) on it fits", str(caught.value))[1])
        sizes = [
            scenes.get_xarray(area, "B", target_crs=crs, resolution=fits, chunks={"x": 5000, "y": 5000})["B"].size
            for area in areas
        ]
        assert 0.98 * most < max(sizes) <= most


def test_the_resolution_named_for_chunks_is_not_refused(tmp_path):
    path = raster(tmp_path / "a.tif", crs="EPSG:32632", origin=(500_000, 5_000_000), resolution=100)
    scenes = opened(record("r", {"B": (path, 0)}))
    area = (9.01, 45.08, 9.05, 45.09)
    chunks = {"x": 100_000, "y": 100_000}
    with pytest.raises(WindowError, match="would have") as caught:
        scenes.get_xarray(area, "B", resolution=1e-9, chunks=chunks)
    fits = float(re.search(r"piece by piece, from (\S+) on$", str(caught.value))[1])
    assert 0.98 * 2**42 < scenes.get_xarray(area, "B", resolution=fits, chunks=chunks)["B"].size <= 2**42


def test_where_planes_are_torn():
    assert tear_of(LONLAT).ends == (-180, 180)
    assert tear_of("EPSG:4269").ends == (-180, 180)
    for crs, longitude in {"EPSG:3857": -180, "EPSG:3832": -30, "EPSG:3338": 26, "ESRI:54030": -180}.items():
        assert tear_of(crs).longitude == longitude
    assert tear_of("EPSG:3857").period == pytest.approx(2 * 20037508.342789244, abs=1e-6)
    for crs in ("EPSG:32660", "EPSG:3031", "EPSG:3413", "EPSG:3571", "EPSG:2193"):
        assert tear_of(crs) is None


@pytest.mark.parametrize("crs", ["EPSG:4978", "EPSG:5773", 'LOCAL_CS["plan",UNIT["metre",1]]'])
@pytest.mark.parametrize("argument", ["geometry_crs", "target_crs"])
def test_a_crs_without_map_coordinates_is_refused(scenes, argument, crs):
    area = shapely.box(500_000, 4_999_600, 500_400, 5_000_000)
    options = {"geometry_crs": "EPSG:32632", argument: crs}
    with pytest.raises(SpecError, match="has no map coordinates: write a geographic or projected CRS"):
        scenes.get_numpy(area, "fine", **options)
    with pytest.raises(SpecError, match="has no map coordinates"):
        scenes.footprints(crs=crs)
