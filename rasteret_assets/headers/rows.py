"""Finished headers as rows of the ledger: from parsed values to Arrow, without an object per tile."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.errors import CollectionError, RasteretAssetsError, UnsupportedTiffError
from rasteret_assets.headers.fetch import BATCH_SECONDS
from rasteret_assets.headers.index import HeaderIndex, KnownRows, KnownTable, in_order, take_rows
from rasteret_assets.headers.outcomes import HeaderOutcome, HeaderTarget
from rasteret_assets.headers.structs import Header, header_structs
from rasteret_assets.headers.targets import RETRIED_CLASSES, STATED_EPSG
from rasteret_assets.schema import (
    BAND_INDEX,
    BAND_METADATA_SCHEMA,
    CRS_CONFLICT,
    HREF,
    ID,
    IDENTITY,
    PARSER_VERSION,
    STATUS_FAILED,
    STATUS_OK,
    STATUS_UNSUPPORTED,
    TIMESTAMP,
)

#: Columns of the ledger that a header fetch decides; the others are what was asked for.
FETCHED_COLUMNS = (
    "status", "error_class", "error", "attempts", "attempted_at", "etag", "last_modified", "content_length", "header"
)  # fmt: skip

#: Finished rows of this size stay in memory; more are read back from where they are kept meanwhile.
KEPT_BYTES = 64 * 1024 * 1024

#: Finished rows are given to the checkpoint when so many, so much or so old: each time it writes a file.
SAVED_ROWS = 4096
_SAVED_BYTES: Final = 32 * 1024 * 1024
# What a slow host gave comes after BATCH_SECONDS, and is then written at once: as long again would be lost otherwise.
_SAVED_SECONDS: Final = BATCH_SECONDS / 2

#: The ledger is put together in steps of about this size.
_STEP_BYTES: Final = 32 * 1024 * 1024
_FIRST_STEP_ROWS: Final = 2048
_MOST_STEP_ROWS: Final = 65_536


class Checkpoint(Protocol):
    """Keeps finished ledger rows of a stage that is still running."""

    def load(self) -> Sequence[KnownRows]:
        """Rows that an interrupted run left behind, if any."""
        ...

    def save(self, rows: pa.Table) -> KnownRows:
        """Keep rows of :data:`~rasteret_assets.schema.BAND_METADATA_SCHEMA` until the stage is done."""
        ...


class FreshRows:
    """Collects finished headers as ledger rows, group by group, so that parsed headers are not kept as objects.

    Args:
        targets: what is to be in the ledger.
        files: the files that are asked for.
        file_of_row: for every target the position of its file, -1 where none is asked for.
        checkpoint: keeps them meanwhile.
    """

    def __init__(
        self,
        targets: pa.Table,
        files: Sequence[HeaderTarget],
        file_of_row: npt.NDArray[np.int64],
        checkpoint: Checkpoint | None,
    ) -> None:
        self.targets = targets
        self.files = files
        self.checkpoint = checkpoint
        fetched = np.flatnonzero(file_of_row >= 0)
        self._by_file = fetched[np.argsort(file_of_row[fetched], kind="stable")]
        self._starts = np.searchsorted(file_of_row[self._by_file], np.arange(len(files) + 1))
        self._indices = targets[BAND_INDEX].combine_chunks().to_numpy(zero_copy_only=False)
        self._kept = 0
        self._waiting: list[tuple[npt.NDArray[np.int64], pa.Table]] = []
        self._saved_at = time.monotonic()
        #: Where each target's fetched row stands: group, -1 where there is none, and row of the group.
        self.groups = np.full(targets.num_rows, -1, np.int64)
        self.rows = np.zeros(targets.num_rows, np.int64)
        self.sources: list[KnownRows] = []
        #: The same rows where the checkpoint keeps them.
        self.saved: list[KnownRows] = []
        self.unchanged = 0

    def take(self, files: Sequence[int], outcomes: Sequence[HeaderOutcome]) -> None:
        """A group of finished files: each becomes one row per target that it serves."""
        changed = [
            (file, outcome)
            for file, outcome in zip(files, outcomes, strict=True)
            if outcome.header is not None or not self._stands(self.files[file], outcome)
        ]
        self.unchanged += len(files) - len(changed)
        if not changed:
            return
        numbers, answers = zip(*changed, strict=True)
        rows, counts = self._rows_of(np.array(numbers))
        served = [outcome for outcome, count in zip(answers, counts.tolist(), strict=True) for _ in range(count)]
        table = _ledger(in_order(self.targets, rows), _fresh_rows(served, self._indices[rows].tolist()))
        self._waiting.append((rows, table))
        if self.checkpoint is None or self._is_due:
            self.keep()

    def _rows_of(self, files: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Targets that each of these files serves, file by file, and how many they are."""
        starts = self._starts[files]
        counts = self._starts[files + 1] - starts
        before = np.cumsum(counts) - counts
        return self._by_file[np.repeat(starts - before, counts) + np.arange(counts.sum())], counts

    def keep(self, *, last: bool = False) -> None:
        """Give the checkpoint what it does not have yet; to be called once more after the last group.

        Args:
            last: whether the ledger is written from these rows at once, so that a checkpoint would save nothing.
        """
        if not self._waiting:
            return
        spans, tables = zip(*self._waiting, strict=True)
        self._waiting, self._saved_at = [], time.monotonic()
        rows, table = np.concatenate(spans), pa.concat_tables(tables).combine_chunks()
        self.groups[rows] = len(self.sources)
        self.rows[rows] = np.arange(len(rows))
        self.sources.append(KnownTable(table=table))
        self._kept += table.nbytes
        if self.checkpoint is not None and not last:
            self.saved.append(self.checkpoint.save(table))
            if self._kept > KEPT_BYTES:
                self.sources[-1] = self.saved[-1]

    @property
    def _is_due(self) -> bool:
        tables = [table for _, table in self._waiting]
        return (
            sum(table.num_rows for table in tables) >= SAVED_ROWS
            or sum(table.nbytes for table in tables) >= _SAVED_BYTES
            or time.monotonic() - self._saved_at > _SAVED_SECONDS
        )

    def _stands(self, target: HeaderTarget, outcome: HeaderOutcome) -> bool:
        """Whether the header that is known stays: its file has not changed, or could not be asked just now."""
        transient = outcome.error is not None and outcome.error.error_class in RETRIED_CLASSES
        return outcome.unchanged or (target.known is not None and transient)


def assemble_ledger(
    targets: pa.Table, known: HeaderIndex, positions: npt.NDArray[np.int64], fresh: FreshRows
) -> Iterator[pa.Table]:
    """The ledger, step by step: fetched rows, known rows, and rows that were wrong from the start, in target order.

    Raises:
        CollectionError: if a known row is not what it was found as, because another run wrote its ledger meanwhile.
    """
    begin, step = 0, _FIRST_STEP_ROWS
    while begin < targets.num_rows:
        span = slice(begin, begin + step)
        rows = _step(targets.slice(begin, step), known, positions[span], fresh, span)
        yield rows
        begin += rows.num_rows
        per_row = rows.nbytes // rows.num_rows + 1
        step = min(_MOST_STEP_ROWS, max(1, _STEP_BYTES // per_row))


def _step(
    targets: pa.Table, known: HeaderIndex, positions: npt.NDArray[np.int64], fresh: FreshRows, span: slice
) -> pa.Table:
    groups = fresh.groups[span]
    is_fresh, is_known = groups >= 0, (groups < 0) & (positions >= 0)
    if is_fresh.all():
        return _ledger(targets, take_rows(fresh.sources, groups, fresh.rows[span]))
    reused = known.take(positions[is_known])
    asked = targets.filter(pa.array(is_known))
    if not all(reused[name].equals(asked[name]) for name in (IDENTITY, BAND_INDEX)):
        raise CollectionError("a ledger changed while headers were taken from it; build the partition again")
    fetched = take_rows(fresh.sources, groups[is_fresh], fresh.rows[span][is_fresh])
    wrong = _wrong_rows(targets.filter(pa.array(~is_fresh & ~is_known)))
    columns = list(FETCHED_COLUMNS)
    values = pa.concat_tables([fetched.select(columns), reused.select(columns), wrong.select(columns)])
    places = np.concatenate([np.flatnonzero(mask) for mask in (is_fresh, is_known, ~is_fresh & ~is_known)])
    return _ledger(targets, in_order(values, np.argsort(places, kind="stable")))


def _ledger(targets: pa.Table, values: pa.Table) -> pa.Table:
    """Ledger rows from targets and what is known of each."""
    columns: dict[str, Any] = {name: targets[name] for name in (ID, "band", HREF, IDENTITY, BAND_INDEX)}
    columns |= {name: values[name] for name in FETCHED_COLUMNS}
    columns["parser_version"] = pa.array(np.full(targets.num_rows, PARSER_VERSION, np.int32))
    columns |= _with_conflicts(targets, values)
    return pa.table({name: columns[name] for name in BAND_METADATA_SCHEMA.names}, BAND_METADATA_SCHEMA)


def _with_conflicts(targets: pa.Table, values: pa.Table) -> dict[str, pa.ChunkedArray]:
    """Error columns, in which a header stands out whose CRS is not what the record says; it is good all the same."""
    header = values["header"]
    epsg = pc.struct_field(header, [header.type.get_field_index("epsg")])
    is_ok = pc.equal(values["status"], STATUS_OK)
    kind = pc.if_else(is_ok, pa.scalar(None, pa.string()), values["error_class"])
    said = pc.if_else(is_ok, pa.scalar(None, pa.string()), values["error"])
    # By code only: one CRS has many spellings as text.
    conflict = pc.and_(is_ok, pc.fill_null(pc.not_equal(targets[STATED_EPSG], epsg), fill_value=False))
    if pc.any(conflict).as_py():
        stated, found = targets[STATED_EPSG].cast(pa.string()), epsg.cast(pa.string())
        text = pc.binary_join_element_wise("the record says EPSG:", stated, ", its file is in EPSG:", found, "")
        kind, said = pc.if_else(conflict, CRS_CONFLICT, kind), pc.if_else(conflict, text, said)
    return {"error_class": kind, "error": said}


def _wrong_rows(targets: pa.Table) -> pa.Table:
    rows = targets.num_rows
    blank = {name: pa.nulls(rows, BAND_METADATA_SCHEMA.field(name).type) for name in FETCHED_COLUMNS}
    blank |= {"error_class": targets["error_class"], "error": targets["error"]}
    blank |= {"status": pa.array([STATUS_FAILED] * rows, pa.string()), "attempts": pa.array(np.zeros(rows, np.int32))}
    return pa.table(blank)


def _fresh_rows(outcomes: Sequence[HeaderOutcome], band_indices: Sequence[int]) -> pa.Table:
    """Ledger columns of fetched outcomes, one row per (file, band index)."""
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
    return pa.table(
        {
            "status": pa.array([kind or STATUS_OK for kind in kinds], pa.string()),
            "error_class": pa.array([e and e.error_class for e in errors], pa.string()),
            "error": pa.array([e and str(e) for e in errors], pa.string()),
            "attempts": pa.array([o.attempts for o in outcomes], pa.int32()),
            "attempted_at": pa.array([datetime.now(UTC)] * len(outcomes), TIMESTAMP),
            "etag": pa.array([o.etag for o in outcomes], pa.string()),
            "last_modified": pa.array([o.last_modified for o in outcomes], pa.string()),
            "content_length": pa.array([o.size for o in outcomes], pa.int64()),
            "header": header_structs(headers, band_indices),
        }
    )
