"""Fixtures every part of the suite may use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server import RangeServer

CORPUS = Path(__file__).parent.parent.parent / "shared" / "corpus"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RangeServer]:
    """A counting range server over ``tmp_path / "objects"``."""
    root = tmp_path / "objects"
    root.mkdir()
    with RangeServer(root).running() as running:
        yield running
