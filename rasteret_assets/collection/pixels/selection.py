"""From the arguments of a read to what it reads: bands that are there, rows that may matter, views, a backend."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from rasteret_assets import schema
from rasteret_assets.collection.areas.area import Area
from rasteret_assets.collection.areas.grid import Grid
from rasteret_assets.collection.areas.placing import placed_on
from rasteret_assets.collection.pixels.backends import Source
from rasteret_assets.collection.pixels.options import ReadOptions
from rasteret_assets.collection.pixels.own_crs import keep_reached, place
from rasteret_assets.collection.pixels.select import projection, select_records
from rasteret_assets.collection.pixels.views import MOST_LAZY_PIXELS, MOST_PIXELS, View, choose_views
from rasteret_assets.collection.table import query
from rasteret_assets.errors import BandNotFoundError, CollectionError, SpecError, WindowError
from rasteret_assets.spec import CloudConfig
from rasteret_assets.storage.backend import StorageBackend

if TYPE_CHECKING:
    from rasteret_assets.collection.collection import Collection


def choose_source(
    collection: Collection, backend: StorageBackend | None, config: CloudConfig | None, data_source: str | None
) -> Source:
    """Return where a read gets its bytes: from the backend given, else the collection's own, else a shared one."""
    return Source(
        backend=backend or (None if config or data_source else collection.backend),
        data_source=collection.data_source if data_source is None else data_source,
        config=config,
    )


def select_views(
    collection: Collection,
    areas: Sequence[Area],
    bands: Sequence[str],
    options: ReadOptions,
    filters: Mapping[str, Any],
    *,
    is_lazy: bool = False,
) -> list[View]:
    """Choose what is read of which record; ``is_lazy`` allows grids that are larger than memory."""
    for area in areas:
        if area.geometry.geom_type not in {"Polygon", "MultiPolygon"}:
            raise WindowError(
                f"a {area.geometry.geom_type} has no area to read: buffer it, give a polygon or box, or sample_points"
            )
    shapes, unplaced = place(areas)
    rows = near_batches(collection, bands, shapes, filters)
    records = select_records(rows, bands, shapes, missing=options.missing)
    if unplaced:
        records = keep_reached(
            records, lambda one: areas[one].crs, unplaced, lambda one, crs, grid: _reaches(areas[one], crs, grid)
        )
    most_pixels = MOST_LAZY_PIXELS if is_lazy else MOST_PIXELS
    return choose_views(records, areas, bands, options, most_pixels=most_pixels)


def _reaches(area: Area, crs: str, grid: Grid) -> bool:
    """Whether an area meets a raster."""
    shape = placed_on(area, crs, grid)
    return shape is not None and grid.window(shape.bounds) is not None


def near_batches(
    collection: Collection, bands: Sequence[str], shapes: Sequence[Any], filters: Mapping[str, Any]
) -> Iterator[pa.RecordBatch]:
    """Rows whose bbox meets a shape, with the columns that reads need."""
    # By bbox only: which shape meets which footprint exactly is found out once, where records are selected.
    near = filtered(collection, filters).where(query.bbox_meets(shapes))
    return near.batches(projection(collection.schema, bands))


def filtered(collection: Collection, filters: Mapping[str, Any]) -> Collection:
    """The collection narrowed by the filters of ``subset``.

    Raises:
        SpecError: if there is no such filter.
    """
    if unknown := filters.keys() - inspect.signature(collection.subset).parameters.keys():
        raise SpecError(f"unknown arguments {sorted(unknown)}: reads take the filters of subset() beside their own")
    return collection.subset(**filters)


def known_bands(collection: Collection, bands: str | Sequence[str]) -> list[str]:
    """The bands asked for, which are all there.

    Raises:
        SpecError: if there is none, or one is asked for twice.
        BandNotFoundError: if the collection lacks one.
        CollectionError: if there is no column with the addresses of one.
    """
    names = list(bands) if isinstance(bands, Iterable) and not isinstance(bands, str) else [bands]
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise SpecError(f"bands={bands!r} names no band by {wrong[0]!r}: this collection has {collection.bands}")
    known = collection.bands
    if not names:
        raise SpecError(f"bands is empty: this collection has {known}")
    if len(set(names)) < len(names):
        raise SpecError(f"bands={names} names one twice")
    for band in names:
        if band not in known:
            raise BandNotFoundError(f"band {band!r} is not in this collection, which has {known or 'none indexed'}")
        if not has_href(collection.schema, band):
            raise CollectionError(f"band {band!r} has headers but no address: column assets lacks {band}.href")
    return names


def indexed_band(collection: Collection, band: str | None) -> str:
    """A band that has headers: the one asked for, or the first.

    Raises:
        BandNotFoundError: if it is not there, or there is none.
    """
    known = collection.bands
    if band is None and known:
        return known[0]
    if band not in known:
        raise BandNotFoundError(f"band {band!r} is not in this collection, which has {known or 'none indexed'}")
    return str(band)


def has_href(table: pa.Schema, band: str) -> bool:
    """Whether ``assets.<band>.href`` is there to be read."""
    kind = table.field(schema.ASSETS).type
    for name in (band, schema.HREF):
        if not pa.types.is_struct(kind) or kind.get_field_index(name) < 0:
            return False
        kind = kind.field(name).type
    return True
