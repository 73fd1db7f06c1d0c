"""A build of many thousand headers that is killed goes on where it was, also when its record table grew meanwhile.

``RESUME_ROUNDS`` sets how often (8), ``RESUME_RECORDS`` how many records there are (20000).
"""

from __future__ import annotations

import os
import random
import shutil
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rasteret_assets import load
from rasteret_assets.headers.rows import SAVED_ROWS
from tests.trials.numbered import asked_for, number_of, numbered_records
from tests.trials.processes import Spares
from tests.trials.world import spec, spec_of, within

ROUNDS = int(os.environ.get("RESUME_ROUNDS", "8"))
RECORDS = int(os.environ.get("RESUME_RECORDS", "20000"))
#: Headers that a killed build may lose: those of the file that is being written, and those in flight.
UNSAVED = SAVED_ROWS + 1000


@pytest.mark.slow
def test_a_killed_build_asks_again_for_little(tmp_path: Path) -> None:
    rng = random.Random()
    source, log = tmp_path / "source", tmp_path / "asked"
    source.mkdir()
    fields = {**spec_of(source, tmp_path / "w"), "band_codes": ["B02"]}
    faults = []
    with Spares(2) as spares:
        pq.write_table(numbered_records(0, RECORDS), source / "0.parquet")
        child, start = spares.take(), time.monotonic()
        child.start(do="build", spec=fields, log=str(log))
        assert "totals" in child.finish()
        longest = time.monotonic() - start
        for number in within(1800, ROUNDS):
            for path in [*source.glob("[1-9]*.parquet"), log]:
                path.unlink()
            shutil.rmtree(tmp_path / "w")
            deaths, records = rng.randint(1, 3), RECORDS
            for _ in range(deaths):
                child = spares.take()
                child.start(do="build", spec=fields, log=str(log))
                time.sleep(rng.uniform(0, longest))
                child.kill()
                if rng.random() < 0.5:
                    pq.write_table(numbered_records(records, records + 3000), source / f"{records}.parquet")
                    records += 3000
            answer = spares.run(do="build", spec=fields, log=str(log))
            if "error" in answer:
                faults.append(f"{answer['error']}: {answer['text']}")
                continue
            asked = asked_for(log)
            twice = asked.total() - len(asked)
            print(f"round {number}: {deaths} deaths, {records} records, {twice} headers asked for again", flush=True)
            if twice > deaths * UNSAVED:
                faults.append(f"{twice} headers were asked for again after {deaths} deaths")
            rows = load(spec(fields).published_path or "", verify="full").to_table(["id", "B02_metadata"]).to_pylist()
            if sorted((row["id"], number_of(row["B02_metadata"])) for row in rows) != [
                (f"r{one:06}", one) for one in range(records)
            ]:
                faults.append("records or headers are not those of the table")
    assert not faults, f"{len(faults)} faults: {faults}"
