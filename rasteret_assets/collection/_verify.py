"""Compare the files of a collection with its states, so that a missing or damaged file is named and not skipped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs

from rasteret_assets.storage.filesystems import each_file
from rasteret_assets.storage.io_errors import patiently, unreadable
from rasteret_assets.storage.workspace import Workspace
from rasteret_assets.storage.workspace.commit import LOST, FileFacts, may_be
from rasteret_assets.storage.workspace.placed_files import file_digest

Verify = Literal["rows", "full", False]


def problem_with(
    workspace: Workspace,
    states: Mapping[str, Mapping[str, object]],
    fragments: list[ds.ParquetFileFragment],
    sizes: Mapping[str, int],
    verify: Verify,
) -> str | None:
    """Return the first fault of the files of a collection, as a sentence that says what to do; None without a fault.

    Args:
        workspace: of the collection.
        states: of its partitions, by key; if there are none, no file is compared.
        fragments: the files, with their footers.
        sizes: of the files in bytes, by path.
        verify: ``"rows"`` compares rows and sizes, ``"full"`` reads every byte.
    """
    if not states or not verify:
        return None
    for key, state in states.items():
        if LOST in state:
            return f"partition {key} has a state that cannot be read ({workspace.state_file(key)}): build it again"
    found = {fragment.path: fragment for fragment in fragments}
    key_of = {path: workspace.partition_of(path) for path in found}
    there = set(key_of.values())
    for key, state in states.items():
        if key not in there and None not in may_be(state):
            return f"partition {key} is missing ({_path_of(workspace, key)}): build it again"
    if strangers := sorted(path for path, key in key_of.items() if key not in states):
        return f"{strangers[0]} belongs to no partition that was published here: remove it, or build it again"
    for path, fragment in found.items():
        rows, key = fragment.metadata.num_rows, str(key_of[path])
        fitting = [facts for facts in may_be(states[key]) if facts and (facts.rows, facts.bytes) == (rows, sizes[path])]
        if not fitting:
            facts = [f"{found.rows} records in {found.bytes} bytes" for found in may_be(states[key]) if found]
            held = f"{path} holds {rows} records in {sizes[path]} bytes, published: {' or '.join(facts) or 'nothing'}"
            return f"partition {key} is damaged ({held}): build it again"
    return _contents(workspace, states, key_of, list(found)) if verify == "full" else None


def _path_of(workspace: Workspace, key: str) -> str:
    """Return the path of a missing file; the folder of undated records follows from the sizes of other partitions."""
    return replace(workspace, partition_by=min(workspace.published_sizes(), default="month")).published_file(key)


def _contents(
    workspace: Workspace, states: Mapping[str, Mapping[str, object]], keys: Mapping[str, str | None], paths: list[str]
) -> str | None:
    digests = each_file(workspace.fs, lambda path: _digest(workspace.fs, path), paths, takes_long=True)
    for path, digest in zip(paths, digests, strict=True):
        stated: list[FileFacts | None] = may_be(states[str(keys[path])])
        if digest not in [facts.content_hash for facts in stated if facts]:
            damage = f"the bytes of {path} are not those published"
            return f"partition {keys[path]} is damaged ({damage}): build it again with force=True"
    return None


def _digest(fs: pafs.FileSystem, path: str) -> str:
    try:
        return patiently(lambda: file_digest(fs, path))
    except (OSError, pa.ArrowException) as error:
        raise unreadable(path, error) from error
