"""A source of records to change while Dagster watches it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server import RangeServer


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RangeServer]:
    """The server of the records' files."""
    with RangeServer(Path(tmp_path_factory.mktemp("objects"))).running() as server:
        yield server
