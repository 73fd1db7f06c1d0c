"""Store what profiling finds in the files of a source, while it goes on.

``source_files/`` holds tables with a row for each file of the source that was read. Profiling adds a table every few
seconds and changes none, so that the next profiling continues one that was killed. ``source.json``, which is written
last, names the tables of the finished profile; other tables are of a profiling that did not finish. The lock of the
source is held all the time.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs

from rasteret_assets.errors import DamagedFileError
from rasteret_assets.source.overlap import ROW_FACTS, RowFacts
from rasteret_assets.source.profile import FoundPart, PartProfile
from rasteret_assets.storage.filesystems import each_file
from rasteret_assets.storage.io_errors import finding
from rasteret_assets.storage.workspace import Workspace

#: Seconds, and bytes of hashes, after which the findings that wait are written.
KEPT_EVERY_S = 10.0
_KEPT_BYTES: Final = 32 * 2**20
#: Most tables of a finished profile; more are joined into one.
_TABLES_AT_MOST: Final = 24
_SCHEMA: Final = pa.schema([("part", pa.string()), ("found", pa.string()), ("hashes", pa.large_binary())])
#: The same under ``overlap``, with the facts of rows, by which the newest row of an id is found.
_SCHEMA_OF_OVERLAP: Final = _SCHEMA.append(pa.field("facts", pa.large_binary()))
_UNDER: Final = b"looked_under"
#: Bytes of the hash of an id.
ID_BYTES: Final = 8
# Because hashes look random, and a dictionary, compression or statistics would only cost time.
_PLAIN: Final[dict[str, Any]] = {"compression": "none", "use_dictionary": False, "write_statistics": False}


class FoundFiles:
    """Keeps what was found in files of a source; the lock of the source has to be held.

    Args:
        workspace: of the collection.
        under: what the findings depend on beside the files; tables under another value do not count.
        overlap: whether the facts of rows are kept as well, by which the newest row of an id is found.
    """

    def __init__(self, workspace: Workspace, under: str, *, overlap: bool = False) -> None:
        self._workspace = workspace
        self._folder = f"{workspace.stages}/source_files"
        self._overlap = overlap
        self._schema = (_SCHEMA_OF_OVERLAP if overlap else _SCHEMA).with_metadata({_UNDER: under})
        self._guard = threading.Lock()
        self._waiting: dict[str, FoundPart] = {}
        self._waiting_bytes = 0
        self._kept_at = time.monotonic()
        #: Rows of ids by version of the file, for each table.
        self._tables: dict[str, dict[str, int]] = {}

    def load(self, named: Collection[str]) -> tuple[dict[str, FoundPart], dict[str, FoundPart]]:
        """Return what was found earlier, by version of the file: in the named tables, and in all others.

        A table that is damaged, or has another form, counts as missing.

        Args:
            named: the tables of the stored profile.
        """
        names = self._listed()
        tables = each_file(self._workspace.fs, self._read, names)
        finished: dict[str, FoundPart] = {}
        begun: dict[str, FoundPart] = {}
        for name, found in zip(names, tables, strict=True):
            if found:
                (finished if name in named else begun).update(found)
                self._tables[name] = {version: len(part.ids) for version, part in found.items()}
        return finished, begun

    def add(self, version: str, found: FoundPart) -> None:
        """Keep what was found in a file, and write the findings that wait once they are old or large enough."""
        with self._guard:
            self._waiting[version] = found
            self._waiting_bytes += _bytes_of(found)
            if self._waiting_bytes >= _KEPT_BYTES or time.monotonic() - self._kept_at >= KEPT_EVERY_S:
                self._write_waiting()

    def flush(self) -> None:
        """Write the findings that wait.

        Raises:
            WorkspaceError: if the table cannot be written.
        """
        with self._guard:
            self._write_waiting()

    def settle(self, parts: Mapping[str, FoundPart]) -> list[str]:
        """Write the findings that wait, and return the names of the tables that hold all of some files.

        Args:
            parts: what was found in all files of the source, by version.
        """
        self.flush()
        needed = {name: rows for name, rows in self._tables.items() if rows.keys() & parts.keys()}
        stored = sum(rows for table in needed.values() for rows in table.values())
        # Written anew if most of the stored rows are of files that are gone, because reading them costs more.
        if len(needed) > _TABLES_AT_MOST or stored > 2 * sum(len(part.ids) for part in parts.values()):
            return [self._write(parts)]
        return sorted(needed)

    def facts_of(self, versions: Collection[str]) -> Iterator[tuple[str, RowFacts]]:
        """Yield the facts of the rows of files, one file after the other.

        Raises:
            DamagedFileError: if a table is damaged; it is removed, so that the next profiling reads its files again.
        """
        missing = set(versions)
        with self._guard:
            waiting = [(version, part) for version, part in self._waiting.items() if version in missing]
        for version, part in waiting:
            missing.discard(version)
            if part.facts is not None:
                yield version, part.facts
        for name, rows in list(self._tables.items()):
            if not missing & rows.keys():
                continue
            for version, facts in self._facts_in(f"{self._folder}/{name}"):
                if version in missing:
                    missing.discard(version)
                    yield version, facts

    def _facts_in(self, path: str) -> Iterator[tuple[str, RowFacts]]:
        try:
            for batch in self._workspace.read_batches(path, ["part", "facts"]):
                for part, facts in zip(batch.column("part").to_pylist(), batch.column("facts"), strict=True):
                    yield part, _values(facts, ROW_FACTS)
        except DamagedFileError:
            self._workspace.remove(path)
            raise

    def remove_others(self, named: Collection[str]) -> None:
        """Delete the tables that are not named."""
        for name in self._listed():
            if name not in named:
                self._workspace.remove(f"{self._folder}/{name}")

    def _listed(self) -> list[str]:
        with finding(self._folder):
            infos = self._workspace.fs.get_file_info(pafs.FileSelector(self._folder, allow_not_found=True))
        return sorted(info.base_name for info in infos if info.base_name.endswith(".parquet"))

    def _read(self, name: str) -> dict[str, FoundPart]:
        # Without the facts of rows, because they are read by facts_of, one file of the source at a time.
        path, schema = f"{self._folder}/{name}", self._schema
        table = self._workspace.read_table(path, columns=_SCHEMA.names, cache=True)
        if table is None or not table.schema.equals(_SCHEMA.with_metadata(schema.metadata), check_metadata=True):
            return {}
        try:
            return {
                part: FoundPart(PartProfile.from_json(json.loads(found)), _values(hashes, np.dtype(np.uint64)))
                for part, found, hashes in zip(
                    table["part"].to_pylist(), table["found"].to_pylist(), table["hashes"], strict=True
                )
            }
        except (KeyError, TypeError, ValueError, AttributeError):
            return {}

    def _write_waiting(self) -> None:
        if self._waiting:
            self._write(self._waiting)
        self._waiting, self._waiting_bytes, self._kept_at = {}, 0, time.monotonic()

    def _write(self, parts: Mapping[str, FoundPart]) -> str:
        name = f"{uuid.uuid4().hex[:16]}.parquet"
        with self._workspace.writer(f"{self._folder}/{name}", self._schema, **_PLAIN) as writer:
            for some in _in_pieces(parts):
                if self._overlap:
                    lacking = [version for version, part in some.items() if part.facts is None]
                    for version, facts in self.facts_of(lacking) if lacking else ():
                        some[version] = some[version]._replace(facts=facts)
                writer.write(_table(some, self._schema))
        self._tables[name] = {version: len(part.ids) for version, part in parts.items()}
        return name


def _values(value: pa.LargeBinaryScalar, kind: np.dtype[Any]) -> np.ndarray[tuple[int], np.dtype[Any]]:
    return np.frombuffer(value.as_buffer() or b"", kind)


def _bytes_of(part: FoundPart) -> int:
    return part.ids.nbytes + (0 if part.facts is None else int(part.facts.nbytes))


def _in_pieces(parts: Mapping[str, FoundPart]) -> Iterable[dict[str, FoundPart]]:
    """Split findings so that the hashes of a piece take some megabytes, or are those of one file."""
    piece: dict[str, FoundPart] = {}
    size = 0
    for version, part in parts.items():
        piece[version] = part
        size += _bytes_of(part)
        if size >= _KEPT_BYTES:
            yield piece
            piece, size = {}, 0
    if piece:
        yield piece


def _table(parts: Mapping[str, FoundPart], schema: pa.Schema) -> pa.Table:
    # All hashes as one buffer, because millions of them take longer to copy one by one than to write.
    columns = [_joined([part.ids for part in parts.values()])]
    if "facts" in schema.names:
        none = np.zeros(0, ROW_FACTS)
        columns.append(_joined([none if part.facts is None else part.facts for part in parts.values()]))
    found = [json.dumps(asdict(part.profile), sort_keys=True) for part in parts.values()]
    return pa.table([pa.array(list(parts), pa.string()), pa.array(found, pa.string()), *columns], schema)


def _joined(values: list[np.ndarray[tuple[int], np.dtype[Any]]]) -> pa.Array:
    """Return arrays as binary values, one value for each array."""
    ends = np.cumsum([0, *(one.nbytes for one in values)])
    content = np.concatenate([values[0][:0], *values])
    return pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(values), [None, pa.py_buffer(ends), pa.py_buffer(content)]
    )
