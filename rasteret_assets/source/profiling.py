"""Profile a source in one streaming pass over the files that are new or rewritten.

For all other files the findings of the last pass count, which :mod:`~rasteret_assets.source.stored` keeps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.columns.assets import asset_names, normalize_assets, raster_rows
from rasteret_assets.columns.hashing import RowsDigest, batch_hashes, hash_texts, repeated, repeated_by, row_hashes
from rasteret_assets.columns.scalars import normalize_ids
from rasteret_assets.columns.types import plain_type
from rasteret_assets.errors import BandNotFoundError
from rasteret_assets.geometry import describe_geometry
from rasteret_assets.schema import ASSETS, GEOMETRY, ID, UNDATED
from rasteret_assets.source.footprint_crs import crs_name
from rasteret_assets.source.open import Source, SourcePart
from rasteret_assets.source.overlap import FactsOf, FactsOfRows, Overlap, RowFacts, find_overlap
from rasteret_assets.source.partition_rows import places_of, take_rows, with_aliases
from rasteret_assets.source.profile import (
    FoundPart,
    PartitionProfile,
    PartProfile,
    ProfilingResult,
    SourceProfile,
    profile_fingerprint,
    profiles_of,
)
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.process.background import in_background

#: Files that are read side by side, with a batch of each in memory.
_PARTS_AT_ONCE = 2


def profile_source(source: Source, spec: CollectionSpec) -> SourceProfile:
    """Return the profile of a source: every row is read once (twice where ids repeat) in bounded memory.

    Raises:
        BandNotFoundError: if ``band_codes`` names an asset no record has.
        RecordError: if a contract column has a type that cannot be normalized.
    """
    return profile_files(source, spec).profile


#: Takes rows that are read while a source is profiled: version of their file, partition key, rows.
RowKeeper = Callable[[str, str, pa.RecordBatch], None]
#: Takes what was found in a file as soon as it was read: version of the file, what was found.
PartKeeper = Callable[[str, FoundPart], None]


def profile_files(
    source: Source,
    spec: CollectionSpec,
    last: ProfilingResult | None = None,
    keep: RowKeeper | None = None,
    *,
    begun: Mapping[str, FoundPart] | None = None,
    keep_part: PartKeeper | None = None,
    stored_facts: FactsOf | None = None,
) -> ProfilingResult:
    """Profile a source, reading only the files that changed since the last profile under the same spec.

    Args:
        source: opened record table.
        spec: of the collection.
        last: the last profile, and what was found in each file.
        keep: called with the rows of every file that is read, so that they need not be read again; from two threads.
        begun: what an interrupted profiling found in files that ``last`` does not have, by version.
        keep_part: called with what was found in each file that is read, once it was read; from two threads.
        stored_facts: yields the facts of files that were profiled earlier, or that were given to ``keep_part``.

    Raises:
        BandNotFoundError: if ``band_codes`` names an asset no record has.
        RecordError: if a contract column has a type that cannot be normalized.
    """
    found_in: dict[str, FoundPart] = {}
    if last is not None:
        found_in |= {version: last.found[version] for version in last.profile.parts.keys() & last.found.keys()}
    # Ids of the files in ``last`` were compared with each other before, so only those of the others are new.
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
    return ProfilingResult(replace(profile, repeats_ids=bool(len(suspects))), found_in)


def _profile_of(
    source: Source, spec: CollectionSpec, found_in: Mapping[str, FoundPart], overlap: Overlap
) -> SourceProfile:
    """Return the profile of a source from the findings of its files and the overlap of their rows."""
    parts = {version: part.profile for version, part in found_in.items()}
    stated = _schema_names(source, spec)
    ordered = stated or sorted({name for part in parts.values() for name in part.asset_names})
    rasters = {name for part in parts.values() for name in part.rasters}
    conflicts = overlap.conflicts
    found = _counted(_combined(parts.values()), overlap)
    for key, shared in conflicts.items():
        # A record is rejected because of rows in another partition, whose changes therefore change this version too.
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
    """Read files side by side, because reading and hashing run outside of Python's lock, each on one core."""

    def read(part: SourcePart) -> FoundPart:
        found = _profile_part(source, part, spec, keep)
        if keep_part is not None:
            keep_part(part.version, found)
            found = found._replace(facts=None)  # stored by keep_part, so memory need not hold them
        return found

    with ThreadPoolExecutor(_PARTS_AT_ONCE) as pool:
        # With the caller's context, so that locks which are held here are held there too.
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
    """Return the partitions with the versions of the rows that count; partitions without such rows are left out."""
    found: dict[str, PartitionProfile] = {}
    for key, digest in sorted(digests.items()):
        rows = digest.rows
        if key in overlap.digests:
            digest.remove(overlap.digests[key])
        if digest.rows:
            found[key] = PartitionProfile(rows=rows, version=digest.hexdigest())
    return found


def _combined(parts: Collection[PartProfile]) -> dict[str, RowsDigest]:
    """Return the digests of partitions over all files; they do not depend on which file a row is in."""
    digests: dict[str, RowsDigest] = {}
    for part in parts:
        for key, found in part.partitions.items():
            digests.setdefault(key, RowsDigest()).merge(RowsDigest(found.version, found.rows))
    return digests


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
        placed = list(places_of(aliased, spec))
        if facts is not None:
            facts.add(aliased, hashed, placed)
        for key, places in placed:
            digests.setdefault(key, RowsDigest()).add(hashed[places])
            if keep is not None:
                keep(part.version, key, take_rows(batch, places))
        hashes.append(hash_texts(normalize_ids(aliased.column(ID))))
        if not _from_href(source, spec):
            in_batch = stated or asset_names(aliased.column(ASSETS))
            names.update(in_batch)
            if spec.enrich_cog and spec.band_codes is None:
                rasters |= _raster_names(aliased.column(ASSETS), [name for name in in_batch if name not in rasters])
    profile = PartProfile(
        partitions=profiles_of(digests), asset_names=tuple(sorted(names)), rasters=tuple(sorted(rasters))
    )  # fmt: skip
    return FoundPart(profile, np.concatenate(hashes), None if facts is None else facts.table(sorted(digests)))


def _from_href(source: Source, spec: CollectionSpec) -> bool:
    return bool(spec.href_column) and ASSETS not in {*source.schema.names, *spec.column_map.values()}


def columns_version(source: Source, spec: CollectionSpec) -> str:
    """Return a hash of what the source's footers say of its columns."""
    described = describe_geometry(source.schema.field(spec.source_column(GEOMETRY)), source.schema.metadata)
    # Of the types that are published, because dictionaries are only how some files store text.
    columns = [field_.with_type(plain_type(field_.type)) for field_ in source.schema]
    types = pa.schema(columns).to_string(show_field_metadata=False, show_schema_metadata=False)
    return _digest([types, crs_name(described), described.native or ""])


def _schema_names(source: Source, spec: CollectionSpec) -> list[str]:
    """Return the asset names that the schema or the spec states, in their order; nothing if only the rows tell."""
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
            if spec.harvest is not None and spec.harvest.band_map and not names:
                kept = ", ".join(sorted(set(spec.harvest.band_map.values())))
                raise BandNotFoundError(
                    f"{source.label}: no item has an asset that band_map names ({kept}): write {{band: asset}} with "
                    "the names of the items' assets, and harvest again"
                )
            raise BandNotFoundError(f"{source.label}: band_codes asks for {unknown}; its assets are {names}")
        return spec.band_codes
    return tuple(names) if _from_href(source, spec) else tuple(name for name in names if name in rasters)


def _conflicting(
    source: Source,
    spec: CollectionSpec,
    hashes: Mapping[str, npt.NDArray[np.uint64]],
    suspects: npt.NDArray[np.uint64],
) -> dict[str, list[str]]:
    """Return the ids that rows of different content share, by partition; only rows with a suspect hash are compared."""
    if not len(suspects):
        return {}
    ids, contents, keys = [pa.array([], pa.string())], [np.zeros(0, np.uint64)], []
    for part in source.parts:
        if not np.isin(hashes[part.version], suspects).any():
            continue
        for batch in source.batches(part):
            aliased = with_aliases(batch, spec)
            for key, places in places_of(aliased, spec):
                rows = take_rows(batch, places)
                texts = normalize_ids(take_rows(aliased, places).column(ID))
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
