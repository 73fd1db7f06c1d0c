"""The published collection as one object: a lazy, immutable question to a record table."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from shapely.geometry.base import BaseGeometry

from rasteret_assets import schema
from rasteret_assets.collection import outputs
from rasteret_assets.collection.areas.area import AUTO, Area, bbox_geometry, coerce_areas
from rasteret_assets.collection.extras import optional
from rasteret_assets.collection.formats import picture as preview
from rasteret_assets.collection.formats import window
from rasteret_assets.collection.formats.outlines import draw_outlines
from rasteret_assets.collection.formats.picture import Picture
from rasteret_assets.collection.pixels.on_demand import RecordsById
from rasteret_assets.collection.pixels.options import read_options
from rasteret_assets.collection.pixels.selection import choose_source, filtered, indexed_band
from rasteret_assets.collection.show import card, plot
from rasteret_assets.collection.table import query, scan, summary
from rasteret_assets.collection.table.dates import parse_date_range
from rasteret_assets.collection.table.rasters import first_scale, leaves_of
from rasteret_assets.collection.table.rows import rows_of
from rasteret_assets.errors import CollectionError, SpecError
from rasteret_assets.spec import CloudConfig
from rasteret_assets.storage.aio import off_loop
from rasteret_assets.storage.backend import StorageBackend

if TYPE_CHECKING:
    import geopandas as gpd
    from matplotlib.axes import Axes
    from torch.utils.data import Dataset


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
        expression: what records must satisfy; None for all.
        areas: groups of lon/lat geometries; a record must meet one of every group, exactly.
    """

    dataset: ds.Dataset
    name: str = ""
    data_source: str = ""
    description: str = ""
    path: str | None = None
    backend: StorageBackend | None = None
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
            geometries: areas of which the footprint meets at least one; see :func:`aoi.coerce_areas` for their forms.
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

    get_numpy = outputs.get_numpy
    get_xarray = outputs.get_xarray
    get_gdf = outputs.get_gdf
    sample_points = outputs.sample_points
    to_torchgeo_dataset = outputs.to_torchgeo_dataset
    get_numpy_async = off_loop(outputs.get_numpy)
    get_xarray_async = off_loop(outputs.get_xarray)
    get_gdf_async = off_loop(outputs.get_gdf)
    sample_points_async = off_loop(outputs.sample_points)

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
            CollectionError: if there is no record of an id, naming those, or a file of the collection cannot be read.
            SpecError: if ``record_ids`` is empty, or an argument is not understood.
            BandNotFoundError: if the collection lacks a band.
            WindowError: if the bounds hold no pixel, the grid is too large, or no record has a header of the bands.
            TileError: if a tile is damaged.
            RangeReadError: if bytes cannot be read.
            PixelReadError: if several of these happened; it lists them all.
            MissingExtraError: if pixels are to be computed and rasterio is not installed.
        """
        return window.read_window(
            self, record_ids=record_ids, bounds=bounds, res=res, bands=bands, target_crs=target_crs,
            max_concurrent=max_concurrent, backend=backend, group_by=group_by, on_error=on_error,
        )  # fmt: skip

    def to_torch_dataset(
        self,
        bands: str | Sequence[str],
        *,
        chip_size: int | tuple[int, int] = 256,
        stride: int | tuple[int, int] | None = None,
        dtype: str = "float32",
        max_concurrent: int = outputs.MAX_CONCURRENT,
        backend: StorageBackend | None = None,
        cloud_config: CloudConfig | None = None,
        data_source: str | None = None,
        transforms: Callable[[dict[str, Any]], Any] | None = None,
        on_error: str = "raise",
        **filters: Any,
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
            max_concurrent: requests in flight at most, in each worker.
            backend: reads the bytes; by default one that all reads of a process share.
            cloud_config: how the provider's objects are reached, where ``backend`` is not given.
            data_source: takes the configuration registered under this name instead of the collection's own.
            transforms: called with each sample.
            on_error: ``"raise"``, or ``"mask"``: what cannot be read counts as having no data, and is logged.
            **filters: as for :meth:`Collection.subset`.

        Returns:
            Dataset of dicts: ``image``, a tensor ``[C, H, W]`` in which pixels without data are the band's nodata, or
            0 without one; ``id``, of the record; ``bounds``, float64 ``[4]``, (xmin, ymin, xmax, ymax) of the chip in
            units of ``crs``; ``crs``, such as ``"EPSG:32632"``. PyTorch's own collate puts them into batches.

        Raises:
            WindowError: if no record has its headers, or bands of one lie on different grids.
            SpecError: if a size is no number of pixels.
            MissingExtraError: if PyTorch is not installed.
        """
        optional("torch", purpose="to_torch_dataset")
        from rasteret_assets.collection.formats.chips import cut_into_chips  # noqa: PLC0415  (imports torch)

        return cut_into_chips(
            filtered(self, filters), bands, chip_size=chip_size, stride=stride, dtype=dtype,
            source=choose_source(self, backend, cloud_config, data_source),
            options=read_options(max_concurrent=max_concurrent, on_error=on_error), transforms=transforms,
        )  # fmt: skip

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
        options = read_options(max_concurrent=outputs.MAX_CONCURRENT)
        source = choose_source(self, backend, None, None)
        return preview.draw_preview(
            self, what, bands, size=size, geometry_crs=geometry_crs, backend=source.open(), options=options
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

    def __repr__(self) -> str:
        return card.line(self.name, self.bands, self.summary)

    def _repr_html_(self) -> str:
        # Footers count headers of the whole; of a part, only reading all of its tile tables would tell.
        counts = None if self.is_filtered else summary.header_counts(self.dataset, self.bands)
        shares = {band: None if counts is None else counts[band] for band in self.bands}
        picture = plot.footprints_png(self) if self.summary.bounds is not None else None
        return card.html(self.name, self.description or self.data_source, shares, self.crs, self.summary, picture)
