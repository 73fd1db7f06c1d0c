"""Files of a workspace: read in batches, written beside and put in place in one step.

A file is written on a local disk first and then put in place: renamed over the old one, or uploaded as one object. (An
object store's own output stream would publish what was written so far when it fails.)
"""

from __future__ import annotations

import errno
import hashlib
import json
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from xxhash import xxh3_128

from rasteret_assets.errors import CollectionError, WorkspaceError
from rasteret_assets.storage.batches import batch_rows, row_group_runs

#: How tables of the stages are written: read once or twice and as a whole, they are cheap rather than small.
STAGE_OPTIONS: Final[dict[str, Any]] = {"compression": "lz4", "use_dictionary": False, "write_statistics": False}

_WRITING: Final = ".writing"
_JSON_LOOKS: Final = 5
_MOVES: Final = 20
_PIECE_BYTES: Final = 8 * 1024 * 1024
# What a killed process left behind is taken away once nobody can be writing it any more.
_ABANDONED_AFTER_S: Final = 24 * 3600


class Written(NamedTuple):
    """A file that was written: its size in bytes, and a digest that changes with any of them."""

    size: int
    digest: str


class TableWriter:
    """Writes one Parquet file batch by batch; what came of it is known once it is in place.

    Args:
        writer: of a file beside the one that is replaced.
        path: of the one that is replaced.
        row_group_size: most rows of a row group; as many as are written at once when omitted.
    """

    def __init__(self, writer: pq.ParquetWriter, path: str, row_group_size: int | None) -> None:
        self._writer = writer
        self._path = path
        self._row_group_size = row_group_size
        self._written: Written | None = None
        self.rows = 0

    @property
    def written(self) -> Written:
        """The file, after the ``with`` block that wrote it."""
        if self._written is None:
            raise RuntimeError("the file is not in place before its writer is closed")
        return self._written

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

    @contextmanager
    def open_table(self, path: str) -> Iterator[pq.ParquetFile | None]:
        """A Parquet file to read parts of, or None where there is none; what cannot be read of it is damage.

        What is asked for at once, all columns of some row groups, comes from an object store with few requests, and is
        then in memory: of a large file ask for a part after the other.

        Raises:
            CollectionError: if the file is damaged, or cannot be opened.
        """
        source = opened(self.fs.open_input_file, path)
        if source is None:
            yield None
            return
        try:
            with source, pq.ParquetFile(source, pre_buffer=not self.is_local) as file:
                yield file
        except (pa.ArrowInvalid, OSError) as error:
            raise damaged(path, error) from error

    def read_table(self, path: str) -> pa.Table | None:
        """A Parquet file as a table, or None where there is none; errors as for :meth:`open_table`."""
        with self.open_table(path) as file:
            return None if file is None else file.read()

    def read_batches(self, path: str, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The rows of a Parquet file in bounded batches, in file order; nothing where there is no file.

        Raises:
            CollectionError: if the file is damaged.
        """
        with self.open_table(path) as file:
            if file is None:
                return
            wanted = None if columns is None else list(columns)
            rows = batch_rows(file, wanted)
            for groups in row_group_runs(file.metadata):
                yield from file.iter_batches(rows, row_groups=groups, columns=wanted)

    def read_schema(self, path: str) -> pa.Schema | None:
        """Columns and footer metadata of a Parquet file, or None where there is none; errors as for the others."""
        with self.open_table(path) as file:
            return None if file is None else file.schema_arrow

    def count_rows(self, path: str) -> int:
        """Rows of a Parquet file, 0 where there is none; errors as for the others."""
        with self.open_table(path) as file:
            return 0 if file is None else int(file.metadata.num_rows)

    def write_table(self, path: str, table: pa.Table, **options: Any) -> Written:
        """Write a table as one Parquet file, replacing what was there in one step."""
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
        before: Callable[[Written], None] | None = None,
        **options: Any,
    ) -> Iterator[TableWriter]:
        """Write a Parquet file batch by batch; it replaces what was there when the block ends without an error.

        Args:
            path: of the file.
            schema: of its rows, with the footer metadata (readers go by what stands in the schema, so keys cannot be
                added after the rows).
            row_group_size: most rows of a row group; as many as are written at once when omitted.
            before: called with the finished file before it is put in its place.
            options: of ``pyarrow.parquet.ParquetWriter``.

        Raises:
            WorkspaceError: if the file cannot be written.
        """
        with self.beside() as beside:
            with writing(path):
                parquet = pq.ParquetWriter(beside, schema, **options)
            writer = TableWriter(parquet, path, row_group_size)
            try:
                yield writer
            except BaseException:
                with suppress(Exception):  # what it is closed for is what counts
                    parquet.close()
                raise
            with writing(path):
                parquet.close()
            with Path(beside).open("rb") as finished:
                digest = hashlib.file_digest(finished, xxh3_128).hexdigest()
            writer._written = Written(Path(beside).stat().st_size, digest)  # noqa: SLF001
            if before is not None:
                before(writer.written)
            self.put(beside, path)

    def read_json(self, path: str) -> Any | None:
        """A JSON document, or None where there is none.

        Raises:
            CollectionError: if it is damaged, or cannot be opened.
        """
        for attempt in range(_JSON_LOOKS):
            source = opened(self.fs.open_input_stream, path)
            if source is None:
                return None
            try:
                with source:
                    return json.loads(source.read())
            except FileNotFoundError:
                return None
            except (ValueError, OSError) as error:
                # pyarrow asks an object store for the size first: an object replaced meanwhile comes with a wrong end.
                if attempt + 1 == _JSON_LOOKS:
                    raise damaged(path, error) from error
        return None

    def write_json(self, path: str, document: Any) -> None:
        """Write a JSON document (sorted keys), replacing what was there in one step.

        Raises:
            WorkspaceError: if the file cannot be written.
        """
        text = json.dumps(document, sort_keys=True, indent=1).encode()
        with self.beside() as beside:
            with writing(path):
                Path(beside).write_bytes(text)
            self.put(beside, path)

    @property
    def is_local(self) -> bool:
        """Whether the files lie on a disk of this machine, or on one that looks like it."""
        return bool(self.fs.type_name == "local")

    def scratch(self) -> str | None:
        """Return the folder for temporary files of this machine; None for the system's own."""
        if not self.is_local:
            return None
        folder = Path(self.stages) / _WRITING
        with writing(str(folder)):
            folder.mkdir(parents=True, exist_ok=True)
        return str(folder)

    @contextmanager
    def beside(self) -> Iterator[str]:
        """A local file to write what is to be put in place of ``path``; it is gone afterwards, whatever happens."""
        beside = Path(self.scratch() or tempfile.gettempdir()) / uuid.uuid4().hex
        try:
            yield str(beside)
        finally:
            beside.unlink(missing_ok=True)

    def put(self, beside: str, path: str) -> None:
        """Put a finished file in its place in one step."""
        with writing(path):
            if self.is_local:
                _move(Path(beside), Path(path))
                return
            content = pa.memory_map(beside).read_buffer()
            with self.fs.open_output_stream(path) as sink:
                # In one call: an interrupt between two would close the stream, and so publish half of the object.
                sink.write(content)

    def sweep(self, folder: str = _WRITING) -> None:
        """Take away the files of a folder of the stages that were written a day ago or earlier.

        By default those that processes left half written when they were killed.
        """
        oldest = time.time() - _ABANDONED_AFTER_S
        for info in self.fs.get_file_info(pafs.FileSelector(f"{self.stages}/{folder}", allow_not_found=True)):
            if info.type == pafs.FileType.File and info.mtime is not None and info.mtime.timestamp() < oldest:
                with suppress(FileNotFoundError):  # another process may be sweeping too
                    self.fs.delete_file(info.path)


def digest_of(fs: pafs.FileSystem, path: str) -> str:
    """The digest of a file as :class:`Written` has it, read in pieces."""
    digest = xxh3_128()
    with fs.open_input_stream(path) as stream:
        while piece := stream.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


@contextmanager
def writing(path: str) -> Iterator[None]:
    """Name the file that could not be written."""
    try:
        yield
    except OSError as error:
        raise WorkspaceError(
            f"{path} cannot be written ({error}): the workspace has to be a folder, with room, that may be written to"
        ) from error


def _move(source: Path, target: Path) -> None:
    """Give a file the place of another in one step, although others take away folders that are empty at this moment."""
    for attempt in range(_MOVES):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            source.replace(target)
        except FileNotFoundError:
            if attempt + 1 == _MOVES or not source.exists():
                raise
        else:
            return


def unreadable(path: str, error: Exception) -> CollectionError:
    """The error to raise for a published file that cannot be read."""
    return CollectionError(f"{path} cannot be read ({error}): delete it and build again")


def opened(open_file: Callable[[str], pa.NativeFile], path: str) -> pa.NativeFile | None:
    """A file to read, or None where there is none; one that may not be read is not damaged."""
    try:
        return open_file(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CollectionError(f"{path} cannot be opened ({error}): {_reach(error)}") from error


@contextmanager
def looking(path: str) -> Iterator[None]:
    """Name what could not be looked for."""
    try:
        yield
    except OSError as error:
        raise WorkspaceError(f"{path} cannot be looked for ({error}): {_reach(error)}") from error


def _reach(error: OSError) -> str:
    """What helps where the way to a file is barred."""
    if error.errno == errno.ENOTDIR:
        return "a folder on its way is a file: choose another workspace_dir"
    return "see that its storage can be reached, and that you may read there"


def damaged(path: str, error: Exception) -> CollectionError:
    """The error to raise for a file that is not what was written."""
    return CollectionError(f"{path}: damaged ({error}); delete it and build again")
