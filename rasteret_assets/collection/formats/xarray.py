"""Return pixels as one xarray Dataset: a variable for each band over time, y and x, by CF's conventions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from rasteret_assets.collection.areas.area import Area
from rasteret_assets.collection.areas.grid import Grid, Window
from rasteret_assets.collection.extras import optional
from rasteret_assets.collection.formats.cf import (
    GRID_MAPPING,
    axis_attributes,
    instants,
    mapping_attributes,
)
from rasteret_assets.collection.formats.mosaic import Mosaic, combined
from rasteret_assets.collection.pixels.backends import Source
from rasteret_assets.collection.pixels.band import BandHeader
from rasteret_assets.collection.pixels.filling import fill
from rasteret_assets.collection.pixels.pixel_request import PixelRequest
from rasteret_assets.collection.pixels.planes import Plane
from rasteret_assets.collection.pixels.read_options import ReadOptions
from rasteret_assets.collection.pixels.views import View, common_grid
from rasteret_assets.errors import SpecError, WindowError
from rasteret_assets.inputs import ChunksLike
from rasteret_assets.storage.process.batches import bounded_runs

if TYPE_CHECKING:
    import xarray as xr
    from dask.array import Array as DaskArray

#: Bytes of layers that are in memory at once while they are combined.
_LAYER_BYTES: Final = 128 * 2**20

#: The records of each step of time.
_Groups = Sequence[Sequence[View]]


def read_cube(request: PixelRequest, chunks: ChunksLike | None, mosaic: Mosaic) -> xr.Dataset:
    """Return a Dataset of the records of a request over the extent of all areas together.

    Args:
        request: what is read; views of one record become one step of time. Its source is opened when pixels are read,
            in the process that reads.
        chunks: None to read now; else sizes by dimension, to read when dask computes.
        mosaic: how records are grouped into steps of time, and combined.

    Raises:
        WindowError: if records lie in several CRSs, their pixels do not coincide, or their nodata differ and no value
            can mark all pixels without data.
    """
    xarray = optional("xarray", extra="xarray", purpose="get_xarray")
    views, bands, source, options = request.views, request.bands, request.source, request.options
    crs, grid = common_grid(views, is_lazy=chunks is not None)
    groups = mosaic.groups(_steps(views, grid))
    kinds = [_kind(groups, band, name, options, mosaic) for band, name in enumerate(bands)]
    # All bands at once, so that a tile that holds several bands is read once.
    whole = _Cube(groups=groups, bands=bands, kinds=kinds, source=source, options=options, mosaic=mosaic)
    if chunks is None:
        pixels: list[Any] = whole.read(slice(None), grid.whole)
    else:
        pixels = [_lazy(whole.of_band(band), chunks) for band in range(len(bands))]
    variables = {
        name: (("time", "y", "x"), values, _attributes(kind, options))
        for name, values, kind in zip(bands, pixels, kinds, strict=True)
    }
    cube: xr.Dataset = xarray.Dataset(variables, coords=_coordinates(groups, crs, grid, mosaic))
    return cube


def _steps(views: Sequence[View], grid: Grid) -> list[View]:
    """Return a view for each record, all on the same grid, with all areas of the record."""
    areas: dict[Any, list[tuple[int, Area]]] = {}
    for view in views:
        areas.setdefault(view.record, []).extend(view.areas)
    return [View(record=record, areas=found, crs=views[0].crs, grid=grid) for record, found in areas.items()]


def _of_band(groups: _Groups, band: int) -> _Groups:
    """Return the groups with headers of one band only, so that a task carries no other headers."""
    return [
        [
            replace(step, record=replace(step.record, headers=[step.record.headers[band]],
                                         hrefs=[step.record.hrefs[band]]))
            for step in group
        ]
        for group in groups
    ]  # fmt: skip


class _Kind(NamedTuple):
    """Type of a variable, and the value of its pixels without data; None if no value marks them."""

    dtype: np.dtype[Any]
    fill: Any


#: The first and the last microsecond that int64 nanoseconds since 1970 can hold.
_FIRST: Final = np.datetime64(-(2**63 // 1000), "us")
_LAST: Final = np.datetime64(2**63 // 1000, "us")

#: Wider types of integers, which have values besides those of the narrower type to mark pixels without data.
_WIDER: Final[dict[str, Any]] = {
    "i1": np.int16,
    "u1": np.int16,
    "i2": np.int32,
    "u2": np.int32,
    "i4": np.int64,
    "u4": np.int64,
}


def _kind(groups: _Groups, band: int, name: str, options: ReadOptions, mosaic: Mosaic) -> _Kind:
    """Choose the type of a variable, and one value for the pixels without data of all records.

    A variable has one ``_FillValue`` (CF conventions 1.11, 2.5.1). If records have different nodata, or only some
    have nodata, the type is widened, so that no pixel with data has the value of those without.

    Raises:
        WindowError: if no wider type exists.
    """
    headers = [step.record.headers[band] for group in groups for step in group]
    present = [header for header in headers if header is not None]
    has_nan = options.masked or options.scaled or mosaic.computes
    if not present:
        return _Kind(np.dtype(np.float32), np.float32(np.nan)) if has_nan else _Kind(np.dtype(np.uint8), None)
    dtype = np.result_type(*{header.sample_type for header in present})
    if has_nan:
        # The smallest float that holds every value (nearly every one of 64-bit integers).
        floats = options.read_type([np.result_type(dtype, np.float32)])
        return _Kind(floats, floats.type(np.nan))
    kind = _whole_kind(present, dtype, name, is_whole=len(present) == len(headers))
    return _Kind(options.read_type([kind.dtype]), kind.fill)


def _whole_kind(present: Sequence[BandHeader], dtype: np.dtype[Any], name: str, *, is_whole: bool) -> _Kind:
    """Choose type and value for pixels that keep their type; ``is_whole`` says that every record has the band."""
    nodata = {"none" if header.nodata is None else str(header.nodata) for header in present}
    if len(nodata) == 1 and (present[0].nodata is not None or is_whole):
        return _Kind(dtype, None if present[0].nodata is None else dtype.type(present[0].nodata))
    if dtype.kind == "f":
        return _Kind(dtype, dtype.type(np.nan))
    wider = _WIDER.get(dtype.str[1:])
    if wider is None:
        raise WindowError(
            f"band {name!r}: the records have different nodata ({', '.join(sorted(nodata))}), and no integer type "
            "has a value for all of them: read with masked=True"
        )
    return _Kind(np.dtype(wider), wider(np.iinfo(wider).min))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Cube:
    """Bands as arrays over time, y and x, of which parts can be read.

    Args:
        groups: steps of time.
        bands: names of the bands.
        kinds: type of each.
        source: where the bytes come from.
        options: how pixels are read.
        mosaic: how the records of one step are combined.
    """

    groups: _Groups
    bands: Sequence[str]
    kinds: Sequence[_Kind]
    source: Source
    options: ReadOptions
    mosaic: Mosaic

    def of_band(self, band: int) -> _Cube:
        """Return the cube of one band, without headers of other bands."""
        return replace(
            self, groups=_of_band(self.groups, band), bands=[self.bands[band]], kinds=[self.kinds[band]]
        )  # fmt: skip

    def read(self, times: slice, window: Window) -> list[npt.NDArray[Any]]:
        """Read some steps of time of a window of the grid, as an array for each band."""
        groups = [[replace(step, grid=step.grid.part(window)) for step in group] for group in self.groups[times]]
        shape = (len(groups), window.height, window.width)
        pixels = [np.empty(shape, dtype=kind.dtype) for kind in self.kinds]
        alone = [
            Plane(view=group[0], band=band, pixels=cube[time], fill=kind.fill)
            for time, group in enumerate(groups)
            if len(group) == 1
            for band, (cube, kind) in enumerate(zip(pixels, self.kinds, strict=True))
        ]
        backend = self.source.open()
        if alone:
            fill(alone, self.bands, backend, self.options)
        for layers in bounded_runs(list(self._layers(groups, pixels)), attrgetter("cost"), _LAYER_BYTES):
            fill([plane for layer in layers for plane in layer.planes], self.bands, backend, self.options)
            for layer in layers:
                layer.combine(self.mosaic)
        return [self.options.finished(cube) for cube in pixels]

    def _layers(self, groups: _Groups, pixels: Sequence[npt.NDArray[Any]]) -> Iterator[_Layers]:
        """Yield the layers of steps of several records, in strips of whole rows of tiles."""
        for time, group in enumerate(groups):
            if len(group) == 1:
                continue
            grid = group[0].grid
            row_bytes = len(group) * grid.width * (self.kinds[0].dtype.itemsize + 1)
            edges = _tile_edges(group[0], axis=0)
            for first, last in _strips(edges, max(_LAYER_BYTES // row_bytes, 1)):
                strip = Window(col_off=0, row_off=first, width=grid.width, height=last - first)
                views = [replace(view, grid=grid.part(strip)) for view in group]
                for band, (cube, kind) in enumerate(zip(pixels, self.kinds, strict=True)):
                    yield _Layers(views, band, cube[time][strip.slices], kind, scaled=self.options.scaled)


class _Layers:
    """One band of several records on one grid, which are combined to one array.

    Args:
        views: of the records.
        band: position of the band.
        out: array of the grid's shape that gets the result.
        kind: of the result.
        scaled: whether values are multiplied by the scale and added to the offset of their band.
    """

    def __init__(self, views: Sequence[View], band: int, out: npt.NDArray[Any], kind: _Kind, *, scaled: bool) -> None:
        self.views = views
        self.band = band
        self.out = out
        self.kind = kind
        self.scaled = scaled
        self.cost = len(views) * out.size * (out.itemsize + 1)
        self.pixels: npt.NDArray[Any] = np.empty(0)
        self.valid: npt.NDArray[np.bool_] = np.empty(0, dtype=bool)

    @property
    def planes(self) -> list[Plane]:
        """Planes of the records; their arrays are allocated here."""
        shape = (len(self.views), *self.out.shape)
        self.pixels, self.valid = np.empty(shape, self.out.dtype), np.empty(shape, dtype=bool)
        return [
            Plane(
                view=view, band=self.band, pixels=self.pixels[number], valid=self.valid[number], fill=self.kind.fill
            )
            for number, view in enumerate(self.views)
        ]  # fmt: skip

    def combine(self, mosaic: Mosaic) -> None:
        """Write the result, and free the layers."""
        self.out[...], there = combined(self.pixels, self.valid, mosaic.rule)
        self.out[~there] = 0 if self.kind.fill is None else self.kind.fill
        self.pixels, self.valid = np.empty(0), np.empty(0, dtype=bool)


class _LazyBand:
    """One band as an array that reads its slices when they are taken, as ``dask.array.from_array`` needs it."""

    def __init__(self, cube: _Cube) -> None:
        grid = cube.groups[0][0].grid
        self.cube = cube
        self.dtype = cube.kinds[0].dtype if cube.options.dtype is None else cube.options.dtype
        self.shape = (len(cube.groups), grid.height, grid.width)
        self.ndim = 3

    def __getitem__(self, key: tuple[slice, slice, slice]) -> npt.NDArray[Any]:
        times, rows, columns = (slice(*part.indices(size)) for part, size in zip(key, self.shape, strict=True))
        window = Window(
            col_off=columns.start, row_off=rows.start, width=columns.stop - columns.start,
            height=rows.stop - rows.start,
        )  # fmt: skip
        return self.cube.read(times, window)[0]


def _lazy(cube: _Cube, chunks: ChunksLike) -> DaskArray:
    dask = optional("dask.array", extra="xarray", purpose="get_xarray(chunks=...)")
    lazy = _LazyBand(cube)
    array: DaskArray = dask.from_array(lazy, chunks=_chunks(lazy, chunks), name=False, asarray=True, fancy=False)
    return array


def _chunks(lazy: _LazyBand, chunks: ChunksLike) -> ChunksLike:
    """Return chunks as dask takes them; if a size is not given, borders of chunks are borders of the file's tiles."""
    step = lazy.cube.groups[0][0]
    edges = [_tile_edges(step, axis=axis) for axis in (0, 1)]
    if isinstance(chunks, str) and chunks == "auto":
        dask = optional("dask", extra="xarray", purpose="get_xarray(chunks=...)")
        size = dask.utils.parse_bytes(dask.config.get("array.chunk-size"))
        side = int((size / lazy.dtype.itemsize) ** 0.5)
        return (1, *(tuple(last - first for first, last in _strips(along, side)) for along in edges))
    if not isinstance(chunks, Mapping):
        return chunks
    if unknown := set(chunks) - {"time", "y", "x"}:
        raise SpecError(f"chunks={dict(chunks)!r} names {sorted(unknown)}: the dimensions are time, y and x")
    tiles: dict[str, int | Sequence[int]] = {
        "time": 1,
        **dict(zip("yx", (tuple(np.diff(along).tolist()) for along in edges), strict=True)),
    }
    return tuple(chunks[name] if name in chunks else tiles[name] for name in ("time", "y", "x"))


def _tile_edges(step: View, *, axis: int) -> list[int]:
    """Return the rows (axis 0) or columns (1) of a grid at which a file's tiles begin, with the first and the end."""
    header = next((one for one in step.record.headers if one is not None), None)
    size = (step.grid.height, step.grid.width)[axis]
    if header is None:
        return [0, size]
    tile, begin = (header.tile_height, header.tile_width)[axis], 0
    if step.crs == step.record.crs:
        for level in (header, *header.overviews):
            if (offset := level.grid.offset(step.grid)) is not None:
                tile, begin = (level.tile_height, level.tile_width)[axis], offset[1 - axis]
                break
    return [0, *range(tile - begin % tile, size, tile), size]


def _strips(edges: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """Yield spans of at most ``most`` rows or columns between edges; a longer tile is a span by itself."""
    first = edges[0]
    for edge, following in zip(edges[1:], [*edges[2:], None], strict=True):
        if following is None or following - first > most:
            yield first, edge
            first = edge


def _attributes(kind: _Kind, options: ReadOptions) -> dict[str, Any]:
    attributes: dict[str, Any] = {"grid_mapping": GRID_MAPPING}
    if kind.fill is not None and not np.isnan(kind.fill):
        attributes["_FillValue"] = kind.fill if options.dtype is None else options.dtype.type(kind.fill)
    return attributes


def _times(times: npt.NDArray[np.datetime64]) -> npt.NDArray[np.datetime64]:
    """Return times in nanoseconds, xarray's usual unit, unless a time lies beyond their years (1678 to 2261)."""
    # Compared before they are converted: from numpy 2.5 on a time that nanoseconds cannot hold raises OverflowError.
    present = times[~np.isnat(times)]
    is_held = present.size == 0 or (present.min() >= _FIRST and present.max() <= _LAST)
    return times.astype("datetime64[ns]") if is_held else times


def _coordinates(groups: _Groups, crs: str, grid: Grid, mosaic: Mosaic) -> dict[str, Any]:
    x, y = grid.centres
    steps = [group[0] for group in groups]
    axes = axis_attributes(crs)
    counts = {} if mosaic.groupby is None else {"records": ("time", np.array([len(group) for group in groups]))}
    return {
        **counts,
        "time": ("time", _times(instants([step.record.moment for step in steps]))),
        "y": ("y", y, axes["Y"]),
        "x": ("x", x, axes["X"]),
        "id": ("time", np.array([step.record.id for step in steps], dtype=object)),
        GRID_MAPPING: ((), 0, mapping_attributes(crs, grid)),
    }
