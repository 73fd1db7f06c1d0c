"""The harvest of STAC items as part of the graph: an asset upstream of the record table, its jobs, schedule and checks.

A partition of the asset is a window of the harvest: a stretch of time whose items are asked for and stored together.
The job ``<name>_harvest`` has no partition, because the harvest finds out by itself which windows can have changed; it
reports those that did as materializations of their partitions. A run over some partitions asks for their windows again.

https://docs.dagster.io/guides/build/assets/defining-assets
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

import dagster as dg

from rasteret_assets.errors import HarvestError
from rasteret_assets.harvesting.harvest import harvest_items, refuse_failed_windows
from rasteret_assets.harvesting.harvest_report import HarvestReport, WindowResult
from rasteret_assets.harvesting.window_ledger import WindowState, read_ledger
from rasteret_assets.harvesting.windows import moment_of
from rasteret_assets.orchestration.asset_graph.events import REPORTED
from rasteret_assets.orchestration.asset_graph.graph_partitions import (
    grouped,
    run_partitions,
    selection_tags,
    windows_of,
)
from rasteret_assets.orchestration.graph_names import (
    HARVESTED,
    harvest_job_name,
    harvest_windows_job_name,
    identifier,
    op_name,
    stage_key,
)
from rasteret_assets.orchestration.graph_resources import BuildOptions, FilesystemResource
from rasteret_assets.orchestration.pages.markdown import sentence
from rasteret_assets.orchestration.pages.reporting import PROGRESS_INTERVAL_S, explained, table_metadata
from rasteret_assets.orchestration.triggers.jobs import COLLECTION_TAG, REASON_TAG, asset_job, run_tags
from rasteret_assets.secrets import redact
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.workspace import Workspace

COMPLETE_CHECK: Final = "all_matching_items_harvested"
RECENT_CHECK: Final = "newest_item_is_recent"
#: Windows that a table on the asset's page lists at most.
_MOST_LISTED: Final = 50
_VERSION: Final = "dagster/data_version"

_Context: TypeAlias = dg.OpExecutionContext | dg.AssetExecutionContext


def harvest_definitions(spec: CollectionSpec, asset: dg.AssetSpec) -> dg.Definitions:
    """Return the asset of harvested items, and the schedule of the job that harvests windows that can have changed.

    Args:
        spec: of the collection, with ``harvest``.
        asset: spec of the asset.
    """
    harvested = _harvested_items(spec, asset)
    schedule = dg.ScheduleDefinition(
        name=f"{identifier(spec.name)}_harvest_schedule",
        job_name=harvest_job_name(spec),
        cron_schedule=spec.graph.harvest_cron,
        execution_timezone=spec.graph.timezone,
        tags={REASON_TAG: "harvest"},
        default_status=(dg.DefaultScheduleStatus.RUNNING if spec.graph.autostart else dg.DefaultScheduleStatus.STOPPED),
        description=(
            f"Harvests the STAC items of {spec.name}; the sensor {identifier(spec.name)}_refresh then builds what "
            "changed."
        ),
    )
    return dg.Definitions(assets=[harvested], schedules=[schedule])


def harvest_jobs(spec: CollectionSpec) -> list[Any]:
    """Return the jobs that harvest: the windows that can have changed, and the windows that a run selects."""
    windows = asset_job(
        spec,
        harvest_windows_job_name(spec),
        [stage_key(spec, HARVESTED)],
        f"Asks again for the selected windows of the STAC items of {spec.name}; a window is a partition of this job.",
    )
    return [_harvest_job(spec), windows]


def _harvest_job(spec: CollectionSpec) -> dg.JobDefinition:
    """Return the job that harvests all windows that can have changed.

    Not a job of the asset: Dagster's UI (1.13) launches the job of a partitioned asset for partitions only, and the
    first harvest finds out which there are.
    """

    @dg.op(name=op_name(spec, "harvest"), out={}, tags=spec.graph.op_tags)
    def harvest(
        context: dg.OpExecutionContext, rasteret_filesystem: FilesystemResource, rasteret_options: BuildOptions
    ) -> Iterator[Any]:
        workspace, report = _harvest(context, spec, rasteret_filesystem, force=rasteret_options.force or spec.force)
        # Yielded and not logged, because an op that fails loses events that it logged.
        yield from _events(context.instance, spec, workspace, report)
        yield from _evaluations(spec, report)
        _refuse(spec, report)

    @dg.job(
        name=harvest_job_name(spec),
        description=(
            f"Harvests the STAC items of {spec.name}: the windows that can have changed; all of them with force."
        ),
        tags={COLLECTION_TAG: spec.name},
        executor_def=dg.in_process_executor,
        run_tags=run_tags(spec),
    )
    def job() -> None:
        harvest()

    return job


def _harvested_items(spec: CollectionSpec, asset: dg.AssetSpec) -> dg.AssetsDefinition:
    @dg.multi_asset(
        name=op_name(spec, HARVESTED),
        specs=[asset],
        check_specs=_check_specs(spec),
        op_tags=spec.graph.op_tags,
        # In one run, because a run asks for its windows side by side, and runs of a harvest wait for each other.
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    def harvested_items(
        context: dg.AssetExecutionContext, rasteret_filesystem: FilesystemResource
    ) -> Iterator[dg.MaterializeResult[None]]:
        with explained():
            windows = run_partitions(context)
        workspace, report = _harvest(context, spec, rasteret_filesystem, windows=windows)
        for event in _events(context.instance, spec, workspace, report, windows):
            context.log_event(event)
        yield dg.MaterializeResult(asset_key=asset.key, metadata=REPORTED, check_results=_checked(spec, report))
        _refuse(spec, report)

    return harvested_items


def _harvest(
    context: _Context, spec: CollectionSpec, filesystem: FilesystemResource, *, force: bool = False,
    windows: Collection[str] | None = None,
) -> tuple[Workspace, HarvestReport]:  # fmt: skip
    with explained():
        workspace = filesystem.open_workspace(spec)
        report = harvest_items(
            spec, workspace, force=force, windows=windows, progress=_logged_progress(context)
        )  # fmt: skip
    context.log.info("%s", report)
    return workspace, report


def _refuse(spec: CollectionSpec, report: HarvestReport) -> None:
    """Fail a step in which windows failed, after all windows are reported.

    Raises:
        dagster.Failure: naming the windows that failed.
    """
    try:
        refuse_failed_windows(spec, report)
    except HarvestError as error:
        raise dg.Failure(description=str(error), allow_retries=True) from error


def harvest_requests(
    instance: dg.DagsterInstance, spec: CollectionSpec, partitions: Collection[str], salt: str
) -> list[dg.RunRequest]:
    """Return requests of runs that ask again for the windows of some partitions.

    For partitions without a window on the instance, a run is added that harvests all windows that can have changed.

    Args:
        instance: which knows the windows of earlier harvests.
        spec: of the collection.
        partitions: keys of partitions of the collection; a run that harvests all where there are none.
        salt: tells these requests from those of other ticks, because Dagster launches a run key only once.
    """
    order = list(instance.get_dynamic_partitions(str(windows_of(spec).name)))
    wanted = {window for window in order if _is_of_any(window, partitions)}
    tags = {COLLECTION_TAG: spec.name, REASON_TAG: "harvest"}
    requests = [
        dg.RunRequest(
            run_key=f"{salt} {group[0]}", job_name=harvest_windows_job_name(spec),
            partition_key=group[0] if len(group) == 1 else None, tags={**tags, **selection_tags(group)},
        )
        for group in grouped(order, wanted, spec.graph)
    ]  # fmt: skip
    if not partitions or not all(_is_of_any(key, wanted) for key in partitions):
        requests.append(dg.RunRequest(run_key=f"{salt} all", job_name=harvest_job_name(spec), tags=tags))
    return requests


def report_harvest(
    instance: dg.DagsterInstance, spec: CollectionSpec, workspace: Workspace, report: HarvestReport
) -> None:
    """Report to an instance a harvest that was not one of its runs.

    Args:
        instance: on which the asset is shown.
        spec: of the collection.
        workspace: of the collection.
        report: of the harvest.
    """
    for event in (*_events(instance, spec, workspace, report), *_evaluations(spec, report)):
        instance.report_runless_asset_event(event)


def _events(
    instance: dg.DagsterInstance, spec: CollectionSpec, workspace: Workspace, report: HarvestReport,
    of_run: Collection[str] = (),
) -> Iterator[dg.AssetMaterialization | dg.AssetObservation]:  # fmt: skip
    """Register the windows of a harvest as partitions, and yield the events that report the harvest.

    The events are a materialization for each window whose content differs from the last one reported, an observation
    for each window that failed, and one observation without a partition for the harvest. Windows that did not change
    have no event, and take two queries, however many there are.

    Args:
        instance: that has the events of earlier harvests.
        spec: of the collection.
        workspace: of the collection.
        report: of the harvest.
        of_run: windows that the run was launched for. They, or the parts they were split into, have an event even if
            they did not change.
    """
    key, ledger = stage_key(spec, HARVESTED), read_ledger(workspace)
    _register(instance, spec, ledger.windows, of_run)
    latest = instance.event_log_storage.get_latest_tags_by_partition(
        key, dg.DagsterEventType.ASSET_MATERIALIZATION, tag_keys=[_VERSION], asset_partitions=list(ledger.windows)
    )
    for window, state in ledger.windows.items():
        if window in report.failed:
            reason = report.failed[window]
            yield dg.AssetObservation(
                key, partition=window, description=sentence(reason), metadata={"failure": reason}
            )  # fmt: skip
        # The digest is empty where the window was never harvested.
        elif state.digest and (_is_of_any(window, of_run) or latest.get(window, {}).get(_VERSION) != state.digest):
            metadata = _window_metadata(state, report.asked.get(window), workspace.harvested_file(window))
            tags = {_VERSION: state.digest, "dagster/data_version_is_user_provided": "true"}
            yield dg.AssetMaterialization(key, partition=window, metadata=metadata, tags=tags)
    yield dg.AssetObservation(key, metadata=_metadata(report))


def _register(
    instance: dg.DagsterInstance, spec: CollectionSpec, windows: Mapping[str, WindowState], of_run: Collection[str]
) -> None:
    """Bring the partitions of the asset to the windows of a harvest, in order of time as far as they are new."""
    name = str(windows_of(spec).name)
    before = instance.get_dynamic_partitions(name)
    if new := windows.keys() - set(before):
        instance.add_dynamic_partitions(name, sorted(new, key=lambda window: windows[window].start or ""))
    for window in before:
        # Removed, because the window was split or is no longer harvested. Windows of this run are left for the next
        # harvest, because Dagster (1.13) fails a run whose partition is gone at its end.
        if window not in windows and window not in of_run:
            instance.delete_dynamic_partition(name, window)


def _is_of_any(window: str, keys: Collection[str]) -> bool:
    """Tell whether a window is the same as, a part of, or more than some other window or partition, by their keys."""
    return any(window.startswith(key) or key.startswith(window) for key in keys)


def _check_specs(spec: CollectionSpec) -> list[dg.AssetCheckSpec]:
    hours = spec.graph.newest_item_within_hours
    limit = "set graph: {newest_item_within_hours: ...} for a limit" if hours is None else f"at most {hours:g} hours"
    return [
        dg.AssetCheckSpec(
            COMPLETE_CHECK, asset=stage_key(spec, HARVESTED),
            description="Each window that was asked for has all pages, as many items as the API says match, and no "
            "item twice.",
        ),
        dg.AssetCheckSpec(
            RECENT_CHECK, asset=stage_key(spec, HARVESTED), description=f"How old the newest item is: {limit}."
        ),
    ]  # fmt: skip


def _checked(spec: CollectionSpec, report: HarvestReport) -> list[dg.AssetCheckResult]:
    return [_complete(spec, report), _recent(spec, report, datetime.now(UTC))]


def _evaluations(spec: CollectionSpec, report: HarvestReport) -> Iterator[dg.AssetCheckEvaluation]:
    for result in _checked(spec, report):
        yield dg.AssetCheckEvaluation(
            asset_key=stage_key(spec, HARVESTED),
            check_name=str(result.check_name),
            passed=result.passed,
            metadata=result.metadata or {},
            severity=result.severity,
            description=result.description,
        )


def _complete(spec: CollectionSpec, report: HarvestReport) -> dg.AssetCheckResult:
    failed = report.failed
    text = f"all {len(report.asked)} windows that were asked for are complete"
    if failed:
        key, reason = min(failed.items())
        text = f"{len(failed)} windows failed and keep their earlier items; {key}: {reason}"
    elif report.unread:
        reason = min(report.unread.values())
        text = f"{len(report.unread)} documents of the catalog cannot be read; items stored before are kept; {reason}"
    return dg.AssetCheckResult(
        asset_key=stage_key(spec, HARVESTED), check_name=COMPLETE_CHECK, passed=not failed and not report.unread,
        severity=dg.AssetCheckSeverity.ERROR if failed else dg.AssetCheckSeverity.WARN, description=sentence(text),
        metadata={
            "windows_asked": len(report.asked), "windows_failed": len(failed), "documents_not_read": len(report.unread),
        },
    )  # fmt: skip


def _recent(spec: CollectionSpec, report: HarvestReport, now: datetime) -> dg.AssetCheckResult:
    newest, most = moment_of(report.newest or ""), spec.graph.newest_item_within_hours
    hours = None if newest is None else (now - newest).total_seconds() / 3600
    text = "no item was harvested" if hours is None else f"the newest item is {hours:.1f} hours old ({report.newest})"
    return dg.AssetCheckResult(
        asset_key=stage_key(spec, HARVESTED), check_name=RECENT_CHECK,
        passed=most is None or (hours is not None and hours <= most), severity=dg.AssetCheckSeverity.WARN,
        description=sentence(text), metadata={} if hours is None else {"age_hours": round(hours, 3)},
    )  # fmt: skip


def _window_metadata(state: WindowState, result: WindowResult | None, path: str) -> dict[str, Any]:
    """Return the metadata of one window.

    Args:
        state: of the window.
        result: of the harvest that asked for the window; None where an earlier harvest did.
        path: of the window's file.
    """
    metadata: dict[str, Any] = {
        "dagster/partition_row_count": state.items, "newest_item": state.newest or "",
        "start": state.start or "", "end": state.end or "", "asked": state.asked or "",
        **{f"items_without_{name}": count for name, count in state.without.items()},
    }  # fmt: skip
    if state.matched is not None:
        metadata["items_matched"] = state.matched
    if result is not None:
        metadata |= {"items_new": result.new, "items_changed": result.changed, "items_gone": result.gone}
    if state.items:
        metadata["path"] = dg.MetadataValue.path(redact(path))
    return metadata


def _metadata(report: HarvestReport) -> dict[str, Any]:
    """Return the metadata of a harvest: numbers that Dagster plots, and the windows that it asked for."""
    totals = report.totals
    metadata: dict[str, Any] = {
        "dagster/row_count": report.items, "windows": report.windows, "windows_asked": len(report.asked),
        "windows_failed": len(report.failed), "items_new": totals["new"], "items_changed": totals["changed"],
        "items_gone": totals["gone"], "files_replaced": totals["rewritten"], "requests": report.requests,
        "newest_item": report.newest or "", "asked_for_all_windows": report.full,
        **{f"items_without_{name}": count for name, count in report.without.items()},
    }  # fmt: skip
    rows = [
        {"window": key, "items": found.items, "new": found.new, "changed": found.changed, "gone": found.gone}
        for key, found in sorted(report.asked.items(), reverse=True)
    ]
    if rows:
        metadata["asked"] = table_metadata(rows[:_MOST_LISTED])
    if report.failed:
        failed = [{"window": key, "reason": reason} for key, reason in sorted(report.failed.items())]
        metadata["failed"] = table_metadata(failed[:_MOST_LISTED])
    return metadata


def _logged_progress(context: _Context) -> Callable[[int, int, int], None]:
    last = time.monotonic()

    def report(done: int, total: int, items: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PROGRESS_INTERVAL_S:
            last = now
            context.log.info("%s of %s windows, %s items", done, total, items)

    return report
