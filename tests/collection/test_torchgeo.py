"""TorchGeo's samplers and loaders over a collection. Skipped where TorchGeo is not installed: it is a large package."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest
import rasterio
import rasterio.windows

torch = pytest.importorskip("torch", reason="the extra [torchgeo] is not installed")
samplers = pytest.importorskip("torchgeo.samplers")
datasets = pytest.importorskip("torchgeo.datasets")

from rasteret_assets.collection import Collection, as_collection  # noqa: E402
from rasteret_assets.errors import WindowError  # noqa: E402

from .support import ORIGIN, noise, record, records_table, write_raster  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
LEFT, TOP = ORIGIN


@pytest.fixture
def two_tiles(tmp_path) -> Collection:
    """Two rasters side by side, on one grid, of two bands."""
    rows = []
    for number in range(2):
        path = write_raster(
            tmp_path / f"{number}.tif", noise(bands=2, rows=200, columns=200, seed=number) // 2 + 1,
            origin=(LEFT + number * 2000, TOP), nodata=0, compress="deflate",
        )  # fmt: skip
        moment = dt.datetime(2024, 1, 1 + number, tzinfo=dt.UTC)
        rows.append(record(f"r{number}", {"B": (path, 0), "C": (path, 1)}, moment=moment))
    return as_collection(records_table(rows, ["B", "C"]))


def expected(path, bounds, band=1):
    with rasterio.open(path) as source:
        return source.read(band, window=rasterio.windows.from_bounds(*bounds, source.transform))


def test_random_samples_are_the_pixels(two_tiles, tmp_path):
    dataset = two_tiles.to_torchgeo_dataset(["B", "C"])
    assert len(dataset) == 2
    assert dataset.res == (10, 10)
    sampler = samplers.RandomGeoSampler(dataset, size=32, length=20)
    for query in sampler:
        sample = dataset[query]
        assert sample["image"].shape == (2, 32, 32)
        assert sample["image"].dtype == torch.float32
        x, y = query[0], query[1]
        # Samplers do not keep to pixels; GDAL's nearest neighbour decides, so only its rule is checked here.
        columns = np.floor((x.start + (np.arange(32) + 0.5) * 10 - LEFT) / 10).astype(int)
        rows = np.floor((TOP - (y.stop - (np.arange(32) + 0.5) * 10)) / 10).astype(int)
        with rasterio.open(tmp_path / "0.tif") as a, rasterio.open(tmp_path / "1.tif") as b:
            both = np.hstack([a.read(1), b.read(1)]).astype(np.float32)
        known = both[np.clip(rows, 0, 199)][:, np.clip(columns, 0, 399)]
        got = sample["image"][0].numpy()
        there = got != 0
        assert there.mean() > 0.4
        assert (got == known)[there].mean() > 0.99


def test_aligned_slices_are_equal_to_rasterio(two_tiles, tmp_path):
    dataset = two_tiles.to_torchgeo_dataset("B")
    bounds = (LEFT + 300, TOP - 900, LEFT + 700, TOP - 400)
    sample = dataset[bounds[0] : bounds[2], bounds[1] : bounds[3]]
    np.testing.assert_array_equal(sample["image"][0], expected(tmp_path / "0.tif", bounds))


def test_records_are_merged_where_they_overlap_in_time(two_tiles, tmp_path):
    sample = two_tiles.to_torchgeo_dataset("B")[LEFT + 1900 : LEFT + 2100, TOP - 100 : TOP]
    left = expected(tmp_path / "0.tif", (LEFT + 1900, TOP - 100, LEFT + 2000, TOP))
    right = expected(tmp_path / "1.tif", (LEFT + 2000, TOP - 100, LEFT + 2100, TOP))
    np.testing.assert_array_equal(sample["image"][0], np.hstack([left, right]))


def test_time_series_and_masks(two_tiles):
    series = two_tiles.to_torchgeo_dataset(["B", "C"], time_series=True)
    assert series[LEFT + 1900 : LEFT + 2100, TOP - 100 : TOP]["image"].shape == (2, 2, 10, 20)
    mask = two_tiles.to_torchgeo_dataset("B", is_image=False)[LEFT : LEFT + 100, TOP - 100 : TOP]["mask"]
    assert mask.shape == (10, 10)
    assert mask.dtype == torch.int64


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_with_workers(two_tiles, workers):
    dataset = two_tiles.to_torchgeo_dataset(["B"])
    dataset[LEFT : LEFT + 100, TOP - 100 : TOP]  # connections of this process must not reach the workers
    loader = torch.utils.data.DataLoader(
        dataset, sampler=samplers.GridGeoSampler(dataset, size=64, stride=64), batch_size=4, num_workers=workers,
        collate_fn=datasets.stack_samples,
    )  # fmt: skip
    assert sum(len(batch["image"]) for batch in loader) >= 18


def test_intersection_with_another_crs(two_tiles):
    utm = two_tiles.to_torchgeo_dataset(["B"])
    lonlat = two_tiles.to_torchgeo_dataset(["C"], target_crs=4326)
    both = utm & lonlat
    query = next(iter(samplers.RandomGeoSampler(both, size=16, length=1)))
    assert both[query]["image"].shape == (2, 16, 16)


def test_several_crss_need_a_choice(two_tiles, tmp_path):
    other = write_raster(tmp_path / "x.tif", noise(bands=2), crs="EPSG:32633", origin=ORIGIN)
    table = two_tiles.to_table()
    far = records_table([record("far", {"B": (other, 0), "C": (other, 1)})], ["B", "C"])
    mixed = as_collection(pa.concat_tables([table, far.cast(table.schema)]))
    with pytest.raises(WindowError, match="2 CRSs"):
        mixed.to_torchgeo_dataset("B")
    assert len(mixed.to_torchgeo_dataset("B", target_crs=3857)) == 3
