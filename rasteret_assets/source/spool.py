"""Rows put aside by partition while a source is scanned once, in one file however many partitions there are."""

from __future__ import annotations

import mmap
import threading
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import pyarrow as pa

from rasteret_assets.columns.types import plain
from rasteret_assets.errors import SourceError
from rasteret_assets.schema import RAW
from rasteret_assets.storage.batches import BATCH_ROWS
from rasteret_assets.storage.files import Files, Written
from rasteret_assets.storage.reading import writing
from rasteret_assets.storage.streams import STREAM_OPTIONS, put_messages

#: Arrow bytes of all partitions that wait until a partition has rows enough for a batch.
_HELD_BYTES: Final = 48 * 2**20
#: Rows of a partition that are written at once.
_FULL_ROWS: Final = BATCH_ROWS


class Spool:
    """Takes rows of many partitions in any order, and writes each partition's rows as one stream.

    The rows lie in one temporary file as compressed messages of Arrow's IPC format, which are copied as they are into
    the partition's own stream: rows are encoded once, and no more than one file is open.

    Args:
        files: of the workspace.
        schema: of the rows.
        label: of the source, for messages.
    """

    def __init__(self, files: Files, schema: pa.Schema, label: str) -> None:
        self._files = files
        self.schema = plain_schema(schema)
        self._label = label
        self._lock = threading.Lock()
        self._held: dict[str, list[pa.RecordBatch]] = {}
        self._rows: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._messages: dict[str, list[tuple[int, int]]] = {}
        #: Rows of every partition.
        self.rows: Counter[str] = Counter()
        self._stack = ExitStack()
        self._file = self._stack.enter_context(files.beside(f"{files.stages}/{RAW}/rows"))
        self._sink = pa.OSFile(self._file.name, "wb")
        self._writer = pa.ipc.new_stream(self._sink, self.schema, options=STREAM_OPTIONS)
        # The schema is written before the first batch: what follows is batches only.
        self._writer.write_batch(pa.RecordBatch.from_pylist([], schema=self.schema))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(Exception):  # what was written is not needed any more
            self._writer.close()
        with suppress(Exception):
            self._sink.close()
        self._stack.close()

    def add(self, key: str, rows: pa.RecordBatch) -> None:
        """Put rows of a partition aside; many threads may do so.

        Raises:
            SourceError: if the values cannot be kept.
            WorkspaceError: if there is no room for them.
        """
        if any(pa.types.is_dictionary(kind) for kind in rows.schema.types):
            rows = pa.RecordBatch.from_arrays([plain(column) for column in rows.columns], schema=self.schema)
        with self._lock:
            self._held.setdefault(key, []).append(rows)
            self._rows[key] += rows.num_rows
            self._bytes[key] += rows.nbytes
            self.rows[key] += rows.num_rows
            if self._rows[key] >= _FULL_ROWS:
                self._write(key)
            elif self._bytes.total() > _HELD_BYTES:
                self._write(self._bytes.most_common(1)[0][0])

    def drop(self, key: str) -> None:
        """Forget the rows of a partition."""
        with self._lock:
            for held in (self._held, self._rows, self._bytes, self._messages, self.rows):
                held.pop(key, None)

    def put(self, key: str, path: str, metadata: dict[bytes, bytes], notes: dict[str, Any]) -> Written:
        """Write the rows of a partition as a stream, replacing what was there in one step.

        Args:
            key: of the partition.
            path: of the file.
            metadata: of the stream's schema.
            notes: what is noted about the rows.

        Raises:
            WorkspaceError: if the file cannot be written.
        """
        with self._lock:
            if key in self._held:
                self._write(key)
            with writing(path):
                self._sink.flush()
        messages = self._messages.get(key, [])
        schema = self.schema.with_metadata(metadata)
        if not messages:
            return put_messages(self._files, path, schema, [], self.rows[key], notes)
        with Path(self._file.name).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            whole = memoryview(content)
            pieces = [whole[first:end] for first, end in messages]
            try:
                return put_messages(self._files, path, schema, pieces, self.rows[key], notes)
            finally:
                for piece in pieces:
                    piece.release()
                whole.release()

    def _write(self, key: str) -> None:
        table = pa.Table.from_batches(self._held.pop(key), self.schema).combine_chunks()
        del self._rows[key], self._bytes[key]
        places = self._messages.setdefault(key, [])
        try:
            with writing(self._file.name):
                for batch in table.to_batches():
                    first = self._sink.tell()
                    self._writer.write_batch(batch)
                    places.append((first, self._sink.tell()))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise SourceError(f"{self._label}: cannot be kept: {error}") from error


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """Return a schema whose dictionary-encoded columns are plain: a stream's batches are then independent."""
    return pa.schema(
        [
            field.with_type(plain(pa.array([], field.type)).type) if pa.types.is_dictionary(field.type) else field
            for field in schema
        ]
    )
