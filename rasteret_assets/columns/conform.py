"""Bring the columns of one file to the types of a table of many files: fields by name, wider numbers, one time unit."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.columns.types import is_list, plain


def conform(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """Return a column as another type that holds its values; missing fields of structs become null.

    Instants and durations are cut to a coarser unit if ``kind`` has one.

    Args:
        column: of any type that :func:`~rasteret_assets.source.schemas.unite_schemas` unites with ``kind``.
        kind: a type without views, or a dictionary whose values are such a type.

    Raises:
        pa.ArrowInvalid: if a value does not fit the type.
        pa.ArrowNotImplementedError: if Arrow cannot cast one type to the other.
    """
    if isinstance(column.type, pa.ExtensionType) and not isinstance(kind, pa.ExtensionType):
        column = column.storage
    if pa.types.is_dictionary(kind):
        return _as_dictionary(column, kind)
    column = column if isinstance(kind, pa.ExtensionType) else plain(column)
    if _same(column.type, kind):
        return column
    if pa.types.is_null(column.type):
        return pa.nulls(len(column), kind)
    if pa.types.is_struct(kind) and pa.types.is_struct(column.type):
        return _as_struct(column, kind)
    if is_list(kind) and is_list(column.type) and not pa.types.is_fixed_size_list(kind):
        return _as_list(column, kind)
    # Unsafe for nanoseconds only, which are cut; instants of a coarser unit may overflow a finer one, and must raise.
    return column.cast(kind, safe=getattr(column.type, "unit", None) != "ns")


def conform_rows(rows: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return rows with the columns of a schema, in its order: missing columns are null, other columns are left out.

    Args:
        rows: whose columns :func:`conform` to those of the schema.
        schema: of the result.
    """
    if rows.schema.equals(schema):
        return rows
    columns = [
        conform(rows.column(field.name), field.type)
        if field.name in rows.schema.names
        else pa.nulls(rows.num_rows, field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _same(one: pa.DataType, other: pa.DataType) -> bool:
    """Tell whether two types are equal, including the names of list items, which Arrow does not compare."""
    return bool(one == other and str(one) == str(other))


def _as_dictionary(column: pa.Array, kind: pa.DictionaryType) -> pa.Array:
    if pa.types.is_dictionary(column.type) and not column.dictionary.null_count:
        if column.type == kind:
            return column
        values = conform(column.dictionary, kind.value_type)
        return pa.DictionaryArray.from_arrays(column.indices.cast(kind.index_type), values, ordered=kind.ordered)
    # Encoded anew, because Parquet cannot hold a dictionary with a null among its values.
    return conform(plain(column), kind.value_type).dictionary_encode().cast(kind)


def _as_struct(column: pa.StructArray, kind: pa.StructType) -> pa.Array:
    names = [child.name for child in column.type]
    children = column.flatten()
    fields = [
        conform(children[names.index(child.name)], child.type)
        if child.name in names
        else pa.nulls(len(column), child.type)
        for child in kind
    ]
    mask = column.is_null() if column.null_count else None
    if not fields:
        return pa.array([{}] * len(column), kind, mask=None if mask is None else np.asarray(mask))
    return pa.StructArray.from_arrays(fields, fields=list(kind), mask=mask)


def _as_list(column: pa.Array, kind: pa.DataType) -> pa.Array:
    lengths = np.asarray(pc.fill_null(pc.list_value_length(column), 0))
    large = pa.types.is_large_list(kind)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int64() if large else pa.int32())
    made = pa.LargeListArray if large else pa.ListArray
    mask = column.is_null() if column.null_count else None
    return made.from_arrays(offsets, conform(column.flatten(), kind.value_type), type=kind, mask=mask)
