"""Make rows of the header store from finished headers, and rows of the ledger that name them.

Headers go to the store in groups, as they finish, and do not stay in memory: a row of the ledger holds the file and
the row number of its header.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.error_classes import ErrorClass
from rasteret_assets.errors import RasteretAssetsError, UnsupportedTiffError
from rasteret_assets.headers._structs import Header, header_structs
from rasteret_assets.headers.fetch import BATCH_SECONDS
from rasteret_assets.headers.index import KEY_COLUMNS
from rasteret_assets.headers.outcomes import HeaderOutcome, HeaderTarget
from rasteret_assets.headers.retried import RETRIED_CLASSES, retry_until
from rasteret_assets.headers.store import HeaderFileWriter, take_rows
from rasteret_assets.headers.targets import STATED_EPSG
from rasteret_assets.schema import (
    BAND_INDEX,
    BAND_METADATA_SCHEMA,
    HEADER_FILE,
    HEADER_ROW,
    HEADER_SCHEMA,
    HEADER_STRUCT,
    HREF,
    ID,
    IDENTITY,
    OUTCOME_FIELDS,
    PARSER_VERSION,
    RETRY_UNTIL,
    STATUS_FAILED,
    STATUS_OK,
    STATUS_UNSUPPORTED,
    TIMESTAMP,
    VALIDATOR_FIELDS,
)
from rasteret_assets.storage.process.memory import give_back

#: Columns of a header row that the ledger repeats.
REPEATED_COLUMNS: Final = (*(field.name for field in OUTCOME_FIELDS), "epsg")
_REPEATED_SCHEMA: Final = pa.schema([HEADER_SCHEMA.field(name) for name in REPEATED_COLUMNS])

#: Columns that :class:`MemorySink` returns.
_TAKEN: Final = pa.schema([("header", HEADER_STRUCT), *VALIDATOR_FIELDS])

#: Rows, bytes and age at which a file of the store is closed, so that an interruption does not lose it.
SAVED_ROWS = 32_768
_SAVED_BYTES: Final = 128 * 2**20
# Less than BATCH_SECONDS, so that the headers of a slow host, which come after that time, are saved at once.
_SAVED_SECONDS: Final = BATCH_SECONDS / 2

#: Most bytes of header rows that are made at once, because one header may belong to hundreds of bands.
_MADE_BYTES: Final = 24 * 2**20


class RowSink(Protocol):
    """Stores header rows and tells their places."""

    def put(self, rows: pa.Table) -> tuple[str, int]:
        """Store header rows; return the name of their file and the number of the first row in it."""
        ...

    def save(self, *, due: bool = False) -> None:
        """Secure all rows against an interruption; with ``due`` only if they are many or have waited for long."""
        ...


class StoreSink:
    """Puts header rows into files of a store.

    Args:
        writer: of the files.
    """

    def __init__(self, writer: HeaderFileWriter) -> None:
        self._writer = writer
        self._saved_at = time.monotonic()

    def put(self, rows: pa.Table) -> tuple[str, int]:
        """Append rows to the file that is being written."""
        return self._writer.put(rows)

    def save(self, *, due: bool = False) -> None:
        """Close the file that is being written."""
        writer = self._writer
        old = time.monotonic() - self._saved_at > _SAVED_SECONDS
        if not due or old or writer.rows >= SAVED_ROWS or writer.bytes >= _SAVED_BYTES:
            writer.close()
            # Because the memory that allocators keep of these headers would add to the memory of the next headers.
            give_back()
            self._saved_at = time.monotonic()


class MemorySink:
    """Keeps header rows as tables, for collections that are not published."""

    def __init__(self) -> None:
        self.tables: dict[str, pa.Table] = {}

    def put(self, rows: pa.Table) -> tuple[str, int]:
        """Keep the rows as a table of their own."""
        name = str(len(self.tables))
        self.tables[name] = rows
        return name, 0

    def save(self, *, due: bool = False) -> None:
        """Do nothing, because memory does not survive an interruption."""

    def take(self, names: Sequence[str], files: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> pa.Table:
        """Return headers and validators of their files in the order of ``rows``; nulls where ``files`` is -1.

        Args:
            names: names of files.
            files: for every row the position of its file among ``names``, ``int64[N]``.
            rows: number of the row in the file, ``int64[N]``.
        """
        parts, places = [_no_headers(0)], [np.zeros(0, np.int64)]
        for file in np.unique(files):
            mine = np.flatnonzero(files == file)
            table = self.tables[names[file]].select(_TAKEN.names) if file >= 0 else _no_headers(len(mine))
            parts.append(table if file < 0 else take_rows(table, rows[mine]))
            places.append(mine)
        return take_rows(pa.concat_tables(parts), np.argsort(np.concatenate(places), kind="stable"))

    def take_each(
        self, names: Sequence[str], requests: Sequence[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]
    ) -> list[pa.Table]:
        """Return the table of :meth:`take` for each request, which is a pair of ``files`` and ``rows``."""
        return [self.take(names, files, rows) for files, rows in requests]


def _no_headers(rows: int) -> pa.Table:
    return pa.table([pa.nulls(rows, kind) for kind in _TAKEN.types], _TAKEN)


class FreshRows:
    """Makes header rows of the finished headers of one slice of targets, and keeps the place of each target's row.

    Args:
        targets: rows of the ledger, as :func:`~rasteret_assets.headers.targets.ledger_targets` returns them.
        files: the files that are asked for.
        file_of_row: for every target the position of its file, -1 where no file is asked for.
        sink: gets the rows.
        earlier: earlier outcome of every target, as :func:`~rasteret_assets.headers.retried.retry_until` takes it.
        days: days for which a file that does not exist is tried again.
    """

    def __init__(
        self,
        targets: pa.Table,
        files: Sequence[HeaderTarget],
        file_of_row: npt.NDArray[np.int64],
        sink: RowSink,
        *,
        earlier: pa.Table,
        days: float,
    ) -> None:
        self.files = files
        self._earlier = earlier
        self._days = days
        self._targets = targets
        self._sink = sink
        # Bands that are the same sample of the same file share a row.
        indices = targets[BAND_INDEX].combine_chunks().to_numpy(zero_copy_only=False).astype(np.int64)
        fetched = np.flatnonzero(file_of_row >= 0)
        pairs = np.stack([file_of_row[fetched], indices[fetched]], axis=1)
        distinct, back = np.unique(pairs, axis=0, return_inverse=True) if len(fetched) else (pairs, fetched)
        self._pair_of_row = np.full(targets.num_rows, -1, np.int64)
        self._pair_of_row[fetched] = back.ravel()
        first = np.full(len(distinct), targets.num_rows, np.int64)
        np.minimum.at(first, self._pair_of_row[fetched], fetched)
        self._target_of_pair = first
        self._indices = distinct[:, 1] if len(distinct) else np.zeros(0, np.int64)
        self._starts = np.searchsorted(distinct[:, 0], np.arange(len(files) + 1)) if len(distinct) else np.zeros(1, int)
        self._file = np.full(len(distinct), -1, np.int64)
        self._row = np.zeros(len(distinct), np.int64)
        self._repeated: list[pa.Table] = []
        self._repeated_of_pair = np.zeros(len(distinct), np.int64)
        self._made = 0
        #: Names of the files that have the rows.
        self.names: list[str] = []
        #: Number of files that were asked for and whose stored header stays.
        self.unchanged = 0
        #: For each group of rows the name of the file, the number of the first row, and the key columns.
        self.added: list[tuple[str, int, pa.Table]] = []

    def take(self, files: Sequence[int], outcomes: Sequence[HeaderOutcome]) -> None:
        """Take a group of finished files: each becomes one row per sample that is asked for."""
        changed = [
            (file, outcome)
            for file, outcome in zip(files, outcomes, strict=True)
            if outcome.header is not None or not self._stays(self.files[file], outcome)
        ]
        self.unchanged += len(files) - len(changed)
        start = 0
        while start < len(changed):
            end, size = start, 0
            while end < len(changed) and (end == start or size < _MADE_BYTES):
                file, outcome = changed[end]
                samples = int(self._starts[file + 1] - self._starts[file])
                size += samples * (outcome.header.nbytes if outcome.header is not None else 0)
                end += 1
            self._put(changed[start:end])
            start = end
        self._sink.save(due=True)

    def _put(self, group: Sequence[tuple[int, HeaderOutcome]]) -> None:
        numbers = np.array([file for file, _ in group])
        counts = self._starts[numbers + 1] - self._starts[numbers]
        before = np.cumsum(counts) - counts
        pairs = np.repeat(self._starts[numbers] - before, counts) + np.arange(counts.sum())
        served = [outcome for (_, outcome), count in zip(group, counts.tolist(), strict=True) for _ in range(count)]
        # In steps, because already one file with many samples may take too much memory.
        weight = max((o.header.nbytes for o in served if o.header is not None), default=0) + 1
        step = max(1, _MADE_BYTES // weight) if len(served) * weight > 2 * _MADE_BYTES else len(served)
        for start in range(0, len(pairs), step):
            self._put_rows(pairs[start : start + step], served[start : start + step])

    def _put_rows(self, pairs: npt.NDArray[np.int64], served: Sequence[HeaderOutcome]) -> None:
        asked = take_rows(self._targets.select([IDENTITY, HREF]), self._target_of_pair[pairs])
        indices = self._indices[pairs]
        values = _header_rows(served, indices.tolist())
        earlier = take_rows(self._earlier, self._target_of_pair[pairs])
        columns = {
            IDENTITY: asked[IDENTITY], HREF: asked[HREF], BAND_INDEX: pa.array(indices, pa.int32()), **values,
            RETRY_UNTIL: retry_until(values["error_class"], earlier, self._days),
        }  # fmt: skip
        rows = pa.table([columns[name] for name in HEADER_SCHEMA.names], HEADER_SCHEMA)
        name, first = self._sink.put(rows)
        if not self.names or self.names[-1] != name:
            self.names.append(name)
        self._file[pairs] = len(self.names) - 1
        self._row[pairs] = np.arange(first, first + len(pairs))
        self._repeated_of_pair[pairs] = np.arange(self._made, self._made + len(pairs))
        self._made += len(pairs)
        self._repeated.append(rows.select(list(REPEATED_COLUMNS)))
        self.added.append((name, first, rows.select(list(KEY_COLUMNS))))

    def places(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return ``int64[N]`` each for N targets: its row's file (position in :attr:`names`, or -1) and row number."""
        pair = self._pair_of_row
        inside = np.maximum(pair, 0)
        if not len(self._file):
            return np.full(len(pair), -1, np.int64), np.zeros(len(pair), np.int64)
        return np.where(pair >= 0, self._file[inside], -1), np.where(pair >= 0, self._row[inside], 0)

    def repeated(self, targets: npt.NDArray[np.int64]) -> pa.Table:
        """Return :data:`REPEATED_COLUMNS` of the header rows of some targets, all of which have a row."""
        table = pa.concat_tables([_REPEATED_SCHEMA.empty_table(), *self._repeated])
        return take_rows(table, self._repeated_of_pair[self._pair_of_row[targets]])

    def _stays(self, target: HeaderTarget, outcome: HeaderOutcome) -> bool:
        """Return whether the stored header stays: its file has not changed, or cannot be asked for at the moment."""
        transient = outcome.error is not None and outcome.error.error_class in RETRIED_CLASSES
        return outcome.unchanged or (target.stored_validators is not None and transient)


def ledger_rows(targets: pa.Table, repeated: pa.Table, names: pa.Array, rows: pa.Array) -> pa.Table:
    """Return the rows of the ledger for N targets.

    Args:
        targets: N targets.
        repeated: :data:`REPEATED_COLUMNS` of their header rows.
        names: files of the header store with these rows; null where there is no header row.
        rows: numbers of the rows in the files.
    """
    columns: dict[str, Any] = {name: targets[name] for name in (ID, "band", HREF, BAND_INDEX)}
    columns |= {field.name: repeated[field.name] for field in OUTCOME_FIELDS}
    columns["parser_version"] = pa.array(np.full(targets.num_rows, PARSER_VERSION, np.int32))
    columns |= _with_conflicts(targets, repeated)
    columns |= {HEADER_FILE: names, HEADER_ROW: rows}
    return pa.table([columns[name] for name in BAND_METADATA_SCHEMA.names], BAND_METADATA_SCHEMA)


def wrong_rows(targets: pa.Table) -> pa.Table:
    """Return :data:`REPEATED_COLUMNS` of targets that do not name a file to ask for."""
    rows = targets.num_rows
    columns = {field.name: pa.nulls(rows, field.type) for field in _REPEATED_SCHEMA}
    columns |= {"error_class": targets["error_class"], "error": targets["error"]}
    columns |= {"status": pa.array([STATUS_FAILED] * rows, pa.string()), "attempts": pa.array(np.zeros(rows, np.int32))}
    return pa.table([columns[name] for name in REPEATED_COLUMNS], _REPEATED_SCHEMA)


def _with_conflicts(targets: pa.Table, repeated: pa.Table) -> dict[str, pa.ChunkedArray]:
    """Return the error columns, which name a header in another CRS than its record states, though it is valid."""
    epsg = repeated["epsg"]
    is_ok = pc.equal(repeated["status"], STATUS_OK)
    kind = pc.if_else(is_ok, pa.scalar(None, pa.string()), repeated["error_class"])
    said = pc.if_else(is_ok, pa.scalar(None, pa.string()), repeated["error"])
    # By EPSG code only, because a CRS has many spellings as text.
    conflict = pc.and_(is_ok, pc.fill_null(pc.not_equal(targets[STATED_EPSG], epsg), fill_value=False))
    if pc.any(conflict).as_py():
        stated, found = targets[STATED_EPSG].cast(pa.string()), epsg.cast(pa.string())
        text = pc.binary_join_element_wise("the record says EPSG:", stated, ", its file is in EPSG:", found, "")
        kind, said = pc.if_else(conflict, ErrorClass.CRS_CONFLICT, kind), pc.if_else(conflict, text, said)
    return {"error_class": kind, "error": said}


def _header_rows(outcomes: Sequence[HeaderOutcome], band_indices: Sequence[int]) -> dict[str, pa.Array]:
    """Return the columns of fetched outcomes, with one row per file and sample."""
    headers: list[Header] = []
    errors: list[RasteretAssetsError | None] = []
    for outcome, index in zip(outcomes, band_indices, strict=True):
        header, error = outcome.header, outcome.error
        if header is not None and index >= header.samples_per_pixel:
            names = f"band_index {index} is out of range: the file has {header.samples_per_pixel} bands, counted from 0"
            header, error = None, UnsupportedTiffError(names)
        headers.append(header)
        errors.append(error)
    kinds = [
        None if e is None else STATUS_UNSUPPORTED if isinstance(e, UnsupportedTiffError) else STATUS_FAILED
        for e in errors
    ]
    structs = header_structs(headers, band_indices)
    count = len(outcomes)
    return {
        "status": pa.array([kind or STATUS_OK for kind in kinds], pa.string()),
        "error_class": pa.array([e and e.error_class for e in errors], pa.string()),
        "error": pa.array([e and str(e) for e in errors], pa.string()),
        "attempts": pa.array([o.attempts for o in outcomes], pa.int32()),
        "attempted_at": pa.array([datetime.now(UTC)] * count, TIMESTAMP),
        "etag": pa.array([o.etag for o in outcomes], pa.string()),
        "last_modified": pa.array([o.last_modified for o in outcomes], pa.string()),
        "content_length": pa.array([o.size for o in outcomes], pa.int64()),
        "parser_version": pa.array(np.full(count, PARSER_VERSION, np.int32)),
        "epsg": pc.struct_field(structs, [structs.type.get_field_index("epsg")]),
        "header": structs,
    }
