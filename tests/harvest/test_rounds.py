"""Random rounds: items of an API come, change, move and go while requests fail; in the end all its items are stored."""

from __future__ import annotations

import os
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import rasteret_assets as ra
from rasteret_assets.errors import HarvestError
from rasteret_assets.harvesting.harvest import harvest_items
from rasteret_assets.storage.workspace import Workspace
from tests.harvest.test_harvest import stored
from tests.support.stac import StacServer, make_item, serve_stac, text_of

FAULTS = ["503", "429", "reset", "short", "broken", "html", "repeat", "lose", "twice"]
START = datetime(2024, 6, 1, tzinfo=UTC)


class Rounds:
    """An API and the collection harvested from it, both changed at random.

    Args:
        server: the API.
        folder: of the workspace.
        seed: of all random choices.
        can: what the API can do with ``updated``.
    """

    def __init__(self, server: StacServer, folder: Path, seed: int, can: set[str]) -> None:
        self.random = random.Random(seed)
        self.server, self.now, self.number = server, START, 0
        #: Why the last harvest failed.
        self.said = ""
        server.can, server.counts = can, bool(seed % 2)
        # Without a count a harvest cannot see that an API left items out; nor can a sorted search, which ends early.
        self.faults = FAULTS if server.counts and "sort" not in can else [fault for fault in FAULTS if fault != "lose"]
        asked = {"stac_api": server.url, "datetime": "2024", "limit": 17, "max_items_per_window": 60, "full_every": 400}
        # Without `updated` an old window is asked for in a full pass only.
        asked["lookback_days"] = 400
        self.spec = ra.CollectionSpec.of(name="scenes", workspace_dir=folder, harvest=asked)
        for _ in range(120):
            self.add()

    def moment(self) -> datetime:
        return datetime(2024, 1, 1, tzinfo=UTC) + timedelta(minutes=self.random.randrange(366 * 24 * 60))

    def add(self) -> None:
        self.number += 1
        self.server.put(make_item(self.number, self.moment(), updated=text_of(self.now)))

    def change(self) -> None:
        """Add items, change some, and give some of them another time."""
        for _ in range(self.random.randrange(6)):
            self.add()
        for _, name in self.random.sample(sorted(self.server.items), self.random.randrange(4)):
            moved = {"datetime": text_of(self.moment())} if self.random.random() < 0.3 else {}
            self.server.change(name, text_of(self.now), value=self.random.choice([1, 2.5, "three"]), **moved)

    def delete(self) -> None:
        for key in self.random.sample(sorted(self.server.items), 3):
            del self.server.items[key]

    def let_requests_fail(self) -> None:
        share, dice = self.random.choice([0.05, 0.3, 0.97]), random.Random(self.random.random())
        self.server.fault = lambda *_: dice.choice(self.faults) if dice.random() < share else None

    def harvest(self, *, force: bool = False) -> bool:
        """Harvest, and return whether every window succeeded."""
        self.now += timedelta(hours=self.random.randrange(1, 60))
        try:
            report = harvest_items(self.spec, Workspace.of(self.spec), now=self.now, force=force)
        except HarvestError as error:
            self.said = str(error)
            return False
        self.said = str(report.failed)
        return not report.failed

    def check(self) -> None:
        """Assert that the stored items are those of the API."""
        expected = {item["id"]: item["properties"] for item in self.server.items.values()}
        found = stored(self.spec)
        assert found.keys() == expected.keys()
        for name, row in found.items():
            assert text_of(row["datetime"]) == expected[name]["datetime"], name
            assert row["updated"] == datetime.fromisoformat(expected[name]["updated"]), name
            value = expected[name].get("value")
            assert str(row.get("value")) in {str(value), f"{value}.0"}, name


def run_rounds(folder: Path, seed: int, count: int, can: set[str]) -> int:
    """Run rounds, each of which ends with a harvest without faults; return how many requests failed before."""
    with serve_stac() as server:
        rounds = Rounds(server, folder, seed, can)
        for number in range(count):
            rounds.change()
            rounds.let_requests_fail()
            rounds.harvest()
            rounds.change()
            server.fault = lambda *_: None
            if number % 5 == 4:
                rounds.delete()
            assert rounds.harvest(force=number % 5 == 4), rounds.said
            rounds.check()
        ra.build(rounds.spec)
        assert len(ra.load(str(rounds.spec.published_path))) == len(server.items)
        return server.said_no.total()


@pytest.mark.parametrize(("seed", "can"), [(1, {"query"}), (2, {"sort"}), (3, {"filter"}), (4, set())])
def test_stored_items_equal_those_of_the_api_after_every_round(tmp_path, seed, can) -> None:
    assert run_rounds(tmp_path, seed, 8, can)


@pytest.mark.slow
@pytest.mark.parametrize("can", [{"query"}, {"sort"}, {"filter"}, set()], ids=str)
def test_no_item_is_lost_in_many_rounds(tmp_path, can) -> None:
    """``HARVEST_ROUNDS=1000`` runs more rounds, ``HARVEST_SEED=7`` makes other random choices."""
    count, seed = int(os.environ.get("HARVEST_ROUNDS", "50")), int(os.environ.get("HARVEST_SEED", "11"))
    assert run_rounds(tmp_path, seed, count, can)
