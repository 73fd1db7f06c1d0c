"""Packages that only some ways of reading need: imported when asked for, and named with their extra where missing."""

from __future__ import annotations

import importlib
from typing import Any, Final

from rasteret_assets.errors import MissingExtraError

#: Extra of this package that installs each.
_EXTRAS: Final = {
    "rasterio": "warp",
    "rasterio.vrt": "warp",
    "rasterio.warp": "warp",
    "xarray": "xarray",
    "dask.array": "xarray",
    "geopandas": "geopandas",
    "pyogrio": "gti",
    "exactextract": "zonal",
    "torch": "torchgeo",
    "torchgeo.datasets": "torchgeo",
    "icechunk": "icechunk",
    "zarr": "icechunk",
    "virtual_tiff": "icechunk",
    "rio_tiler": "tiles",
}


def optional(module: str, *, purpose: str) -> Any:
    """An optional module.

    Args:
        module: its name.
        purpose: what needs it, for the message: ``"get_xarray"``.

    Raises:
        MissingExtraError: if it is not installed, with the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{purpose} needs {module.partition('.')[0]}: pip install 'rasteret-assets[{_EXTRAS[module]}]'"
        ) from error
