"""What commands do with a Dagster instance: builds, harvests, runs and partitions that its UI shows.

Imported only where DAGSTER_HOME names an instance, because Dagster takes seconds to import.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dagster as dg

from rasteret_assets.cli.location import Location
from rasteret_assets.dagster import materialize_collection
from rasteret_assets.harvesting.harvest_report import HarvestReport
from rasteret_assets.orchestration.asset_graph.graph_partitions import discover_partitions
from rasteret_assets.orchestration.asset_graph.harvested_items import report_harvest
from rasteret_assets.orchestration.triggers.jobs import COLLECTION_TAG
from rasteret_assets.pipeline.plan import refuse_unknown, stale_partitions
from rasteret_assets.publish.parameters import KEPT, TAKEN
from rasteret_assets.source.stored import load_profile
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.workspace import Workspace
from rasteret_assets.storage.workspace.commit import verified_states

#: Numbers of a stage that the totals of a build add up.
HEADER_COUNTS = ("headers_fetched", "headers_reused", "headers_failed", "requests", "request_bytes")


@dataclass(frozen=True)
class Instance:
    """A Dagster instance.

    Args:
        instance: as Dagster has it.
    """

    instance: dg.DagsterInstance

    def build(
        self,
        spec: CollectionSpec,
        location: Location,
        *,
        force: bool,
        revalidate: bool,
        partitions: Sequence[str] | None,
    ) -> dict[str, Any]:
        """Build a collection through the graph, in this process, and return what was done.

        Returns:
            ``partitions`` (reason by key), ``totals`` and ``query_parameters``, as a report of the library has them.
        """
        workspace, trust_stored = location.workspace_of(spec), not (force or spec.force)
        source = location.source_of(spec, workspace, trust_stored=trust_stored)
        profile = load_profile(workspace, source, spec, trust_stored=trust_stored)
        states = verified_states(workspace)
        refuse_unknown(partitions, profile, states)
        reasons = stale_partitions(states, profile, spec, force=force, revalidate=revalidate, only=partitions)
        totals: Counter[str] = Counter(dict.fromkeys(("records", *HEADER_COUNTS), 0))
        parameters: dict[str, set[str]] = {KEPT: set(), TAKEN: set()}
        if reasons:
            counts = materialize_collection(
                spec, self.instance, resources=location.resources, keys=list(reasons), force=force,
                revalidate=revalidate,
            )  # fmt: skip
            for stages in counts.values():
                totals["records"] += stages.get("collection", {}).get("rows", 0)
                for name, names in parameters.items():
                    names.update(filter(None, str(stages.get("collection", {}).get(name, "")).split("\n")))
                headers = stages.get("band_metadata", {})
                totals.update({name: headers.get(name, 0) for name in HEADER_COUNTS})
        query_parameters = {"kept": sorted(parameters[KEPT]), "taken_out": sorted(parameters[TAKEN])}
        return {"partitions": reasons, "totals": dict(totals), "query_parameters": query_parameters}

    def report_harvest(self, spec: CollectionSpec, workspace: Workspace, report: HarvestReport) -> None:
        """Report a harvest that the library did, with the events of the asset of harvested items."""
        report_harvest(self.instance, spec, workspace, report)

    def register_partitions(self, spec: CollectionSpec, location: Location) -> list[str]:
        """Register the partitions of a collection's record table, and return their keys."""
        workspace = location.workspace_of(spec)
        profile = load_profile(workspace, location.source_of(spec, workspace), spec)
        return discover_partitions(self.instance, spec, profile, workspace.states())

    def last_run(self, spec: CollectionSpec) -> str | None:
        """Return status and time (UTC) of a collection's last run; None if it has no run."""
        records = self.instance.get_run_records(dg.RunsFilter(tags={COLLECTION_TAG: spec.name}), limit=1)
        if not records:
            return None
        return f"{records[0].dagster_run.status.value.lower()} {records[0].update_timestamp:%Y-%m-%d %H:%M}"


@contextmanager
def open_instance() -> Iterator[Instance]:
    """Open the instance of DAGSTER_HOME."""
    with dg.DagsterInstance.get() as instance:
        yield Instance(instance)
