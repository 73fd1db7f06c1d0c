"""Footprints in every form, their boxes, and the curve they are sorted along."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyproj
import pytest
import shapely
from hypothesis import example, given
from hypothesis import strategies as st

from rasteret_assets.errors import RecordError
from rasteret_assets.geometry import (
    GeometryColumn,
    decode_geometries,
    describe_geometry,
    hilbert_distance,
    to_lonlat,
    wkb_types,
)
from rasteret_assets.records._footprint_columns import (
    bbox_structs,
    encode_wkb,
    invalid_footprints,
    portable_footprints,
    read_footprints,
)

SQUARE = shapely.box(10, 45, 11, 46)
PLAIN = GeometryColumn()


def decoded(column: pa.Array, described: GeometryColumn = PLAIN) -> np.ndarray:
    geometries, unreadable = decode_geometries(column, described)
    assert not unreadable.any()
    return geometries


@pytest.mark.parametrize(
    "column",
    [
        pa.array([shapely.to_wkb(SQUARE), None], pa.binary()),
        pa.array([shapely.to_wkb(SQUARE), None], pa.large_binary()),
        pa.array([shapely.to_wkb(SQUARE), None], pa.binary_view()),
        pa.array([shapely.to_wkb(SQUARE, byte_order=0), None], pa.binary()),
        pa.array([shapely.to_wkb(SQUARE), None], pa.binary()).dictionary_encode(),
        pa.array([shapely.to_wkb(SQUARE, hex=True), None]),
        pa.array([shapely.to_wkt(SQUARE), None]),
        pa.array([f"SRID=4326;{shapely.to_wkt(SQUARE)}", None]),
        pa.array([shapely.to_geojson(SQUARE), None], pa.large_string()),
        pa.array([json.loads(shapely.to_geojson(SQUARE)), None]),
    ],
    ids=lambda column: str(column.type)[:20],
)
def test_every_spelling_of_a_footprint_is_read(column: pa.Array) -> None:
    first, second = decoded(column)
    assert shapely.equals(first, SQUARE)
    assert second is None


@pytest.mark.parametrize("interleaved", [False, True])
def test_native_geoarrow_layouts_are_read(interleaved: bool) -> None:
    multi = shapely.MultiPolygon([SQUARE, shapely.box(20, 45, 21, 46, ccw=False)])
    kind, coordinates, offsets = shapely.to_ragged_array(np.array([multi, multi], object))
    if interleaved:
        level: pa.Array = pa.FixedSizeListArray.from_arrays(pa.array(coordinates.ravel()), 2)
    else:
        level = pa.StructArray.from_arrays([pa.array(coordinates[:, 0]), pa.array(coordinates[:, 1])], names=["x", "y"])
    for part in offsets:
        level = pa.ListArray.from_arrays(pa.array(part.astype(np.int32)), level)
    field = pa.field("geometry", level.type, metadata={b"ARROW:extension:name": b"geoarrow.multipolygon"})
    with_null = pa.concat_arrays([level.slice(1), pa.nulls(1, level.type), level.slice(0, 1)])
    first, gap, last = decoded(with_null, describe_geometry(field))
    assert gap is None
    assert shapely.equals(first, multi)
    assert shapely.equals(last, multi)
    assert kind == shapely.GeometryType.MULTIPOLYGON


def test_unreadable_rows_and_null_rows_are_distinguished() -> None:
    column = pa.array([b"\x01\x03", None, b"", shapely.to_wkb(SQUARE)], pa.binary())
    geometries, unreadable = decode_geometries(column, PLAIN)
    assert unreadable.tolist() == [True, False, True, False]
    assert shapely.equals(geometries[3], SQUARE)


def test_a_column_that_holds_no_geometries_is_refused() -> None:
    with pytest.raises(RecordError, match="type int64 cannot hold geometries"):
        decode_geometries(pa.array([1, 2]), PLAIN)


def test_a_footer_states_the_crs_and_the_extension_wins_over_it() -> None:
    mercator = pyproj.CRS(3857)
    footer = {b"geo": json.dumps({"columns": {"geometry": {"crs": mercator.to_json_dict()}}}).encode()}
    field = pa.field("geometry", pa.binary())
    projected = shapely.transform(
        np.array([SQUARE], object), pyproj.Transformer.from_crs(4326, 3857, always_xy=True).transform, interleaved=False
    )
    (back,) = to_lonlat(projected, describe_geometry(field, footer))
    assert np.allclose(shapely.bounds(back), shapely.bounds(SQUARE))
    extension = {b"ARROW:extension:name": b"geoarrow.wkb", b"ARROW:extension:metadata": b'{"crs": "OGC:CRS84"}'}
    (same,) = to_lonlat(np.array([SQUARE], object), describe_geometry(field.with_metadata(extension), footer))
    assert same is SQUARE


def test_ewkb_srids_place_each_row() -> None:
    projected = shapely.set_srid(shapely.Point(1113194.9079327357, 5621521.486192066), 3857)
    plain = shapely.set_srid(shapely.Point(10, 45), 4326)
    column = pa.array([shapely.to_wkb(g, include_srid=True) for g in (projected, plain)], pa.binary())
    result = to_lonlat(decoded(column), PLAIN)
    assert np.allclose(shapely.get_coordinates(result), [[10, 45], [10, 45]])
    assert shapely.get_srid(shapely.from_wkb(encode_wkb(result)[0].as_py())) == 0


def test_ewkt_srids_place_each_row() -> None:
    column = pa.array(
        ["SRID=3857;POINT (1113194.9079327357 5621521.486192066)", " srid=4326;POINT (10 45)", "POINT (10 45)"]
    )
    assert np.allclose(shapely.get_coordinates(to_lonlat(decoded(column), PLAIN)), [[10, 45]] * 3)


@pytest.mark.parametrize(
    "curve", ["CIRCULARSTRING (0 0, 1 1, 2 0)", "SRID=99999999999999999999;POINT (0 0)", "POINT (1"]
)
def test_one_unreadable_footprint_leaves_the_others(curve: str) -> None:
    geometries, unreadable = decode_geometries(pa.array(["POINT (10 45)", curve, None]), PLAIN)
    assert geometries.tolist() == [shapely.Point(10, 45), None, None]
    assert unreadable.tolist() == [False, True, False]


def test_a_curve_in_wkb_leaves_the_others() -> None:
    point = shapely.to_wkb(shapely.Point(10, 45))
    curve = bytes.fromhex("01 08000000 01000000") + point[5:]
    geometries, unreadable = decode_geometries(pa.array([point, curve], pa.binary()), PLAIN)
    assert geometries.tolist() == [shapely.Point(10, 45), None]
    assert unreadable.tolist() == [False, True]


@given(st.binary(max_size=40))
def test_any_bytes_are_a_geometry_or_unreadable(value: bytes) -> None:
    geometries, unreadable = decode_geometries(pa.array([value], pa.binary()), PLAIN)
    assert (geometries[0] is None) == unreadable[0]


def test_text_that_is_not_marked_as_text_is_read() -> None:
    texts = ["POINT (10 45)", '{"type": "Point", "coordinates": [10, 45]}', "SRID=4326;POINT (10 45)"]
    column = pa.array([shapely.to_wkb(shapely.Point(10, 45)), *(text.encode() for text in texts), b"\xff"], pa.binary())
    geometries, unreadable = decode_geometries(column, PLAIN)
    assert all(shapely.equals(geometries[:4], shapely.Point(10, 45)))
    assert unreadable.tolist() == [False] * 4 + [True]


def test_an_unknown_crs_is_refused() -> None:
    footer = {b"geo": b'{"columns": {"geometry": {"crs": null}}}'}
    with pytest.raises(RecordError, match="crs: null"):
        to_lonlat(np.array([SQUARE], object), describe_geometry(pa.field("geometry", pa.binary()), footer))


def test_boxes_of_empty_and_missing_footprints_are_null() -> None:
    boxes = bbox_structs(np.array([SQUARE, None, shapely.Polygon()], object))
    assert boxes.to_pylist() == [{"xmin": 10, "ymin": 45, "xmax": 11, "ymax": 46}, None, None]


@pytest.mark.parametrize(
    "geometry",
    [
        shapely.MultiPolygon([shapely.box(178, -10, 180, 0), shapely.box(-180, -10, -177, 0)]),
        shapely.box(178, -10, 183, 0),
        shapely.box(-182, -10, -177, 0),
    ],
)
def test_boxes_across_the_antimeridian_run_from_east_to_west(geometry: shapely.Geometry) -> None:
    (box,) = bbox_structs(np.array([geometry], object)).to_pylist()
    assert (box["xmin"], box["xmax"]) == (178, -177)


def test_a_footprint_of_the_whole_earth_keeps_its_box() -> None:
    globe = shapely.MultiPolygon([shapely.box(-180, -90, 180, 0), shapely.box(-180, 10, 180, 90)])
    (box,) = bbox_structs(np.array([globe], object)).to_pylist()
    assert (box["xmin"], box["xmax"]) == (-180, 180)


@pytest.mark.parametrize(("west", "east"), [(0, 360), (-10, 350), (-180, 180), (-360, 0), (-200, 200)])
def test_a_footprint_all_the_way_round_spans_the_earth(west: float, east: float) -> None:
    belt = np.array([shapely.box(west, 0, east, 60)])
    assert bbox_structs(belt).to_pylist() == [{"xmin": -180.0, "ymin": 0.0, "xmax": 180.0, "ymax": 60.0}]
    (published,) = portable_footprints(belt)
    assert published.bounds == (-180, 0, 180, 60)
    assert published.area == pytest.approx(360 * 60)


def test_a_footprint_of_almost_the_whole_way_round_keeps_its_gap() -> None:
    (box,) = bbox_structs(np.array([shapely.box(0, -90, 359.75, 90)])).to_pylist()
    assert (box["xmin"], box["xmax"]) == (0, -0.25)


def test_footprints_that_cannot_be_on_earth_are_named() -> None:
    with np.errstate(invalid="ignore"):
        broken = shapely.Polygon([(0, 0), (1, float("nan")), (1, 1)])
    reasons = invalid_footprints(np.array([SQUARE, shapely.box(199980, 2690220, 2e5, 3e6), broken, None], object))
    assert reasons[0] is None
    assert "not in degrees (it starts at x=199980, y=2690220)" in reasons[1]
    assert "not finite" in reasons[2]
    assert reasons[3] is None


def test_footprints_are_published_within_the_map() -> None:
    box, triangle = shapely.box(-190, 0, -170, 3), shapely.from_wkt("POLYGON Z ((179 0 5, 181 0 5, 181 1 5, 179 0 5))")
    given = np.array([box, triangle, shapely.Point(190, 3), shapely.Polygon(), None, SQUARE], object)
    portable = portable_footprints(given)
    assert portable[0].equals(shapely.MultiPolygon([shapely.box(170, 0, 180, 3), shapely.box(-180, 0, -170, 3)]))
    assert portable[1].has_z
    assert np.allclose(portable[1].area, triangle.area)
    assert set(shapely.get_coordinates(portable[1], include_z=True)[:, 2]) == {5}
    assert shapely.bounds(portable[1]).tolist()[::2] == [-180, 180]
    assert portable[2] == shapely.Point(-170, 3)
    assert portable[3] is None
    assert portable[4] is None
    assert portable[5] is SQUARE
    assert bbox_structs(portable).equals(bbox_structs(given))


def test_geometry_types_are_geoparquets() -> None:
    with_z, with_m, with_zm = (shapely.from_wkt(f"POINT {axes}") for axes in ("Z (1 2 3)", "M (4 5 6)", "ZM (7 8 9 0)"))
    geometries = np.array([SQUARE, None, with_z, with_zm, shapely.MultiPolygon([SQUARE])], object)
    encoded = encode_wkb(geometries)
    assert wkb_types(encoded) == {"MultiPolygon", "Point Z", "Polygon"}
    assert wkb_types(encoded.slice(1, 2)) == {"Point Z"}
    assert wkb_types(encoded.slice(1, 1)) == set()
    assert wkb_types(encode_wkb(np.array([with_m]))) == {"Point"}


def test_the_curve_visits_every_cell_and_steps_to_a_neighbour() -> None:
    order, side = 4, 16
    lon, lat = np.meshgrid((np.arange(side) + 0.5) * 360 / side - 180, (np.arange(side) + 0.5) * 180 / side - 90)
    boxes = bbox_structs(shapely.points(lon.ravel(), lat.ravel()))
    distance = hilbert_distance(boxes, order)
    assert sorted(distance.tolist()) == list(range(side * side))
    walk = np.argsort(distance)
    steps = np.abs(np.diff(walk % side)) + np.abs(np.diff(walk // side))
    assert (steps == 1).all()


@given(st.lists(st.tuples(st.floats(-180, 180), st.floats(-90, 90)), min_size=1, max_size=20))
def test_the_order_of_a_record_does_not_depend_on_the_others(points: list[tuple[float, float]]) -> None:
    geometries = shapely.points(np.array(points))
    together = hilbert_distance(bbox_structs(geometries))
    alone = [hilbert_distance(bbox_structs(geometries[i : i + 1]))[0] for i in range(len(points))]
    assert together.tolist() == [int(value) for value in alone]


def test_records_without_a_box_come_last() -> None:
    distance = hilbert_distance(bbox_structs(np.array([None, SQUARE], object)))
    assert distance[0] > distance[1]


RINGS = st.lists(st.tuples(st.floats(-400, 400), st.floats(-100, 100)), min_size=3, max_size=6).map(
    lambda points: shapely.polygons([*points, points[0]])
)
ODD = st.sampled_from(
    [
        None, shapely.Point(1, 2), shapely.Point(1, float("nan")), shapely.Polygon(), shapely.box(170, 0, 190, 1),
        shapely.box(0, 0, 9, 9).difference(shapely.box(1, 1, 2, 2)),
        shapely.MultiPolygon([shapely.box(179, 0, 180, 1), shapely.box(-180, 0, -179, 1)]),
    ]
)  # fmt: skip


#: Coordinates so near to 0 that their products underflow, in a ring that crosses 180.
TINY = shapely.Polygon([(0, -1), (-1.5e-269, 3.5e-264), (181, 1), (0, 0), (-1e-246, 0), (1, -1)])


@example([TINY])
@given(st.lists(RINGS | ODD | st.just(SQUARE), max_size=8))
def test_rings_are_read_from_their_bytes_as_geometry_objects_would_be(geometries):
    column = pa.array([None if g is None else shapely.to_wkb(g, byte_order=1) for g in geometries], pa.binary())
    padded = pa.concat_arrays([pa.array([b"x"], pa.binary()), column]).slice(1)
    found, expected = read_footprints(padded, PLAIN), read_footprints(column.cast(pa.large_binary()), PLAIN)
    assert found.wkb.equals(expected.wkb)
    assert found.bbox.equals(expected.bbox)
    assert found.misplaced.tolist() == expected.misplaced.tolist()
    assert found.unreadable.tolist() == expected.unreadable.tolist()


@pytest.mark.parametrize("crs", ["EPSG:4978", "EPSG:5773", 'LOCAL_CS["plan",UNIT["metre",1]]'])
def test_a_crs_without_map_coordinates_is_refused(crs: str) -> None:
    with pytest.raises(RecordError, match="has no map coordinates"):
        to_lonlat(np.array([SQUARE], object), GeometryColumn(crs=crs))
