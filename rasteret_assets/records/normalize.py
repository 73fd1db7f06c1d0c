"""Normalize raw rows to the record contract, and set aside the rows that cannot meet it, with the reason (stage 2).

Every user column stays. Contract columns are replaced in their places; missing ones are appended.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.columns.assets import assets_from_href, normalize_assets
from rasteret_assets.columns.hashing import hash_texts, repeated
from rasteret_assets.columns.scalars import normalize_crs, normalize_ids
from rasteret_assets.columns.types import plain
from rasteret_assets.error_classes import RejectClass
from rasteret_assets.errors import InvalidRecordError
from rasteret_assets.geometry import describe_geometry
from rasteret_assets.partitions import hive_columns, hive_keys
from rasteret_assets.records._footprint_columns import Footprints, read_footprints
from rasteret_assets.records.newest import NewestRows
from rasteret_assets.schema import (
    ASSETS,
    BBOX,
    CRS,
    DATETIME,
    GEOMETRY,
    ID,
    PROJ_EPSG,
    REJECT_CLASS,
    REJECT_REASON,
)
from rasteret_assets.source.partition_rows import record_times, with_aliases
from rasteret_assets.source.profile import SourceProfile
from rasteret_assets.spec import CollectionSpec


@dataclass(frozen=True, kw_only=True)
class NormalizedRecords:
    """Holds the records of a partition's raw rows, and the rows that are not among them.

    Args:
        records: rows that meet the contract, in source order.
        rejected: raw rows that do not meet the contract, with ``reject_class`` and ``reject_reason``.
        duplicates: exact repetitions that were left out.
        superseded: rows that were left out because a newer one has their id.
        unreadable_assets: records whose ``assets`` could not be read (they stay, without assets).
        crs_conflicts: records whose CRS columns disagree.
    """

    records: pa.Table
    rejected: pa.Table
    duplicates: int = 0
    superseded: int = 0
    unreadable_assets: int = 0
    crs_conflicts: int = 0

    def check(self, max_rejected: float) -> None:
        """Refuse a partition of which more than the tolerated share was rejected.

        Raises:
            InvalidRecordError: naming the first ids, their reasons and the remedy.
        """
        total = self.records.num_rows + self.rejected.num_rows + self.duplicates + self.superseded
        check_rejected(self.rejected, self.rejected.num_rows, total, max_rejected)


class RepeatedIds:
    """Finds the rows of a partition that repeat an earlier one, over all of its batches.

    Args:
        ids: the ids of all rows, in any number of arrays.
    """

    def __init__(self, ids: Iterable[pa.Array]) -> None:
        self._suspects = repeated([hash_texts(array) for array in ids])
        self._seen: set[str] = set()

    def repeats(self, ids: pa.Array, accepted: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Return a mask ``bool[N]`` of the rows that repeat an earlier accepted row, in id and hence in content."""
        again = np.zeros(len(ids), bool)
        if len(self._suspects):
            suspects = np.flatnonzero(np.isin(hash_texts(ids), self._suspects) & accepted)
            # A Python loop over the few rows whose id repeats, because each is compared with the rows before it.
            for row, record_id in zip(suspects, ids.take(pa.array(suspects)).to_pylist(), strict=True):
                again[row] = record_id in self._seen
                self._seen.add(record_id)
        return again


def normalize_records(
    raw: pa.Table,
    spec: CollectionSpec,
    profile: SourceProfile,
    repeats: RepeatedIds | None = None,
    newest: NewestRows | None = None,
) -> NormalizedRecords:
    """Normalize the raw rows of one partition, a batch of them, or a whole in-memory table.

    Args:
        raw: rows as scanned, with the source's footer metadata in the schema.
        spec: aliases, hrefs, rewrites.
        profile: of the source; decides the asset names and which ids are in conflict.
        repeats: of the whole partition where ``raw`` is one batch of it.
        newest: of the whole partition, under ``overlap``; else None.

    Raises:
        RecordError: if a whole column cannot be normalized: its type or its CRS is wrong.
    """
    aliased = with_aliases(_one_batch(raw), spec)
    ids = normalize_ids(aliased.column(ID))
    times, bad_times, placed = record_times(aliased, spec)
    described = describe_geometry(raw.schema.field(spec.source_column(GEOMETRY)), raw.schema.metadata)
    footprints = read_footprints(aliased.column(GEOMETRY), described)
    assets, bad_assets = _assets(aliased, spec, profile)
    codes, crs_texts, conflicts = normalize_crs(aliased)

    reasons = _rejections(ids, bad_times, footprints, profile, spec.newest_by)
    older = _older(aliased, spec, profile, newest)
    older &= reasons[:, 0] != RejectClass.DUPLICATE_ID
    reasons[older] = None
    accepted = np.asarray(reasons[:, 0] == None, bool) & ~older  # noqa: E711  (element-wise)
    duplicate = (repeats or RepeatedIds([ids])).repeats(ids, accepted)
    kept = accepted & ~duplicate
    keep = pa.array(kept)
    replaced: dict[str, pa.Array] = {
        ID: ids,
        DATETIME: times,
        GEOMETRY: footprints.wkb,
        BBOX: footprints.bbox,
        ASSETS: assets,
        PROJ_EPSG: codes,
        CRS: crs_texts,
        **hive_columns(placed, spec.partition_by),
    }
    records = _replace(aliased, replaced, hive_keys(spec.partition_by))
    return NormalizedRecords(
        # Unfiltered if all rows are kept, because a filter copies them.
        records=records if kept.all() else records.filter(keep),
        rejected=_rejected(raw, reasons),
        duplicates=int(duplicate.sum()),
        superseded=int(older.sum()),
        unreadable_assets=int(pc.sum(bad_assets.filter(keep)).as_py() or 0),
        crs_conflicts=conflicts,
    )


def _older(
    aliased: pa.RecordBatch, spec: CollectionSpec, profile: SourceProfile, newest: NewestRows | None
) -> npt.NDArray[np.bool_]:
    """Mark the rows that do not count, because a newer row has their id."""
    if spec.newest_by is None or not profile.repeats_ids:
        return np.zeros(aliased.num_rows, bool)
    return (newest or NewestRows(lambda: [aliased], spec)).older(aliased)


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    combined = table.combine_chunks()
    batches = combined.to_batches()
    if len(batches) == 1:
        return batches[0]
    columns = [pa.array([], field.type) for field in table.schema]
    return pa.RecordBatch.from_arrays(columns, schema=table.schema)


def _assets(batch: pa.RecordBatch, spec: CollectionSpec, profile: SourceProfile) -> tuple[pa.Array, pa.Array]:
    if ASSETS in batch.schema.names:
        return normalize_assets(batch.column(ASSETS), profile.asset_names, spec.rewrites)
    hrefs = batch.column(spec.href_column)
    return assets_from_href(hrefs, spec.band_index_map, spec.rewrites), pa.array(np.zeros(len(hrefs), bool))


def _rejections(
    ids: pa.Array,
    bad_times: pa.Array,
    footprints: Footprints,
    profile: SourceProfile,
    newest_by: str | None,
) -> npt.NDArray[np.object_]:
    """Return class and reason per row, ``[N, 2]``; None for accepted rows. The first reason found is kept."""
    reasons = np.full((len(ids), 2), None, dtype=object)
    differ = "several records with different content carry this id, and " + (
        "overlap: newest by COLUMN in the spec says which counts"
        if newest_by is None
        else f"no {newest_by} is the latest"
    )
    conflicting = pc.fill_null(pc.is_in(ids, pa.array(profile.conflicting_ids, pa.string())), fill_value=False)
    misplaced = footprints.misplaced
    found: list[tuple[str, npt.NDArray[np.bool_], str | None]] = [
        (RejectClass.MISSING_ID, np.asarray(pc.is_null(ids)), "the record has no id"),
        (RejectClass.DUPLICATE_ID, np.asarray(conflicting), differ),
        (RejectClass.INVALID_DATETIME, np.asarray(bad_times), "datetime is not ISO 8601 of the years 1 to 9999"),
        (RejectClass.INVALID_GEOMETRY, footprints.unreadable, "geometry cannot be read"),
        (RejectClass.INVALID_GEOMETRY, misplaced != None, None),  # noqa: E711  (element-wise)
    ]
    for name, mask, reason in found:
        fresh = mask & (reasons[:, 0] == None)  # noqa: E711  (element-wise)
        reasons[fresh, 0] = name
        reasons[fresh, 1] = misplaced[fresh] if reason is None else reason
    return reasons


def _replace(batch: pa.RecordBatch, columns: Mapping[str, pa.Array], last: Collection[str]) -> pa.Table:
    """Return a table with contract columns in their places, and all others as plain storage without field metadata.

    Args:
        batch: may have columns with names of the contract.
        columns: of the contract, by name.
        last: names of contract columns that follow all others, wherever the batch has columns of these names.
    """
    names, arrays = [], []
    for field, column in zip(batch.schema, batch.columns, strict=True):
        if field.name in last:
            continue
        names.append(field.name)
        arrays.append(columns[field.name] if field.name in columns else plain(column))
    for name, column in columns.items():
        if name not in names:
            names.append(name)
            arrays.append(column)
    return pa.Table.from_arrays(
        arrays, schema=pa.schema([pa.field(n, a.type) for n, a in zip(names, arrays, strict=True)])
    )


def _rejected(raw: pa.Table, reasons: npt.NDArray[np.object_]) -> pa.Table:
    chosen = pa.array(np.flatnonzero(reasons[:, 0] != None))  # noqa: E711  (element-wise)
    rows = raw.take(chosen)
    for position, name in enumerate((REJECT_CLASS, REJECT_REASON)):
        values = [reasons[int(row), position] for row in chosen.to_numpy(zero_copy_only=False)]
        rows = rows.append_column(name, pa.array(values, pa.string()))
    return rows.replace_schema_metadata(None)


def check_rejected(rejected: pa.Table, count: int, total: int, most: float) -> None:
    """Refuse a partition of which more than the tolerated share of records was rejected.

    Args:
        rejected: the first rejected records.
        count: number of rejected records.
        total: number of records of the partition.
        most: tolerated share (0 to 1).

    Raises:
        InvalidRecordError: naming the first ids, their reasons and the remedy.
    """
    if count <= most * total:
        return
    ids = rejected.column(ID if ID in rejected.schema.names else 0).to_pylist()
    reasons = rejected.column(REJECT_REASON).to_pylist()
    first = ", ".join(f"{name!r} ({why})" for name, why in zip(ids[:3], reasons[:3], strict=True))
    more = f" and {count - 3} more" if count > 3 else ""
    # Rounded up, so that the named share passes.
    share = math.ceil(1000 * count / total) / 1000
    raise InvalidRecordError(
        f"{count} of {total} records break the record contract: {first}{more}. Fix them in the source, or "
        f"tolerate them with max_rejected={share:g} in a CollectionSpec or its YAML file: they then go to "
        "rejected_records"
    )
