"""Random windows, polygons, points and warps: every pixel equals rasterio's.

A few dozen of each are drawn by default; ``READ_EXAMPLES=1000`` draws a thousand.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import rasterio
import rasterio.mask
import rasterio.warp
import rasterio.windows
import shapely
from affine import Affine
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT

from rasteret_assets.collection import Collection, as_collection

from .support import EXAMPLES, noise, record, records_table, write_raster

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

BORDER = 12

drawn = settings(
    max_examples=EXAMPLES, derandomize=EXAMPLES < 100, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A raster, its collection, and an area in the raster's CRS."""

    path: Path
    collection: Collection
    crs: str
    resolution: float

    @property
    def transform(self) -> Affine:
        with rasterio.open(self.path) as source:
            return source.transform


RASTERS = {
    "utm": {"crs": "EPSG:32632", "dtype": "uint16", "nodata": 0, "compress": "deflate", "predictor": 2},
    "utm south": {"crs": "EPSG:32719", "dtype": "int16", "nodata": -9999, "compress": "lzw",
                  "origin": (350_000.0, 6_300_000.0)},
    "mercator": {"crs": "EPSG:3857", "dtype": "float32", "nodata": float("nan"), "compress": "zstd", "predictor": 3,
                 "origin": (1_000_000.0, 6_000_000.0)},
    "lonlat": {"crs": "EPSG:4326", "dtype": "uint8", "nodata": None, "resolution": 0.001, "origin": (8.25, 47.5)},
    "laea": {"crs": "EPSG:3035", "dtype": "float64", "nodata": -1.5, "resolution": 30.0,
             "origin": (4_321_000.0, 3_210_000.0)},
    "polar": {"crs": "EPSG:3413", "dtype": "int32", "nodata": None, "resolution": 100.0,
              "origin": (-400_000.0, -1_200_000.0), "interleave": "band"},
}  # fmt: skip


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    folder = tmp_path_factory.mktemp("rasters")
    made = {}
    for seed, (name, profile) in enumerate(RASTERS.items()):
        options = dict(profile)
        data = noise(options.pop("dtype"), rows=231, columns=317, seed=seed)
        if options["nodata"] is not None:
            data[0, 40:90, 100:180] = options["nodata"]
        path = write_raster(folder / f"{name}.tif", data, **options)
        table = records_table([record("r", {"B": (path, 0)})])
        made[name] = Case(path, as_collection(table), options["crs"], options.get("resolution", 10.0))
    return made


names = st.sampled_from(sorted(RASTERS))
fractions = st.floats(0, 1, allow_nan=False)


def bounds_of(case: Case, draws: list[float]) -> tuple[float, float, float, float]:
    """Draw a box that overlaps the raster, up to half of it outside."""
    with rasterio.open(case.path) as source:
        left, bottom, right, top = source.bounds
    (x0, x1), (y0, y1) = sorted(draws[:2]), sorted(draws[2:])
    width, height = right - left, top - bottom
    x0, x1 = left + (x0 * 1.4 - 0.2) * width, left + (x1 * 1.4 - 0.2) * width
    y0, y1 = bottom + (y0 * 1.4 - 0.2) * height, bottom + (y1 * 1.4 - 0.2) * height
    # At least a pixel wide, and at least partly inside.
    x0, x1 = min(x0, right - case.resolution), max(x1, x0 + case.resolution, left + case.resolution)
    y0, y1 = min(y0, top - case.resolution), max(y1, y0 + case.resolution, bottom + case.resolution)
    return x0, y0, x1, y1


@drawn
@given(name=names, draws=st.lists(fractions, min_size=4, max_size=4))
def test_windows(cases, name, draws):
    case = cases[name]
    bounds = bounds_of(case, draws)
    got = case.collection.get_numpy(bounds, "B", geometry_crs=case.crs)[0]
    with rasterio.open(case.path) as source:
        window = rasterio.windows.from_bounds(*bounds, source.transform)
        first_row, first_column = (
            max(int(np.floor(window.row_off + 1e-6)), 0),
            max(int(np.floor(window.col_off + 1e-6)), 0),
        )
        last_row = min(int(np.ceil(window.row_off + window.height - 1e-6)), source.height)
        last_column = min(int(np.ceil(window.col_off + window.width - 1e-6)), source.width)
        expected = source.read(1, window=((first_row, last_row), (first_column, last_column)))
    np.testing.assert_array_equal(got, expected)


@drawn
@given(
    name=names,
    corners=st.lists(st.tuples(fractions, fractions), min_size=3, max_size=9),
    all_touched=st.booleans(),
)
def test_polygons(cases, name, corners, all_touched):
    case = cases[name]
    with rasterio.open(case.path) as source:
        left, bottom, right, top = source.bounds
        x, y = (
            low + (np.array([corner[axis] for corner in corners]) * 1.2 - 0.1) * (high - low)
            for axis, low, high in ((0, left, right), (1, bottom, top))
        )
        hole = shapely.Point(x[0], y[0]).buffer(case.resolution * 9)
        area = shapely.make_valid(shapely.Polygon(list(zip(x, y, strict=True)))).buffer(case.resolution * 0.6)
        area = area.difference(hole)
        assume(not area.is_empty)
        assume(area.intersects(shapely.box(left, bottom, right, top).buffer(-case.resolution)))
        expected = rasterio.mask.mask(source, [area], crop=True, all_touched=all_touched, filled=False)[0][0]
    kwargs = {"geometry_crs": case.crs, "all_touched": all_touched}
    filled = case.collection.get_numpy(area, "B", **kwargs)[0]
    masked = case.collection.get_numpy(area, "B", masked=True, **kwargs)[0]
    differs = np.ma.getmaskarray(masked) != np.ma.getmaskarray(expected)
    if all_touched:
        # GDAL counts pixels as touched that the outline misses by less than a hundredth of their size.
        transform = case.transform
        window = rasterio.windows.from_bounds(*area.bounds, transform)
        first = np.maximum(np.floor([window.row_off + 1e-6, window.col_off + 1e-6]), 0)
        for row, column in np.argwhere(differs) + first:
            x, y = transform.c + column * transform.a, transform.f + row * transform.e
            pixel = shapely.box(x, y - case.resolution, x + case.resolution, y)
            assert pixel.distance(area) < 0.01 * case.resolution
            assert pixel.intersection(area).area < 0.01 * case.resolution**2
    else:
        assert not differs.any()
    fill = 0 if RASTERS[name]["nodata"] is None else RASTERS[name]["nodata"]
    np.testing.assert_array_equal(filled[~differs], expected.filled(fill)[~differs])


@drawn
@given(name=names, places=st.lists(st.tuples(fractions, fractions), min_size=1, max_size=40), lonlat=st.booleans())
def test_points(cases, name, places, lonlat):
    case = cases[name]
    with rasterio.open(case.path) as source:
        left, bottom, right, top = source.bounds
        # Half a pixel inside the edge, because another CRS cannot tell on which side of an edge a point lies.
        x, y = (
            low + case.resolution / 2 + np.array([place[axis] for place in places]) * (high - low - case.resolution)
            for axis, low, high in ((0, left, right), (1, bottom, top))
        )
        crs, margin = case.crs, 0.01 if lonlat else 1e-6
        # Kept away from borders of pixels, because a transform to and from another CRS moves a point by rounding, and
        # because rounding decides to which pixel a point on a border belongs.
        x, y = (
            origin + (np.floor(steps := (values - origin) / scale) + np.clip(steps % 1, margin, 1 - margin)) * scale
            for values, origin, scale in (
                (x, source.transform.c, source.transform.a),
                (y, source.transform.f, source.transform.e),
            )
        )
        if lonlat:
            crs = "EPSG:4326"
            x, y = map(np.array, rasterio.warp.transform(case.crs, crs, x, y))
            back = rasterio.warp.transform(crs, case.crs, x, y)
        else:
            back = x, y
        expected = np.array(list(source.sample(zip(*back, strict=True))))[:, 0]
    table = pa.table({"x": x, "y": y, "name": [str(number) for number in range(len(x))]})
    got = case.collection.sample_points(table, "B", geometry_crs=crs)
    assert got["point_index"].to_pylist() == list(range(len(x)))
    assert got["name"].to_pylist() == table["name"].to_pylist()
    np.testing.assert_array_equal(got["value"].to_numpy(), expected)


TARGETS = ["EPSG:4326", "EPSG:3857", "EPSG:32632", "EPSG:3035", "EPSG:32719", "EPSG:3413"]


def pixels_along(source: rasterio.DatasetReader, target: str, size: float) -> tuple[float, float]:
    """Return how many pixels of a raster lie along a target pixel of ``size`` in its middle, across and down."""
    x, y = source.xy(source.height / 2 - 0.5, source.width / 2 - 0.5)
    (x,), (y,) = rasterio.warp.transform(source.crs, target, [x], [y])
    half = size / 2
    left, bottom, right, top = rasterio.warp.transform_bounds(
        target, source.crs, x - half, y - half, x + half, y + half
    )
    return (right - left) / abs(source.transform.a), (top - bottom) / abs(source.transform.e)


@drawn
@given(
    name=names,
    target=st.sampled_from(TARGETS),
    resampling=st.sampled_from(["nearest", "bilinear", "cubic", "lanczos", "average", "mode", "max", "med"]),
    draws=st.lists(fractions, min_size=4, max_size=4),
    factor=st.floats(0.5, 4),
)
@example(
    name="mercator", target="EPSG:3857", resampling="average", draws=[0.0, 0.0, 0.0, 0.921875],
    factor=2.2411633347882236,
)  # fmt: skip
def test_warps(cases, name, target, resampling, draws, factor):
    case = cases[name]
    # Without a raster and a target on two sides of the world.
    assume("EPSG:32719" not in {case.crs, target} or target in {case.crs, "EPSG:4326", "EPSG:3857"})
    # Without grids that coincide to a thousandth of a pixel, which are copied and not warped.
    assume(case.crs != target or abs(factor - 1) > 0.01)
    area = bounds_of(case, draws)
    with rasterio.open(case.path) as source:
        default, _, _ = rasterio.warp.calculate_default_transform(
            source.crs, target, source.width, source.height, *source.bounds
        )
    size = default.a * factor
    dataset = case.collection.get_xarray(
        area, "B", geometry_crs=case.crs, target_crs=target, resolution=size, resampling=resampling
    )
    c, a, b, f, d, e = map(float, dataset.spatial_ref.attrs["GeoTransform"].split())
    # From an overview that is no coarser than the target, and only for methods that do not count or choose pixels.
    level = None
    if resampling not in {"mode", "max", "med"}:
        with rasterio.open(case.path) as source:
            ratio = min(pixels_along(source, target, size))
            level = max((n for n, by in enumerate(source.overviews(1)) if by <= ratio * 1.01), default=None)
    with rasterio.open(case.path, OVERVIEW_LEVEL="NONE" if level is None else level) as source:
        across, down = pixels_along(source, target, size)
        # GDAL leaves out source pixels at the outline of a grid: it is asked for a larger one. For sums it may add to
        # whole rows a source pixel that lies twice XSCALE target pixels beyond the grid: none does here.
        scales = [1000, 1000] if resampling == "sum" else [min(1, 1 / across), min(1, 1 / down)]
        with WarpedVRT(
            source, crs=target, transform=Affine(a, b, c - BORDER * a, d, e, f - BORDER * e),
            width=dataset.sizes["x"] + 2 * BORDER, height=dataset.sizes["y"] + 2 * BORDER,
            resampling=Resampling[resampling], tolerance=1e-9, XSCALE=scales[0], YSCALE=scales[1],
        ) as warped:  # fmt: skip
            expected = warped.read(1)[BORDER:-BORDER, BORDER:-BORDER]
    got = dataset["B"].values[0]
    if case.crs == target:
        # A pixel of the grid that ends at the edge of the raster is left out: rounding decides whether GDAL fills it.
        columns, rows = np.meshgrid(np.arange(got.shape[1]), np.arange(got.shape[0]))
        left, top = c + columns * a, f + rows * e
        pixels = shapely.box(left, top + e, left + a, top)
        with rasterio.open(case.path) as source:
            raster = shapely.box(*source.bounds)
        shared = shapely.area(shapely.intersection(pixels, raster))
        is_touched = (shapely.distance(pixels, raster) < 1e-6 * size) & (shared < 1e-6 * size**2)
        got, expected = got[~is_touched], expected[~is_touched]
    if got.dtype.kind == "f":
        # Close, because sums round differently: GDAL counts pixels from those of the raster, we from the window.
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6 * 1e3)  # samples are about 1e3
    elif resampling in {"bilinear", "cubic", "lanczos", "average"}:
        off = np.abs(got.astype(np.float64) - expected)
        assert off.max() <= 1
        # Where a sum ends in a half, as at simple ratios of pixel sizes, the last bit decides how it is rounded: of a
        # few pixels in a hundred, where samples are as large as 2^31.
        assert np.count_nonzero(off) <= 1 + got.size // 20
    else:
        np.testing.assert_array_equal(got, expected)
