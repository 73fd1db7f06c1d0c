"""Offer a collection as a TorchGeo dataset: samples are cut from records of the index, without opening a file.

The dataset holds arrays of boxes and times. Headers are read for the records of a sample. The GeoDataFrame for
TorchGeo's samplers is made when they ask for it, which they do not in workers.

Imported only if TorchGeo is installed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyproj
import shapely
import torch
from torchgeo.datasets import GeoDataset

from rasteret_assets.collection.areas.grid import Grid
from rasteret_assets.collection.areas.reproject import map_crs, reproject_each
from rasteret_assets.collection.formats.mosaic import combined
from rasteret_assets.collection.pixels.backends import Source
from rasteret_assets.collection.pixels.filling import fill
from rasteret_assets.collection.pixels.on_demand import RecordsOnDemand
from rasteret_assets.collection.pixels.planes import Plane
from rasteret_assets.collection.pixels.read_options import ReadOptions
from rasteret_assets.collection.pixels.select import Record
from rasteret_assets.collection.pixels.views import View, several_crss
from rasteret_assets.collection.pixels.warp import suggest_resolution
from rasteret_assets.inputs import CRSLike

#: First and last day that pandas can state in nanoseconds, its default unit.
_FOREVER = np.datetime64("1677-09-22", "us"), np.datetime64("2262-04-11", "us")
_NANOSECONDS = np.dtype("datetime64[ns]")

GeoSlice: TypeAlias = slice | tuple[slice, ...]
"""A place and time as TorchGeo has them: slices of x, y and time, of which the last ones may be left out."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Entries:
    """Boxes and times of N entries of the index, each of which is a record or a part of one.

    Args:
        numbers: int32 ``[N]``, positions of the records.
        bounds: float64 ``[N, 4]``, boxes in the dataset's CRS.
        first: datetime64 ``[N]``, the first moment of each entry.
        last: datetime64 ``[N]``, the last moment of each entry.
        extent: the box around all, and the first and the last moment of all.
    """

    numbers: npt.NDArray[np.int32]
    bounds: npt.NDArray[np.float64]
    first: npt.NDArray[np.datetime64]
    last: npt.NDArray[np.datetime64]
    extent: tuple[list[float], pd.Timestamp, pd.Timestamp]

    @classmethod
    def of(
        cls, numbers: npt.NDArray[np.int32], bounds: npt.NDArray[np.float64],
        first: npt.NDArray[np.datetime64], last: npt.NDArray[np.datetime64],
    ) -> _Entries:  # fmt: skip
        """Return entries with their extent, which every query needs."""
        box = [*bounds[:, :2].min(axis=0).tolist(), *bounds[:, 2:].max(axis=0).tolist()]
        extent = box, pd.Timestamp(first.min()), pd.Timestamp(last.max())
        return cls(numbers=numbers, bounds=bounds, first=first, last=last, extent=extent)


class CollectionDataset(GeoDataset):  # type: ignore[misc]  # Any to mypy, which has no TorchGeo
    """Records of a collection for TorchGeo's samplers and loaders.

    A sample is a dict of its place, as in TorchGeo's own datasets, and ``image`` (float32, bands x rows x columns; with
    ``time_series`` time before them), or ``mask`` (int64) if ``is_image`` is false. Of overlapping records the first
    with data wins, by datetime and id. Pixels without data are the bands' nodata, or 0 if a band has no nodata.

    Args:
        records: of the collection; their headers are read when a sample needs them.
        source: where the bytes come from.
        options: how pixels are read.
        is_image: whether samples hold an image; else a mask.
        time_series: whether records stay apart, as steps of time.
        transforms: called with each sample.
    """

    def __init__(
        self,
        records: RecordsOnDemand,
        source: Source,
        options: ReadOptions,
        *,
        is_image: bool = True,
        time_series: bool = False,
        transforms: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        self.records = records
        self.all_bands = records.bands
        self.bands = records.bands
        self.source = source
        self.options = options
        self.is_image = is_image
        self.time_series = time_series
        self.transforms = transforms
        crs = options.target_crs or _one_crs(records)
        self._res = options.resolution or _finest(records, crs)
        self._crs = pyproj.CRS.from_user_input(crs)
        self._entries = _all_entries(records, crs)
        self._index: gpd.GeoDataFrame | None = None
        #: Whether a user (or a split of TorchGeo's) replaced the index.
        self._is_replaced = False

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | ({} if self._is_replaced else {"_index": None})

    @property
    def index(self) -> gpd.GeoDataFrame:
        """The records by time (intervals, closed), with ``id``, ``position`` and ``geometry`` in the dataset's CRS."""
        if self._index is None:
            entries = self._entries
            ids = self.records.rasters.ids.take(pa.array(entries.numbers))
            self._index = gpd.GeoDataFrame(
                {"id": pd.array(ids, dtype=pd.ArrowDtype(pa.string())), "position": entries.numbers},
                geometry=self._geometries(np.arange(len(entries.numbers))),
                crs=self._crs,
                index=pd.IntervalIndex.from_arrays(entries.first, entries.last, closed="both", name="datetime"),
            )
        return self._index

    @index.setter
    def index(self, frame: gpd.GeoDataFrame) -> None:
        # Set by TorchGeo's splits, to a part of the index or of its geometries.
        self._is_replaced = True
        self._index = frame
        self._crs = frame.crs
        self._entries = _Entries.of(
            numbers=frame["position"].to_numpy(np.int32),
            bounds=frame.geometry.bounds.to_numpy(np.float64),
            first=frame.index.left.to_numpy(),
            last=frame.index.right.to_numpy(),
        )

    def __len__(self) -> int:
        """Number of entries of the index: records, or what the index was replaced with."""
        return len(self._entries.numbers)

    @property
    def bounds(self) -> tuple[slice, slice, slice]:
        """Extent in x, y and time, with the size of a step in each."""
        (xmin, ymin, xmax, ymax), first, last = self._entries.extent
        x_size, y_size = self.res
        return slice(xmin, xmax, x_size), slice(ymin, ymax, y_size), slice(first, last, 1)

    @property
    def crs(self) -> pyproj.CRS:
        """CRS of the dataset; setting it brings the index to the new CRS."""
        return self._crs

    @crs.setter
    def crs(self, new_crs: CRSLike) -> None:
        wanted = pyproj.CRS.from_user_input(new_crs)
        if wanted == self._crs:
            return
        if self._is_replaced:
            self.index = self.index.to_crs(wanted)
        else:
            self._crs, self._index = wanted, None
            self._entries = _all_entries(self.records, _name(wanted))

    def __getitem__(self, query: GeoSlice) -> dict[str, Any]:
        """Return the sample of a slice ``[xmin:xmax:xres, ymin:ymax:yres, tmin:tmax]``.

        Raises:
            IndexError: if no record lies there.
            CollectionError: if a build replaced a file of the collection after the dataset was made.
        """
        return self.__getitems__([query])[0]

    def __getitems__(self, queries: Sequence[GeoSlice]) -> list[dict[str, Any]]:
        """Return the samples of several slices, whose headers and pixels are read together, as loaders ask for a batch.

        Raises:
            IndexError: if no record lies in a slice.
        """
        grids = [self._grid(query) for query in queries]
        numbers = [self._found(query) for query in queries]
        flat = self.records.take([number for found in numbers for number in found])
        planes: list[Plane] = []
        samples = []
        first = 0
        for grid, found in zip(grids, numbers, strict=True):
            pixels, valid = self._planes(flat[first : first + len(found)], grid, planes)
            samples.append((pixels, valid))
            first += len(found)
        fill(planes, self.bands, self.source.open(), self.options)
        return [
            self._sample(query, grid, pixels, valid)
            for query, grid, (pixels, valid) in zip(queries, grids, samples, strict=True)
        ]

    def _sample(
        self, query: GeoSlice, grid: Grid, pixels: npt.NDArray[Any], valid: npt.NDArray[np.bool_]
    ) -> dict[str, Any]:
        data = torch.from_numpy(pixels if self.time_series else combined(pixels, valid, "first")[0])
        sample = self._place(query, grid)
        if self.is_image:
            sample["image"] = data.to(torch.float32)
        else:
            sample["mask"] = data.to(torch.int64).squeeze(-3)  # a mask of one band has no dimension of bands
        return sample if self.transforms is None else self.transforms(sample)

    def _grid(self, query: GeoSlice) -> Grid:
        x, y, _ = self._disambiguate_slice(query)
        return Grid(
            width=max(round((x.stop - x.start) / x.step), 1),
            height=max(round((y.stop - y.start) / y.step), 1),
            scale_x=x.step,
            scale_y=-y.step,
            origin_x=x.start,
            origin_y=y.stop,
        )

    def _found(self, query: GeoSlice) -> list[int]:
        """Return the positions of the records of a query."""
        x, y, t = self._disambiguate_slice(query)
        entries = self._entries
        start, stop = (np.datetime64(pd.Timestamp(moment).to_datetime64()) for moment in (t.start, t.stop))
        rows = np.flatnonzero((entries.first <= stop) & (entries.last >= start))[:: t.step]
        xmin, ymin, xmax, ymax = entries.bounds[rows].T
        met = (xmin <= x.stop) & (xmax >= x.start) & (ymin <= y.stop) & (ymax >= y.start)
        rows = rows[met]
        rows = rows[shapely.intersects(self._geometries(rows), shapely.box(x.start, y.start, x.stop, y.stop))]
        if not len(rows):
            raise IndexError(f"query {query} not found in index with bounds {self.bounds}")
        if not self.time_series:
            # Without neighbours that only touch the query, because they have no pixel in it.
            xmin, ymin, xmax, ymax = entries.bounds[rows].T
            inside = (xmin < x.stop) & (xmax > x.start) & (ymin < y.stop) & (ymax > y.start)
            rows = rows[inside] if inside.any() else rows
        return [int(number) for number in entries.numbers[rows]]

    def _geometries(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.object_]:
        """Return the shapes of some entries in the dataset's CRS."""
        if self._is_replaced and self._index is not None:
            return np.asarray(self._index.geometry.array[rows], dtype=object)
        return _shapes(self.records, self._entries.numbers[rows], _name(self._crs))

    def _place(self, query: GeoSlice, grid: Grid) -> dict[str, Any]:
        """Return where a sample lies, in the fields of the installed version of TorchGeo."""
        if hasattr(self, "_slice_to_tensor"):  # from 0.9 on samples hold tensors only
            transform = torch.tensor([*grid.affine, 0.0, 0.0, 1.0])
            return {"bounds": self._slice_to_tensor(query), "transform": transform}
        return {"crs": self.crs, "bounds": query}

    def _planes(
        self, records: Sequence[Record], grid: Grid, planes: list[Plane]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """Allocate pixels and their validity, both (records, bands, rows, columns), and append their planes."""
        crs = _name(self.crs)  # of the dataset, because TorchGeo changes it when datasets are joined
        shape = (len(records), len(self.bands), grid.height, grid.width)
        kind = np.result_type(*{header.sample_type for record in records for header in record.present_headers})
        # Signed, because torch cannot compute with unsigned integers of more than 8 bits.
        pixels = np.empty(shape, dtype=kind if kind.kind != "u" else np.result_type(kind, np.int16))
        valid = np.empty(shape, dtype=bool)
        for number, record in enumerate(records):
            view = View.of_grid(record, crs, grid)
            planes += [
                Plane(view=view, band=band, pixels=pixels[number, band], valid=valid[number, band])
                for band in range(len(self.bands))
            ]
        return pixels, valid


@functools.lru_cache(maxsize=16)
def _name(crs: pyproj.CRS) -> str:
    return str(map_crs(crs))


def _one_crs(records: RecordsOnDemand) -> str:
    found: list[str] = sorted({records.crs[code] for code in np.unique(records.rasters.crs).tolist()})
    if len(found) > 1:
        raise several_crss(found, found[0])
    return found[0]


def _finest(records: RecordsOnDemand, crs: str) -> tuple[float, float]:
    """Return the size of the smallest pixels, in units of the dataset's CRS."""
    rasters = records.rasters
    own = np.array([name == crs for name in records.crs])[rasters.crs]
    sizes = []
    if own.any():
        width, height = np.abs(rasters.grids[own][:, ::2]).T
        sizes.append((float(width.min()), float(height[width == width.min()].min())))
    foreign = rasters.take(~own)
    if len(foreign):
        # Of each kind of raster only those at the edges, because GDAL's suggestion depends on the place of a raster.
        _, kind = np.unique(
            np.column_stack([foreign.crs, np.abs(foreign.grids[:, ::2]), foreign.sizes]), axis=0, return_inverse=True
        )
        edges = np.column_stack([foreign.bounds, -foreign.bounds])
        numbers = np.flatnonzero(~own)
        for rows in np.split(np.argsort(kind, kind="stable"), np.cumsum(np.bincount(kind))[:-1]):
            for number in np.unique(numbers[rows[np.argmin(edges[rows], axis=0)]]).tolist():
                size = suggest_resolution(records.grid(number), records.crs_of(number), crs)
                sizes.append((size, size))
    return min(sizes)


def _shapes(records: RecordsOnDemand, numbers: npt.NDArray[Any], crs: str) -> npt.NDArray[np.object_]:
    """Return the outlines of the rasters of some records in ``crs``."""
    rasters = records.rasters.take(numbers)
    boxes = np.asarray(shapely.box(*rasters.bounds.T), dtype=object)
    for code in np.unique(rasters.crs):
        if records.crs[code] != crs:
            own = rasters.crs == code
            boxes[own] = reproject_each(boxes[own], records.crs[code], crs)
    return boxes


def _all_entries(records: RecordsOnDemand, crs: str) -> _Entries:
    """Return an entry for each record."""
    rasters = records.rasters
    bounds = rasters.bounds
    foreign = np.array([name != crs for name in records.crs])[rasters.crs]
    if foreign.any():
        bounds[foreign] = shapely.bounds(_shapes(records, np.flatnonzero(foreign), crs))
    moments = rasters.moments.cast(pa.timestamp("us")).to_numpy(zero_copy_only=False)
    undated = np.isnat(moments)
    kind = moments.dtype
    if not ((moments < _FOREVER[0]) | (moments > _FOREVER[1])).any():
        kind = _NANOSECONDS
    first, last = (np.where(undated, moment, moments).astype(kind) for moment in _FOREVER)
    return _Entries.of(np.arange(len(rasters), dtype=np.int32), bounds, first, last)
