"""Run a stage over the partitions of a run; a partition that fails does not stop the others.

A partition that failed in one step is left out of the later steps of the run. The last step fails and names all failed
partitions, so that the run does not show as successful.
"""

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from rasteret_assets.errors import RasteretAssetsError
from rasteret_assets.orchestration.asset_graph.asset_checks import check_results, findings_of, refused
from rasteret_assets.orchestration.asset_graph.events import (
    REPORTED,
    PartitionFailure,
    failures_of_run,
    materializations,
    observation_of,
    run_failure,
)
from rasteret_assets.orchestration.asset_graph.graph_partitions import run_partitions
from rasteret_assets.orchestration.graph_names import PUBLISHED_CHECKS, code_version, op_name, stage_key
from rasteret_assets.pipeline.stage import Build, StageResult
from rasteret_assets.pipeline.stages import run_stage
from rasteret_assets.schema import COLLECTION, STAGES
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.filesystems import each_file
from rasteret_assets.storage.workspace import Workspace

#: Returns the metadata of a partition from its result.
Describe = Callable[[StageResult], Mapping[str, Any]]
#: Returns the metadata of a failed partition from its key and error.
Explain = Callable[[str, Exception], Mapping[str, Any]]


class StageStep:
    """A step of a run: one stage, over the run's partitions.

    Args:
        context: of the step.
        workspace: of the collection.
        spec: of the collection.
        stage: of the step.
    """

    def __init__(
        self, context: dg.AssetExecutionContext, workspace: Workspace, spec: CollectionSpec, stage: str
    ) -> None:
        self.context = context
        self.workspace = workspace
        self.spec = spec
        self.stage = stage
        all_keys = run_partitions(context)
        self.failures = failures_of_run(context.instance, context.run.run_id, spec)
        #: Partitions of the run that have not failed.
        self.keys = [key for key in all_keys if key not in self.failures]

    @property
    def steps_of_run(self) -> list[str]:
        """Return the steps of the collection in this run, in the order in which data flows.

        A step has the name of its stage; the last is
        :data:`~rasteret_assets.orchestration.graph_names.PUBLISHED_CHECKS`.
        """
        there, chosen = {node.name for node in self.context.job_def.nodes}, self.context.run.step_keys_to_execute
        names = {step: op_name(self.spec, step) for step in (*STAGES, PUBLISHED_CHECKS)}
        return [step for step, name in names.items() if name in there and (chosen is None or name in chosen)]

    def run(self, build: Build, explain: Explain = lambda _key, _error: {}) -> list[StageResult]:
        """Run the stage over the partitions that have not failed.

        Args:
            build: workspace, spec, and the source, backend and options that the stage needs.
            explain: returns metadata that help to see why a partition failed.
        """
        build.failed = {}
        results = run_stage(self.stage, build, self.keys)
        for key, error in build.failed.items():
            if not isinstance(error, RasteretAssetsError):
                self.context.log.error("".join(traceback.format_exception(error)))
            self.fail(key, error, explain(key, error))
        return results

    def fail(self, key: str, error: Exception, metadata: Mapping[str, Any] | None = None) -> None:
        """Leave a partition out of the rest of the run, and log the reason as an event."""
        if key not in self.failures:
            failure = PartitionFailure.of(key, self.stage, error)
            self.failures[key] = failure
            self.context.log.error(str(failure))
            self.context.log_event(observation_of(self.spec, failure, metadata or {}))
        self.keys = [other for other in self.keys if other != key]

    def report(self, results: Sequence[StageResult], describe: Describe) -> Iterator[dg.MaterializeResult[None]]:
        """Log an event for each partition, evaluate the stage's checks, and yield the step's output.

        Args:
            results: of the partitions that were made.
            describe: returns the metadata of each.

        Raises:
            dagster.Failure: if partitions failed, in the last step of the run or when no partition is left.
        """
        made = [result for result in results if result.key not in self.failures]
        self._tell(made, describe)
        yield dg.MaterializeResult(
            asset_key=stage_key(self.spec, self.stage), metadata=REPORTED, check_results=self._check(made)
        )
        self.finish()

    def _tell(self, made: Sequence[StageResult], describe: Describe) -> None:
        """Log an event for each partition that was made."""
        by_key = {result.key: result for result in made}
        described = each_file(self.workspace.fs, lambda key: describe(by_key[key]), list(by_key))
        with_metadata = {result.key: (result.version, more) for result, more in zip(made, described, strict=True)}
        # The version of the asset, because a project may have changed it, and Dagster compares it with the event's.
        (asset,) = self.context.assets_def.specs
        version = asset.code_version or code_version(self.spec)
        for event in materializations(self.context.instance, self.spec, self.stage, version, with_metadata):
            self.context.log_event(event)

    def _check(self, made: Sequence[StageResult]) -> list[dg.AssetCheckResult]:
        """Evaluate the stage's checks; a partition that a blocking check refuses fails."""
        if self.stage == COLLECTION:
            return []  # because checks of the published file are a step of their own
        findings = findings_of(self.workspace, self.spec, self.stage, [result.key for result in made])
        for key, error in refused(self.stage, findings).items():
            self.fail(key, error)
        return check_results(self.spec, self.stage, findings)

    def finish(self) -> None:
        """End the step: fail it if partitions failed, in the last step of the run or when no partition is left.

        Raises:
            dagster.Failure: naming the failed partitions.
        """
        if self.failures and (not self.keys or self.stage == self.steps_of_run[-1]):
            raise run_failure(self.failures.values(), len(self.keys))
