"""Headers over a real server: one request each, every failure a ledger row, and nothing fetched twice."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest
import rasterio

from rasteret_assets import create_backend
from rasteret_assets.errors import EnrichmentError
from rasteret_assets.headers import fetch, rows
from rasteret_assets.headers.failures import remedy
from rasteret_assets.headers.fetch import fetch_headers
from rasteret_assets.headers.index import KnownTable
from rasteret_assets.headers.outcomes import HeaderProgress, HeaderTarget
from rasteret_assets.headers.stage import BandMetadata, check_enrichment, count_failures, read_band_metadata
from rasteret_assets.records.normalize import normalize_records
from rasteret_assets.schema import BAND_METADATA_SCHEMA, PARSER_VERSION
from rasteret_assets.source.open import open_source
from rasteret_assets.source.profile import profile_source
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage import hosts
from tests.support.rasters import record_table, tiff_bytes
from tests.support.server import RangeServer

SMALL = tiff_bytes()
#: 70 x 70 tiles: its tables do not fit a first read.
LARGE = tiff_bytes(width=2240, height=2240, compress="none", blockxsize=16, blockysize=16)


def records_of(table: pa.Table, **values: object) -> pa.Table:
    spec = CollectionSpec.of(path="t", **values)
    source = open_source(table, spec)
    return normalize_records(source.table(), spec, profile_source(source, spec)).records


def ledger(records: pa.Table, bands: Sequence[str] = ("B02",), **options: object) -> BandMetadata:
    return read_band_metadata(
        records,
        bands,
        create_backend(),
        explicit=True,
        max_concurrent=50,
        **options,  # type: ignore[arg-type]
    )


@pytest.fixture
def three(server: RangeServer) -> pa.Table:
    for name in "abc":
        server.objects[f"/{name}.tif"] = SMALL
    return records_of(record_table(["a", "b", "c"], {"B02": [f"{server.url}/{name}.tif" for name in "abc"]}))


def test_one_request_per_header_and_rasterios_values(server: RangeServer, three: pa.Table) -> None:
    result = ledger(three)
    assert (result.account.fetched, result.account.reused, result.account.requests, len(server.requests)) == (
        3,
        0,
        3,
        3,
    )
    assert result.table.schema == BAND_METADATA_SCHEMA
    row = result.table.to_pylist()[0]
    assert (row["id"], row["band"], row["status"], row["attempts"]) == ("a", "B02", "ok", 1)
    assert (row["content_length"], row["parser_version"]) == (len(SMALL), PARSER_VERSION)
    with rasterio.MemoryFile(SMALL) as memory, memory.open() as dataset:
        header = row["header"]
        assert (header["image_width"], header["image_height"]) == (dataset.width, dataset.height)
        a, _, c, _, e, f = dataset.transform[:6]
        assert header["transform"] == [a, c, e, f]
        assert header["epsg"] == dataset.crs.to_epsg()
        assert len(header["tile_offsets"]) == len(header["tile_byte_counts"]) == 12


def test_files_that_bands_and_records_share_are_fetched_once(server: RangeServer) -> None:
    server.objects["/m.tif"] = tiff_bytes(bands=3, interleave="band")
    table = record_table(["a", "b"], {"x": ["unused"] * 2}).drop_columns(["assets"])
    table = table.append_column("url", pa.array([f"{server.url}/m.tif"] * 2))
    records = records_of(table, href_column="url", band_index_map={"red": 0, "nir": 2, "none": 3})
    result = ledger(records, ["red", "nir", "none"])
    assert len(server.requests) == 1
    rows = result.table.to_pylist()
    assert [(row["id"], row["band"]) for row in rows] == [(i, b) for i in "ab" for b in ("red", "nir", "none")]
    red, nir, none = (row for row in rows[:3])
    assert set(red["header"]["tile_offsets"]).isdisjoint(nir["header"]["tile_offsets"])
    assert (none["status"], none["error_class"]) == ("unsupported", "unsupported")
    assert "band_index 3 is out of range: the file has 3 bands" in none["error"]


def test_a_header_that_does_not_fit_teaches_the_next_file(server: RangeServer) -> None:
    names = [f"/{number}.tif" for number in range(5)]
    server.objects |= dict.fromkeys(names, LARGE)
    targets = [HeaderTarget(href=server.url + name, family="B02") for name in names]
    finished: list[int] = []
    totals = asyncio.run(
        fetch_headers(targets, create_backend(), lambda indices, _: finished.extend(indices), max_concurrent=1)
    )
    assert (sorted(finished), totals.failed) == ([0, 1, 2, 3, 4], 0)
    assert totals.requests == len(server.requests) == 6


def test_every_failure_is_a_row_with_its_class(server: RangeServer) -> None:
    server.objects |= {
        "/ok.tif": SMALL, "/html.tif": b"<!DOCTYPE html>", "/empty.tif": b"", "/cut.tif": SMALL[:60],
        "/strips.tif": tiff_bytes(tiled=False),
    }  # fmt: skip
    server.fault = lambda path, before: "403" if "forbidden" in path else None
    names = ["ok", "html", "empty", "cut", "strips", "missing", "forbidden"]
    hrefs: list[str | None] = [f"{server.url}/{name}.tif?sig=secret" for name in names]
    table = record_table([*names, "null", "relative"], {"B02": [*hrefs, None, "x/y.tif"]})
    result = ledger(records_of(table))
    got = {row["id"]: (row["status"], row["error_class"]) for row in result.table.to_pylist()}
    assert got == {
        "ok": ("ok", None), "html": ("failed", "not_tiff"), "empty": ("failed", got["empty"][1]),
        "cut": ("failed", "corrupt"), "strips": ("unsupported", "not_tiled"), "missing": ("failed", "not_found"),
        "forbidden": ("failed", "forbidden"), "null": ("failed", "no_href"), "relative": ("failed", "read_failed"),
    }  # fmt: skip
    assert "secret" not in str(result.table.to_pylist())
    assert result.account.failures == count_failures(result.table)
    assert sum(result.account.failures.values()) == 8
    check_enrichment([result.table])


def test_band_indices_as_text(server: RangeServer) -> None:
    server.objects["/m.tif"] = tiff_bytes(bands=4)
    kind = pa.struct([("nir", pa.struct([("href", pa.string()), ("band_index", pa.string())]))])
    values = [" 2 ", None, "x", "99", "-1", "3.0"]
    assets = pa.array([{"nir": {"href": f"{server.url}/m.tif", "band_index": value}} for value in values], kind)
    table = record_table([str(n) for n in range(6)], {"x": [None] * 6})
    rows = ledger(records_of(table.set_column(3, "assets", assets)), ["nir"]).table.to_pylist()
    assert [row["header"] and row["header"]["band_index"] for row in rows] == [2, 0, None, None, None, 3]
    assert [row["error_class"] for row in rows] == [
        None,
        None,
        "invalid_band_index",
        "unsupported",
        "invalid_band_index",
        None,
    ]
    assert len(server.requests) == 1


def test_nothing_is_fetched_twice_unless_forced(server: RangeServer, three: pa.Table) -> None:
    first = ledger(three)
    server.reset()
    second = ledger(three, previous=first.table)
    assert (second.account.fetched, second.account.reused, len(server.requests)) == (0, 3, 0)
    assert second.table == first.table
    assert ledger(three).account.fetched == len(server.requests) == 3


def test_what_another_try_may_mend_is_tried_again(server: RangeServer, three: pa.Table) -> None:
    server.fault = lambda path, before: {"/b.tif": "403", "/c.tif": "html"}.get(path)
    first = ledger(three)
    assert first.account.failures == {"forbidden": 1, "not_tiff": 1}
    server.fault = lambda path, before: None
    server.reset()
    second = ledger(three, previous=first.table)
    assert server.paths == ["/b.tif"]
    assert second.account.failures == {"not_tiff": 1}


def test_new_signatures_of_a_known_file_fetch_nothing(server: RangeServer) -> None:
    server.objects["/a.tif"] = SMALL
    signature = "sv=2023-11-03&se={0}&sr=b&sp=r&sig={0}"
    first = ledger(records_of(record_table(["a"], {"B02": [f"{server.url}/a.tif?{signature.format(1)}"]})))
    assert first.table["href"].to_pylist() == [f"{server.url}/a.tif"]
    assert server.paths == [f"/a.tif?{signature.format(1)}"]
    renewed = records_of(record_table(["a"], {"B02": [f"{server.url}/a.tif?{signature.format(2)}"]}))
    assert ledger(renewed, previous=first.table).account.fetched == 0


@pytest.mark.parametrize("name", ["st", "token", "sig", "layer"])
def test_addresses_that_differ_in_one_parameter_are_two_files(server: RangeServer, name: str) -> None:
    sizes = {f"/get.tif?{name}=one": 64, f"/get.tif?{name}=two": 256}
    server.objects |= {path: tiff_bytes(width=width) for path, width in sizes.items()}
    records = records_of(record_table(["a", "b"], {"B02": [server.url + path for path in sizes]}))
    first = ledger(records)
    assert first.account.fetched == 2
    again = ledger(records, previous=first.table)
    assert again.account.fetched == 0
    for table in (first.table, again.table):
        assert [row["header"]["image_width"] for row in table.to_pylist()] == [64, 256]
        assert ("one" in str(table["href"].to_pylist())) == (name in {"st", "layer"})


def test_headers_of_an_older_parser_are_read_again(three: pa.Table) -> None:
    first = ledger(three).table
    position = first.schema.get_field_index("parser_version")
    old = first.set_column(position, first.schema.field(position), pa.array([PARSER_VERSION - 1] * 3, pa.int32()))
    assert ledger(three, previous=old).account.fetched == 3


@pytest.mark.parametrize("fault", ["503", "429", "reset", "short"])
def test_failures_of_the_moment_are_tried_again_at_once(server: RangeServer, three: pa.Table, fault: str) -> None:
    server.fault = lambda path, before: fault if before == 0 else None
    result = ledger(three)
    assert result.account.failures == {}
    assert len(server.requests) == 6
    if fault != "reset":  # aiohttp itself repeats a GET whose connection was reset before any answer
        assert result.table["attempts"].to_pylist() == [2, 2, 2]


def test_a_users_backend_may_fail_in_any_way(three: pa.Table) -> None:
    class Odd:
        async def get_range(self, url: str, start: int, length: int) -> bytes:
            if url.endswith("a.tif"):
                raise KeyError(f"{url}?sig=secret")
            return SMALL[start : start + length] if url.endswith("b.tif") else SMALL[start : start + length + 99]

        async def get_ranges(self, url: str, ranges: list) -> list[bytes]:
            return [await self.get_range(url, *one) for one in ranges]

    result = read_band_metadata(three, ["B02"], Odd(), explicit=True, max_concurrent=5)
    statuses = {row["id"]: (row["status"], row["error_class"]) for row in result.table.to_pylist()}
    assert statuses == {"a": ("failed", "backend_failed"), "b": ("ok", None), "c": ("ok", None)}
    assert "the backend failed: KeyError" in result.table["error"][0].as_py()


def test_progress_ends_complete(three: pa.Table) -> None:
    seen: list[tuple[int, int]] = []

    def watch(progress: HeaderProgress) -> None:
        seen.append((progress.done, progress.total))

    ledger(three, progress=watch)
    assert seen[-1] == (3, 3)


def test_a_build_without_a_single_header_is_refused_with_the_causes() -> None:
    table = record_table(["a", "b"], {"B02": ["http://127.0.0.1:9/a.tif?sig=secret", "x.tif"]})
    result = ledger(records_of(table))
    with pytest.raises(
        EnrichmentError, match=r"not one of 2 headers .*1 unreachable.* from 127\.0\.0\.1:9.*cannot connect"
    ) as caught:
        check_enrichment([result.table])
    message = str(caught.value)
    assert "(record 'a', band 'B02'): http://127.0.0.1:9/a.tif: cannot" in message
    assert "What helps: " in message
    assert f"unreachable: {remedy('unreachable')}" in message
    assert "secret" not in message


def test_headers_work_inside_a_running_event_loop(three: pa.Table) -> None:
    async def notebook() -> int:
        return ledger(three).account.fetched

    assert asyncio.run(notebook()) == 3


class Kept:
    """A checkpoint in memory."""

    def __init__(self) -> None:
        self.tables: list[KnownTable] = []

    def load(self) -> list[KnownTable]:
        return self.tables

    def save(self, rows: pa.Table) -> KnownTable:
        self.tables.append(KnownTable(table=rows))
        return self.tables[-1]


def without_times(table: pa.Table) -> pa.Table:
    return table.drop_columns(["attempted_at"])


def test_an_interrupted_fetch_goes_on_where_it_was_kept(server: RangeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "BATCH_HEADERS", 4)
    monkeypatch.setattr(rows, "SAVED_ROWS", 4)
    names = [f"{number:02}" for number in range(30)]
    server.objects |= {f"/{name}.tif": tiff_bytes(seed=int(name)) for name in names}
    records = records_of(record_table(names, {"B02": [f"{server.url}/{name}.tif" for name in names]}))
    whole = ledger(records)
    server.reset()

    class Interrupted(BaseException):
        pass

    class Stopping:
        def __init__(self) -> None:
            self.inner, self.left = create_backend(), 18

        async def get_range(self, url: str, start: int, length: int) -> bytes:
            self.left -= 1
            if self.left < 0:
                raise Interrupted
            return await self.inner.get_range(url, start, length)

        async def get_ranges(self, url: str, ranges: list) -> list[bytes]:
            return [await self.get_range(url, *one) for one in ranges]

        async def aclose(self) -> None:
            await self.inner.aclose()

    kept = Kept()
    with pytest.raises(Interrupted):
        read_band_metadata(records, ["B02"], Stopping(), explicit=True, max_concurrent=1, checkpoint=kept)
    saved = sum(source.table.num_rows for source in kept.tables)
    assert saved == 18  # all that were finished, not just full groups of four
    server.reset()
    resumed = ledger(records, checkpoint=kept)
    assert len(server.requests) == 30 - saved
    columns = ["id", "band", "href", "status", "header"]
    assert resumed.table.select(columns) == whole.table.select(columns)


def test_a_dead_host_fails_its_own_files_and_no_others(server: RangeServer, three: pa.Table) -> None:
    names = [f"dead{number}" for number in range(200)]
    dead = records_of(record_table(names, {"B02": [f"http://127.0.0.1:9/{name}.tif" for name in names]}))
    result = ledger(pa.concat_tables([dead, three]))
    rows = result.table.to_pylist()
    assert [row["status"] for row in rows[-3:]] == ["ok"] * 3
    assert {row["error_class"] for row in rows[:-3]} == {"unreachable"}
    assert result.account.requests < 100
    assert "not asked for, because 127.0.0.1:9 gave no answer to the last" in rows[-4]["error"]


def test_a_throttling_host_is_asked_less_until_all_is_read(server: RangeServer) -> None:
    names = [f"{number:03}" for number in range(150)]
    server.objects |= {f"/{name}.tif": SMALL for name in names}
    clock = {"second": 0, "served": 0}

    def throttle(path: str, before: int) -> str | None:
        second = int(time.monotonic())
        if second != clock["second"]:
            clock.update(second=second, served=0)
        clock["served"] += 1
        return "429" if clock["served"] > 50 else None

    server.fault = throttle
    server.retry_after = "1"
    records = records_of(record_table(names, {"B02": [f"{server.url}/{name}.tif" for name in names]}))
    result = ledger(records)
    assert result.account.failures == {}
    assert len(server.requests) <= 1.5 * len(names)


def test_revalidation_costs_unchanged_files_no_body_and_reports_drift(server: RangeServer, three: pa.Table) -> None:
    first = ledger(three)
    server.reset()
    unchanged = ledger(three, previous=first.table, revalidate=True)
    assert (
        unchanged.account.fetched,
        unchanged.account.reused,
        unchanged.account.drifted,
        unchanged.account.bytes,
    ) == (0, 3, 0, 0)
    assert len(server.requests) == 3
    assert unchanged.table == first.table
    server.objects["/b.tif"] = tiff_bytes(width=300)
    drifted = ledger(three, previous=first.table, revalidate=True)
    assert (drifted.account.fetched, drifted.account.reused, drifted.account.drifted) == (1, 2, 1)
    widths = [row["header"]["image_width"] for row in drifted.table.to_pylist()]
    assert widths == [100, 300, 100]


def test_revalidation_keeps_what_it_cannot_ask_about_and_drops_what_is_gone(
    server: RangeServer, three: pa.Table
) -> None:
    first = ledger(three)
    server.fault = lambda path, before: {"/a.tif": "403", "/b.tif": "404"}.get(path)
    second = ledger(three, previous=first.table, revalidate=True)
    assert second.table["status"].to_pylist() == ["ok", "failed", "ok"]
    assert second.account.failures == {"not_found": 1}


def test_local_files_are_revalidated_by_their_time(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(SMALL)
    records = records_of(record_table(["a"], {"B02": [str(path)]}))
    first = ledger(records)
    assert ledger(records, previous=first.table, revalidate=True).account.drifted == 0
    path.write_bytes(tiff_bytes(width=300))
    os.utime(path, ns=(1, 1))
    assert ledger(records, previous=first.table, revalidate=True).account.drifted == 1


def test_a_host_that_only_refuses_is_given_up(server: RangeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "DEAD_AFTER_S", 0.5)
    server.fault = lambda path, before: "503"
    names = [f"{number:04}" for number in range(2000)]
    records = records_of(record_table(names, {"B02": [f"{server.url}/{name}.tif" for name in names]}))
    result = ledger(records)
    assert set(result.account.failures) <= {"throttled", "unreachable"}
    assert sum(result.account.failures.values()) == 2000
    # Eight tries of each file would be 16 000 requests.
    assert result.account.failures["unreachable"] > 1000
    assert len(server.requests) < 4000


def test_a_host_that_waits_gets_its_turn_beside_a_busy_one(tmp_path: Path) -> None:
    with RangeServer(tmp_path).running() as busy, RangeServer(tmp_path).running() as hesitant:
        for one in (busy, hesitant):
            one.objects |= {f"/{number}.tif": SMALL for number in range(300)}
        hesitant.fault = lambda path, before: "503" if before == 0 else None
        hrefs = [f"{busy.url}/{number}.tif" for number in range(300)] + [
            f"{hesitant.url}/{number}.tif" for number in range(5)
        ]
        records = records_of(record_table([str(number) for number in range(305)], {"B02": hrefs}))
        result = read_band_metadata(records, ["B02"], create_backend(), explicit=True, max_concurrent=2)
    assert result.account.failures == {}
    assert len(hesitant.requests) == 10
