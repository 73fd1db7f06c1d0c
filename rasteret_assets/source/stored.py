"""Keep the profile of a source in the workspace, so that the next profile reads only the files that changed.

``source.json`` holds the profile. The document is replaced in one step, and names the tables that hold what was found
in each file (:mod:`~rasteret_assets.source._found_parts`). One process profiles a source at a time; the others wait for
its profile.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from rasteret_assets.errors import NotHarvestedError, SourceError
from rasteret_assets.source._found_parts import ID_BYTES, FoundFiles
from rasteret_assets.source._kept_schemas import KeptSchemas
from rasteret_assets.source.access import TableAccess
from rasteret_assets.source.open import Source, open_source
from rasteret_assets.source.parquet_files import TableListing, list_parquet
from rasteret_assets.source.profile import (
    PROFILE_VERSION,
    FoundPart,
    ProfilingResult,
    SourceProfile,
    profile_fingerprint,
)
from rasteret_assets.source.profiling import RowKeeper, columns_version, profile_files
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

#: Most bytes (of files, and of stored hashes of ids) and most files that are profiled in a tick of a sensor.
QUICK_BYTES: Final = 64 * 2**20
QUICK_FILES: Final = 100


@dataclass(frozen=True, kw_only=True)
class ProfilingCost:
    """Says how much profiling a source would read.

    Args:
        files: of the source that are new or changed.
        bytes: of these files, and of the stored hashes of ids.
    """

    files: int
    bytes: int

    @property
    def is_small(self) -> bool:
        """Whether profiling takes seconds rather than minutes."""
        return self.files <= QUICK_FILES and self.bytes <= QUICK_BYTES


def open_record_table(
    workspace: Workspace, data: Any, spec: CollectionSpec, filesystem: Any = None, *, trust_stored: bool = True,
    backend: object = None,
) -> Source:  # fmt: skip
    """Open a record table as :func:`~.open.open_source` does, without opening the footers of unchanged files.

    Args:
        workspace: keeps the schemas of the files.
        data: path, URI or Arrow object.
        spec: of the collection.
        filesystem: pyarrow or fsspec filesystem of the path.
        trust_stored: whether the stored schemas count; not in a forced build.
        backend: as for :func:`~.open.open_source`.

    Raises:
        NotHarvestedError: if STAC items are harvested into the table, but were not yet.
        SourceError: if there is nothing there, or what is there is not Parquet.
        MissingColumnError: if a column that the spec or the record contract names is not there.
    """
    with _advising_harvest(workspace, spec):
        return open_source(data, spec, filesystem, KeptSchemas(workspace, trust_stored=trust_stored), backend)


@contextmanager
def _advising_harvest(workspace: Workspace, spec: CollectionSpec) -> Iterator[None]:
    """Replace the error of a missing table by one that asks for a harvest, if the collection is harvested.

    Raises:
        NotHarvestedError: in the place of a SourceError, if nothing was harvested.
    """
    try:
        yield
    except SourceError as error:
        if spec.harvest is None or list_files(workspace.fs, workspace.harvested, (".parquet",)):
            raise
        if workspace.has(workspace.harvest_ledger):
            raise NotHarvestedError(
                f"{spec.name}: the harvest found no item: check collections, bbox and datetime of its harvest options"
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
    """Return the source's profile: the stored one if source and spec are unchanged, else a new one.

    One of several processes profiles the source, and the others wait for its profile. Findings are stored file by file,
    so that the next profiling continues one that was killed.

    Args:
        workspace: keeps the profile.
        source: opened record table.
        spec: of the collection.
        keep: called with the rows of the files that are read.
        trust_stored: whether earlier findings count; otherwise every row is read again, also while another process
            profiles the source.
    """
    if not trust_stored:
        result = profile_files(source, spec, None, keep)
        with workspace.lock_source():
            found = FoundFiles(workspace, _part_version(source, spec), overlap=spec.newest_by is not None)
            for version, part in result.found.items():
                found.add(version, part)
            return _store(workspace, spec, result, found)
    profile = _current(_stored(workspace), source.fingerprint, spec, remote=source.remote)
    if profile is not None:
        return profile
    with workspace.lock_source():
        # Again, because the last holder of the lock may have stored a profile.
        stored = _stored(workspace)
        profile = _current(stored, source.fingerprint, spec, remote=source.remote)
        if profile is not None:
            return profile
        found = FoundFiles(workspace, _part_version(source, spec), overlap=spec.newest_by is not None)
        finished, begun = found.load(_tables_of(stored))
        last = _last_result(stored, source, spec, finished)
        try:
            result = profile_files(
                source, spec, last, keep, begun={**finished, **begun}, keep_part=found.add, stored_facts=found.facts_of
            )
        except BaseException as error:
            also_do(found.flush, error)
            raise
        return _store(workspace, spec, result, found)


def listed_profile(
    workspace: Workspace, spec: CollectionSpec, filesystem: Any = None, backend: object = None
) -> tuple[SourceProfile | None, ProfilingCost]:
    """Return the stored profile if a listing of the source shows that it is up to date, and the cost of a new one.

    Costs one listing and one document; no file of the source is opened.

    Args:
        workspace: keeps the profile.
        spec: of the collection, whose path is that of the record table.
        filesystem: pyarrow or fsspec filesystem of the record table.
        backend: as for :func:`~.open.open_source`.

    Raises:
        NotHarvestedError: if STAC items are harvested into the source, but were not yet.
        SourceError: if the source cannot be listed.
    """
    with _advising_harvest(workspace, spec):
        listing = list_parquet(spec.paths, TableAccess.of(spec, filesystem, backend))
    stored = _stored(workspace)
    fingerprint = files_version(version.version for version in listing.versions)
    profile = _current(stored, fingerprint, spec, remote=_is_remote(listing, spec))
    if profile is not None:
        return profile, ProfilingCost(files=0, bytes=0)
    return None, _cost(_last_profile(stored, spec), _sizes(listing), spec)


def _is_remote(listing: TableListing, spec: CollectionSpec) -> bool:
    return listing.remote or (spec.harvest is not None and spec.harvest.is_remote)


def is_quick_to_profile(workspace: Workspace, source: Source, spec: CollectionSpec) -> bool:
    """Tell whether profiling an opened source takes seconds; a source whose columns changed is read as a whole."""
    profile = _last_profile(_stored(workspace), spec)
    if profile is not None and profile.columns != columns_version(source, spec):
        profile = None
    return _cost(profile, {part.version: part.size for part in source.parts}, spec).is_small


def stored_profile(workspace: Workspace) -> SourceProfile | None:
    """Return the stored profile of the source; None if the source was never profiled."""
    return _parsed(_stored(workspace))


def source_partitions(workspace: Workspace) -> set[str]:
    """Return the keys of the partitions in the stored profile; an empty set if the source was never profiled."""
    profile = stored_profile(workspace)
    return set() if profile is None else set(profile.partitions)


def _stored(workspace: Workspace) -> Any:
    return workspace.read_json(_document(workspace), cache=True)


def _document(workspace: Workspace) -> str:
    return f"{workspace.stages}/source.json"


def _parsed(stored: Any) -> SourceProfile | None:
    """Return the profile that a document states; None if the document has another form, so that it is made anew."""
    try:
        return None if stored is None else SourceProfile.from_json(stored)
    except (KeyError, TypeError, ValueError, AttributeError):
        _log.warning("the stored profile of the source has another form: the source is profiled anew")
        return None


def _current(stored: Any, fingerprint: str, spec: CollectionSpec, *, remote: bool) -> SourceProfile | None:
    """Return the profile of a document, if it was made from the same files and spec."""
    profile = _parsed(stored)
    if profile is None or profile.fingerprint != profile_fingerprint(fingerprint, spec):
        return None
    return replace(profile, remote=remote)  # because earlier versions did not store ``remote``


def _last_profile(stored: Any, spec: CollectionSpec) -> SourceProfile | None:
    """Return the profile of a document that was made under the same spec."""
    profile = _parsed(stored)
    return None if profile is None or stored.get(_LOOKED_UNDER) != _looked_under(spec) else profile


def _last_result(
    stored: Any, source: Source, spec: CollectionSpec, finished: dict[str, FoundPart]
) -> ProfilingResult | None:
    profile = _last_profile(stored, spec)
    if profile is None or profile.columns != columns_version(source, spec):
        return None  # all rows are read again anyway, because every partition is built anew
    return ProfilingResult(profile, finished)


def _tables_of(stored: Any) -> Sequence[str]:
    named = stored.get(_TABLES) if isinstance(stored, dict) else None
    return [name for name in named if isinstance(name, str)] if isinstance(named, list) else []


def _store(workspace: Workspace, spec: CollectionSpec, result: ProfilingResult, found: FoundFiles) -> SourceProfile:
    """Write the document of a profile, after the tables that it names; then remove all other tables."""
    tables = found.settle(result.found)
    workspace.write_json(
        _document(workspace), {**result.profile.to_json(), _LOOKED_UNDER: _looked_under(spec), _TABLES: tables}
    )
    found.remove_others(tables)
    workspace.remove(f"{workspace.stages}/{_EARLIER}")
    return result.profile


def _sizes(listing: TableListing) -> dict[str, int | None]:
    return {version.version: one.size for version, one in zip(listing.versions, listing.listed, strict=True)}


def _cost(profile: SourceProfile | None, sizes: dict[str, int | None], spec: CollectionSpec) -> ProfilingCost:
    """Return what profiling files of some sizes (by version) would read, given an earlier profile."""
    # If ids repeat, rows of any file may have to be compared with rows of the new files; under overlap the facts that
    # are compared are stored.
    compared = profile is None or (profile.repeats_ids and spec.newest_by is None)
    unchanged = set() if profile is None or compared else sizes.keys() & profile.parts.keys()
    unread = [size for version, size in sizes.items() if version not in unchanged]
    ids = sum(found.rows for found in profile.partitions.values()) * ID_BYTES if profile is not None else 0
    size = sum(one if one is not None else sys.maxsize for one in unread)
    return ProfilingCost(files=len(unread), bytes=ids + size)


def _part_version(source: Source, spec: CollectionSpec) -> str:
    """Return what the findings of a file depend on, beside the file."""
    return f"{_looked_under(spec)}-{columns_version(source, spec)}"


def _looked_under(spec: CollectionSpec) -> str:
    return f"{PROFILE_VERSION}-{spec.content_hash}"
