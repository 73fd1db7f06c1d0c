"""Tables of a workspace as Arrow streams, which are cheap to write and to read in part; every batch has a checksum.

This package reads raw records, normalized records and the header store many times, and others rarely do. These tables
are therefore files in the form that they have in memory: Arrow's IPC stream
(https://arrow.apache.org/docs/format/Columnar.html#ipc-streaming-format), with buffers compressed by LZ4. Any Arrow
library opens such a file. After the end of the stream, where other readers stop, comes a line of JSON: first byte, rows
and checksum of each batch, and notes of the writer. The last twelve bytes of the file are a checksum of the line
together with the end of the stream before it, and the length of the line.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final, NamedTuple

import pyarrow as pa
from xxhash import xxh3_64_hexdigest, xxh3_64_intdigest, xxh3_128

from rasteret_assets.storage.io_errors import damaged, patiently, unreadable, writing
from rasteret_assets.storage.workspace.files import Files
from rasteret_assets.storage.workspace.placed_files import FileWriter, WrittenFile

#: Suffix of the files' names.
STREAM_SUFFIX: Final = ".arrows"

#: How batches are encoded.
STREAM_OPTIONS: Final = pa.ipc.IpcWriteOptions(compression="lz4")
#: Checksum and length of the line.
_TRAILER: Final = struct.Struct("<QI")
#: The end of a stream (the specification's end-of-stream marker).
_END: Final = b"\xff\xff\xff\xff\x00\x00\x00\x00"
#: Bytes that are asked of an object store at once.
_PIECE_BYTES: Final = 16 * 2**20
_TAIL_BYTES: Final = 256 * 1024


class StoredBatch(NamedTuple):
    """A record batch in a stream.

    Args:
        first: first byte of the batch in the file.
        size: bytes of the batch.
        rows: rows of the batch.
        checksum: xxh3 of the bytes, in hexadecimal.
    """

    first: int
    size: int
    rows: int
    checksum: str


class StreamWriter(FileWriter):
    """Writes one stream batch by batch.

    Args:
        sink: the file to write.
        schema: of the rows.
        path: of the file that is replaced, for messages.
    """

    def __init__(self, sink: pa.NativeFile, schema: pa.Schema, path: str) -> None:
        super().__init__()
        self._sink = sink
        self._writer = pa.ipc.new_stream(sink, schema, options=STREAM_OPTIONS)
        self._path = path
        self._places: list[tuple[int, int, int]] = []
        #: Notes about the rows, which can be written as JSON.
        self.notes: dict[str, Any] = {}
        with writing(path):
            # An empty batch, because the schema is written with the first batch.
            self._writer.write_batch(pa.RecordBatch.from_pylist([], schema=schema))

    def write(self, rows: pa.Table | pa.RecordBatch) -> None:
        """Append rows as one or more new batches.

        Raises:
            WorkspaceError: if the disk has no room for the rows.
        """
        for batch in rows.to_batches() if isinstance(rows, pa.Table) else [rows]:
            if batch.num_rows:
                with writing(self._path):
                    first = self._sink.tell()
                    self._writer.write_batch(batch)
                    self._places.append((first, self._sink.tell() - first, batch.num_rows))
                self.rows += batch.num_rows

    def close(self) -> list[tuple[int, int, int]]:
        """Write the end of the stream; return first byte, size and rows of each batch."""
        self._writer.close()
        return self._places


@contextmanager
def stream_writer(files: Files, path: str, schema: pa.Schema, *, durable: bool = False) -> Iterator[StreamWriter]:
    """Write a stream batch by batch; it replaces the file at ``path`` if the block ends without an error.

    Args:
        files: of the workspace.
        path: of the file.
        schema: of its rows.
        durable: whether the file has to outlast a power cut; False for files that every build writes anew.

    Raises:
        WorkspaceError: if the file cannot be written.
    """
    with files.beside(path) as beside:
        with writing(path):
            sink = pa.OSFile(beside.name, "wb")
        try:
            writer = StreamWriter(sink, schema, path)
            yield writer
        except BaseException:
            with suppress(Exception):  # the error of the block is the one to raise
                sink.close()
            raise
        with writing(path):
            places = writer.close()
            sink.close()
            writer._written = _finished(beside, places, writer.notes, durable=durable)  # noqa: SLF001
        files.put_file(beside.name, path, durable=durable)


def put_messages(
    files: Files, path: str, schema: pa.Schema, messages: Iterable[tuple[int, bytes]], notes: dict[str, Any]
) -> WrittenFile:
    """Write a stream of record batches that are encoded already, which replaces the file at ``path`` in one step.

    Args:
        files: of the workspace.
        path: of the file.
        schema: of the rows.
        messages: pairs of number of rows and encoded bytes, for each batch.
        notes: notes about the rows.

    Raises:
        WorkspaceError: if the file cannot be written.
    """
    empty = pa.BufferOutputStream()
    pa.ipc.new_stream(empty, schema, options=STREAM_OPTIONS).close()
    frame = empty.getvalue().to_pybytes()[: -len(_END)]
    places: list[tuple[int, int, int]] = []
    with files.beside(path) as beside:
        with writing(path):
            beside.write(frame)
            end = len(frame)
            for rows, message in messages:
                beside.write(message)
                places.append((end, len(message), rows))
                end += len(message)
            beside.write(_END)
            written = _finished(beside, places, notes, durable=False)
        files.put_file(beside.name, path, durable=False)
    return written


def _finished(
    file: BinaryIO, places: Sequence[tuple[int, int, int]], notes: dict[str, Any], *, durable: bool
) -> WrittenFile:
    """Append the line about the batches of a stream; return the file's size and a digest of its columns and rows."""
    file.flush()
    size = file.seek(0, 2)
    # Not mapped, because pages of a mapped file count as memory of this process.
    sums = [xxh3_64_hexdigest(memoryview(_pread(file.fileno(), first, count))) for first, count, _ in places]
    start = _pread(file.fileno(), 0, places[0][0] if places else size - len(_END))
    head = xxh3_64_hexdigest(memoryview(start))
    messages = [[*place, checksum] for place, checksum in zip(places, sums, strict=True)]
    line = json.dumps({"head": head, "messages": messages, "notes": notes}, sort_keys=True).encode()
    file.write(line + _TRAILER.pack(xxh3_64_intdigest(_END + line), len(line)))
    file.flush()
    if durable:
        os.fsync(file.fileno())
    # Without the metadata of the schema, which says what the rows were made from: equal rows have equal digests.
    columns = pa.ipc.read_schema(pa.BufferReader(start)).remove_metadata().serialize()
    digest = xxh3_128(memoryview(columns))
    digest.update("".join(sums).encode())
    return WrittenFile(file.tell(), digest.hexdigest())


@dataclass(frozen=True, kw_only=True)
class StreamTable:
    """An open stream. The checksum of a batch is compared when the batch is read.

    Args:
        path: of the file.
        schema: of its rows.
        messages: its batches, in file order.
        notes: notes of the writer about the rows.
        read: returns bytes of the file, given the first byte and the number of bytes.
    """

    path: str
    schema: pa.Schema
    messages: tuple[StoredBatch, ...]
    notes: dict[str, Any]
    read: Callable[[int, int], pa.Buffer] = field(repr=False)

    @property
    def rows(self) -> int:
        """Number of rows in all batches."""
        return sum(message.rows for message in self.messages)

    def content(self, message: StoredBatch) -> pa.Buffer:
        """Return the encoded bytes of a batch, after comparing their checksum.

        Raises:
            DamagedFileError: if the bytes are not those that were written.
            CollectionError: if the bytes cannot be read.
        """
        try:
            content = self.read(message.first, message.size)
        except OSError as error:
            raise unreadable(self.path, error) from error
        if xxh3_64_hexdigest(memoryview(content)) != message.checksum:
            raise damaged(self.path, "its bytes are not those that were written")
        return content

    def batch(self, message: StoredBatch, columns: Sequence[str] | None = None) -> pa.RecordBatch:
        """Return a batch; errors as for :meth:`content`.

        Args:
            message: the batch.
            columns: names of the columns to read; all when omitted.
        """
        content = self.content(message)
        try:
            if columns is None:
                return pa.ipc.read_record_batch(pa.ipc.read_message(pa.BufferReader(content)), self.schema)
            # As a stream of this batch alone, because pyarrow reads single columns only of a stream.
            fields = [self.schema.get_field_index(name) for name in columns]
            options = pa.ipc.IpcReadOptions(included_fields=fields)
            head = self.schema.serialize()
            whole = pa.PythonFile(_Joined([memoryview(head), memoryview(content), memoryview(_END)]), "r")
            with pa.ipc.open_stream(whole, options=options) as reader:
                return reader.read_next_batch().select(list(columns))
        except (pa.ArrowInvalid, OSError) as error:
            raise unreadable(self.path, error) from error

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the batches of the file, in file order; errors as for :meth:`content`."""
        for message in self.messages:
            yield self.batch(message, columns)


class _Joined:
    """Pieces of memory as one Python file."""

    def __init__(self, pieces: Sequence[memoryview]) -> None:
        self._pieces = list(pieces)
        self.closed = False

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            size = sum(map(len, self._pieces))
        parts = []
        while size and self._pieces:
            piece = self._pieces[0][:size]
            parts.append(piece)
            size -= len(piece)
            self._pieces[0] = self._pieces[0][len(piece) :]
            if not len(self._pieces[0]):
                del self._pieces[0]
        return b"".join(parts)

    def close(self) -> None:
        self.closed = True


def open_stream(files: Files, path: str) -> StreamTable | None:
    """Open the stream at ``path``; None where it does not exist.

    Raises:
        DamagedFileError: if the bytes of the file are not those that were written.
        CollectionError: if the file cannot be opened.
    """
    source = _local(path) if files.is_local else _remote(files, path)
    if source is None:
        return None
    size, read = source
    try:
        tail = read(max(0, size - _TAIL_BYTES), min(size, _TAIL_BYTES))
        checksum, length = _TRAILER.unpack(memoryview(tail)[-_TRAILER.size :])
        end = size - _TRAILER.size - length
        if end < len(_END):
            raise ValueError("its end is missing")  # noqa: TRY301
        length += len(_END)
        short = tail.size - _TRAILER.size - length
        line = memoryview(tail.slice(short, length) if short >= 0 else read(end - len(_END), length)).tobytes()
        if not line.startswith(_END) or xxh3_64_intdigest(line) != checksum:
            raise ValueError("its end is not the one that was written")  # noqa: TRY301
        note = json.loads(line[len(_END) :])
        messages = tuple(StoredBatch(*message) for message in note["messages"])
        head = read(0, messages[0].first if messages else end - len(_END))
        if messages and sum(messages[-1][:2]) != end - len(_END):
            raise ValueError("it is longer than it was written")  # noqa: TRY301
        if xxh3_64_hexdigest(memoryview(head)) != note["head"]:
            raise ValueError("its bytes are not those that were written")  # noqa: TRY301
        schema = pa.ipc.read_schema(pa.BufferReader(head))
        return StreamTable(path=path, schema=schema, messages=messages, notes=dict(note["notes"]), read=read)
    except (pa.ArrowInvalid, ValueError, KeyError, TypeError, struct.error) as error:
        raise damaged(path, str(error)) from error
    except OSError as error:
        raise unreadable(path, error) from error


_Source = tuple[int, Callable[[int, int], pa.Buffer]]


def _local(path: str) -> _Source | None:
    try:
        file = _Descriptor(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        return os.fstat(file.number).st_size, lambda first, count: _pread(file.number, first, count)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unreadable(path, error) from error


class _Descriptor:
    """An open file that is closed with its last reference, because batches may be read as long as one exists."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


def _pread(file: int, first: int, count: int) -> pa.Buffer:
    """Return bytes of a local file; several threads may read at once."""
    pieces = []
    while count > 0 and (piece := os.pread(file, count, first)):
        pieces.append(piece)
        first, count = first + len(piece), count - len(piece)
    return pa.py_buffer(pieces[0] if len(pieces) == 1 else b"".join(pieces))


def _remote(files: Files, path: str) -> _Source | None:
    source = files.open_file(path)
    if source is None:
        return None
    held = (0, pa.py_buffer(b""))

    def read(first: int, count: int) -> pa.Buffer:
        nonlocal held
        start, piece = held
        if not start <= first or first + count > start + piece.size:
            # Read more than the wanted bytes, because the next request is nearly always for the bytes after them.
            start, more = first, max(count, _PIECE_BYTES)
            try:
                piece = patiently(lambda: pa.py_buffer(source.read_at(more, first)))
            except OSError as error:
                raise unreadable(path, error) from error
            held = (start, piece)
        return piece.slice(first - start, count)

    return int(source.size()), read
