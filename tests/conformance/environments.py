"""Python environments for tools that cannot live in the tests' own: made once, next to pytest's cache.

Two test processes may want one at the same moment, so a file lock stands before it.
"""

from __future__ import annotations

import fcntl
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest


def environment(config: pytest.Config, name: str, *requirements: Sequence[str]) -> str:
    """The Python of an environment; a test that asks for one that cannot be made here is skipped.

    Args:
        config: of pytest.
        name: of the environment, which changes when its requirements do.
        requirements: arguments of one ``pip install`` after the other.
    """
    if config.cache is None:
        pytest.skip("no cache folder to make an environment in")
    home = Path(config.cache.mkdir("environments")) / name
    python = home / "bin" / "python"
    with home.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "complete").exists():
            commands = [[sys.executable, "-m", "venv", "--clear", str(home)]]
            commands += [[str(python), "-m", "pip", "install", "-q", *packages] for packages in requirements]
            for command in commands:
                done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
                if done.returncode:
                    pytest.skip(f"{name} cannot be installed here: {done.stderr.strip().splitlines()[-1:]}")
            (home / "complete").touch()
    return str(python)
