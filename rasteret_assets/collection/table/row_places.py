"""Find rows again by their place: small fields of all rows are read once, other fields of few rows when needed.

A scan by Arrow decodes a struct column as a whole, with its tile tables, even if one field is needed. Parquet files are
therefore read here by their leaves, row group by row group. The place of a row is its row group and its position in
the group. Builds may replace files in between: size and time of each file are kept when it is scanned, and compared
whenever it is opened again.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from shapely.geometry.base import BaseGeometry

from rasteret_assets import schema
from rasteret_assets.collection.areas.footprints import intersecting_rows
from rasteret_assets.collection.table import scan
from rasteret_assets.collection.table.pinned import removed_file
from rasteret_assets.errors import StaleRowsError
from rasteret_assets.storage.io_errors import unreadable

T = TypeVar("T")
Places = npt.NDArray[np.int64]
#: Paths of fields by the name of a column: ``("assets", "B02", "href")``.
Leaves = Mapping[str, tuple[str, ...]]

#: A place holds the number of a file, of a row group in it and of a row in the group, from upper to lower bits: enough
#: for 2^20 files of 2^17 groups of 2^26 rows.
_ROW_BITS: Final = 26
_GROUP_BITS: Final = 17

#: Rows whose leaves are in memory at once during a scan.
_ROWS_AT_ONCE: Final = 1 << 16
#: Files of an object store that are scanned side by side, and files that stay open in a process.
_FILES_AT_ONCE: Final = 16
_OPEN_FILES: Final = 64

_KEEP: Final = "\0keep"


class Rows(Protocol):
    """Rows of a table that can be read again by their place."""

    def scan(self, leaves: Leaves) -> Iterator[tuple[Places, pa.Table]]:
        """Yield places ``[N]`` of all rows, and their leaves, part by part, in the order of the table."""
        ...

    def group(self, number: int, leaves: Leaves) -> pa.Table:
        """Return leaves of all rows of a group, in one chunk.

        Args:
            number: of the group, as :func:`split` returns it.
            leaves: paths of the fields, by the names of the columns.

        Raises:
            StaleRowsError: if a build replaced the file after the scan.
            CollectionError: if the file was removed or is damaged.
        """
        ...


def rows_of(
    dataset: ds.Dataset, expression: pc.Expression | None, areas: Sequence[Sequence[BaseGeometry]], leaves: Leaves
) -> Rows:
    """Return the rows that satisfy ``expression`` and meet one area of every group; Parquet files are not read yet.

    Args:
        dataset: the record table: Parquet files, or another dataset, which is read into memory.
        expression: filter; None for all rows.
        areas: groups of lon/lat geometries.
        leaves: all fields that will be read; a table in memory keeps only these.
    """
    if isinstance(dataset, ds.FileSystemDataset) and isinstance(dataset.format, ds.ParquetFileFormat):
        return FileRows(dataset, expression, areas)
    fields = {name: pc.field(*path) for name, path in leaves.items()}
    return TableRows(list(scan.scan(dataset, fields, expression, areas)))


def split(place: int) -> tuple[int, int]:
    """Return the group of a place, and the row in it."""
    return place >> _ROW_BITS, place & ((1 << _ROW_BITS) - 1)


class TableRows:
    """Rows of a table in memory; a batch of the table is a group.

    Args:
        batches: with a column for each leaf.
    """

    def __init__(self, batches: list[pa.RecordBatch]) -> None:
        self.batches = batches

    def scan(self, leaves: Leaves) -> Iterator[tuple[Places, pa.Table]]:
        """Yield places and leaves batch by batch; see :meth:`Rows.scan`."""
        for number, batch in enumerate(self.batches):
            yield _places(number, np.arange(batch.num_rows)), self.group(number, leaves)

    def group(self, number: int, leaves: Leaves) -> pa.Table:
        """Return leaves of a batch; see :meth:`Rows.group`."""
        return pa.Table.from_batches([self.batches[number].select(list(leaves))])


class FileRows:
    """Rows of Parquet files; open files are not pickled, every process opens its own.

    Args:
        dataset: of Parquet files.
        expression: filter; None for all rows.
        areas: groups of lon/lat geometries, of each of which a row meets one.
    """

    def __init__(
        self, dataset: ds.FileSystemDataset, expression: pc.Expression | None,
        areas: Sequence[Sequence[BaseGeometry]],
    ) -> None:  # fmt: skip
        self.fs: pafs.FileSystem = dataset.filesystem
        self.schema: pa.Schema = dataset.schema
        self.expression = expression
        self.areas = areas
        fragments = list(dataset.get_fragments(filter=expression))
        self.paths: list[str] = [fragment.path for fragment in fragments]
        self.partitions: list[pc.Expression] = [fragment.partition_expression for fragment in fragments]
        self.identities: dict[int, _Identity] = {}
        self._opened = _Opened()

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_opened": None, "areas": (), "expression": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state | {"_opened": _Opened()})

    @property
    def is_local(self) -> bool:
        """Whether an open file keeps its bytes when another file takes its name."""
        return bool(self.fs.type_name == "local")

    def scan(self, leaves: Leaves) -> Iterator[tuple[Places, pa.Table]]:
        """Yield places and leaves of some row groups at a time; see :meth:`Rows.scan`.

        Raises:
            StaleRowsError: if a build replaced a file meanwhile.
            CollectionError: if a file was removed or is damaged.
        """
        if self.is_local:
            for number in range(len(self.paths)):
                yield from self._scan_file(number, leaves)
            return
        with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
            for first in range(0, len(self.paths), _FILES_AT_ONCE):
                several = range(first, min(first + _FILES_AT_ONCE, len(self.paths)))
                for parts in pool.map(lambda number: list(self._scan_file(number, leaves)), several):
                    yield from parts

    def group(self, number: int, leaves: Leaves) -> pa.Table:
        """Return leaves of a row group; see :meth:`Rows.group`."""
        file, own = number >> _GROUP_BITS, number & ((1 << _GROUP_BITS) - 1)
        opened, turn = self._opened.get(file) or self._opened.put(file, (self._open(file), threading.Lock()))
        try:
            with turn:
                table = self._leaves(opened, [own], leaves, use_threads=False).combine_chunks()
        except (OSError, pa.ArrowException) as error:
            self._check(file)
            raise unreadable(self.paths[file], error) from error
        if not self.is_local:
            self._check(file)
        return table

    def _scan_file(self, number: int, leaves: Leaves) -> Iterator[tuple[Places, pa.Table]]:
        path = self.paths[number]
        self.identities[number] = self._identity(path)
        opened = self._open(number)
        try:
            for groups in self._near(opened, number):
                sizes = [opened.metadata.row_group(group).num_rows for group in groups]
                group = np.repeat(np.asarray(groups, np.int64) + (number << _GROUP_BITS), sizes)
                places = _places(group, np.concatenate([np.arange(size) for size in sizes]))
                table = self._leaves(opened, groups, leaves)
                kept = self._kept(number, groups)
                if kept is not None:
                    places, table = places[kept], table.filter(pa.array(kept))
                yield places, table
        except (OSError, pa.ArrowException) as error:
            self._check(number)
            raise unreadable(path, error) from error
        self._check(number)

    def _near(self, opened: pq.ParquetFile, number: int) -> Iterator[list[int]]:
        """Yield row groups that may hold a matching row, in lists that are read into memory together."""
        groups = list(range(opened.metadata.num_row_groups))
        if self.expression is not None:
            chosen = self._fragment(number, None).subset(self.expression, schema=self.schema)
            groups = [group.id for group in chosen.row_groups]
        together: list[int] = []
        rows = 0
        for group in groups:
            together.append(group)
            rows += opened.metadata.row_group(group).num_rows
            if rows >= _ROWS_AT_ONCE:
                yield together
                together, rows = [], 0
        if together:
            yield together

    def _kept(self, number: int, groups: list[int]) -> npt.NDArray[np.bool_] | None:
        """Return which rows of some row groups match, booleans ``[N]``; None without a filter and areas."""
        if self.expression is None and not self.areas:
            return None
        columns = {_KEEP: pc.scalar(True) if self.expression is None else self.expression}  # noqa: FBT003
        if self.areas:
            columns |= {name: pc.field(name) for name in (schema.GEOMETRY, schema.BBOX)}
        found = self._fragment(number, groups).to_table(schema=self.schema, columns=columns)
        kept = np.asarray(pc.fill_null(found[_KEEP], fill_value=False))
        if self.areas and kept.any():
            rows = np.flatnonzero(kept)
            (near,) = found.take(rows).combine_chunks().to_batches()
            met = np.ones(len(rows), bool)
            for group in self.areas:
                met &= intersecting_rows(near[schema.GEOMETRY], near[schema.BBOX], group)
            kept = np.zeros(len(kept), bool)
            kept[rows[met]] = True
        return kept

    def _fragment(self, number: int, groups: list[int] | None) -> ds.ParquetFileFragment:
        scan_options = ds.ParquetFragmentScanOptions(pre_buffer=not self.is_local)
        parquet = ds.ParquetFileFormat(default_fragment_scan_options=scan_options)
        file = self.fs.open_input_file(self.paths[number])
        held = parquet.make_fragment(file, partition_expression=self.partitions[number])
        return held if groups is None else held.subset(row_group_ids=groups)

    def _leaves(
        self, opened: pq.ParquetFile, groups: list[int], leaves: Leaves, *, use_threads: bool = True
    ) -> pa.Table:  # fmt: skip
        names = [".".join(path) for path in leaves.values()]
        table = opened.read_row_groups(groups, columns=names, use_threads=use_threads)
        return pa.table({name: self._leaf(table, path) for name, path in leaves.items()})

    def _leaf(self, table: pa.Table, path: tuple[str, ...]) -> pa.ChunkedArray:
        """Return a field in the type that the collection has; nulls if this file lacks it."""
        kind = self.schema.field(path[0]).type
        for name in path[1:]:
            kind = kind.field(name).type
        column = table[path[0]] if path[0] in table.column_names else None
        for name in path[1:]:
            if column is None or column.type.get_field_index(name) < 0:
                column = None
                break
            column = pc.struct_field(column, name)
        if column is None:
            return pa.chunked_array([pa.nulls(table.num_rows, kind)])
        return column if column.type == kind else column.cast(kind)

    def _open(self, number: int) -> pq.ParquetFile:
        path = self.paths[number]
        try:
            opened = pq.ParquetFile(self.fs.open_input_file(path), pre_buffer=not self.is_local)
        except FileNotFoundError as error:
            raise removed_file(path) from error
        except (OSError, pa.ArrowException) as error:
            self._check(number)
            raise unreadable(path, error) from error
        self._check(number)
        return opened

    def _identity(self, path: str) -> _Identity:
        (info,) = self.fs.get_file_info([path])
        if info.type == pafs.FileType.NotFound:
            raise removed_file(path)
        return info.size, info.mtime_ns

    def _check(self, number: int) -> None:
        path = self.paths[number]
        if self._identity(path) != self.identities[number]:
            raise StaleRowsError(
                f"{path} was replaced by a build after its records were listed: load the collection again, "
                "and make the dataset anew from it"
            )


_Identity = tuple[int, Any]


def _places(group: int | Places, row: npt.NDArray[Any]) -> Places:
    return np.asarray((np.asarray(group, np.int64) << _ROW_BITS) | row.astype(np.int64))


class Recent(Generic[T]):
    """A cache of the values that were used last, up to a number of bytes.

    Args:
        budget: bytes; a single value may exceed them.
        size: bytes of a value.
    """

    def __init__(self, budget: int, size: Callable[[T], int]) -> None:
        self.budget = budget
        self.size = size
        self.lock = threading.RLock()
        self.held = 0
        self.values: OrderedDict[int, T] = OrderedDict()

    def get(self, key: int) -> T | None:
        """Return the value of a key; None if the cache does not have it."""
        with self.lock:
            if (value := self.values.get(key)) is not None:
                self.values.move_to_end(key)
            return value

    def put(self, key: int, value: T) -> T:
        """Keep a value and return it; above the budget drop the values that were not used for longest."""
        with self.lock:
            if (old := self.values.pop(key, None)) is not None:
                self.held -= self.size(old)
            self.values[key] = value
            self.held += self.size(value)
            while self.held > self.budget and len(self.values) > 1:
                self.held -= self.size(self.values.popitem(last=False)[1])
        return value


class _Opened(Recent[tuple[pq.ParquetFile, threading.Lock]]):
    """Open files of this process, each read by one thread at a time; a forked child opens its own."""

    def __init__(self) -> None:
        super().__init__(_OPEN_FILES, lambda _: 1)
        self.process = os.getpid()

    def get(self, key: int) -> tuple[pq.ParquetFile, threading.Lock] | None:
        with self.lock:
            if self.process != os.getpid():
                self.process = os.getpid()
                self.values.clear()
                self.held = 0
            return super().get(key)
