"""Tables and documents of a workspace: Parquet files read and written in batches, JSON documents compared and swapped.

Parquet pages carry checksums, which are compared whenever pages are read.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from xxhash import xxh3_128

from rasteret_assets.errors import DamagedFileError
from rasteret_assets.storage.io_errors import damaged, finding, patiently, unreadable, writing
from rasteret_assets.storage.process.batches import batch_rows, row_group_runs
from rasteret_assets.storage.workspace.conditional import LARGEST_PUT, ConditionalStore, ObjectTag, open_conditional
from rasteret_assets.storage.workspace.documents import dumped, parse, refuse_newer
from rasteret_assets.storage.workspace.placed_files import FileWriter, PlacedFiles, WrittenFile, synced

_log = logging.getLogger(__name__)

T = TypeVar("T")

#: How tables of the stages are written: cheaply rather than small, because each is read whole, once or twice.
STAGE_OPTIONS: Final[dict[str, Any]] = {"compression": "lz4", "use_dictionary": False, "write_statistics": False}


class TableWriter(FileWriter):
    """Writes one Parquet file batch by batch; size and digest are known once the file is in place.

    Args:
        writer: writes a local file beside the one at ``path``.
        path: the file that is replaced, for messages.
        row_group_size: most rows of a row group; None for as many as one call of :meth:`write` brings.
    """

    def __init__(self, writer: pq.ParquetWriter, path: str, row_group_size: int | None) -> None:
        super().__init__()
        self._writer = writer
        self._path = path
        self._row_group_size = row_group_size

    def write(self, rows: pa.Table | pa.RecordBatch) -> None:
        """Append rows as one or more new row groups.

        Raises:
            WorkspaceError: if the disk has no room for the rows.
        """
        table = pa.Table.from_batches([rows]) if isinstance(rows, pa.RecordBatch) else rows
        if table.num_rows:
            with writing(self._path):
                self._writer.write_table(table, self._row_group_size)
            self.rows += table.num_rows


@dataclass(frozen=True, kw_only=True)
class Files(PlacedFiles):
    """The tables and documents of a workspace, by path; arguments as for :class:`PlacedFiles`."""

    @contextmanager
    def open_table(self, path: str) -> Iterator[pq.ParquetFile | None]:
        """Open a Parquet file of which parts are read; give None where the file does not exist.

        All columns of the row groups that one call reads come from an object store in few requests, and are then in
        memory: read a large file some row groups at a time.

        Raises:
            DamagedFileError: if the bytes of the file are not those that were written.
            CollectionError: if the file cannot be opened or read.
        """
        found = self._parquet(path)
        if found is None:
            yield None
            return
        source, file = found
        try:
            with source, file:
                yield file
        except (pa.ArrowInvalid, OSError) as error:
            raise unreadable(path, error) from error

    def read_table(self, path: str, *, columns: Sequence[str] | None = None, cache: bool = False) -> pa.Table | None:
        """Read a Parquet file as a table, or return None where it does not exist; errors as for :meth:`open_table`.

        Args:
            path: of the file.
            columns: columns to read, of which those that the file does not have are left out; all when omitted.
            cache: whether the caller can make the table anew. Then a damaged file is logged and None is returned.
        """

        def read() -> pa.Table | None:
            if (found := self._parquet(path)) is None:
                return None
            source, file = found
            with source, file:
                return file.read(None if columns is None else list(columns))

        try:
            return self._patiently(path, read)
        except DamagedFileError as error:
            if not cache:
                raise
            _log_made_anew(error)
            return None

    def read_batches(self, path: str, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a Parquet file in bounded batches, in file order; nothing where it does not exist.

        Raises:
            DamagedFileError: if the bytes of the file are not those that were written.
            CollectionError: if the file cannot be opened or read.
        """
        with self.open_table(path) as file:
            if file is not None:
                yield from self.batches_of(path, file, columns)

    def batches_of(
        self, path: str, file: pq.ParquetFile, columns: Sequence[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows of the open Parquet file ``file`` in bounded batches, as :meth:`read_batches` does.

        Args:
            path: of the file, for messages.
            file: opened by :meth:`open_table`.
            columns: names of columns, or paths of their leaves; all when omitted.
        """
        wanted = None if columns is None else list(columns)
        rows = self._patiently(path, lambda: batch_rows(file, wanted))
        for groups in row_group_runs(file.metadata):
            yield from self._run_of_batches(path, file, groups, rows, wanted)

    def _run_of_batches(
        self, path: str, file: pq.ParquetFile, groups: list[int], rows: int, columns: list[str] | None
    ) -> Iterator[pa.RecordBatch]:
        """Yield the batches of the row groups ``groups``; a read that failed for a passing reason is tried again."""
        done = 0

        # A new iterator of Parquet begins at the first row group, so the batches that were yielded are read once more.
        def start() -> Iterator[pa.RecordBatch]:
            batches: Iterator[pa.RecordBatch] = file.iter_batches(rows, row_groups=groups, columns=columns)
            for _ in range(done):
                next(batches)
            return batches

        batches: Iterator[pa.RecordBatch] | None = None
        while True:

            def following() -> pa.RecordBatch | None:
                nonlocal batches
                if batches is None:
                    batches = start()
                try:
                    return next(batches, None)
                except (OSError, pa.ArrowInvalid):
                    batches = None
                    raise

            batch = self._patiently(path, following)
            if batch is None:
                return
            done += 1
            yield batch

    def read_schema(self, path: str) -> pa.Schema | None:
        """Read columns and footer metadata of a Parquet file, or return None where it does not exist.

        Errors as for :meth:`open_table`.
        """
        with self.open_table(path) as file:
            return None if file is None else file.schema_arrow

    def count_rows(self, path: str) -> int:
        """Count the rows of a Parquet file, 0 where it does not exist; errors as for :meth:`open_table`."""
        with self.open_table(path) as file:
            return 0 if file is None else int(file.metadata.num_rows)

    def _parquet(self, path: str) -> tuple[pa.NativeFile, pq.ParquetFile] | None:
        """Open a Parquet file and read its footer, or return None where it does not exist."""

        def read() -> tuple[pa.NativeFile, pq.ParquetFile] | None:
            source = self.open_file(path)
            if source is None:
                return None
            try:
                return source, self.parquet_of(source)
            except BaseException:
                source.close()
                raise

        return self._patiently(path, read)

    def parquet_of(self, source: pa.NativeFile) -> pq.ParquetFile:
        """Read the footer of the Parquet file ``source``."""
        return pq.ParquetFile(source, pre_buffer=not self.is_local, page_checksum_verification=True)

    def _patiently(self, path: str, read: Callable[[], T]) -> T:
        """Return the result of ``read``, which is called again after failures that may pass."""
        try:
            return patiently(read, again_if_damaged=not self.is_local)
        except (ValueError, OSError) as error:
            raise unreadable(path, error) from error

    def write_table(self, path: str, table: pa.Table, **options: Any) -> WrittenFile:
        """Write a table as one Parquet file, which replaces the file at ``path``; options as for :meth:`writer`."""
        with self.writer(path, table.schema, **options) as writer:
            writer.write(table)
        return writer.written

    @contextmanager
    def writer(
        self,
        path: str,
        schema: pa.Schema,
        *,
        row_group_size: int | None = None,
        put: Callable[[str, WrittenFile], None] | None = None,
        durable: bool = True,
        **options: Any,
    ) -> Iterator[TableWriter]:
        """Write a Parquet file batch by batch; it replaces the file at ``path`` if the block ends without an error.

        Args:
            path: of the file.
            schema: of its rows, with the footer metadata (readers go by the metadata of the schema, so keys cannot be
                added after the rows).
            row_group_size: most rows of a row group; as many as are written at once when omitted.
            put: called with the path of the finished local file and its size and digest, to put the file in its
                place; :meth:`put_file` when omitted.
            durable: whether the file has to outlast a power cut; False for files that every build writes anew.
            options: of ``pyarrow.parquet.ParquetWriter``.

        Raises:
            WorkspaceError: if the file cannot be written.
        """
        with self.beside(path) as beside:
            with writing(path):
                parquet = pq.ParquetWriter(beside, schema, **{"write_page_checksum": True, **options})
            writer = TableWriter(parquet, path, row_group_size)
            try:
                yield writer
            except BaseException:
                with suppress(Exception):  # the error of the block is the one to raise
                    parquet.close()
                raise
            with writing(path):
                parquet.close()
                synced(beside, durable=durable)
            with Path(beside.name).open("rb") as finished:
                digest = hashlib.file_digest(finished, xxh3_128).hexdigest()
                size = os.fstat(finished.fileno()).st_size
            writer._written = WrittenFile(size, digest)  # noqa: SLF001
            if put is not None:
                put(beside.name, writer.written)
            else:
                self.put_file(beside.name, path, durable=durable)

    def read_json(self, path: str, *, cache: bool = False) -> Any | None:
        """Read a JSON document, or return None where it does not exist.

        Args:
            path: of the document.
            cache: whether the caller can make the document anew. Then a damaged document, and one that is not a JSON
                object, is logged and None is returned.

        Raises:
            DamagedFileError: if the text is not JSON.
            CollectionError: if the document cannot be opened or read, or a newer version wrote it.
        """

        def read() -> Any | None:
            source = self.open_file(path)
            if source is None:
                return None
            with source:
                return parse(source.read())

        try:
            document = self._patiently(path, read)
            if cache and not isinstance(document, dict | None):
                raise damaged(path, "not a JSON object")
        except DamagedFileError as error:
            if not cache:
                raise
            _log_made_anew(error)
            return None
        refuse_newer(document, path)
        return document

    def write_json(self, path: str, document: Any) -> None:
        """Write a JSON document (sorted keys), which replaces the one at ``path`` in one step.

        Raises:
            WorkspaceError: if the file cannot be written.
        """
        with self.beside(path) as beside:
            with writing(path):
                beside.write(dumped(document))
                synced(beside, durable=True)
            self.put_file(beside.name, path)

    # --- compare and swap --------------------------------------------------------------------------------------------

    @property
    def conditional(self) -> ConditionalStore | None:
        """The store that replaces objects under a condition; None on a disk, and on stores without conditional puts.

        On a disk a lock does what the condition does on a store.
        """
        store = None if self.is_local else open_conditional(self.fs, self.stages)
        with writing(self.stages):
            return store if store and store.honours_conditions(f"{self.stages}/locks/.conditions") else None

    def read_tagged(self, path: str) -> tuple[Any | None, ObjectTag | None]:
        """Read a JSON document and the tag that :meth:`swap_json` takes; (None, None) where it does not exist.

        A damaged document is logged, and returned as None with its tag.

        Raises:
            CollectionError: if the document cannot be opened or read, or a newer version wrote it.
        """
        store = self.conditional
        if store is None:
            return self.read_json(path, cache=True), None
        with finding(path):
            found = store.read(path)
        if found is None:
            return None, None
        document = None
        try:
            document = parse(found.data)
        except ValueError as error:
            _log_made_anew(damaged(path, error))
        refuse_newer(document, path)
        return document if isinstance(document, dict) else None, found.tag

    def swap_json(self, path: str, document: Any, seen: ObjectTag | None) -> tuple[bool, ObjectTag | None]:
        """Replace a JSON document if its tag is still ``seen``; return whether it was replaced, and the new tag.

        Without conditional puts the document is replaced in any case: its lock has to be held.

        Args:
            path: of the document.
            document: new content, which no other process may write too.
            seen: tag from :meth:`read_tagged`; None if the document did not exist.
        """
        store = self.conditional
        if store is None:
            self.write_json(path, document)
            return True, None
        self.before_put(path)
        with writing(path):
            tag = store.swap(path, dumped(document), seen)
        return tag is not None, tag

    def tag_of(self, path: str) -> ObjectTag | None:
        """Return the tag of an object; None where the object does not exist, or its store has no conditional puts."""
        store = self.conditional
        with finding(path):
            return store.tag(path) if store is not None else None

    def put_over(self, beside: str, path: str, seen: ObjectTag | None) -> bool:
        """Put the finished local file ``beside`` at ``path`` if the object there still has the tag ``seen``.

        Without conditional puts, and for files above :data:`LARGEST_PUT` bytes, the object is replaced in any case.

        Returns:
            Whether the file is in its place.
        """
        store = self.conditional
        if store is None or Path(beside).stat().st_size > LARGEST_PUT:
            self.put_file(beside, path)
            return True
        self.before_put(path)
        with writing(path):
            return store.put(path, pa.memory_map(beside).read_buffer(), seen) is not None


def _log_made_anew(error: DamagedFileError) -> None:
    _log.warning("%s: damaged (%s); this build makes it anew", error.path, error.__cause__ or error)
