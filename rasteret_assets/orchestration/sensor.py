"""The sensor of a collection: it compares what the source has with what is published, and requests the difference.

https://docs.dagster.io/guides/automate/sensors
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import dagster as dg

from rasteret_assets.orchestration.names import build_job_name, identifier
from rasteret_assets.orchestration.partitions import partitions_of
from rasteret_assets.orchestration.reconcile import Difference, build_requests, compare, digest, observations
from rasteret_assets.orchestration.resources import FilesystemResource
from rasteret_assets.spec import CollectionSpec

#: A partition whose run failed is requested again after this time, or as soon as anything in the source changes.
_RETRY_S: Final = 3600


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
        """Return the cursor that Dagster kept; a fresh one at the first tick."""
        return cls(**json.loads(text)) if text else cls(0, {})

    def to_text(self) -> str:
        """Return the cursor as Dagster keeps it."""
        return json.dumps({"generation": self.generation, "seen": self.seen}, sort_keys=True)


def refresh_sensor(spec: CollectionSpec) -> dg.SensorDefinition:
    """Return a sensor that requests runs for partitions that changed, are new or have vanished.

    Where the collection is built by declarative automation it requests none: it tells Dagster about the source, and
    the conditions on the assets do the rest.
    """
    partitions, builds = partitions_of(spec), not spec.graph.automation

    @dg.sensor(
        name=f"{identifier(spec.name)}_refresh",
        job_name=build_job_name(spec),
        minimum_interval_seconds=spec.graph.refresh_seconds,
        default_status=sensor_status(spec),
        description=(
            f"Builds the partitions of {spec.name} whose source changed, and unpublishes those that are gone from it. "
            "Unchanged partitions are left alone."
            if builds
            else f"Tells Dagster which partitions of {spec.name} changed; declarative automation builds them."
        ),
    )
    def refresh(context: dg.SensorEvaluationContext, filesystem: FilesystemResource) -> dg.SensorResult:
        found = compare(context.instance, filesystem, spec)
        cursor, changed = _advance(Cursor.from_text(context.cursor), found.want, found.have)
        salt = f"{cursor.generation}#{int(time.time() // _RETRY_S)}"
        requests = build_requests(context.instance, spec, found, salt) if builds else []
        return dg.SensorResult(
            run_requests=requests or None,
            skip_reason=None if requests else _skip_reason(found),
            cursor=cursor.to_text(),
            dynamic_partitions_requests=[partitions.build_add_request(list(found.new))] if found.new else [],
            asset_events=observations(spec, found, changed),
        )

    return refresh


def sensor_status(spec: CollectionSpec) -> dg.DefaultSensorStatus:
    """Return whether the sensors of a collection run without somebody starting them."""
    return dg.DefaultSensorStatus.RUNNING if spec.graph.autostart else dg.DefaultSensorStatus.STOPPED


def _advance(cursor: Cursor, want: Mapping[str, str], have: Mapping[str, str]) -> tuple[Cursor, list[str]]:
    """Return the next cursor, and the partitions whose version is new and not published yet."""
    digests = {key: digest(version) for key, version in want.items()}
    known = {key: digest(version) for key, version in have.items()} | cursor.seen
    changed = sorted(key for key, version in digests.items() if known.get(key) != version)
    moved = bool(changed) or bool(cursor.seen.keys() - digests.keys())
    return Cursor(cursor.generation + moved, digests), changed


def _skip_reason(found: Difference) -> str:
    if found.stale:
        return f"{len(found.stale)} partitions differ from the source; declarative automation builds them"
    if found.busy:
        return f"{len(found.busy)} partitions are being built; no other differs from the source"
    return f"all {len(found.want)} partitions of the source are published as they are"
