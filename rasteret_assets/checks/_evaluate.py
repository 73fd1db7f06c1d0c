"""Run checks over a workspace; each table of a partition is opened once, and each of its columns is read once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

import pyarrow as pa

from rasteret_assets.checks._open_table import OpenTable, open_rows
from rasteret_assets.checks.finding import Finding
from rasteret_assets.checks.published import state_of
from rasteret_assets.checks.registry import CHECKED, Check, CheckFunction, Partition, StageTable, checks_of
from rasteret_assets.errors import CheckError, DamagedFileError
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
    REJECTED,
)
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.filesystems import each_file
from rasteret_assets.storage.workspace import Workspace

#: Stages whose checks can keep a partition from being published.
_BEFORE_PUBLISHING: Final = tuple(stage for stage in CHECKED if stage != COLLECTION)
_HEADER: Final = "header"
#: Columns whose type the contract fixes, by stage.
_TYPES: Final[dict[str, dict[str, pa.DataType]]] = {
    NORMALIZED: RECORD_FIELDS,
    BANDS: {field.name: field.type for field in BAND_METADATA_SCHEMA},
}


def check_partition(workspace: Workspace, spec: CollectionSpec, key: str) -> list[Finding]:
    """Return the findings of all checks in a partition; no findings where the partition has no tables.

    Raises:
        CollectionError: if a table cannot be read. A damaged table is a finding.
    """
    return _evaluate(workspace, spec, key, checks_of(*CHECKED))


def check_stage(workspace: Workspace, spec: CollectionSpec, key: str, *stages: str) -> list[Finding]:
    """Return the findings of the checks of some stages in a partition.

    A partition whose records are gone has no findings, because it has no tables.

    Raises:
        CollectionError: if a table cannot be read. A damaged table is a finding.
    """
    return _evaluate(workspace, spec, key, checks_of(*stages))


def check_table(
    function: CheckFunction,
    rows: pa.Table,
    *,
    key: str = "2024-05",
    spec: CollectionSpec | None = None,
    also: Mapping[str, pa.Table] | None = None,
) -> Finding:
    """Return what a check finds in a table in memory, as it would find it in a partition; for tests of your checks.

    Args:
        function: the check, a function with the decorator :func:`check`.
        rows: the table that the check is about, with the columns that the check reads.
        key: of the partition.
        spec: of the collection; by default one that says nothing but the path of a record table.
        also: the other tables that the check reads, by stage.

    Raises:
        ValueError: if the function is not a check.
    """
    check = next((check for check in checks_of(*CHECKED) if check.evaluate is function), None)
    if check is None:
        raise ValueError(f"{getattr(function, '__name__', function)!r} is not a check: it needs the decorator check")
    tables: dict[str, StageTable | str] = {}
    for stage, table in {check.stage: rows, **(also or {})}.items():
        seen = _read_each(_in_memory(stage, table), stage, [check])[0]
        if seen is not None:
            tables[stage] = seen
    return _finding(check, key, spec or CollectionSpec.of(path="records.parquet", name="records"), tables, {})


def _in_memory(stage: str, table: pa.Table) -> OpenTable:
    return OpenTable(
        path=stage,
        schema=table.schema,
        count=table.num_rows,
        batches=lambda columns: iter(table.select(_outer_columns(table.schema, columns)).to_batches()),
    )


def require_publishable(workspace: Workspace, spec: CollectionSpec, keys: Sequence[str]) -> None:
    """Refuse to publish partitions in which a blocking check found an error; their published files stay.

    Raises:
        CheckError: with the message of every check that found an error.
    """
    if errors := publication_errors(workspace, spec, keys):
        said = "; ".join(f"{key}: {why}" for key, why in errors.items())
        raise CheckError(f"nothing is published, because a check failed: {said}")


def publication_errors(
    workspace: Workspace, spec: CollectionSpec, keys: Sequence[str], stages: Sequence[str] = _BEFORE_PUBLISHING
) -> dict[str, str]:
    """Return the partitions that must not be published: messages of the blocking checks that found an error, by key.

    Args:
        workspace: of the collection.
        spec: of the collection.
        keys: of the partitions to check.
        stages: whose checks count; all stages but the last when omitted.

    Raises:
        CollectionError: if a table cannot be read. A damaged table is an error of the check that reads it.
    """
    checks = [check for check in checks_of(*stages) if check.blocking]
    if not checks:
        return {}

    def why(key: str) -> str:
        found = _evaluate(workspace, spec, key, checks)
        return "; ".join(finding.message for finding in found if finding.verdict == "error")

    said = zip(keys, each_file(workspace.fs, why, keys), strict=True)
    return {key: text for key, text in said if text}


def _evaluate(workspace: Workspace, spec: CollectionSpec, key: str, checks: Sequence[Check]) -> list[Finding]:
    state = state_of(workspace, key) if any(check.stage == COLLECTION for check in checks) else None
    asked = [check for check in checks if check.stage != COLLECTION or state is not None]
    # For each check of `asked`, the tables that it reads, by stage.
    seen: list[dict[str, StageTable | str]] = [{} for _ in asked]
    for stage in dict.fromkeys(stage for check in asked for stage in check.columns):
        mine = [number for number, check in enumerate(asked) if stage in check.columns]
        for number, table in zip(mine, _read_for(workspace, key, stage, [asked[n] for n in mine]), strict=True):
            if table is not None:
                seen[number][stage] = table
    findings = []
    for check, tables in zip(asked, seen, strict=True):
        if check.stage == REJECTED and NORMALIZED in tables and REJECTED not in tables:
            # An empty table, because a partition without rejected records has no file ``rejected_records``.
            tables[REJECTED] = _no_rows(workspace.stage_file(REJECTED, key), check)
        if check.stage == COLLECTION:
            tables.setdefault(
                COLLECTION, f"{workspace.published_file(key)}: the file does not exist; build the partition again"
            )
        if check.stage in tables:
            findings.append(_finding(check, key, spec, tables, state or {}))
    return findings


def _finding(
    check: Check, key: str, spec: CollectionSpec, tables: dict[str, StageTable | str], state: Mapping[str, Any]
) -> Finding:
    """Return the finding of a check; an error if the check cannot read one of its tables."""
    faults = [table for table in tables.values() if isinstance(table, str)]
    if faults:
        return Finding(check=check.name, passed=False, message="; ".join(faults))
    also = {stage: table for stage, table in tables.items() if not isinstance(table, str)}
    table = also.pop(check.stage)
    return check.evaluate(Partition(key=key, spec=spec, table=table, also=also, state=state))


def _no_rows(path: str, check: Check) -> StageTable:
    columns = check.columns[check.stage]
    names = [] if callable(columns) else columns
    schema = pa.schema([(name, pa.string()) for name in names])
    batch = pa.RecordBatch.from_pylist([], schema=schema)
    rows = batch if check.of_batch is None else check.of_batch(batch)
    return StageTable(path=path, schema=schema, count=0, rows=pa.Table.from_batches([rows]))


def _read_for(workspace: Workspace, key: str, stage: str, checks: Sequence[Check]) -> list[StageTable | str | None]:
    """Read a table of a partition once, with the columns that each of some checks reads.

    Args:
        workspace: of the collection.
        key: of the partition.
        stage: whose table is read.
        checks: that read the table.

    Returns:
        For each check the table, None where it does not exist, or a sentence that says why the check cannot read it.

    Raises:
        CollectionError: if the table cannot be read for another reason than damage.
    """
    try:
        with _opened(workspace, key, stage) as table:
            return [None] * len(checks) if table is None else _read_each(table, stage, checks)
    except DamagedFileError as error:
        return [str(error)] * len(checks)


def _read_each(table: OpenTable, stage: str, checks: Sequence[Check]) -> list[StageTable | str | None]:
    found: list[StageTable | str | None] = []
    wanted, gathered = dict[int, list[str]](), dict[int, list[pa.RecordBatch]]()
    for number, check in enumerate(checks):
        columns = check.columns[stage]
        # Columns that a function found in the schema exist, whatever their type.
        problem = None if callable(columns) else _lacking(table, stage, columns)
        found.append(problem)
        if problem is None:
            wanted[number] = list(columns(table.schema) if callable(columns) else columns)
            gathered[number] = []
    for batch in _batches(table, list(dict.fromkeys(name for names in wanted.values() for name in names))):
        for number, names in wanted.items():
            reduce = checks[number].of_batch if checks[number].stage == stage else None
            mine = batch.select(_outer_columns(table.schema, names))
            gathered[number].append(mine if reduce is None else reduce(mine))
    for number, batches in gathered.items():
        found[number] = StageTable(
            path=table.path, schema=table.schema, count=table.count, rows=pa.Table.from_batches(batches),
            digest=table.digest,
        )  # fmt: skip
    return found


def _batches(table: OpenTable, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield some columns in batches; one batch with no rows where the table has no rows or no column is wanted."""
    batches = table.batches(columns) if columns and table.count else iter(())
    if (first := next(batches, None)) is None:
        yield pa.RecordBatch.from_pylist([], schema=table.schema.remove_metadata())
        return
    yield first.replace_schema_metadata(None)
    for batch in batches:
        yield batch.replace_schema_metadata(None)


def _lacking(table: OpenTable, stage: str, columns: Sequence[str]) -> str | None:
    """Return a sentence about the columns of a check that are missing or of another type; None if all fit."""
    there = {field.name: field.type for field in table.schema}
    fields = [name for name in columns if name not in there and name.partition(".")[0] in there]
    if fields:
        return f"{table.path}: {', '.join(fields)} is a field: a check names whole columns, and takes fields of them"
    types = _TYPES.get(stage, {})
    problems = [f"{name} is missing" for name in columns if name not in there] + [
        f"{name} is {there[name]}, not {types[name]}"
        for name in columns
        if name in there and there[name] != types.get(name, there[name])
    ]
    return f"{table.path}: {', '.join(problems)}; build the partition again" if problems else None


def _outer_columns(schema: pa.Schema, names: Sequence[str]) -> list[str]:
    """Return the columns of some names, each once: the name itself, or the struct in which the leaf lies."""
    return list(dict.fromkeys(name if name in schema.names else name.partition(".")[0] for name in names))


@contextmanager
def _opened(workspace: Workspace, key: str, stage: str) -> Iterator[OpenTable | None]:
    """Open a table of a partition; to band metadata the headers are added, as the column ``header``."""
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
