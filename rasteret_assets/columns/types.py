"""Turn Arrow types and columns into plain ones, without views, dictionaries and runs, which every reader takes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

#: Types that Arrow 26 cannot cast within a nested type; casts of list views lose items.
_NO_CAST: Final = ("list_view", "run_end", "dictionary<values=string_view", "dictionary<values=binary_view")


# Cached, because the types of a table are asked for with every batch.
@lru_cache(maxsize=4096)
def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return a type without views, dictionaries and run-end encoding at any depth; large types stay large."""
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return plain_type(kind.value_type)
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    large = pa.types.is_large_list(kind) or pa.types.is_large_list_view(kind)
    return _with_children(kind, lambda child: child.with_type(plain_type(child.type)), large=large)


def small_type(kind: pa.DataType) -> pa.DataType:
    """Return the type that others of the same values are united under: plain, with 32-bit offsets, of nullable fields.

    Text is ``string``, bytes are ``binary`` and every list is ``list``, whoever wrote them: pandas and polars write the
    large types for what pyarrow writes as the small ones. Lists of a fixed size keep it.
    """
    kind = plain_type(kind)
    if pa.types.is_large_string(kind):
        return pa.string()
    if pa.types.is_large_binary(kind):
        return pa.binary()
    return _with_children(kind, lambda child: pa.field(child.name, small_type(child.type)), large=False)


def _with_children(
    kind: pa.DataType, changed: Callable[[pa.Field], pa.Field], *, large: bool, sized: bool = True
) -> pa.DataType:
    """Return a nested type with changed fields and without list views; other types unchanged."""
    if pa.types.is_struct(kind):
        return pa.struct([changed(child) for child in kind])
    if pa.types.is_map(kind):
        return pa.map_(changed(kind.key_field).type, changed(kind.item_field), keys_sorted=kind.keys_sorted)
    if pa.types.is_fixed_size_list(kind) and sized:
        return pa.list_(changed(kind.value_field), kind.list_size)
    if is_list(kind):
        return pa.large_list(changed(kind.value_field)) if large else pa.list_(changed(kind.value_field))
    return kind


def unsized_type(kind: pa.DataType) -> pa.DataType:
    """Return a small type whose lists are of any length at any depth."""
    return _with_children(
        small_type(kind), lambda child: pa.field(child.name, unsized_type(child.type)), large=False, sized=False
    )


def is_list(kind: pa.DataType) -> bool:
    """Tell whether a type is a list of any kind: plain, large, of a fixed size or a view."""
    test = pa.types
    return bool(
        test.is_list(kind) or test.is_large_list(kind) or test.is_fixed_size_list(kind)
        or test.is_list_view(kind) or test.is_large_list_view(kind)
    )  # fmt: skip


def is_text(kind: pa.DataType) -> bool:
    """Tell whether a type is text: plain, large or a view."""
    test = pa.types
    return bool(test.is_string(kind) or test.is_large_string(kind) or test.is_string_view(kind))


def plain(column: pa.Array) -> pa.Array:
    """Return a column without views, dictionaries and run-end encoding."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        # Values first, because Arrow cannot decode a dictionary of views.
        return pa.DictionaryArray.from_arrays(column.indices, plain(column.dictionary)).dictionary_decode()
    if pa.types.is_run_end_encoded(kind):
        return plain(pc.run_end_decode(column))
    target = plain_type(kind)
    if target == kind:
        return column
    return _rebuilt(column) if any(word in str(kind) for word in _NO_CAST) else column.cast(target)


def _rebuilt(column: pa.Array) -> pa.Array:
    """Return a nested column rebuilt from plain children."""
    kind = column.type
    target = plain_type(kind)
    missing = column.is_null() if column.null_count else None
    if pa.types.is_struct(kind):
        children = [plain(child) for child in column.flatten()]
        return pa.StructArray.from_arrays(children, fields=list(target), mask=missing)
    if not is_list(kind) or pa.types.is_fixed_size_list(kind):
        # Row by row, because Arrow has no kernel for maps and fixed-size lists with list views in them; such are rare.
        return pa.array(column.to_pylist(), target)
    lengths = np.asarray(pc.fill_null(pc.list_value_length(column), 0))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    large = pa.types.is_large_list(target)
    made = pa.LargeListArray if large else pa.ListArray
    return made.from_arrays(
        pa.array(offsets, pa.int64() if large else pa.int32()), plain(column.flatten()), type=target, mask=missing
    )


def plain_text(column: pa.Array) -> pa.Array:
    """Return a plain column with UTF-8 bytes as text, because Hive, Impala and older Spark mark no text in Parquet."""
    column = plain(column)
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        with suppress(pa.ArrowInvalid):
            return column.cast(pa.string())
    return column
