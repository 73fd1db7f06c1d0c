"""Harvests in processes of their own: killed at any moment, two at a time, and in bounded memory."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import rasteret_assets as ra
from tests.harvest.test_harvest import covers, expected, mtimes
from tests.support.stac import StacServer, make_item

CODE = """
import sys, rasteret_assets as ra
from pathlib import Path
url, folder, options = sys.argv[1], sys.argv[2], eval(sys.argv[3])
asked = {"stac_api": url, "datetime": "2024", "limit": 50, **options}
report = ra.harvest(ra.CollectionSpec.of(name="scenes", workspace_dir=folder, harvest=asked))
peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) // 1024
print(report.items, peak)
"""


def start(stac: StacServer, folder: Path, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", CODE, stac.url, str(folder), repr(options)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ended(child: subprocess.Popen[str]) -> list[int]:
    """Wait for a child, and return what it printed: the items harvested, and its peak memory in MB."""
    out, errors = child.communicate()
    assert child.returncode == 0, errors
    return [int(number) for number in out.split()]


def spec_in(stac: StacServer, folder: Path) -> ra.CollectionSpec:
    asked = {"stac_api": stac.url, "datetime": "2024", "limit": 50}
    return ra.CollectionSpec.of(name="scenes", workspace_dir=folder, harvest=asked)


def kill_at(stac: StacServer, folder: Path, number: int) -> None:
    """Kill a harvest when it sends its ``number``-th request, unless it ends before."""
    reached, first = threading.Event(), len(stac.requests)
    stac.before = lambda: reached.set() if len(stac.requests) >= first + number else None
    child = start(stac, folder)
    watch = threading.Thread(target=lambda: (child.wait(), reached.set()))
    watch.start()
    reached.wait()
    child.kill()
    watch.join()
    child.communicate()
    stac.before = lambda: None


def test_a_harvest_completes_what_killed_harvests_began(stac, tmp_path) -> None:
    for number in (2, 9):
        kill_at(stac, tmp_path, number)
        stac.change(f"scene-{number:05}", None, **{"eo:cloud_cover": 0.5})
    assert ended(start(stac, tmp_path))[0] == 400
    ra.harvest(spec_in(stac, tmp_path), force=True)
    assert covers(spec_in(stac, tmp_path)) == expected(stac)


def test_of_two_harvests_at_once_the_second_asks_for_no_window_again(stac, tmp_path) -> None:
    children = [start(stac, tmp_path) for _ in range(2)]
    assert [ended(child)[0] for child in children] == [400, 400]
    # Each window was asked for once, because the second harvest waited and found all of them harvested.
    asked = [search["datetime"] for search in stac.searches if "token" not in search and "query" not in search]
    assert len(asked) == len(set(asked)) == 12


@pytest.mark.slow
def test_no_item_is_lost_by_harvests_killed_at_any_request(stac, tmp_path) -> None:
    """``HARVEST_KILLS=500`` makes it longer."""
    chance = random.Random(5)
    for number in range(int(os.environ.get("HARVEST_KILLS", "60"))):
        later = (datetime.now(UTC) + timedelta(hours=1, seconds=number)).isoformat().replace("+00:00", "Z")
        for name in chance.sample(sorted(name for _, name in stac.items), 5):
            moved = {"datetime": f"2024-{chance.randrange(1, 13):02}-10T00:00:00Z"} if chance.random() < 0.3 else {}
            stac.change(name, later, value=number, **moved)
        kill_at(stac, tmp_path, chance.randrange(1, 15))
        if number % 5 == 4:
            assert ended(start(stac, tmp_path))[0] == 400
            assert covers(spec_in(stac, tmp_path)) == expected(stac)
    before = mtimes(spec_in(stac, tmp_path))
    ended(start(stac, tmp_path))
    assert mtimes(spec_in(stac, tmp_path)) == before


@pytest.mark.slow
def test_memory_does_not_grow_with_a_window(stac, tmp_path) -> None:
    peaks = []
    for count in (4_000, 16_000):
        stac.items.clear()
        for number in range(count):
            item = make_item(number, datetime(2024, 1, 1, tzinfo=UTC) + timedelta(seconds=number))
            item["assets"] = {f"B{band:02}": item["assets"]["B02"] | {"title": "x" * 400} for band in range(12)}
            stac.put(item)
        found, peak = ended(start(stac, tmp_path / str(count), limit=1000, max_items_per_window=10**6))
        assert found == count
        peaks.append(peak)
    # 12,000 items more are 100 MB of JSON, 300 MB as objects, and 2.4 MB of hashes; pages in flight vary by 50 MB.
    assert peaks[1] - peaks[0] < 80, peaks
    assert peaks[1] < 500, peaks
