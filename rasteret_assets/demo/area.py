"""One area of interest, read through the published collection: the clearest scene of every month."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import shapely

from rasteret_assets.collection import Collection
from rasteret_assets.collection.pixels.backends import shared_backend
from rasteret_assets.demo.seasons import BANDS
from rasteret_assets.errors import CollectionError
from rasteret_assets.schema import BBOX, CLOUD_COVER, DATETIME, GEOMETRY, ID, PROJ_EPSG, band_column
from rasteret_assets.storage.backend import StorageBackend

#: The delta, in lon/lat: it lies where both zones' tiles overlap, so that every month offers two scenes of it.
AREA: Final = (5.925, 55.165, 6.095, 55.265)


@dataclass(frozen=True, kw_only=True)
class View:
    """What one scene shows of the area.

    Args:
        id: of the record.
        time: of acquisition, UTC.
        cloud_cover: percent, of the whole scene.
        epsg: of the zone it is in.
        pixels: (rows, columns) by band.
    """

    id: str
    time: datetime
    cloud_cover: float
    epsg: int
    pixels: dict[str, npt.NDArray[np.uint16]]


@dataclass(frozen=True, kw_only=True)
class AreaRead:
    """The views of all months and what they cost.

    Args:
        views: one per month, in order.
        requests: range requests made.
        received: bytes they brought.
        headers: how many of them asked for the beginning of a file.
    """

    views: list[View]
    requests: int
    received: int
    headers: int


@dataclass
class CountingBackend:
    """Passes range reads on to a backend and counts them."""

    backend: StorageBackend
    requests: int = 0
    received: int = 0
    headers: int = 0

    async def get_range(self, url: str, start: int, length: int) -> bytes:
        """``length`` bytes of ``url`` from ``start``."""
        data = bytes(await self.backend.get_range(url, start, length))
        self.requests += 1
        self.received += len(data)
        self.headers += start == 0
        return data

    async def get_ranges(self, url: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """One buffer per ``(start, length)``."""
        return [await self.get_range(url, start, length) for start, length in ranges]


def read_area(collection: Collection) -> AreaRead:
    """The area's pixels in the clearest scene of every month.

    Raises:
        CollectionError: if no record covers the area.
        RangeReadError: if bytes cannot be read.
    """
    counting = CountingBackend(shared_backend(collection.data_source))
    views = [_view(collection, record, counting) for record in _clearest(collection)]
    return AreaRead(views=views, requests=counting.requests, received=counting.received, headers=counting.headers)


def _clearest(collection: Collection) -> list[dict[str, Any]]:
    """The record with the fewest clouds of every month, of those that cover the area and have all their headers."""
    indexed = pc.scalar(value=True)
    for band in BANDS:
        indexed = indexed & pc.field(band_column(band)).is_valid()
    rows = collection.where(indexed).subset(bbox=AREA).to_table([ID, DATETIME, CLOUD_COVER, PROJ_EPSG, GEOMETRY, BBOX])
    best: dict[str, dict[str, Any]] = {}
    for row in sorted(rows.to_pylist(), key=lambda row: -row[CLOUD_COVER]):
        if shapely.from_wkb(row[GEOMETRY]).covers(shapely.box(*AREA)):
            best[f"{row[DATETIME]:%Y-%m}"] = row
    if not best:
        raise CollectionError("no record of the demo's collection covers its area; build it anew with --force")
    return [best[month] for month in sorted(best)]


def _view(collection: Collection, record: dict[str, Any], backend: StorageBackend) -> View:
    found = collection.where(pc.field(ID) == record[ID]).get_numpy(AREA, BANDS, backend=backend)
    pixels = dict(zip(BANDS, found[0], strict=True))
    return View(
        id=record[ID], time=record[DATETIME], cloud_cover=record[CLOUD_COVER], epsg=record[PROJ_EPSG], pixels=pixels
    )
