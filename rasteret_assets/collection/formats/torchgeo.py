"""A collection as a TorchGeo dataset: samples are cut from the records of the index, without opening a file.

Imported only where TorchGeo is installed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyproj
import shapely
import torch
from torchgeo.datasets import GeoDataset

from rasteret_assets.collection.areas.area import Area
from rasteret_assets.collection.areas.grid import Grid
from rasteret_assets.collection.areas.reproject import crs_name, reproject
from rasteret_assets.collection.pixels.backends import Source
from rasteret_assets.collection.pixels.options import ReadOptions
from rasteret_assets.collection.pixels.planes import Plane, fill
from rasteret_assets.collection.pixels.select import Record
from rasteret_assets.collection.pixels.views import View
from rasteret_assets.collection.pixels.warp import suggest_resolution
from rasteret_assets.errors import WindowError

_FOREVER = pd.Timestamp.min, pd.Timestamp.max


class CollectionDataset(GeoDataset):  # type: ignore[misc]  # Any to mypy, which has no TorchGeo
    """Records of a collection as TorchGeo's samplers and loaders use them.

    A sample is a dict of its place, as TorchGeo's own datasets say it, and ``image`` (float32, bands x rows x columns;
    with ``time_series`` time before them), or ``mask`` (int64) where it is no image. Where records overlap, the first
    that has data wins, by datetime and id. Pixels without data are the bands' nodata, or 0 without one.

    Args:
        records: of the collection.
        bands: names of the bands.
        source: where the bytes come from.
        options: how pixels are read.
        is_image: whether samples hold an image; else a mask.
        time_series: whether records stay apart, as steps of time.
        transforms: called with each sample.
    """

    def __init__(
        self,
        records: Sequence[Record],
        bands: Sequence[str],
        source: Source,
        options: ReadOptions,
        *,
        is_image: bool = True,
        time_series: bool = False,
        transforms: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        self.records = list(records)
        self.all_bands = tuple(bands)
        self.bands = tuple(bands)
        self.source = source
        self.options = options
        self.is_image = is_image
        self.time_series = time_series
        self.transforms = transforms
        crs = options.target_crs or _one_crs(self.records)
        self._res = options.resolution or _finest(self.records, crs)
        moments = [_interval(record) for record in self.records]
        self.index = gpd.GeoDataFrame(
            {"id": [record.id for record in self.records], "position": range(len(self.records))},
            geometry=[reproject(shapely.box(*r.finest.grid.bounds), r.crs, crs) for r in self.records],
            crs=pyproj.CRS.from_user_input(crs),
            index=pd.IntervalIndex.from_tuples(moments, closed="both", name="datetime"),
        )

    def __getitem__(self, query: Any) -> dict[str, Any]:
        """The sample of a slice ``[xmin:xmax:xres, ymin:ymax:yres, tmin:tmax]``.

        Raises:
            IndexError: if no record lies there.
        """
        x, y, t = self._disambiguate_slice(query)
        rows = self.index.iloc[self.index.index.overlaps(pd.Interval(t.start, t.stop, closed="both"))]
        rows = rows.iloc[:: t.step].cx[x.start : x.stop, y.start : y.stop]
        if rows.empty:
            raise IndexError(f"query {query} not found in index with bounds {self.bounds}")
        grid = Grid(
            width=max(round((x.stop - x.start) / x.step), 1),
            height=max(round((y.stop - y.start) / y.step), 1),
            scale_x=x.step,
            scale_y=-y.step,
            origin_x=x.start,
            origin_y=y.stop,
        )
        pixels, valid = self._read([self.records[number] for number in rows["position"]], grid)
        data = torch.from_numpy(pixels if self.time_series else _first_valid(pixels, valid))
        sample = self._place(query, grid)
        if self.is_image:
            sample["image"] = data.to(torch.float32)
        else:
            sample["mask"] = data.to(torch.int64).squeeze(-3)  # one band is no dimension
        return sample if self.transforms is None else self.transforms(sample)

    def _place(self, query: Any, grid: Grid) -> dict[str, Any]:
        """Where a sample lies, as this version of TorchGeo's own datasets say it."""
        if hasattr(self, "_slice_to_tensor"):  # from 0.9 on samples hold nothing but tensors
            transform = torch.tensor([*grid.affine, 0.0, 0.0, 1.0])
            return {"bounds": self._slice_to_tensor(query), "transform": transform}
        return {"crs": self.crs, "bounds": query}

    def _read(self, records: Sequence[Record], grid: Grid) -> tuple[Any, Any]:
        """Pixels and which of them hold data, both (records, bands, rows, columns)."""
        crs = _name(self.crs)  # TorchGeo changes it where datasets are joined
        area = Area(geometry=shapely.box(*grid.bounds), crs=crs, is_box=True)
        shape = (len(records), len(self.bands), grid.height, grid.width)
        kind = np.result_type(*{header.sample_type for record in records for header in record.known})
        # torch has no unsigned integers beyond 8 bits that it computes with.
        pixels = np.empty(shape, dtype=kind if kind.kind != "u" else np.result_type(kind, np.int16))
        valid = np.empty(shape, dtype=bool)
        planes = []
        for number, record in enumerate(records):
            view = View(record=record, areas=[(0, area)], crs=crs, grid=grid)
            planes += [
                Plane(view=view, band=band, pixels=pixels[number, band], valid=valid[number, band])
                for band in range(len(self.bands))
            ]
        fill(planes, self.bands, self.source.open(), self.options)
        return pixels, valid


@functools.lru_cache(maxsize=16)
def _name(crs: pyproj.CRS) -> str:
    return crs_name(crs)


def _first_valid(pixels: Any, valid: Any) -> Any:
    merged, filled = pixels[0], valid[0]
    for other, there in zip(pixels[1:], valid[1:], strict=True):
        take = there & ~filled
        merged[take] = other[take]
        filled |= there
    return merged


def _one_crs(records: Sequence[Record]) -> str:
    found = sorted({record.crs for record in records})
    if len(found) > 1:
        raise WindowError(
            f"records are in {len(found)} CRSs ({', '.join(name[:40] for name in found[:6])}): choose one for all with "
            f"target_crs={found[0][:40]!r}, or subset the records"
        )
    return found[0]


def _finest(records: Sequence[Record], crs: str) -> tuple[float, float]:
    sizes = set()
    for record in records:
        grid = record.finest.grid
        if record.crs == crs:
            sizes.add((abs(grid.scale_x), abs(grid.scale_y)))
        else:
            size = suggest_resolution(grid, record.crs, crs)
            sizes.add((size, size))
    return min(sizes)


def _interval(record: Record) -> tuple[pd.Timestamp, pd.Timestamp]:
    if record.moment is None:
        return _FOREVER
    moment = pd.Timestamp(record.moment).tz_convert(None)
    return moment, moment
