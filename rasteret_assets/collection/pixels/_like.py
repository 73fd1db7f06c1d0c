"""Read the grid of another raster from objects of odc-geo, xarray and rasterio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, cast

import numpy as np
import numpy.typing as npt

from rasteret_assets.collection.areas.grid import Grid
from rasteret_assets.collection.areas.reproject import map_crs
from rasteret_assets.errors import SpecError, WindowError
from rasteret_assets.inputs import RasterLike

if TYPE_CHECKING:
    import xarray as xr

#: Names of the axes of xarray objects, x before y, in the order in which they are tried.
_AXES: Final = (("x", "y"), ("longitude", "latitude"), ("lon", "lat"))


def grid_of(like: RasterLike) -> tuple[str, Grid]:
    """Return the CRS and the pixel grid of another raster.

    Args:
        like: an ``odc.geo.GeoBox``, an xarray Dataset or DataArray with coordinates of pixel centres and a CRS by CF's
            conventions (as ``get_xarray``, odc-stac and rioxarray make them), or an open rasterio dataset.

    Raises:
        SpecError: if ``like`` is another object, or states no CRS.
        WindowError: if its grid is rotated or sheared, or it has one coordinate along an axis, or coordinates that are
            not evenly spaced.
    """
    if hasattr(like, "sizes"):
        return _of_xarray(cast("xr.Dataset | xr.DataArray", like))
    affine = getattr(like, "affine", None) or getattr(like, "transform", None)
    shape = getattr(like, "shape", None)
    if affine is None or shape is None or callable(affine) or len(shape) != 2:
        raise SpecError(
            f"{type(like).__name__} has no pixel grid: give like= an odc-geo GeoBox, an xarray object or an open "
            "rasterio dataset"
        )
    return _crs(like, getattr(like, "crs", None)), _grid(list(affine)[:6], shape)


def _of_xarray(like: xr.Dataset | xr.DataArray) -> tuple[str, Grid]:
    names = next((pair for pair in _AXES if all(name in like.coords for name in pair)), None)
    if names is None:
        raise SpecError(
            f"like= has the coordinates {sorted(map(str, like.coords))}, but none named x and y "
            "(or longitude and latitude, or lon and lat): rename them, or give a GeoBox"
        )
    (left, width), (top, height) = (_axis(np.asarray(like.coords[name].values, dtype=float), name) for name in names)
    shape = tuple(like.sizes[name] for name in reversed(names))
    return _crs(like, _stated_crs(like)), _grid([width, 0, left, 0, height, top], shape)


def _axis(centres: npt.NDArray[np.float64], name: str) -> tuple[float, float]:
    """Return the outer edge of the first pixel, and the size of a pixel, negative if coordinates decrease."""
    if len(centres) < 2:
        raise WindowError(f"like= has one pixel along {name}, so the size of a pixel is unknown: give a GeoBox")
    step = (centres[-1] - centres[0]) / (len(centres) - 1)
    if not step or np.abs(np.diff(centres) - step).max() > 1e-3 * abs(step):
        raise WindowError(f"coordinates {name} of like= are not evenly spaced: give a GeoBox or a regular grid")
    return float(centres[0] - step / 2), float(step)


def _stated_crs(like: xr.Dataset | xr.DataArray) -> object:
    """Return the CRS that a variable states, as CF (``crs_wkt``, 1.11, 5.6) or GDAL, else the attribute ``crs``."""
    for variable in (*like.coords.values(), *getattr(like, "data_vars", {}).values()):
        for attribute in ("crs_wkt", "spatial_ref"):
            if attribute in variable.attrs:
                return variable.attrs[attribute]
    return like.attrs.get("crs")


def _crs(like: object, crs: object) -> str:
    if crs is None:
        raise SpecError(
            f"the {type(like).__name__} given as like= states no CRS: set one, such as with .odc.assign_crs "
            "or .rio.write_crs"
        )
    # As text, because odc-geo and rasterio have CRS classes that pyproj does not know; their str() is WKT or a code.
    return map_crs(crs if isinstance(crs, str | int) else str(crs))


def _grid(affine: Sequence[float], shape: Sequence[int]) -> Grid:
    a, b, c, d, e, f = (float(value) for value in affine)
    if b or d:
        raise WindowError(
            "the grid of like= is rotated or sheared, but pixels are read onto upright grids only: give an upright one"
        )
    return Grid(width=int(shape[1]), height=int(shape[0]), scale_x=a, scale_y=e, origin_x=c, origin_y=f)
