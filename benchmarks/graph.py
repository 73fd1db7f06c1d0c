"""Measure what the Dagster graph costs over the library call, per partition.

``python benchmarks/graph.py`` builds a collection of local files (``--partitions`` months of ``--records`` each) with
the library once, so that all headers are known, and then runs all stages over all partitions again: by the library, and
by the graph on several instances. What differs is the graph: steps, events, checks, maps and metadata.

- *library*: ``build_partitions``, no checks;
- *checks*: the same checks that the graph makes, by themselves;
- *in memory*: the graph on an ephemeral instance, one run per partition;
- *SQLite*: an instance on disk, one run per partition, as the UI and small changes have it;
- *SQLite, one run*: the same in a single ranged run, as the sensor does after larger changes.

All are of one process and interleaved, the median of ``--repeat`` rounds, in wall-clock and CPU time. A run that the
daemon launches also takes a process of its own, a few seconds whatever it builds; ranges pay them once for up to 25
partitions.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pyarrow.parquet as pq
from report import describe_machine

from rasteret_assets import CollectionSpec, create_backend
from rasteret_assets.checks import check_partition
from rasteret_assets.dagster import build_definitions
from rasteret_assets.orchestration.asset_graph.graph_partitions import partitions_name, selection_tags
from rasteret_assets.orchestration.graph_names import build_job_name
from rasteret_assets.pipeline.build import build_partitions
from rasteret_assets.pipeline.stage import Build
from rasteret_assets.source.open import open_source
from rasteret_assets.storage.workspace import Workspace
from tests.support.rasters import record_table, tiff_bytes


class Trial:
    """A collection whose headers are all known."""

    def __init__(self, root: Path, partitions: int, records: int) -> None:
        tiff = root / "one.tif"
        tiff.write_bytes(tiff_bytes())
        self.keys = [f"{2020 + month // 12}-{month % 12 + 1:02d}" for month in range(partitions)]
        names, hrefs, times = [], [], []
        for key in self.keys:
            (root / key).mkdir()
            moment = datetime.fromisoformat(f"{key}-05").replace(tzinfo=UTC)
            for number in range(records):
                link = root / key / f"{number}.tif"
                link.symlink_to(tiff)
                names.append(f"{key}-{number}")
                hrefs.append(str(link))
                times.append(moment)
        pq.write_table(record_table(names, {"B02": hrefs}, datetimes=times), root / "records.parquet")
        self.spec = CollectionSpec.of(
            path=root / "records.parquet", name="bench", workspace_dir=root / "out", enrich_cog=True
        )
        self.workspace = Workspace.at(str(self.spec.published_path))
        self.job = build_definitions([self.spec]).resolve_job_def(build_job_name(self.spec))
        self.library()

    def library(self) -> None:
        source = open_source(self.spec.path, self.spec)
        build = Build(workspace=self.workspace, spec=self.spec, source=source, backend=create_backend())
        build_partitions(build, self.keys)

    def checks(self) -> None:
        for key in self.keys:
            check_partition(self.workspace, self.spec, key)

    def graph(self, instance: dg.DagsterInstance, *, ranged: bool) -> None:
        config = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        for group in [self.keys] if ranged else [[key] for key in self.keys]:
            done = self.job.execute_in_process(
                instance=instance, tags=selection_tags(group), run_config=config,
                partition_key=group[0] if len(group) == 1 else None,
            )  # fmt: skip
            assert done.success


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--partitions", type=int, default=12)
    parser.add_argument("--records", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    print(describe_machine())
    with (
        tempfile.TemporaryDirectory() as root,
        tempfile.TemporaryDirectory() as home,
        dg.DagsterInstance.ephemeral() as memory,
        dg.instance_for_test(temp_dir=home) as sqlite,
    ):
        trial = Trial(Path(root), options.partitions, options.records)
        for instance in (memory, sqlite):
            instance.add_dynamic_partitions(partitions_name(trial.spec), trial.keys)
        cases: dict[str, Callable[[], None]] = {
            "library": trial.library,
            "checks": trial.checks,
            "in memory": lambda: trial.graph(memory, ranged=False),
            "SQLite": lambda: trial.graph(sqlite, ranged=False),
            "SQLite, one run": lambda: trial.graph(sqlite, ranged=True),
        }
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
        for _ in range(options.repeat):
            for name, case in cases.items():
                start, worked = time.perf_counter(), time.process_time()
                case()
                seconds[name].append((time.perf_counter() - start, time.process_time() - worked))
    medians = {
        name: [statistics.median(column) / options.partitions * 1000 for column in zip(*values, strict=True)]
        for name, values in seconds.items()
    }
    print(f"{options.partitions} partitions of {options.records} records, ms per partition:")
    print(f"  {'':16} {'wall':>8} {'CPU':>8}   over the library")
    for name, (wall, worked) in medians.items():
        over = "" if name in ("library", "checks") else f"   {wall - medians['library'][0]:+8.1f} wall"
        print(f"  {name:16} {wall:8.1f} {worked:8.1f}{over}")


if __name__ == "__main__":
    main()
