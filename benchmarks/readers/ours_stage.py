"""This project as a workspace builds it: raw records in, the header store and its ledger out, in slices."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from harness import Job, measure
from ours import record_table

from rasteret_assets import create_backend
from rasteret_assets.headers.ledger import read_ledger
from rasteret_assets.pipeline.stage import Build
from rasteret_assets.pipeline.stages import run_stage
from rasteret_assets.schema import BANDS, NORMALIZED, RAW, TILE_TABLES
from rasteret_assets.source.open import open_source
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.workspace import Workspace


def read(job: Job) -> str:
    folder = Path(tempfile.mkdtemp())
    pq.write_table(record_table(job), folder / "records.parquet")
    spec = CollectionSpec.of(
        path=folder / "records.parquet", name="b", workspace_dir=folder, enrich_cog=True, band_codes=["B02"],
        max_concurrent=job.max_concurrent,
    )  # fmt: skip
    build = Build(
        workspace=Workspace.of(spec), spec=spec, source=open_source(spec.path, spec), backend=create_backend()
    )  # fmt: skip
    for stage in (RAW, NORMALIZED, BANDS):
        run_stage(stage, build, ["2024-05"])
    return spec.published_path or ""


def judge(job: Job, published: str) -> dict[str, Any]:
    """Count as good the rows whose tile table is the oracle's."""
    oracle = json.loads(Path(job.oracle).read_text())
    good, wrong, failures = 0, 0, Counter[str]()
    for batch in read_ledger(Workspace.at(published), "2024-05"):
        rows = pa.Table.from_batches([batch]).select(["status", "error_class", "header"])
        failures.update(rows.filter(pc.not_equal(rows["status"], "ok"))["error_class"].to_pylist())
        header = rows.filter(pc.equal(rows["status"], "ok"))["header"].combine_chunks()
        tables = [
            np.asarray(header.field(name).flatten()).reshape(-1, len(oracle[truth])) == np.array(oracle[truth])
            for name, truth in zip(TILE_TABLES, ("offsets", "byte_counts"), strict=True)
        ]
        right = int((tables[0].all(axis=1) & tables[1].all(axis=1)).sum())
        good, wrong = good + right, wrong + len(header) - right
    return {"good": good, "wrong": wrong, "failures": dict(failures)}


if __name__ == "__main__":
    measure(read, judge)
