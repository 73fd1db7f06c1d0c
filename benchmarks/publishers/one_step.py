"""One build of a collection whose headers come from memory, held still before and after it for whoever measures it.

It says ``ready`` once everything is imported and was used once, builds when it is told to go on, says what the build
counted, and then, told to go on once more, how many records are published.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from header_pool import HeaderPool

import rasteret_assets as ra


def main() -> None:
    """Build as the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--source", type=Path)
    parser.add_argument("--workspace", type=Path)
    parser.add_argument("--pool", type=Path)
    parser.add_argument("--by", default="month")
    job = parser.parse_args()
    backend = HeaderPool(job.pool)
    warm_up(job.source, backend, job.by)
    spec = spec_of(job.source, job.workspace, job.by)
    say({"ready": True})
    report = ra.build(spec, backend=backend)
    say(report.totals)
    say({"published": len(ra.load(spec.published_path or ""))})


def spec_of(source: Path, workspace: Path, by: str) -> ra.CollectionSpec:
    """Declare the collection; a version without days builds months."""
    options = {"partition_by": by} if by != "month" and "partition_by" in ra.CollectionSpec.model_fields else {}
    return ra.CollectionSpec.of(path=source, name="bench", workspace_dir=workspace, enrich_cog=True, **options)


def warm_up(source: Path, backend: HeaderPool, by: str) -> None:
    """Build a few records, so that what is measured neither imports modules nor starts pools of threads."""
    with tempfile.TemporaryDirectory() as folder:
        few = Path(folder) / "few.parquet"
        pq.write_table(pq.read_table(min(source.glob("*.parquet"))).slice(0, 8), few)
        ra.build(spec_of(few, Path(folder) / "w", by), backend=backend)


def say(values: dict[str, Any]) -> None:
    """Print a line of JSON, and wait until somebody answers it."""
    print(json.dumps(values), flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main()
