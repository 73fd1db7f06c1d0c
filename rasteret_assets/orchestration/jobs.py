"""Define the jobs of a collection: build, rebuild by force, revalidate headers, profile the source, harvest."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import dagster as dg

from rasteret_assets.orchestration.graph_names import (
    HARVESTED,
    build_job_name,
    harvest_job_name,
    look_job_name,
    op_name,
    rebuild_job_name,
    revalidate_job_name,
    stage_key,
)
from rasteret_assets.orchestration.graph_resources import OPTIONS, FilesystemResource
from rasteret_assets.orchestration.source_asset import observe_source
from rasteret_assets.schema import STAGES
from rasteret_assets.spec import CollectionSpec

#: Tags of every run: its collection, and why the run was launched.
COLLECTION_TAG, REASON_TAG = "rasteret_assets/collection", "rasteret_assets/reason"


class Jobs(NamedTuple):
    """The jobs of a collection; ``harvest`` is None if its items are not harvested."""

    build: Any
    rebuild: Any
    revalidate: Any
    look: Any
    harvest: Any | None = None

    def all(self) -> list[Any]:
        """Return the jobs that the collection has."""
        return [job for job in self if job is not None]


def jobs_of(spec: CollectionSpec) -> Jobs:
    """Return the jobs of a collection."""
    stages = [stage_key(spec, stage) for stage in STAGES]
    return Jobs(
        build=_job(
            spec, build_job_name(spec), stages, f"All stages of {spec.name}, for one partition or a range of them."
        ),
        rebuild=_job(
            spec,
            rebuild_job_name(spec),
            stages,
            f"All stages of {spec.name} by force: the record table and every header are read again.",
            force=True,
        ),
        revalidate=_job(
            spec,
            revalidate_job_name(spec),
            stages,
            f"All stages of {spec.name}; every indexed header is asked about by a conditional request, and read again "
            "if its file has changed.",
            revalidate=True,
        ),
        look=_look_job(spec),
        harvest=None if spec.harvest is None else _job(
            spec, harvest_job_name(spec), [stage_key(spec, HARVESTED)],
            f"Harvests the STAC items of {spec.name}: windows that can have changed; all windows with force.",
        ),
    )  # fmt: skip


def _look_job(spec: CollectionSpec) -> dg.JobDefinition:
    """Return the job that does the same as *Observe* on the record table.

    The job has an op and not the asset, because Dagster 1.13 cannot run the step of a partitioned asset without a
    partition if an asset upstream is partitioned too, and because the first run finds out the partitions.
    """

    @dg.op(name=op_name(spec, "look"), tags=spec.graph.op_tags)
    def look(context: dg.OpExecutionContext, rasteret_filesystem: FilesystemResource) -> None:
        observe_source(context, rasteret_filesystem, spec)

    @dg.job(
        name=look_job_name(spec),
        description=(
            f"Profiles the record table of {spec.name}: notes its partitions and their versions, and builds nothing."
        ),
        tags={COLLECTION_TAG: spec.name},
        executor_def=dg.in_process_executor,
        run_tags=run_tags(spec),
    )
    def look_job() -> None:
        look()

    return look_job


def _job(spec: CollectionSpec, name: str, stages: Sequence[dg.AssetKey], description: str, **options: bool) -> Any:
    return dg.define_asset_job(
        name,
        selection=dg.AssetSelection.assets(*stages),
        description=description,
        config={"resources": {OPTIONS: {"config": options}}} if options else None,
        tags={COLLECTION_TAG: spec.name},
        # In one process, because a process per step takes seconds and the header stage is concurrent by itself.
        executor_def=dg.in_process_executor,
        run_tags=run_tags(spec),
    )


def run_tags(spec: CollectionSpec) -> dict[str, str]:
    """Return the tags of every run of a collection's jobs."""
    return {
        COLLECTION_TAG: spec.name,
        # One retry, and only of killed runs, because the sensors try a failed partition again, ever more rarely.
        "dagster/max_retries": "1",
        "dagster/retry_on_asset_or_op_failure": "false",
        **spec.graph.run_tags,
    }
