"""Views as one xarray Dataset: a variable for each band over time, y and x, as CF and rioxarray understand it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyproj

from rasteret_assets.collection.areas.area import Area
from rasteret_assets.collection.areas.grid import Grid, Window
from rasteret_assets.collection.extras import optional
from rasteret_assets.collection.pixels.backends import Source
from rasteret_assets.collection.pixels.options import ReadOptions
from rasteret_assets.collection.pixels.planes import Plane, fill
from rasteret_assets.collection.pixels.views import MOST_LAZY_PIXELS, MOST_PIXELS, View, common_grid
from rasteret_assets.errors import SpecError, WindowError

if TYPE_CHECKING:
    import xarray as xr

_GRID_MAPPING = "spatial_ref"


def read_cube(
    views: Sequence[View], bands: Sequence[str], source: Source, options: ReadOptions, chunks: Any
) -> xr.Dataset:
    """Return a Dataset of the records of ``views`` over the extent of all areas together.

    Args:
        views: what to read; views of one record become one step of time.
        bands: names of the variables.
        source: where the bytes come from; opened when pixels are read, in the process that reads.
        options: how it is read.
        chunks: None to read now; else what dask takes for (time, y, x), to read when it is computed.

    Raises:
        WindowError: if records lie in several CRSs, their pixels do not coincide, or their nodata differ and no value
            can stand for all of them.
    """
    xarray = optional("xarray", purpose="get_xarray")
    crs, grid = common_grid(views, most_pixels=MOST_PIXELS if chunks is None else MOST_LAZY_PIXELS)
    steps = _steps(views, grid)
    kinds = [_kind(steps, band, name, options) for band, name in enumerate(bands)]
    if chunks is None:
        shape = (len(steps), grid.height, grid.width)
        pixels: list[Any] = [np.empty(shape, dtype=kind.dtype) for kind in kinds]
        _fill(steps, pixels, kinds, bands, source, options)
    else:
        pixels = [_lazy(_LazyBand(steps, band, bands, source, options), chunks) for band in range(len(bands))]
    variables = {
        name: (("time", "y", "x"), values, _attributes(kind, options))
        for name, values, kind in zip(bands, pixels, kinds, strict=True)
    }
    cube: xr.Dataset = xarray.Dataset(variables, coords=_coordinates(steps, crs, grid))
    return cube


def _steps(views: Sequence[View], grid: Grid) -> list[View]:
    """One view for each record, all of the same grid, with all of the record's areas."""
    areas: dict[Any, list[tuple[int, Area]]] = {}
    for view in views:
        areas.setdefault(view.record, []).extend(view.areas)
    return [View(record=record, areas=found, crs=views[0].crs, grid=grid) for record, found in areas.items()]


class _Kind(NamedTuple):
    """Type of a variable, and the value of its pixels without data; None where nothing marks them."""

    dtype: np.dtype[Any]
    fill: Any


#: Types of integers that have a value left over for pixels without data, whatever values a narrower type takes.
_WIDER: Final[dict[str, Any]] = {
    "i1": np.int16,
    "u1": np.int16,
    "i2": np.int32,
    "u2": np.int32,
    "i4": np.int64,
    "u4": np.int64,
}


def _kind(steps: Sequence[View], band: int, name: str, options: ReadOptions) -> _Kind:
    """Choose the type of a variable, and one value for the pixels without data of all records.

    A variable has one ``_FillValue`` (CF conventions 1.11, 2.5.1). Where records have different nodata, or some have
    none, the type is widened, so that no pixel has the value that marks the others.

    Raises:
        WindowError: if there is no wider type.
    """
    headers = [step.record.headers[band] for step in steps]
    known = [header for header in headers if header is not None]
    if not known:
        return _Kind(np.dtype(np.float32), np.float32(np.nan)) if options.masked else _Kind(np.dtype(np.uint8), None)
    dtype = np.result_type(*{header.sample_type for header in known})
    if options.masked:
        # The smallest float that holds every value (nearly every one of 64-bit integers).
        floats = np.result_type(dtype, np.float32)
        return _Kind(floats, floats.type(np.nan))
    nodata = {"none" if header.nodata is None else str(header.nodata) for header in known}
    if len(nodata) == 1 and (known[0].nodata is not None or len(known) == len(headers)):
        return _Kind(dtype, None if known[0].nodata is None else dtype.type(known[0].nodata))
    if dtype.kind == "f":
        return _Kind(dtype, dtype.type(np.nan))
    wider = _WIDER.get(dtype.str[1:])
    if wider is None:
        raise WindowError(
            f"band {name!r}: the records have different nodata ({', '.join(sorted(nodata))}), and no integer type "
            "has a value for all of them: read with masked=True"
        )
    return _Kind(np.dtype(wider), wider(np.iinfo(wider).min))


def _fill(
    steps: Sequence[View], pixels: Sequence[npt.NDArray[Any]], kinds: Sequence[_Kind], bands: Sequence[str],
    source: Source, options: ReadOptions,
) -> None:  # fmt: skip
    planes = [
        Plane(view=step, band=band, pixels=cube[time], fill=kind.fill)
        for time, step in enumerate(steps)
        for band, (cube, kind) in enumerate(zip(pixels, kinds, strict=True))
    ]
    fill(planes, bands, source.open(), options)


class _LazyBand:
    """One band as an array that reads what is sliced from it: what ``dask.array.from_array`` asks for."""

    def __init__(
        self, steps: Sequence[View], band: int, bands: Sequence[str], source: Source, options: ReadOptions
    ) -> None:
        # Only this band, so that a task carries no other headers.
        self.steps = [
            replace(step, record=replace(step.record, headers=[step.record.headers[band]],
                                         hrefs=[step.record.hrefs[band]]))
            for step in steps
        ]  # fmt: skip
        self.bands = [bands[band]]
        self.source = source
        self.options = options
        self.kind = _kind(self.steps, 0, bands[band], options)
        self.dtype = self.kind.dtype
        self.shape = (len(steps), steps[0].grid.height, steps[0].grid.width)
        self.ndim = 3

    def __getitem__(self, key: tuple[slice, slice, slice]) -> npt.NDArray[Any]:
        times, rows, columns = (slice(*part.indices(size)) for part, size in zip(key, self.shape, strict=True))
        window = Window(
            col_off=columns.start, row_off=rows.start, width=columns.stop - columns.start,
            height=rows.stop - rows.start,
        )  # fmt: skip
        steps = [replace(step, grid=step.grid.part(window)) for step in self.steps[times]]
        pixels = np.empty((len(steps), window.height, window.width), dtype=self.dtype)
        _fill(steps, [pixels], [self.kind], self.bands, self.source, self.options)
        return pixels


def _lazy(lazy: _LazyBand, chunks: Any) -> Any:
    dask = optional("dask.array", purpose="get_xarray(chunks=...)")
    if isinstance(chunks, Mapping):
        unknown = set(chunks) - {"time", "y", "x"}
        if unknown:
            raise SpecError(f"chunks={dict(chunks)!r} names {sorted(unknown)}: the dimensions are time, y and x")
        chunks = tuple(chunks.get(name, "auto") for name in ("time", "y", "x"))
    return dask.from_array(lazy, chunks=chunks, name=False, asarray=True, fancy=False)


def _attributes(kind: _Kind, options: ReadOptions) -> dict[str, Any]:
    attributes: dict[str, Any] = {"grid_mapping": _GRID_MAPPING}
    if kind.fill is not None and not options.masked:
        attributes["_FillValue"] = kind.fill
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
