"""Materialize a collection in this process, on a given instance, with no daemon and no webserver.

The UI of the instance then shows its partitions, runs, materializations and metadata.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import uuid4

import dagster as dg

from rasteret_assets.errors import RasteretAssetsError
from rasteret_assets.orchestration.asset_graph.events import (
    PartitionFailure,
    combined,
    failures_of_run,
    materializations_of_run,
    source_observations,
)
from rasteret_assets.orchestration.asset_graph.graph_partitions import (
    discover_partitions,
    grouped,
    headers_to_fetch,
    selection_tags,
)
from rasteret_assets.orchestration.definitions import build_definitions
from rasteret_assets.orchestration.graph_names import build_job_name
from rasteret_assets.orchestration.graph_resources import FILESYSTEM, OPTIONS, default_resources
from rasteret_assets.orchestration.pages.metadata import counts_of
from rasteret_assets.pipeline.plan import refuse_unknown
from rasteret_assets.source.profile import SourceProfile
from rasteret_assets.source.stored import load_profile
from rasteret_assets.spec import CollectionSpec

#: Counts by stage: ``{"raw_records": {"rows": ...}, "band_metadata": {"headers_fetched": ...}, ...}``.
StageCounts = dict[str, dict[str, Any]]


def materialize_collection(
    spec: CollectionSpec,
    instance: dg.DagsterInstance,
    *,
    resources: Mapping[str, object] | None = None,
    keys: Sequence[str] | None = None,
    force: bool = False,
    revalidate: bool = False,
    on_partition: Callable[[str, StageCounts], None] | None = None,
) -> dict[str, StageCounts]:
    """Materialize all four stages of a collection's partitions.

    Args:
        spec: of the collection.
        instance: where runs, partitions and materializations are recorded.
        resources: by key; each replaces the one of :func:`~rasteret_assets.dagster.default_resources`.
        keys: partitions to build. When omitted: all partitions of the source, and published partitions that are gone
            from the source.
        force: whether the whole record table and every header are read again.
        revalidate: whether to ask if files of indexed headers have changed, and to read headers of changed files
            again.
        on_partition: called with key and counts of each partition when the partition is done.

    Returns:
        For each partition, for each stage, its counts: ``rows``, ``headers_fetched``, ``headers_reused``,
        ``headers_failed``, ``requests`` and the other counts of the stage.

    Raises:
        RasteretAssetsError: if an error stopped a run; or, after all other partitions, naming those that failed.
    """
    provided: dict[str, Any] = {**default_resources(), **(resources or {})}
    filesystem = provided[FILESYSTEM].process_config_and_initialize()
    workspace = filesystem.open_workspace(spec)
    source = filesystem.open_source(spec, trust_stored=not force)
    profile = load_profile(workspace, source, spec, trust_stored=not force)
    states = workspace.states()
    order = discover_partitions(instance, spec, profile, states)
    refuse_unknown(keys, profile, states)
    wanted = sorted({*profile.partitions, *states}) if keys is None else keys
    published = {key: str(state["source_version"]) for key, state in states.items()}
    _observe(instance, spec, profile, published)

    job = build_definitions([spec], resources=provided).resolve_job_def(build_job_name(spec))
    config = {
        "resources": {OPTIONS: {"config": {"force": force, "revalidate": revalidate}}},
        # Quiet, because the instance keeps the log and the caller gets failures as exceptions.
        "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
    }
    headers = headers_to_fetch(profile, {} if force or revalidate else states)
    # Partitions that are gone from the source go last, because their records may have moved to other partitions.
    vanished = [key for key in wanted if key not in profile.partitions]
    there = {*wanted}.difference(vanished)
    counts: dict[str, StageCounts] = {}
    failures: dict[str, PartitionFailure] = {}
    for keys_of_run in (there, vanished):
        for group in grouped(order, keys_of_run, spec.graph, headers):
            done, failed = _run(spec, job, instance, group, config)
            failures |= failed
            counts.update(done)
            if on_partition is not None:
                for key, stages in done.items():
                    on_partition(key, stages)
    if failures:
        raise combined(failures.values())
    return counts


def _observe(
    instance: dg.DagsterInstance, spec: CollectionSpec, profile: SourceProfile, published: Mapping[str, str]
) -> None:
    """Report the versions of the source that are not published yet, as the refresh sensor does."""
    versions = {key: profile.version(key, spec) for key in profile.partitions}
    unpublished = {key: version for key, version in versions.items() if published.get(key) != version}
    for event in source_observations(instance, spec, unpublished):
        instance.report_runless_asset_event(event)


def _run(
    spec: CollectionSpec,
    job: dg.JobDefinition,
    instance: dg.DagsterInstance,
    group: Sequence[str],
    config: Mapping[str, Any],
) -> tuple[dict[str, StageCounts], dict[str, PartitionFailure]]:
    """Run the job over a group of partitions; return the counts of successes, and the failures, by partition."""
    run_id = str(uuid4())
    key = group[0] if len(group) == 1 else None
    try:
        job.execute_in_process(
            instance=instance, run_id=run_id, run_config=config, tags=selection_tags(group), partition_key=key
        )  # fmt: skip
    except dg.Failure as failure:
        failures = failures_of_run(instance, run_id, spec)
        if not failures:
            raise (failure.__cause__ if isinstance(failure.__cause__, RasteretAssetsError) else failure) from None
    else:
        failures = {}
    counts: dict[str, StageCounts] = {key: {} for key in group if key not in failures}
    for made in materializations_of_run(instance, run_id):
        if made.partition in counts:
            counts[made.partition][made.asset_key.path[-1]] = counts_of(made.metadata)
    return counts, failures
