"""Commands that reach files by the resources of a code location: ``-f definitions.py``, ``-m package.definitions``."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import boto3
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from rasteret_assets.cli import main
from tests.support.dagster_home import set_dagster_home
from tests.support.rasters import record_table, tiff_bytes
from tests.support.s3 import KEYS, bucket_server, requests_seen

DEFINITIONS = """\
import dagster as dg
from rasteret_assets.dagster import FilesystemResource, StorageBackendResource

fields = {{
    "endpoint_url": "http://{endpoint}", "region_name": "us-east-1", "aws_access_key_id": "k",
    "aws_secret_access_key": dg.EnvVar("BUCKET_SECRET"),
}}
{definitions}
"""
PLAIN = """\
resources = {{
    "rasteret_filesystem": FilesystemResource(**fields),
    "rasteret_backend": StorageBackendResource(**fields),
}}
defs = dg.Definitions(resources=resources)
""".format()
LAZY = PLAIN.replace("defs =", "@dg.definitions\ndef defs():\n    return")

_NUMBERS = count()


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def document(*arguments: object) -> object:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


class Deployment:
    """Everything on a bucket, whose endpoint and keys only the code location knows."""

    def __init__(self, root: Path, endpoint: str, bucket: str) -> None:
        self.root = root
        self.bucket = bucket
        self.endpoint = endpoint
        client = boto3.client("s3", endpoint_url=f"http://{endpoint}", region_name="us-east-1", **KEYS)
        hrefs = []
        for seed, name in enumerate("ab"):
            client.put_object(Bucket=bucket, Key=f"{name}.tif", Body=tiff_bytes(seed=seed))
            hrefs.append(f"s3://{bucket}/{name}.tif")
        buffer = io.BytesIO()
        pq.write_table(record_table(["a", "b"], {"B02": hrefs}), buffer)
        client.put_object(Bucket=bucket, Key="records.parquet", Body=buffer.getvalue())
        client.close()
        folder = root / "maps" / "collections"
        folder.mkdir(parents=True)
        (folder / "s2.yaml").write_text(
            f"path: s3://{bucket}/records.parquet\nworkspace_dir: s3://{bucket}/out\nenrich_cog: true\n"
        )
        (root / "maps" / "__init__.py").touch()
        self.file = self.write("definitions.py", PLAIN)

    def write(self, name: str, definitions: str) -> Path:
        file = self.root / "maps" / name
        file.write_text(DEFINITIONS.format(endpoint=self.endpoint, definitions=definitions))
        return file


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    for name in ("DAGSTER_HOME", "RASTERET_ASSETS_COLLECTIONS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BUCKET_SECRET", "s")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    # moto keeps the buckets of all its servers in one place.
    bucket = f"deployed{next(_NUMBERS)}"
    with bucket_server(bucket) as endpoint:
        yield Deployment(tmp_path, endpoint, bucket)


@pytest.fixture(params=["library", "dagster"])
def builder(request: pytest.FixtureRequest, deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    if request.param == "dagster":
        set_dagster_home(deployment.root / "home", monkeypatch)
    return deployment


def test_a_code_location_says_how_files_are_reached(builder: Deployment) -> None:
    where = ("-f", builder.file)
    (planned,) = document("build", "s2", "--dry-run", *where)
    assert planned["totals"]["headers_to_fetch"] == 2
    with requests_seen() as seen:
        (built,) = document("build", "s2", *where)
    assert (built["totals"]["records"], built["totals"]["headers_failed"]) == (2, 0)
    assert {f"GET /{builder.bucket}/{name}" for name in ("a.tif", "b.tif", "records.parquet")} <= set(seen)
    (standing,) = document("status", *where)
    assert (standing["partitions"], standing["stale"], standing["failures"]) == (2, {}, {})
    assert document("check", *where, "-p", "2024-04")["counts"] == {"ok": 9, "warning": 0, "error": 0}
    assert document("failures", "s2", *where) == {"summary": [], "failures": []}
    shown = document("show", f"s3://{builder.bucket}/out/s2_records", *where)
    assert (shown["records"], shown["partitions"]) == (2, ["2024-04", "2024-05"])
    assert document("show", "s2", "-p", "2024-04", *where)["rows"] == 1


def test_a_module_and_a_function_that_makes_definitions(deployment: Deployment) -> None:
    deployment.write("later.py", LAZY)
    (planned,) = document("build", "--dry-run", "-m", "maps.later")
    assert planned["totals"]["headers_to_fetch"] == 2
    found = document("init", f"s3://{deployment.bucket}/records.parquet", "--dry-run", "-m", "maps.later")
    assert found["values"]["band_codes"] == ["B02"]


def test_a_code_location_without_resources_of_ours_changes_nothing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    pq.write_table(record_table(["a"], {"B02": [str(tmp_path / "a.tif")]}), tmp_path / "records.parquet")
    (tmp_path / "a.tif").write_bytes(tiff_bytes())
    (tmp_path / "s2.yaml").write_text("path: records.parquet\nworkspace_dir: out\nenrich_cog: true\n")
    (tmp_path / "nothing.py").write_text("import dagster as dg\ndefs = dg.Definitions()\n")
    assert run("build", "s2.yaml", "-f", "nothing.py", "--exit-code").exit_code == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", "No Definitions"),
        ("import dagster as dg\n@dg.job\ndef nothing(): ...\n", "odd.py defines no dg.Definitions"),
        (
            (
                "import dagster as dg\n"
                'defs = dg.Definitions(resources={"rasteret_filesystem": dg.FilesystemIOManager()})\n'
            ),
            "odd.py: the resource rasteret_filesystem is a FilesystemIOManager, not a FilesystemResource",
        ),
        (
            DEFINITIONS.format(endpoint="x", definitions=PLAIN).replace("BUCKET_SECRET", "NOT_SET_HERE"),
            "NOT_SET_HERE",
        ),
    ],
)
def test_a_code_location_that_does_not_serve_is_reported(tmp_path: Path, monkeypatch, text: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd.py").write_text(text)
    (tmp_path / "s2.yaml").write_text("path: records.parquet\n")
    result = run("status", "s2.yaml", "-f", "odd.py")
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("Error: odd.py")
    assert message in result.stderr


def test_checks_that_a_code_location_imports_are_run(tmp_path: Path) -> None:
    pq.write_table(record_table(["a"], {"B02": ["a.tif"]}), tmp_path / "records.parquet")
    (tmp_path / "s2.yaml").write_text("path: records.parquet\nworkspace_dir: out\n")
    (tmp_path / "definitions.py").write_text(
        "import dagster as dg\n"
        "from rasteret_assets.checks import Finding, check\n\n"
        "@check(stage='collection', columns=['id'])\n"
        "def no_a(partition):\n"
        "    '''No record is called a.'''\n"
        "    ids = partition.table.rows['id'].to_pylist()\n"
        "    return Finding(passed='a' not in ids, message='a record is called a')\n\n"
        "defs = dg.Definitions()\n"
    )
    assert run("build", tmp_path / "s2.yaml").exit_code == 0
    # In a process of its own: a check that is declared stays.
    command = [sys.executable, "-m", "rasteret_assets", "check", "s2.yaml", "--exit-code", "-f", "definitions.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, "error: s2 2024-04 no_a: a record is called a" in done.stdout) == (1, True), done.stderr
    command = [sys.executable, "-m", "rasteret_assets", "check", "--list", "--json", "-f", "definitions.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    listed = {check.pop("check"): check for check in json.loads(done.stdout)}
    assert listed["no_a"] == {"table": "collection", "blocks": False, "description": "No record is called a."}
    assert listed["unique_ids"]["blocks"] is True
