"""Messages of a queue on a real daemon: they launch what differs, and are gone once their run is there."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from rasteret_assets import load
from tests.e2e.stack import Source, dagster_dev, wait_for
from tests.support.server import RangeServer
from tests.support.sqs import queue_server


@pytest.mark.slow
def test_a_message_launches_the_build_of_its_partition_and_is_deleted(files: RangeServer, tmp_path: Path) -> None:
    source = Source(files, tmp_path, ["2024-01", "2024-02"])
    source.write()
    keys = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
    with queue_server() as queue:
        # The refresh sensor ticks once: what changes later, only messages tell.
        graph = {"autostart": True, "refresh_seconds": 100_000, "events_queue": queue.url}
        declared = {
            "path": str(source.file), "workspace_dir": str(tmp_path / "workspace"), "enrich_cog": True, "graph": graph
        }  # fmt: skip

        with dagster_dev(tmp_path, {"scenes": declared}, keys) as stack:

            def ended(sensor: str) -> dg.DagsterRun | None:
                runs = [record.dagster_run for record in stack.runs()]
                return next(
                    (run for run in runs if run.tags.get("dagster/sensor_name") == sensor and run.is_finished), None
                )

            assert wait_for("the first build", lambda: ended("scenes_refresh")).is_success
            source.months["2024-02"].append("2024-02-b")
            source.write()
            item = {"type": "Feature", "id": "b", "properties": {"datetime": "2024-02-05T00:00:00Z"}}
            queue.send(item, item, "not understood")
            run = wait_for("the build of the message", lambda: ended("scenes_events"))
            assert run.is_success
            assert run.tags["dagster/partition"] == "2024-02"
            wait_for("the end of the messages", lambda: queue.counts == (0, 0))
    assert len(load(tmp_path / "workspace" / "scenes_records")) == 3
