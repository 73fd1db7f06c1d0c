"""Pixels against rasterio: every way a tile is stored, windows, masks, nodata, requests and errors."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest
import rasterio
import rasterio.mask
import rasterio.warp
import rasterio.windows
import shapely

from rasteret_assets.collection import Collection, as_collection
from rasteret_assets.errors import BandNotFoundError, ObjectNotFoundError, SpecError, TileError, WindowError

from .support import ORIGIN, UTM32, CountingBackend, header_of, noise, record, records_table, write_raster

# Because rasterio 1.4 multiplies affine transforms in a way that affine 3 warns about.
pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

LEFT, TOP = ORIGIN


def box(column: float, row: float, width: float, height: float, resolution: float = 10.0) -> shapely.Polygon:
    """Return a box in UTM, given in pixels of the test rasters."""
    left, top = LEFT + column * resolution, TOP - row * resolution
    return shapely.box(left, top - height * resolution, left + width * resolution, top)


def collection_of(path: Path, band_index: int = 0, **columns: object) -> Collection:
    return as_collection(records_table([record("r", {"B": (path, band_index)}, **columns)]))


STORED = [
    pytest.param(dtype, compress, predictor, id=f"{dtype}-{compress}-{predictor}")
    for dtype in ("uint8", "int16", "uint32", "float32", "float64")
    for compress in ("none", "deflate", "lzw", "zstd")
    for predictor in ((1,) if compress == "none" else (1, 2, 3) if dtype.startswith("float") else (1, 2))
]


@pytest.mark.parametrize("endianness", ["LITTLE", "BIG"])
@pytest.mark.parametrize("interleave", ["pixel", "band"])
@pytest.mark.parametrize(("dtype", "compress", "predictor"), STORED)
def test_every_way_a_tile_is_stored(tmp_path, dtype, compress, predictor, interleave, endianness):
    data = noise(dtype, bands=3, rows=100, columns=90)
    options = {} if predictor == 1 else {"predictor": predictor}
    path = write_raster(
        tmp_path / "a.tif", data, compress=compress, interleave=interleave, endianness=endianness, tile=32, **options
    )
    got = collection_of(path, 2).get_numpy(box(20, 10, 50, 75), "B", geometry_crs=UTM32, backend=CountingBackend())
    assert got.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(got[0], data[2, 10:85, 20:70])


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int32", "int64", "uint64"])
def test_rarer_integers(tmp_path, dtype):
    data = noise(dtype)
    path = write_raster(tmp_path / "a.tif", data, compress="deflate", predictor=2)
    got = collection_of(path).get_numpy(box(0, 0, 230, 200), "B", geometry_crs=UTM32, backend=CountingBackend())
    np.testing.assert_array_equal(got, data)


def test_bigtiff(tmp_path):
    data = noise()
    path = write_raster(tmp_path / "a.tif", data, bigtiff="YES", compress="zstd")
    got = collection_of(path).get_numpy(box(0, 0, 230, 200), "B", geometry_crs=UTM32, backend=CountingBackend())
    np.testing.assert_array_equal(got, data)


def test_lonlat_box_is_the_window_of_its_bounds(tmp_path):
    path = write_raster(tmp_path / "a.tif", noise(), compress="deflate")
    rng = np.random.default_rng(3)
    with rasterio.open(path) as source:
        bounds = rasterio.warp.transform_bounds(source.crs, "OGC:CRS84", *source.bounds)
        for _ in range(20):
            x = np.sort(rng.uniform(bounds[0], bounds[2], 2))
            y = np.sort(rng.uniform(bounds[1], bounds[3], 2))
            area = (x[0], y[0], x[1], y[1])
            utm = rasterio.warp.transform_bounds("OGC:CRS84", source.crs, *area, densify_pts=21)
            window = rasterio.windows.from_bounds(*utm, source.transform)
            rows, columns = (
                slice(max(int(np.floor(off)), 0), int(np.ceil(off + size)))
                for off, size in ((window.row_off, window.height), (window.col_off, window.width))
            )
            got = collection_of(path).get_numpy(area, "B", backend=CountingBackend())
            np.testing.assert_array_equal(got[0], source.read(1)[rows, columns])


@pytest.mark.parametrize("all_touched", [False, True])
@pytest.mark.parametrize("nodata", [None, 7])
def test_polygon_is_masked_as_rasterio_masks(tmp_path, nodata, all_touched):
    path = write_raster(tmp_path / "a.tif", noise(), nodata=nodata)
    hole = shapely.Point(LEFT + 900, TOP - 900).buffer(200)
    area = shapely.Point(LEFT + 800, TOP - 1000).buffer(777).difference(hole)
    with rasterio.open(path) as source:
        expected, _ = rasterio.mask.mask(source, [area], crop=True, all_touched=all_touched)
    got = collection_of(path).get_numpy(
        area, "B", geometry_crs=UTM32, all_touched=all_touched, backend=CountingBackend()
    )
    np.testing.assert_array_equal(got, expected)


def test_polygon_in_lonlat_is_masked_in_the_raster_crs(tmp_path):
    path = write_raster(tmp_path / "a.tif", noise(), nodata=0)
    area = shapely.Point(LEFT + 1000, TOP - 1000).buffer(600)
    lonlat = shapely.geometry.shape(rasterio.warp.transform_geom(UTM32, "OGC:CRS84", area.__geo_interface__))
    with rasterio.open(path) as source:
        expected, _ = rasterio.mask.mask(source, [area], crop=True)
    got = collection_of(path).get_numpy(lonlat, "B", backend=CountingBackend())
    np.testing.assert_array_equal(got, expected)


def test_edge_of_the_raster_clips_the_window(tmp_path):
    data = noise()
    path = write_raster(tmp_path / "a.tif", data)
    got = collection_of(path).get_numpy(box(-50, -50, 60, 70), "B", geometry_crs=UTM32, backend=CountingBackend())
    np.testing.assert_array_equal(got[0], data[0, :20, :10])


def test_south_up_raster(tmp_path):
    data = noise()
    path = tmp_path / "a.tif"
    write_raster(path, data)
    with rasterio.open(path, "r+") as target:
        target.transform = rasterio.Affine(10, 0, LEFT, 0, 10, TOP)
    got = collection_of(path).get_numpy(
        shapely.box(LEFT + 100, TOP + 200, LEFT + 300, TOP + 500), "B", geometry_crs=UTM32, backend=CountingBackend()
    )
    np.testing.assert_array_equal(got[0], data[0, 20:50, 10:30])


@pytest.mark.parametrize("nodata", [None, 9])
def test_sparse_tiles_are_nodata(tmp_path, nodata):
    data = np.zeros((1, 200, 230), np.uint8)
    data[0, :64, :64] = noise("uint8")[0, :64, :64] | 1
    path = tmp_path / "a.tif"
    profile = {"sparse_ok": True, "compress": "deflate"}
    write_raster(path, np.where(data == 0, nodata or 0, data).astype("uint8"), nodata=nodata, **profile)
    header = header_of(path)
    assert 0 in header["tile_offsets"]
    backend = CountingBackend()
    got = collection_of(path).get_numpy(box(0, 0, 230, 200), "B", geometry_crs=UTM32, backend=backend)
    with rasterio.open(path) as source:
        np.testing.assert_array_equal(got, source.read())
    assert len(backend.ranges) == 1


def test_a_run_of_tiles_is_one_request(tmp_path):
    path = write_raster(tmp_path / "a.tif", noise(rows=256, columns=256))
    backend = CountingBackend()
    collection_of(path).get_numpy(box(0, 0, 256, 256), "B", geometry_crs=UTM32, backend=backend)
    header = header_of(path)
    length = header["tile_offsets"][-1] + header["tile_byte_counts"][-1] - header["tile_offsets"][0]
    assert backend.ranges == [(str(path), header["tile_offsets"][0], length)]


def test_tiles_far_apart_are_separate_requests(tmp_path):
    path = write_raster(tmp_path / "a.tif", noise(rows=1024, columns=1024), tile=256)
    backend = CountingBackend()
    collection_of(path).get_numpy(box(0, 0, 10, 1024), "B", geometry_crs=UTM32, backend=backend)
    header = header_of(path)
    assert [(start, length) for _, start, length in sorted(backend.ranges)] == [
        (header["tile_offsets"][number], header["tile_byte_counts"][number]) for number in (0, 4, 8, 12)
    ]


def test_areas_share_the_tiles_they_have_in_common(tmp_path):
    data = noise(rows=256, columns=256)
    path = write_raster(tmp_path / "a.tif", data, tile=256)
    backend = CountingBackend()
    areas = [box(0, 0, 10, 10), box(100, 100, 20, 30), box(5, 5, 10, 10)]
    got = collection_of(path).get_numpy(areas, "B", geometry_crs=UTM32, backend=backend)
    assert len(backend.ranges) == 1
    assert got.shape == (3, 30, 20)
    np.testing.assert_array_equal(got[1], data[0, 100:130, 100:120])
    # Smaller windows are filled up at the bottom and to the right.
    np.testing.assert_array_equal(got[2, :10, :10], data[0, 5:15, 5:15])
    assert not got[2, 10:].any()
    assert not got[2, :, 10:].any()


def test_no_more_requests_at_once_than_allowed(tmp_path):
    rows = [
        record(f"r{n}", {"B": (write_raster(tmp_path / f"{n}.tif", noise(seed=n)), 0)}, footprint=None)
        for n in range(12)
    ]
    backend = CountingBackend()
    as_collection(records_table(rows)).get_numpy(
        box(0, 0, 9, 9), "B", geometry_crs=UTM32, backend=backend, max_concurrent=3
    )
    assert len(backend.ranges) == 12
    assert backend.most_at_once == 3


def test_records_come_by_datetime_and_bands_as_asked(tmp_path):
    paths = {name: write_raster(tmp_path / f"{name}.tif", noise(seed=n)) for n, name in enumerate("abcd")}
    day = dt.datetime(2024, 5, 1, tzinfo=dt.UTC)
    rows = [
        record("undated", {"R": (paths["a"], 0), "N": (paths["b"], 0)}, moment=None),
        record("z", {"R": (paths["b"], 0), "N": (paths["c"], 0)}, moment=day),
        record("later", {"R": (paths["c"], 0), "N": (paths["d"], 0)}, moment=day + dt.timedelta(days=1)),
        record("a", {"R": (paths["d"], 0), "N": (paths["a"], 0)}, moment=day),
    ]
    opened = as_collection(records_table(rows, bands=("R", "N")))
    got = opened.get_numpy(box(3, 4, 5, 6), ["N", "R"], geometry_crs=UTM32, backend=CountingBackend())
    expected = [[noise(seed="abcd".index(name))[0, 4:10, 3:8] for name in pair] for pair in ("ad", "cb", "dc", "ba")]
    np.testing.assert_array_equal(got, expected)
    one_day = opened.get_numpy(
        box(3, 4, 5, 6), "N", geometry_crs=UTM32, backend=CountingBackend(), date_range=("2024-05-02", None)
    )
    np.testing.assert_array_equal(one_day, [expected[2][0]])


def test_types_are_kept_when_equal_and_joined_when_not(tmp_path):
    small = write_raster(tmp_path / "a.tif", noise("uint8"))
    large = write_raster(tmp_path / "b.tif", noise("int16"))
    opened = as_collection(records_table([record("r", {"S": (small, 0), "L": (large, 0)})], bands=("S", "L")))
    ask = {"geometry_crs": UTM32, "backend": CountingBackend()}
    assert opened.get_numpy(box(0, 0, 5, 5), "S", **ask).dtype == np.uint8
    both = opened.get_numpy(box(0, 0, 5, 5), ["S", "L"], **ask)
    assert both.dtype == np.int16
    np.testing.assert_array_equal(both[0, 0], noise("uint8")[0, :5, :5])


def test_rasters_of_several_crs_are_each_read_in_their_own(tmp_path):
    west = write_raster(tmp_path / "a.tif", noise(rows=64, columns=64))
    with rasterio.open(west) as source:
        lonlat = rasterio.warp.transform_bounds(UTM32, "OGC:CRS84", *source.bounds)
    degrees = write_raster(
        tmp_path / "b.tif", noise(rows=64, columns=64), crs="EPSG:4326", origin=(lonlat[0], lonlat[3]), resolution=1e-4
    )
    opened = as_collection(records_table([record("a", {"B": (west, 0)}), record("b", {"B": (degrees, 0)})]))
    area = (lonlat[0] + 1e-3, lonlat[3] - 4e-3, lonlat[0] + 3e-3, lonlat[3] - 2e-3)
    got = opened.get_numpy(area, "B", backend=CountingBackend())
    np.testing.assert_array_equal(got[1, :20, :20], noise(rows=64, columns=64)[0, 20:40, 10:30])


def test_header_crs_goes_before_the_record_and_is_replaced_by_it(tmp_path):
    path = write_raster(tmp_path / "a.tif", noise())
    row = record("r", {"B": (path, 0)}, **{"proj:epsg": 32633})
    ask = {"bands": "B", "geometry_crs": UTM32, "backend": CountingBackend()}
    expected = noise()[:, 3:9, 2:7]
    np.testing.assert_array_equal(as_collection(records_table([row])).get_numpy(box(2, 3, 5, 6), **ask), expected)
    row["B_metadata"] |= {"epsg": None, "crs": None}
    row["proj:epsg"] = 32632
    np.testing.assert_array_equal(as_collection(records_table([row])).get_numpy(box(2, 3, 5, 6), **ask), expected)
    row["proj:epsg"] = None
    with pytest.raises(WindowError, match="'r' has no CRS"):
        as_collection(records_table([row])).get_numpy(box(2, 3, 5, 6), **ask)


def test_headers_of_the_bare_contract_take_the_band_index_of_the_record(tmp_path):
    data = noise(bands=3)
    path = write_raster(tmp_path / "a.tif", data, interleave="pixel")
    table = records_table([record("r", {"B": (path, 2)}, **{"proj:epsg": 32632})])
    bare = table["B_metadata"].combine_chunks()
    names = bare.type.names[:17]
    import pyarrow as pa  # noqa: PLC0415

    struct = pa.StructArray.from_arrays([bare.field(name) for name in names], names)
    opened = as_collection(table.set_column(table.schema.get_field_index("B_metadata"), "B_metadata", struct))
    got = opened.get_numpy(box(0, 0, 20, 20), "B", geometry_crs=UTM32, backend=CountingBackend())
    np.testing.assert_array_equal(got[0], data[2, :20, :20])


def test_bands_of_different_resolution_are_refused(tmp_path):
    fine = write_raster(tmp_path / "a.tif", noise(rows=128, columns=128))
    coarse = write_raster(tmp_path / "b.tif", noise(rows=64, columns=64), resolution=20.0)
    opened = as_collection(records_table([record("r", {"F": (fine, 0), "C": (coarse, 0)})], bands=("F", "C")))
    with pytest.raises(WindowError, match=r"band 'C' \(64 x 64 pixels of 20 x 20.*separate calls"):
        opened.get_numpy(box(0, 0, 5, 5), ["F", "C"], geometry_crs=UTM32, backend=CountingBackend())


def test_records_without_header_are_left_out_and_named(tmp_path, caplog):
    path = write_raster(tmp_path / "a.tif", noise())
    rows = [record("good", {"B": (path, 0)}), record("bad", {"B": (path, 0)}, missing=["B"])]
    with caplog.at_level(logging.WARNING, logger="rasteret_assets"):
        got = as_collection(records_table(rows)).get_numpy(
            box(0, 0, 5, 5), "B", geometry_crs=UTM32, backend=CountingBackend()
        )
    assert len(got) == 1
    assert "bad (B)" in caplog.text
    with pytest.raises(WindowError, match=r"has no header of bands B for 1 records.*\(bad \(B\)\)"):
        as_collection(records_table(rows[1:])).get_numpy(
            box(0, 0, 5, 5), "B", geometry_crs=UTM32, backend=CountingBackend()
        )


def test_a_footprint_is_more_than_its_box(tmp_path):
    """An area may lie in the box of a slanted footprint, but outside of the footprint."""
    path = write_raster(tmp_path / "a.tif", noise())
    left, bottom, right, top = record("", {"B": (path, 0)})["bbox"].values()
    triangle = shapely.Polygon([(left, bottom), (left, top), (right, top)])
    corner = (right - (right - left) / 8, bottom, right, bottom + (top - bottom) / 8)
    opened = as_collection(records_table([record("half", {"B": (path, 0)}, footprint=triangle)]))
    assert opened.subset(bbox=corner).to_table().num_rows == 0
    for read in (opened.get_numpy, opened.get_xarray, opened.get_gdf):
        with pytest.raises(WindowError, match="no record meets the area"):
            read(corner, "B", backend=CountingBackend())
    with pytest.raises(WindowError, match="no record meets the points"):
        opened.sample_points(shapely.Point(corner[0], corner[1]), "B", backend=CountingBackend())
    whole = as_collection(records_table([record("whole", {"B": (path, 0)})]))
    both = as_collection(ds.dataset([opened.dataset, whole.dataset]))
    assert len(both.get_numpy(corner, "B", backend=CountingBackend())) == 1


def test_areas_without_records_are_refused(tmp_path):
    opened = collection_of(write_raster(tmp_path / "a.tif", noise()))
    with pytest.raises(WindowError, match=r"no record meets the area .*\[100\.0, 10\.0, 101\.0, 11\.0\] of lon/lat"):
        opened.get_numpy((100, 10, 101, 11), "B", backend=CountingBackend())
    with pytest.raises(WindowError, match="none of their rasters does"):
        collection_of(tmp_path / "a.tif", footprint=shapely.box(-10, -10, 50, 60)).get_numpy(
            (20, 20, 21, 21), "B", backend=CountingBackend()
        )


def test_an_unknown_band_is_refused_with_the_names_of_bands(tmp_path):
    opened = collection_of(write_raster(tmp_path / "a.tif", noise()))
    with pytest.raises(BandNotFoundError, match="'X' is not in this collection, which has B"):
        opened.get_numpy((0, 0, 1, 1), ["B", "X"])
    with pytest.raises(SpecError, match="bands is empty"):
        opened.get_numpy((0, 0, 1, 1), [])
    with pytest.raises(WindowError, match="Point has no area"):
        opened.get_numpy(shapely.Point(9, 45), "B")


def test_damaged_tile_is_named_without_its_query(tmp_path):
    path = write_raster(tmp_path / "a.tif", noise(), compress="deflate")
    header = header_of(path)
    with path.open("r+b") as file:
        file.seek(header["tile_offsets"][5])
        file.write(b"\xff" * 20)
    row = record("r", {"B": (path, 0)})
    row["assets"]["B"]["href"] += "?sig=secret"
    table = records_table([row])
    # Read through a backend that drops the query, because a local path may hold a question mark.
    with pytest.raises(TileError, match=r"record 'r', band 'B': tile \(row 1, column 1\) of .*a\.tif.*deflate"):
        as_collection(table).get_numpy(box(0, 0, 230, 200), "B", geometry_crs=UTM32, backend=CountingBackend())


def test_truncated_file_names_the_tile(tmp_path):
    path = write_raster(tmp_path / "a.tif", noise())
    opened = collection_of(path)
    with path.open("r+b") as file:
        file.truncate(header_of(path)["tile_offsets"][-1] + 10)
    with pytest.raises(TileError, match=r"row 3, column 3.*the file ends within it \(10 of 8192"):
        opened.get_numpy(box(0, 0, 230, 200), "B", geometry_crs=UTM32, backend=CountingBackend())


def test_impossible_byte_count_is_refused_before_reading(tmp_path):
    row = record("r", {"B": (write_raster(tmp_path / "a.tif", noise()), 0)})
    row["B_metadata"]["tile_byte_counts"][0] = 1 << 40
    backend = CountingBackend()
    with pytest.raises(TileError, match="the index says 1099511627776 bytes"):
        as_collection(records_table([row])).get_numpy(box(0, 0, 9, 9), "B", geometry_crs=UTM32, backend=backend)
    assert backend.ranges == []


def test_unreadable_compression_is_named_before_reading(tmp_path):
    row = record("r", {"B": (write_raster(tmp_path / "a.tif", noise("uint8")), 0)})
    row["B_metadata"]["compression"] = 34712
    backend = CountingBackend()
    with pytest.raises(TileError, match=r"JPEG 2000 \(34712\).*deflate"):
        as_collection(records_table([row])).get_numpy(box(0, 0, 9, 9), "B", geometry_crs=UTM32, backend=backend)
    assert backend.ranges == []


def test_default_backend_reads_local_files_and_names_the_record_of_a_missing_one(tmp_path):
    path = write_raster(tmp_path / "a.tif", noise())
    opened = collection_of(path)
    np.testing.assert_array_equal(opened.get_numpy(box(0, 0, 230, 200), "B", geometry_crs=UTM32), noise())
    path.unlink()
    with pytest.raises(ObjectNotFoundError) as caught:
        opened.get_numpy(box(0, 0, 230, 200), "B", geometry_crs=UTM32)
    assert "band 'B' of record 'r'" in caught.value.__notes__[0]


def test_inside_a_running_event_loop(tmp_path):
    opened = collection_of(write_raster(tmp_path / "a.tif", noise()))

    async def notebook() -> np.ndarray:
        return opened.get_numpy(box(0, 0, 5, 5), "B", geometry_crs=UTM32, backend=CountingBackend())

    np.testing.assert_array_equal(asyncio.run(notebook()), noise()[:, :5, :5])


def test_raster_of_another_planet(tmp_path):
    row = record("r", {"B": (write_raster(tmp_path / "a.tif", noise()), 0)})
    row["B_metadata"] |= {"epsg": None, "crs": "IAU_2015:49910"}
    with pytest.raises(WindowError, match="no transformation leads from OGC:CRS84 to IAU_2015:49910"):
        as_collection(records_table([row])).get_numpy((9, 45, 9.01, 45.2), "B", backend=CountingBackend())
    row["B_metadata"]["crs"] = "LOCAL:7"
    with pytest.raises(WindowError, match="record 'r': CRS 'LOCAL:7' is not a known CRS"):
        as_collection(records_table([row])).get_numpy((9, 45, 9.01, 45.2), "B", backend=CountingBackend())


def test_nodata_beyond_the_precision_of_floats(tmp_path):
    data = noise("int64", rows=64, columns=64)
    path = write_raster(tmp_path / "a.tif", data)
    row = record("r", {"B": (path, 0)})
    row["B_metadata"] |= {"nodata": 9223372036854775807.0, "nodata_text": "9223372036854775807"}
    area = shapely.Polygon([(LEFT, TOP), (LEFT + 640, TOP), (LEFT, TOP - 640)])
    got = as_collection(records_table([row])).get_numpy(area, "B", geometry_crs=UTM32, backend=CountingBackend())
    assert got[0, -1, -1] == np.iinfo("int64").max


def test_box_over_the_antimeridian(tmp_path):
    data = noise(rows=64, columns=400)
    path = write_raster(tmp_path / "a.tif", data, crs="EPSG:32660", origin=(826_000.0, 100_000.0), resolution=100.0)
    with rasterio.open(path) as source:
        x, y = rasterio.warp.transform(
            "OGC:CRS84", source.crs, [179.95, -179.95, 179.95, -179.95], [0.88, 0.88, 0.87, 0.87]
        )
    west_east = shapely.union_all([shapely.box(179.9, 0.8, 180, 1), shapely.box(-180, 0.8, -179.8, 1)])
    row = record("r", {"B": (path, 0)}, footprint=west_east, bbox=(179.9, 0.8, -179.8, 1.0))
    got = as_collection(records_table([row])).get_numpy((179.95, 0.87, -179.95, 0.88), "B", backend=CountingBackend())
    columns = slice(int((min(x) - 826_000) // 100), int(-(-(max(x) - 826_000) // 100)))
    rows = slice(int((100_000 - max(y)) // 100), int(-(-(100_000 - min(y)) // 100)))
    np.testing.assert_array_equal(got[0], data[0, rows, columns])
