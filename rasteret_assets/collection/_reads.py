"""The reads of a collection: methods that bring pixels, each in the form of one format."""

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
from rasteret_assets.storage.backend import StorageBackend
from rasteret_assets.storage.processes import off_loop

if TYPE_CHECKING:
    import geopandas as gpd
    import xarray as xr


class Reads(RecordQuery):
    """Records whose pixels can be read."""

    @takes_areas
    def read(
        self, geometries: Any, bands: str | Sequence[str], **arguments: Unpack[ReadArguments]
    ) -> ReadRequest:  # fmt: skip
        """Decide what is read of which record under areas of interest, and read no pixel yet.

        The result says what the read costs (``plan()``) and carries it out, here or in another process
        (``to_numpy()``, ``to_xarray()``, ``to_geopandas()``). It holds the headers of the records that meet the areas.

        Args:
            geometries: polygons or boxes; see :func:`coerce_areas` for their forms. None with ``like`` for its whole
                grid.
            bands: a band or several.
            **arguments: how pixels are read: :class:`ReadArguments`, whose fields say what each means.

        Raises:
            BandNotFoundError: if the collection lacks a band.
            SpecError: if an argument is not understood.
            WindowError: if no record meets an area, no record that does has its headers, or bands lie on different
                grids.
        """
        given = area_arguments(arguments)
        return request_read(self.subset(**filters_of(given)), geometries, bands, given)

    @takes_areas
    def get_numpy(
        self, geometries: Any, bands: str | Sequence[str], **arguments: Unpack[ReadArguments]
    ) -> npt.NDArray[Any]:  # fmt: skip
        """Pixels under areas of interest, on the rasters' own grids unless another one is asked for.

        One window is read for every record whose footprint meets an area, and every such area: record by record, by
        datetime and then id (undated records last), areas in the order given. It is the smallest window of whole
        pixels that holds the area. Pixels outside a polygon are set to the band's nodata, or 0 without one; a box is
        read whole. Windows differ in shape; smaller ones are filled up with nodata at the bottom and to the right.

        Args:
            geometries: polygons or boxes; see :func:`coerce_areas` for their forms.
            bands: a band or several.
            **arguments: how pixels are read: :class:`ReadArguments`. ``masked`` returns a masked array: what is
                nodata, outside of areas or not there is masked.

        Returns:
            Array of shape (N, rows, columns) for a band given as text, (N, bands, rows, columns) for a list, in the
            bands' own type where it is one, else in numpy's common type.

        Raises:
            TileError: if a tile is damaged, or compressed in a way that is not read.
            RangeReadError: if bytes cannot be read.
            PixelReadError: if several of these happened; it lists them all.
            MissingExtraError: if pixels are to be warped and rasterio is not installed.
            RasteretAssetsError: as :meth:`read`.
        """
        return self.read(geometries, bands, **arguments).to_numpy()

    @takes({"chunks": None, "groupby": None, "mosaic": "first", **AREA_DEFAULTS})
    def get_xarray(
        self,
        geometries: Any,
        bands: str | Sequence[str],
        *,
        chunks: Any = None,
        groupby: str | None = None,
        mosaic: str = "first",
        **arguments: Unpack[ReadArguments],
    ) -> xr.Dataset:
        """Pixels under areas of interest as an xarray Dataset.

        One step of time for each record, by datetime and id, over the extent of all areas together. All records must
        share a CRS and their pixels must coincide; where they do not, ``target_crs``, ``resolution`` or ``like`` choose
        a grid for all.

        Args:
            geometries: polygons or boxes; see :func:`coerce_areas` for their forms.
            bands: a band or several.
            chunks: reads lazily with dask: sizes by dimension, such as ``{"time": 1, "y": 2048}``. Where one is not
                given (``{}``: none), chunks are the file's tiles, one record deep. ``"auto"`` joins tiles to chunks of
                dask's size.
            groupby: records that share a step of time: those of one ``"solar_day"``, ``"time"``, ``"day"``, ``"month"``
                or ``"year"`` (UTC). The coordinate ``records`` says how many.
            mosaic: what becomes of their pixels: the ``"first"`` or ``"last"`` with data by time, or the ``"min"``,
                ``"max"``, ``"mean"`` or ``"median"`` of all with data; the last two are floats with NaN.
            **arguments: how pixels are read: :class:`ReadArguments`. ``masked`` makes variables floats with NaN where
                there is no data. Otherwise they keep their type, and the attribute ``_FillValue`` holds nodata.

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
        self, geometries: Any, bands: str | Sequence[str], **arguments: Unpack[ReadArguments]
    ) -> gpd.GeoDataFrame:  # fmt: skip
        """Pixels under areas of interest as a GeoDataFrame: a row for every record, area and band.

        Args:
            geometries: polygons or boxes; see :func:`coerce_areas` for their forms. A table's columns are kept.
            bands: a band or several.
            **arguments: how pixels are read: :class:`ReadArguments`. ``masked`` returns masked arrays.

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
        points: Any,
        bands: str | Sequence[str],
        *,
        x_column: str | None = None,
        y_column: str | None = None,
        match: str = "all",
        max_distance_pixels: int = 0,
        return_neighbourhood: str = "off",
        **arguments: Unpack[PointArguments],
    ) -> pa.Table:
        """Values of the pixels that hold points, as an Arrow table.

        Args:
            points: a table of pyarrow, geopandas, pandas, polars or DuckDB (or any Arrow stream) with a column of point
                geometries or two of coordinates; or points as shapely geometries, WKB, WKT, GeoJSON. Other columns of a
                table are kept.
            bands: a band or several; they may lie on different grids.
            x_column: column of x or longitude; by default ``x``, ``lon`` or ``longitude``.
            y_column: column of y or latitude.
            match: ``"all"`` records that hold a point, or only the ``"latest"`` that has data there in that band.
            max_distance_pixels: where the pixel that holds a point has no data, the nearest pixel that does, so many
                rows and columns away at most, stands for it: of the nearest square ring with data the pixel whose edge
                is nearest to the point.
            return_neighbourhood: adds ``neighbourhood_values``, all pixels within that distance, row by row, null where
                one has no data: ``"always"``, or only ``"if_center_nodata"``.
            **arguments: how pixels are read: :class:`PointArguments`. ``masked`` makes ``value`` null where there is no
                data.

        Returns:
            Table with ``point_index`` (position, from 0), ``point_x, point_y, point_crs`` (as given), ``record_id,
            datetime, collection, band, value`` (in the bands' own type where it is one, else in numpy's common type),
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
        geometries: Any,
        bands: str | Sequence[str],
        ops: str | Sequence[str] = ("mean", "count"),
        **arguments: Unpack[PointArguments],
    ) -> pa.Table:
        """Statistics of the pixels under areas, by exactextract: a pixel counts by the part of it that an area covers.

        Pixels are those of the rasters' own grids, of the full image; bands may lie on different grids. Those that hold
        no data do not count. An area is what its outline encloses, a box too, with its edges followed along their
        course; areas may be of any number. Up to 64 MB of pixels are read together, and larger windows piece by piece.

        Args:
            geometries: polygons or boxes; see :func:`coerce_areas` for their forms. A table's columns are kept.
            bands: a band or several.
            ops: operations by exactextract's names: ``mean``, ``sum``, ``count`` (pixels, with their fractions),
                ``min``, ``max``, ``stdev``, ``variance``, ``median``, ``quantile(q=0.25)``, ``mode``, ``variety`` ...;
                ``"name=mean"`` calls the column otherwise. Those that are lists, such as ``values``, ``coverage`` or
                ``unique`` with ``frac``, make columns of lists.
            **arguments: how pixels are read: :class:`PointArguments`. ``mask_and_scale`` makes statistics of physical
                values.

        Returns:
            Table with ``record_id, datetime, collection, geometry_id`` (position of the area, from 0), ``band``, a
            column for each operation, and the columns of the areas' table; a row for each record, area and band whose
            raster the area reaches, by datetime, record, area and band. Null where no pixel holds data.

        Raises:
            SpecError: also if exactextract does not know an operation, or a column would be there twice.
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
        target_crs: Any = None,
        max_concurrent: int = 50,
        backend: StorageBackend | None = None,
        group_by: str | None = None,
        on_error: str = "raise",
    ) -> npt.NDArray[Any]:
        """Pixels of certain records on a given grid, as ``rasterio.merge.merge`` has them of their files.

        Integers are brought to the grid by the nearest pixel, floats bilinearly, from the full images. Records in
        another CRS than the result's are warped, and overviews may serve there. Where records overlap, the first one
        of ``record_ids`` whose pixel holds data wins, whatever the value of the pixel is.

        Args:
            record_ids: ids of records, in the order of their priority; an Arrow array does too.
            bounds: (xmin, ymin, xmax, ymax) of the grid in units of its CRS.
            res: size of a pixel, or (width, height), in the same units.
            bands: a band or several, the channels of the result.
            target_crs: CRS of the grid: EPSG code, text or CRS object; by default that of the first record.
            max_concurrent: requests in flight at most.
            backend: reads the bytes; by default the collection's own, else one that all reads share.
            group_by: None puts all records on one another; ``"datetime"`` those of one datetime each, by datetime,
                undated ones last; ``"id"`` keeps all apart, in the order of ``record_ids``.
            on_error: ``"raise"``, or ``"mask"``: what cannot be read counts as having no data, and is logged.

        Returns:
            Array ``[C, H, W]``, or ``[T, C, H, W]`` with ``group_by``, in the bands' own type where it is one, else in
            numpy's common type; H is ``round((ymax - ymin) / height)``, W likewise. Pixels that no record has data for
            are nodata of the first record that has the band, or 0 without one. So is a band whose header a record
            lacks, and with ``group_by="id"`` the step of a record that has no header of any; other groupings leave
            such records out.

        Raises:
            CollectionError: if an id has no record, naming all such ids, or a file of the collection cannot be read.
            SpecError: if ``record_ids`` is empty, or an argument is not understood.
            BandNotFoundError: if the collection lacks a band.
            WindowError: if the bounds hold no pixel, the grid is too large, or no record has a header of the bands.
            TileError: if a tile is damaged.
            RangeReadError: if bytes cannot be read.
            PixelReadError: if several of these happened; it lists them all.
            MissingExtraError: if pixels are to be computed and rasterio is not installed.
        """
        return window.read_window(
            self, self.by_id, record_ids=record_ids, bounds=bounds, res=res, bands=bands, target_crs=target_crs,
            max_concurrent=max_concurrent, backend=backend, group_by=group_by, on_error=on_error,
        )  # fmt: skip

    def preview(
        self,
        what: Any,
        bands: str | Sequence[str] | None = None,
        *,
        size: int = 512,
        geometry_crs: Any = AUTO,
        backend: StorageBackend | None = None,
    ) -> Picture:
        """A picture of a record, or of an area in the record with the fewest clouds, from overviews in the index.

        Args:
            what: id of a record, or an area as for :meth:`subset`.
            bands: one band (grey) or three; by default red, green and blue where bands are called so, else the first.
            size: pixels along the longer side at most.
            geometry_crs: CRS of the area.
            backend: reads the bytes; by default the collection's own, else one that all reads share.

        Returns:
            Something that notebooks show, with ``png``, ``save(path)`` and ``pixels``. Contrast is stretched from the
            2nd to the 98th percentile of each band.

        Raises:
            CollectionError: if there is no such record.
            WindowError: if no record meets the area, or without overviews too much would have to be read.
        """
        source = Source.of(self, {**AREA_DEFAULTS, "backend": backend})
        return draw_preview(
            self, what, bands, size=size, geometry_crs=geometry_crs, backend=source.open(), options=ReadOptions()
        )

    def footprints(self, *, crs: Any = None, band: str | None = None) -> gpd.GeoDataFrame:
        """Outlines of the rasters' pixel grids, which say better than the records' own footprints where pixels are.

        Args:
            crs: CRS of the outlines: EPSG code, text or CRS object; by default each is in its raster's own.
            band: the band whose raster is outlined; the first by default.

        Returns:
            GeoDataFrame with ``id``, ``datetime`` (UTC) and ``geometry``, a polygon each, for the records that have the
            header of the band, in the order of the table. Its CRS is ``crs``, or that of the rasters where all share
            one, else None.

        Raises:
            BandNotFoundError: if the collection lacks the band, or has none.
            WindowError: if an outline has no place in ``crs``.
            CollectionError: if a header contradicts itself, or a file cannot be read.
            MissingExtraError: if geopandas is not installed.
        """
        return draw_outlines(self, crs, band)

    def native_res(self, band: str | None = None) -> tuple[float, float]:
        """Size of a pixel, (width, height), in units of the raster's CRS: of the first record that has the band.

        Args:
            band: the band; the first by default.

        Raises:
            BandNotFoundError: if the collection lacks the band, or has none.
            WindowError: if no record has its header.
            CollectionError: if that header contradicts itself, or a file cannot be read.
        """
        name = indexed_band(self, band)
        rows = rows_of(self.dataset, self.expression, self.areas, leaves_of(self.schema, [name]))
        return first_scale(rows, self.schema, name)

    @functools.cached_property
    def by_id(self) -> RecordsById:
        """The records by their ids, listed when the first one is looked for; kept, since the object does not change."""
        return RecordsById(self)
