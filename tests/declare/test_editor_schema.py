"""Right declarations validate against the JSON schema, and declarations with mistakes do not."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import jsonschema
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner

from rasteret_assets import CollectionSpec
from rasteret_assets.cli import main
from rasteret_assets.declare import json_schema
from tests.support.rasters import record_table

EXAMPLES = sorted((Path(__file__).parent.parent.parent / "examples" / "collections").glob("*.yaml"))


def test_the_schema_has_every_field_with_a_description() -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert set(schema["properties"]) == set(CollectionSpec.model_fields)
    for part in (schema, *schema["$defs"].values()):
        assert part["description"]
        assert "Args:" not in part["description"]
        assert [name for name, value in part["properties"].items() if not value.get("description")] == []
    assert json.loads(CliRunner().invoke(main, ["schema"]).stdout) == schema


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_the_examples_validate(file: Path) -> None:
    jsonschema.validate(yaml.safe_load(file.read_text()), json_schema())


@pytest.mark.parametrize("change", [lambda table: table, lambda table: table.drop_columns(["assets"])])
def test_the_declaration_that_init_writes_validates_against_the_schema_that_it_names(
    tmp_path: Path, monkeypatch, change
) -> None:
    monkeypatch.chdir(tmp_path)
    times = [datetime(2024, 5, 1 + day, tzinfo=UTC) for day in range(3)]
    table = record_table(["a", "b", "c"], {"B02": ["x.tif", "y.tif", "z.tif"]}, datetimes=times)
    pq.write_table(change(table), "records.parquet")
    result = CliRunner().invoke(main, ["init", "records.parquet", "--collections", ".", "--workspace", "out"])
    assert result.exit_code == 0, result.output
    text = Path("records.yaml").read_text()
    head, _, place = text.splitlines()[0].partition("$schema=")
    assert head == "# yaml-language-server: "
    schema = json.loads(Path(place).read_text())
    assert schema == json_schema()
    jsonschema.validate(yaml.safe_load(text), schema)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"enrich": True}, "enrich"),
        ({"graph": {"refresh_chron": "0 5 * * *"}}, "refresh_chron"),
        ({"cloud_config": {"provider": "aws", "zone": "x"}}, "zone"),
        ({"max_failed": 5}, "maximum of 1"),
        ({"band_codes": "B02"}, "'B02'"),
        ({"partition_by": "week"}, "'week'"),
    ],
)
def test_a_mistake_does_not_validate(values: dict, field: str) -> None:
    jsonschema.validate({"path": "x"}, json_schema())
    with pytest.raises(jsonschema.ValidationError) as caught:
        jsonschema.validate({"path": "x", **values}, json_schema())
    assert field in str(caught.value)
