"""Options of reads: the arguments that all reads take, declared once, and the checked value made from them."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, TypedDict, TypeVar

import numpy as np
import numpy.typing as npt

from rasteret_assets.collection.areas.area import AUTO
from rasteret_assets.collection.areas.grid import Grid
from rasteret_assets.collection.areas.reproject import map_crs
from rasteret_assets.collection.pixels._like import grid_of
from rasteret_assets.errors import SpecError
from rasteret_assets.inputs import CRSLike, DateRangeLike, Missing, OnError, RasterLike, Resampling
from rasteret_assets.spec import CloudConfig
from rasteret_assets.storage.backend import StorageBackend

Choice = TypeVar("Choice", bound=str)
Function = TypeVar("Function", bound=Callable[..., Any])

#: Default of the requests in flight at most.
MAX_CONCURRENT: Final = 128


class Filters(TypedDict, total=False):
    """Filters of the records that are read, as :meth:`Collection.subset` takes them."""

    bbox: Sequence[float] | None
    date_range: DateRangeLike | None
    cloud_cover_lt: float | None
    split: str | Sequence[str] | None


class PointArguments(Filters, total=False):
    """Arguments of all reads of pixels, beside areas (or points) and bands; defaults in parentheses.

    Args:
        max_concurrent: requests in flight at most (128).
        backend: reads the bytes; by default the collection's own, else one that all reads share.
        cloud_config: how the provider's objects are reached, used if ``backend`` is not given.
        data_source: name under which a configuration was registered, which is used instead of the collection's own.
        geometry_crs: CRS of the areas or points; ``"auto"`` takes the CRS that they state, else lon/lat.
        geometry_column: column of the areas or points if they are a table.
        masked: mark the pixels without data in the result (False).
        mask_and_scale: make values floats, ``value * scale + offset`` by the index, with NaN for pixels without data
            (False).
        on_error: ``"raise"`` (the default), or ``"mask"``: pixels that cannot be read hold no data, and the failure is
            logged.
        missing: what happens to records if the index has no header of a band: ``"mask"`` (the default: no data in that
            band), ``"drop"`` (the record is left out) or ``"raise"``.
        progress: show a bar of the requests, or call a function with each :class:`ReadProgress` (False).
    """

    max_concurrent: int
    backend: StorageBackend | None
    cloud_config: CloudConfig | None
    data_source: str | None
    geometry_crs: CRSLike
    geometry_column: str | None
    masked: bool
    mask_and_scale: bool
    on_error: OnError
    missing: Missing
    progress: bool | Callable[[ReadProgress], None]


class ReadArguments(PointArguments, total=False):
    """Arguments of reads of areas, beside :class:`PointArguments` and the :class:`Filters` of ``subset``.

    Args:
        target_crs: CRS of the result: EPSG code, text or CRS object. Pixels are warped as GDAL does.
        resolution: size of a pixel, or (width, height), in units of the result's CRS. Overviews of the index that are
            fine enough are read instead of the full image. Pixels coincide with those of the first record in that CRS;
            if no record is in it, edges are multiples of the resolution.
        like: raster on whose grid the result is put: an odc-geo ``GeoBox``, an xarray object with coordinates and a
            CRS, or an open rasterio dataset. It replaces ``target_crs`` and ``resolution``; areas may be None then.
        geobox: another name of ``like``, as in odc-stac.
        resampling: GDAL's name of the method for all of these: nearest (by default), bilinear, cubic, average, mode ...
        overviews: whether overviews may be read (True); they are never read for methods such as ``sum``, ``min`` or
            ``mode``, whose result needs the full image.
        allow_resample: bring bands on different grids to the finest of them (False).
        all_touched: whether a polygon covers all pixels that it touches, else the pixels whose centre it holds (False).
        dtype: type of the result, which holds every value of the bands or is a type of floats.
    """

    target_crs: CRSLike | None
    resolution: float | Sequence[float] | None
    like: RasterLike | None
    geobox: RasterLike | None
    resampling: Resampling | IntEnum
    overviews: bool
    allow_resample: bool
    all_touched: bool
    dtype: npt.DTypeLike | None


_FILTERS: Final[Filters] = {"bbox": None, "date_range": None, "cloud_cover_lt": None, "split": None}
POINT_DEFAULTS: Final[PointArguments] = {
    "max_concurrent": MAX_CONCURRENT, "backend": None, "cloud_config": None, "data_source": None,
    "geometry_crs": AUTO, "geometry_column": None, "masked": False, "mask_and_scale": False, "on_error": "raise",
    "missing": "mask", "progress": False, **_FILTERS,
}  # fmt: skip
AREA_DEFAULTS: Final[ReadArguments] = {
    "target_crs": None, "resolution": None, "like": None, "geobox": None, "resampling": "nearest", "overviews": True,
    "allow_resample": False, "all_touched": False, "dtype": None, **POINT_DEFAULTS,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadProgress:
    """The progress of a read.

    Args:
        requests: number of requests that have ended or failed.
        total: number of requests of the whole read, with those for parts of warps.
        bytes: number of bytes that have come.
    """

    requests: int
    total: int
    bytes: int


def takes(defaults: Mapping[str, Any]) -> Callable[[Function], Function]:
    """Give a function with ``**arguments`` a signature with their names and defaults, for ``help`` and editors.

    Args:
        defaults: defaults of the arguments by name.
    """

    def decorate(function: Function) -> Function:
        stated = [
            one for one in inspect.signature(function).parameters.values() if one.kind is not one.VAR_KEYWORD
        ]  # fmt: skip
        taken = {one.name for one in stated}
        keyword = inspect.Parameter.KEYWORD_ONLY
        stated += [
            inspect.Parameter(name, keyword, default=default)
            for name, default in defaults.items()
            if name not in taken
        ]  # fmt: skip
        function.__signature__ = inspect.Signature(stated)  # type: ignore[attr-defined]
        return function

    return decorate


takes_areas = takes(AREA_DEFAULTS)


def checked_arguments(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return all arguments of a read: those given, and the defaults of the others.

    Raises:
        SpecError: if reads have no argument of a given name.
    """
    for name in given:
        if name not in defaults:
            near = difflib.get_close_matches(name, defaults, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"reads take {', '.join(defaults)}"
            raise SpecError(f"unknown argument {name!r}: {hint}")
    return {**defaults, **given}


def area_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return all arguments of a read of areas; see :func:`checked_arguments`."""
    return checked_arguments(given, AREA_DEFAULTS)


def point_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return all arguments of a read of points; see :func:`checked_arguments`."""
    return checked_arguments(given, POINT_DEFAULTS)


def filters_of(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a read that filter records and are not None, by name."""
    return {name: arguments[name] for name in _FILTERS if arguments[name] is not None}


#: Resampling methods by GDAL's names, with the radius of their kernel in source pixels.
KERNELS: Final = {
    "nearest": 1, "bilinear": 1, "cubic": 2, "cubic_spline": 2, "lanczos": 3, "average": 1, "mode": 1, "max": 1,
    "min": 1, "med": 1, "q1": 1, "q3": 1, "sum": 1, "rms": 1,
}  # fmt: skip

#: Options that are passed on unchecked.
_FLAGS: Final = ("all_touched", "allow_resample", "masked", "overviews")

#: Methods whose result hardly changes if overviews are read instead of the full image. Sums, extremes and quantiles
#: need the full image, because an overview holds averages, or a choice of pixels.
OVERVIEW_METHODS: Final = frozenset({"nearest", "bilinear", "cubic", "cubic_spline", "lanczos", "average"})


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadOptions:
    """Checked options of a read.

    Args:
        max_concurrent: requests in flight at most.
        all_touched: whether a polygon covers all pixels it touches; else those whose centre it holds.
        target_crs: CRS of the result, as ``map_crs`` writes it; None for the rasters' own.
        resolution: (width, height) of a pixel in units of that CRS; None for the rasters' own.
        resampling: name of one of :data:`KERNELS`.
        allow_resample: whether bands on different grids are brought to the finest of them.
        masked: whether the result marks pixels without data.
        on_error: ``"raise"`` one error with all failures, or ``"mask"`` the pixels that could not be read.
        overviews: whether overviews may be read if they are fine enough.
        missing: what happens to records without the header of a band: ``"mask"`` has no data in that band,
            ``"drop"`` leaves the record out, ``"raise"`` raises.
        grid: pixels of the result, in ``target_crs``; None if areas choose them.
        dtype: of the result; None for the bands' own.
        scaled: whether values are multiplied by the scale and added to the offset of their band, as floats with NaN.
        progress: whether a bar is shown, or the function that is called with the progress.
    """

    max_concurrent: int = MAX_CONCURRENT
    all_touched: bool = False
    target_crs: str | None = None
    resolution: tuple[float, float] | None = None
    resampling: Resampling = "nearest"
    allow_resample: bool = False
    masked: bool = False
    on_error: OnError = "raise"
    overviews: bool = True
    missing: Missing = "mask"
    grid: Grid | None = None
    dtype: np.dtype[Any] | None = None
    scaled: bool = False
    progress: bool | Callable[[ReadProgress], None] = False

    @property
    def reads_overviews(self) -> bool:
        """Whether overviews may be read by the options and by the method."""
        return self.overviews and self.resampling in OVERVIEW_METHODS

    @property
    def regrids(self) -> bool:
        """Whether the result has another grid than the rasters."""
        return self.target_crs is not None or self.resolution is not None

    def read_type(self, kinds: Iterable[np.dtype[Any]]) -> np.dtype[Any]:
        """Return the type in which samples of some types are read, before :meth:`finished`.

        Raises:
            SpecError: if ``dtype`` cannot hold their values.
        """
        common = np.result_type(*set(kinds))
        if self.scaled:
            # The smallest float that holds every value (nearly every one of 64-bit integers).
            common = np.result_type(common, np.float32)
        if self.dtype is None:
            return common
        if np.can_cast(common, self.dtype, "safe"):
            return self.dtype
        if self.dtype.kind != "f":
            raise SpecError(
                f"dtype={self.dtype.name!r} does not hold all values of {common.name}: leave dtype= out, and convert "
                "the result yourself"
            )
        return common  # the type is converted at the end, because nodata is compared with exact values

    def finished(self, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return pixels of any shape in the type ``dtype``; unchanged if it is None."""
        return pixels if self.dtype is None else pixels.astype(self.dtype, copy=False)


def read_options(arguments: Mapping[str, Any]) -> ReadOptions:
    """Check the arguments of a read, and return them as options.

    Args:
        arguments: all of :class:`ReadArguments`, or all of :class:`PointArguments`.

    Raises:
        SpecError: if an argument is not understood.
        WindowError: if the grid of ``like`` is rotated or sheared.
    """
    max_concurrent, progress = arguments["max_concurrent"], arguments["progress"]
    if isinstance(max_concurrent, bool) or not isinstance(max_concurrent, int) or max_concurrent < 1:
        raise SpecError(f"max_concurrent={max_concurrent!r} must be a whole number of requests, 1 or more")
    own = {name: arguments[name] for name in _FLAGS if name in arguments}
    if arguments.get("resampling") is not None:
        own["resampling"] = _resampling(arguments["resampling"])
    return ReadOptions(
        max_concurrent=max_concurrent,
        on_error=_one_of("on_error", arguments["on_error"], ("raise", "mask")),
        missing=_one_of("missing", arguments["missing"], ("mask", "drop", "raise")),
        scaled=bool(arguments["mask_and_scale"]),
        progress=progress if callable(progress) else bool(progress),
        dtype=_dtype(arguments.get("dtype")),
        **_target(arguments),
        **own,
    )


def _target(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return CRS, resolution and grid of the result."""
    crs, resolution = arguments.get("target_crs"), arguments.get("resolution")
    grids = {name: arguments.get(name) for name in ("like", "geobox") if arguments.get(name) is not None}
    if not grids:
        return {
            "target_crs": None if crs is None else map_crs(crs),
            "resolution": None if resolution is None else _resolution(resolution),
        }
    others = {"target_crs": crs, "resolution": resolution, **grids}
    stated = [name for name, value in others.items() if value is not None]
    if len(stated) > 1:
        raise SpecError(f"{' and '.join(stated)} each choose a grid for the result: give one of them")
    name, grid = grid_of(next(iter(grids.values())))
    return {"target_crs": name, "resolution": (abs(grid.scale_x), abs(grid.scale_y)), "grid": grid}


def _one_of(name: str, value: Choice, choices: Sequence[Choice]) -> Choice:
    if value not in choices:
        raise SpecError(f"{name}={value!r} must be one of {', '.join(map(repr, choices))}")
    return value


def _resampling(value: str | IntEnum) -> str:
    name = str(getattr(value, "name", value)).lower()  # rasterio's enumeration is understood too
    if name not in KERNELS:
        raise SpecError(f"resampling={value!r} must be one of {', '.join(KERNELS)}")
    return name


def _dtype(value: npt.DTypeLike | None) -> np.dtype[Any] | None:
    try:
        kind = None if value is None else np.dtype(value)
    except TypeError as error:
        raise SpecError(f"dtype={value!r} is not a type of numpy: write for example 'float32' or 'uint16'") from error
    if kind is not None and kind.kind not in "iuf":
        raise SpecError(f"dtype={value!r} cannot hold pixels: give a type of integers or floats")
    return kind


def _resolution(value: float | Sequence[float]) -> tuple[float, float]:
    try:
        width, height = value if isinstance(value, Sequence | np.ndarray) else (value, value)
        pair = abs(float(width)), abs(float(height))
    except (TypeError, ValueError) as error:
        raise SpecError(f"resolution={value!r} is neither a number nor a pair (width, height)") from error
    if not all(math.isfinite(size) and size > 0 for size in pair):
        raise SpecError(f"resolution={value!r} is not the size of a pixel: give a positive number in units of the CRS")
    return pair
