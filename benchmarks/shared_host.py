"""Measure what a header costs several builders of one collection at a host that limits requests a second.

``python benchmarks/shared_host.py`` builds four months of one workspace, each by a process of its own, as workers of
Dagster would. The server (``server.py``) answers 429 with ``Retry-After: 1`` to every request beyond ``--throttle`` in
a second. Printed are the requests that the server counted for each header, how many it had in flight at most, and how
long the builds took. With ``--apart`` each process has a workspace of its own, and so knows nothing of the others.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from cogs import KINDS, make_file
from processes import RunningServer, running_server

CHILD = """
import json, sys
from rasteret_assets import CollectionSpec, build
print("ready", flush=True)
options = json.loads(sys.stdin.readline())
report = build(CollectionSpec.of(**options["spec"]), partitions=[options["month"]])
print(json.dumps(report.totals))
"""


def write_records(path: Path, url: str, processes: int, headers: int) -> None:
    """Write a record table with so many months, and so many records of one file in each."""
    rows = [
        {
            "id": f"m{month:02}-{number:06}",
            "datetime": datetime(2024, month, 1, tzinfo=UTC),
            "geometry": shapely.to_wkb(shapely.box(9, 48, 9.1, 48.1)),
            "assets": {"B02": {"href": f"{url}/s2/m{month:02}-{number:06}.tif"}},
        }
        for month in range(1, processes + 1)
        for number in range(headers)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)


def run(server: RunningServer, folder: Path, options: argparse.Namespace) -> dict[str, object]:
    """Let all processes build at once."""
    table = folder / "records.parquet"
    write_records(table, server.url, options.processes, options.headers)
    server.ask(f"faults?throttle={options.throttle}")
    children = []
    for month in range(1, options.processes + 1):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        workspace = folder / (f"w{month}" if options.apart else "w")
        spec = {
            "path": str(table), "name": "s", "workspace_dir": str(workspace), "enrich_cog": True,
            "max_concurrent": options.max_concurrent,
        }  # fmt: skip
        children.append((child, json.dumps({"spec": spec, "month": f"2024-{month:02}"}) + "\n"))
    for child, _ in children:
        child.stdout.readline()
    server.ask("reset")
    started = time.monotonic()
    for child, job in children:
        child.stdin.write(job)
        child.stdin.flush()
        time.sleep(options.stagger)
    totals = [json.loads(child.communicate()[0]) for child, _ in children]
    told = server.ask("stats")
    headers = options.processes * options.headers
    return {
        "headers": headers, "failed": sum(one["headers_failed"] for one in totals), "statuses": told["statuses"],
        "requests a header": round(told["requests"] / headers, 3), "seconds": round(time.monotonic() - started, 1),
        "in flight": max(told["concurrency"], default=0),
        "least seconds": round(headers / options.throttle, 1) if options.throttle else None,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--headers", type=int, default=1500, help="of each process")
    parser.add_argument("--throttle", type=int, default=200, help="requests a second that the host takes; 0: all")
    parser.add_argument("--max-concurrent", type=int, default=300)
    parser.add_argument("--latency-ms", type=float, default=30)
    parser.add_argument("--stagger", type=float, default=0.0, help="seconds between the starts of two processes")
    parser.add_argument("--apart", action="store_true", help="a workspace for each process")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = make_file(KINDS["s2"], Path(folder))
        with running_server([file], options.latency_ms) as server:
            print(json.dumps(run(server, Path(folder), options)))


if __name__ == "__main__":
    main()
