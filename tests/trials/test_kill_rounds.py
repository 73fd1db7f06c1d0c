"""Builds that are killed at any moment, several at once, while their record table changes between them.

``KILL_ROUNDS`` sets how many rounds are played (100), ``KILL_SECONDS`` how long at most (1800), ``TRIAL_SEED`` what is
random in the table; the moments of death are the machine's own.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from collections import Counter
from pathlib import Path

import pytest

from rasteret_assets import plan
from rasteret_assets.errors import RasteretAssetsError
from tests.trials.processes import Child, Spares
from tests.trials.world import Headers, Published, World, published, spec, spec_of, within

ROUNDS = int(os.environ.get("KILL_ROUNDS", "100"))
SECONDS = float(os.environ.get("KILL_SECONDS", "1800"))
SEED = int(os.environ.get("TRIAL_SEED", random.SystemRandom().randrange(10**6)))
#: Rounds between two comparisons with a build from nothing.
COMPARED = 10


@pytest.mark.slow
def test_a_build_that_is_killed_leaves_a_whole_collection_and_the_next_one_ends_well(tmp_path: Path) -> None:
    with Headers().running() as server, Spares(4) as spares:
        trial = Trial(tmp_path, server, spares)
        for number in within(SECONDS, ROUNDS):
            trial.round(number)
        print(f"\nseed {SEED}, {trial.counts['rounds']} rounds: {dict(trial.counts)}")
        for fault, times in Counter(trial.faults).items():
            print(f"  {times} x {fault}")
    assert not trial.faults, f"seed {SEED}: {len(trial.faults)} faults, the first: {trial.faults[0]}"


class Trial:
    """One collection over all rounds.

    Args:
        folder: of the table and the workspace.
        server: of the files.
        spares: to build in.
    """

    def __init__(self, folder: Path, server: Headers, spares: Spares) -> None:
        self.folder, self.server, self.spares = folder, server, spares
        self.world = World(folder / "source", server.url, SEED)
        self.random = random.Random(SEED + 1)
        self.spec = spec_of(folder / "source", folder / "w")
        self.path = spec(self.spec).published_path or ""
        self.faults: list[str] = []
        self.counts: Counter[str] = Counter()
        self.taken = [1.0]
        self.known: set[str] = set()
        self.before: Published = {}
        self.end_well("the first build")

    def round(self, number: int) -> None:
        """Change the table, kill builds of it, look at what is published, and build in peace."""
        self.counts["rounds"] += 1
        done = f"round {number} ({self.world.change()})"
        self.server.reset()
        self.kill_builds(done)
        self.look(done)
        self.end_well(done)
        if number % COMPARED == COMPARED - 1:
            self.compare(done)

    def kill_builds(self, done: str) -> None:
        """Start one to three builds and kill each at a moment of its own."""
        builds = [self.spares.take() for _ in range(self.random.randint(1, 3))]
        longest = 1.3 * len(builds) * statistics.median(self.taken[-9:])
        deaths: list[tuple[float, Child]] = []
        for build in builds:
            build.start(do="build", spec=self.spec, force=False)
            deaths.append((time.monotonic() + self.random.uniform(0, longest), build))
        for moment, build in sorted(deaths, key=lambda death: death[0]):
            time.sleep(max(0.0, moment - time.monotonic()))
            answer = build.kill()
            self.counts["killed" if answer is None else "ended before"] += 1
            if answer and "error" in answer:
                self.fault(done, f"a build beside {len(builds) - 1} others", f"{answer['error']}: {answer['text']}")

    def look(self, done: str) -> None:
        """Hold every partition against what it was and what it is to become."""
        try:
            found = published(self.path)
        except (RasteretAssetsError, AssertionError) as error:
            self.fault(done, "after the kill", repr(error))
            return
        after = self.world.published()
        for month in {*found, *self.before, *after}:
            rows = found.get(month, {})
            if rows not in (self.before.get(month, {}), after.get(month, {})):
                self.fault(done, "after the kill", f"month {month} holds neither the old nor the new records")
        # A record that moves may be seen in both months, or for this long in neither.
        everywhere = [{name for rows in state.values() for name in rows} for state in (found, self.before, after)]
        self.counts["absent between months"] += len((everywhere[1] & everywhere[2]) - everywhere[0])

    def end_well(self, done: str) -> None:
        """Build without a kill: everything is right, nothing is left to do, and no known header was asked for."""
        child, start = self.spares.take(), time.monotonic()
        child.start(do="build", spec=self.spec, force=False)
        try:
            answer = child.finish()
        except RuntimeError as error:
            answer = {"error": "crash", "text": str(error)}
        self.taken.append(time.monotonic() - start)
        if "error" in answer:
            self.fault(done, "the build after the kill", f"{answer['error']}: {answer['text']}")
            return
        asked = Counter(self.server.files)
        self.counts["headers asked for"] += sum(asked.values())
        self.counts["asked for twice"] += sum(times - 1 for times in asked.values())
        if again := asked.keys() & self.known:
            self.fault(done, "headers", f"{len(again)} known ones were asked for again")
        self.known, self.before = self.world.wanted(), self.world.published()
        try:
            if published(self.path) != self.before:
                self.fault(done, "after the build", "what is published is not what the table holds")
        except (RasteretAssetsError, AssertionError) as error:
            self.fault(done, "after the build", repr(error))
        if left := plan(spec(self.spec)).partitions:
            self.fault(done, "after the build", f"the plan still has {left}")

    def compare(self, done: str) -> None:
        """Hold the published bytes against those of a build from nothing."""
        fresh = spec_of(self.folder / "source", self.folder / f"fresh-{self.counts['rounds']}")
        answer = self.spares.run(do="build", spec=fresh, force=False)
        if "error" in answer:
            self.fault(done, "a build from nothing", f"{answer['error']}: {answer['text']}")
        self.counts["compared with a build from nothing"] += 1
        if _files(spec(fresh).published_path or "") != _files(self.path):
            self.fault(done, "bytes", "differ from those of a build from nothing")

    def fault(self, done: str, where: str, what: str) -> None:
        print(f"{done}: {where}: {what}", flush=True)
        self.faults.append(f"{where}: {what}".replace(str(self.folder), ""))


def _files(folder: str) -> dict[str, bytes]:
    root = Path(folder)
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
