"""Fixtures of the graph: a small collection, an instance, the environment of the shipped settings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from tests.orchestration.scenes import Scenes
from tests.support.server import RangeServer


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture
def shipped_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the variables that the shipped settings read from the environment, to addresses of nothing."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "DAGSTER_LOG_BUCKET"):
        monkeypatch.setenv(name, name.lower())
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", "postgresql+psycopg2://dagster@127.0.0.1/dagster")
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "redis://127.0.0.1:1/1")


@pytest.fixture
def scenes(server: RangeServer, tmp_path: Path) -> Scenes:
    return Scenes(server, tmp_path).write()
