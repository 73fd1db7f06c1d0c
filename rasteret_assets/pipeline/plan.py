"""Plan a build before it runs: which partitions it would build and why, and how many headers it would fetch.

A plan reads the source and the ledgers, as a build does, but writes nothing except the profile of the source, and asks
no host for a header.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rasteret_assets.errors import DamagedFileError, SpecError
from rasteret_assets.headers.earlier import earlier_keys
from rasteret_assets.headers.index import HeaderIndex
from rasteret_assets.headers.places import Places
from rasteret_assets.headers.retried import count_retried
from rasteret_assets.headers.store import HeaderStore
from rasteret_assets.headers.targets import ledger_targets
from rasteret_assets.message_lists import count_of
from rasteret_assets.records.newest import NewestRows, age_columns
from rasteret_assets.records.normalize import normalize_records
from rasteret_assets.schema import BAND_INDEX, ID, IDENTITY, IDENTITY_TYPE
from rasteret_assets.source.open import Source
from rasteret_assets.source.partition_rows import parts_of, scan_parts
from rasteret_assets.source.profile import SourceProfile
from rasteret_assets.source.stored import load_profile
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.workspace import Workspace
from rasteret_assets.storage.workspace.commit import LOST, NEXT, verified_states

_log = logging.getLogger(__name__)

NEW: Final = "new"
CHANGED: Final = "source changed"
RECIPE: Final = "columns, spec, bands or parser changed"
INTERRUPTED: Final = "interrupted build"
LOST_FILE: Final = "published file missing or damaged"
RETRY: Final = "headers to try again"
FORCED: Final = "forced"
REVALIDATED: Final = "revalidated"
GONE: Final = "gone from the source"

_MOST_NAMED: Final = 24
_KEYS: Final = pa.schema([(IDENTITY, IDENTITY_TYPE), (BAND_INDEX, pa.int32())])

#: Rows of :meth:`BuildPlan.to_table`.
PLAN_SCHEMA: Final = pa.schema(
    [
        ("partition", pa.string()),
        ("reason", pa.string()),
        ("records", pa.int64()),
        ("headers_to_fetch", pa.int64()),
        ("headers_reused", pa.int64()),
        ("records_rejected", pa.int64()),
        ("records_removed", pa.int64()),
    ]
)


@dataclass(kw_only=True)
class PartitionPlan:
    """The plan of one partition.

    Args:
        reason: why the partition would be built.
        records: number of rows of the source.
        headers_to_fetch: number of files whose header would be fetched.
        headers_reused: number of headers that would be taken from the header store.
        records_rejected: number of rows that break the record contract.
        records_removed: number of published records, if the partition would be unpublished.
    """

    reason: str
    records: int = 0
    headers_to_fetch: int = 0
    headers_reused: int = 0
    records_rejected: int = 0
    records_removed: int = 0


@dataclass(frozen=True, kw_only=True)
class BuildPlan:
    """The plan of a build.

    Args:
        partitions: plans of the partitions that the build would touch, by key.
        current: keys of the partitions that the build would leave alone.
    """

    partitions: dict[str, PartitionPlan] = field(default_factory=dict)
    current: tuple[str, ...] = ()

    @property
    def totals(self) -> dict[str, int]:
        """Return the sums over all partitions, by column."""
        names = [name for name in PLAN_SCHEMA.names if name not in ("partition", "reason")]
        return {name: sum(getattr(plan, name) for plan in self.partitions.values()) for name in names}

    def to_table(self) -> pa.Table:
        """Return the plan as a table of :data:`PLAN_SCHEMA`, a row for each partition."""
        rows = [{"partition": key, **vars(plan)} for key, plan in self.partitions.items()]
        return pa.Table.from_pylist(rows, PLAN_SCHEMA)

    def __str__(self) -> str:
        """Return the plan as text: a line for each partition, and one for all."""
        lines = [f"{key}: {_sentence(plan)}" for key, plan in self.partitions.items()]
        totals = self.totals
        whole = (
            f"{count_of(len(lines), 'partition')} to build, {len(self.current)} current; "
            f"{count_of(totals['headers_to_fetch'], 'header')} to fetch, {totals['headers_reused']} reused, "
            f"{count_of(totals['records_rejected'], 'record')} rejected"
        )
        return "\n".join([*lines, whole])


def _sentence(plan: PartitionPlan) -> str:
    if plan.reason == GONE:
        return f"{plan.reason}, {count_of(plan.records_removed, 'record')} to unpublish"
    rejected = f", {plan.records_rejected} rejected" if plan.records_rejected else ""
    return (
        f"{plan.reason}, {count_of(plan.records, 'record')}{rejected}, "
        f"{count_of(plan.headers_to_fetch, 'header')} to fetch, "
        f"{plan.headers_reused} reused"
    )


def stale_partitions(
    states: Mapping[str, Mapping[str, Any]],
    profile: SourceProfile,
    spec: CollectionSpec,
    *,
    force: bool = False,
    revalidate: bool = False,
    only: Collection[str] | None = None,
) -> dict[str, str]:
    """Return the partitions that a build has to touch, in order, with the reason of each.

    Args:
        states: of the published partitions, by key, from
            :func:`~rasteret_assets.storage.workspace.commit.verified_states`.
        profile: of the source.
        spec: of the collection.
        force: whether every partition is stale.
        revalidate: whether every partition is stale, because all headers are to be asked about.
        only: partitions to return, if they are stale; all when omitted.
    """
    reasons: dict[str, str] = {}
    for key in sorted({*profile.partitions, *states}):
        if only is not None and key not in only:
            continue
        reason = _reason(states.get(key), key, profile, spec)
        if reason is None or reason == RETRY:
            reason = FORCED if force else REVALIDATED if revalidate else reason
        if reason is not None:
            reasons[key] = reason
    return reasons


def refuse_unknown(asked: Collection[str] | None, profile: SourceProfile, states: Collection[str]) -> None:
    """Refuse partitions that neither the source nor the collection has.

    Raises:
        SpecError: naming these partitions, and the existing ones.
    """
    there = sorted({*profile.partitions, *states})
    if unknown := sorted({*(asked or ())}.difference(there)):
        few = ", ".join(there) if len(there) <= _MOST_NAMED else f"{len(there)}, from {there[0]} to {there[-1]}"
        raise SpecError(f"the source has no partition {', '.join(unknown)}; it has {few or 'none'}")


def _reason(state: Mapping[str, Any] | None, key: str, profile: SourceProfile, spec: CollectionSpec) -> str | None:
    if key not in profile.partitions:
        return GONE
    if state is None:
        return NEW
    if LOST in state:
        return LOST_FILE
    if NEXT in state:
        return INTERRUPTED
    built, wanted = state["source_version"], profile.version(key, spec)
    if built != wanted:
        return CHANGED if built.partition("-")[0] != wanted.partition("-")[0] else RECIPE
    return RETRY if count_retried(state) else None


def plan_build(
    workspace: Workspace,
    source: Source,
    spec: CollectionSpec,
    *,
    force: bool = False,
    revalidate: bool = False,
    only: Collection[str] | None = None,
) -> BuildPlan:
    """Return the plan of a build of the collection as it is now.

    Args:
        workspace: of the collection.
        source: opened record table.
        spec: of the collection.
        force: as for the build.
        revalidate: as for the build; headers that a build would only ask about count as reused.
        only: partitions to plan; all when omitted.

    Raises:
        SpecError: if neither the source nor the collection has one of ``only``.
    """
    profile = load_profile(workspace, source, spec)
    states = verified_states(workspace)
    refuse_unknown(only, profile, states)
    reasons = stale_partitions(states, profile, spec, force=force, revalidate=revalidate, only=only)
    plans = {key: PartitionPlan(reason=reason) for key, reason in reasons.items()}
    current = sorted({*profile.partitions}.difference(plans) if only is None else set(only).difference(plans))
    for key, plan in plans.items():
        if plan.reason == GONE:
            plan.records_removed = int(states[key].get("rows", 0))
    build = {key for key, plan in plans.items() if plan.reason != GONE}
    newest = _newest(source, spec, profile, build)
    forecasts = {key: _Forecast(workspace, spec, profile, key, newest, force=force) for key in build}
    metadata = source.schema.metadata
    for _, key, rows in scan_parts(source, spec, profile, parts_of(source, profile, build)):
        forecasts[key].add(rows, metadata)
    indexes = {key: forecast.stored for key, forecast in forecasts.items()}
    if not force:
        indexes |= {key: _stored_headers(workspace, key) for key in plans.keys() - build}
    indexes = {key: index for key, index in indexes.items() if len(index)}
    for key, forecast in forecasts.items():
        forecast.report(plans[key], [index for other, index in indexes.items() if other != key])
    return BuildPlan(partitions=plans, current=tuple(current))


def _newest(source: Source, spec: CollectionSpec, profile: SourceProfile, keys: Collection[str]) -> NewestRows | None:
    """Return the newest row of each id in files of some partitions; None if ``overlap`` supersedes no rows."""
    if spec.newest_by is None or not profile.repeats_ids:
        return None
    held = parts_of(source, profile, keys)
    parts = [part for part in source.parts if part.version in held]
    moved = {name for key in keys for name in profile.superseded.get(key, ())}
    others = [part for part in source.parts if part.version not in held] if moved else []
    columns = age_columns(spec)
    return NewestRows(
        lambda: (batch for part in [*parts, *others] for batch in source.batches(part, columns)), spec
    )  # fmt: skip


class _Forecast:
    """Count what the stages would make of one partition's rows, batch by batch."""

    def __init__(
        self, workspace: Workspace, spec: CollectionSpec, profile: SourceProfile, key: str, newest: NewestRows | None,
        *, force: bool,
    ) -> None:  # fmt: skip
        self.spec = spec
        self.profile = profile
        self.newest = newest
        self.stored = HeaderIndex() if force else _stored_headers(workspace, key)
        self.records = self.rejected = self.reused = 0
        self.unknown: list[pa.Table] = []
        self.ids: set[str] = set()

    def add(self, rows: pa.RecordBatch, metadata: Mapping[bytes, bytes] | None) -> None:
        table = pa.Table.from_batches([rows]).replace_schema_metadata(metadata)
        result = normalize_records(table, self.spec, self.profile, newest=self.newest)
        self.records += rows.num_rows
        self.rejected += result.rejected.num_rows
        fresh = self._unseen(result.records)
        targets = ledger_targets(
            fresh, self.profile.bands, explicit=self.spec.names_bands,
            places=Places.of(self.spec, remote=self.profile.remote),
        )  # fmt: skip
        sound = targets.filter(pa.array(np.asarray(targets["error_class"].is_null(), bool)))
        found = self.stored.find(sound).files >= 0
        self.reused += int(found.sum())
        self.unknown.append(sound.filter(pa.array(~found)).select([IDENTITY, BAND_INDEX]))

    def report(self, plan: PartitionPlan, others: Iterable[HeaderIndex]) -> None:
        """Fill in a plan; headers of ``others`` count as reused, because a record may have moved between partitions."""
        unknown = pa.concat_tables([_KEYS.empty_table(), *self.unknown]).combine_chunks()
        for index in others if unknown.num_rows else ():
            found = index.find(unknown).files >= 0
            self.reused += int(found.sum())
            unknown = unknown.filter(pa.array(~found))
        plan.records, plan.records_rejected, plan.headers_reused = self.records, self.rejected, self.reused
        plan.headers_to_fetch = len(_halves(unknown[IDENTITY].combine_chunks()))

    def _unseen(self, records: pa.Table) -> pa.Table:
        """Return records whose id no earlier batch had, because repetitions are equal and published once."""
        if not self.profile.repeats_ids:
            return records
        fresh = [record_id not in self.ids for record_id in records[ID].to_pylist()]
        self.ids.update(records[ID].to_pylist())
        return records if all(fresh) else records.filter(pa.array(fresh))


def _stored_headers(workspace: Workspace, key: str) -> HeaderIndex:
    """Return the index of headers that a build would reuse; an empty one if a file of headers is damaged."""
    try:
        index = HeaderIndex.of(HeaderStore(workspace, key))
        for rows in earlier_keys(workspace, key):
            index.add([("", 0, rows)])
    except DamagedFileError as error:
        _log.warning("%s: damaged; a build reads its headers again", error.path)
        return HeaderIndex()
    return index


def _halves(identities: pa.Array) -> npt.NDArray[np.uint64]:
    """Return the unique first halves of the files' 128-bit identities, which suffice to count files."""
    content = np.frombuffer(identities.buffers()[1] or b"", np.uint64)
    return np.unique(content[2 * identities.offset :][: 2 * len(identities) : 2])
