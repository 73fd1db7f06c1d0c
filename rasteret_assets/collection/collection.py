"""The published collection as one object: a lazy, immutable question to a record table."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack

import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from shapely.geometry.base import BaseGeometry

from rasteret_assets import schema
from rasteret_assets.collection.areas.area import AUTO, Area, bbox_geometry, coerce_areas
from rasteret_assets.collection.extras import optional
from rasteret_assets.collection.formats import window
from rasteret_assets.collection.formats.export import export_records
from rasteret_assets.collection.formats.gti import write_tile_index
from rasteret_assets.collection.formats.gti_layers import TileIndexLayer
from rasteret_assets.collection.formats.icechunk import IcechunkReport, write_icechunk
from rasteret_assets.collection.formats.outlines import draw_outlines
from rasteret_assets.collection.formats.picture import Picture, draw_preview
from rasteret_assets.collection.formats.points import PointChoice, read_points
from rasteret_assets.collection.formats.zonal import summarize_areas
from rasteret_assets.collection.pixels.backends import Source
from rasteret_assets.collection.pixels.on_demand import RecordsById, list_records
from rasteret_assets.collection.pixels.options import (
    AREA_DEFAULTS,
    POINT_DEFAULTS,
    PointArguments,
    ReadArguments,
    ReadOptions,
    area_arguments,
    filters_of,
    point_arguments,
    read_options,
    takes,
    takes_areas,
)
from rasteret_assets.collection.pixels.select import indexed_band, known_bands
from rasteret_assets.collection.request import ReadRequest, polygons_of, request_read
from rasteret_assets.collection.show import card, plot
from rasteret_assets.collection.table import query, scan, summary
from rasteret_assets.collection.table.dates import parse_date_range
from rasteret_assets.collection.table.rasters import first_scale, leaves_of
from rasteret_assets.collection.table.rows import rows_of
from rasteret_assets.errors import CollectionError, SpecError
from rasteret_assets.partitions import PartitionBy
from rasteret_assets.spec import CloudConfig
from rasteret_assets.storage.backend import StorageBackend
from rasteret_assets.storage.processes import off_loop

if TYPE_CHECKING:
    import geopandas as gpd
    import xarray as xr
    from matplotlib.axes import Axes
    from torch.utils.data import Dataset
    from torchgeo.datasets import GeoDataset


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Collection:
    """Records of a collection, all of them or those that a chain of ``subset`` and ``where`` left.

    Nothing is read until rows, numbers or pixels are asked for. Open one with ``load`` or ``as_collection``.

    Args:
        dataset: the record table, with a ``{band}_metadata`` column for every indexed band.
        name: name it was published under.
        data_source: provider of the records.
        description: one sentence for people.
        path: where it was opened; None in memory.
        backend: reads the bytes of rasters; None for the default one.
        credentials: what opens the files where ``backend`` is not given, as in a spec; None for files that need
            nothing.
        cloud_config: how the provider's objects are reached where neither ``backend`` nor a read says so.
        expression: what records must satisfy; None for all.
        areas: groups of lon/lat geometries; a record must meet one of every group, exactly.
    """

    dataset: ds.Dataset
    name: str = ""
    data_source: str = ""
    description: str = ""
    path: str | None = None
    backend: StorageBackend | None = None
    credentials: str | Mapping[str, str] | None = None
    cloud_config: CloudConfig | None = None
    expression: pc.Expression | None = None
    areas: tuple[tuple[BaseGeometry, ...], ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        """What other processes need, such as workers that read; a dataset in memory goes as its table."""
        state = {field.name: getattr(self, field.name) for field in fields(self)}
        if isinstance(self.dataset, ds.InMemoryDataset):
            state["dataset"] = self.dataset.to_table()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if isinstance(table := state["dataset"], pa.Table):
            state = state | {"dataset": ds.dataset(table)}
        vars(self).update(state)

    # --- questions ---------------------------------------------------------------------------------------------------

    def subset(
        self,
        *,
        bbox: Sequence[float] | None = None,
        date_range: Any = None,
        cloud_cover_lt: float | None = None,
        geometries: Any = None,
        geometry_crs: Any = AUTO,
        geometry_column: str | None = None,
        split: str | Sequence[str] | None = None,
    ) -> Self:
        """The records that satisfy every criterion given, beside those asked before.

        Args:
            bbox: (xmin, ymin, xmax, ymax) in lon/lat that the footprint meets; xmin > xmax crosses the antimeridian.
            date_range: (start, end) of dates, datetimes, ISO 8601 strings or None; an end without a time of day
                includes the whole of it. Records without a datetime match by their start_datetime and end_datetime.
            cloud_cover_lt: upper limit, excluded, of ``eo:cloud_cover`` in percent; records without a value never do.
            geometries: areas of which the footprint meets at least one; see :func:`~.areas.area.coerce_areas` for their forms.
            geometry_crs: CRS of ``geometries``; ``"auto"`` takes what they state, else lon/lat.
            geometry_column: column of ``geometries`` where they are a table.
            split: value, or values, of the column ``split``, such as ``"train"``.

        Raises:
            SpecError: if a criterion is not understood.
            WindowError: if an area is empty, invalid or not on the globe.
            CollectionError: if the collection lacks the column a criterion needs.
        """
        wanted: list[pc.Expression | None] = []
        if date_range is not None:
            keys = query.partition_keys(self.dataset)
            wanted.append(query.acquired_within(self.schema, parse_date_range(date_range), partition_keys=keys))
        if cloud_cover_lt is not None:
            wanted.append(query.cloud_cover_below(self.schema, cloud_cover_lt))
        if split is not None:
            wanted.append(query.in_split(self.schema, [split] if isinstance(split, str) else split))
        found = self._narrowed(query.all_of(wanted))
        if bbox is not None:
            found = found.meeting([Area(geometry=bbox_geometry(bbox), is_box=True)])
        if geometries is not None:
            found = found.meeting(coerce_areas(geometries, geometry_crs, geometry_column))
        return found

    def where(self, expression: pc.Expression) -> Self:
        """The records that satisfy a pyarrow expression, beside what was asked before.

        Raises:
            SpecError: if it is no expression, or no condition on the columns there are.
        """
        if not isinstance(expression, pc.Expression):
            raise SpecError(f"where({expression!r}) needs a pyarrow expression, such as pc.field('gsd') <= 10")
        try:
            self.dataset.scanner(columns=[], filter=expression)
        except (pa.ArrowException, TypeError) as error:
            reason = str(error).partition("\n")[0]
            raise SpecError(f"where({expression}) does not fit this collection: {reason}") from error
        return self._narrowed(expression)

    def meeting(self, areas: Sequence[Area]) -> Self:
        """The records whose footprint meets at least one of ``areas``, exactly.

        Raises:
            WindowError: if an area is not on the globe.
        """
        shapes = tuple(area.lonlat() for area in areas)
        return replace(self._narrowed(query.bbox_meets(shapes)), areas=(*self.areas, shapes))

    def _narrowed(self, expression: pc.Expression | None) -> Self:
        return replace(self, expression=query.all_of([self.expression, expression]))

    @property
    def is_filtered(self) -> bool:
        """Whether anything was asked, so that rows of the dataset may be left out."""
        return self.expression is not None or bool(self.areas)

    # --- rows --------------------------------------------------------------------------------------------------------

    @property
    def schema(self) -> pa.Schema:
        """Schema of the records."""
        return self.dataset.schema

    def to_reader(self, columns: Sequence[str] | None = None) -> pa.RecordBatchReader:
        """The records as a stream of batches, read while it is consumed.

        Args:
            columns: names to read; all by default.

        Raises:
            CollectionError: if a column is not there, or, while reading, a file is damaged.
        """
        names = self._checked(columns)
        metadata = dict(self.schema.metadata or {})
        if schema.GEOMETRY not in names:
            metadata.pop(schema.GEO_KEY, None)
        fields = pa.schema([self.schema.field(name) for name in names], metadata)
        return pa.RecordBatchReader.from_batches(fields, self.batches({name: pc.field(name) for name in names}))

    def to_table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The records in memory; arguments and errors as for :meth:`to_reader`."""
        return self.to_reader(columns).read_all()

    def head(self, n: int = 5, columns: Sequence[str] | None = None) -> pa.Table:
        """The first ``n`` records, and an end to the reading."""
        reader = self.to_reader(columns)
        kept: list[pa.RecordBatch] = []
        for batch in reader if n > 0 else ():
            kept.append(batch.slice(0, n - sum(part.num_rows for part in kept)))
            if sum(part.num_rows for part in kept) >= n:
                break
        return pa.Table.from_batches(kept, reader.schema)

    def batches(self, columns: Mapping[str, pc.Expression]) -> Iterator[pa.RecordBatch]:
        """The records with computed columns, a batch at a time.

        Args:
            columns: an expression per column name; nested fields are ``pc.field("assets", "B02", "href")``.

        Raises:
            CollectionError: if a file is damaged.
        """
        return scan.scan(self.dataset, columns, self.expression, self.areas)

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self.to_reader().__arrow_c_stream__(requested_schema)

    def __len__(self) -> int:
        if not self.areas:
            return scan.count(self.dataset, self.expression)
        return sum(batch.num_rows for batch in self.batches({}))

    def __bool__(self) -> bool:
        # Without this, truth would count the rows, and an opened collection of none would pass for no collection.
        return True

    def _checked(self, columns: Sequence[str] | None) -> list[str]:
        if columns is None:
            return list(self.schema.names)
        for name in [columns] if isinstance(columns, str) else columns:
            if name not in self.schema.names:
                near = difflib.get_close_matches(str(name), self.schema.names, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(self.schema.names)}"
                raise CollectionError(f"this collection has no column {name!r}: {hint}")
        return [columns] if isinstance(columns, str) else list(columns)

    # --- pixels ------------------------------------------------------------------------------------------------------

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
        choice = PointChoice(match=match, distance=max_distance_pixels, neighbourhood=return_neighbourhood)
        given = point_arguments(arguments)
        found = self.subset(**filters_of(given))
        return read_points(found, points, bands, given, choice, x_column=x_column, y_column=y_column)

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

    @takes({"is_image": True, "time_series": False, "transforms": None, **AREA_DEFAULTS})
    def to_torchgeo_dataset(
        self,
        bands: str | Sequence[str],
        *,
        is_image: bool = True,
        time_series: bool = False,
        transforms: Any = None,
        **arguments: Unpack[ReadArguments],
    ) -> GeoDataset:
        """The records as a TorchGeo ``GeoDataset`` for its samplers, ``DataLoader`` workers included.

        Args:
            bands: a band or several, the channels of a sample.
            is_image: whether samples hold a float32 ``image``; else an int64 ``mask``.
            time_series: whether records stay apart, as a first dimension of time; else the first with data wins.
            transforms: called with each sample.
            **arguments: how pixels are read: :class:`ReadArguments`. ``target_crs`` is needed where records lie in
                several; ``resolution`` is the finest record's by default; ``allow_resample`` brings bands on different
                grids to that of the dataset, as ``resolution`` does.

        Raises:
            WindowError: if no record has its headers, or records lie in several CRSs and none is chosen.
            MissingExtraError: if TorchGeo is not installed.
        """
        optional("torchgeo.datasets", purpose="to_torchgeo_dataset")
        from rasteret_assets.collection.formats.torchgeo import CollectionDataset  # noqa: PLC0415  (imports torch)

        given = area_arguments(arguments)
        options = read_options(given)
        records = list_records(self.subset(**filters_of(given)), known_bands(self, bands), options)
        return CollectionDataset(
            records, Source.of(self, given), options, is_image=is_image, time_series=time_series, transforms=transforms
        )

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

    @takes({"chip_size": 256, "stride": None, "transforms": None, "dtype": "float32", **POINT_DEFAULTS})
    def to_torch_dataset(
        self,
        bands: str | Sequence[str],
        *,
        chip_size: int | tuple[int, int] = 256,
        stride: int | tuple[int, int] | None = None,
        dtype: str = "float32",
        transforms: Callable[[dict[str, Any]], Any] | None = None,
        **arguments: Unpack[PointArguments],
    ) -> Dataset[Any]:
        """The rasters of the records, cut into chips, as a ``torch.utils.data.Dataset`` of PyTorch alone.

        Chips lie on the rasters' own pixels, row by row from the first one, records by datetime and id. At the right
        and at the bottom they reach beyond the raster, so that all are of one shape. Headers are read when a chip needs
        them, so that the dataset is small; workers may be forked or spawned.

        Args:
            bands: a band or several, the channels of a chip, on one grid.
            chip_size: pixels of a chip along each side, or (rows, columns).
            stride: pixels from one chip to the next, or (rows, columns); by default the chip's size.
            dtype: numpy's name of the type of ``image``, one that PyTorch has.
            transforms: called with each sample.
            **arguments: how pixels are read: :class:`PointArguments`.

        Returns:
            Dataset of dicts: ``image``, a tensor ``[C, H, W]`` in which pixels without data are the band's nodata, or
            0 without one; ``id``, of the record; ``bounds``, float64 ``[4]``, (xmin, ymin, xmax, ymax) of the chip in
            units of ``crs``; ``crs``, such as ``"EPSG:32632"``. PyTorch's own collate puts them into batches.

        Raises:
            WindowError: if no record has its headers, or bands of one lie on different grids.
            SpecError: if a size is not a positive whole number, or an argument is not understood.
            MissingExtraError: if PyTorch is not installed.
        """
        optional("torch", purpose="to_torch_dataset")
        from rasteret_assets.collection.formats.chips import cut_into_chips  # noqa: PLC0415  (imports torch)

        given = point_arguments(arguments)
        return cut_into_chips(
            self.subset(**filters_of(given)), bands, chip_size=chip_size, stride=stride, dtype=dtype,
            source=Source.of(self, given), options=read_options(given), transforms=transforms,
        )  # fmt: skip

    # --- ways out ----------------------------------------------------------------------------------------------------

    def to_gti(self, path: str | Path, bands: str | Sequence[str] | None = None) -> list[TileIndexLayer]:
        """Write the records as a GDAL tile index, which GDAL, rasterio and QGIS open as a mosaic; no raster is opened.

        A layer for each band and CRS, with the resolution, type, nodata, colour and extent of the mosaic. Where files
        overlap, the last one by datetime and id whose pixel holds data lies on top, undated ones above all. Beside a
        GeoPackage ``scenes.gti.gpkg`` lies a folder ``scenes_layers`` with a file ``<layer>.gti`` for each layer, which
        opens that layer. Addresses are in GDAL's spelling (``/vsicurl/https://...``, ``/vsis3/bucket/key``) and hold
        nothing that grants access: GDAL takes credentials from its own configuration.

        It takes about a kilobyte of memory for each record, a band at a time.

        Args:
            path: file on a disk that ends with ``.gti.gpkg`` (GeoPackage), or with ``.gti.fgb`` (FlatGeobuf, of one
                layer); an index that is there is replaced.
            bands: a band or several; all that have headers by default.

        Returns:
            The layers, by band, in the order of the file.

        Raises:
            SpecError: if ``path`` is no such file, or a FlatGeobuf file would have several layers.
            BandNotFoundError: if the collection lacks a band.
            WindowError: if no record has the header of a band, or a raster has no CRS that is known.
            CollectionError: if a header contradicts itself, an address has no spelling of GDAL's, or a file of the
                collection cannot be read.
            MissingExtraError: if pyogrio is not installed.
        """
        return write_tile_index(self, path, bands)

    def export(
        self,
        path: str | Path,
        partition_by: PartitionBy | Sequence[str] | None = "month",
        *,
        name: str = "",
        overwrite: bool = False,
    ) -> int:
        """Write the records, with their headers, as a collection of its own, which ``load`` and rasteret open.

        It is GeoParquet as published here, a file for each partition. It has no stages beside it: nothing fetches its
        headers again, and whether a file of it went missing later is not noticed. Records stay in the order of this
        collection. Whatever in an address may grant access is taken out, as where a collection is published; those of
        a published collection stay as they are.

        One row group of this collection is in memory at a time, and up to 96 MB of rows that wait for theirs; up to 64
        files are written side by side.

        Args:
            path: folder on a disk, or file that ends with ``.parquet`` where all records go into one. It appears when
                all is written.
            partition_by: size of the partitions: ``"year"``, ``"month"``, ``"day"``, or as rasteret has it
                ``("year", "month")``; None for one file.
            name: of the new collection; by default that of this one, else of the path.
            overwrite: whether to replace what is at ``path``.

        Returns:
            Number of records.

        Raises:
            SpecError: if an argument is not understood, ``path`` exists, or a collection is built there.
            CollectionError: if no record is left, or a file of this collection cannot be read or was replaced
                meanwhile.
        """
        return export_records(self, path, partition_by, name=name, overwrite=overwrite)

    def to_icechunk(
        self,
        store: Any,
        bands: str | Sequence[str] | None = None,
        *,
        area: Any = None,
        geometry_crs: Any = AUTO,
        groups: str = "grid",
    ) -> IcechunkReport:
        """Write the records as a virtual Zarr store in Icechunk, whose chunks are the tiles of the rasters themselves.

        No raster is opened, and no pixel copied: references come from the tile tables of the index. Records share a
        group if their rasters lie on one grid and are stored in one way. A group holds the subgroup ``full`` and one
        for each overview (``overview_1`` ...), and each an array (time, y, x) for every band, named by it, with ``id``,
        ``time`` and the CRS; or, of files that hold several samples of a pixel side by side, one array ``image`` (time,
        band, y, x). Records stand by datetime and id, undated ones last; those of one datetime all stay. What a later
        call appends stands behind what was there.

        A later call on the same repository appends the records that are not there, and writes those anew whose files
        were replaced since. It is one commit, so that readers see all of it or nothing. Icechunk refuses to read files
        that were replaced: by their ETag on S3, elsewhere by the time at which they were modified.

        Addresses are written as the collection publishes them, without anything that grants access; readers name what
        they may read, and bring credentials, with ``authorize_virtual_chunk_access``. Icechunk holds what a commit
        writes in memory, some 600 bytes for each reference: write many millions of them in several calls.

        Args:
            store: a folder, ``s3://bucket/prefix`` or ``gs://bucket/prefix``, or a ``Storage`` or ``Repository`` of
                Icechunk's; the repository is made if it does not exist. Containers that it has are kept, so that
                buckets of a certain region or endpoint get theirs before.
            bands: a band or several; all by default. Records that lack the header of one are left out.
            area: geometries that the footprint of a record must meet one of, as for :meth:`subset`; None for all.
            geometry_crs: CRS of ``area``.
            groups: ``"grid"``, or a column of text, such as ``"grid:code"``, by which records are kept apart too and
                with which the names of groups begin, in place of the code of the CRS.

        Returns:
            Names of the groups, counts, and the prefixes that readers have to authorize.

        Raises:
            MissingExtraError: if Icechunk 2 is not installed, which needs Python 3.12.
            SpecError: if ``store`` is no place for a repository, or a band cannot be the name of an array.
            BandNotFoundError: if the collection lacks a band.
            WindowError: if no record has the headers of all bands, or one has no CRS.
            TileError: if tiles have no codec in Zarr (JPEG, WebP, LERC), or a mask says which pixels hold data.
            CollectionError: if Icechunk cannot read an address, the repository was changed meanwhile, a header
                contradicts itself, or a file of the collection cannot be read.
        """
        found = self if area is None else self.subset(geometries=area, geometry_crs=geometry_crs)
        return write_icechunk(found, store, bands, groups=groups)

    # --- pictures ----------------------------------------------------------------------------------------------------

    def plot(self, ax: Axes | None = None, *, limit: int = plot.MOST_DRAWN) -> Axes:
        """Draw the footprints on a map of longitudes and latitudes, coloured by date.

        Args:
            ax: matplotlib axes to draw into; by default a figure of its own, ``.figure`` of what is returned.
            limit: footprints to draw at most.

        Raises:
            WindowError: if there is no footprint.
        """
        return plot.draw_footprints(self, ax, limit)

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

    # --- what it holds -----------------------------------------------------------------------------------------------

    @property
    def bands(self) -> list[str]:
        """Names of the indexed bands, in the order of their columns."""
        return [field.name.removesuffix(schema.METADATA_SUFFIX) for field in self.schema if schema.is_band_field(field)]

    @functools.cached_property
    def summary(self) -> summary.Summary:
        """Counts and extents, from one pass over the small columns; kept, since the object does not change."""
        return summary.summarize(self.to_reader(summary.columns(self.schema)))

    @property
    def bounds(self) -> query.Bounds | None:
        """(xmin, ymin, xmax, ymax) of all footprints in lon/lat; None when empty, xmin > xmax over the antimeridian."""
        return self.summary.bounds

    @property
    def crs(self) -> list[str]:
        """Distinct CRSs of the rasters, such as ``["EPSG:32632"]``, sorted; WKT for those without a code.

        Records state them; only where none does are the headers asked.
        """
        if self.summary.crs:
            return list(self.summary.crs)
        stated: set[str] = set()
        for band in self.bands:
            column = schema.band_column(band)
            fields = {field.name for field in self.schema.field(column).type} & {"epsg", "crs"}
            for batch in self.batches({name: pc.field(column, name) for name in sorted(fields)}):
                stated |= summary.distinct_crs(batch, "epsg", "crs")
        return sorted(stated)

    @functools.cached_property
    def by_id(self) -> RecordsById:
        """The records by their ids, listed when the first one is looked for; kept, since the object does not change."""
        return RecordsById(self)

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

    @property
    def date_range(self) -> tuple[datetime, datetime] | None:
        """First and last acquisition, UTC; None where no record is dated."""
        return self.summary.dates

    def __str__(self) -> str:
        return card.line(self.name, self.bands, self.summary)

    def __repr__(self) -> str:
        # Debuggers and logs ask for it: nothing is read, unless the summary is known already.
        if "summary" in vars(self):
            return str(self)
        return card.short(self.name, self.bands, is_filtered=self.is_filtered)

    def _repr_html_(self) -> str:
        # Footers count headers of the whole; of a part, only reading all of its tile tables would tell.
        counts = None if self.is_filtered else summary.header_counts(self.dataset, self.bands)
        shares = {band: None if counts is None else counts[band] for band in self.bands}
        picture, subtitle = card.footprints(self), self.description or self.data_source
        return card.html(self.name, subtitle, shares, self.crs, self.summary, picture)
