"""Filters of a collection by space, time and clouds are lazy, composable and exact."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from rasteret_assets import schema
from rasteret_assets.collection import as_collection, load
from rasteret_assets.collection.table.dates import parse_date_range
from rasteret_assets.errors import CollectionError, SpecError, WindowError
from rasteret_assets.partitions import hive_schema

from .support import record, records_table


def opened(rows, **types):
    return as_collection(records_table(rows, **types), require_band_metadata=False)


def ids(collection) -> list[str]:
    return sorted(collection.to_table(["id"])["id"].to_pylist())


def at(name, *bounds, **columns):
    return record(name, footprint=shapely.box(*bounds), **columns)


# --- space -----------------------------------------------------------------------------------------------------------


def test_bbox_is_exact_where_a_footprint_is_tilted():
    diamond = shapely.Polygon([(5, 0), (10, 5), (5, 10), (0, 5)])
    tilted = opened([record("tilted", footprint=diamond)])
    assert ids(tilted.subset(bbox=(0, 0, 1, 1))) == []
    assert ids(tilted.subset(bbox=(4, 4, 6, 6))) == ["tilted"]
    assert len(tilted.subset(bbox=(9, 9, 10, 10))) == 0


CROSSING = {
    "split at 180": shapely.MultiPolygon([shapely.box(178, 0, 180, 5), shapely.box(-180, 0, -178, 5)]),
    "past 180": shapely.box(178, 0, 182, 5),
    "jumping": shapely.Polygon([(178, 0), (-178, 0), (-178, 5), (178, 5)]),
}


@pytest.mark.parametrize("form", CROSSING)
def test_footprints_over_the_antimeridian(form):
    rows = [
        record("over", footprint=CROSSING[form], bbox=(178, 0, -178, 5)),
        at("west", -179.5, 0, -178.5, 5),
        at("far", 0, 0, 10, 5),
    ]
    found = opened(rows)
    assert ids(found.subset(bbox=(179, 1, 180, 2))) == ["over"]
    assert ids(found.subset(bbox=(-179.9, 1, -179.6, 2))) == ["over"]
    assert ids(found.subset(bbox=(-178.9, 1, -170, 2))) == ["over", "west"]
    assert ids(found.subset(bbox=(-170, 1, 170, 2))) == ["far"]
    assert ids(found.subset(bbox=(179, 1, -179, 2))) == ["over", "west"]
    assert ids(found.subset(bbox=(-180, -90, 180, 90))) == ["far", "over", "west"]
    assert ids(found.subset(geometries=shapely.Point(-179.8, 3))) == ["over"]


def test_query_over_the_antimeridian_finds_both_sides():
    rows = [at("east", 175, 0, 176, 1), at("west", -176, 0, -175, 1), at("middle", 0, 0, 1, 1)]
    assert ids(opened(rows).subset(bbox=(174, -1, -174, 2))) == ["east", "west"]
    assert ids(opened(rows).subset(bbox=(175.5, -1, -178, 2))) == ["east"]


@settings(max_examples=60)
@given(st.data())
def test_bbox_finds_what_shapely_finds(data):
    lon, lat = st.floats(-180, 180), st.floats(-90, 90)

    def draw_box():
        (x0, x1), (y0, y1) = sorted(data.draw(st.tuples(lon, lon))), sorted(data.draw(st.tuples(lat, lat)))
        return x0, y0, x1, y1

    boxes = [draw_box() for _ in range(data.draw(st.integers(0, 8)))]
    query = draw_box()
    if query[0] == query[2] or query[1] == query[3]:
        return
    rows = [record(str(n), footprint=shapely.box(*box)) for n, box in enumerate(boxes)]
    expected = [str(n) for n, box in enumerate(boxes) if shapely.box(*box).intersects(shapely.box(*query))]
    assert ids(opened(rows).subset(bbox=query)) == expected


def test_geometries_match_any_and_calls_match_all():
    rows = [at("a", 0, 0, 1, 1), at("b", 2, 0, 3, 1), at("ab", 0, 0, 3, 1)]
    near_a, near_b = shapely.Point(0.5, 0.5), shapely.Point(2.5, 0.5)
    found = opened(rows)
    assert ids(found.subset(geometries=[near_a, near_b])) == ["a", "ab", "b"]
    assert ids(found.subset(geometries=near_a).subset(geometries=near_b)) == ["ab"]


def test_many_areas_prune_by_their_common_bounds():
    rows = [at(str(n), n, 0, n + 0.5, 0.5) for n in range(100)]
    areas = [shapely.Point(n + 0.75, 0.25).buffer(0.1) for n in range(99)]
    assert ids(opened(rows).subset(geometries=areas)) == []
    assert ids(opened(rows).subset(geometries=[*areas, shapely.Point(7.2, 0.2)])) == ["7"]


def test_records_without_footprint_meet_no_area():
    assert ids(opened([record("none"), at("some", 0, 0, 1, 1)]).subset(bbox=(-180, -90, 180, 90))) == ["some"]


def test_damaged_footprint_is_an_error_not_a_miss():
    row = at("a", 0, 0, 1, 1)
    row["geometry"] = b"no wkb"
    with pytest.raises(CollectionError, match="not WKB"):
        ids(opened([row]).subset(bbox=(0, 0, 1, 1)))


@pytest.mark.parametrize("bbox", [(0, 1, 2), (0, 5, 1, 1), (0, 0, float("nan"), 1), "abcd", (200, 0, 190, 1)])
def test_a_wrong_bbox_is_refused(bbox):
    with pytest.raises(WindowError, match="bbox="):
        opened([]).subset(bbox=bbox)


def test_projected_coordinates_are_refused_as_lonlat():
    with pytest.raises(WindowError, match=r"not in lon/lat.*geometry_crs"):
        opened([]).subset(bbox=(500_000, 5_000_000, 600_000, 5_100_000))


# --- time ------------------------------------------------------------------------------------------------------------


def moment(*parts: int) -> dt.datetime:
    return dt.datetime(*parts, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("given_range", "start", "stop"),
    [
        (("2024-01-01", "2024-01-31"), moment(2024, 1, 1), moment(2024, 2, 1)),
        (("2024-02", "2024-12"), moment(2024, 2, 1), moment(2025, 1, 1)),
        (("2023", "2024"), moment(2023, 1, 1), moment(2025, 1, 1)),
        ((dt.date(2024, 2, 29), None), moment(2024, 2, 29), None),
        ((None, "2024-02-28T12:00:00Z"), None, moment(2024, 2, 28, 12) + dt.timedelta(microseconds=1)),
        (("2024-01-01T02:00:00+02:00", None), moment(2024, 1, 1), None),
        ((dt.datetime(2024, 1, 1), np.datetime64("2024-01-02")), moment(2024, 1, 1), moment(2024, 1, 3)),  # noqa: DTZ001
        ("2024-05", moment(2024, 5, 1), moment(2024, 6, 1)),
        ("2023-12/2024-02-10", moment(2023, 12, 1), moment(2024, 2, 11)),
        ("../2024", None, moment(2025, 1, 1)),
        ("2024-03-01T12:00:00Z/..", moment(2024, 3, 1, 12), None),
        ("2024-03-01/", moment(2024, 3, 1), None),
        (slice("2024-05", None), moment(2024, 5, 1), None),
        (slice(None, dt.date(2024, 5, 1)), None, moment(2024, 5, 2)),
        (dt.date(2024, 2, 29), moment(2024, 2, 29), moment(2024, 3, 1)),
        (np.array(["2024-01-01", "NaT"], "M8[D]"), moment(2024, 1, 1), None),
        # Nothing lies after the year 9999, which some write for an open end.
        ("2024-01-01/9999-12-31", moment(2024, 1, 1), None),
        ((dt.date(2024, 1, 1), dt.date.max), moment(2024, 1, 1), None),
        (("9999", "9999-12"), moment(9999, 1, 1), None),
        ((None, dt.datetime.max), None, None),  # noqa: DTZ901
    ],
)
def test_date_ranges(given_range, start, stop):
    interval = parse_date_range(given_range)
    assert (interval.start, interval.stop) == (start, stop)


NO_RANGES = [
    "soon", "2024/2023", "a/b/c", slice("2024", "2025", 2), None, ("2024",), ("yesterday", None),
    ("2024-02", "2024-01"), ("2024-13", None), ("0001-01-01T00:00:00+05:00", None),
]  # fmt: skip


@pytest.mark.parametrize("value", NO_RANGES, ids=str)
def test_wrong_date_ranges_are_refused(value):
    with pytest.raises(SpecError, match="date_range"):
        parse_date_range(value)


def test_last_day_is_included_whole_and_null_never_matches():
    rows = [
        record("first", moment=moment(2024, 1, 1)),
        record("evening", moment=moment(2024, 1, 31, 23, 59, 59)),
        record("after", moment=moment(2024, 2, 1)),
        record("undated", moment=None),
    ]
    assert ids(opened(rows).subset(date_range=("2024-01-01", "2024-01-31"))) == ["evening", "first"]
    assert ids(opened(rows).subset(date_range=(None, None))) == ["after", "evening", "first", "undated"]


def test_intervals_match_by_overlap():
    types = {"start_datetime": schema.TIMESTAMP, "end_datetime": schema.TIMESTAMP}

    def interval(name, start, end):
        return record(name, moment=None, start_datetime=start, end_datetime=end)

    rows = [
        interval("around", moment(2023, 1, 1), moment(2025, 1, 1)),
        interval("before", moment(2023, 1, 1), moment(2023, 12, 31)),
        interval("touching", moment(2024, 1, 31), moment(2024, 3, 1)),
        interval("start only", moment(2024, 1, 5), None),
        interval("neither", None, None),
        record("dated", moment=moment(2024, 1, 7), start_datetime=None, end_datetime=None),
    ]
    found = opened(rows, **types).subset(date_range=("2024-01-01", "2024-01-31"))
    assert ids(found) == ["around", "dated", "start only", "touching"]


@pytest.mark.parametrize("kind", [pa.timestamp("s"), pa.timestamp("ns", "UTC"), pa.timestamp("ms", "Europe/Berlin")])
def test_timestamps_of_other_collections(kind):
    table = records_table([record("a", moment=moment(2024, 1, 31, 23)), record("b", moment=moment(2024, 2, 1))])
    column = table["datetime"].cast(pa.timestamp("us", "UTC")).cast(kind)
    table = table.set_column(table.schema.get_field_index("datetime"), "datetime", column)
    assert ids(as_collection(table).subset(date_range=("2024-01", "2024-01"))) == ["a"]


def test_partitions_outside_the_range_are_not_opened(tmp_path):
    rows = [record(f"{month:02}", moment=moment(2024, month, 5)) for month in range(1, 13)]
    rows.append(record("undated", moment=None))
    hive = ds.partitioning(hive_schema("month"), flavor="hive")
    ds.write_dataset(records_table(rows), tmp_path / "c", format="parquet", partitioning=hive)
    collection = load(tmp_path / "c")
    assert len(collection) == 13
    for path in (tmp_path / "c").rglob("*.parquet"):
        if "month=3" not in str(path) and "month=4" not in str(path):
            path.unlink()
    assert ids(collection.subset(date_range=("2024-03-02", "2024-04-06"))) == ["03", "04"]


def test_year_folders_of_a_user_are_not_partitions():
    row = record("a", moment=moment(2024, 1, 1))
    row |= {"year": 1999, "month": 7}
    assert ids(opened([row]).subset(date_range=("2024", "2024"))) == ["a"]


# --- clouds and anything else ----------------------------------------------------------------------------------------


def test_unknown_cloud_cover_is_not_clear():
    clouds = {"clear": 0.0, "limit": 20.0, "cloudy": 80.0, "unknown": None}
    rows = [record(name, **{"eo:cloud_cover": value}) for name, value in clouds.items()]
    found = opened(rows, **{"eo:cloud_cover": pa.float64()})
    assert ids(found.subset(cloud_cover_lt=20)) == ["clear"]
    with pytest.raises(CollectionError, match="'eo:cloud_cover'"):
        opened([]).subset(cloud_cover_lt=20)
    with pytest.raises(SpecError, match="must be a number of percent"):
        found.subset(cloud_cover_lt="20")
    texts = opened([record("a", **{"eo:cloud_cover": "9"})], **{"eo:cloud_cover": pa.string()})
    with pytest.raises(CollectionError, match="needs numbers in 'eo:cloud_cover', which holds string"):
        texts.subset(cloud_cover_lt=20)


def test_where_takes_expressions_only():
    rows = [record("a", gsd=10), record("b", gsd=20)]
    found = opened(rows, gsd=pa.int32())
    assert ids(found.where(pc.field("gsd") < 15)) == ["a"]
    with pytest.raises(SpecError, match="needs a pyarrow expression"):
        found.where("gsd < 15")
    with pytest.raises(SpecError, match=r"does not fit.*there is no column 'gds', there are: id, .*gsd"):
        found.where(pc.field("gds") < 15)


def test_filters_add_up_and_leave_the_collection_unchanged():
    rows = [at(f"{n}", n, 0, n + 0.5, 1, **{"eo:cloud_cover": float(n)}) for n in range(6)]
    whole = opened(rows, **{"eo:cloud_cover": pa.float64()})
    part = whole.subset(cloud_cover_lt=4)
    smaller = part.subset(bbox=(1.2, 0, 9, 1)).where(pc.field("id") != "2")
    assert (len(whole), len(part)) == (6, 4)
    assert ids(smaller) == ["1", "3"]
    assert ids(whole.where(pc.field("id") != "2").subset(bbox=(1.2, 0, 9, 1), cloud_cover_lt=4)) == ["1", "3"]
    assert len(smaller) == 2
    assert smaller.bounds == (1.0, 0.0, 3.5, 1.0)
    with pytest.raises(AttributeError):
        whole.name = "other"


def test_nothing_is_read_before_rows_are_asked_for(tmp_path):
    path = tmp_path / "c.parquet"
    import pyarrow.parquet as pq  # noqa: PLC0415

    pq.write_table(records_table([at("a", 0, 0, 1, 1)]), path)
    collection = load(path)
    path.write_bytes(b"gone")
    narrowed = collection.subset(bbox=(0, 0, 1, 1), date_range=("2024", None)).where(pc.field("id") == "a")
    with pytest.raises(CollectionError, match=r"c\.parquet"):
        narrowed.to_table()
