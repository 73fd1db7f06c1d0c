"""Define the sensor ``<name>_retry``, which tries transient header failures again.

Transient are failures by throttling, timeouts, unavailable hosts and refused credentials, and files that went missing
lately. The source of such a partition is unchanged, so that the refresh sensor leaves it alone: without this sensor its
headers would be missing until the source changes.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

import dagster as dg

from rasteret_assets.headers.retried import count_retried
from rasteret_assets.orchestration.asset_graph.graph_partitions import partitions_name
from rasteret_assets.orchestration.graph_names import build_job_name, identifier, stage_key
from rasteret_assets.orchestration.graph_resources import FilesystemResource
from rasteret_assets.orchestration.triggers.jobs import COLLECTION_TAG, REASON_TAG
from rasteret_assets.orchestration.triggers.reconcile import busy_partitions
from rasteret_assets.orchestration.triggers.refresh_sensor import sensor_status
from rasteret_assets.schema import BANDS, COLLECTION
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.workspace.state_cache import StateCache

_INTERVAL_S: Final = 600
_FIRST_S: Final = 3600
_LAST_S: Final = 24 * 3600


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """The tries of the transient failures of a partition so far.

    Args:
        failed: number of headers that were missing after the last try.
        tries: number of tries with ``failed`` headers missing.
        due: time of the next try, in seconds since 1970.
    """

    failed: int
    tries: int
    due: float


def retry_sensor(spec: CollectionSpec) -> dg.SensorDefinition:
    """Return a sensor that fetches transiently failed headers again, at ever longer intervals."""
    states = StateCache()

    @dg.sensor(
        name=f"{identifier(spec.name)}_retry",
        job_name=build_job_name(spec),
        minimum_interval_seconds=_INTERVAL_S,
        default_status=sensor_status(spec),
        description=(
            f"Tries headers of {spec.name} again that failed for a reason that may pass (throttled, timed out, "
            f"refused, unavailable, or a file missing for less than {spec.retry_missing_for:g} days): after 1, 2, 4 "
            "... hours, at last once a day. Headers that were read, and files missing for longer, are left alone."
        ),
    )
    def retry(context: dg.SensorEvaluationContext, rasteret_filesystem: FilesystemResource) -> dg.SensorResult:
        workspace = rasteret_filesystem.open_workspace(spec)
        now = time.time()
        missing = _transient(states.read(workspace), now)
        earlier = {key: Attempt(**value) for key, value in json.loads(context.cursor or "{}").items()}
        registered = set(context.instance.get_dynamic_partitions(partitions_name(spec)))
        blocked = busy_partitions(context.instance, spec) | (missing.keys() - registered)
        plan = {key: _next(earlier.get(key), failed, now) for key, failed in sorted(missing.items())}
        due = [key for key, (_, is_due) in plan.items() if is_due and key not in blocked]
        attempts = {key: earlier[key] if is_due and key not in due else made for key, (made, is_due) in plan.items()}
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
    """Return for each published partition the number of headers that another try may bring."""
    at = datetime.fromtimestamp(now, UTC)
    missing = {key: count_retried(state, at) for key, state in states.items()}
    return {key: count for key, count in missing.items() if count}


def _next(earlier: Attempt | None, failed: int, now: float) -> tuple[Attempt, bool]:
    """Return the tries of a partition after this tick, and whether it is due now.

    A partition that the sensor sees for the first time was just built, and waits an hour. So does a partition whose
    number of missing headers changed, because its last try brought some.
    """
    if earlier is None or earlier.failed != failed:
        return Attempt(failed=failed, tries=0, due=now + _FIRST_S), False
    if now < earlier.due:
        return earlier, False
    wait = min(_FIRST_S * 2 ** (earlier.tries + 1), _LAST_S)
    return Attempt(failed=failed, tries=earlier.tries + 1, due=now + wait), True
