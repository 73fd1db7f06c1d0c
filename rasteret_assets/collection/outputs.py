"""Reading pixels of a collection, one function for each form of result.

They are methods of :class:`~rasteret_assets.collection.collection.Collection`, which is where they are documented for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import pyarrow as pa

from rasteret_assets.collection.areas.area import AUTO, coerce_areas
from rasteret_assets.collection.areas.point_input import coerce_points
from rasteret_assets.collection.areas.tables import as_arrow_table, geometry_name, other_columns
from rasteret_assets.collection.extras import optional
from rasteret_assets.collection.formats.geopandas import read_frame
from rasteret_assets.collection.formats.numpy import read_stack
from rasteret_assets.collection.formats.points import any_inside, sample
from rasteret_assets.collection.formats.xarray import read_cube
from rasteret_assets.collection.pixels.on_demand import list_records
from rasteret_assets.collection.pixels.options import read_options
from rasteret_assets.collection.pixels.own_crs import WORLD, has_lonlat, keep_reached
from rasteret_assets.collection.pixels.select import select_records
from rasteret_assets.collection.pixels.selection import (
    choose_source,
    filtered,
    known_bands,
    near_batches,
    select_views,
)
from rasteret_assets.errors import SpecError, WindowError
from rasteret_assets.spec import CloudConfig
from rasteret_assets.storage.backend import StorageBackend

if TYPE_CHECKING:
    import geopandas as gpd
    import xarray as xr
    from torchgeo.datasets import GeoDataset

    from rasteret_assets.collection.collection import Collection

#: Requests in flight at most, unless a read says otherwise.
MAX_CONCURRENT = 128


def get_numpy(  # noqa: D417  (self is the collection)
    self: Collection,
    geometries: Any,
    bands: str | Sequence[str],
    *,
    max_concurrent: int = MAX_CONCURRENT,
    backend: StorageBackend | None = None,
    cloud_config: CloudConfig | None = None,
    data_source: str | None = None,
    target_crs: Any = None,
    resolution: float | tuple[float, float] | None = None,
    resampling: str = "nearest",
    overviews: bool = True,
    allow_resample: bool = False,
    geometry_crs: Any = AUTO,
    geometry_column: str | None = None,
    all_touched: bool = False,
    masked: bool = False,
    on_error: str = "raise",
    missing: str = "mask",
    **filters: Any,
) -> npt.NDArray[Any]:
    """Pixels under areas of interest, on the rasters' own grids unless another one is asked for.

    One window is read for every record whose footprint meets an area, and every such area: record by record, by
    datetime and then id (undated records last), areas in the order given. It is the smallest window of whole
    pixels that holds the area. Pixels outside a polygon are set to the band's nodata, or 0 without one; a box is
    read whole. Windows differ in shape; smaller ones are filled up with nodata at the bottom and to the right.

    Args:
        geometries: polygons or boxes; see :func:`aoi.coerce_areas` for their forms.
        bands: a band or several.
        max_concurrent: requests in flight at most.
        backend: reads the bytes; by default the collection's own, else one that all reads share.
        cloud_config: how the provider's objects are reached, where ``backend`` is not given.
        data_source: takes the configuration registered under this name instead of the collection's own.
        target_crs: CRS of the result: EPSG code, text or CRS object. Pixels are warped as GDAL does.
        resolution: size of a pixel, or (width, height), in units of the result's CRS. Overviews of the index that
            are fine enough are read instead of the full image. Pixels line up with those of the first record in
            that CRS; where none is in it, with multiples of the resolution.
        resampling: GDAL's name of the method for both: nearest, bilinear, cubic, average, mode ...
        overviews: whether overviews may be read; never for methods such as ``sum``, ``min`` or ``mode``, whose result
            is that of the full image.
        allow_resample: brings bands on different grids to the finest of them.
        geometry_crs: CRS of ``geometries``; ``"auto"`` takes what they state, else lon/lat.
        geometry_column: column of ``geometries`` where they are a table.
        all_touched: whether a polygon covers all pixels it touches; else those whose centre it holds.
        masked: returns a masked array: what is nodata, outside of areas or not there is masked.
        on_error: ``"raise"``, or ``"mask"``: what cannot be read becomes nodata (and masked), and is logged.
        missing: what becomes of records whose index lacks the header of a band: ``"mask"`` (they have no data in that
            band), ``"drop"`` (they are left out) or ``"raise"``.
        **filters: as for :meth:`Collection.subset`.

    Returns:
        Array of shape (N, rows, columns) for a band given as text, (N, bands, rows, columns) for a list, in the bands'
        own type where it is one, else in numpy's common type.

    Raises:
        BandNotFoundError: if the collection lacks a band.
        WindowError: if no record meets an area, no record that does has its headers, or bands lie on different
            grids.
        TileError: if a tile is damaged, or compressed in a way that is not read.
        RangeReadError: if bytes cannot be read.
        PixelReadError: if several of these happened; it lists them all.
        MissingExtraError: if pixels are to be warped and rasterio is not installed.
    """
    options = read_options(
        max_concurrent=max_concurrent, target_crs=target_crs, resolution=resolution, resampling=resampling,
        overviews=overviews, allow_resample=allow_resample, all_touched=all_touched, masked=masked, on_error=on_error,
        missing=missing,
    )  # fmt: skip
    areas = coerce_areas(geometries, geometry_crs, geometry_column)
    source = choose_source(self, backend, cloud_config, data_source)
    names = known_bands(self, bands)
    stack = read_stack(select_views(self, areas, names, options, filters), names, source.open(), options)
    return stack[:, 0] if isinstance(bands, str) else stack


def get_xarray(  # noqa: D417  (self is the collection)
    self: Collection,
    geometries: Any,
    bands: str | Sequence[str],
    *,
    max_concurrent: int = MAX_CONCURRENT,
    backend: StorageBackend | None = None,
    cloud_config: CloudConfig | None = None,
    data_source: str | None = None,
    target_crs: Any = None,
    resolution: float | tuple[float, float] | None = None,
    resampling: str = "nearest",
    overviews: bool = True,
    allow_resample: bool = False,
    geometry_crs: Any = AUTO,
    geometry_column: str | None = None,
    all_touched: bool = False,
    masked: bool = False,
    on_error: str = "raise",
    missing: str = "mask",
    chunks: Any = None,
    **filters: Any,
) -> xr.Dataset:
    """Pixels under areas of interest as an xarray Dataset.

    One step of time for each record, by datetime and id, over the extent of all areas together. All records must share
    a CRS and their pixels must coincide; where they do not, ``target_crs`` or ``resolution`` choose a grid for all.

    Args:
        geometries: polygons or boxes; see :func:`aoi.coerce_areas` for their forms.
        bands: a band or several.
        max_concurrent: requests in flight at most.
        backend: reads the bytes; by default the collection's own, else one that all reads share.
        cloud_config: how the provider's objects are reached, where ``backend`` is not given.
        data_source: takes the configuration registered under this name instead of the collection's own.
        target_crs: CRS of the result; see :meth:`Collection.get_numpy`, also for the next three.
        resolution: size of a pixel in units of that CRS.
        resampling: GDAL's name of the method.
        overviews: whether overviews may be read.
        allow_resample: brings bands on different grids to the finest of them.
        geometry_crs: CRS of ``geometries``; ``"auto"`` takes what they state, else lon/lat.
        geometry_column: column of ``geometries`` where they are a table.
        all_touched: whether a polygon covers all pixels it touches; else those whose centre it holds.
        masked: makes variables floats with NaN where there is no data; else they keep their type, and nodata is in the
            attribute ``_FillValue``.
        on_error: ``"raise"``, or ``"mask"``: what cannot be read becomes nodata, and is logged.
        missing: what becomes of records whose index lacks the header of a band: ``"mask"`` (they have no data in that
            band), ``"drop"`` (they are left out) or ``"raise"``.
        chunks: reads lazily with dask: ``"auto"``, or sizes by dimension, such as ``{"time": 1, "y": 2048}``.
        **filters: as for :meth:`Collection.subset`.

    Returns:
        Dataset with dimensions (time, y, x), a variable for each band, coordinates of pixel centres, the records'
        ``id`` along time, and the CRS in ``spatial_ref`` by CF's conventions and GDAL's (``GeoTransform``).

    Raises:
        WindowError: also if records lie in several CRSs, or their pixels do not coincide.
        MissingExtraError: if xarray is not installed, or dask for ``chunks``.
        RasteretAssetsError: as :meth:`Collection.get_numpy`.
    """
    options = read_options(
        max_concurrent=max_concurrent, target_crs=target_crs, resolution=resolution, resampling=resampling,
        overviews=overviews, allow_resample=allow_resample, all_touched=all_touched, masked=masked, on_error=on_error,
        missing=missing,
    )  # fmt: skip
    areas = coerce_areas(geometries, geometry_crs, geometry_column)
    source = choose_source(self, backend, cloud_config, data_source)
    names = known_bands(self, bands)
    views = select_views(self, areas, names, options, filters, is_lazy=chunks is not None)
    return read_cube(views, names, source, options, chunks)


def get_gdf(  # noqa: D417  (self is the collection)
    self: Collection,
    geometries: Any,
    bands: str | Sequence[str],
    *,
    max_concurrent: int = MAX_CONCURRENT,
    backend: StorageBackend | None = None,
    cloud_config: CloudConfig | None = None,
    data_source: str | None = None,
    target_crs: Any = None,
    resolution: float | tuple[float, float] | None = None,
    resampling: str = "nearest",
    overviews: bool = True,
    allow_resample: bool = False,
    geometry_crs: Any = AUTO,
    geometry_column: str | None = None,
    all_touched: bool = False,
    masked: bool = False,
    on_error: str = "raise",
    missing: str = "mask",
    **filters: Any,
) -> gpd.GeoDataFrame:
    """Pixels under areas of interest as a GeoDataFrame: a row for every record, area and band.

    Args:
        geometries: polygons or boxes; see :func:`aoi.coerce_areas` for their forms. A table's columns are kept.
        bands: a band or several.
        max_concurrent: requests in flight at most.
        backend: reads the bytes; by default the collection's own, else one that all reads share.
        cloud_config: how the provider's objects are reached, where ``backend`` is not given.
        data_source: takes the configuration registered under this name instead of the collection's own.
        target_crs: CRS of the pixels; see :meth:`Collection.get_numpy`, also for the next three.
        resolution: size of a pixel in units of that CRS.
        resampling: GDAL's name of the method.
        overviews: whether overviews may be read.
        allow_resample: brings bands on different grids to the finest of them.
        geometry_crs: CRS of ``geometries``; ``"auto"`` takes what they state, else lon/lat.
        geometry_column: column of ``geometries`` where they are a table.
        all_touched: whether a polygon covers all pixels it touches; else those whose centre it holds.
        masked: returns masked arrays.
        on_error: ``"raise"``, or ``"mask"``: what cannot be read becomes nodata, and is logged.
        missing: what becomes of records whose index lacks the header of a band: ``"mask"`` (they have no data in that
            band), ``"drop"`` (they are left out) or ``"raise"``.
        **filters: as for :meth:`Collection.subset`.

    Returns:
        GeoDataFrame with ``record_id, datetime, cloud_cover, collection, geometry_id`` (position of the area, from 0),
        ``geometry`` (the area), ``band, data`` (array of rows and columns in the band's own type), ``transform`` (six
        numbers, as ``affine.Affine`` takes them), ``crs, nodata``, and the columns of the areas' table.

    Raises:
        MissingExtraError: if geopandas is not installed.
        RasteretAssetsError: as :meth:`Collection.get_numpy`.
    """
    options = read_options(
        max_concurrent=max_concurrent, target_crs=target_crs, resolution=resolution, resampling=resampling,
        overviews=overviews, allow_resample=allow_resample, all_touched=all_touched, masked=masked, on_error=on_error,
        missing=missing,
    )  # fmt: skip
    table = as_arrow_table(geometries)
    given = geometries if table is None else table
    areas = coerce_areas(given, geometry_crs, geometry_column)
    column = None if table is None else geometry_name(table, geometry_column)
    extra = None if table is None or column is None else other_columns(table, [column])
    source = choose_source(self, backend, cloud_config, data_source)
    names = known_bands(self, bands)
    views = select_views(self, areas, names, options, filters)
    return read_frame(views, areas, names, source.open(), options, extra)


def sample_points(  # noqa: D417  (self is the collection)
    self: Collection,
    points: Any,
    bands: str | Sequence[str],
    *,
    geometry_column: str | None = None,
    x_column: str | None = None,
    y_column: str | None = None,
    max_concurrent: int = MAX_CONCURRENT,
    backend: StorageBackend | None = None,
    cloud_config: CloudConfig | None = None,
    data_source: str | None = None,
    geometry_crs: Any = AUTO,
    match: str = "all",
    masked: bool = False,
    on_error: str = "raise",
    missing: str = "mask",
    **filters: Any,
) -> pa.Table:
    """Values of the pixels that hold points, as an Arrow table.

    Args:
        points: a table of pyarrow, geopandas, pandas, polars or DuckDB (or any Arrow stream) with a column of point
            geometries or two of coordinates; or points as shapely geometries, WKB, WKT, GeoJSON. Other columns of a
            table are kept.
        bands: a band or several; they may lie on different grids.
        geometry_column: column of point geometries; by default the one that says so, or is called so.
        x_column: column of x or longitude; by default ``x``, ``lon`` or ``longitude``.
        y_column: column of y or latitude.
        max_concurrent: requests in flight at most.
        backend: reads the bytes; by default the collection's own, else one that all reads share.
        cloud_config: how the provider's objects are reached, where ``backend`` is not given.
        data_source: takes the configuration registered under this name instead of the collection's own.
        geometry_crs: CRS of the coordinates; ``"auto"`` takes what they state, else lon/lat.
        match: ``"all"`` records that hold a point, or only the ``"latest"`` with that band.
        masked: makes ``value`` null where it is nodata.
        on_error: ``"raise"``, or ``"mask"``: what cannot be read becomes nodata (null where ``masked``), and is logged.
        missing: what becomes of records whose index lacks the header of a band: ``"mask"`` (they have no data in that
            band), ``"drop"`` (they are left out) or ``"raise"``.
        **filters: as for :meth:`Collection.subset`.

    Returns:
        Table with ``point_index`` (position, from 0), ``point_x, point_y, point_crs`` (as given), ``record_id,
        datetime, collection, band, value`` (in the bands' own type where it is one, else in numpy's common type) and
        ``raster_crs``, then the points' own columns; by point, datetime, record and band.

    Raises:
        WindowError: if no record's footprint, or no raster, holds a point.
        RasteretAssetsError: as :meth:`Collection.get_numpy`.
    """
    options = read_options(max_concurrent=max_concurrent, masked=masked, on_error=on_error, missing=missing)
    if match not in {"all", "latest"}:
        raise SpecError(f"match={match!r} is neither 'all' nor 'latest'")
    given = coerce_points(
        points, geometry_column=geometry_column, x_column=x_column, y_column=y_column, geometry_crs=geometry_crs
    )
    source = choose_source(self, backend, cloud_config, data_source)
    names = known_bands(self, bands)
    placed = has_lonlat(given.crs)
    shapes = list(given.lonlat()) if placed else [WORLD]
    rows = near_batches(self, names, shapes, filters)
    records = select_records(rows, names, shapes, missing=options.missing, what="points")
    if not placed:
        reason = WindowError(f"no raster holds a point in {given.crs[:40]}, which has no place in the Earth's lon/lat")
        records = keep_reached(
            records, lambda _: given.crs, {0: reason}, lambda _, crs, grid: any_inside(given, crs, grid)
        )
        records = [replace(record, areas=range(len(given.x))) for record in records]
    return sample(records, given, names, source.open(), options, match)


def to_torchgeo_dataset(  # noqa: D417  (self is the collection)
    self: Collection,
    bands: str | Sequence[str],
    *,
    max_concurrent: int = MAX_CONCURRENT,
    backend: StorageBackend | None = None,
    cloud_config: CloudConfig | None = None,
    data_source: str | None = None,
    target_crs: Any = None,
    resolution: float | tuple[float, float] | None = None,
    resampling: str = "nearest",
    overviews: bool = True,
    allow_resample: bool = False,
    is_image: bool = True,
    time_series: bool = False,
    transforms: Any = None,
    on_error: str = "raise",
    **filters: Any,
) -> GeoDataset:
    """The records as a TorchGeo ``GeoDataset`` for its samplers, ``DataLoader`` workers included.

    Args:
        bands: a band or several, the channels of a sample.
        max_concurrent: requests in flight at most, in each worker.
        backend: reads the bytes; by default one that all reads of a process share.
        cloud_config: how the provider's objects are reached, where ``backend`` is not given.
        data_source: takes the configuration registered under this name instead of the collection's own.
        target_crs: CRS of the dataset; needed where records lie in several.
        resolution: size of a pixel in units of that CRS; the finest record's by default.
        resampling: GDAL's name of the method.
        overviews: whether overviews may be read.
        allow_resample: brings bands on different grids to that of the dataset; ``resolution`` does too.
        is_image: whether samples hold a float32 ``image``; else an int64 ``mask``.
        time_series: whether records stay apart, as a first dimension of time; else the first with data wins.
        transforms: called with each sample.
        on_error: ``"raise"``, or ``"mask"``: what cannot be read counts as having no data, and is logged.
        **filters: as for :meth:`Collection.subset`.

    Raises:
        WindowError: if no record has its headers, or records lie in several CRSs and none is chosen.
        MissingExtraError: if TorchGeo is not installed.
    """
    options = read_options(
        max_concurrent=max_concurrent, target_crs=target_crs, resolution=resolution, resampling=resampling,
        overviews=overviews, allow_resample=allow_resample, on_error=on_error,
    )  # fmt: skip
    optional("torchgeo.datasets", purpose="to_torchgeo_dataset")
    from rasteret_assets.collection.formats.torchgeo import CollectionDataset  # noqa: PLC0415  (imports torch)

    names = known_bands(self, bands)
    records = list_records(filtered(self, filters), names, options)
    source = choose_source(self, backend, cloud_config, data_source)
    return CollectionDataset(
        records, source, options, is_image=is_image, time_series=time_series, transforms=transforms
    )
