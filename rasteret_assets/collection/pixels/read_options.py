"""How pixels are read: the arguments that every read takes, declared once, and the checked value that they make."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypedDict, TypeVar

import numpy as np
import numpy.typing as npt

from rasteret_assets.collection.areas.area import AUTO
from rasteret_assets.collection.areas.grid import Grid
from rasteret_assets.collection.areas.reproject import crs_name
from rasteret_assets.collection.pixels._like import grid_of
from rasteret_assets.errors import SpecError
from rasteret_assets.spec import CloudConfig
from rasteret_assets.storage.backend import StorageBackend

Function = TypeVar("Function", bound=Callable[..., Any])

OnError = Literal["raise", "mask"]

Missing = Literal["mask", "drop", "raise"]

#: Requests in flight at most, unless a read says otherwise.
MAX_CONCURRENT: Final = 128


class Filters(TypedDict, total=False):
    """Which records are read, as :meth:`Collection.subset` takes them."""

    bbox: Sequence[float] | None
    date_range: Any
    cloud_cover_lt: float | None
    split: str | Sequence[str] | None


class PointArguments(Filters, total=False):
    """What every read of pixels takes beside places and bands.

    Args:
        max_concurrent: requests in flight at most (128).
        backend: reads the bytes; by default the collection's own, else one that all reads share.
        cloud_config: how the provider's objects are reached, where ``backend`` is not given.
        data_source: takes the configuration registered under this name instead of the collection's own.
        geometry_crs: CRS of the places; ``"auto"`` takes what they state, else lon/lat.
        geometry_column: column of the places where they are a table.
        masked: says in the result which pixels hold no data (False).
        mask_and_scale: makes values floats, ``value * scale + offset`` by the index, with NaN where there is no data
            (False).
        on_error: ``"raise"``, or ``"mask"``: what cannot be read has no data, and is logged.
        missing: what becomes of records whose index lacks the header of a band: ``"mask"`` (they have no data in that
            band), ``"drop"`` (they are left out) or ``"raise"``.
        progress: shows a bar of the requests; or a function that is called with each :class:`ReadProgress` (False).
    """

    max_concurrent: int
    backend: StorageBackend | None
    cloud_config: CloudConfig | None
    data_source: str | None
    geometry_crs: Any
    geometry_column: str | None
    masked: bool
    mask_and_scale: bool
    on_error: str
    missing: str
    progress: bool | Callable[[ReadProgress], None]


class ReadArguments(PointArguments, total=False):
    """What reads of areas take, beside :class:`PointArguments` and the :class:`Filters` of ``subset``.

    Args:
        target_crs: CRS of the result: EPSG code, text or CRS object. Pixels are warped as GDAL does.
        resolution: size of a pixel, or (width, height), in units of the result's CRS. Overviews of the index that are
            fine enough are read instead of the full image. Pixels line up with those of the first record in that CRS;
            where none is in it, with multiples of the resolution.
        like: puts the result on the grid of another raster: an odc-geo ``GeoBox``, an xarray object that has one, or an
            open rasterio dataset. Instead of ``target_crs`` and ``resolution``; areas may be None then.
        geobox: the same by the name odc-stac has for it.
        resampling: GDAL's name of the method for all of these: nearest (by default), bilinear, cubic, average, mode ...
        overviews: whether overviews may be read (True); never for methods such as ``sum``, ``min`` or ``mode``, whose
            result is that of the full image.
        allow_resample: brings bands on different grids to the finest of them (False).
        all_touched: whether a polygon covers all pixels it touches; else those whose centre it holds (False).
        dtype: of the result, if it holds every value of the bands, or is a type of floats.
    """

    target_crs: Any
    resolution: float | Sequence[float] | None
    like: Any
    geobox: Any
    resampling: str
    overviews: bool
    allow_resample: bool
    all_touched: bool
    dtype: Any


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
    """How far a read has come.

    Args:
        requests: that have ended, well or not.
        total: requests of the whole read, those for parts of warps included.
        bytes: that have come.
    """

    requests: int
    total: int
    bytes: int


def takes(defaults: Mapping[str, Any]) -> Callable[[Function], Function]:
    """Let ``help`` and editors see the arguments that a function takes as ``**arguments``, with their defaults.

    Args:
        defaults: of the arguments, by name.
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


def checked_arguments(given: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of a read: those given, and the defaults of the others.

    Raises:
        SpecError: if there is no such argument.
    """
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"reads take {', '.join(known)}"
            raise SpecError(f"unknown argument {name!r}: {hint}")
    return {**known, **given}


def area_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of a read of areas; see :func:`checked_arguments`."""
    return checked_arguments(given, AREA_DEFAULTS)


def point_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of a read of points; see :func:`checked_arguments`."""
    return checked_arguments(given, POINT_DEFAULTS)


def filters_of(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the arguments that choose records, and are given."""
    return {name: arguments[name] for name in _FILTERS if arguments[name] is not None}


#: Resampling methods by GDAL's names, with the radius of their kernel in source pixels.
KERNELS: Final = {
    "nearest": 1, "bilinear": 1, "cubic": 2, "cubic_spline": 2, "lanczos": 3, "average": 1, "mode": 1, "max": 1,
    "min": 1, "med": 1, "q1": 1, "q3": 1, "sum": 1, "rms": 1,
}  # fmt: skip

#: Options that are taken as they are given.
_FLAGS: Final = ("all_touched", "allow_resample", "masked", "overviews")

#: Methods whose result hardly changes where overviews are read instead of the full image. Sums, extremes, quantiles and
#: the like are those of the full image only: an overview holds averages, or a choice of pixels.
OVERVIEW_METHODS: Final = frozenset({"nearest", "bilinear", "cubic", "cubic_spline", "lanczos", "average"})


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadOptions:
    """How pixels are read.

    Args:
        max_concurrent: requests in flight at most.
        all_touched: whether a polygon covers all pixels it touches; else those whose centre it holds.
        target_crs: CRS of the result, as ``crs_name`` writes it; None for the rasters' own.
        resolution: (width, height) of a pixel in units of that CRS; None for the rasters' own.
        resampling: name of one of :data:`KERNELS`.
        allow_resample: whether bands on different grids are brought to the finest of them.
        masked: whether the result says which pixels hold no data.
        on_error: ``"raise"`` one error with all that could not be read, or ``"mask"`` it.
        overviews: whether overviews may be read where they are fine enough.
        missing: what becomes of records that lack the header of a band: ``"mask"`` has no data in that band,
            ``"drop"`` leaves the record out, ``"raise"`` refuses.
        grid: pixels of the result, in ``target_crs``; None where areas choose them.
        dtype: of the result; None for the bands' own.
        scaled: whether values are brought to their unit by the scale and offset of their band, as floats with NaN.
        progress: whether a bar is shown, or what is told of each request.
    """

    max_concurrent: int = MAX_CONCURRENT
    all_touched: bool = False
    target_crs: str | None = None
    resolution: tuple[float, float] | None = None
    resampling: str = "nearest"
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
        """Whether overviews may be read: they are, where the method allows it."""
        return self.overviews and self.resampling in OVERVIEW_METHODS

    @property
    def regrids(self) -> bool:
        """Whether the result has a grid of its own."""
        return self.target_crs is not None or self.resolution is not None

    def read_type(self, kinds: Iterable[np.dtype[Any]]) -> np.dtype[Any]:
        """Type in which samples of some types are read, before :meth:`finished`.

        Raises:
            SpecError: if ``dtype`` does not hold them.
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
                f"dtype={self.dtype.name!r} does not hold all values of {common.name}: read without dtype, and convert "
                "the result by what you know of its values"
            )
        return common  # nodata is told by the exact value

    def finished(self, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Pixels in the type that was asked for."""
        return pixels if self.dtype is None else pixels.astype(self.dtype, copy=False)


def read_options(arguments: Mapping[str, Any]) -> ReadOptions:
    """Options as people write them.

    Args:
        arguments: all of :class:`ReadArguments`, or all of :class:`PointArguments`.

    Raises:
        SpecError: if one is not understood.
        WindowError: if ``like`` is no upright grid.
    """
    max_concurrent, progress = arguments["max_concurrent"], arguments["progress"]
    if isinstance(max_concurrent, bool) or not isinstance(max_concurrent, int) or max_concurrent < 1:
        raise SpecError(f"max_concurrent={max_concurrent!r} must be 1 or more: how many requests may be in flight")
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
    """CRS, resolution and grid of the result."""
    crs, resolution = arguments.get("target_crs"), arguments.get("resolution")
    grids = {name: arguments.get(name) for name in ("like", "geobox") if arguments.get(name) is not None}
    if not grids:
        return {
            "target_crs": None if crs is None else crs_name(crs),
            "resolution": None if resolution is None else _resolution(resolution),
        }
    others = {"target_crs": crs, "resolution": resolution, **grids}
    stated = [name for name, value in others.items() if value is not None]
    if len(stated) > 1:
        raise SpecError(f"{' and '.join(stated)} each choose a grid for the result: give one of them")
    name, grid = grid_of(next(iter(grids.values())))
    return {"target_crs": name, "resolution": (abs(grid.scale_x), abs(grid.scale_y)), "grid": grid}


def _one_of(name: str, value: Any, choices: Sequence[str]) -> Any:
    if value not in choices:
        raise SpecError(f"{name}={value!r} must be one of {', '.join(map(repr, choices))}")
    return value


def _resampling(value: Any) -> str:
    name = str(getattr(value, "name", value)).lower()  # rasterio's own enumeration is understood too
    if name not in KERNELS:
        raise SpecError(f"resampling={value!r} is none of {', '.join(KERNELS)}")
    return name


def _dtype(value: Any) -> np.dtype[Any] | None:
    try:
        kind = None if value is None else np.dtype(value)
    except TypeError as error:
        raise SpecError(f"dtype={value!r} is no type of numpy's: write 'float32' or 'uint16'") from error
    if kind is not None and kind.kind not in "iuf":
        raise SpecError(f"dtype={value!r} holds no numbers of pixels: give a type of integers or floats")
    return kind


def _resolution(value: float | Sequence[float]) -> tuple[float, float]:
    try:
        width, height = value if isinstance(value, Sequence | np.ndarray) else (value, value)
        pair = abs(float(width)), abs(float(height))
    except (TypeError, ValueError) as error:
        raise SpecError(f"resolution={value!r} is neither a number nor a pair (width, height)") from error
    if not all(math.isfinite(size) and size > 0 for size in pair):
        raise SpecError(f"resolution={value!r} is no size of a pixel: give a positive number in units of the CRS")
    return pair
