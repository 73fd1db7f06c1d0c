"""What a source holds, found in one streaming look: its partitions and their versions, its assets, bands and doubles.

Every stage of every partition goes by the same profile, so that all partitions share one schema and a record is judged
the same whichever partition is built first. What was found in a file is remembered: the next look reads only the files
that are new or rewritten.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.columns.assets import asset_names, normalize_assets, raster_rows
from rasteret_assets.columns.hashing import RowsDigest, batch_hashes, hash_texts, repeated, repeated_by, row_hashes
from rasteret_assets.columns.scalars import normalize_ids, normalize_times
from rasteret_assets.columns.types import plain_type
from rasteret_assets.errors import BandNotFoundError, SourceChangedError
from rasteret_assets.geometry import describe_geometry
from rasteret_assets.partitions import rows_by_partition
from rasteret_assets.schema import (
    ASSETS,
    DATETIME,
    GEOMETRY,
    ID,
    PARSER_VERSION,
    PUBLISH_VERSION,
    RECORD_VERSION,
    START_DATETIME,
    UNDATED,
)
from rasteret_assets.source.crs import crs_name
from rasteret_assets.source.open import Source, SourcePart
from rasteret_assets.source.overlap import FactsOf, FactsOfRows, Overlap, RowFacts, find_overlap
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.background import in_background

#: Raised whenever a profile of the same rows would come out differently: stored ones are then made anew.
PROFILE_VERSION = 5

#: Files that are looked at side by side, with a batch of each in memory.
_PARTS_AT_ONCE = 2


@dataclass(frozen=True, kw_only=True)
class PartitionProfile:
    """One partition of a source: how many rows, and a version that changes with any of them, but not with their order.

    Args:
        rows: how many.
        version: hexadecimal :class:`~rasteret_assets.columns.hashing.RowsDigest` of the rows in one file, or in all
            (where it also covers the ids that other partitions share).
    """

    rows: int
    version: str


@dataclass(frozen=True, kw_only=True)
class PartProfile:
    """What one file of a source holds.

    Args:
        partitions: its rows by partition key.
        asset_names: assets that its rows have.
        rasters: those of them that hold rasters.
    """

    partitions: dict[str, PartitionProfile] = field(default_factory=dict)
    asset_names: tuple[str, ...] = ()
    rasters: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> PartProfile:
        """The profile that ``dataclasses.asdict`` made a document of."""
        return cls(
            partitions=_partitions(document["partitions"]),
            asset_names=tuple(document["asset_names"]),
            rasters=tuple(document["rasters"]),
        )


@dataclass(frozen=True, kw_only=True)
class SourceProfile:
    """What one look at a source found.

    Args:
        fingerprint: of the source's files and the spec that looked at them.
        columns: hash of the names and types of its columns, over all files, and of the CRS of its footprints.
        partitions: by partition key; a source without rows has one empty partition, so that it can be published.
        asset_names: fields of the normalized ``assets`` struct.
        bands: bands to enrich, in order; empty where nothing is to be enriched.
        conflicting_ids: ids that several rows with different content carry; none of these rows is published.
        repeats_ids: whether any id occurs more than once (or, by a clash of hashes, seems to).
        parts: by version of the source's file.
        remote: whether the source lies on another machine.
        superseded: ids whose rows in a partition are older than the one in another, by partition; such rows count
            neither there nor in its version.
    """

    fingerprint: str
    columns: str = ""
    partitions: dict[str, PartitionProfile] = field(default_factory=dict)
    asset_names: tuple[str, ...] = ()
    bands: tuple[str, ...] = ()
    conflicting_ids: tuple[str, ...] = ()
    repeats_ids: bool = True
    parts: dict[str, PartProfile] = field(default_factory=dict)
    remote: bool = False
    superseded: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A document for :meth:`from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> SourceProfile:
        """The profile a document of :meth:`to_json` describes."""
        lists = {name: tuple(document[name]) for name in ("asset_names", "bands", "conflicting_ids")}
        parts = {version: PartProfile.from_json(part) for version, part in document.get("parts", {}).items()}
        return cls(
            fingerprint=document["fingerprint"], columns=document.get("columns", ""),
            partitions=_partitions(document["partitions"]), parts=parts,
            repeats_ids=document.get("repeats_ids", True), remote=bool(document.get("remote")), **lists,
            superseded={key: tuple(ids) for key, ids in document.get("superseded", {}).items()},
        )  # fmt: skip

    @property
    def layout(self) -> str:
        """Hash of what all partitions share; a change means that every one is published anew.

        So does a column that a new file of the source brings, or of which it widens the type: readers that take a
        folder for one table want one schema in all of its files.
        """
        code = (PARSER_VERSION, RECORD_VERSION, PUBLISH_VERSION)
        shared = repr((self.columns, self.asset_names, self.bands, code))
        return hashlib.blake2b(shared.encode(), digest_size=8).hexdigest()

    def version(self, key: str, spec: CollectionSpec) -> str:
        """What a published partition must have been built from to be current."""
        return f"{self.partitions[key].version}-{spec.content_hash}-{self.layout}"


def _partitions(document: Mapping[str, Any]) -> dict[str, PartitionProfile]:
    return {key: PartitionProfile(**value) for key, value in document.items()}


class FoundPart(NamedTuple):
    """What was found in one file of a source.

    Args:
        profile: of the file.
        ids: a 64-bit hash of the id of each row.
        facts: of the same rows, as :data:`~rasteret_assets.source.overlap.ROW_FACTS`, where files may overlap and the
            facts are not stored.
    """

    profile: PartProfile
    ids: npt.NDArray[np.uint64]
    facts: RowFacts | None = None


class Look(NamedTuple):
    """A look at a source: the profile, and what was found in each file, by its version."""

    profile: SourceProfile
    found: dict[str, FoundPart]


def profile_fingerprint(source_fingerprint: str, spec: CollectionSpec) -> str:
    """Return what the profile of a source under a spec depends on: the versions of its files, and the spec."""
    return f"{PROFILE_VERSION}-{source_fingerprint}-{spec.content_hash}"


def profile_source(source: Source, spec: CollectionSpec) -> SourceProfile:
    """Look at every row of a source once (twice where ids repeat) in bounded memory.

    Raises:
        BandNotFoundError: if ``band_codes`` names an asset no record has.
        RecordError: if a contract column has a type that cannot be normalized.
    """
    return look_at(source, spec).profile


#: Takes rows that are seen while a source is looked at: version of their file, partition key, rows.
RowKeeper = Callable[[str, str, pa.RecordBatch], None]


#: Takes what was found in a file as soon as it was read: version of the file, what was found.
PartKeeper = Callable[[str, FoundPart], None]


def look_at(
    source: Source,
    spec: CollectionSpec,
    last: Look | None = None,
    keep: RowKeeper | None = None,
    *,
    begun: Mapping[str, FoundPart] | None = None,
    keep_part: PartKeeper | None = None,
    stored_facts: FactsOf | None = None,
) -> Look:
    """Look at the files of a source that the last look, under the same spec, did not see as they are now.

    Args:
        source: opened record table.
        spec: of the collection.
        last: what the last look found.
        keep: called with the rows of every file that is read, so that they need not be read again; from two threads.
        begun: what a look that did not come to its end found in files that the last look did not see, by version.
        keep_part: called with what was found in each file that is read, once it was read; from two threads.
        stored_facts: yields the facts of files that an earlier look found, or that were given to ``keep_part``.

    Raises:
        BandNotFoundError: if ``band_codes`` names an asset no record has.
        RecordError: if a contract column has a type that cannot be normalized.
    """
    found_in: dict[str, FoundPart] = {}
    if last is not None:
        found_in |= {version: last.found[version] for version in last.profile.parts.keys() & last.found.keys()}
    # Only of the others it is not known whether their ids occur again.
    fresh = [part for part in source.parts if part.version not in found_in]
    found_in |= {part.version: begun[part.version] for part in fresh if begun and part.version in begun}
    unread = [part for part in fresh if part.version not in found_in]
    found_in |= _read_parts(source, unread, spec, keep, keep_part)
    found_in = {part.version: found_in[part.version] for part in source.parts}
    ids = {version: part.ids for version, part in found_in.items()}
    if last is not None and not last.profile.repeats_ids:
        of_fresh = {part.version: ids[part.version] for part in fresh}
        suspects = repeated_by(of_fresh.values(), [ids[version] for version in ids.keys() - of_fresh.keys()])
    else:
        suspects = repeated(ids.values())
    overlap = (
        Overlap(conflicts=_conflicting(source, spec, ids, suspects))
        if spec.newest_by is None
        else _overlapping(source, spec, found_in, suspects, stored_facts)
    )
    profile = _profile_of(source, spec, found_in, overlap)
    return Look(replace(profile, repeats_ids=bool(len(suspects))), found_in)


def _profile_of(
    source: Source, spec: CollectionSpec, found_in: Mapping[str, FoundPart], overlap: Overlap
) -> SourceProfile:
    """The profile of a source by what was found in its files, and in their rows of equal ids."""
    parts = {version: part.profile for version, part in found_in.items()}
    stated = _schema_names(source, spec)
    ordered = stated or sorted({name for part in parts.values() for name in part.asset_names})
    rasters = {name for part in parts.values() for name in part.rasters}
    conflicts = overlap.conflicts
    found = _counted(_combined(parts.values()), overlap)
    for key, shared in conflicts.items():
        # A record is rejected for what another partition holds: that partition's change is a change of this one.
        found[key] = replace(found[key], version=_digest([found[key].version, *shared]))
    return SourceProfile(
        fingerprint=profile_fingerprint(source.fingerprint, spec),
        columns=columns_version(source, spec),
        partitions=found or {UNDATED: PartitionProfile(rows=0, version="empty")},
        asset_names=tuple(ordered),
        bands=_bands(source, spec, ordered, rasters, any_rows=bool(found)),
        conflicting_ids=tuple(sorted({name for shared in conflicts.values() for name in shared})),
        parts=parts,
        remote=source.remote,
        superseded=overlap.superseded,
    )


def _read_parts(
    source: Source,
    parts: Sequence[SourcePart],
    spec: CollectionSpec,
    keep: RowKeeper | None,
    keep_part: PartKeeper | None,
) -> dict[str, FoundPart]:
    """Read files side by side: reading and hashing run outside of Python's lock, each on one core."""

    def read(part: SourcePart) -> FoundPart:
        found = _profile_part(source, part, spec, keep)
        if keep_part is not None:
            keep_part(part.version, found)
            found = found._replace(facts=None)  # they are kept
        return found

    with ThreadPoolExecutor(_PARTS_AT_ONCE) as pool:
        # With the caller's context: locks that are held here are held there too.
        running = {part.version: pool.submit(copy_context().run, read, part) for part in parts}
        try:
            return {version: future.result() for version, future in running.items()}
        finally:
            for future in running.values():
                future.cancel()


def _overlapping(
    source: Source,
    spec: CollectionSpec,
    found_in: Mapping[str, FoundPart],
    suspects: npt.NDArray[np.uint64],
    stored_facts: FactsOf | None,
) -> Overlap:
    def facts(versions: Collection[str]) -> Iterator[tuple[str, RowFacts]]:
        elsewhere = []
        for version in versions:
            if (here := found_in[version].facts) is None:
                elsewhere.append(version)
            else:
                yield version, here
        if elsewhere and stored_facts is not None:
            yield from stored_facts(elsewhere)

    ids = {version: part.ids for version, part in found_in.items()}
    keys = {version: sorted(part.profile.partitions) for version, part in found_in.items()}
    return find_overlap(source, spec, ids, facts, keys, suspects)


def _counted(digests: Mapping[str, RowsDigest], overlap: Overlap) -> dict[str, PartitionProfile]:
    """Partitions with the versions of the rows that count; those in which none does are not there."""
    found: dict[str, PartitionProfile] = {}
    for key, digest in sorted(digests.items()):
        rows = digest.rows
        if key in overlap.digests:
            digest.remove(overlap.digests[key])
        if digest.rows:
            found[key] = PartitionProfile(rows=rows, version=digest.hexdigest())
    return found


def _combined(parts: Collection[PartProfile]) -> dict[str, RowsDigest]:
    """Rows of partitions over all files; which file a row is in does not count, only which rows all files hold."""
    digests: dict[str, RowsDigest] = {}
    for part in parts:
        for key, found in part.partitions.items():
            digests.setdefault(key, RowsDigest()).merge(RowsDigest(found.version, found.rows))
    return digests


def _profiled(digests: Mapping[str, RowsDigest]) -> dict[str, PartitionProfile]:
    return {key: PartitionProfile(rows=found.rows, version=found.hexdigest()) for key, found in sorted(digests.items())}


def _digest(texts: Iterable[str]) -> str:
    return hashlib.blake2b("\0".join(texts).encode(), digest_size=16).hexdigest()


def _profile_part(source: Source, part: SourcePart, spec: CollectionSpec, keep: RowKeeper | None) -> FoundPart:
    digests: dict[str, RowsDigest] = {}
    names: set[str] = set()
    rasters: set[str] = set()
    hashes = [np.zeros(0, np.uint64)]
    facts = FactsOfRows(spec) if spec.newest_by is not None else None
    stated = _schema_names(source, spec)
    for batch in in_background(source.batches(part)):
        aliased = with_aliases(batch, spec)
        hashed = batch_hashes(batch)
        placed = list(_places(aliased, spec))
        if facts is not None:
            facts.add(aliased, hashed, placed)
        for key, places in placed:
            digests.setdefault(key, RowsDigest()).add(hashed[places])
            if keep is not None:
                keep(part.version, key, _taken(batch, places))
        hashes.append(hash_texts(normalize_ids(aliased.column(ID))))
        if not _from_href(source, spec):
            in_batch = stated or asset_names(aliased.column(ASSETS))
            names.update(in_batch)
            if spec.enrich_cog and spec.band_codes is None:
                rasters |= _raster_names(aliased.column(ASSETS), [name for name in in_batch if name not in rasters])
    found = PartProfile(partitions=_profiled(digests), asset_names=tuple(sorted(names)), rasters=tuple(sorted(rasters)))
    return FoundPart(found, np.concatenate(hashes), None if facts is None else facts.table(sorted(digests)))


def scan_parts(
    source: Source, spec: CollectionSpec, profile: SourceProfile, wanted: Mapping[str, Collection[str]]
) -> Iterator[tuple[str, str, pa.RecordBatch]]:
    """Yield raw rows of some files as (version of the file, partition key, rows), in one scan.

    Args:
        source: opened record table.
        spec: of the collection.
        profile: of the source.
        wanted: keys of the partitions that are wanted of a file, by the file's version.

    Raises:
        SourceChangedError: if a file does not hold the rows that the profile counted in it.
    """
    for part in source.parts:
        keys = set(wanted.get(part.version, ()))
        if not keys:
            continue
        digests: dict[str, RowsDigest] = {}
        for batch in source.batches(part):
            hashed = batch_hashes(batch)
            for key, places in _places(with_aliases(batch, spec), spec):
                if key in keys:
                    digests.setdefault(key, RowsDigest()).add(hashed[places])
                    yield part.version, key, _taken(batch, places)
        counted = profile.parts[part.version].partitions
        if _profiled(digests) != {key: counted[key] for key in sorted(keys)}:
            raise SourceChangedError(
                f"{source.label}: a file of it does not hold the rows that it held when it was looked at: it is being "
                "rewritten; build again once that is done"
            )


def parts_of(source: Source, profile: SourceProfile, keys: Collection[str]) -> dict[str, set[str]]:
    """Return the partitions, of some, that every file of a source holds rows of, by the file's version.

    Args:
        source: opened record table.
        profile: of the source.
        keys: of the partitions.
    """
    found = {part.version: set(keys).intersection(profile.parts[part.version].partitions) for part in source.parts}
    return {version: held for version, held in found.items() if held}


def with_aliases(batch: pa.RecordBatch, spec: CollectionSpec) -> pa.RecordBatch:
    """A batch with the contract names of ``column_map`` beside the source columns; no data is copied."""
    for source_name, contract_name in spec.column_map.items():
        if source_name != contract_name:
            position = batch.schema.get_field_index(source_name)
            alias = batch.schema.field(position).with_name(contract_name)
            batch = batch.append_column(alias, batch.column(position))
    return batch


def record_times(batch: pa.RecordBatch, spec: CollectionSpec) -> tuple[pa.Array, pa.Array, pa.Array]:
    """``datetime`` of every record, a mask of those that do not parse, and the instant that places the record."""
    times, bad = normalize_times(batch.column(DATETIME), DATETIME)
    placed = times
    if spec.interval_partition == "start_datetime" and START_DATETIME in batch.schema.names:
        starts, _ = normalize_times(batch.column(START_DATETIME), START_DATETIME)
        placed = pc.coalesce(times, starts)
    return times, bad, placed


def _places(aliased: pa.RecordBatch, spec: CollectionSpec) -> Iterator[tuple[str, npt.NDArray[np.int64]]]:
    """Yield the partitions of a batch, and the positions of their rows in source order."""
    _, _, placed = record_times(aliased, spec)
    yield from rows_by_partition(placed, spec.partition_by)


def _taken(batch: pa.RecordBatch, places: npt.NDArray[np.int64]) -> pa.RecordBatch:
    # Taken and not sliced: a slice that waits to be written would keep the whole batch in memory.
    return batch if len(places) == batch.num_rows else batch.take(pa.array(places))


def _from_href(source: Source, spec: CollectionSpec) -> bool:
    return bool(spec.href_column) and ASSETS not in {*source.schema.names, *spec.column_map.values()}


def columns_version(source: Source, spec: CollectionSpec) -> str:
    """Return a hash of what the source's footers say of its columns."""
    described = describe_geometry(source.schema.field(spec.source_column(GEOMETRY)), source.schema.metadata)
    # As they are published: dictionaries are how some files keep text.
    columns = [field_.with_type(plain_type(field_.type)) for field_ in source.schema]
    types = pa.schema(columns).to_string(show_field_metadata=False, show_schema_metadata=False)
    return _digest([types, crs_name(described), described.native or ""])


def _schema_names(source: Source, spec: CollectionSpec) -> list[str]:
    """Asset names that the schema or the spec states, in their order; none where only the rows tell."""
    if _from_href(source, spec):
        return list(spec.band_index_map)
    kind = source.schema.field(spec.source_column(ASSETS)).type
    return [child.name for child in kind] if pa.types.is_struct(kind) else []


def _raster_names(column: pa.Array, names: list[str]) -> set[str]:
    assets, _ = normalize_assets(column, names, {})
    fields = {name: pc.struct_field(assets, [position]) for position, name in enumerate(names)}
    return {name for name, field_ in fields.items() if pc.any(raster_rows(field_)).as_py()}


def _bands(
    source: Source, spec: CollectionSpec, names: list[str], rasters: set[str], *, any_rows: bool
) -> tuple[str, ...]:
    if not spec.enrich_cog:
        return ()
    if spec.band_codes is not None:
        if (unknown := [band for band in spec.band_codes if band not in names]) and (any_rows or names):
            raise BandNotFoundError(f"{source.label}: band_codes asks for {unknown}; its assets are {names}")
        return spec.band_codes
    return tuple(names) if _from_href(source, spec) else tuple(name for name in names if name in rasters)


def _conflicting(
    source: Source,
    spec: CollectionSpec,
    hashes: Mapping[str, npt.NDArray[np.uint64]],
    suspects: npt.NDArray[np.uint64],
) -> dict[str, list[str]]:
    """Ids that rows of different content share, by partition; only rows are compared whose id's hash is suspect."""
    if not len(suspects):
        return {}
    ids, contents, keys = [pa.array([], pa.string())], [np.zeros(0, np.uint64)], []
    for part in source.parts:
        if not np.isin(hashes[part.version], suspects).any():
            continue
        for batch in source.batches(part):
            aliased = with_aliases(batch, spec)
            for key, places in _places(aliased, spec):
                rows = _taken(batch, places)
                texts = normalize_ids(_taken(aliased, places).column(ID))
                chosen = np.flatnonzero(np.isin(hash_texts(texts), suspects) & np.asarray(texts.is_valid()))
                if len(chosen):
                    ids.append(texts.take(pa.array(chosen)))
                    contents.append(row_hashes(rows.take(pa.array(chosen)).columns))
                    keys.append(np.full(len(chosen), key))
    encoded = pa.chunked_array(ids).combine_chunks().dictionary_encode()
    codes = np.asarray(encoded.indices)
    distinct = np.unique(np.stack([codes.astype(np.uint64), np.concatenate(contents)]), axis=1)[0]
    shared = np.bincount(distinct.astype(np.int64), minlength=len(encoded.dictionary)) > 1
    places = np.concatenate(keys) if keys else np.zeros(0, "U1")
    return {
        str(key): sorted(
            encoded.dictionary.take(pa.array(np.unique(codes[shared[codes] & (places == key)]))).to_pylist()
        )
        for key in np.unique(places[shared[codes]])
    }
