"""Where a collection lies and how it is written: whole files, replaced in one step.

    <root>/<name>_records/year=2024/month=1/part-0.parquet     published, nothing else
    <root>/<name>_stages/<stage>/<partition>.parquet           raw, normalized, rejected, band metadata
    <root>/<name>_stages/band_metadata.partial/                headers of a stage that is running, or was interrupted
    <root>/<name>_stages/collection/<partition>.json           state of a published partition, written last
    <root>/<name>_stages/source.json                           what the last look at the source found

A local file is written beside and renamed over the old one; on an object store it is serialized first and put as one
object, because an output stream that fails there would publish what was written so far.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from rasteret_assets.errors import CollectionError
from rasteret_assets.schema import HIVE_NULL, MONTH, YEAR, partition_values
from rasteret_assets.spec import PUBLISHED_SUFFIXES
from rasteret_assets.storage.filesystems import resolve_filesystem

PART_NAME = "part-0.parquet"
STATE_STAGE = "collection"


class Written(NamedTuple):
    """A file that was written: its size in bytes, and a digest that changes with any of them."""

    size: int
    digest: str


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
        stem = published
        for suffix in PUBLISHED_SUFFIXES:
            stem = stem.removesuffix(suffix)
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
            raise CollectionError(f"{path}: damaged ({error}); delete it and build again") from error

    def write_table(self, path: str, table: pa.Table, **options: Any) -> Written:
        """Write a table as one Parquet file, replacing what was there in one step."""
        return self._replace(path, lambda sink: pq.write_table(table, sink, **options))

    def read_json(self, path: str) -> Any | None:
        """A JSON document, or None where there is none."""
        if not self._is_file(path):
            return None
        with self.fs.open_input_stream(path) as source:
            return json.loads(source.read())

    def write_json(self, path: str, document: Any) -> None:
        """Write a JSON document (sorted keys), replacing what was there in one step."""
        text = json.dumps(document, sort_keys=True, indent=1).encode()
        self._replace(path, lambda sink: sink.write(text))

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
        found = {name.removesuffix(".json"): self.read_json(f"{folder.base_dir}/{name}") for name in names}
        return {key: state for key, state in found.items() if state is not None}

    def exists(self) -> bool:
        """Whether anything was published here."""
        selector = pafs.FileSelector(self.published, allow_not_found=True)
        return bool(self.fs.get_file_info(selector))

    def _is_file(self, path: str) -> bool:
        return bool(self.fs.get_file_info(path).type == pafs.FileType.File)

    def _replace(self, path: str, write: Callable[[Any], object]) -> Written:
        if self.fs.type_name != "local":
            buffer = pa.BufferOutputStream()
            write(buffer)
            content = buffer.getvalue()
            with self.fs.open_output_stream(path) as sink:
                sink.write(content)
            return Written(int(content.size), _digest(content))
        beside = f"{self.stages}/.writing/{uuid.uuid4().hex}"
        for folder in (beside.rpartition("/")[0], path.rpartition("/")[0]):
            self.fs.create_dir(folder, recursive=True)
        try:
            with self.fs.open_output_stream(beside) as sink:
                write(sink)
            with self.fs.open_input_stream(beside) as source:
                content = source.read_buffer()
            written = Written(int(content.size), _digest(content))
            self.fs.move(beside, path)
        except BaseException:
            if self._is_file(beside):
                self.fs.delete_file(beside)
            raise
        return written


def _digest(content: pa.Buffer) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
