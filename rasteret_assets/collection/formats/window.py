"""Put certain records on a given grid, as ``rasterio.merge.merge(bounds=, res=)`` puts files on it.

Merging is not a warp: merge rounds the part of a file that meets the bounds to whole pixels of the result, and spreads
the file's pixels over them. If pixels do not coincide, a warp would choose other ones. Datasets of TorchGeo and
TerraTorch read with merge, and pixels of a collection have to be the same. Records in another CRS, which merge refuses,
are warped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rasteret_assets.collection.areas.grid import Grid, Window
from rasteret_assets.collection.extras import optional
from rasteret_assets.collection.pixels.backends import Source
from rasteret_assets.collection.pixels.band import BandHeader
from rasteret_assets.collection.pixels.filling import fill
from rasteret_assets.collection.pixels.on_demand import RecordsById
from rasteret_assets.collection.pixels.own_crs import same_crs
from rasteret_assets.collection.pixels.planes import Plane
from rasteret_assets.collection.pixels.read_options import AREA_DEFAULTS, ReadOptions, read_options
from rasteret_assets.collection.pixels.record_table import RecordTable, checked_bands
from rasteret_assets.collection.pixels.select import Record
from rasteret_assets.collection.pixels.views import MOST_PIXELS, Bounds, View, check_size
from rasteret_assets.errors import SpecError, WindowError
from rasteret_assets.inputs import CRSLike, OnError, WindowGroup
from rasteret_assets.storage.backend import StorageBackend

_Pixels = npt.NDArray[Any]
_Mask = npt.NDArray[np.bool_]
_Indices = npt.NDArray[np.intp]

#: Part of a pixel by which GDAL moves a place, so that a place between two pixels always belongs to the same one.
_NUDGE: Final = 1e-10
#: Pixels beyond those that bilinear weights reach.
_MARGIN: Final = 2

_GROUPS: Final = (None, "datetime", "id")


def read_window(
    collection: RecordTable, by_id: RecordsById, *, record_ids: Sequence[str] | pa.Array, bounds: Sequence[float],
    res: float | Sequence[float], bands: str | Sequence[str], target_crs: CRSLike | None,
    max_concurrent: int, backend: StorageBackend | None, group_by: WindowGroup | None, on_error: OnError,
) -> _Pixels:  # fmt: skip
    """Return the pixels; arguments, result and errors are those of ``Collection.read_window``."""
    if group_by not in _GROUPS:
        raise SpecError(f"group_by={group_by!r} must be 'datetime', 'id' or None")
    arguments = {
        **AREA_DEFAULTS, "max_concurrent": max_concurrent, "target_crs": target_crs, "resolution": res,
        "on_error": on_error, "backend": backend,
    }  # fmt: skip
    options = read_options(arguments)
    target = _grid(bounds, options.resolution)
    names = checked_bands(collection, bands)
    ids = _ids(record_ids)
    source = Source.of(collection, arguments)
    found = by_id.records(ids, names)
    records = [record for _, record in found if record is not None]
    if not records:
        raise WindowError(
            f"the index has no header of bands {', '.join(names)} for any of the {len(ids)} records: "
            "`rasteret-assets failures` tells why, and another build asks for them again"
        )
    crs = options.target_crs or records[0].crs
    check_size(target, crs, MOST_PIXELS)
    steps = _steps(found, group_by)
    kinds = {header.sample_type for record in records for header in record.present_headers}
    out = np.empty((len(steps), len(names), target.height, target.width), dtype=np.result_type(*kinds))
    for band in range(len(names)):
        # As merge does, which fills with nodata of the first file, or 0 if it has no nodata.
        headers = (record.headers[band] for record in records)
        out[:, band] = next((header.fill for header in headers if header is not None), 0)
    _fill(out, steps, target, crs, names, source.open(), options)
    return out[0] if group_by is None else out


def _grid(bounds: Sequence[float], resolution: tuple[float, float] | None) -> Grid:
    """Return the grid of the result: as many pixels as the bounds hold, rounded, from the upper left corner on."""
    try:
        left, bottom, right, top = (float(edge) for edge in bounds)
    except (TypeError, ValueError) as error:
        raise WindowError(f"bounds={bounds!r} is not (xmin, ymin, xmax, ymax)") from error
    if not (math.isfinite(right - left) and math.isfinite(top - bottom) and left < right and bottom < top):
        raise WindowError(
            f"bounds={bounds!r} has no extent: give (xmin, ymin, xmax, ymax) in units of the result's CRS"
        )
    if resolution is None:
        raise SpecError("res is needed: the size of a pixel in units of the result's CRS, or (width, height)")
    width, height = round((right - left) / resolution[0]), round((top - bottom) / resolution[1])
    if not width or not height:
        raise WindowError(f"bounds={bounds!r} is smaller than half a pixel of {resolution[0]:g} x {resolution[1]:g}")
    return Grid(
        width=width, height=height, scale_x=resolution[0], scale_y=-resolution[1], origin_x=left, origin_y=top
    )  # fmt: skip


def _ids(record_ids: Sequence[str] | pa.Array) -> list[str]:
    if isinstance(record_ids, pa.Array | pa.ChunkedArray):
        record_ids = record_ids.to_pylist()
    if isinstance(record_ids, str) or not hasattr(record_ids, "__iter__"):
        raise SpecError(f"record_ids={record_ids!r} is not a list of ids")
    ids = [str(name) for name in record_ids]
    if not ids:
        raise SpecError("record_ids is empty: name at least one record")
    return ids


def _steps(found: Sequence[tuple[str, Record | None]], group_by: WindowGroup | None) -> list[list[Record]]:
    """Return the records that are put on one another, for each step of time."""
    if group_by == "id":
        return [[] if record is None else [record] for _, record in found]
    records = [record for _, record in found if record is not None]
    if group_by is None:
        return [records]
    moments: dict[tuple[bool, int], list[Record]] = {}
    for record in records:
        moments.setdefault(record.order[:2], []).append(record)
    return [moments[moment] for moment in sorted(moments)]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Layer:
    """One band of a record, and where its pixels go.

    Args:
        plane: the pixels that are read.
        step: position of the step of time.
        part: pixels of the result that are filled; None for all, if the plane has the grid of the result.
        spread: how pixels of the file become those of the part; None if the plane has the grid of the result.
    """

    plane: Plane
    step: int
    part: Window | None = None
    spread: _Spread | None = None


def _fill(
    out: _Pixels, steps: Sequence[Sequence[Record]], target: Grid, crs: str, bands: Sequence[str],
    backend: StorageBackend, options: ReadOptions,
) -> None:  # fmt: skip
    layers = [
        layer
        for step, records in enumerate(steps)
        for record in records
        for band in range(len(bands))
        if (layer := _layer(record, band, step, target, crs)) is not None
    ]
    for method in ("nearest", "bilinear"):
        planes = [layer.plane for layer in layers if _method(layer.plane.header) == method]
        if planes:
            fill(planes, bands, backend, replace(options, resampling=method))
    filled = np.zeros(out.shape, dtype=bool)
    for layer in layers:
        pixels, valid = layer.plane.pixels, layer.plane.valid
        place = (layer.step, layer.plane.band, *(slice(None),) * 2)
        if layer.spread is not None and layer.part is not None and valid is not None:
            pixels, valid = layer.spread.apply(pixels, valid)
            place = (*place[:2], *layer.part.slices)
        take = valid & ~filled[place]
        out[place][take] = pixels[take]
        filled[place] |= take


def _layer(record: Record, band: int, step: int, target: Grid, crs: str) -> _Layer | None:
    """Return the layer of a band of a record; None if the raster does not meet the grid."""
    header = record.headers[band]
    if header is None:
        return None
    if not same_crs(record.crs, crs):
        return _Layer(plane=_plane(record, band, crs, target, header), step=step)
    upright = _upright(header.grid)
    placed = _merge_windows(upright, target)
    if placed is None:
        return None
    across, down, part = placed
    spread = _Spread(header=header, across=across, down=down, is_smooth=_is_smooth(header, across, down))
    window = spread.window
    crop = upright.part(window)
    if upright != header.grid:  # rows, or columns, in the order of the file
        crop = header.grid.part(_turned(window, header.grid))
    check_size(crop, record.crs, MOST_PIXELS)
    return _Layer(plane=_plane(record, band, record.crs, crop, header), step=step, part=part, spread=spread)


def _plane(record: Record, band: int, crs: str, grid: Grid, header: BandHeader) -> Plane:
    shape = grid.whole.shape
    return Plane(
        view=View.of_grid(record, crs, grid),
        band=band,
        pixels=np.empty(shape, dtype=header.sample_type),
        valid=np.empty(shape, dtype=bool),
    )


def _method(header: BandHeader | None) -> str:
    """Return ``"nearest"`` for integers, which may be classes, and ``"bilinear"`` for floats."""
    return "bilinear" if header is not None and header.dtype.kind == "f" else "nearest"


def _upright(grid: Grid) -> Grid:
    """Return a grid of the same pixels that begins at the upper left corner."""
    west, _, _, north = grid.bounds
    return replace(
        grid, scale_x=abs(grid.scale_x), scale_y=-abs(grid.scale_y), origin_x=west, origin_y=north
    )  # fmt: skip


def _turned(window: Window, grid: Grid) -> Window:
    """Return a window of the upright grid in the rows and columns of the file."""
    column = window.col_off if grid.scale_x > 0 else grid.width - window.col_off - window.width
    row = window.row_off if grid.scale_y < 0 else grid.height - window.row_off - window.height
    return replace(window, col_off=column, row_off=row)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Span:
    """Pixels of the result along one axis, and the stretch of the file that is spread over them.

    Args:
        count: number of pixels of the result.
        start: begin of the stretch, in pixels of the file.
        length: of the stretch, in pixels of the file.
        size: number of pixels of the file.
    """

    count: int
    start: float
    length: float
    size: int

    @property
    def chosen(self) -> _Indices:
        """Return the pixel of the file in which the middle of each pixel of the result lies."""
        middle = (np.arange(self.count) + 0.5) * (self.length / self.count) + self.start
        chosen: _Indices = np.clip(np.floor(middle + _NUDGE).astype(np.intp), 0, self.size - 1)
        return chosen

    @property
    def reach(self) -> tuple[int, int]:
        """First and end of the pixels of the file that bilinear weights reach."""
        margin = math.ceil(max(self.length / self.count, 1.0)) + _MARGIN
        first, end = math.floor(self.start) - margin, math.ceil(self.start + self.length) + margin
        return max(first, 0), min(end, self.size)

    @property
    def coincides(self) -> bool:
        """Whether pixels of the result are pixels of the file, so that weights change nothing."""
        return self.length == self.count and self.start.is_integer()


def _is_smooth(header: BandHeader, across: _Span, down: _Span) -> bool:
    return _method(header) == "bilinear" and not (across.coincides and down.coincides)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Spread:
    """The merge of pixels of a file into a part of the result.

    Args:
        header: of the band.
        across: span of columns.
        down: span of rows.
        is_smooth: whether pixels are computed bilinearly; else the nearest is taken.
    """

    header: BandHeader
    across: _Span
    down: _Span
    is_smooth: bool

    @property
    def window(self) -> Window:
        """The pixels of the file that are read, counted from the upper left corner."""
        if self.is_smooth:
            (left, right), (top, bottom) = self.across.reach, self.down.reach
        else:
            columns, rows = self.across.chosen, self.down.chosen
            left, right, top, bottom = columns[0], columns[-1] + 1, rows[0], rows[-1] + 1
        return Window(col_off=int(left), row_off=int(top), width=int(right - left), height=int(bottom - top))

    def apply(self, pixels: _Pixels, valid: _Mask) -> tuple[_Pixels, _Mask]:
        """Return the pixels of the part of the result, and which of them hold data.

        Args:
            pixels: of :attr:`window`, in the order of the file.
            valid: booleans, true for pixels with data.
        """
        if self.header.grid.scale_y > 0:
            pixels, valid = pixels[::-1], valid[::-1]
        if self.header.grid.scale_x < 0:
            pixels, valid = pixels[:, ::-1], valid[:, ::-1]
        window = self.window
        if not self.is_smooth:
            place = np.ix_(self.down.chosen - window.row_off, self.across.chosen - window.col_off)
            return pixels[place], valid[place]
        return self._smoothed(pixels, valid, window)

    def _smoothed(self, pixels: _Pixels, valid: _Mask, window: Window) -> tuple[_Pixels, _Mask]:
        """Compute pixels bilinearly, with GDAL and a file in memory."""
        rasterio = optional("rasterio", extra="warp", purpose="read_window of floats on other pixels than the file's")
        kind = pixels.dtype
        work = pixels.astype(np.float32) if kind == np.float16 else pixels  # GDAL has no half floats
        nodata = self.header.marker
        profile = {
            "driver": "GTiff", "width": window.width, "height": window.height, "count": 1, "dtype": work.dtype,
            "nodata": None if nodata is None else float(nodata), "transform": rasterio.Affine.scale(2, -2),
        }  # fmt: skip
        stretch = rasterio.windows.Window(
            self.across.start - window.col_off, self.down.start - window.row_off, self.across.length, self.down.length
        )
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.MemoryFile() as memory:
            with memory.open(**profile) as dataset:
                dataset.write(work, 1)
                if nodata is None and not valid.all():
                    dataset.write_mask(valid)
            with memory.open() as dataset:
                read = dataset.read(
                    1, window=stretch, out_shape=(self.down.count, self.across.count), masked=True,
                    resampling=rasterio.enums.Resampling.bilinear,
                )  # fmt: skip
        return np.asarray(read.data).astype(kind, copy=False), ~np.ma.getmaskarray(read)


def _merge_windows(file: Grid, target: Grid) -> tuple[_Span, _Span, Window] | None:
    """Return the window of a file that merge reads, and the window of the result that it fills; None if they are apart.

    Args:
        file: upright grid of the file.
        target: grid of the result.
    """
    ours, theirs = target.bounds, file.bounds
    shared = (max(ours[0], theirs[0]), max(ours[1], theirs[1]), min(ours[2], theirs[2]), min(ours[3], theirs[3]))
    if shared[0] >= shared[2] or shared[1] >= shared[3]:
        return None
    column, row, width, height = _stretch(shared, target)
    # Offsets may be off by a tenth of a pixel, and sizes by half a pixel, as in gdal_merge.py.
    left, top = math.floor(column + 0.1), math.floor(row + 0.1)
    across, down = math.floor(width + 0.5), math.floor(height + 0.5)
    across, down = min(across, target.width - left), min(down, target.height - top)
    if across < 1 or down < 1:
        return None
    column, row, width, height = _stretch(shared, file)
    spans = [
        _Span(count=count, start=start, length=end - start, size=size)
        for count, size, (start, end) in (
            (across, file.width, _clipped(column, width, file.width)),
            (down, file.height, _clipped(row, height, file.height)),
        )
    ]
    part = Window(col_off=left, row_off=top, width=across, height=down)
    return spans[0], spans[1], part


def _clipped(start: float, length: float, size: int) -> tuple[float, float]:
    return min(max(start, 0.0), size), max(0.0, min(start + length, size))


def _stretch(bounds: Bounds, grid: Grid) -> tuple[float, float, float, float]:
    """Return column, row, width and height of bounds on an upright grid, in pixels and their fractions.

    The inverse of the grid's transform is computed as in rasterio to the last bit, because that bit decides how a
    length is rounded.
    """
    share = 1.0 / (grid.scale_x * grid.scale_y)
    per_x, per_y = grid.scale_y * share, grid.scale_x * share
    inverse = np.array([[per_x, 0.0, -grid.origin_x * per_x], [0.0, per_y, -grid.origin_y * per_y], [0.0, 0.0, 1.0]])
    left, bottom, right, top = bounds
    corners = np.array([[left, right, right, left], [top, top, bottom, bottom], [1.0, 1.0, 1.0, 1.0]])
    columns, rows, _ = inverse.dot(corners)
    column, row = float(columns.min()), float(rows.min())
    return column, row, max(float(columns.max()) - column, 0.0), max(float(rows.max()) - row, 0.0)
