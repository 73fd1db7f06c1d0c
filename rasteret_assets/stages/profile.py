"""What a source holds, found in one streaming look: its partitions and their versions, its assets, bands and doubles.

Every stage of every partition goes by the same profile, so that all partitions share one schema and a record is judged
the same whichever partition is built first.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.errors import BandNotFoundError
from rasteret_assets.schema import ASSETS, DATETIME, ID, PARSER_VERSION, START_DATETIME, UNDATED, partition_key
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.stages.assets import asset_names, normalize_assets, raster_rows
from rasteret_assets.stages.columns import normalize_ids, normalize_times
from rasteret_assets.stages.scan import Source


@dataclass(frozen=True, kw_only=True)
class PartitionProfile:
    """One partition of a source: how many rows, and a version that changes with any of them."""

    rows: int
    version: str


@dataclass(frozen=True, kw_only=True)
class SourceProfile:
    """What one look at a source found.

    Args:
        fingerprint: of the source's files and the spec that looked at them.
        partitions: by partition key; a source without rows has one empty partition, so that it can be published.
        asset_names: fields of the normalized ``assets`` struct.
        bands: bands to enrich, in order; empty where nothing is to be enriched.
        conflicting_ids: ids that several rows with different content carry; none of these rows is published.
    """

    fingerprint: str
    partitions: dict[str, PartitionProfile] = field(default_factory=dict)
    asset_names: tuple[str, ...] = ()
    bands: tuple[str, ...] = ()
    conflicting_ids: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A document for :meth:`from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> SourceProfile:
        """The profile a document of :meth:`to_json` describes."""
        partitions = {key: PartitionProfile(**value) for key, value in document["partitions"].items()}
        lists = {name: tuple(document[name]) for name in ("asset_names", "bands", "conflicting_ids")}
        return cls(fingerprint=document["fingerprint"], partitions=partitions, **lists)

    @property
    def layout(self) -> str:
        """Hash of what all partitions share; a change means that every one is published anew."""
        shared = repr((self.asset_names, self.bands, PARSER_VERSION))
        return hashlib.blake2b(shared.encode(), digest_size=8).hexdigest()

    def version(self, key: str, spec: CollectionSpec) -> str:
        """What a published partition must have been built from to be current."""
        return f"{self.partitions[key].version}-{spec.content_hash}-{self.layout}"


def profile_fingerprint(source: Source, spec: CollectionSpec) -> str:
    """What the profile of a source under a spec depends on, without reading a row."""
    return f"{source.fingerprint}-{spec.content_hash}"


def profile_source(source: Source, spec: CollectionSpec) -> SourceProfile:
    """Look at every row of a source once (twice where ids repeat) in bounded memory.

    Raises:
        BandNotFoundError: if ``band_codes`` names an asset no record has.
        RecordError: if a contract column has a type that cannot be normalized.
    """
    digests: dict[str, Any] = {}
    rows: Counter[str] = Counter()
    stated = _schema_names(source, spec)
    names: dict[str, None] = dict.fromkeys(stated)
    rasters: set[str] = set()
    id_chunks: list[pa.Array] = []
    for batch in source.batches():
        aliased = with_aliases(batch, spec)
        for key, part in _split(batch, aliased, spec):
            digests.setdefault(key, hashlib.blake2b(digest_size=16)).update(_serialized(part))
            rows[key] += part.num_rows
        id_chunks.append(normalize_ids(aliased.column(ID)))
        if not _from_href(source, spec):
            in_batch = asset_names(aliased.column(ASSETS))
            names.update(dict.fromkeys(in_batch))
            if spec.enrich_cog and spec.band_codes is None:
                rasters |= _raster_names(aliased.column(ASSETS), [name for name in in_batch if name not in rasters])
    ordered = stated or sorted(names)
    found = {key: PartitionProfile(rows=rows[key], version=digests[key].hexdigest()) for key in sorted(rows)}
    return SourceProfile(
        fingerprint=profile_fingerprint(source, spec),
        partitions=found or {UNDATED: PartitionProfile(rows=0, version="empty")},
        asset_names=tuple(ordered),
        bands=_bands(source, spec, ordered, rasters, any_rows=bool(rows)),
        conflicting_ids=_conflicting(source, spec, id_chunks),
    )


def partition_tables(source: Source, spec: CollectionSpec, keys: set[str]) -> dict[str, pa.Table]:
    """Raw rows of the partitions in ``keys`` that have any, from one scan of the source."""
    parts: dict[str, list[pa.RecordBatch]] = {}
    empty = True
    for batch in source.batches():
        empty = empty and batch.num_rows == 0
        for key, part in _split(batch, with_aliases(batch, spec), spec):
            if key in keys:
                parts.setdefault(key, []).append(part)
    if empty and UNDATED in keys:
        parts[UNDATED] = []
    return {key: pa.Table.from_batches(batches, source.schema) for key, batches in sorted(parts.items())}


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


def _split(
    batch: pa.RecordBatch, aliased: pa.RecordBatch, spec: CollectionSpec
) -> Iterator[tuple[str, pa.RecordBatch]]:
    """The rows of a batch by partition key, each part in source order."""
    if batch.num_rows == 0:
        return
    _, _, placed = record_times(aliased, spec)
    months = np.asarray(pc.fill_null(pc.add(pc.multiply(pc.year(placed), 12), pc.subtract(pc.month(placed), 1)), -1))
    for month in np.unique(months):
        key = partition_key(None, None) if month < 0 else partition_key(int(month) // 12, int(month) % 12 + 1)
        index = np.flatnonzero(months == month)
        yield key, batch if len(index) == batch.num_rows else batch.take(pa.array(index))


def _serialized(batch: pa.RecordBatch) -> bytes:
    """A batch as Arrow IPC: equal rows give equal bytes."""
    sink = io.BytesIO()
    # take() rather than the batch itself: a slice of a larger batch would serialize with other offsets.
    rows = batch.take(pa.array(np.arange(batch.num_rows)))
    with pa.ipc.new_stream(sink, rows.schema.remove_metadata()) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(rows.columns, schema=rows.schema.remove_metadata()))
    return sink.getvalue()


def _from_href(source: Source, spec: CollectionSpec) -> bool:
    return bool(spec.href_column) and ASSETS not in {*source.schema.names, *spec.column_map.values()}


def _schema_names(source: Source, spec: CollectionSpec) -> list[str]:
    """Asset names that the schema or the spec states, in their order; none where only the rows tell."""
    if _from_href(source, spec):
        return list(spec.band_index_map)
    aliases = {contract: name for name, contract in spec.column_map.items()}
    kind = source.schema.field(aliases.get(ASSETS, ASSETS)).type
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


def _conflicting(source: Source, spec: CollectionSpec, id_chunks: list[pa.Array]) -> tuple[str, ...]:
    """Ids that rows of different content share; the rows are compared only where ids repeat at all."""
    if not id_chunks:
        return ()
    counted = pa.chunked_array(id_chunks).drop_null().value_counts()
    repeated = counted.field("values").filter(pc.greater(counted.field("counts"), 1))
    if not len(repeated):
        return ()
    contents: dict[str, set[bytes]] = {}
    for batch in source.batches():
        ids = normalize_ids(with_aliases(batch, spec).column(ID))
        # Only rows whose id repeats are walked.
        for row in np.flatnonzero(np.asarray(pc.fill_null(pc.is_in(ids, repeated), fill_value=False))):
            digest = hashlib.blake2b(_serialized(batch.slice(int(row), 1)), digest_size=16).digest()
            contents.setdefault(ids[int(row)].as_py(), set()).add(digest)
    return tuple(sorted(record_id for record_id, digests in contents.items() if len(digests) > 1))
