"""Stage 4, the collection: normalized records joined with their headers, in spatial order, as GeoParquet 1.1.

Nothing of the source's footer is inherited: ``geo`` is made from the rows that are written, so it cannot lie. There
are no timestamps in the file either: equal rows give equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely

from rasteret_assets.geometry import geometry_types, hilbert_distance
from rasteret_assets.schema import (
    ASSETS,
    BAND_STRUCT,
    BBOX,
    COLLECTION_VERSION,
    COLLECTION_VERSION_KEY,
    CRS,
    DATA_SOURCE_KEY,
    DESCRIPTION_KEY,
    GEO_KEY,
    GEOMETRY,
    GEOPARQUET_VERSION,
    HREF,
    ID,
    MONTH,
    NAME_KEY,
    PROJ_EPSG,
    STATUS_OK,
    YEAR,
    band_column,
)
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.urls import unsigned_hrefs

ROW_GROUP_ROWS: Final = 10_000
PARQUET_OPTIONS: Final[dict[str, Any]] = {
    "compression": "zstd",
    "row_group_size": ROW_GROUP_ROWS,
    "write_page_index": True,
    "version": "2.6",
    "store_schema": True,
}


@dataclass(frozen=True, kw_only=True)
class CrsFindings:
    """What the headers said about the records' CRSs.

    Args:
        corrected: records whose stated CRS was replaced by the one all their headers agree on.
        conflicting: records whose bands are in different CRSs; each band's own is in its struct.
    """

    corrected: int = 0
    conflicting: int = 0


def join_band_metadata(
    records: pa.Table, ledger: pa.Table | None, bands: Sequence[str]
) -> tuple[pa.Table, CrsFindings]:
    """Records with one ``{band}_metadata`` struct per band (null where there is no header) and unsigned hrefs.

    A column of that name in the source is replaced. ``proj:epsg`` and ``crs`` become what the headers say wherever all
    headers of a record agree: a record table is often wrong about the CRS, the file it points to is not.

    Args:
        records: normalized records.
        ledger: band metadata of these records; None where nothing is enriched.
        bands: in column order.
    """
    replaced = {band_column(band) for band in bands}
    kept = [name for name in records.schema.names if name not in replaced]
    table = _with_unsigned_assets(records.select(kept))
    if ledger is None or not bands:
        return _partition_last(table), CrsFindings()
    ok = ledger.filter(pc.equal(ledger["status"], STATUS_OK)).combine_chunks()
    ids = table[ID].combine_chunks()
    structs = {}
    for band in bands:
        rows = ok.filter(pc.equal(ok["band"], band)).combine_chunks()
        found = pc.index_in(ids, value_set=rows[ID].combine_chunks())
        headers = rows["header"].combine_chunks() if rows.num_rows else pa.array([], BAND_STRUCT)
        structs[band] = headers.take(found)
    table, findings = _with_header_crs(table, structs)
    for band, column in structs.items():
        table = table.append_column(band_column(band), column)
    return _partition_last(table), findings


def order_records(table: pa.Table) -> pa.Table:
    """Records along a Hilbert curve over the Earth, ties broken by id: neighbours share row groups."""
    distance = hilbert_distance(table[BBOX].combine_chunks())
    keys = pa.table({"distance": distance, ID: table[ID]})
    return table.take(pc.sort_indices(keys, sort_keys=[("distance", "ascending"), (ID, "ascending")]))


def published_table(table: pa.Table, spec: CollectionSpec) -> pa.Table:
    """The rows of one partition as they are written: in order, without hive keys, with a footer of their own."""
    ordered = order_records(table).drop_columns([YEAR, MONTH]).combine_chunks()
    return ordered.replace_schema_metadata(footer(ordered, spec))


def footer(table: pa.Table, spec: CollectionSpec) -> dict[bytes, bytes]:
    """Footer metadata of a published file: GeoParquet 1.1.0's ``geo`` and the collection's own keys."""
    return {
        GEO_KEY: json.dumps(_geo(table), sort_keys=True).encode(),
        NAME_KEY: spec.name.encode(),
        DATA_SOURCE_KEY: spec.data_source.encode(),
        DESCRIPTION_KEY: spec.description.encode(),
        COLLECTION_VERSION_KEY: COLLECTION_VERSION,
    }


def _geo(table: pa.Table) -> dict[str, Any]:
    """The ``geo`` document. Without a ``crs`` key the coordinates are OGC:CRS84, which is what they are."""
    geometries = shapely.from_wkb(np.asarray(table[GEOMETRY].combine_chunks().to_numpy(zero_copy_only=False), object))
    column: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": geometry_types(geometries),
        "covering": {"bbox": {axis: [BBOX, axis] for axis in ("xmin", "ymin", "xmax", "ymax")}},
    }
    if (extent := _extent(table[BBOX].combine_chunks())) is not None:
        column["bbox"] = extent
    return {"version": GEOPARQUET_VERSION, "primary_column": GEOMETRY, "columns": {GEOMETRY: column}}


def _extent(bbox: pa.StructArray) -> list[float] | None:
    valid = pc.drop_null(bbox)
    if not len(valid):
        return None
    xmin, ymin, xmax, ymax = (np.asarray(valid.field(position)) for position in range(4))
    if (xmin > xmax).any():
        return [-180.0, float(ymin.min()), 180.0, float(ymax.max())]
    return [float(xmin.min()), float(ymin.min()), float(xmax.max()), float(ymax.max())]


def _with_unsigned_assets(table: pa.Table) -> pa.Table:
    """Every ``href`` without its signature: what is published must not grant access."""
    position = table.schema.get_field_index(ASSETS)
    assets = table[ASSETS].combine_chunks()
    if not pa.types.is_struct(assets.type) or assets.type.num_fields == 0:
        return table
    children = [_unsigned_asset(pc.struct_field(assets, [i])) for i in range(assets.type.num_fields)]
    names = [child.name for child in assets.type]
    made = pa.StructArray.from_arrays(children, names=names, mask=pc.is_null(assets))
    return table.set_column(position, ASSETS, made)


def _unsigned_asset(asset: pa.Array) -> pa.Array:
    names = [child.name for child in asset.type]
    children = [pc.struct_field(asset, [position]) for position in range(len(names))]
    children[names.index(HREF)] = unsigned_hrefs(children[names.index(HREF)])
    return pa.StructArray.from_arrays(children, fields=[
        child if child.name != HREF else pa.field(HREF, pa.string()) for child in asset.type
    ], mask=pc.is_null(asset))  # fmt: skip


def _with_header_crs(table: pa.Table, structs: dict[str, pa.Array]) -> tuple[pa.Table, CrsFindings]:
    """``proj:epsg`` and ``crs`` from the headers wherever those of a record agree."""
    rows = table.num_rows
    stated = table[CRS].combine_chunks()
    agreed = pa.nulls(rows, pa.string())
    codes = pa.nulls(rows, pa.int32())
    conflict = np.zeros(rows, bool)
    stated_is_one = np.zeros(rows, bool)
    for struct in structs.values():
        crs, epsg = (pc.struct_field(struct, [struct.type.get_field_index(name)]) for name in ("crs", "epsg"))
        conflict |= np.asarray(pc.fill_null(pc.not_equal(agreed, crs), fill_value=False))
        stated_is_one |= np.asarray(pc.fill_null(pc.equal(stated, crs), fill_value=False))
        codes = pc.if_else(pc.is_null(agreed), epsg, codes)
        agreed = pc.coalesce(agreed, crs)
    # Where the bands of a record disagree, the record's own statement stands if it is true of one of them.
    keep = pa.array(np.asarray(pc.is_null(agreed)) | (conflict & stated_is_one))
    epsg = pc.if_else(keep, table[PROJ_EPSG].combine_chunks(), codes)
    text = pc.if_else(keep, stated, agreed)
    corrected = pc.and_(pc.invert(keep), pc.and_(pc.is_valid(stated), pc.not_equal(stated, text)))
    for name, column in ((PROJ_EPSG, epsg), (CRS, text)):
        table = table.set_column(table.schema.get_field_index(name), name, column)
    findings = CrsFindings(
        corrected=int(pc.sum(pc.fill_null(corrected, fill_value=False)).as_py() or 0), conflicting=int(conflict.sum())
    )
    return table, findings


def _partition_last(table: pa.Table) -> pa.Table:
    rest = [name for name in table.schema.names if name not in (YEAR, MONTH)]
    return table.select([*rest, YEAR, MONTH])
