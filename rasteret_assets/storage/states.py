"""The state of a published partition: what its file must be, and what it was built from.

It is the manifest a reader holds the files against, and what the next build compares the source with. A file and its
state are two objects, so a change is announced first: while ``next`` is there, the file may be the old or the new one.
Whatever moment a process dies at, state and file then agree one way or the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rasteret_assets.storage.files import Written
from rasteret_assets.storage.workspace import Workspace


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
    state |= {"source_version": "", "next": coming and coming.to_json()}
    workspace.write_json(workspace.state_file(key), state)


def commit(workspace: Workspace, key: str, facts: FileFacts, built_from: Mapping[str, Any]) -> None:
    """Say what a partition's file now is and what it was built from."""
    workspace.write_json(workspace.state_file(key), {**built_from, **facts.to_json()})


def unpublish(workspace: Workspace, key: str) -> None:
    """Take a partition's file away, and then its state."""
    if workspace.read_json(workspace.state_file(key)) is not None:
        announce(workspace, key, None)
    workspace.remove(workspace.published_file(key))
    workspace.remove(workspace.state_file(key))


def may_be(state: Mapping[str, Any]) -> list[FileFacts | None]:
    """What a partition's file may be at this moment; None where there may be none."""
    possible: list[FileFacts | None] = [FileFacts.from_json(state) if "rows" in state else None]
    if "next" in state:
        coming = state["next"]
        possible.append(None if coming is None else FileFacts.from_json(coming))
    return possible
