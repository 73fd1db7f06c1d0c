"""A power cut during a build, or after it: of what was not synced to the disk only the names are left.

``POWER_ROUNDS`` sets how many rounds are played (40), ``TRIAL_SEED`` what is random in the table.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest

from rasteret_assets import plan
from rasteret_assets.errors import RasteretAssetsError
from tests.trials.child import synced
from tests.trials.processes import Child, Spares
from tests.trials.world import Headers, Published, World, published, spec, spec_of, within

ROUNDS = int(os.environ.get("POWER_ROUNDS", "40"))
SEED = int(os.environ.get("TRIAL_SEED", random.SystemRandom().randrange(10**6)))


@pytest.mark.slow
def test_the_build_after_a_power_cut_ends_well(tmp_path: Path) -> None:
    counts: Counter[str] = Counter()
    faults: list[str] = []
    rng = random.Random(SEED)
    with Headers().running() as server, Spares(2) as spares:
        world = World(tmp_path / "source", server.url, SEED)
        fields = spec_of(tmp_path / "source", tmp_path / "w")
        before = rebuilt(spares, fields, world)
        for number in within(1800, ROUNDS):
            world.change()
            there = facts(tmp_path / "w")
            build_and_cut_off(fields, tmp_path / f"journal-{number}", rng)
            counts["files lost"] += cut(tmp_path / "w", there | synced(tmp_path / f"journal-{number}"))
            server.reset()
            found = faults_after_cut(spares, fields, before, world, counts)
            counts["rounds"] += 1
            counts["headers asked for again"] += len(server.files)
            if found:
                print(f"round {number}: {found}", flush=True)
                faults += found
                shutil.rmtree(tmp_path / "w")
                rebuilt(spares, fields, world)
            before = world.published()
    print(f"\nseed {SEED}: {dict(counts)}")
    for fault, times in Counter(faults).items():
        print(f"  {times} x {fault}")
    assert not faults, f"seed {SEED}: {len(faults)} faults, the first: {faults[0]}"


def build_and_cut_off(fields: dict[str, object], journal: Path, rng: random.Random) -> None:
    """Build in a process that notes what it syncs; end it at some moment of it, or after it."""
    child = Child(journal)
    try:
        child.wait_until_ready()
        child.start(do="build", spec=fields)
        if rng.random() < 0.3:
            child.finish()
        else:
            time.sleep(rng.uniform(0, 0.8))
    finally:
        child.close()


def facts(folder: Path) -> set[tuple[int, int]]:
    """Return inodes and sizes of the files below a folder, which have been on the disk for long."""
    statuses = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return {(status.st_ino, status.st_size) for status in statuses}


def cut(folder: Path, safe: set[tuple[int, int]]) -> int:
    """Empty every file below a folder that is not safe; return how many there were."""
    lost = 0
    for path in folder.rglob("*"):
        if path.is_file() and (status := path.stat()).st_size and (status.st_ino, status.st_size) not in safe:
            os.truncate(path, 0)
            lost += 1
    return lost


def rebuilt(spares: Spares, fields: dict[str, object], world: World) -> Published:
    """Build from nothing; return what is published."""
    answer = spares.run(do="build", spec=fields)
    assert "totals" in answer, answer
    return world.published()


def faults_after_cut(
    spares: Spares, fields: dict[str, object], before: Published, world: World, counts: Counter[str]
) -> list[str]:
    """Return what is wrong with a collection after a power cut, and with the next build of it."""
    faults, after = [], world.published()
    path = spec(fields).published_path or ""
    try:
        found = published(path)
        counts["opened"] += 1
        months = {*found, *before, *after}
        if any(found.get(month, {}) not in (before.get(month, {}), after.get(month, {})) for month in months):
            faults.append("after the cut a month holds neither the old nor the new records")
    except RasteretAssetsError:
        counts["refused by name"] += 1
    except Exception as error:  # noqa: BLE001  (whatever it is, it is a fault)
        faults.append(f"load after the cut: {type(error).__name__}")
    answer = spares.run(do="build", spec=fields)
    if "error" in answer:
        return [*faults, f"the next build: {answer['error']}: {answer['text'].replace(str(world.folder.parent), '')}"]
    if published(path) != after:
        faults.append("the next build publishes something else than the table holds")
    if plan(spec(fields)).partitions:
        faults.append("after the next build there is something left to do")
    return faults
