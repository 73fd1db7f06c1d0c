"""Which records meet a map tile, and their bands as files: from the index, without a request for a raster."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from shapely.geometry.base import BaseGeometry

from rasteret_assets import schema
from rasteret_assets.collection.areas.footprints import FootprintTree
from rasteret_assets.collection.collection import Collection
from rasteret_assets.collection.pixels.backends import Source
from rasteret_assets.collection.pixels.read_options import AREA_DEFAULTS
from rasteret_assets.collection.pixels.record_table import has_href
from rasteret_assets.collection.pixels.select import named_crs
from rasteret_assets.collection.table.rasters import leaves_of, rasters_of
from rasteret_assets.collection.table.row_places import Places, Recent, Rows, rows_of, split
from rasteret_assets.collection.table.summary import crs_code
from rasteret_assets.columns.instants import utc_instants
from rasteret_assets.errors import CollectionError, StaleRowsError
from rasteret_assets.storage.unchanged import IndexedFile
from rasteret_assets.tiles.range_file import BandFile
from rasteret_assets.tiles.tiff_bytes import write_tiff

Order = Literal["newest", "oldest", "clearest"]
ORDERS: Final[tuple[Order, ...]] = ("newest", "oldest", "clearest")

#: Bytes of row groups, and of files' directories, that are kept for the map tiles to come.
_GROUP_BYTES: Final = 48 * 2**20
_FILE_BYTES: Final = 96 * 2**20
_OVERHEAD: Final = 2048
#: Filters whose records stay listed beside those of the whole collection.
_FILTERS_KEPT: Final = 16

_NO_FILTERS: Final = "{}"
#: Where a collection keeps its index, which is not pickled with it.
_KEPT_AS: Final = "record_index_of_tiles"
_HREF, _INDEX = "href of {}", "index of {}"
_PALETTE: Final = 3


class RecordNotFoundError(CollectionError):
    """A collection has no record of an id."""


class IndexedRecord(str):
    """The id of a record of a collection, with what :class:`~rasteret_assets.tiles.RecordReader` needs of it.

    A text, because rio-tiler names assets and TiTiler lists them as JSON.

    Args:
        record_id: id of the record.
        index: that listed it.
        listing: in which it was found.
        place: where it is in the listing.
    """

    __slots__ = ("_index", "_listing", "_place")
    _index: RecordIndex
    _listing: _Listing
    _place: int

    def __new__(cls, record_id: str, index: RecordIndex, listing: _Listing, place: int) -> Self:
        """Return the id with where its record is."""
        made = super().__new__(cls, record_id)
        made._index, made._listing, made._place = index, listing, place
        return made

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the collection's bands."""
        return self._listing.bands

    @property
    def source(self) -> Source:
        """Says where bytes come from."""
        return self._index.source

    def files(self) -> Mapping[str, BandFile]:
        """Return the bands whose headers are in the index, by name.

        Raises:
            CollectionError: if a header contradicts itself, or a file of the collection cannot be read.
            WindowError: if the record has no CRS.
        """
        record_id = str(self)
        try:
            return self._listing.files(record_id, self._place)
        except StaleRowsError:  # published anew since the records were listed
            self._index.forget(self._listing)
            found = self._index.find(record_id)
            return found._listing.files(record_id, found._place)  # noqa: SLF001  (another of this class)


class _Listing:
    """The records of a collection at one moment.

    About 200 bytes of memory for each record, beside its footprint.
    """

    def __init__(self, collection: Collection) -> None:
        names = collection.schema.names
        self.bands = tuple(band for band in collection.bands if has_href(collection.schema, band))
        self.leaves: dict[str, tuple[str, ...]] = {
            name: (name,) for name in (schema.ID, schema.PROJ_EPSG, schema.CRS) if name in names
        }
        for band in self.bands:
            self.leaves[schema.band_column(band)] = (schema.band_column(band),)
            self.leaves[_HREF.format(band)] = (schema.ASSETS, band, schema.HREF)
            asset = collection.schema.field(schema.ASSETS).type.field(band).type
            if asset.get_field_index(schema.BAND_INDEX) >= 0:
                self.leaves[_INDEX.format(band)] = (schema.ASSETS, band, schema.BAND_INDEX)
        small = {
            name: (name,)
            for name in (schema.ID, schema.DATETIME, schema.GEOMETRY, schema.BBOX, schema.CLOUD_COVER)
            if name in names
        }
        self.rows: Rows = rows_of(collection.dataset, collection.expression, collection.areas, self.leaves | small)
        parts = list(self.rows.scan(small))
        self.places: Places = np.concatenate([np.empty(0, np.int64), *(places for places, _ in parts)])
        table = pa.concat_tables([part for _, part in parts]) if parts else None
        self.ids = pa.array([], pa.string()) if table is None else table[schema.ID].cast(pa.string()).combine_chunks()
        self._tree = None if table is None else FootprintTree(
            table[schema.GEOMETRY].combine_chunks(), table[schema.BBOX].combine_chunks()
        )  # fmt: skip
        self._ranks = {} if table is None else _ranks(table)
        self._groups = Recent[pa.Table](_GROUP_BYTES, lambda table: int(table.nbytes))
        self._files = Recent[dict[str, BandFile]](_FILE_BYTES, _bytes)

    def meeting(self, area: BaseGeometry, order: Order) -> npt.NDArray[np.intp]:
        """Positions of the records whose footprint meets an area, in an order."""
        if self._tree is None:
            return np.empty(0, np.intp)
        found = np.unique(self._tree.pairs([area])[1])
        return found[np.argsort(self._ranks[order][found], kind="stable")]

    def files(self, record: str, place: int) -> dict[str, BandFile]:
        """The bands of the record at a place."""
        found = self._files.get(place)
        if found is None:
            found = self._files.put(place, self._read(record, place))
        return found

    def _read(self, record: str, place: int) -> dict[str, BandFile]:
        group, row = split(place)
        table = self._groups.get(group)
        if table is None:
            table = self._groups.put(group, self.rows.group(group, self.leaves))

        def value(name: str) -> Any:
            return table[name][row].as_py() if name in table.column_names else None

        files: dict[str, BandFile] = {}
        for band in self.bands:
            header = _header(table[schema.band_column(band)][row])
            if header is None:
                continue
            if header.get("band_index") is None:  # of a collection that another tool wrote
                header["band_index"] = value(_INDEX.format(band))
            stated = crs_code(header.get("epsg"), header.get("crs"))
            crs = stated or crs_code(value(schema.PROJ_EPSG), value(schema.CRS)) or ""
            named_crs(record, crs)  # whose own spelling has another order of axes than GDAL gives EPSG:4326
            try:
                tiff = write_tiff(header, crs)
            except CollectionError as error:
                raise CollectionError(f"record {record!r}, band {band!r}: {error}") from error
            files[band] = BandFile(
                record=record, band=band, href=value(_HREF.format(band)), tiff=tiff, crs=crs,
                transform=tuple(header["transform"]), size=(header["image_width"], header["image_height"]),
                sample=(header.get("band_index") or 0) + 1,
                indexed=IndexedFile(header.get("etag"), header.get("last_modified"), header.get("content_length")),
                has_palette=header.get("photometric") == _PALETTE,
            )  # fmt: skip
        return files


def _header(value: pa.StructScalar) -> dict[str, Any] | None:
    """A header as Python values, with its tile tables as arrays; None where the index has none."""
    if not value.is_valid:
        return None
    header = {name: _field(name, value[name]) for name in value.keys()}  # noqa: SIM118  (a scalar, not a dict)
    pages = header.get(schema.OVERVIEWS)
    if pages is not None:
        header[schema.OVERVIEWS] = [{name: _field(name, page[name]) for name in page.keys()} for page in pages]  # noqa: SIM118
    # Pages of collections that older versions published say nothing of masks.
    for page in header.get(schema.OVERVIEWS) or ():
        for name in ("mask_bits", "compression", "jpeg_tables"):
            page.setdefault(name, None)
    return header


def _field(name: str, value: pa.Scalar) -> Any:
    if not value.is_valid:
        return None
    if name in schema.TILE_TABLES:
        return value.values.to_numpy(zero_copy_only=False).astype(np.int64)  # copied: a view would keep the whole batch
    return list(value.values) if name == schema.OVERVIEWS else value.as_py()


def _ranks(table: pa.Table) -> dict[Order, npt.NDArray[np.int64]]:
    """The place of each record in each order; undated ones, and those without clouds stated, last."""
    moments = utc_instants(table[schema.DATETIME].combine_chunks())
    keys = {"moment": moments, "id": table[schema.ID]}
    if schema.CLOUD_COVER in table.column_names:
        keys["cloud"] = table[schema.CLOUD_COVER]
    sortable = pa.table(keys)
    ways: dict[Order, list[tuple[str, str, str]]] = {
        "newest": [("moment", "descending", "at_end"), ("id", "ascending", "at_end")],
        "oldest": [("moment", "ascending", "at_end"), ("id", "ascending", "at_end")],
    }
    ways["clearest"] = ([("cloud", "ascending", "at_end")] if "cloud" in keys else []) + ways["newest"]
    ranks: dict[Order, npt.NDArray[np.int64]] = {}
    for name, way in ways.items():
        sorted_rows = np.asarray(pc.sort_indices(sortable, sort_keys=way)).astype(np.int64)
        ranks[name] = np.empty(len(sorted_rows), np.int64)
        ranks[name][sorted_rows] = np.arange(len(sorted_rows))
    return ranks


def _bytes(files: Mapping[str, BandFile]) -> int:
    return sum(file.tiff.nbytes + _OVERHEAD for file in files.values())


class RecordIndex:
    """The records of a collection, listed once, and again where a file of it was published anew.

    Args:
        collection: with its filters.
    """

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self.source = Source.of(collection, AREA_DEFAULTS)
        self._lock = threading.RLock()
        self._listings: dict[str, _Listing] = {}
        self._zooms: dict[str, tuple[int, int]] = {}

    def meeting(self, area: BaseGeometry, order: Order, filters: Mapping[str, Any]) -> list[IndexedRecord]:
        """Return the records whose footprint meets an area.

        Args:
            area: in lon/lat.
            order: ``"newest"``, ``"oldest"`` or ``"clearest"`` first; the last goes by ``eo:cloud_cover``, then by
                time. Undated records come last.
            filters: arguments of ``Collection.subset``; those that are None do not count.

        Raises:
            SpecError: if a filter is not understood.
        """
        listing = self._listing(filters)
        return [self._record(listing, int(position)) for position in listing.meeting(area, order)]

    def find(self, record_id: str) -> IndexedRecord:
        """Return the record of an id; the first of several that share it.

        Raises:
            RecordNotFoundError: if there is no such record.
        """
        listing = self._listing({})
        position = pc.index(listing.ids, pa.scalar(record_id, pa.string())).as_py()
        if position < 0:
            raise RecordNotFoundError(f"this collection has no record {record_id!r}")
        return self._record(listing, position)

    def zooms(self, tms: Any, measure: Callable[..., tuple[int, int]]) -> tuple[int, int]:
        """Return the first and the last zoom of the collection, of the finest raster in each CRS.

        Args:
            tms: grid of the map tiles.
            measure: returns both for (CRS, transform, size, ``tms``).
        """
        with self._lock:
            if tms.id not in self._zooms:
                found = [measure(*raster, tms) for raster in self._finest()] or [(tms.minzoom, tms.maxzoom)]
                self._zooms[tms.id] = min(first for first, _ in found), max(last for _, last in found)
            return self._zooms[tms.id]

    def _finest(self) -> list[tuple[str, tuple[float, ...], tuple[int, int]]]:
        """CRS, transform and size of the raster with the smallest pixels in each CRS."""
        table, bands = self._collection.schema, self._collection.bands
        leaves, names = leaves_of(table, bands), dict[str, int]()
        rows = rows_of(self._collection.dataset, self._collection.expression, self._collection.areas, leaves)
        best: dict[int, tuple[float, tuple[float, ...], tuple[int, int]]] = {}
        for places, part in rows.scan(leaves):
            for band in bands:
                rasters = rasters_of(places, part, [band], names).rasters
                area = np.abs(rasters.grids[:, 0] * rasters.grids[:, 2])
                order = np.lexsort((area, rasters.crs))
                codes, firsts = np.unique(rasters.crs[order], return_index=True)
                for code, row in zip(codes.tolist(), order[firsts].tolist(), strict=True):
                    if code not in best or area[row] < best[code][0]:
                        width, height = rasters.sizes[row].tolist()
                        best[code] = float(area[row]), tuple(rasters.grids[row].tolist()), (width, height)
        crs = list(names)
        return [(crs[code], transform, size) for code, (_, transform, size) in best.items() if crs[code]]

    def forget(self, listing: _Listing) -> None:
        """Drop a listing that is out of date, and the others with it."""
        with self._lock:
            if listing in self._listings.values():
                self._listings.clear()

    def _record(self, listing: _Listing, position: int) -> IndexedRecord:
        return IndexedRecord(listing.ids[position].as_py(), self, listing, int(listing.places[position]))

    def _listing(self, filters: Mapping[str, Any]) -> _Listing:
        given = {name: value for name, value in filters.items() if value is not None}
        key = json.dumps(given, sort_keys=True, default=str)
        with self._lock:
            if key not in self._listings:
                # The whole collection's stays: most map tiles come without filters, and ids are found in it.
                while len(self._listings) > _FILTERS_KEPT:
                    self._listings.pop(next(name for name in self._listings if name != _NO_FILTERS))
                self._listings[key] = _Listing(self._collection.subset(**given))
            return self._listings[key]


def index_of(collection: Collection) -> RecordIndex:
    """Return the index of a collection, made when it is first asked for and kept as long as the collection is."""
    return vars(collection).setdefault(_KEPT_AS, RecordIndex(collection))  # type: ignore[no-any-return]


def record(collection: Collection, record_id: str) -> IndexedRecord:
    """Return a record for :class:`~rasteret_assets.tiles.RecordReader`.

    Args:
        collection: as ``load`` returns it; its records are listed when the first one is asked for, and stay listed.
        record_id: id of the record.

    Raises:
        RecordNotFoundError: if there is no such record.
        CollectionError: if a file of the collection cannot be read.
    """
    return index_of(collection).find(record_id)
