"""A read as a value: what is read of which record, decided once. It can be planned, sent elsewhere, and carried out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rasteret_assets.collection.areas.area import Area, coerce_areas
from rasteret_assets.collection.areas.grid import Grid
from rasteret_assets.collection.areas.placing import placed_on
from rasteret_assets.collection.areas.tables import as_arrow_table, geometry_name, other_columns
from rasteret_assets.collection.formats.geopandas import read_frame
from rasteret_assets.collection.formats.mosaic import Mosaic
from rasteret_assets.collection.formats.numpy import read_stack
from rasteret_assets.collection.formats.xarray import read_cube
from rasteret_assets.collection.pixels.backends import Source
from rasteret_assets.collection.pixels.options import ReadOptions, read_options
from rasteret_assets.collection.pixels.own_crs import keep_reached, place
from rasteret_assets.collection.pixels.plan import plan_read
from rasteret_assets.collection.pixels.planes import Plane, described_reads
from rasteret_assets.collection.pixels.select import RecordTable, known_bands, near_batches, select_records
from rasteret_assets.collection.pixels.views import View, check_memory, choose_views
from rasteret_assets.errors import SpecError, WindowError

if TYPE_CHECKING:
    import geopandas as gpd
    import xarray as xr


#: Stands for the pixels of planes that are only planned.
_NO_PIXELS: Final[npt.NDArray[Any]] = np.zeros((0, 0))


@dataclass(frozen=True, kw_only=True)
class ReadPlan:
    """What a read costs, known from the index before anything is read.

    Args:
        records: that are read.
        windows: one for each record and area.
        tiles: that are decoded.
        requests: that are made, at least: what fails for the moment is asked for again.
        bytes: that these bring.
        pixels: of the result, those of all bands.
    """

    records: int
    windows: int
    tiles: int
    requests: int
    bytes: int
    pixels: int

    def __str__(self) -> str:
        return (
            f"{self.windows} windows of {self.records} records: {self.tiles} tiles in {self.requests} requests, "
            f"{self.bytes / 1e6:.1f} MB for {self.pixels / 1e6:.1f} million pixels"
        )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ReadRequest:
    """Pixels of areas, as ``collection.read`` has chosen them: which records, with their headers, on which grids.

    It reads no further row of the index, and it can be pickled: a worker carries it out with connections of its own.

    Args:
        views: what is read of each record and area, by datetime and id of the records.
        areas: the areas of interest.
        bands: names of the bands.
        is_one_band: whether one band was asked for by its name alone, so that arrays have no dimension of bands.
        source: where the bytes come from.
        options: how they are read.
        columns: other columns of the table of areas; None without.
    """

    views: Sequence[View]
    areas: Sequence[Area]
    bands: Sequence[str]
    is_one_band: bool
    source: Source
    options: ReadOptions
    columns: pa.Table | None = None

    def plan(self) -> ReadPlan:
        """What the read costs."""
        tiles = requests = size = 0
        for read in described_reads(self._planes(), self.bands, self.options):
            plan = plan_read(read)
            tiles += sum(len(run.tiles) for run in plan.runs)
            requests += len(plan.runs)
            size += sum(run.length for run in plan.runs)
        return ReadPlan(
            records=self._records,
            windows=len(self.views),
            tiles=tiles,
            requests=requests,
            bytes=size,
            pixels=len(self.bands) * sum(view.grid.width * view.grid.height for view in self.views),
        )

    def to_numpy(self) -> npt.NDArray[Any]:
        """The pixels as an array; see :meth:`Collection.get_numpy`."""
        check_memory(self.views)
        stack = read_stack(self.views, self.bands, self.source.open(), self.options)
        return stack[:, 0] if self.is_one_band else stack

    def to_xarray(self, *, chunks: Any = None, groupby: str | None = None, mosaic: str = "first") -> xr.Dataset:
        """The pixels as a Dataset; see :meth:`Collection.get_xarray`."""
        return read_cube(
            self.views, self.bands, self.source, self.options, chunks, Mosaic.of(groupby, mosaic)
        )  # fmt: skip

    def to_geopandas(self) -> gpd.GeoDataFrame:
        """The pixels as a GeoDataFrame; see :meth:`Collection.get_gdf`."""
        check_memory(self.views)
        return read_frame(self.views, self.areas, self.bands, self.source.open(), self.options, self.columns)

    def _planes(self) -> list[Plane]:
        # A plane that fills pixels without data reads masks too.
        fill = 0 if self.options.masked or self.options.scaled else None
        return [
            Plane(view=view, band=band, pixels=_NO_PIXELS, fill=fill)
            for view in self.views
            for band in range(len(self.bands))
        ]

    @property
    def _records(self) -> int:
        return len({id(view.record) for view in self.views})

    def __repr__(self) -> str:
        return f"ReadRequest({len(self.areas)} areas, {self._records} records, bands {', '.join(self.bands)})"


def request_read(
    table: RecordTable, geometries: Any, bands: str | Sequence[str], arguments: Mapping[str, Any]
) -> ReadRequest:
    """Decide what a read reads; nothing but rows of the index is read here.

    Args:
        table: the records that may be read.
        geometries: areas, or None where ``like`` gives the grid of the result.
        bands: a band or several.
        arguments: all of :class:`ReadArguments`.

    Raises:
        RasteretAssetsError: as :meth:`Collection.get_numpy`.
    """
    options = read_options(arguments)
    columns = None
    if geometries is None:
        if options.grid is None or options.target_crs is None:
            raise SpecError("there is no area: give geometries, or like= for the whole grid of another raster")
        areas = [Area.of_bounds(options.grid.bounds, options.target_crs)]
    else:
        areas, columns = polygons_of(geometries, arguments)
    source = Source.of(table, arguments)
    names = known_bands(table, bands)
    return ReadRequest(
        views=_views(table, areas, names, options),
        areas=areas,
        bands=names,
        is_one_band=isinstance(bands, str),
        source=source,
        options=options,
        columns=columns,
    )


def polygons_of(geometries: Any, arguments: Mapping[str, Any]) -> tuple[list[Area], pa.Table | None]:
    """Return the areas, and the other columns of their table, if they come in one.

    Args:
        geometries: in any form.
        arguments: ``geometry_crs`` and ``geometry_column`` of the read.

    Raises:
        WindowError: if one has no area.
    """
    column = arguments["geometry_column"]
    table = as_arrow_table(geometries)
    areas = coerce_areas(geometries if table is None else table, arguments["geometry_crs"], column)
    for area in areas:
        if area.geometry.geom_type not in {"Polygon", "MultiPolygon"}:
            raise WindowError(
                f"a {area.geometry.geom_type} has no area to read: buffer it, give a polygon or box, or sample_points"
            )
    name = None if table is None else geometry_name(table, column)
    return areas, None if table is None or name is None else other_columns(table, [name])


def _views(table: RecordTable, areas: Sequence[Area], bands: Sequence[str], options: ReadOptions) -> list[View]:
    """What is read of which record."""
    shapes, unplaced = place(areas)
    records = select_records(
        near_batches(table, bands, shapes, scaled=options.scaled), bands, shapes, missing=options.missing
    )
    if unplaced:
        records = keep_reached(
            records, lambda one: areas[one].crs, unplaced, lambda one, crs, grid: _reaches(areas[one], crs, grid)
        )
    return choose_views(records, areas, bands, options)


def _reaches(area: Area, crs: str, grid: Grid) -> bool:
    """Whether an area meets a raster."""
    shape = placed_on(area, crs, grid)
    return shape is not None and grid.window(shape.bounds) is not None
