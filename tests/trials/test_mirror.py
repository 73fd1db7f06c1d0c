"""A mirror of a million records over HTTPS: what is asked for, read and held in memory, over a fold of its live file.

``MIRROR_ROWS`` sets how many records there are (1000000), in 24 monthly files. Builds run in processes of their own,
which tell the most memory they held; headers come from memory, 20000 distinct ones.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.mirror import Mirror, bytes_asked, key, serving
from tests.support.rasters import tiff_bytes

MONTHS, FILES = 24, 20_000
ROWS = int(os.environ.get("MIRROR_ROWS", "1000000")) // MONTHS
#: Megabytes that a process may hold at most, whatever the size of a file.
MOST_MEMORY = 900


@pytest.mark.slow
def test_a_fold_of_the_live_file_costs_what_changed(tmp_path: Path) -> None:
    folder, bundle, header, job = (tmp_path / name for name in ("mirror", "ca.pem", "x.tif", "job.json"))
    folder.mkdir()
    header.write_bytes(tiff_bytes())
    mirror = Mirror(folder, MONTHS, ROWS, FILES)
    with serving(folder, bundle) as server:
        spec = {
            "path": f"{server.url}/collection.json", "name": "mirror", "workspace_dir": str(tmp_path / "w"),
            "enrich_cog": True, "band_codes": ["B02"], "overlap": "newest by updated",
        }  # fmt: skip
        job.write_text(json.dumps({"spec": spec, "header": str(header), "place": 0, "tiles": 0}))

        def built(what: str) -> dict[str, Any]:
            server.reset()
            start = time.monotonic()
            done = subprocess.run(
                [sys.executable, "-m", "tests.support.peak", str(job)], check=True, capture_output=True, text=True,
                env={**os.environ, "SSL_CERT_FILE": str(bundle)}, cwd=Path(__file__).parent.parent.parent,
            )  # fmt: skip
            answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
            size = sum(file.stat().st_size for file in folder.iterdir())
            print(
                f"{what}: {time.monotonic() - start:.1f} s, {len(server.requests)} requests, "
                f"{bytes_asked(server) / 1e6:.2f} MB of {size / 1e6:.1f}, "
                f"{answer['fetched']} headers, {len(answer['partitions'])} months, {answer['peak']} MB held",
                flush=True,
            )  # fmt: skip
            assert answer["peak"] < MOST_MEMORY
            return answer

        updated = np.concatenate([mirror.numbers(month, ROWS // 20) for month in (3, 11, MONTHS - 1)])
        mirror.change(np.concatenate([updated, mirror.numbers(MONTHS, ROWS // 10)]))
        first = built("first build")
        assert len(first["partitions"]) == MONTHS + 1

        assert not built("nothing changed")["partitions"]
        assert len(server.requests) == 1 + MONTHS + 1

        changed = mirror.merge()
        merged = built("archive merged, live file still there")
        assert not merged["partitions"]
        assert {path for path, ranged in server.requests if ranged != "bytes=0-3"} == {"/collection.json", *changed}

        mirror.empty()
        assert not built("live file emptied")["partitions"]
        assert bytes_asked(server) < 10**6

        mirror.change(np.concatenate([mirror.numbers(7, 100), mirror.numbers(MONTHS, 100)]))
        again = built("another 200 in the live file")
        assert again["partitions"] == [key(7), key(MONTHS)]
        assert again["fetched"] == 0
