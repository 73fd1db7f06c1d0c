"""Collect raw rows by partition in one scan of a source, and take rows over from the last raw records.

Rows lie in one temporary file, however many partitions there are, as compressed messages of Arrow's IPC format, and
are copied as they are into the stream of each partition, so that they are encoded once and one file is open. A
stream notes a digest of the rows that each file of the source has of the partition, and which files each message is
from, so that the next build takes over the messages of files that still hold these rows, and opens none of these files.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, NamedTuple, Self

import pyarrow as pa

from rasteret_assets.columns.types import plain
from rasteret_assets.errors import SourceError
from rasteret_assets.schema import RAW
from rasteret_assets.storage.io_errors import writing
from rasteret_assets.storage.process.batches import BATCH_ROWS
from rasteret_assets.storage.workspace.files import Files
from rasteret_assets.storage.workspace.placed_files import WrittenFile
from rasteret_assets.storage.workspace.streams import STREAM_OPTIONS, StoredBatch, StreamTable, put_messages

#: Arrow bytes of all partitions that wait until a partition has rows enough for a message.
_HELD_BYTES: Final = 48 * 2**20
#: Rows from which on a message takes no rows of a further file. Files with fewer rows share a message, and all of them
#: are read again if one of them changes.
_SHARED_ROWS: Final = 64

_DIGESTS: Final = "digests"
_MESSAGES: Final = "files of batches"


class _Spooled(NamedTuple):
    """Holds the place of a message in the temporary file, the number of its rows, and the files that they are from."""

    first: int
    end: int
    rows: int
    versions: tuple[str, ...]


@dataclass
class _Held:
    """Holds rows of a partition that wait to be written."""

    batches: list[pa.RecordBatch] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)
    rows: int = 0


class Spool:
    """Takes rows of many partitions in any order, and writes each partition's rows as one stream.

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
        self._held: dict[str, _Held] = {}
        self._bytes: Counter[str] = Counter()
        self._messages: dict[str, list[_Spooled]] = {}
        self._reused: dict[str, list[tuple[StreamTable, StoredBatch, tuple[str, ...]]]] = {}
        #: Rows of every partition.
        self.rows: Counter[str] = Counter()
        self._stack = ExitStack()
        self._file = self._stack.enter_context(files.beside(f"{files.stages}/{RAW}/rows"))
        self._sink = pa.OSFile(self._file.name, "wb")
        self._writer = pa.ipc.new_stream(self._sink, self.schema, options=STREAM_OPTIONS)
        # An empty batch first, because the schema is written with it; then the file holds batches only.
        self._writer.write_batch(pa.RecordBatch.from_pylist([], schema=self.schema))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(Exception):  # because the file is removed anyway
            self._writer.close()
        with suppress(Exception):
            self._sink.close()
        self._stack.close()

    def add(self, version: str, key: str, rows: pa.RecordBatch) -> None:
        """Keep rows of a file and a partition; safe for many threads.

        Raises:
            SourceError: if Arrow cannot store the values.
            WorkspaceError: if the disk is full.
        """
        if any(pa.types.is_dictionary(kind) for kind in rows.schema.types):
            rows = pa.RecordBatch.from_arrays([plain(column) for column in rows.columns], schema=self.schema)
        with self._lock:
            held = self._held.get(key)
            if held is not None and held.rows >= _SHARED_ROWS and held.versions[-1] != version:
                self._write(key)
                held = None
            if held is None:
                held = self._held[key] = _Held()
            if version not in held.versions:
                held.versions.append(version)
            held.batches.append(rows)
            held.rows += rows.num_rows
            self._bytes[key] += rows.nbytes
            self.rows[key] += rows.num_rows
            if held.rows >= BATCH_ROWS:
                self._write(key)
            elif self._bytes.total() > _HELD_BYTES:
                self._write(self._bytes.most_common(1)[0][0])

    def reuse(self, key: str, table: StreamTable, wanted: Mapping[str, str]) -> set[str]:
        """Take rows over from a partition's last raw records.

        Args:
            key: of the partition.
            table: its last raw records.
            wanted: digest of the rows that a file of the source has of the partition, by the file's version.

        Returns:
            The versions of the files all of whose rows in the partition were taken over.
        """
        if not table.schema.remove_metadata().equals(self.schema.remove_metadata()):
            return set()
        of_message = [tuple(held) for held in table.notes.get(_MESSAGES, ())]
        if len(of_message) != len(table.messages):
            return set()
        # Several files may hold equal rows, so each earlier file stands for one wanted file.
        versions: dict[str, list[str]] = {}
        for version, digest in wanted.items():
            versions.setdefault(digest, []).append(version)
        kept = {
            place: versions[digest].pop()
            for place, digest in enumerate(table.notes.get(_DIGESTS, ()))
            if versions.get(digest)
        }
        while True:
            # A message with rows of other files is not taken over, so the other messages of its files are not either.
            lost = {place for held in of_message if not kept.keys() >= set(held) for place in held} & kept.keys()
            if not lost:
                break
            for place in lost:
                del kept[place]
        with self._lock:
            for message, held in zip(table.messages, of_message, strict=True):
                if kept.keys() >= set(held):
                    found = tuple(kept[place] for place in held)
                    self._reused.setdefault(key, []).append((table, message, found))
                    self.rows[key] += message.rows
        return set(kept.values())

    def drop(self, key: str) -> None:
        """Forget the rows of a partition."""
        with self._lock:
            for forgotten in (self._held, self._bytes, self._messages, self._reused, self.rows):
                forgotten.pop(key, None)

    def put(self, key: str, path: str, metadata: dict[bytes, bytes], digests: Mapping[str, str]) -> WrittenFile:
        """Write the rows of a partition as a stream, which replaces the earlier one in one step.

        Args:
            key: of the partition.
            path: of the file.
            metadata: of the stream's schema.
            digests: digest of the rows that a file of the source has of the partition, by the file's version.

        Raises:
            WorkspaceError: if the file cannot be written.
        """
        with self._lock:
            if key in self._held:
                self._write(key)
            with writing(path):
                self._sink.flush()
        reused, spooled = self._reused.get(key, []), self._messages.get(key, [])
        of_message = [held for _, _, held in reused] + [message.versions for message in spooled]
        names = list(dict.fromkeys(name for held in of_message for name in held))
        number = {name: place for place, name in enumerate(names)}
        notes = {
            _DIGESTS: [digests[name] for name in names],
            _MESSAGES: [[number[name] for name in held] for held in of_message],
        }

        def messages() -> Iterator[tuple[int, bytes]]:
            for table, message, _ in reused:
                yield message.rows, memoryview(table.content(message)).tobytes()
            for own in spooled:
                yield own.rows, os.pread(self._file.fileno(), own.end - own.first, own.first)

        return put_messages(self._files, path, self.schema.with_metadata(metadata), messages(), notes)

    def _write(self, key: str) -> None:
        held = self._held.pop(key)
        del self._bytes[key]
        table = pa.Table.from_batches(held.batches, self.schema).combine_chunks()
        places = self._messages.setdefault(key, [])
        try:
            with writing(self._file.name):
                for batch in table.to_batches():
                    first = self._sink.tell()
                    self._writer.write_batch(batch)
                    places.append(_Spooled(first, self._sink.tell(), batch.num_rows, tuple(held.versions)))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise SourceError(f"{self._label}: its rows cannot be stored as Arrow: {error}") from error


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """Return a schema without dictionary-encoded columns, so that the batches of a stream are independent."""
    return pa.schema(
        [
            field_.with_type(plain(pa.array([], field_.type)).type) if pa.types.is_dictionary(field_.type) else field_
            for field_ in schema
        ],
        schema.metadata,
    )
