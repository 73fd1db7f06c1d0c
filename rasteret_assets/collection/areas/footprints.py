"""Intersect areas with the footprints of records exactly, a batch at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from shapely.geometry.base import BaseGeometry

from rasteret_assets.errors import CollectionError

Pairs = npt.NDArray[np.intp]
Footprints = npt.NDArray[np.object_]


class FootprintTree:
    """Footprints of records, searchable by the areas that they meet.

    Args:
        geometry: WKB footprints in lon/lat; a null footprint meets nothing.
        bbox: bbox structs of the records; xmin > xmax says that a footprint crosses the antimeridian.

    Raises:
        CollectionError: if a footprint is not WKB.
    """

    def __init__(self, geometry: pa.Array, bbox: pa.Array) -> None:
        footprints = decode_wkb(geometry)
        crossing = np.asarray(
            pc.fill_null(pc.greater(pc.struct_field(bbox, "xmin"), pc.struct_field(bbox, "xmax")), fill_value=False)
        )
        self._tree = _without(footprints, crossing)
        # Across the antimeridian a footprint may be split at 180, run past it or jump from 179 to -179: with longitudes
        # from 0 to 360 all three have the same shape, and an area is compared at both of its places there.
        self._over = _without(_eastward(footprints), ~crossing) if crossing.any() else None

    def pairs(self, areas: Sequence[BaseGeometry]) -> Pairs:
        """Return the pairs of areas and footprints that intersect.

        Args:
            areas: geometries in lon/lat within +-180 degrees.

        Returns:
            Integers of shape (2, n): index of the area above index of the row.
        """
        pairs: Pairs = self._tree.query(list(areas), predicate="intersects")
        if self._over is None:
            return pairs
        places = [*areas, *shapely.transform(list(areas), lambda xy: xy + np.array([360.0, 0.0]))]
        over: Pairs = self._over.query(places, predicate="intersects")
        over[0] %= len(areas)
        return np.unique(np.hstack([pairs, over]), axis=1)


def intersecting_pairs(geometry: pa.Array, bbox: pa.Array, areas: Sequence[BaseGeometry]) -> Pairs:
    """Return the pairs of areas and footprints that intersect.

    Args:
        geometry: WKB footprints in lon/lat; a null footprint meets nothing.
        bbox: bbox structs of the records.
        areas: geometries in lon/lat within +-180 degrees.

    Returns:
        Integers of shape (2, n): index of the area above index of the row.

    Raises:
        CollectionError: if a footprint is not WKB.
    """
    return FootprintTree(geometry, bbox).pairs(areas)


def intersecting_rows(geometry: pa.Array, bbox: pa.Array, areas: Sequence[BaseGeometry]) -> npt.NDArray[np.bool_]:
    """Return whether each footprint meets any of ``areas``, booleans ``[N]``; see :func:`intersecting_pairs`."""
    mask = np.zeros(len(geometry), dtype=bool)
    mask[intersecting_pairs(geometry, bbox, areas)[1]] = True
    return mask


def decode_wkb(geometry: pa.Array) -> Footprints:
    """Return the shapely geometries ``[N]`` of a WKB column of any binary type; None for null.

    Raises:
        CollectionError: if a value is not WKB.
    """
    if isinstance(geometry, pa.BaseExtensionType | pa.ExtensionArray):
        geometry = geometry.storage
    try:
        return np.asarray(shapely.from_wkb(geometry.to_numpy(zero_copy_only=False)), dtype=object)
    except (shapely.errors.GEOSException, NotImplementedError, TypeError, pa.ArrowInvalid) as error:
        raise CollectionError(f"column 'geometry' ({geometry.type}) has a value that is not WKB: {error}") from error


def _without(footprints: Footprints, left_out: npt.NDArray[np.bool_]) -> shapely.STRtree:
    """Return a search tree of the footprints that are not ``left_out``, by their positions in ``footprints``."""
    kept = footprints.copy()
    kept[left_out] = None
    return shapely.STRtree(kept)


def _eastward(footprints: Footprints) -> Footprints:
    """Return footprints with longitudes from 0 to 360."""
    moved: Footprints = shapely.transform(footprints, lambda xy: np.column_stack([xy[:, 0] % 360, xy[:, 1]]))
    return moved
