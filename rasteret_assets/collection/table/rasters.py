"""Read the pixel grids of records as arrays, from the few small fields of headers that state them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets import schema
from rasteret_assets.collection.table.row_places import Leaves, Places, Rows
from rasteret_assets.columns.instants import utc_instants
from rasteret_assets.errors import CollectionError, WindowError

Floats = npt.NDArray[np.float64]

#: Fields of a header that state the pixel grid and the CRS.
_FIELDS: Final = ("image_width", "image_height", "transform", "epsg", schema.CRS)
_UNSTATED: Final = ""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Rasters:
    """The rasters of N records.

    Args:
        places: int64 ``[N]``, places of the records in :class:`~rasteret_assets.collection.table.row_places.Rows`.
        ids: of the records, strings ``[N]``.
        moments: their datetimes, UTC microseconds ``[N]``, null for undated ones.
        grids: float64 ``[N, 4]``: scale_x, origin_x, scale_y and origin_y of the pixel grid of the finest band.
        sizes: int32 ``[N, 2]``: columns and rows of that grid.
        crs: int32 ``[N]``, the position of the raster's CRS in ``crs_names``.
        crs_names: CRSs as headers or records state them; empty if neither does.
    """

    places: Places
    ids: pa.Array
    moments: pa.Array
    grids: Floats
    sizes: npt.NDArray[np.int32]
    crs: npt.NDArray[np.int32]
    crs_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.places)

    @property
    def bounds(self) -> Floats:
        """(xmin, ymin, xmax, ymax) of the pixel grids, each in its own CRS, float64 ``[N, 4]``."""
        scale_x, x, scale_y, y = self.grids.T
        far_x, far_y = x + self.sizes[:, 0] * scale_x, y + self.sizes[:, 1] * scale_y
        return np.column_stack([np.minimum(x, far_x), np.minimum(y, far_y), np.maximum(x, far_x), np.maximum(y, far_y)])

    def take(self, rows: npt.NDArray[Any]) -> Rasters:
        """Return some of the rasters, by position or mask."""
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        return replace(
            self,
            places=self.places[rows],
            ids=self.ids.take(pa.array(rows)),
            moments=self.moments.take(pa.array(rows)),
            grids=self.grids[rows],
            sizes=self.sizes[rows],
            crs=self.crs[rows],
        )

    def order(self) -> npt.NDArray[np.int64]:
        """Return positions ``[N]`` by datetime and id, undated ones last."""
        table = pa.table({"moment": self.moments, "id": self.ids})
        keys = [("moment", "ascending", "at_end"), ("id", "ascending", "at_end")]
        return np.asarray(pc.sort_indices(table, sort_keys=keys)).astype(np.int64)

    def in_order(self) -> Rasters:
        """Return the rasters by datetime and id, undated ones last."""
        return self.take(self.order())


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """The rasters of a record table.

    Args:
        rasters: of the records that have all headers, in the order of the table.
        without: ids of records that lack a header.
        apart: positions in ``rasters`` of records whose bands do not state the same grid and CRS to the last digit.
    """

    rasters: Rasters
    without: pa.Array
    apart: npt.NDArray[np.intp]


def leaves_of(table: pa.Schema, bands: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the fields that :func:`scan_rasters` reads, as paths by column name."""
    wanted: list[tuple[str, ...]] = [
        (name,) for name in (schema.ID, schema.DATETIME, schema.PROJ_EPSG, schema.CRS) if name in table.names
    ]
    for band in bands:
        column = schema.band_column(band)
        names = {field.name for field in table.field(column).type}
        wanted += [(column, name) for name in _FIELDS if name in names]
    return {".".join(path): path for path in wanted}


def scan_rasters(rows: Rows, table: pa.Schema, bands: Sequence[str]) -> Found:
    """Read the pixel grids of all rows.

    Args:
        rows: of the record table.
        table: its schema.
        bands: of which a record must have the headers; the grid is that of the band with the smallest pixels.

    Raises:
        CollectionError: if a header contradicts itself, or a file cannot be read.
    """
    names: dict[str, int] = {}
    parts = list(_parts(rows, leaves_of(table, bands), bands, names))
    if not parts:
        parts = [rasters_of(np.empty(0, np.int64), _nothing(table, bands), bands, names)]
    starts = np.cumsum([0, *(len(part.rasters) for part in parts)])
    return Found(
        rasters=join_rasters([part.rasters for part in parts], names),
        without=pa.chunked_array([part.without for part in parts]).combine_chunks(),
        apart=np.concatenate([part.apart + start for part, start in zip(parts, starts, strict=False)]),
    )


def join_rasters(parts: Sequence[Rasters], names: Mapping[str, int]) -> Rasters:
    """Join the rasters of several parts, at least one, that :func:`rasters_of` returned.

    Args:
        parts: in the order of the table.
        names: position of every CRS by its name, as :func:`rasters_of` filled it.
    """
    joined: dict[str, Any] = {}
    for field in fields(Rasters):
        values = [getattr(part, field.name) for part in parts]
        if field.name in ("ids", "moments"):
            joined[field.name] = pa.chunked_array(values).combine_chunks()
        elif field.name != "crs_names":
            joined[field.name] = np.concatenate(values)
    return Rasters(**joined, crs_names=tuple(names))


def first_scale(rows: Rows, table: pa.Schema, band: str) -> tuple[float, float]:
    """Return (width, height) of a pixel of the first record that has the header of ``band``, in units of its CRS.

    Raises:
        WindowError: if no record has the header.
        CollectionError: if the header contradicts itself, or a file cannot be read.
    """
    for part in _parts(rows, leaves_of(table, [band]), [band], {}):
        if len(part.rasters):
            scale_x, _, scale_y, _ = part.rasters.grids[0].tolist()
            return abs(scale_x), abs(scale_y)
    raise WindowError(
        f"the index has no header of band {band!r}, so the size of its pixels is unknown: `rasteret-assets "
        "failures` tells why"
    )


def _nothing(table: pa.Schema, bands: Sequence[str]) -> pa.Table:
    leaves = leaves_of(table, bands)

    def kind(path: tuple[str, ...]) -> pa.DataType:
        found = table.field(path[0]).type
        for name in path[1:]:
            found = found.field(name).type
        return found

    return pa.table({name: pa.array([], kind(path)) for name, path in leaves.items()})


def _parts(rows: Rows, leaves: Leaves, bands: Sequence[str], names: dict[str, int]) -> Iterator[Found]:
    for places, table in rows.scan(leaves):
        yield rasters_of(places, table, bands, names)


def rasters_of(places: Places, table: pa.Table, bands: Sequence[str], names: dict[str, int]) -> Found:
    """Return the rasters of some rows.

    Args:
        places: of the rows.
        table: their leaves, as :func:`leaves_of` names them.
        bands: as for :func:`scan_rasters`.
        names: position of every CRS by its name; new ones are added.

    Raises:
        CollectionError: if a header contradicts itself.
    """
    headers = [_header(table, schema.band_column(band)) for band in bands]
    complete = np.logical_and.reduce([header["there"] for header in headers])
    kept = np.flatnonzero(complete)
    ids = table[schema.ID].combine_chunks().cast(pa.string())
    grids = np.stack([header["grids"][kept] for header in headers])
    sizes = np.stack([header["sizes"][kept] for header in headers])
    wrong = ~(np.isfinite(grids).all(axis=2) & (grids[..., ::2] != 0).all(axis=2) & (sizes > 0).all(axis=2))
    if wrong.any():
        band, row = np.argwhere(wrong)[0]
        raise CollectionError(
            f"the header of record {ids[kept[row]].as_py()!r}, band {bands[band]!r} contradicts itself (its transform "
            "or its size is empty): build again with force=True to read it anew"
        )
    finest = np.argmin(np.abs(grids[..., 0] * grids[..., 2]), axis=0)
    every = np.arange(len(kept))
    own = np.stack([_codes(header["crs"], names)[kept] for header in headers])
    stated = _codes(_texts(table, schema.PROJ_EPSG, schema.CRS), names)[kept]
    crs = np.where(own[0] == names[_UNSTATED], stated, own[0]).astype(np.int32)
    apart = (grids != grids[:1]).any(axis=(0, 2)) | (sizes != sizes[:1]).any(axis=(0, 2)) | (own != own[:1]).any(axis=0)
    rasters = Rasters(
        places=places[kept],
        ids=ids.take(pa.array(kept)),
        moments=utc_instants(table[schema.DATETIME].combine_chunks()).take(pa.array(kept)),
        grids=grids[finest, every],
        sizes=sizes[finest, every],
        crs=crs,
        crs_names=(),
    )
    return Found(rasters=rasters, without=ids.filter(pa.array(~complete)), apart=np.flatnonzero(apart))


def _header(table: pa.Table, column: str) -> Mapping[str, Any]:
    """Return grid, size and CRS of one band, and which rows have its header."""
    transform = table[f"{column}.transform"].combine_chunks()
    width, height = (table[f"{column}.{name}"].combine_chunks() for name in ("image_width", "image_height"))
    there = np.asarray(width.is_valid())
    grids = np.full((len(there), 4), np.nan)
    four = np.asarray(pc.fill_null(pc.equal(pc.list_value_length(transform), 4), fill_value=False))
    values = transform.filter(pa.array(four)).flatten()
    grids[four] = pc.fill_null(values.cast(pa.float64()), np.nan).to_numpy(zero_copy_only=False).reshape(-1, 4)
    sizes = [pc.fill_null(side, 0).to_numpy(zero_copy_only=False).astype(np.int32) for side in (width, height)]
    crs = _texts(table, f"{column}.epsg", f"{column}.{schema.CRS}")
    return {"there": there, "grids": grids, "sizes": np.column_stack(sizes), "crs": crs}


def _texts(table: pa.Table, epsg: str, crs: str) -> pa.Array:
    """Return CRSs as text, by EPSG code if one is stated; empty if none is stated."""

    def column(name: str, kind: pa.DataType) -> pa.Array:
        if name not in table.column_names:
            return pa.nulls(table.num_rows, kind)
        return table[name].combine_chunks().cast(kind)

    codes = column(epsg, pa.int32())
    texts = pc.binary_join_element_wise("EPSG:", codes.cast(pa.string()), "")
    has_code = pc.fill_null(pc.not_equal(codes, 0), fill_value=False)
    return pc.fill_null(pc.if_else(has_code, texts, column(crs, pa.string())), _UNSTATED)


def _codes(texts: pa.Array, names: dict[str, int]) -> npt.NDArray[np.int32]:
    """Return the positions of texts in ``names``, to which new ones are added."""
    names.setdefault(_UNSTATED, 0)
    encoded = texts.dictionary_encode()
    positions = [names.setdefault(text, len(names)) for text in encoded.dictionary.to_pylist()]
    return np.asarray(positions, np.int32)[np.asarray(encoded.indices)] if positions else np.empty(0, np.int32)
