"""STAC items to Arrow: a page of JSON becomes a batch with the columns of STAC-GeoParquet.

Properties stand as columns beside ``id``, ``collection``, ``assets`` and the rest; footprints are WKB in lon/lat. Items
of one catalog are rarely of one mind about a field: what is a number in one and a text in the next is kept as text
(:class:`Texts`) in all of them, and so are the assets of catalogs that name each of them differently.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from xxhash import xxh3_128_digest

from rasteret_assets.columns.conform import conform_rows
from rasteret_assets.columns.types import is_list, is_text, small_type
from rasteret_assets.schema import (
    ASSETS,
    BAND_INDEX,
    BBOX,
    BBOX_AXES,
    BBOX_TYPE,
    DATETIME,
    END_DATETIME,
    GEO_KEY,
    GEOMETRY,
    ID,
    ITEM_COLLECTION,
    LINKS,
    STAC_EXTENSIONS,
    STAC_TYPE,
    STAC_VERSION,
    START_DATETIME,
    TIMESTAMP,
)

#: Properties that STAC-GeoParquet has as instants.
_INSTANTS: Final = (DATETIME, START_DATETIME, END_DATETIME, "created", "updated", "published", "expires", "unpublished")
_OF_ITEMS: Final = (
    STAC_TYPE, STAC_VERSION, STAC_EXTENSIONS, ID, GEOMETRY, BBOX, "properties", LINKS, ASSETS, ITEM_COLLECTION,
)  # fmt: skip
#: Distinct names of assets above which they are kept as JSON text: a struct would have a field for each.
MOST_ASSETS: Final = 200

_GEO: Final = {
    "version": "1.1.0",
    "primary_column": GEOMETRY,
    "columns": {GEOMETRY: {"encoding": "WKB", "geometry_types": []}},
}
_ARROW_REFUSES: Final = (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError, TypeError)


@dataclass
class Texts:
    """What is kept as JSON text, because items disagree about its type.

    Args:
        columns: names of columns.
        asset_fields: names of fields of assets, in all assets.
    """

    columns: set[str] = field(default_factory=set)
    asset_fields: set[str] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.columns) + len(self.asset_fields)

    def copy(self) -> Texts:
        """Return another one that names the same."""
        return Texts(set(self.columns), set(self.asset_fields))

    def add(self, other: Texts) -> None:
        """Take over what another one names."""
        self.columns |= other.columns
        self.asset_fields |= other.asset_fields


# --- one item --------------------------------------------------------------------------------------------------------


def key_of(item: Mapping[str, Any], content: bytes) -> bytes:
    """Return 16 bytes that stand for an item of a catalog: by collection and id, or by content where it has no id."""
    if item.get(ID) is None:
        return content
    return xxh3_128_digest(f"{item.get(ITEM_COLLECTION)}\0{item[ID]}".encode("utf-8", "surrogatepass"))


def content_of(item: Mapping[str, Any]) -> bytes:
    """Return 16 bytes that change with anything an item says, but not with the order in which it says it."""
    return xxh3_128_digest(_dumped(item))


def _dumped(value: Any) -> bytes:
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)
    except (orjson.JSONEncodeError, TypeError):
        return json.dumps(value, sort_keys=True).encode()  # integers beyond 64 bits, lone surrogates


def with_bands(item: dict[str, Any], band_map: Mapping[str, str], band_index_map: Mapping[str, int]) -> dict[str, Any]:
    """Return an item whose assets are the bands of a map, under their names; as it is where the map is empty."""
    assets = item.get(ASSETS)
    if not band_map or not isinstance(assets, dict):
        return item
    bands = {
        band: {**asset, **({BAND_INDEX: band_index_map[band]} if band in band_index_map else {})}
        for band, name in band_map.items()
        if isinstance(asset := assets.get(name), dict)
    }
    return {**item, ASSETS: bands}


# --- many items ------------------------------------------------------------------------------------------------------


def batch_of(items: Sequence[Mapping[str, Any]]) -> pa.RecordBatch:
    """Return items as rows, in their order; what Arrow has no type for as text."""
    properties = [found if isinstance(found := item.get("properties"), dict) else {} for item in items]
    columns: dict[str, pa.Array] = {
        STAC_TYPE: _texts([item.get(STAC_TYPE) for item in items]),
        STAC_VERSION: _texts([item.get(STAC_VERSION) for item in items]),
        STAC_EXTENSIONS: _column([item.get(STAC_EXTENSIONS) for item in items]),
        ID: _texts([item.get(ID) for item in items]),
        GEOMETRY: _footprints([item.get(GEOMETRY) for item in items]),
        BBOX: _boxes([item.get(BBOX) for item in items]),
        LINKS: _column([item.get(LINKS) for item in items]),
        ASSETS: _assets([item.get(ASSETS) for item in items]),
        ITEM_COLLECTION: _texts([item.get(ITEM_COLLECTION) for item in items]),
    }
    for name in sorted(set().union(*properties)):
        column = _column([found.get(name) for found in properties])
        # A property may have the name of a part of an item.
        columns[f"properties:{name}" if name in _OF_ITEMS else name] = _instants(column, name)
    for name in sorted(set().union(*items).difference(_OF_ITEMS, columns)):
        columns[name] = _column([item.get(name) for item in items])
    return pa.RecordBatch.from_arrays([storable(column) for column in columns.values()], names=list(columns))


def _texts(values: list[Any]) -> pa.Array:
    return pa.array([None if value is None else text_of(value) for value in values], pa.string())


def text_of(value: Any) -> str | None:
    """Return a value as text: a text as it is, an instant as ISO 8601, anything else as JSON without its nulls."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return _dumped(_without_nulls(value)).decode("utf-8", "replace")


def _without_nulls(value: Any) -> Any:
    """A value that is the same whether it comes from JSON or from Arrow, which has no absent fields and one number."""
    if isinstance(value, dict):
        return {name: _without_nulls(found) for name, found in value.items() if found is not None}
    if isinstance(value, list):
        return [_without_nulls(found) for found in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return text_of(value) if isinstance(value, datetime) else value


def _column(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except _ARROW_REFUSES:
        return _texts(values)


def _assets(values: list[Any]) -> pa.Array:
    documents = [
        {name: asset for name, asset in value.items() if isinstance(asset, dict)} if isinstance(value, dict) else None
        for value in values
    ]
    names = set[str]().union(*(document for document in documents if document))
    if len(names) > MOST_ASSETS:
        return _texts(documents)
    try:
        return pa.array(documents)
    except _ARROW_REFUSES:
        pass
    fields = Texts(asset_fields={name for name in _asset_fields(documents) if _is_mixed(documents, name)})
    try:
        return pa.array([document and _assets_with_texts(document, fields.asset_fields) for document in documents])
    except _ARROW_REFUSES:
        return _texts(documents)


def _asset_fields(documents: Iterable[dict[str, dict[str, Any]] | None]) -> set[str]:
    return {name for document in documents if document for asset in document.values() for name in asset}


def _is_mixed(documents: Iterable[dict[str, dict[str, Any]] | None], name: str) -> bool:
    try:
        pa.array([asset.get(name) for document in documents if document for asset in document.values()])
    except _ARROW_REFUSES:
        return True
    return False


def _assets_with_texts(document: Mapping[str, Mapping[str, Any]], names: set[str]) -> dict[str, dict[str, Any]]:
    return {
        key: {name: text_of(value) if name in names else value for name, value in asset.items()}
        for key, asset in document.items()
    }


def _footprints(values: list[Any]) -> pa.Array:
    """GeoJSON geometries as WKB; null where there is none, or it cannot be read."""
    texts = np.array([_dumped(value).decode() if isinstance(value, dict) else None for value in values], object)
    shapes = shapely.from_geojson(texts, on_invalid="ignore")
    return pa.array(list(shapely.to_wkb(shapes)), pa.binary())


def _boxes(values: list[Any]) -> pa.Array:
    boxes = []
    for value in values:
        numbers = value if isinstance(value, list) and all(isinstance(one, int | float) for one in value) else ()
        # Boxes of volumes have the least and the greatest height between.
        corners = {4: (0, 1, 2, 3), 6: (0, 1, 3, 4)}.get(len(numbers))
        boxes.append(corners and dict(zip(BBOX_AXES, (float(numbers[at]) for at in corners), strict=True)))
    return pa.array(boxes, BBOX_TYPE)


def _instants(column: pa.Array, name: str) -> pa.Array:
    """A column of instants as such where all of its texts are; other columns as they are."""
    if name not in _INSTANTS or not pa.types.is_string(column.type):
        return column
    for unit in ("us", "ns"):
        try:
            return column.cast(pa.timestamp(unit, "UTC")).cast(TIMESTAMP, safe=False)
        except pa.ArrowInvalid:
            continue
    return column


def storable(column: pa.Array) -> pa.Array:
    """Return a column that Parquet can hold: structs without fields become nulls."""
    kind = column.type
    if not _holds_empty(kind):
        return column
    if pa.types.is_struct(kind):
        if not kind.num_fields:
            return pa.nulls(len(column))
        fields = [storable(column.field(place)) for place in range(kind.num_fields)]
        names = [child.name for child in kind]
        return pa.StructArray.from_arrays(fields, names=names, mask=column.is_null())
    return pa.ListArray.from_arrays(column.offsets, storable(column.values), mask=column.is_null())


def _holds_empty(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.num_fields == 0 or any(_holds_empty(child.type) for child in kind)
    return is_list(kind) and _holds_empty(kind.value_type)


# --- one schema over many pages and files ----------------------------------------------------------------------------


def united_schema(schemas: Sequence[pa.Schema]) -> tuple[pa.Schema, Texts]:
    """Return the schema that batches are brought to, and what has to become text before.

    Args:
        schemas: of batches, as :func:`batch_of` makes them.
    """
    texts, fields = Texts(), []
    kinds: dict[str, list[pa.DataType]] = {}
    for schema in schemas:
        for column in schema:
            found = kinds.setdefault(column.name, [])
            if (kind := small_type(column.type)) not in found:
                found.append(kind)
    for name, found in kinds.items():
        kind = _united(found)
        if kind is None and name == ASSETS:
            kind = _united_assets(found, texts)
        if kind is None or (name == ASSETS and pa.types.is_struct(kind) and kind.num_fields > MOST_ASSETS):
            texts.columns.add(name)
            kind = pa.string()
        fields.append(pa.field(name, kind))
    return pa.schema(fields, {GEO_KEY: json.dumps(_GEO, sort_keys=True).encode()}), texts


def _united(kinds: Sequence[pa.DataType]) -> pa.DataType | None:
    """The type that holds the values of all; None where no type does."""
    try:
        one = pa.unify_schemas([pa.schema([("x", kind)]) for kind in kinds], promote_options="permissive")
    except pa.ArrowException:
        return None
    return one.field(0).type


def _united_assets(kinds: Sequence[pa.DataType], texts: Texts) -> pa.DataType | None:
    """The type of assets whose fields differ, which are added to ``texts``; None where an asset itself is not one."""
    if not all(pa.types.is_struct(kind) for kind in kinds):
        return None
    mixed: dict[str, list[pa.DataType]] = {}
    for kind in kinds:
        for asset in kind:
            for child in asset.type if pa.types.is_struct(asset.type) else ():
                mixed.setdefault(child.name, []).append(child.type)
    wrong = {name for name, found in mixed.items() if _united(found) is None}
    texts.asset_fields |= wrong
    return _united([_asset_type(kind, wrong) for kind in kinds])


def _asset_type(kind: pa.StructType, names: set[str]) -> pa.DataType:
    def changed(asset: pa.DataType) -> pa.DataType:
        if not pa.types.is_struct(asset):
            return asset
        return pa.struct([(child.name, pa.string() if child.name in names else child.type) for child in asset])

    return pa.struct([(asset.name, changed(asset.type)) for asset in kind])


def with_texts(batch: pa.RecordBatch, texts: Texts) -> pa.RecordBatch:
    """Return rows whose columns and fields of assets that ``texts`` names are text."""
    columns = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if name in texts.columns:
            columns[name] = as_text(column)
        elif name == ASSETS and texts.asset_fields and pa.types.is_struct(column.type):
            columns[name] = _each_asset(column, texts.asset_fields)
        else:
            columns[name] = column
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def as_text(column: pa.Array) -> pa.Array:
    """Return a column as text, as :func:`text_of` makes it of each value."""
    if is_text(column.type):
        return column.cast(pa.string())
    # Values that no Arrow type holds together; there are few such columns.
    return pa.array([text_of(value) for value in column.to_pylist()], pa.string())


def _each_asset(assets: pa.StructArray, names: set[str]) -> pa.StructArray:
    def changed(asset: pa.Array) -> pa.Array:
        if not pa.types.is_struct(asset.type):
            return asset
        fields = {
            child.name: as_text(asset.field(place)) if child.name in names else asset.field(place)
            for place, child in enumerate(asset.type)
        }
        return _struct(fields, asset)

    return _struct({asset.name: changed(assets.field(place)) for place, asset in enumerate(assets.type)}, assets)


def _struct(fields: Mapping[str, pa.Array], like: pa.StructArray) -> pa.StructArray:
    return pa.StructArray.from_arrays(list(fields.values()), names=list(fields), mask=pc.is_null(like))


def conformed(batch: pa.RecordBatch, schema: pa.Schema, texts: Texts) -> pa.RecordBatch:
    """Return rows as :func:`united_schema` says."""
    rows = with_texts(batch, texts) if len(texts) else batch
    return conform_rows(rows, schema)
