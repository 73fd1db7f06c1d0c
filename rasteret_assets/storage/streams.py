"""Tables of the first two stages as Arrow streams: cheap to write, and checked whole before the first row is read.

A stage's table is written once and read once or twice, as a whole, so it is kept as it lies in memory: Arrow's IPC
stream (https://arrow.apache.org/docs/format/Columnar.html#ipc-streaming-format), its buffers compressed with LZ4. Any
Arrow library opens it. After the end of the stream, where such readers stop, stands a line of JSON: the number of
rows, a digest of every byte before it, and what the stage noted about the rows. The last four bytes are the length of
that line.
"""

from __future__ import annotations

import json
import mmap
import struct
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from xxhash import xxh3_128

from rasteret_assets.storage.files import Files, Written
from rasteret_assets.storage.reading import damaged, opened, patiently, unreadable, writing

#: Ends the names of these files.
STREAM_SUFFIX: Final = ".arrows"

#: How batches are encoded.
STREAM_OPTIONS: Final = pa.ipc.IpcWriteOptions(compression="lz4")
_LENGTH: Final = struct.Struct("<I")
#: The end of a stream (the specification's end-of-stream marker).
_END: Final = b"\xff\xff\xff\xff\x00\x00\x00\x00"
_PIECE_BYTES: Final = 8 * 2**20


class StreamWriter:
    """Writes one stream batch by batch.

    Args:
        sink: file that is written.
        schema: of the rows.
        path: of the file that is replaced, for messages.
    """

    def __init__(self, sink: pa.NativeFile, schema: pa.Schema, path: str) -> None:
        self._writer = pa.ipc.new_stream(sink, schema, options=STREAM_OPTIONS)
        self._path = path
        self._written: Written | None = None
        self.rows = 0
        #: What the stage notes about the rows: any JSON document.
        self.notes: dict[str, Any] = {}

    @property
    def written(self) -> Written:
        """The file, after the ``with`` block that wrote it."""
        if self._written is None:
            raise RuntimeError("the file is not in place before its writer is closed")
        return self._written

    def write(self, rows: pa.Table | pa.RecordBatch) -> None:
        """Append rows.

        Raises:
            WorkspaceError: if there is no room for them.
        """
        if not rows.num_rows:
            return
        with writing(self._path):
            if isinstance(rows, pa.Table):
                for batch in rows.to_batches():
                    self._writer.write_batch(batch)
            else:
                self._writer.write_batch(rows)
        self.rows += rows.num_rows

    def close(self) -> None:
        """Write the end of the stream."""
        self._writer.close()


@contextmanager
def stream_writer(files: Files, path: str, schema: pa.Schema) -> Iterator[StreamWriter]:
    """Write a stream batch by batch; it replaces what was there when the block ends without an error.

    Args:
        files: of the workspace.
        path: of the file.
        schema: of its rows.

    Raises:
        WorkspaceError: if the file cannot be written.
    """
    with files.beside(path) as beside:
        with writing(path):
            sink = pa.OSFile(beside.name, "wb")
        writer = StreamWriter(sink, schema, path)
        try:
            yield writer
        except BaseException:
            with suppress(Exception):  # the error that ends the block is the one that counts
                sink.close()
            raise
        with writing(path):
            writer.close()
            sink.close()
            writer._written = _finished(beside.name, writer.rows, writer.notes)  # noqa: SLF001
        files.put_file(beside.name, path, durable=False)


def put_messages(
    files: Files, path: str, schema: pa.Schema, messages: Iterable[memoryview], rows: int, notes: dict[str, Any]
) -> Written:
    """Write a stream of record batches that are encoded already, replacing what was there in one step.

    Args:
        files: of the workspace.
        path: of the file.
        schema: of the rows.
        messages: encapsulated messages of record batches of this schema.
        rows: how many rows these hold.
        notes: what is noted about the rows.

    Raises:
        WorkspaceError: if the file cannot be written.
    """
    empty = pa.BufferOutputStream()
    pa.ipc.new_stream(empty, schema, options=STREAM_OPTIONS).close()
    frame = empty.getvalue().to_pybytes()
    with files.beside(path) as beside:
        with writing(path):
            beside.write(frame[: -len(_END)])
            for message in messages:
                beside.write(message)
            beside.write(_END)
            beside.flush()
            written = _finished(beside.name, rows, notes)
        files.put_file(beside.name, path, durable=False)
    return written


def _finished(path: str, rows: int, notes: dict[str, Any]) -> Written:
    """Append the line that is checked when the stream is opened."""
    digest = _digest(path)
    line = json.dumps({"rows": rows, "digest": digest, "notes": notes}, sort_keys=True).encode()
    with Path(path).open("ab") as file:
        file.write(line + _LENGTH.pack(len(line)))
        return Written(file.tell(), digest)


@dataclass(frozen=True, kw_only=True)
class StreamTable:
    """A stream that was opened, and found to be what was written.

    Args:
        path: of the file.
        content: its bytes, up to the end of the stream.
        schema: of its rows.
        rows: how many there are.
        digest: of its content.
        notes: what the stage noted about the rows.
    """

    path: str
    content: pa.Buffer = field(repr=False)
    schema: pa.Schema
    rows: int
    digest: str
    notes: dict[str, Any]

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the rows in file order, in the batches in which they were written.

        Args:
            columns: names of the columns to read; all when omitted.
        """
        fields = None if columns is None else [self.schema.get_field_index(name) for name in columns]
        options = pa.ipc.IpcReadOptions(included_fields=fields)
        with pa.ipc.open_stream(pa.BufferReader(self.content), options=options) as reader:
            for batch in reader:
                yield batch if columns is None else batch.select(list(columns))


def open_stream(files: Files, path: str) -> StreamTable | None:
    """Open a stream; None where there is none.

    Raises:
        CollectionError: if the file is not what was written, or cannot be opened.
    """
    content = _content(files, path)
    if content is None:
        return None
    try:
        (length,) = _LENGTH.unpack(content.slice(content.size - _LENGTH.size).to_pybytes())
        end = content.size - _LENGTH.size - length
        if end < 0:
            raise ValueError("its end is missing")  # noqa: TRY301
        note = json.loads(content.slice(end, length).to_pybytes())
        stream = content.slice(0, end)
        if xxh3_128(memoryview(stream)).hexdigest() != note["digest"]:
            raise ValueError("its bytes are not those that were written")  # noqa: TRY301
        with pa.ipc.open_stream(pa.BufferReader(stream)) as reader:
            schema = reader.schema
        return StreamTable(
            path=path, content=stream, schema=schema, rows=int(note["rows"]), digest=note["digest"], notes=note["notes"]
        )
    except (pa.ArrowInvalid, ValueError, KeyError, TypeError, struct.error) as error:
        raise damaged(path, error) from error


def _content(files: Files, path: str) -> pa.Buffer | None:
    """The bytes of a file: mapped where it lies on a disk, else brought to one."""
    if files.is_local:
        try:
            with Path(path).open("rb") as file:
                if not file.seek(0, 2):
                    return pa.py_buffer(b"")
                return pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise unreadable(path, error) from error

    def bring() -> pa.Buffer | None:
        source = opened(files.fs.open_input_stream, path)
        if source is None:
            return None
        # An unnamed file of this machine, which goes with the last buffer that is mapped from it: a partition may be
        # larger than memory.
        with source, tempfile.TemporaryFile() as local:
            while piece := source.read(_PIECE_BYTES):
                local.write(piece)
            local.flush()
            return pa.py_buffer(mmap.mmap(local.fileno(), 0, access=mmap.ACCESS_READ) if local.tell() else b"")

    try:
        return patiently(bring)
    except OSError as error:
        raise unreadable(path, error) from error


def _digest(path: str) -> str:
    digest = xxh3_128()
    with Path(path).open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()
