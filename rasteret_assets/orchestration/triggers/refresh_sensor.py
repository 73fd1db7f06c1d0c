"""Define the sensor ``<name>_refresh``: it compares source and published partitions, and requests the difference.

https://docs.dagster.io/guides/automate/sensors
"""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Final

import dagster as dg

from rasteret_assets.errors import NotHarvestedError
from rasteret_assets.message_lists import some
from rasteret_assets.orchestration.asset_graph.events import source_observations
from rasteret_assets.orchestration.asset_graph.graph_partitions import partitions_of
from rasteret_assets.orchestration.graph_names import harvest_job_name, identifier, profile_job_name
from rasteret_assets.orchestration.graph_resources import FilesystemResource
from rasteret_assets.orchestration.triggers.jobs import Jobs
from rasteret_assets.orchestration.triggers.reconcile import (
    TOO_MUCH,
    Difference,
    build_requests,
    compare,
    digest,
    is_profiled_now,
    profile_in_tick,
    profile_request,
)
from rasteret_assets.source.stored import stored_profile
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.workspace.state_cache import StateCache

#: Seconds until a partition that its run did not publish is requested again: doubled with each try, up to the second.
_FIRST_WAIT_S: Final = 60
_LONGEST_WAIT_S: Final = 4 * 3600
_MOST_NAMED: Final = 5


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request whose run has not done its work yet: a partition to publish, or a source to profile.

    Args:
        version: digest of the version of the source when the request was made; for a profile, of the last profile.
        tries: number of requests so far.
        due: time of the next request, in seconds since 1970; 0 until a tick has seen that the last run failed.
    """

    version: str
    tries: int
    due: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """The memory of the sensor from tick to tick.

    Args:
        requests: counts the ticks that requested runs, and is part of run keys, because Dagster launches a key once.
        seen: digest of the version last observed, by partition.
        asked: last request of each partition that differs, by partition.
        profiling: last request of a run that profiles the source; None if the stored profile is up to date.
    """

    requests: int = 0
    seen: Mapping[str, str] = field(default_factory=dict)
    asked: Mapping[str, Asked] = field(default_factory=dict)
    profiling: Asked | None = None

    @classmethod
    def from_text(cls, text: str | None) -> "Cursor":
        """Return the cursor that Dagster kept; an empty cursor at the first tick."""
        document = json.loads(text) if text else {}
        asked = {key: Asked(**values) for key, values in document.get("asked", {}).items()}
        # Version 0.1.0 wrote `generation`, which counted something else.
        requests = document.get("requests", document.get("generation", 0))
        # Earlier versions wrote `look`.
        last = document.get("profiling", document.get("look"))
        profiling = Asked(**last) if last else None
        return cls(requests=requests, seen=document.get("seen", {}), asked=asked, profiling=profiling)

    def to_text(self) -> str:
        """Return the cursor as the text that Dagster keeps."""
        return json.dumps(asdict(self), sort_keys=True)


def refresh_sensor(spec: CollectionSpec, jobs: Jobs) -> dg.SensorDefinition:
    """Return a sensor that requests runs for partitions that changed, are new or have vanished.

    If too much of the source changed to read in a tick, the sensor first requests a run that profiles the source.

    Args:
        spec: of the collection.
        jobs: of the collection.
    """
    partitions, states = partitions_of(spec), StateCache()

    @dg.sensor(
        name=f"{identifier(spec.name)}_refresh",
        jobs=[jobs.build, jobs.profile],
        minimum_interval_seconds=spec.graph.refresh_seconds,
        default_status=sensor_status(spec),
        description=(
            f"Builds the partitions of {spec.name} that changed in the record table, and unpublishes those that are "
            "gone from it. Unchanged partitions are left alone; a partition that failed is tried again after 1, 2, "
            "4 ... minutes, at last every 4 hours."
        ),
    )
    def refresh(context: dg.SensorEvaluationContext, rasteret_filesystem: FilesystemResource) -> dg.SensorResult:
        cursor, workspace = Cursor.from_text(context.cursor), rasteret_filesystem.open_workspace(spec)
        try:
            profile = profile_in_tick(rasteret_filesystem, spec, workspace)
        except NotHarvestedError as error:
            return dg.SensorResult(skip_reason=f"{error}; or launch the job {harvest_job_name(spec)}")
        if profile is None:
            stored = stored_profile(workspace)
            return _profile(spec, cursor, stored.fingerprint if stored else "", is_profiled_now(context.instance, spec))
        found = compare(context.instance, spec, workspace, profile, states)
        cursor, changed = _advance(replace(cursor, profiling=None), found.want, found.have)
        cursor, due = _ask(cursor, found, time.time())
        # Each in a run of its own, because a partition that failed before may have made the whole run fail.
        alone = {key for key in due if cursor.asked[key].tries > 1}
        requests = build_requests(spec, found, due, alone, str(cursor.requests))
        return dg.SensorResult(
            run_requests=requests or None,
            skip_reason=None if requests else _skip_reason(found, cursor),
            cursor=cursor.to_text(),
            dynamic_partitions_requests=[partitions.build_add_request(list(found.new))] if found.new else [],
            asset_events=source_observations(context.instance, spec, {key: found.want[key] for key in changed}),
        )

    return refresh


def sensor_status(spec: CollectionSpec) -> dg.DefaultSensorStatus:
    """Return the status of sensors that nobody has started or stopped: running with ``autostart``."""
    return dg.DefaultSensorStatus.RUNNING if spec.graph.autostart else dg.DefaultSensorStatus.STOPPED


def _advance(cursor: Cursor, want: Mapping[str, str], have: Mapping[str, str]) -> tuple[Cursor, list[str]]:
    """Return the next cursor, and the partitions whose version is new and not published."""
    digests = {key: digest(version) for key, version in want.items()}
    earlier = {**{key: digest(version) for key, version in have.items()}, **cursor.seen}
    changed = sorted(key for key, version in digests.items() if earlier.get(key) != version)
    return replace(cursor, seen=digests), changed


def _ask(cursor: Cursor, found: Difference, now: float) -> tuple[Cursor, list[str]]:
    """Return the next cursor, and the partitions to request now.

    A partition that differs and that no run builds is requested at once if its source has another version than at the
    last request. If the version is the same, the last run did not publish the partition, and it waits, longer after
    each try.
    """
    # Busy partitions and those that wait for others keep their last request, because its outcome is not known yet.
    asked = {key: cursor.asked[key] for key in found.differing if key in cursor.asked}
    due = []
    for key in found.stale:
        asked[key], is_due = _ask_again(asked.get(key), digest(f"{found.want.get(key)}"), now)
        if is_due:
            due.append(key)
    return replace(cursor, requests=cursor.requests + bool(due), asked=asked), due


def _ask_again(before: Asked | None, version: str, now: float) -> tuple[Asked, bool]:
    """Return the request after this tick, and whether to make it now; no unfinished run does its work."""
    if before is None or before.version != version:
        return Asked(version=version, tries=1), True
    if not before.due:
        wait = min(_FIRST_WAIT_S * 2 ** (before.tries - 1), _LONGEST_WAIT_S)
        return replace(before, due=now + wait), False
    if before.due <= now:
        return Asked(version=version, tries=before.tries + 1), True
    return before, False


def _profile(spec: CollectionSpec, cursor: Cursor, profiled: str, is_running: bool) -> dg.SensorResult:
    """Return the result of a tick in which too much changed to read: it requests one run that profiles the source."""
    if is_running:
        reason = f"{TOO_MUCH}: a run is profiling it, and partitions are compared when it has ended"
        return dg.SensorResult(skip_reason=reason, cursor=cursor.to_text())
    profiling, is_due = _ask_again(cursor.profiling, digest(profiled), time.time())
    if is_due:
        cursor = replace(cursor, requests=cursor.requests + 1, profiling=profiling)
        request = profile_request(spec, digest(f"look {profiled}#{cursor.requests}"))
        return dg.SensorResult(run_requests=[request], cursor=cursor.to_text())
    cursor = replace(cursor, profiling=profiling)
    reason = f"the run of {profile_job_name(spec)} failed, and waits for its next try (tries so far: {profiling.tries})"
    return dg.SensorResult(skip_reason=reason, cursor=cursor.to_text())


def _skip_reason(found: Difference, cursor: Cursor) -> str:
    if found.stale:
        waiting = some([f"{key} (tries so far: {cursor.asked[key].tries})" for key in found.stale], _MOST_NAMED)
        return f"partitions whose runs failed wait for their next try: {waiting}"
    if found.busy:
        return f"{len(found.busy)} partitions are being built; no other partition differs from the source"
    return f"all {len(found.want)} partitions of the source are published as they are"
