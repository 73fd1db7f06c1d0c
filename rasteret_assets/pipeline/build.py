"""Run the four stages in a row over some partitions, for the library and the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from rasteret_assets.headers.band_metadata import check_enrichment
from rasteret_assets.headers.retried import MISSING
from rasteret_assets.headers.unused import sweep_headers
from rasteret_assets.pipeline._header_stage import LATENCY_PREFIX
from rasteret_assets.pipeline.stage import Build, StageResult, held_together
from rasteret_assets.pipeline.stages import run_stage
from rasteret_assets.publish.parameters import KEPT, TAKEN, tell_parameters
from rasteret_assets.publish.partition import publish_collection_document
from rasteret_assets.schema import BANDS, COLLECTION, NORMALIZED, RAW, STAGES
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.filesystems import each_file
from rasteret_assets.storage.workspace import Workspace
from rasteret_assets.storage.workspace.commit import announce_new

# Counts that a report has even if no partition was built.
_ALWAYS_COUNTED: Final = ("rejected_records", "headers_fetched", "headers_reused", "headers_failed", "requests")


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """The results of a build.

    Args:
        reasons: why each partition was built, by key.
        results: of the stages, by stage and then by key.
    """

    reasons: dict[str, str]
    results: dict[str, dict[str, StageResult]]

    @property
    def totals(self) -> dict[str, int | float]:
        """Return the counts of all stages, summed over the partitions; ``records`` counts published records."""
        sums: dict[str, int | float] = dict.fromkeys(_ALWAYS_COUNTED, 0)
        for by_key in self.results.values():
            for result in by_key.values():
                for name, value in result.counts.items():
                    if not isinstance(value, str) and not name.startswith(LATENCY_PREFIX):
                        sums[name] = sums.get(name, 0) + value
        records = sum(result.rows for result in self.results[COLLECTION].values())
        return {"partitions": len(self.reasons), "records": records, **sums}

    @property
    def query_parameters(self) -> dict[str, list[str]]:
        """Return the query parameters of published addresses by name: ``kept``, and ``taken_out`` as secrets."""
        results = self.results[COLLECTION].values()
        return {"kept": sorted(names_of(results, KEPT)), "taken_out": sorted(names_of(results, TAKEN))}


def build_partitions(
    build: Build,
    keys: Sequence[str],
    *,
    require: Callable[[Workspace, CollectionSpec, Sequence[str]], None] | None = None,
) -> dict[str, dict[str, StageResult]]:
    """Run all four stages over some partitions; publish nothing if no header of the build could be read.

    Args:
        build: workspace, spec, source and backend.
        keys: partitions to build; a partition that is gone from the source is unpublished.
        require: called with the partitions before any of them is published; an error that it raises stops the build.

    Returns:
        Results by stage, then by key.

    Raises:
        EnrichmentError: if every header of the build failed.
        InvalidRecordError: if more records than ``max_rejected`` break the contract.
    """
    workspace = build.workspace
    results: dict[str, dict[str, StageResult]] = {stage: {} for stage in STAGES}

    def run(stage: str) -> None:
        results[stage] = {result.key: result for result in run_stage(stage, build, keys)}

    with held_together(workspace, keys) as holds:
        for stage in (RAW, NORMALIZED, BANDS):
            run(stage)
        refuse_without_headers(workspace, list(results[BANDS].values()))
        if require is not None:
            require(workspace, build.spec, keys)
        # All locks, because records may have moved between partitions: a build that slept and lost one publishes none.
        each_file(workspace.fs, lambda key: holds[key].confirm(), list(holds))
        # Before the first is published, so that a collection of a build that dies midway does not look complete.
        announce_new(workspace, keys)
        run(COLLECTION)
        tell_parameters(*(names_of(results[COLLECTION].values(), name) for name in (KEPT, TAKEN)))
        tidy(build)
    return results


def names_of(results: Iterable[StageResult], count: str) -> set[str]:
    """Return the names of parameters in a count of the collection stage, over all partitions."""
    return {name for result in results for name in str(result.counts.get(count, "")).split("\n") if name}


def tidy(build: Build) -> None:
    """Write ``collection.json``, and delete headers that no partition needs, after partitions were published."""
    publish_collection_document(build.workspace, build.spec)
    sweep_headers(build.workspace)


def refuse_without_headers(
    workspace: Workspace, results: Sequence[StageResult], *, transient_only: bool = False
) -> None:
    """Stop a build that could read no header; published files stay.

    A partition that is published with no headers, because all its files are missing, does not stop a build, because a
    further try that finds no file loses nothing.

    Args:
        workspace: of the collection; ledgers are read only if every row of every ledger failed.
        results: of the band metadata stage, for all partitions of the build.
        transient_only: whether to stop only for failures that may pass.

    Raises:
        EnrichmentError: with the most frequent failures, an example, and what helps.
    """
    built = [result for result in results if result.rows]
    if all(result.counts["headers_failed"] == result.rows for result in built):
        built = [result for result in built if not _is_waiting(workspace, result)]
        ledgers = [workspace.read_table(result.path) for result in built]
        check_enrichment([ledger for ledger in ledgers if ledger is not None], transient_only=transient_only)


def _is_waiting(workspace: Workspace, result: StageResult) -> bool:
    """Tell whether a partition is published, and lacks all its headers because their files are missing."""
    state = workspace.state(result.key) or {}
    return int(state.get("failures", {}).get(MISSING, 0)) >= result.rows
