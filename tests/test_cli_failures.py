"""``rasteret-assets failures``: what it prints where, and how it exits."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from rasteret_assets import build_from_table
from rasteret_assets.cli import main
from rasteret_assets.headers.failures import read_failures
from rasteret_assets.storage.workspace import Workspace
from tests.support.rasters import record_table, tiff_bytes
from tests.support.server import RangeServer, ServedBuild

IDS = ["good", "gone", "gone2", "private"]


def failures(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["failures", *map(str, arguments)])


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> ServedBuild:
    """Three of four headers are missing; two of one kind."""
    root = tmp_path_factory.mktemp("built")
    server = RangeServer()
    server.objects |= {"/good.tif": tiff_bytes(), "/private.tif": tiff_bytes()}
    server.fault = lambda path, before: "403" if path.startswith("/private") else None
    hrefs: list[str | None] = [f"{server.url}/{name}.tif?sig=verysecret" for name in IDS]
    table = record_table(IDS, {"B02": hrefs})
    with server.running():
        build_from_table(table, name="s2", workspace_dir=root, enrich_cog=True)
    return ServedBuild(root, server.url)


def test_the_report_counts_explains_and_lists(built: ServedBuild) -> None:
    result = failures(built.published)
    assert (result.exit_code, result.stderr) == (0, "")
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert lines[0] == "3 of 4 headers could not be read."
    until = f"{read_failures(Workspace.at(str(built.published))).table['retry_until'][1].as_py():%Y-%m-%d %H:%M} UTC"
    assert f"not_found {built.host} 2 50.00% tries again until {until}" in lines
    assert f"forbidden {built.host} 1 25.00% tries again" in lines
    assert any(line.startswith("not_found: the file is not there yet, is gone") for line in lines)
    assert any(line.startswith("forbidden: name credentials in the spec") for line in lines)
    assert lines[-3:] == [
        f"2024-04 private B02 forbidden: {built.url}/private.tif: HTTP 403 Forbidden",
        f"2024-05 gone B02 not_found: {built.url}/gone.tif: HTTP 404 Not Found (asked for until {until})",
        f"2024-06 gone2 B02 not_found: {built.url}/gone2.tif: HTTP 404 Not Found (asked for until {until})",
    ]
    assert "verysecret" not in result.output


def test_class_host_and_limit_narrow_the_report(built: ServedBuild) -> None:
    narrowed = failures(built.published, "--class", "not_found", "--host", built.host, "--limit", "1").stdout
    assert narrowed.startswith("2 of 4 headers")
    assert "private" not in narrowed
    assert narrowed.endswith("... and 1 more: --limit shows more of them, --json all\n")
    other = failures(built.published, "--host", "elsewhere", "--exit-code")
    assert (other.exit_code, other.stdout) == (0, "No failures of this kind among 4 headers.\n")


def test_json_is_one_document_with_everything(built: ServedBuild) -> None:
    document = json.loads(failures(built.published, "--json").stdout)
    assert set(document) == {"summary", "failures"}
    assert [(row["error_class"], row["count"], row["share"], row["retried"]) for row in document["summary"]] == [
        ("not_found", 2, 0.5, 2),
        ("forbidden", 1, 0.25, 1),
    ]
    assert [row["id"] for row in document["failures"]] == ["private", "gone", "gone2"]
    assert document["failures"][1]["href"] == f"{built.url}/gone.tif"
    assert datetime.fromisoformat(document["failures"][1]["attempted_at"]).tzinfo is not None
    assert [row["retry_until"] is not None for row in document["failures"]] == [False, True, True]
    limited = json.loads(failures(built.published, "--json", "--limit", "1", "--class", "not_found").stdout)
    assert [row["id"] for row in limited["failures"]] == ["gone"]
    assert limited["summary"][0]["count"] == 2


def test_failures_are_an_error_only_where_the_exit_code_is_asked_for(built: ServedBuild) -> None:
    assert failures(built.published, "--exit-code").exit_code == 1
    assert failures(built.published, "--exit-code", "--json").exit_code == 1
    assert failures(built.published, "--limit", "-1").exit_code == 2


def test_no_failures_is_said(server: RangeServer, tmp_path: Path) -> None:
    server.objects["/good.tif"] = tiff_bytes()
    table = record_table(["good"], {"B02": [f"{server.url}/good.tif"]})
    build_from_table(table, name="s2", workspace_dir=tmp_path, enrich_cog=True)
    result = failures(tmp_path / "s2_records", "--exit-code")
    assert (result.exit_code, result.stdout) == (0, "No failures among 1 header.\n")
    assert json.loads(failures(tmp_path / "s2_records", "--json").stdout) == {"summary": [], "failures": []}


def test_a_path_without_ledgers_is_one_line_on_stderr(tmp_path: Path) -> None:
    result = failures(tmp_path / "nothing_records")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: no ledgers of headers in ")
    assert result.stderr.count("\n") == 1


def test_a_declaration_leads_to_its_collection(built: ServedBuild, tmp_path: Path) -> None:
    declaration = tmp_path / "s2.yaml"
    declaration.write_text(f"path: scenes.parquet\nworkspace_dir: {built.root}\nenrich_cog: true\n")
    assert failures(declaration).stdout.startswith("3 of 4 headers")
    missing = failures(tmp_path / "missing.yaml")
    assert missing.exit_code == 2
    assert f"{tmp_path / 'missing.yaml'}: no such file" in missing.stderr


def test_what_strangers_wrote_cannot_steer_the_terminal(built: ServedBuild, tmp_path: Path) -> None:
    shutil.copytree(built.root, tmp_path / "copy")
    for path in (tmp_path / "copy" / "s2_stages" / "band_metadata").iterdir():
        ledger = pq.read_table(path)
        ids = pa.array(["\x1b[2J[red]a\nb"] * ledger.num_rows)
        pq.write_table(ledger.set_column(0, "id", ids), path)
    shown = failures(tmp_path / "copy" / "s2_records").stdout
    assert "\x1b" not in shown
    assert shown.split().count("?[2J[red]a?b") == 3


def test_a_published_path_takes_no_dagster(built: ServedBuild) -> None:
    code = (
        "import sys; from rasteret_assets.cli import main; main(sys.argv[1:], standalone_mode=False); "
        "sys.exit('dagster' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "failures", str(built.published)], capture_output=True, text=True, check=False,
        env={"NO_COLOR": "1", "PATH": ""},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("3 of 4 headers")
