"""Several builds of one collection at once, and readers beside them, while its record table is replaced.

``TRIAL_SECONDS`` sets for how long (60).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from rasteret_assets import load
from tests.support.s3 import KEYS, bucket_server
from tests.trials.generations import COLUMNS, problems, scenes
from tests.trials.processes import MOST_SECONDS, Spares
from tests.trials.world import Headers, spec, spec_of

SECONDS = float(os.environ.get("TRIAL_SECONDS", "60"))
BUILDERS = 3
READERS = 2


@pytest.fixture(params=["local", "s3"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[str]:
    """A folder on a disk, or a bucket."""
    # Otherwise a failure shows thousands of requests.
    caplog.set_level(logging.ERROR, logger="werkzeug")
    if request.param == "local":
        yield str(tmp_path)
        return
    with bucket_server("records") as endpoint:
        settings = {"AWS_ENDPOINT_URL": f"http://{endpoint}", "AWS_DEFAULT_REGION": "us-east-1"}
        for name, value in {**settings, **{name.upper(): value for name, value in KEYS.items()}}.items():
            monkeypatch.setenv(name, value)
        yield "s3://records"


@pytest.mark.slow
def test_builders_wait_for_each_other_and_readers_see_whole_months(place: str) -> None:
    # An object store tells the time of a change to the second.
    pause = 2.0 if place.startswith("s3") else 0.7
    fields = spec_of(f"{place}/source", f"{place}/w")
    path = spec(fields).published_path or ""
    with Headers().running() as server, Spares(BUILDERS + READERS) as spares:
        replace(place, 0, server.url)
        spares.run(do="build", spec=fields)
        builders, readers = ([spares.take() for _ in range(count)] for count in (BUILDERS, READERS))
        for builder in builders:
            builder.start(do="build_again_and_again", spec=fields, seconds=SECONDS)
        for reader in readers:
            told = place.startswith("s3")
            reader.start(do="read_again_and_again", published=path, seconds=SECONDS, told=told)
        until, generation = time.monotonic() + SECONDS, 0
        while time.monotonic() < until:
            generation += 1
            replace(place, generation, server.url)
            time.sleep(pause)
        built = [builder.finish(SECONDS + MOST_SECONDS) for builder in builders]
        read = [reader.finish(SECONDS + MOST_SECONDS) for reader in readers]
        last = spares.run(do="build", spec=fields)
        found = load(path, verify="full").to_table(COLUMNS).to_pylist()
    print(f"\n{place}: {generation} generations, builders {built}, readers {read}")
    assert "totals" in last, last
    assert problems(found) == []
    assert {row["generation"] for row in found} == {generation}
    assert [one["wrong"] for one in read] == [[]] * READERS
    assert [one["errors"] for one in built] == [[]] * BUILDERS


def replace(place: str, generation: int, url: str) -> None:
    """Put the table of a generation in the place of the last one, in one step."""
    table = scenes(generation, url)
    if place.startswith("s3"):
        bucket, path = pafs.FileSystem.from_uri(f"{place}/source/t.parquet")
        pq.write_table(table, path, filesystem=bucket)
        return
    folder = Path(place) / "source"
    folder.mkdir(exist_ok=True)
    pq.write_table(table, folder / ".t.parquet")
    (folder / ".t.parquet").rename(folder / "t.parquet")
