"""The four stages in a row over some partitions: what the library and the command line call."""

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

# Also where nothing had to be built.
_ALWAYS_COUNTED: Final = ("rejected_records", "headers_fetched", "headers_reused", "headers_failed", "requests")


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """What a build did.

    Args:
        reasons: why each partition was built, by key.
        results: by stage, then by key.
    """

    reasons: dict[str, str]
    results: dict[str, dict[str, StageResult]]

    @property
    def totals(self) -> dict[str, int | float]:
        """Counts of all stages, summed over the partitions; ``records`` are those published."""
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
        """Names of the query parameters of published addresses: ``kept``, and those ``taken_out`` as secrets."""
        results = self.results[COLLECTION].values()
        return {"kept": sorted(names_of(results, KEPT)), "taken_out": sorted(names_of(results, TAKEN))}


def build_partitions(
    build: Build,
    keys: Sequence[str],
    *,
    require: Callable[[Workspace, CollectionSpec, Sequence[str]], None] | None = None,
) -> dict[str, dict[str, StageResult]]:
    """Run all four stages over some partitions; nothing is published where not one header of the build could be read.

    Args:
        build: what they work on.
        keys: partitions to build; those the source no longer has are unpublished.
        require: called with the partitions before any of them is published; what it raises stops the build.

    Returns:
        Results by stage, then by key.

    Raises:
        EnrichmentError: if every header of the build failed.
        InvalidRecordError: if more records than tolerated break the contract.
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
        # A build that slept and lost one partition publishes none: records may have moved between them.
        each_file(workspace.fs, lambda key: holds[key].confirm(), list(holds))
        # So that a build that dies among these leaves no collection that looks whole.
        announce_new(workspace, keys)
        run(COLLECTION)
        tell_parameters(*(names_of(results[COLLECTION].values(), name) for name in (KEPT, TAKEN)))
        tidy(build)
    return results


def names_of(results: Iterable[StageResult], count: str) -> set[str]:
    """Return the names of parameters that a count of the collection stage holds, over all partitions."""
    return {name for result in results for name in str(result.counts.get(count, "")).split("\n") if name}


def tidy(build: Build) -> None:
    """Do what follows the publication of partitions: the catalog document, and headers that nobody needs."""
    publish_collection_document(build.workspace, build.spec)
    sweep_headers(build.workspace)


def refuse_without_headers(
    workspace: Workspace, results: Sequence[StageResult], *, transient_only: bool = False
) -> None:
    """Stop a build of which not one header came: what was published before stays.

    A partition that was published without its headers, because their files are missing, loses nothing by a further try
    that finds none of them: it stops no build.

    Args:
        workspace: where the ledgers lie; they are read only if every row of every one failed.
        results: of the band metadata stage, for all partitions of the build.
        transient_only: stop only for failures that another try may mend.

    Raises:
        EnrichmentError: with the commonest failures, the first of them, and what helps.
    """
    built = [result for result in results if result.rows]
    if all(result.counts["headers_failed"] == result.rows for result in built):
        built = [result for result in built if not _is_waiting(workspace, result)]
        ledgers = [workspace.read_table(result.path) for result in built]
        check_enrichment([ledger for ledger in ledgers if ledger is not None], transient_only=transient_only)


def _is_waiting(workspace: Workspace, result: StageResult) -> bool:
    """Whether a partition is published, and lacks all its headers because their files are missing."""
    state = workspace.state(result.key) or {}
    return int(state.get("failures", {}).get(MISSING, 0)) >= result.rows
