"""Files of a workspace that are damaged: what is loaded and built is right, or refused by name.

``DAMAGE_ROUNDS`` sets how many files are damaged (150), ``TRIAL_SEED`` which and how, ``DAMAGE_ONLY`` a part of their
paths.
"""

from __future__ import annotations

import os
import random
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.trials.processes import Spares
from tests.trials.world import Headers, World, spec, spec_of, within

ROUNDS = int(os.environ.get("DAMAGE_ROUNDS", "150"))
ONLY = os.environ.get("DAMAGE_ONLY", "")
SEED = int(os.environ.get("TRIAL_SEED", random.SystemRandom().randrange(10**6)))
CHANGES = 5
#: A digest of every month's records.
Months = dict[str, str]


@pytest.mark.slow
def test_damage_is_mended_or_refused_by_name(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    outcomes: dict[str, Counter[str]] = defaultdict(Counter)
    faults: list[str] = []
    source, workspace, sound = tmp_path / "source", tmp_path / "w", tmp_path / "sound"
    with Headers().running() as server, Spares(3) as spares:
        world = World(source, server.url, SEED)
        fields = spec_of(source, workspace)
        old = built(spares, fields)
        shutil.copytree(workspace, sound)
        changed = Path(shutil.copytree(source, tmp_path / "changed"))
        world.folder = changed
        for _ in range(CHANGES):
            world.change()
        with exchanged(source, changed):
            new = built(spares, spec_of(source, tmp_path / "fresh"))
        for number in within(1800, ROUNDS):
            shutil.rmtree(workspace)
            shutil.copytree(sound, workspace)
            kind, path = chosen(workspace, rng)
            how = damage(path, rng)
            with exchanged(source, changed) if number % 5 < 3 else exchanged():
                found = judged(spares, fields, old, new if number % 5 < 3 else old, outcomes[kind])
            if found:
                print(f"round {number}: {path.relative_to(workspace)} {how}: {found}", flush=True)
                faults += [f"{kind}: {fault}".replace(str(tmp_path), "") for fault in found]
    print(f"\nseed {SEED}")
    for kind, counts in sorted(outcomes.items()):
        print(f"  {kind}: {dict(sorted(counts.items()))}")
    assert not faults, f"seed {SEED}: {len(faults)} faults, the first: {faults[0]}"


def built(spares: Spares, fields: dict[str, Any]) -> Months:
    """Build from nothing; return digests of what is published."""
    answer = spares.run(do="build", spec=fields)
    assert "totals" in answer, answer
    return spares.run(do="look", published=spec(fields).published_path)["months"]


@contextmanager
def exchanged(*folders: Path) -> Iterator[None]:
    """Let two folders have each other's name, and their files stay as they are, until the context ends."""

    def exchange() -> None:
        if folders:
            one, two = folders
            aside = one.with_name("aside")
            one.rename(aside)
            two.rename(one)
            aside.rename(two)

    exchange()
    try:
        yield
    finally:
        exchange()


def chosen(workspace: Path, rng: random.Random) -> tuple[str, Path]:
    """Return a file that holds something, every kind of file as often as the others, and its kind."""
    kinds: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(workspace.rglob("*")):
        if path.is_file() and path.stat().st_size and ONLY in str(path.relative_to(workspace)):
            kinds[kind_of(path.relative_to(workspace))].append(path)
    kind = rng.choice(sorted(kinds))
    return kind, rng.choice(kinds[kind])


def kind_of(path: Path) -> str:
    """Return the path of a file without what tells it from others of its kind."""
    return re.sub(r"__HIVE_DEFAULT_PARTITION__|undated|[0-9a-f]{8,}|\d+(-\d+)*", "*", str(path))


def damage(path: Path, rng: random.Random) -> str:
    """Damage a file; return how."""
    content = bytearray(path.read_bytes())
    how = rng.choice(["bit", "bits", "bytes", "cut", "emptied"])
    if how == "emptied":
        content.clear()
    elif how == "cut":
        del content[rng.randrange(len(content)) :]
    elif how == "bytes":
        place = rng.randrange(len(content))
        content[place : place + 16] = rng.randbytes(len(content[place : place + 16]))
    else:
        for _ in range(1 if how == "bit" else rng.randint(2, 8)):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    # In place of the old one, as a disk or a copy would have it.
    path.write_bytes(content)
    return how


def judged(spares: Spares, fields: dict[str, Any], old: Months, new: Months, counts: Counter[str]) -> list[str]:
    """Return what is wrong with a load of a damaged workspace, a build, and a load after it; count what came out."""
    counts["rounds"] += 1
    try:
        steps = spares.run(do="look_build_look", spec=fields)
    except RuntimeError as error:
        return [f"crash or hang: {error}"]
    # A build that refuses may have published some months before, and leaves the others as they were.
    may_be = {
        "load": [old],
        "then": [old, new] if "error" in steps["build"] else [new],
        "at last": [old, new] if "error" in steps.get("force", {}) else [new],
    }
    faults = []
    for step, answer in steps.items():
        if "error" in answer:
            verdict = "refused" if answer["ours"] else answer["error"]
        else:
            verdict = "right" if step not in may_be or all_in(answer["months"], may_be[step]) else "WRONG"
        counts[f"{step} {verdict}"] += 1
        if verdict not in {"right", "refused"}:
            faults.append(f"{step}: {verdict} {answer.get('text', '')}".rstrip())
    return faults


def all_in(found: Months, states: list[Months]) -> bool:
    """Return whether every month is as in one of some states."""
    months = {*found, *(month for state in states for month in state)}
    return all(found.get(month) in [state.get(month) for state in states] for month in months)
