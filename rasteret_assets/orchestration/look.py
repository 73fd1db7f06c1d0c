"""The look at a source as part of the graph: a small one is done in a tick, a large one by a run of its own.

Dagster ends a tick after a minute, whatever it does. A tick therefore lists the source and reads one document; only
where little has changed does it read files too.
"""

import dagster as dg

from rasteret_assets.orchestration.jobs import COLLECTION_TAG, REASON_TAG
from rasteret_assets.orchestration.names import look_job_name
from rasteret_assets.orchestration.resources import FilesystemResource
from rasteret_assets.source.profile import SourceProfile
from rasteret_assets.source.stored import is_small_look, listed_profile, load_profile
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.workspace import Workspace


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
