"""``partition_by``: collections by year, by month and by day, and what happens when the choice changes."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from rasteret_assets import CollectionSpec, build, build_from_table, load, plan
from rasteret_assets.cli import main
from rasteret_assets.collection.table import pinned
from rasteret_assets.declare import propose
from rasteret_assets.errors import CollectionError, SpecError
from rasteret_assets.partitions import (
    SIZES,
    PartitionBy,
    hive_columns,
    hive_folder,
    partition_date,
    partition_of_folder,
    partition_size,
    rows_by_partition,
)
from rasteret_assets.pipeline import _publish_stage as stages
from rasteret_assets.schema import TIMESTAMP
from rasteret_assets.storage.workspace import Workspace
from tests.support.rasters import record_table, tiff_bytes
from tests.support.server import RangeServer

#: A record without a datetime, and others around the ends of a day, a month, a year and the epoch.
TIMES = {
    "first": datetime(1, 1, 1, tzinfo=UTC),
    "before 1970": datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    "1970": datetime(1970, 1, 1, tzinfo=UTC),
    "evening": datetime(2024, 5, 17, 23, 59, 59, 999_999, tzinfo=UTC),
    "midnight": datetime(2024, 5, 18, tzinfo=UTC),
    "leap day": datetime(2024, 2, 29, 12, tzinfo=UTC),
    # Still April, and still 2023, where they were taken.
    "east": datetime(2024, 5, 1, 3, tzinfo=timezone(timedelta(hours=5))),
    "west": datetime(2023, 12, 31, 20, tzinfo=timezone(timedelta(hours=-5))),
    "last": datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    "undated": None,
}


def key_of(moment: datetime | None, by: PartitionBy) -> str:
    """The key by the calendar of the standard library."""
    if moment is None:
        return "undated"
    day = moment.astimezone(UTC).date()
    return f"{day.year:04}-{day.month:02}-{day.day:02}"[: {"year": 4, "month": 7, "day": 10}[by]]


class Table:
    """A record table, and the server that holds its rasters."""

    def __init__(self, folder: Path, server: RangeServer) -> None:
        self.path, self.folder, self.server = folder / "records.parquet", folder, server

    def put(self, times: dict[str, datetime | None], **columns: Any) -> None:
        for name in times:
            self.server.objects.setdefault(f"/{name}.tif".replace(" ", "_"), tiff_bytes(seed=len(self.server.objects)))
        hrefs = [f"{self.server.url}/{name}.tif".replace(" ", "_") for name in times]
        pq.write_table(record_table(list(times), {"B02": hrefs}, datetimes=list(times.values()), **columns), self.path)

    def spec(self, by: PartitionBy, **options: Any) -> CollectionSpec:
        options = {"enrich_cog": True, **options}
        return CollectionSpec.of(
            path=self.path, name="s2", workspace_dir=self.folder / "w", partition_by=by, **options
        )  # fmt: skip

    def files(self) -> list[str]:
        """The published files, as a person sees them."""
        root = self.folder / "w" / "s2_records"
        return sorted(str(path.relative_to(root)) for path in root.rglob("*.parquet"))

    def requests(self) -> int:
        count = len(self.server.requests)
        self.server.reset()
        return count


@pytest.fixture
def table(tmp_path: Path, server: RangeServer) -> Table:
    made = Table(tmp_path, server)
    made.put(TIMES)
    return made


def records(spec: CollectionSpec, *, verify: Any = "full") -> dict[str, Any]:
    """Everything published of every record but its hive keys, by id."""
    rows = load(spec.published_path or "", verify=verify).to_table()
    kept = rows.drop_columns([name for name in ("year", "month", "day") if name in rows.schema.names]).to_pylist()
    assert len({row["id"] for row in kept}) == len(kept), "a record is there twice"
    return {row["id"]: row for row in kept}


# --- keys and folders ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", SIZES)
@given(moments=st.lists(st.none() | st.datetimes(timezones=st.just(UTC)), max_size=20))
@settings(max_examples=60)
def test_an_instant_lies_in_the_partition_of_its_utc_date(by: PartitionBy, moments: list[datetime | None]) -> None:
    instants = pa.array([*moments, *TIMES.values()], TIMESTAMP)
    expected = [key_of(moment, by) for moment in (*moments, *TIMES.values())]
    found: dict[int, str] = {}
    for key, rows in rows_by_partition(instants, by):
        assert sorted(rows) == list(rows)
        found |= dict.fromkeys(rows.tolist(), key)
    assert [found[row] for row in range(len(instants))] == expected
    columns = hive_columns(instants, by)
    for row, key in enumerate(expected):
        values = [column[row].as_py() for column in columns.values()]
        assert values == list(partition_date(key) or [None] * len(columns))


@given(day=st.dates(), size=st.sampled_from(SIZES), by=st.sampled_from(SIZES))
def test_a_folder_says_which_partition_it_holds(day: date, size: PartitionBy, by: PartitionBy) -> None:
    key = key_of(datetime(day.year, day.month, day.day, tzinfo=UTC), size)
    assert partition_size(key) == size
    assert partition_of_folder(hive_folder(key, by)) == (key, size)
    assert partition_of_folder(hive_folder("undated", by)) == ("undated", by)


@pytest.mark.parametrize("key", ["2024-13", "2024-02-30", "24-05", "2024-5", "0000", "2024-05-17-01", "२०२४", ""])
def test_texts_that_are_not_partition_keys_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match=r"is not a partition key: write a year \(2024\)"):
        partition_date(key)


@pytest.mark.parametrize(
    "folder", ["year=2024/month=05", "year=24/day=3", "year=2024/month=13", "month=5", "year=0", "year=2024/x", ""]
)
def test_folders_of_other_layouts_are_not_partitions(folder: str) -> None:
    assert partition_of_folder(folder) is None


# --- publishing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", SIZES)
def test_every_record_is_published_under_its_utc_date(table: Table, by: PartitionBy) -> None:
    spec = table.spec(by)
    done = build(spec)
    assert sorted(done.reasons) == sorted({key_of(moment, by) for moment in TIMES.values()})
    workspace = Workspace.of(spec)
    published = {
        row["id"]: workspace.partition_of(str(table.folder / "w" / "s2_records" / file))
        for file in table.files()
        for row in pq.read_table(table.folder / "w" / "s2_records" / file, partitioning=None).to_pylist()
    }
    assert published == {name: key_of(moment, by) for name, moment in TIMES.items()}
    assert records(spec).keys() == TIMES.keys()
    opened = load(spec.published_path or "")
    for row in opened.to_table().to_pylist():
        moment = TIMES[row["id"]]
        expected = partition_date(key_of(moment, by)) or (None,) * len(partition_date(key_of(TIMES["1970"], by)))
        assert tuple(row[name] for name in ("year", "month", "day") if name in row) == expected
    assert plan(spec).partitions == {}
    keys = [name for name in opened.schema.names if name in ("year", "month", "day")]
    assert keys == ["year", "month", "day"][: SIZES.index(by) + 1]
    for file in table.files():
        assert not {"year", "month", "day"} & set(pq.read_schema(table.folder / "w" / "s2_records" / file).names)


@pytest.mark.parametrize("by", SIZES)
def test_only_the_hive_keys_replace_columns_of_the_user(table: Table, by: PartitionBy) -> None:
    own = {name: [f"{name} {row}" for row in range(len(TIMES))] for name in ("day", "month", "year")}
    table.put(TIMES, **own)
    spec = table.spec(by, enrich_cog=False)
    build(spec)
    rows = load(spec.published_path or "").to_table().to_pylist()
    survive = {"year": {"day", "month"}, "month": {"day"}, "day": set()}[by]
    for row in rows:
        position = list(TIMES).index(row["id"])
        assert {name: row[name] for name in survive} == {name: f"{name} {position}" for name in survive}
        moment = TIMES[row["id"]]
        assert row["year"] == (moment and moment.astimezone(UTC).year)


def test_an_append_to_a_day_leaves_the_others_alone(table: Table) -> None:
    spec = table.spec("day")
    build(spec)
    table.requests()
    table.put({**TIMES, "noon": datetime(2024, 5, 17, 12, tzinfo=UTC)})
    assert list(plan(spec).partitions) == ["2024-05-17"]
    assert build(spec).reasons == {"2024-05-17": "source changed"}
    assert table.requests() == 1
    assert build(spec, partitions=["2024-05-17"]).reasons == {}
    with pytest.raises(SpecError, match="the source has no partition 2024-05;"):
        build(spec, partitions=["2024-05"])


def test_the_command_line_takes_a_day(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    declaration = table.folder / "s2.yaml"
    declaration.write_text("path: records.parquet\nworkspace_dir: w\nenrich_cog: true\npartition_by: day\n")

    def run(*arguments: object) -> str:
        done = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert done.exit_code == 0, done.output
        return done.stdout

    assert "2024-05-17: new, 1 record, 1 header to fetch" in run("build", "--dry-run", declaration, "-p", "2024-05-17")
    assert "1 partition (1 new), 1 record;" in run("build", declaration, "-p", "2024-05-17")
    assert table.files() == ["year=2024/month=5/day=17/part-0.parquet"]
    assert len(table.server.requests) == 1
    assert '"2024-05-18": "new"' in run("status", declaration, "--json")
    asked = CliRunner().invoke(main, ["build", str(declaration), "-p", "2024-05"])
    assert (asked.exit_code, "the source has no partition 2024-05; it has 0001-01-01, " in asked.stderr) == (
        1,
        True,
    )
    declaration.write_text(declaration.read_text().replace("day", "week"))
    refused = CliRunner().invoke(main, ["build", "--dry-run", str(declaration)])
    assert f"{declaration}:4: partition_by='week': input should be 'year', 'month' or 'day'" in refused.stderr


# --- another size later ----------------------------------------------------------------------------------------------


def test_another_size_is_a_rebuild_that_asks_for_no_header(table: Table) -> None:
    build(table.spec("month"))
    first = records(table.spec("month"))
    assert table.requests() == len(TIMES)
    for by in ("day", "year", "month"):
        spec = table.spec(by)
        done = build(spec)
        assert (done.totals["headers_fetched"], table.requests()) == (0, 0), by
        assert records(spec) == first
        assert table.files() == sorted(
            f"{hive_folder(key, by)}/part-0.parquet" for key in {key_of(moment, by) for moment in TIMES.values()}
        )
        assert sorted(Workspace.of(spec).states()) == sorted({key_of(moment, by) for moment in TIMES.values()})
        assert build(spec).reasons == {}


@pytest.mark.parametrize("published", range(0, 10, 3))
def test_a_reader_sees_every_record_once_while_one_size_replaces_another(
    table: Table, published: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(table.spec("month"))
    first, spec, steps = records(table.spec("month")), table.spec("day"), iter(range(published))

    def dies(*arguments: Any) -> Any:
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return run(*arguments)

    run = stages._publish
    monkeypatch.setattr(stages, "_publish", dies)
    monkeypatch.setattr(stages, "partitions_at_once", lambda *_: 1)
    with pytest.raises(KeyboardInterrupt):
        build(spec)
    monkeypatch.undo()
    for verify in ("full", "rows", False):
        assert records(spec, verify=verify) == first
    build(spec)
    assert records(spec) == first
    assert all("day=" in file for file in table.files())


def test_a_reader_takes_the_new_files_once_they_are_all_there(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    build(table.spec("month"))
    first, spec = records(table.spec("month")), table.spec("day")
    monkeypatch.setattr(stages, "partitions_at_once", lambda *_: 1)
    run, removed = stages._publish, []

    def dies_removing(build: Any, key: str) -> Any:
        if partition_size(key) == "month":
            removed.append(key)
            if len(removed) == 3:
                raise KeyboardInterrupt
        return run(build, key)

    monkeypatch.setattr(stages, "_publish", dies_removing)
    with pytest.raises(KeyboardInterrupt):
        build(spec)
    monkeypatch.undo()
    assert {file.count("/") for file in table.files()} == {2, 3}
    for verify in ("full", "rows", False):
        assert records(spec, verify=verify) == first


def test_an_old_file_of_undated_records_that_a_killed_build_left_is_taken_away(table: Table) -> None:
    build(table.spec("month"))
    old = Path(Workspace.of(table.spec("month")).published_file("undated"))
    content = old.read_bytes()
    spec = table.spec("day")
    build(spec)
    first = records(spec)
    assert not old.exists()
    old.parent.mkdir(exist_ok=True)
    old.write_bytes(content)
    for verify in ("full", "rows", False):
        assert records(spec, verify=verify) == first
    assert build(spec).reasons == {"undated": "published file missing or damaged"}
    assert not old.exists()
    assert records(spec) == first


def test_build_from_table_returns_what_is_published_of_any_size(table: Table) -> None:
    build(table.spec("day"))
    arguments = {"name": "s2", "workspace_dir": table.folder / "w", "enrich_cog": True}
    assert len(build_from_table(table.path, **arguments)) == len(TIMES)
    # A lost file is built again as a day, and a forced build leaves days days.
    (table.folder / "w" / "s2_records" / "year=2024/month=5/day=18/part-0.parquet").unlink()
    files = table.files()
    for force in (False, True):
        assert len(build_from_table(table.path, **arguments, force=force)) == len(TIMES)
        assert set(table.files()) - set(files) == {"year=2024/month=5/day=18/part-0.parquet"}


def test_build_from_table_refuses_what_is_between_two_sizes(table: Table) -> None:
    build(table.spec("month"))
    stray = table.folder / "w" / "s2_records" / "year=2024" / "part-0.parquet"
    stray.write_bytes((table.folder / "w" / "s2_records" / "year=2024/month=5/part-0.parquet").read_bytes())
    with pytest.raises(CollectionError, match="holds partitions by month and by year"):
        build_from_table(table.path, name="s2", workspace_dir=table.folder / "w", enrich_cog=True)


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of the files that scans may read from."""
    seen: list[str] = []
    real = pinned._may_hold

    def noted(dataset: ds.Dataset, fragment: ds.ParquetFileFragment, expression: Any) -> bool:
        seen.append("/".join(fragment.path.split("_records/")[1].split("/")[:-1]))
        return real(dataset, fragment, expression)

    monkeypatch.setattr(pinned, "_may_hold", noted)
    return seen


@pytest.mark.parametrize(
    ("by", "period", "folders"),
    [
        ("day", ("2024-05-17", "2024-05-17"), ["year=2024/month=5/day=17"]),
        ("day", ("2024-05-17", "2024-05-18"), ["year=2024/month=5/day=17", "year=2024/month=5/day=18"]),
        ("month", ("2024-05-17", "2024-05-17"), ["year=2024/month=5"]),
        ("year", ("1970", "2023"), ["year=1970"]),
        ("year", ("2024-05-17", None), ["year=2024", "year=9999"]),
        ("day", (None, "1970-01-01"), ["year=1/month=1/day=1", "year=1969/month=12/day=31", "year=1970/month=1/day=1"]),
    ],
)
def test_a_date_range_opens_no_other_partitions(
    table: Table, opened: list[str], by: PartitionBy, period: tuple[str | None, str | None], folders: list[str]
) -> None:
    build(table.spec(by, enrich_cog=False))
    collection = load(table.spec(by).published_path or "")
    opened.clear()
    found = collection.subset(date_range=period).to_table(["id"])["id"].to_pylist()
    assert sorted(opened) == folders
    # ISO 8601 compares as text, and so does what a shorter one begins.
    low, high = period[0] or "", f"{period[1] or 9999}~"
    expected = [name for name, at in TIMES.items() if at and low <= at.astimezone(UTC).isoformat() < high]
    assert sorted(found) == sorted(expected)


def test_the_year_of_a_label_hides_no_record(tmp_path: Path, table: Table) -> None:
    """Folders ``year=`` of a table that is not a published collection need not follow the datetime."""
    build(table.spec("month", enrich_cog=False))
    rows = load(table.spec("month").published_path or "").to_table().drop_columns(["year", "month"])
    rows = rows.append_column("year", pa.array([1999] * len(rows), pa.int32())).replace_schema_metadata(None)
    ds.write_dataset(rows, tmp_path / "labels", format="parquet", partitioning=["year"], partitioning_flavor="hive")
    assert len(load(tmp_path / "labels").subset(date_range=("2024-05-17", "2024-05-17"))) == 1


# --- proposing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("every", "rows", "chosen"),
    [
        (timedelta(seconds=30), 10_000, "day"),  # 2880 a day
        (timedelta(minutes=15), 10_000, "month"),  # 2900 a month
        (timedelta(days=1), 3000, "year"),
        (timedelta(seconds=30), 900, "month"),  # too few to tell
    ],
)
def test_init_proposes_partitions_of_a_size_that_suits(
    tmp_path: Path, every: timedelta, rows: int, chosen: PartitionBy
) -> None:
    times = [datetime(2020, 1, 1, tzinfo=UTC) + row * every for row in range(rows)]
    ids = [f"r{row}" for row in range(rows)]
    pq.write_table(record_table(ids, {"B02": ["x.tif"] * rows}, datetimes=times), tmp_path / "t.parquet")
    proposal = propose(tmp_path / "t.parquet")
    assert proposal.values["partition_by"] == chosen
    assert f"# partitioned by {chosen}: " in proposal.to_yaml()
    assert partition_size(next(iter(proposal.partitions))) == chosen
