"""Run stage 4, the collection: publish partitions, and unpublish partitions that are gone from the source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pyarrow as pa

from rasteret_assets.columns.conform import conform_rows
from rasteret_assets.errors import CollectionError
from rasteret_assets.headers.band_metadata import count_failures
from rasteret_assets.headers.compact import compact
from rasteret_assets.headers.retried import count_until
from rasteret_assets.pipeline.stage import (
    REMOVED,
    Build,
    StageResult,
    partitions_at_once,
    side_by_side,
    timed,
)
from rasteret_assets.publish.footer import PublishedFacts
from rasteret_assets.publish.parameters import KEPT, TAKEN
from rasteret_assets.publish.partition import publish_partition
from rasteret_assets.schema import (
    BAND_METADATA_SCHEMA,
    BANDS,
    COLLECTION,
    NORMALIZED,
    PARSER_VERSION,
    RETRY_UNTIL,
)
from rasteret_assets.source.profile import SourceProfile
from rasteret_assets.source.stage_footer import read_stage_footer
from rasteret_assets.storage.process.batches import BATCH_ROWS
from rasteret_assets.storage.workspace import Workspace
from rasteret_assets.storage.workspace.commit import FileFacts, commit, remove_outdated, unpublish
from rasteret_assets.storage.workspace.streams import StreamTable


def make_collection(build: Build, keys: Sequence[str]) -> dict[str, StageResult]:
    """Publish partitions, then unpublish those that are gone, so that a record that moved is never missing."""
    there = [key for key in keys if not build.is_gone(key)]
    gone = [key for key in keys if build.is_gone(key)]
    at_once = partitions_at_once(build, keys)
    results: dict[str, StageResult] = {}
    for group in (there, gone):
        results |= side_by_side(group, lambda key: _publish(build, key), at_once, build.failed)
    return results


@timed
def _publish(build: Build, key: str) -> StageResult:
    """Replace the published file of a partition, or remove it if the partition is gone; write the state last."""
    workspace, spec = build.workspace, build.spec
    with workspace.lock(key):
        if build.is_gone(key):
            unpublish(workspace, key)
            return StageResult(key=key, rows=0, version=REMOVED)
        records = build.table(NORMALIZED, key)
        profile, source_version, lacking = _joined_ledger(workspace, key, records)
        published = publish_partition(
            workspace, spec, key, profile.bands, records=build.records(key, table=records),
            schema=records.schema.remove_metadata(), facts=PublishedFacts.from_json(records.notes["facts"]),
        )  # fmt: skip
        build.let_go(key)
        facts, written = published.facts, published.written
        built_from = {
            "source_version": source_version,
            "spec_hash": spec.content_hash,
            "parser_version": PARSER_VERSION,
            "bands": list(profile.bands),
            **lacking,
            "bbox": facts.bbox,
            "interval": facts.interval,
            "collections": sorted(facts.collections),
        }
        commit(workspace, key, FileFacts.of(facts.rows, written), built_from)
        remove_outdated(workspace, key)
        compact(workspace, key)
    counts: dict[str, int | float | str] = {
        "crs_corrected_by_header": published.findings.corrected,
        "crs_conflicting_bands": published.findings.conflicting,
    }
    for name, names in ((KEPT, published.findings.kept), (TAKEN, published.findings.taken)):
        if names:
            counts[name] = "\n".join(sorted(names))
    return StageResult(
        key=key, rows=facts.rows, version=written.digest, counts=counts, path=workspace.published_file(key),
        schema=published.schema, size=written.size,
    )  # fmt: skip


def _joined_ledger(
    workspace: Workspace, key: str, records: StreamTable
) -> tuple[SourceProfile, str, dict[str, dict[str, int]]]:
    """Return the profile and version of a partition's records, and counts of its missing headers for its state.

    Headers are counted by error class; headers of missing files also by the time when builds stop asking for them.

    Raises:
        CollectionError: if the ledger does not exist, or was made from other records.
    """
    ledger = workspace.stage_file(BANDS, key)
    profile, version = read_stage_footer(records.schema, records.path)
    lacking: Counter[str] = Counter()
    until: Counter[str] = Counter()
    schema = pa.schema([BAND_METADATA_SCHEMA.field(name) for name in ("status", "error_class", RETRY_UNTIL)])
    with workspace.open_table(ledger) as file:
        if file is None:
            raise CollectionError(f"{ledger} is missing: build {BANDS} of {key}")
        if read_stage_footer(file.schema_arrow, ledger)[1] != version:
            raise CollectionError(
                f"{BANDS} of {key} was made for other records than {NORMALIZED} holds now (another run may be building "
                f"the partition): build {BANDS} again, then {COLLECTION}"
            )
        for batch in file.iter_batches(BATCH_ROWS, columns=schema.names):
            rows = conform_rows(batch, schema)
            lacking.update(count_failures(pa.Table.from_batches([rows])))
            until.update(count_until(rows))
    return profile, version, {"failures": dict(sorted(lacking.items())), RETRY_UNTIL: dict(sorted(until.items()))}
