"""Let exactextract summarize pixels that this package reads. Imports exactextract.

Pixels without data are NaN, or a number that no pixel has: exactextract (0.3) loses the masks of masked arrays where
the grid of a raster and that of a polygon differ by rounding, and counts what they hide
(https://github.com/isciences/exactextract/issues/193).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from exactextract.feature import Feature, FeatureSource
from exactextract.operation import Operation, prepare_operations
from exactextract.processor import FeatureSequentialProcessor
from exactextract.raster import NumPyRasterSource, RasterSource
from exactextract.writer import Writer
from shapely.geometry.base import BaseGeometry

from rasteret_assets.collection.areas.grid import Grid, Window
from rasteret_assets.errors import SpecError

#: Returns the pixels of a window; pixels without data are masked.
ReadWindow = Callable[[Window], npt.NDArray[Any]]


def statistic_names(ops: Sequence[str]) -> list[str]:
    """Return the columns that exactextract makes of some operations, such as ``mean`` and ``quantile_25``.

    Raises:
        SpecError: if it does not know one, or two make the same column.
    """
    raster = NumPyRasterSource(np.zeros((1, 1)))
    try:
        return [operation.name for operation in _operations(ops, raster)]
    except RuntimeError as error:
        raise SpecError(f"ops={list(ops)!r}: {error}. Write such as 'mean', 'count' or 'quantile(q=0.25)'") from error


def summarize(
    zones: Sequence[BaseGeometry],
    grid: Grid,
    dtype: np.dtype[Any],
    read: ReadWindow,
    ops: Sequence[str],
    most_pixels: int,
) -> list[Mapping[str, Any]]:
    """Return the statistics of some polygons over one raster.

    Args:
        zones: polygons in the raster's CRS.
        grid: of the whole raster.
        dtype: of its pixels.
        read: brings them.
        ops: operations of exactextract.
        most_pixels: that are asked for at once.

    Returns:
        Values by column, for each polygon; what exactextract leaves out is not there.
    """
    # Kept in variables, because exactextract has bare pointers to them, and Python would free them while it runs.
    raster, features, writer = _Raster(grid, dtype, read), _Zones(zones), _Rows()
    operations = _operations(ops, raster)
    processor = FeatureSequentialProcessor(features, writer, operations)
    processor.set_max_cells_in_memory(most_pixels)
    processor.process()
    return writer.rows


def _operations(ops: Sequence[str], raster: RasterSource) -> list[Operation]:
    return list(prepare_operations(list(ops), [raster], []))


class _Raster(RasterSource):  # type: ignore[misc]  # Any to mypy
    """A raster whose windows are read when exactextract asks for them, north up and west left."""

    def __init__(self, grid: Grid, dtype: np.dtype[Any], read: ReadWindow) -> None:
        super().__init__()
        self.grid = grid
        self.dtype = _computed(dtype)
        self.read = read

    def res(self) -> tuple[float, float]:
        west, south, east, north = self.grid.bounds
        return (east - west) / self.grid.width, (north - south) / self.grid.height

    def extent(self) -> tuple[float, float, float, float]:
        return self.grid.bounds

    def srs_wkt(self) -> None:
        return None

    def nodata_value(self) -> int | None:
        return None if self.dtype.kind == "f" else int(np.iinfo(self.dtype).min)

    def read_window(self, x0: int, y0: int, nx: int, ny: int) -> npt.NDArray[Any]:
        if not nx or not ny:  # exactextract asks only for the type
            return np.empty((ny, nx), self.dtype)
        across, down = self.grid.scale_x > 0, self.grid.scale_y < 0
        window = Window(
            col_off=x0 if across else self.grid.width - x0 - nx,
            row_off=y0 if down else self.grid.height - y0 - ny,
            width=nx,
            height=ny,
        )
        return _without_mask(self.read(window), self.dtype)[:: 1 if down else -1, :: 1 if across else -1]


def _computed(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type that exactextract is given pixels of a type in: it has a number to spare, for no data."""
    if dtype.kind == "f":
        return np.dtype(np.float32 if dtype.itemsize < 4 else dtype)
    return np.dtype(np.int32 if dtype.itemsize <= 2 else np.int64)


def _without_mask(pixels: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return masked pixels with NaN, or the lowest number of the type, in the place of those without data."""
    hidden = np.ma.getmaskarray(pixels)
    if dtype.kind == "f":
        return np.where(hidden, dtype.type(np.nan), np.ma.getdata(pixels).astype(dtype, copy=False))
    values = np.ma.getdata(pixels)
    limits = np.iinfo(dtype)
    if values.dtype.itemsize == dtype.itemsize:
        there = values[~hidden]
        if there.size and (int(there.max()) > limits.max or int(there.min()) == limits.min):
            raise SpecError(
                "pixels are beyond the 64-bit integers that exactextract computes with: read them with "
                "mask_and_scale=True, as floats"
            )
    return np.where(hidden, limits.min, values.astype(dtype))


class _Zones(FeatureSource):  # type: ignore[misc]
    """Polygons that exactextract takes one after the other."""

    def __init__(self, zones: Sequence[BaseGeometry]) -> None:
        super().__init__()
        self.zones = zones

    def count(self) -> int:
        return len(self.zones)

    def __iter__(self) -> Iterator[_Values]:
        return (_Values(shapely.to_wkb(zone)) for zone in self.zones)

    def srs_wkt(self) -> None:
        return None


class _Values(Feature):  # type: ignore[misc]
    """A polygon, or its statistics."""

    def __init__(self, wkb: bytes | None = None) -> None:
        super().__init__()
        self.wkb = wkb
        self.values: dict[str, Any] = {}

    def geometry(self) -> bytes | None:
        return self.wkb

    def get(self, name: str) -> Any:
        return self.values[name]

    def set(self, name: str, value: Any) -> None:
        self.values[name] = value

    def fields(self) -> list[str]:
        return list(self.values)

    def set_geometry(self, wkb: bytes) -> None:
        """Ignore the geometry, because the zone has it."""

    def set_geometry_format(self) -> str:
        return "wkb"


class _Rows(Writer):  # type: ignore[misc]
    """Statistics that exactextract hands over, in the order of the polygons."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[Mapping[str, Any]] = []

    def add_operation(self, operation: Operation) -> None:
        """Ignore the columns, because values come by name."""

    def write(self, feature: Any) -> None:
        found = _Values()
        feature.copy_to(found)
        self.rows.append(found.values)
