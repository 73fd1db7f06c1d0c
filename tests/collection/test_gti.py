"""Tile indexes for GDAL: rasterio reads from them the same pixels that the collection reads.

Read by the rasterio of the tests (1.4, GDAL 3.10 under Python 3.11) and by the newest one (1.5, GDAL 3.12), which needs
Python 3.12 and gets an environment of its own; without a Python 3.12 its tests are skipped, and say so.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyogrio
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox

from rasteret_assets import build_from_table
from rasteret_assets.collection.collection import Collection
from rasteret_assets.errors import BandNotFoundError, CollectionError, SpecError, WindowError
from tests.support.environments import environment, find_python
from tests.support.server import RangeServer

from .support import footprint_of, noise, record, records_table, write_raster

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

READER = Path(__file__).with_name("read_tile_index.py")
RASTERIO = "1.5.2"
LAEA = rasterio.CRS.from_proj4("+proj=laea +lat_0=48 +lon_0=9 +datum=WGS84 +units=m").to_wkt()


@pytest.fixture(params=["of the tests", RASTERIO], scope="session")
def python(request: pytest.FixtureRequest) -> str:
    """Return the path of a Python that has rasterio."""
    if request.param != RASTERIO:
        return sys.executable
    base = find_python("3.12")
    if base is None:
        pytest.skip(f"no Python 3.12 here, which rasterio {RASTERIO} needs")
    return environment(f"rasterio-{RASTERIO}", [f"rasterio=={RASTERIO}"], python=base)


def with_holes(data: np.ndarray, value: float, share: float, seed: int) -> np.ndarray:
    holes = np.random.default_rng(seed).random(data.shape[1:]) < share
    data[:, holes] = value
    return data


def hide(path: Path, share: float, seed: int) -> None:
    """Give a file an internal mask."""
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as target:
        target.write_mask((np.random.default_rng(seed).random(target.shape) >= share).astype("uint8") * 255)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rasters")


@pytest.fixture(scope="module")
def scenes(files: Path) -> Collection:
    """Records that overlap, in four CRSs, with five bands that say in different ways which pixels hold data."""
    places: list[tuple[str, float, tuple[float, float], int]] = [
        ("EPSG:32632", 10.0, (500_000.0, 5_000_000.0), 2),
        ("EPSG:32632", 10.0, (500_500.0, 5_000_300.0), 1),
        ("EPSG:32632", 10.0, (499_200.0, 4_999_500.0), 3),
        ("EPSG:32633", 10.0, (400_000.0, 5_000_000.0), 4),
        ("EPSG:32633", 10.0, (400_900.0, 5_000_900.0), 4),
        ("EPSG:4326", 1 / 3600, (9.0, 48.0), 5),
        ("EPSG:4326", 1 / 3600, (9.0 + 90 / 3600, 48.0 + 30 / 3600), 6),
        (LAEA, 25.0, (-1000.0, 2000.0), 7),
    ]
    rows = []
    for seed, (crs, resolution, origin, day) in enumerate(places):
        where: dict[str, Any] = {"crs": crs, "resolution": resolution, "origin": origin}
        size: dict[str, Any] = {"rows": 150 + seed, "columns": 170 - seed, "seed": seed}
        grey = write_raster(files / f"grey{seed}.tif", with_holes(noise(**size), 7, 0.3, seed), nodata=7, **where)
        colour = noise("uint8", bands=4, **size)
        colour[3] = np.where(colour[3] < 90, 0, colour[3])
        rgba = write_raster(
            files / f"rgba{seed}.tif", colour, photometric="RGB", alpha="unspecified", tile=32, **where,
            interleave="band" if seed % 2 else "pixel",
        )  # fmt: skip
        masked = write_raster(
            files / f"masked{seed}.tif", noise("float32", bands=2, **size), compress="deflate", **where
        )
        hide(masked, 0.4, seed)
        # Types and nodata of this one differ from record to record, and -1 and 5 are pixels of some of them.
        mixed = write_raster(
            files / f"mixed{seed}.tif", with_holes(noise(("int16", "uint8")[seed % 2], **size), 5, 0.2, seed),
            nodata=(5, None, -1, 0)[seed % 4], **where,
        )  # fmt: skip
        assets = {"grey": (grey, 0), "green": (rgba, 1), "red": (rgba, 0), "masked": (masked, 1), "mixed": (mixed, 0)}
        rows.append({
            "id": f"r{seed}", "datetime": dt.datetime(2024, 5, day, tzinfo=dt.UTC), "geometry": footprint_of(grey).wkb,
            "assets": {band: {"href": str(path), "band_index": index} for band, (path, index) in assets.items()},
            "eo:cloud_cover": float(seed),
        })  # fmt: skip
    return build_from_table(pa.Table.from_pylist(rows), enrich_cog=True)


def read(
    python: str, folder: Path, windows: list[tuple[str, str | None, tuple[int, int, int, int]]]
) -> tuple[Any, Any]:
    """Return, read by another process, pixels and validity of every window, and facts of every layer."""
    task, target = folder / "task.json", folder / "pixels.npz"
    task.write_text(json.dumps({"windows": windows, "to": str(target)}))
    # The server of the tests knows GET alone, and no folders.
    curl = {"CPL_VSIL_CURL_USE_HEAD": "NO", "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"}
    done = subprocess.run(
        [python, "-W", "ignore", READER, task], capture_output=True, text=True, check=False, env=os.environ | curl
    )
    assert done.returncode == 0, done.stderr
    with np.load(target) as arrays:
        pixels = [(arrays[f"pixels{number}"], arrays[f"valid{number}"]) for number in range(len(windows))]
    return pixels, {(fact["path"], fact["layer"]): fact for fact in json.loads(done.stdout)}


def mosaic(records: Collection, band: str, box: GeoBox, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels and the validity of a mosaic of ``get_numpy``, where the last valid record counts."""
    pixels, valid = np.zeros(box.shape, dtype), np.zeros(box.shape, bool)
    try:
        stack = records.get_numpy(None, band, like=box, masked=True)
    except WindowError:  # between the records
        return pixels, valid
    for layer in stack:
        there = ~np.ma.getmaskarray(layer)
        pixels[there] = layer.data[there]
        valid |= there
    return pixels, valid


def test_windows_of_the_index_equal_mosaics_of_the_records(scenes: Collection, python: str, tmp_path: Path) -> None:
    path = tmp_path / "scenes.gti.gpkg"
    layers = scenes.to_gti(path)
    assert [layer.band for layer in layers] == [band for band in scenes.bands for _ in range(4)]
    rng = np.random.default_rng(20)
    windows = []
    for number in range(120):
        layer = layers[number % len(layers)]
        width, height = (int(rng.integers(1, min(side, 90))) for side in layer.size)
        corner = [
            int(rng.integers(0, side - extent + 1)) for side, extent in zip(layer.size, (width, height), strict=True)
        ]
        windows.append((f"GTI:{path}", layer.name, (*corner, width, height)))
    found, facts = read(python, tmp_path, windows)
    crs_of = {layer.name: layer.crs for layer in layers}
    filled = 0
    for (name, layer_name, (column, row, width, height)), (pixels, valid) in zip(windows, found, strict=True):
        fact = facts[name, layer_name]
        layer = next(layer for layer in layers if layer.name == layer_name)
        affine = Affine(*fact["transform"]) * Affine.translation(column, row)
        crs = crs_of[layer_name]
        records = scenes.where(
            pc.field("proj:epsg") == int(crs[5:]) if crs.startswith("EPSG:") else pc.field("proj:epsg").is_null()
        )
        expected, there = mosaic(records, layer.band, GeoBox((height, width), affine, crs), layer.dtype)
        np.testing.assert_array_equal(valid, there, err_msg=str((layer, column, row, width, height)))
        np.testing.assert_array_equal(pixels[there], expected[there])
        assert pixels.dtype == expected.dtype
        if layer.nodata is not None:
            assert (pixels[~there] == layer.nodata).all()
        filled += there.any() and not there.all()
    assert filled > 40  # windows that hold pixels with and without data


def test_layers_have_the_metadata_that_the_files_have(scenes: Collection, python: str, tmp_path: Path) -> None:
    path = tmp_path / "scenes.gti.gpkg"
    layers = {layer.name: layer for layer in scenes.to_gti(path)}
    assert [name for name in layers if name.startswith("grey")] == [
        "grey_32632",
        "grey_32633",
        "grey_4326",
        "grey_crs1",
    ]
    one = (0, 0, 1, 1)
    doors = [(str(tmp_path / "scenes_layers" / f"{name}.gti"), None, one) for name in layers]
    _, facts = read(python, tmp_path, [(str(path), None, one), *doors])
    assert facts[str(path), None]["crs"] == facts[doors[0][0], None]["crs"]  # the first layer, where none is asked for
    for name, layer in layers.items():
        fact = facts[str(tmp_path / "scenes_layers" / f"{name}.gti"), None]
        assert fact["driver"] == "GTI"
        assert rasterio.CRS.from_wkt(fact["crs"]) == rasterio.CRS.from_user_input(layer.crs)
        assert (fact["dtype"], fact["nodata"], tuple(fact["size"])) == (layer.dtype, layer.nodata, layer.size)
        assert (fact["transform"][0], -fact["transform"][4]) == layer.resolution
    assert facts[doors[0][0], None]["block"] == [64, 64]
    for band, colour in (("grey", "gray"), ("red", "red"), ("green", "green")):
        assert facts[str(tmp_path / "scenes_layers" / f"{band}_32632.gti"), None]["colour"] == colour
    assert layers["grey_32632"].records == 3
    assert layers["mixed_32632"].dtype == "int16"
    assert layers["mixed_32632"].nodata is None
    assert {layer.resampled for layer in layers.values()} == {0}


def test_writing_an_index_opens_no_file_and_writes_no_secret(
    server: RangeServer, files: Path, python: str, tmp_path: Path
) -> None:
    path = write_raster(files / "remote.tif", noise(seed=3), nodata=0)
    server.objects["/a.tif"] = path.read_bytes()
    table = records_table([record("a", {"B": (path, 0)})])
    href = f"{server.url}/a.tif?AWSAccessKeyId=me&Signature=planted&Expires=9"
    column = pa.array([{"B": {"href": href, "band_index": 0}}], table.schema.field("assets").type)
    signed = table.set_column(table.schema.get_field_index("assets"), table.schema.field("assets"), column)
    index = tmp_path / "remote.gti.gpkg"
    Collection(dataset=pa.dataset.dataset(signed)).to_gti(index, "B")
    assert not server.requests
    assert b"planted" not in index.read_bytes()
    (location,) = pyogrio.read_arrow(index, layer="B_32632", columns=["location"])[1]["location"].to_pylist()
    assert location == f"/vsicurl/{server.url}/a.tif"
    ((pixels, valid),), _ = read(python, tmp_path, [(str(index), None, (0, 0, 230, 200))])
    with rasterio.open(path) as source:
        np.testing.assert_array_equal(pixels, source.read(1))
        np.testing.assert_array_equal(valid, source.read_masks(1) > 0)


def test_scale_and_offset_are_stated_where_files_share_them(files: Path, python: str, tmp_path: Path) -> None:
    rows = []
    for number, factors in enumerate([(0.5, -3.0), (0.5, -3.0), (0.25, 0.0)]):
        path = write_raster(files / f"scaled{number}.tif", noise(seed=number))
        for band in ("same", "other"):
            row = record(f"s{number}", {band: (path, 0)})
            row[f"{band}_metadata"] |= dict(zip(("scale", "offset"), factors, strict=True))
            rows.append(row)
    for band, kept in (("same", rows[0:4:2]), ("other", rows[3::2])):
        Collection(dataset=pa.dataset.dataset(records_table(kept, [band]))).to_gti(tmp_path / f"{band}.gti.gpkg")
    windows = [(str(tmp_path / f"{band}.gti.gpkg"), None, (0, 0, 1, 1)) for band in ("same", "other")]
    _, facts = read(python, tmp_path, windows)
    assert [(fact["scale"], fact["offset"]) for fact in facts.values()] == [(0.5, -3.0), (1.0, 0.0)]


def test_layers_count_the_files_that_gdal_resamples(files: Path, python: str, tmp_path: Path) -> None:
    rows = []
    for number, (left, resolution) in enumerate([(500_000.0, 10.0), (500_004.0, 10.0), (500_000.0, 20.0)]):
        path = write_raster(
            files / f"off{number}.tif", noise(seed=number, rows=64, columns=64), resolution=resolution,
            origin=(left, 5_000_000.0),
        )  # fmt: skip
        rows.append(record(f"o{number}", {"B": (path, 0)}))
    (layer,) = Collection(dataset=pa.dataset.dataset(records_table(rows))).to_gti(tmp_path / "off.gti.gpkg")
    assert (layer.resampled, layer.resolution, layer.size) == (2, (10.0, 10.0), (128, 128))
    ((pixels, _),), _ = read(python, tmp_path, [(str(tmp_path / "off.gti.gpkg"), None, (64, 64, 64, 64))])
    with rasterio.open(files / "off2.tif") as source:  # of twice the size, and on top
        np.testing.assert_array_equal(pixels, source.read(1)[32:, 32:].repeat(2, 0).repeat(2, 1))


def test_flatgeobuf_holds_one_layer(scenes: Collection, tmp_path: Path) -> None:
    # Compared with the GeoPackage, because no wheel of rasterio reads FlatGeobuf.
    some = scenes.where(pc.field("proj:epsg") == 32632)
    index = tmp_path / "one.gti.fgb"
    assert some.to_gti(index, "red") == some.to_gti(tmp_path / "one.gti.gpkg", "red")
    both = [pyogrio.read_info(path)["layer_metadata"] for path in (index, tmp_path / "one.gti.gpkg")]
    assert both[0] == both[1]
    assert {"RESX", "MASK_BAND", "SORT_FIELD"} <= both[0].keys()
    _, table = pyogrio.read_arrow(index)
    assert dict(zip(table["id"].to_pylist(), table["draw_order"].to_pylist(), strict=True)) == {
        "r1": 0,
        "r0": 1,
        "r2": 2,
    }
    before = index.read_bytes()
    with pytest.raises(SpecError, match=r"one layer.*red_32632 and red_32633"):
        scenes.to_gti(index, "red")
    assert index.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.gti.fgb", "one.gti.gpkg", "one_layers"]


def test_a_second_call_replaces_the_whole_index(scenes: Collection, tmp_path: Path) -> None:
    index = tmp_path / "a.gti.gpkg"
    scenes.to_gti(index, ["grey", "red"])
    scenes.where(pc.field("id") == "r0").to_gti(index, "grey")
    assert pyogrio.list_layers(index)[:, 0].tolist() == ["grey_32632"]
    _, table = pyogrio.read_arrow(index)
    assert [path.name for path in (tmp_path / "a_layers").iterdir()] == ["grey_32632.gti"]
    assert table.num_rows == 1
    assert table["cloud_cover"].to_pylist() == [0.0]
    assert table["id"].to_pylist() == ["r0"]


@pytest.mark.parametrize(
    ("path", "bands", "error", "message"),
    [
        ("x.gpkg", None, SpecError, r"ends with .gti.gpkg or .gti.fgb"),
        ("s3://bucket/x.gti.gpkg", None, SpecError, "a file on a disk"),
        ("x.gti.gpkg", ["blue"], BandNotFoundError, "'blue' is not in this collection"),
    ],
)
def test_wrong_paths_and_bands_are_refused(scenes, tmp_path, path, bands, error, message) -> None:
    with pytest.raises(error, match=message):
        scenes.to_gti(path if "://" in path else tmp_path / path, bands)
    assert not list(tmp_path.iterdir())


def test_bands_without_headers_are_left_out_unless_they_are_named(
    scenes: Collection, files: Path, tmp_path: Path
) -> None:
    row = record("a", {"B": (files / "grey0.tif", 0), "C": (files / "grey0.tif", 0)}, missing=["C"])
    scene = Collection(dataset=pa.dataset.dataset(records_table([row], ["B", "C"])))
    assert [layer.band for layer in scene.to_gti(tmp_path / "a.gti.gpkg")] == ["B"]
    with pytest.raises(WindowError, match="none of 1 records has the header of band 'C'"):
        scene.to_gti(tmp_path / "a.gti.gpkg", ["B", "C"])
    assert pyogrio.list_layers(tmp_path / "a.gti.gpkg")[:, 0].tolist() == ["B_32632"]


def test_records_that_gdal_cannot_open_are_refused_by_name(scenes: Collection, files: Path, tmp_path: Path) -> None:
    path = files / "grey0.tif"
    lost = Collection(dataset=pa.dataset.dataset(records_table([record("a", {"B": (path, 0)}, missing=["B"])])))
    with pytest.raises(WindowError, match="none of 1 records has the header of band 'B'"):
        lost.to_gti(tmp_path / "a.gti.gpkg")
    table = records_table([record("a", {"B": (path, 0)})])
    for href in ("swift://c/x.tif", "a.tif"):
        column = pa.array([{"B": {"href": href, "band_index": 0}}], table.schema.field("assets").type)
        odd = table.set_column(table.schema.get_field_index("assets"), table.schema.field("assets"), column)
        with pytest.raises(CollectionError, match=f"record 'a', band 'B': GDAL has no spelling for '{href}'"):
            Collection(dataset=pa.dataset.dataset(odd)).to_gti(tmp_path / "a.gti.gpkg")
    assert not list(tmp_path.iterdir())
