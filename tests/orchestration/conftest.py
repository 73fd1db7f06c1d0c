"""A small collection to put through the graph."""

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
def scenes(server: RangeServer, tmp_path: Path) -> Scenes:
    return Scenes(server, tmp_path).write()
