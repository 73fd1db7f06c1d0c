"""The harvest of STAC items as part of the graph: an asset upstream of the record table, its job, schedule and checks.

The asset has no partitions: which windows have to be asked for is found out by the harvest itself.

https://docs.dagster.io/guides/build/assets/defining-assets
"""

import time
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime
from typing import Any, Final

import dagster as dg

from rasteret_assets.errors import HarvestError
from rasteret_assets.harvesting.harvest import harvest_items, refuse_failed_windows
from rasteret_assets.harvesting.ledger import Ledger, read_ledger
from rasteret_assets.harvesting.report import HarvestReport
from rasteret_assets.harvesting.windows import moment_of
from rasteret_assets.orchestration.graph_names import HARVESTED, harvest_job_name, identifier, op_name, stage_key
from rasteret_assets.orchestration.graph_resources import BuildOptions, FilesystemResource
from rasteret_assets.orchestration.jobs import COLLECTION_TAG, REASON_TAG
from rasteret_assets.orchestration.markdown import sentence
from rasteret_assets.orchestration.reporting import PROGRESS_INTERVAL_S, explained, table_metadata
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.workspace import Workspace
from rasteret_assets.versions import files_version

#: Tag of a run: years, months or days, separated by commas, whose windows it asks for in any case.
WINDOWS_TAG: Final = "rasteret_assets/windows"
COMPLETE_CHECK: Final = "all_matching_items_harvested"
RECENT_CHECK: Final = "newest_item_is_recent"
#: Windows that a table on the asset's page lists.
_MOST_LISTED: Final = 50


def harvest_definitions(spec: CollectionSpec, asset: dg.AssetSpec) -> dg.Definitions:
    """Return the asset of harvested items, and the schedule of the job that makes it.

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
            f"Harvests the STAC items of {spec.name}; {identifier(spec.name)}_refresh then builds what changed."
        ),
    )
    return dg.Definitions(assets=[harvested], schedules=[schedule])


def _harvested_items(spec: CollectionSpec, asset: dg.AssetSpec) -> dg.AssetsDefinition:
    @dg.multi_asset(
        name=op_name(spec, HARVESTED), specs=[asset], check_specs=_check_specs(spec), op_tags=spec.graph.op_tags
    )
    def harvested_items(
        context: dg.AssetExecutionContext, rasteret_filesystem: FilesystemResource, rasteret_options: BuildOptions
    ) -> Iterator[Any]:
        with explained():
            workspace = rasteret_filesystem.open_workspace(spec)
            also = context.run.tags.get(WINDOWS_TAG, "")
            report = harvest_items(
                spec, workspace, force=rasteret_options.force or spec.force, also=also.split(",") if also else (),
                progress=_logged_progress(context),
            )  # fmt: skip
            ledger = read_ledger(workspace)
        context.log.info("%s", report)
        yield dg.MaterializeResult(
            asset_key=asset.key, metadata=_metadata(report), data_version=dg.DataVersion(_version(ledger)),
            check_results=[_complete(spec, report), _recent(spec, report, datetime.now(UTC))],
        )  # fmt: skip
        try:
            refuse_failed_windows(spec, report)
        except HarvestError as error:
            # After the asset is reported: the other windows are harvested.
            raise dg.Failure(description=str(error), allow_retries=True) from error

    return harvested_items


def harvest_request(spec: CollectionSpec, windows: Collection[str], run_key: str) -> dg.RunRequest:
    """Return the request of a run that harvests.

    Args:
        spec: of the collection.
        windows: years, months or days whose windows it asks for in any case.
        run_key: of the run; Dagster launches each once.
    """
    tags = {COLLECTION_TAG: spec.name, REASON_TAG: "harvest", WINDOWS_TAG: ",".join(sorted(windows))}
    return dg.RunRequest(run_key=run_key, job_name=harvest_job_name(spec), tags=tags)


def report_harvest(
    instance: dg.DagsterInstance, spec: CollectionSpec, workspace: Workspace, report: HarvestReport
) -> None:
    """Tell an instance of a harvest that no run of it did.

    Args:
        instance: on which the asset is shown.
        spec: of the collection.
        workspace: of the collection.
        report: of the harvest.
    """
    instance.report_runless_asset_event(
        dg.AssetMaterialization(
            stage_key(spec, HARVESTED),
            metadata=_metadata(report),
            tags={"dagster/data_version": _version(read_ledger(workspace))},
        )
    )
    for result in (_complete(spec, report), _recent(spec, report, datetime.now(UTC))):
        instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(
                asset_key=stage_key(spec, HARVESTED),
                check_name=str(result.check_name),
                passed=result.passed,
                metadata=result.metadata or {},
                severity=result.severity,
                description=result.description,
            )
        )


def _version(ledger: Ledger) -> str:
    """What the asset holds, whenever it was harvested."""
    return files_version(f"{key} {state.digest}" for key, state in sorted(ledger.windows.items()))


def _check_specs(spec: CollectionSpec) -> list[dg.AssetCheckSpec]:
    hours = spec.graph.newest_item_within_hours
    told = (
        "graph: {newest_item_within_hours: ...} says what is too old" if hours is None else f"{hours:g} hours at most"
    )
    return [
        dg.AssetCheckSpec(
            COMPLETE_CHECK, asset=stage_key(spec, HARVESTED),
            description="Whether each window that was asked for has as many items as match, none twice, and all pages.",
        ),
        dg.AssetCheckSpec(
            RECENT_CHECK, asset=stage_key(spec, HARVESTED), description=f"How old the newest item is: {told}."
        ),
    ]  # fmt: skip


def _complete(spec: CollectionSpec, report: HarvestReport) -> dg.AssetCheckResult:
    failed = report.failed
    text = f"all {len(report.asked)} windows that were asked for are whole"
    if failed:
        key, reason = min(failed.items())
        text = f"{len(failed)} windows keep what they had, because their pages do not add up; {key}: {reason}"
    return dg.AssetCheckResult(
        asset_key=stage_key(spec, HARVESTED), check_name=COMPLETE_CHECK, passed=not failed,
        severity=dg.AssetCheckSeverity.ERROR, description=sentence(text),
        metadata={"windows_asked": len(report.asked), "windows_failed": len(failed)},
    )  # fmt: skip


def _recent(spec: CollectionSpec, report: HarvestReport, now: datetime) -> dg.AssetCheckResult:
    newest, most = moment_of(report.newest or ""), spec.graph.newest_item_within_hours
    hours = None if newest is None else (now - newest).total_seconds() / 3600
    text = "there is no item" if hours is None else f"the newest item is {hours:.1f} hours old ({report.newest})"
    return dg.AssetCheckResult(
        asset_key=stage_key(spec, HARVESTED), check_name=RECENT_CHECK,
        passed=most is None or (hours is not None and hours <= most), severity=dg.AssetCheckSeverity.WARN,
        description=sentence(text), metadata={} if hours is None else {"age_hours": round(hours, 3)},
    )  # fmt: skip


def _metadata(report: HarvestReport) -> dict[str, Any]:
    """Return what the asset's page tells: numbers that Dagster plots, and the windows that were asked for."""
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


def _logged_progress(context: dg.AssetExecutionContext) -> Callable[[int, int, int], None]:
    last = time.monotonic()

    def report(done: int, total: int, items: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PROGRESS_INTERVAL_S:
            last = now
            context.log.info("%s of %s windows, %s items", done, total, items)

    return report
