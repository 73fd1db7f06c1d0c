"""Checks over a workspace: every partition's tables are read once for all checks that are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from rasteret_assets.checks.finding import Finding
from rasteret_assets.checks.published import state_of
from rasteret_assets.checks.read import read_for
from rasteret_assets.checks.registry import CHECKED, Check, Partition, StageTable, checks_of
from rasteret_assets.errors import CheckError
from rasteret_assets.schema import COLLECTION, NORMALIZED, REJECTED
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.filesystems import each_file
from rasteret_assets.storage.workspace import Workspace

#: Stages whose checks can keep a partition from being published.
_BEFORE_PUBLISHING: Final = tuple(stage for stage in CHECKED if stage != COLLECTION)


def check_partition(workspace: Workspace, spec: CollectionSpec, key: str) -> list[Finding]:
    """Return what all checks find in a partition; nothing where it has no tables.

    Raises:
        CollectionError: if a table cannot be read. One that is damaged is a finding.
    """
    return _evaluate(workspace, spec, key, checks_of(*CHECKED))


def check_stage(workspace: Workspace, spec: CollectionSpec, key: str, *stages: str) -> list[Finding]:
    """Return what the checks of one or more stages find in a partition; errors as for :func:`check_partition`.

    A partition whose records are gone passes: there is nothing left that could be wrong.
    """
    return _evaluate(workspace, spec, key, checks_of(*stages))


def require_publishable(workspace: Workspace, spec: CollectionSpec, keys: Sequence[str]) -> None:
    """Refuse to publish partitions that a blocking check fails; what was published of them before stays.

    Raises:
        CheckError: with what every failed check says.
    """
    if errors := publication_errors(workspace, spec, keys):
        said = "; ".join(f"{key}: {why}" for key, why in errors.items())
        raise CheckError(f"nothing is published, because a check failed: {said}")


def publication_errors(
    workspace: Workspace, spec: CollectionSpec, keys: Sequence[str], stages: Sequence[str] = _BEFORE_PUBLISHING
) -> dict[str, str]:
    """Return the partitions that must not be published, with what the blocking checks say of each.

    Args:
        workspace: of the collection.
        spec: of the collection.
        keys: of the partitions to look at.
        stages: whose checks count; all before the last when omitted.
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
    # By check, in the order of `asked`: the tables that it reads.
    seen: list[dict[str, StageTable | str]] = [{} for _ in asked]
    for stage in dict.fromkeys(stage for check in asked for stage in check.columns):
        mine = [number for number, check in enumerate(asked) if stage in check.columns]
        for number, table in zip(mine, read_for(workspace, key, stage, [asked[n] for n in mine]), strict=True):
            if table is not None:
                seen[number][stage] = table
    findings = []
    for check, tables in zip(asked, seen, strict=True):
        if check.stage == REJECTED and NORMALIZED in tables and REJECTED not in tables:
            # No record was rejected, so that there is no file.
            tables[REJECTED] = _no_rows(workspace.stage_file(REJECTED, key), check)
        if check.stage == COLLECTION:
            tables.setdefault(COLLECTION, f"{workspace.published_file(key)}: there is no such file; build it again")
        if check.stage in tables:
            findings.append(_finding(check, key, spec, tables, state or {}))
    return findings


def _finding(
    check: Check, key: str, spec: CollectionSpec, tables: dict[str, StageTable | str], state: Mapping[str, Any]
) -> Finding:
    """Ask a check; where it cannot read a table, that is what it finds."""
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
