"""Shape footprints for a map: neighbours lie side by side, also across Greenwich and the antimeridian.

A map begins and ends in the middle of the widest gap between footprints, so that the fewest are cut. Its longitudes
may lie beyond 180 then. All maps (SVG, matplotlib, Dagster's) take their shapes from here.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import shapely

from rasteret_assets.collection.areas.footprints import decode_wkb
from rasteret_assets.collection.pixels.record_table import RecordTable
from rasteret_assets.columns.instants import utc_instants
from rasteret_assets.schema import BBOX, DATETIME, GEOMETRY
from rasteret_assets.sphere import cut_at_antimeridian, widest_gap

Shapes: TypeAlias = npt.NDArray[np.object_]
Floats: TypeAlias = npt.NDArray[np.float64]


def read_footprints(collection: RecordTable, limit: int) -> tuple[Shapes, list[datetime | None], bool]:
    """Read the first footprints of a collection.

    Args:
        collection: the records.
        limit: most footprints to read.

    Returns:
        The footprints in lon/lat, the datetime of each one's record, and whether there are more of them.

    Raises:
        CollectionError: if a footprint is not WKB.
    """
    found, moments = [np.empty(0, object)], list[datetime | None]()
    names = [GEOMETRY, BBOX, DATETIME]
    for batch in collection.batches({name: pc.field(name) for name in names}):
        shapes = footprints_of(batch)
        present = np.flatnonzero(~(shapely.is_missing(shapes) | shapely.is_empty(shapes)))
        found.append(shapes[present])
        stated = utc_instants(batch.column(DATETIME)).cast(pa.timestamp("us"))
        moments += stated.take(pa.array(present)).to_pylist()
        if len(moments) > limit:
            break
    return np.concatenate(found)[:limit], moments[:limit], len(moments) > limit


def counted(collection: RecordTable, count: int, *, more: bool) -> str:
    """Return the title of a map: the name of a collection, and how many of its footprints are drawn."""
    first, plural = "first " if more else "", "" if count == 1 else "s"
    return f"{collection.name or 'collection'}: {first}{count:,} footprint{plural}"


def footprints_of(batch: pa.RecordBatch) -> Shapes:
    """Return the footprints of records in lon/lat; None for a record without footprint.

    Args:
        batch: with the columns ``geometry`` and ``bbox``.

    Raises:
        CollectionError: if a footprint is not WKB.
    """
    shapes, boxes = decode_wkb(batch.column(GEOMETRY)), boxes_of(batch)
    bounds = shapely.bounds(shapes)
    with np.errstate(invalid="ignore"):
        # Because foreign tables have rings that jump from 179 to -179; only the bbox tells them from a ring around
        # the Earth.
        jumps = (boxes[:, 0] > boxes[:, 2]) & (boxes[:, 2] - boxes[:, 0] + 360 < 180)
        jumps &= (bounds[:, 2] - bounds[:, 0] > 180) & (shapely.get_num_geometries(shapes) == 1)
    if jumps.any():
        shapes[jumps] = shapely.transform(shapes[jumps], lambda xy: np.column_stack([xy[:, 0] % 360, xy[:, 1]]))
    return shapes


def boxes_of(batch: pa.RecordBatch) -> Floats:
    """Return the boxes of records as ``[N, 4]``: west, south, east, north in degrees; NaN for a record without box.

    Args:
        batch: with the column ``bbox``. ``west > east`` goes around the antimeridian.
    """
    axes = [pc.fill_null(pc.struct_field(batch.column(BBOX), [axis]), np.nan) for axis in range(4)]
    return np.stack([np.asarray(axis, float) for axis in axes], axis=1)


def first_longitude(spans: Floats) -> float:
    """Return the longitude at which a map begins; the middle of the map lies in -180..180.

    Args:
        spans: ``[N, 2]``: west and east, within -180..180, of all footprints on the map.
    """
    gap = widest_gap(spans) if len(spans) else None
    return -180.0 if gap is None else gap % 360 - 360


def side_by_side(shapes: Shapes) -> Shapes:
    """Return footprints at the longitudes that they have on one map.

    Args:
        shapes: ``[N]`` in lon/lat, with longitudes of any size; None stays None.
    """
    cut = cut_at_antimeridian(shapes)
    return cut_at_antimeridian(cut, first_longitude(shapely.bounds(shapely.get_parts(cut))[:, ::2]))


def rings_of(shapes: Shapes) -> Iterator[tuple[int, Floats]]:
    """Yield the row and the points ``[M, 2]`` of the outer ring of every polygon among some footprints."""
    parts, rows = shapely.get_parts(shapes, return_index=True)
    polygons = shapely.get_type_id(parts) == shapely.GeometryType.POLYGON
    rings = shapely.get_exterior_ring(parts[polygons])
    for row, ring in zip(rows[polygons].tolist(), rings, strict=True):
        yield row, shapely.get_coordinates(ring)


def longitude(value: float) -> str:
    """Return a longitude of any size as a label, such as ``9.5°E``."""
    turned = (round(value, 4) + 180) % 360 - 180
    return _degrees(turned, "" if abs(turned) == 180 else "E", "" if abs(turned) == 180 else "W")


def latitude(value: float) -> str:
    """Return a latitude as a label, such as ``45°N``."""
    return _degrees(round(value, 4), "N", "S")


def _degrees(value: float, positive: str, negative: str) -> str:
    return f"{abs(round(value, 4)):g}°{positive if value > 0 else negative if value < 0 else ''}"
