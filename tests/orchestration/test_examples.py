"""The examples load: declarations, and instance settings of which every key is Dagster's."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.instance.config import dagster_instance_config_schema

from rasteret_assets.declare import read_specs
from rasteret_assets.orchestration.build import build_definitions

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
