"""A cache of the states of published partitions, for a process that asks for them again and again, such as a sensor.

A listing tells which states changed since they were read, and only these are read again. An unchanged collection
therefore costs one listing, and not a request for each partition.
"""

from __future__ import annotations

import time
from typing import Any

from rasteret_assets.storage.filesystems import each_file
from rasteret_assets.storage.io_errors import finding
from rasteret_assets.storage.object_stores.listing import list_table
from rasteret_assets.storage.workspace import STATE_STAGE, Workspace
from rasteret_assets.versions import file_version


class StateCache:
    """Keeps the states of one collection in memory."""

    def __init__(self) -> None:
        #: Version of the state's file and the state, by key; only of files whose version tells every later change.
        self._states: dict[str, tuple[str, dict[str, Any]]] = {}

    def read(self, workspace: Workspace) -> dict[str, dict[str, Any]]:
        """Return the states of all published partitions by key, in key order; the caller may not change them.

        Args:
            workspace: of the collection, which is the same in every call.

        Raises:
            CollectionError: if a state cannot be read, or a newer version wrote it.
        """
        folder = f"{workspace.stages}/{STATE_STAGE}"
        asked_ns = time.time_ns()
        with finding(folder):
            listed, _ = list_table(workspace.fs, folder) or ([], True)
        versions = {
            one.path.rpartition("/")[2].removesuffix(".json"): file_version(
                workspace.fs.type_name, one.path, size=one.size, times_ns=one.times_ns, tag=one.tag, asked_ns=asked_ns
            )
            for one in listed
            if one.path.endswith(".json")
        }
        states = {
            key: found for key, found in self._states.items() if key in versions and found[0] == versions[key].version
        }
        unread = [key for key in versions if key not in states]
        for key, state in zip(unread, each_file(workspace.fs, workspace.state, unread), strict=True):
            if state is not None:
                states[key] = versions[key].version, state
        self._states = {key: states[key] for key in states if versions[key].is_reliable}
        return {key: states[key][1] for key in sorted(states)}
