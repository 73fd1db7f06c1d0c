"""STAC items to Arrow: a page of JSON becomes a batch with the columns of STAC-GeoParquet.

Properties stand as columns beside ``id``, ``collection``, ``assets`` and the rest; footprints are WKB in lon/lat. Items
of one catalog are rarely of one mind about a field: what is a number in one and a text in the next is kept as text in
all of them (:mod:`~rasteret_assets.harvesting.texts`), and so are the assets of catalogs that name each of them
differently.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import shapely
from xxhash import xxh3_128_digest

from rasteret_assets.columns.types import is_list
from rasteret_assets.harvesting.texts import MOST_ASSETS, Texts, dumped, text_of
from rasteret_assets.schema import (
    ASSETS,
    BAND_INDEX,
    BBOX,
    BBOX_AXES,
    BBOX_TYPE,
    DATETIME,
    END_DATETIME,
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

_ARROW_REFUSES: Final = (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError, TypeError)


# --- one item --------------------------------------------------------------------------------------------------------


def key_of(item: Mapping[str, Any], content: bytes) -> bytes:
    """Return 16 bytes that stand for an item of a catalog: by collection and id, or by content where it has no id."""
    if item.get(ID) is None:
        return content
    return xxh3_128_digest(f"{item.get(ITEM_COLLECTION)}\0{item[ID]}".encode("utf-8", "surrogatepass"))


def content_of(item: Mapping[str, Any]) -> bytes:
    """Return 16 bytes that change with anything an item says, but not with the order in which it says it."""
    return xxh3_128_digest(dumped(item))


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
    texts = np.array([dumped(value).decode() if isinstance(value, dict) else None for value in values], object)
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
