"""Finished headers as rows of the header store, and the ledger's rows that name them.

Headers go to the store in the groups in which they finish, and none of them is kept: the ledger holds the number of
the row in which each header stands.
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
from rasteret_assets.headers.store import HeaderFileWriter, in_order
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
from rasteret_assets.storage.memory import give_back

#: What the ledger repeats of a header row.
LIGHT_COLUMNS: Final = (*(field.name for field in OUTCOME_FIELDS), "epsg")
_LIGHT_SCHEMA: Final = pa.schema([HEADER_SCHEMA.field(name) for name in LIGHT_COLUMNS])

#: What is taken out of header rows that are in memory.
_TAKEN: Final = pa.schema([("header", HEADER_STRUCT), *VALIDATOR_FIELDS])

#: A file of the store is closed, and so survives an interruption, when it has so many rows, or bytes, or is so old.
SAVED_ROWS = 32_768
_SAVED_BYTES: Final = 128 * 2**20
# What a slow host gave comes after BATCH_SECONDS, and is then put away at once: as long again would be lost otherwise.
_SAVED_SECONDS: Final = BATCH_SECONDS / 2

#: Bytes of header rows that are made at once: one header may serve hundreds of bands.
_MADE_BYTES: Final = 24 * 2**20


class RowSink(Protocol):
    """Takes header rows and says where they stand."""

    def put(self, rows: pa.Table) -> tuple[str, int]:
        """Keep header rows; return the name of their file and the number of the first of them."""
        ...

    def save(self, *, due: bool = False) -> None:
        """Make what was put survive an interruption; with ``due`` only where it has been waiting for long enough."""
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
            # What the allocators keep of so many headers would be in memory beside what the next ones need.
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
        """Do nothing: memory survives no interruption."""

    def take(self, names: Sequence[str], files: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> pa.Table:
        """Return headers, and what was told of their files, in the order asked for; nulls where ``files`` is -1."""
        parts, places = [_no_headers(0)], [np.zeros(0, np.int64)]
        for file in np.unique(files):
            mine = np.flatnonzero(files == file)
            table = self.tables[names[file]].select(_TAKEN.names) if file >= 0 else _no_headers(len(mine))
            parts.append(table if file < 0 else in_order(table, rows[mine]))
            places.append(mine)
        return in_order(pa.concat_tables(parts), np.argsort(np.concatenate(places), kind="stable"))

    def take_each(
        self, names: Sequence[str], requests: Sequence[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]
    ) -> list[pa.Table]:
        """Return one table for each of several requests, ``files`` and ``rows`` of :meth:`take`."""
        return [self.take(names, files, rows) for files, rows in requests]


def _no_headers(rows: int) -> pa.Table:
    return pa.table([pa.nulls(rows, kind) for kind in _TAKEN.types], _TAKEN)


class FreshRows:
    """Turns finished headers of one slice of targets into header rows, and remembers where each target's row stands.

    Args:
        targets: what is to be in the ledger.
        files: the files that are asked for.
        file_of_row: for every target the position of its file, -1 where none is asked for.
        sink: gets the rows.
        earlier: for every target what was known of it before, as :func:`~rasteret_assets.headers.retried.retry_until`
            takes it.
        days: for which a file is tried again that does not exist.
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
        self._light: list[pa.Table] = []
        self._light_of_pair = np.zeros(len(distinct), np.int64)
        self._made = 0
        #: Names of the files that rows were put into.
        self.names: list[str] = []
        #: Files that were asked about, and whose known header stays.
        self.unchanged = 0
        #: Where rows were put: name of the file, number of the first row, and their key columns.
        self.added: list[tuple[str, int, pa.Table]] = []

    def take(self, files: Sequence[int], outcomes: Sequence[HeaderOutcome]) -> None:
        """Take a group of finished files: each becomes one row per sample that is asked for."""
        changed = [
            (file, outcome)
            for file, outcome in zip(files, outcomes, strict=True)
            if outcome.header is not None or not self._stands(self.files[file], outcome)
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
        # One sample of a file with many may be too much already: the rows are made in steps.
        weight = max((o.header.nbytes for o in served if o.header is not None), default=0) + 1
        step = max(1, _MADE_BYTES // weight) if len(served) * weight > 2 * _MADE_BYTES else len(served)
        for start in range(0, len(pairs), step):
            self._put_rows(pairs[start : start + step], served[start : start + step])

    def _put_rows(self, pairs: npt.NDArray[np.int64], served: Sequence[HeaderOutcome]) -> None:
        asked = in_order(self._targets.select([IDENTITY, HREF]), self._target_of_pair[pairs])
        indices = self._indices[pairs]
        values = _header_rows(served, indices.tolist())
        earlier = in_order(self._earlier, self._target_of_pair[pairs])
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
        self._light_of_pair[pairs] = np.arange(self._made, self._made + len(pairs))
        self._made += len(pairs)
        self._light.append(rows.select(list(LIGHT_COLUMNS)))
        self.added.append((name, first, rows.select(list(KEY_COLUMNS))))

    def places(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return for every target the position of its row's file among :attr:`names` (-1 for none), and the row."""
        pair = self._pair_of_row
        inside = np.maximum(pair, 0)
        if not len(self._file):
            return np.full(len(pair), -1, np.int64), np.zeros(len(pair), np.int64)
        return np.where(pair >= 0, self._file[inside], -1), np.where(pair >= 0, self._row[inside], 0)

    def light(self, targets: npt.NDArray[np.int64]) -> pa.Table:
        """Return what the ledger repeats of the rows of some targets, which have one."""
        table = pa.concat_tables([_LIGHT_SCHEMA.empty_table(), *self._light])
        return in_order(table, self._light_of_pair[self._pair_of_row[targets]])

    def _stands(self, target: HeaderTarget, outcome: HeaderOutcome) -> bool:
        """Whether the header that is known stays: its file has not changed, or could not be asked just now."""
        transient = outcome.error is not None and outcome.error.error_class in RETRIED_CLASSES
        return outcome.unchanged or (target.known is not None and transient)


def ledger_rows(targets: pa.Table, light: pa.Table, names: pa.Array, rows: pa.Array) -> pa.Table:
    """Return rows of the ledger.

    Args:
        targets: what they are about.
        light: :data:`LIGHT_COLUMNS` of the header row of each.
        names: file of the header store that holds the row; null where there is no header row.
        rows: number of the row there.
    """
    columns: dict[str, Any] = {name: targets[name] for name in (ID, "band", HREF, BAND_INDEX)}
    columns |= {field.name: light[field.name] for field in OUTCOME_FIELDS}
    columns["parser_version"] = pa.array(np.full(targets.num_rows, PARSER_VERSION, np.int32))
    columns |= _with_conflicts(targets, light)
    columns |= {HEADER_FILE: names, HEADER_ROW: rows}
    return pa.table([columns[name] for name in BAND_METADATA_SCHEMA.names], BAND_METADATA_SCHEMA)


def wrong_rows(targets: pa.Table) -> pa.Table:
    """Return :data:`LIGHT_COLUMNS` of targets that name no file to ask."""
    rows = targets.num_rows
    columns = {field.name: pa.nulls(rows, field.type) for field in _LIGHT_SCHEMA}
    columns |= {"error_class": targets["error_class"], "error": targets["error"]}
    columns |= {"status": pa.array([STATUS_FAILED] * rows, pa.string()), "attempts": pa.array(np.zeros(rows, np.int32))}
    return pa.table([columns[name] for name in LIGHT_COLUMNS], _LIGHT_SCHEMA)


def _with_conflicts(targets: pa.Table, light: pa.Table) -> dict[str, pa.ChunkedArray]:
    """Error columns, in which a header stands out whose CRS is not what the record says; it is good all the same."""
    epsg = light["epsg"]
    is_ok = pc.equal(light["status"], STATUS_OK)
    kind = pc.if_else(is_ok, pa.scalar(None, pa.string()), light["error_class"])
    said = pc.if_else(is_ok, pa.scalar(None, pa.string()), light["error"])
    # By code only: one CRS has many spellings as text.
    conflict = pc.and_(is_ok, pc.fill_null(pc.not_equal(targets[STATED_EPSG], epsg), fill_value=False))
    if pc.any(conflict).as_py():
        stated, found = targets[STATED_EPSG].cast(pa.string()), epsg.cast(pa.string())
        text = pc.binary_join_element_wise("the record says EPSG:", stated, ", its file is in EPSG:", found, "")
        kind, said = pc.if_else(conflict, ErrorClass.CRS_CONFLICT, kind), pc.if_else(conflict, text, said)
    return {"error_class": kind, "error": said}


def _header_rows(outcomes: Sequence[HeaderOutcome], band_indices: Sequence[int]) -> dict[str, pa.Array]:
    """Columns of fetched outcomes, one row per (file, band index)."""
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
