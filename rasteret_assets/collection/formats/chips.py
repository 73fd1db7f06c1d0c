"""Cut rasters into chips, as a dataset of PyTorch alone. Imported only if PyTorch is installed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from rasteret_assets.collection.areas.grid import Grid
from rasteret_assets.collection.pixels.backends import Source
from rasteret_assets.collection.pixels.filling import fill
from rasteret_assets.collection.pixels.on_demand import RecordsOnDemand, list_records
from rasteret_assets.collection.pixels.planes import Plane
from rasteret_assets.collection.pixels.read_options import ReadOptions
from rasteret_assets.collection.pixels.record_table import RecordTable, checked_bands
from rasteret_assets.collection.pixels.select import Record
from rasteret_assets.collection.pixels.views import View
from rasteret_assets.errors import SpecError

_Pair = tuple[int, int]


class ChipDataset(Dataset):  # type: ignore[misc]  # Any to mypy, which has no PyTorch
    """Chips of the rasters of records, by their number. ``Collection.to_torch_dataset`` describes a sample.

    Args:
        records: of the collection; their headers are read when a chip needs them.
        source: where the bytes come from.
        options: how pixels are read.
        size: rows and columns of a chip.
        stride: rows and columns from one chip to the next.
        dtype: of the pixels in a sample.
        transforms: called with each sample.
    """

    def __init__(
        self,
        records: RecordsOnDemand,
        source: Source,
        options: ReadOptions,
        *,
        size: _Pair,
        stride: _Pair,
        dtype: np.dtype[Any],
        transforms: Callable[[dict[str, Any]], Any] | None = None,
    ) -> None:
        self.records = records
        self.bands = records.bands
        self.source = source
        self.options = options
        self.size = size
        self.stride = stride
        self.dtype = dtype
        self.transforms = transforms
        width, height = records.rasters.sizes.astype(np.int64).T
        #: Chips across each raster, and the number of the first chip of each raster, with the number of chips last.
        self._across = _count(width, size[1], stride[1])
        self._first = np.concatenate([[0], np.cumsum(self._across * _count(height, size[0], stride[0]))])

    def __len__(self) -> int:
        """Number of chips."""
        return int(self._first[-1])

    def __getitem__(self, number: int) -> Any:  # noqa: ANN401  (what ``transforms`` makes of a sample)
        """Return the sample of one chip.

        Raises:
            IndexError: if the dataset has no chip of this number.
            StaleRowsError: if a build replaced a file of the collection after the dataset was made.
        """
        return self.__getitems__([number])[0]

    def __getitems__(self, numbers: Sequence[int]) -> list[Any]:
        """Return the samples of several chips, as loaders ask for a batch; headers and pixels are read together."""
        owners, grids = [], []
        for number in numbers:
            owner, grid = self._chip(int(number))
            owners.append(owner)
            grids.append(grid)
        records = self.records.take(owners)
        pixels = [self._room(record) for record in records]
        planes = [
            plane
            for record, grid, array in zip(records, grids, pixels, strict=True)
            for plane in _planes(record, grid, array)
        ]
        fill(planes, self.bands, self.source.open(), self.options)
        return [
            self._sample(record, grid, array) for record, grid, array in zip(records, grids, pixels, strict=True)
        ]  # fmt: skip

    def _chip(self, number: int) -> tuple[int, Grid]:
        """Return the record of a chip, and its grid."""
        if not -len(self) <= number < len(self):
            raise IndexError(f"there is no chip {number}: the dataset has {len(self)}")
        number %= len(self)
        owner = int(np.searchsorted(self._first, number, "right")) - 1
        row, column = divmod(number - int(self._first[owner]), int(self._across[owner]))
        grid = self.records.grid(owner)
        return owner, replace(
            grid,
            width=self.size[1],
            height=self.size[0],
            origin_x=grid.origin_x + column * self.stride[1] * grid.scale_x,
            origin_y=grid.origin_y + row * self.stride[0] * grid.scale_y,
        )

    def _room(self, record: Record) -> npt.NDArray[Any]:
        kind = np.result_type(*{header.sample_type for header in record.present_headers})
        return np.empty((len(self.bands), *self.size), dtype=kind)

    def _sample(self, record: Record, grid: Grid, pixels: npt.NDArray[Any]) -> Any:  # noqa: ANN401  (likewise)
        sample = {
            "image": torch.from_numpy(pixels.astype(self.dtype, copy=False)),
            "id": record.id,
            "bounds": torch.tensor(grid.bounds, dtype=torch.float64),
            "crs": record.crs,
        }
        return sample if self.transforms is None else self.transforms(sample)


def cut_into_chips(
    collection: RecordTable, bands: str | Sequence[str], *, chip_size: int | _Pair, stride: int | _Pair | None,
    dtype: str, source: Source, options: ReadOptions, transforms: Callable[[dict[str, Any]], Any] | None,
) -> ChipDataset:  # fmt: skip
    """Return the dataset; arguments and errors are those of ``Collection.to_torch_dataset``."""
    size = _pair(chip_size, "chip_size")
    step = size if stride is None else _pair(stride, "stride")
    try:
        kind = torch.from_numpy(np.empty(0, dtype=dtype)).numpy().dtype
    except TypeError as error:
        raise SpecError(f"dtype={dtype!r} is not a type of PyTorch: write for example 'float32' or 'int32'") from error
    records = list_records(collection, checked_bands(collection, bands), options)
    return ChipDataset(records, source, options, size=size, stride=step, dtype=kind, transforms=transforms)


def _pair(value: int | _Pair, name: str) -> _Pair:
    rows, columns = value if isinstance(value, Sequence) and len(value) == 2 else (value, value)
    if not all(isinstance(side, int | np.integer) and side > 0 for side in (rows, columns)):
        raise SpecError(f"{name}={value!r} must be a number of pixels, 1 or more, or (rows, columns)")
    return int(rows), int(columns)


def _count(pixels: npt.NDArray[np.int64], size: int, stride: int) -> npt.NDArray[np.int64]:
    """Return the number of chips along a side, so that every pixel is in a chip."""
    return np.maximum(-(-(pixels - size) // stride), 0) + 1


def _planes(record: Record, grid: Grid, pixels: npt.NDArray[Any]) -> list[Plane]:
    view = View.of_grid(record, record.crs, grid)
    return [Plane(view=view, band=band, pixels=pixels[band]) for band in range(len(pixels))]
