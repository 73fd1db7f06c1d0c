"""Keep the header store of a partition: files of header rows, to which new files are added, and none written twice.

The files ``<stages>/headers/<partition>/<number>-<random>.arrows`` hold rows of
:data:`~rasteret_assets.schema.HEADER_SCHEMA`. A file is valid as soon as it exists. While the stage runs, the files are
its checkpoint; afterwards the ledger tells which of their rows belong to which record and band. Rows that the ledger
does not name stay until they are a third of all rows (:mod:`~rasteret_assets.headers.compact`).
"""

from __future__ import annotations

import re
import threading
import uuid
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from typing import Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rasteret_assets.columns.conform import conform_rows
from rasteret_assets.errors import CollectionError
from rasteret_assets.schema import HEADER_SCHEMA, HEADERS
from rasteret_assets.storage.filesystems import list_files
from rasteret_assets.storage.workspace import Workspace
from rasteret_assets.storage.workspace.streams import (
    STREAM_SUFFIX,
    StreamTable,
    StreamWriter,
    open_stream,
    stream_writer,
)

#: Most bytes and rows of a batch, which is read as a whole for a single header.
GROUP_BYTES: Final = 4 * 2**20
GROUP_ROWS: Final = 4096
#: Most bytes of batches that stay in memory while rows are taken from them.
_CACHE_BYTES: Final = 24 * 2**20
#: Bytes of a batch that has no rows.
_BATCH_OVERHEAD: Final = 8192
#: Most files that are open at once while rows are taken from them.
_OPEN_FILES: Final = 64

#: Name of the list of a store's header rows that its partition no longer needs.
UNUSED: Final = "unused.parquet"
_NAME: Final = re.compile(r"(\d+)-[0-9a-f]+\.arrows")


class HeaderStore:
    """The files of header rows of one partition.

    Args:
        workspace: of the collection.
        key: of the partition.
    """

    def __init__(self, workspace: Workspace, key: str) -> None:
        self._workspace = workspace
        self.key = key
        self.folder = f"{workspace.stages}/{HEADERS}/{key}"
        infos = list_files(workspace.fs, self.folder, (STREAM_SUFFIX, UNUSED))
        names = [info.path.rpartition("/")[2] for info in infos]
        #: Whether the store has a list of rows that the partition does not need.
        self.lists_unused = UNUSED in names
        #: Names of the files, the newest first.
        self.names = sorted((name for name in names if _NAME.fullmatch(name)), key=_number, reverse=True)

    def path(self, name: str) -> str:
        """Return the path of a file of the store."""
        return f"{self.folder}/{name}"

    def next_name(self) -> str:
        """Return the name of a new file, and add it to :attr:`names` as the newest one."""
        number = 1 + max(map(_number, self.names), default=0)
        # Random, so that two builds at the same time never write the same name.
        name = f"{number:06d}-{uuid.uuid4().hex[:8]}{STREAM_SUFFIX}"
        self.names.insert(0, name)
        return name

    def open(self, name: str) -> StreamTable:
        """Open a file of the store.

        Raises:
            CollectionError: if the file does not exist, or is damaged.
        """
        table = open_stream(self._workspace, self.path(name))
        if table is None:
            raise CollectionError(f"{self.path(name)} does not exist: build {self.key} again with force=True")
        return table

    def batches(self, name: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield some columns of a file, in row order; columns that an earlier version did not write are null.

        Raises:
            CollectionError: if the file is damaged.
        """
        schema, table = pa.schema([HEADER_SCHEMA.field(name) for name in columns]), self.open(name)
        for batch in table.batches(stored_columns(table, columns)):
            yield conform_rows(batch, schema)

    def remove(self, name: str) -> None:
        """Delete a file of the store."""
        self._workspace.remove(self.path(name))
        self.names.remove(name)


class HeaderFileWriter:
    """Writes header rows into files of a store; each file exists once it is closed.

    Args:
        workspace: of the collection.
        store: gets the files.
    """

    def __init__(self, workspace: Workspace, store: HeaderStore) -> None:
        self._workspace = workspace
        self._store = store
        self._stack = ExitStack()
        # A lock, because an interrupt closes the file while the thread of the sink may still write.
        self._lock = threading.Lock()
        self._writer: StreamWriter | None = None
        self._name = ""
        self.rows = 0
        self.bytes = 0

    def put(self, rows: pa.Table) -> tuple[str, int]:
        """Append header rows; return the name of their file and the number of the first row in it.

        Raises:
            WorkspaceError: if the disk has no room for the rows.
        """
        with self._lock:
            if self._writer is None:
                self._name, self.rows, self.bytes = self._store.next_name(), 0, 0
                path = self._store.path(self._name)
                self._writer = self._stack.enter_context(
                    stream_writer(self._workspace, path, HEADER_SCHEMA, durable=True)
                )
            first = self.rows
            step = rows_per_batch(rows)
            whole = rows.combine_chunks()
            for start in range(0, rows.num_rows, step):
                self._writer.write(whole.slice(start, step))
            self.rows += rows.num_rows
            self.bytes += rows.nbytes
            return self._name, first

    def close(self) -> None:
        """Put the file that is being written in its place; do nothing if no file is."""
        with self._lock:
            if self._writer is not None:
                self._writer = None
                self._stack.close()


def stored_columns(table: StreamTable, columns: Sequence[str]) -> list[str]:
    """Return the columns that a file has, because an earlier version may have written fewer."""
    return [name for name in columns if name in table.schema.names]


def rows_per_batch(rows: pa.Table) -> int:
    """Return how many of ``rows`` make a batch."""
    row_bytes = int(rows.nbytes) // max(1, int(rows.num_rows)) + 1
    return max(1, min(GROUP_ROWS, GROUP_BYTES // row_bytes))


class _Open(NamedTuple):
    """A file of a store, and the row numbers at which its batches end."""

    table: StreamTable
    ends: npt.NDArray[np.int64]


class HeaderRowReader:
    """Reads header rows by their places in the files of a store; few batches are in memory at once.

    Args:
        workspace: of the collection.
        store: has the files.
        columns: of :data:`~rasteret_assets.schema.HEADER_SCHEMA`.
    """

    def __init__(self, workspace: Workspace, store: HeaderStore, columns: Sequence[str]) -> None:
        self._workspace = workspace
        self._store = store
        self._columns = None if tuple(columns) == tuple(HEADER_SCHEMA.names) else list(columns)
        self._schema = pa.schema([HEADER_SCHEMA.field(name) for name in columns])
        self._files: OrderedDict[str, _Open] = OrderedDict()
        self._groups: OrderedDict[tuple[str, int], pa.RecordBatch] = OrderedDict()
        self._held = 0
        #: Number of batches that were read.
        self.loads = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._files.clear()
        self._groups.clear()

    def take(self, names: Sequence[str], files: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> pa.Table:
        """Return N rows, in the order of ``rows``.

        Args:
            names: names of files.
            files: for every row the position of its file among ``names``, ``int64[N]``; -1 for a row of nulls.
            rows: number of the row in the file, ``int64[N]``.

        Raises:
            CollectionError: if a file does not exist, or is damaged.
        """
        return self.take_each(names, [(files, rows)])[0]

    def take_each(
        self, names: Sequence[str], requests: Sequence[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]
    ) -> list[pa.Table]:
        """Return one table for each request; a batch that several requests need is read once.

        Args:
            names: names of files.
            requests: pairs of ``files`` and ``rows``, as :meth:`take` has them.

        Raises:
            CollectionError: as :meth:`take`.
        """
        files = np.concatenate([file for file, _ in requests])
        rows = np.concatenate([row for _, row in requests])
        starts = np.cumsum([0, *(len(file) for file, _ in requests)])
        parts: list[list[pa.RecordBatch]] = [[] for _ in requests]
        places: list[list[npt.NDArray[np.int64]]] = [[] for _ in requests]

        def put(batch: pa.RecordBatch | None, inside: npt.NDArray[np.int64], begin: int) -> None:
            bounds = np.searchsorted(inside, starts)
            for number, (start, stop) in enumerate(pairwise(bounds)):
                if start < stop:
                    mine = inside[start:stop]
                    parts[number].append(self._nulls(len(mine)) if batch is None else _taken(batch, rows[mine] - begin))
                    places[number].append(mine - starts[number])

        for file in np.unique(files[files >= 0]):
            mine = np.flatnonzero(files == file)
            ends = self._opened(names[file]).ends
            if int(rows[mine].max()) >= (int(ends[-1]) if len(ends) else 0):
                raise CollectionError(f"{self._store.path(names[file])} holds fewer rows than its ledger names")
            groups = np.searchsorted(ends, rows[mine], side="right")
            for group in np.unique(groups):
                begin = int(ends[group - 1]) if group else 0
                put(self._group(names[file], int(group)), mine[groups == group], begin)
        if (missing := np.flatnonzero(files < 0)).size:
            put(None, missing, 0)
        tables = []
        for number in range(len(requests)):
            table = pa.Table.from_batches(parts[number], self._schema)
            parts[number] = []
            order = np.argsort(np.concatenate([np.zeros(0, np.int64), *places[number]]), kind="stable")
            tables.append(take_rows(table, order))
        return tables

    def _nulls(self, count: int) -> pa.RecordBatch:
        return pa.RecordBatch.from_arrays([pa.nulls(count, kind) for kind in self._schema.types], schema=self._schema)

    def row_bytes(self, names: Sequence[str]) -> int:
        """Return about how many bytes of memory the largest rows of the files ``names`` take, by their batches."""
        most = 1
        for name in names:
            for message in self._opened(name).table.messages:
                # Without the bytes of a batch beside its rows, which would count for much in a batch of few rows.
                most = max(most, (message.size - _BATCH_OVERHEAD) // max(1, message.rows))
        # Twice, because tables of offsets and sizes take up to twice as much in memory as in a file.
        return 2 * most

    def _opened(self, name: str) -> _Open:
        if name not in self._files:
            table = self._store.open(name)
            ends = np.cumsum(np.asarray([message.rows for message in table.messages], np.int64))
            self._files[name] = _Open(table, ends)
            if len(self._files) > _OPEN_FILES:
                self._files.popitem(last=False)
        self._files.move_to_end(name)
        return self._files[name]

    def _group(self, name: str, group: int) -> pa.RecordBatch:
        key = (name, group)
        if key not in self._groups:
            table = self._opened(name).table
            columns = None if self._columns is None else stored_columns(table, self._columns)
            batch = conform_rows(table.batch(table.messages[group], columns), self._schema)
            self.loads += 1
            self._groups[key] = batch
            self._held += batch.nbytes
            while self._held > _CACHE_BYTES and len(self._groups) > 1:
                _, oldest = self._groups.popitem(last=False)
                self._held -= oldest.nbytes
        self._groups.move_to_end(key)
        return self._groups[key]


def take_rows(table: pa.Table, order: npt.NDArray[np.int64]) -> pa.Table:
    """Return the rows ``order`` of a table, in that order; consecutive rows are not copied."""
    first = int(order[0]) if len(order) else 0
    if np.array_equal(order, np.arange(first, first + len(order))):
        return table.slice(first, len(order))
    return table.combine_chunks().take(pa.array(order))


def _taken(table: pa.RecordBatch, rows: npt.NDArray[np.int64]) -> pa.RecordBatch:
    first = int(rows[0])
    if np.array_equal(rows, np.arange(first, first + len(rows))):
        return table.slice(first, len(rows))
    return table.take(pa.array(rows))


def _number(name: str) -> int:
    match = _NAME.fullmatch(name)
    return int(match.group(1)) if match else 0
