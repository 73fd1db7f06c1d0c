"""Report each partition of a step to Dagster: made, with a version of its own, or failed, with the reason.

Dagster counts every partition of a run over a range as made once a step has ended, and gives all of them one data
version (dagster-io/dagster #34013, seen with Dagster 1.13). The steps of this package therefore report their partitions
themselves: a materialization for each partition that was made, an observation for each partition that failed.

https://docs.dagster.io/guides/build/assets/asset-versioning-and-caching
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import dagster as dg

from rasteret_assets import errors
from rasteret_assets.errors import RasteretAssetsError
from rasteret_assets.orchestration.graph_names import SOURCE, source_key, stage_key
from rasteret_assets.orchestration.pages.markdown import sentence
from rasteret_assets.orchestration.pages.reporting import is_passing, table_metadata
from rasteret_assets.pipeline.stages import STAGES
from rasteret_assets.spec import CollectionSpec

#: Metadata that keeps Dagster from reporting the partitions of a step's output. Dagster gives it to the outputs of
#: observable sources, which report their partitions themselves too.
REPORTED: Final = {"__source_asset_observation__": True}

_FAILURE, _ERROR = "failure", "error"
_VERSION, _CODE = "dagster/data_version", "dagster/code_version"
_OWN_VERSION: Final = {"dagster/data_version_is_user_provided": "true"}
#: Values that Dagster writes for an input that has no version, or no event.
_NO_VERSION, _NO_EVENT = "INITIAL", "NULL"
#: Failures that the error of a run names; the table in its metadata has all.
_MOST_LISTED: Final = 5


@dataclass(frozen=True, kw_only=True)
class PartitionFailure:
    """A partition that failed, and why.

    Args:
        key: of the partition.
        stage: that failed.
        reason: message of the error.
        kind: name of the class of the exception.
    """

    key: str
    stage: str
    reason: str
    kind: str

    @classmethod
    def of(cls, key: str, stage: str, error: Exception) -> "PartitionFailure":
        """Return the failure of a partition for an exception."""
        reason = str(error) if isinstance(error, RasteretAssetsError) else f"{type(error).__name__}: {error}"
        return cls(key=key, stage=stage, reason=reason, kind=type(error).__name__)

    def __str__(self) -> str:
        return f"{self.key} in {self.stage}: {self.reason}"

    @property
    def error(self) -> RasteretAssetsError:
        """Return an exception with the reason, of the original class if it is one of this package."""
        found = getattr(errors, self.kind, None)
        kind = found if isinstance(found, type) and issubclass(found, RasteretAssetsError) else RasteretAssetsError
        try:
            return kind(self.reason)
        except TypeError:  # because the original class needs further arguments
            return RasteretAssetsError(self.reason)


def inputs_of(spec: CollectionSpec, stage: str) -> list[dg.AssetKey]:
    """Return the keys of the assets that a stage reads."""
    return [stage_key(spec, name) for name in STAGES[stage].inputs] or [source_key(spec)]


def materializations(
    instance: dg.DagsterInstance,
    spec: CollectionSpec,
    stage: str,
    code_version: str,
    made: Mapping[str, tuple[str, Mapping[str, Any]]],
) -> Iterator[dg.AssetMaterialization]:
    """Yield an event for each partition that a stage made, with its version and the versions of its inputs.

    Args:
        instance: that has the last events of the inputs.
        spec: of the collection.
        stage: whose tables were made.
        code_version: of the stage's asset.
        made: version and metadata of every partition, by key.
    """
    provenance = _provenance(instance, inputs_of(spec, stage), made.keys())
    for key, (version, metadata) in made.items():
        tags = {_VERSION: version, _CODE: code_version, **_OWN_VERSION, **provenance[key]}
        yield dg.AssetMaterialization(
            asset_key=stage_key(spec, stage), partition=key, metadata={**metadata}, tags=tags
        )  # fmt: skip


def _provenance(
    instance: dg.DagsterInstance, inputs: Sequence[dg.AssetKey], keys: Collection[str]
) -> dict[str, dict[str, str]]:
    """Return by key the tags that name the inputs of each partition; asks the instance twice for each input."""
    found: dict[str, dict[str, str]] = {key: {} for key in keys}
    for asset in inputs:
        is_source = asset.path[-1] == SOURCE
        kind = dg.DagsterEventType.ASSET_OBSERVATION if is_source else dg.DagsterEventType.ASSET_MATERIALIZATION
        events = instance.get_latest_storage_id_by_partition(asset, kind, set(keys))
        storage = instance.event_log_storage
        tags = storage.get_latest_tags_by_partition(asset, kind, tag_keys=[_VERSION], asset_partitions=list(keys))
        name = asset.to_user_string()
        for key in keys:
            event = events.get(key)
            found[key][f"dagster/input_data_version/{name}"] = tags.get(key, {}).get(_VERSION, _NO_VERSION)
            found[key][f"dagster/input_event_pointer/{name}"] = _NO_EVENT if event is None else str(event)
    return found


def source_observations(
    instance: dg.DagsterInstance, spec: CollectionSpec, versions: Mapping[str, str]
) -> list[dg.AssetObservation]:
    """Return an event for each partition of the source whose version Dagster was not told yet.

    Args:
        instance: that has the versions told so far.
        spec: of the collection.
        versions: of the source, by partition.
    """
    key = source_key(spec)
    tags = instance.event_log_storage.get_latest_tags_by_partition(
        key, dg.DagsterEventType.ASSET_OBSERVATION, tag_keys=[_VERSION], asset_partitions=list(versions)
    )
    return [
        dg.AssetObservation(key, partition=partition, tags={_VERSION: version})
        for partition, version in versions.items()
        if tags.get(partition, {}).get(_VERSION) != version
    ]


def observation_of(spec: CollectionSpec, failure: PartitionFailure, metadata: Mapping[str, Any]) -> dg.AssetObservation:
    """Return the event that tells of a failed partition.

    Args:
        spec: of the collection.
        failure: what failed.
        metadata: that help to see why.
    """
    return dg.AssetObservation(
        asset_key=stage_key(spec, failure.stage), partition=failure.key, description=sentence(failure.reason),
        metadata={_FAILURE: failure.reason, _ERROR: failure.kind, **metadata},
    )  # fmt: skip


def failures_of_run(instance: dg.DagsterInstance, run_id: str, spec: CollectionSpec) -> dict[str, PartitionFailure]:
    """Return the partitions of a collection that have failed in a run so far, by key."""
    found: dict[str, PartitionFailure] = {}
    for entry in _entries(instance, run_id, dg.DagsterEventType.ASSET_OBSERVATION):
        event = entry.asset_observation
        if event is None or event.partition is None or _FAILURE not in event.metadata:
            continue
        stage = event.asset_key.path[-1]
        if event.asset_key == stage_key(spec, stage):
            reason, kind = (str(event.metadata[name].value) for name in (_FAILURE, _ERROR))
            found[event.partition] = PartitionFailure(key=event.partition, stage=stage, reason=reason, kind=kind)
    return found


def materializations_of_run(instance: dg.DagsterInstance, run_id: str) -> Iterator[dg.AssetMaterialization]:
    """Yield the materializations of a run."""
    for entry in _entries(instance, run_id, dg.DagsterEventType.ASSET_MATERIALIZATION):
        if entry.asset_materialization is not None:
            yield entry.asset_materialization


def _entries(instance: dg.DagsterInstance, run_id: str, kind: dg.DagsterEventType) -> Iterator[dg.EventLogEntry]:
    cursor, more = None, True
    while more:
        page = instance.get_records_for_run(run_id, cursor, kind)
        cursor, more = page.cursor, page.has_more
        for record in page.records:
            yield record.event_log_entry


def combined(failures: Iterable[PartitionFailure]) -> RasteretAssetsError:
    """Return an exception that names all failures, of the class of the first by partition."""
    ordered = sorted(failures, key=lambda failure: failure.key)
    return replace(ordered[0], reason="; ".join(map(str, ordered))).error


def run_failure(failures: Iterable[PartitionFailure], done: int) -> dg.Failure:
    """Return the exception that ends a run in which partitions failed.

    Args:
        failures: of the partitions.
        done: number of the other partitions, which are done.
    """
    ordered = sorted(failures, key=lambda failure: failure.key)
    others = f" The other {done} of the run are done." if done else ""
    more = [f"and {len(ordered) - _MOST_LISTED} more"] if len(ordered) > _MOST_LISTED else []
    text = "; ".join([*map(str, ordered[:_MOST_LISTED]), *more])
    count = f"{len(ordered)} partitions failed: " if len(ordered) > 1 else ""
    errors = [failure.error for failure in ordered]
    failure = dg.Failure(
        description=sentence(f"{count}{text}.{others}" if others else f"{count}{text}"),
        metadata={
            "failed": table_metadata(
                [{"partition": one.key, "stage": one.stage, "reason": one.reason} for one in ordered]
            )
        },
        # Allowed if all failures may pass, because Dagster retries the whole step; sensors retry single partitions.
        allow_retries=all(map(is_passing, errors)),
    )
    failure.__cause__ = errors[0]
    return failure
