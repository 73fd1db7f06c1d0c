"""Draw a record, or an area of the record with the fewest clouds, from the coarsest overview that is fine enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import shapely

from rasteret_assets.collection.areas.area import Area, coerce_areas
from rasteret_assets.collection.areas.grid import Grid
from rasteret_assets.collection.areas.placing import placed_on
from rasteret_assets.collection.pixels.band import BandHeader
from rasteret_assets.collection.pixels.filling import fill
from rasteret_assets.collection.pixels.planes import Plane
from rasteret_assets.collection.pixels.read_options import ReadOptions
from rasteret_assets.collection.pixels.record_table import RecordTable, checked_bands
from rasteret_assets.collection.pixels.select import Record, every_record, near_batches, projection, select_records
from rasteret_assets.collection.pixels.views import View
from rasteret_assets.errors import CollectionError, WindowError
from rasteret_assets.inputs import AreasLike, CRSLike
from rasteret_assets.storage.backend import StorageBackend
from rasteret_assets.storage.whole_files import whole_file

#: Usual names of the bands red, green and blue.
_COLOURS: Final = (("red", "green", "blue"), ("B04", "B03", "B02"), ("SR_B4", "SR_B3", "SR_B2"), ("B4", "B3", "B2"))

#: Pixels of one band that a preview may read: 8192 squared.
_MOST_PIXELS: Final = 8192 * 8192
_STRETCH: Final = (2.0, 98.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """A picture, which notebooks show.

    Args:
        pixels: uint8 of shape (rows, columns, 4): red, green, blue and alpha, which is 0 for pixels without data.
        record: id of the record.
        bands: the bands, one (grey) or three.
    """

    pixels: npt.NDArray[np.uint8]
    record: str
    bands: Sequence[str]

    @property
    def png(self) -> bytes:
        """The picture as PNG."""
        import imagecodecs  # noqa: PLC0415  (slow to import)

        return bytes(imagecodecs.png_encode(np.ascontiguousarray(self.pixels)))

    def save(self, path: str | Path) -> Path:
        """Write the picture as PNG, and return its path.

        Raises:
            CollectionError: if the file cannot be written.
        """
        with whole_file(path) as beside:
            beside.write_bytes(self.png)
        return Path(path)

    def _repr_png_(self) -> bytes:
        return self.png

    def __repr__(self) -> str:
        height, width = self.pixels.shape[:2]
        return f"Picture({width} x {height} pixels of {', '.join(self.bands)} of {self.record!r}; save('name.png'))"


def draw_preview(
    collection: RecordTable,
    what: AreasLike,
    bands: str | Sequence[str] | None,
    *,
    size: int,
    geometry_crs: CRSLike,
    backend: StorageBackend,
    options: ReadOptions,
) -> Picture:
    """Draw a record by its id, or an area of the record with the fewest clouds, of equal ones the latest.

    Raises:
        CollectionError: if no record has the id.
        WindowError: if no record meets the area, or the index has no overview that is coarse enough.
    """
    names = checked_bands(collection, default_bands(collection) if bands is None else bands)
    if len(names) not in {1, 3}:
        raise WindowError(f"a picture takes one band (grey) or three (red, green, blue), not {len(names)}: {names}")
    record, area = _choose(collection, what, names, geometry_crs)
    return draw_record(record, names, area, size=size, backend=backend, options=options)


def draw_record(
    record: Record, names: Sequence[str], area: Area | None, *, size: int, backend: StorageBackend, options: ReadOptions
) -> Picture:
    """Draw a record from the coarsest overview that is fine enough.

    Args:
        record: with the headers of all bands.
        names: of its bands, one or three.
        area: to draw; None for all of the record.
        size: pixels along the longer side at most.
        backend: reads the bytes.
        options: of the read.

    Raises:
        WindowError: if the area meets no pixel, or the index has no overview that is coarse enough.
    """
    # Band by band, because bands may lie on different grids.
    read = [_read(record, band, area, names, size, backend, options) for band in range(len(names))]
    height, width = max(pixels.shape for pixels, _ in read)
    channels, valid = zip(*(_resized(pair, height, width) for pair in read), strict=True)
    there = np.logical_and.reduce([*valid, *(np.isfinite(channel) for channel in channels)])
    colours = [_stretched(channel, there) for channel in channels]
    alpha = np.where(there, np.uint8(255), np.uint8(0))
    pixels = np.dstack([*(colours if len(colours) == 3 else colours * 3), alpha])
    return Picture(pixels=pixels, record=record.id, bands=names)


def default_bands(collection: RecordTable) -> Sequence[str]:
    """Return the bands red, green and blue of a collection by their usual names, else its first band, if it has one."""
    bands = set(collection.bands)
    three = next((names for names in _COLOURS if bands.issuperset(names)), None)
    return three or collection.bands[:1]


def _choose(
    collection: RecordTable, what: AreasLike, bands: Sequence[str], geometry_crs: CRSLike
) -> tuple[Record, Area | None]:
    if isinstance(what, str) and not what.lstrip().startswith("{") and "(" not in what:
        import pyarrow.compute as pc  # noqa: PLC0415

        named = list(collection.where(pc.field("id") == what).batches(projection(collection.schema, bands)))
        if not any(batch.num_rows for batch in named):
            raise CollectionError(f"this collection has no record {what!r} that meets its filters")
        return every_record(iter(named), bands)[0], None
    areas = coerce_areas(what, geometry_crs)
    shape = shapely.union_all([area.lonlat() for area in areas])
    area = areas[0] if len(areas) == 1 else Area(geometry=shape)
    records = select_records(near_batches(collection, bands, [shape], scaled=False), bands, [shape], missing="drop")
    rated = [record for record in records if record.cloud_cover is not None] or records
    clouds = min((record.cloud_cover for record in rated if record.cloud_cover is not None), default=None)
    return [record for record in rated if record.cloud_cover == clouds][-1], area


def _read(
    record: Record, band: int, area: Area | None, bands: Sequence[str], size: int, backend: StorageBackend,
    options: ReadOptions,
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:  # fmt: skip
    """Return pixels of one band, and which of them hold data; at most ``size`` along the longer side."""
    header = record.present_headers[band]
    if area is None:
        area = Area.of_bounds(header.grid.bounds, record.crs)
    place = placed_on(area, record.crs, header.grid)
    grid = None if place is None else _level_grid(header, place.bounds, size)
    if grid is None:
        raise WindowError(f"the area lies in the footprint of record {record.id!r}, but outside its raster")
    if grid.width * grid.height > _MOST_PIXELS:
        raise WindowError(
            f"a preview of record {record.id!r} would read {grid.width} x {grid.height} pixels, because the index "
            "has no overviews of its files: give a smaller area, or index files with overviews (COGs)"
        )
    shape = grid.height, grid.width
    pixels, valid = np.empty(shape, dtype=header.sample_type), np.empty(shape, dtype=bool)
    view = View(record=record, areas=[(0, area)], crs=record.crs, grid=grid)
    fill([Plane(view=view, band=band, pixels=pixels, valid=valid)], bands, backend, options)
    step = -(-max(shape) // size)
    return pixels[::step, ::step], valid[::step, ::step]


def _level_grid(header: BandHeader, bounds: tuple[float, float, float, float], size: int) -> Grid | None:
    """Return the part within ``bounds`` of the coarsest overview on which it has ``size`` pixels, else of the image."""
    best: Grid | None = None
    for level in (header, *header.overviews):
        window = level.grid.window(bounds)
        if window is None or (best is not None and max(window.shape) < size):
            break
        best = level.grid.part(window)
    return best


def _resized(
    read: tuple[npt.NDArray[Any], npt.NDArray[np.bool_]], height: int, width: int
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Return pixels and their validity, repeated or left out to get the shape (height, width)."""
    rows = np.arange(height) * read[0].shape[0] // height
    columns = np.arange(width) * read[0].shape[1] // width
    return read[0][np.ix_(rows, columns)], read[1][np.ix_(rows, columns)]


def _stretched(channel: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Return samples stretched to 0..255 from the 2nd to the 98th percentile."""
    if not valid.any():
        return np.zeros(channel.shape, dtype=np.uint8)
    values = channel.astype(np.float64)
    low, high = np.percentile(values[valid], _STRETCH)
    # Halved, because the difference of two samples may exceed the largest float.
    scaled = (np.where(valid, values, low) / 2 - low / 2) / max(high / 2 - low / 2, np.finfo(np.float64).tiny)
    bright: npt.NDArray[np.uint8] = (np.clip(scaled, 0, 1) * 255).astype(np.uint8)
    return bright
