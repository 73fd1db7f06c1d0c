"""Fixtures every part of the suite may use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server import RangeServer

CORPUS = Path(__file__).parent.parent.parent / "shared" / "corpus"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever the order, the tests that take longest begin first: the last of two workers has little left to wait."""
    items.sort(key=lambda item: "e2e" not in item.path.parts)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RangeServer]:
    """A counting range server over ``tmp_path / "objects"``."""
    root = tmp_path / "objects"
    root.mkdir()
    with RangeServer(root).running() as running:
        yield running
