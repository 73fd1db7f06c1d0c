"""Where a collection lies and how it is written: whole files, replaced in one step.

    <root>/<name>_records/year=2024/month=1/part-0.parquet     published, nothing else
    <root>/<name>_stages/<stage>/<partition>.parquet           raw, normalized, rejected, band metadata
    <root>/<name>_stages/band_metadata.partial/                headers of a stage that is running, or was interrupted
    <root>/<name>_stages/collection/<partition>.json           state of a published partition, written last
    <root>/<name>_stages/source.json                           what the last look at the source found
    <root>/<name>_stages/.writing/                             files that are being written

A file is written on a local disk first and then put in place in one step: renamed over the old one, or uploaded as one
object. (An object store's own output stream would publish what was written so far when it fails.)
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from rasteret_assets.errors import CollectionError
from rasteret_assets.schema import HIVE_NULL, MONTH, YEAR, partition_values
from rasteret_assets.spec import PUBLISHED_SUFFIXES
from rasteret_assets.storage.filesystems import resolve_filesystem
from rasteret_assets.storage.locks import held

_log = logging.getLogger(__name__)

PART_NAME = "part-0.parquet"
STATE_STAGE = "collection"

#: How tables of the stages are written: read once or twice and as a whole, they are cheap rather than small.
STAGE_OPTIONS: Final[dict[str, Any]] = {"compression": "lz4", "use_dictionary": False, "write_statistics": False}

#: Rows of a batch of a stage: what streams through a partition that is larger than memory.
BATCH_ROWS: Final = 32_768
#: Arrow bytes of a batch that is read back, where its rows are large.
BATCH_BYTES: Final = 48 * 2**20
_PROBED_ROWS: Final = 64

_WRITING: Final = ".writing"
_STATE_THREADS: Final = 16
_JSON_LOOKS: Final = 5
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
        row_group_size: most rows of a row group; as many as are written at once when omitted.
    """

    def __init__(self, writer: pq.ParquetWriter, row_group_size: int | None) -> None:
        self._writer = writer
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
        """Append rows as at least one row group of their own."""
        table = pa.Table.from_batches([rows]) if isinstance(rows, pa.RecordBatch) else rows
        if table.num_rows:
            self._writer.write_table(table, self._row_group_size)
            self.rows += table.num_rows


@dataclass(frozen=True)
class Workspace:
    """The two folders of one collection on one filesystem.

    Args:
        fs: filesystem of both.
        published: folder of the published dataset.
        stages: folder of everything else.
    """

    fs: pafs.FileSystem
    published: str
    stages: str

    @classmethod
    def at(cls, published_path: str, filesystem: Any = None) -> Workspace:
        """The workspace of a collection published at ``published_path`` (a path or URI)."""
        fs, published = resolve_filesystem(published_path, filesystem)
        published = published.rstrip("/")
        # One suffix only: stac_records and records_stac are two names.
        suffix = next((suffix for suffix in PUBLISHED_SUFFIXES if published.endswith(suffix)), "")
        stem = published.removesuffix(suffix)
        return cls(fs=fs, published=published, stages=f"{stem}_stages")

    # --- paths -------------------------------------------------------------------------------------------------------

    def published_file(self, key: str) -> str:
        """Path of a published partition's file."""
        year, month = (HIVE_NULL if value is None else value for value in partition_values(key))
        return f"{self.published}/{YEAR}={year}/{MONTH}={month}/{PART_NAME}"

    def stage_file(self, stage: str, key: str) -> str:
        """Path of a stage's table for one partition."""
        return f"{self.stages}/{stage}/{key}.parquet"

    def state_file(self, key: str) -> str:
        """Path of a published partition's state."""
        return f"{self.stages}/{STATE_STAGE}/{key}.json"

    # --- tables and documents ----------------------------------------------------------------------------------------

    def read_table(self, path: str) -> pa.Table | None:
        """A Parquet file as a table, or None where there is none."""
        if not self._is_file(path):
            return None
        try:
            with self.fs.open_input_file(path) as source:
                return pq.ParquetFile(source).read()
        except (pa.ArrowInvalid, OSError) as error:
            raise _damaged(path, error) from error

    def read_batches(self, path: str, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The rows of a Parquet file in bounded batches, in file order; nothing where there is no file.

        Raises:
            CollectionError: if the file is damaged.
        """
        if not self._is_file(path):
            return
        try:
            with self.fs.open_input_file(path) as source, pq.ParquetFile(source, pre_buffer=False) as file:
                wanted = None if columns is None else list(columns)
                yield from file.iter_batches(_batch_rows(file, wanted), columns=wanted)
        except (pa.ArrowInvalid, OSError) as error:
            raise _damaged(path, error) from error

    def read_schema(self, path: str) -> pa.Schema | None:
        """Columns and footer metadata of a Parquet file, or None where there is none.

        Raises:
            CollectionError: if the file is damaged.
        """
        if not self._is_file(path):
            return None
        try:
            with self.fs.open_input_file(path) as source:
                return pq.read_schema(source)
        except (pa.ArrowInvalid, OSError) as error:
            raise _damaged(path, error) from error

    def count_rows(self, path: str) -> int:
        """Rows of a Parquet file, 0 where there is none.

        Raises:
            CollectionError: if the file is damaged.
        """
        if not self._is_file(path):
            return 0
        try:
            with self.fs.open_input_file(path) as source:
                return int(pq.read_metadata(source).num_rows)
        except (pa.ArrowInvalid, OSError) as error:
            raise _damaged(path, error) from error

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
        """
        with self._beside(path) as beside:
            with pq.ParquetWriter(beside, schema, **options) as parquet:
                writer = TableWriter(parquet, row_group_size)
                yield writer
            with Path(beside).open("rb") as finished:
                digest = hashlib.file_digest(finished, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
            writer._written = Written(Path(beside).stat().st_size, digest)  # noqa: SLF001
            if before is not None:
                before(writer.written)
            self._put(beside, path)

    def read_json(self, path: str) -> Any | None:
        """A JSON document, or None where there is none.

        Raises:
            CollectionError: if it is damaged.
        """
        for attempt in range(_JSON_LOOKS):
            if not self._is_file(path):
                return None
            try:
                with self.fs.open_input_stream(path) as source:
                    return json.loads(source.read())
            except FileNotFoundError:
                return None
            except (ValueError, OSError) as error:
                # pyarrow asks an object store for the size first: an object replaced meanwhile comes with a wrong end.
                if attempt + 1 == _JSON_LOOKS:
                    raise _damaged(path, error) from error
        return None

    def write_json(self, path: str, document: Any) -> None:
        """Write a JSON document (sorted keys), replacing what was there in one step."""
        text = json.dumps(document, sort_keys=True, indent=1).encode()
        with self._beside(path) as beside:
            Path(beside).write_bytes(text)
            self._put(beside, path)

    def remove(self, path: str) -> bool:
        """Delete a file and the folders it leaves empty; False where there was none."""
        if not self._is_file(path):
            return False
        self.fs.delete_file(path)
        folder = path.rpartition("/")[0]
        while folder not in (self.published, self.stages) and folder.startswith((self.published, self.stages)):
            if self.fs.get_file_info(pafs.FileSelector(folder, allow_not_found=True)):
                break
            if self.fs.get_file_info(folder).type == pafs.FileType.Directory:
                self.fs.delete_dir(folder)
            folder = folder.rpartition("/")[0]
        return True

    # --- partitions --------------------------------------------------------------------------------------------------

    def states(self) -> dict[str, dict[str, Any]]:
        """State of every published partition by key, in key order."""
        folder = pafs.FileSelector(f"{self.stages}/{STATE_STAGE}", allow_not_found=True)
        names = sorted(info.base_name for info in self.fs.get_file_info(folder) if info.base_name.endswith(".json"))
        paths = [f"{folder.base_dir}/{name}" for name in names]
        with ThreadPoolExecutor(_STATE_THREADS) as pool:
            found = dict(
                zip((name.removesuffix(".json") for name in names), pool.map(self.read_json, paths), strict=True)
            )
        return {key: state for key, state in found.items() if state is not None}

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Be the only one that builds a partition; waits for whoever does so now."""
        told = f"waiting for another run that builds {key} of {self.published}"
        with held(self.fs, f"{self.stages}/locks/{key}", lambda: _log.info(told)):
            yield

    def exists(self) -> bool:
        """Whether anything was published here."""
        selector = pafs.FileSelector(self.published, allow_not_found=True)
        return bool(self.fs.get_file_info(selector))

    def _is_file(self, path: str) -> bool:
        return bool(self.fs.get_file_info(path).type == pafs.FileType.File)

    @property
    def _is_local(self) -> bool:
        return bool(self.fs.type_name == "local")

    @contextmanager
    def _beside(self, path: str) -> Iterator[str]:
        """A local file to write what is to become ``path``; it is gone afterwards, whatever happens."""
        if self._is_local:
            folder = Path(self.stages) / _WRITING
            folder.mkdir(parents=True, exist_ok=True)
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        else:
            folder = Path(tempfile.gettempdir())
        beside = folder / uuid.uuid4().hex
        try:
            yield str(beside)
        finally:
            beside.unlink(missing_ok=True)

    def _put(self, beside: str, path: str) -> None:
        """Put a finished file in its place in one step."""
        if self._is_local:
            Path(beside).replace(path)
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


def _batch_rows(file: pq.ParquetFile, columns: list[str] | None) -> int:
    """Rows of this file that make a batch of at most about :data:`BATCH_BYTES`; headers may be a megabyte each.

    What a row takes in memory is judged by the first ones, and by what Parquet says of all columns: its encodings hide
    repetition, the first rows may be poor.
    """
    metadata = file.metadata
    if columns is None and metadata.num_rows > _PROBED_ROWS:
        stored = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
        probe = next(file.iter_batches(_PROBED_ROWS))
        row_bytes = max(stored / metadata.num_rows, probe.nbytes / probe.num_rows, 1)
        return max(1, min(BATCH_ROWS, int(BATCH_BYTES / row_bytes)))
    return BATCH_ROWS


def digest_of(fs: pafs.FileSystem, path: str) -> str:
    """The digest of a file as :class:`Written` has it, read in pieces."""
    digest = hashlib.blake2b(digest_size=16)
    with fs.open_input_stream(path) as stream:
        while piece := stream.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def _damaged(path: str, error: Exception) -> CollectionError:
    return CollectionError(f"{path}: damaged ({error}); delete it and build again")
