"""How pixels are read, as one checked value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from rasteret_assets.collection.areas.reproject import crs_name
from rasteret_assets.errors import SpecError

OnError = Literal["raise", "mask"]

Missing = Literal["mask", "drop", "raise"]

#: Resampling methods by GDAL's names, with the radius of their kernel in source pixels.
KERNELS: Final = {
    "nearest": 1, "bilinear": 1, "cubic": 2, "cubic_spline": 2, "lanczos": 3, "average": 1, "mode": 1, "max": 1,
    "min": 1, "med": 1, "q1": 1, "q3": 1, "sum": 1, "rms": 1,
}  # fmt: skip


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
    """

    max_concurrent: int
    all_touched: bool = False
    target_crs: str | None = None
    resolution: tuple[float, float] | None = None
    resampling: str = "nearest"
    allow_resample: bool = False
    masked: bool = False
    on_error: OnError = "raise"
    overviews: bool = True
    missing: Missing = "mask"

    @property
    def reads_overviews(self) -> bool:
        """Whether overviews may be read: they are, where the method allows it."""
        return self.overviews and self.resampling in OVERVIEW_METHODS

    @property
    def regrids(self) -> bool:
        """Whether the result has a grid of its own."""
        return self.target_crs is not None or self.resolution is not None


def read_options(
    *,
    max_concurrent: int,
    target_crs: Any = None,
    resolution: float | Sequence[float] | None = None,
    resampling: str = "nearest",
    on_error: str = "raise",
    missing: str = "mask",
    **flags: bool,
) -> ReadOptions:
    """Options as people write them.

    Raises:
        SpecError: if one is not understood.
    """
    if max_concurrent < 1:
        raise SpecError(f"max_concurrent={max_concurrent} lets no request through: give 1 or more")
    if on_error not in {"raise", "mask"}:
        raise SpecError(f"on_error={on_error!r} is neither 'raise' nor 'mask'")
    if missing not in {"mask", "drop", "raise"}:
        raise SpecError(f"missing={missing!r} must be 'mask', 'drop' or 'raise'")
    name = str(getattr(resampling, "name", resampling)).lower()  # rasterio's own enumeration is understood too
    if name not in KERNELS:
        raise SpecError(f"resampling={resampling!r} is none of {', '.join(KERNELS)}")
    return ReadOptions(
        max_concurrent=max_concurrent,
        target_crs=None if target_crs is None else crs_name(target_crs),
        resolution=None if resolution is None else _resolution(resolution),
        resampling=name,
        on_error="mask" if on_error == "mask" else "raise",
        missing="drop" if missing == "drop" else "raise" if missing == "raise" else "mask",
        **flags,
    )


def _resolution(value: float | Sequence[float]) -> tuple[float, float]:
    try:
        width, height = value if isinstance(value, Sequence) else (value, value)
        pair = abs(float(width)), abs(float(height))
    except (TypeError, ValueError) as error:
        raise SpecError(f"resolution={value!r} is neither a number nor a pair (width, height)") from error
    if not all(math.isfinite(size) and size > 0 for size in pair):
        raise SpecError(f"resolution={value!r} is no size of a pixel: give a positive number in units of the CRS")
    return pair
