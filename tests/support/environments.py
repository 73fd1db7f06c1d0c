"""Python environments for tools that cannot live in the tests' own: made once per machine, below the user's caches.

Two test processes may want one at the same moment, so a file lock stands before it. Making one must neither hang the
tests nor be tried again by each of them: it has :data:`MOST_SECONDS`, and where it failed that is remembered for an
hour.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

MOST_SECONDS = 180.0
_FORGOTTEN_AFTER_S = 3600


def environment(name: str, *requirements: Sequence[str], python: str = sys.executable) -> str:
    """The Python of an environment; a test that asks for one that cannot be made here is skipped.

    Args:
        name: of the environment, which changes when its requirements do.
        requirements: arguments of one ``pip install`` after the other.
        python: the interpreter it is made with; a new version of it makes a new environment.
    """
    version = subprocess.run([python, "-V"], capture_output=True, text=True, check=True).stdout.split()[-1]
    home = _folder() / f"{name}-python{version}"
    home.parent.mkdir(parents=True, exist_ok=True)
    made, failed = home / "complete", home.with_name(f"{home.name}.failed")
    with home.with_name(f"{home.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if failed.exists() and time.time() - failed.stat().st_mtime < _FORGOTTEN_AFTER_S:
            pytest.skip(failed.read_text())
        if not made.exists():
            if reason := _make(home, requirements, python):
                shutil.rmtree(home, ignore_errors=True)
                failed.write_text(f"{name} cannot be installed here: {reason}")
                pytest.skip(failed.read_text())
            failed.unlink(missing_ok=True)
            made.touch()
    return str(home / "bin" / "python")


def find_python(version: str) -> str | None:
    """The interpreter of a version such as ``"3.12"``, of pyenv or on the path; None where there is none."""
    found = [
        *sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}*/bin/python")),
        shutil.which(f"python{version}"),
    ]
    for path in found:
        if path and subprocess.run([path, "-c", "import venv"], capture_output=True, check=False).returncode == 0:
            return str(path)
    return None


def _folder() -> Path:
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "rasteret-assets-tests"


def _make(home: Path, requirements: Sequence[Sequence[str]], python: str) -> str:
    """Why the environment could not be made; empty where it was."""
    until = time.monotonic() + MOST_SECONDS
    commands = [[python, "-m", "venv", "--clear", "--without-pip", str(home)]]
    # The tests' own pip, and no byte code but of what is imported: half of the time otherwise.
    install = [sys.executable, "-m", "pip", "--python", str(home), "install", "-q", "--no-compile"]
    uv = Path(sys.executable).with_name("uv")
    if uv.exists():  # as where CI runs: a tenth of the time
        install = [str(uv), "pip", "install", "-q", "-p", str(home / "bin" / "python")]
    commands += [[*install, *packages] for packages in requirements]
    for command in commands:
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=max(1.0, until - time.monotonic())
            )
        except subprocess.TimeoutExpired:
            return f"not done within {MOST_SECONDS:.0f} s"
        if done.returncode:
            return done.stderr.strip().rpartition("\n")[2]
    return ""
