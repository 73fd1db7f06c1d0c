"""Footprints of record tables in a projected CRS, over longitude 180 and over the poles; pyproj is the oracle."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyproj
import pytest
import shapely

from rasteret_assets.geometry import GeometryColumn
from rasteret_assets.records._footprint_columns import read_footprints


def published(crs, *geometries):
    """Footprints and boxes of geometries in ``crs``."""
    column = pa.array([None if one is None else shapely.to_wkb(one) for one in geometries], pa.binary())
    found = read_footprints(column, GeometryColumn(crs=crs))
    return shapely.from_wkb(found.wkb.to_pylist()), found.bbox.to_pylist(), found.misplaced


@pytest.mark.parametrize(
    ("crs", "box"),
    [
        ("EPSG:32660", (680_000, 5_740_000, 740_000, 5_800_000)),
        ("EPSG:32601", (260_000, 5_740_000, 320_000, 5_800_000)),
        ("EPSG:32760", (680_000, 4_000_000, 900_000, 4_400_000)),
        ("EPSG:3035", (2_400_000, 500_000, 7_400_000, 5_500_000)),
        ("EPSG:3338", (-2_200_000, 350_000, 1_500_000, 2_400_000)),
        ("EPSG:3031", (-3e6, -3e6, 3e6, 3e6)),
        ("EPSG:3031", (0, 0, 3e6, 3e6)),
        ("EPSG:3031", (-3e6, 1, 3e6, 3e6)),
        ("EPSG:3995", (-1e6, -2e6, 3e6, 1e6)),
        ("EPSG:3413", (-1e5, -1e5, 1e5, 2e5)),
        ("EPSG:32660", (400_000, 9_900_000, 600_000, 10_100_000)),
        ("EPSG:3857", (19_900_000, -1e6, 20_200_000, 1e6)),
        ("EPSG:2193", (1_900_000, 5_600_000, 2_300_000, 6_000_000)),
    ],
)
def test_a_footprint_covers_its_raster_and_nothing_beside_it(crs, box):
    (outline,), _, _ = published(crs, shapely.box(*box))
    west, south, east, north = box
    u, v = map(np.ravel, np.meshgrid(np.linspace(-0.5, 1.5, 41), np.linspace(-0.5, 1.5, 41)))
    x, y = west + u * (east - west), south + v * (north - south)
    lon, lat = pyproj.Transformer.from_crs(crs, "OGC:CRS84", always_xy=True).transform(x, y)
    got = shapely.intersects_xy(outline, np.clip(lon, -180, 180), lat)  # pyproj says -180.00000000000003 too
    within = (np.minimum(u, v) > 0.001) & (np.maximum(u, v) < 0.999)
    # Places on the outline may be on either side of it; lon/lat that do not come back lie beyond what the CRS can say.
    back = pyproj.Transformer.from_crs("OGC:CRS84", crs, always_xy=True).transform(lon, lat)
    known = (np.hypot(back[0] - x, back[1] - y) < 1) & ~(within ^ ((u >= 0) & (u <= 1) & (v >= 0) & (v <= 1)))
    assert outline.is_valid
    assert -180 <= outline.bounds[0] <= outline.bounds[2] <= 180
    np.testing.assert_array_equal(got[known], within[known])
    assert within[known].any()


def test_boxes_over_180_run_from_east_to_west_and_those_over_a_pole_around_it():
    _, (over,), _ = published("EPSG:32660", shapely.box(680_000, 5_740_000, 740_000, 5_800_000))
    assert 179 < over["xmin"] < 180
    assert -180 < over["xmax"] < -179
    _, (pole,), _ = published("EPSG:3031", shapely.box(-1e6, -1e6, 1e6, 1e6))
    assert (pole["xmin"], pole["ymin"], pole["xmax"]) == (-180, -90, 180)


def test_a_hole_over_the_pole_stays_open():
    ring = shapely.box(-3e6, -3e6, 3e6, 3e6).difference(shapely.box(-1e6, -1e6, 1e6, 1e6))
    (outline,), _, _ = published("EPSG:3995", ring)
    assert not outline.intersects(shapely.Point(0, 90))
    assert not outline.intersects(shapely.Point(120, 85))
    assert outline.intersects(shapely.box(179.9, 70, 180, 71))


def test_rows_of_all_kinds_keep_their_place():
    box = shapely.box(500_000, 5_000_000, 510_000, 5_010_000)
    rows = [box, None, shapely.Polygon(), shapely.MultiPolygon([box, shapely.transform(box, lambda xy: xy + 20_000)]),
            shapely.Point(706_000, 5_790_000), shapely.LineString([(700_000, 5_790_000), (720_000, 5_790_000)]),
            shapely.box(680_000, 5_740_000, 740_000, 5_800_000)]  # fmt: skip
    found, boxes, misplaced = published("EPSG:32660", *rows)
    kinds = ["Polygon", None, None, "MultiPolygon", "Point", "MultiLineString", "MultiPolygon"]
    assert [one and one.geom_type for one in found] == kinds
    assert [one is None for one in boxes] == [kind is None for kind in kinds]
    assert not any(misplaced)


def test_a_footprint_beyond_its_projection_is_reported():
    _, _, (reason, none) = published("EPSG:3571", shapely.box(2e7, 2e7, 3e7, 3e7), shapely.box(0, 0, 1e5, 1e5))
    assert "not finite" in reason
    assert none is None
