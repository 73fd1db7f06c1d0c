"""Views as one xarray Dataset: a variable for each band over time, y and x, as CF and rioxarray understand it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyproj

from rasteret_assets.collection.aoi import Area
from rasteret_assets.collection.extras import optional
from rasteret_assets.collection.fill import Plane, fill
from rasteret_assets.collection.options import ReadOptions
from rasteret_assets.collection.views import MOST_LAZY_PIXELS, MOST_PIXELS, View, common_grid
from rasteret_assets.collection.window import Grid, Window
from rasteret_assets.errors import SpecError
from rasteret_assets.storage.backend import StorageBackend

if TYPE_CHECKING:
    import xarray as xr

_GRID_MAPPING = "spatial_ref"


def read_cube(
    views: Sequence[View], bands: Sequence[str], backend: StorageBackend, options: ReadOptions, chunks: Any
) -> xr.Dataset:
    """A Dataset of the records of ``views`` over the extent of all areas together.

    Args:
        views: what to read; views of one record become one step of time.
        bands: names of the variables.
        backend: brings the bytes.
        options: how it is read.
        chunks: None to read now; else what dask takes for (time, y, x), to read when it is computed.
    """
    xarray = optional("xarray", purpose="get_xarray")
    crs, grid = common_grid(views, most_pixels=MOST_PIXELS if chunks is None else MOST_LAZY_PIXELS)
    steps = _steps(views, grid)
    variables = {}
    if chunks is None:
        cubes = [_empty(steps, band, options) for band in range(len(bands))]
        _fill(steps, cubes, bands, backend, options)
        pixels: list[Any] = [cube.finished() for cube in cubes]
    else:
        pixels = [_lazy(steps, band, bands, backend, options, chunks) for band in range(len(bands))]
    for band, (name, values) in enumerate(zip(bands, pixels, strict=True)):
        variables[name] = (("time", "y", "x"), values, _attributes(steps, band, options))
    cube: xr.Dataset = xarray.Dataset(variables, coords=_coordinates(steps, crs, grid))
    return cube


def _steps(views: Sequence[View], grid: Grid) -> list[View]:
    """One view for each record, all of the same grid, with all of the record's areas."""
    areas: dict[Any, list[tuple[int, Area]]] = {}
    for view in views:
        areas.setdefault(view.record, []).extend(view.areas)
    return [View(record=record, areas=found, crs=views[0].crs, grid=grid) for record, found in areas.items()]


@dataclass(kw_only=True, eq=False)
class _Cube:
    """Pixels of one band, (time, y, x), and which of them hold data where that is asked for."""

    pixels: npt.NDArray[Any]
    valid: npt.NDArray[np.bool_] | None

    def finished(self) -> npt.NDArray[Any]:
        """The pixels; with NaN in the place of those without data where that is asked for."""
        if self.valid is None:
            return self.pixels
        floats = self.pixels.astype(_float_type(self.pixels.dtype), copy=False)
        floats[~self.valid] = np.nan
        return floats


def _float_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The smallest float that holds every value of a type (nearly every one of 64-bit integers)."""
    return np.result_type(dtype, np.float32)


def _empty(steps: Sequence[View], band: int, options: ReadOptions) -> _Cube:
    grid = steps[0].grid
    shape = (len(steps), grid.height, grid.width)
    pixels = np.empty(shape, dtype=_band_type(steps, band))
    return _Cube(pixels=pixels, valid=np.empty(shape, dtype=bool) if options.masked else None)


def _band_type(steps: Sequence[View], band: int) -> np.dtype[Any]:
    return np.result_type(*{step.record.headers[band].sample_type for step in steps})


def _fill(
    steps: Sequence[View], cubes: Sequence[_Cube], bands: Sequence[str], backend: StorageBackend, options: ReadOptions
) -> None:
    planes = [
        Plane(
            view=step,
            band=band,
            pixels=cube.pixels[time],
            valid=None if cube.valid is None else cube.valid[time],
        )
        for time, step in enumerate(steps)
        for band, cube in enumerate(cubes)
    ]
    fill(planes, bands, backend, options)


class _LazyBand:
    """One band as an array that reads what is sliced from it: what ``dask.array.from_array`` asks for."""

    def __init__(
        self, steps: Sequence[View], band: int, bands: Sequence[str], backend: StorageBackend, options: ReadOptions
    ) -> None:
        # Only this band, so that a task carries no other headers.
        self.steps = [
            replace(step, record=replace(step.record, headers=[step.record.headers[band]],
                                         hrefs=[step.record.hrefs[band]]))
            for step in steps
        ]  # fmt: skip
        self.bands = [bands[band]]
        self.backend = backend
        self.options = options
        kind = _band_type(self.steps, 0)
        self.dtype = _float_type(kind) if options.masked else kind
        self.shape = (len(steps), steps[0].grid.height, steps[0].grid.width)
        self.ndim = 3

    def __getitem__(self, key: tuple[slice, slice, slice]) -> npt.NDArray[Any]:
        times, rows, columns = (slice(*part.indices(size)) for part, size in zip(key, self.shape, strict=True))
        window = Window(
            col_off=columns.start, row_off=rows.start, width=columns.stop - columns.start,
            height=rows.stop - rows.start,
        )  # fmt: skip
        steps = [replace(step, grid=step.grid.part(window)) for step in self.steps[times]]
        cube = _empty(steps, 0, self.options)
        _fill(steps, [cube], self.bands, self.backend, self.options)
        return cube.finished().astype(self.dtype, copy=False)


def _lazy(
    steps: Sequence[View], band: int, bands: Sequence[str], backend: StorageBackend, options: ReadOptions, chunks: Any
) -> Any:
    dask = optional("dask.array", purpose="get_xarray(chunks=...)")
    lazy = _LazyBand(steps, band, bands, backend, options)
    if isinstance(chunks, Mapping):
        unknown = set(chunks) - {"time", "y", "x"}
        if unknown:
            raise SpecError(f"chunks={dict(chunks)!r} names {sorted(unknown)}: the dimensions are time, y and x")
        chunks = tuple(chunks.get(name, "auto") for name in ("time", "y", "x"))
    return dask.from_array(lazy, chunks=chunks, name=False, asarray=True, fancy=False)


def _attributes(steps: Sequence[View], band: int, options: ReadOptions) -> dict[str, Any]:
    attributes: dict[str, Any] = {"grid_mapping": _GRID_MAPPING}
    nodata = steps[0].record.headers[band].nodata
    if nodata is not None and not options.masked:
        attributes["_FillValue"] = nodata
    return attributes


def _times(moments: Sequence[np.datetime64]) -> npt.NDArray[np.datetime64]:
    """Nanoseconds, as everybody's cubes have them, unless one lies beyond the years they reach (1678 to 2261)."""
    times = np.array(moments, dtype="datetime64[us]")
    fine = times.astype("datetime64[ns]")
    return fine if np.array_equal(fine.astype(times.dtype), times, equal_nan=True) else times


def _coordinates(steps: Sequence[View], crs: str, grid: Grid) -> dict[str, Any]:
    known = pyproj.CRS.from_user_input(crs)
    x = grid.origin_x + (np.arange(grid.width) + 0.5) * grid.scale_x
    y = grid.origin_y + (np.arange(grid.height) + 0.5) * grid.scale_y
    moments = [
        np.datetime64("NaT") if step.record.moment is None else np.datetime64(step.record.moment.replace(tzinfo=None))
        for step in steps
    ]
    a, b, c, d, e, f = grid.affine
    mapping = {
        **known.to_cf(),
        "spatial_ref": known.to_wkt(),  # GDAL's name of crs_wkt
        "GeoTransform": " ".join(repr(number) for number in (c, a, b, f, d, e)),
    }
    axes = {"X": {}, "Y": {}} | {axis["axis"]: axis for axis in known.cs_to_cf() if axis.get("axis") in {"X", "Y"}}
    return {
        "time": ("time", _times(moments)),
        "y": ("y", y, axes["Y"]),
        "x": ("x", x, axes["X"]),
        "id": ("time", np.array([step.record.id for step in steps], dtype=object)),
        _GRID_MAPPING: ((), 0, mapping),
    }
