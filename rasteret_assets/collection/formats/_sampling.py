"""Find the pixels that hold points, and read their values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from rasteret_assets.collection.areas.grid import Grid
from rasteret_assets.collection.areas.placing import turned_points
from rasteret_assets.collection.areas.point_input import Points
from rasteret_assets.collection.areas.reproject import transform_points
from rasteret_assets.collection.pixels.band import BandHeader
from rasteret_assets.collection.pixels.engine import Job
from rasteret_assets.collection.pixels.filling import run_jobs
from rasteret_assets.collection.pixels.masks import is_nodata
from rasteret_assets.collection.pixels.read_options import ReadOptions
from rasteret_assets.collection.pixels.select import Record
from rasteret_assets.collection.pixels.tile_plan import BandRead, PointTarget
from rasteret_assets.errors import SpecError, WindowError
from rasteret_assets.inputs import Neighbourhood, PointMatch
from rasteret_assets.storage.backend import StorageBackend

_Floats = npt.NDArray[np.float64]
_Indices = npt.NDArray[np.intp]
_Mask = npt.NDArray[np.bool_]

#: Values of ``match``.
MATCHES: Final = ("all", "latest")
#: Values of ``return_neighbourhood``.
NEIGHBOURHOODS: Final = ("off", "always", "if_center_nodata")


@dataclass(frozen=True, kw_only=True, slots=True)
class PointChoice:
    """Which values of a point are returned.

    Args:
        match: ``"all"`` for every record that holds a point, ``"latest"`` for the latest one with data.
        distance: rows and columns within which the nearest pixel with data replaces a pixel without data.
        neighbourhood: when the pixels within that distance are returned too: ``"off"`` (never), ``"always"`` or
            ``"if_center_nodata"``.
    """

    match: PointMatch = "all"
    distance: int = 0
    neighbourhood: Neighbourhood = "off"

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
class Located:
    """The points that lie on the raster of one band of one record.

    Args:
        rank: position of the record among all.
        band: position of the band.
        record: the record.
        header: of the band.
        points: positions of the points among all points.
        x: of each point, in pixels from the raster's first corner.
        y: of each point, in pixels from the raster's first corner.
    """

    rank: int
    band: int
    record: Record
    header: BandHeader
    points: _Indices
    x: _Floats
    y: _Floats

    def part(self, kept: _Mask) -> Located:
        """Return some of the points."""
        return replace(self, points=self.points[kept], x=self.x[kept], y=self.y[kept])

    def pixels(self, chosen: _Indices) -> tuple[_Indices, _Indices]:
        """Return rows and columns of the pixels that hold some of the points."""
        return np.floor(self.y[chosen]).astype(np.intp), np.floor(self.x[chosen]).astype(np.intp)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sampled:
    """Values of some points of one band of one record.

    Args:
        located: the points of the band.
        chosen: positions among ``located.points``.
        values: one for each of them.
        valid: booleans, true for values that are data.
        searched: booleans, true for points whose surrounding pixels were read; None if these are not returned.
        around: values of the surrounding pixels, ``[points, pixels]``; None if these are not returned.
        around_valid: booleans of the same shape, true for pixels with data.
    """

    located: Located
    chosen: _Indices
    values: npt.NDArray[Any]
    valid: _Mask
    searched: _Mask | None = None
    around: npt.NDArray[Any] | None = None
    around_valid: _Mask | None = None


def sample_values(
    records: Sequence[Record],
    points: Points,
    bands: Sequence[str],
    backend: StorageBackend,
    options: ReadOptions,
    choice: PointChoice,
) -> list[Sampled]:
    """Read the values of points, band by band and record by record.

    Args:
        records: in order, with the positions of the points that meet their footprint.
        points: the points.
        bands: names of the bands.
        backend: brings the bytes.
        options: how pixels are read.
        choice: which values of a point are returned.

    Returns:
        Values of the points that lie on a raster; at least one point does.

    Raises:
        WindowError: if no raster holds a point.
        RasteretAssetsError: the one failure of the read, or a PixelReadError that lists them all.
    """
    located = list(_located(records, points, bands))
    if not located:
        raise WindowError(
            "the points lie in footprints of records, but on none of their rasters: check the footprints in the "
            "record table"
        )
    sampling = _Sampling(bands, backend, options, choice)
    if choice.match == "latest":
        return list(_latest(located, len(points.x), sampling))
    return sampling.values([(one, np.arange(len(one.points))) for one in located])


def any_inside(points: Points, crs: str, grid: Grid) -> bool:
    """Return whether a grid in ``crs`` holds a point.

    Raises:
        WindowError: if no transformation leads from the points' CRS to ``crs``.
    """
    _, _, inside = _positions(grid, *transform_points(points.x, points.y, points.crs, crs))
    return bool(inside.any())


class _Sampling:
    """Read values of points.

    Args:
        bands: names of the bands.
        backend: brings the bytes.
        options: how pixels are read.
        choice: which values of a point are returned.
    """

    def __init__(
        self, bands: Sequence[str], backend: StorageBackend, options: ReadOptions, choice: PointChoice
    ) -> None:
        self.bands = bands
        self.backend = backend
        self.options = options
        self.choice = choice
        self.tells = options.masked or options.scaled or choice.match == "latest" or choice.distance > 0

    def values(self, wanted: Sequence[tuple[Located, _Indices]]) -> list[Sampled]:
        """Return values of some points of each band; of a near pixel where the pixel of a point has no data."""
        wanted = [(one, chosen) for one, chosen in wanted if len(chosen)]
        pixels = self._read([(one, *one.pixels(chosen)) for one, chosen in wanted])
        found = [
            Sampled(located=one, chosen=chosen, values=values, valid=valid)
            for (one, chosen), (values, valid) in zip(wanted, pixels, strict=True)
        ]
        return self._with_neighbours(found) if self.choice.distance else found

    def _with_neighbours(self, found: Sequence[Sampled]) -> list[Sampled]:
        """Replace values without data by the nearest pixel with data, and add the surrounding pixels if asked for."""
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
        self, one: Sampled, which: _Indices, around: npt.NDArray[Any], around_valid: _Mask
    ) -> Sampled:  # fmt: skip
        offsets = _square(self.choice.distance)
        ring = np.abs(offsets).max(axis=0)
        header = one.located.header
        x, y = (axis[one.chosen[which]][:, None] for axis in (one.located.x, one.located.y))
        rows, columns = np.floor(y) + offsets[0], np.floor(x) + offsets[1]
        across = np.maximum(np.maximum(columns - x, x - columns - 1), 0) * abs(header.grid.scale_x)
        down = np.maximum(np.maximum(rows - y, y - rows - 1), 0) * abs(header.grid.scale_y)
        # Sorted by ring first, then by the distance from the point to the pixel.
        order = np.lexsort((np.hypot(across, down), np.broadcast_to(ring, across.shape)), axis=1)
        first = np.take_along_axis(around_valid, order, axis=1).argmax(axis=1)
        best = np.take_along_axis(order, first[:, None], axis=1)
        values, valid = one.values.copy(), one.valid.copy()
        there = np.take_along_axis(around_valid, best, axis=1)[:, 0] & ~valid[which]
        values[which[there]] = np.take_along_axis(around, best, axis=1)[there, 0]
        valid[which[there]] = True
        if self.choice.neighbourhood == "off":
            return replace(one, values=values, valid=valid)
        searched = np.zeros(len(values), dtype=bool)
        searched[which] = True
        kept, shown = (np.zeros((len(values), around.shape[1]), kind) for kind in (around.dtype, bool))
        kept[which], shown[which] = around, around_valid
        return replace(one, values=values, valid=valid, searched=searched, around=kept, around_valid=shown)

    def _read(
        self, wanted: Sequence[tuple[Located, _Indices, _Indices]]
    ) -> list[tuple[npt.NDArray[Any], _Mask]]:  # fmt: skip
        """Return values of pixels by row and column, and which hold data; pixels beside the raster do not."""
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
        run_jobs(jobs, self.backend, self.options, lambda: (one for both in reads() for one in both))
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


def _band_read(one: Located, bands: Sequence[str], header: BandHeader | None, target: PointTarget) -> BandRead:
    record = one.record
    return BandRead(
        record=record.id, band=bands[one.band], href=record.hrefs[one.band], header=header or one.header,
        targets=[target],
    )  # fmt: skip


def _square(distance: int) -> npt.NDArray[np.intp]:
    """Return rows and columns of a square of pixels, relative to its centre, row by row: ``[2, pixels]``."""
    span = np.arange(-distance, distance + 1)
    return np.stack([axis.ravel() for axis in np.meshgrid(span, span, indexing="ij")])


def _located(records: Sequence[Record], points: Points, bands: Sequence[str]) -> Iterator[Located]:
    for rank, record in enumerate(records):
        chosen = np.asarray(record.areas, dtype=np.intp)
        x, y = transform_points(points.x[chosen], points.y[chosen], points.crs, record.crs)
        for band in range(len(bands)):
            header = record.headers[band]
            if header is None:
                continue  # the other bands of the record can be read
            columns, rows, inside = _positions(header.grid, turned_points(x, record.crs, header.grid), y)
            if inside.any():
                yield Located(
                    rank=rank, band=band, record=record, header=header, points=chosen[inside], x=columns[inside],
                    y=rows[inside],
                )  # fmt: skip


def _positions(grid: Grid, x: _Floats, y: _Floats) -> tuple[_Floats, _Floats, _Mask]:
    """Return columns and rows of points, in pixels from the grid's first corner, and whether the grid holds them."""
    with np.errstate(invalid="ignore"):
        columns = (x - grid.origin_x) / grid.scale_x
        rows = (y - grid.origin_y) / grid.scale_y
        inside = (columns >= 0) & (columns < grid.width) & (rows >= 0) & (rows < grid.height)
    return columns, rows, inside


def _latest(located: Sequence[Located], count: int, sampling: _Sampling) -> Iterator[Sampled]:
    """Yield the value of the latest record with data for each point and band; undated records count as the oldest.

    Records of a point are read one after the other, until one has data. A point without data in all records gets the
    value of the latest.
    """
    # Sorted anew, because records stand in order of time with undated ones last.
    ranked = sorted(located, key=lambda one: (one.record.moment is not None, one.rank), reverse=True)
    bands = sorted({one.band for one in ranked})
    done = {band: np.zeros(count, dtype=bool) for band in bands}
    seen = {band: np.zeros(count, dtype=bool) for band in bands}
    latest: dict[int, list[Sampled]] = {band: [] for band in bands}
    waiting = {band: [one for one in ranked if one.band == band] for band in bands}
    while any(waiting.values()):
        wanted: list[tuple[Located, _Indices]] = []
        for left in waiting.values():
            taken = np.zeros(count, dtype=bool)
            # One record of each point at a time; records that share no point are read together.
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


def _last_of_each(sampled: Sequence[Sampled], count: int) -> Iterator[Sampled]:
    """Yield for each point the value that is data, else the first value that was read."""
    owner = np.full(count, -1, dtype=np.intp)
    for number, one in enumerate(sampled):
        points = one.located.points[one.chosen]
        better = one.valid | (owner[points] < 0)
        owner[points[better]] = number
    for number, one in enumerate(sampled):
        part = _part(one, owner[one.located.points[one.chosen]] == number)
        if len(part.chosen):
            yield part


def _part(one: Sampled, kept: _Mask) -> Sampled:
    of_points = {
        name: array[kept]
        for name in ("chosen", "values", "valid", "searched", "around", "around_valid")
        if (array := getattr(one, name)) is not None
    }
    return replace(one, **of_points)
