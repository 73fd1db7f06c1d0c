"""The folder of a Dagster instance for the command line."""

from __future__ import annotations

from pathlib import Path

import pytest


def set_dagster_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the folder ``home`` and let commands use the Dagster instance in it."""
    home.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(home))
