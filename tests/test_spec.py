"""What a spec accepts, and the sentence it refuses the rest with."""

from __future__ import annotations

import inspect
from pathlib import Path

import pyarrow.compute as pc
import pytest
from pydantic import BaseModel

from rasteret_assets import CloudConfig, CollectionSpec, build_from_table
from rasteret_assets.errors import SpecError
from rasteret_assets.harvest_options import HarvestOptions
from rasteret_assets.options import GraphOptions
from rasteret_assets.spec import published_path
from rasteret_assets.spec_values import CloudValues, GraphValues, HarvestValues, SpecValues


def test_every_argument_of_build_from_table_is_a_field() -> None:
    arguments = set(inspect.signature(build_from_table).parameters)
    live_objects = {"filesystem", "backend"}
    assert arguments - live_objects <= set(CollectionSpec.model_fields)


def test_signature_of_build_from_table_is_rasterets() -> None:
    parameters = inspect.signature(build_from_table).parameters
    defaults = {name: p.default for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert defaults == {
        "name": "", "data_source": "", "workspace_dir": None, "column_map": None, "href_column": None,
        "band_index_map": None, "url_rewrite_patterns": None, "filesystem": None, "columns": None, "filter_expr": None,
        "enrich_cog": False, "band_codes": None, "cloud_config": None, "max_concurrent": 300, "force": False,
        "backend": None,
    }  # fmt: skip
    assert next(iter(parameters)) == "path"


@pytest.mark.parametrize(
    ("values", "model"),
    [
        (CloudValues, CloudConfig),
        (GraphValues, GraphOptions),
        (HarvestValues, HarvestOptions),
        (SpecValues, CollectionSpec),
    ],
)
def test_types_of_values_name_every_field(values: type, model: type[BaseModel]) -> None:
    assert values.__annotations__.keys() == model.model_fields.keys()


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"hrefcolumn": "x"}, "unknown argument 'hrefcolumn': did you mean 'href_column'"),
        ({"zzz": 1}, "unknown argument 'zzz': known are: harvest, path, name"),
        ({"href_column": "url"}, "href_column='url' needs band_index_map"),
        ({"band_index_map": {"B02": 0}}, "href_column is not given"),
        ({"href_column": "u", "band_index_map": {"B02": -1}}, "count from 0"),
        (
            {"href_column": "u", "band_index_map": {"B02": 0}, "band_codes": ["B03"]},
            r"asks for \['B03'\].*only \['B02'\]",
        ),
        ({"band_codes": []}, "band_codes is empty"),
        ({"band_codes": "red"}, r"band_codes: 'red' is one name: write a list, \[red\]"),
        ({"band_codes": ["a", "a"]}, r"\['a'\] more than once"),
        ({"column_map": {"a": "id", "b": "id"}}, r"several columns to \['id'\]"),
        ({"columns": ["id"], "column_map": {"fid": "id"}}, r"\['fid'\], which columns"),
        ({"max_concurrent": 0}, "max_concurrent=0"),
        ({"name": "../up"}, "not a name for a collection"),
        ({"filter_expr": "cloud < 3"}, "is not a filter: write a list"),
        ({"filter_expr": [["cloud", "~", 3]]}, "is not understood"),
        ({"filter_expr": [["cloud", 3]]}, "is not a filter term"),
        ({"url_rewrite_patterns": {"": "x"}}, "empty prefix"),
        ({"max_rejected": 2}, "max_rejected=2"),
    ],
)
def test_a_bad_spec_is_refused_by_name(values: dict, sentence: str) -> None:
    with pytest.raises(SpecError, match=sentence):
        CollectionSpec.of(path="table.parquet", **values)


def test_filters_are_pyarrows_disjunctive_normal_form() -> None:
    spec = CollectionSpec.of(path="t", filter_expr=[["a", "<", 3], ["b", "in", [1, 2]]])
    assert str(spec.filter) == str((pc.field("a") < 3) & pc.field("b").isin([1, 2]))
    either = CollectionSpec.of(path="t", filter_expr=[[["a", "<", 3]], [["b", "==", "x"]]])
    assert str(either.filter) == str((pc.field("a") < 3) | (pc.field("b") == "x"))
    assert CollectionSpec.of(path="t", filter_expr=pc.field("a") > 1).filter is not None


def test_only_what_decides_the_content_enters_its_hash() -> None:
    base = CollectionSpec.of(path="t", name="a")
    assert base.content_hash == CollectionSpec.of(path="u", name="a", max_concurrent=5, force=True).content_hash
    assert base.content_hash != CollectionSpec.of(path="t", name="a", enrich_cog=True).content_hash
    assert base.content_hash != CollectionSpec.of(path="t", name="a", filter_expr=pc.field("x") > 1).content_hash


def test_own_rewrites_come_before_the_cloud_configurations() -> None:
    cloud = CloudConfig("aws", url_patterns={"https://a/": "s3://a/", "https://b/": "s3://b/"})
    spec = CollectionSpec.of(path="t", cloud_config=cloud, url_rewrite_patterns={"https://a/": "file:///a/"})
    assert spec.rewrites == {"https://a/": "file:///a/", "https://b/": "s3://b/"}


def test_a_registered_cloud_config_serves_its_data_source() -> None:
    CloudConfig.register("Test-Source-1", CloudConfig("aws", url_patterns={"https://c/": "s3://c/"}))
    assert CollectionSpec.of(path="t", data_source="test-source-1").rewrites == {"https://c/": "s3://c/"}


@pytest.mark.parametrize(
    ("workspace", "name", "expected"),
    [
        ("/data/ws", "s2", "/data/ws/s2_records"),
        ("/data/s2_records", "other", "/data/s2_records"),
        ("/data/s2_stac/", "s2", "/data/s2_stac"),
        ("/data/ws", "", "/data/ws"),
        ("s3://bucket/ws/", "s2", "s3://bucket/ws/s2_records"),
        (None, "", None),
    ],
)
def test_where_a_collection_is_published(workspace: str | None, name: str, expected: str | None) -> None:
    assert published_path(workspace, name) == expected


def test_the_default_workspace_is_in_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert published_path(None, "s2") == str(tmp_path / "rasteret_workspace" / "s2_records")


def test_a_mistake_inside_a_field_is_reported_with_its_inner_fields() -> None:
    with pytest.raises(SpecError, match=r"unknown argument 'cloud_config.provder': did you mean 'provider'"):
        CollectionSpec.of(path="x", cloud_config={"provder": "aws"})
    with pytest.raises(SpecError, match=r"unknown argument 'graph.autostrat': did you mean 'autostart'"):
        CollectionSpec.of(path="x", graph={"autostrat": True})
    with pytest.raises(SpecError, match=r"'cloud_config.provider' is missing"):
        CollectionSpec.of(path="x", cloud_config={"region": "eu-central-1"})
    assert CloudConfig("aws").provider == "aws"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("refresh_cron", "not a cron"), ("revalidate_cron", "0 24 * * *"), ("refresh_cron", "0 6 * *"),
        ("refresh_cron", "0 6 * * * *"), ("refresh_cron", "0 6 5-1 * *"), ("revalidate_cron", "0 6 * mon *"),
        ("revalidate_cron", "*/0 * * * *"), ("refresh_cron", ""),
        ("timezone", "Mars"), ("timezone", ""), ("timezone", "../etc/passwd"), ("timezone", "Europe"),
        ("tags", {"a b": "c"}), ("tags", {"a": "c!"}), ("tags", {"a": "x" * 64}), ("tags", {"a/b/c": "x"}),
        ("tags", {"a": "é"}), ("tags", {"a\n": "b"}),
        ("deps", ["a//b"]), ("deps", [""]), ("deps", ["a/"]), ("deps", ["a b"]), ("deps", ["a", "a"]),
    ],
)  # fmt: skip
def test_what_dagster_would_refuse_is_refused_by_its_field(field: str, value: object) -> None:
    with pytest.raises(SpecError, match=f"graph.{field}: "):
        CollectionSpec.of(path="x", graph={field: value})


def test_times_and_tags_as_dagster_takes_them() -> None:
    for cron in ("0 6 * * *", "*/15 0-6,18 1,15 jan-MAR sun", "0 3 * * 7", "5/10 * * * 1-5", "@daily"):
        assert CollectionSpec.of(path="x", graph={"refresh_cron": cron}).graph.refresh_cron == cron
    graph = {"timezone": "Europe/Berlin", "tags": {"team/domain": "sea.ice_1-2", "empty": ""}}
    assert CollectionSpec.of(path="x", graph=graph).graph.timezone == "Europe/Berlin"
