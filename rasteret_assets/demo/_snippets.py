"""Ways to go on after the demo, as commands to copy. The tests run every one of them as it is printed."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import Final

from rasteret_assets.demo.folder import DemoFolder
from rasteret_assets.demo.poster import AREA

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
    FROM '{published}/**/*.parquet'
    ORDER BY clouds
\"\"\").show()"""


def all_snippets(folder: DemoFolder) -> dict[str, str]:
    """Return shell commands and Python programs by what they do."""
    published, home = shown(folder.published), shown(folder.dagster_home)
    # Dagster wants an absolute home, and a relative path is easier to read.
    absolute = shlex.quote(home) if Path(home).is_absolute() else f'"$PWD"/{shlex.quote(home)}'
    command, root = _executable("rasteret-assets"), shlex.quote(shown(folder.root))
    dagster, definitions = _executable("dagster"), shlex.quote(shown(folder.definitions))
    return {
        "In Dagster's UI": f"DAGSTER_HOME={absolute} {dagster} dev -f {definitions}",
        "In Python": _PYTHON.format(published=published, root=shown(folder.root), area=AREA),
        "In DuckDB (pip install duckdb)": _DUCKDB.format(published=published.replace("'", "''")),
        "What helps where a header is missing": f"{command} failures {shlex.quote(shown(folder.declaration))}",
        "Keep the files served, to materialize from the UI": f"{command} demo {root} --serve",
    }


def shown(path: Path) -> str:
    """Return a path, relative to the current folder where it lies below."""
    absolute, here = path.resolve(), Path.cwd()
    return absolute.relative_to(here).as_posix() if absolute.is_relative_to(here) else absolute.as_posix()


def _executable(name: str) -> str:
    """Return how a program of this environment is called, which need not be activated."""
    beside = Path(sys.executable).parent / name
    is_found_by_name = shutil.which(name) == str(beside) or not beside.exists()
    return name if is_found_by_name else shlex.quote(shown(beside))
