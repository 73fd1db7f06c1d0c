"""The jobs of a collection: build what changed, read all again, ask whether known files changed, look at the source."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import dagster as dg

from rasteret_assets.orchestration.names import (
    build_job_name,
    look_job_name,
    rebuild_job_name,
    revalidate_job_name,
    source_key,
    stage_key,
)
from rasteret_assets.orchestration.resources import OPTIONS
from rasteret_assets.schema import STAGES
from rasteret_assets.spec import CollectionSpec

#: Tags of every run: whose it is, and why it was launched.
COLLECTION_TAG, REASON_TAG = "rasteret_assets/collection", "rasteret_assets/reason"


class Jobs(NamedTuple):
    """The jobs of a collection."""

    build: Any
    rebuild: Any
    revalidate: Any
    look: Any


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
        look=_job(
            spec,
            look_job_name(spec),
            [source_key(spec)],
            f"Looks at the record table of {spec.name}, notes its partitions and their versions, and builds nothing.",
        ),
    )


def _job(spec: CollectionSpec, name: str, assets: Sequence[dg.AssetKey], description: str, **options: bool) -> Any:
    return dg.define_asset_job(
        name,
        selection=dg.AssetSelection.assets(*assets),
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
