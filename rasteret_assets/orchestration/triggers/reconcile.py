"""Compare a source with its published partitions, and request the runs that build the difference.

The comparison is level-triggered: the source's version of each partition is compared with the version in the state
files of the collection. No change can be missed, because nothing depends on seeing a change happen, and partitions that
were built by other means (the library, the UI) are not built again.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import dagster as dg

from rasteret_assets.orchestration.asset_graph.graph_partitions import (
    grouped,
    headers_to_fetch,
    in_order,
    partitions_name,
    selected_keys,
    selection_tags,
)
from rasteret_assets.orchestration.graph_names import (
    HARVESTED,
    build_job_name,
    harvest_job_name,
    harvest_windows_job_name,
    profile_job_name,
    rebuild_job_name,
    revalidate_job_name,
    source_key,
    stage_key,
)
from rasteret_assets.orchestration.graph_resources import FilesystemResource
from rasteret_assets.orchestration.triggers.jobs import COLLECTION_TAG, REASON_TAG
from rasteret_assets.partitions import partition_size
from rasteret_assets.schema import STAGES
from rasteret_assets.source.profile import SourceProfile
from rasteret_assets.source.stored import is_quick_to_profile, listed_profile, load_profile
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

#: Why a sensor leaves reading the record table to a run.
TOO_MUCH: Final = "more of the record table changed than can be read in a tick"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The difference between a source and its published partitions.

    Args:
        want: version of every partition of the source.
        have: version of the source that every published partition was built from; empty if the build of the partition
            did not end, or if its file is not the published one.
        busy: partitions that an unfinished run builds.
        order: all partitions in the order in which they are registered, new ones last.
        new: partitions of ``order`` that are not registered yet.
        headers: estimated number of headers that a build of each partition fetches.
    """

    want: Mapping[str, str]
    have: Mapping[str, str]
    busy: Collection[str]
    order: Sequence[str]
    new: Sequence[str]
    headers: Mapping[str, int]

    @property
    def differing(self) -> list[str]:
        """Return the partitions whose published version differs from the source."""
        return [key for key in self.order if self.want.get(key) != self.have.get(key)]

    @property
    def stale(self) -> list[str]:
        """Return the partitions that changed, are new or have vanished, and that no unfinished run builds.

        Partitions of a former size (``partition_by`` changed) come last, once all others are published, because until
        then they hold records that the others lack.
        """
        found = [key for key in self.differing if key not in self.busy]
        sizes = {partition_size(key) for key in self.want}
        kept = [key for key in found if key in self.want or partition_size(key) in sizes]
        return kept if kept or not self.want.keys().isdisjoint(self.busy) else found

    def reason(self, keys: Sequence[str]) -> str:
        """Return why to build partitions: ``new``, ``changed``, ``incomplete``, ``vanished``, or several of these."""
        return ", ".join(sorted({self._reason(key) for key in keys}))

    def _reason(self, key: str) -> str:
        if key not in self.want:
            return "vanished"
        if key not in self.have:
            return "new"
        return "changed" if self.have[key] else "incomplete"


def profile_in_tick(filesystem: FilesystemResource, spec: CollectionSpec, workspace: Workspace) -> SourceProfile | None:
    """Return the profile of the source as it is now; None if reading the files that changed takes too long for a tick.

    Dagster ends a tick after a minute. A tick therefore lists the source and reads one document, and reads files only
    if little has changed.

    Args:
        filesystem: resource that opens the source.
        spec: of the collection.
        workspace: of the collection.

    Raises:
        SourceError: if the source cannot be read.
    """
    profile, change = listed_profile(workspace, spec, filesystem.filesystem, filesystem.backend(spec))
    if profile is not None or not change.is_small:
        return profile
    source = filesystem.open_source(spec)
    return load_profile(workspace, source, spec) if is_quick_to_profile(workspace, source, spec) else None


def profile_request(spec: CollectionSpec, run_key: str) -> dg.RunRequest:
    """Return the request of a run of the job that profiles the source.

    Args:
        spec: of the collection.
        run_key: of the run; Dagster launches a key once.
    """
    tags = {COLLECTION_TAG: spec.name, REASON_TAG: "look"}
    return dg.RunRequest(run_key=run_key, job_name=profile_job_name(spec), tags=tags)


def compare(
    instance: dg.DagsterInstance, spec: CollectionSpec, workspace: Workspace, profile: SourceProfile, cache: StateCache
) -> Difference:
    """Compare the source with its published partitions and with the instance.

    Args:
        instance: that has the registered partitions and the runs.
        spec: of the collection.
        workspace: of the collection.
        profile: of the source, as it is now.
        cache: keeps the states of the published partitions from one comparison to the next.
    """
    registered = list(instance.get_dynamic_partitions(partitions_name(spec)))
    # Read before the states, because a run that ends in between must count as busy and not as failed.
    busy = busy_partitions(instance, spec)
    want = {key: profile.version(key, spec) for key in profile.partitions}
    states = verified_states(workspace, cache.read(workspace))
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


def is_profiled_now(instance: dg.DagsterInstance, spec: CollectionSpec) -> bool:
    """Tell whether an unfinished run profiles the source."""
    return _is_made_now(instance, [profile_job_name(spec)], source_key(spec))


def _is_made_now(instance: dg.DagsterInstance, jobs: Collection[str], key: dg.AssetKey) -> bool:
    """Tell whether an unfinished run is of one of some jobs, or of a selection with an asset."""
    runs = instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED))
    return any(run.job_name in jobs or key in (run.asset_selection or ()) for run in runs)


def build_requests(
    spec: CollectionSpec, found: Difference, keys: Sequence[str], alone: Collection[str], salt: str
) -> list[dg.RunRequest]:
    """Return run requests for some partitions: ranges of neighbours, as much in each as a run may build.

    Args:
        spec: of the collection.
        found: difference that the partitions are of.
        keys: of the partitions.
        alone: partitions that get a run of their own.
        salt: part of every run key. Dagster launches a run key once, so that another salt launches the same work again.
    """
    requests = []
    for group in grouped(found.order, keys, spec.graph, found.headers, alone):
        # With the published version too, because a file that is lost after its run has to be built again from the same
        # version of the source, and Dagster launches a run key once.
        versions = "|".join(f"{key}@{found.have.get(key)}>{found.want.get(key)}" for key in group)
        requests.append(
            run_request(spec, group, digest(f"{versions}#{salt}"), found.reason(group), build_job_name(spec))
        )
    return requests


def failed_lately(instance: dg.DagsterInstance, spec: CollectionSpec) -> set[str]:
    """Return the partitions of runs that failed within the last day, which may have been killed for their size."""
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
        run_key: of the run; Dagster launches a key once.
        reason: why they are built.
        job_name: of the job; None for a sensor that has one job.
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
