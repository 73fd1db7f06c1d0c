"""Harvests of a STAC API: what is stored, what is asked for again, and what a build makes of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
import rustac

import rasteret_assets as ra
from rasteret_assets.errors import EnrichmentError, HarvestError, InvalidRecordError, NotHarvestedError, SpecError
from rasteret_assets.harvesting import window_rows
from rasteret_assets.harvesting._window_files import HarvestStore
from rasteret_assets.harvesting.window_ledger import read_ledger
from rasteret_assets.storage.workspace import Workspace
from tests.harvest.conftest import NOW
from tests.support.s3 import bucket_server, filesystem_of
from tests.support.stac import make_item, text_of


def stored(spec) -> dict[str, dict]:
    """Harvested rows by id."""
    tables = [pq.read_table(path) for path in sorted(Path(spec.path).iterdir())]
    rows = pa.concat_tables(tables, promote_options="permissive").to_pylist()
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: row for row in rows}


def covers(spec) -> dict[str, float]:
    return {name: row["eo:cloud_cover"] for name, row in stored(spec).items()}


def expected(stac) -> dict[str, float]:
    return {item["id"]: item["properties"]["eo:cloud_cover"] for item in stac.items.values()}


def mtimes(spec) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in Path(spec.path).iterdir()}


def test_each_month_with_items_is_a_file(stac, spec_of, harvest) -> None:
    spec = spec_of()
    report = harvest(spec)
    assert covers(spec) == expected(stac)
    assert sorted(mtimes(spec)) == ["2024-01.parquet", "2024-02.parquet", "2024-03.parquet"]
    assert (report.items, report.windows, len(report.asked), report.totals["new"]) == (400, 12, 12, 400)
    assert report.newest == max(item["properties"]["datetime"] for item in stac.items.values())
    assert report.requests == len(stac.requests)
    assert "400 items in 12 windows" in str(report)
    # Only the owner may read the folder, because harvested addresses may grant access.
    assert Path(spec.path).stat().st_mode & 0o077 == 0


def test_a_build_of_harvested_items_equals_a_build_of_the_items_as_parquet(stac, spec_of, harvest, tmp_path) -> None:
    spec = spec_of()
    harvest(spec)
    ra.build(spec)
    rustac.write_sync(str(tmp_path / "items.parquet"), list(stac.items.values()))
    ra.build(ra.CollectionSpec.of(path=tmp_path / "items.parquet", name="same", workspace_dir=tmp_path / "other"))
    one, other = (
        ds.dataset(path, partitioning="hive").to_table().sort_by("id")
        for path in (spec.published_path, tmp_path / "other" / "same_records")
    )
    assert one.num_rows == other.num_rows == 400
    names = ["id", "datetime", "geometry", "bbox", "assets", "eo:cloud_cover", "collection", "year", "month"]
    assert one.select(names).to_pylist() == other.select(names).to_pylist()


@pytest.mark.parametrize("methods", [("POST", "GET"), ("POST",), ("GET",)])
@pytest.mark.parametrize("merges", [False, True])
def test_all_pages_are_read_by_post_or_get(stac, spec_of, harvest, methods, merges) -> None:
    stac.methods, stac.merges = methods, merges
    spec = spec_of(query={"eo:cloud_cover": {"lt": 50}}, bbox=(-10, -10, 0.4, 10))
    harvest(spec)
    cloudless = {name: cover for name, cover in expected(stac).items() if cover < 50}
    assert covers(spec) == {name: cover for name, cover in cloudless.items() if int(name[-2:]) <= 40}
    assert {method for method, path, _ in stac.requests if path == "/search"} == {methods[0]}


def test_filter_and_intersects_are_sent_to_the_api(stac, spec_of, harvest) -> None:
    area = {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]]}
    spec = spec_of(filter={"op": "<", "args": [{"property": "eo:cloud_cover"}, 7]}, intersects=area)
    harvest(spec)
    assert set(covers(spec).values()) == set(range(7))
    asked = stac.searches[0]
    assert (asked["intersects"], asked["filter-lang"], asked["collections"]) == (area, "cql2-json", ["scenes"])


# --- increments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("can", [{"query"}, {"filter"}, {"sort"}, {"query", "filter", "sort"}])
def test_unchanged_items_take_one_search_where_the_api_finds_items_by_updated(stac, spec_of, harvest, can) -> None:
    stac.can = can
    spec = spec_of()
    harvest(spec)
    before, requests = mtimes(spec), len(stac.requests)
    report = harvest(spec, NOW + timedelta(days=2))
    assert report.asked == {}
    # What the API can do, what was updated, and where a filter says so, by what it filters.
    assert len(stac.requests) - requests == (3 if can == {"filter"} else 2)
    assert mtimes(spec) == before


@pytest.mark.parametrize("can", [{"query"}, {"filter"}, {"sort"}])
def test_only_windows_with_updated_items_are_harvested_again(stac, spec_of, harvest, can) -> None:
    stac.can = can
    spec = spec_of()
    harvest(spec)
    before = mtimes(spec)
    stac.change("scene-00200", "2024-12-21T00:00:00Z", **{"eo:cloud_cover": 1.5})
    stac.put(make_item(900, datetime(2024, 7, 3, tzinfo=UTC), updated="2024-12-21T01:00:00Z"))
    report = harvest(spec, NOW + timedelta(days=2))
    assert sorted(report.asked) == ["2024-02", "2024-07"]
    assert report.totals == {"new": 1, "changed": 1, "gone": 0, "rewritten": 2}
    assert covers(spec) == expected(stac)
    after = mtimes(spec)
    assert {name for name in after if after[name] != before.get(name)} == {"2024-02.parquet", "2024-07.parquet"}


def test_an_item_is_found_though_it_appears_hours_after_its_updated(stac, spec_of, harvest) -> None:
    spec = spec_of()
    harvest(spec, datetime(2024, 12, 1, 6, tzinfo=UTC))
    stac.put(make_item(900, updated="2024-11-30T12:00:00Z"))
    harvest(spec, datetime(2024, 12, 1, 7, tzinfo=UTC))
    assert covers(spec) == expected(stac)


def test_an_item_whose_datetime_changed_moves_to_another_window(stac, spec_of, harvest) -> None:
    spec = spec_of()
    harvest(spec)
    stac.change("scene-00003", "2024-12-21T00:00:00Z", datetime="2024-03-05T00:00:00Z")
    report = harvest(spec, NOW + timedelta(days=2))
    assert stored(spec)["scene-00003"]["datetime"] == datetime(2024, 3, 5, tzinfo=UTC)
    assert sorted(report.asked) == ["2024-01", "2024-03"]


@pytest.mark.parametrize("can", [{"query"}, {"filter"}, {"sort"}, {"query", "filter", "sort"}])
@pytest.mark.parametrize("forms", [(".123Z",), ("Z", ".500Z", ".5Z", ".123456Z")], ids=["one form", "many"])
def test_updated_items_are_found_by_apis_that_compare_updated_as_text(stac, spec_of, harvest, can, forms) -> None:
    stac.can, stac.updated_is_text, stac.queryables = can, True, {"properties": {"id": {}}}
    for number, item in enumerate(stac.items.values()):
        item["properties"]["updated"] = f"2024-11-{number % 15 + 10}T00:00:00{forms[number % len(forms)]}"
    spec = spec_of()
    harvest(spec)
    requests = len(stac.requests)
    assert harvest(spec, NOW + timedelta(days=2)).asked == {}
    assert len(stac.requests) - requests <= 3
    stac.change("scene-00200", f"2024-12-21T00:00:00{forms[0]}", **{"eo:cloud_cover": 1.5})
    assert list(harvest(spec, NOW + timedelta(days=3)).asked) == ["2024-02"]
    assert covers(spec) == expected(stac)


@pytest.mark.parametrize("queryables", [None, {"properties": {"updated": {"format": "date-time"}}}])
def test_a_second_form_of_filter_is_tried_where_the_first_finds_nothing(stac, spec_of, harvest, queryables) -> None:
    stac.can, stac.updated_is_text, stac.queryables = {"filter"}, True, queryables
    spec = spec_of(filter={"op": "<", "args": [{"property": "eo:cloud_cover"}, 200]})
    harvest(spec)
    stac.change("scene-00200", "2024-12-21T00:00:00Z", **{"eo:cloud_cover": 1.5})
    assert list(harvest(spec, NOW + timedelta(days=2)).asked) == ["2024-02"]


def test_updated_items_are_found_by_an_api_of_a_later_version(stac, spec_of, harvest) -> None:
    stac.can, stac.version = {"sort"}, "v1.1.0"
    spec = spec_of()
    harvest(spec)
    stac.change("scene-00200", "2024-12-21T00:00:00Z", **{"eo:cloud_cover": 1.5})
    assert list(harvest(spec, NOW + timedelta(days=2)).asked) == ["2024-02"]


@pytest.mark.parametrize("honest", [True, False])
def test_without_updated_only_windows_of_the_last_days_are_asked_for(stac, spec_of, harvest, honest) -> None:
    stac.can = set()
    for item in stac.items.values():
        del item["properties"]["updated"]
    if not honest:
        # An API that claims the query extension, but ignores queries.
        stac.can = {"query"}
        for item in stac.items.values():
            item["properties"]["updated"] = "2024-12-01T00:00:00Z"
        stac.items["scenes", "scene-00000"]["properties"]["updated"] = "2024-12-03T00:00:00Z"
        stac.ignores = {"query"}
    spec = spec_of(lookback_days=40, limit=1000)
    harvest(spec, datetime(2024, 3, 20, tzinfo=UTC))
    stac.put(make_item(900, datetime(2024, 2, 29, 23, tzinfo=UTC)), make_item(901, datetime(2024, 1, 2, tzinfo=UTC)))
    report = harvest(spec, datetime(2024, 3, 21, tzinfo=UTC))
    assert sorted(report.asked) == [f"2024-{month:02}" for month in range(2, 13)]
    assert "scene-00900" in stored(spec)
    assert "scene-00901" not in stored(spec)


def _forget_changes(stac) -> None:
    """Let the API give no ``updated``, and no way to search by it."""
    stac.can = set()
    for item in stac.items.values():
        del item["properties"]["updated"]


def test_without_updated_an_unchanged_window_takes_one_request(stac, spec_of, harvest) -> None:
    _forget_changes(stac)
    spec = spec_of(lookback_days=400)
    assert harvest(spec).requests > 12 + 1  # windows have up to three pages of 50 items
    before = mtimes(spec)
    report = harvest(spec, NOW + timedelta(days=2))
    assert (len(report.asked), report.totals["rewritten"]) == (12, 0)
    assert report.requests == 12 + 1  # and the first page of the API
    assert mtimes(spec) == before
    stac.change("scene-00200", None, **{"eo:cloud_cover": 1.5})
    stac.put(*(make_item(1000 + minute, datetime(2024, 3, 30, 5, minute, tzinfo=UTC)) for minute in range(60)))
    stac.delete("scene-00003")
    report = harvest(spec, NOW + timedelta(days=3))
    assert report.totals == {"new": 60, "changed": 1, "gone": 1, "rewritten": 3}
    assert covers(spec) == expected(stac)


@pytest.mark.parametrize("fault", ["400", "503", "short", "lose"])
def test_small_pages_are_asked_for_where_large_ones_fail(stac, spec_of, harvest, fault) -> None:
    _forget_changes(stac)
    spec = spec_of(lookback_days=400)
    harvest(spec)
    stac.fault = lambda *_: fault if stac.requests[-1][2].get("limit", 0) > 50 else None
    stac.change("scene-00003", None, **{"eo:cloud_cover": 1.5})
    assert harvest(spec, NOW + timedelta(days=2)).totals["changed"] == 1
    assert covers(spec) == expected(stac)
    tried = stac.said_no[fault]
    assert tried
    # Large pages are not asked for again before the next full harvest.
    harvest(spec, NOW + timedelta(days=3))
    assert stac.said_no[fault] == tried or fault == "lose"
    stac.fault = lambda *_: None
    harvest(spec, NOW + timedelta(days=4), force=True)
    assert harvest(spec, NOW + timedelta(days=5)).requests == 12 + 1


def test_no_item_is_lost_where_the_api_shortens_pages(stac, spec_of, harvest) -> None:
    _forget_changes(stac)
    spec = spec_of(lookback_days=400)
    harvest(spec)
    answer = stac.answer
    stac.answer = lambda path, asked, method: answer(path, {**asked, "limit": min(asked.get("limit", 10), 60)}, method)
    stac.change("scene-00003", None, **{"eo:cloud_cover": 1.5})
    assert harvest(spec, NOW + timedelta(days=2)).totals["changed"] == 1
    assert covers(spec) == expected(stac)


def test_a_full_harvest_finds_deletions_and_changes_that_left_updated_as_it_was(stac, spec_of, harvest) -> None:
    spec = spec_of(full_every=30)
    harvest(spec)
    stac.delete("scene-00010")
    stac.change("scene-00011", None, **{"eo:cloud_cover": 3.25})
    for number in range(300, 400):
        if f"scene-{number:05}" in {name for name, row in stored(spec).items() if row["datetime"].month == 3}:
            stac.delete(f"scene-{number:05}")
    assert harvest(spec, NOW + timedelta(days=29)).asked == {}
    report = harvest(spec, NOW + timedelta(days=31))
    assert report.full
    assert len(report.asked) == 12
    assert report.totals["gone"] > 1
    assert covers(spec) == expected(stac)
    # A window without items has no file.
    assert {Path(name).stem for name in mtimes(spec)} == {
        item["properties"]["datetime"][:7] for item in stac.items.values()
    }
    assert not harvest(spec, NOW + timedelta(days=32)).full
    assert harvest(spec, NOW + timedelta(days=32), force=True).full


def test_large_windows_are_split_and_remain_split(stac, spec_of, harvest) -> None:
    spec = spec_of(max_items_per_window=120, window="year")
    harvest(spec)
    names = sorted(mtimes(spec))
    assert {"2024-01-01.parquet", "2024-03.parquet"} < set(names)
    assert "2024.parquet" not in names
    assert "2024-01.parquet" not in names
    assert covers(spec) == expected(stac)
    stac.change("scene-00000", "2024-12-21T00:00:00Z", **{"eo:cloud_cover": 42.5})
    assert list(harvest(spec, NOW + timedelta(days=2)).asked) == ["2024-01-01"]
    assert covers(spec) == expected(stac)
    # March grows.
    stac.put(*(make_item(1000 + day, datetime(2024, 3, 1, day % 24, day, tzinfo=UTC)) for day in range(59)))
    harvest(spec, NOW + timedelta(days=2), force=True)
    assert "2024-03.parquet" not in mtimes(spec)
    assert covers(spec) == expected(stac)


def test_large_windows_are_split_where_the_api_gives_no_counts(stac, spec_of, harvest) -> None:
    stac.counts = False
    spec = spec_of(max_items_per_window=60, window="year")
    harvest(spec)
    assert "2024-01-01.parquet" in mtimes(spec)
    assert covers(spec) == expected(stac)


def test_the_whole_catalog_is_harvested_if_no_datetime_is_given(stac, spec_of, harvest) -> None:
    stac.extent = ["2024-02-01T00:00:00Z", None]
    stac.put(make_item(900, datetime(2031, 1, 1, tzinfo=UTC)))
    spec = spec_of(datetime=None)
    report = harvest(spec)
    assert sorted(mtimes(spec)) == ["2024-02.parquet", "2024-03.parquet", "after.parquet", "before.parquet"]
    assert covers(spec) == expected(stac)
    assert report.windows == 2 + 11
    # A month that has begun becomes a window, to which items move from after.parquet.
    assert "2031-01.parquet" in (harvest(spec, datetime(2031, 2, 1, tzinfo=UTC)) and mtimes(spec))
    assert "after.parquet" not in mtimes(spec)


@pytest.mark.parametrize("extent", [[None, None], ["nonsense", None]])
def test_a_collection_without_a_temporal_extent_is_one_window(stac, spec_of, harvest, extent) -> None:
    stac.extent = extent
    spec = spec_of(datetime=None, collections=[])
    harvest(spec)
    assert list(mtimes(spec)) == ["all.parquet"]
    assert covers(spec) == expected(stac)


def test_the_id_of_a_collection_may_hold_any_letter(stac, spec_of, harvest) -> None:
    stac.put({**make_item(900), "collection": "scènes 2/level?"})
    spec = spec_of(datetime=None, collections=["scènes 2/level?"])
    harvest(spec)
    assert covers(spec).keys() == {make_item(900)["id"]}
    paths = {path for _, path, _ in stac.requests}
    assert "/collections/sc%C3%A8nes%202%2Flevel%3F" in paths
    assert paths <= {"/", "/search"} | {path for path in paths if "/sc%C3%A8nes%202%2Flevel%3F" in path}


def test_items_at_or_across_the_edge_of_a_window_are_stored_once(stac, spec_of, harvest) -> None:
    stac.items.clear()
    stac.put(
        make_item(1, datetime(2024, 2, 1, tzinfo=UTC)),
        make_item(2, datetime(2024, 2, 1, tzinfo=UTC) - timedelta(microseconds=1)),
        make_item(3, datetime=None, start_datetime="2024-01-20T00:00:00Z", end_datetime="2024-02-20T00:00:00Z"),
        # Overlaps the first window, though it began before.
        make_item(4, datetime=None, start_datetime="2023-12-20T00:00:00Z", end_datetime="2024-01-02T00:00:00Z"),
        # Left out, because the year 2024 ends before 2025, though STAC's intervals include their end.
        make_item(5, datetime(2025, 1, 1, tzinfo=UTC)),
    )
    spec = spec_of()
    report = harvest(spec)
    files = {path.stem: ds.dataset(path).to_table()["id"].to_pylist() for path in Path(spec.path).iterdir()}
    assert {key: sorted(int(name[-1]) for name in names) for key, names in files.items()} == {
        "2024-01": [2, 3, 4], "2024-02": [1],
    }  # fmt: skip
    assert report.items == 4


def test_changed_harvest_options_harvest_all_windows_again(stac, spec_of, harvest) -> None:
    harvest(spec_of())
    spec = spec_of(query={"eo:cloud_cover": {"lt": 10}}, datetime="2024-02/2024-03")
    assert len(harvest(spec).asked) == 2 + 1  # and January, whose file is gone
    assert covers(spec) == {
        item["id"]: item["properties"]["eo:cloud_cover"]
        for item in stac.items.values()
        if item["properties"]["eo:cloud_cover"] < 10 and item["properties"]["datetime"] >= "2024-02"
    }


def test_a_lost_or_damaged_file_is_harvested_again(stac, spec_of, harvest) -> None:
    spec = spec_of()
    harvest(spec)
    (Path(spec.path) / "2024-02.parquet").unlink()
    assert list(harvest(spec, NOW + timedelta(days=2)).asked) == ["2024-02"]
    (Path(spec.path) / "2024-01.parquet").write_bytes(b"PAR1 no more")
    harvest(spec, NOW + timedelta(days=2), force=True)
    assert covers(spec) == expected(stac)
    # With a damaged ledger all windows are asked for, but equal files are not written again.
    before = mtimes(spec)
    Path(Workspace.of(spec).harvest_ledger).write_text("{")
    assert len(harvest(spec, NOW + timedelta(days=2)).asked) == 12
    assert mtimes(spec) == before


def test_other_files_in_the_folder_are_not_deleted(stac, spec_of, harvest) -> None:
    spec = spec_of(datetime="2024-01")
    Path(spec.path).mkdir(parents=True)
    mine = Path(spec.path) / "mine.parquet"
    mine.write_bytes(b"")
    harvest(spec)
    assert mine.exists()


def test_a_harvest_continues_after_the_windows_that_a_failed_one_finished(stac, spec_of, harvest) -> None:
    spec = spec_of()
    stac.fault = lambda number, method, path: "400" if number > 12 else None
    with pytest.raises(HarvestError, match="the host answers 400"):
        harvest(spec)
    done = {key for key, state in read_ledger(Workspace.of(spec)).windows.items() if state.asked}
    assert done
    stac.fault = lambda number, method, path: None
    report = harvest(spec, NOW + timedelta(hours=1))
    assert report.full
    assert not done & report.asked.keys()
    assert covers(spec) == expected(stac)
    assert not harvest(spec, NOW + timedelta(hours=2)).asked


def test_a_moved_item_is_stored_once_after_a_harvest_that_was_killed(stac, spec_of, harvest, monkeypatch) -> None:
    spec = spec_of()
    harvest(spec)
    stac.change("scene-00003", "2024-12-21T00:00:00Z", datetime="2024-03-05T00:00:00Z", version="x")
    stac.change("scene-00300", "2024-12-21T00:00:00Z", version=7)
    with monkeypatch.context() as patched:
        patched.setattr(HarvestStore, "windows_that_share", _killed)
        with pytest.raises(KeyboardInterrupt):
            harvest(spec, NOW + timedelta(days=2))
    assert harvest(spec, NOW + timedelta(days=3)).failed == {}
    rows = stored(spec)
    assert rows["scene-00003"]["datetime"] == datetime(2024, 3, 5, tzinfo=UTC)
    assert rows["scene-00300"]["version"] == "7"


def _killed(_: HarvestStore) -> list[str]:
    raise KeyboardInterrupt


@pytest.mark.parametrize("held", [0, 100_000])
def test_windows_that_are_written_in_several_batches_are_complete(stac, spec_of, harvest, monkeypatch, held) -> None:
    monkeypatch.setattr(window_rows, "_HELD_BYTES", held)
    monkeypatch.setattr(window_rows, "BATCH_ITEMS", 25)
    monkeypatch.setattr(window_rows, "_GROUP_ROWS", 60)
    spec = spec_of()
    harvest(spec)
    assert covers(spec) == expected(stac)
    assert pq.ParquetFile(Path(spec.path) / "2024-01.parquet").num_row_groups > 1


# --- items as rows --------------------------------------------------------------------------------------------------


def test_items_that_break_the_record_contract_are_stored_and_counted(stac, spec_of, harvest, caplog) -> None:
    for number, part in enumerate(["geometry", "assets", "id"]):
        item = make_item(number)
        item[part] = None
        stac.items["scenes", str(number)] = item
        del stac.items["scenes", f"scene-{number:05}"]
    del stac.items["scenes", "1"]["assets"]
    spec = spec_of()
    report = harvest(spec)
    assert report.without == {"geometry": 1, "assets": 1, "id": 1}
    assert "1 harvested items have no geometry" in caplog.text
    assert ds.dataset(spec.path).count_rows() == 400
    with pytest.raises(InvalidRecordError, match=r"the record has no id.*max_rejected"):
        ra.build(spec)


def test_properties_of_differing_types_are_text_in_all_files(stac, spec_of, harvest) -> None:
    spec = spec_of()
    stac.change("scene-00001", None, version=1, odd={"a": [1, None, {"b": 2.0}]}, empty={})
    harvest(spec)
    before = mtimes(spec)
    stac.change("scene-00201", "2024-12-21T00:00:00Z", version="2b", odd=["x"])
    stac.items["scenes", "scene-00201"]["assets"]["B02"]["roles"] = "data"
    report = harvest(spec, NOW + timedelta(days=2))
    assert list(report.asked) == ["2024-02"]
    rows = stored(spec)
    assert (rows["scene-00001"]["version"], rows["scene-00201"]["version"]) == ("1", "2b")
    assert rows["scene-00001"]["odd"] == '{"a":[1,null,{"b":2}]}'
    assert rows["scene-00201"]["odd"] == '["x"]'
    assert rows["scene-00001"]["assets"]["B02"]["roles"] == '["data"]'
    assert {name for name, at in mtimes(spec).items() if at != before[name]} == set(before)
    # A property that became text stays text, and does not count as a change.
    after = mtimes(spec)
    harvest(spec, NOW + timedelta(days=3), force=True)
    assert mtimes(spec) == after
    ra.build(spec)
    assert len(ra.load(spec.published_path)) == 400


def test_bands_may_have_other_names_than_assets(stac, spec_of, harvest) -> None:
    spec = spec_of(band_map={"blue": "B02", "green": "B03", "again": "B02"}, band_index_map={"again": 1})
    harvest(spec)
    assets = stored(spec)["scene-00000"]["assets"]
    assert {band: (asset["href"], asset.get("band_index")) for band, asset in assets.items()} == {
        "blue": ("https://data.example/0/B02.tif", None),
        "green": ("https://data.example/0/B03.tif", None),
        "again": ("https://data.example/0/B02.tif", 1),
    }


def test_items_that_name_local_files_are_refused(stac, spec_of, harvest, server) -> None:
    for item in stac.items.values():
        item["assets"]["B02"]["href"] = "/etc/passwd"
    spec = spec_of(datetime="2024-01").model_copy(update={"enrich_cog": True, "band_codes": ("B02",)})
    harvest(spec)
    with pytest.raises(EnrichmentError, match="local_files"):
        ra.build(spec)


# --- declarations ----------------------------------------------------------------------------------------------------


def test_a_build_before_the_first_harvest_is_refused(spec_of) -> None:
    with pytest.raises(NotHarvestedError, match="not harvested yet: run rasteret-assets harvest scenes"):
        ra.build(spec_of())


def test_a_build_after_a_harvest_without_items_says_which_options_to_check(spec_of, harvest) -> None:
    spec = spec_of(datetime="1999")
    assert harvest(spec).items == 0
    with pytest.raises(NotHarvestedError, match="found no item: check collections, bbox and datetime"):
        ra.build(spec)


@pytest.mark.parametrize("datetime_", ["2024", None])
@pytest.mark.parametrize(("name", "hint"), [("scene", "did you mean 'scenes'"), ("landsat", "it has scenes$")])
def test_an_unknown_collection_of_an_api_is_named(stac, spec_of, harvest, name, hint, datetime_) -> None:
    with pytest.raises(HarvestError, match=rf"^{stac.url}: the API has no collection '{name}'.*{hint}"):
        harvest(spec_of(collections=[name], datetime=datetime_))


def test_an_api_that_does_not_describe_its_collections_is_not_doubted(stac, spec_of, harvest) -> None:
    stac.fault = lambda number, method, path: "404" if path.startswith("/collections") else None
    assert harvest(spec_of(datetime="1999")).items == 0
    assert harvest(spec_of()).items == 400


def test_a_collection_without_harvest_options_cannot_be_harvested(tmp_path) -> None:
    with pytest.raises(SpecError, match="no harvest options"):
        ra.harvest(ra.CollectionSpec.of(path="x.parquet", name="x", workspace_dir=tmp_path))


def test_the_ledger_lists_each_window_and_its_times(stac, spec_of, harvest) -> None:
    spec = spec_of(datetime="2024-01/2024-02")
    harvest(spec)
    document = json.loads(Path(Workspace.of(spec).harvest_ledger).read_text())
    assert sorted(document["windows"]) == ["2024-01", "2024-02"]
    january = document["windows"]["2024-01"]
    assert (january["start"], january["end"]) == ("2024-01-01T00:00:00Z", "2024-02-01T00:00:00Z")
    assert january["asked"] == january["changed"] == text_of(NOW)
    assert january["updated"] == "2024-12-01T00:00:00Z"


def test_items_are_harvested_to_a_bucket(stac, spec_of, harvest) -> None:
    spec = ra.CollectionSpec.of(
        name="scenes", workspace_dir="s3://bucket/w", harvest={"stac_api": stac.url, "datetime": "2024-01/2024-03"}
    )
    assert spec.path == "s3://bucket/w/scenes_harvest"
    with bucket_server("bucket") as endpoint:
        fs = filesystem_of(endpoint)
        assert ra.harvest(spec, workspace_filesystem=fs).items == 400
        assert ra.harvest(spec, workspace_filesystem=fs).asked == {}
        assert ra.build(spec, workspace_filesystem=fs).totals["records"] == 400
        files = fs.get_file_info(pafs.FileSelector("bucket/w/scenes_harvest"))
        assert sorted(file.base_name for file in files) == [f"2024-0{month}.parquet" for month in (1, 2, 3)]


def test_windows_whose_items_have_different_properties_build(stac, spec_of, harvest) -> None:
    stac.change("scene-00300", None, **{"proj:code": "EPSG:32631", "gsd": 10})
    stac.change("scene-00001", None, gsd=2.5)
    spec = spec_of()
    harvest(spec)
    ra.build(spec)
    table = ds.dataset(spec.published_path, partitioning="hive").to_table()
    gsd = dict(zip(table["id"].to_pylist(), table["gsd"].to_pylist(), strict=True))
    assert (gsd["scene-00001"], gsd["scene-00300"], gsd["scene-00002"]) == (2.5, 10, None)
