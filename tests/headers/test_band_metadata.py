"""Headers over a real server: one request each, every failure a ledger row, and nothing fetched twice."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pyarrow as pa
import pytest
import rasterio

from rasteret_assets import create_backend
from rasteret_assets.errors import EnrichmentError
from rasteret_assets.headers import band_metadata, fetch, rows
from rasteret_assets.headers.band_metadata import check_enrichment, count_failures
from rasteret_assets.headers.failures import remedy
from rasteret_assets.headers.fetch import fetch_headers
from rasteret_assets.headers.outcomes import HeaderProgress, HeaderTarget
from rasteret_assets.schema import BAND_METADATA_SCHEMA, PARSER_VERSION
from rasteret_assets.storage import hosts
from tests.support.ledgers import Ledgers, comparable
from tests.support.rasters import record_table, tiff_bytes
from tests.support.server import RangeServer

SMALL = tiff_bytes()
#: 70 x 70 tiles: its tables do not fit a first read.
LARGE = tiff_bytes(width=2240, height=2240, compress="none", blockxsize=16, blockysize=16)


@pytest.fixture
def ledgers(tmp_path: Path) -> Ledgers:
    return Ledgers(tmp_path / "w", max_concurrent=50)


@pytest.fixture
def three(server: RangeServer) -> pa.Table:
    return table_of(server, list("abc"))


def table_of(server: RangeServer, names: list[str], content: bytes = SMALL) -> pa.Table:
    """Records of one file each, which the server has."""
    server.objects |= {f"/{name}.tif": content for name in names}
    return record_table(names, {"B02": [f"{server.url}/{name}.tif" for name in names]})


def test_one_request_per_header_and_rasterios_values(server: RangeServer, three: pa.Table, ledgers: Ledgers) -> None:
    result = ledgers.make(three)
    assert (result.fetched, result.reused, result.counts["requests"], len(server.requests)) == (3, 0, 3, 3)
    assert result.table.schema.remove(result.table.schema.get_field_index("header")) == BAND_METADATA_SCHEMA
    row = result.rows()[0]
    assert (row["id"], row["band"], row["status"], row["attempts"]) == ("a", "B02", "ok", 1)
    assert (row["content_length"], row["parser_version"]) == (len(SMALL), PARSER_VERSION)
    with rasterio.MemoryFile(SMALL) as memory, memory.open() as dataset:
        header = row["header"]
        assert (header["image_width"], header["image_height"]) == (dataset.width, dataset.height)
        a, _, c, _, e, f = dataset.transform[:6]
        assert header["transform"] == [a, c, e, f]
        assert header["epsg"] == dataset.crs.to_epsg()
        assert len(header["tile_offsets"]) == len(header["tile_byte_counts"]) == 12


def test_files_that_bands_and_records_share_are_fetched_once(server: RangeServer, tmp_path: Path) -> None:
    server.objects["/m.tif"] = tiff_bytes(bands=3, interleave="band")
    table = record_table(["a", "b"], {"x": ["unused"] * 2}).drop_columns(["assets"])
    table = table.append_column("url", pa.array([f"{server.url}/m.tif"] * 2))
    bands = {"red": 0, "nir": 2, "again": 2, "none": 3}
    ledgers = Ledgers(tmp_path / "w", href_column="url", band_index_map=bands, band_codes=list(bands))
    rows = ledgers.make(table).rows()
    assert len(server.requests) == 1
    assert [(row["id"], row["band"]) for row in rows] == [(i, b) for i in "ab" for b in bands]
    red, nir, again, none = rows[:4]
    assert set(red["header"]["tile_offsets"]).isdisjoint(nir["header"]["tile_offsets"])
    assert (none["status"], none["error_class"]) == ("unsupported", "unsupported")
    assert "band_index 3 is out of range: the file has 3 bands" in none["error"]
    # A sample is stored once, whichever bands and records are it.
    assert again["header"] == nir["header"]
    assert ledgers.stored() == 3
    place = ("header_file", "header_row")
    assert len({tuple(row[name] for name in place) for row in rows}) == 3


def test_the_first_read_grows_after_a_header_that_did_not_fit(server: RangeServer) -> None:
    names = [f"/{number}.tif" for number in range(5)]
    server.objects |= dict.fromkeys(names, LARGE)
    targets = [HeaderTarget(href=server.url + name, family="B02") for name in names]
    finished: list[int] = []
    totals = asyncio.run(
        fetch_headers(targets, create_backend(), lambda indices, _: finished.extend(indices), max_concurrent=1)
    )
    assert (sorted(finished), totals.failed) == ([0, 1, 2, 3, 4], 0)
    assert totals.requests == len(server.requests) == 6


def test_every_failure_is_a_row_with_its_class(server: RangeServer, ledgers: Ledgers) -> None:
    server.objects |= {
        "/ok.tif": SMALL, "/html.tif": b"<!DOCTYPE html>", "/empty.tif": b"", "/cut.tif": SMALL[:60],
        "/strips.tif": tiff_bytes(tiled=False),
    }  # fmt: skip
    server.fault = lambda path, before: "403" if "forbidden" in path else None
    names = ["ok", "html", "empty", "cut", "strips", "missing", "forbidden"]
    hrefs: list[str | None] = [f"{server.url}/{name}.tif?sig=secret" for name in names]
    result = ledgers.make(record_table([*names, "null", "relative"], {"B02": [*hrefs, None, "x/y.tif"]}))
    got = {row["id"]: (row["status"], row["error_class"]) for row in result.rows()}
    assert got == {
        "ok": ("ok", None), "html": ("failed", "not_tiff"), "empty": ("failed", got["empty"][1]),
        "cut": ("failed", "corrupt"), "strips": ("unsupported", "not_tiled"), "missing": ("failed", "not_found"),
        "forbidden": ("failed", "forbidden"), "null": ("failed", "no_href"), "relative": ("failed", "read_failed"),
    }  # fmt: skip
    assert all((row["header"] is None) == (row["status"] != "ok") for row in result.rows())
    assert "secret" not in str(result.rows())
    assert result.failures == count_failures(result.table)
    assert sum(result.failures.values()) == result.counts["headers_failed"] == 8
    check_enrichment([result.table])


def test_band_indices_as_text(server: RangeServer, tmp_path: Path) -> None:
    server.objects["/m.tif"] = tiff_bytes(bands=4)
    kind = pa.struct([("nir", pa.struct([("href", pa.string()), ("band_index", pa.string())]))])
    values = [" 2 ", None, "x", "99", "-1", "3.0"]
    assets = pa.array([{"nir": {"href": f"{server.url}/m.tif", "band_index": value}} for value in values], kind)
    table = record_table([str(n) for n in range(6)], {"x": [None] * 6})
    ledgers = Ledgers(tmp_path / "w", band_codes=["nir"])
    rows = ledgers.make(table.set_column(3, "assets", assets)).rows()
    assert [row["header"] and row["header"]["band_index"] for row in rows] == [2, 0, None, None, None, 3]
    assert [row["error_class"] for row in rows] == [
        None, None, "invalid_band_index", "unsupported", "invalid_band_index", None
    ]  # fmt: skip
    assert len(server.requests) == 1


def test_nothing_is_fetched_twice_unless_forced(server: RangeServer, three: pa.Table, ledgers: Ledgers) -> None:
    first = ledgers.make(three)
    server.reset()
    second = ledgers.make(three)
    assert (second.fetched, second.reused, len(server.requests)) == (0, 3, 0)
    assert second.table == first.table
    assert ledgers.make(three, force=True).fetched == len(server.requests) == 3


def test_a_failure_that_may_pass_is_tried_again(server: RangeServer, three: pa.Table, ledgers: Ledgers) -> None:
    server.fault = lambda path, before: {"/b.tif": "403", "/c.tif": "html"}.get(path)
    assert ledgers.make(three).failures == {"forbidden": 1, "not_tiff": 1}
    server.fault = lambda path, before: None
    server.reset()
    second = ledgers.make(three)
    assert server.paths == ["/b.tif"]
    assert second.failures == {"not_tiff": 1}
    assert [row["header"] is None for row in second.rows()] == [False, False, True]
    server.reset()
    assert ledgers.make(three).table == second.table
    assert not server.paths


def test_new_signatures_of_an_indexed_file_fetch_nothing(server: RangeServer, ledgers: Ledgers) -> None:
    server.objects["/a.tif"] = SMALL
    signature = "sv=2023-11-03&se={0}&sr=b&sp=r&sig={0}"
    first = ledgers.make(record_table(["a"], {"B02": [f"{server.url}/a.tif?{signature.format(1)}"]}))
    assert first.table["href"].to_pylist() == [f"{server.url}/a.tif"]
    assert server.paths == [f"/a.tif?{signature.format(1)}"]
    renewed = record_table(["a"], {"B02": [f"{server.url}/a.tif?{signature.format(2)}"]})
    assert ledgers.make(renewed).fetched == 0


@pytest.mark.parametrize("name", ["st", "token", "sig", "layer"])
def test_addresses_that_differ_in_one_parameter_are_two_files(server: RangeServer, ledgers: Ledgers, name: str) -> None:
    sizes = {f"/get.tif?{name}=one": 64, f"/get.tif?{name}=two": 256}
    server.objects |= {path: tiff_bytes(width=width) for path, width in sizes.items()}
    table = record_table(["a", "b"], {"B02": [server.url + path for path in sizes]})
    first = ledgers.make(table)
    assert first.fetched == 2
    again = ledgers.make(table)
    assert again.fetched == 0
    for result in (first, again):
        assert [row["header"]["image_width"] for row in result.rows()] == [64, 256]
        assert ("one" in str(result.table["href"].to_pylist())) == (name in {"st", "layer"})


def test_headers_of_an_older_parser_are_read_again(three: pa.Table, ledgers: Ledgers) -> None:
    first = ledgers.make(three)
    ledgers.alter_store(parser_version=PARSER_VERSION - 1)
    again = ledgers.make(three)
    assert again.fetched == 3
    assert comparable(again.table) == comparable(first.table)


@pytest.mark.parametrize("fault", ["503", "429", "reset", "short"])
def test_failures_of_the_moment_are_tried_again_at_once(
    server: RangeServer, three: pa.Table, ledgers: Ledgers, fault: str
) -> None:
    server.fault = lambda path, before: fault if before == 0 else None
    result = ledgers.make(three)
    assert result.failures == {}
    assert len(server.requests) == 6
    if fault != "reset":  # aiohttp itself repeats a GET whose connection was reset before any answer
        assert result.table["attempts"].to_pylist() == [2, 2, 2]


def test_a_users_backend_may_fail_in_any_way(three: pa.Table, ledgers: Ledgers) -> None:
    class Odd:
        async def get_range(self, url: str, start: int, length: int) -> bytes:
            if url.endswith("a.tif"):
                raise KeyError(f"{url}?sig=secret")
            return SMALL[start : start + length] if url.endswith("b.tif") else SMALL[start : start + length + 99]

        async def get_ranges(self, url: str, ranges: list) -> list[bytes]:
            return [await self.get_range(url, *one) for one in ranges]

    result = ledgers.make(three, backend=Odd())
    statuses = {row["id"]: (row["status"], row["error_class"]) for row in result.rows()}
    assert statuses == {"a": ("failed", "backend_failed"), "b": ("ok", None), "c": ("ok", None)}
    assert "the backend failed: KeyError" in result.table["error"][0].as_py()


def test_progress_ends_complete(three: pa.Table, ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch) -> None:
    # A slice at a time: the total is known only at the end, and never below what is done.
    monkeypatch.setattr(band_metadata, "SLICE_TARGETS", 2)
    seen: list[tuple[int, int]] = []

    def watch(progress: HeaderProgress) -> None:
        seen.append((progress.done, progress.total))

    ledgers.make(three, progress=watch)
    assert seen[-1] == (3, 3)
    assert all(done <= total for done, total in seen)


def test_a_build_without_a_single_header_is_refused_with_the_causes(ledgers: Ledgers) -> None:
    result = ledgers.make(record_table(["a", "b"], {"B02": ["http://127.0.0.1:9/a.tif?sig=secret", "x.tif"]}))
    with pytest.raises(
        EnrichmentError, match=r"not one of 2 headers .*1 unreachable.* from 127\.0\.0\.1:9.*cannot connect"
    ) as caught:
        check_enrichment([result.table])
    message = str(caught.value)
    assert "(record 'a', band 'B02'): http://127.0.0.1:9/a.tif: cannot" in message
    assert "What helps: " in message
    assert f"unreachable: {remedy('unreachable')}" in message
    assert "secret" not in message


def test_headers_work_inside_a_running_event_loop(three: pa.Table, ledgers: Ledgers) -> None:
    async def notebook() -> int:
        return ledgers.make(three).fetched

    assert asyncio.run(notebook()) == 3


class Interrupted(BaseException):
    """What ends a process from outside."""


class Stopping:
    """A backend at which the process is interrupted after some requests."""

    def __init__(self, left: int) -> None:
        self.inner, self.left = create_backend(), left

    async def get_range(self, url: str, start: int, length: int) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise Interrupted
        return await self.inner.get_range(url, start, length)

    async def get_ranges(self, url: str, ranges: list) -> list[bytes]:
        return [await self.get_range(url, *one) for one in ranges]

    async def aclose(self) -> None:
        await self.inner.aclose()


@pytest.mark.parametrize("slice_targets", [131_072, 7])
def test_an_interrupted_fetch_goes_on_where_it_was_kept(
    server: RangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slice_targets: int
) -> None:
    monkeypatch.setattr(fetch, "BATCH_HEADERS", 4)
    monkeypatch.setattr(rows, "SAVED_ROWS", 4)
    monkeypatch.setattr(band_metadata, "SLICE_TARGETS", slice_targets)
    names = [f"{number:02}" for number in range(30)]
    table = table_of(server, names)
    server.objects |= {f"/{name}.tif": tiff_bytes(seed=int(name)) for name in names}
    whole = Ledgers(tmp_path / "whole").make(table)
    ledgers = Ledgers(tmp_path / "w", max_concurrent=1)
    with pytest.raises(BaseException) as stopped:
        ledgers.make(table, backend=Stopping(18))
    group = stopped.value
    assert isinstance(group, Interrupted) or (isinstance(group, BaseExceptionGroup) and group.subgroup(Interrupted))
    saved = ledgers.stored()
    assert saved == 18  # all that were finished, not just full groups of four
    server.reset()
    resumed = ledgers.make(table)
    assert len(server.requests) == resumed.fetched == 30 - saved
    # A user's backend tells neither tags nor sizes.
    columns = ["id", "band", "href", "status", "header"]
    assert resumed.table.select(columns) == whole.table.select(columns)


def test_a_file_of_several_slices_is_fetched_once(
    server: RangeServer, ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(band_metadata, "SLICE_TARGETS", 2)
    server.objects |= {f"/{name}.tif": tiff_bytes(width=width) for name, width in (("a", 64), ("b", 256))}
    ids = [f"{number:02}" for number in range(9)]
    hrefs: list[str | None] = [f"{server.url}/{'ab'[number % 3 == 0]}.tif" for number in range(9)]
    result = ledgers.make(record_table(ids, {"B02": hrefs}))
    assert sorted(server.paths) == ["/a.tif", "/b.tif"]
    assert result.table["id"].to_pylist() == ids
    assert [row["header"]["image_width"] for row in result.rows()] == [256, 64, 64] * 3
    assert ledgers.stored() == 2


def test_a_dead_host_fails_its_own_files_only(three: pa.Table, ledgers: Ledgers) -> None:
    names = [f"dead{number:03}" for number in range(200)]
    dead = record_table(names, {"B02": [f"http://127.0.0.1:9/{name}.tif" for name in names]})
    result = ledgers.make(pa.concat_tables([dead, three]))
    found = {row["id"]: row for row in result.rows()}
    assert [found[name]["status"] for name in "abc"] == ["ok"] * 3
    assert {found[name]["error_class"] for name in names} == {"unreachable"}
    assert result.counts["requests"] < 100
    assert "not asked for, because 127.0.0.1:9 gave no answer to the last" in found[names[-1]]["error"]


def test_a_throttling_host_is_asked_less_until_all_is_read(server: RangeServer, ledgers: Ledgers) -> None:
    names = [f"{number:03}" for number in range(150)]
    table = table_of(server, names)
    clock = {"second": 0, "served": 0}

    def throttle(path: str, before: int) -> str | None:
        second = int(time.monotonic())
        if second != clock["second"]:
            clock.update(second=second, served=0)
        clock["served"] += 1
        return "429" if clock["served"] > 50 else None

    server.fault = throttle
    server.retry_after = "1"
    assert ledgers.make(table).failures == {}
    assert len(server.requests) <= 1.5 * len(names)


def test_revalidation_costs_unchanged_files_no_body_and_reports_drift(
    server: RangeServer, three: pa.Table, ledgers: Ledgers
) -> None:
    first = ledgers.make(three)
    server.reset()
    unchanged = ledgers.make(three, revalidate=True)
    assert (unchanged.fetched, unchanged.reused) == (0, 3)
    assert (unchanged.counts["headers_drifted"], unchanged.counts["request_bytes"]) == (0, 0)
    assert len(server.requests) == 3
    assert unchanged.table == first.table
    server.objects["/b.tif"] = tiff_bytes(width=300)
    drifted = ledgers.make(three, revalidate=True)
    assert (drifted.fetched, drifted.reused, drifted.counts["headers_drifted"]) == (1, 2, 1)
    widths = [row["header"]["image_width"] for row in drifted.rows()]
    assert widths == [100, 300, 100]
    # What drifted stays known as it was read last.
    assert ledgers.make(three).table == drifted.table
    assert ledgers.make(three, revalidate=True).counts["headers_drifted"] == 0


def test_revalidation_keeps_headers_of_refused_files_and_drops_those_of_missing_files(
    server: RangeServer, three: pa.Table, ledgers: Ledgers
) -> None:
    ledgers.make(three)
    server.fault = lambda path, before: {"/a.tif": "403", "/b.tif": "404"}.get(path)
    second = ledgers.make(three, revalidate=True)
    assert second.table["status"].to_pylist() == ["ok", "failed", "ok"]
    assert second.failures == {"not_found": 1}


def test_local_files_are_revalidated_by_their_time(tmp_path: Path, ledgers: Ledgers) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(SMALL)
    table = record_table(["a"], {"B02": [str(path)]})
    ledgers.make(table)
    assert ledgers.make(table, revalidate=True).counts["headers_drifted"] == 0
    path.write_bytes(tiff_bytes(width=300))
    os.utime(path, ns=(1, 1))
    assert ledgers.make(table, revalidate=True).counts["headers_drifted"] == 1


def test_a_host_that_only_refuses_is_given_up(
    server: RangeServer, ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "DEAD_AFTER_S", 0.5)
    server.fault = lambda path, before: "503"
    result = ledgers.make(table_of(server, [f"{number:04}" for number in range(2000)]))
    assert set(result.failures) <= {"throttled", "unreachable"}
    assert sum(result.failures.values()) == 2000
    # Eight tries of each file would be 16 000 requests.
    assert result.failures["unreachable"] > 1000
    assert len(server.requests) < 4000


def test_a_host_that_waits_gets_its_turn_beside_a_busy_one(tmp_path: Path) -> None:
    with RangeServer(tmp_path).running() as busy, RangeServer(tmp_path).running() as hesitant:
        for one in (busy, hesitant):
            one.objects |= {f"/{number}.tif": SMALL for number in range(300)}
        hesitant.fault = lambda path, before: "503" if before == 0 else None
        hrefs: list[str | None] = [f"{busy.url}/{number}.tif" for number in range(300)]
        hrefs += [f"{hesitant.url}/{number}.tif" for number in range(5)]
        table = record_table([str(number) for number in range(305)], {"B02": hrefs})
        result = Ledgers(tmp_path / "w", max_concurrent=2).make(table)
    assert result.failures == {}
    assert len(hesitant.requests) == 10
