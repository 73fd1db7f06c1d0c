"""Record tables on web servers that want headers: the resource of filesystems has them, for ticks and for runs."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pyarrow.parquet as pq
import pytest

from rasteret_assets import CollectionSpec
from rasteret_assets.errors import SourceError
from rasteret_assets.orchestration.graph_resources import FilesystemResource
from rasteret_assets.orchestration.triggers.reconcile import profile_in_tick
from tests.support.rasters import record_table
from tests.support.server import RangeServer


def test_a_table_is_opened_by_the_headers_of_the_resource(
    server: RangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "t.parquet"
    pq.write_table(record_table(["a", "b"], {"B04": [None, None]}), file)
    server.objects["/t.parquet"] = file.read_bytes()
    server.fault = lambda *_: None if server.headers[-1].get("X-Api-Key") == "PLANTED" else "403"
    spec = CollectionSpec.of(path=f"{server.url}/t.parquet", name="scenes", workspace_dir=tmp_path / "w")
    without = FilesystemResource()
    with pytest.raises(SourceError, match="say who opens the table by credentials:"):
        profile_in_tick(without, spec, without.open_workspace(spec))

    monkeypatch.setenv("API_KEY", "PLANTED")
    given = FilesystemResource(host_headers={"127.0.0.1": {"X-Api-Key": dg.EnvVar("API_KEY")}})
    resource = given.process_config_and_initialize()
    profile = profile_in_tick(resource, spec, resource.open_workspace(spec))
    assert profile is not None
    assert sum(part.rows for part in profile.partitions.values()) == 2
    # Once more, of a table that did not change.
    assert profile_in_tick(resource, spec, resource.open_workspace(spec)) == profile
