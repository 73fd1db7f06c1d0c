"""The grid of another raster, in the forms that libraries have for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from rasteret_assets.collection.areas.grid import Grid
from rasteret_assets.collection.areas.reproject import crs_name
from rasteret_assets.errors import SpecError, WindowError

#: Names of the axes of xarray objects, x before y, in the order in which they are looked for.
_AXES: Final = (("x", "y"), ("longitude", "latitude"), ("lon", "lat"))


def grid_of(like: Any) -> tuple[str, Grid]:
    """The CRS and the pixels of a raster that somebody else describes.

    Args:
        like: an ``odc.geo.GeoBox``, an xarray Dataset or DataArray with coordinates of pixel centres and a CRS by CF's
            conventions (as ``get_xarray``, odc-stac and rioxarray make them), or an open rasterio dataset.

    Raises:
        SpecError: if it is none of these, or states no CRS.
        WindowError: if its grid is rotated or sheared, or its coordinates are not evenly spaced.
    """
    if hasattr(like, "sizes"):
        return _of_xarray(like)
    affine = getattr(like, "affine", None) or getattr(like, "transform", None)
    shape = getattr(like, "shape", None)
    if affine is None or shape is None or callable(affine) or len(shape) != 2:
        raise SpecError(
            f"{type(like).__name__} has no grid to be like: give an odc-geo GeoBox, an xarray object or an open "
            "rasterio dataset"
        )
    return _crs(like, getattr(like, "crs", None)), _grid(list(affine)[:6], shape)


def _of_xarray(like: Any) -> tuple[str, Grid]:
    names = next((pair for pair in _AXES if all(name in like.coords for name in pair)), None)
    if names is None:
        raise SpecError(f"like has no coordinates x and y, but {sorted(map(str, like.coords))}")
    (left, width), (top, height) = (_axis(np.asarray(like.coords[name].values, dtype=float), name) for name in names)
    shape = tuple(like.sizes[name] for name in reversed(names))
    return _crs(like, _stated_crs(like)), _grid([width, 0, left, 0, height, top], shape)


def _axis(centres: Any, name: str) -> tuple[float, float]:
    """Outer edge of the first pixel, and size of a pixel; negative where coordinates fall."""
    if len(centres) < 2:
        raise WindowError(f"like has one pixel along {name}, which says nothing of its size: give a GeoBox")
    step = (centres[-1] - centres[0]) / (len(centres) - 1)
    if not step or np.abs(np.diff(centres) - step).max() > 1e-3 * abs(step):
        raise WindowError(f"coordinates {name} of like are not evenly spaced")
    return float(centres[0] - step / 2), float(step)


def _stated_crs(like: Any) -> Any:
    """CRS by the grid mapping (CF conventions 1.11, 5.6), or as an attribute."""
    for coordinate in like.coords.values():
        for attribute in ("crs_wkt", "spatial_ref"):
            if attribute in coordinate.attrs:
                return coordinate.attrs[attribute]
    return like.attrs.get("crs")


def _crs(like: Any, crs: Any) -> str:
    if crs is None:
        raise SpecError(f"{type(like).__name__} given as like states no CRS")
    # odc-geo and rasterio have CRS objects of their own, which write themselves as text.
    return crs_name(crs if isinstance(crs, str | int) else str(crs))


def _grid(affine: Sequence[float], shape: Sequence[int]) -> Grid:
    a, b, c, d, e, f = (float(value) for value in affine)
    if b or d:
        raise WindowError("the grid of like is rotated or sheared: pixels are read on upright grids only")
    return Grid(width=int(shape[1]), height=int(shape[0]), scale_x=a, scale_y=e, origin_x=c, origin_y=f)
