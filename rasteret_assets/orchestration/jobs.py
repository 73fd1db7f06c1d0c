"""The jobs of a collection: build what changed, read everything again, ask whether known files have changed."""

from typing import Any

import dagster as dg

from rasteret_assets.orchestration.names import build_job_name, rebuild_job_name, revalidate_job_name, stage_key
from rasteret_assets.orchestration.resources import OPTIONS
from rasteret_assets.schema import STAGES
from rasteret_assets.spec import CollectionSpec

#: Tags of every run: whose it is, and why it was launched.
COLLECTION_TAG, REASON_TAG = "rasteret_assets/collection", "rasteret_assets/reason"


def jobs_of(spec: CollectionSpec) -> list[Any]:
    """Return the three jobs of a collection."""
    return [
        _job(spec, build_job_name(spec), f"All stages of {spec.name}, for one partition or a range of them."),
        _job(
            spec,
            rebuild_job_name(spec),
            f"All stages of {spec.name} by force: every header is fetched again, also those whose last outcome holds.",
            force=True,
        ),
        _job(
            spec,
            revalidate_job_name(spec),
            f"All stages of {spec.name}; every header that is known is asked about by a conditional request, and read "
            "again where its file has changed.",
            revalidate=True,
        ),
    ]


def _job(spec: CollectionSpec, name: str, description: str, **options: bool) -> Any:
    return dg.define_asset_job(
        name,
        selection=dg.AssetSelection.assets(*(stage_key(spec, stage) for stage in STAGES)),
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
