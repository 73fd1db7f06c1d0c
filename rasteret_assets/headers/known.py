"""Headers that a workspace knows already: of the partition's last ledger, of an interrupted run, of other partitions.

A record that moves to another month takes its headers along: what a partition's records no longer need is set aside
for a day, where the partition that gets the record finds it.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Final

import numpy as np
import pyarrow as pa

from rasteret_assets.headers.index import HeaderIndex, KnownFile, KnownRows
from rasteret_assets.headers.targets import TARGET_COLUMNS, ledger_targets
from rasteret_assets.schema import BAND_METADATA_SCHEMA, BANDS, NORMALIZED
from rasteret_assets.source.recipe import recipe_of
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.files import STAGE_OPTIONS
from rasteret_assets.storage.filesystems import list_files
from rasteret_assets.storage.workspace import Workspace

#: Records whose targets are held at once.
SLICE_ROWS = 131_072

_LEFT: Final = f"{BANDS}.left"
_STEP_ROWS: Final = 2048


class WorkspaceCheckpoint:
    """Finished ledger rows of a partition, kept as files until its ledger is written."""

    def __init__(self, workspace: Workspace, key: str) -> None:
        self._workspace = workspace
        self._folder = f"{workspace.stages}/{BANDS}.partial/{key}"
        self._files = [info.path for info in list_files(workspace.fs, self._folder, (".parquet",))]

    def load(self) -> list[KnownRows]:
        """The rows that an interrupted run left."""
        return [KnownFile(files=self._workspace, path=path) for path in self._files]

    def save(self, rows: pa.Table) -> KnownRows:
        """Keep rows, and say where."""
        path = f"{self._folder}/{len(self._files):06d}.parquet"
        self._workspace.write_table(path, rows, **STAGE_OPTIONS)
        self._files.append(path)
        return KnownFile(files=self._workspace, path=path)

    def clear(self) -> None:
        """Forget all rows."""
        for path in self._files:
            self._workspace.remove(path)
        self._files = []


def known_headers(workspace: Workspace, key: str, checkpoint: WorkspaceCheckpoint) -> list[KnownRows]:
    """Ledgers in which a partition may find headers, those that count most first."""
    others = [info.path for info in list_files(workspace.fs, f"{workspace.stages}/{_LEFT}", (".parquet",))]
    return [*checkpoint.load(), *_ledger(workspace, key), *(KnownFile(files=workspace, path=path) for path in others)]


def target_slices(workspace: Workspace, key: str) -> Iterator[tuple[pa.Table, int]]:
    """A partition's normalized records as far as targets are made from them, and how many rows follow each slice."""
    path = workspace.stage_file(NORMALIZED, key)
    left = workspace.count_rows(path)
    held: list[pa.RecordBatch] = []
    for batch in workspace.read_batches(path, TARGET_COLUMNS):
        held.append(batch)
        rows = sum(part.num_rows for part in held)
        if rows >= SLICE_ROWS:
            left -= rows
            yield pa.Table.from_batches(held), left
            held = []
    if held:
        yield pa.Table.from_batches(held), 0


def set_aside_headers(workspace: Workspace, spec: CollectionSpec, key: str) -> None:
    """Keep the headers that a partition is about to lose, for other partitions to find."""
    last = HeaderIndex(_ledger(workspace, key))
    if not len(last):
        return
    unused = np.ones(len(last), bool)
    schema = workspace.read_schema(path := workspace.stage_file(NORMALIZED, key))
    bands = recipe_of(schema, path)[0].bands if schema is not None else ()
    for records, _ in target_slices(workspace, key):
        found = last.find(ledger_targets(records, bands, explicit=spec.names_bands))
        unused[found[found >= 0]] = False
    rows = np.flatnonzero(unused)
    if not len(rows):
        return
    left = f"{workspace.stages}/{_LEFT}/{key}-{uuid.uuid4().hex}.parquet"
    with workspace.writer(left, BAND_METADATA_SCHEMA, **STAGE_OPTIONS) as writer:
        for start in range(0, len(rows), _STEP_ROWS):
            writer.write(last.take(rows[start : start + _STEP_ROWS]))


def sweep_headers(workspace: Workspace) -> None:
    """Take away what was set aside a day ago or earlier."""
    workspace.sweep(_LEFT)


def _ledger(workspace: Workspace, key: str) -> list[KnownRows]:
    path = workspace.stage_file(BANDS, key)
    return [KnownFile(files=workspace, path=path)] if workspace.has(path) else []
