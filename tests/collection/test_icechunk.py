"""Icechunk 2 needs Python 3.12: under an earlier one it is refused by name, and its tests run in a Python 3.12."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from rasteret_assets.collection import as_collection
from rasteret_assets.errors import MissingExtraError
from tests.support.environments import environment, find_python

from .support import noise, record, records_table, write_raster

ROOT = Path(__file__).parents[2]
TESTS = Path(__file__).parent / "virtual_zarr"

#: Requirements of the package that only its Dagster graph needs.
_OF_THE_GRAPH = re.compile("dagster|matplotlib")
_TOOLS = ["boto3", "dask", "hypothesis", "moto[s3,server]", "odc-geo", "pytest", "pytest-randomly", "rasterio"]

needs_earlier = pytest.mark.skipif(sys.version_info >= (3, 12), reason="Icechunk 2 may be installed here")


@needs_earlier
def test_to_icechunk_says_that_it_needs_python_3_12(tmp_path: Path) -> None:
    scenes = as_collection(records_table([record("a", {"B": (write_raster(tmp_path / "a.tif", noise()), 0)})]))
    with pytest.raises(
        MissingExtraError, match=r"needs Icechunk 2, which needs Python 3.12 or later; this is Python 3"
    ):
        scenes.to_icechunk(tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


@pytest.mark.skipif(importlib.util.find_spec("icechunk") is not None, reason="the tests themselves run here")
def test_the_tests_of_virtual_zarr_pass_under_a_later_python() -> None:
    base = find_python("3.12")
    if base is None:
        pytest.skip("no Python 3.12 here, which Icechunk 2 needs")
    python = _environment(base)
    # Without the suite's own options, because plugins that they need are not installed there.
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib", TESTS]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert re.search(r"^[1-9][0-9]* passed", done.stdout, re.MULTILINE), done.stdout[-2000:]


def _environment(base: str) -> str:
    """Make an environment with the locked requirements of the package, of the extra and of these tests."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    own = [name for name in project["dependencies"] if not _OF_THE_GRAPH.match(name)]
    wanted = sorted({*own, *project["optional-dependencies"]["icechunk"], *_TOOLS})
    lock = ROOT / "requirements.lock"
    digest = hashlib.sha256("\n".join([*wanted, lock.read_text()]).encode()).hexdigest()
    return environment(f"icechunk-{digest[:12]}", ["-c", str(lock), *wanted], python=base)
