"""Tell GDAL of the files of one band, from their headers: where each lies, and how its pixels are stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets import schema
from rasteret_assets.collection.pixels.band import nodata_value
from rasteret_assets.collection.pixels.record_table import RecordTable
from rasteret_assets.collection.table.rasters import Rasters, join_rasters, leaves_of, rasters_of
from rasteret_assets.collection.table.row_places import rows_of
from rasteret_assets.columns.types import is_list
from rasteret_assets.errors import CollectionError, WindowError
from rasteret_assets.secrets import redact
from rasteret_assets.storage.addresses.address import unsigned_hrefs
from rasteret_assets.storage.addresses.gdal import gdal_addresses
from rasteret_assets.tiff.samples import find_alpha

#: Fields of a header that say how pixels are stored, beside those that say where the raster lies.
_FIELDS: Final = (
    "dtype", "nodata", "nodata_text", "samples_per_pixel", "photometric", "extra_samples", "band_index", "scale",
    "offset", "tile_width", "tile_height",
)  # fmt: skip
_HREF: Final = "href"
_INDEX: Final = "index"
_LOCATION: Final = "location"
_KIND: Final = "kind"
_PALETTE, _RGB, _YCBCR = 3, 2, 6
_COLOURS: Final = ("red", "green", "blue")


@dataclass(frozen=True, kw_only=True, slots=True)
class Storage:
    """The storage of the pixels of one band, which many files share.

    Args:
        dtype: type of a sample, in native byte order.
        nodata: value without data, in that type; None without.
        band: number of the band in its file, from 1.
        alpha: number of the file's alpha band, from 1; None without.
        samples: bands in the file.
        colour: ``red``, ``green``, ``blue``, ``alpha``, ``palette`` or ``gray``.
        scale: factor that makes a pixel a physical value; None where the file states none.
        offset: what is added then; likewise.
        tile: columns and rows of a tile.
    """

    dtype: np.dtype[Any]
    nodata: Any
    band: int
    alpha: int | None
    samples: int
    colour: str
    scale: float | None
    offset: float | None
    tile: tuple[int, int]

    @property
    def choice(self) -> str:
        """Return the bands that GDAL's ``vrt://`` takes of the file; empty where the file can be read as it is.

        A tile index reads the first bands of a file, and hides what an alpha band hides even where there is nodata,
        which GDAL itself and this package let go before alpha.
        """
        alpha = self.alpha if self.nodata is None and self.alpha != self.band else None
        if self.band == 1 and (self.alpha is None or alpha is not None):
            return ""
        return f"{self.band},{alpha}" if alpha is not None else str(self.band)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BandFiles:
    """The files of one band that have a header, N of them, by datetime and id of their records, undated ones last.

    Args:
        rasters: where they lie.
        locations: where GDAL finds each, strings ``[N]``.
        clouds: cloud cover of their records in percent, ``[N]``; None where the table does not say.
        kinds: position of each in ``storages``, ``[N]``.
        storages: how their pixels are stored.
        without: number of records that have no header of the band.
    """

    rasters: Rasters
    locations: pa.Array
    clouds: pa.Array | None
    kinds: npt.NDArray[np.intp]
    storages: tuple[Storage, ...]
    without: int


def files_of(collection: RecordTable, band: str) -> BandFiles:
    """Read what the index knows of the files of a band; no file is opened.

    It takes about a kilobyte of memory for each record, whatever the size of its tile tables.

    Args:
        collection: the records.
        band: name of a band that it has.

    Raises:
        WindowError: if no record has a header of the band.
        CollectionError: if a header contradicts itself, an address has no spelling of GDAL's, or a file of the
            collection cannot be read.
    """
    leaves = _leaves(collection.schema, band)
    rows = rows_of(collection.dataset, collection.expression, collection.areas, leaves)
    names: dict[str, int] = {}
    storages: dict[tuple[str, ...], tuple[int, Storage]] = {}
    rasters: list[Rasters] = []
    columns: list[pa.Table] = []
    without = 0
    for places, table in rows.scan(leaves):
        found = rasters_of(places, table, [band], names)
        without += len(found.without)
        there = table.filter(table[f"{schema.band_column(band)}.image_width"].is_valid())
        if there.num_rows:
            rasters.append(found.rasters)
            columns.append(_columns(there, band, storages))
    if not rasters:
        raise WindowError(
            f"none of {without} records has the header of band {band!r}: rasteret-assets failures tells why"
            if without
            else "no record satisfies the filters: compare them with what the collection holds"
        )
    joined = join_rasters(rasters, names)
    order = joined.order()
    sorted_columns = pa.concat_tables(columns).take(pa.array(order)).combine_chunks()
    return BandFiles(
        rasters=joined.take(order),
        locations=sorted_columns[_LOCATION],
        clouds=sorted_columns[schema.CLOUD_COVER] if schema.CLOUD_COVER in sorted_columns.column_names else None,
        kinds=sorted_columns[_KIND].to_numpy(),
        storages=tuple(storage for _, storage in storages.values()),
        without=without,
    )


def _leaves(table: pa.Schema, band: str) -> dict[str, tuple[str, ...]]:
    """Return the fields that are read; headers of older collections lack some."""
    column = schema.band_column(band)
    leaves = leaves_of(table, [band])
    leaves |= {
        f"{column}.{field.name}": (column, field.name) for field in table.field(column).type if field.name in _FIELDS
    }
    leaves[_HREF] = (schema.ASSETS, band, schema.HREF)
    if table.field(schema.ASSETS).type.field(band).type.get_field_index(schema.BAND_INDEX) >= 0:
        leaves[_INDEX] = (schema.ASSETS, band, schema.BAND_INDEX)
    if schema.CLOUD_COVER in table.names:
        leaves[schema.CLOUD_COVER] = (schema.CLOUD_COVER,)
    return leaves


def _columns(table: pa.Table, band: str, storages: dict[tuple[str, ...], tuple[int, Storage]]) -> pa.Table:
    """Return locations, kinds and cloud cover of rows that have a header; new kinds are added to ``storages``."""
    numbers, firsts = _distinct(table, band)
    kinds = []
    for first in firsts:  # of many rows few differ in how they are stored
        values = _values(table.slice(first, 1), band)
        key = tuple(map(repr, values.values()))
        if key not in storages:
            storages[key] = len(storages), _storage(values, table[schema.ID][first].as_py(), band)
        kinds.append(storages[key])
    choices = pa.array([storage.choice for _, storage in kinds]).take(pa.array(numbers))
    columns = {
        _LOCATION: _locations(table, choices, band),
        _KIND: pa.array(np.array([number for number, _ in kinds])[numbers]),
    }
    if schema.CLOUD_COVER in table.column_names:
        columns[schema.CLOUD_COVER] = table[schema.CLOUD_COVER].cast(pa.float64())
    return pa.table(columns)


def _distinct(table: pa.Table, band: str) -> tuple[npt.NDArray[np.intp], list[int]]:
    """Number rows by how they are stored: a number for each row, and the first row of each number."""
    column = schema.band_column(band)
    names = [name for name in (*(f"{column}.{field}" for field in _FIELDS), _INDEX) if name in table.column_names]
    codes = np.zeros(table.num_rows, np.int64)
    for name in names:
        values = table[name].combine_chunks()
        if is_list(values.type):
            values = pc.binary_join(values.cast(pa.list_(pa.string())), ",")
        encoded = values.dictionary_encode(null_encoding="encode")
        own = np.asarray(encoded.indices).astype(np.int64)
        codes = np.unique(codes * (len(encoded.dictionary) + 1) + own, return_inverse=True)[1]
    _, firsts, numbers = np.unique(codes, return_index=True, return_inverse=True)
    return numbers, firsts.tolist()


def _values(row: pa.Table, band: str) -> dict[str, Any]:
    """Return what the header of one row says of its pixels, with TIFF's defaults."""
    column = schema.band_column(band)

    def value(name: str, default: Any = None) -> Any:
        found = row[name][0].as_py() if name in row.column_names else None
        return default if found is None else found

    values = {name: value(f"{column}.{name}") for name in _FIELDS}
    if values["band_index"] is None:
        values["band_index"] = value(_INDEX, 0)
    return values


def _storage(values: Mapping[str, Any], record: str, band: str) -> Storage:
    try:
        dtype = np.dtype(values["dtype"])
        samples, extra = values["samples_per_pixel"] or 1, values["extra_samples"] or ()
        alpha = find_alpha(samples, extra, dtype)
        nodata = nodata_value(dtype, values["nodata"], values["nodata_text"])
        tile = int(values["tile_width"]), int(values["tile_height"])
    except (TypeError, ValueError) as error:
        raise CollectionError(
            f"the header of record {record!r}, band {band!r} contradicts itself ({error}): index it again"
        ) from error
    return Storage(
        dtype=dtype.newbyteorder("="),
        nodata=nodata,
        band=values["band_index"] + 1,
        alpha=None if alpha is None else alpha + 1,
        samples=samples,
        colour=_colour(values["photometric"], values["band_index"], alpha),
        scale=values["scale"],
        offset=values["offset"],
        tile=tile,
    )


def _colour(photometric: int | None, band_index: int, alpha: int | None) -> str:
    """Return GDAL's name of what a band shows."""
    if band_index == alpha:
        return "alpha"
    if photometric in (_RGB, _YCBCR) and band_index < len(_COLOURS):
        return _COLOURS[band_index]
    return "palette" if photometric == _PALETTE else "gray" if band_index == 0 else "undefined"


def _locations(table: pa.Table, choices: pa.Array, band: str) -> pa.Array:
    """Return where GDAL finds the files of some rows, without anything that grants access to them.

    Args:
        table: rows with their addresses.
        choices: bands to take of each file; empty for a file as it is.
        band: name of the band, for messages.
    """
    hrefs = unsigned_hrefs(table[_HREF].combine_chunks().cast(pa.string()))
    plain = gdal_addresses(hrefs)
    chosen = pc.not_equal(choices, "")
    # vrt:// takes the first question mark for the end of the address.
    unnamed = pc.or_(plain.is_null(), pc.and_(chosen, pc.fill_null(pc.match_substring(plain, "?"), fill_value=False)))
    if pc.any(unnamed).as_py():
        row = pc.index(unnamed, value=True).as_py()
        href = redact(hrefs[row].as_py() or "")
        raise CollectionError(
            f"record {table[schema.ID][row].as_py()!r}, band {band!r}: GDAL has no spelling for {href!r}"
            + (
                ", because its band is not the first of its file and its address has a query"
                if plain[row].is_valid
                else ""
            )
            + ": leave the band or the record out"
        )
    return pc.if_else(chosen, pc.binary_join_element_wise("vrt://", plain, "?bands=", choices, ""), plain)
