"""Group records into steps of time, and combine the pixels of a step."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from rasteret_assets.collection.areas.grid import Grid
from rasteret_assets.collection.areas.reproject import LONLAT, transform_points
from rasteret_assets.collection.pixels.select import Record
from rasteret_assets.collection.pixels.views import View
from rasteret_assets.errors import SpecError
from rasteret_assets.inputs import GroupBy, MosaicRule

#: Values of ``groupby``: what records of one step of time share.
GROUPS: Final = ("time", "solar_day", "day", "month", "year")
#: Values of ``mosaic``: the first or last pixel with data of several records, or a statistic of those with data.
RULES: Final = ("first", "last", "min", "max", "mean", "median")

_FORMATS: Final = {"day": "%Y-%m-%d", "month": "%Y-%m", "year": "%Y"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Mosaic:
    """How records are grouped into steps of time, and how the pixels of a step are combined.

    Args:
        groupby: one of :data:`GROUPS`; None for a step of each record.
        rule: one of :data:`RULES`.
    """

    groupby: GroupBy | None = None
    rule: MosaicRule = "first"

    @classmethod
    def of(cls, groupby: GroupBy | None, rule: MosaicRule) -> Mosaic:
        """Check both arguments as people write them; ``"id"`` means no grouping, as in odc-stac.

        Raises:
            SpecError: if an argument is not understood.
        """
        groupby = None if groupby == "id" else groupby
        if groupby is not None and groupby not in GROUPS:
            raise SpecError(f"groupby={groupby!r} must be one of {', '.join(map(repr, GROUPS))}, or None")
        if rule not in RULES:
            raise SpecError(f"mosaic={rule!r} must be one of {', '.join(map(repr, RULES))}")
        return cls(groupby=groupby, rule=rule)

    @property
    def computes(self) -> bool:
        """Whether results are computed as floats, so that they may be values of no pixel."""
        return self.groupby is not None and self.rule in {"mean", "median"}

    def groups(self, steps: Sequence[View]) -> list[list[View]]:
        """Return the views of each step of time, in the order of their first records; undated records stay alone."""
        if self.groupby is None:
            return [[step] for step in steps]
        found: dict[Any, list[View]] = {}
        for number, step in enumerate(steps):
            key = _period(step.record, self.groupby)
            found.setdefault(number if key is None else key, []).append(step)
        return list(found.values())


def _period(record: Record, groupby: GroupBy) -> datetime | str | None:
    moment = record.moment
    if moment is None:
        return None
    if groupby == "time":
        return moment
    if groupby == "solar_day":
        # Solar time differs from UTC by 24 hours in 360 degrees of longitude.
        return (moment + timedelta(hours=_longitude(record.crs, record.finest.grid) / 15)).strftime(_FORMATS["day"])
    return moment.strftime(_FORMATS[groupby])


@functools.lru_cache(maxsize=4096)
def _longitude(crs: str, grid: Grid) -> float:
    """Return the longitude of the middle of a raster, in degrees."""
    west, south, east, north = grid.bounds
    lon, _ = transform_points(np.array([(west + east) / 2]), np.array([(south + north) / 2]), crs, LONLAT)
    return float(lon[0]) if np.isfinite(lon[0]) else 0.0


def combined(
    pixels: npt.NDArray[Any], valid: npt.NDArray[np.bool_], rule: MosaicRule
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:  # fmt: skip
    """Combine layers to one.

    Args:
        pixels: array of shape (layers, ...).
        valid: booleans of that shape, true for pixels with data.
        rule: one of :data:`RULES`; ``"mean"`` and ``"median"`` need floats.

    Returns:
        Array of the shape of a layer, and booleans of that shape, true where any layer has data. Elsewhere ``"first"``
        and ``"last"`` keep the pixel of a layer.
    """
    there: npt.NDArray[np.bool_] = np.logical_or.reduce(valid, axis=0)
    if rule in {"first", "last"}:
        order = slice(None) if rule == "first" else slice(None, None, -1)
        chosen = valid[order].argmax(axis=0)[None]
        return np.take_along_axis(pixels[order], chosen, axis=0)[0], there
    if rule in {"min", "max"}:
        limits = np.finfo(pixels.dtype) if pixels.dtype.kind == "f" else np.iinfo(pixels.dtype)
        other = limits.max if rule == "min" else limits.min
        if pixels.dtype.kind == "f":
            other = np.inf if rule == "min" else -np.inf
        return getattr(np.where(valid, pixels, pixels.dtype.type(other)), rule)(axis=0), there
    layers = np.where(valid, pixels, pixels.dtype.type(np.nan))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # where no layer has data
        result = np.nanmean(layers, axis=0) if rule == "mean" else np.nanmedian(layers, axis=0)
    return result, there
