"""The harness of both publishers: reads the job from the command line, measures it, and prints one JSON line.

Standard library only, because rasteret runs in a Python of its own. The clock starts once everything is imported.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from benchmarks.metering import peak_rss

#: How a table of records with one file each is declared, by the arguments that both publishers have.
ONE_FILE: Final = {"href_column": "url", "band_index_map": {"B02": 0, "B03": 1, "B04": 2, "B08": 3}}


def measure(
    build: Callable[[str, Path, bool, bool, dict[str, Any]], int], query: Callable[[str, tuple[float, ...]], int]
) -> None:
    """Build or query as the command line says, and print what it took.

    Args:
        build: makes the collection of a record table below a workspace, with headers or without, with their overviews
            or without, where the publisher keeps any, and with further arguments that declare the table; returns its
            rows.
        query: opens a published collection and reads the rows whose box meets another; returns how many.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--source")
    parser.add_argument("--workspace", type=Path)
    parser.add_argument("--headers", type=json.loads, default=False)
    parser.add_argument("--overviews", type=json.loads, default=True)
    parser.add_argument("--one-file", type=json.loads, default=False)
    parser.add_argument("--published")
    parser.add_argument("--bbox", type=json.loads)
    parser.add_argument("--repeat", type=int, default=1)
    job = parser.parse_args()
    times = []
    for _ in range(job.repeat):
        start = time.perf_counter()
        if job.bbox:
            rows = query(job.published, tuple(job.bbox))
        else:
            rows = build(job.source, job.workspace, job.headers, job.overviews, ONE_FILE if job.one_file else {})
        times.append(time.perf_counter() - start)
    report: dict[str, Any] = {"rows": rows, "times": times, "peak_rss": peak_rss()}
    print(json.dumps(report), flush=True)
