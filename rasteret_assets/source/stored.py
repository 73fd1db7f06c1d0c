"""The last look at a source, kept in the workspace: who asks again pays only for the files that have changed since.

``source.json`` holds the profile of the source. It is replaced in one step, and names the tables that hold what was
found in each file (:mod:`~rasteret_assets.source.found`). One process looks at a time; the others wait for it, and take
what it found.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from rasteret_assets.errors import NotHarvestedError, SourceError
from rasteret_assets.source.access import TableAccess
from rasteret_assets.source.files import TableListing, list_parquet
from rasteret_assets.source.found import ID_BYTES, FoundFiles
from rasteret_assets.source.known import KnownSchemas
from rasteret_assets.source.open import Source, open_source
from rasteret_assets.source.profile import (
    PROFILE_VERSION,
    FoundPart,
    Look,
    RowKeeper,
    SourceProfile,
    columns_version,
    look_at,
    profile_fingerprint,
)
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.filesystems import list_files
from rasteret_assets.storage.io_errors import also_do
from rasteret_assets.storage.workspace import Workspace
from rasteret_assets.versions import files_version

_log = logging.getLogger(__name__)

_LOOKED_UNDER: Final = "looked_under"
_TABLES: Final = "tables"
#: Where version 0.1.0 kept the hashes of all files.
_EARLIER: Final = "source_ids.parquet"

#: What a look may read to be done in passing: bytes (of files, and of what is stored of known ids), and files.
SMALL_LOOK_BYTES: Final = 64 * 2**20
SMALL_LOOK_FILES: Final = 100


@dataclass(frozen=True, kw_only=True)
class LookAhead:
    """What a look at a source would have to read.

    Args:
        files: of the source that are new or changed.
        bytes: of these files, and of what is stored of the others.
    """

    files: int
    bytes: int

    @property
    def is_small(self) -> bool:
        """Whether the look takes seconds rather than minutes."""
        return self.files <= SMALL_LOOK_FILES and self.bytes <= SMALL_LOOK_BYTES


def open_known(
    workspace: Workspace, data: Any, spec: CollectionSpec, filesystem: Any = None, *, trust_stored: bool = True,
    backend: object = None,
) -> Source:  # fmt: skip
    """Open a record table as :func:`~.open.open_source` does, but no footer of a file that did not change.

    Args:
        workspace: keeps the schemas of the files.
        data: path, URI or Arrow object.
        spec: of the collection.
        filesystem: pyarrow or fsspec filesystem of the path.
        trust_stored: whether the schemas that are kept count, as they do not where a build is forced.
        backend: as for :func:`~.open.open_source`.

    Raises:
        NotHarvestedError: if STAC items are harvested into the table, but were not yet.
        SourceError: if there is nothing there, or what is there is not Parquet.
        MissingColumnError: if a column that the spec or the record contract names is not there.
    """
    with _told_to_harvest(workspace, spec):
        return open_source(data, spec, filesystem, KnownSchemas(workspace, trust_stored=trust_stored), backend)


@contextmanager
def _told_to_harvest(workspace: Workspace, spec: CollectionSpec) -> Iterator[None]:
    """Say of a table that is not there that it has to be harvested, where it has.

    Raises:
        NotHarvestedError: in the place of a SourceError, where nothing was harvested.
    """
    try:
        yield
    except SourceError as error:
        if spec.harvest is None or list_files(workspace.fs, workspace.harvested, (".parquet",)):
            raise
        if workspace.has(workspace.harvest_ledger):
            raise NotHarvestedError(
                f"{spec.name}: the harvest found no item: look at collections, bbox and datetime of its harvest options"
            ) from error
        raise NotHarvestedError(
            f"{spec.name}: not harvested yet: run rasteret-assets harvest {spec.name}, or harvest(spec) in Python"
        ) from error


def load_profile(
    workspace: Workspace,
    source: Source,
    spec: CollectionSpec,
    *,
    keep: RowKeeper | None = None,
    trust_stored: bool = True,
) -> SourceProfile:
    """Return the source's profile: the stored one where source and spec are unchanged, else that of a new look.

    Of several processes one looks, and the others wait for what it finds. What is found is kept file by file, and a
    look that is killed is continued by the next.

    Args:
        workspace: keeps the profile.
        source: opened record table.
        spec: of the collection.
        keep: called with the rows of the files that are read.
        trust_stored: whether what was found earlier counts; otherwise every row is read again, also while another
            process looks.
    """
    if not trust_stored:
        look = look_at(source, spec, None, keep)
        with workspace.lock_source():
            found = FoundFiles(workspace, _part_version(source, spec), overlap=spec.newest_by is not None)
            for version, part in look.found.items():
                found.add(version, part)
            return _store(workspace, spec, look, found)
    profile = _current(_stored(workspace), source.fingerprint, spec, remote=source.remote)
    if profile is not None:
        return profile
    with workspace.lock_source():
        # Whoever held the lock before may have looked.
        stored = _stored(workspace)
        profile = _current(stored, source.fingerprint, spec, remote=source.remote)
        if profile is not None:
            return profile
        found = FoundFiles(workspace, _part_version(source, spec), overlap=spec.newest_by is not None)
        finished, begun = found.load(_tables_of(stored))
        last = _last_look(stored, source, spec, finished)
        try:
            look = look_at(
                source, spec, last, keep, begun={**finished, **begun}, keep_part=found.add, stored_facts=found.facts_of
            )
        except BaseException as error:
            also_do(found.flush, error)
            raise
        return _store(workspace, spec, look, found)


def listed_profile(
    workspace: Workspace, spec: CollectionSpec, filesystem: Any = None
) -> tuple[SourceProfile | None, LookAhead]:
    """Return the stored profile where a listing of the source shows that it is up to date, and what a look would read.

    Costs one listing and one document; no file of the source is opened.

    Args:
        workspace: keeps the profile.
        spec: of the collection, whose path is that of the record table.
        filesystem: pyarrow or fsspec filesystem of the record table.

    Raises:
        NotHarvestedError: if STAC items are harvested into the source, but were not yet.
        SourceError: if the source cannot be listed.
    """
    with _told_to_harvest(workspace, spec):
        listing = list_parquet(spec.paths, TableAccess.of(spec, filesystem))
    stored = _stored(workspace)
    fingerprint = files_version(version.version for version in listing.versions)
    profile = _current(stored, fingerprint, spec, remote=_is_remote(listing, spec))
    if profile is not None:
        return profile, LookAhead(files=0, bytes=0)
    return None, _ahead(_last_profile(stored, spec), _sizes(listing), spec)


def _is_remote(listing: TableListing, spec: CollectionSpec) -> bool:
    return listing.remote or (spec.harvest is not None and spec.harvest.is_remote)


def is_small_look(workspace: Workspace, source: Source, spec: CollectionSpec) -> bool:
    """Tell whether a look at an opened source would be small: one whose columns changed is read as a whole."""
    profile = _last_profile(_stored(workspace), spec)
    if profile is not None and profile.columns != columns_version(source, spec):
        profile = None
    return _ahead(profile, {part.version: part.size for part in source.parts}, spec).is_small


def stored_profile(workspace: Workspace) -> SourceProfile | None:
    """Return what the last look at the source found; None where nobody has looked."""
    return _parsed(_stored(workspace))


def source_partitions(workspace: Workspace) -> set[str]:
    """Return the keys of the partitions that the last look at the source found; none where there was no look."""
    profile = stored_profile(workspace)
    return set() if profile is None else set(profile.partitions)


def _stored(workspace: Workspace) -> Any:
    return workspace.read_json(_document(workspace), cache=True)


def _document(workspace: Workspace) -> str:
    return f"{workspace.stages}/source.json"


def _parsed(stored: Any) -> SourceProfile | None:
    """The profile that a document states; None for a document of another form, which is made anew."""
    try:
        return None if stored is None else SourceProfile.from_json(stored)
    except (KeyError, TypeError, ValueError, AttributeError):
        _log.warning("what is stored of the source has another form: the source is looked at anew")
        return None


def _current(stored: Any, fingerprint: str, spec: CollectionSpec, *, remote: bool) -> SourceProfile | None:
    """The profile of a document, where the source's files and the spec are those that it was made of."""
    profile = _parsed(stored)
    if profile is None or profile.fingerprint != profile_fingerprint(fingerprint, spec):
        return None
    return replace(profile, remote=remote)  # which earlier versions did not store


def _last_profile(stored: Any, spec: CollectionSpec) -> SourceProfile | None:
    """The profile that an earlier look under the same spec made."""
    profile = _parsed(stored)
    return None if profile is None or stored.get(_LOOKED_UNDER) != _looked_under(spec) else profile


def _last_look(stored: Any, source: Source, spec: CollectionSpec, finished: dict[str, FoundPart]) -> Look | None:
    profile = _last_profile(stored, spec)
    if profile is None or profile.columns != columns_version(source, spec):
        return None  # rows of another form: all of them are read again anyway, because every partition is built
    return Look(profile, finished)


def _tables_of(stored: Any) -> Sequence[str]:
    named = stored.get(_TABLES) if isinstance(stored, dict) else None
    return [name for name in named if isinstance(name, str)] if isinstance(named, list) else []


def _store(workspace: Workspace, spec: CollectionSpec, look: Look, found: FoundFiles) -> SourceProfile:
    """Write the document that makes a look count, after the tables it names; then take away all other tables."""
    tables = found.settle(look.found)
    workspace.write_json(
        _document(workspace), {**look.profile.to_json(), _LOOKED_UNDER: _looked_under(spec), _TABLES: tables}
    )
    found.remove_others(tables)
    workspace.remove(f"{workspace.stages}/{_EARLIER}")
    return look.profile


def _sizes(listing: TableListing) -> dict[str, int | None]:
    return {version.version: one.size for version, one in zip(listing.versions, listing.listed, strict=True)}


def _ahead(profile: SourceProfile | None, sizes: dict[str, int | None], spec: CollectionSpec) -> LookAhead:
    """What a look at files of some sizes, by version, would read, where an earlier look made a profile."""
    # Where ids repeat, the rows of any file may have to be compared with those of the new ones; under overlap what is
    # compared is stored.
    compared = profile is None or (profile.repeats_ids and spec.newest_by is None)
    known = set() if profile is None or compared else sizes.keys() & profile.parts.keys()
    unread = [size for version, size in sizes.items() if version not in known]
    ids = sum(found.rows for found in profile.partitions.values()) * ID_BYTES if profile is not None else 0
    size = sum(one if one is not None else sys.maxsize for one in unread)
    return LookAhead(files=len(unread), bytes=ids + size)


def _part_version(source: Source, spec: CollectionSpec) -> str:
    """What the findings in a file depend on beside the file."""
    return f"{_looked_under(spec)}-{columns_version(source, spec)}"


def _looked_under(spec: CollectionSpec) -> str:
    return f"{PROFILE_VERSION}-{spec.content_hash}"
