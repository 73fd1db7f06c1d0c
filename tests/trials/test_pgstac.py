"""A real STAC API, stac-fastapi on pgstac, harvested, built and refreshed as its items come, change and go.

``PGSTAC_ITEMS`` sets how many items there are (20000), of two years in 24 windows. They lie in two collections and are
of the kinds that APIs mix: moments and stretches of time, footprints of one and of two parts, files of six formats.
Each harvest runs with other abilities of the API, and what it asked for is counted in the server's own log.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
import rustac

import rasteret_assets as ra
from rasteret_assets.schema import LINKS, STAC_VERSION
from tests.support.pgstac import INSTALL, PgStac, serve_pgstac
from tests.support.rasters import tiff_bytes
from tests.support.server import RangeServer
from tests.support.services import postgis_is_missing
from tests.support.stac import make_item, text_of

ITEMS = int(os.environ.get("PGSTAC_ITEMS", "20000"))
START, DAYS = datetime(2022, 1, 1, tzinfo=UTC), 730
BANDS = ["B02", "B03"]
COLLECTIONS = ["mosaics", "scenes"]
#: Megabytes that the process of a harvest may hold at most.
MOST_MEMORY = 500
FORMATS: list[dict[str, Any]] = [
    {}, {"compress": "lzw", "predictor": 2, "dtype": "uint8"}, {"compress": "zstd", "dtype": "float32", "predictor": 3},
    {"BIGTIFF": "YES"}, {"ENDIANNESS": "BIG", "dtype": "int16"}, {"epsg": 4326, "origin": (9.0, 48.0), "pixel": 0.001},
]  # fmt: skip

HARVEST = """
import json, sys, time, rasteret_assets as ra
from pathlib import Path
began = time.perf_counter()
report = ra.harvest(ra.CollectionSpec.of(**json.loads(sys.argv[1])), force=sys.argv[2] == "full")
seconds = time.perf_counter() - began
peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) // 1024
print(json.dumps({**report.to_json(), "seconds": seconds, "peak": peak}))
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(postgis_is_missing(), reason=f"not installed: Postgres with PostGIS; {INSTALL}"),
]


def item(
    number: int, host: str, updated: datetime, moment: datetime | None = None, **properties: Any
) -> dict[str, Any]:  # fmt: skip
    """The item of a number: every third one is a mosaic of twelve days, every fifth lies on both sides of a strait."""
    at = (moment or START + timedelta(days=DAYS) * (number % ITEMS) / ITEMS).replace(microsecond=0)
    # As JavaScript writes it.
    changed = updated.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    made = make_item(number, at, updated=changed, platform=f"of {number % 7}", **properties)
    if number % 3 == 0:
        made["collection"] = "mosaics"
        made["properties"] |= {
            "datetime": None, "start_datetime": text_of(at), "end_datetime": text_of(at + timedelta(days=12)),
        }  # fmt: skip
    if number % 5 == 0:
        [ring] = made["geometry"]["coordinates"]
        other = [[west + 2, south] for west, south in ring]
        made["geometry"] = {"type": "MultiPolygon", "coordinates": [[ring], [other]]}
        made["bbox"][2] += 2
    for band, asset in made["assets"].items():
        asset["href"] = f"{host}/{number}/{band}.tif"
    return made


class Trial:
    """The API, what it is meant to have, and a collection of its items.

    Args:
        api: with nothing in it.
        files: takes the files of items.
        folder: for workspaces.
    """

    def __init__(self, api: PgStac, files: RangeServer, folder: Path) -> None:
        self.api, self.files, self.folder = api, files, folder
        self.items: dict[str, dict[str, Any]] = {}
        self.tiffs = [tiff_bytes(seed=seed, **options) for seed, options in enumerate(FORMATS)]
        self.requests = 0

    def put(self, items: list[dict[str, Any]]) -> None:
        """Add items to the API, or replace them."""
        self.api.put(items)
        for one in items:
            self.items[one["id"]] = one
            number = int(one["id"].rpartition("-")[2])
            self.files.objects |= {f"/{number}/{band}.tif": self.tiffs[number % len(self.tiffs)] for band in BANDS}

    def delete(self, names: list[str]) -> None:
        """Delete items at the API."""
        for name in names:
            self.api.delete(self.items.pop(name))

    def spec(self) -> dict[str, Any]:
        """The declaration of the collection, whose windows have some five pages each."""
        asked = {
            "stac_api": self.api.url, "collections": COLLECTIONS, "datetime": "2022/2023",
            "limit": max(10, ITEMS // 100),
        }  # fmt: skip
        return {
            "name": "scenes", "workspace_dir": str(self.folder / "harvested"), "enrich_cog": True, "band_codes": BANDS,
            "harvest": asked,
        }  # fmt: skip

    def harvest(self, what: str, *, full: bool = False) -> dict[str, Any]:
        """Harvest in a process of its own; print and return what it says."""
        before = len(self.api.requests)
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", HARVEST, json.dumps(self.spec()), "full" if full else ""],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        asked = self.api.requests[before:]
        assert len(asked) == found["requests"]
        assert {status for _, _, status in asked} == {200}
        is_whole = len(found["asked"]) == found["windows"]
        rate = f", {found['items'] / found['seconds']:.0f} items/s" if is_whole else ""
        print(
            f"{what}: {found['items']} items, {len(found['asked'])} of {found['windows']} windows, "
            f"{found['new']} new, {found['changed']} changed, {found['gone']} gone; {len(asked)} requests, "
            f"{found['seconds']:.1f} s{rate}, {found['peak']} MB held",
            flush=True,
        )  # fmt: skip
        assert found["items"] == len(self.items)
        assert found["peak"] < MOST_MEMORY
        return found

    def build(self) -> int:
        """Build what is harvested; return how many headers were fetched."""
        began = time.perf_counter()
        totals = ra.build(ra.CollectionSpec.of(**self.spec())).totals
        print(f"  built: {totals['headers_fetched']} headers, {time.perf_counter() - began:.1f} s", flush=True)
        return int(totals["headers_fetched"])

    def compare(self, name: str) -> None:
        """Refuse a collection that is not that of the same items as Parquet, built from nothing."""
        rustac.write_sync(str(self.folder / f"{name}.parquet"), list(self.items.values()))
        other = ra.CollectionSpec.of(
            name="scenes", path=self.folder / f"{name}.parquet", workspace_dir=self.folder / name, enrich_cog=True,
            band_codes=BANDS,
        )  # fmt: skip
        ra.build(other)
        one, two = rows(ra.CollectionSpec.of(**self.spec()).published_path), rows(other.published_path)
        assert one.num_rows == two.num_rows == len(self.items)
        assert set(two.column_names) <= set(one.column_names)
        # rustac writes the newest version of STAC, whatever the items are of; links are the API's own.
        for column in sorted(set(two.column_names) - {STAC_VERSION, LINKS}):
            assert one[column].to_pylist() == two[column].to_pylist(), column


def rows(published: Path) -> pa.Table:
    """What a collection holds, in order of the items' names."""
    return ds.dataset(published, partitioning="hive").to_table().sort_by("id")


def collection(name: str) -> dict[str, Any]:
    """A Collection document that says of its items what pgstac takes out of each, and puts in again."""
    kind = {"type": "image/tiff; application=geotiff; profile=cloud-optimized", "roles": ["data"]}
    return {
        "type": "Collection", "id": name, "stac_version": "1.0.0", "description": "of the trial", "license": "other",
        "links": [], "item_assets": {**dict.fromkeys(BANDS, kind), "metadata": {"type": "text/xml"}},
        "extent": {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [[text_of(START), None]]}},
    }  # fmt: skip


def test_the_collection_is_what_the_api_has(tmp_path: Path, server: RangeServer) -> None:
    with serve_pgstac() as api:
        trial = Trial(api, server, tmp_path)
        for name in COLLECTIONS:
            api.put_collection(collection(name))
        host, some = server.url, max(1, ITEMS // 200)
        # Long ago, so that no item is looked at twice.
        updated = datetime(2024, 6, 1, 10, 0, 0, 123000, tzinfo=UTC)
        trial.put([item(number, host, updated - timedelta(seconds=number)) for number in range(ITEMS)])
        with api.running():
            first = trial.harvest("first")
            assert (first["windows"], first["new"]) == (24, ITEMS)
            assert trial.build() == ITEMS * len(BANDS)
            trial.compare("first")
        for number, extensions in enumerate((None, "query,pagination", "filter,pagination", "sort,pagination"), 1):
            with api.running(extensions):
                told = extensions or "all extensions"
                unchanged = trial.harvest(f"{told}, nothing changed")
                assert unchanged["asked"] == []
                assert unchanged["requests"] <= 3
                later = updated + timedelta(days=number)
                base = ITEMS * number
                trial.put([item(base + one * 7, host, later) for one in range(some)])
                trial.put([item(one * 7 + number, host, later, value=number) for one in range(some)])
                # Another time, and so another window.
                moved = item(number * 3, host, later, datetime(2023, 12, 24, 5, tzinfo=UTC))
                trial.put([moved])
                changed = trial.harvest(f"{told}, {some} new, {some} changed, one moved")
                assert changed["gone"] + changed["changed"] >= some
                assert len(changed["asked"]) < 24
                trial.delete([f"scene-{ITEMS // 2 + number * some + one:05d}" for one in range(some)])
                trial.harvest(f"{told}, {some} deleted", full=True)
                assert trial.build() == some * len(BANDS)
                trial.compare(f"after-{number}")
        for how in ("on", "auto"):
            api.set_counts(how)
            with api.running():
                counted = trial.harvest(f"counts are {how}", full=True)
                assert counted["gone"] == counted["changed"] == counted["new"] == 0
