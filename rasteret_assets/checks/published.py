"""Check a published partition: its file is the one that its state describes, and no stage lost a record."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.checks.counting import count_rows, sum_up
from rasteret_assets.checks.finding import Finding
from rasteret_assets.checks.registry import Partition, check
from rasteret_assets.errors import CollectionError
from rasteret_assets.message_lists import some
from rasteret_assets.schema import (
    BANDS,
    BBOX,
    BBOX_AXES,
    COLLECTION,
    CONTRACT_BAND_FIELDS,
    GEO_KEY,
    GEOMETRY,
    GEOPARQUET_VERSION,
    NATIVE_GEOPARQUET_VERSION,
    NORMALIZED,
    RAW,
    RECORD_FIELDS,
    REJECTED,
    STATUS_OK,
    band_column,
    is_band_field,
)
from rasteret_assets.storage.workspace import Workspace
from rasteret_assets.storage.workspace.commit import LOST, may_be

_REBUILD: Final = "build the partition again"


@check(stage=COLLECTION)
def published_file(partition: Partition) -> Finding:
    """The published file is byte for byte what was written, is GeoParquet, and has the columns of the contract."""
    file, state = partition.table, partition.state
    # While a build replaces the file, the old and the new file are both right.
    written = {facts.content_hash for facts in may_be(state) if facts is not None}
    problems = [] if file.digest in written else ["its content is not what was published"]
    problems += [*_contract_problems(file.schema, state.get("bands", ())), *_geo_problems(file.schema)]
    return Finding(
        passed=not problems,
        message=f"{file.path}: {some(problems)}; {_REBUILD}"
        if problems
        else f"{file.path} is as it was written, and conforms to GeoParquet",
        numbers={"bytes": int(state.get("bytes", 0)), "problems": len(problems)},
    )


def _band_leaves(schema: pa.Schema) -> list[str]:
    # One leaf of each struct, because it is null where the struct is, and takes fewer bytes than the tile tables.
    return [f"{field.name}.image_width" for field in schema if is_band_field(field)]


def _count_headers(batch: pa.RecordBatch) -> pa.RecordBatch:
    return count_rows({name: len(batch) - batch.column(name).null_count for name in batch.schema.names})


@check(
    stage=COLLECTION,
    columns=_band_leaves,
    also={RAW: (), NORMALIZED: (), REJECTED: (), BANDS: ("band", "status")},
    of_batch=_count_headers,
)
def counts_agree(partition: Partition) -> Finding:
    """No stage lost or added a record or a header.

    A raw row is normalized, rejected, or repeats another row (with ``overlap`` it may also be older than another row of
    its id). All normalized records are published, and every header of the ledger is in the column of its band.
    """
    counts = {stage: table.count for stage, table in partition.also.items() if stage != BANDS}
    raw, normalized, rejected = (counts.get(stage, 0) for stage in (RAW, NORMALIZED, REJECTED))
    published, stated = partition.table.count, partition.state.get("rows")
    problems = []
    if normalized + rejected > raw:
        problems.append(f"{normalized + rejected} records were normalized or rejected of {raw} raw rows")
    if published != normalized:
        problems.append(f"{published} of {normalized} normalized records are published")
    if published != stated:
        problems.append(f"the state says {stated} rows, the file has {published}")
    problems += [
        f"{there} of {expected} headers of {band} are published"
        for band, expected, there in _headers(partition)
        if expected != there
    ]
    rows = {RAW: raw, NORMALIZED: normalized, REJECTED: rejected, COLLECTION: published}
    return Finding(
        passed=not problems,
        message=f"{some(problems)}; {_REBUILD}" if problems else "every stage has the records of the one before",
        numbers={**rows, "repeated_rows": max(raw - normalized - rejected, 0)},
        rows=[{"stage": name, "rows": count} for name, count in rows.items()],
    )


def _headers(partition: Partition) -> Iterator[tuple[str, int, int]]:
    """Yield each band with the number of its headers in the ledger and in the published file."""
    if (ledger := partition.also.get(BANDS)) is None:
        return
    ok = ledger.rows.filter(pc.equal(ledger.rows["status"], STATUS_OK))["band"]
    there = sum_up(partition.table.rows)
    for band in partition.state.get("bands", ()):
        found = there.get(band_column(band))
        yield band, pc.sum(pc.equal(ok, band)).as_py() or 0, found.rows if found else 0


def _contract_problems(schema: pa.Schema, bands: Any) -> Iterator[str]:
    for name, kind in RECORD_FIELDS.items():
        if name == GEOMETRY:
            continue  # because the geo footer, which is checked apart, says how geometries are written
        if name not in schema.names:
            yield f"it has no column {name}"
        elif schema.field(name).type != kind:
            yield f"{name} is {schema.field(name).type}, not {kind}"
    for band in bands:
        column = band_column(band)
        if column not in schema.names:
            yield f"it has no column {column}"
        elif tuple(child.name for child in schema.field(column).type)[:17] != CONTRACT_BAND_FIELDS:
            yield f"the fields of {column} are not the contract's"


def _geo_problems(schema: pa.Schema) -> Iterator[str]:
    """Yield the faults of the ``geo`` footer: https://geoparquet.org/releases/v1.1.0/, 2.0 for native geometries."""
    try:
        geo = json.loads((schema.metadata or {}).get(GEO_KEY, b""))
        column = geo["columns"][geo["primary_column"]]
    except (ValueError, KeyError, TypeError):
        yield "its geo footer is missing or damaged"
        return
    if geo.get("version") not in (GEOPARQUET_VERSION, NATIVE_GEOPARQUET_VERSION):
        yield f"its geo footer is of version {geo.get('version')}, not {GEOPARQUET_VERSION}"
    if geo["primary_column"] != GEOMETRY or column.get("encoding") != "WKB" or "geometry_types" not in column:
        yield f"its geo footer does not describe {GEOMETRY} as WKB"
    covering = column.get("covering", {}).get("bbox", {})
    if any(covering.get(axis) != [BBOX, axis] for axis in BBOX_AXES):
        yield f"its geo footer does not name {BBOX} as covering"


def state_of(workspace: Workspace, key: str) -> Mapping[str, Any] | None:
    """Return the state of a published partition; None where the partition is not published.

    Raises:
        CollectionError: if the document is not the state of a partition.
    """
    state = workspace.state(key)
    if state is not None and LOST in state:
        raise CollectionError(f"{workspace.state_file(key)} is not the state of a partition: {_REBUILD}")
    return state
