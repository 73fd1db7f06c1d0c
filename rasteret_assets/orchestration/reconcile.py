"""What differs between a source and what is published of it, and the runs that would mend it.

The comparison is level-triggered: the source's version of each partition is held against the version in the
collection's own state files. Nothing depends on having seen a change happen, so no change can be missed, and what was
built by other means (the library, the UI) is not built again.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import dagster as dg

from rasteret_assets.orchestration.graph_names import (
    HARVESTED,
    build_job_name,
    harvest_job_name,
    harvest_windows_job_name,
    look_job_name,
    rebuild_job_name,
    revalidate_job_name,
    source_key,
    stage_key,
)
from rasteret_assets.orchestration.graph_partitions import (
    grouped,
    headers_to_fetch,
    in_order,
    partitions_name,
    selected_keys,
    selection_tags,
)
from rasteret_assets.orchestration.graph_resources import FilesystemResource
from rasteret_assets.orchestration.jobs import COLLECTION_TAG, REASON_TAG
from rasteret_assets.partitions import partition_size
from rasteret_assets.schema import STAGES
from rasteret_assets.source.profile import SourceProfile
from rasteret_assets.source.stored import is_small_look, listed_profile, load_profile
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.workspace import Workspace
from rasteret_assets.storage.workspace.commit import verified_states
from rasteret_assets.storage.workspace.state_cache import StateCache

_UNFINISHED: Final = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
_FAILED_LATELY: Final = timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A source beside what is published of it.

    Args:
        want: the source's version of every partition.
        have: the version every published partition was built from; empty where its build did not come to its end, or
            its file is not what was published.
        busy: partitions that an unfinished run builds.
        order: all partitions in the order in which Dagster has them, or will have.
        new: those of ``order`` that are not registered yet.
        headers: about how many headers a build of each partition fetches.
    """

    want: Mapping[str, str]
    have: Mapping[str, str]
    busy: Collection[str]
    order: Sequence[str]
    new: Sequence[str]
    headers: Mapping[str, int]

    @property
    def differing(self) -> list[str]:
        """Return the partitions whose published version is not that of the source."""
        return [key for key in self.order if self.want.get(key) != self.have.get(key)]

    @property
    def stale(self) -> list[str]:
        """Return the partitions that changed, are new or have vanished, and that no run builds yet.

        Partitions of a size that is not wanted any more come last, once all others are published: until then they hold
        the records that the others lack.
        """
        found = [key for key in self.differing if key not in self.busy]
        sizes = {partition_size(key) for key in self.want}
        kept = [key for key in found if key in self.want or partition_size(key) in sizes]
        return kept if kept or not self.want.keys().isdisjoint(self.busy) else found

    def reason(self, keys: Sequence[str]) -> str:
        """Return why partitions are to be built: ``new``, ``changed``, ``incomplete``, ``vanished``, or several."""
        return ", ".join(sorted({self._reason(key) for key in keys}))

    def _reason(self, key: str) -> str:
        if key not in self.want:
            return "vanished"
        if key not in self.have:
            return "new"
        return "changed" if self.have[key] else "incomplete"


def look_in_tick(filesystem: FilesystemResource, spec: CollectionSpec, workspace: Workspace) -> SourceProfile | None:
    """Return the profile of the source as it is now; None where a look at what changed would take too long.

    Raises:
        SourceError: if the source cannot be read.
    """
    profile, ahead = listed_profile(workspace, spec, filesystem.filesystem)
    if profile is not None or not ahead.is_small:
        return profile
    source = filesystem.open_source(spec)
    return load_profile(workspace, source, spec) if is_small_look(workspace, source, spec) else None


def look_request(spec: CollectionSpec, run_key: str) -> dg.RunRequest:
    """Return the request of a run that looks at the source."""
    tags = {COLLECTION_TAG: spec.name, REASON_TAG: "look"}
    return dg.RunRequest(run_key=run_key, job_name=look_job_name(spec), tags=tags)


def compare(
    instance: dg.DagsterInstance, spec: CollectionSpec, workspace: Workspace, profile: SourceProfile, known: StateCache
) -> Difference:
    """Compare the source with the instance and with what is published.

    Args:
        instance: which knows the registered partitions and the runs.
        spec: of the collection.
        workspace: of the collection.
        profile: of its source, as it is now.
        known: remembers the states of the published partitions from one comparison to the next.
    """
    registered = list(instance.get_dynamic_partitions(partitions_name(spec)))
    # Before the states: a run that ends in between is taken for busy once, not for one that left its work undone.
    busy = busy_partitions(instance, spec)
    want = {key: profile.version(key, spec) for key in profile.partitions}
    states = verified_states(workspace, known.read(workspace))
    have = {key: str(state["source_version"]) for key, state in states.items()}
    new = in_order({*want, *have} - set(registered), want)
    headers = headers_to_fetch(profile, states)
    return Difference(want=want, have=have, busy=busy, order=[*registered, *new], new=new, headers=headers)


def busy_partitions(instance: dg.DagsterInstance, spec: CollectionSpec) -> set[str]:
    """Return the partitions that an unfinished run builds."""
    return _partitions_of_runs(instance, spec, dg.RunsFilter(statuses=_UNFINISHED))


def is_harvested_now(instance: dg.DagsterInstance, spec: CollectionSpec) -> bool:
    """Tell whether an unfinished run harvests the items of a collection."""
    jobs = harvest_job_name(spec), harvest_windows_job_name(spec)
    return _is_made_now(instance, jobs, stage_key(spec, HARVESTED))


def is_looked_at(instance: dg.DagsterInstance, spec: CollectionSpec) -> bool:
    """Tell whether an unfinished run looks at the source."""
    return _is_made_now(instance, [look_job_name(spec)], source_key(spec))


def _is_made_now(instance: dg.DagsterInstance, jobs: Collection[str], key: dg.AssetKey) -> bool:
    """Tell whether an unfinished run is of one of some jobs, or of a selection that has its asset."""
    runs = instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED))
    return any(run.job_name in jobs or key in (run.asset_selection or ()) for run in runs)


def build_requests(
    spec: CollectionSpec, found: Difference, keys: Sequence[str], alone: Collection[str], salt: str
) -> list[dg.RunRequest]:
    """Return runs for some partitions: ranges of neighbours, as much in each as a run may take.

    Args:
        spec: of the collection.
        found: what differs.
        keys: of the partitions.
        alone: those that get a run of their own.
        salt: part of every run key. Dagster launches a run key once, so it decides when the same work is tried again.
    """
    requests = []
    for group in grouped(found.order, keys, spec.graph, found.headers, alone):
        # What is there belongs to it: a file that is lost after its run is another reason for the same version.
        versions = "|".join(f"{key}@{found.have.get(key)}>{found.want.get(key)}" for key in group)
        requests.append(
            run_request(spec, group, digest(f"{versions}#{salt}"), found.reason(group), build_job_name(spec))
        )
    return requests


def failed_lately(instance: dg.DagsterInstance, spec: CollectionSpec) -> set[str]:
    """Return the partitions of runs that failed within a day; some of them may have been killed for their size."""
    since = datetime.now(UTC) - _FAILED_LATELY
    failed = dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], updated_after=since)
    return _partitions_of_runs(instance, spec, failed)


def run_request(
    spec: CollectionSpec, group: Sequence[str], run_key: str | None, reason: str, job_name: str | None = None
) -> dg.RunRequest:
    """Return the request of a run for a contiguous group of partitions.

    Args:
        spec: of the collection.
        group: the partitions.
        run_key: Dagster launches a key once.
        reason: why they are built.
        job_name: of the job, where a sensor requests runs of several.
    """
    tags = {COLLECTION_TAG: spec.name, REASON_TAG: reason}
    if len(group) == 1:
        return dg.RunRequest(run_key=run_key, job_name=job_name, partition_key=group[0], tags=tags)
    return dg.RunRequest(run_key=run_key, job_name=job_name, tags={**tags, **selection_tags(group)})


def digest(text: str) -> str:
    """Return a short hash of a text."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _partitions_of_runs(instance: dg.DagsterInstance, spec: CollectionSpec, runs: dg.RunsFilter) -> set[str]:
    registered = list(instance.get_dynamic_partitions(partitions_name(spec)))
    jobs = {build_job_name(spec), rebuild_job_name(spec), revalidate_job_name(spec)}
    assets = {stage_key(spec, stage) for stage in STAGES}
    return {
        key
        for run in instance.get_runs(runs)
        if run.job_name in jobs or any(asset in assets for asset in run.asset_selection or ())
        for key in selected_keys(run, registered)
    }
