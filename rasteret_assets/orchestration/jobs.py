"""The jobs of a collection: build what changed, read all again, ask whether known files changed, look at the source."""

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

#: Tags of every run: whose it is, and why it was launched.
COLLECTION_TAG, REASON_TAG = "rasteret_assets/collection", "rasteret_assets/reason"


class Jobs(NamedTuple):
    """The jobs of a collection; ``harvest`` is None where it is not harvested."""

    build: Any
    rebuild: Any
    revalidate: Any
    look: Any
    harvest: Any | None = None

    def all(self) -> list[Any]:
        """Return all that there are."""
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
            f"All stages of {spec.name} by force: every header is fetched again, also those whose last outcome holds.",
            force=True,
        ),
        revalidate=_job(
            spec,
            revalidate_job_name(spec),
            stages,
            f"All stages of {spec.name}; every header that is known is asked about by a conditional request, and read "
            "again where its file has changed.",
            revalidate=True,
        ),
        look=_look_job(spec),
        harvest=None if spec.harvest is None else _job(
            spec, harvest_job_name(spec), [stage_key(spec, HARVESTED)],
            f"Harvests the STAC items of {spec.name}: the windows that can have changed; all of them with force.",
        ),
    )  # fmt: skip


def _look_job(spec: CollectionSpec) -> dg.JobDefinition:
    """Return the job that does what *Observe* on the record table does.

    Not a job of that asset: Dagster (1.13) cannot run the step of a partitioned asset without a partition where one of
    the assets upstream is partitioned too, and the first look finds out which partitions there are.
    """

    @dg.op(name=op_name(spec, "look"), tags=spec.graph.op_tags)
    def look(context: dg.OpExecutionContext, rasteret_filesystem: FilesystemResource) -> None:
        observe_source(context, rasteret_filesystem, spec)

    @dg.job(
        name=look_job_name(spec),
        description=(
            f"Looks at the record table of {spec.name}, notes its partitions and their versions, and builds nothing."
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
        # The header stage is concurrent by itself: a process per step would cost seconds and bring nothing.
        executor_def=dg.in_process_executor,
        run_tags=run_tags(spec),
    )


def run_tags(spec: CollectionSpec) -> dict[str, str]:
    """Return the tags of every run of a collection's jobs."""
    return {
        COLLECTION_TAG: spec.name,
        # Where the instance retries runs at all, once, and only what was killed: a partition that failed is tried again
        # by the sensors, ever more rarely.
        "dagster/max_retries": "1",
        "dagster/retry_on_asset_or_op_failure": "false",
        **spec.graph.run_tags,
    }
