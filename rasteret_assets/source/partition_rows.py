"""Find the partitions of rows, and read the rows of some partitions in one scan."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.columns.hashing import RowsDigest, batch_hashes
from rasteret_assets.columns.scalars import normalize_times
from rasteret_assets.errors import SourceChangedError
from rasteret_assets.partitions import rows_by_partition
from rasteret_assets.schema import DATETIME, START_DATETIME
from rasteret_assets.source.open import Source
from rasteret_assets.source.profile import SourceProfile, profiles_of
from rasteret_assets.spec import CollectionSpec


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
            for key, places in places_of(with_aliases(batch, spec), spec):
                if key in keys:
                    digests.setdefault(key, RowsDigest()).add(hashed[places])
                    yield part.version, key, take_rows(batch, places)
        counted = profile.parts[part.version].partitions
        if profiles_of(digests) != {key: counted[key] for key in sorted(keys)}:
            raise SourceChangedError(
                f"{source.label}: one of its files has other rows now than when the table was profiled, so it is being "
                "rewritten: build again when that is done"
            )


def parts_of(source: Source, profile: SourceProfile, keys: Collection[str]) -> dict[str, set[str]]:
    """Return which of some partitions every file of a source holds rows of, by the file's version.

    Args:
        source: opened record table.
        profile: of the source.
        keys: of the partitions.
    """
    found = {part.version: set(keys).intersection(profile.parts[part.version].partitions) for part in source.parts}
    return {version: held for version, held in found.items() if held}


def with_aliases(batch: pa.RecordBatch, spec: CollectionSpec) -> pa.RecordBatch:
    """Return a batch with the contract names of ``column_map`` beside the source columns; no data is copied."""
    for source_name, contract_name in spec.column_map.items():
        if source_name != contract_name:
            position = batch.schema.get_field_index(source_name)
            alias = batch.schema.field(position).with_name(contract_name)
            batch = batch.append_column(alias, batch.column(position))
    return batch


def record_times(batch: pa.RecordBatch, spec: CollectionSpec) -> tuple[pa.Array, pa.Array, pa.Array]:
    """Return ``datetime`` of N records, a mask of those that do not parse, and the instants that choose partitions."""
    times, bad = normalize_times(batch.column(DATETIME), DATETIME)
    placed = times
    if spec.interval_partition == "start_datetime" and START_DATETIME in batch.schema.names:
        starts, _ = normalize_times(batch.column(START_DATETIME), START_DATETIME)
        placed = pc.coalesce(times, starts)
    return times, bad, placed


def places_of(aliased: pa.RecordBatch, spec: CollectionSpec) -> Iterator[tuple[str, npt.NDArray[np.int64]]]:
    """Yield the partitions of a batch, and the positions ``int64[K]`` of their rows in source order."""
    _, _, placed = record_times(aliased, spec)
    yield from rows_by_partition(placed, spec.partition_by)


def take_rows(batch: pa.RecordBatch, places: npt.NDArray[np.int64]) -> pa.RecordBatch:
    """Return the rows of a batch at some places; the batch itself if these are all places."""
    # Copied, because a slice would keep the whole batch in memory while it waits to be written.
    return batch if len(places) == batch.num_rows else batch.take(pa.array(places))
