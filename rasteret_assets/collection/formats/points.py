"""The values of rasters at points, as one Arrow table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rasteret_assets import schema
from rasteret_assets.collection.areas.grid import Grid, Window
from rasteret_assets.collection.areas.placing import turned_points
from rasteret_assets.collection.areas.point_input import Points, coerce_points
from rasteret_assets.collection.areas.reproject import transform_points
from rasteret_assets.collection.pixels.backends import Source
from rasteret_assets.collection.pixels.band import BandHeader
from rasteret_assets.collection.pixels.engine import Job
from rasteret_assets.collection.pixels.options import ReadOptions, read_options
from rasteret_assets.collection.pixels.own_crs import WORLD, has_lonlat, keep_reached
from rasteret_assets.collection.pixels.plan import BandRead, Part
from rasteret_assets.collection.pixels.planes import is_nodata, read
from rasteret_assets.collection.pixels.select import Record, RecordTable, known_bands, near_batches, select_records
from rasteret_assets.errors import SpecError, WindowError
from rasteret_assets.storage.backend import StorageBackend

_Floats = npt.NDArray[np.float64]
_Indices = npt.NDArray[np.intp]
_Mask = npt.NDArray[np.bool_]

#: What ``match`` may be.
MATCHES: Final = ("all", "latest")
#: What ``return_neighbourhood`` may be.
NEIGHBOURHOODS: Final = ("off", "always", "if_center_nodata")


@dataclass(frozen=True, kw_only=True, slots=True)
class PointChoice:
    """Which values of a point are wanted.

    Args:
        match: ``"all"`` records of a point, or the ``"latest"`` with data.
        distance: pixels, along rows and columns, within which the nearest one with data stands for one without.
        neighbourhood: ``"off"``, or ``"always"`` or ``"if_center_nodata"`` the pixels within that distance too.
    """

    match: str = "all"
    distance: int = 0
    neighbourhood: str = "off"

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("match", self.match, MATCHES), ("return_neighbourhood", self.neighbourhood, NEIGHBOURHOODS)
        ):  # fmt: skip
            if value not in choices:
                raise SpecError(f"{name}={value!r} must be one of {', '.join(map(repr, choices))}")
        if isinstance(self.distance, bool) or not isinstance(self.distance, int | np.integer) or self.distance < 0:
            raise SpecError(f"max_distance_pixels={self.distance!r} must be a whole number of pixels, 0 or more")
        if self.neighbourhood != "off" and not self.distance:
            raise SpecError(f"return_neighbourhood={self.neighbourhood!r} needs max_distance_pixels, 1 or more")


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
class _Located:
    """The points that lie on the raster of one band of one record.

    Args:
        rank: position of the record among all.
        band: position of the band.
        record: the record.
        header: of the band.
        points: positions of the points among all.
        x: of each, in pixels from the raster's first corner.
        y: likewise.
    """

    rank: int
    band: int
    record: Record
    header: BandHeader
    points: _Indices
    x: _Floats
    y: _Floats

    def part(self, kept: _Mask) -> _Located:
        """Some of the points."""
        return replace(self, points=self.points[kept], x=self.x[kept], y=self.y[kept])

    def pixels(self, chosen: _Indices) -> tuple[_Indices, _Indices]:
        """Rows and columns of the pixels that hold some of the points."""
        return np.floor(self.y[chosen]).astype(np.intp), np.floor(self.x[chosen]).astype(np.intp)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Sampled:
    """Values of some points of one band of one record.

    Args:
        located: the points of the band.
        chosen: which of them.
        values: of each.
        valid: whether it is data.
        looked: whether the pixels around were read; None where they are not wanted.
        around: values of the pixels around, ``[points, pixels]``; likewise.
        around_valid: booleans, which of these hold data.
    """

    located: _Located
    chosen: _Indices
    values: npt.NDArray[Any]
    valid: _Mask
    looked: _Mask | None = None
    around: npt.NDArray[Any] | None = None
    around_valid: _Mask | None = None


def sample(
    records: Sequence[Record],
    points: Points,
    bands: Sequence[str],
    backend: StorageBackend,
    options: ReadOptions,
    choice: PointChoice,
) -> pa.Table:
    """A row for every point, record and band whose raster holds the point: by point, then datetime, then band.

    Args:
        records: in order, with the positions of the points that meet their footprint.
        points: the points.
        bands: names of the bands.
        backend: brings the bytes.
        options: how it is read.
        choice: which values of a point are wanted.

    Raises:
        WindowError: if no raster holds a point.
    """
    located = list(_located(records, points, bands))
    if not located:
        raise WindowError("points meet footprints, but no raster: footprints are too large")
    sampling = _Sampling(bands, backend, options, choice)
    if choice.match == "latest":
        sampled = list(_latest(located, len(points.x), sampling))
    else:
        sampled = sampling.values([(one, np.arange(len(one.points))) for one in located])
    return _table(sampled, points, bands, options, choice)


def read_points(
    table: RecordTable, points: Any, bands: str | Sequence[str], arguments: Mapping[str, Any], choice: PointChoice,
    *, x_column: str | None, y_column: str | None,
) -> pa.Table:  # fmt: skip
    """Values of points in a table of records; see :meth:`Collection.sample_points`."""
    options = read_options(arguments)
    given = coerce_points(
        points, geometry_column=arguments["geometry_column"], x_column=x_column, y_column=y_column,
        geometry_crs=arguments["geometry_crs"],
    )  # fmt: skip
    source, names = Source.of(table, arguments), known_bands(table, bands)
    placed = has_lonlat(given.crs)
    shapes = list(given.lonlat()) if placed else [WORLD]
    records = select_records(
        near_batches(table, names, shapes, scaled=options.scaled), names, shapes, missing=options.missing, what="points"
    )  # fmt: skip
    if not placed:
        reason = WindowError(f"no raster holds a point in {given.crs[:40]}, which has no place in the Earth's lon/lat")
        records = keep_reached(
            records, lambda _: given.crs, {0: reason}, lambda _, crs, grid: any_inside(given, crs, grid)
        )
        records = [replace(record, areas=range(len(given.x))) for record in records]
    return sample(records, given, names, source.open(), options, choice)


class _Sampling:
    """Reads values of points.

    Args:
        bands: names of the bands.
        backend: brings the bytes.
        options: how it is read.
        choice: which values of a point are wanted.
    """

    def __init__(
        self, bands: Sequence[str], backend: StorageBackend, options: ReadOptions, choice: PointChoice
    ) -> None:
        self.bands = bands
        self.backend = backend
        self.options = options
        self.choice = choice
        self.tells = options.masked or options.scaled or choice.match == "latest" or choice.distance > 0

    def values(self, wanted: Sequence[tuple[_Located, _Indices]]) -> list[_Sampled]:
        """Values of some points of each band, or of a pixel near them where they have none."""
        wanted = [(one, chosen) for one, chosen in wanted if len(chosen)]
        pixels = self._read([(one, *one.pixels(chosen)) for one, chosen in wanted])
        found = [
            _Sampled(located=one, chosen=chosen, values=values, valid=valid)
            for (one, chosen), (values, valid) in zip(wanted, pixels, strict=True)
        ]
        return self._with_neighbours(found) if self.choice.distance else found

    def _with_neighbours(self, found: Sequence[_Sampled]) -> list[_Sampled]:
        """Values of the nearest pixel with data for points without, and the pixels around where they are wanted."""
        is_always = self.choice.neighbourhood == "always"
        lacking = [np.flatnonzero(~one.valid | is_always) for one in found]
        offsets = _square(self.choice.distance)
        squares = []
        for one, which in zip(found, lacking, strict=True):
            rows, columns = one.located.pixels(one.chosen[which])
            squares.append((one.located, (rows[:, None] + offsets[0]).ravel(), (columns[:, None] + offsets[1]).ravel()))
        around = self._read(squares)
        return [
            self._nearest(one, which, values.reshape(len(which), -1), valid.reshape(len(which), -1))
            for one, which, (values, valid) in zip(found, lacking, around, strict=True)
        ]

    def _nearest(
        self, one: _Sampled, which: _Indices, around: npt.NDArray[Any], around_valid: _Mask
    ) -> _Sampled:  # fmt: skip
        offsets = _square(self.choice.distance)
        ring = np.abs(offsets).max(axis=0)
        header = one.located.header
        x, y = (axis[one.chosen[which]][:, None] for axis in (one.located.x, one.located.y))
        rows, columns = np.floor(y) + offsets[0], np.floor(x) + offsets[1]
        across = np.maximum(np.maximum(columns - x, x - columns - 1), 0) * abs(header.grid.scale_x)
        down = np.maximum(np.maximum(rows - y, y - rows - 1), 0) * abs(header.grid.scale_y)
        # By ring first, then by the distance from the point to the pixel.
        order = np.lexsort((np.hypot(across, down), np.broadcast_to(ring, across.shape)), axis=1)
        first = np.take_along_axis(around_valid, order, axis=1).argmax(axis=1)
        best = np.take_along_axis(order, first[:, None], axis=1)
        values, valid = one.values.copy(), one.valid.copy()
        there = np.take_along_axis(around_valid, best, axis=1)[:, 0] & ~valid[which]
        values[which[there]] = np.take_along_axis(around, best, axis=1)[there, 0]
        valid[which[there]] = True
        if self.choice.neighbourhood == "off":
            return replace(one, values=values, valid=valid)
        looked = np.zeros(len(values), dtype=bool)
        looked[which] = True
        kept, shown = (np.zeros((len(values), around.shape[1]), kind) for kind in (around.dtype, bool))
        kept[which], shown[which] = around, around_valid
        return replace(one, values=values, valid=valid, looked=looked, around=kept, around_valid=shown)

    def _read(
        self, wanted: Sequence[tuple[_Located, _Indices, _Indices]]
    ) -> list[tuple[npt.NDArray[Any], _Mask]]:  # fmt: skip
        """Values of pixels by row and column, and which hold data; those beside the raster do not."""
        targets, masks, insides = [], [], []
        for one, rows, columns in wanted:
            grid = one.header.grid
            inside = (rows >= 0) & (rows < grid.height) & (columns >= 0) & (columns < grid.width)
            insides.append(inside)
            targets.append(_target(rows[inside], columns[inside], one.header))
            is_masked = one.header.mask is not None and self.tells
            masks.append(_target(rows[inside], columns[inside], one.header.mask) if is_masked else None)

        def reads() -> Iterator[list[BandRead]]:
            for (one, _, _), target, mask in zip(wanted, targets, masks, strict=True):
                if len(target.rows):
                    of_band = [_band_read(one, self.bands, one.header, target)]
                    of_mask = [_band_read(one, self.bands, one.header.mask, mask)] if mask is not None else []
                    yield of_band + of_mask

        jobs = (Job(start=lambda both=both: both) for both in reads())  # type: ignore[misc]
        read(jobs, self.backend, self.options, lambda: (one for both in reads() for one in both))
        found = []
        for (one, rows, _), target, mask, inside in zip(wanted, targets, masks, insides, strict=True):
            values = np.full(len(rows), one.header.fill, dtype=one.header.sample_type)
            valid = np.zeros(len(rows), dtype=bool)
            values[inside], valid[inside] = target.values, target.valid
            if mask is not None:
                valid[inside] &= mask.values != 0
            if one.header.marker is not None:
                valid &= ~is_nodata(values, one.header.marker)
            found.append((values, valid))
        return found


def _target(rows: _Indices, columns: _Indices, header: BandHeader | None) -> PointTarget:
    kind = np.dtype(bool) if header is None else header.sample_type
    values = np.full(len(rows), 0 if header is None else header.fill, dtype=kind)
    return PointTarget(rows=rows, columns=columns, values=values, valid=np.zeros(len(rows), dtype=bool))


def _band_read(one: _Located, bands: Sequence[str], header: BandHeader | None, target: PointTarget) -> BandRead:
    record = one.record
    return BandRead(
        record=record.id, band=bands[one.band], href=record.hrefs[one.band], header=header or one.header,
        targets=[target],
    )  # fmt: skip


def _square(distance: int) -> npt.NDArray[np.intp]:
    """Rows and columns of the pixels around one, itself included, row by row: ``[2, pixels]``."""
    span = np.arange(-distance, distance + 1)
    return np.stack([axis.ravel() for axis in np.meshgrid(span, span, indexing="ij")])


def _located(records: Sequence[Record], points: Points, bands: Sequence[str]) -> Iterator[_Located]:
    for rank, record in enumerate(records):
        chosen = np.asarray(record.areas, dtype=np.intp)
        x, y = transform_points(points.x[chosen], points.y[chosen], points.crs, record.crs)
        for band in range(len(bands)):
            header = record.headers[band]
            if header is None:
                continue  # the other bands of the record can be read
            columns, rows, inside = _positions(header.grid, turned_points(x, record.crs, header.grid), y)
            if inside.any():
                yield _Located(
                    rank=rank, band=band, record=record, header=header, points=chosen[inside], x=columns[inside],
                    y=rows[inside],
                )  # fmt: skip


def any_inside(points: Points, crs: str, grid: Grid) -> bool:
    """Whether a grid in ``crs`` holds a point.

    Raises:
        WindowError: if no way leads from the points' CRS to ``crs``.
    """
    _, _, inside = _positions(grid, *transform_points(points.x, points.y, points.crs, crs))
    return bool(inside.any())


def _positions(grid: Grid, x: _Floats, y: _Floats) -> tuple[_Floats, _Floats, _Mask]:
    """Columns and rows of points, in pixels from the grid's first corner, and whether the grid has them."""
    with np.errstate(invalid="ignore"):
        columns = (x - grid.origin_x) / grid.scale_x
        rows = (y - grid.origin_y) / grid.scale_y
        inside = (columns >= 0) & (columns < grid.width) & (rows >= 0) & (rows < grid.height)
    return columns, rows, inside


def _latest(located: Sequence[_Located], count: int, sampling: _Sampling) -> Iterator[_Sampled]:
    """The value of the latest record with data, of each point and band; undated records count as the oldest.

    Records are asked one after the other, of each point only as far as they have no data. A point that has none in any
    record has the value of the latest.
    """
    # Records are in order of time, undated ones last: so these go first.
    ranked = sorted(located, key=lambda one: (one.record.moment is not None, one.rank), reverse=True)
    bands = sorted({one.band for one in ranked})
    done = {band: np.zeros(count, dtype=bool) for band in bands}
    seen = {band: np.zeros(count, dtype=bool) for band in bands}
    latest: dict[int, list[_Sampled]] = {band: [] for band in bands}
    waiting = {band: [one for one in ranked if one.band == band] for band in bands}
    while any(waiting.values()):
        wanted: list[tuple[_Located, _Indices]] = []
        for left in waiting.values():
            taken = np.zeros(count, dtype=bool)
            # One record for each point at a time; records that share no point are read together.
            for number, one in enumerate(left):
                free = ~taken[one.points]
                taken[one.points] = True
                wanted.append((one, np.flatnonzero(free)))
                left[number] = one.part(~free)
        for sampled in sampling.values(wanted):
            band, points = sampled.located.band, sampled.located.points[sampled.chosen]
            latest[band].append(_part(sampled, sampled.valid | ~seen[band][points]))
            seen[band][points] = True
            done[band][points[sampled.valid]] = True
        for band, left in waiting.items():
            rest = (one.part(~done[band][one.points]) for one in left)
            waiting[band] = [one for one in rest if len(one.points)]
    for band in bands:
        yield from _last_of_each(latest[band], count)


def _last_of_each(sampled: Sequence[_Sampled], count: int) -> Iterator[_Sampled]:
    """Of each point the value that is data, else the first that was read."""
    owner = np.full(count, -1, dtype=np.intp)
    for number, one in enumerate(sampled):
        points = one.located.points[one.chosen]
        better = one.valid | (owner[points] < 0)
        owner[points[better]] = number
    for number, one in enumerate(sampled):
        part = _part(one, owner[one.located.points[one.chosen]] == number)
        if len(part.chosen):
            yield part


def _part(one: _Sampled, kept: _Mask) -> _Sampled:
    of_points = {
        name: array[kept]
        for name in ("chosen", "values", "valid", "looked", "around", "around_valid")
        if (array := getattr(one, name)) is not None
    }
    return replace(one, **of_points)


def _table(
    sampled: Sequence[_Sampled], points: Points, bands: Sequence[str], options: ReadOptions, choice: PointChoice
) -> pa.Table:  # fmt: skip
    index = np.concatenate([one.located.points[one.chosen] for one in sampled])
    which = np.repeat(np.arange(len(sampled)), [len(one.chosen) for one in sampled])
    found = [one.located for one in sampled]
    kind = options.read_type(one.header.sample_type for one in found)
    values = np.concatenate([_in_unit(one.values, one, kind, options) for one in sampled])
    order = np.lexsort((
        np.array([one.band for one in found])[which], np.array([one.rank for one in found])[which], index
    ))  # fmt: skip
    index, numbers = index[order], which[order]
    hides = options.masked or options.scaled
    absent = ~np.concatenate([one.valid for one in sampled])[order] if hides else None

    def repeated(given: list[Any], kind: pa.DataType) -> pa.Array:
        return pa.array(given, kind).take(pa.array(numbers))

    columns = {
        "point_index": pa.array(index, pa.int64()),
        "point_x": pa.array(points.x[index]),
        "point_y": pa.array(points.y[index]),
        "point_crs": pa.repeat(points.crs, len(index)),
        "record_id": repeated([one.record.id for one in found], pa.string()),
        "datetime": repeated([one.record.moment for one in found], schema.TIMESTAMP),
        "collection": repeated([one.record.collection for one in found], pa.string()),
        "band": repeated([bands[one.band] for one in found], pa.string()),
        "value": pa.array(values[order], mask=absent),
        "raster_crs": repeated([one.record.crs for one in found], pa.string()),
    }
    if choice.neighbourhood != "off":
        columns["neighbourhood_values"] = _neighbourhoods(sampled, order, kind, options, choice)
    if points.columns is not None:
        taken = [name for name in points.columns.column_names if name in columns]
        if taken:
            raise SpecError(f"columns {taken} of the points are columns of the result too: rename them")
        kept = points.columns.take(pa.array(index))
        columns |= {name: kept.column(name) for name in kept.column_names}
    return pa.table(columns)


def _in_unit(values: npt.NDArray[Any], one: _Sampled, kind: np.dtype[Any], options: ReadOptions) -> npt.NDArray[Any]:
    values = values.astype(kind)
    if options.scaled:
        one.located.header.to_unit(values)
    return values


def _neighbourhoods(
    sampled: Sequence[_Sampled], order: _Indices, kind: np.dtype[Any], options: ReadOptions, choice: PointChoice
) -> pa.Array:  # fmt: skip
    """The pixels around each point, row by row; null where one is not there, or the list is not wanted."""
    size = (2 * choice.distance + 1) ** 2
    values, valid, looked = [], [], []
    for one in sampled:
        if one.around is not None and one.around_valid is not None and one.looked is not None:
            values.append(_in_unit(one.around, one, kind, options))
            valid.append(one.around_valid)
            looked.append(one.looked)
    flat = pa.array(np.concatenate(values)[order].ravel(), mask=~np.concatenate(valid)[order].ravel())
    ends = pa.array(np.arange(0, size * (len(order) + 1), size), pa.int32())
    return pa.ListArray.from_arrays(ends, flat, mask=pa.array(~np.concatenate(looked)[order]))
