"""The sensor of a collection: it compares what the source has with what is published, and requests the difference.

It is level-triggered: at every tick the source's version of each partition is held against the version in the
collection's own state files. Nothing depends on having seen a change happen, so no change can be missed, and what was
built by other means (the library, the UI) is not built again.

https://docs.dagster.io/guides/automate/sensors
"""

import hashlib
import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import dagster as dg

from rasteret_assets.orchestration.partitions import (
    PARTITIONS_PER_RUN,
    contiguous,
    identifier,
    partitions_name,
    partitions_of,
    selected_keys,
    selection_tags,
)
from rasteret_assets.orchestration.resources import FilesystemResource
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.stages.look import load_profile

_INTERVAL_S: Final = 30
#: A partition whose run failed is requested again after this time, or as soon as anything in the source changes.
_RETRY_S: Final = 3600

_UNFINISHED: Final = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
_FAILED_LATELY: Final = timedelta(days=1)


@dataclass(frozen=True)
class Cursor:
    """What the sensor remembers from tick to tick.

    Args:
        generation: counts the ticks that saw a change, so that a version that comes back gets a run key of its own.
        seen: digest of the version last observed, by partition.
    """

    generation: int
    seen: dict[str, str]

    @classmethod
    def from_text(cls, text: str | None) -> "Cursor":
        """The cursor Dagster kept; a fresh one at the first tick."""
        return cls(**json.loads(text)) if text else cls(0, {})

    def to_text(self) -> str:
        """The cursor as Dagster keeps it."""
        return json.dumps({"generation": self.generation, "seen": self.seen}, sort_keys=True)


def refresh_sensor(
    spec: CollectionSpec,
    job_name: str,
    stage_keys: Sequence[dg.AssetKey],
    source_key: dg.AssetKey,
) -> dg.SensorDefinition:
    """A sensor that requests runs of a job for partitions that changed, are new or have vanished.

    Args:
        spec: of the collection.
        job_name: job that builds the partitions of a run.
        stage_keys: assets whose unfinished runs make a partition busy.
        source_key: asset on which new versions are observed.
    """
    partitions = partitions_of(spec)

    @dg.sensor(
        name=f"{identifier(spec.name)}_refresh",
        job_name=job_name,
        minimum_interval_seconds=_INTERVAL_S,
        description=(
            f"Builds the partitions of {spec.name} whose source changed, and unpublishes those that are gone from it. "
            "Unchanged partitions are left alone."
        ),
    )
    def refresh(context: dg.SensorEvaluationContext, filesystem: FilesystemResource) -> dg.SensorResult:
        workspace = filesystem.open_workspace(spec)
        profile = load_profile(workspace, filesystem.open_source(spec), spec)
        registered = list(context.instance.get_dynamic_partitions(partitions_name(spec)))

        def keys_of_runs(runs: dg.RunsFilter) -> set[str]:
            ours = [run for run in context.instance.get_runs(runs) if _builds(run, job_name, stage_keys)]
            return {key for run in ours for key in selected_keys(run, registered)}

        # Before the states: a run that ends in between is taken for busy once, not for one that left its work undone.
        busy = keys_of_runs(dg.RunsFilter(statuses=_UNFINISHED))
        want = {key: profile.version(key, spec) for key in profile.partitions}
        have = {key: str(state["source_version"]) for key, state in workspace.states().items()}
        new = sorted({*want, *have} - set(registered))
        order = [*registered, *new]
        cursor, changed = _advance(Cursor.from_text(context.cursor), want, have)

        requests = []
        if stale := [key for key in order if want.get(key) != have.get(key) and key not in busy]:
            since = datetime.now(UTC) - _FAILED_LATELY
            failed = keys_of_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], updated_after=since))
            requests = [_request(group, want, cursor.generation) for group in _groups(order, stale, failed)]
        return dg.SensorResult(
            run_requests=requests or None,
            skip_reason=None if requests else _skip_reason(want, busy),
            cursor=cursor.to_text(),
            dynamic_partitions_requests=[partitions.build_add_request(new)] if new else [],
            asset_events=[
                dg.AssetObservation(source_key, partition=key, tags={"dagster/data_version": want[key]})
                for key in changed
            ],
        )

    return refresh


def _advance(cursor: Cursor, want: Mapping[str, str], have: Mapping[str, str]) -> tuple[Cursor, list[str]]:
    """The next cursor, and the partitions whose version is to be observed: once, and not where it is published."""
    digests = {key: _digest(version) for key, version in want.items()}
    known = {key: _digest(version) for key, version in have.items()} | cursor.seen
    changed = sorted(key for key, digest in digests.items() if known.get(key) != digest)
    moved = bool(changed) or bool(cursor.seen.keys() - digests.keys())
    return Cursor(cursor.generation + moved, digests), changed


def _builds(run: dg.DagsterRun, job_name: str, stage_keys: Collection[dg.AssetKey]) -> bool:
    """Whether a run builds partitions of this collection, by its job or asset by asset."""
    return run.job_name == job_name or any(key in stage_keys for key in run.asset_selection or ())


def _groups(order: Sequence[str], stale: Sequence[str], failed: Collection[str]) -> list[list[str]]:
    """Stale partitions by run: in ranges, but alone where a run failed lately, so that one bad month stops no other."""
    together = contiguous(order, [key for key in stale if key not in failed], PARTITIONS_PER_RUN)
    alone = [[key] for key in stale if key in failed]
    return sorted([*together, *alone], key=lambda group: order.index(group[0]))


def _request(group: Sequence[str], want: Mapping[str, str], generation: int) -> dg.RunRequest:
    """A run for a group. Dagster launches a run key once: it names versions, generation and the hour of a retry."""
    versions = "|".join(f"{key}@{want.get(key)}" for key in group)
    run_key = _digest(f"{versions}#{generation}#{int(time.time() // _RETRY_S)}")
    if len(group) == 1:
        return dg.RunRequest(run_key=run_key, partition_key=group[0])
    return dg.RunRequest(run_key=run_key, tags=selection_tags(group))


def _skip_reason(want: Mapping[str, str], busy: set[str]) -> str:
    if busy:
        return f"{len(busy)} partitions are being built; no other differs from the source"
    return f"all {len(want)} partitions of the source are published as they are"


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
