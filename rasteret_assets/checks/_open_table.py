"""Open a table of a workspace, a Parquet file or a stream, once for all checks that read it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
from xxhash import xxh3_128

from rasteret_assets.storage.io_errors import patiently, unreadable
from rasteret_assets.storage.workspace.files import Files
from rasteret_assets.storage.workspace.placed_files import stream_digest
from rasteret_assets.storage.workspace.streams import STREAM_SUFFIX, open_stream

#: Most bytes of a file that are kept in memory after its digest was computed, so that rows take no further request.
_HELD_BYTES: Final = 64 * 2**20


@dataclass(frozen=True, kw_only=True)
class OpenTable:
    """A table that is open.

    Args:
        path: of its file.
        schema: of its rows.
        count: number of its rows.
        batches: yields the rows of some columns in bounded batches, in file order; errors as for ``open_rows``.
        digest: of the bytes of a Parquet file, where it was asked for.
    """

    path: str
    schema: pa.Schema
    count: int
    batches: Callable[[Sequence[str]], Iterator[pa.RecordBatch]]
    digest: str | None = None


@contextmanager
def open_rows(files: Files, path: str, *, digest: bool = False) -> Iterator[OpenTable | None]:
    """Open a table; yield None where it does not exist.

    Args:
        files: of the workspace.
        path: of the table.
        digest: whether the digest of a Parquet file is wanted, for which all of its bytes are read.

    Raises:
        DamagedFileError: if the bytes of the file are not those that were written.
        CollectionError: if the file cannot be opened or read for another reason.
    """
    if path.endswith(STREAM_SUFFIX):
        stream = open_stream(files, path)
        yield None if stream is None else OpenTable(
            path=path, schema=stream.schema, count=stream.rows, batches=stream.batches
        )  # fmt: skip
        return
    source = files.open_file(path)
    if source is None:
        yield None
        return
    with source:
        try:
            found, content = patiently(lambda: _digest(source)) if digest else (None, None)
            held = source if content is None else pa.BufferReader(content)
            file = patiently(lambda: files.parquet_of(held), again_if_damaged=not files.is_local)
        except (ValueError, OSError) as error:
            raise unreadable(path, error) from error
        with file:
            yield OpenTable(
                path=path, schema=file.schema_arrow, count=file.metadata.num_rows, digest=found,
                batches=lambda columns: files.batches_of(path, file, columns),
            )  # fmt: skip


def _digest(source: pa.NativeFile) -> tuple[str, pa.Buffer | None]:
    """Return the digest of a file, as :class:`~rasteret_assets.storage.workspace.placed_files.WrittenFile` has it.

    The second value is the bytes of the file if they are at most :data:`_HELD_BYTES`, else None.
    """
    source.seek(0)
    if source.size() <= _HELD_BYTES:
        content = source.read_buffer()
        return xxh3_128(memoryview(content)).hexdigest(), content
    return stream_digest(source), None
