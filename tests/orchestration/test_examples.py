"""The examples load: declarations, and instance settings of which every key is Dagster's."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest
from dagster._core.instance.config import dagster_instance_config

from rasteret_assets.dagster import build_definitions
from rasteret_assets.declare import read_specs
from tests.orchestration.examples import EXAMPLES, SETTINGS, on_sqlite


def test_the_declarations_load() -> None:
    specs = read_specs(EXAMPLES / "collections")
    assert [spec.name for spec in specs] == ["drone-flights", "sentinel2"]
    definitions = build_definitions(specs)
    dg.Definitions.validate_loadable(definitions)
    assert definitions.resolve_sensor_def("sentinel2_refresh").default_status is dg.DefaultSensorStatus.RUNNING


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.usefixtures("shipped_environment")
def test_the_settings_make_an_instance(name: str, tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text((EXAMPLES / name).read_text())
    checked, _ = dagster_instance_config(str(tmp_path))
    assert checked.keys() == SETTINGS[name].keys()
    with on_sqlite(SETTINGS[name], tmp_path) as instance:
        assert instance.run_retries_enabled
        assert instance.run_monitoring_enabled
        assert instance.compute_log_manager
        assert instance.run_launcher


@pytest.mark.parametrize("name", SETTINGS)
def test_a_run_ends_some_time(name: str) -> None:
    monitoring = SETTINGS[name]["run_monitoring"]
    # Launchers of other machines may start a run late, so that only a run that began may be failed.
    assert 3600 <= monitoring["max_runtime_seconds"] <= 86_400
    assert monitoring["free_slots_after_run_end_seconds"] <= 300
