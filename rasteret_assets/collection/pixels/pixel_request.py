"""Requests for pixels as values: all that a format needs to read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rasteret_assets.collection.areas.area import Area
from rasteret_assets.collection.pixels.backends import Source
from rasteret_assets.collection.pixels.band_pixels import BandPixels, read_bands
from rasteret_assets.collection.pixels.planes import Plane, described_reads
from rasteret_assets.collection.pixels.read_options import ReadOptions
from rasteret_assets.collection.pixels.tile_plan import plan_read
from rasteret_assets.collection.pixels.views import View
from rasteret_assets.message_lists import count_of

#: Takes the place of pixels in planes that are only planned.
_NO_PIXELS: Final[npt.NDArray[Any]] = np.zeros((0, 0))


@dataclass(frozen=True, kw_only=True)
class ReadPlan:
    """The cost of a read, computed from the index before pixels are read.

    Args:
        records: number of records that are read.
        windows: number of windows, one for each record and area.
        tiles: number of tiles that are decoded.
        requests: number of requests, without repeated ones.
        bytes: number of bytes that the requests bring.
        pixels: number of pixels of the result, in all bands.
    """

    records: int
    windows: int
    tiles: int
    requests: int
    bytes: int
    pixels: int

    def __str__(self) -> str:
        return (
            f"{count_of(self.windows, 'window')} of {count_of(self.records, 'record')}: "
            f"{count_of(self.tiles, 'tile')} in {count_of(self.requests, 'request')}, "
            f"{self.bytes / 1e6:.1f} MB for {self.pixels / 1e6:.1f} million pixels"
        )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PixelRequest:
    """Pixels of areas: which records, with their headers, on which grids, from where and how.

    A request reads no further row of the index, and it can be pickled: another process opens its own connections.

    Args:
        views: what is read of each record and area, by datetime and id of the records.
        areas: the areas of interest.
        bands: names of the bands.
        is_one_band: whether one band was given as text, so that arrays have no dimension of bands.
        source: where the bytes come from.
        options: how pixels are read.
        columns: other columns of the table of areas; None if the areas are not a table.
    """

    views: Sequence[View]
    areas: Sequence[Area]
    bands: Sequence[str]
    is_one_band: bool
    source: Source
    options: ReadOptions
    columns: pa.Table | None = None

    def plan(self) -> ReadPlan:
        """Return the cost of the read; no pixel is read."""
        tiles = requests = size = 0
        for read in described_reads(self._planes(), self.bands, self.options):
            plan = plan_read(read)
            tiles += sum(len(run.tiles) for run in plan.runs)
            requests += len(plan.runs)
            size += sum(run.length for run in plan.runs)
        return ReadPlan(
            records=self._records,
            windows=len(self.views),
            tiles=tiles,
            requests=requests,
            bytes=size,
            pixels=len(self.bands) * sum(view.grid.width * view.grid.height for view in self.views),
        )

    def read_bands(self, *, with_valid: bool = True) -> list[BandPixels]:
        """Read the pixels, and return them by record and area, then by band; a band without a header is left out.

        Formats of your own are made from these arrays: see ``docs/extend.md``.

        Args:
            with_valid: whether to find out which pixels hold data (:attr:`BandPixels.valid`).

        Raises:
            WindowError: if a pixel grid has more than 2^31 pixels.
            RasteretAssetsError: as :meth:`Collection.get_numpy`.
        """
        return read_bands(self.views, self.bands, self.source.open(), self.options, with_valid=with_valid)

    def split(self) -> Iterator[Self]:
        """Yield a request for each record and area, so that a format holds the pixels of one at a time."""
        for view in self.views:
            yield replace(self, views=[view])

    def _planes(self) -> list[Plane]:
        # With a fill, because reads that mask or scale also read the masks of files.
        fill = 0 if self.options.masked or self.options.scaled else None
        return [
            Plane(view=view, band=band, pixels=_NO_PIXELS, fill=fill)
            for view in self.views
            for band in range(len(self.bands))
        ]

    @property
    def _records(self) -> int:
        return len({id(view.record) for view in self.views})

    def __repr__(self) -> str:
        what = f"{len(self.areas)} areas, {self._records} records, bands {', '.join(self.bands)}"
        return f"{type(self).__name__}({what})"
