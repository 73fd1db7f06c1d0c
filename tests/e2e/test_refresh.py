"""The sensor on a real instance, with daemon and webserver: it builds what changed, and nothing else."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from rasteret_assets import build_from_table, load
from rasteret_assets.orchestration.triggers.jobs import REASON_TAG
from rasteret_assets.schema import STAGES
from rasteret_assets.storage.workspace import Workspace
from tests.e2e.stack import Source, Stack, dagster_dev, wait_for
from tests.support.server import RangeServer

SUCCESS = dg.DagsterRunStatus.SUCCESS
MONTHS = [f"{year}-{month:02d}" for year in range(2015, 2025) for month in range(1, 13)]


class Watched:
    """A published collection of 120 months that a running Dagster keeps up to date."""

    def __init__(self, stack: Stack, source: Source, root: Path) -> None:
        self.stack = stack
        self.source = source
        self.published = root / "workspace" / "scenes_records"
        self.known: set[str] = set()

    def done(self, count: int) -> list[dg.RunRecord]:
        """The next ``count`` runs, oldest first, when they have ended."""

        def ended() -> list[dg.RunRecord] | None:
            fresh = [record for record in self.stack.runs() if record.dagster_run.run_id not in self.known]
            return fresh if len(fresh) >= count and all(record.dagster_run.is_finished for record in fresh) else None

        records = wait_for(f"{count} runs", ended)
        self.known |= {record.dagster_run.run_id for record in records}
        return sorted(records, key=lambda record: record.storage_id)

    def materialized(self, run: dg.DagsterRun) -> list[tuple[str, str]]:
        """Stage and partition of everything a run materialized."""
        events = self.stack.instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
        return [
            (event.asset_materialization.asset_key.path[-1], event.asset_materialization.partition) for event in events
        ]

    def quiet(self, ticks: int) -> None:
        """Nothing is launched in so many further ticks."""
        before = len(self.stack.ticks("scenes_refresh"))
        wait_for("ticks", lambda: len(self.stack.ticks("scenes_refresh")) >= before + ticks)
        assert {record.dagster_run.run_id for record in self.stack.runs()} == self.known

    def ids(self, month: str) -> list[str]:
        year, number = month.split("-")
        file = self.published / f"year={year}" / f"month={int(number)}" / "part-0.parquet"
        return sorted(load(file).to_table(columns=["id"])["id"].to_pylist()) if file.exists() else []


@pytest.fixture(scope="module")
def watched(files: RangeServer, tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("refresh")
    source = Source(files, root, MONTHS)
    source.write()
    workspace = root / "workspace"
    build_from_table(source.file, name="scenes", workspace_dir=workspace, enrich_cog=True)
    files.reset()
    declaration = {
        "path": str(source.file), "workspace_dir": str(workspace), "enrich_cog": True,
        "graph": {"autostart": True, "refresh_seconds": 2},
    }  # fmt: skip
    with dagster_dev(root, {"scenes": declaration}) as stack:
        yield Watched(stack, source, root)


@pytest.mark.slow
def test_the_sensor_keeps_120_months_up_to_date(watched: Watched) -> None:
    server, source = watched.source.server, watched.source
    every_stage = sorted(STAGES)

    # What the library built is not built again.
    watched.quiet(ticks=3)
    assert server.requests == []

    # One month changes: its stages run, and only its new file is asked for.
    source.months["2019-07"].append("2019-07-b")
    source.write()
    (record,) = watched.done(1)
    assert record.dagster_run.status is SUCCESS
    assert sorted(watched.materialized(record.dagster_run)) == [(stage, "2019-07") for stage in every_stage]
    assert record.dagster_run.tags[REASON_TAG] == "changed"
    assert server.paths == ["/2019-07-b.tif"]
    assert watched.ids("2019-07") == ["2019-07-a", "2019-07-b"]

    # A month vanishes, another appears, and the run of a third fails: the sensor asks for it again a minute later.
    server.fault = lambda path, before: "403" if path == "/2024-06-b.tif" and before == 0 else None
    del source.months["2015-01"]
    source.months |= {"2025-01": ["2025-01-a"], "2024-06": ["2024-06-b"]}
    source.write()
    records = [record.dagster_run for record in watched.done(4)]
    assert [(run.tags["dagster/partition"], run.tags[REASON_TAG]) for run in records[:3]] == [
        ("2015-01", "vanished"), ("2024-06", "changed"), ("2025-01", "new"),
    ]  # fmt: skip
    assert [run.status for run in records] == [*[SUCCESS, dg.DagsterRunStatus.FAILURE, SUCCESS], SUCCESS]
    assert records[3].tags["dagster/partition"] == "2024-06"
    assert records[3].tags["dagster/sensor_name"] == "scenes_refresh"
    assert [watched.ids(month) for month in ("2015-01", "2024-06", "2025-01")] == [[], ["2024-06-b"], ["2025-01-a"]]
    assert set(server.paths) == {"/2019-07-b.tif", "/2025-01-a.tif", "/2024-06-b.tif"}

    # A change that arrives while its month is built is not lost.
    server.fault = lambda path, before: "slow" if path == "/2020-02-b.tif" and before == 0 else None
    source.months["2020-02"].append("2020-02-b")
    source.write()
    wait_for("the request of the first build", lambda: "/2020-02-b.tif" in server.paths)
    source.months["2020-02"].append("2020-02-c")
    source.write()
    first, second = watched.done(2)
    assert [record.dagster_run.status for record in (first, second)] == [SUCCESS] * 2
    assert watched.ids("2020-02") == ["2020-02-a", "2020-02-b", "2020-02-c"]
    assert server.paths.count("/2020-02-b.tif") == 1
    watched.quiet(ticks=1)

    states = Workspace.at(str(watched.published)).states()
    assert sorted(states) == sorted(source.months)
    assert all(tick.error is None for tick in watched.stack.ticks("scenes_refresh"))
