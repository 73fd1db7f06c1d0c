"""Windows of time: what they are called, what they cover, and which of them holds a moment."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from rasteret_assets import CollectionSpec
from rasteret_assets.errors import SpecError
from rasteret_assets.harvest_options import Interval, interval_of
from rasteret_assets.harvesting.windows import Calendar, Window, plan_windows, time_of

POINT = {"type": "Point", "coordinates": [0, 0]}
NOW = datetime(2024, 5, 20, tzinfo=UTC)


def at(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "interval"),
    [
        ("2024", (at(2024, 1, 1), at(2025, 1, 1))),
        ("2024-02", (at(2024, 2, 1), at(2024, 3, 1))),
        ("2024-12-31", (at(2024, 12, 31), at(2025, 1, 1))),
        ("2024-01-01/2024-06-30", (at(2024, 1, 1), at(2024, 7, 1))),
        ("2024-01-01/..", (at(2024, 1, 1), None)),
        ("/2024", (None, at(2025, 1, 1))),
        ("../..", (None, None)),
        ("2024-01-01T12:00:00+02:00/2024-01-02T00:00:00Z", (at(2024, 1, 1, 10), at(2024, 1, 2, 0, 0, 0, 1))),
    ],
)
def test_datetimes_of_stac_are_parsed_to_intervals(text, interval) -> None:
    assert interval_of(text) == interval


@pytest.mark.parametrize(
    "text",
    [
        "yesterday", "2024-13", "2024-02-30", "2024-06/2024-01", "2024-1-1", "1/2/3", "",
        "0001-01-01T00:00:00+05:00/..", "../9999-12-31T23:59:59.999999Z",
    ],
)  # fmt: skip
def test_wrong_datetimes_are_refused(text, tmp_path) -> None:
    with pytest.raises(SpecError, match=r"harvest\.datetime: datetime '.*write such as 2024-01-01/2024-06-30"):
        CollectionSpec.of(name="x", workspace_dir=tmp_path, harvest={"stac_api": "http://x", "datetime": text})


def test_windows_cover_the_interval_without_gaps_and_overlaps() -> None:
    windows = plan_windows(Interval(at(2023, 12, 30), at(2024, 3, 2)), Interval(None, None), "month", NOW)
    assert [window.key for window in windows] == ["2023-12", "2024-01", "2024-02", "2024-03"]
    assert windows[0].start == at(2023, 12, 30)
    assert windows[-1].end == at(2024, 3, 2)
    assert [window.end for window in windows[:-1]] == [window.start for window in windows[1:]]
    assert windows[1].asked == "2024-01-01T00:00:00Z/2024-02-01T00:00:00Z"


@pytest.mark.parametrize("size", ["year", "month", "day"])
def test_parts_of_a_window_cover_it_without_gaps_and_overlaps(size) -> None:
    (window,) = plan_windows(Interval(at(2024, 2, 1), at(2024, 2, 2)), Interval(None, None), size, NOW)
    while parts := window.parts():
        assert (parts[0].start, parts[-1].end) == (window.start, window.end)
        assert [part.end for part in parts[:-1]] == [part.start for part in parts[1:]]
        assert all(part.key.startswith(window.key) for part in parts)
        window = parts[-1]
    assert window.key == "2024-02-01T23"


def test_windows_that_were_split_before_are_split_again() -> None:
    window = Window(key="2024", start=at(2024, 1, 1), end=at(2025, 1, 1))
    leaves = window.leaves(["2024-01", "2024-02-03", "2023-01-01"])
    assert [leaf.key for leaf in leaves][:3] == ["2024-01", "2024-02-01", "2024-02-02"]
    assert len(leaves) == 11 + 29
    assert window.leaves(["2024", "2023-05"]) == [window]


@pytest.mark.parametrize(
    ("moment", "key"),
    [
        (at(2024, 4, 30, 23, 59, 59), "2024-04"),
        (at(2024, 5, 1), "2024-05"),
        (at(1999, 1, 1), "before"),
        (at(2030, 1, 1), "after"),
        (None, None),
    ],
)
def test_a_moment_has_one_window(moment, key) -> None:
    windows = plan_windows(Interval(None, None), Interval(at(2024, 3, 7), None), "month", NOW)
    assert [window.key for window in windows] == ["before", "2024-03", "2024-04", "2024-05", "after"]
    found = Calendar(windows).window_of(moment)
    assert (found and found.key) == key


def test_moments_after_the_interval_have_no_window_and_earlier_ones_have_the_first() -> None:
    windows = plan_windows(Interval(at(2024, 1, 1), at(2024, 3, 1)), Interval(None, None), "month", NOW)
    calendar = Calendar(windows)
    assert calendar.window_of(at(2024, 3, 1)) is None
    assert calendar.window_of(at(2023, 1, 1)) is windows[0]


@pytest.mark.parametrize(
    ("properties", "moment"),
    [
        ({"datetime": "2024-05-01T00:00:00Z", "start_datetime": "2023-01-01T00:00:00Z"}, at(2024, 5, 1)),
        ({"datetime": None, "start_datetime": "2023-01-01T00:00:00Z"}, at(2023, 1, 1)),
        ({"datetime": "nonsense", "end_datetime": "2023-01-01T02:00:00+02:00"}, at(2023, 1, 1)),
        ({"datetime": 5}, None),
        (None, None),
    ],
)
def test_the_time_of_an_item_is_its_datetime_or_else_its_start_or_end(properties, moment) -> None:
    assert time_of({"properties": properties}) == moment


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "one of stac_api and stac_catalog"),
        ({"stac_api": "http://x", "stac_catalog": "y"}, "both stac_api and stac_catalog: leave one of them out"),
        ({"stac_api": "x.example/v1"}, r"harvest\.stac_api: 'x\.example/v1' does not begin with https://"),
        (
            {"stac_api": "http://x", "bbox": [0, 0, 1, 1], "intersects": {"type": "Point", "coordinates": [0, 0]}},
            "one of",
        ),
        ({"stac_api": "http://x", "bbox": [0, 5, 1]}, r"harvest\.bbox=.*: value 4 is missing"),
        ({"stac_api": "http://x", "bbox": [0, 5, 1, 1]}, r"harvest\.bbox: .*west, south, east, north"),
        ({"stac_api": "http://x", "intersects": {"type": "Point"}}, "not a GeoJSON geometry"),
        ({"stac_api": "http://x", "collections": "a"}, r"one name: write a list, \[a\]"),
        ({"stac_catalog": "y", "query": {"x": {"lt": 1}}}, "filter_expr"),
        ({"stac_api": "http://x", "band_index_map": {"a": 0}}, "band_map does not"),
        ({"stac_api": "http://x", "windows": "month"}, "did you mean 'window'"),
    ],
)
def test_wrong_combinations_of_options_are_refused(options, sentence, tmp_path) -> None:
    with pytest.raises(SpecError, match=sentence):
        CollectionSpec.of(name="x", workspace_dir=tmp_path, harvest=options)


def test_the_harvest_folder_stands_beside_the_collection_and_path_is_refused(tmp_path) -> None:
    asked = {"stac_api": "http://x"}
    spec = CollectionSpec.of(name="x", workspace_dir=tmp_path, harvest=asked)
    assert spec.path == str(tmp_path / "x_harvest")
    assert CollectionSpec.of(name="x", workspace_dir=tmp_path / "y_records", harvest=asked).path.endswith("/y_harvest")
    assert CollectionSpec(**spec.model_dump()) == spec
    with pytest.raises(SpecError, match="leave path out"):
        CollectionSpec.of(path="a.parquet", name="x", workspace_dir=tmp_path, harvest=asked)
    with pytest.raises(SpecError, match="give it a name"):
        CollectionSpec.of(harvest=asked)
    assert spec.content_hash == CollectionSpec.of(path="z", name="x", workspace_dir=tmp_path).content_hash
