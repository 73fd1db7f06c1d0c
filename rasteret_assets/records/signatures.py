"""Remove the signatures from all addresses in records, so that nothing that is published grants access."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.columns.types import plain_text
from rasteret_assets.schema import GEOMETRY
from rasteret_assets.secrets import BY_DEFAULT, SecretRule
from rasteret_assets.storage.addresses.address import may_be_signed, unsigned_hrefs


def without_signatures(table: pa.Table, rule: SecretRule = BY_DEFAULT) -> pa.Table:
    """Return records with every address in them unsigned, in any column, at any depth.

    Hrefs of assets and links are not the only addresses that are published: so are the column that ``href_column``
    names, columns under their source names, JSON texts (of the other fields of an asset) and prose. A JSON text is
    written anew only if it holds a signed address.

    Args:
        table: records.
        rule: of the user.
    """
    for position, name in enumerate(table.schema.names):
        # Footprints are not text, and many of their bytes look like the mark of a query.
        if name != GEOMETRY:
            column = table.column(position).combine_chunks()
            if (made := _unsigned(column, rule)) is not column:
                table = table.set_column(position, table.schema.field(position), made)
    return table


def _unsigned(column: pa.Array, rule: SecretRule) -> pa.Array:
    """Return a column of any type with its addresses unsigned; the same array if no address has a query."""
    kind = column.type
    made = column
    if isinstance(kind, pa.BaseExtensionType):
        storage = _unsigned(column.storage, rule)
        made = column if storage is column.storage else pa.ExtensionArray.from_storage(kind, storage)
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        made = _of_text(column, rule)
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_dictionary(kind):
        made = _of_other_text(column, rule)
    elif pa.types.is_struct(kind):
        made = _of_struct(column, rule)
    elif pa.types.is_map(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        made = _of_lists(column, rule)
    elif pa.types.is_fixed_size_list(kind):
        rows = column.cast(pa.list_(kind.value_field))
        lists = _of_lists(rows, rule)
        made = column if lists is rows else lists.cast(kind)
    return made


def _of_text(column: pa.Array, rule: SecretRule) -> pa.Array:
    return unsigned_hrefs(column, rule) if may_be_signed(column) else column


def _of_other_text(column: pa.Array, rule: SecretRule) -> pa.Array:
    """Return a column of unmarked text, or of dictionaries, with its addresses unsigned."""
    texts = plain_text(column)
    made = texts if texts.type == column.type else _unsigned(texts, rule)
    if made is texts:
        return column
    return (made.dictionary_encode() if pa.types.is_dictionary(column.type) else made).cast(column.type)


def _of_struct(column: pa.Array, rule: SecretRule) -> pa.Array:
    given = [pc.struct_field(column, [position]) for position in range(column.type.num_fields)]
    made = [_unsigned(child, rule) for child in given]
    if all(child is was for child, was in zip(made, given, strict=True)):
        return column
    return pa.StructArray.from_arrays(made, fields=list(column.type), mask=pc.is_null(column))


def _of_lists(column: pa.Array, rule: SecretRule) -> pa.Array:
    kind = column.type
    rows = column.cast(pa.list_(pa.struct([kind.key_field, kind.item_field]))) if pa.types.is_map(kind) else column
    flat = rows.flatten()
    if (made := _unsigned(flat, rule)) is flat:
        return column
    lengths = pc.fill_null(pc.list_value_length(rows), 0)
    ends = np.concatenate([[0], np.cumsum(np.asarray(lengths))])
    missing = pc.is_null(column)
    if pa.types.is_map(kind):
        return pa.MapArray.from_arrays(ends.astype(np.int32), *made.flatten(), type=kind, mask=missing)
    lists, width = (pa.ListArray, pa.int32()) if pa.types.is_list(kind) else (pa.LargeListArray, pa.int64())
    return lists.from_arrays(pa.array(ends, width), made, type=kind, mask=missing)
