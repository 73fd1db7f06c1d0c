"""The checks of a collection as Dagster asset checks, one evaluation per partition.

Checks of the stages before the last are part of the step that writes their table: those that block are evaluated
before anything is published. The published file has a step of its own, so that it can be checked again from the UI
without being built again.

https://docs.dagster.io/guides/test/asset-checks
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from rasteret_assets.checks import Check, Finding, check_stage, checks_of
from rasteret_assets.orchestration.markdown import sentence
from rasteret_assets.orchestration.names import identifier, stage_key
from rasteret_assets.orchestration.partitions import partitions_of, run_partitions
from rasteret_assets.orchestration.reporting import explained, table_metadata
from rasteret_assets.orchestration.resources import FilesystemResource
from rasteret_assets.schema import COLLECTION
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.workspace import Workspace

_GONE = "the partition's records are gone: nothing is left to check"
_NOT_REACHED = "not looked at, because an earlier check of this table failed"


def check_specs(spec: CollectionSpec, *stages: str) -> list[dg.AssetCheckSpec]:
    """Return the declarations of the checks of some stages of a collection."""
    with warnings.catch_warnings():
        # Because partitions of checks are a preview in Dagster 1.13, which a user cannot act on.
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return [
            dg.AssetCheckSpec(
                check.name,
                asset=stage_key(spec, check.stage),
                description=check.description,
                blocking=check.blocking,
                partitions_def=partitions_of(spec),
            )
            for check in checks_of(*stages)
        ]


def stage_results(
    context: dg.OpExecutionContext | dg.AssetExecutionContext,
    workspace: Workspace,
    spec: CollectionSpec,
    keys: Sequence[str],
    stage: str,
) -> list[dg.AssetCheckResult]:
    """Evaluate the checks of a stage for the partitions of a run.

    Dagster takes one result per check and run. Where the run has several partitions, each gets an evaluation of its own
    in the event log, and the result sums them up.
    """
    checks = checks_of(stage)
    found = {key: {finding.check: finding for finding in check_stage(workspace, spec, key, stage)} for key in keys}
    asset = stage_key(spec, stage)
    if len(keys) == 1:
        return [_result(check, asset, found[keys[0]]) for check in checks]
    for key in keys:
        for check in checks:
            evaluation = dg.AssetCheckEvaluation(
                asset_key=asset,
                check_name=check.name,
                blocking=check.blocking,
                partition=key,
                **_outcome(check, found[key]),
            )
            # Dagster takes evaluations here, though its annotation leaves them out.
            context.log_event(evaluation)  # type: ignore[arg-type]
    return [_summary(check, asset, found) for check in checks]


def published_checks(spec: CollectionSpec) -> dg.AssetChecksDefinition:
    """Return the checks of the published collection, which can be run without building it."""

    @dg.multi_asset_check(
        name=f"{identifier(spec.name)}_published_checks",
        specs=check_specs(spec, COLLECTION),
        description="Whether what is published is what was written, and whole.",
    )
    def published(
        context: dg.AssetCheckExecutionContext, filesystem: FilesystemResource
    ) -> Iterator[dg.AssetCheckResult]:
        with explained():
            keys = run_partitions(context.op_execution_context)
            yield from stage_results(
                context.op_execution_context, filesystem.open_workspace(spec), spec, keys, COLLECTION
            )

    return published


def _result(check: Check, asset: dg.AssetKey, found: Mapping[str, Finding]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(asset_key=asset, check_name=check.name, **_outcome(check, found))


def _outcome(check: Check, found: Mapping[str, Finding]) -> dict[str, Any]:
    """Return ``passed``, ``severity``, ``description`` and ``metadata`` of one check of one partition."""
    finding = found.get(check.name)
    if finding is None:
        text = _NOT_REACHED if found else _GONE
        return {"passed": not found, "severity": dg.AssetCheckSeverity.WARN, "description": text, "metadata": {}}
    metadata: dict[str, Any] = dict(finding.numbers)
    if finding.rows:
        metadata["findings"] = table_metadata(finding.rows)
    return {
        "passed": finding.passed,
        "severity": dg.AssetCheckSeverity.ERROR if finding.error else dg.AssetCheckSeverity.WARN,
        "description": sentence(finding.message),  # which the UI reads as Markdown
        "metadata": metadata,
    }


def _summary(check: Check, asset: dg.AssetKey, found: Mapping[str, Mapping[str, Finding]]) -> dg.AssetCheckResult:
    outcomes = {key: _outcome(check, findings) for key, findings in found.items()}
    failed = [key for key, outcome in outcomes.items() if not outcome["passed"]]
    wrong = [key for key in failed if outcomes[key]["severity"] is dg.AssetCheckSeverity.ERROR]
    first = next(iter(wrong or failed), None)
    return dg.AssetCheckResult(
        asset_key=asset,
        check_name=check.name,
        passed=not failed,
        severity=dg.AssetCheckSeverity.ERROR if wrong else dg.AssetCheckSeverity.WARN,
        description=f"all {len(outcomes)} partitions of the run pass"
        if first is None
        else f"{len(failed)} of {len(outcomes)} partitions of the run do not pass; {first}: "
        f"{outcomes[first]['description']}",
        metadata={"partitions": len(outcomes), "failed_partitions": len(failed)},
    )
