"""Dagster loads collections from declarations in YAML."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from rasteret_assets import CollectionSpec
from rasteret_assets.dagster import build_definitions
from rasteret_assets.declare import read_spec, read_specs
from rasteret_assets.errors import SpecError
from rasteret_assets.orchestration.definitions import BROKEN_GROUP
from rasteret_assets.schema import STAGES

REPOSITORY = Path(__file__).parent.parent.parent


def declare(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text(text)
    return file


def test_paths_start_at_the_file_and_the_name_is_its_own(tmp_path: Path) -> None:
    spec = read_spec(declare(tmp_path, "s2.yaml", "path: ../items.parquet\nworkspace_dir: out\nenrich_cog: true\n"))
    assert spec.name == "s2"
    assert spec.path == str(tmp_path.parent / "items.parquet")
    assert spec.published_path == str(tmp_path / "out" / "s2_records")
    remote = read_spec(declare(tmp_path, "r.yaml", "path: s3://b/items.parquet\nworkspace_dir: /data\nname: other\n"))
    assert (remote.path, remote.workspace_dir, remote.name) == ("s3://b/items.parquet", "/data", "other")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path: a.parquet\nenrich: true\n", "bad.yaml:2: unknown argument 'enrich': did you mean 'enrich_cog'"),
        (
            "path: a.parquet\nmax_concurrent: none\n",
            "bad.yaml:2: max_concurrent='none': input should be a valid integer",
        ),
        ("name: x\n", "bad.yaml:1: argument 'path' is missing"),
        ("path: [\n", "bad.yaml:2: not valid YAML: while parsing"),
        ("just words\n", "bad.yaml:1: declares no collection"),
        ("path: a\nname: x\npath: b\n", "bad.yaml:3: path is written twice"),
        ("path: a\nhref_column: url\n", "bad.yaml:2: href_column='url' needs band_index_map"),
        ("path: a\nband_codes:\n- B02\n- 3\n", r"bad.yaml:4: band_codes.1=3: input should be a valid string"),
        ("path: a\ngraph:\n  owners: [me]\n", r"bad.yaml:3: graph.owners: \['me'\] are not owners"),
        ("", "bad.yaml:1: declares no collection"),
    ],
)
def test_a_broken_declaration_names_file_field_and_remedy(tmp_path: Path, text: str, message: str) -> None:
    declare(tmp_path, "bad.yaml", text)
    with pytest.raises(SpecError, match=message):
        read_specs(tmp_path)


def test_aliases_that_multiply_are_counted_once(tmp_path: Path) -> None:
    lines = ["path: t.parquet", "a0: &a0 {x: 1}"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 40)]  # 9**39 nodes, one by one
    file = declare(tmp_path, "bad.yaml", "\n".join(lines))
    with pytest.raises(SpecError, match=r"bad\.yaml: stands for more than 100,000 entries"):
        read_spec(file)
    declare(tmp_path, "bad.yaml", "\n".join([*lines[:6], "max_concurrent: *a4"]))  # what is left is told in short
    with pytest.raises(SpecError, match=r"bad\.yaml:7: max_concurrent=.{,400}: input should be a valid integer"):
        read_spec(file)
    declare(tmp_path, "bad.yaml", "path: a\nx: &x [*x, {b: 1, b: 2}]")
    with pytest.raises(SpecError, match=r"bad\.yaml:2: b is written twice"):
        read_spec(file)


def test_every_broken_declaration_is_named(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yml"):
        declare(tmp_path, name, "{}")
    with pytest.raises(SpecError, match=r"a.yaml.*\n.*b.yml"):
        read_specs(tmp_path)


def test_names_that_dagster_cannot_tell_apart_are_refused() -> None:
    specs = [CollectionSpec.of(path="a", name=name) for name in ("l8-sr", "l8.sr")]
    with pytest.raises(SpecError, match=r"several collections are called l8-sr, l8\.sr"):
        build_definitions(specs)


def test_a_broken_declaration_takes_none_of_the_others_along(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    declare(tmp_path, "a.yaml", "path: x\nenrich: true\ngraph:\n  timezone: Mars\n")
    declare(tmp_path, "b.yaml", "path: [")
    declare(tmp_path, "l8-sr.yaml", "path: x")
    declare(tmp_path, "l8.sr.yaml", "path: x")
    declare(tmp_path, "tags.yaml", "path: x\ngraph:\n  op_tags: {a: {1: 2}}\n")
    definitions = build_definitions(collections_dir=tmp_path)
    dg.Definitions.validate_loadable(definitions)
    assert [job.name for job in definitions.resolve_all_job_defs() if job.name.endswith("_build")] == ["l8_sr_build"]
    found = {
        spec.key.path[-1]: spec for spec in definitions.resolve_all_asset_specs() if spec.key.path[0] == BROKEN_GROUP
    }
    assert found.keys() == {"a.yaml", "b.yaml", "l8.sr.yaml", "tags.yaml"}
    assert {spec.group_name for spec in found.values()} == {BROKEN_GROUP}
    assert "a.yaml:2: unknown argument 'enrich': did you mean 'enrich_cog'?" in str(found["a.yaml"].description)
    assert "a.yaml:4: graph.timezone: 'Mars' is not a timezone" in str(found["a.yaml"].description)
    assert [row.data["line"] for row in found["a.yaml"].metadata["mistakes"].records] == [2, 4]
    assert "'l8.sr'" in str(found["l8.sr.yaml"].description)
    assert "tags.yaml:3: graph.op_tags: the tags ['a']" in str(found["tags.yaml"].description).replace("\\", "")
    assert "b.yaml:1: not valid YAML" in caplog.text
    assert "the other collections are loaded" in caplog.text


def test_a_folder_of_broken_declarations_loads(tmp_path: Path) -> None:
    declare(tmp_path, "a.yaml", "{}")
    definitions = build_definitions(collections_dir=tmp_path)
    dg.Definitions.validate_loadable(definitions)
    (only,) = definitions.resolve_all_asset_specs()
    assert only.key == dg.AssetKey([BROKEN_GROUP, "a.yaml"])


def test_any_name_of_a_collection_loads() -> None:
    definitions = build_definitions([CollectionSpec.of(path="a", name="l8-sr.v2")])
    dg.Definitions.validate_loadable(definitions)
    keys = definitions.resolve_job_def("l8_sr_v2_build").asset_layer.selected_asset_keys
    assert keys == {dg.AssetKey(["l8-sr.v2", stage]) for stage in STAGES}
    sensor = definitions.resolve_sensor_def("l8_sr_v2_refresh")
    assert sensor.default_status is dg.DefaultSensorStatus.STOPPED


def test_folders_are_looked_up_in_order(tmp_path: Path, monkeypatch) -> None:
    def jobs(**options: Path) -> set[str]:
        return {job.name for job in build_definitions(**options).resolve_all_job_defs() if job.name.endswith("_build")}

    monkeypatch.delenv("RASTERET_ASSETS_COLLECTIONS", raising=False)
    monkeypatch.chdir(tmp_path)
    assert jobs() == set()
    (tmp_path / "rasteret_demo").mkdir()
    declare(tmp_path / "rasteret_demo" / "collections", "demo.yaml", "path: x")
    assert jobs() == {"demo_build"}
    declare(tmp_path / "collections", "beside.yaml", "path: x")
    assert jobs(project_dir=tmp_path) == {"beside_build"}
    declare(tmp_path / "named", "env.yaml", "path: x")
    monkeypatch.setenv("RASTERET_ASSETS_COLLECTIONS", str(tmp_path / "named"))
    assert jobs(project_dir=tmp_path) == {"env_build"}
    declare(tmp_path / "given", "given.yaml", "path: x")
    assert jobs(collections_dir=tmp_path / "given") == {"given_build"}
    monkeypatch.setenv("RASTERET_ASSETS_COLLECTIONS", str(tmp_path / "nowhere"))
    with pytest.raises(SpecError, match=r"RASTERET_ASSETS_COLLECTIONS='.*nowhere': no such folder"):
        build_definitions()


def test_the_workspace_file_validates(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    command = [sys.executable, "-m", "dagster", "definitions", "validate", "-w", str(REPOSITORY / "workspace.yaml")]
    done = subprocess.run(
        command, cwd=tmp_path, env={"DAGSTER_HOME": str(home), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "All code locations passed validation" in done.stderr + done.stdout
