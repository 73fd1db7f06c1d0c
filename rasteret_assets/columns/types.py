"""Plain Arrow types: without views and dictionaries, as every kernel and every reader takes them."""

from __future__ import annotations

from contextlib import suppress

import pyarrow as pa


def plain_type(kind: pa.DataType) -> pa.DataType:
    """A type without views and dictionaries, at any depth: what every kernel and every reader takes."""
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pa.types.is_struct(kind):
        return pa.struct([child.with_type(plain_type(child.type)) for child in kind])
    if pa.types.is_map(kind):
        return pa.map_(
            kind.key_field.with_type(plain_type(kind.key_type)), kind.item_field.with_type(plain_type(kind.item_type))
        )
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(plain_type(kind.value_type)))
    if kind == pa.string_view():
        return pa.string()
    return pa.binary() if kind == pa.binary_view() else kind


def plain(column: pa.Array) -> pa.Array:
    """A column without views and dictionaries."""
    if pa.types.is_dictionary(column.type):
        return plain(column.dictionary_decode())
    target = plain_type(column.type)
    return column if target == column.type else column.cast(target)


def plain_text(column: pa.Array) -> pa.Array:
    """As :func:`plain`, and bytes that are UTF-8 are text: Hive, Impala and older Spark do not mark it in Parquet."""
    column = plain(column)
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        with suppress(pa.ArrowInvalid):
            return column.cast(pa.string())
    return column
