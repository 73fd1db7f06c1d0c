"""Finished headers as rows of the ledger: from parsed values to Arrow, without an object per tile."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.errors import RasteretAssetsError, UnsupportedTiffError
from rasteret_assets.schema import (
    BAND_INDEX,
    BAND_METADATA_SCHEMA,
    HREF,
    ID,
    PARSER_VERSION,
    STATUS_FAILED,
    STATUS_OK,
    STATUS_UNSUPPORTED,
    TIMESTAMP,
)
from rasteret_assets.stages.headers import HeaderOutcome, HeaderTarget
from rasteret_assets.stages.structs import header_structs
from rasteret_assets.stages.targets import RETRIED_CLASSES
from rasteret_assets.tiff import TiffHeader

#: Columns of the ledger that a header fetch decides; the others are what was asked for.
FETCHED_COLUMNS = (
    "status", "error_class", "error", "attempts", "attempted_at", "etag", "last_modified", "content_length", "header"
)  # fmt: skip


#: Rows of the ledger are put in order in slices of about this size.
_TAKE_BYTES: Final = 32 * 1024 * 1024


class Checkpoint(Protocol):
    """Keeps finished ledger rows of a stage that is still running."""

    def load(self) -> pa.Table | None:
        """Rows that an interrupted run left behind, if any."""
        ...

    def save(self, rows: pa.Table) -> None:
        """Keep rows of :data:`~rasteret_assets.schema.BAND_METADATA_SCHEMA` until the stage is done."""
        ...


class FreshRows:
    """Collects finished headers as ledger rows, group by group, so that parsed headers are not kept as objects.

    Args:
        targets: what is to be in the ledger.
        files: the files that are asked for.
        file_of_row: for every target the position of its file, -1 where none is asked for.
        checkpoint: keeps each group as it comes.
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
        self._rows: list[npt.NDArray[np.int64]] = []
        self.tables: list[pa.Table] = []
        self.unchanged = 0

    @property
    def positions(self) -> npt.NDArray[np.int64]:
        """Target of every row in ``tables``, laid end to end."""
        return np.concatenate([np.zeros(0, np.int64), *self._rows])

    def take(self, files: Sequence[int], outcomes: Sequence[HeaderOutcome]) -> None:
        """A group of finished files: each becomes one row per target that it serves."""
        changed = [(f, o) for f, o in zip(files, outcomes, strict=True) if not self._stands(self.files[f], o)]
        self.unchanged += len(files) - len(changed)
        if not changed:
            return
        spans = [self._by_file[self._starts[file] : self._starts[file + 1]] for file, _ in changed]
        rows = np.concatenate(spans)
        served = [outcome for (_, outcome), span in zip(changed, spans, strict=True) for _ in range(len(span))]
        table = _fresh_rows(served, self._indices[rows].tolist())
        self._rows.append(rows)
        self.tables.append(table)
        if self.checkpoint is not None:
            self.checkpoint.save(_ledger(self.targets.take(pa.array(rows)), table))

    def _stands(self, target: HeaderTarget, outcome: HeaderOutcome) -> bool:
        """Whether the header that is known stays: its file has not changed, or could not be asked just now."""
        transient = outcome.error is not None and outcome.error.error_class in RETRIED_CLASSES
        return outcome.unchanged or (target.known is not None and transient)


def assemble_ledger(targets: pa.Table, cached: pa.Array, known: pa.Table, fresh: FreshRows) -> pa.Table:
    """The ledger: fetched rows, known rows, and rows that were wrong from the start, in target order."""
    fetched = fresh.positions
    place = np.arange(targets.num_rows, dtype=np.int64) + len(fetched) + known.num_rows
    reused = np.asarray(pc.is_valid(cached))
    place[reused] = len(fetched) + np.asarray(cached.drop_null())
    place[fetched] = np.arange(len(fetched))
    if len(place) and np.array_equal(fetched, np.arange(len(place))):
        return _ledger(targets, pa.concat_tables(fresh.tables))
    return _ledger(targets, _take([*fresh.tables, known.select(list(FETCHED_COLUMNS)), _wrong_rows(targets)], place))


def _take(tables: Sequence[pa.Table], rows: npt.NDArray[np.int64]) -> pa.Table:
    """Rows of several tables laid end to end, in the order asked for.

    Arrow's own take would first copy all tables into one, which for tile tables is the most memory a build ever holds.
    """
    starts = np.cumsum([0, *(table.num_rows for table in tables)])
    bytes_per_row = sum(table.nbytes for table in tables) // max(1, int(starts[-1])) + 1
    step = max(1, _TAKE_BYTES // bytes_per_row)
    slices = []
    for begin in range(0, max(len(rows), 1), step):
        wanted = rows[begin : begin + step]
        source = np.searchsorted(starts, wanted, side="right") - 1
        parts = [tables[0].slice(0, 0)]
        order = [np.zeros(0, np.int64)]
        for number in np.unique(source):
            mine = np.flatnonzero(source == number)
            parts.append(tables[number].take(pa.array(wanted[mine] - starts[number])))
            order.append(mine)
        joined = pa.concat_tables(parts).combine_chunks()
        slices.append(joined.take(pa.array(np.argsort(np.concatenate(order), kind="stable"))))
    return pa.concat_tables(slices)


def _ledger(targets: pa.Table, values: pa.Table) -> pa.Table:
    """Ledger rows from targets and what is known of each."""
    columns: dict[str, Any] = {name: targets[name] for name in (ID, "band", HREF, BAND_INDEX)}
    columns |= {name: values[name] for name in FETCHED_COLUMNS}
    columns["parser_version"] = pa.array(np.full(targets.num_rows, PARSER_VERSION, np.int32))
    return pa.table({name: columns[name] for name in BAND_METADATA_SCHEMA.names}, BAND_METADATA_SCHEMA)


def _wrong_rows(targets: pa.Table) -> pa.Table:
    rows = targets.num_rows
    blank = {name: pa.nulls(rows, BAND_METADATA_SCHEMA.field(name).type) for name in FETCHED_COLUMNS}
    blank |= {"error_class": targets["error_class"], "error": targets["error"]}
    blank |= {"status": pa.array([STATUS_FAILED] * rows, pa.string()), "attempts": pa.array(np.zeros(rows, np.int32))}
    return pa.table(blank)


def _fresh_rows(outcomes: Sequence[HeaderOutcome], band_indices: Sequence[int]) -> pa.Table:
    """Ledger columns of fetched outcomes, one row per (file, band index)."""
    headers: list[TiffHeader | None] = []
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
