"""The state of a published partition: what its file must be, and what it was built from.

It is the manifest a reader holds the files against, and what the next build compares the source with. A file and its
state are two objects, so a change is announced first: while ``next`` is there, the file may be the old or the new one.
Whatever moment a process dies at, state and file then agree one way or the other. Where they do not, somebody else had
a hand in the files, and the partition is to be built again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rasteret_assets.schema import BANDS, NORMALIZED, RAW
from rasteret_assets.storage.files import Written
from rasteret_assets.storage.filesystems import each_file, list_files
from rasteret_assets.storage.workspace import Workspace

#: Key of a state whose file is gone, or was replaced by one that was not published; or of none, whose file is there.
LOST: Final = "lost"

#: Key of a state whose file is about to become what it says.
NEXT: Final = "next"


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """What is known of a published file: its rows, its size in bytes, and a digest of these."""

    rows: int
    bytes: int
    content_hash: str

    @classmethod
    def of(cls, rows: int, written: Written) -> FileFacts:
        """Of a file that was written."""
        return cls(rows=rows, bytes=written.size, content_hash=written.digest)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> FileFacts:
        """As a state holds it."""
        return cls(rows=document["rows"], bytes=document["bytes"], content_hash=document["content_hash"])

    def to_json(self) -> dict[str, Any]:
        """As a state holds it."""
        return {"rows": self.rows, "bytes": self.bytes, "content_hash": self.content_hash}


def announce(workspace: Workspace, key: str, coming: FileFacts | None) -> None:
    """Say that a partition's file is about to become another one, or to go (None).

    The state names no source version from now on, so that a build that dies is taken up again.
    """
    state = workspace.read_json(workspace.state_file(key)) or {}
    state |= {"source_version": "", NEXT: coming and coming.to_json()}
    workspace.write_json(workspace.state_file(key), state)


def announce_new(workspace: Workspace, keys: Sequence[str]) -> None:
    """Say of the partitions without a state that they are about to be published; there is no file of theirs yet."""

    def announced(key: str) -> None:
        if not workspace.has(workspace.state_file(key)):
            announce(workspace, key, None)

    each_file(workspace.fs, announced, keys)


def commit(workspace: Workspace, key: str, facts: FileFacts, built_from: Mapping[str, Any]) -> None:
    """Say what a partition's file now is and what it was built from."""
    workspace.write_json(workspace.state_file(key), {**built_from, **facts.to_json()})


def remove_outdated(workspace: Workspace, key: str) -> None:
    """Remove a partition's file from where it lay while ``partition_by`` was another, once it is published anew."""
    for path in workspace.outdated_files(key):
        workspace.remove(path)


def unpublish(workspace: Workspace, key: str) -> None:
    """Take a partition's file away, and then its state."""
    if workspace.read_json(workspace.state_file(key)) is not None:
        announce(workspace, key, None)
    remove_outdated(workspace, key)
    workspace.remove(workspace.published_file(key))
    workspace.remove(workspace.state_file(key))


def verified_states(workspace: Workspace) -> dict[str, dict[str, Any]]:
    """State of every published partition, held against the size of its file: by key, in key order.

    One whose file is not there, or is of another size, is marked as :data:`LOST` and names no source version, so that
    it is built again, or taken away where the source has no more of it. So is one whose state is not there, if the
    stages hold something of it: a file that was not built here is left alone. The files' bytes are not looked at;
    ``load(verify="full")`` does that.
    """
    states = workspace.states()
    sizes = {info.path: info.size for info in list_files(workspace.fs, workspace.published, (".parquet",))}
    for key, state in states.items():
        size = sizes.get(workspace.published_file(key))
        # A build that died before it took away what it had replaced is to be taken up again too.
        is_twice = any(path in sizes for path in workspace.outdated_files(key))
        # Read again: a build may have replaced the file, and said so, since.
        if (size not in _sizes(state) or is_twice) and workspace.read_json(workspace.state_file(key)) == state:
            states[key] = {**state, "source_version": "", LOST: True}
    published = {workspace.partition_of(path) for path in sizes}
    for unclaimed in published - states.keys():
        if unclaimed is not None and _was_built_here(workspace, unclaimed):
            states[unclaimed] = {"source_version": "", LOST: True}
    return dict(sorted(states.items()))


def _was_built_here(workspace: Workspace, key: str) -> bool:
    """Whether a partition whose state was not found has lost it, and is not one that is being published just now."""
    stages = (workspace.stage_file(stage, key) for stage in (RAW, NORMALIZED, BANDS))
    return any(map(workspace.has, stages)) and not workspace.has(workspace.state_file(key))


def unfinished_partitions(workspace: Workspace) -> list[str]:
    """Keys of the partitions whose file is lost, or was to be written by a build that did not come to its end."""
    return [key for key, state in verified_states(workspace).items() if LOST in state or NEXT in state]


def _sizes(state: Mapping[str, Any]) -> list[int | None]:
    return [None if facts is None else facts.bytes for facts in may_be(state)]


def may_be(state: Mapping[str, Any]) -> list[FileFacts | None]:
    """What a partition's file may be at this moment; None where there may be none."""
    possible: list[FileFacts | None] = [FileFacts.from_json(state) if "rows" in state else None]
    if NEXT in state:
        coming = state[NEXT]
        possible.append(None if coming is None else FileFacts.from_json(coming))
    return possible
