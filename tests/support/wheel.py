"""The package as users install it: built as a wheel, and unpacked away from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def unpacked_wheel(folder: Path) -> Path:
    """Build the wheel with the installed hatchling and return the folder it is unpacked to, ready for PYTHONPATH."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "dist")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = (folder / "dist").glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def run_from_wheel(site: Path, cwd: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run ``python <command>`` in the folder ``cwd``, with the unpacked wheel before other copies of the package."""
    environment = {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"}
    # No byte code, so that the folder holds what the wheel holds in whatever order tests run.
    environment |= {"NO_COLOR": "1", "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
