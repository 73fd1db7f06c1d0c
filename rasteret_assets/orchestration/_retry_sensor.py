"""The sensor that tries transient header failures again: throttled, timed out, unavailable, refused, lately missing.

The source of such a partition is unchanged, so the refresh sensor leaves it alone; without this one, what failed for a
moment would be missing until the partition changes.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

import dagster as dg

from rasteret_assets.headers.retried import count_retried
from rasteret_assets.orchestration.graph_names import build_job_name, identifier, stage_key
from rasteret_assets.orchestration.graph_partitions import partitions_name
from rasteret_assets.orchestration.graph_resources import FilesystemResource
from rasteret_assets.orchestration.jobs import COLLECTION_TAG, REASON_TAG
from rasteret_assets.orchestration.reconcile import busy_partitions
from rasteret_assets.orchestration.refresh_sensor import sensor_status
from rasteret_assets.schema import BANDS, COLLECTION
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.workspace.state_cache import StateCache

_INTERVAL_S: Final = 600
_FIRST_S: Final = 3600
_LAST_S: Final = 24 * 3600


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What was done so far about the transient failures of a partition.

    Args:
        failed: how many headers were missing when it was last tried.
        tries: how often it was tried with that many missing.
        due: when it is tried next, in seconds since 1970.
    """

    failed: int
    tries: int
    due: float


def retry_sensor(spec: CollectionSpec) -> dg.SensorDefinition:
    """Return a sensor that fetches headers again that failed for a passing reason, at ever longer intervals."""
    states = StateCache()

    @dg.sensor(
        name=f"{identifier(spec.name)}_retry",
        job_name=build_job_name(spec),
        minimum_interval_seconds=_INTERVAL_S,
        default_status=sensor_status(spec),
        description=(
            f"Tries headers of {spec.name} again that failed for a reason that may pass (throttled, timed out, "
            f"refused, unavailable, or for {spec.retry_missing_for:g} days missing): after an hour, then after two, "
            "four, at last once a day. Headers that are there, and files that are gone for good, are left alone."
        ),
    )
    def retry(context: dg.SensorEvaluationContext, rasteret_filesystem: FilesystemResource) -> dg.SensorResult:
        workspace = rasteret_filesystem.open_workspace(spec)
        now = time.time()
        missing = _transient(states.read(workspace), now)
        known = {key: Attempt(**value) for key, value in json.loads(context.cursor or "{}").items()}
        registered = set(context.instance.get_dynamic_partitions(partitions_name(spec)))
        blocked = busy_partitions(context.instance, spec) | (missing.keys() - registered)
        plan = {key: _next(known.get(key), failed, now) for key, failed in sorted(missing.items())}
        due = [key for key, (_, is_due) in plan.items() if is_due and key not in blocked]
        attempts = {key: known[key] if is_due and key not in due else made for key, (made, is_due) in plan.items()}
        requests = [
            dg.RunRequest(
                run_key=f"{key}#{plan[key][0].failed}#{plan[key][0].tries}#{int(now)}",
                partition_key=key,
                asset_selection=[stage_key(spec, BANDS), stage_key(spec, COLLECTION)],
                tags={COLLECTION_TAG: spec.name, REASON_TAG: "retry"},
            )
            for key in due
        ]
        waiting = f"{sum(missing.values())} headers of {len(missing)} partitions wait for their next try"
        return dg.SensorResult(
            run_requests=requests or None,
            skip_reason=None if requests else waiting if missing else "no header failed for a reason that may pass",
            cursor=json.dumps({key: asdict(attempt) for key, attempt in attempts.items()}, sort_keys=True),
        )

    return retry


def _transient(states: Mapping[str, Mapping[str, Any]], now: float) -> dict[str, int]:
    """Return how many headers another try may bring, by published partition."""
    at = datetime.fromtimestamp(now, UTC)
    missing = {key: count_retried(state, at) for key, state in states.items()}
    return {key: count for key, count in missing.items() if count}


def _next(known: Attempt | None, failed: int, now: float) -> tuple[Attempt, bool]:
    """Return the state after this tick, and whether the partition is due now.

    A partition that is seen for the first time has just been built: it waits an hour. One of which fewer are missing
    than before gets on, and is tried soon again.
    """
    if known is None or known.failed != failed:
        return Attempt(failed=failed, tries=0, due=now + _FIRST_S), False
    if now < known.due:
        return known, False
    wait = min(_FIRST_S * 2 ** (known.tries + 1), _LAST_S)
    return Attempt(failed=failed, tries=known.tries + 1, due=now + wait), True
