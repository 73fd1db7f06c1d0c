"""This project, end to end: normalized records in, the Arrow ledger out, and the header rows that it names."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from harness import Job, measure

from rasteret_assets import create_backend
from rasteret_assets.headers.band_metadata import BandMetadataReader, count_failures
from rasteret_assets.headers.places import Places
from rasteret_assets.headers.rows import MemorySink
from rasteret_assets.records.normalize import normalize_records
from rasteret_assets.schema import HEADER_FILE, HEADER_ROW, TILE_TABLES
from rasteret_assets.source.open import open_source
from rasteret_assets.source.profiling import profile_source
from rasteret_assets.spec import CollectionSpec


def read(given: tuple[Job, pa.Table], *, overviews: bool = True) -> tuple[pa.Table, MemorySink]:
    job, normalized = given
    sink = MemorySink()
    reader = BandMetadataReader(
        ["B02"],
        create_backend(),
        explicit=True,
        places=Places(),
        max_concurrent=job.max_concurrent,
        sink=sink,
        overviews=overviews,
    )
    step, rows = reader.slice_rows, normalized.num_rows
    ledger = pa.concat_tables([
        reader.read(normalized.slice(first, step), max(0, rows - first - step)) for first in range(0, rows, step)
    ])  # fmt: skip
    return ledger, sink


def record_table(job: Job) -> pa.Table:
    """Return a raw record per file, all of one month."""
    rows = len(job.urls)
    asset = pa.StructArray.from_arrays([pa.array(job.urls)], names=["href"])
    return pa.table({
        "id": pa.array([f"scene-{row}" for row in range(rows)]),
        "datetime": pa.array([datetime(2024, 5, 1, tzinfo=UTC)] * rows, pa.timestamp("us", tz="UTC")),
        "geometry": pa.array([shapely.to_wkb(shapely.box(9, 48, 10, 49))] * rows, pa.binary()),
        "assets": pa.StructArray.from_arrays([asset], names=["B02"]),
    })  # fmt: skip


def records(job: Job) -> tuple[Job, pa.Table]:
    """Return the job, and a normalized record per file."""
    spec = CollectionSpec.of(path="benchmark")
    source = open_source(record_table(job), spec)
    return job, normalize_records(source.table(), spec, profile_source(source, spec)).records


def judge(job: Job, result: tuple[pa.Table, MemorySink]) -> dict[str, Any]:
    """Count as good the rows of a living host whose tile table is the oracle's."""
    ledger, sink = result[0].combine_chunks(), result[1]
    encoded = ledger[HEADER_FILE].combine_chunks().dictionary_encode()
    files = np.asarray(encoded.indices.fill_null(-1), np.int64)
    places = np.asarray(ledger[HEADER_ROW].combine_chunks().fill_null(0), np.int64)
    ledger = ledger.append_column("header", sink.take(encoded.dictionary.to_pylist(), files, places)["header"])
    table = ledger.filter(pc.starts_with(ledger["href"], job.url))
    oracle = json.loads(Path(job.oracle).read_text())
    header = table.filter(pc.equal(table["status"], "ok"))["header"].combine_chunks()
    right = np.ones(len(header), bool)
    for name, truth in zip(TILE_TABLES, (oracle["offsets"], oracle["byte_counts"]), strict=True):
        column = header.field(name)
        fits = np.asarray(pc.equal(pc.list_value_length(column), len(truth)))
        tables = np.asarray(column.filter(pa.array(fits)).flatten()).reshape(-1, len(truth))
        right[~fits] = False
        right[fits] &= (tables == truth).all(axis=1)
    return {"good": int(right.sum()), "wrong": int((~right).sum()), "failures": count_failures(ledger)}


if __name__ == "__main__":
    measure(read, judge, records)
