"""Reading pixels of a collection, one function for each form of result.

They are methods of :class:`~rasteret_assets.collection.collection.Collection`, which is where they are documented for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import pyarrow as pa

from rasteret_assets import schema
from rasteret_assets.collection import query
from rasteret_assets.collection.aoi import AUTO, Area, coerce_areas
from rasteret_assets.collection.backends import shared_backend
from rasteret_assets.collection.options import ReadOptions, read_options
from rasteret_assets.collection.records import projection, select_records
from rasteret_assets.collection.stack import read_stack
from rasteret_assets.collection.views import View, choose_views
from rasteret_assets.errors import BandNotFoundError, CollectionError, SpecError, WindowError
from rasteret_assets.spec import CloudConfig
from rasteret_assets.storage.backend import StorageBackend

if TYPE_CHECKING:
    from rasteret_assets.collection.collection import Collection

#: Requests in flight at most, unless a read says otherwise.
MAX_CONCURRENT = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """What a read comes down to.

    Args:
        bands: names of the bands.
        areas: areas of interest, in the order given.
        views: what is read of which record.
        backend: brings the bytes.
        options: how it is read.
    """

    bands: Sequence[str]
    areas: Sequence[Area]
    views: Sequence[View]
    backend: StorageBackend
    options: ReadOptions


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
    allow_resample: bool = False,
    geometry_crs: Any = AUTO,
    geometry_column: str | None = None,
    all_touched: bool = False,
    masked: bool = False,
    on_error: str = "raise",
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
        allow_resample: brings bands on different grids to the finest of them.
        geometry_crs: CRS of ``geometries``; ``"auto"`` takes what they state, else lon/lat.
        geometry_column: column of ``geometries`` where they are a table.
        all_touched: whether a polygon covers all pixels it touches; else those whose centre it holds.
        masked: returns a masked array: what is nodata, outside of areas or not there is masked.
        on_error: ``"raise"``, or ``"mask"``: what cannot be read becomes nodata (and masked), and is logged.
        **filters: as for :meth:`Collection.subset`.

    Returns:
        Array of shape (N, rows, columns) for one band, (N, bands, rows, columns) for several, in the bands' own
        type where it is one, else in numpy's common type.

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
        allow_resample=allow_resample, all_touched=all_touched, masked=masked, on_error=on_error,
    )  # fmt: skip
    areas = coerce_areas(geometries, geometry_crs, geometry_column)
    reader = choose_backend(self, backend, cloud_config, data_source)
    chosen = select_views(self, areas, bands, options, reader, filters)
    stack = read_stack(chosen.views, chosen.bands, reader, options)
    return stack[:, 0] if len(chosen.bands) == 1 else stack


def choose_backend(
    collection: Collection, backend: StorageBackend | None, config: CloudConfig | None, data_source: str | None
) -> StorageBackend:
    """The backend of a read: the one given, else the collection's own, else one that all reads share."""
    if backend is not None:
        return backend
    if config is None and data_source is None and collection.backend is not None:
        return collection.backend
    return shared_backend(collection.data_source if data_source is None else data_source, config)


def select_views(
    collection: Collection,
    areas: Sequence[Area],
    bands: str | Sequence[str],
    options: ReadOptions,
    backend: StorageBackend,
    filters: Mapping[str, Any],
) -> Selection:
    """What is read of which record."""
    names = known_bands(collection, bands)
    for area in areas:
        if area.geometry.geom_type not in {"Polygon", "MultiPolygon"}:
            raise WindowError(
                f"a {area.geometry.geom_type} has no area to read: buffer it, give a polygon or box, or sample_points"
            )
    shapes = [area.lonlat() for area in areas]
    records = select_records(near_batches(collection, names, shapes, filters), names, shapes)
    views = choose_views(records, areas, names, options)
    return Selection(bands=names, areas=areas, views=views, backend=backend, options=options)


def near_batches(
    collection: Collection, bands: Sequence[str], shapes: Sequence[Any], filters: Mapping[str, Any]
) -> Iterator[pa.RecordBatch]:
    """Rows whose bbox meets a shape, with the columns that reads need."""
    try:
        near = collection.subset(**filters)
    except TypeError as error:
        raise SpecError(f"{error}: reads take the filters of subset() beside their own arguments") from error
    # By bbox only: which shape meets which footprint exactly is found out once, where records are selected.
    return near.where(query.bbox_meets(shapes)).batches(projection(collection.schema, bands))


def known_bands(collection: Collection, bands: str | Sequence[str]) -> list[str]:
    """The bands asked for, which are all there.

    Raises:
        SpecError: if there is none, or one is asked for twice.
        BandNotFoundError: if the collection lacks one.
        CollectionError: if there is no column with the addresses of one.
    """
    names = [bands] if isinstance(bands, str) else list(bands)
    known = collection.bands
    if not names:
        raise SpecError(f"bands is empty: this collection has {known}")
    if len(set(names)) < len(names):
        raise SpecError(f"bands={names} names one twice")
    for band in names:
        if band not in known:
            raise BandNotFoundError(f"band {band!r} is not in this collection, which has {known or 'none indexed'}")
        if not _has_href(collection.schema, band):
            raise CollectionError(f"band {band!r} has headers but no address: column assets lacks {band}.href")
    return names


def _has_href(table: pa.Schema, band: str) -> bool:
    """Whether ``assets.<band>.href`` is there to be read."""
    kind = table.field(schema.ASSETS).type
    for name in (band, schema.HREF):
        if not pa.types.is_struct(kind) or kind.get_field_index(name) < 0:
            return False
        kind = kind.field(name).type
    return True
