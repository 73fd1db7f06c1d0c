"""A server of the files that a module of tests makes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server import RangeServer


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[RangeServer]:
    """Serve the files of the module's own fixture ``folder``."""
    with RangeServer(folder).running() as server:
        yield server
