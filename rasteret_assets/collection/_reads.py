"""The methods of a collection that read pixels, each in the form of one format."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

import numpy.typing as npt
import pyarrow as pa

from rasteret_assets.collection.areas.area import AUTO
from rasteret_assets.collection.formats import window
from rasteret_assets.collection.formats.outlines import draw_outlines
from rasteret_assets.collection.formats.picture import Picture, draw_preview
from rasteret_assets.collection.formats.points import read_points
from rasteret_assets.collection.formats.zonal import summarize_areas
from rasteret_assets.collection.pixels.backends import Source
from rasteret_assets.collection.pixels.on_demand import RecordsById
from rasteret_assets.collection.pixels.read_options import (
    AREA_DEFAULTS,
    POINT_DEFAULTS,
    PointArguments,
    ReadArguments,
    ReadOptions,
    area_arguments,
    filters_of,
    point_arguments,
    takes,
    takes_areas,
)
from rasteret_assets.collection.pixels.record_table import indexed_band
from rasteret_assets.collection.record_query import RecordQuery
from rasteret_assets.collection.request import ReadRequest, polygons_of, request_read
from rasteret_assets.collection.table.rasters import first_scale, leaves_of
from rasteret_assets.collection.table.row_places import rows_of
from rasteret_assets.inputs import (
    AreasLike,
    ChunksLike,
    CRSLike,
    GroupBy,
    MosaicRule,
    Neighbourhood,
    OnError,
    PointMatch,
    PointsLike,
    WindowGroup,
)
from rasteret_assets.storage.backend import StorageBackend
from rasteret_assets.storage.process.processes import off_loop

if TYPE_CHECKING:
    import geopandas as gpd
    import xarray as xr


class Reads(RecordQuery):
    """Records whose pixels can be read."""

    @takes_areas
    def read(
        self, geometries: AreasLike | None, bands: str | Sequence[str], **arguments: Unpack[ReadArguments]
    ) -> ReadRequest:  # fmt: skip
        """Choose the records and pixels under areas of interest; no pixel is read yet.

        The request tells the cost of the read (``plan()``) and carries it out, here or in another process,
        in each form that :class:`ReadRequest` has. It holds the headers of the records that meet the areas.

        Args:
            geometries: polygons or boxes, in any form of :data:`~rasteret_assets.inputs.AreasLike`. None for the
                whole grid of ``like``.
            bands: a band or several.
            **arguments: options of reads, see :class:`ReadArguments`.

        Raises:
            BandNotFoundError: if the collection lacks a band.
            SpecError: if an argument is not understood.
            WindowError: if no record meets an area, the index has no header of the records that do, or bands lie on
                different grids.
        """
        given = area_arguments(arguments)
        return request_read(self.subset(**filters_of(given)), geometries, bands, given)

    @takes_areas
    def get_numpy(
        self, geometries: AreasLike | None, bands: str | Sequence[str], **arguments: Unpack[ReadArguments]
    ) -> npt.NDArray[Any]:  # fmt: skip
        """Read pixels under areas of interest into an array, on the rasters' own grids unless options choose another.

        A window is read for every record and every area that its footprint meets: records by datetime and then id
        (undated ones last), areas in the order given. A window is the smallest block of whole pixels that holds the
        area. Pixels outside a polygon get the band's nodata, or 0 if it has none; a box is read whole. Windows smaller
        than the largest are filled up with nodata at the bottom and to the right.

        Args:
            geometries: polygons or boxes, in any form of :data:`~rasteret_assets.inputs.AreasLike`.
            bands: a band or several.
            **arguments: options of reads, see :class:`ReadArguments`. ``masked`` returns a masked array,
                in which pixels of nodata, outside the areas or outside the raster are masked.

        Returns:
            Array of shape (N, rows, columns) for a band given as text, (N, bands, rows, columns) for a list, in the
            type of the bands if they share one, else in numpy's common type.

        Raises:
            TileError: if a tile is damaged, or compressed in a way that cannot be decoded.
            RangeReadError: if bytes cannot be read.
            PixelReadError: if several of these errors happened; it lists all.
            MissingExtraError: if pixels have to be warped and rasterio is not installed.
            RasteretAssetsError: as :meth:`read`.
        """
        return self.read(geometries, bands, **arguments).to_numpy()

    @takes({"chunks": None, "groupby": None, "mosaic": "first", **AREA_DEFAULTS})
    def get_xarray(
        self,
        geometries: AreasLike | None,
        bands: str | Sequence[str],
        *,
        chunks: ChunksLike | None = None,
        groupby: GroupBy | None = None,
        mosaic: MosaicRule = "first",
        **arguments: Unpack[ReadArguments],
    ) -> xr.Dataset:
        """Read pixels under areas of interest into an xarray Dataset.

        The Dataset has a step of time for each record, by datetime and id, and the extent of all areas together. All
        records must share a CRS and their pixels must coincide; otherwise choose a grid for all with ``target_crs``,
        ``resolution`` or ``like``.

        Args:
            geometries: polygons or boxes, in any form of :data:`~rasteret_assets.inputs.AreasLike`.
            bands: a band or several.
            chunks: None to read now; else pixels are read lazily with dask, in chunks of sizes by dimension, such as
                ``{"time": 1, "y": 2048}``. A dimension without size has the file's tiles, or one record, as chunks
                (``{}``: all dimensions). ``"auto"`` joins tiles to chunks of dask's size.
            groupby: what the records of a step of time share: the ``"solar_day"``, ``"time"``, ``"day"``, ``"month"``
                or ``"year"`` (UTC). The coordinate ``records`` counts them.
            mosaic: how the pixels of a step are combined: the ``"first"`` or ``"last"`` with data by time, or the
                ``"min"``, ``"max"``, ``"mean"`` or ``"median"`` of all with data; the last two are floats with NaN.
            **arguments: options of reads, see :class:`ReadArguments`. ``masked`` makes variables floats
                with NaN for pixels without data. Otherwise they keep their type, and the attribute ``_FillValue`` holds
                nodata.

        Returns:
            Dataset with dimensions (time, y, x), a variable for each band, coordinates of pixel centres, the records'
            ``id`` along time (the first of each step), and the CRS in ``spatial_ref`` by CF's conventions and GDAL's
            (``GeoTransform``).

        Raises:
            WindowError: also if records lie in several CRSs, their pixels do not coincide, or areas lie so far apart
                that a cube around them would be nearly empty.
            MissingExtraError: if xarray is not installed, or dask for ``chunks``.
            RasteretAssetsError: as :meth:`get_numpy`.
        """
        return self.read(geometries, bands, **arguments).to_xarray(chunks=chunks, groupby=groupby, mosaic=mosaic)

    @takes_areas
    def get_gdf(
        self, geometries: AreasLike | None, bands: str | Sequence[str], **arguments: Unpack[ReadArguments]
    ) -> gpd.GeoDataFrame:  # fmt: skip
        """Read pixels under areas of interest into a GeoDataFrame: a row for every record, area and band.

        Args:
            geometries: polygons or boxes, in any form of :data:`~rasteret_assets.inputs.AreasLike`. A table's
                columns are kept.
            bands: a band or several.
            **arguments: options of reads, see :class:`ReadArguments`. ``masked`` returns masked arrays.

        Returns:
            GeoDataFrame with ``record_id, datetime, cloud_cover, collection, geometry_id`` (position of the area, from
            0), ``geometry`` (the area), ``band, data`` (array of rows and columns in the band's own type; lists of rows
            in Parquet), ``raster_transform`` (six numbers, as ``affine.Affine`` takes them), ``raster_crs, nodata``,
            and the columns of the areas' table.

        Raises:
            MissingExtraError: if geopandas is not installed.
            RasteretAssetsError: as :meth:`get_numpy`.
        """
        return self.read(geometries, bands, **arguments).to_geopandas()

    @takes({
        "x_column": None, "y_column": None, "match": "all", "max_distance_pixels": 0, "return_neighbourhood": "off",
        **POINT_DEFAULTS,
    })  # fmt: skip
    def sample_points(
        self,
        points: PointsLike,
        bands: str | Sequence[str],
        *,
        x_column: str | None = None,
        y_column: str | None = None,
        match: PointMatch = "all",
        max_distance_pixels: int = 0,
        return_neighbourhood: Neighbourhood = "off",
        **arguments: Unpack[PointArguments],
    ) -> pa.Table:
        """Read the pixels that hold points into an Arrow table.

        Args:
            points: a table of pyarrow, geopandas, pandas, polars or DuckDB (or any Arrow stream) with a column of point
                geometries or two columns of coordinates; or points as shapely geometries, WKB, WKT or GeoJSON. Other
                columns of a table are kept.
            bands: a band or several; they may lie on different grids.
            x_column: column of x or longitude; by default ``x``, ``lon`` or ``longitude``.
            y_column: column of y or latitude.
            match: ``"all"`` for every record that holds a point, ``"latest"`` for the latest one that has data there in
                the band.
            max_distance_pixels: rows and columns within which the nearest pixel with data replaces a pixel without
                data: of the nearest square ring with data the pixel whose edge is nearest to the point.
            return_neighbourhood: when the column ``neighbourhood_values`` lists all pixels within that distance, row by
                row, null for pixels without data: ``"off"`` (never), ``"always"`` or ``"if_center_nodata"``.
            **arguments: options of reads, see :class:`PointArguments`. ``masked`` makes ``value`` null
                for pixels without data.

        Returns:
            Table with ``point_index`` (position, from 0), ``point_x, point_y, point_crs`` (as given), ``record_id,
            datetime, collection, band, value`` (in the type of the bands if they share one, else numpy's common type),
            ``raster_crs``, and the points' own columns; by point, datetime, record and band.

        Raises:
            WindowError: if no record's footprint, or no raster, holds a point.
            RasteretAssetsError: as :meth:`get_numpy`.
        """
        given = point_arguments(arguments)
        return read_points(
            self.subset(**filters_of(given)), points, bands, given, match=match,
            max_distance_pixels=max_distance_pixels, return_neighbourhood=return_neighbourhood, x_column=x_column,
            y_column=y_column,
        )  # fmt: skip

    @takes({"ops": ("mean", "count"), **POINT_DEFAULTS})
    def zonal(
        self,
        geometries: AreasLike,
        bands: str | Sequence[str],
        ops: str | Sequence[str] = ("mean", "count"),
        **arguments: Unpack[PointArguments],
    ) -> pa.Table:
        """Compute statistics of the pixels under areas with exactextract, which weights a pixel by its covered part.

        Pixels are those of the full images, on the rasters' own grids; bands may lie on different grids. Pixels without
        data do not count. An area, also a box, is what its outline encloses, with edges followed along their course.
        Any number of areas is possible. Up to 64 MB of pixels are read together, and larger windows piece by piece.

        Args:
            geometries: polygons or boxes, in any form of :data:`~rasteret_assets.inputs.AreasLike`. A table's
                columns are kept.
            bands: a band or several.
            ops: operations by exactextract's names: ``mean``, ``sum``, ``count`` (pixels, with their fractions),
                ``min``, ``max``, ``stdev``, ``variance``, ``median``, ``quantile(q=0.25)``, ``mode``, ``variety`` ...;
                ``"name=mean"`` renames the column. Operations whose results are lists, such as ``values``, ``coverage``
                or ``unique`` with ``frac``, make columns of lists.
            **arguments: options of reads, see :class:`PointArguments`. ``mask_and_scale`` computes
                statistics of physical values.

        Returns:
            Table with ``record_id, datetime, collection, geometry_id`` (position of the area, from 0), ``band``, a
            column for each operation, and the columns of the areas' table; a row for each record, area and band whose
            raster the area meets, by datetime, record, area and band. Null if no pixel holds data.

        Raises:
            SpecError: also if exactextract does not know an operation, or the result would have a column twice.
            MissingExtraError: if exactextract is not installed.
            RasteretAssetsError: as :meth:`get_numpy`.
        """
        given = point_arguments(arguments)
        areas, columns = polygons_of(geometries, given)
        return summarize_areas(self.subset(**filters_of(given)), areas, columns, bands, ops, given)

    get_numpy_async = off_loop(get_numpy)
    get_xarray_async = off_loop(get_xarray)
    get_gdf_async = off_loop(get_gdf)
    sample_points_async = off_loop(sample_points)
    zonal_async = off_loop(zonal)

    def read_window(
        self,
        *,
        record_ids: Sequence[str] | pa.Array,
        bounds: Sequence[float],
        res: float | tuple[float, float],
        bands: str | Sequence[str],
        target_crs: CRSLike | None = None,
        max_concurrent: int = 50,
        backend: StorageBackend | None = None,
        group_by: WindowGroup | None = None,
        on_error: OnError = "raise",
    ) -> npt.NDArray[Any]:
        """Read pixels of certain records on a given grid, as ``rasterio.merge.merge`` reads them from the files.

        Integers are brought to the grid by the nearest pixel, floats bilinearly, from the full images. Records in
        another CRS than the result's are warped, if possible from overviews. Of overlapping records the first of
        ``record_ids`` whose pixel holds data wins, whatever its value is.

        Args:
            record_ids: ids of records, in the order of their priority; also as an Arrow array.
            bounds: (xmin, ymin, xmax, ymax) of the grid in units of its CRS.
            res: size of a pixel, or (width, height), in the same units.
            bands: a band or several, the channels of the result.
            target_crs: CRS of the grid: EPSG code, text or CRS object; by default that of the first record.
            max_concurrent: requests in flight at most.
            backend: reads the bytes; by default the collection's own, else one that all reads share.
            group_by: None puts all records on one another; ``"datetime"`` those of one datetime each, by datetime,
                undated ones last; ``"id"`` keeps all apart, in the order of ``record_ids``.
            on_error: ``"raise"``, or ``"mask"``: pixels that cannot be read hold no data, and the failure is logged.

        Returns:
            Array ``[C, H, W]``, or ``[T, C, H, W]`` with ``group_by``, in the type of the bands if they share one, else
            in numpy's common type; H is ``round((ymax - ymin) / height)``, W is ``round((xmax - xmin) / width)``.
            Pixels without data in any record are nodata of the first record that has the band, or 0 if it has none. The
            same holds for a band whose header a record lacks, and with ``group_by="id"`` for the step of a record
            without any header; other groupings leave such records out.

        Raises:
            CollectionError: if ids have no record (the message lists them), or a file of the collection cannot be
                read.
            SpecError: if ``record_ids`` is empty, or an argument is not understood.
            BandNotFoundError: if the collection lacks a band.
            WindowError: if the bounds hold no pixel, the grid is too large, or no record has a header of the bands.
            TileError: if a tile is damaged.
            RangeReadError: if bytes cannot be read.
            PixelReadError: if several of these errors happened; it lists all.
            MissingExtraError: if pixels have to be computed and rasterio is not installed.
        """
        return window.read_window(
            self, self.by_id, record_ids=record_ids, bounds=bounds, res=res, bands=bands, target_crs=target_crs,
            max_concurrent=max_concurrent, backend=backend, group_by=group_by, on_error=on_error,
        )  # fmt: skip

    def preview(
        self,
        what: AreasLike,
        bands: str | Sequence[str] | None = None,
        *,
        size: int = 512,
        geometry_crs: CRSLike = AUTO,
        backend: StorageBackend | None = None,
    ) -> Picture:
        """Draw a record, or an area of the record with the fewest clouds, from overviews in the index.

        Args:
            what: id of a record, or an area as for :meth:`subset`.
            bands: one band (grey) or three; by default red, green and blue by their usual names, else the first.
            size: pixels along the longer side at most.
            geometry_crs: CRS of the area.
            backend: reads the bytes; by default the collection's own, else one that all reads share.

        Returns:
            Picture that notebooks show, with ``png``, ``save(path)`` and ``pixels``. Contrast is stretched from the 2nd
            to the 98th percentile of each band.

        Raises:
            CollectionError: if no record has the id.
            WindowError: if no record meets the area, or files have no overviews and too many pixels to read them all.
        """
        source = Source.of(self, {**AREA_DEFAULTS, "backend": backend})
        return draw_preview(
            self, what, bands, size=size, geometry_crs=geometry_crs, backend=source.open(), options=ReadOptions()
        )

    def footprints(self, *, crs: CRSLike | None = None, band: str | None = None) -> gpd.GeoDataFrame:
        """Return the outlines of the rasters' pixel grids, which are more exact than the records' footprints.

        Args:
            crs: CRS of the outlines: EPSG code, text or CRS object; by default that of each raster.
            band: the band whose raster is outlined; the first by default.

        Returns:
            GeoDataFrame with ``id``, ``datetime`` (UTC) and ``geometry``, a polygon each, for the records that have the
            header of the band, in the order of the table. Its CRS is ``crs``, or that of the rasters if they share one,
            else None.

        Raises:
            BandNotFoundError: if the collection lacks the band, or has none.
            WindowError: if an outline cannot be brought to ``crs``.
            CollectionError: if a header contradicts itself, or a file cannot be read.
            MissingExtraError: if geopandas is not installed.
        """
        return draw_outlines(self, crs, band)

    def native_res(self, band: str | None = None) -> tuple[float, float]:
        """Return (width, height) of a pixel of the first record that has the band, in units of the raster's CRS.

        Args:
            band: the band; the first by default.

        Raises:
            BandNotFoundError: if the collection lacks the band, or has none.
            WindowError: if no record has the header of the band.
            CollectionError: if the header contradicts itself, or a file cannot be read.
        """
        name = indexed_band(self, band)
        rows = rows_of(self.dataset, self.expression, self.areas, leaves_of(self.schema, [name]))
        return first_scale(rows, self.schema, name)

    @functools.cached_property
    def by_id(self) -> RecordsById:
        """The records by id, listed at the first look-up; kept, because a collection does not change."""
        return RecordsById(self)
