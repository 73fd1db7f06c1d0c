"""The values of rasters at points, as one Arrow table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rasteret_assets import schema
from rasteret_assets.collection.areas.grid import Grid, Window
from rasteret_assets.collection.areas.placing import turned_points
from rasteret_assets.collection.areas.point_input import Points
from rasteret_assets.collection.areas.reproject import transform_points
from rasteret_assets.collection.pixels.band import BandHeader
from rasteret_assets.collection.pixels.engine import Job
from rasteret_assets.collection.pixels.options import ReadOptions
from rasteret_assets.collection.pixels.plan import BandRead, Part
from rasteret_assets.collection.pixels.planes import is_nodata, read
from rasteret_assets.collection.pixels.select import Record
from rasteret_assets.errors import SpecError, WindowError
from rasteret_assets.storage.backend import StorageBackend

_Floats = npt.NDArray[np.float64]
_Indices = npt.NDArray[np.intp]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PointTarget:
    """Pixels, one by one.

    Args:
        rows: of each pixel on the band's grid.
        columns: likewise.
        values: filled with their samples.
        valid: made True where a tile was read and its alpha hides nothing.
    """

    rows: _Indices
    columns: _Indices
    values: npt.NDArray[Any]
    valid: npt.NDArray[np.bool_]

    def parts(self, tile_width: int, tile_height: int) -> Iterator[tuple[tuple[int, int], Part]]:
        """The pixels of each tile."""
        across, down = self.columns // tile_width, self.rows // tile_height
        order = np.lexsort((across, down))
        tiles = np.column_stack([down[order], across[order]])
        starts = np.flatnonzero(np.any(np.diff(tiles, axis=0), axis=1)) + 1
        for chosen in np.split(order, starts):
            yield (int(down[chosen[0]]), int(across[chosen[0]])), _TilePoints(self, chosen)

    def hide(self, opaque: npt.NDArray[np.bool_]) -> None:
        """Let pixels hold no data that a mask hides."""
        np.logical_and(self.valid, opaque, out=self.valid)


@dataclass(frozen=True, slots=True, eq=False)
class _TilePoints:
    """The pixels of a target that lie in one tile."""

    target: PointTarget
    chosen: _Indices

    def place(
        self, samples: npt.NDArray[Any] | None, opaque: npt.NDArray[np.bool_] | None, extent: Window
    ) -> None:  # fmt: skip
        pixels = (self.target.rows[self.chosen] - extent.row_off, self.target.columns[self.chosen] - extent.col_off)
        if samples is not None:
            self.target.values[self.chosen] = samples[pixels]
        self.target.valid[self.chosen] = True if opaque is None else opaque[pixels]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Sampled:
    """Values of one band of one record at the points that lie on its raster."""

    rank: int
    band: int
    record: Record
    header: BandHeader
    points: _Indices
    target: PointTarget


def sample(
    records: Sequence[Record],
    points: Points,
    bands: Sequence[str],
    backend: StorageBackend,
    options: ReadOptions,
    match: str,
) -> pa.Table:
    """A row for every point, record and band whose raster holds the point: by point, then datetime, then band.

    Args:
        records: in order, with the positions of the points that meet their footprint.
        points: the points.
        bands: names of the bands.
        backend: brings the bytes.
        options: how it is read.
        match: ``"all"`` records of a point, or the ``"latest"`` only.
    """
    sampled = list(_located(records, points, bands))
    if match == "latest":
        sampled = _latest(sampled, len(points.x))
    if not sampled:
        raise WindowError("points meet footprints, but no raster: footprints are too large")
    read((_job(one, bands, masked=options.masked) for one in sampled), backend, options)
    return _table(sampled, points, bands, masked=options.masked)


def _job(one: _Sampled, bands: Sequence[str], *, masked: bool) -> Job:
    pixels = _read(one, bands, one.header, one.target)
    if one.header.mask is None or not masked:
        return Job(start=lambda: [pixels])
    count = len(one.target.rows)
    opaque = np.zeros(count, dtype=bool)
    target = replace(one.target, values=opaque, valid=np.zeros(count, dtype=bool))
    mask = _read(one, bands, one.header.mask, target)
    return Job(start=lambda: [pixels, mask], finish=lambda: one.target.hide(opaque))


def _read(one: _Sampled, bands: Sequence[str], header: BandHeader, target: PointTarget) -> BandRead:
    record = one.record
    return BandRead(
        record=record.id, band=bands[one.band], href=record.hrefs[one.band], header=header, targets=[target]
    )  # fmt: skip


def _located(records: Sequence[Record], points: Points, bands: Sequence[str]) -> Iterator[_Sampled]:
    for rank, record in enumerate(records):
        chosen = np.asarray(record.areas, dtype=np.intp)
        x, y = transform_points(points.x[chosen], points.y[chosen], points.crs, record.crs)
        for band in range(len(bands)):
            header = record.headers[band]
            if header is None:
                continue  # the other bands of the record can be read
            rows, columns, inside = _pixels(header.grid, turned_points(x, record.crs, header.grid), y)
            if inside.any():
                count = int(inside.sum())
                target = PointTarget(
                    rows=rows[inside],
                    columns=columns[inside],
                    values=np.full(count, header.fill, dtype=header.sample_type),
                    valid=np.zeros(count, dtype=bool),
                )
                yield _Sampled(rank=rank, band=band, record=record, header=header, points=chosen[inside], target=target)


def any_inside(points: Points, crs: str, grid: Grid) -> bool:
    """Whether a grid in ``crs`` holds a point.

    Raises:
        WindowError: if no way leads from the points' CRS to ``crs``.
    """
    _, _, inside = _pixels(grid, *transform_points(points.x, points.y, points.crs, crs))
    return bool(inside.any())


def _pixels(grid: Grid, x: _Floats, y: _Floats) -> tuple[_Indices, _Indices, npt.NDArray[np.bool_]]:
    """Row and column of the pixel that holds each point, and whether the grid has it."""
    with np.errstate(invalid="ignore"):
        columns = np.floor((x - grid.origin_x) / grid.scale_x)
        rows = np.floor((y - grid.origin_y) / grid.scale_y)
        inside = (columns >= 0) & (columns < grid.width) & (rows >= 0) & (rows < grid.height)
    return np.where(inside, rows, 0).astype(np.intp), np.where(inside, columns, 0).astype(np.intp), inside


def _latest(sampled: Sequence[_Sampled], count: int) -> list[_Sampled]:
    """Only the latest record of each point and band; undated records count as the oldest."""
    newest: dict[int, _Indices] = {}
    # Records are in order of time, undated ones last: so these go first.
    ranked = sorted(sampled, key=lambda one: (one.record.moment is not None, one.rank))
    for number, one in enumerate(ranked):
        newest.setdefault(one.band, np.full(count, -1, dtype=np.intp))[one.points] = number
    kept = []
    for number, one in enumerate(ranked):
        mine = newest[one.band][one.points] == number
        if mine.any():
            target = one.target
            part = PointTarget(
                rows=target.rows[mine], columns=target.columns[mine], values=target.values[mine],
                valid=target.valid[mine],
            )  # fmt: skip
            kept.append(replace(one, points=one.points[mine], target=part))
    return kept


def _table(sampled: Sequence[_Sampled], points: Points, bands: Sequence[str], *, masked: bool) -> pa.Table:
    index = np.concatenate([one.points for one in sampled])
    which = np.repeat(np.arange(len(sampled)), [len(one.points) for one in sampled])
    values = np.concatenate([one.target.values for one in sampled])
    order = np.lexsort((
        np.array([one.band for one in sampled])[which], np.array([one.rank for one in sampled])[which], index
    ))  # fmt: skip
    index, which = index[order], pa.array(which[order])
    absent = None
    if masked:
        absent = np.concatenate([_absent(one) for one in sampled])[order]

    def repeated(found: list[Any], kind: pa.DataType) -> pa.Array:
        return pa.array(found, kind).take(which)

    columns = {
        "point_index": pa.array(index, pa.int64()),
        "point_x": pa.array(points.x[index]),
        "point_y": pa.array(points.y[index]),
        "point_crs": pa.repeat(points.crs, len(index)),
        "record_id": repeated([one.record.id for one in sampled], pa.string()),
        "datetime": repeated([one.record.moment for one in sampled], schema.TIMESTAMP),
        "collection": repeated([one.record.collection for one in sampled], pa.string()),
        "band": repeated([bands[one.band] for one in sampled], pa.string()),
        "value": pa.array(values[order], mask=absent),
        "raster_crs": repeated([one.record.crs for one in sampled], pa.string()),
    }
    if points.columns is not None:
        taken = [name for name in points.columns.column_names if name in columns]
        if taken:
            raise SpecError(f"columns {taken} of the points are columns of the result too: rename them")
        kept = points.columns.take(pa.array(index))
        columns |= {name: kept.column(name) for name in kept.column_names}
    return pa.table(columns)


def _absent(one: _Sampled) -> npt.NDArray[np.bool_]:
    nodata = one.header.marker
    invalid: npt.NDArray[np.bool_] = ~one.target.valid
    return invalid if nodata is None else invalid | is_nodata(one.target.values, nodata)
