"""Ids, times and CRSs in every spelling a record table uses."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, date, datetime

import pyarrow as pa
import pyproj
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasteret_assets.columns.scalars import normalize_crs, normalize_ids, normalize_times
from rasteret_assets.errors import RecordError
from rasteret_assets.schema import TIMESTAMP

NOON = datetime(2024, 5, 6, 12, 0, 0, 123456, tzinfo=UTC)


def times(column: pa.Array) -> list[datetime | None]:
    result, bad = normalize_times(column, "datetime")
    assert result.type == TIMESTAMP
    assert not any(bad.to_pylist())
    return result.to_pylist()


@pytest.mark.parametrize(
    "column",
    [
        pa.array([NOON, None], pa.timestamp("us", tz="UTC")),
        pa.array([NOON, None], pa.timestamp("ns", tz="America/New_York")),
        pa.array([NOON.replace(tzinfo=None), None], pa.timestamp("us")),
        pa.array(["2024-05-06T12:00:00.123456Z", None]),
        pa.array(["2024-05-06T14:00:00.123456+02:00", ""]),
        pa.array(["2024-05-06 07:00:00.123456789-0500", " "], pa.large_string()),
        pa.array(["2024-05-06t12:00:00,123456z", None], pa.string_view()),
        pa.array(["2024-05-06T12:00:00.123456", None]).dictionary_encode(),
        pa.array(["20240506T120000.123456Z", None]),
        pa.array(["20240506T140000,123456+0200", None]),
        pa.array(["2024-05-06 12:00:00.123456 UTC", None]),
        pa.array(["2024/05/06 12:00:00.123456", None]),
        pa.array(["2024/5/6T14:00:00.123456+02:00", None]),
    ],
    ids=lambda column: str(column.type),
)
def test_instants_become_utc_microseconds(column: pa.Array) -> None:
    assert times(column) == [NOON, None]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([2024, None], pa.int16()), pa.array([2024.0, float("nan")]), pa.array([date(2024, 1, 1), None]),
        pa.array([date(2024, 1, 1), None], pa.date64()), pa.array(["2024-01-01", None]),
        pa.array(["2024-01-01T00:00Z", None]), pa.array(["2024", None]), pa.array(["2024-01", None]),
        pa.array(["20240101", None]), pa.array(["2024/01/01", None]), pa.array(["2024/1/1", None]),
    ],
    ids=lambda column: str(column.type),
)  # fmt: skip
def test_years_and_dates_begin_at_midnight(column: pa.Array) -> None:
    assert times(column) == [datetime(2024, 1, 1, tzinfo=UTC), None]


def test_one_column_may_mix_spellings() -> None:
    column = pa.array(["2024", "2024-01-01T00:00:00Z", "20240101", None, "2024-01", "soon", "202401", "20240101T00"])
    result, bad = normalize_times(column, "datetime")
    first = datetime(2024, 1, 1, tzinfo=UTC)
    assert result.to_pylist() == [first, first, first, None, first, None, None, None]
    assert bad.to_pylist() == [False] * 5 + [True] * 3


def test_what_does_not_parse_is_marked_and_the_rest_kept() -> None:
    column = pa.array(["2024-05-06T12:00:00.123456Z", "soon", "2024-13-01", "", None, "2024-02-30T00:00:00Z"])
    result, bad = normalize_times(column, "datetime")
    assert result.to_pylist() == [NOON, None, None, None, None, None]
    assert bad.to_pylist() == [False, True, True, False, False, True]


@pytest.mark.parametrize("values", [[20190101], [1697997559024], [1697997559024000000], [2024.5], [0], [-5]])
def test_numbers_that_are_not_years_are_refused(values: list[float]) -> None:
    with pytest.raises(RecordError, match=r"column 'datetime' holds numbers such as .*, which are not years"):
        normalize_times(pa.array(values), "datetime")


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["1970-01-01", "9999-12-31T23:59:59-14:00"]),
        pa.array(["1970-01-01", "0001-01-01T00:00:00+02:00", "2024-02-30"]),
        pa.array(["1970-01-01", "0000-01-01T00:00:00Z"]),
        pa.array([0, 2**62], pa.timestamp("us")),
        pa.array([0, -(2**62)], pa.timestamp("ms", "Europe/Berlin")),
        pa.array([0, 253_402_300_800], pa.timestamp("s")),
        pa.array([0, 2**31 - 1], pa.date32()),
        pa.array([0, 86_400_000 * 10**10], pa.date64()),
    ],
    ids=str,
)
def test_instants_beyond_the_calendar_do_not_parse(column: pa.Array) -> None:
    result, bad = normalize_times(column, "datetime")
    assert result.to_pylist() == [datetime(1970, 1, 1, tzinfo=UTC)] + [None] * (len(column) - 1)
    assert bad.to_pylist() == [False] + [True] * (len(column) - 1)


def test_the_ends_of_the_calendar_parse() -> None:
    column = pa.array([-62_135_596_800, 253_402_300_799], pa.timestamp("s"))
    ends = [datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)]
    assert times(column) == ends
    assert times(pa.array(["0001-01-01", "9999-12-31T23:59:59Z"])) == ends


def test_a_type_that_holds_no_time_is_refused() -> None:
    with pytest.raises(RecordError, match="column 'datetime' is bool"):
        normalize_times(pa.array([True]), "datetime")


@given(
    st.datetimes(min_value=datetime(1000, 1, 1), max_value=datetime(9999, 12, 31), timezones=st.timezones()),  # noqa: DTZ001
    st.sampled_from(["T", " "]),
)
def test_isoformat_of_any_zone_comes_back(instant: datetime, separator: str) -> None:
    text = instant.isoformat(separator)
    offset = instant.utcoffset()
    # RFC 3339 has no seconds in an offset; historical zones do.
    if offset is None or offset.seconds % 60 or not 1000 <= instant.astimezone(UTC).year <= 9999:
        return
    assert times(pa.array([text])) == [instant.astimezone(UTC)]


def test_ids_are_text() -> None:
    assert normalize_ids(pa.array([7, None])).to_pylist() == ["7", None]
    assert normalize_ids(pa.array(["a/b", "", None], pa.string_view())).to_pylist() == ["a/b", None, None]
    assert normalize_ids(pa.array(["x", "x"]).dictionary_encode()).type == pa.string()
    numbers = [uuid.uuid4(), None, uuid.UUID(int=255)]
    uuids = pa.array([number and number.bytes for number in numbers], pa.uuid())
    assert normalize_ids(uuids).to_pylist() == [number and str(number) for number in numbers]
    assert normalize_ids(uuids.slice(2)).to_pylist() == [str(numbers[2])]
    assert normalize_ids(uuids.slice(3)).to_pylist() == []
    with pytest.raises(RecordError, match="column 'id' is double"):
        normalize_ids(pa.array([1.0]))


def test_text_that_is_not_marked_as_text_is_read() -> None:
    assert normalize_ids(pa.array([b"a", b"", None])).to_pylist() == ["a", None, None]
    assert times(pa.array([b"2024-01-02"])) == [datetime(2024, 1, 2, tzinfo=UTC)]
    assert crs(**{"proj:code": [b"EPSG:32629", b""]})[0] == [32629, None]
    with pytest.raises(RecordError, match="column 'id' is binary"):
        normalize_ids(pa.array([b"\xff"]))


def crs(**columns: list) -> tuple[list, list, int]:
    codes, texts, conflicts = normalize_crs(pa.table(columns).to_batches()[0])
    assert (codes.type, texts.type) == (pa.int32(), pa.string())
    return codes.to_pylist(), texts.to_pylist(), conflicts


@pytest.mark.parametrize(
    "value",
    [32629, 32629.0, "32629", " EPSG:32629 ", "epsg:32629", "32629.0", pyproj.CRS(32629).to_wkt()],
    ids=lambda value: str(value)[:12],
)
def test_a_crs_in_any_spelling(value: object) -> None:
    assert crs(**{"proj:epsg": [value, None]}) == ([32629, None], ["EPSG:32629", None], 0)


def test_projjson_as_text_or_struct() -> None:
    document = pyproj.CRS(32629).to_json_dict()
    assert crs(**{"proj:projjson": [json.dumps(document)]})[0] == [32629]
    short = {"type": "ProjectedCRS", "name": "UTM 29N", "id": {"authority": "EPSG", "code": 32629}}
    assert crs(**{"proj:projjson": [short, None]})[0] == [32629, None]


def test_the_first_source_with_a_code_wins_row_by_row() -> None:
    got = crs(
        **{
            "proj:code": ["EPSG:32630", "EPSG:32630", None],
            "proj:epsg": [32629, None, None],
            "crs": ["x", None, "EPSG:4326"],
        }
    )
    assert got == ([32629, 32630, 4326], ["EPSG:32629", "EPSG:32630", "EPSG:4326"], 1)


def test_codes_the_registry_does_not_know_stay_text() -> None:
    got = crs(**{"proj:code": ["EPSG:999999", "IAU_2015:30100", "garbage", "ESRI:102008"]})
    assert got[0] == [None] * 4
    assert got[1] == ["EPSG:999999", "IAU_2015:30100", "garbage", "ESRI:102008"]


def test_values_that_name_no_crs_become_null() -> None:
    assert crs(**{"proj:code": ["EPSG:32767", "0", None]}) == ([None] * 3, [None, "0", None], 0)
    assert crs(**{"proj:epsg": [32767, 0, -1]}) == ([None] * 3, [None] * 3, 0)
    assert crs(**{"proj:epsg": [[32629], [32629, 32630], []]}) == ([32629, None, None], ["EPSG:32629", None, None], 0)


def test_a_table_that_states_no_crs_has_null_columns() -> None:
    assert crs(id=["a", "b"]) == ([None, None], [None, None], 0)
