"""Repositories in a folder, read back with xarray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import xarray as xr

from rasteret_assets.collection import Collection
from tests.collection.support import ORIGIN, UTM32

icechunk: Any = pytest.importorskip("icechunk", minversion="2")
icechunk.set_logs_filter("error")

#: For modules whose stores use codecs that are not part of the Zarr specification.
CODECS = pytest.mark.filterwarnings("ignore:Imagecodecs codecs are not:UserWarning", "ignore:Numcodecs codecs are not")


def access(prefix: str) -> Any:
    """Return the access of Icechunk to a container of files on a disk or a web server."""
    credentials = icechunk.credentials
    return credentials.LocalFileSystemAccess if prefix.startswith("file://") else credentials.HttpAccess


def store_of(folder: Path, prefixes: tuple[str, ...]) -> Any:
    """Open the repository in a folder as a Zarr store."""
    repository = icechunk.Repository.open(
        icechunk.local_filesystem_storage(str(folder)),
        authorize_virtual_chunk_access={prefix: access(prefix) for prefix in prefixes},
    )
    return repository.readonly_session("main").store


def opened(folder: Path, report: Any, group: str | None = None, level: str = "full", **options: Any) -> xr.Dataset:
    """Open one level of a group, by default of the only one; values are as stored unless ``mask_and_scale``."""
    if group is None:
        (group,) = report.groups
    store = store_of(folder, report.containers)
    return xr.open_zarr(
        store, group=f"{group}/{level}", consolidated=False, chunks=None, **{"mask_and_scale": False, **options}
    )


def whole(scenes: Collection, bands: Any, *, rows: int = 200, columns: int = 230, **options: Any) -> xr.Dataset:
    """What the collection itself reads of rasters of :func:`~tests.collection.support.write_raster`."""
    west, north = ORIGIN
    area = shapely.box(west + 1, north - 10 * rows + 1, west + 10 * columns - 1, north - 1)
    return scenes.get_xarray(area, bands, geometry_crs=UTM32, **options)


def assert_same(found: xr.Dataset, expected: xr.Dataset, bands: list[str]) -> None:
    """Assert that pixels, types, coordinates, ids and CRS of two cubes are equal."""
    for name in ("x", "y", "time"):
        np.testing.assert_array_equal(found[name].values, expected[name].values)
    assert found.id.values.tolist() == expected.id.values.tolist()
    assert found.spatial_ref.attrs["crs_wkt"] == expected.spatial_ref.attrs["crs_wkt"]
    assert found.spatial_ref.attrs["GeoTransform"] == expected.spatial_ref.attrs["GeoTransform"]
    for band in bands:
        assert found[band].dtype == expected[band].dtype, band
        np.testing.assert_array_equal(found[band].values, expected[band].values, err_msg=band)
