"""Fixtures every part of the suite may use."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.server import RangeServer

# A deadline fails tests by time alone where the machine is busy.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")

CORPUS = Path(__file__).parent.parent.parent / "shared" / "corpus"


#: What takes longest, in the order to begin it: the last worker has little left to wait. The demo between the two that
#: mostly wait for a daemon, as files are handed to the workers in turn.
LONGEST = (
    "e2e/test_celery.py",
    "collection/test_icechunk.py",
    "e2e/test_refresh.py",
    "demo/test_demo.py",
    "e2e/test_browser.py",
    "orchestration/",
    "tests/test_cli.py",
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever the order of the others, the longest begin first."""

    def rank(item: pytest.Item) -> int:
        path = item.path.as_posix()
        return next((number for number, part in enumerate(LONGEST) if part in path), len(LONGEST))

    items.sort(key=rank)


@pytest.fixture(autouse=True)
def _no_state_of_a_past_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dagster asks the instance opened last for state when it resolves definitions; ours keep none.

    Which one that is depends on the garbage collector: what Dagster opens for itself is closed when it is collected,
    and names the one before as the last, which may be gone by then.
    """
    if states := sys.modules.get("dagster._core.storage.defs_state.base"):
        monkeypatch.setattr(states.DefsStateStorage, "get", classmethod(lambda _: None))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RangeServer]:
    """A counting range server over ``tmp_path / "objects"``."""
    root = tmp_path / "objects"
    root.mkdir()
    with RangeServer(root).running() as running:
        yield running
