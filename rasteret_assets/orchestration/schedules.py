"""Schedules for those who prefer a clock: look for changes once a day, ask whether known files changed once a week.

https://docs.dagster.io/guides/automate/schedules
"""

from collections.abc import Sequence

import dagster as dg

from rasteret_assets.orchestration.names import build_job_name, identifier, revalidate_job_name
from rasteret_assets.orchestration.partitions import grouped, headers_to_fetch, partitions_name
from rasteret_assets.orchestration.reconcile import (
    build_requests,
    busy_partitions,
    compare,
    failed_lately,
    observations,
    run_request,
)
from rasteret_assets.orchestration.resources import FilesystemResource
from rasteret_assets.source.stored import stored_profile
from rasteret_assets.spec import CollectionSpec


def refresh_schedule(spec: CollectionSpec) -> dg.ScheduleDefinition:
    """Return a schedule that requests, at given times, the runs that the sensor would request."""

    @dg.schedule(
        name=f"{identifier(spec.name)}_refresh_schedule",
        job_name=build_job_name(spec),
        cron_schedule=spec.graph.refresh_cron,
        execution_timezone=spec.graph.timezone,
        description=(
            f"Builds the partitions of {spec.name} whose source changed since the last time, and nothing else. An "
            "alternative to the sensor: run one of the two."
        ),
    )
    def refresh(
        context: dg.ScheduleEvaluationContext, rasteret_filesystem: FilesystemResource
    ) -> Sequence[dg.RunRequest] | dg.SkipReason:
        found = compare(context.instance, rasteret_filesystem, spec)
        if found.new:
            context.instance.add_dynamic_partitions(partitions_name(spec), list(found.new))
        for event in observations(spec, found, [key for key in found.stale if key in found.want]):
            context.instance.report_runless_asset_event(event)
        alone, at = failed_lately(context.instance, spec), context.scheduled_execution_time.isoformat()
        requests = build_requests(spec, found, found.stale, alone, at)
        return requests or dg.SkipReason(f"all {len(found.want)} partitions of the source are published as they are")

    return refresh


def revalidate_schedule(spec: CollectionSpec) -> dg.ScheduleDefinition:
    """Return a schedule that revalidates the headers of every published partition."""

    @dg.schedule(
        name=f"{identifier(spec.name)}_revalidate_schedule",
        job_name=revalidate_job_name(spec),
        cron_schedule=spec.graph.revalidate_cron,
        execution_timezone=spec.graph.timezone,
        description=(
            f"Asks by conditional requests whether the files of {spec.name} are still those whose headers are known: a "
            "file that is replaced at its address leaves no trace in the record table."
        ),
    )
    def revalidate(
        context: dg.ScheduleEvaluationContext, rasteret_filesystem: FilesystemResource
    ) -> Sequence[dg.RunRequest] | dg.SkipReason:
        order = list(context.instance.get_dynamic_partitions(partitions_name(spec)))
        workspace = rasteret_filesystem.open_workspace(spec)
        published = workspace.states().keys() - busy_partitions(context.instance, spec)
        profile = stored_profile(workspace)
        # Every known header is asked about.
        headers = {} if profile is None else headers_to_fetch(profile, {})
        at = context.scheduled_execution_time.isoformat()
        requests = [
            run_request(spec, group, f"{at}#{group[0]}", "revalidate")
            for group in grouped(order, published, spec.graph, headers)
        ]
        return requests or dg.SkipReason("nothing is published that could have changed")

    return revalidate
