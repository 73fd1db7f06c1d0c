"""Under ``overlap`` the newest row of each id counts, whichever file it is in, and versions follow what counts."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rasteret_assets import CollectionSpec, build, build_from_table, load, plan
from rasteret_assets.columns.ages import UNKNOWN_AGE, row_ages
from rasteret_assets.errors import DamagedFileError, MissingColumnError, RecordError, SpecError
from rasteret_assets.source import _found_parts as found
from rasteret_assets.source.open import open_source
from rasteret_assets.source.overlap import judge
from rasteret_assets.source.profiling import profile_source
from rasteret_assets.source.stored import load_profile
from rasteret_assets.storage.workspace import Workspace
from tests.support.rasters import record_table

NEWEST = "newest by updated"


class Row(NamedTuple):
    name: str
    month: int
    updated: int | None
    content: int = 0


def table(rows: Sequence[Row]) -> pa.Table:
    start = datetime(2024, 1, 1, tzinfo=UTC)
    updated = [None if row.updated is None else start + timedelta(row.updated) for row in rows]
    return record_table(
        [row.name for row in rows],
        {"B02": [f"/{row.name}/{row.content}.tif" for row in rows]},
        datetimes=[datetime(2024, row.month, 1, tzinfo=UTC) for row in rows],
        updated=pa.array(updated, pa.timestamp("us", "UTC")),
    )


def write(folder: Path, files: dict[str, Sequence[Row]], version: int = 0) -> CollectionSpec:
    """Write the files that changed, and take away all others; the version is in their size, whatever the clock says."""
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.parquet"):
        if old.stem not in files:
            old.unlink()
    for name, rows in files.items():
        path, wanted = folder / f"{name}.parquet", table(rows)
        if not path.exists() or not pq.read_table(path).equals(wanted):
            pq.write_table(wanted.replace_schema_metadata({"version": "." * version}), path)
    return CollectionSpec.of(path=folder, name="s2", workspace_dir=folder.parent / "w", overlap=NEWEST)


def versions(spec: CollectionSpec) -> dict[str, str]:
    profile = profile_source(open_source(spec.path, spec), spec)
    return {key: found.version for key, found in profile.partitions.items()}


def published(spec: CollectionSpec) -> dict[str, tuple[str, int]]:
    """Month and content of what is published, by id."""
    rows = load(spec.published_path).to_table().select(["id", "datetime", "assets"]).to_pylist()
    assert len({row["id"] for row in rows}) == len(rows)
    return {
        row["id"]: (row["datetime"].month, int(row["assets"]["B02"]["href"].rpartition("/")[2].removesuffix(".tif")))
        for row in rows
    }


ARCHIVE = [Row("a", 1, 1), Row("b", 1, 1), Row("c", 2, 1), Row("d", 3, 1)]
LIVE = [Row("c", 2, 5, 7), Row("e", 3, 5)]


def test_the_newer_record_of_a_live_file_wins_over_the_archive(tmp_path: Path) -> None:
    spec = write(tmp_path / "t", {"archive": ARCHIVE, "live": LIVE})
    report = build(spec)
    assert published(spec) == {"a": (1, 0), "b": (1, 0), "c": (2, 7), "d": (3, 0), "e": (3, 0)}
    assert report.totals["superseded_records"] == 1
    assert report.totals["rejected_records"] == 0


def test_without_the_option_the_same_rows_are_in_conflict(tmp_path: Path) -> None:
    spec = write(tmp_path / "t", {"archive": ARCHIVE, "live": LIVE})
    spec = CollectionSpec.of(**{**spec.model_dump(), "overlap": None, "max_rejected": 1.0})
    report = build(spec)
    assert report.totals["rejected_records"] == 2
    assert "c" not in published(spec)


def test_a_fold_of_the_live_file_into_the_archive_builds_nothing(tmp_path: Path) -> None:
    spec = write(tmp_path / "t", {"archive": ARCHIVE, "live": LIVE})
    build(spec)
    folded = [row for row in ARCHIVE if row.name != "c"] + LIVE
    for files in (
        {"archive": ARCHIVE + LIVE, "live": LIVE},  # both, while it is folded
        {"archive": folded, "live": LIVE},
        {"archive": folded},
    ):
        spec = write(tmp_path / "t", files, 1)
        assert not plan(spec).partitions
        assert not build(spec).reasons
    spec = write(tmp_path / "t", {"archive": folded, "live": [Row("d", 3, 9, 4)]}, 2)
    assert list(plan(spec).partitions) == ["2024-03"]
    build(spec)
    assert published(spec)["d"] == (3, 4)


def test_a_record_that_moves_to_another_month_leaves_the_old_one(tmp_path: Path) -> None:
    spec = write(tmp_path / "t", {"archive": ARCHIVE, "live": [Row("c", 4, 5, 7), Row("d", 1, 0, 9)]})
    planned = plan(spec)
    # 2024-02 has no record that counts.
    assert list(planned.partitions) == ["2024-01", "2024-03", "2024-04"]
    build(spec)
    assert published(spec) == {"a": (1, 0), "b": (1, 0), "c": (4, 7), "d": (3, 0)}
    spec = write(tmp_path / "t", {"archive": ARCHIVE}, 1)
    assert list(build(spec).reasons) == ["2024-02", "2024-04"]


@pytest.mark.parametrize("updated", [1, None])
def test_rows_of_which_none_is_known_to_be_newer_are_in_conflict(tmp_path: Path, updated: int | None) -> None:
    spec = write(tmp_path / "t", {"archive": ARCHIVE, "live": [Row("c", 2, updated, 7)]})
    spec = CollectionSpec.of(**{**spec.model_dump(), "max_rejected": 1.0})
    assert profile_source(open_source(spec.path, spec), spec).conflicting_ids == ("c",)
    assert build(spec).totals["rejected_records"] == 2


def test_a_table_in_memory_keeps_the_newest_rows() -> None:
    spec = CollectionSpec.of(path="", overlap=NEWEST)
    rows = [Row("a", 1, 1), Row("a", 2, 2, 5), Row("b", 1, 1), Row("b", 1, 1)]
    from rasteret_assets.records.normalize import normalize_records  # noqa: PLC0415

    source = open_source(table(rows), spec)
    result = normalize_records(source.table(), spec, profile_source(source, spec))
    assert result.records["id"].to_pylist() == ["a", "b"]
    assert (result.superseded, result.duplicates) == (1, 1)
    assert build_from_table(table(rows[2:])).to_table().num_rows == 1


def expected(files: dict[str, list[Row]]) -> dict[str, tuple[int, int]]:
    """What is to be published, by a plain reading of the rule; ids in conflict are left out."""
    by_name: dict[str, list[Row]] = {}
    for row in (row for rows in files.values() for row in rows):
        by_name.setdefault(row.name, []).append(row)
    result = {}
    for name, rows in by_name.items():
        if None in {row.updated for row in rows}:
            best = set(rows)
        else:
            newest = max(row.updated for row in rows)
            best = {row for row in rows if row.updated == newest}
        if len(best) == 1:
            (row,) = best
            result[name] = (row.month, row.content)
    return result


@pytest.mark.parametrize("seed", range(3))
def test_random_rounds_end_as_a_plain_reading_of_the_rule(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    workspace = Workspace.at(str(tmp_path / "w" / "s2_records"))
    files: dict[str, list[Row]] = {}
    for number in range(8):
        for name in draw.sample("abcd", 2):  # the others stay as they are
            files[name] = [
                Row(f"r{draw.randrange(12)}", draw.randrange(1, 4), draw.choice([1, 2, 3, None]), draw.randrange(2))
                for _ in range(draw.randrange(8))
            ]
        spec = write(tmp_path / "t", files, number)
        time.sleep(0.05)  # until a further write would have another time
        spec = CollectionSpec.of(**{**spec.model_dump(), "max_rejected": 1.0})
        build(spec)
        assert published(spec) == expected(files)
        assert not plan(spec).partitions
        # The look that went by what was stored, and one that reads all.
        source = open_source(spec.path, spec)
        assert load_profile(workspace, source, spec) == profile_source(source, spec)


def test_versions_do_not_depend_on_files_or_order(tmp_path: Path) -> None:
    rows = [*ARCHIVE, *LIVE, Row("a", 3, 0)]
    one = versions(write(tmp_path / "t", {"a": rows}))
    assert versions(write(tmp_path / "t", {"a": rows[::-1]})) == one
    assert versions(write(tmp_path / "t", {"a": rows[3:], "b": rows[:3], "c": rows[1:4]})) == one


def test_rows_are_judged_by_age_then_content() -> None:
    ids = np.array([1, 1, 2, 2, 2, 3, 3, 4, 4])
    ages = np.array([5, 3, 4, 4, 4, 1, UNKNOWN_AGE, 9, 9])
    contents = np.array([10, 11, 20, 20, 20, 30, 31, 40, 41], np.uint64)
    partitions = np.array([0, 1, 0, 0, 0, 0, 0, 0, 0])
    judged = judge(ids, ages, contents, partitions)
    assert judged.counts.sum() == 1 + 1 + 2 + 2
    assert judged.conflicts.tolist() == [False] * 5 + [True] * 4
    assert judged.moved.tolist() == [False, True] + [False] * 7


@pytest.mark.parametrize(
    "column",
    [
        pa.array([-2.5, -0.5, 0.0, 0.5, 7.0]),
        pa.array([-5, 1, 2, 3, 2**40]),
        pa.array(["2023-12-31", "2024-01-01T00:00:00Z", "2024-01-01T00:00:00.5Z", "2024-02-01", "2025-01-01"]),
        pa.array([-1, 0, 1000, 2000, 3000], pa.timestamp("ns", "Europe/Berlin")),
    ],
)
def test_ages_have_the_order_of_their_column(column: pa.Array) -> None:
    ages = row_ages(column, "updated")
    assert (np.diff(ages) >= 0).all()
    assert row_ages(column.take(pa.array([None, 0], pa.int64())), "updated").tolist() == [UNKNOWN_AGE, ages[0]]


def test_a_column_without_order_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(table(ARCHIVE), path)
    spec = CollectionSpec.of(path=path, overlap="newest by geometry")
    with pytest.raises(RecordError, match="by which no row is newer than another"):
        profile_source(open_source(spec.path, spec), spec)


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    pq.write_table(table(ARCHIVE), tmp_path / "t.parquet")
    spec = CollectionSpec.of(path=tmp_path / "t.parquet", overlap="newest by udated")
    with pytest.raises(MissingColumnError, match=r"overlap is by 'udated'.*did you mean \['updated'\]"):
        open_source(spec.path, spec)
    with pytest.raises(SpecError, match="overlap uses"):
        CollectionSpec.of(path="x", columns=["id"], overlap=NEWEST)


@pytest.mark.parametrize("text", ["updated", "newest by", "newest by ", "newest by  updated"])
def test_another_wording_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="write for example 'newest by updated'"):
        CollectionSpec.of(path="x", overlap=text)


def test_the_option_counts_in_what_is_published_and_its_absence_does_not() -> None:
    plain = CollectionSpec.of(path="x")
    assert CollectionSpec.of(path="x", overlap=None).content_hash == plain.content_hash
    assert CollectionSpec.of(path="x", overlap=NEWEST).content_hash != plain.content_hash


def test_tables_of_facts_that_are_put_together_or_damaged_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(found, "KEPT_EVERY_S", 0.0)  # a table for each file
    workspace = Workspace.at(str(tmp_path / "w" / "s2_records"))
    files = {f"f{number}": [Row(f"r{number}", 1, 1), Row("all", 1, number, number)] for number in range(26)}

    def look() -> None:
        source = open_source(spec.path, spec)
        assert load_profile(workspace, source, spec) == profile_source(source, spec)

    spec = write(tmp_path / "t", files)
    time.sleep(0.05)  # until a further write would have another time
    look()
    folder = tmp_path / "w" / "s2_stages" / "source_files"
    assert len(list(folder.iterdir())) == 1  # more tables than a look may consist of
    spec = write(tmp_path / "t", {**files, "f1": [Row("new", 2, 1)], "f2": [Row("all", 1, 99, 9)]}, 1)
    time.sleep(0.05)
    look()
    # The last pages of a table hold facts.
    for path in folder.iterdir():
        content = bytearray(path.read_bytes())
        footer = int.from_bytes(content[-8:-4], "little")
        content[-footer - 8 - 40] ^= 0xFF
        path.write_bytes(content)
    spec = write(tmp_path / "t", {**files, "f2": [Row("all", 1, 98, 8)]}, 1)
    source = open_source(spec.path, spec)
    with pytest.raises(DamagedFileError):
        load_profile(workspace, source, spec)
    look()
