"""How a partition is published: its file and its state change so that no reader and no build is misled.

The **state** of a partition says what its file must be, and what it was built from. It is the manifest that a reader
holds the file against, and what the next build compares the source with. File and state are two objects, so a change is
announced first: while ``next`` is there, the file may be the old or the new one. Whatever moment a process dies at,
file and state then agree one way or the other. Where they do not, somebody else had a hand in the files, and the
partition is to be built again.

A process may also be stopped at any moment, lose its lock to another build, and go on after that one has published. On
an object store the steps are therefore, for the holder of the lock with number ``fence``:

1. The tag of the published file is looked up.
2. The state is announced by compare-and-swap, with ``next`` and ``fence``. A state with a higher fence was written by a
   later holder: nothing is written, and the build ends with LockLostError.
3. The file is put only if its tag is still that of step 1. If it is not, the tag is looked up again, and after that the
   lock is confirmed, by compare-and-swap too: whoever lost the lock ends here, whoever holds it puts its file again.
4. The state is committed by compare-and-swap, as in step 2.

A state that does not exist has no fence, as a later holder may have unpublished the partition: the lock is confirmed
before one is created. So it is before a state is replaced that is not the one which this holder wrote last.

A later holder does the same, and so changes the tag of what it replaces. Hence a process that slept between any two
steps finds its next step refused: by the fence where the later holder has announced, by the tag where it has put its
file, and by the lock otherwise. If the later holder has done nothing yet, the step is done, and the later holder's
steps come after it. The tag is looked up before a proof that the lock is held, never after: a tag that is seen later
could be that of the later holder's file.

Deleting knows no condition. The lock is confirmed before each of the two deletions, file and state; a process that
stops for longer than its lease within the moment between the answer and the deletion deletes a newer file or state.
The state then names a file that does not exist, or the file has no state: ``load`` says so, and the next build
publishes the partition again.

A build holds several partitions, and records may move between them: where it holds few, it confirms all of them before
it publishes one. Where it holds many, its clock tells that it slept, and it confirms all of them then.

On a disk the operating system keeps the lock until its holder dies, however long it was stopped, so the checks and a
rename do. On stores without conditional puts the lock is confirmed before each step, and the moment between the answer
and the step is left, as for deletions; a file of another size is then found by ``load`` and the next build.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rasteret_assets.errors import WorkspaceError
from rasteret_assets.schema import BANDS, NORMALIZED, RAW
from rasteret_assets.storage.filesystems import each_file, list_files
from rasteret_assets.storage.workspace import Workspace
from rasteret_assets.storage.workspace.documents import (
    FENCE,
    FORMAT,
    FORMAT_KEY,
    LOST,
    NEXT,
    fence_of,
    is_state,
    lost_state,
)
from rasteret_assets.storage.workspace.placed_files import Written

__all__ = [
    "LOST",
    "NEXT",
    "FileFacts",
    "announce",
    "announce_new",
    "commit",
    "may_be",
    "remove_outdated",
    "replace_published",
    "unfinished_partitions",
    "unpublish",
    "verified_states",
]

_TRIES: Final = 20


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

    Raises:
        LockLostError: if another build took the partition over.
    """
    _change(workspace, key, lambda state: {**state, "source_version": "", NEXT: coming and coming.to_json()})


def announce_new(workspace: Workspace, keys: Sequence[str]) -> None:
    """Say of the partitions without a state that they are about to be published; there is no file of theirs yet."""

    def announced(key: str) -> None:
        if not workspace.has(workspace.state_file(key)):
            announce(workspace, key, None)

    each_file(workspace.fs, announced, keys)


def replace_published(workspace: Workspace, key: str, beside: str, facts: FileFacts) -> None:
    """Announce a partition's new file and put it in the place of the old one; :func:`commit` has to follow.

    Args:
        workspace: of the collection.
        key: of the partition.
        beside: path of the finished file, on the local disk.
        facts: about it.

    Raises:
        LockLostError: if another build took the partition over; its file stays.
    """
    path = workspace.published_file(key)
    with workspace.lock(key) as hold:
        workspace.confirm_other_holds(key)
        seen = workspace.tag_of(path)
        announce(workspace, key, facts)
        for _ in range(_TRIES):
            if workspace.put_over(beside, path, seen):
                return
            seen = workspace.tag_of(path)
            hold.confirm()
    raise WorkspaceError(f"{path} cannot be written: something else replaces it again and again")


def commit(workspace: Workspace, key: str, facts: FileFacts, built_from: Mapping[str, Any]) -> None:
    """Say what a partition's file now is and what it was built from.

    Raises:
        LockLostError: if another build took the partition over; its state stays.
    """
    _change(workspace, key, lambda _: {**built_from, **facts.to_json()})


def remove_outdated(workspace: Workspace, key: str) -> None:
    """Remove a partition's file from where it lay while ``partition_by`` was another, once it is published anew."""
    with workspace.lock(key) as hold:
        for path in workspace.outdated_files(key):
            hold.check()
            workspace.remove(path)


def unpublish(workspace: Workspace, key: str) -> None:
    """Delete a partition's file, and then its state.

    Raises:
        LockLostError: if another build took the partition over.
    """
    with workspace.lock(key) as hold:
        if workspace.has(workspace.state_file(key)):
            announce(workspace, key, None)
        remove_outdated(workspace, key)
        for path in (workspace.published_file(key), workspace.state_file(key)):
            hold.confirm()
            workspace.remove(path)
        hold.written.clear()


def _change(workspace: Workspace, key: str, changed: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
    """Replace a partition's state by what ``changed`` makes of it, unless a later holder of the lock wrote it.

    A state of another form than ours is replaced as if it did not exist.
    """
    path = workspace.state_file(key)
    with workspace.lock(key) as hold:
        for attempt in range(_TRIES):
            document, tag = hold.written.pop(path, None) or workspace.read_tagged(path)
            if document is None or attempt:
                # A later holder that unpublished the partition took its number away with the state.
                hold.confirm()
            if fence_of(document) > hold.fence:
                hold.outrank(fence_of(document))
            known: dict[str, Any] = document if document is not None and is_state(document) else {}
            state = {**changed(known), FORMAT_KEY: FORMAT, FENCE: hold.fence}
            replaced, tag = workspace.swap_json(path, state, tag)
            if replaced:
                if tag is not None:  # on a disk reading the state again costs nothing
                    hold.written[path] = state, tag
                return
    raise WorkspaceError(f"{path} cannot be written: something else replaces it again and again")


def verified_states(
    workspace: Workspace, states: Mapping[str, dict[str, Any]] | None = None
) -> dict[str, dict[str, Any]]:
    """Return the state of every published partition, held against the size of its file: by key, in key order.

    One whose file is not there, or is of another size, is marked as :data:`LOST` and names no source version, so that
    it is built again, or taken away where the source has no more of it. So is one whose state is not there, if the
    stages hold something of it: a file that was not built here is left alone. The files' bytes are not looked at;
    ``load(verify="full")`` does that.

    Args:
        workspace: of the collection.
        states: of the published partitions, where they were read just now.
    """
    states = workspace.states() if states is None else dict(states)
    sizes = {info.path: info.size for info in list_files(workspace.fs, workspace.published, (".parquet",))}
    for key, state in states.items():
        size = sizes.get(workspace.published_file(key))
        # A build that died before it took away what it had replaced is to be taken up again too.
        is_twice = any(path in sizes for path in workspace.outdated_files(key))
        # Read again: a build may have replaced the file, and said so, since.
        if LOST not in state and (size not in _sizes(state) or is_twice) and workspace.state(key) == state:
            states[key] = {**state, "source_version": "", LOST: True}
    published = {workspace.partition_of(path) for path in sizes}
    for unclaimed in published - states.keys():
        if unclaimed is not None and _was_built_here(workspace, unclaimed):
            states[unclaimed] = lost_state()
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
