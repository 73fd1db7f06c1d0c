"""Unite the schemas of many pages and files of items, and find the columns that have to become text for that."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

import pyarrow as pa

from rasteret_assets.columns.types import small_type
from rasteret_assets.harvesting.text_columns import MOST_ASSETS, Texts, with_texts
from rasteret_assets.schema import ASSETS, GEO_KEY, GEOMETRY

_GEO: Final = {
    "version": "1.1.0",
    "primary_column": GEOMETRY,
    "columns": {GEOMETRY: {"encoding": "WKB", "geometry_types": []}},
}


def unite(schemas: Sequence[pa.Schema], texts: Texts) -> pa.Schema:
    """Return the schema that unites ``schemas``, and add to ``texts`` what has to become text for it."""
    while True:
        before = len(texts)
        empty = (with_texts(pa.RecordBatch.from_pylist([], schema), texts) for schema in schemas)
        found, more = united_schema([batch.schema for batch in empty])
        texts.add(more)
        if len(texts) == before:
            return found


def united_schema(schemas: Sequence[pa.Schema]) -> tuple[pa.Schema, Texts]:
    """Return the schema that unites ``schemas``, and what has to become text for it.

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
    """Return the type that holds the values of all ``kinds``; None where no type does."""
    try:
        one = pa.unify_schemas([pa.schema([("x", kind)]) for kind in kinds], promote_options="permissive")
    except pa.ArrowException:
        return None
    return one.field(0).type


def _united_assets(kinds: Sequence[pa.DataType], texts: Texts) -> pa.DataType | None:
    """Return the type of assets, and add fields of mixed types to ``texts``; None where an asset is not a struct."""
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
