"""Read the ledger of a partition together with the headers that it names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa

from rasteret_assets.columns.conform import conform_rows
from rasteret_assets.headers.store import HeaderRowReader, HeaderStore
from rasteret_assets.schema import BAND_METADATA_SCHEMA, BANDS, HEADER_FILE, HEADER_ROW, HEADER_STRUCT
from rasteret_assets.storage.workspace import Workspace

#: Most bytes of headers in a batch.
_BATCH_BYTES = 24 * 2**20


def read_ledger(workspace: Workspace, key: str) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a partition's ledger, in bounded batches, with a column ``header`` (null where it is missing).

    Args:
        workspace: of the collection.
        key: of the partition.

    Raises:
        CollectionError: if the ledger or a header file is damaged.
    """
    path = workspace.stage_file(BANDS, key)
    stored = workspace.read_batches(path, BAND_METADATA_SCHEMA.names)
    # A ledger of version 0.1.0 holds its headers and has none of the new columns, so its rows stay as they are.
    whole = (conform_rows(rows, BAND_METADATA_SCHEMA) if HEADER_FILE in rows.schema.names else rows for rows in stored)
    return with_headers(workspace, key, whole)


def with_headers(workspace: Workspace, key: str, ledger: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Add the column ``header`` to rows of a partition's ledger, as :func:`read_ledger` does.

    Args:
        workspace: of the collection.
        key: of the partition.
        ledger: rows of the ledger, with at least the columns ``header_file`` and ``header_row``.

    Raises:
        CollectionError: if a header file is damaged.
    """
    store = HeaderStore(workspace, key)
    with HeaderRowReader(workspace, store, ["header"]) as reader:
        step = max(1, _BATCH_BYTES // reader.row_bytes(store.names))
        for whole in ledger:
            for start in range(0, whole.num_rows, step):
                batch = whole.slice(start, step)
                encoded = batch.column(HEADER_FILE).dictionary_encode()
                files = np.asarray(encoded.indices.fill_null(-1), np.int64)
                rows = np.asarray(batch.column(HEADER_ROW).fill_null(0), np.int64)
                header = reader.take(encoded.dictionary.to_pylist(), files, rows)["header"].combine_chunks()
                yield batch.append_column(pa.field("header", HEADER_STRUCT), header)
