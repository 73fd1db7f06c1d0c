"""Define the sensor ``<name>_events``, which compares source and published partitions when a queue has a message.

The comparison decides what is built. The refresh sensor or the schedule runs beside this sensor, because messages may
be lost. A message is deleted one tick after the tick that requested its run, because only then it is certain that
Dagster has the request.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import dagster as dg

from rasteret_assets.message_lists import some
from rasteret_assets.orchestration.asset_graph.graph_partitions import partitions_of
from rasteret_assets.orchestration.asset_graph.harvested_items import harvest_requests
from rasteret_assets.orchestration.graph_names import identifier, refresh_schedule_name
from rasteret_assets.orchestration.graph_resources import FilesystemResource
from rasteret_assets.orchestration.triggers._hints import Hint, MessageError, hint_of
from rasteret_assets.orchestration.triggers._message_queue import EventQueue, Message, open_queue
from rasteret_assets.orchestration.triggers.reconcile import (
    TOO_MUCH,
    Difference,
    build_requests,
    compare,
    digest,
    failed_lately,
    is_harvested_now,
    is_profiled_now,
    profile_in_tick,
    profile_request,
)
from rasteret_assets.orchestration.triggers.refresh_sensor import sensor_status
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.workspace.state_cache import StateCache

_MOST_NAMED: Final = 5
#: Seconds between two ticks, at least.
_EVERY_S: Final = 10


@dataclass(frozen=True, kw_only=True)
class HintCursor:
    """The memory of the sensor from tick to tick.

    Args:
        requests: counts the ticks that requested runs, because Dagster launches a run key only once.
        heeded: receipts of the messages that the last tick needs no longer, which the next tick deletes.
    """

    requests: int = 0
    heeded: Sequence[str] = ()

    @classmethod
    def from_text(cls, text: str | None) -> "HintCursor":
        """Return the cursor that Dagster kept; an empty cursor at the first tick."""
        return cls(**json.loads(text)) if text else cls()

    def to_text(self) -> str:
        """Return the cursor as the text that Dagster keeps."""
        return json.dumps(asdict(self), sort_keys=True)


def hint_sensor(spec: CollectionSpec, jobs: Sequence[Any], queue_url: str) -> dg.SensorDefinition:
    """Return a sensor that profiles the source when messages tell of changes.

    Args:
        spec: of the collection.
        jobs: that it may launch.
        queue_url: address of the queue.
    """
    partitions, states = partitions_of(spec), StateCache()

    @dg.sensor(
        name=f"{identifier(spec.name)}_events",
        jobs=jobs,
        minimum_interval_seconds=_EVERY_S,
        default_status=sensor_status(spec),
        description=(
            f"Profiles the record table of {spec.name} when a message of its queue reports a change, and builds the "
            "partitions that the message names, if they differ. Messages may be lost or come twice: run the sensor "
            f"{identifier(spec.name)}_refresh or the schedule {refresh_schedule_name(spec)} beside this one."
        ),
    )
    def events(context: dg.SensorEvaluationContext, rasteret_filesystem: FilesystemResource) -> dg.SensorResult:
        cursor = HintCursor.from_text(context.cursor)
        with open_queue(queue_url, rasteret_filesystem) as queue:
            queue.delete(cursor.heeded)
            cursor = replace(cursor, heeded=())
            hints = _hints(context, spec, queue)
            if not any(hints.values()):
                reason = "the queue is empty" if not hints else f"{len(hints)} messages report no change"
                return dg.SensorResult(skip_reason=reason, cursor=replace(cursor, heeded=list(hints)).to_text())
            if spec.harvest is not None:
                return _harvest(context.instance, spec, cursor, hints, queue)
            workspace = rasteret_filesystem.open_workspace(spec)
            profile = profile_in_tick(rasteret_filesystem, spec, workspace)
            if profile is None:
                queue.give_back(list(hints))
                return _profile(spec, cursor, is_running=is_profiled_now(context.instance, spec))
            found = compare(context.instance, spec, workspace, profile, states)
            heeded, waiting = _heeded(hints, found)
            queue.give_back(waiting)
        keys = _meant([hints[receipt] for receipt in heeded], found)
        cursor = replace(cursor, requests=cursor.requests + bool(keys), heeded=heeded)
        requests = build_requests(
            spec, found, keys, failed_lately(context.instance, spec), f"events {cursor.requests}"
        )  # fmt: skip
        return dg.SensorResult(
            run_requests=requests or None,
            skip_reason=None if requests else _skip_reason(hints, waiting),
            cursor=cursor.to_text(),
            dynamic_partitions_requests=[partitions.build_add_request(list(found.new))] if found.new else [],
        )

    return events


def _hints(context: dg.SensorEvaluationContext, spec: CollectionSpec, queue: EventQueue) -> dict[str, Hint]:
    """Return the hints of the messages in the queue, by receipt; an empty hint for an unknown message."""
    hints: dict[str, Hint] = {}
    strange: list[str] = []
    for message in queue.receive():
        hints[message.receipt], reason = _hint(message, spec)
        if reason:
            strange.append(f"{message.id}: {reason}")
    if strange:
        context.log.warning(
            "%d messages are not understood and report no change: %s", len(strange), some(strange, _MOST_NAMED)
        )
    return hints


def _hint(message: Message, spec: CollectionSpec) -> tuple[Hint, str]:
    """Return the hint of a message, and the reason if the message is not understood, else an empty text."""
    try:
        return hint_of(message.body, spec), ""
    except MessageError as error:
        return Hint(), str(error)


def _heeded(hints: Mapping[str, Hint], found: Difference) -> tuple[list[str], list[str]]:
    """Return the receipts of messages that are no longer needed after this tick, and of those that wait for a run.

    A message waits while an unfinished run builds its partition, because the run may have read the source before the
    change.
    """
    busy = {key for key in found.differing if key in found.busy}
    waiting = [
        receipt for receipt, hint in hints.items() if busy and (hint.is_vague or not busy.isdisjoint(hint.partitions))
    ]
    return [receipt for receipt in hints if receipt not in waiting], waiting


def _meant(hints: Sequence[Hint], found: Difference) -> list[str]:
    """Return the stale partitions that messages mean: all stale ones if a message names no partition."""
    whole = Hint()
    for hint in hints:
        whole |= hint
    return [key for key in found.stale if whole.is_vague or key in whole.partitions]


def _harvest(
    instance: dg.DagsterInstance, spec: CollectionSpec, cursor: HintCursor, hints: Mapping[str, Hint], queue: EventQueue
) -> dg.SensorResult:
    """Return the result of a tick where items are harvested: a run that asks for the windows of the messages.

    The refresh sensor then finds the harvested changes, like any change of the record table. An unfinished harvest may
    have asked before the change, so that messages wait for its end.
    """
    if is_harvested_now(instance, spec):
        queue.give_back(list(hints))
        return dg.SensorResult(
            skip_reason="a run is harvesting the items; the messages wait until it has ended", cursor=cursor.to_text()
        )
    cursor = replace(cursor, requests=cursor.requests + 1, heeded=list(hints))
    partitions = {key for hint in hints.values() for key in hint.partitions}
    requests = harvest_requests(instance, spec, partitions, digest(f"harvest events#{cursor.requests}"))
    return dg.SensorResult(run_requests=requests, cursor=cursor.to_text())


def _profile(spec: CollectionSpec, cursor: HintCursor, *, is_running: bool) -> dg.SensorResult:
    """Return the result of a tick in which too much changed to read: a run profiles the source, and messages wait."""
    if is_running:
        reason = f"{TOO_MUCH}: a run is profiling it, and the messages wait until it has ended"
        return dg.SensorResult(skip_reason=reason, cursor=cursor.to_text())
    cursor = replace(cursor, requests=cursor.requests + 1)
    request = profile_request(spec, digest(f"look events#{cursor.requests}"))
    return dg.SensorResult(run_requests=[request], cursor=cursor.to_text())


def _skip_reason(hints: Mapping[str, Hint], waiting: Sequence[str]) -> str:
    if waiting:
        return f"{len(waiting)} messages name partitions that are being built, and wait until their runs have ended"
    return f"{len(hints)} messages name only partitions that are published as the source has them"
