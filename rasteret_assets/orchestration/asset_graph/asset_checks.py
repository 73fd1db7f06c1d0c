"""Define the checks of a collection as Dagster asset checks: one evaluation of each check for all partitions of a run.

Checks of the stages before the last are part of the step that writes their table. A partition that a blocking check
refuses is left out of the rest of the run, so that it is not published. Dagster's own blocking is not used, because it
would stop the other partitions of the run too. The checks of the published file are a step of their own, so that the UI
can run them again without a build.

One evaluation covers all partitions of a run: it tells how many pass, and which do not, because Dagster keeps an event
for each evaluation, which takes longer than the check.

https://docs.dagster.io/guides/test/asset-checks
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import dagster as dg

from rasteret_assets.checks import Check, Finding, check_stage, checks_of
from rasteret_assets.errors import CheckError
from rasteret_assets.orchestration.asset_graph.events import failures_of_run, run_failure
from rasteret_assets.orchestration.asset_graph.graph_partitions import partitions_name, selected_keys
from rasteret_assets.orchestration.graph_names import PUBLISHED_CHECKS, op_name, stage_key
from rasteret_assets.orchestration.graph_resources import FilesystemResource
from rasteret_assets.orchestration.pages.markdown import sentence
from rasteret_assets.orchestration.pages.reporting import explained, table_metadata
from rasteret_assets.schema import COLLECTION, NORMALIZED, REJECTED
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.filesystems import each_file
from rasteret_assets.storage.workspace import Workspace

#: Findings by partition, then by check; a partition whose records are gone has none.
Findings = Mapping[str, Mapping[str, Finding]]

_GONE: Final = "the partition has no records any more, so there is nothing to check"
#: Further tables of an asset, beside the table of its stage.
_BESIDE: Final[Mapping[str, tuple[str, ...]]] = {NORMALIZED: (REJECTED,)}
#: Partitions that the table of an evaluation names.
_MOST_LISTED: Final = 50


def checks_of_asset(stage: str) -> list[Check]:
    """Return the checks of a stage's asset: those of its table and of the tables beside it."""
    return checks_of(*_tables_of(stage))


def _tables_of(stage: str) -> tuple[str, ...]:
    return (stage, *_BESIDE.get(stage, ()))


def check_specs(spec: CollectionSpec, stage: str) -> list[dg.AssetCheckSpec]:
    """Return the check specs of a stage's asset."""
    return [
        dg.AssetCheckSpec(
            check.name,
            asset=stage_key(spec, stage),
            description=f"{check.description} An error keeps the partition from being published."
            if check.blocking
            else check.description,
        )
        for check in checks_of_asset(stage)
    ]


def findings_of(workspace: Workspace, spec: CollectionSpec, stage: str, keys: Sequence[str]) -> Findings:
    """Return the findings of a stage's checks in some partitions."""

    def found(key: str) -> dict[str, Finding]:
        return {finding.check: finding for finding in check_stage(workspace, spec, key, *_tables_of(stage))}

    return dict(zip(keys, each_file(workspace.fs, found, keys), strict=True))


def refused(stage: str, findings: Findings) -> dict[str, CheckError]:
    """Return the errors of partitions that blocking checks of a stage refuse, by key."""
    blocking = {check.name for check in checks_of_asset(stage) if check.blocking}
    errors = {
        key: "; ".join(
            f"check {name}: {finding.message}"
            for name, finding in found.items()
            if name in blocking and finding.verdict == "error"
        )
        for key, found in findings.items()
    }
    return {key: CheckError(text) for key, text in errors.items() if text}


def check_results(spec: CollectionSpec, stage: str, findings: Findings) -> list[dg.AssetCheckResult]:
    """Return one evaluation of each check of a stage."""
    return [_evaluated(check, stage_key(spec, stage), findings) for check in checks_of_asset(stage)]


def published_checks(spec: CollectionSpec) -> dg.AssetChecksDefinition:
    """Return the checks of the published collection, as a step that runs without a build too."""

    @dg.multi_asset_check(
        name=op_name(spec, PUBLISHED_CHECKS),
        specs=check_specs(spec, COLLECTION),
        description="Checks that published files are as they were written, and that no record was lost, in the "
        "partitions of the run, or in all published partitions if the run has no partition.",
    )
    def published(
        context: dg.AssetCheckExecutionContext, rasteret_filesystem: FilesystemResource
    ) -> Iterator[dg.AssetCheckResult]:
        with explained():
            workspace = rasteret_filesystem.open_workspace(spec)
            failures = failures_of_run(context.instance, context.run.run_id, spec)
            chosen = selected_keys(context.run, context.instance.get_dynamic_partitions(partitions_name(spec)))
            keys = [key for key in chosen or workspace.states() if key not in failures]
            findings = findings_of(workspace, spec, COLLECTION, keys)
        yield from check_results(spec, COLLECTION, findings)
        if failures:
            raise run_failure(failures.values(), len(keys))

    return published


def _evaluated(check: Check, asset: dg.AssetKey, findings: Findings) -> dg.AssetCheckResult:
    outcomes = {key: _outcome(check, found) for key, found in findings.items()}
    amiss = {key: outcome for key, outcome in outcomes.items() if not outcome.passed}
    wrong = [key for key, outcome in amiss.items() if outcome.is_error]
    first = next(iter(wrong or amiss), None)
    numbers: dict[str, Any] = {"partitions": len(outcomes), "failed_partitions": len(amiss)}
    if first is None:
        text = f"all {len(outcomes)} partitions pass" if outcomes else "there is no partition to check"
    else:
        text = f"{first}: {amiss[first].text}"
        if len(outcomes) > 1:
            text = f"{len(amiss)} of {len(outcomes)} partitions do not pass; {text}"
        rows = [{"partition": key, "finding": outcome.text} for key, outcome in amiss.items()]
        numbers["failing"] = table_metadata(rows[:_MOST_LISTED])
    if len(outcomes) == 1:
        ((key, outcome),) = outcomes.items()
        text, numbers = f"{key}: {outcome.text}", {**numbers, **outcome.numbers}
    return dg.AssetCheckResult(
        asset_key=asset,
        check_name=check.name,
        passed=not amiss,
        severity=dg.AssetCheckSeverity.ERROR if wrong else dg.AssetCheckSeverity.WARN,
        description=sentence(text),  # escaped, because the UI reads it as Markdown
        metadata=numbers,
    )


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    """The finding of a check in a partition, as Dagster shows it."""

    passed: bool
    is_error: bool
    text: str
    numbers: Mapping[str, Any]


def _outcome(check: Check, found: Mapping[str, Finding]) -> _Outcome:
    finding = found.get(check.name)
    if finding is None:
        return _Outcome(passed=True, is_error=False, text=_GONE, numbers={})
    numbers: dict[str, Any] = dict(finding.numbers)
    if finding.rows:
        numbers["findings"] = table_metadata(finding.rows)
    return _Outcome(passed=finding.passed, is_error=finding.error, text=finding.message, numbers=numbers)
