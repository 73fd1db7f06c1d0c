"""The tables of a partition, read for several checks at once: each file is opened once, and no column is read twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

import pyarrow as pa

from rasteret_assets.checks._open_table import OpenTable, open_rows
from rasteret_assets.checks.registry import Check, StageTable
from rasteret_assets.errors import DamagedFileError
from rasteret_assets.headers.ledger import with_headers
from rasteret_assets.schema import (
    BAND_METADATA_SCHEMA,
    BANDS,
    COLLECTION,
    HEADER_FILE,
    HEADER_ROW,
    HEADER_STRUCT,
    NORMALIZED,
    RECORD_FIELDS,
)
from rasteret_assets.storage.workspace import Workspace

_HEADER: Final = "header"
#: Columns whose type the contract fixes, by stage.
_TYPES: Final[dict[str, dict[str, pa.DataType]]] = {
    NORMALIZED: RECORD_FIELDS,
    BANDS: {field.name: field.type for field in BAND_METADATA_SCHEMA},
}


def read_for(workspace: Workspace, key: str, stage: str, checks: Sequence[Check]) -> list[StageTable | str | None]:
    """Return a table of a partition as each of some checks is to see it.

    Args:
        workspace: of the collection.
        key: of the partition.
        stage: whose table is read.
        checks: which name the table among their columns.

    Returns:
        For each check the table, None where it does not exist, or a sentence that says why the check cannot read it.

    Raises:
        CollectionError: if the table cannot be read, for another reason than that it is damaged.
    """
    try:
        with _open(workspace, key, stage) as table:
            return [None] * len(checks) if table is None else _read(table, stage, checks)
    except DamagedFileError as error:
        return [str(error)] * len(checks)


def _read(table: OpenTable, stage: str, checks: Sequence[Check]) -> list[StageTable | str | None]:
    found: list[StageTable | str | None] = []
    wanted, gathered = dict[int, list[str]](), dict[int, list[pa.RecordBatch]]()
    for number, check in enumerate(checks):
        columns = check.columns[stage]
        # What a function finds in the schema is there, in whatever type.
        problem = None if callable(columns) else _lacking(table, stage, columns)
        found.append(problem)
        if problem is None:
            wanted[number] = list(columns(table.schema) if callable(columns) else columns)
            gathered[number] = []
    for batch in _batches(table, list(dict.fromkeys(name for names in wanted.values() for name in names))):
        for number, names in wanted.items():
            reduce = checks[number].of_batch if checks[number].stage == stage else None
            mine = batch.select(list(dict.fromkeys(_column(table.schema, name) for name in names)))
            gathered[number].append(mine if reduce is None else reduce(mine))
    for number, batches in gathered.items():
        found[number] = StageTable(
            path=table.path, schema=table.schema, count=table.count, rows=pa.Table.from_batches(batches),
            digest=table.digest,
        )  # fmt: skip
    return found


def _batches(table: OpenTable, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield some columns in batches; one batch without rows where the table has none, or no column is wanted."""
    batches = table.batches(columns) if columns and table.count else iter(())
    if (first := next(batches, None)) is None:
        yield pa.RecordBatch.from_pylist([], schema=table.schema.remove_metadata())
        return
    yield first.replace_schema_metadata(None)
    for batch in batches:
        yield batch.replace_schema_metadata(None)


def _lacking(table: OpenTable, stage: str, columns: Sequence[str]) -> str | None:
    """Say which of the columns that a check names are not there; None where all are."""
    there = {field.name: field.type for field in table.schema}
    types = _TYPES.get(stage, {})
    problems = [f"there is no {name}" for name in columns if name not in there] + [
        f"{name} is {there[name]}, not {types[name]}"
        for name in columns
        if name in there and there[name] != types.get(name, there[name])
    ]
    return f"{table.path}: {', '.join(problems)}; build the partition again" if problems else None


def _column(schema: pa.Schema, name: str) -> str:
    """Return the column that a name is of: itself, or the struct that a leaf lies in."""
    return name if name in schema.names else name.partition(".")[0]


@contextmanager
def _open(workspace: Workspace, key: str, stage: str) -> Iterator[OpenTable | None]:
    """Open a table of a partition; that of band metadata with the headers, in a column of their own."""
    published = stage == COLLECTION
    path = workspace.published_file(key) if published else workspace.stage_file(stage, key)
    with open_rows(workspace, path, digest=published) as table:
        if table is None or stage != BANDS or HEADER_FILE not in table.schema.names:
            yield table
            return
        ledger = table

        def batches(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
            if _HEADER not in columns:
                return ledger.batches(columns)
            names = dict.fromkeys([*(name for name in columns if name != _HEADER), HEADER_FILE, HEADER_ROW])
            return with_headers(workspace, key, ledger.batches(list(names)))

        yield replace(table, schema=table.schema.append(pa.field(_HEADER, HEADER_STRUCT)), batches=batches)
