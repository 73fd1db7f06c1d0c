"""Checks over a workspace: read the tables of a partition and hand them to the checks that are about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.checks.catalog import CHECKS
from rasteret_assets.checks.finding import Finding
from rasteret_assets.checks.headers import headers_complete, one_row_per_band, tile_ranges
from rasteret_assets.checks.published import counts_agree, published_file, state_of
from rasteret_assets.checks.records import footprints, nothing_rejected, schema_contract, unique_ids
from rasteret_assets.errors import CheckError, CollectionError
from rasteret_assets.headers.ledger import read_ledger
from rasteret_assets.partitions import hive_keys
from rasteret_assets.schema import (
    BANDS,
    BBOX,
    COLLECTION,
    GEOMETRY,
    ID,
    NORMALIZED,
    RAW,
    REJECT_CLASS,
    REJECTED,
    STATUS_OK,
    band_column,
)
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.filesystems import each_file
from rasteret_assets.storage.streams import StreamTable, open_stream
from rasteret_assets.storage.workspace import Workspace

_BLOCKING: Final = frozenset(check.name for check in CHECKS if check.blocking)


def check_partition(workspace: Workspace, spec: CollectionSpec, key: str) -> list[Finding]:
    """All checks of a partition; none where it has no tables.

    Raises:
        CollectionError: if a table cannot be read.
    """
    return [finding for stage in _CHECKED for finding in check_stage(workspace, spec, key, stage)]


def check_stage(workspace: Workspace, spec: CollectionSpec, key: str, stage: str) -> list[Finding]:
    """The checks of one stage of a partition, as named in :data:`~rasteret_assets.checks.catalog.CHECKS`.

    A partition whose records are gone passes: there is nothing left that could be wrong.
    """
    return _CHECKED[stage](workspace, spec, key)


def require_publishable(workspace: Workspace, spec: CollectionSpec, keys: Sequence[str]) -> None:
    """Refuse to publish partitions that a blocking check fails; what was published of them before stays.

    Raises:
        CheckError: with what every failed check says.
    """

    def errors(key: str) -> list[str]:
        return [
            f"{key}: {finding.message}"
            for stage in (NORMALIZED, BANDS)
            for finding in check_stage(workspace, spec, key, stage)
            if finding.check in _BLOCKING and finding.verdict == "error"
        ]

    if found := list(chain.from_iterable(each_file(workspace.fs, errors, keys))):
        raise CheckError("nothing is published, because a check failed: " + "; ".join(found))


def _check_normalized(workspace: Workspace, spec: CollectionSpec, key: str) -> list[Finding]:
    table = open_stream(workspace, workspace.stage_file(NORMALIZED, key))
    if table is None:
        return []
    schema = table.schema
    keys = hive_keys(spec.partition_by)
    dates = _read(table, [name for name in keys if name in schema.names])
    contract = schema_contract(schema, dates, key, spec.partition_by)
    if not contract.passed:
        return [contract]  # the other checks take its columns for granted
    return [contract, unique_ids(_read(table, [ID])[ID]), footprints(table.batches([ID, GEOMETRY, BBOX]))]


def _check_rejected(workspace: Workspace, spec: CollectionSpec, key: str) -> list[Finding]:
    del spec  # max_rejected stops the stage itself
    if not workspace.has(workspace.stage_file(NORMALIZED, key)):
        return []
    path = workspace.stage_file(REJECTED, key)
    nothing = pa.chunked_array([], pa.string())
    classes = _columns(workspace, path, [REJECT_CLASS])[REJECT_CLASS] if workspace.has(path) else nothing
    return [nothing_rejected(classes)]


def _check_bands(workspace: Workspace, spec: CollectionSpec, key: str) -> list[Finding]:
    path, records = workspace.stage_file(BANDS, key), open_stream(workspace, workspace.stage_file(NORMALIZED, key))
    if records is None or not workspace.has(path):
        return []
    rows = _columns(workspace, path, [ID, "band", "status", "error_class"])
    return [
        headers_complete(rows.select(["status", "error_class"]), spec.max_failed),
        tile_ranges(read_ledger(workspace, key)),
        one_row_per_band(_read(records, [ID])[ID], rows.select([ID, "band"])),
    ]


def _check_collection(workspace: Workspace, spec: CollectionSpec, key: str) -> list[Finding]:
    del spec  # the state says what was published under it
    state = state_of(workspace, key)
    if state is None:
        return []
    file = published_file(workspace, key, state)
    if not file.passed:
        return [file]
    published = workspace.published_file(key)
    tables = {stage: open_stream(workspace, workspace.stage_file(stage, key)) for stage in (RAW, NORMALIZED)}
    rows = {stage: table.rows if table is not None else 0 for stage, table in tables.items()}
    rows[REJECTED] = workspace.count_rows(workspace.stage_file(REJECTED, key))
    rows[COLLECTION] = workspace.count_rows(published)
    return [file, counts_agree(rows, _headers(workspace, key, state.get("bands", ())), state)]


def _headers(workspace: Workspace, key: str, bands: Sequence[str]) -> dict[str, tuple[int, int]]:
    """For every band, how many headers the ledger has and how many are published."""
    ledger = workspace.stage_file(BANDS, key)
    if not bands or not workspace.has(ledger):
        return {}
    rows = _columns(workspace, ledger, ["band", "status"])
    ok = rows.filter(pc.equal(rows["status"], STATUS_OK))["band"]
    # One leaf of the struct tells where it is null; the tile tables need not be read.
    leaves = [f"{band_column(band)}.image_width" for band in bands]
    there = dict.fromkeys(bands, 0)
    for batch in workspace.read_batches(workspace.published_file(key), leaves):
        for band in bands:
            column = batch.column(band_column(band))
            there[band] += len(column) - column.null_count
    return {band: (pc.sum(pc.equal(ok, band)).as_py() or 0, count) for band, count in there.items()}


def _read(table: StreamTable, names: Sequence[str]) -> pa.Table:
    chosen = pa.schema([table.schema.field(name) for name in names])
    return pa.Table.from_batches(table.batches(names), chosen)


def _columns(workspace: Workspace, path: str, names: Sequence[str]) -> pa.Table:
    schema = workspace.read_schema(path)
    if schema is None:
        raise CollectionError(f"{path} is missing: build the partition first")
    chosen = pa.schema([schema.field(name) for name in names])
    return pa.Table.from_batches(workspace.read_batches(path, names), chosen)


_CHECKED: Final[dict[str, Callable[[Workspace, CollectionSpec, str], list[Finding]]]] = {
    NORMALIZED: _check_normalized,
    REJECTED: _check_rejected,
    BANDS: _check_bands,
    COLLECTION: _check_collection,
}
