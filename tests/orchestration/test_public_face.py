"""A Dagster project imports ``rasteret_assets.dagster``; the paths that it replaces warn."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rasteret_assets
import rasteret_assets.dagster as face

DOCS = Path(__file__).parents[2] / "docs"


def test_every_public_name_exists_and_says_what_it_is() -> None:
    assert face.__all__ == sorted(face.__all__)
    for name in face.__all__:
        assert getattr(face, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'collection_assets'"):
        _ = face.collection_assets


def test_the_component_has_one_class_under_both_names() -> None:
    assert rasteret_assets.RasterCollection is face.RasterCollection


def test_the_documentation_lists_every_public_name() -> None:
    text = (DOCS / "components.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"imports is in `rasteret_assets\.dagster`:\n\n((?:\|.*\n)+)", text)
    first_cells = [line.split("|")[1] for line in table.splitlines()[2:]]
    assert sorted(re.findall(r"`(\w+)", " ".join(first_cells))) == face.__all__


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("assets", "collection_assets", "collection_definitions"),
        ("build", "build_definitions", "build_definitions"),
        ("celery", "WatchfulCeleryRunLauncher", "WatchfulCeleryRunLauncher"),
        ("partitions", "partitions_of", "partitions_of"),
        ("resources", "BuildOptions", "BuildOptions"),
        ("resources", "FilesystemResource", "FilesystemResource"),
        ("resources", "StorageBackendResource", "StorageBackendResource"),
        ("resources", "default_resources", "default_resources"),
    ],
)
def test_an_old_path_leads_to_the_same_object_and_names_the_new_one(module: str, old: str, new: str) -> None:
    path = f"rasteret_assets.orchestration.{module}"
    moved = importlib.import_module(path)
    with pytest.warns(
        DeprecationWarning, match=rf"{path}\.{old} will be .*: import rasteret_assets\.dagster\.{new}$"
    ) as told:
        assert getattr(moved, old) is getattr(face, new)
    assert told[0].filename == __file__


def test_an_old_path_has_its_public_names_only() -> None:
    with pytest.raises(ImportError, match="cannot import name 'op_name'"):
        from rasteret_assets.orchestration.assets import op_name  # noqa: F401, PLC0415


def test_the_warning_of_an_old_path_names_the_line_that_imports(tmp_path: Path) -> None:
    file = tmp_path / "definitions.py"
    file.write_text("x = 1\nfrom rasteret_assets.orchestration.build import build_definitions\n")
    done = subprocess.run([sys.executable, "-W", "always", str(file)], capture_output=True, text=True, check=True)
    assert re.search(
        r"definitions\.py:2: DeprecationWarning: .*rasteret_assets\.dagster\.build_definitions", done.stderr
    )


def test_importing_the_face_warns_of_nothing_and_needs_no_celery() -> None:
    code = (
        "import sys, rasteret_assets.dagster, dagster\n"
        "assert hasattr(dagster, 'asset')\n"
        "print('dagster_celery' in sys.modules)"
    )
    command = [sys.executable, "-W", "error:rasteret_assets.orchestration", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("False\n", "")
