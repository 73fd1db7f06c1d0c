"""Holding what is published against its manifest: a file that is missing or damaged is named, not skipped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs

from rasteret_assets.storage.commit import LOST, FileFacts, may_be
from rasteret_assets.storage.files import digest_of
from rasteret_assets.storage.filesystems import each_file
from rasteret_assets.storage.reading import patiently, unreadable
from rasteret_assets.storage.workspace import Workspace

Verify = Literal["rows", "full", False]


def problem_with(
    workspace: Workspace,
    states: Mapping[str, Mapping[str, object]],
    fragments: list[ds.ParquetFileFragment],
    sizes: Mapping[str, int],
    verify: Verify,
) -> str | None:
    """What is wrong with the files of a collection, in one sentence; None where nothing is.

    Args:
        workspace: of the collection.
        states: of its partitions, by key; without any there is nothing to hold the files against.
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
    expected = {workspace.published_file(key): key for key in states}
    for path, key in expected.items():
        if path not in found and None not in may_be(states[key]):
            return f"partition {key} is missing ({path}): build it again"
    if strangers := sorted(found.keys() - expected.keys()):
        return f"{strangers[0]} belongs to no partition that was published here: remove it, or build it again"
    for path, fragment in found.items():
        rows, key = fragment.metadata.num_rows, expected[path]
        fitting = [facts for facts in may_be(states[key]) if facts and (facts.rows, facts.bytes) == (rows, sizes[path])]
        if not fitting:
            said = " or ".join(f"{facts.rows} records" for facts in may_be(states[key]) if facts) or "nothing"
            return f"partition {key} is damaged ({path} holds {rows} records, {said} were published): build it again"
    return _contents(workspace, states, expected, list(found)) if verify == "full" else None


def _contents(
    workspace: Workspace, states: Mapping[str, Mapping[str, object]], keys: Mapping[str, str], paths: list[str]
) -> str | None:
    digests = each_file(workspace.fs, lambda path: _digest(workspace.fs, path), paths, takes_long=True)
    for path, digest in zip(paths, digests, strict=True):
        known: list[FileFacts | None] = may_be(states[keys[path]])
        if digest not in [facts.content_hash for facts in known if facts]:
            damage = f"the bytes of {path} are not those published"
            return f"partition {keys[path]} is damaged ({damage}): build it again with force=True"
    return None


def _digest(fs: pafs.FileSystem, path: str) -> str:
    try:
        return patiently(lambda: digest_of(fs, path))
    except (OSError, pa.ArrowException) as error:
        raise unreadable(path, error) from error
