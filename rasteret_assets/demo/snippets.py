"""Three ways to open the demo, as commands to copy. Every one of them is run by the tests as it is printed."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import Final

from rasteret_assets.demo.area import AREA
from rasteret_assets.demo.folder import DemoFolder

_PYTHON: Final = """\
from rasteret_assets import load
from rasteret_assets.demo.folder import serving_demo

scenes = load({published!r}).subset(date_range=("2024-06", None))
print(scenes)
with serving_demo({root!r}):
    pixels = scenes.get_numpy({area}, ["red", "nir"])
print(pixels.shape, pixels.dtype)"""

_DUCKDB: Final = """\
import duckdb

duckdb.sql(\"\"\"
    SELECT id, "eo:cloud_cover" AS clouds, len(red_metadata.tile_offsets) AS tiles, nir_metadata IS NULL AS nir_missing
    FROM {pattern!r}
    ORDER BY clouds
\"\"\").show()"""


def user_interface(folder: DemoFolder) -> str:
    """A shell command that opens the demo in Dagster's UI."""
    home = shown(folder.dagster_home)
    # Dagster wants an absolute home, and a relative path is easier to read.
    absolute = shlex.quote(home) if Path(home).is_absolute() else f'"$PWD"/{shlex.quote(home)}'
    return f"DAGSTER_HOME={absolute} {_executable('dagster')} dev -f {shlex.quote(shown(folder.definitions))}"


def python(folder: DemoFolder) -> str:
    """A Python program that queries the collection and reads pixels."""
    return _PYTHON.format(published=shown(folder.published), root=shown(folder.root), area=AREA)


def duckdb(folder: DemoFolder) -> str:
    """A Python program that queries the published files with DuckDB."""
    return _DUCKDB.format(pattern=f"{shown(folder.published)}/**/*.parquet")


def serve(folder: DemoFolder) -> str:
    """A shell command that keeps the demo's files served."""
    return f"{_executable('rasteret-assets')} demo {shlex.quote(shown(folder.root))} --serve"


def shown(path: Path) -> str:
    """A path as it is reached from here: relative where that is a way down."""
    absolute, here = path.resolve(), Path.cwd()
    return absolute.relative_to(here).as_posix() if absolute.is_relative_to(here) else absolute.as_posix()


def _executable(name: str) -> str:
    """How to call a program of this environment, which need not be activated."""
    beside = Path(sys.executable).parent / name
    found = shutil.which(name)
    if found is not None and Path(found).resolve() == beside.resolve():
        return name
    return shlex.quote(shown(beside)) if beside.exists() else name
