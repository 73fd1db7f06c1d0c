"""Turn STAC items into Arrow: some hundred items become a batch with the columns of STAC-GeoParquet.

Properties stand as columns beside ``id``, ``collection``, ``assets`` and the rest; footprints are WKB in lon/lat. Items
of one catalog often disagree about the type of a field: a number in one and a text in the next. Such a field is kept as
text in all of them (:mod:`~rasteret_assets.harvesting.text_columns`), and so are assets whose names differ from item to
item.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj
import shapely
from xxhash import xxh3_128_digest

from rasteret_assets.columns.types import is_list
from rasteret_assets.harvesting.text_columns import MOST_ASSETS, Texts, dumped, text_of
from rasteret_assets.harvesting.windows import time_of, updated_of
from rasteret_assets.schema import (
    ASSETS,
    BAND_INDEX,
    BBOX,
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
#: Integers below this size are exact as 64-bit floating-point numbers.
_EXACT: Final = 2**53


# --- one item --------------------------------------------------------------------------------------------------------


class StacItem(NamedTuple):
    """Holds an item of a catalog, with its hashes, times and JSON.

    Args:
        document: the item without its assets.
        key: 16 bytes that stand for the item in its catalog: by collection and id, or by content where it has no id.
        content: 16 bytes that change with any value of the item, but not with the order of its fields.
        moment: time by which the item is stored, as :func:`~rasteret_assets.harvesting.windows.time_of` finds it.
        updated: when the item says that it was changed last; None where it does not.
        has_assets: whether the item has any.
        assets: its assets as JSON, the same for equal assets.
        loose: its assets as Python's objects, if the item comes from JSON that is not strict (``NaN``); else None.
        geometry: its geometry as JSON.
    """

    document: Mapping[str, Any]
    key: bytes
    content: bytes
    moment: datetime | None
    updated: datetime | None
    has_assets: bool
    assets: bytes
    loose: Any
    geometry: bytes


def read_item(document: Mapping[str, Any], *, strict: bool = True) -> StacItem:
    """Return an item with its key, its content and its times.

    Args:
        document: the item as JSON has it.
        strict: whether it comes from strict JSON, so that equal JSON means equal values.
    """
    # The JSON of assets and geometry is made once and put into that of the item, because they are most of an item.
    texts = {name: dumped(document[name]) for name in (ASSETS, GEOMETRY) if name in document}
    if strict:
        fragments = {name: orjson.Fragment(text) for name, text in texts.items()}
        content = xxh3_128_digest(dumped({**document, **fragments}))
    else:
        content = xxh3_128_digest(dumped(document))
    assets = document.get(ASSETS)
    key = content if document.get(ID) is None else key_of(document.get(ITEM_COLLECTION), document[ID])
    rest = {name: value for name, value in document.items() if name != ASSETS}
    return StacItem(
        rest, key, content, time_of(document), updated_of(document), bool(assets), texts.get(ASSETS, b"null"),
        None if strict else assets, texts.get(GEOMETRY, b"null"),
    )  # fmt: skip


def key_of(collection: Any, name: Any) -> bytes:
    """Return the key of an item that has an id.

    Args:
        collection: id of its collection; None where it has none.
        name: its id.
    """
    return xxh3_128_digest(f"{collection}\0{name}".encode("utf-8", "surrogatepass"))


def first_half(key: bytes) -> int:
    """Return the first 8 bytes of a key as a number."""
    return int.from_bytes(key[:8], "little")


def with_bands(item: dict[str, Any], band_map: Mapping[str, str], band_index_map: Mapping[str, int]) -> dict[str, Any]:
    """Return an item with the assets in ``band_map`` only, named as bands; the same item if the map is empty."""
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


class AssetTypes:
    """Remembers the Arrow type of the assets of earlier batches, by which assets of later batches are parsed.

    Arrow finds the type of Python's objects by looking at each of them, which takes longer than to parse JSON whose
    type is known, and holds Python's lock. Threads may share an object: each reads or replaces one immutable type.
    """

    def __init__(self) -> None:
        self._kind: pa.StructType | None = None

    def parse(self, items: Sequence[StacItem]) -> pa.StructArray | None:
        """Return the assets of items; None if they do not fit the type of earlier assets.

        Args:
            items: whose JSON of assets is parsed.
        """
        kind = self._kind
        if kind is None or any(item.loose is not None for item in items):
            return None
        absent = [item.assets == b"null" for item in items]
        text = b"\n".join([b"{}" if none else item.assets for item, none in zip(items, absent, strict=True)])
        try:
            table = pj.read_json(
                pa.BufferReader(text),
                read_options=pj.ReadOptions(use_threads=False, block_size=len(text) + 1),
                # Unknown fields are an error, because they would be lost silently.
                parse_options=pj.ParseOptions(explicit_schema=pa.schema(list(kind)), unexpected_field_behavior="error"),
            )
        except pa.ArrowInvalid:
            return None
        if table.num_rows != len(items):
            return None
        named = dict(zip(table.column_names, _flat(table), strict=True))
        # Without the assets that none of these items has, because other windows may have many others.
        named = {name: column for name, column in named.items() if column.null_count < len(items)}
        if not named or any(map(_holds_large, named.values())):
            return None
        mask = pa.array(absent) if any(absent) else None
        return pa.StructArray.from_arrays(list(named.values()), names=list(named), mask=mask)

    def add(self, kind: pa.DataType) -> None:
        """Unite the type of a batch's assets with the earlier type, which is replaced if the two do not fit."""
        if not pa.types.is_struct(kind) or not kind.num_fields:
            return
        kept, united = self._kind, None
        if kept is not None:
            try:
                schemas = [pa.schema(list(kept)), pa.schema(list(kind))]
                united = pa.unify_schemas(schemas, promote_options="permissive")
            except pa.ArrowException:
                united = None
        self._kind = kind if united is None or len(united) > MOST_ASSETS else pa.struct(list(united))


def _flat(table: pa.Table) -> list[pa.Array]:
    return [column.chunk(0) if column.num_chunks == 1 else column.combine_chunks() for column in table.columns]


def _holds_large(column: pa.Array) -> bool:
    """Tell whether a column has floating-point numbers so large that they may stand for other integers."""
    if pa.types.is_struct(column.type):
        return any(_holds_large(column.field(place)) for place in range(column.type.num_fields))
    if is_list(column.type):
        return _holds_large(column.values)
    if not pa.types.is_floating(column.type) or column.null_count == len(column):
        return False
    span = pc.min_max(column)
    return bool(max(-span["min"].as_py(), span["max"].as_py()) >= _EXACT)


def batch_of(items: Sequence[StacItem], types: AssetTypes | None = None) -> pa.RecordBatch:
    """Return items as rows, in their order; values without a common Arrow type become text.

    Args:
        items: that become rows.
        types: of the assets of earlier items; the types of these items' assets are added.
    """
    documents = [item.document for item in items]
    properties = [found if isinstance(found := one.get("properties"), dict) else {} for one in documents]
    columns: dict[str, pa.Array] = {
        STAC_TYPE: _texts([one.get(STAC_TYPE) for one in documents]),
        STAC_VERSION: _texts([one.get(STAC_VERSION) for one in documents]),
        STAC_EXTENSIONS: _column([one.get(STAC_EXTENSIONS) for one in documents]),
        ID: _texts([one.get(ID) for one in documents]),
        GEOMETRY: _footprints(items),
        BBOX: _boxes([one.get(BBOX) for one in documents]),
        LINKS: _column([one.get(LINKS) for one in documents]),
        ASSETS: _assets(items, types or AssetTypes()),
        ITEM_COLLECTION: _texts([one.get(ITEM_COLLECTION) for one in documents]),
    }
    for name in sorted(set().union(*properties)):
        column = _column([found.get(name) for found in properties])
        # A property may have the name of a field of the item itself, such as ``links``.
        columns[f"properties:{name}" if name in _OF_ITEMS else name] = _instants(column, name)
    for name in sorted(set().union(*documents).difference(_OF_ITEMS, columns)):
        columns[name] = _column([one.get(name) for one in documents])
    return pa.RecordBatch.from_arrays([storable(column) for column in columns.values()], names=list(columns))


def _texts(values: list[Any]) -> pa.Array:
    return pa.array([None if value is None else text_of(value) for value in values], pa.string())


def _column(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except _ARROW_REFUSES:
        return _texts(values)


def _assets(items: Sequence[StacItem], types: AssetTypes) -> pa.Array:
    parsed = types.parse(items)
    if parsed is None:
        parsed = _inferred_assets(
            [orjson.loads(item.assets) if item.loose is None else item.loose for item in items]
        )  # fmt: skip
        types.add(parsed.type)
    return parsed


def _inferred_assets(values: list[Any]) -> pa.Array:
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


def _footprints(items: Sequence[StacItem]) -> pa.Array:
    """Return the footprints of items as WKB; null where an item has none, or it cannot be read."""
    texts = np.array([item.geometry.decode() if item.geometry.startswith(b"{") else None for item in items], object)
    shapes = shapely.from_geojson(texts, on_invalid="ignore")
    return pa.array(list(shapely.to_wkb(shapes)), pa.binary())


def _boxes(values: list[Any]) -> pa.Array:
    numbers = [value if isinstance(value, list) and len(value) in {4, 6} else None for value in values]
    numbers = [value if value and all(type(one) in {int, float} for one in value) else None for value in numbers]
    # Boxes with heights are west, south, lowest, east, north, highest (RFC 7946, 5).
    corners = [value if value is None or len(value) == 4 else [*value[:2], *value[3:5]] for value in numbers]
    found = np.array([corner or [0] * 4 for corner in corners], float).reshape(-1, 4)
    mask = pa.array([corner is None for corner in corners])
    return pa.StructArray.from_arrays([pa.array(axis) for axis in found.T], fields=list(BBOX_TYPE), mask=mask)


def _instants(column: pa.Array, name: str) -> pa.Array:
    """Return a column of texts as instants where all of its texts are instants, and any other column as it is."""
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
