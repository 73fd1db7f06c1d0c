"""Define the schedules: profile the source once a day, and ask once a week whether indexed files changed.

A schedule of Dagster launches runs of one job. The refresh schedule therefore launches the job that profiles the
source, however much changed, and a sensor requests the builds when that run has ended.

https://docs.dagster.io/guides/automate/schedules
"""

from collections.abc import Sequence
from typing import Final

import dagster as dg

from rasteret_assets.errors import NotHarvestedError
from rasteret_assets.orchestration.asset_graph.graph_partitions import grouped, headers_to_fetch, partitions_name
from rasteret_assets.orchestration.graph_names import (
    identifier,
    profile_job_name,
    refresh_schedule_name,
    revalidate_job_name,
)
from rasteret_assets.orchestration.graph_resources import FilesystemResource
from rasteret_assets.orchestration.triggers.jobs import REASON_TAG, Jobs
from rasteret_assets.orchestration.triggers.reconcile import (
    TOO_MUCH,
    build_requests,
    busy_partitions,
    compare,
    failed_lately,
    profile_in_tick,
    run_request,
)
from rasteret_assets.source.stored import stored_profile
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.workspace.state_cache import StateCache

_SCHEDULE_TAG: Final = "dagster/schedule_name"


def refresh_schedule(spec: CollectionSpec) -> dg.ScheduleDefinition:
    """Return a schedule that profiles the source; :func:`after_profile_sensor` then requests the builds."""
    return dg.ScheduleDefinition(
        name=refresh_schedule_name(spec),
        job_name=profile_job_name(spec),
        cron_schedule=spec.graph.refresh_cron,
        execution_timezone=spec.graph.timezone,
        tags={REASON_TAG: "look"},
        description=(
            f"Profiles the record table of {spec.name} by the job {profile_job_name(spec)}; the sensor "
            f"{identifier(spec.name)}_after_look then builds only the partitions that changed. An alternative to the "
            f"sensor {identifier(spec.name)}_refresh: run one of the two."
        ),
    )


def after_profile_sensor(spec: CollectionSpec, jobs: Jobs) -> dg.SensorDefinition:
    """Return a sensor that requests builds of what changed, after each profile that the schedule launched."""
    states = StateCache()

    @dg.run_status_sensor(
        run_status=dg.DagsterRunStatus.SUCCESS,
        name=f"{identifier(spec.name)}_after_look",
        monitored_jobs=[jobs.profile],
        request_job=jobs.build,
        # Running from the start, because it does nothing before somebody starts the schedule.
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            f"Builds the partitions of {spec.name} that differ from the record table, after each run of "
            f"{profile_job_name(spec)} that the schedule {refresh_schedule_name(spec)} launched. Does nothing while "
            "that schedule is stopped."
        ),
    )
    def after_profile(context: dg.RunStatusSensorContext, rasteret_filesystem: FilesystemResource) -> dg.SensorResult:
        run, instance = context.dagster_run, context.instance
        if run.tags.get(_SCHEDULE_TAG) != refresh_schedule_name(spec):
            return dg.SensorResult(skip_reason=f"run {run.run_id} was not launched by {refresh_schedule_name(spec)}")
        workspace = rasteret_filesystem.open_workspace(spec)
        try:
            profile = profile_in_tick(rasteret_filesystem, spec, workspace)
        except NotHarvestedError as error:
            return dg.SensorResult(skip_reason=str(error))
        if profile is None:
            again = f"{TOO_MUCH} after it was profiled: the next run of {profile_job_name(spec)} profiles it again"
            return dg.SensorResult(skip_reason=again)
        found = compare(instance, spec, workspace, profile, states)
        if found.new:
            instance.add_dynamic_partitions(partitions_name(spec), list(found.new))
        requests = build_requests(spec, found, found.stale, failed_lately(instance, spec), run.run_id)
        reason = None if requests else f"all {len(found.want)} partitions of the source are published as they are"
        return dg.SensorResult(run_requests=requests or None, skip_reason=reason)

    return after_profile


def revalidate_schedule(spec: CollectionSpec) -> dg.ScheduleDefinition:
    """Return a schedule that revalidates the headers of every published partition."""

    @dg.schedule(
        name=f"{identifier(spec.name)}_revalidate_schedule",
        job_name=revalidate_job_name(spec),
        cron_schedule=spec.graph.revalidate_cron,
        execution_timezone=spec.graph.timezone,
        description=(
            f"Asks by conditional requests whether the indexed files of {spec.name} changed, and reads the headers of "
            "those that did. The record table does not say that a file was replaced at its address."
        ),
    )
    def revalidate(
        context: dg.ScheduleEvaluationContext, rasteret_filesystem: FilesystemResource
    ) -> Sequence[dg.RunRequest] | dg.SkipReason:
        order = list(context.instance.get_dynamic_partitions(partitions_name(spec)))
        workspace = rasteret_filesystem.open_workspace(spec)
        published = workspace.states().keys() - busy_partitions(context.instance, spec)
        profile = stored_profile(workspace)
        # Counted as if nothing were published, because a revalidation asks about every header.
        headers = {} if profile is None else headers_to_fetch(profile, {})
        at = context.scheduled_execution_time.isoformat()
        requests = [
            run_request(spec, group, f"{at}#{group[0]}", "revalidate")
            for group in grouped(order, published, spec.graph, headers)
        ]
        return requests or dg.SkipReason("no partition is published, or runs are building all that are")

    return revalidate
