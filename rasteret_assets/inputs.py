"""Types of what people pass in: areas, points, CRSs, dates, tables, filters and file systems, in the forms understood.

Objects of other libraries are described by what they offer, such as ``__arrow_c_stream__``, so that none of these
libraries has to be installed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyproj
from shapely.geometry.base import BaseGeometry

if TYPE_CHECKING:
    import pyarrow.compute as pc
    import pyarrow.dataset as ds
    import pyarrow.fs as pafs
    import xarray as xr
    from fsspec import AbstractFileSystem
    from odc.geo.geobox import GeoBox
    from rasterio.io import DatasetReader


@runtime_checkable
class ArrowStream(Protocol):
    """A table that exports an Arrow stream: of pyarrow, pandas, geopandas, polars, DuckDB and others."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return a capsule with the stream."""
        ...


@runtime_checkable
class ArrowArray(Protocol):
    """An array or a batch that exports itself to Arrow: of pyarrow, polars, geoarrow and others."""

    def __arrow_c_array__(self, requested_schema: object | None = None) -> object:
        """Return a pair of capsules: schema and array."""
        ...


@runtime_checkable
class GeoInterface(Protocol):
    """A geometry, or several, that say what they are as GeoJSON does."""

    @property
    def __geo_interface__(self) -> Mapping[str, Any]:
        """Return a GeoJSON mapping."""
        ...


class WktCRS(Protocol):
    """A CRS object of another library, such as rasterio or odc-geo."""

    def to_wkt(self) -> str:
        """Return the CRS as WKT."""
        ...


CRSLike: TypeAlias = str | int | Mapping[str, Any] | pyproj.CRS | WktCRS
"""A CRS: text such as ``"EPSG:32632"`` or WKT, an EPSG code, PROJJSON, or a CRS object."""

GeometryLike: TypeAlias = BaseGeometry | bytes | bytearray | memoryview | str | Mapping[str, Any] | GeoInterface
"""A geometry: of shapely, as WKB, WKT or GeoJSON, or an object with ``__geo_interface__``."""

AreasLike: TypeAlias = (
    GeometryLike | Sequence[float] | ArrowStream | ArrowArray | Iterable[GeometryLike | Sequence[float]]
)
"""Areas: a bbox (xmin, ymin, xmax, ymax), a geometry, an Arrow array of WKB, a table of geometries, or a list."""

PointsLike: TypeAlias = GeometryLike | ArrowStream | ArrowArray | Iterable[GeometryLike]
"""Points: a table with geometries or coordinates, an Arrow array of WKB, a geometry, or a list of geometries."""

DateLike: TypeAlias = str | date | np.datetime64 | None
"""An end of a range: ISO 8601 text, a date, a datetime (pandas' too) or numpy's; None where it is open."""

DateRangeLike: TypeAlias = DateLike | slice | Sequence[DateLike] | npt.NDArray[np.datetime64]
"""A range of dates: (start, end), a slice, or text such as ``"2024-05"`` and ``"2024-05/2024-06"``."""

ArrowLike: TypeAlias = "ArrowStream | ArrowArray | ds.Dataset"
"""A table as an Arrow object: a pyarrow Dataset, Table or reader, or an object of another library that exports one."""

RecordTableLike: TypeAlias = "str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | ArrowLike"
"""A record table: a path, address or glob, several of them, or an Arrow object."""

FilterLike: TypeAlias = "pc.Expression | Sequence[tuple[str, str, Any]] | Sequence[Sequence[tuple[str, str, Any]]]"
"""Rows of a record table: a pyarrow expression, or tuples such as ``[("gsd", "<=", 10)]``, as pyarrow's filters are."""

FilesystemLike: TypeAlias = "pafs.FileSystem | AbstractFileSystem"
"""A file system of pyarrow or fsspec."""

RasterLike: TypeAlias = "GeoBox | xr.Dataset | xr.DataArray | DatasetReader"
"""An object on a pixel grid: an odc-geo ``GeoBox``, an xarray object with a CRS, or an open rasterio dataset."""

ChunksLike: TypeAlias = int | str | Sequence[int | str | Sequence[int]] | Mapping[str, int | str | Sequence[int]]
"""Sizes of chunks, as dask takes them."""

OnError: TypeAlias = Literal["raise", "mask"]
Missing: TypeAlias = Literal["mask", "drop", "raise"]
Resampling: TypeAlias = Literal[
    "nearest", "bilinear", "cubic", "cubic_spline", "lanczos", "average", "mode", "max", "min", "med", "q1", "q3",
    "sum", "rms",
]  # fmt: skip
"""A resampling method of GDAL, by its name."""

GroupBy: TypeAlias = Literal["id", "time", "solar_day", "day", "month", "year"]
MosaicRule: TypeAlias = Literal["first", "last", "min", "max", "mean", "median"]
PointMatch: TypeAlias = Literal["all", "latest"]
Neighbourhood: TypeAlias = Literal["off", "always", "if_center_nodata"]
WindowGroup: TypeAlias = Literal["datetime", "id"]
