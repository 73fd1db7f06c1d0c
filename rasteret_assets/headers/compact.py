"""Compact a header store: drop the rows that the ledger does not name once they are a third of all; join many files.

Rows of records that a partition lost within the last day do not count as dead, because another partition may have got
the records.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.headers.store import GROUP_ROWS, HeaderFileWriter, HeaderRowReader, HeaderStore
from rasteret_assets.headers.unused import forget_unused, lately_unused
from rasteret_assets.schema import BANDS, HEADER_FILE, HEADER_ROW, HEADER_SCHEMA
from rasteret_assets.storage.workspace import Workspace

#: Share of a store's rows that may be dead.
DEAD_SHARE: Final = 1 / 3
#: Most files of a store; beyond that number the small ones are joined.
MOST_FILES: Final = 24
_STEP_BYTES: Final = 16 * 2**20

#: How the ledger is written: columns with repeated values as dictionaries.
LEDGER_OPTIONS: Final[dict[str, Any]] = {
    "compression": "zstd",
    "compression_level": 1,
    "use_dictionary": ["band", "status", "error_class", "error", "last_modified", HEADER_FILE],
    "write_statistics": False,
}


def compact(workspace: Workspace, key: str) -> bool:
    """Write the rows that a partition's ledger names into new files, if too many other rows lie between them.

    The new files are written first, then the ledger that names them, then the old files are deleted. At whatever moment
    the process dies, every row that the ledger names exists.

    Args:
        workspace: of the collection.
        key: of the partition, whose lock is held.

    Returns:
        Whether anything was written.

    Raises:
        CollectionError: if a file is damaged.
    """
    path = workspace.stage_file(BANDS, key)
    store = HeaderStore(workspace, key)
    if len(store.names) < 2 and not store.lists_unused:
        return False  # all rows of one file were written for the ledger that names them
    schema = workspace.read_schema(path)
    if schema is None or HEADER_FILE not in schema.names:
        return False
    rows = {name: store.open(name).rows for name in store.names}
    live: Counter[str] = Counter()
    for batch in workspace.read_batches(path, [HEADER_FILE, HEADER_ROW]):
        pairs = pa.Table.from_batches([batch]).filter(pc.is_valid(batch.column(HEADER_FILE)))
        distinct = pairs.group_by([HEADER_FILE, HEADER_ROW]).aggregate([])
        counted = distinct[HEADER_FILE].combine_chunks().value_counts()
        live.update(dict(zip(counted.field(0).to_pylist(), counted.field(1).to_pylist(), strict=True)))
    chosen = _worth_writing(rows, live, lately_unused(workspace, store))
    if not chosen:
        return False
    old = [name for name in store.names if name in chosen]
    writer = HeaderFileWriter(workspace, store)
    with (
        HeaderRowReader(workspace, store, HEADER_SCHEMA.names) as reader,
        workspace.writer(path, schema, **LEDGER_OPTIONS) as ledger,
    ):
        step = max(1, _STEP_BYTES // reader.row_bytes(old))
        for batch in workspace.read_batches(path):
            for start in range(0, batch.num_rows, step):
                ledger.write(_moved(batch.slice(start, step), old, reader, writer))
        writer.close()
    for name in old:
        store.remove(name)
    forget_unused(workspace, store)
    return True


def _worth_writing(rows: dict[str, int], live: Counter[str], lent: Counter[str]) -> set[str]:
    """Return the names of the files whose rows are written again.

    Args:
        rows: number of rows of every file.
        live: number of rows of every file that the ledger names.
        lent: number of rows of every file that another partition may still ask for, because records may have moved.
    """
    total = sum(rows.values())
    used = sum(min(count, live[name] + lent[name]) for name, count in rows.items())
    chosen: set[str] = set()
    if total - used > DEAD_SHARE * total:
        chosen |= {name for name, count in rows.items() if live[name] < count}
    if len(rows) - len(chosen) > MOST_FILES:
        chosen |= {name for name, count in rows.items() if count < GROUP_ROWS} or set(rows)
    return chosen


def _moved(batch: pa.RecordBatch, old: list[str], reader: HeaderRowReader, writer: HeaderFileWriter) -> pa.Table:
    """Copy the headers that rows of the ledger name in old files; return the rows with the new places."""
    table = pa.Table.from_batches([batch])
    codes = pc.index_in(table[HEADER_FILE].combine_chunks(), value_set=pa.array(old, pa.string()))
    moving = np.flatnonzero(np.asarray(codes.is_valid()))
    if not len(moving):
        return table
    rows = table[HEADER_ROW].combine_chunks()
    places = np.stack([np.asarray(column.take(pa.array(moving)), np.int64) for column in (codes, rows)], axis=1)
    # Bands that share a header row still do so afterwards, as far as they are in one step.
    distinct, back = np.unique(places, axis=0, return_inverse=True)
    # In the order of the ledger, so that publishing reads the new file from front to end.
    first = np.full(len(distinct), len(moving), np.int64)
    np.minimum.at(first, back.ravel(), np.arange(len(moving)))
    order = np.argsort(first, kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    name, start = writer.put(reader.take(old, distinct[order, 0], distinct[order, 1]))
    names = np.asarray(table[HEADER_FILE].to_pylist(), object)
    numbers = np.asarray(pc.fill_null(table[HEADER_ROW], -1), np.int64)
    names[moving] = name
    numbers[moving] = start + place[back.ravel()]
    for column, made in (
        (HEADER_FILE, pa.array(names, pa.string())), (HEADER_ROW, pa.array(numbers, pa.int32(), mask=numbers < 0))
    ):  # fmt: skip
        table = table.set_column(table.schema.get_field_index(column), table.schema.field(column), made)
    return table
