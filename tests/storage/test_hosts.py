"""The limits that a fetch learns of a host, and passes on to the next fetch."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

from rasteret_assets import build_from_table
from rasteret_assets.storage.hosts import FIRST_LIMIT, HostState
from tests.support.rasters import record_table, tiff_bytes
from tests.support.server import RangeServer


def test_only_of_a_host_that_counts_requests_is_the_limit_handed_on() -> None:
    busy = HostState(ceiling=300)
    busy.refused(time.monotonic(), retry_after=5)
    after = busy.for_another_fetch(100)
    assert (after.limit, after.ceiling, after.paused_until) == (busy.limit, 100, busy.paused_until)
    assert busy.limit < FIRST_LIMIT
    after.answered()
    assert after.limit < busy.limit + 1
    faulty = HostState(ceiling=300)
    faulty.refused(time.monotonic(), retry_after=None)
    assert faulty.for_another_fetch(100).limit == FIRST_LIMIT


def test_the_partitions_of_a_build_share_the_pace_of_a_host(server: RangeServer, tmp_path: Path) -> None:
    """A host that takes four requests at once: it is asked for more at the beginning, and hardly afterwards."""
    names = [f"{number:03}" for number in range(48 * 8)]
    server.objects |= {f"/{name}.tif": tiff_bytes() for name in names}
    in_flight: list[str] = []
    server.retry_after = "1"

    def fault(path: str, before: int) -> str | None:
        in_flight.append(path)
        try:
            time.sleep(0.01)
            return "429" if len(in_flight) > 4 else None
        finally:
            in_flight.remove(path)

    server.fault = fault
    months = [datetime(2020 + number % 48 // 12, 1 + number % 12, 1, tzinfo=UTC) for number in range(len(names))]
    hrefs: list[str | None] = [f"{server.url}/{name}.tif" for name in names]
    table = record_table(names, {"B02": hrefs}, datetimes=months)
    built = build_from_table(table, name="s2", workspace_dir=tmp_path, enrich_cog=True)
    assert built.to_table(["B02_metadata"])["B02_metadata"].null_count == 0
    assert len(server.requests) < 1.3 * len(names)
