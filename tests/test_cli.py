"""``rasteret-assets``: init, build, status, check, discover - with and without Dagster."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner, Result

from rasteret_assets import load
from rasteret_assets.cli import main
from rasteret_assets.declare import propose, read_spec
from tests.support.dagster_home import set_dagster_home
from tests.support.interrupts import interruptible
from tests.support.rasters import record_table, tiff_bytes
from tests.support.server import RangeServer


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def document(result: Result) -> object:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


class Project:
    """A folder with a record table of two months and the declaration of its collection."""

    def __init__(self, root: Path, server: RangeServer) -> None:
        self.root = root
        self.server = server
        self.declaration = root / "collections" / "scenes.yaml"
        self.write({"a": 1, "b": 1, "c": 2})
        self.declaration.parent.mkdir()
        self.declaration.write_text("path: ../records.parquet\nworkspace_dir: ../out\nenrich_cog: true\n")

    def write(self, months: dict[str, int]) -> None:
        for seed, name in enumerate(months):
            self.server.objects.setdefault(f"/{name}.tif", tiff_bytes(seed=seed))
        hrefs = [f"{self.server.url}/{name}.tif" for name in months]
        times = [datetime(2024, month, 5, tzinfo=UTC) for month in months.values()]
        pq.write_table(record_table(list(months), {"B02": hrefs}, datetimes=times), self.root / "records.parquet")


@pytest.fixture
def project(tmp_path: Path, server: RangeServer, monkeypatch) -> Project:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.delenv("RASTERET_ASSETS_COLLECTIONS", raising=False)
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path, server)


@pytest.fixture(params=["library", "dagster"])
def builder(request, project: Project, monkeypatch) -> Project:
    """The project, built by the library or by the graph of an instance."""
    if request.param == "dagster":
        set_dagster_home(project.root / "home", monkeypatch)
    return project


def test_a_build_touches_what_the_plan_says(builder: Project) -> None:
    (planned,) = document(run("build", "--dry-run", "--json"))
    assert [(row["partition"], row["reason"], row["headers_to_fetch"]) for row in planned["partitions"]] == [
        ("2024-01", "new", 2), ("2024-02", "new", 1),
    ]  # fmt: skip
    assert builder.server.requests == []
    (built,) = document(run("build", "--json"))
    assert built["partitions"] == {"2024-01": "new", "2024-02": "new"}
    assert (built["totals"]["records"], built["totals"]["headers_fetched"]) == (3, 3)
    assert len(load(builder.root / "out" / "scenes_records")) == 3

    builder.server.reset()
    builder.write({"a": 1, "b": 1, "d": 3})
    text = run("build", "--dry-run", "scenes").stdout
    assert "2024-02: gone from the source" in text
    assert "2024-03: new" in text
    result = run("build", builder.declaration)
    assert "scenes: 2 partitions (1 gone from the source, 1 new), 1 record; 1 header fetched" in result.stdout
    assert builder.server.paths == ["/d.tif"]
    assert "nothing to do" in run("build").stdout


def test_force_revalidate_and_partition(builder: Project) -> None:
    run("build")
    builder.server.reset()
    (forced,) = document(run("build", "--force", "-p", "2024-01", "--json"))
    assert (forced["partitions"], sorted(builder.server.paths)) == ({"2024-01": "forced"}, ["/a.tif", "/b.tif"])
    builder.server.objects["/c.tif"] = tiff_bytes(seed=9)
    (asked,) = document(run("build", "--revalidate", "-p", "2024-02", "--json"))
    assert asked["totals"]["headers_reused"] == 0
    assert builder.server.paths[2:] == ["/c.tif"]


def test_missing_headers_count_only_where_the_exit_code_is_asked_for(builder: Project) -> None:
    builder.server.fault = lambda path, before: "404" if path == "/a.tif" else None
    assert run("build", "--exit-code").exit_code == 1
    assert run("build", "--exit-code").exit_code == 1  # the header is missing still
    assert run("build").exit_code == 0


def test_more_missing_headers_than_max_failed_keep_what_was_published(builder: Project) -> None:
    builder.declaration.write_text(builder.declaration.read_text() + "max_failed: 0.25\n")
    run("build")
    builder.write({"a": 1, "b": 1, "e": 1, "c": 2})
    builder.server.fault = lambda path, before: "404" if path == "/e.tif" else None
    result = run("build")
    assert result.exit_code == 1
    assert "2024-01" in result.stderr
    assert "1 of 3 headers could not be read" in result.stderr
    assert len(load(builder.root / "out" / "scenes_records")) == 3


def test_a_dagster_build_is_on_its_instance(project: Project, monkeypatch) -> None:
    set_dagster_home(project.root / "home", monkeypatch)
    run("build")
    (row,) = document(run("status", "--json"))
    assert row["last_run"].startswith("success ")
    with dg.DagsterInstance.get() as instance:
        assert instance.get_dynamic_partitions("scenes_months") == ["2024-01", "2024-02"]
        assert instance.get_materialized_partitions(dg.AssetKey(["scenes", "collection"])) == {"2024-01", "2024-02"}


def test_status(project: Project) -> None:
    assert run("status").exit_code == 0
    assert run("status", "--exit-code").exit_code == run("build", "--dry-run", "--exit-code").exit_code == 1
    (before,) = document(run("status", "--json"))
    assert (before["partitions"], before["stale"]) == (0, {"2024-01": "new", "2024-02": "new"})
    project.server.fault = lambda path, before: "404" if path == "/a.tif" else None
    run("build")
    project.write({"a": 1, "b": 1, "c": 2, "d": 2})
    (after,) = document(run("status", "--json"))
    assert (after["partitions"], after["records"], after["stale"]) == (
        2, 3, {"2024-01": "headers to try again", "2024-02": "source changed"},
    )  # fmt: skip
    assert (after["failures"], after["last_run"]) == ({"not_found": 1}, None)
    text = run("status").stdout
    assert "scenes: to build: 1 headers to try again, 1 source changed" in text
    project.server.fault = lambda path, before: None
    run("build")
    assert run("status", "--exit-code").exit_code == run("build", "--dry-run", "--exit-code").exit_code == 0


def test_check_exits_with_one_for_errors_where_that_is_asked_for(project: Project) -> None:
    project.server.fault = lambda path, before: "404" if path == "/a.tif" else None
    run("build")
    result = run("check")
    assert result.exit_code == 0
    assert "warning: scenes 2024-01 headers_complete: 1 of 2 headers could not be read" in result.stdout
    assert result.stdout.splitlines()[-1] == "18 checks of 2 partitions: 17 passed, 1 warning, 0 errors"
    assert run("check", "--exit-code").exit_code == 0
    file = project.root / "out" / "scenes_records" / "year=2024" / "month=2" / "part-0.parquet"
    file.write_bytes(file.read_bytes()[:-1])
    found = document(run("check", "--json"))
    checks = {(row["partition"], row["check"]): row["verdict"] for row in found["checks"]}
    assert checks["2024-02", "published_file"] == "error"
    assert run("check", "--exit-code").exit_code == 1
    assert run("check", "--exit-code", "-p", "2024-01").exit_code == 0
    assert run("check", "-p", "2031-01").exit_code == 2


def test_check_takes_a_partition_that_one_of_several_collections_has(project: Project) -> None:
    pq.write_table(pq.read_table(project.root / "records.parquet").slice(2), project.root / "later.parquet")
    later = project.declaration.with_name("later.yaml")
    later.write_text("path: ../later.parquet\nworkspace_dir: ../out\n")
    run("build")
    found = document(run("check", "--json", "-p", "2024-01"))
    assert {(row["collection"], row["partition"]) for row in found["checks"]} == {("scenes", "2024-01")}
    refused = run("check", "-p", "2024-01", "-p", "2031-01")
    assert refused.exit_code == 2
    assert "later, scenes: no published partition 2031-01" in refused.stderr


def test_what_a_collection_holds_is_shown(project: Project) -> None:
    run("build")
    found = document(run("show", project.root / "out" / "scenes_records", "--json"))
    assert document(run("show", "scenes", "--json")) == {**found, "path": str(project.root / "out" / "scenes_records")}
    elsewhere = ("show", "scenes", "--json", "--collections", project.declaration.parent)
    assert document(run(*elsewhere)) == document(run("show", "scenes", "--json"))
    assert run("failures", "scenes").stdout == "No failures among 3 headers.\n"
    assert run("failures", "scenes", "--class", "nought").exit_code == 2
    assert (found["records"], found["bands"], found["columns"]["id"]) == (3, ["B02"], "string")
    assert (found["dates"][0][:10], found["partitions"]) == ("2024-01-05", ["2024-01", "2024-02"])
    text = run("show", project.declaration).stdout
    assert "bands:       B02\n" in text
    assert "partitions:  2024-01, 2024-02\n" in text


def test_wrong_usage_exits_with_two(project: Project) -> None:
    for arguments, message in [
        (("build", "nowhere.yaml"), "nowhere.yaml: no such file"),
        (("build", "other"), "declares no collection other; it has scenes"),
        (("show", "other"), "declares no collection other; it has scenes"),
        (("validate", "scenes"), "scenes: not a YAML file"),
        (("build", "-f", "nowhere.py"), "File 'nowhere.py' does not exist"),
        (("build", "-f", "records.parquet", "-m", "maps"), "name two code locations"),
        (("discover",), "DAGSTER_HOME is not set"),
        (("build", "--partitions", "x"), "No such option"),
    ]:
        result = run(*arguments)
        assert (result.exit_code, message in result.stderr) == (2, True), result.output
    project.declaration.unlink()
    project.declaration.parent.rmdir()
    assert "no folder of declarations at collections" in run("build", "--dry-run").stderr


def test_errors_are_one_line_and_exit_with_one(project: Project) -> None:
    project.declaration.write_text("path: ../records.parquet\nenrich: true\n")
    result = run("build")
    assert result.exit_code == 1
    assert result.stderr == (
        f"Error: {Path('collections/scenes.yaml')}:2: unknown argument 'enrich': did you mean 'enrich_cog'?\n"
    )
    project.declaration.write_text("path: nowhere.parquet\n")
    assert "no such file or folder" in run("build", "--dry-run").stderr
    place = project.declaration / "inside"
    assert run("demo", place).stderr == (
        f"Error: {place} cannot be written (Not a directory): name a folder that may be written to: "
        "rasteret-assets demo FOLDER\n"
    )
    assert run("init", "records.parquet", "--out", place / "a.yaml").stderr.splitlines()[-1] == (
        f"Error: {place / 'a.yaml'} cannot be written (Not a directory): name a file in a folder that may be written "
        "to with --out"
    )


def test_init_writes_a_declaration_that_builds(project: Project) -> None:
    result = run("init", "records.parquet", "--workspace", project.root / "fresh")
    assert result.exit_code == 0, result.output
    file = Path("collections/records.yaml")
    values = yaml.safe_load(file.read_text())
    assert (values["name"], values["band_codes"], values["enrich_cog"]) == ("records", ["B02"], True)
    assert "# partitions: 2024-01, 2024-02" in file.read_text()
    assert run("validate", file).stdout == "1 file is right\n"
    assert run("init", "records.parquet").exit_code == 2
    run("build", file)
    assert len(load(read_spec(file).published_path)) == 3


def test_init_recognises_foreign_columns(tmp_path: Path) -> None:
    clean = record_table(["a", "b"], {"B02": ["x.tif", "y.tif"]})
    table = pa.table({
        "scene_id": clean["id"], "Acquired": clean["datetime"], "geom": clean["geometry"],
        "url": ["https://h/x.tif?sig=1", "https://h/y.tiff"], "note": ["n", None],
    })  # fmt: skip
    pq.write_table(table, tmp_path / "My scenes.v2.parquet")
    found = document(run("init", tmp_path / "My scenes.v2.parquet", "--dry-run", "--json"))
    assert found["values"]["name"] == "My_scenes"
    assert found["values"]["column_map"] == {"scene_id": "id", "Acquired": "datetime", "geom": "geometry"}
    assert (found["values"]["href_column"], found["values"]["band_index_map"]) == ("url", {"B1": 0})
    assert (found["warnings"], found["file"]) == ([], None)


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        (lambda table: table.drop_columns(["id"]), "no column looks like id"),
        (lambda table: table.drop_columns(["assets"]), "no column holds assets or addresses of GeoTIFFs"),
        (lambda table: table.set_column(0, "id", pa.array(["a", None])), "all 2 rows would be rejected (1 missing_id)"),
        (lambda table: table.set_column(1, "datetime", pa.array(["2024-01-05", "soon"])), "(1 invalid_datetime)"),
    ],
)  # fmt: skip
def test_init_tells_what_would_be_rejected(tmp_path: Path, change, warning: str) -> None:
    path = tmp_path / "t.parquet"
    table = record_table(["a", "b"], {"B02": ["x.tif", "y.tif"]})
    pq.write_table(change(table.select(["id", "datetime", "geometry", "assets"])), path)
    proposal = propose(path)
    assert any(warning in text for text in proposal.warnings), proposal.warnings
    result = run("init", path, "--dry-run")
    assert result.exit_code == 0
    assert warning in result.output
    assert f"# ! {proposal.warnings[0]}" in proposal.to_yaml()


def test_init_of_a_missing_table_is_an_error(tmp_path: Path) -> None:
    result = run("init", tmp_path / "no.parquet")
    assert (result.exit_code, "no such file or folder" in result.stderr) == (1, True)


def test_relative_paths_of_init_start_at_the_current_folder(project: Project) -> None:
    assert run("init", "records.parquet", "--workspace", "here").exit_code == 0
    assert read_spec(project.root / "collections" / "records.yaml").workspace_dir == str(project.root / "here")


def test_an_interrupted_build_keeps_the_fetched_headers_and_its_message_says_it(project: Project) -> None:
    project.server.fault = lambda path, before: "held" if path == "/b.tif" else None
    command = [str(Path(sys.executable).with_name("rasteret-assets")), "build"]
    process = subprocess.Popen(interruptible(command), stderr=subprocess.PIPE, text=True)
    while sorted(project.server.paths) != ["/a.tif", "/b.tif", "/c.tif"]:
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(2)  # until the two headers that were answered are parsed, also where the machine is busy
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=300)
    assert (process.returncode, said.splitlines()[-1].partition(".")[0]) == (130, "Interrupted")
    project.server.fault = lambda path, before: None
    project.server.reset()
    assert run("build").exit_code == 0
    assert project.server.paths == ["/b.tif"]


def test_each_of_several_collections_builds_the_asked_partitions_that_it_has(project: Project) -> None:
    pq.write_table(pq.read_table(project.root / "records.parquet").slice(0, 2), project.root / "few.parquet")
    text = project.declaration.read_text().replace("records.parquet", "few.parquet")
    (project.declaration.parent / "few.yaml").write_text(text)
    few, scenes = document(run("build", "--dry-run", "-p", "2024-02", "--json"))
    assert [row["partition"] for row in scenes["partitions"]] == ["2024-02"]
    assert few["partitions"] == []
    assert run("build", "-p", "2024-02").exit_code == 0
    assert len(load(project.root / "out" / "scenes_records")) == 1
    assert run("build", "-p", "2024-13").exit_code == 2
    alone = run("build", "scenes", "-p", "2024-13")
    assert (alone.exit_code, "the source has no partition 2024-13; it has 2024-01, 2024-02" in alone.stderr) == (
        1,
        True,
    )


def test_two_declarations_of_one_name_are_refused(project: Project) -> None:
    (project.root / "collections" / "other.yaml").write_text("name: scenes\npath: x.parquet\n")
    found = run("build", "--dry-run")
    assert found.exit_code == 1
    assert "scenes.yaml:1: declares 'scenes', and so does" in found.stderr
    for file in (project.root / "collections").iterdir():
        file.unlink()
    assert "holds no YAML file" in run("build", "--dry-run").stderr
