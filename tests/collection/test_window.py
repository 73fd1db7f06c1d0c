"""Windows and masks equal rasterio's, by property."""

from __future__ import annotations

import math

import numpy as np
import pytest
import rasterio.features
import rasterio.windows
import shapely
import shapely.affinity
from affine import Affine
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rasteret_assets.collection.areas.grid import Grid, Window
from rasteret_assets.collection.pixels import masks
from rasteret_assets.collection.pixels.masks import covered
from rasteret_assets.errors import WindowError

from .support import EXAMPLES

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

position = st.floats(-30, 90, allow_nan=False).map(lambda value: round(value, 4))
sizes = st.integers(1, 60)


def grid_of(width: int, height: int, scale: float = 1.0, origin: tuple[float, float] = (0.0, 0.0)) -> Grid:
    return Grid(width=width, height=height, scale_x=scale, scale_y=-scale, origin_x=origin[0], origin_y=origin[1])


def affine_of(grid: Grid) -> Affine:
    return Affine(grid.scale_x, 0, grid.origin_x, 0, grid.scale_y, grid.origin_y)


@given(width=sizes, height=sizes, x=st.tuples(position, position), y=st.tuples(position, position))
def test_window_is_rasterios_rounded_outward_and_clipped(width, height, x, y):
    (xmin, xmax), (ymin, ymax) = sorted(x), sorted(-value for value in y)
    assume(xmax - xmin > 1e-3)
    assume(ymax - ymin > 1e-3)
    grid = grid_of(width, height, scale=10.0, origin=(500_000.0, 5_000_000.0))
    bounds = (500_000 + 10 * xmin, 5_000_000 + 10 * ymin, 500_000 + 10 * xmax, 5_000_000 + 10 * ymax)
    raw = rasterio.windows.from_bounds(*bounds, affine_of(grid))
    edges = (raw.col_off, raw.col_off + raw.width, raw.row_off, raw.row_off + raw.height)
    # Only bounds within a hundred-thousandth of a border may be rounded either way.
    assume(all(not 1e-8 < abs(value - round(value)) < 1e-5 for value in edges))
    left, right, top, bottom = (round(value, 6) for value in edges)
    columns = range(max(math.floor(left), 0), min(math.ceil(right), width))
    rows = range(max(math.floor(top), 0), min(math.ceil(bottom), height))
    got = grid.window(bounds)
    if not columns or not rows:
        assert got is None
    else:
        assert got == Window(col_off=columns[0], row_off=rows[0], width=len(columns), height=len(rows))


@given(st.data())
def test_bounds_of_a_window_give_it_back(data):
    grid = grid_of(100, 80, scale=0.1, origin=(7.3, 46.1))
    column, row = data.draw(st.integers(0, 99)), data.draw(st.integers(0, 79))
    width, height = data.draw(st.integers(1, 100 - column)), data.draw(st.integers(1, 80 - row))
    window = Window(col_off=column, row_off=row, width=width, height=height)
    assert grid.window(grid.part(window).bounds) == window


@given(st.integers(0, 500), st.integers(0, 500), sizes, sizes, st.integers(1, 64), st.integers(1, 64))
def test_tiles_are_exactly_those_that_overlap(column, row, width, height, tile_width, tile_height):
    window = Window(col_off=column, row_off=row, width=width, height=height)
    tiles = list(window.tiles(tile_width, tile_height))
    assert len(tiles) == len(set(tiles))
    pixels = 0
    for tile_row, tile_column in tiles:
        tile = Window(
            col_off=tile_column * tile_width, row_off=tile_row * tile_height, width=tile_width, height=tile_height
        )
        shared = window.overlap(tile)
        assert shared is not None
        pixels += shared.width * shared.height
    assert pixels == width * height


def test_point_is_the_pixel_that_holds_it():
    grid = grid_of(10, 10)
    assert grid.window((3.5, -2.5, 3.5, -2.5)) == Window(col_off=3, row_off=2, width=1, height=1)
    assert grid.window((3.0, -2.0, 3.0, -2.0)) == Window(col_off=3, row_off=2, width=1, height=1)
    assert grid.window((10.0, -2.0, 12.0, -1.0)) is None


def test_no_window_without_pixels():
    with pytest.raises(WindowError, match="at least one pixel"):
        Window(col_off=0, row_off=0, width=0, height=1)
    with pytest.raises(WindowError, match="not a pixel grid"):
        grid_of(10, 10, scale=0.0)


# In quarters of pixels, so that vertices lie on borders and centres, where rules differ.
quarter = st.integers(-20, 140).map(lambda value: value / 4)
smooth = st.floats(-5, 35, allow_nan=False).map(lambda value: round(value, 3))


@st.composite
def polygons(draw, coordinate):
    points = draw(st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=12))
    hull = shapely.MultiPoint(points).convex_hull if draw(st.booleans()) else shapely.Polygon(points)
    shape = shapely.make_valid(hull)
    parts = [part for part in shapely.get_parts(shape) if part.geom_type == "Polygon" and part.area > 1e-3]
    assume(parts)
    if draw(st.booleans()):
        parts = [part.reverse() for part in parts]
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)


def rasterio_mask(shape, grid: Grid, window: Window, *, all_touched: bool):
    transform = affine_of(grid) @ Affine.translation(window.col_off, window.row_off)
    return rasterio.features.geometry_mask([shape], window.shape, transform, all_touched=all_touched, invert=True)


@settings(max_examples=80)
@given(polygons(smooth))
def test_centre_rule_is_rasterios(shape):
    grid, window = grid_of(40, 40, origin=(-3.0, 33.0)), Window(col_off=2, row_off=1, width=33, height=29)
    differ = covered(shape, grid, window) != rasterio_mask(shape, grid, window, all_touched=False)
    # A centre on the outline may belong to either side, by rounding.
    rows, columns = np.nonzero(differ)
    xmin, _, _, ymax = grid.part(window).bounds
    assert (shapely.distance(shape.boundary, shapely.points(xmin + columns + 0.5, ymax - rows - 0.5)) < 1e-9).all()


@settings(max_examples=80)
@given(polygons(quarter))
def test_centre_rule_on_centres_and_borders(shape):
    grid, window = grid_of(40, 40, origin=(0.0, 30.0)), Window(col_off=0, row_off=0, width=30, height=30)
    ours = covered(shape, grid, window)
    theirs = rasterio_mask(shape, grid, window, all_touched=False)
    # A centre on the outline may belong to either side, because GDAL decides by the direction of the ring.
    columns, rows = np.meshgrid(np.arange(30) + 0.5, 30 - np.arange(30) - 0.5)
    on_outline = shapely.intersects_xy(shape.boundary, columns, rows)
    np.testing.assert_array_equal(ours[~on_outline], theirs[~on_outline])


def assert_only_grazed(shape, grid: Grid, window: Window, pixels, reach: float):
    """Assert that the shape touches, or nearly touches, every masked pixel, but enters none."""
    for row, column in np.argwhere(pixels):
        pixel = Window(col_off=window.col_off + int(column), row_off=window.row_off + int(row), width=1, height=1)
        xmin, ymin, xmax, ymax = grid.part(pixel).bounds
        assert shape.intersects(shapely.box(xmin - reach, ymin - reach, xmax + reach, ymax + reach))
        assert not shape.intersects(shapely.box(xmin + reach, ymin + reach, xmax - reach, ymax - reach))


@settings(max_examples=80)
@given(polygons(smooth))
def test_all_touched_is_rasterios(shape):
    grid, window = grid_of(40, 40, origin=(-3.0, 33.0)), Window(col_off=2, row_off=1, width=33, height=29)
    ours = covered(shape, grid, window, all_touched=True)
    theirs = rasterio_mask(shape, grid, window, all_touched=True)
    # Pixels that the outline only grazes, by a hundredth or at a corner, may count or not.
    assert_only_grazed(shape, grid, window, ours != theirs, reach=0.02)


@settings(max_examples=25)
@given(polygons(quarter))
def test_all_touched_is_every_pixel_whose_inside_is_shared(shape):
    grid, window = grid_of(40, 40, origin=(0.0, 30.0)), Window(col_off=0, row_off=0, width=30, height=30)
    ours = covered(shape, grid, window, all_touched=True)
    columns, rows = np.meshgrid(np.arange(30), np.arange(30))
    pixels = shapely.box(columns, 30 - rows - 1, columns + 1, 30 - rows)
    # Because GDAL takes an edge that leaves a column or row by less than a hundredth of a pixel for straight.
    assert ours[shapely.area(shapely.intersection(pixels, shape)) > 0.01].all()
    assert not ours[shapely.area(shapely.intersection(pixels, shape.buffer(0.01))) == 0].any()


def test_all_touched_of_an_aligned_rectangle_adds_nothing():
    grid, window = grid_of(40, 40, origin=(0.0, 40.0)), Window(col_off=0, row_off=0, width=40, height=40)
    shape = shapely.Polygon(shapely.box(3, 5, 20, 17).exterior, [shapely.box(6, 8, 9, 10).exterior])
    expected = np.zeros((40, 40), bool)
    expected[23:35, 3:20] = True
    expected[30:32, 6:9] = False
    for all_touched in (False, True):
        np.testing.assert_array_equal(covered(shape, grid, window, all_touched=all_touched), expected)
        np.testing.assert_array_equal(rasterio_mask(shape, grid, window, all_touched=all_touched), expected)


@st.composite
def rings(draw, coordinate):
    """Draw a polygon without holes from vertices: a rectangle, a hull or a star."""
    if draw(st.booleans()):
        (left, right), (bottom, top) = (sorted(draw(st.tuples(coordinate, coordinate))) for _ in range(2))
        ring = shapely.box(left, bottom, right, top)
    else:
        points = np.array(draw(st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=9, unique=True)))
        x, y = (points - points.mean(axis=0)).T
        ring = shapely.Polygon(points[np.argsort(np.arctan2(y, x), kind="stable")])
        if draw(st.booleans()):
            ring = ring.convex_hull
    assume(ring.geom_type == "Polygon" and ring.is_valid and ring.area > 0)
    return ring.reverse() if draw(st.booleans()) else ring


@st.composite
def drawn_vertices(draw, coordinate):
    """Polygons with holes and multipolygons all of whose vertices are drawn ones, and stairs of several rectangles."""
    if draw(st.booleans()):
        boxes = draw(st.lists(st.tuples(*[coordinate] * 4), min_size=2, max_size=6))
        stairs = shapely.union_all([shapely.box(min(a, b), min(c, d), max(a, b), max(c, d)) for a, b, c, d in boxes])
        parts = [part for part in shapely.get_parts(stairs) if part.geom_type == "Polygon" and part.area > 0]
        assume(parts)
        return shapely.MultiPolygon(parts)
    shape = draw(rings(coordinate))
    second = draw(rings(coordinate))
    # The second is a hole where it lies in the first, else another part where it lies apart.
    for both in (shapely.Polygon(shape.exterior, [second.exterior]), shapely.MultiPolygon([shape, second])):
        if both.is_valid:
            return both
    return shape


# Whole numbers put vertices on corners of pixels and edges on borders; halves put both on centres.
whole = st.integers(-8, 34).map(float)
half = st.integers(-16, 68).map(lambda value: value / 2)
near = st.integers(3, 21).map(float)


@settings(max_examples=EXAMPLES)
@given(st.one_of(drawn_vertices(whole), drawn_vertices(half), drawn_vertices(near)))
def test_all_touched_on_corners_and_borders_is_rasterios(shape):
    grid, window = grid_of(60, 60, origin=(-16.0, 42.0)), Window(col_off=16, row_off=18, width=24, height=24)
    ours = covered(shape, grid, window, all_touched=True)
    theirs = rasterio_mask(shape, grid, window, all_touched=True)
    # GDAL's own answer depends on the window where an edge leaves it, and on rounding.
    wider = rasterio_mask(shape, grid, grid.whole, all_touched=True)[window.slices]
    # By rounding GDAL also counts some pixels that an edge passes at a corner.
    assert_only_grazed(shape, grid, window, (ours != theirs) & (ours != wider), reach=1e-9)


@settings(max_examples=EXAMPLES)
@given(drawn_vertices(smooth))
def test_all_touched_with_holes_and_parts_is_rasterios(shape):
    grid, window = grid_of(40, 40, origin=(-3.0, 33.0)), Window(col_off=2, row_off=5, width=27, height=29)
    ours = covered(shape, grid, window, all_touched=True)
    theirs = rasterio_mask(shape, grid, window, all_touched=True)
    wider = rasterio_mask(shape, grid, grid.whole, all_touched=True)[window.slices]
    # Pixels at vertices a hundredth of a pixel apart, or a ten-thousandth from a border, may count or not.
    assert_only_grazed(shape, grid, window, (ours != theirs) & (ours != wider), reach=0.02)


@pytest.mark.parametrize("pieces", [1, 7, 1 << 16])
@pytest.mark.parametrize("size", [30, 300])
def test_masks_of_many_edges_are_rasterios(monkeypatch, pieces, size):
    monkeypatch.setattr(masks, "_PIECES", pieces)
    grid = grid_of(size, size, origin=(0.0, float(size)))
    window = grid.whole
    angle = np.linspace(0, 2 * np.pi, 2000, endpoint=False)
    parts = []
    for centre, radius in ((0.3, 0.27), (0.72, 0.25)):
        radii = size * radius * (1 + 0.2 * np.sin(7 * angle + centre) + 0.05 * np.sin(311 * angle))
        ring = size * centre + np.column_stack([radii * np.cos(angle), radii * np.sin(angle)])
        parts.append(shapely.Polygon(ring, [shapely.Point(size * centre, size * centre).buffer(size / 9).exterior]))
    # The second part reaches beyond the window.
    shape = shapely.MultiPolygon([parts[0], shapely.affinity.translate(parts[1], size * 0.1, size * 0.05)])
    assert shape.is_valid
    for all_touched in (False, True):
        expected = rasterio_mask(shape, grid, window, all_touched=all_touched)
        np.testing.assert_array_equal(covered(shape, grid, window, all_touched=all_touched), expected)


def test_rectangles_aligned_but_for_rounding_touch_no_more():
    grid, window = grid_of(60, 60, scale=0.1, origin=(7.3, 46.1)), Window(col_off=5, row_off=4, width=50, height=50)
    for first in range(6, 40):
        shape = shapely.box(7.3 + first * 0.1, 46.1 - (first + 11) * 0.1, 7.3 + (first + 9) * 0.1, 46.1 - first * 0.1)
        ours = covered(shape, grid, window, all_touched=True)
        assert np.count_nonzero(ours) == 9 * 11
        np.testing.assert_array_equal(ours, rasterio_mask(shape, grid, window, all_touched=True))


def test_area_far_beyond_the_window_is_cut_off():
    grid, window = grid_of(20, 20, origin=(0.0, 20.0)), Window(col_off=3, row_off=2, width=9, height=11)
    assert covered(shapely.box(-1e12, -1e12, 1e12, 1e12), grid, window, all_touched=True).all()
    assert not covered(shapely.box(100, 100, 1e12, 1e12), grid, window, all_touched=True).any()
