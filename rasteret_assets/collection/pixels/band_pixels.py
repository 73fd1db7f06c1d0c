"""Pixels as values: for each record, area and band an array with its place, from which formats are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rasteret_assets.collection.areas.grid import Grid
from rasteret_assets.collection.pixels.filling import fill
from rasteret_assets.collection.pixels.planes import Plane
from rasteret_assets.collection.pixels.read_options import ReadOptions
from rasteret_assets.collection.pixels.select import Record
from rasteret_assets.collection.pixels.views import View, check_memory
from rasteret_assets.storage.backend import StorageBackend


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BandPixels:
    """The pixels that were read of one band of a record, around one area.

    Args:
        record: the record: ``record.id``, ``record.moment`` (its datetime in UTC, or None), ``record.cloud_cover``.
        area: position of the area among those that were asked for.
        band: name of the band.
        pixels: array ``[rows, columns]`` in the band's type, or in that of the options ``dtype`` and
            ``mask_and_scale``. Pixels without data are ``empty``.
        empty: the band's nodata, or 0 if it has no nodata; NaN with ``mask_and_scale``.
        valid: booleans ``[rows, columns]``, true for pixels with data: they were read, and neither nodata nor a mask
            nor the area leaves them out. None if they were not asked for.
        crs: CRS of the pixel grid, such as ``EPSG:32632``.
        grid: the pixel grid.
        nodata: value of the file that marks pixels without data; None if the file has no such value.
    """

    record: Record
    area: int
    band: str
    pixels: npt.NDArray[Any]
    empty: np.number[Any] | float
    valid: npt.NDArray[np.bool_] | None
    crs: str
    grid: Grid
    nodata: complex | None

    @property
    def transform(self) -> tuple[float, float, float, float, float, float]:
        """Coefficients (a, b, c, d, e, f) of x = a column + b row + c, y = d column + e row + f, as ``Affine`` has."""
        return self.grid.affine

    @property
    def centres(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Centres of the pixels in units of ``crs``: x of every column ``[columns]``, y of every row ``[rows]``."""
        return self.grid.centres


def read_bands(
    views: Sequence[View], bands: Sequence[str], backend: StorageBackend, options: ReadOptions, *, with_valid: bool
) -> list[BandPixels]:
    """Read every band of ``views`` that has a header, in the order of the views, then of the bands.

    Args:
        views: the pixels to read, by record and area.
        bands: names of the bands.
        backend: brings the bytes.
        options: how pixels are read.
        with_valid: whether to find out which pixels hold data. This reads the masks of files too.

    Raises:
        WindowError: if a view has more pixels than are read at once.
        RasteretAssetsError: as :meth:`Collection.get_numpy`.
    """
    check_memory(views)
    planes = [
        _plane(view, band, header.sample_type, options, with_valid=with_valid)
        for view in views
        for band, header in enumerate(view.record.headers)
        if header is not None
    ]
    fill(planes, bands, backend, options)
    return [
        BandPixels(
            record=plane.view.record,
            area=plane.view.areas[0][0],
            band=bands[plane.band],
            pixels=options.finished(plane.pixels),
            empty=plane.empty,
            valid=plane.valid,
            crs=plane.view.crs,
            grid=plane.view.grid,
            nodata=_nodata(plane),
        )
        for plane in planes
    ]


def _plane(view: View, band: int, sample_type: np.dtype[Any], options: ReadOptions, *, with_valid: bool) -> Plane:
    kind = options.read_type([sample_type])
    shape = view.grid.height, view.grid.width
    return Plane(
        view=view,
        band=band,
        pixels=np.empty(shape, dtype=kind),
        valid=np.empty(shape, dtype=bool) if with_valid else None,
        fill=kind.type(np.nan) if options.scaled else None,
    )


def _nodata(plane: Plane) -> complex | None:
    nodata = None if plane.header is None else plane.header.nodata
    return None if nodata is None else nodata.item()
