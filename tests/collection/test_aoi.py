"""Areas of interest are read in all forms that people have."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
import shapely

from rasteret_assets.collection.areas.area import coerce_areas
from rasteret_assets.errors import SpecError, WindowError

SQUARE = shapely.box(9, 45, 10, 46)
TRIANGLE = shapely.Polygon([(9, 45), (10, 45), (9, 46)])
GEOJSON = json.loads(shapely.to_geojson(TRIANGLE))
FEATURE = {"type": "Feature", "properties": {}, "geometry": GEOJSON}


@pytest.mark.parametrize(
    "value",
    [
        TRIANGLE,
        [TRIANGLE],
        TRIANGLE.wkb,
        memoryview(TRIANGLE.wkb),
        TRIANGLE.wkt,
        GEOJSON,
        json.dumps(GEOJSON),
        FEATURE,
        {"type": "FeatureCollection", "features": [FEATURE]},
        pa.array([TRIANGLE.wkb]),
        pa.array([TRIANGLE.wkb], pa.large_binary()),
        pa.chunked_array([[TRIANGLE.wkt]]),
        np.array([TRIANGLE]),
        (shape for shape in [TRIANGLE]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_areas_in_all_forms_are_the_same(value):
    (area,) = coerce_areas(value)
    assert area.geometry.equals(TRIANGLE)
    assert area.crs == "OGC:CRS84"
    assert not area.is_box


@pytest.mark.parametrize("value", [(9, 45, 10, 46), [9.0, 45.0, 10.0, 46.0], np.array([9, 45, 10, 46])])
def test_four_numbers_are_a_box(value):
    (area,) = coerce_areas(value)
    assert area.geometry.equals(SQUARE)
    assert area.is_box


@pytest.mark.parametrize("value", [SQUARE, SQUARE.wkt, [SQUARE], shapely.MultiPolygon([SQUARE])], ids=str)
def test_a_square_polygon_is_a_polygon(value):
    (area,) = coerce_areas(value)
    assert not area.is_box


def test_box_over_the_antimeridian_is_two():
    (area,) = coerce_areas((179, -1, -179, 1))
    assert area.is_box
    assert area.geometry.bounds == (-180, -1, 180, 1)
    assert area.geometry.area == pytest.approx(4)
    (edge,) = coerce_areas((180, -1, -179, 1))
    assert edge.geometry.bounds == (-180, -1, -179, 1)


def test_several_keep_their_order():
    areas = coerce_areas([SQUARE, (0, 0, 1, 1), TRIANGLE.wkb, {"type": "FeatureCollection", "features": [FEATURE] * 2}])
    assert [area.geometry.area for area in areas] == [1, 1, 0.5, 0.5, 0.5]


def test_the_crs_of_a_geodataframe_is_used():
    geopandas = pytest.importorskip("geopandas")
    frame = geopandas.GeoDataFrame({"n": [1]}, geometry=[TRIANGLE], crs="EPSG:4326").to_crs("EPSG:32632")
    for value in (frame, frame.geometry):
        (area,) = coerce_areas(value)
        assert area.crs == "EPSG:32632"
        assert shapely.hausdorff_distance(area.lonlat(), TRIANGLE) < 5e-3
    (area,) = coerce_areas(frame.set_crs(None, allow_override=True))
    assert area.crs == "OGC:CRS84"


def test_stated_crs_and_geometry_crs():
    (area,) = coerce_areas(shapely.set_srid(TRIANGLE, 32632))
    assert area.crs == "EPSG:32632"
    ewkb = shapely.to_wkb(shapely.set_srid(TRIANGLE, 3857), include_srid=True)
    assert coerce_areas(ewkb)[0].crs == "EPSG:3857"
    assert coerce_areas(ewkb, 32632)[0].crs == "EPSG:32632"
    assert coerce_areas(TRIANGLE, "EPSG:4326")[0].crs == "OGC:CRS84"


def test_the_crs_of_a_geoarrow_array_is_used():
    geoarrow = pytest.importorskip("geoarrow.pyarrow")
    array = geoarrow.wkb().with_crs("EPSG:32632").wrap_array(pa.array([TRIANGLE.wkb]))
    (area,) = coerce_areas(array)
    assert area.crs == "EPSG:32632"
    assert area.geometry.equals(TRIANGLE)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "int is not an area"),
        (object(), "object is not an area"),
        ("POLYGON 3", "'POLYGON 3' is not an area"),
        ("{oops", "is not an area"),
        (b"junk", "is not an area"),
        ({"no": "type"}, "without a GeoJSON 'type'"),
        ({"type": "Blob", "coordinates": []}, "is not an area"),
        (pa.array([1, 2]), "Arrow array of int64"),
    ],
)
def test_other_objects_are_refused(value, message):
    with pytest.raises(SpecError, match=message):
        coerce_areas(value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "geometries is empty"),
        (None, "missing"),
        ([SQUARE, None], r"area 1 of 2 \(counted from 0\) is missing: leave it out"),
        (shapely.Polygon(), "empty"),
        (pa.array([None], pa.binary()), "missing"),
        ({"type": "Feature", "geometry": None}, "missing"),
        (shapely.Polygon([(0, 0), (1, 1), (1, 0), (0, 1)]), "make_valid"),
        (shapely.Polygon([(0, 0), (float("inf"), 0), (1, 1)]), "not finite"),
        ((1, 2, 3, -4), "ymin <= ymax"),
    ],
)
def test_missing_and_invalid_geometries_are_refused(value, message):
    with pytest.raises(WindowError, match=message):
        coerce_areas(value)


def test_an_unknown_crs_is_refused():
    with pytest.raises(SpecError, match="'EPSG:999999' is not a known CRS"):
        coerce_areas(SQUARE, "EPSG:999999")
