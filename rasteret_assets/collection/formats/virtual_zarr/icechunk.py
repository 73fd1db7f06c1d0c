"""Write a virtual Zarr store in Icechunk from the columns of the index: no file is opened, no request is made.

Records are put into groups by their grids (``_zarr_layout.py``), a group gets arrays along time (``_zarr_nodes.py``),
and a tile becomes a reference to its bytes (``_icechunk_writer.py``). A call ends with one commit, so that readers see
all of it or nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from rasteret_assets.collection.extras import optional
from rasteret_assets.collection.formats.virtual_zarr._icechunk_files import prefixes_of
from rasteret_assets.collection.formats.virtual_zarr._icechunk_records import NewRecords, Written, find_new
from rasteret_assets.collection.formats.virtual_zarr._icechunk_store import (
    Repository,
    open_repository,
    require_icechunk,
)
from rasteret_assets.collection.formats.virtual_zarr._icechunk_writer import Writer
from rasteret_assets.collection.formats.virtual_zarr._zarr_layout import FULL, Member, check_mapped, members_of
from rasteret_assets.collection.formats.virtual_zarr._zarr_nodes import ID, VERSION, quiet_codecs, read_group
from rasteret_assets.collection.pixels.record_table import RecordTable, checked_bands
from rasteret_assets.errors import SpecError, WindowError

_log = logging.getLogger(__name__)

#: Headers that are in memory at once; one of a Sentinel-2 band with its overviews takes some 10 kB.
_HEADERS_AT_ONCE: Final = 1024
#: References that are in memory at once, beside those of one batch of headers; each takes some 600 bytes there.
_REFERENCES_HELD: Final = 500_000
#: Names that a group needs for arrays of its own.
_TAKEN: Final = frozenset({"time", "band", "y", "x", "id", "image", "file_version", "spatial_ref"})


@dataclass(frozen=True, kw_only=True, slots=True)
class IcechunkReport:
    """What a call of ``to_icechunk`` wrote.

    Args:
        groups: names of the groups that got records.
        arrays: number of arrays of tiles in these groups, those of overviews included.
        references: number of tiles that were referred to.
        unchecked: number of these that Icechunk cannot refuse once their file is replaced, because its host told
            nothing by which Icechunk would know.
        appended: number of records that a group got which it did not hold.
        rewritten: ids of records whose files were replaced since an earlier call, in their place.
        moved: ids of records that a group of an earlier call still holds, although their files were replaced by files
            of another grid or storage, which are in another group now.
        unchanged: number of records that were there already.
        left_out: number of records that lack the header of a band.
        containers: prefixes of addresses that a reader names in ``authorize_virtual_chunk_access``.
        commit: id of the snapshot; None where there was nothing to write.
    """

    groups: tuple[str, ...] = ()
    arrays: int = 0
    references: int = 0
    unchecked: int = 0
    appended: int = 0
    rewritten: tuple[str, ...] = ()
    moved: tuple[str, ...] = ()
    unchanged: int = 0
    left_out: int = 0
    containers: tuple[str, ...] = ()
    commit: str | None = None


def write_icechunk(collection: RecordTable, store: Any, bands: Any, *, groups: str) -> IcechunkReport:
    """Write the records as references; arguments, result and errors as ``Collection.to_icechunk`` has them."""
    icechunk = require_icechunk()
    zarr = optional("zarr", extra="icechunk", purpose="to_icechunk")
    optional("virtual_tiff", extra="icechunk", purpose="to_icechunk")  # has the codecs of predictors and LZW
    names = _checked_bands(collection, bands)
    repository = open_repository(icechunk, store)
    with quiet_codecs():
        written = _written(zarr, repository)
        new = find_new(collection, names, groups, written)
        if new.without:
            _log.warning("%d records are left out, whose headers of %s are not in the index", new.without, names)
        if not new.total and not new.unchanged:
            raise WindowError(
                "no record has the headers of the bands: compare the filters with the collection's bounds"
            )
        try:
            report = _write(zarr, repository, new, names, written) if new.total else {}
        finally:
            repository.close()
    containers = tuple(sorted(repository.containers))
    return IcechunkReport(**report, unchanged=new.unchanged, left_out=new.without, containers=containers)


def _checked_bands(collection: RecordTable, bands: Any) -> list[str]:
    names = checked_bands(collection, collection.bands if bands is None else bands)
    if taken := [name for name in names if name in _TAKEN or "/" in name or name.startswith(("__", "."))]:
        raise SpecError(
            f"band {taken[0]!r} cannot be the name of an array: {', '.join(sorted(_TAKEN))} are taken, and names "
            "hold no slash and begin with neither a dot nor two underscores"
        )
    return names


def _written(zarr: Any, repository: Repository) -> list[Written]:
    """The records that the groups of a repository hold."""
    store = repository.store
    found: list[Written] = []
    if store is None:
        return found
    try:
        root = zarr.open_group(store, mode="r", use_consolidated=False)
    except zarr.errors.GroupNotFoundError:  # a repository to which nobody has written
        return found
    for name, group in root.groups():
        if (own := read_group(group)) is not None:
            ids, versions = group[f"{FULL}/{ID}"][:], group[f"{FULL}/{VERSION}"][:]
            found.append(Written(name=name, bands=own[0], ids=pa.array(ids, pa.string()), versions=versions))
    return found


def _write(
    zarr: Any, repository: Repository, new: NewRecords, bands: Sequence[str], written: Sequence[Written]
) -> dict[str, Any]:
    """Write all new records and commit them; return what the report says of them."""
    step = max(1, _HEADERS_AT_ONCE // len(bands))
    members = _members(new, bands, 0, step)
    tiles = max(header.tile_offsets.size for _, member in members for header, _ in member.files)
    repository.prepare(prefixes_of(new.hrefs()), tiles=tiles, is_new=not written)
    writer = Writer(repository.store, _root(zarr, repository), new, written)
    writer.write(members)
    message = f"{new.total} records of {', '.join(bands)}"
    for start in range(step, new.total, step):
        if writer.held >= _REFERENCES_HELD:
            repository.set_aside(message)
            writer.go_on(repository.store, _root(zarr, repository))
        writer.write(_members(new, bands, start, start + step))
    report = writer.report
    return report | {"commit": repository.commit(message)}


def _root(zarr: Any, repository: Repository) -> Any:
    return zarr.open_group(repository.store, mode="a", use_consolidated=False)


def _members(new: NewRecords, bands: Sequence[str], start: int, stop: int) -> list[tuple[int, Member]]:
    """The groups of some records, in order, each with the position of the record."""
    members: list[tuple[int, Member]] = []
    for number, record, label in new.take(start, stop):
        check_mapped(record, bands)
        members += [(number, member) for member in members_of(record, bands, label)]
    return members
