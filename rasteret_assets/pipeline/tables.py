"""Open the tables that stages wrote, for people to read: one partition of one table, whatever its file format."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa

from rasteret_assets.errors import CollectionError
from rasteret_assets.headers.ledger import read_ledger
from rasteret_assets.records.signatures import without_signatures
from rasteret_assets.schema import BANDS, COLLECTION, HEADER_FILE, NORMALIZED, RAW, RECIPE_KEY
from rasteret_assets.storage.filesystems import list_files
from rasteret_assets.storage.workspace import Workspace
from rasteret_assets.storage.workspace.streams import STREAM_SUFFIX, open_stream


@dataclass(frozen=True, kw_only=True)
class StoredTable:
    """One partition of a stage's table.

    Args:
        path: of its file.
        rows: number of rows.
        schema: of the rows.
        batches: rows in file order, in bounded batches; can be read once.
    """

    path: str
    rows: int
    schema: pa.Schema
    batches: Iterator[pa.RecordBatch] = field(repr=False)

    def head(self, rows: int) -> pa.Table:
        """Return the first rows, with every address in them unsigned.

        Raises:
            CollectionError: if the file is damaged.
        """
        found: list[pa.RecordBatch] = []
        while sum(map(len, found)) < rows and (batch := next(self.batches, None)) is not None:
            found.append(batch.slice(0, rows))
        return without_signatures(pa.Table.from_batches(found, self.schema).slice(0, rows))


def open_table(workspace: Workspace, stage: str, key: str) -> StoredTable | None:
    """Open one partition of a stage's table; return None if it has no file.

    The table of band metadata has a column ``header``, although headers are stored beside the ledger.

    Args:
        workspace: of the collection.
        stage: one of ``TABLES`` of ``schema.py``.
        key: of the partition.

    Raises:
        CollectionError: if the file cannot be opened.
    """
    if stage in (RAW, NORMALIZED):
        stream = open_stream(workspace, workspace.stage_file(stage, key))
        if stream is None:
            return None
        return _stored(stream.path, stream.rows, stream.schema, stream.batches())
    paths = [workspace.stage_file(stage, key)]
    if stage == COLLECTION:
        paths = [workspace.published_file(key), *workspace.outdated_files(key)]
    path = next((path for path in paths if workspace.has(path)), None)
    schema = None if path is None else workspace.read_schema(path)
    if path is None or schema is None:
        return None
    rows, batches = workspace.count_rows(path), workspace.read_batches(path)
    # Version 0.1.0 kept headers in the ledger itself.
    if stage == BANDS and HEADER_FILE in schema.names:
        batches = read_ledger(workspace, key)
        first = next(batches, None)
        if first is None:
            return _stored(path, rows, schema, iter(()))
        return _stored(path, rows, first.schema, _chained(first, batches))
    return _stored(path, rows, schema, batches)


def list_partitions(workspace: Workspace, stage: str) -> list[str]:
    """Return the partitions that have a file of a stage's table, in order.

    Raises:
        CollectionError: if the workspace cannot be reached.
    """
    if stage == COLLECTION:
        return list(workspace.states())
    suffix = STREAM_SUFFIX if stage in (RAW, NORMALIZED) else ".parquet"
    try:
        files = list_files(workspace.fs, f"{workspace.stages}/{stage}", (suffix,))
    except OSError as error:
        raise CollectionError(f"{workspace.stages}/{stage} cannot be listed: {error}") from error
    return sorted(info.base_name.removesuffix(suffix) for info in files)


def _stored(path: str, rows: int, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> StoredTable:
    # Without the profile in the footer, because only the next stage needs it, and it is longer than most rows.
    metadata = {name: text for name, text in (schema.metadata or {}).items() if name != RECIPE_KEY}
    plain = schema.with_metadata(metadata)
    held = (pa.RecordBatch.from_arrays(batch.columns, schema=plain) for batch in batches)
    return StoredTable(path=path, rows=rows, schema=plain, batches=held)


def _chained(first: pa.RecordBatch, others: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield first
    yield from others
