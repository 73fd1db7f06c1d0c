"""Reads as values: a request is chosen from areas and options, and carried out by the method of a format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import pyarrow as pa

from rasteret_assets.collection.areas.area import Area, coerce_areas
from rasteret_assets.collection.areas.geometry_tables import as_arrow_table, geometry_name, other_columns
from rasteret_assets.collection.areas.grid import Grid
from rasteret_assets.collection.areas.placing import placed_on
from rasteret_assets.collection.formats.geopandas import read_frame
from rasteret_assets.collection.formats.mosaic import Mosaic
from rasteret_assets.collection.formats.numpy import read_stack
from rasteret_assets.collection.formats.xarray import read_cube
from rasteret_assets.collection.pixels.backends import Source
from rasteret_assets.collection.pixels.own_crs import keep_reached, place
from rasteret_assets.collection.pixels.pixel_request import PixelRequest
from rasteret_assets.collection.pixels.read_options import ReadOptions, read_options
from rasteret_assets.collection.pixels.record_table import RecordTable, checked_bands
from rasteret_assets.collection.pixels.select import near_batches, select_records
from rasteret_assets.collection.pixels.views import View, choose_views
from rasteret_assets.errors import SpecError, WindowError
from rasteret_assets.inputs import AreasLike, ChunksLike, GroupBy, MosaicRule

if TYPE_CHECKING:
    import geopandas as gpd
    import xarray as xr


class ReadRequest(PixelRequest):
    """Pixels of areas, as ``collection.read`` chose them, with a method for each form of the result.

    Only the methods read pixels. A request can be sent to another process, and be carried out there.
    """

    def to_numpy(self) -> npt.NDArray[Any]:
        """Return the pixels as an array; see :meth:`Collection.get_numpy`."""
        stack = read_stack(self)
        return stack[:, 0] if self.is_one_band else stack

    def to_xarray(
        self, *, chunks: ChunksLike | None = None, groupby: GroupBy | None = None, mosaic: MosaicRule = "first"
    ) -> xr.Dataset:
        """Return the pixels as a Dataset; see :meth:`Collection.get_xarray`."""
        return read_cube(self, chunks, Mosaic.of(groupby, mosaic))

    def to_geopandas(self) -> gpd.GeoDataFrame:
        """Return the pixels as a GeoDataFrame; see :meth:`Collection.get_gdf`."""
        return read_frame(self)


def request_read(
    table: RecordTable, geometries: AreasLike | None, bands: str | Sequence[str], arguments: Mapping[str, Any]
) -> ReadRequest:
    """Choose the records and pixels of a read; only rows of the index are read here.

    Args:
        table: the records that may be read.
        geometries: areas, or None if ``like`` gives the grid of the result.
        bands: a band or several.
        arguments: all of :class:`ReadArguments`.

    Raises:
        RasteretAssetsError: as :meth:`Collection.get_numpy`.
    """
    options = read_options(arguments)
    columns = None
    if geometries is None:
        if options.grid is None or options.target_crs is None:
            raise SpecError("geometries is None: give areas, or like= for the whole grid of another raster")
        areas = [Area.of_bounds(options.grid.bounds, options.target_crs)]
    else:
        areas, columns = polygons_of(geometries, arguments)
    source = Source.of(table, arguments)
    names = checked_bands(table, bands)
    return ReadRequest(
        views=_views(table, areas, names, options),
        areas=areas,
        bands=names,
        is_one_band=isinstance(bands, str),
        source=source,
        options=options,
        columns=columns,
    )


def polygons_of(geometries: AreasLike, arguments: Mapping[str, Any]) -> tuple[list[Area], pa.Table | None]:
    """Return the areas, and the other columns of their table, or None if they are not a table.

    Args:
        geometries: areas in any form.
        arguments: ``geometry_crs`` and ``geometry_column`` of the read.

    Raises:
        WindowError: if a geometry is not a polygon.
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
    """Return the views of all records that meet an area."""
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
    """Return whether an area meets a raster."""
    shape = placed_on(area, crs, grid)
    return shape is not None and grid.window(shape.bounds) is not None
