"""Publish STAC items as STAC-GeoParquet, and every collection with a STAC Collection document.

A record table with a ``stac_version`` column holds STAC items, and is published as STAC-GeoParquet 1.0: with every
column that the specification requires, and with the footer key ``stac-geoparquet``. ``collection.json`` is a STAC
Collection for every published collection. It lies beside the data, because readers fail at a JSON file inside a Parquet
directory, and it is made from the states of the partitions alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.columns.conform import conform
from rasteret_assets.columns.types import is_list, is_text, unsized_type
from rasteret_assets.partitions import hive_keys
from rasteret_assets.publish.footer import MOST_COLLECTIONS, PublishedFacts, united
from rasteret_assets.schema import (
    ASSETS,
    HREF,
    ITEM_COLLECTION,
    LINKS,
    STAC_EXTENSIONS,
    STAC_GEOPARQUET_KEY,
    STAC_GEOPARQUET_VERSION,
    STAC_TYPE,
    STAC_VERSION,
)
from rasteret_assets.spec import CollectionSpec

COLLECTION_DOCUMENT: Final = "collection.json"
#: STAC version of collection documents, and of items that state none.
_VERSION: Final = "1.1.0"
_ITEM_VERSION: Final = "1.0.0"
_LINK: Final = pa.struct([(name, pa.string()) for name in (HREF, "rel", "type", "title")])
_PARQUET: Final = "application/vnd.apache.parquet"
_WORLD: Final = [-180.0, -90.0, 180.0, 90.0]


def is_stac(records: pa.Schema) -> bool:
    """Tell whether records are STAC items, with the types of STAC-GeoParquet in the item fields that they have."""

    def has(name: str, fits: Any) -> bool:
        return name not in records.names or pa.types.is_null(kind := records.field(name).type) or bool(fits(kind))

    return (
        STAC_VERSION in records.names
        and all(has(name, is_text) for name in (STAC_TYPE, STAC_VERSION, ITEM_COLLECTION))
        and has(STAC_EXTENSIONS, _is_text_list)
        and has(LINKS, lambda kind: _has_link_hrefs(kind) and kind.value_type.get_field_index("rel") >= 0)
    )


def complete_items(records: pa.Table, spec: CollectionSpec, collection_href: str) -> pa.Table:
    """Return STAC items with all columns that STAC-GeoParquet requires; other records are returned unchanged.

    An item that has no ``collection`` gets the name of this collection. An item that has no link to a collection, which
    STAC demands, gets a link to ``collection.json``. An asset that has no address becomes null.

    Args:
        records: joined records.
        spec: of the collection.
        collection_href: address of ``collection.json`` as seen from a published file.
    """
    if not is_stac(records.schema):
        return records
    columns = {
        STAC_TYPE: _filled(records, STAC_TYPE, "Feature"),
        STAC_VERSION: _filled(records, STAC_VERSION, _ITEM_VERSION),
        STAC_EXTENSIONS: _extensions(records),
        ITEM_COLLECTION: _filled(records, ITEM_COLLECTION, spec.name),
        LINKS: _linked(records, collection_href),
        ASSETS: _addressed(records[ASSETS].combine_chunks()),
    }
    for name, column in columns.items():
        position = records.schema.get_field_index(name)
        records = records.append_column(name, column) if position < 0 else records.set_column(position, name, column)
    return records


def stac_footer(facts: PublishedFacts, spec: CollectionSpec) -> dict[bytes, bytes]:
    """Return the ``stac-geoparquet`` footer key: the collections of a file's items, with the extent of these items.

    Extents are of the file and not of the whole collection, because every file would change with any other file.
    """
    named = sorted(facts.collections) if len(facts.collections) <= MOST_COLLECTIONS else []
    extent = _extent(facts.bbox, facts.interval)
    document = {
        "version": STAC_GEOPARQUET_VERSION,
        "collections": {name: _collection(name, spec, extent) for name in named},
    }
    return {STAC_GEOPARQUET_KEY: json.dumps(document, sort_keys=True).encode()}


def collection_document(
    states: Iterable[Mapping[str, Any]], spec: CollectionSpec, records_href: str
) -> dict[str, Any]:  # fmt: skip
    """Return ``collection.json``, a STAC Collection of all published partitions.

    Args:
        states: of the published partitions, in any order.
        spec: of the collection.
        records_href: address of the published folder as seen from the document.
    """
    box: list[float] | None = None
    starts: set[str] = set()
    ends: set[str] = set()
    names: set[str] = set()
    for state in states:
        box = united(box, state.get("bbox"))
        for found, at in ((starts, 0), (ends, 1)):
            found |= {time for time in [(state.get("interval") or (None, None))[at]] if time}
        names |= set(state.get("collections") or ())
    interval = [min(starts, key=_instant, default=None), max(ends, key=_instant, default=None)]
    (name,) = names if len(names) == 1 else (spec.name,)
    document = _collection(name, spec, _extent(box, interval))
    keys = ", ".join(hive_keys(spec.partition_by))
    document["assets"] = {
        "records": {
            HREF: records_href,
            "type": _PARQUET,
            "title": f"Records with the headers of their bands, partitioned by {keys}",
            "roles": ["data", "collection-mirror"],
        }
    }
    return document


def _collection(name: str, spec: CollectionSpec, extent: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "Collection",
        "stac_version": _VERSION,
        "stac_extensions": [],
        "id": name,
        "title": spec.name or name,
        "description": spec.description or f"Records of {spec.data_source or name}.",
        "license": spec.license,
        "extent": extent,
        "links": [],
    }


def _extent(bbox: list[float] | None, interval: list[str | None]) -> dict[str, Any]:
    return {"spatial": {"bbox": [bbox or _WORLD]}, "temporal": {"interval": [interval]}}


def _instant(text: str) -> str:
    """Return a text that sorts like the instant that ``text`` writes."""
    return text.removesuffix("Z") if "." in text else f"{text.removesuffix('Z')}.000000"


def _is_text_list(kind: pa.DataType) -> bool:
    return is_list(kind) and (is_text(kind.value_type) or pa.types.is_null(kind.value_type))


def _filled(records: pa.Table, name: str, value: str) -> pa.Array:
    if name not in records.schema.names or pa.types.is_null(records.schema.field(name).type):
        return _repeated(pa.array([value]), records.num_rows)
    return pc.fill_null(conform(records[name].combine_chunks(), pa.string()), value)


def _extensions(records: pa.Table) -> pa.Array:
    kind = pa.list_(pa.string())
    rows = records.num_rows
    if STAC_EXTENSIONS not in records.schema.names or pa.types.is_null(records.schema.field(STAC_EXTENSIONS).type):
        return _repeated(pa.array([[]], kind), rows)
    column = conform(records[STAC_EXTENSIONS].combine_chunks(), kind)
    if not column.null_count:
        return column
    return pc.if_else(pc.is_null(column), _repeated(pa.array([[]], column.type), rows), column)


def _addressed(assets: pa.Array) -> pa.Array:
    """Return assets, null where they have no ``href``, because STAC's schema demands one."""
    if not pa.types.is_struct(assets.type):
        return assets
    children = []
    for position, child in enumerate(assets.type):
        asset = pc.struct_field(assets, [position])
        href = pc.struct_field(asset, [child.type.get_field_index(HREF)])
        if href.null_count > asset.null_count:
            fields = [pc.struct_field(asset, [index]) for index in range(child.type.num_fields)]
            asset = pa.StructArray.from_arrays(fields, fields=list(child.type), mask=pc.is_null(href))
        children.append(asset)
    return pa.StructArray.from_arrays(children, fields=list(assets.type), mask=pc.is_null(assets))


def _linked(records: pa.Table, collection_href: str) -> pa.Array:
    """Return the links of every record, with a link to the collection appended where a record has none."""
    rows = records.num_rows
    if LINKS not in records.schema.names or pa.types.is_null(records.schema.field(LINKS).type):
        links = pa.nulls(rows, pa.list_(_LINK))
    else:
        links = records[LINKS].combine_chunks()
        links = conform(links, unsized_type(links.type))
    flat = links.flatten()
    lengths = np.asarray(pc.fill_null(pc.list_value_length(links), 0), np.int64)
    parents = np.repeat(np.arange(rows), lengths)
    rel = pc.struct_field(flat, [flat.type.get_field_index("rel")])
    lacking = np.ones(rows, bool)
    lacking[parents[np.asarray(pc.fill_null(pc.equal(rel, "collection"), fill_value=False), bool)]] = False
    if not lacking.any():
        return links
    members = {HREF: collection_href, "rel": "collection", "type": "application/json"}
    link = {child.name: members.get(child.name) for child in flat.type}
    offsets = np.concatenate([[0], np.cumsum(lengths + lacking)])
    # Every place of the new lists gets the added link, then the old links overwrite theirs.
    index = np.full(offsets[-1], len(flat), np.int64)
    index[offsets[parents] + np.arange(len(flat)) - np.concatenate([[0], np.cumsum(lengths)])[parents]] = np.arange(
        len(flat)
    )
    values = pa.concat_arrays([flat, pa.array([link], flat.type)]).take(pa.array(index))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values, type=links.type)


def _repeated(value: pa.Array, rows: int) -> pa.Array:
    return value.take(pa.array(np.zeros(rows, np.int64)))


def _has_link_hrefs(kind: pa.DataType) -> bool:
    """Tell whether a column of this type holds STAC links: lists of structs with an ``href``."""
    return bool(
        is_list(kind)
        and pa.types.is_struct(kind.value_type)
        and (position := kind.value_type.get_field_index(HREF)) >= 0
        and is_text(kind.value_type.field(position).type)
    )
