"""What users install: the wheel holds all that the package needs, and works in a folder that is not the checkout."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support.rasters import footprint, record_table, tiff_bytes
from tests.support.wheel import ROOT, run_from_wheel, unpacked_wheel


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked_wheel(tmp_path_factory.mktemp("wheel"))


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(site: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "rasteret_assets"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\n")  # fmt: skip
    kept = {name for name in listed if name and (ROOT / name).exists()}
    packed = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}
    assert {name for name in packed if ".dist-info/" not in name} == kept


def test_a_collection_is_declared_and_built_by_the_wheel_alone(site: Path, tmp_path: Path) -> None:
    tiff = tiff_bytes()
    (tmp_path / "scene.tif").write_bytes(tiff)
    pq.write_table(
        record_table(["scene"], {"B04": [str(tmp_path / "scene.tif")]}, outline=footprint(tiff)),
        tmp_path / "scenes.parquet",
    )
    for command in (
        ["init", "scenes.parquet", "--name", "scenes", "--workspace", "index"],
        ["validate"],
        ["build", "scenes"],
        ["init", "--list"],
    ):
        done = run_from_wheel(site, tmp_path, "-m", "rasteret_assets", *command)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    assert "earth-search/sentinel-2-c1-l2a" in done.stdout
