"""TorchGeo's samplers and loaders read a collection. Skipped if TorchGeo, a large package, is not installed."""

from __future__ import annotations

import copy
import datetime as dt
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
import rasterio.windows
import shapely

torch = pytest.importorskip("torch", reason="the extra [torchgeo] is not installed")
samplers = pytest.importorskip("torchgeo.samplers")
datasets = pytest.importorskip("torchgeo.datasets")

from rasteret_assets.collection import Collection, as_collection, load  # noqa: E402
from rasteret_assets.errors import SpecError, StaleRowsError, WindowError  # noqa: E402

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
        # Random samples do not align with pixels, so only the rule of GDAL's nearest neighbour is checked.
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
    # Opens connections in this process, which workers must not use.
    dataset[LEFT : LEFT + 100, TOP - 100 : TOP]
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


@pytest.fixture
def published(two_tiles, tmp_path) -> Path:
    """The collection in files, with a row group for each record."""
    path = tmp_path / "home" / "part-0.parquet"
    path.parent.mkdir()
    pq.write_table(two_tiles.to_table(), path, row_group_size=1)
    return path.parent


def seam(dataset):
    return dataset[LEFT + 1900 : LEFT + 2100, TOP - 100 : TOP]["image"]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_headers_are_read_by_workers(published, two_tiles, method):
    dataset = load(published).to_torchgeo_dataset(["B", "C"])
    expected = seam(two_tiles.to_torchgeo_dataset(["B", "C"]))
    # Opens files in this process, which workers must not use.
    assert torch.equal(seam(dataset), expected)
    queries = [(slice(LEFT + 1900, LEFT + 2100), slice(TOP - 100, TOP))] * 6
    loader = torch.utils.data.DataLoader(
        dataset, sampler=queries, batch_size=3, num_workers=2, multiprocessing_context=method,
        collate_fn=datasets.stack_samples,
    )  # fmt: skip
    for batch in loader:
        assert torch.equal(batch["image"], expected.expand(3, -1, -1, -1))


def test_a_dataset_is_pickled_without_headers_and_index(tmp_path, two_tiles):
    rows = two_tiles.to_table().to_pylist()
    for row in rows:
        row["B_metadata"] |= {"tile_offsets": list(range(100_000)), "tile_byte_counts": [7] * 100_000}
    path = tmp_path / "large.parquet"
    pq.write_table(pa.Table.from_pylist(rows, two_tiles.schema), path)
    dataset = as_collection(pa.dataset.dataset(path)).to_torchgeo_dataset("B")
    assert len(dataset.index) == 2
    state = pickle.dumps(dataset)
    assert len(state) < 30_000
    assert pickle.loads(state).index.equals(dataset.index)


def test_replaced_files_are_noticed(published, two_tiles):
    dataset = load(published).to_torchgeo_dataset("B")
    chips = load(published).to_torch_dataset("B", chip_size=64)
    dataset[LEFT : LEFT + 100, TOP - 100 : TOP]
    pq.write_table(two_tiles.to_table().slice(0, 1), published / "part-0.parquet")
    for reads in (lambda: seam(pickle.loads(pickle.dumps(dataset))), lambda: chips[len(chips) - 1]):
        with pytest.raises(
            StaleRowsError,
            match=r"part-0\.parquet was replaced by a build after its records were "
            r"listed",
        ):
            reads()


def test_the_index_may_be_replaced(two_tiles, tmp_path):
    dataset = two_tiles.to_torchgeo_dataset("B")
    assert dataset.index["id"].tolist() == ["r0", "r1"]
    part = copy.deepcopy(dataset)
    frame = part.index.iloc[1:].copy()
    # A triangle, as splits by region make it; places beside it do not belong to the dataset.
    corners = [(LEFT + 2000, TOP), (LEFT + 4000, TOP), (LEFT + 4000, TOP - 2000)]
    frame.geometry = [shapely.Polygon(corners)]
    part.index = frame
    for one in (part, pickle.loads(pickle.dumps(part))):
        assert len(one) == 1
        bounds = (LEFT + 3000, TOP - 100, LEFT + 3100, TOP)
        sample = one[bounds[0] : bounds[2], bounds[1] : bounds[3]]
        np.testing.assert_array_equal(sample["image"][0], expected(tmp_path / "1.tif", bounds))
        with pytest.raises(IndexError):
            one[LEFT + 2100 : LEFT + 2200, TOP - 1900 : TOP - 1800]
        one.crs = 4326
        assert one.index.crs.to_epsg() == 4326
        assert one.bounds[0].start == pytest.approx(one.index.total_bounds[0])
    assert len(dataset) == 2


def test_bounds_and_times_are_those_of_the_index(two_tiles):
    rows = two_tiles.to_table().to_pylist()
    rows[1]["datetime"] = None
    undated = as_collection(pa.Table.from_pylist(rows, two_tiles.schema))
    for dataset in (two_tiles.to_torchgeo_dataset("B"), undated.to_torchgeo_dataset("B", target_crs=3857)):
        x, y, t = dataset.bounds
        assert (x.start, y.start, x.stop, y.stop) == tuple(dataset.index.total_bounds)
        assert (t.start, t.stop) == (dataset.index.index.left.min(), dataset.index.index.right.max())
        assert dataset.index.index.closed == "both"
    # Of the time of one record, there is the other only if it is of all times.
    moment = pd.Timestamp(2024, 1, 1)
    x = slice(LEFT + 1900, LEFT + 2100)
    assert not two_tiles.to_torchgeo_dataset("B")[x, TOP - 100 : TOP, moment:moment]["image"][0, :, 10:].any()
    assert undated.to_torchgeo_dataset("B")[x, TOP - 100 : TOP, moment:moment]["image"][0, :, 10:].all()


def test_a_batch_equals_its_samples_one_by_one(two_tiles):
    dataset = two_tiles.to_torchgeo_dataset(["B"], time_series=False)
    queries = list(samplers.RandomGeoSampler(dataset, size=32, length=8))
    for query, sample in zip(queries, dataset.__getitems__(queries), strict=True):
        assert torch.equal(sample["image"], dataset[query]["image"])
    with pytest.raises(IndexError):
        dataset.__getitems__([*queries, (slice(0, 10), slice(0, 10))])


class TestChips:
    """Datasets of PyTorch alone."""

    def test_chips_cover_every_raster(self, two_tiles, tmp_path):
        chips = two_tiles.to_torch_dataset(["C", "B"], chip_size=(64, 96), stride=64)
        assert len(chips) == 2 * 4 * 3
        seen = []
        for sample in chips:
            assert sample["image"].shape == (2, 64, 96)
            assert sample["image"].dtype == torch.float32
            assert sample["crs"] == "EPSG:32632"
            seen.append((sample["id"], *sample["bounds"].tolist()))
            padded = np.zeros((2, 64, 96), np.float32)
            with rasterio.open(tmp_path / f"{sample['id'][1]}.tif") as source:
                known = source.read([2, 1], window=rasterio.windows.from_bounds(*seen[-1][1:], source.transform))
            padded[:, : known.shape[1], : known.shape[2]] = known
            np.testing.assert_array_equal(sample["image"], padded)
        assert len(set(seen)) == len(chips)
        assert seen[4] == ("r0", LEFT + 640, TOP - 1280, LEFT + 1600, TOP - 640)
        assert chips[-1]["id"] == "r1"
        with pytest.raises(IndexError):
            chips[len(chips)]

    @pytest.mark.parametrize("method", ["fork", "spawn"])
    def test_loader(self, published, method):
        chips = load(published).to_torch_dataset("B", chip_size=50, dtype="int32")
        loader = torch.utils.data.DataLoader(
            chips, batch_size=8, num_workers=2, multiprocessing_context=method, shuffle=True
        )  # fmt: skip
        batches = list(loader)
        assert sum(len(batch["id"]) for batch in batches) == len(chips) == 32
        assert batches[0]["image"].shape == (8, 1, 50, 50)
        assert batches[0]["image"].dtype == torch.int32
        assert batches[0]["bounds"].shape == (8, 4)

    def test_filters_and_transforms_apply_and_wrong_arguments_are_refused(self, two_tiles):
        only = two_tiles.to_torch_dataset("B", date_range=("2024-01-02", None), transforms=lambda sample: sample["id"])
        assert list(only) == ["r1"]
        for wrong in ({"chip_size": 0}, {"chip_size": "a"}, {"stride": (1, 2, 3)}, {"dtype": "complex512"}):
            with pytest.raises(SpecError):
                two_tiles.to_torch_dataset("B", **wrong)
        with pytest.raises(WindowError, match="no record meets"):
            two_tiles.to_torch_dataset("B", date_range=("1990", "1991"))
