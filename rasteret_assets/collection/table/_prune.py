"""Choose the row groups of a file that may hold a record near an area, by their statistics, then by the boxes.

Arrow prunes by statistics too, but evaluates the expression for each group, which takes longer than reading a small
group; and the statistics of a group of records along a curve span more than its boxes. The four columns of boxes are a
hundredth of a record, so they are read before other columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rasteret_assets.schema import BBOX, BBOX_AXES

Boxes = npt.NDArray[np.float64]


def groups_near(file: pq.ParquetFile, areas: Sequence[Boxes]) -> list[int]:
    """Return the row groups that hold a record whose box overlaps one box of every group of areas.

    Args:
        file: with a column of boxes.
        areas: groups of boxes ``[K, 4]`` in lon/lat, within +-180 degrees.
    """
    candidates = _groups_by_statistics(file.metadata, areas)
    if not len(candidates):
        return []
    counts = [file.metadata.row_group(int(group)).num_rows for group in candidates]
    column = file.read_row_groups(candidates.tolist(), columns=[BBOX], use_threads=False)[BBOX].combine_chunks()
    # Rows without a box meet no area, because NaN compares as false.
    xmin, ymin, xmax, ymax = (np.asarray(pc.fill_null(pc.struct_field(column, axis), np.nan)) for axis in BBOX_AXES)
    met = np.ones(len(column), bool)
    for boxes in areas:
        meets = np.zeros(len(column), bool)
        for west, south, east, north in boxes:
            begins, ends = xmin <= east, xmax >= west
            # A box across the antimeridian runs from xmin east to 180, and from -180 to xmax.
            lon = np.where(xmin > xmax, begins | ends, begins & ends)
            meets |= lon & (ymin <= north) & (ymax >= south)
        met &= meets
    held = np.add.reduceat(met, np.concatenate([[0], np.cumsum(counts)[:-1]]))
    return [int(group) for group in candidates[held > 0]]


def _groups_by_statistics(metadata: pq.FileMetaData, areas: Sequence[Boxes]) -> npt.NDArray[np.int64]:
    """Return the row groups whose statistics allow a box near the areas."""
    ranges = _ranges(metadata)
    if ranges is None:
        return np.arange(metadata.num_row_groups)
    # A group without statistics (none of its records has a box) is NaN, and is kept.
    with np.errstate(invalid="ignore"):
        elsewhere = np.zeros(len(ranges), bool)
        (xmin_low, xmin_high), (ymin_low, _), (xmax_low, xmax_high), (_, ymax_high) = ranges.transpose(1, 2, 0)
        for boxes in areas:
            misses = np.ones(len(ranges), bool)
            for west, south, east, north in boxes:
                by_lon = (xmin_low > east) | (xmax_high < west)
                # A box that may cross the antimeridian may begin east of the area and still reach it.
                across = (xmin_high > xmax_low) & ((xmin_low <= east) | (xmax_high >= west))
                misses &= (by_lon & ~across) | (ymin_low > north) | (ymax_high < south)
            elsewhere |= misses
    return np.flatnonzero(~elsewhere)


def _ranges(metadata: pq.FileMetaData) -> npt.NDArray[np.float64] | None:
    """Return the least and greatest value of each axis in each row group, ``[groups, 4, 2]``; None without boxes."""
    places = {metadata.schema.column(leaf).path: leaf for leaf in range(metadata.num_columns)}
    leaves = [places.get(f"{BBOX}.{axis}") for axis in BBOX_AXES]
    if None in leaves:
        return None
    ranges = np.full((metadata.num_row_groups, len(BBOX_AXES), 2), np.nan)
    for group in range(metadata.num_row_groups):
        chunks = metadata.row_group(group)
        for axis, leaf in enumerate(leaves):
            found = chunks.column(leaf).statistics
            if found is not None and found.has_min_max:
                ranges[group, axis] = found.min, found.max
    return ranges
