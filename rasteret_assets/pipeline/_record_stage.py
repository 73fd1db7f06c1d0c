"""Run stage 2, normalized records: raw rows under the record contract, in published order; rejected rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa

from rasteret_assets.columns.scalars import normalize_ids
from rasteret_assets.pipeline.stage import (
    HANDED_BYTES,
    REMOVED,
    Build,
    StageResult,
    partitions_at_once,
    side_by_side,
    timed,
)
from rasteret_assets.publish.footer import PublishedFacts
from rasteret_assets.publish.stac import is_stac
from rasteret_assets.records.newest import NewestRows, age_columns
from rasteret_assets.records.normalize import RepeatedIds, check_rejected, normalize_records
from rasteret_assets.records.order import RecordSorter
from rasteret_assets.schema import (
    ID,
    NORMALIZED,
    RAW,
    RECIPE_KEY,
    REJECTED,
)
from rasteret_assets.source.profile import SourceProfile
from rasteret_assets.source.stage_footer import read_stage_footer, with_stage_footer
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.process.batches import BATCH_BYTES, BATCH_ROWS
from rasteret_assets.storage.workspace.files import STAGE_OPTIONS, TableWriter
from rasteret_assets.storage.workspace.streams import StreamTable, stream_writer

_RECORD_COUNTS: Final = ("rejected_records", "duplicate_records", "unreadable_assets", "crs_conflicts")


def make_normalized_records(build: Build, keys: Sequence[str]) -> dict[str, StageResult]:
    """Normalize the raw records of some partitions."""
    return side_by_side(keys, lambda key: _normalize(build, key), partitions_at_once(build, keys), build.failed)


@timed
def _normalize(build: Build, key: str) -> StageResult:
    """Normalize a partition's raw rows into published order, and write rejected rows to a table of their own."""
    workspace = build.workspace
    path, rejected_path = workspace.stage_file(NORMALIZED, key), workspace.stage_file(REJECTED, key)
    with workspace.lock(key):
        if build.is_gone(key):
            workspace.remove(path)
            workspace.remove(rejected_path)
            return StageResult(key=key, rows=0, version=REMOVED)
        raw = build.table(RAW, key)
        profile, version = read_stage_footer(raw.schema, raw.path)
        counts: Counter[str] = Counter()
        facts = PublishedFacts()
        with RecordSorter() as sorter:
            normalized = _sort_records(build, key, raw, profile, sorter, rejected_path, counts, facts)
            handed = _Handed()
            with stream_writer(workspace, path, with_stage_footer(normalized, profile, version)) as stream:
                for piece in sorter.drain():
                    stream.write(piece)
                    handed.add(piece)
                stream.notes = {"facts": facts.to_json()}
        if handed.batches is not None:
            build.hand_on(key, handed.batches)
        return StageResult(
            key=key, rows=stream.rows, version=stream.written.digest,
            counts={name: counts[name] for name in _counted(build.spec)}, path=path, schema=normalized,
            size=stream.written.size,
        )  # fmt: skip


def _sort_records(
    build: Build,
    key: str,
    raw: StreamTable,
    profile: SourceProfile,
    sorter: RecordSorter,
    rejected_path: str,
    counts: Counter[str],
    facts: PublishedFacts,
) -> pa.Schema:
    """Normalize a partition's rows into the sorter, write the rejected rows, and return the schema of the records."""
    workspace, spec = build.workspace, build.spec
    ids = raw.batches([spec.source_column(ID)]) if profile.repeats_ids else ()
    repeats = RepeatedIds(normalize_ids(batch.column(0)) for batch in ids)
    newest = None
    if spec.newest_by is not None and profile.repeats_ids:
        newest = NewestRows(lambda: raw.batches(age_columns(spec)), spec, profile.superseded.get(key, ()))
    metadata = {name: text for name, text in (raw.schema.metadata or {}).items() if name != RECIPE_KEY}
    first_rejected: pa.Table | None = None
    normalized = pa.schema([])
    with ExitStack() as stack:
        rejected: TableWriter | None = None
        for rows in _whole_batches(raw):
            result = normalize_records(rows.replace_schema_metadata(metadata), spec, profile, repeats, newest)
            normalized = result.records.schema
            sorter.add(result.records)
            facts.add(result.records, spec.name if is_stac(normalized) else None)
            if result.rejected.num_rows:
                if rejected is None:
                    first_rejected = result.rejected
                    writer = workspace.writer(rejected_path, first_rejected.schema, durable=False, **STAGE_OPTIONS)
                    rejected = stack.enter_context(writer)
                rejected.write(result.rejected)
            counts["rejected_records"] += result.rejected.num_rows
            counts["duplicate_records"] += result.duplicates
            counts["superseded_records"] += result.superseded
            counts["unreadable_assets"] += result.unreadable_assets
            counts["crs_conflicts"] += result.crs_conflicts
    if first_rejected is None:
        workspace.remove(rejected_path)
    else:
        check_rejected(first_rejected, counts["rejected_records"], raw.rows, spec.max_rejected)
    return normalized


def _counted(spec: CollectionSpec) -> tuple[str, ...]:
    """Return the names of the counts of a partition."""
    return _RECORD_COUNTS if spec.newest_by is None else (*_RECORD_COUNTS, "superseded_records")


@dataclass
class _Handed:
    """Normalized records for the next stage; ``batches`` is None once they exceed ``HANDED_BYTES``."""

    batches: list[pa.RecordBatch] | None = field(default_factory=list)
    bytes: int = 0

    def add(self, piece: pa.Table) -> None:
        self.bytes += piece.nbytes
        if self.batches is not None:
            self.batches = None if self.bytes > HANDED_BYTES else [*self.batches, *piece.to_batches()]


def _whole_batches(raw: StreamTable) -> Iterator[pa.Table]:
    """Yield raw rows in batches of a size that makes normalizing efficient; an empty batch if there are no rows."""
    held: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in raw.batches():
        held.append(batch)
        rows, size = rows + batch.num_rows, size + batch.nbytes
        if rows >= BATCH_ROWS or size >= BATCH_BYTES:
            yield pa.Table.from_batches(held).combine_chunks()
            held, rows, size = [], 0, 0
    if held or not raw.rows:
        yield pa.Table.from_batches(held, raw.schema).combine_chunks()
