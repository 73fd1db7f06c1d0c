"""Define the jobs of a collection: build, rebuild by force, revalidate headers, profile the source."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import dagster as dg

from rasteret_assets.orchestration.asset_graph.source_asset import observe_source
from rasteret_assets.orchestration.graph_names import (
    build_job_name,
    op_name,
    profile_job_name,
    rebuild_job_name,
    revalidate_job_name,
    stage_key,
)
from rasteret_assets.orchestration.graph_resources import OPTIONS, FilesystemResource
from rasteret_assets.schema import STAGES
from rasteret_assets.spec import CollectionSpec

#: Tags of every run: its collection, and why the run was launched.
COLLECTION_TAG, REASON_TAG = "rasteret_assets/collection", "rasteret_assets/reason"


class Jobs(NamedTuple):
    """The jobs of a collection, beside those of its harvest."""

    build: Any
    rebuild: Any
    revalidate: Any
    profile: Any


def jobs_of(spec: CollectionSpec) -> Jobs:
    """Return the jobs of a collection."""
    stages = [stage_key(spec, stage) for stage in STAGES]
    return Jobs(
        build=asset_job(
            spec, build_job_name(spec), stages, f"Builds one partition of {spec.name}, or a range: all four stages."
        ),
        rebuild=asset_job(
            spec,
            rebuild_job_name(spec),
            stages,
            f"Builds partitions of {spec.name} by force: the record table and every header are read again.",
            force=True,
        ),
        revalidate=asset_job(
            spec,
            revalidate_job_name(spec),
            stages,
            f"Builds partitions of {spec.name} after asking, by conditional requests, whether indexed files have "
            "changed; headers of changed files are read again.",
            revalidate=True,
        ),
        profile=_profile_job(spec),
    )


def _profile_job(spec: CollectionSpec) -> dg.JobDefinition:
    """Return the job that does the same as *Observe* on the record table.

    The job has an op and not the asset, because Dagster's UI (1.13) launches the job of a partitioned asset for
    partitions only, and the first run registers the partitions.
    """

    @dg.op(name=op_name(spec, "look"), tags=spec.graph.op_tags)
    def observe(context: dg.OpExecutionContext, rasteret_filesystem: FilesystemResource) -> None:
        observe_source(context, rasteret_filesystem, spec)

    @dg.job(
        name=profile_job_name(spec),
        description=(
            f"Profiles the record table of {spec.name}: registers partitions, reports their versions, builds nothing."
        ),
        tags={COLLECTION_TAG: spec.name},
        executor_def=dg.in_process_executor,
        run_tags=run_tags(spec),
    )
    def profile_job() -> None:
        observe()

    return profile_job


def asset_job(spec: CollectionSpec, name: str, assets: Sequence[dg.AssetKey], description: str, **options: bool) -> Any:
    """Return a job over the partitions of some assets of a collection.

    Args:
        spec: of the collection.
        name: of the job.
        assets: that it makes.
        description: of the job.
        options: that are set for its runs: ``force``, ``revalidate``.
    """
    return dg.define_asset_job(
        name,
        selection=dg.AssetSelection.assets(*assets),
        description=description,
        config={"resources": {OPTIONS: {"config": options}}} if options else None,
        tags={COLLECTION_TAG: spec.name},
        # In one process, because starting a process takes seconds, and the header stage fetches concurrently anyway.
        executor_def=dg.in_process_executor,
        run_tags=run_tags(spec),
    )


def run_tags(spec: CollectionSpec) -> dict[str, str]:
    """Return the tags of every run of a collection's jobs."""
    return {
        COLLECTION_TAG: spec.name,
        # One retry, and only of killed runs, because sensors request failed partitions again, at growing intervals.
        "dagster/max_retries": "1",
        "dagster/retry_on_asset_or_op_failure": "false",
        **spec.graph.run_tags,
    }
