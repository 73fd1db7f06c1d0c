"""The last look at a source, kept in the workspace: who asks again pays only for the files that have changed since."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa

from rasteret_assets.spec import CollectionSpec
from rasteret_assets.stages.profile import PROFILE_VERSION, Look, SourceProfile, look_at, profile_fingerprint
from rasteret_assets.stages.scan import Source
from rasteret_assets.storage.workspace import Workspace

_LOOKED_UNDER: Final = "looked_under"


def load_profile(workspace: Workspace, source: Source, spec: CollectionSpec) -> SourceProfile:
    """The source's profile: the stored one where source and spec are unchanged, else a new look, which is stored."""
    path = f"{workspace.stages}/source.json"
    stored = workspace.read_json(path)
    if stored is not None and stored.get("fingerprint") == profile_fingerprint(source, spec):
        return SourceProfile.from_json(stored)
    look = look_at(source, spec, _last_look(workspace, stored, spec))
    # The ids first: the document is what makes them count.
    _keep_ids(workspace, look, spec)
    workspace.write_json(path, {**look.profile.to_json(), _LOOKED_UNDER: _looked_under(spec)})
    return look.profile


def _last_look(workspace: Workspace, stored: Any, spec: CollectionSpec) -> Look | None:
    """What an earlier look under the same spec found."""
    if stored is None or stored.get(_LOOKED_UNDER) != _looked_under(spec):
        return None
    table = workspace.read_table(_ids_file(workspace))
    if table is None or (table.schema.metadata or {}).get(_LOOKED_UNDER.encode()) != _looked_under(spec).encode():
        return None
    hashes = np.asarray(table["hash"])
    codes = np.asarray(table["part"])
    ends = np.searchsorted(codes, np.arange(len(stored["parts"])), side="right")
    starts = np.concatenate([[0], ends[:-1]])
    names = (table.schema.metadata or {})[b"parts"].decode().split()
    ids = {name: hashes[start:end] for name, start, end in zip(names, starts, ends, strict=False)}
    return Look(SourceProfile.from_json(stored), ids)


def _keep_ids(workspace: Workspace, look: Look, spec: CollectionSpec) -> None:
    counts = [len(hashes) for hashes in look.ids.values()]
    table = pa.table(
        {
            "part": np.repeat(np.arange(len(counts), dtype=np.int32), counts),
            "hash": np.concatenate([np.zeros(0, np.uint64), *look.ids.values()]),
        }
    )
    metadata = {_LOOKED_UNDER: _looked_under(spec), "parts": " ".join(look.ids)}
    # Hashes are noise: a dictionary or compression would only cost time.
    kept = table.replace_schema_metadata(metadata)
    workspace.write_table(_ids_file(workspace), kept, compression="none", use_dictionary=["part"])


def _ids_file(workspace: Workspace) -> str:
    return f"{workspace.stages}/source_ids.parquet"


def _looked_under(spec: CollectionSpec) -> str:
    return f"{PROFILE_VERSION}-{spec.content_hash}"
