"""Files of a workspace: read in batches, written beside and put in place in one step.

A file is written on a local disk first and then put in place: renamed over the old one, or uploaded as one object. (An
object store's own output stream would publish what was written so far when it fails.) On a disk it is synced before it
gets its name, and its name after, so that a document written later never names a file that a power cut emptied. Parquet
pages carry checksums, which are compared whenever they are read.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from xxhash import xxh3_128

from rasteret_assets.errors import DamagedFileError
from rasteret_assets.schema import HEADERS, NORMALIZED, RAW, REJECTED
from rasteret_assets.storage.batches import batch_rows, row_group_runs
from rasteret_assets.storage.reading import damaged, looking, opened, patiently, unreadable, writing
from rasteret_assets.storage.workspace import disk
from rasteret_assets.storage.workspace.conditional import LARGEST_PUT, ConditionalStore, Tag, open_conditional
from rasteret_assets.storage.workspace.documents import dumped, parse, refuse_newer

_log = logging.getLogger(__name__)

T = TypeVar("T")

#: How tables of the stages are written: read once or twice and as a whole, they are cheap rather than small.
STAGE_OPTIONS: Final[dict[str, Any]] = {"compression": "lz4", "use_dictionary": False, "write_statistics": False}

_WRITING: Final = ".writing"
# Stages whose files keep what grants access: rows as they came, and what is made of them to fetch headers.
_PRIVATE: Final = frozenset({RAW, NORMALIZED, REJECTED, HEADERS})
_PIECE_BYTES: Final = 8 * 1024 * 1024
#: Bytes of an object that are asked for when it is opened: one that is no larger comes with that one request, where
#: pyarrow takes three (size, end, content).
_OPENED_BYTES: Final = 2**20
# What a killed process left behind is taken away once nobody can be writing it any more.
_ABANDONED_AFTER_S: Final = 24 * 3600


class Written(NamedTuple):
    """A file that was written: its size in bytes, and a digest that changes with any of them."""

    size: int
    digest: str


class FileWriter:
    """What is known of a file that is written batch by batch: its rows so far, and at last the file itself."""

    def __init__(self) -> None:
        self._written: Written | None = None
        self.rows = 0

    @property
    def written(self) -> Written:
        """The file, after the ``with`` block that wrote it."""
        if self._written is None:
            raise RuntimeError("the file is not in place before its writer is closed")
        return self._written


class TableWriter(FileWriter):
    """Writes one Parquet file batch by batch; what came of it is known once it is in place.

    Args:
        writer: of a file beside the one that is replaced.
        path: of the one that is replaced.
        row_group_size: most rows of a row group; as many as are written at once when omitted.
    """

    def __init__(self, writer: pq.ParquetWriter, path: str, row_group_size: int | None) -> None:
        super().__init__()
        self._writer = writer
        self._path = path
        self._row_group_size = row_group_size

    def write(self, rows: pa.Table | pa.RecordBatch) -> None:
        """Append rows as at least one row group of their own.

        Raises:
            WorkspaceError: if there is no room for them.
        """
        table = pa.Table.from_batches([rows]) if isinstance(rows, pa.RecordBatch) else rows
        if table.num_rows:
            with writing(self._path):
                self._writer.write_table(table, self._row_group_size)
            self.rows += table.num_rows


@dataclass(frozen=True, kw_only=True)
class Files:
    """The files of a workspace, by path.

    Args:
        fs: filesystem of all of them.
        stages: folder that is nobody else's, where files are written before they are put in place.
    """

    fs: pafs.FileSystem
    stages: str

    def has(self, path: str) -> bool:
        """Whether there is a file at a path.

        Raises:
            WorkspaceError: if that cannot be told.
        """
        with looking(path):
            return bool(self.fs.get_file_info(path).type == pafs.FileType.File)

    def open_file(self, path: str) -> pa.NativeFile | None:
        """Open a file to read any part of it, or return None where it does not exist; a small object is read at once.

        Raises:
            CollectionError: if it cannot be opened.
        """

        def whole_or_lazy(path: str) -> pa.NativeFile:
            store = None if self.is_local else open_conditional(self.fs, self.stages)
            if store is None:
                return self.fs.open_input_file(path)
            try:
                found = store.head_of(path, _OPENED_BYTES)
            except OSError:
                return self.fs.open_input_file(path)  # pyarrow knows other ways in, or says better what is wrong
            if found is None:
                raise FileNotFoundError(path)
            content, size = found
            return pa.BufferReader(content) if size == len(content) else self.fs.open_input_file(path)

        return opened(whole_or_lazy, path)

    @contextmanager
    def open_table(self, path: str) -> Iterator[pq.ParquetFile | None]:
        """Open a Parquet file to read parts of, or give None where it does not exist.

        What is asked for at once, all columns of some row groups, comes from an object store with few requests, and is
        then in memory: of a large file ask for a part after the other.

        Raises:
            DamagedFileError: if its bytes are not those that were written.
            CollectionError: if it cannot be opened or read.
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
            columns: to read, as far as there are such; all when omitted.
            cache: return None for a damaged file too, and log it: the table is made anew.
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
            DamagedFileError: if its bytes are not those that were written.
            CollectionError: if it cannot be opened or read.
        """
        with self.open_table(path) as file:
            if file is not None:
                yield from self.batches_of(path, file, columns)

    def batches_of(
        self, path: str, file: pq.ParquetFile, columns: Sequence[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a Parquet file that is open as :meth:`read_batches` does.

        Args:
            path: of the file, for messages.
            file: the file itself.
            columns: names of columns, or paths of their leaves; all when omitted.
        """
        wanted = None if columns is None else list(columns)
        rows = self._patiently(path, lambda: batch_rows(file, wanted))
        for groups in row_group_runs(file.metadata):
            yield from self._run_of_batches(path, file, groups, rows, wanted)

    def _run_of_batches(
        self, path: str, file: pq.ParquetFile, groups: list[int], rows: int, columns: list[str] | None
    ) -> Iterator[pa.RecordBatch]:
        """Yield the batches of some row groups; where a read fails that may succeed now, go on after the last batch."""
        done = 0

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
        """Read columns and footer metadata of a Parquet file, or None where it does not exist; errors as above."""
        with self.open_table(path) as file:
            return None if file is None else file.schema_arrow

    def count_rows(self, path: str) -> int:
        """Count the rows of a Parquet file, 0 where it does not exist; errors as above."""
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
        """Read the footer of a Parquet file that is open."""
        return pq.ParquetFile(source, pre_buffer=not self.is_local, page_checksum_verification=True)

    def _patiently(self, path: str, read: Callable[[], T]) -> T:
        """Return what ``read`` returns, trying again where it fails for a reason that may pass."""
        try:
            return patiently(read, again_if_damaged=not self.is_local)
        except (ValueError, OSError) as error:
            raise unreadable(path, error) from error

    def write_table(self, path: str, table: pa.Table, **options: Any) -> Written:
        """Write a table as one Parquet file, replacing what was there in one step; options as for :meth:`writer`."""
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
        put: Callable[[str, Written], None] | None = None,
        durable: bool = True,
        **options: Any,
    ) -> Iterator[TableWriter]:
        """Write a Parquet file batch by batch; it replaces what was there when the block ends without an error.

        Args:
            path: of the file.
            schema: of its rows, with the footer metadata (readers go by what stands in the schema, so keys cannot be
                added after the rows).
            row_group_size: most rows of a row group; as many as are written at once when omitted.
            put: called with the finished local file and its facts, puts the file in its place; by default
                :meth:`put_file` does.
            durable: whether the file has to outlast a power cut; not for what is written anew in each build.
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
                with suppress(Exception):  # what it is closed for is what counts
                    parquet.close()
                raise
            with writing(path):
                parquet.close()
                _finish(beside, durable=durable)
            with Path(beside.name).open("rb") as finished:
                digest = hashlib.file_digest(finished, xxh3_128).hexdigest()
                size = os.fstat(finished.fileno()).st_size
            writer._written = Written(size, digest)  # noqa: SLF001
            if put is not None:
                put(beside.name, writer.written)
            else:
                self.put_file(beside.name, path, durable=durable)

    def read_json(self, path: str, *, cache: bool = False) -> Any | None:
        """Read a JSON document, or return None where it does not exist.

        Args:
            path: of the document.
            cache: return None, and log it, for a damaged document and for one that is not an object: it is made anew.

        Raises:
            DamagedFileError: if its text is not JSON.
            CollectionError: if it cannot be opened or read, or a newer version wrote it.
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
        """Write a JSON document (sorted keys), replacing what was there in one step.

        Raises:
            WorkspaceError: if the file cannot be written.
        """
        with self.beside(path) as beside:
            with writing(path):
                beside.write(dumped(document))
                _finish(beside, durable=True)
            self.put_file(beside.name, path)

    # --- compare and swap --------------------------------------------------------------------------------------------

    @property
    def conditional(self) -> ConditionalStore | None:
        """What replaces objects under a condition; None on a disk, where a lock does, and on stores that cannot."""
        store = None if self.is_local else open_conditional(self.fs, self.stages)
        with writing(self.stages):
            return store if store and store.honours_conditions(f"{self.stages}/locks/.conditions") else None

    def read_tagged(self, path: str) -> tuple[Any | None, Tag | None]:
        """Read a JSON document with the tag to replace it by; damage is logged, and counts as no document.

        Raises:
            CollectionError: if it cannot be opened or read, or a newer version wrote it.
        """
        store = self.conditional
        if store is None:
            return self.read_json(path, cache=True), None
        with looking(path):
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

    def swap_json(self, path: str, document: Any, seen: Tag | None) -> tuple[bool, Tag | None]:
        """Replace a JSON document if nobody did so since it was read; say whether, and the new tag.

        Without conditional puts the document is replaced in any case: its lock has to be held.

        Args:
            path: of the document.
            document: of which no other process writes an equal one.
            seen: as :meth:`read_tagged` gave it.
        """
        store = self.conditional
        if store is None:
            self.write_json(path, document)
            return True, None
        self.before_put(path)
        with writing(path):
            tag = store.swap(path, dumped(document), seen)
        return tag is not None, tag

    def tag_of(self, path: str) -> Tag | None:
        """Return the tag of an object to replace it by; None where there is none, or no store of conditional puts."""
        store = self.conditional
        with looking(path):
            return store.tag(path) if store is not None else None

    def put_over(self, beside: str, path: str, seen: Tag | None) -> bool:
        """Put a finished local file in its place if nobody replaced the object there since its tag was looked up.

        Without conditional puts, and for a file that is too large for one, the object is replaced in any case.
        """
        store = self.conditional
        if store is None or Path(beside).stat().st_size > LARGEST_PUT:
            self.put_file(beside, path)
            return True
        self.before_put(path)
        with writing(path):
            return store.put(path, pa.memory_map(beside).read_buffer(), seen) is not None

    # --- putting in place --------------------------------------------------------------------------------------------

    def before_put(self, path: str) -> None:
        """Refuse to put a file in place, in subclasses that know a reason."""

    def put_file(self, beside: str, path: str, *, durable: bool = True) -> None:
        """Put a finished local file in its place in one step.

        Raises:
            WorkspaceError: if that cannot be done.
        """
        self.before_put(path)
        with writing(path):
            if self.is_local:
                if self.is_private(path):
                    # Before the file is in it; a folder of an earlier version is still open to others.
                    for folder in self.private_folders(path):
                        disk.make_folder(Path(folder))
                        disk.make_private(Path(folder))
                disk.replace(Path(beside), Path(path), durable=durable)
                return
            content = pa.memory_map(beside).read_buffer()
            with self.fs.open_output_stream(path) as sink:
                # In one call: an interrupt between two would close the stream, and so publish half of the object.
                sink.write(content)

    def is_private(self, path: str) -> bool:
        """Whether a file holds addresses as they are fetched, so that only its owner may read it."""
        inside = path.removeprefix(f"{self.stages}/")
        return inside != path and inside.split("/", 1)[0] in _PRIVATE

    def private_folders(self, path: str) -> list[str]:
        """Return the folders of a private file, below that of the stages."""
        names = path.removeprefix(f"{self.stages}/").split("/")[:-1]
        return [f"{self.stages}/{'/'.join(names[: count + 1])}" for count in range(len(names))]

    @property
    def is_local(self) -> bool:
        """Whether the files lie on a disk of this machine, or on one that looks like it."""
        return bool(self.fs.type_name == "local")

    @property
    def scratch(self) -> str:
        """Folder of this machine in which files are written before they are put in place."""
        return f"{self.stages}/{_WRITING}" if self.is_local else tempfile.gettempdir()

    @contextmanager
    def beside(self, path: str) -> Iterator[BinaryIO]:
        """Open a local file to write what is to be put in place of ``path``; it is gone afterwards."""
        with writing(path):
            if self.is_local:
                self.refuse_links(f"{self.stages}/{_WRITING}/file")
                self.refuse_links(path)
            beside = disk.create_beside(Path(self.scratch), private=self.is_private(path))
        try:
            yield beside
        finally:
            # What is raised in the block names the file, which an error of tidying up would hide.
            with suppress(OSError):
                beside.close()
            with suppress(OSError):
                Path(beside.name).unlink()

    def refuse_links(self, path: str) -> None:
        """Refuse a path on a local disk that leads through a symbolic link below the folder of the stages.

        Raises:
            OSError: naming the link.
        """
        disk.refuse_links(path, [self.stages])

    def sweep(self, folder: str = _WRITING) -> None:
        """Take away the files of a folder of the stages that were written a day ago or earlier, and are not open.

        By default those that processes left half written when they were killed.

        Raises:
            WorkspaceError: if they cannot be taken away.
        """
        path = f"{self.stages}/{folder}"
        with writing(path):
            if self.is_local:
                self.refuse_links(f"{path}/file")
                for stage in _PRIVATE:
                    # An earlier version left them open to others.
                    if Path(f"{self.stages}/{stage}").is_dir() and not Path(f"{self.stages}/{stage}").is_symlink():
                        disk.make_private(Path(f"{self.stages}/{stage}"))
                disk.sweep(Path(path), _ABANDONED_AFTER_S)
                return
            oldest = time.time() - _ABANDONED_AFTER_S
            for info in self.fs.get_file_info(pafs.FileSelector(path, allow_not_found=True)):
                if info.type == pafs.FileType.File and info.mtime is not None and info.mtime.timestamp() < oldest:
                    with suppress(FileNotFoundError):  # another process may be sweeping too
                        self.fs.delete_file(info.path)


def _finish(file: BinaryIO, *, durable: bool) -> None:
    file.flush()
    if durable:
        os.fsync(file.fileno())


def _log_made_anew(error: DamagedFileError) -> None:
    _log.warning("%s: damaged; it is made anew (%s)", error.path, error.__cause__ or error)


def digest_of(fs: pafs.FileSystem, path: str) -> str:
    """Return the digest of a file as :class:`Written` has it, read in pieces."""
    with fs.open_input_stream(path) as stream:
        return stream_digest(stream)


def stream_digest(stream: pa.NativeFile) -> str:
    """Return the digest of what is left to read of a file, as :class:`Written` has it, read in pieces."""
    digest = xxh3_128()
    while piece := stream.read(_PIECE_BYTES):
        digest.update(piece)
    return digest.hexdigest()
