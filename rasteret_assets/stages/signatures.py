"""Nothing that is published grants access: addresses lose the parameters that sign them, wherever they stand."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.schema import GEOMETRY
from rasteret_assets.stages.columns import plain_text
from rasteret_assets.storage.urls import unsigned_hrefs


def without_signatures(table: pa.Table) -> pa.Table:
    """Records with every address in them unsigned, in whatever column, at any depth.

    Not only hrefs of assets and links: the column that a table names its files in is published too, and so are those
    that ``column_map`` gives other names. Addresses inside of JSON text are not looked for.
    """
    for position, name in enumerate(table.schema.names):
        # Footprints are no text, and among their bytes every other one looks like a query.
        if name != GEOMETRY:
            column = table.column(position).combine_chunks()
            if (unsigned := _unsigned(column)) is not column:
                table = table.set_column(position, table.schema.field(position), unsigned)
    return table


def _unsigned(column: pa.Array) -> pa.Array:
    """A column of any type with the addresses in it unsigned; the array itself where none has a query."""
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _of_text(column)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_dictionary(kind):
        return _of_other_text(column)
    if pa.types.is_struct(kind):
        return _of_struct(column)
    if pa.types.is_map(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _of_lists(column)
    return column


def _of_text(column: pa.Array) -> pa.Array:
    text = column.buffers()[2]
    # Nearly all addresses are without a query: one look at the bytes of the column is enough to know.
    has_query = text is not None and (np.frombuffer(text, np.uint8) == ord("?")).any()
    return unsigned_hrefs(column) if has_query else column


def _of_other_text(column: pa.Array) -> pa.Array:
    """Of text that is not marked as text, and of dictionaries."""
    texts = plain_text(column)
    unsigned = texts if texts.type == column.type else _unsigned(texts)
    if unsigned is texts:
        return column
    return (unsigned.dictionary_encode() if pa.types.is_dictionary(column.type) else unsigned).cast(column.type)


def _of_struct(column: pa.Array) -> pa.Array:
    given = [pc.struct_field(column, [position]) for position in range(column.type.num_fields)]
    made = [_unsigned(child) for child in given]
    if all(child is was for child, was in zip(made, given, strict=True)):
        return column
    return pa.StructArray.from_arrays(made, fields=list(column.type), mask=pc.is_null(column))


def _of_lists(column: pa.Array) -> pa.Array:
    kind = column.type
    rows = column.cast(pa.list_(pa.struct([kind.key_field, kind.item_field]))) if pa.types.is_map(kind) else column
    flat = rows.flatten()
    if (unsigned := _unsigned(flat)) is flat:
        return column
    lengths = pc.fill_null(pc.list_value_length(rows), 0)
    ends = np.concatenate([[0], np.cumsum(np.asarray(lengths))])
    missing = pc.is_null(column)
    if pa.types.is_map(kind):
        return pa.MapArray.from_arrays(ends.astype(np.int32), *unsigned.flatten(), type=kind, mask=missing)
    lists, width = (pa.ListArray, pa.int32()) if pa.types.is_list(kind) else (pa.LargeListArray, pa.int64())
    return lists.from_arrays(pa.array(ends, width), unsigned, type=kind, mask=missing)
