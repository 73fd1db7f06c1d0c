"""What counts as unchanged: every version that says whether something has changed, and what each of them covers.

A version is an xxHash of content, or of everything that a store tells of content that is not read. A version is never
an address in memory, a clock alone, or a shortened name. Equal versions mean that nothing has to be done again.
Versions hold no secrets and are compared within one workspace only.

=============================== ======================================================================================
a file of a record table        :func:`file_version`: store, path, size, time of change, tag
an Arrow object                 :func:`arrow_version`: its schema and a digest of its rows
a specification                 :func:`spec_version`: every field that decides what is published
rows of a partition             :class:`~rasteret_assets.columns.hashing.RowsDigest`: all values, in any order
code                            ``PARSER_VERSION``, ``RECORD_VERSION``, ``PUBLISH_VERSION`` in ``schema.py``
=============================== ======================================================================================
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from xxhash import xxh3_64, xxh3_128

# How coarse the clock of a store may be, in ns, by the digits of its times: FAT has steps of two seconds, object
# stores of one; Linux stamps local files at ticks of up to 10 ms; who counts microseconds has read the clock.
_SECOND_NS: Final = 10**9
_MILLISECOND_NS: Final = 10**6
_COARSE_NS: Final = 2 * _SECOND_NS
_LOCAL_NS: Final = 20 * _MILLISECOND_NS
_EXACT_NS: Final = 100_000


class FileVersion(NamedTuple):
    """The version of a file: a hash, and whether an equal one means that the file did not change."""

    version: str
    is_reliable: bool


def file_version(
    store: str, path: str, *, size: int | None, times_ns: Sequence[int], tag: str | None, asked_ns: int
) -> FileVersion:
    """Return the version of a file by what its store tells of it.

    A tag changes with every write, unless it says itself that it is weak (RFC 9110, 8.8.1). Without a strong tag, a
    file that was modified within a step of the clock before the store was asked may be written again under the same
    time (it is "racy", as in git's index), and a file without a time says nothing. The versions of both hold the moment
    of asking, so that they never come again.

    Args:
        store: kind of the filesystem, such as ``local`` or ``s3``.
        path: the file's path on it, in full.
        size: in bytes.
        times_ns: when the file was last changed, in ns since 1970, by each clock of the store; the latest decides
            whether it is racy. Empty where the store does not tell.
        tag: what the store says of the content: ETag, version id, generation.
        asked_ns: when the store was asked, in ns since 1970.
    """
    latest = max(times_ns, default=None)
    is_reliable = is_strong(tag) or (latest is not None and asked_ns - latest >= _step_ns(store, latest))
    facts = (store, path, size, list(times_ns), tag, None if is_reliable else asked_ns)
    return FileVersion(_hexdigest(json.dumps(facts).encode()), is_reliable)


def is_strong(tag: str | None) -> bool:
    """Tell whether a tag changes with every byte; a weak one may stay where bytes change (RFC 9110, 8.8.1)."""
    return bool(tag) and 'W/"' not in str(tag)


def files_version(versions: Iterable[str]) -> str:
    """Return the version of a table of many files by the versions of these."""
    return _hexdigest(*(version.encode() for version in versions))


def _step_ns(store: str, modified_ns: int) -> int:
    if modified_ns % _SECOND_NS == 0:
        return _COARSE_NS
    if store == "local" or modified_ns % _MILLISECOND_NS == 0:
        return _LOCAL_NS
    return _EXACT_NS


def arrow_version(schema: pa.Schema, digest: str) -> str:
    """Return the version of an Arrow object by its schema, with all metadata, and a digest of its rows."""
    return _hexdigest(schema.serialize().to_pybytes(), digest.encode())


def spec_version(values: Mapping[str, Any], row_filter: pc.Expression | None) -> str:
    """Return the version (16 hex digits) of a specification.

    Args:
        values: its fields as JSON values, but for the filter.
        row_filter: rows to scan, or None.
    """
    digest = xxh3_64(json.dumps(values, sort_keys=True).encode())
    if row_filter is not None:
        digest.update(b"\0" + expression_version(row_filter).encode())
    return digest.hexdigest()


def expression_version(expression: pc.Expression) -> str:
    """Return the version of an Arrow expression: functions, fields and values with their types; sets have no order.

    The text of an expression leaves out the middle of long lists, and Substrait does not know all functions. What
    counts is therefore what Arrow pickles: a table of the values, with the functions in its metadata.
    """
    _, (pickled, *_) = expression.__reduce__()
    batch = pa.ipc.open_file(pickled).get_batch(0)
    pieces = [batch.schema.serialize().to_pybytes()]
    for column in batch.columns:
        values = (pa.record_batch([value], ["value"]) for value in _without_order(column))
        pieces.extend(value.serialize().to_pybytes() for value in values)
    return _hexdigest(*pieces)


def _without_order(values: pa.Array) -> list[pa.Array]:
    """Return a value of a pickled expression; the items of a set are sorted and unique."""
    kind = values.type
    if not pa.types.is_struct(kind) or kind.get_field_index("value_set") < 0:
        return [values]
    items = pc.unique(values.field("value_set").flatten())
    rest = [values.field(child.name) for child in kind if child.name != "value_set"]
    return [items.take(pc.array_sort_indices(items)), *rest]


def _hexdigest(*pieces: bytes) -> str:
    """Return a 128-bit hash as 32 hex digits; pieces are hashed with their lengths, so that none runs into the next."""
    digest = xxh3_128()
    for piece in pieces:
        digest.update(len(piece).to_bytes(8, "little") + piece)
    return digest.hexdigest()
