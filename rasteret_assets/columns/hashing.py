"""Digests of rows: of a whole partition as it streams by, and of single rows where ids repeat.

Both see values only: how a table is cut into batches, files or row groups, what lies under a null and whether text is
dictionary-encoded changes neither. They tell changes apart, and keep nothing secret: xxHash reads ten times as fast as
a cryptographic hash.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from xxhash import xxh3_128

from rasteret_assets.columns.types import plain

_NULL: Final = np.uint64(0x9E3779B97F4A7C15)
#: First bits of a hash by which those that may be repeated are told from the others.
_MARKED_BITS = 20
#: Bytes of a text up to which it is hashed word by word; longer ones byte by byte, whatever lengths they have.
_MOST_WORD_BYTES: Final = 128


class ContentDigest:
    """A 128-bit digest of rows that come in batches; it depends on their values, order and types."""

    def __init__(self) -> None:
        self._leaves: dict[str, xxh3_128] = {}
        self.rows = 0

    def update(self, batch: pa.RecordBatch) -> None:
        """Append rows."""
        self.rows += batch.num_rows
        for field, column in zip(batch.schema, batch.columns, strict=True):
            self._feed(field.name, column)

    def hexdigest(self) -> str:
        """The digest, as 32 hex digits."""
        whole = xxh3_128()
        for path in sorted(self._leaves):
            whole.update(path.encode() + b"\0" + self._leaves[path].digest())
        return whole.hexdigest()

    def _feed(self, path: str, column: pa.Array) -> None:
        column = _storage(column)
        kind = column.type
        path = f"{path}:{kind}"
        self._leaf(path).update(np.asarray(column.is_valid()).view(np.uint8).data)
        if column.null_count and not pa.types.is_struct(kind):
            column = column.drop_null()
        if pa.types.is_null(kind):
            return
        if pa.types.is_struct(kind):
            for child, values in zip(kind, column.flatten(), strict=True):
                self._feed(f"{path}/{child.name}", values)
        elif _is_listed(kind):
            lengths, children = _listed(column)
            self._leaf(f"{path}/lengths").update(lengths.data)
            for name, values in children.items():
                self._feed(f"{path}/{name}", values)
        elif _is_binary(kind):
            lengths, content = _binary(column)
            self._leaf(f"{path}/lengths").update(lengths.data)
            self._leaf(f"{path}/bytes").update(content.data)
        else:
            self._leaf(f"{path}/values").update(_fixed(column).data)

    def _leaf(self, path: str) -> xxh3_128:
        """The digest of one buffer of one column: buffers of many batches must not run into each other."""
        leaf = self._leaves.get(path)
        if leaf is None:
            leaf = self._leaves[path] = xxh3_128()
        return leaf


def hash_texts(texts: pa.Array) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of every text or binary value, ``uint64[N]``; equal values have equal hashes, in any process.

    Every word of eight bytes goes through the finalizer of SplitMix64 (Steele, Lea and Flood, "Fast splittable
    pseudorandom number generators", OOPSLA 2014), all values of as many words at once.
    """
    lengths, content = _binary(texts)
    starts = np.cumsum(lengths) - lengths
    words = -(-lengths // 8)
    hashes = _mixed(lengths.astype(np.uint64))
    for count in np.flatnonzero(np.bincount(np.minimum(words, _MOST_WORD_BYTES // 8 + 1))):
        rows = np.flatnonzero(words == count)
        if not 0 < count <= _MOST_WORD_BYTES // 8:
            continue
        place = starts[rows, None] + np.arange(8 * count)
        padded = content.take(place, mode="clip")
        padded[np.arange(8 * count) >= lengths[rows, None]] = 0
        mixed = hashes[rows]
        for word in padded.view(np.uint64).T:
            mixed = _mixed(mixed ^ word)
        hashes[rows] = mixed
    if len(long := np.flatnonzero(lengths > _MOST_WORD_BYTES)):
        hashes[long] = _hash_long(lengths[long], content[np.repeat(lengths > _MOST_WORD_BYTES, lengths)])
    hashes[np.asarray(texts.is_null())] = _NULL
    return hashes


def _hash_long(lengths: npt.NDArray[np.int64], content: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """Hashes of values that lie end to end: multiply-add over bytes weighted by place."""
    ends = np.cumsum(lengths)
    place = np.arange(len(content), dtype=np.int64) - np.repeat(ends - lengths, lengths)
    weights = _mixed(np.arange(1, int(lengths.max()) + 1, dtype=np.uint64))
    summed = np.concatenate([np.zeros(1, np.uint64), np.cumsum((content.astype(np.uint64) + 1) * weights[place])])
    return _mixed(summed[ends] - summed[ends - lengths] + lengths.astype(np.uint64))


def row_hashes(columns: Sequence[pa.Array]) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of every row of several columns, ``uint64[N]``."""
    total = np.zeros(len(columns[0]) if columns else 0, np.uint64)
    for column in columns:
        total = _mixed(total + _column_hashes(column))
    return total


def _column_hashes(column: pa.Array) -> npt.NDArray[np.uint64]:
    column = _storage(column)
    kind = column.type
    if pa.types.is_null(kind):
        return np.full(len(column), _NULL)
    if pa.types.is_struct(kind):
        hashes = row_hashes(column.flatten()) if kind.num_fields else np.zeros(len(column), np.uint64)
    elif _is_listed(kind):
        hashes = np.zeros(len(column), np.uint64)
        valid = np.asarray(column.is_valid())
        lengths, children = _listed(column.drop_null())
        ends = np.cumsum(lengths)
        place = np.arange(int(lengths.sum()), dtype=np.int64) - np.repeat(ends - lengths, lengths)
        weighted = row_hashes(list(children.values())) * (_mixed(place.astype(np.uint64)) | np.uint64(1))
        summed = np.concatenate([np.zeros(1, np.uint64), np.cumsum(weighted)])
        hashes[valid] = summed[ends] - summed[ends - lengths] + lengths.astype(np.uint64)
    elif _is_binary(kind):
        return hash_texts(column)
    else:
        hashes = np.zeros(len(column), np.uint64)
        values = _fixed(column.drop_null()).reshape(-1)
        words = np.zeros((len(column) - column.null_count, -(-_width(kind) // 8) * 8), np.uint8)
        words[:, : _width(kind)] = values.reshape(len(words), _width(kind))
        for word in words.view(np.uint64).T:
            hashes[np.asarray(column.is_valid())] = _mixed(hashes[np.asarray(column.is_valid())] + word)
    hashes[np.asarray(column.is_null())] = _NULL
    return _mixed(hashes)


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)), np.uint64)


def _storage(column: pa.Array) -> pa.Array:
    """A column as plain Arrow storage; types without a plain layout (unions and the like) as their text."""
    while isinstance(column, pa.ExtensionArray):
        column = column.storage
    column = plain(column)
    kind = column.type
    known = pa.types.is_null(kind) or pa.types.is_struct(kind) or _is_listed(kind) or _is_binary(kind)
    if known or _width(kind):
        return column
    return pa.array([str(value) for value in column.to_pylist()], pa.string())


def _is_binary(kind: pa.DataType) -> bool:
    test = pa.types
    return bool(
        test.is_string(kind) or test.is_large_string(kind) or test.is_binary(kind) or test.is_large_binary(kind)
    )


def _is_listed(kind: pa.DataType) -> bool:
    test = pa.types
    return bool(test.is_list(kind) or test.is_large_list(kind) or test.is_fixed_size_list(kind) or test.is_map(kind))


def _width(kind: pa.DataType) -> int:
    """Bytes of a value of a fixed-width type; 0 for others."""
    if pa.types.is_boolean(kind):
        return 1
    try:
        return int(kind.bit_width) // 8
    except ValueError:
        return 0


def _fixed(column: pa.Array) -> npt.NDArray[np.uint8]:
    """Bytes of a fixed-width column without nulls."""
    width = _width(column.type)
    if not len(column):
        return np.zeros(0, np.uint8)
    if pa.types.is_boolean(column.type):
        return np.asarray(column).view(np.uint8)
    return np.frombuffer(column.buffers()[1], np.uint8)[column.offset * width : (column.offset + len(column)) * width]


def _binary(column: pa.Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """Length in bytes of every value, 0 for nulls, and the bytes end to end."""
    column = column.fill_null(b"" if "binary" in str(column.type) else "") if column.null_count else column
    if not len(column):
        return np.zeros(0, np.int64), np.zeros(0, np.uint8)
    large = pa.types.is_large_string(column.type) or pa.types.is_large_binary(column.type)
    offsets = np.frombuffer(column.buffers()[1], np.int64 if large else np.int32)
    offsets = offsets[column.offset : column.offset + len(column) + 1]
    data = column.buffers()[2]
    content = np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(0, np.uint8)
    return np.diff(offsets).astype(np.int64), content[offsets[0] : offsets[-1]]


def _listed(column: pa.Array) -> tuple[npt.NDArray[np.int64], dict[str, pa.Array]]:
    """Length of every list of a column without nulls, and the items end to end, by name."""
    if pa.types.is_map(column.type):
        offsets = np.asarray(column.offsets)
        first, count = int(offsets[0]), int(offsets[-1] - offsets[0])
        items = {"keys": column.keys.slice(first, count), "items": column.items.slice(first, count)}
        return np.diff(offsets).astype(np.int64), items
    lengths = np.asarray(pc.list_value_length(column)).astype(np.int64)
    return lengths, {"items": column.flatten()}


def repeated(hashes: Iterable[npt.NDArray[np.uint64]]) -> npt.NDArray[np.uint64]:
    """Hashes that occur more than once, ``uint64[K]`` in order."""
    ordered = np.sort(np.concatenate([np.zeros(0, np.uint64), *hashes]))
    return np.unique(ordered[1:][ordered[1:] == ordered[:-1]])


def repeated_by(
    fresh: Iterable[npt.NDArray[np.uint64]], known: Iterable[npt.NDArray[np.uint64]]
) -> npt.NDArray[np.uint64]:
    """What :func:`repeated` finds in both, where no hash of ``known`` occurs twice in it: that is not sorted again.

    Args:
        fresh: hashes ``uint64[N]``, in parts.
        known: the same.
    """
    parts = list(fresh)
    marked = np.zeros(1 << _MARKED_BITS, bool)
    for hashes in parts:
        marked[_marks(hashes)] = True
    # Few others pass where there is little that is fresh, and all are compared in full.
    return repeated([*parts, *(hashes[marked[_marks(hashes)]] for hashes in known)])


def _marks(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.intp]:
    return (hashes >> np.uint64(64 - _MARKED_BITS)).astype(np.intp)
