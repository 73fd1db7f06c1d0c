"""The examples load: declarations, and instance settings of which every key is Dagster's."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest
import yaml
from dagster._core.instance.config import dagster_instance_config_schema
from dagster._daemon.monitoring.concurrency import execute_concurrency_slots_iteration

from rasteret_assets.declare import read_specs
from rasteret_assets.orchestration.build import build_definitions
from rasteret_assets.orchestration.stages import HEADER_POOL

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def test_the_declarations_load() -> None:
    specs = read_specs(EXAMPLES / "collections")
    assert [spec.name for spec in specs] == ["drone-flights", "sentinel2"]
    definitions = build_definitions(specs)
    dg.Definitions.validate_loadable(definitions)
    assert definitions.resolve_sensor_def("sentinel2_refresh").default_status is dg.DefaultSensorStatus.RUNNING


@pytest.mark.parametrize("name", ["dagster-local", "dagster-production"])
def test_the_instance_settings_are_dagsters(name: str) -> None:
    settings = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text())
    assert settings.keys() <= dagster_instance_config_schema().keys()


def test_the_local_settings_make_an_instance(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text((EXAMPLES / "dagster-local.yaml").read_text())
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert instance.run_retries_enabled


@pytest.mark.parametrize("name", ["dagster-local", "dagster-production"])
def test_a_run_that_was_killed_gives_its_place_in_the_header_pool_back(name: str, tmp_path: Path) -> None:
    settings = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text())
    assert settings["run_monitoring"]["free_slots_after_run_end_seconds"] <= 300
    # The same instance on SQLite, and without the wait.
    settings = {key: value for key, value in settings.items() if key not in ("storage", "compute_logs")}
    settings["run_monitoring"]["free_slots_after_run_end_seconds"] = -1
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(settings))

    @dg.job
    def nothing() -> None: ...

    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        run = instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.STARTED)
        store = instance.event_log_storage
        store.initialize_concurrency_limit_to_default(HEADER_POOL)
        store.claim_concurrency_slot(HEADER_POOL, run.run_id, "step")
        assert store.get_concurrency_info(HEADER_POOL).active_slot_count == 1
        instance.report_run_failed(run)
        workspace = SimpleNamespace(instance=instance)
        list(execute_concurrency_slots_iteration(workspace, logging.getLogger(__name__)))
        assert store.get_concurrency_info(HEADER_POOL).active_slot_count == 0
