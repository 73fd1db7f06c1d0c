"""Windows and masks against rasterio, by property."""

from __future__ import annotations

import math

import numpy as np
import pytest
import rasterio.features
import rasterio.windows
import shapely
from affine import Affine
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rasteret_assets.collection.areas.grid import Grid, Window
from rasteret_assets.collection.areas.mask import covered
from rasteret_assets.errors import WindowError

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
    # What lies within a hundred-thousandth of a border may go either way; nothing else may.
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
    with pytest.raises(WindowError, match="no pixel grid"):
        grid_of(10, 10, scale=0.0)


# Quarters put vertices on borders and centres of pixels, where rules differ first.
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
    # Where rounding decides, a centre on the outline belongs to either side.
    rows, columns = np.nonzero(differ)
    xmin, _, _, ymax = grid.part(window).bounds
    assert (shapely.distance(shape.boundary, shapely.points(xmin + columns + 0.5, ymax - rows - 0.5)) < 1e-9).all()


@settings(max_examples=80)
@given(polygons(quarter))
def test_centre_rule_on_centres_and_borders(shape):
    grid, window = grid_of(40, 40, origin=(0.0, 30.0)), Window(col_off=0, row_off=0, width=30, height=30)
    ours = covered(shape, grid, window)
    theirs = rasterio_mask(shape, grid, window, all_touched=False)
    # A centre on the outline itself belongs to either side, and GDAL decides by the direction of the ring.
    columns, rows = np.meshgrid(np.arange(30) + 0.5, 30 - np.arange(30) - 0.5)
    on_outline = shapely.intersects_xy(shape.boundary, columns, rows)
    np.testing.assert_array_equal(ours[~on_outline], theirs[~on_outline])


@settings(max_examples=80)
@given(polygons(smooth))
def test_all_touched_is_rasterios(shape):
    grid, window = grid_of(40, 40, origin=(-3.0, 33.0)), Window(col_off=2, row_off=1, width=33, height=29)
    ours = covered(shape, grid, window, all_touched=True)
    theirs = rasterio_mask(shape, grid, window, all_touched=True)
    rows, columns = np.nonzero(ours != theirs)
    # GDAL walks along an outline, and pixels that it only grazes, by a hundredth or at a corner, fall either way.
    for row, column in zip(rows, columns, strict=True):
        pixel = Window(col_off=window.col_off + int(column), row_off=window.row_off + int(row), width=1, height=1)
        xmin, ymin, xmax, ymax = grid.part(pixel).bounds
        grown = shapely.box(xmin - 0.02, ymin - 0.02, xmax + 0.02, ymax + 0.02)
        shrunk = shapely.box(xmin + 0.02, ymin + 0.02, xmax - 0.02, ymax - 0.02)
        assert shape.intersects(grown)
        assert not shape.intersects(shrunk)


@settings(max_examples=25)
@given(polygons(quarter))
def test_all_touched_is_every_pixel_whose_inside_is_shared(shape):
    grid, window = grid_of(40, 40, origin=(0.0, 30.0)), Window(col_off=0, row_off=0, width=30, height=30)
    ours = covered(shape, grid, window, all_touched=True)
    columns, rows = np.meshgrid(np.arange(30), np.arange(30))
    pixels = shapely.box(columns, 30 - rows - 1, columns + 1, 30 - rows)
    assert ours[shapely.area(shapely.intersection(pixels, shape)) > 1e-6].all()
    # What only looks like sharing may be a sliver: grown by a rounding error, the polygon must reach inside.
    assert not ours[shapely.area(shapely.intersection(pixels, shape.buffer(1e-6))) == 0].any()


def test_all_touched_of_an_aligned_rectangle_adds_nothing():
    grid, window = grid_of(40, 40, origin=(0.0, 40.0)), Window(col_off=0, row_off=0, width=40, height=40)
    shape = shapely.Polygon(shapely.box(3, 5, 20, 17).exterior, [shapely.box(6, 8, 9, 10).exterior])
    expected = np.zeros((40, 40), bool)
    expected[23:35, 3:20] = True
    expected[30:32, 6:9] = False
    for all_touched in (False, True):
        np.testing.assert_array_equal(covered(shape, grid, window, all_touched=all_touched), expected)
        np.testing.assert_array_equal(rasterio_mask(shape, grid, window, all_touched=all_touched), expected)
