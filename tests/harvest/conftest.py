"""A STAC API for each test, and no pauses between tries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from rasteret_assets import CollectionSpec
from rasteret_assets.harvesting import ask, reader
from rasteret_assets.harvesting.harvest import harvest_items, refuse_failed_windows
from rasteret_assets.harvesting.harvest_report import HarvestReport
from rasteret_assets.storage.workspace import Workspace
from tests.support.stac import COLLECTION, StacServer, make_item, serve_stac

#: The moment at which the tests harvest, unless they give another.
NOW = datetime(2024, 12, 20, tzinfo=UTC)

Harvest = Callable[..., HarvestReport]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "RETRIED_AFTER_S", (0.0, 0.0, 0.0))
    monkeypatch.setattr(reader, "BACKOFF_S", 0.0)
    monkeypatch.setattr(ask, "ASKED_AGAIN_AFTER_S", (0.0, 0.0))


@pytest.fixture
def stac() -> Iterator[StacServer]:
    """An API with 400 items, of January, February and March 2024."""
    with serve_stac() as server:
        server.put(*(make_item(number) for number in range(400)))
        yield server


@pytest.fixture
def spec_of(stac: StacServer, tmp_path: Path) -> Callable[..., CollectionSpec]:
    """Makes a spec of the API's items of 2024; options of the harvest by name."""

    def make(**options: Any) -> CollectionSpec:
        asked = {"collections": [COLLECTION], "datetime": "2024", "limit": 50, **options}
        if "stac_catalog" not in asked:
            asked.setdefault("stac_api", stac.url)
        return CollectionSpec.of(name="scenes", workspace_dir=tmp_path / "workspace", harvest=asked)

    return make


@pytest.fixture
def harvest() -> Harvest:
    """Harvests a spec at a moment."""

    def run(spec: CollectionSpec, now: datetime = NOW, *, force: bool = False) -> HarvestReport:
        report = harvest_items(spec, Workspace.of(spec), now=now, force=force)
        refuse_failed_windows(spec, report)
        return report

    return run
