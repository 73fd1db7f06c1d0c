"""``dg`` scaffolds, checks and lists the component, and it makes the same collection as a declaration."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest
import yaml
from dagster.components.testing import create_defs_folder_sandbox
from pydantic import ValidationError

import rasteret_assets
from rasteret_assets import CloudConfig, CollectionSpec
from rasteret_assets.dagster import RasterCollection, collection_definitions, stage_spec
from rasteret_assets.errors import SpecError
from rasteret_assets.orchestration._component import CollectionAttributes
from rasteret_assets.schema import STAGES
from tests.support.rasters import record_table

DOCS = Path(__file__).parent.parent.parent / "docs" / "components.md"
PROJECT = """\
[project]
name = "maps"
version = "0.1.0"
[tool.dg]
directory_type = "project"
[tool.dg.project]
root_module = "maps"
code_location_target_module = "maps.definitions"
"""
TYPE = "rasteret_assets.RasterCollection"
SUBCLASS = """\
import dagster as dg
from rasteret_assets import RasterCollection


class Ours(RasterCollection):
    def get_asset_spec(self, stage):
        spec = super().get_asset_spec(stage).merge_attributes(tags={"stage": stage})
        return spec.replace_attributes(owners=["team:ours"], code_version="7") if stage == "collection" else spec
"""
OWN_RESOURCES = """\
import dagster as dg


class Shelf(dg.ConfigurableResource):
    name: str


@dg.asset
def listing(filesystem: Shelf, backend: Shelf, options: Shelf) -> list[str]:
    return [filesystem.name, backend.name, options.name]


@dg.definitions
def defs():
    names = ("filesystem", "backend", "options")
    return dg.Definitions(assets=[listing], resources={name: Shelf(name=name) for name in names})
"""
DEFINITIONS = """\
from pathlib import Path
import dagster as dg


@dg.definitions
def defs():
    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
"""


@contextmanager
def loaded_component(
    attributes: dict[str, Any], post_processing: dict[str, Any] | None = None
) -> Iterator[tuple[RasterCollection, dg.Definitions, Path]]:
    """Return the component ``naip`` of some attributes, its definitions, and its folder."""
    document = {"type": TYPE, "attributes": attributes}
    with create_defs_folder_sandbox() as sandbox:
        folder = sandbox.scaffold_component(
            component_cls=RasterCollection, defs_path="naip",
            defs_yaml_contents=document | ({"post_processing": post_processing} if post_processing else {}),
        )  # fmt: skip
        with sandbox.load_component_and_build_defs(defs_path=folder) as (component, definitions):
            yield component, definitions, folder


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::dagster.BetaWarning")
@pytest.mark.parametrize("address", ["http://127.0.0.1:9/stac", "{{ env.STAC_ADDRESS }}"])
def test_a_component_may_be_harvested(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAC_ADDRESS", "http://127.0.0.1:9/stac")
    attributes = {"harvest": {"stac_api": address, "datetime": "2024"}, "workspace_dir": "out"}
    with loaded_component(attributes) as (_, definitions, folder):
        asset = definitions.resolve_asset_graph().get(dg.AssetKey(["naip", "harvested_items"]))
        assert asset.metadata["path"].value == str((folder / "out" / "naip_harvest").resolve())
        assert asset.metadata["address"] == "http://127.0.0.1:9/stac"


class Project:
    """A ``dg`` project without any definition."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.defs = root / "maps" / "defs"
        self.defs.mkdir(parents=True)
        (root / "pyproject.toml").write_text(PROJECT)
        (root / "maps" / "__init__.py").touch()
        (root / "maps" / "definitions.py").write_text(DEFINITIONS)
        pq.write_table(record_table(["a", "b"], {"B02": ["x.tif", "y.tif"]}), root / "items.parquet")

    def dg(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        paths = [str(self.root), os.environ.get("PYTHONPATH", "")]
        environment = {
            **os.environ, "PYTHONPATH": os.pathsep.join(paths), "DAGSTER_HOME": str(self.root),
            "TARGET": str(self.root / "out"), "ZONE": "Mars", "COLUMNS": "200",
        }  # fmt: skip
        command = [str(Path(sys.executable).with_name("dg")), *arguments]
        return subprocess.run(
            command, cwd=self.root, env=environment, capture_output=True, text=True, check=False
        )  # fmt: skip

    def assets(self) -> dict[str, dict[str, Any]]:
        """Return the output of ``dg list defs`` for every asset, by key."""
        listed = self.dg("list", "defs", "--json")
        assert listed.returncode == 0, listed.stdout + listed.stderr
        return {asset["asset_key"]: asset for asset in json.loads(listed.stdout)["assets"]}

    def declare(self, folder: str, *, component: str = TYPE, **attributes: object) -> None:
        (self.defs / folder).mkdir(exist_ok=True)
        document = {"type": component, "attributes": attributes}
        (self.defs / folder / "defs.yaml").write_text(yaml.safe_dump(document, sort_keys=False))


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, dict[str, dict[str, Any]]]:
    """A project with a scaffolded, a declared and a subclassed component beside its own resources, and its assets.

    One project for all, because every call of ``dg`` imports Dagster anew.
    """
    project = Project(tmp_path_factory.mktemp("project"))
    (project.root / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    scaffold = project.dg(
        "scaffold", "defs", "rasteret_assets.RasterCollection", "naip",
        "--table", "items.parquet", "--workspace", "{{ env.TARGET }}",
    )  # fmt: skip
    assert scaffold.returncode == 0, scaffold.stderr
    project.declare("second", path="../../../items.parquet", workspace_dir="/data", enrich_cog=True)
    (project.root / "maps" / "ours.py").write_text(SUBCLASS)
    project.declare(
        "third", component="maps.ours.Ours", path="../../../items.parquet", graph={"owners": ["team:theirs"]}
    )  # fmt: skip
    (project.defs / "listing.py").write_text(OWN_RESOURCES)
    return project, project.assets()


def test_dg_scaffolds_and_lists(listed: tuple[Project, dict[str, dict[str, Any]]]) -> None:
    project, assets = listed
    written = yaml.safe_load((project.defs / "naip" / "defs.yaml").read_text())
    assert written["type"] == "rasteret_assets.RasterCollection"
    assert written["attributes"]["band_codes"] == ["B02"]
    # Loads what "dg check defs" loads.
    assert {f"{name}/{stage}" for name in ("naip", "second") for stage in STAGES} <= assets.keys()


def test_dg_names_the_lines_of_mistakes(tmp_path: Path) -> None:
    project = Project(tmp_path)
    graph = {"refresh_cron": "daily", "timezone": "Mars", "tags": {"a b": "x"}, "owners": ["team:x", "me"]}
    project.declare("naip", path="x.parquet", enrich=True, max_concurrent="lots", max_failed=5, graph=graph)
    found = project.dg("check", "yaml")
    text = found.stdout + found.stderr
    assert found.returncode == 1
    told = "naip/defs.yaml:{} - rasteret_assets.RasterCollection attributes.{}"
    for line, message in {
        4: "enrich Additional properties",
        5: "max_concurrent 'lots' is not of type 'integer'",
        6: "max_failed 5 is greater than the maximum of 1",
        8: "graph.refresh_cron 'daily' does not match",
        9: "graph.timezone 'Mars' does not match",
        10: "graph.tags 'a b' does not match",
        14: "graph.owners.1 'me' does not match",
    }.items():
        assert told.format(line, message) in text


def test_the_value_of_a_template_is_checked_with_its_line(tmp_path: Path) -> None:
    project = Project(tmp_path)
    graph = {"timezone": "{{ env.ZONE }}", "owners": ["team:x", "{{ env.ZONE }}"]}
    project.declare("naip", path="x.parquet", max_concurrent="{{ env.ZONE }}", graph=graph)
    assert project.dg("check", "yaml").returncode == 0
    found = project.dg("list", "defs")
    text = found.stdout + found.stderr
    assert "naip/defs.yaml:4: max_concurrent='Mars': input should be a valid integer" in text
    assert "naip/defs.yaml:6: graph.timezone: 'Mars' is not a timezone" in text
    assert "naip/defs.yaml:7: graph.owners: ['Mars'] are not owners" in text
    project.declare("naip", path="x.parquet", own_resources="{{ env.ZONE }}")
    found = project.dg("list", "defs")
    assert "naip/defs.yaml:4: own_resources='Mars': write true or false" in found.stdout + found.stderr


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::dagster.BetaWarning")
def test_attributes_mean_what_they_mean_in_a_declaration(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TARGET", "s3://bucket/out")
    attributes = {
        "path": "items.parquet", "workspace_dir": "{{ env.TARGET }}", "enrich_cog": True, "max_failed": 0.1,
        "cloud_config": {"provider": "aws", "requester_pays": True}, "graph": {"owners": ["team:maps"]},
    }  # fmt: skip
    with loaded_component(attributes) as (component, definitions, folder):
        assert component.spec == CollectionSpec.of(**{
            **attributes, "name": "naip", "path": str(folder / "items.parquet"), "workspace_dir": "s3://bucket/out",
        })  # fmt: skip
        dg.Definitions.validate_loadable(definitions)
        assert {spec.key.path[-1] for spec in definitions.resolve_all_asset_specs()} >= set(STAGES)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::dagster.BetaWarning")
def test_any_attribute_may_be_a_template(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "N": "7", "ENRICH": "true", "OWN": "false", "BANDS": "B02,B03", "AUTO": "true", "WHO": "team:maps", "PLACE": "s3://b/t",
        "ZONE": "Europe/Berlin", "DOMAIN": "ice", "CLOUD": "aws",
    }  # fmt: skip
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    attributes = {
        "path": "{{ env.PLACE }}", "max_concurrent": "{{ env.N }}", "enrich_cog": "{{ env.ENRICH }}",
        "own_resources": "{{ env.OWN }}", "band_codes": "{{ env.BANDS.split(',') }}",
        "cloud_config": {"provider": "{{ env.CLOUD }}"},
        "graph": {
            "autostart": "{{ env.AUTO }}", "owners": ["{{ env.WHO }}", "a@b.org"], "timezone": "{{ env.ZONE }}",
            "tags": {"domain": "{{ env.DOMAIN }}"},
        },
    }  # fmt: skip
    with loaded_component(attributes) as (component, _, _):
        assert component.spec == CollectionSpec.of(
            path="s3://b/t", name="naip", max_concurrent=7, enrich_cog=True, band_codes=["B02", "B03"],
            cloud_config={"provider": "aws"},
            graph={
                "autostart": True, "owners": ["team:maps", "a@b.org"], "timezone": "Europe/Berlin",
                "tags": {"domain": "ice"},
            },
        )  # fmt: skip
        assert component.own_resources is False


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::dagster.BetaWarning")
def test_a_template_may_give_a_whole_group_of_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "GRAPH", '{"autostart": true, "partitions_per_run": 7, "tags": {"domain": "ice"}, "fresh_within_hours": null}'
    )
    attributes = {"path": "s3://b/t", "graph": "{{ env.GRAPH }}", "cloud_config": "{{ dict(provider='aws') }}"}
    with loaded_component(attributes) as (component, _, _):
        assert component.spec.graph.partitions_per_run == 7
        assert component.spec.graph.autostart
        assert component.spec.graph.tags == {"domain": "ice"}
        assert component.spec.cloud_config == CloudConfig("aws")


def test_attributes_that_are_not_templates_are_checked_beside_templates() -> None:
    template = "{{ env.X }}"
    CollectionAttributes(path="x", href_column="url", band_index_map=template)
    CollectionAttributes(path=template, graph=template, cloud_config=template, band_codes=[template])
    for wrong in ({"max_concurrent": "lots"}, {"enrich": True}, {"graph": {"timezone": "Mars"}}):
        with pytest.raises(ValidationError):
            CollectionAttributes(path="x", band_codes=template, **wrong)
    with pytest.raises(ValidationError):
        CollectionAttributes(path="x", href_column="url")


def test_components_live_beside_resources_of_the_project(listed: tuple[Project, dict[str, dict[str, Any]]]) -> None:
    assert {"naip/collection", "second/collection", "third/collection", "listing"} <= listed[1].keys()


def test_a_project_may_bring_the_resources_of_the_collection(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.declare("naip", path="../../../items.parquet", own_resources=True)
    assert project.dg("list", "defs").returncode != 0
    (project.defs / "ours.py").write_text(
        "import dagster as dg\n"
        "from rasteret_assets.dagster import FilesystemResource, StorageBackendResource\n\n"
        "@dg.definitions\n"
        "def defs():\n"
        '    fields = {"endpoint_url": "http://127.0.0.1:9000"}\n'
        '    resources = {"rasteret_filesystem": FilesystemResource(**fields)}\n'
        '    return dg.Definitions(resources={**resources, "rasteret_backend": StorageBackendResource(**fields)})\n'
    )
    assert "naip/collection" in project.assets()


def test_a_subclass_says_what_the_catalog_shows(listed: tuple[Project, dict[str, dict[str, Any]]]) -> None:
    found = listed[1]
    assert found["third/collection"]["owners"] == [{"team": "ours"}]
    assert found["third/raw_records"]["owners"] == [{"team": "theirs"}]
    assert found["third/source"]["tags"] == [{"key": "stage", "value": "source"}]
    assert found["third/raw_records"]["tags"] == [{"key": "stage", "value": "raw_records"}]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::dagster.BetaWarning")
def test_assets_are_processed_after_the_component() -> None:
    processing = {
        "assets": [
            {"target": "key:naip/collection", "attributes": {"group_name": "maps", "tags": {"domain": "ice"}}},
            {"target": "*", "attributes": {"automation_condition": "{{ dg.AutomationCondition.eager() }}"}},
        ]
    }
    with loaded_component({"path": "s3://b/t", "graph": {"tags": {"team": "x"}}}, processing) as (_, definitions, _):
        found = {spec.key.path[-1]: spec for spec in definitions.resolve_all_asset_specs()}
    assert found["collection"].group_name == "maps"
    assert found["collection"].tags.items() >= {"domain": "ice", "team": "x"}.items()
    assert found["raw_records"].group_name == "naip"
    assert all(found[name].automation_condition is not None for name in ("source", *STAGES))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"key": "other"}, r"get_asset_spec\('collection'\) of the collection x changes key.*key_prefix"),
        ({"partitions_def": None}, "changes partitions_def.*partition_by"),
        ({"deps": []}, "changes deps"),
    ],
)
def test_keys_partitions_and_dependencies_cannot_be_changed(changes: dict[str, Any], message: str) -> None:
    spec = CollectionSpec.of(path="t", name="x")

    def changed(stage: str) -> dg.AssetSpec:
        return stage_spec(spec, stage).replace_attributes(**changes if stage == "collection" else {})

    with pytest.raises(SpecError, match=message):
        collection_definitions(spec, get_asset_spec=changed)


@pytest.mark.filterwarnings("ignore::dagster.BetaWarning")
def test_the_examples_of_the_page_load() -> None:
    text = DOCS.read_text(encoding="utf-8")
    subclass, declared, argument = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    page: dict[str, Any] = {}
    exec(compile(subclass + declared + argument, str(DOCS), "exec", dont_inherit=True), page)
    changed = page["MapsCollection"](page["scenes"])
    assert changed.get_asset_spec("collection").description.startswith("Scenes for the maps.")
    assert "runbook" in changed.get_asset_spec("source").metadata
    definitions = dg.Definitions.merge(page["defs"], dg.Definitions(assets=[page["cloudless"]]))
    dg.Definitions.validate_loadable(definitions)
    (declaration,) = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    CollectionAttributes(**yaml.safe_load(declaration)["attributes"])


def test_every_attribute_is_described() -> None:
    properties = CollectionAttributes.model_json_schema()["properties"]
    assert set(CollectionSpec.model_fields) < set(properties)
    assert [name for name, value in properties.items() if not value.get("description")] == []


def test_the_component_is_found_under_the_name_of_the_package() -> None:
    assert rasteret_assets.RasterCollection is RasterCollection
    assert "RasterCollection" in dir(rasteret_assets)
    with pytest.raises(AttributeError, match="no attribute 'Raster'"):
        _ = rasteret_assets.Raster
