"""Keep as text the columns about whose type items disagree.

The text of a value is the same whether the value comes from JSON or from a Parquet file that was written before items
disagreed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.columns.conform import conform_rows
from rasteret_assets.columns.types import is_text
from rasteret_assets.schema import ASSETS

#: Most distinct names of assets in a struct, which has a field for each; with more names assets are JSON text.
MOST_ASSETS: Final = 200
#: Options by which orjson writes equal values as equal texts.
SORTED: Final = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS


@dataclass
class Texts:
    """Names columns and fields of assets that are kept as JSON text, because items disagree about their type.

    Args:
        columns: names of columns.
        asset_fields: names of fields of assets, in all assets.
    """

    columns: set[str] = field(default_factory=set)
    asset_fields: set[str] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.columns) + len(self.asset_fields)

    def copy(self) -> Texts:
        """Return a copy."""
        return Texts(set(self.columns), set(self.asset_fields))

    def add(self, other: Texts) -> None:
        """Add the names in ``other``."""
        self.columns |= other.columns
        self.asset_fields |= other.asset_fields


def dumped(value: Any) -> bytes:
    """Return a value as JSON, the same for equal values."""
    try:
        return orjson.dumps(value, option=SORTED)
    except (orjson.JSONEncodeError, TypeError):
        return json.dumps(value, sort_keys=True).encode()  # orjson refuses integers beyond 64 bits and lone surrogates


def text_of(value: Any) -> str | None:
    """Return a value as text: a text as it is, an instant as ISO 8601, anything else as JSON without its nulls."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return dumped(_without_nulls(value)).decode("utf-8", "replace")


def _without_nulls(value: Any) -> Any:
    """Return a value that is the same from JSON and from Arrow, where an absent field is null and 1 is 1.0."""
    if isinstance(value, dict):
        return {name: _without_nulls(found) for name, found in value.items() if found is not None}
    if isinstance(value, list):
        return [_without_nulls(found) for found in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return text_of(value) if isinstance(value, datetime) else value


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
    # A Python loop, because Arrow has no kernel that writes JSON; few columns become text.
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
    """Return rows with the columns of a schema that :func:`united_schema` made."""
    rows = with_texts(batch, texts) if len(texts) else batch
    return conform_rows(rows, schema)
