"""Measure what a loader of training data takes: memory of a worker, time to the first batch, and time per batch.

``python benchmarks/loader.py`` writes a million synthetic records of three bands as a published collection (10980²
uint16 in 121 tiles, no two tile tables alike, five years by month, a thousand places), once, below ``--cache``. Pixels
come from memory, so that what is measured is the way to them. ``--start`` says how workers start; ``--plain`` takes the
dataset of PyTorch alone. Samples are single records chosen at random, which no cache helps; with ``--near`` those of
one batch are neighbours in one file.

*Worker* is its largest resident memory; *of its own* what it shares with no other process; *imports* is what a worker
of the same kind takes that loads nothing: PyTorch with CUDA alone is half a gigabyte.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import pickle
import time
import zlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
import torch
from report import describe_machine
from torch.utils.data import DataLoader, Dataset
from torchgeo.datasets import stack_samples

from rasteret_assets import load, schema
from rasteret_assets.publish.row_groups import group_rows, row_groups

BANDS: Final = ("B02", "B03", "B04")
SIDE, TILE, SIZE = 10_980, 1024, 10.0
TILES: Final = (-(-SIDE // TILE)) ** 2
MONTHS: Final = 60
PLACES: Final = 1_000
#: Upper left corner of the first place, and places along a side of their square.
LEFT, TOP, ACROSS = 300_000.0, 6_000_000.0, 32
ROWS_AT_ONCE: Final = 4_000

PIXELS: Final = (np.arange(TILE * TILE, dtype=np.uint16) % 251 + 1).tobytes()
STORED: Final = zlib.compress(PIXELS, 1)
#: Every tile begins at a multiple of so many bytes, so that what is stored anywhere is known without its table.
BLOCK: Final = 32 * 1024


class TilesInMemory:
    """Serve the same tile in every block of every file; it may be pickled.

    Args:
        latency: seconds that every answer takes.
    """

    def __init__(self, latency: float) -> None:
        self.latency = latency

    async def get_range(self, url: str, start: int, length: int) -> bytes:  # noqa: ARG002
        """Return a part of a file."""
        await asyncio.sleep(self.latency)
        first = start % BLOCK
        blocks = (STORED + bytes(BLOCK - len(STORED))) * -(-(first + length) // BLOCK)
        return blocks[first : first + length]

    async def get_ranges(self, url: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return one buffer for each range."""
        return [await self.get_range(url, start, length) for start, length in ranges]


def write_collection(folder: Path, records: int) -> None:
    """Write a published collection, in the row groups that the publisher would make."""
    for month in range(MONTHS):
        first, end = month * records // MONTHS, (month + 1) * records // MONTHS
        year, number = divmod(month, 12)
        path = folder / f"year={2019 + year}" / f"month={number + 1}" / "part-0.parquet"
        path.parent.mkdir(parents=True)
        pieces = (
            _rows(np.arange(at, min(at + ROWS_AT_ONCE, end)), 2019 + year, number + 1, end - first, first)
            for at in range(first, end, ROWS_AT_ONCE)
        )
        writer = None
        for group in row_groups(pieces, group_rows(end - first)):
            writer = writer or pq.ParquetWriter(path, group.schema, compression="zstd", compression_level=1)
            writer.write_table(group, row_group_size=group.num_rows)
        if writer is not None:
            writer.close()


def _rows(numbers: np.ndarray, year: int, month: int, of_month: int, first: int) -> pa.Table:
    """Return records by number, in the order of their places."""
    inside = numbers - first
    place = inside * PLACES // of_month
    left, top = _corner(place)
    begin = int(datetime(year, month, 1, tzinfo=UTC).timestamp())
    moments = (begin + (inside * 7919 % of_month) * (27 * 86_400) // of_month) * 1_000_000 + inside
    boxes = np.column_stack([left, top - SIDE * SIZE, left + SIDE * SIZE, top]) / 1e6
    columns: dict[str, pa.Array] = {
        schema.ID: pa.array([f"S2_{number:08}" for number in numbers.tolist()]),
        schema.DATETIME: pa.array(moments, pa.int64()).cast(schema.TIMESTAMP),
        schema.GEOMETRY: pa.array(shapely.to_wkb(shapely.box(*boxes.T)), pa.binary()),
        schema.BBOX: pa.StructArray.from_arrays(list(boxes.T), fields=list(schema.BBOX_TYPE)),
        schema.PROJ_EPSG: pa.array(np.full(len(numbers), 32632, np.int32)),
        schema.ASSETS: pa.StructArray.from_arrays(
            [pa.StructArray.from_arrays([_hrefs(numbers, band)], names=[schema.HREF]) for band in BANDS],
            names=list(BANDS),
        ),
    }
    for seed, band in enumerate(BANDS):
        columns[schema.band_column(band)] = _headers(numbers, left, top, seed)
    return pa.table(columns, metadata={schema.COLLECTION_VERSION_KEY: schema.COLLECTION_VERSION})


def _corner(place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return LEFT + place % ACROSS * SIDE * SIZE, TOP - place // ACROSS * SIDE * SIZE


def _hrefs(numbers: np.ndarray, band: str) -> pa.Array:
    return pa.array([f"https://example.com/sentinel-cogs/S2_{number:08}/{band}.tif" for number in numbers.tolist()])


def _headers(numbers: np.ndarray, left: np.ndarray, top: np.ndarray, seed: int) -> pa.StructArray:
    count = len(numbers)
    rng = np.random.default_rng([seed, int(numbers[0])])
    sizes = rng.integers(len(STORED), BLOCK, (count, TILES))
    offsets = np.cumsum(rng.integers(1, 64, (count, TILES)), axis=1) * BLOCK
    scale = np.full(count, SIZE)
    known: dict[str, Any] = {
        "image_width": SIDE, "image_height": SIDE, "tile_width": TILE, "tile_height": TILE, "dtype": "uint16",
        "predictor": 1, "compression": 8, "samples_per_pixel": 1, "planar_configuration": 1, "photometric": 1,
        "epsg": 32632, "band_index": 0, "nodata": 0.0, "nodata_text": "0",
        "transform": np.column_stack([scale, left, -scale, top]), "tile_offsets": offsets, "tile_byte_counts": sizes,
    }  # fmt: skip
    arrays = []
    for field in schema.BAND_STRUCT:
        value = known.get(field.name)
        if value is None:
            arrays.append(pa.nulls(count, field.type))
        elif isinstance(value, np.ndarray):
            starts = pa.array(np.arange(0, value.size + 1, value.shape[1], dtype=np.int32))
            arrays.append(pa.ListArray.from_arrays(starts, pa.array(value.ravel(), field.type.value_type)))
        else:
            arrays.append(pa.array([value] * count, field.type))
    return pa.StructArray.from_arrays(arrays, fields=list(schema.BAND_STRUCT))


class Batches:
    """A batch sampler: random records, or neighbours, and a random chip of each."""

    def __init__(self, dataset: Any, options: argparse.Namespace) -> None:
        self.options = options
        self.chips = len(dataset) if options.plain else None
        if self.chips is None:
            frame = dataset.index
            self.bounds = frame.geometry.bounds.to_numpy()
            self.moments = frame.index.left

    def __len__(self) -> int:
        """Return the number of batches."""
        return int(self.options.batches)

    def __iter__(self) -> Iterator[list[Any]]:
        """Yield the queries of each batch."""
        rng = np.random.default_rng(0)
        for _ in range(len(self)):
            rows = rng.integers(0, self.options.records, self.options.batch_size)
            if self.options.near:
                rows = (rows[0] + np.arange(len(rows))) % self.options.records
            if self.chips is not None:
                per_record = self.chips // self.options.records
                yield [int(row) * per_record + int(rng.integers(0, per_record)) for row in rows]
                continue
            yield [self._query(int(row), rng) for row in rows]

    def _query(self, row: int, rng: np.random.Generator) -> tuple[slice, slice, slice]:
        size = self.options.chip * SIZE
        x, y = self.bounds[row, :2] + np.floor(rng.random(2) * (SIDE - self.options.chip)) * SIZE
        return slice(x, x + size), slice(y, y + size), slice(self.moments[row], self.moments[row])


class Nothing(Dataset):
    """A dataset whose workers load nothing."""

    def __len__(self) -> int:
        """Return the number of samples."""
        return 2

    def __getitem__(self, number: int) -> int:
        """Return one sample."""
        return number


def memory(process: int) -> dict[str, int]:
    """Return the largest and the private memory of a process, in MB."""
    status = Path(f"/proc/{process}/status").read_text().splitlines()
    shared = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    own = sum(int(line.split()[1]) for line in shared if line.startswith("Private_"))
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    return {"peak": peak // 1024, "own": own // 1024}


def main() -> None:
    """Print the numbers."""
    options = _options()
    print(describe_machine())
    folder = options.cache / f"loader-{options.records}" / "scenes_records"
    if not folder.exists():
        started = time.monotonic()
        making = folder.with_name("making")
        write_collection(making, options.records)
        making.rename(folder)
        print(f"written in {time.monotonic() - started:.0f} s")
    context = multiprocessing.get_context(options.start)
    nothing = iter(DataLoader(Nothing(), num_workers=1, multiprocessing_context=context))
    next(nothing)
    base = memory(nothing._workers[0].pid)  # noqa: SLF001  (nothing else tells)
    del nothing

    started = time.monotonic()
    collection = load(folder, verify=False)
    loaded = time.monotonic() - started
    started = time.monotonic()
    backend = TilesInMemory(options.latency)
    if options.plain:
        dataset: Any = collection.to_torch_dataset(list(BANDS), chip_size=options.chip, backend=backend)
    else:
        dataset = collection.to_torchgeo_dataset(list(BANDS), backend=backend)
    made = time.monotonic() - started
    started = time.monotonic()
    batches = Batches(dataset, options)
    print(f"loaded {loaded:.1f} s, dataset {made:.1f} s, index and sampler {time.monotonic() - started:.1f} s")
    print(f"pickled: {len(pickle.dumps(dataset)) / 1e6:.1f} MB")

    loader = DataLoader(
        dataset, batch_sampler=batches, num_workers=1, multiprocessing_context=context, prefetch_factor=1,
        **({} if options.plain else {"collate_fn": stack_samples}),
    )  # fmt: skip
    started = time.monotonic()
    iterator = iter(loader)
    worker = iterator._workers[0].pid  # noqa: SLF001
    times, peaks = [], []
    for batch in iterator:
        times.append(time.monotonic() - started)
        assert torch.all(batch["image"].amax(dim=(1, 2, 3)) > 0)
        if len(times) < len(batches):  # then it ends
            peaks.append(memory(worker))
        started = time.monotonic()
    peak, own = (max(found[kind] for found in peaks) for kind in ("peak", "own"))
    rest = sorted(times[1:])
    print(f"first batch {times[0]:.2f} s; then median {rest[len(rest) // 2]:.3f} s, mean {sum(rest) / len(rest):.3f} s")
    print(f"worker {peak} MB, of its own {own} MB; imports {base['peak']} MB, of their own {base['own']} MB")
    print(f"beyond imports {peak - base['peak']} MB, of its own {own - base['own']} MB")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--chip", type=int, default=256, help="pixels along a side")
    parser.add_argument("--start", choices=["fork", "spawn"], default="fork", help="how workers start")
    parser.add_argument("--latency", type=float, default=0.02, help="seconds that a request takes")
    parser.add_argument("--near", action="store_true", help="samples of a batch are neighbours")
    parser.add_argument("--plain", action="store_true", help="the dataset of PyTorch alone")
    parser.add_argument("--cache", type=Path, default=Path("/tmp/rasteret-assets-benchmarks"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
