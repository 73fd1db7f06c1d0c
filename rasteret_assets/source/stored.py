"""The last look at a source, kept in the workspace: who asks again pays only for the files that have changed since."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any, Final

import numpy as np
import pyarrow as pa

from rasteret_assets.source.known import KnownSchemas
from rasteret_assets.source.open import Source, open_source
from rasteret_assets.source.profile import (
    PROFILE_VERSION,
    Look,
    RowKeeper,
    SourceProfile,
    columns_version,
    look_at,
    profile_fingerprint,
)
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.workspace import Workspace

_log = logging.getLogger(__name__)

_LOOKED_UNDER: Final = "looked_under"


def open_known(
    workspace: Workspace, data: Any, spec: CollectionSpec, filesystem: Any = None, *, trust_stored: bool = True
) -> Source:
    """Open a record table as :func:`~.open.open_source` does, but no footer of a file that did not change.

    Args:
        workspace: keeps the schemas of the files.
        data: path, URI or Arrow object.
        spec: of the collection.
        filesystem: pyarrow or fsspec filesystem of the path.
        trust_stored: whether the schemas that are kept count, as they do not where a build is forced.

    Raises:
        SourceError: if there is nothing there, or what is there is not Parquet.
        MissingColumnError: if a column that the spec or the record contract names is not there.
    """
    return open_source(data, spec, filesystem, KnownSchemas(workspace, trust_stored=trust_stored))


def load_profile(
    workspace: Workspace,
    source: Source,
    spec: CollectionSpec,
    *,
    keep: RowKeeper | None = None,
    trust_stored: bool = True,
) -> SourceProfile:
    """Return the source's profile: the stored one where source and spec are unchanged, else that of a new look.

    Args:
        workspace: keeps the profile.
        source: opened record table.
        spec: of the collection.
        keep: called with the rows of the files that are read.
        trust_stored: whether what was found earlier counts; otherwise every row is read again.
    """
    path = _document(workspace)
    stored = workspace.read_json(path, cache=True) if trust_stored else None
    profile = _parsed(stored)
    if profile is not None and profile.fingerprint == profile_fingerprint(source, spec):
        return replace(profile, remote=source.remote)  # which earlier versions did not store
    look = look_at(source, spec, _last_look(workspace, source, stored, spec), keep)
    # The ids first: the document is what makes them count.
    _keep_ids(workspace, look, spec)
    workspace.write_json(path, {**look.profile.to_json(), _LOOKED_UNDER: _looked_under(spec)})
    return look.profile


def stored_profile(workspace: Workspace) -> SourceProfile | None:
    """Return what the last look at the source found; None where nobody has looked."""
    return _parsed(workspace.read_json(_document(workspace), cache=True))


def _parsed(stored: Any) -> SourceProfile | None:
    """The profile that a document states; None for a document of another form, which is made anew."""
    try:
        return None if stored is None else SourceProfile.from_json(stored)
    except (KeyError, TypeError, ValueError, AttributeError):
        _log.warning("what is stored of the source has another form: the source is looked at anew")
        return None


def _document(workspace: Workspace) -> str:
    return f"{workspace.stages}/source.json"


def source_partitions(workspace: Workspace) -> set[str]:
    """Return the keys of the partitions that the last look at the source found; none where there was no look."""
    profile = stored_profile(workspace)
    return set() if profile is None else set(profile.partitions)


def _last_look(workspace: Workspace, source: Source, stored: Any, spec: CollectionSpec) -> Look | None:
    """What an earlier look under the same spec found."""
    profile = _parsed(stored)
    if profile is None or stored.get(_LOOKED_UNDER) != _looked_under(spec):
        return None
    if profile.columns != columns_version(source, spec):
        return None  # rows of another form: all of them are read again anyway, because every partition is built
    table = workspace.read_table(_ids_file(workspace), cache=True)
    if table is None or not table.schema.equals(_ids_schema(spec), check_metadata=True):
        return None
    ids = {
        part: np.frombuffer(hashes.as_buffer() or b"", np.uint64)
        for part, hashes in zip(table["part"].to_pylist(), table["hashes"], strict=True)
    }
    return Look(profile, ids)


def _keep_ids(workspace: Workspace, look: Look, spec: CollectionSpec) -> None:
    # All hashes as one buffer: millions of them take longer to copy than to write.
    ends = np.cumsum([0, *(hashes.nbytes for hashes in look.ids.values())])
    values = np.concatenate([np.zeros(0, np.uint64), *look.ids.values()])
    hashes = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(look.ids), [None, pa.py_buffer(ends), pa.py_buffer(values)]
    )
    table = pa.table([pa.array(list(look.ids), pa.string()), hashes], _ids_schema(spec))
    # Hashes are noise: a dictionary, compression or statistics would only cost time.
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    workspace.write_table(_ids_file(workspace), table, **plain)


def _ids_schema(spec: CollectionSpec) -> pa.Schema:
    """A row for each file: its version, and the hashes of its ids, ``uint64``, as bytes."""
    return pa.schema([("part", pa.string()), ("hashes", pa.large_binary())], {_LOOKED_UNDER: _looked_under(spec)})


def _ids_file(workspace: Workspace) -> str:
    return f"{workspace.stages}/source_ids.parquet"


def _looked_under(spec: CollectionSpec) -> str:
    return f"{PROFILE_VERSION}-{spec.content_hash}"
