"""The protocol of publishing a partition: file and state change so that no reader and no build is misled.

The **state** of a partition says what its file must be, and what the file was built from. A reader compares the file
with the state, and the next build compares the source with it. File and state are two objects, so a change is announced
first: while the state has the key ``next``, the file may be the old or the new one. At whatever moment a process dies,
file and state then agree one way or the other. If they do not agree, something else changed the files, and the next
build makes the partition again.

A process may also be stopped at any moment, lose its lock to another build, and go on after the other build has
published. On an object store the steps are therefore, for the holder of the lock with number ``fence``:

1. The tag of the published file is looked up.
2. The state is announced by compare-and-swap, with ``next`` and ``fence``. A state with a higher fence was written by a
   later holder: nothing is written, and the build ends with LockLostError.
3. The file is put only if its tag is still that of step 1. If it is not, the tag is looked up again, and after that the
   lock is confirmed, by compare-and-swap too: a holder that lost the lock ends here, one that has it puts its file
   again.
4. The state is committed by compare-and-swap, as in step 2.

A state that does not exist has no fence, because a later holder may have unpublished the partition. The lock is
therefore confirmed before a state is created, and before a state is replaced that this holder did not write last.

A later holder takes the same steps, and so changes the tag of each object that it replaces. A process that slept
between any two steps therefore finds its next step refused: by the fence if the later holder has announced, by the tag
if it has put its file, and by the lock otherwise. If the later holder has done nothing yet, the step is done, and the
later holder's steps come after it. The tag is looked up before the lock is confirmed, never after, because a tag that
is seen later could be that of the later holder's file.

A deletion cannot have a condition. The lock is confirmed before each of the two deletions, of file and state. A process
that stops for longer than its lease between the confirmation and the deletion deletes a newer file or state. The state
then names a file that does not exist, or the file has no state: ``load`` says so, and the next build publishes the
partition again.

A build holds several partitions, and records may move between them. A build that holds few partitions confirms all its
locks before it publishes one. A build that holds many goes by its clock, and confirms all its locks after it slept.

On a disk the operating system keeps the lock until its holder dies, however long the holder was stopped, so the checks
and a rename are enough. On stores without conditional puts the lock is confirmed before each step, and the moment
between confirmation and step remains, as for deletions; ``load`` and the next build then find a file of another size.
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
from rasteret_assets.storage.workspace.placed_files import WrittenFile

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
_REPLACED: Final = "something else replaces it again and again; find out what writes there, and build again"


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """Rows and bytes of a published file, and a digest of the bytes."""

    rows: int
    bytes: int
    content_hash: str

    @classmethod
    def of(cls, rows: int, written: WrittenFile) -> FileFacts:
        """Return the facts about a file that was written with ``rows`` rows."""
        return cls(rows=rows, bytes=written.size, content_hash=written.digest)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> FileFacts:
        """Return the facts in a state."""
        return cls(rows=document["rows"], bytes=document["bytes"], content_hash=document["content_hash"])

    def to_json(self) -> dict[str, Any]:
        """Return the facts as a state holds them."""
        return {"rows": self.rows, "bytes": self.bytes, "content_hash": self.content_hash}


def announce(workspace: Workspace, key: str, coming: FileFacts | None) -> None:
    """Note in the state that the partition's file is about to become ``coming``, or to be deleted (None).

    The state names no source version from then on, so that the next build takes up a build that dies.

    Raises:
        LockLostError: if another build has taken the partition over.
    """
    _change(workspace, key, lambda state: {**state, "source_version": "", NEXT: coming and coming.to_json()})


def announce_new(workspace: Workspace, keys: Sequence[str]) -> None:
    """Announce those of the partitions ``keys`` that have no state, and so no file yet, before they are published."""

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
        facts: about the finished file.

    Raises:
        LockLostError: if another build has taken the partition over, whose file stays.
        WorkspaceError: if the file cannot be put in place.
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
    raise WorkspaceError(f"{path} cannot be written: {_REPLACED}")


def commit(workspace: Workspace, key: str, facts: FileFacts, built_from: Mapping[str, Any]) -> None:
    """Write the state of a partition whose file is in place: the file's facts, and what it was built from.

    Raises:
        LockLostError: if another build has taken the partition over, whose state stays.
        WorkspaceError: if the state cannot be written.
    """
    _change(workspace, key, lambda _: {**built_from, **facts.to_json()})


def remove_outdated(workspace: Workspace, key: str) -> None:
    """Remove a partition's file of a time when ``partition_by`` was another, after the partition is published anew."""
    with workspace.lock(key) as hold:
        for path in workspace.outdated_files(key):
            hold.check()
            workspace.remove(path)


def unpublish(workspace: Workspace, key: str) -> None:
    """Delete a partition's file, and then its state.

    Raises:
        LockLostError: if another build has taken the partition over.
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
    """Replace a partition's state by the result of ``changed``, unless a later holder of the lock wrote the state.

    A state of an unknown form is replaced as if it did not exist.
    """
    path = workspace.state_file(key)
    with workspace.lock(key) as hold:
        for attempt in range(_TRIES):
            document, tag = hold.written.pop(path, None) or workspace.read_tagged(path)
            if document is None or attempt:
                # Because a later holder that unpublished the partition has deleted its number with the state.
                hold.confirm()
            if fence_of(document) > hold.fence:
                hold.outrank(fence_of(document))
            before: dict[str, Any] = document if document is not None and is_state(document) else {}
            state = {**changed(before), FORMAT_KEY: FORMAT, FENCE: hold.fence}
            replaced, tag = workspace.swap_json(path, state, tag)
            if replaced:
                if tag is not None:  # not on a disk, where reading the state again costs nothing
                    hold.written[path] = state, tag
                return
    raise WorkspaceError(f"{path} cannot be written: {_REPLACED}")


def verified_states(
    workspace: Workspace, states: Mapping[str, dict[str, Any]] | None = None
) -> dict[str, dict[str, Any]]:
    """Return the state of every published partition, compared with the size of its file: by key, in key order.

    A state whose file does not exist, or has another size, is marked as :data:`LOST` and names no source version, so
    that the next build makes the partition again, or deletes it if the source no longer has it. A file without a state
    counts as such a state too, if the stages hold tables of its partition; other files were not built here and are left
    alone. The bytes of the files are not read; ``load(verify="full")`` does that.

    Args:
        workspace: of the collection.
        states: states of the published partitions, if they were read just now; read when omitted.
    """
    states = workspace.states() if states is None else dict(states)
    sizes = {info.path: info.size for info in list_files(workspace.fs, workspace.published, (".parquet",))}
    for key, state in states.items():
        size = sizes.get(workspace.published_file(key))
        # True after a build that died before remove_outdated(), which the next build takes up.
        is_twice = any(path in sizes for path in workspace.outdated_files(key))
        # Read again, because a build may have replaced file and state since.
        if LOST not in state and (size not in _sizes(state) or is_twice) and workspace.state(key) == state:
            states[key] = {**state, "source_version": "", LOST: True}
    published = {workspace.partition_of(path) for path in sizes}
    for unclaimed in published - states.keys():
        if unclaimed is not None and _was_built_here(workspace, unclaimed):
            states[unclaimed] = lost_state()
    return dict(sorted(states.items()))


def _was_built_here(workspace: Workspace, key: str) -> bool:
    """Return whether a file without a state was built here, and is not one that is being published just now."""
    stages = (workspace.stage_file(stage, key) for stage in (RAW, NORMALIZED, BANDS))
    return any(map(workspace.has, stages)) and not workspace.has(workspace.state_file(key))


def unfinished_partitions(workspace: Workspace) -> list[str]:
    """Return the keys of the partitions whose state is lost, or that a build has announced and not committed."""
    return [key for key, state in verified_states(workspace).items() if LOST in state or NEXT in state]


def _sizes(state: Mapping[str, Any]) -> list[int | None]:
    return [None if facts is None else facts.bytes for facts in may_be(state)]


def may_be(state: Mapping[str, Any]) -> list[FileFacts | None]:
    """Return the facts of the file that a partition may have at this moment; None stands for no file."""
    possible: list[FileFacts | None] = [FileFacts.from_json(state) if "rows" in state else None]
    if NEXT in state:
        coming = state[NEXT]
        possible.append(None if coming is None else FileFacts.from_json(coming))
    return possible
