"""Hash rows: whole tables as they stream by, with or without the order of rows, and single rows.

All hashes depend on values only, and neither on how a table is cut into batches, files or row groups, nor on bytes
under a null, nor on dictionary encoding. Hashes tell changes, and keep nothing secret: xxHash reads ten times as fast
as a cryptographic hash.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from xxhash import xxh3_64_intdigest, xxh3_128

from rasteret_assets.columns.types import plain

_NULL: Final = np.uint64(0x9E3779B97F4A7C15)
#: Number of first bits of a hash that :func:`repeated_by` compares before it compares hashes in full.
_MARKED_BITS = 20
#: Values of a column that are sampled to tell whether they repeat, and fewest values of a column that is sampled.
_SAMPLED: Final = 64
_FEWEST_ENCODED: Final = 512
#: Words of eight bytes up to which a text is hashed together with others of as many words.
_MOST_WORDS: Final = 32
_MOST_WORD: Final = 2**64 - 1
_UNSIGNED: Final = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


class ContentDigest:
    """Makes a 128-bit digest of rows that come in batches; it depends on their values, order and types."""

    def __init__(self) -> None:
        self._leaves: dict[str, xxh3_128] = {}
        self.rows = 0

    def update(self, batch: pa.RecordBatch) -> None:
        """Append rows."""
        self.rows += batch.num_rows
        for field, column in zip(batch.schema, batch.columns, strict=True):
            self._feed(field.name, column)

    def hexdigest(self) -> str:
        """Return the digest as 32 hex digits."""
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
        """Return the digest of one buffer of one column, so that buffers of many batches do not run into each other."""
        leaf = self._leaves.get(path)
        if leaf is None:
            leaf = self._leaves[path] = xxh3_128()
        return leaf


class RowsDigest:
    """Makes a 128-bit digest of rows that come in batches; it depends neither on their order nor on the batches.

    Every row is hashed to two 64-bit numbers, and both are summed over the rows (Clarke et al., "Incremental multiset
    hash functions", ASIACRYPT 2003). Values count by the name of their column or field, a repeated row as often as it
    is there. Types do not count, and neither do columns' places.

    Args:
        hexdigest: of rows that were counted before.
        rows: how many these were.
    """

    def __init__(self, hexdigest: str = "0" * 32, rows: int = 0) -> None:
        self._sums = (int(hexdigest[:16], 16), int(hexdigest[16:], 16))
        self.rows = rows

    def update(self, batch: pa.RecordBatch) -> None:
        """Add rows."""
        self.add(batch_hashes(batch))

    def add(self, hashes: npt.NDArray[np.uint64]) -> None:
        """Add rows by their :func:`batch_hashes`, ``uint64[N]``."""
        self._add(len(hashes), (hashes.sum(dtype=np.uint64), _mixed(hashes).sum(dtype=np.uint64)))

    def merge(self, other: RowsDigest) -> None:
        """Add the rows of another digest."""
        self._add(other.rows, other._sums)

    def remove(self, other: RowsDigest) -> None:
        """Remove the rows of another digest, which were added before."""
        first, second = ((total - less) & _MOST_WORD for total, less in zip(self._sums, other._sums, strict=True))
        self._sums = (first, second)
        self.rows -= other.rows

    def hexdigest(self) -> str:
        """Return the digest as 32 hex digits."""
        return "".join(f"{total:016x}" for total in self._sums)

    def _add(self, rows: int, sums: Sequence[int | np.uint64]) -> None:
        first, second = ((total + int(more)) & _MOST_WORD for total, more in zip(self._sums, sums, strict=True))
        self._sums = (first, second)
        self.rows += rows


def batch_hashes(batch: pa.RecordBatch) -> npt.NDArray[np.uint64]:
    """Return a 64-bit hash of every row of a batch, ``uint64[N]``; values count by the name of their column."""
    return _combined(batch.schema.names, batch.columns, batch.num_rows)


def hash_texts(texts: pa.Array) -> npt.NDArray[np.uint64]:
    """Return a 64-bit hash of every text or binary value, ``uint64[N]``, which is the same in every process.

    The eight-byte words of a value are folded, weighted by their place and summed, all values of as many words at once;
    the sum goes through the finalizer of SplitMix64. Long values are hashed one by one by xxHash.
    """
    if _repeats(texts):
        return _by_index(texts.dictionary_encode())
    lengths, content = _binary(texts)
    if len(texts) >= _FEWEST_ENCODED and (width := _even_width(lengths)):
        hashes = _mixed(_padded_hashes(texts, width) ^ _mixed(lengths.astype(np.uint64)))
        if texts.null_count:
            hashes[np.asarray(texts.is_null())] = _NULL
        return hashes
    starts = np.cumsum(lengths) - lengths
    counts = -(-lengths // 8)
    # The eight bytes from each byte of the content on, as a number; eight zeros are appended for the last bytes.
    padded = np.concatenate([content, np.zeros(8, np.uint8)])
    words = np.ndarray(len(content) + 1, "<u8", padded, strides=(1,))
    hashes = np.zeros(len(lengths), np.uint64)
    # Ids, codes and rings are mostly of one length: their words lie in a grid.
    is_even = len(lengths) > 0 and bool(lengths.min() == lengths.max())
    for count in np.flatnonzero(np.bincount(np.minimum(counts, _MOST_WORDS + 1))):
        if not 0 < count <= _MOST_WORDS:
            continue
        rows = np.flatnonzero(counts == count)
        if is_even:
            grid = np.ndarray((len(rows), count), "<u8", padded, strides=(int(lengths[0]), 8)).astype(np.uint64)
        else:
            grid = words[starts[rows, None] + 8 * np.arange(count)]
        beyond = (8 * count - lengths[rows]).astype(np.uint64) * np.uint64(8)
        grid[:, -1] &= np.uint64(_MOST_WORD) >> beyond
        grid ^= grid >> np.uint64(32)
        hashes[rows] = grid @ _WEIGHTS[:count]
    hashes = _mixed(hashes ^ _mixed(lengths.astype(np.uint64)))
    # One by one, because xxHash takes a twentieth of the time of numpy for a byte of a long value.
    long, view = np.flatnonzero(counts > _MOST_WORDS), content.data
    ends = (starts[long] + lengths[long]).tolist()
    hashes[long] = [xxh3_64_intdigest(view[a:b]) for a, b in zip(starts[long].tolist(), ends, strict=True)]
    if texts.null_count:
        hashes[np.asarray(texts.is_null())] = _NULL
    return hashes


def _even_width(lengths: npt.NDArray[np.int64]) -> int:
    """Return the bytes to which values of some lengths are best filled up; 0 if filling would take too many."""
    width = -(-int(lengths.max(initial=0)) // 8) * 8
    fits = 0 < width <= 8 * _MOST_WORDS and lengths.min() != lengths.max() and width * len(lengths) <= 2 * lengths.sum()
    return width if fits else 0


def _padded_hashes(texts: pa.Array, width: int) -> npt.NDArray[np.uint64]:
    """Return the weighted sums of the words of values, filled up with zeros, because zeros add nothing to a sum."""
    large = pa.types.is_large_string(texts.type) or pa.types.is_large_binary(texts.type)
    # What lies under a null may be of any length.
    texts = texts.fill_null(b"" if "binary" in str(texts.type) else "") if texts.null_count else texts
    _, offsets, content = texts.buffers()
    kind = pa.large_string() if large else pa.string()
    # Any bytes may pass for text here, because ascii_rpad copies them without decoding.
    texts = pa.Array.from_buffers(kind, len(texts), [None, offsets, content], offset=texts.offset)
    filled = pc.ascii_rpad(texts, width, "\0")
    first = int(np.frombuffer(filled.buffers()[1], np.int64 if large else np.int32)[filled.offset])
    grid = np.frombuffer(filled.buffers()[2], np.uint8)[first : first + width * len(filled)].view("<u8")
    grid = grid.reshape(len(filled), width // 8)
    return np.asarray((grid ^ (grid >> np.uint64(32))) @ _WEIGHTS[: width // 8], np.uint64)


def _repeats(texts: pa.Array) -> bool:
    """Tell whether a column has few distinct first values, so that hashing a dictionary of all values is faster."""
    if len(texts) < _FEWEST_ENCODED:
        return False
    return len(pc.unique(texts.slice(0, _SAMPLED))) <= _SAMPLED // 8


def row_hashes(columns: Sequence[pa.Array]) -> npt.NDArray[np.uint64]:
    """Return a 64-bit hash of every row of several columns, ``uint64[N]``."""
    return _combined([str(place) for place in range(len(columns))], columns, len(columns[0]) if columns else 0)


def _combined(names: Sequence[str], columns: Sequence[pa.Array], rows: int) -> npt.NDArray[np.uint64]:
    """Return a 64-bit hash of every row of columns that count by their names, ``uint64[N]``."""
    total = np.zeros(rows, np.uint64)
    for name, column in zip(names, columns, strict=True):
        hashes = _column_hashes(column)
        hashes *= np.uint64(xxh3_64_intdigest(name.encode()) | 1)
        total += hashes
    return _mixed(total)


def _column_hashes(column: pa.Array) -> npt.NDArray[np.uint64]:
    while isinstance(column, pa.ExtensionArray):
        column = column.storage
    if pa.types.is_dictionary(column.type):
        return _by_index(column)
    column = _storage(column) if not pa.types.is_struct(column.type) else column
    kind = column.type
    if pa.types.is_null(kind):
        return np.full(len(column), _NULL)
    if pa.types.is_struct(kind):
        hashes = _combined([child.name for child in kind], column.flatten(), len(column))
    elif _is_listed(kind):
        hashes = _list_hashes(column)
    elif _is_binary(kind):
        return hash_texts(column)
    else:
        hashes = _fixed_hashes(column)
    if column.null_count:
        hashes[np.asarray(column.is_null())] = _NULL
    return hashes


def _by_index(column: pa.DictionaryArray) -> npt.NDArray[np.uint64]:
    """Return the hashes of a dictionary-encoded column; each value of the dictionary is hashed once."""
    if not len(column.dictionary):
        return np.full(len(column), _NULL)
    of_values = _column_hashes(column.dictionary)
    hashes = np.asarray(of_values[np.asarray(pc.fill_null(column.indices, 0))], np.uint64)
    if column.indices.null_count:
        hashes[np.asarray(column.indices.is_null())] = _NULL
    return hashes


def _list_hashes(column: pa.Array) -> npt.NDArray[np.uint64]:
    """Return the hashes of lists and maps, from items weighted by their places; null lists count as empty ones."""
    hashes = np.zeros(len(column), np.uint64)
    valid = np.asarray(column.is_valid()) if column.null_count else slice(None)
    lengths, children = _listed(column.drop_null() if column.null_count else column)
    ends = np.cumsum(lengths)
    place = np.arange(int(lengths.sum()), dtype=np.uint64) - np.repeat(ends - lengths, lengths).astype(np.uint64)
    items = _combined(list(children), list(children.values()), len(place)) * (_mixed(place) | np.uint64(1))
    summed = np.concatenate([np.zeros(1, np.uint64), np.cumsum(items)])
    hashes[valid] = summed[ends] - summed[ends - lengths] + lengths.astype(np.uint64)
    return _mixed(hashes)


def _fixed_hashes(column: pa.Array) -> npt.NDArray[np.uint64]:
    """Return the hashes of values of a fixed width; undefined where they are null."""
    width = _width(column.type)
    values = _fixed(column)
    if width in _UNSIGNED:
        return _mixed(values.view(_UNSIGNED[width]).astype(np.uint64))
    words = np.zeros((len(column), -(-width // 8) * 8), np.uint8)
    words[:, :width] = values.reshape(len(column), width)
    hashes = np.zeros(len(column), np.uint64)
    for word in words.view(np.uint64).T:
        hashes = _mixed(hashes + word)
    return hashes


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return the hashes of numbers, by the finalizer of SplitMix64.

    Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    shifted = mixed >> np.uint64(30)
    mixed ^= shifted
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= np.right_shift(mixed, np.uint64(27), out=shifted)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= np.right_shift(mixed, np.uint64(31), out=shifted)
    return mixed


#: Odd factors of the words of a text, by the place of the word.
_WEIGHTS: Final = _mixed(np.arange(1, _MOST_WORDS + 1, dtype=np.uint64)) | np.uint64(1)


def _storage(column: pa.Array) -> pa.Array:
    """Return a column as plain Arrow storage; types without a plain layout (such as unions) as text."""
    while isinstance(column, pa.ExtensionArray):
        column = column.storage
    column = plain(column)
    kind = column.type
    is_supported = pa.types.is_null(kind) or pa.types.is_struct(kind) or _is_listed(kind) or _is_binary(kind)
    if is_supported or _width(kind):
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
    """Return the bytes of a value of a fixed-width type; 0 for other types."""
    if pa.types.is_boolean(kind):
        return 1
    try:
        return int(kind.bit_width) // 8
    except ValueError:
        return 0


def _fixed(column: pa.Array) -> npt.NDArray[np.uint8]:
    """Return the bytes of a fixed-width column; undefined where it is null."""
    width = _width(column.type)
    if not len(column):
        return np.zeros(0, np.uint8)
    if pa.types.is_boolean(column.type):
        return np.asarray(column.fill_null(False)).view(np.uint8)  # noqa: FBT003  (the value)
    return np.frombuffer(column.buffers()[1], np.uint8)[column.offset * width : (column.offset + len(column)) * width]


def _binary(column: pa.Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """Return the length in bytes of every value (0 for nulls), and the bytes end to end."""
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
    """Return the length of every list of a column without nulls, and the items end to end, by name."""
    if pa.types.is_map(column.type):
        offsets = np.asarray(column.offsets)
        first, count = int(offsets[0]), int(offsets[-1] - offsets[0])
        items = {"keys": column.keys.slice(first, count), "items": column.items.slice(first, count)}
        return np.diff(offsets).astype(np.int64), items
    lengths = np.asarray(pc.list_value_length(column)).astype(np.int64)
    return lengths, {"items": column.flatten()}


def repeated(hashes: Iterable[npt.NDArray[np.uint64]]) -> npt.NDArray[np.uint64]:
    """Return the hashes that occur more than once, ``uint64[K]`` in order."""
    ordered = np.sort(np.concatenate([np.zeros(0, np.uint64), *hashes]))
    return np.unique(ordered[1:][ordered[1:] == ordered[:-1]])


def repeated_by(
    fresh: Iterable[npt.NDArray[np.uint64]], earlier: Iterable[npt.NDArray[np.uint64]]
) -> npt.NDArray[np.uint64]:
    """Return the hashes that occur more than once in ``fresh`` and ``earlier`` together, ``uint64[K]`` in order.

    ``earlier`` is not sorted, so that few new hashes among many take little time.

    Args:
        fresh: hashes ``uint64[N]``, in parts.
        earlier: hashes ``uint64[N]``, in parts, none of which occurs twice in ``earlier``.
    """
    parts = list(fresh)
    marked = np.zeros(1 << _MARKED_BITS, bool)
    for hashes in parts:
        marked[_marks(hashes)] = True
    # Of ``earlier``, only hashes with the first bits of a fresh hash are compared in full; if few are fresh, few pass.
    return repeated([*parts, *(hashes[marked[_marks(hashes)]] for hashes in earlier)])


def _marks(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.intp]:
    return (hashes >> np.uint64(64 - _MARKED_BITS)).astype(np.intp)
