"""The header store of a partition: files of header rows to which new ones are added, and none is written again.

``<stages>/headers/<partition>/<number>-<random>.arrows`` hold rows of
:data:`~rasteret_assets.schema.HEADER_SCHEMA`. A file counts from the moment it is there: while the stage runs the files
are its checkpoint, afterwards the ledger says which of their rows belong to which record and band. Rows that no ledger
names stay where they are until a third of all rows are such (:mod:`~rasteret_assets.headers.compact`).
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

#: Bytes and rows of a batch: the least that is read to get at one header.
GROUP_BYTES: Final = 4 * 2**20
GROUP_ROWS: Final = 4096
#: Bytes of batches that stay in memory while rows are taken from them.
_CACHE_BYTES: Final = 24 * 2**20
#: Bytes of a batch that has no rows.
_BATCH_OVERHEAD: Final = 8192
#: Files that are open at once while rows are taken from them.
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
        #: Whether rows are listed that the partition does not need, for others to find.
        self.lists_unused = UNUSED in names
        #: Names of the files, the newest first.
        self.names = sorted((name for name in names if _NAME.fullmatch(name)), key=_number, reverse=True)

    def path(self, name: str) -> str:
        """Path of a file of the store."""
        return f"{self.folder}/{name}"

    def next_name(self) -> str:
        """A name for a new file, which counts as the newest; it is among :attr:`names` from now on."""
        number = 1 + max(map(_number, self.names), default=0)
        # Random, so that two builds that do not know of each other never write the same name.
        name = f"{number:06d}-{uuid.uuid4().hex[:8]}{STREAM_SUFFIX}"
        self.names.insert(0, name)
        return name

    def open(self, name: str) -> StreamTable:
        """Open a file of the store.

        Raises:
            CollectionError: if it does not exist, or is damaged.
        """
        table = open_stream(self._workspace, self.path(name))
        if table is None:
            raise CollectionError(f"{self.path(name)} does not exist: build {self.key} again by force")
        return table

    def batches(self, name: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield some columns of a file, in row order; those that an earlier version did not know are null.

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
    """Writes header rows into files of a store; each file counts once it is closed.

    Args:
        workspace: of the collection.
        store: that gets the files.
    """

    def __init__(self, workspace: Workspace, store: HeaderStore) -> None:
        self._workspace = workspace
        self._store = store
        self._stack = ExitStack()
        # An interrupt closes the file while the thread that puts finished headers away may still be writing.
        self._lock = threading.Lock()
        self._writer: StreamWriter | None = None
        self._name = ""
        self.rows = 0
        self.bytes = 0

    def put(self, rows: pa.Table) -> tuple[str, int]:
        """Append header rows; return the name of their file and the number of the first of them.

        Raises:
            WorkspaceError: if there is no room for them.
        """
        with self._lock:
            if self._writer is None:
                self._name, self.rows, self.bytes = self._store.next_name(), 0, 0
                path = self._store.path(self._name)
                self._writer = self._stack.enter_context(
                    stream_writer(self._workspace, path, HEADER_SCHEMA, durable=True)
                )
            first = self.rows
            step = batch_rows(rows)
            whole = rows.combine_chunks()
            for start in range(0, rows.num_rows, step):
                self._writer.write(whole.slice(start, step))
            self.rows += rows.num_rows
            self.bytes += rows.nbytes
            return self._name, first

    def close(self) -> None:
        """Put the file that is being written in its place; there may be none."""
        with self._lock:
            if self._writer is not None:
                self._writer = None
                self._stack.close()


def stored_columns(table: StreamTable, columns: Sequence[str]) -> list[str]:
    """Return those of some columns that a file has: an earlier version may have written it."""
    return [name for name in columns if name in table.schema.names]


def batch_rows(rows: pa.Table) -> int:
    """Return how many of these rows make a batch."""
    row_bytes = int(rows.nbytes) // max(1, int(rows.num_rows)) + 1
    return max(1, min(GROUP_ROWS, GROUP_BYTES // row_bytes))


class _Open(NamedTuple):
    """A file of a store, and the row numbers at which its batches end."""

    table: StreamTable
    ends: npt.NDArray[np.int64]


class HeaderReader:
    """Takes header rows out of the files of a store, batch by batch, with few of them in memory.

    Args:
        workspace: of the collection.
        store: whose files are read.
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
        #: Batches that were read.
        self.loads = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._files.clear()
        self._groups.clear()

    def take(self, names: Sequence[str], files: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> pa.Table:
        """Return rows in the order asked for.

        Args:
            names: of files.
            files: for every row the position of its file among ``names``, ``int64[N]``; -1 for a row of nulls.
            rows: its number in the file, ``int64[N]``.

        Raises:
            CollectionError: if a file does not exist, or is damaged.
        """
        return self.take_each(names, [(files, rows)])[0]

    def take_each(
        self, names: Sequence[str], requests: Sequence[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]
    ) -> list[pa.Table]:
        """Return one table for each of several requests, and read no batch twice that several of them need.

        Args:
            names: of files.
            requests: ``files`` and ``rows`` of :meth:`take` each.

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
            tables.append(in_order(table, order))
        return tables

    def _nulls(self, count: int) -> pa.RecordBatch:
        return pa.RecordBatch.from_arrays([pa.nulls(count, kind) for kind in self._schema.types], schema=self._schema)

    def row_bytes(self, names: Sequence[str]) -> int:
        """Return about how many bytes of memory the largest rows of some files take, by the batches they stand in."""
        most = 1
        for name in names:
            for message in self._opened(name).table.messages:
                # What a batch takes besides its rows is much for those of few rows.
                most = max(most, (message.size - _BATCH_OVERHEAD) // max(1, message.rows))
        # Tables of offsets and sizes take up to twice as much in memory.
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


def in_order(table: pa.Table, order: npt.NDArray[np.int64]) -> pa.Table:
    """Return rows of a table in the order asked for; rows that stand together in that order are not copied."""
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
