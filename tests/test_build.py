"""``plan`` and ``build``: exactly what changed is touched, and a plan says it before."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyproj import CRS

from rasteret_assets import CollectionSpec, build, load, plan
from rasteret_assets.errors import CollectionError, EnrichmentError, InvalidRecordError, SpecError
from rasteret_assets.headers import retried
from rasteret_assets.headers.failures import read_failures
from rasteret_assets.headers.ledger import read_ledger
from rasteret_assets.pipeline.stage import Build
from rasteret_assets.pipeline.stages import run_stage
from rasteret_assets.schema import BANDS, COLLECTION
from rasteret_assets.source.open import Source, SourcePart
from rasteret_assets.storage.workspace import Workspace
from tests.support.rasters import record_table, tiff_bytes
from tests.support.server import RangeServer


class Scenes:
    """A record table of monthly files whose rasters a server holds."""

    def __init__(self, folder: Path, server: RangeServer) -> None:
        self.folder = folder / "source"
        self.folder.mkdir()
        self.server = server
        self.rows: dict[str, dict[str, str]] = {}
        self.spec = CollectionSpec.of(path=self.folder, name="s2", workspace_dir=folder / "w", enrich_cog=True)

    def put(self, file: str, **days: str) -> None:
        """Write one file of the table: a day per record, whose raster is named like it."""
        self.rows[file] = days
        for name in days:
            self.server.objects.setdefault(f"/{name}.tif", tiff_bytes(seed=len(self.server.objects)))
        table = record_table(
            list(days),
            {"B02": [f"{self.server.url}/{name}.tif" for name in days]},
            datetimes=[datetime.fromisoformat(day).replace(tzinfo=UTC) for day in days.values()],
        )
        pq.write_table(table, self.folder / f"{file}.parquet")

    def add_column(self, file: str, values: pa.Array) -> None:
        """Give one file of the table a further column, called ``more``."""
        path = self.folder / f"{file}.parquet"
        pq.write_table(pq.read_table(path).append_column("more", values), path)

    def published_types(self) -> list[list[tuple[str, pa.DataType]]]:
        """The columns of every published file."""
        files = sorted(Path(self.spec.published_path or "").rglob("*.parquet"))
        return [[(field.name, field.type) for field in pq.read_schema(file)] for file in files]

    def ids(self) -> list[str]:
        return sorted(load(self.spec.published_path or "", verify="full").to_table(["id"])["id"].to_pylist())

    def requests(self) -> list[str]:
        seen = sorted(request[0] for request in self.server.requests)
        self.server.reset()
        return seen


@pytest.fixture
def scenes(tmp_path: Path, server: RangeServer) -> Scenes:
    made = Scenes(tmp_path, server)
    made.put("january", a="2024-01-05", b="2024-01-06")
    made.put("february", c="2024-02-05", d="2024-02-06")
    return made


def test_a_build_touches_what_changed_and_no_more(scenes: Scenes) -> None:
    first = build(scenes.spec)
    assert first.reasons == {"2024-01": "new", "2024-02": "new"}
    assert (first.totals["records"], first.totals["headers_fetched"]) == (4, 4)
    scenes.requests()
    counts = first.results["band_metadata"]["2024-01"].counts
    assert 0 < float(counts["latency_p50_ms"]) <= float(counts["latency_p95_ms"]) <= float(counts["latency_p99_ms"])
    assert not [name for name in first.totals if name.startswith("latency")]

    nothing = build(scenes.spec)
    assert (nothing.reasons, nothing.totals["headers_fetched"], nothing.totals["requests"]) == ({}, 0, 0)
    scenes.put("february", c="2024-02-05", d="2024-02-06", e="2024-02-07")
    forecast = plan(scenes.spec)
    assert scenes.requests() == []
    assert forecast.current == ("2024-01",)
    assert vars(forecast.partitions["2024-02"]) == {
        "reason": "source changed", "records": 3, "headers_to_fetch": 1, "headers_reused": 2, "records_rejected": 0,
        "records_removed": 0,
    }  # fmt: skip
    second = build(scenes.spec)
    assert second.reasons == {"2024-02": "source changed"}
    assert scenes.requests() == ["/e.tif"]
    assert (second.totals["headers_fetched"], second.totals["headers_reused"]) == (1, 2)
    assert scenes.ids() == ["a", "b", "c", "d", "e"]


def test_a_record_that_moves_takes_its_header_along(scenes: Scenes) -> None:
    build(scenes.spec)
    scenes.requests()
    scenes.put("january", a="2024-01-05")
    scenes.put("february", c="2024-02-05", d="2024-01-09", b="2024-02-20")
    moved = build(scenes.spec)
    assert sorted(moved.reasons) == ["2024-01", "2024-02"]
    assert scenes.requests() == []
    assert scenes.ids() == ["a", "b", "c", "d"]
    rows = load(scenes.spec.published_path or "").to_table(["id", "B02_metadata", "month"]).to_pylist()
    assert {row["id"]: row["month"] for row in rows} == {"a": 1, "d": 1, "b": 2, "c": 2}
    assert all(row["B02_metadata"] for row in rows)


def test_a_partition_that_lost_all_records_is_removed(scenes: Scenes) -> None:
    build(scenes.spec)
    (scenes.folder / "january.parquet").unlink()
    forecast = plan(scenes.spec)
    assert (forecast.partitions["2024-01"].reason, forecast.totals["records_removed"]) == ("gone from the source", 2)
    assert "gone from the source, 2 records to unpublish" in str(forecast)
    assert build(scenes.spec).reasons == {"2024-01": "gone from the source"}
    assert scenes.ids() == ["c", "d"]
    assert build(scenes.spec).reasons == {}


def test_a_table_without_any_published_record_is_reported(scenes: Scenes, caplog) -> None:
    build(scenes.spec)
    assert caplog.text == ""
    for file in ("january", "february"):
        path = scenes.folder / f"{file}.parquet"
        pq.write_table(pq.read_table(path).slice(0, 0), path)
    build(scenes.spec)
    assert "no record of any published partition: unpublishing all of them" in caplog.text
    assert scenes.ids() == []


def test_only_the_files_that_changed_are_read(scenes: Scenes, monkeypatch: pytest.MonkeyPatch) -> None:
    time.sleep(0.05)  # until a further write would have another time
    build(scenes.spec)
    read: list[str] = []
    batches = Source.batches

    def noted(source: Source, part: SourcePart | None = None) -> Iterator[pa.RecordBatch]:
        read.extend(Path(one.label).stem for one in (source.parts if part is None else (part,)))
        return batches(source, part)

    monkeypatch.setattr(Source, "batches", noted)
    scenes.put("february", c="2024-02-05")
    assert build(scenes.spec).reasons == {"2024-02": "source changed"}
    assert set(read) == {"february"}
    assert scenes.ids() == ["a", "b", "c"]


def test_failures_that_may_pass_are_tried_again(scenes: Scenes) -> None:
    scenes.server.fault = lambda path, before: "403" if path == "/a.tif" else None
    build(scenes.spec)
    scenes.server.fault = lambda path, before: None
    scenes.requests()
    assert plan(scenes.spec).partitions["2024-01"].headers_to_fetch == 1
    assert build(scenes.spec).reasons == {"2024-01": "headers to try again"}
    assert scenes.requests() == ["/a.tif"]


def later(monkeypatch: pytest.MonkeyPatch, days: float) -> None:
    """Set the clock forward by which missing files are tried again."""
    monkeypatch.setattr(retried, "now", lambda: datetime.now(UTC) + timedelta(days=days))


def test_files_that_come_after_their_records_are_asked_for_again(scenes: Scenes) -> None:
    content = scenes.server.objects.pop("/a.tif")
    build(scenes.spec)
    scenes.requests()
    assert plan(scenes.spec).partitions["2024-01"].headers_to_fetch == 1
    assert build(scenes.spec).reasons == {"2024-01": "headers to try again"}
    assert scenes.requests() == ["/a.tif"]
    scenes.server.objects["/a.tif"] = content
    assert build(scenes.spec).totals["headers_failed"] == 0
    assert scenes.requests() == ["/a.tif"]
    assert build(scenes.spec).reasons == {}


def test_the_first_miss_says_until_when_a_file_is_asked_for(scenes: Scenes, monkeypatch: pytest.MonkeyPatch) -> None:
    del scenes.server.objects["/a.tif"]
    build(scenes.spec)
    (until,) = missing_until(scenes)
    assert timedelta(days=3) < until - datetime.now(UTC) <= timedelta(days=3, hours=1)
    later(monkeypatch, 2)
    del scenes.server.objects["/b.tif"]
    build(scenes.spec, revalidate=True)  # which notices that another file went
    assert missing_until(scenes) == [until, max(missing_until(scenes))]
    scenes.requests()
    later(monkeypatch, 4)
    assert build(scenes.spec).reasons == {"2024-01": "headers to try again"}
    assert scenes.requests() == ["/b.tif"]
    published = Path(Workspace.of(scenes.spec).published_file("2024-01"))
    before = published.stat().st_mtime_ns, published.read_bytes()
    later(monkeypatch, 6)
    assert plan(scenes.spec).partitions == {}
    assert build(scenes.spec).reasons == {}
    assert scenes.requests() == []
    assert (published.stat().st_mtime_ns, published.read_bytes()) == before
    # Rebuilt for another reason, the partition asks for nothing either.
    changed = CollectionSpec.of(**{**scenes.spec.model_dump(), "description": "another"})
    assert set(build(changed).reasons) == {"2024-01", "2024-02"}
    assert scenes.requests() == []


def test_a_partition_none_of_whose_files_is_there_yet_stops_no_later_build(scenes: Scenes) -> None:
    content = {path: scenes.server.objects.pop(path) for path in ("/a.tif", "/b.tif")}
    build(scenes.spec)
    assert build(scenes.spec).totals["headers_failed"] == 2
    # Headers that are published are not lost to files that went.
    scenes.server.objects |= content
    assert build(scenes.spec).totals["headers_failed"] == 0
    del scenes.server.objects["/a.tif"], scenes.server.objects["/b.tif"]
    with pytest.raises(EnrichmentError, match="not one of 2 headers"):
        build(scenes.spec, force=True, partitions=["2024-01"])
    assert build(scenes.spec).totals["headers_failed"] == 0


def missing_until(scenes: Scenes) -> list[datetime]:
    """Until when missing files are tried again, as the ledgers say."""
    table = read_failures(Workspace.of(scenes.spec)).table
    return sorted(table["retry_until"].to_pylist())


def test_days_to_wait_for_files_change_nothing_that_is_published(scenes: Scenes) -> None:
    del scenes.server.objects["/a.tif"]
    build(CollectionSpec.of(**{**scenes.spec.model_dump(), "retry_missing_for": 0}))
    scenes.requests()
    # Files that were missed before keep their days.
    assert build(scenes.spec).reasons == {}
    assert scenes.requests() == []
    with pytest.raises(SpecError, match="retry_missing_for=-1"):
        CollectionSpec.of(path="t", retry_missing_for=-1)


def test_missing_files_of_an_earlier_version_are_gone_for_good(scenes: Scenes) -> None:
    del scenes.server.objects["/a.tif"]
    build(scenes.spec)
    workspace = Workspace.of(scenes.spec)
    state, ledger = Path(workspace.state_file("2024-01")), Path(workspace.stage_file(BANDS, "2024-01"))
    document = json.loads(state.read_text())
    assert document.pop("retry_until")
    state.write_text(json.dumps(document))
    rows = pq.read_table(ledger)
    pq.write_table(rows.drop_columns(["retry_until"]), ledger)
    scenes.requests()
    assert build(scenes.spec).reasons == {}
    assert scenes.requests() == []
    assert missing_until(scenes) == [None]
    assert [batch.num_rows for batch in read_ledger(workspace, "2024-01")] == [2]
    # The stage after the ledger reads it too.
    run_stage(COLLECTION, Build(workspace=workspace, spec=scenes.spec), ["2024-01"])
    assert json.loads(state.read_text())["retry_until"] == {}


def test_force_and_revalidate_touch_every_partition(scenes: Scenes) -> None:
    build(scenes.spec)
    scenes.requests()
    assert build(scenes.spec, force=True, partitions=["2024-02"]).reasons == {"2024-02": "forced"}
    assert scenes.requests() == ["/c.tif", "/d.tif"]
    scenes.server.objects["/a.tif"] = tiff_bytes(seed=99)
    report = build(scenes.spec, revalidate=True)
    assert report.reasons == {"2024-01": "revalidated", "2024-02": "revalidated"}
    assert (report.totals["headers_drifted"], report.totals["headers_reused"]) == (1, 3)


def test_a_new_spec_rebuilds_without_a_request(scenes: Scenes) -> None:
    build(scenes.spec)
    scenes.requests()
    changed = CollectionSpec.of(**{**scenes.spec.model_dump(), "description": "another"})
    assert set(build(changed).reasons.values()) == {"columns, spec, bands or parser changed"}
    assert scenes.requests() == []


STRUCT = pa.struct([("x", pa.int64())])
WIDER = {
    "a new column": (None, pa.array([1.5])),
    "integers": (pa.array([1, 2], pa.int32()), pa.array([2**40])),
    "floats for integers": (pa.array([1, None]), pa.array([1.5])),
    "text where nothing was": (pa.nulls(2), pa.array(["z"])),
    "times": (pa.array([1, 2], pa.timestamp("ms")), pa.array([1], pa.timestamp("us"))),
    "fields": (pa.array([{"x": 1}, None], STRUCT), pa.array([{"x": 1.5, "y": "z"}])),
    "lists": (pa.array([[1], []]), pa.array([[1.5]])),
}


@pytest.mark.parametrize(("before", "after"), WIDER.values(), ids=WIDER)
def test_a_file_that_widens_a_column_widens_it_in_every_partition(
    scenes: Scenes, before: pa.Array | None, after: pa.Array
) -> None:
    for month in ("january", "february"):
        if before is not None:
            scenes.add_column(month, before)
    build(scenes.spec)
    scenes.requests()
    scenes.put("march", e="2024-03-05")
    scenes.add_column("march", after)
    assert set(plan(scenes.spec).partitions) == {"2024-01", "2024-02", "2024-03"}
    columns = [before if before is not None else pa.nulls(2)] * 2 + [after]
    whole = pa.concat_tables([pa.table({"more": column}) for column in columns], promote_options="permissive")
    # One after the other is built, and all can be read all the time.
    for month in ("2024-03", "2024-01", "2024-02"):
        build(scenes.spec, partitions=[month])
        found = load(scenes.spec.published_path or "").to_table(["id", "more"]).sort_by("id")["more"]
        assert found.to_pylist() == whole["more"].to_pylist()
    assert scenes.requests() == ["/e.tif"]
    first, *others = scenes.published_types()
    assert others == [first, first]
    assert build(scenes.spec).reasons == {}


@pytest.mark.parametrize(
    "kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())], ids=str
)  # fmt: skip
def test_text_is_text_whoever_wrote_it(scenes: Scenes, kind: pa.DataType) -> None:
    for month in ("january", "february"):
        scenes.add_column(month, pa.array(["x", "y"]))
    build(scenes.spec)
    scenes.put("march", e="2024-03-05")
    scenes.add_column("march", pa.array(["z"], kind))
    assert set(build(scenes.spec).reasons) == {"2024-03"}
    first, *others = scenes.published_types()
    assert others == [first, first]


def test_footprints_in_another_crs_are_another_source(scenes: Scenes) -> None:
    """The bytes of the rows are the same: only the footer says otherwise."""
    build(scenes.spec)
    for file in scenes.folder.iterdir():
        column = {"encoding": "WKB", "geometry_types": [], "crs": CRS(3857).to_json_dict()}
        geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
        pq.write_table(pq.read_table(file).replace_schema_metadata({"geo": json.dumps(geo)}), file)
    assert sorted(build(scenes.spec).reasons) == ["2024-01", "2024-02"]
    assert load(scenes.spec.published_path or "").bounds[0] < 0.001


def test_a_conflict_that_comes_or_goes_rebuilds_the_other_month_too(scenes: Scenes) -> None:
    tolerant = CollectionSpec.of(**{**scenes.spec.model_dump(), "max_rejected": 1.0})
    build(tolerant)
    scenes.put("february", c="2024-02-05", d="2024-02-06", a="2024-02-09")
    report = build(tolerant)
    assert sorted(report.reasons) == ["2024-01", "2024-02"]
    assert report.totals["rejected_records"] == 2
    assert scenes.ids() == ["b", "c", "d"]
    scenes.put("february", c="2024-02-05", d="2024-02-06")
    assert sorted(build(tolerant).reasons) == ["2024-01", "2024-02"]
    assert scenes.ids() == ["a", "b", "c", "d"]


def test_rejected_records_stop_a_build_before_anything_is_published(scenes: Scenes) -> None:
    build(scenes.spec)
    scenes.put("february", c="2024-02-05", d="2024-02-06", a="2024-02-09")
    with pytest.raises(InvalidRecordError, match="several records with different content carry this id"):
        build(scenes.spec)
    assert scenes.ids() == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.unlink(), "partition 2024-02 is missing"),
        (lambda file: pq.write_table(pq.read_table(file).slice(1), file), "partition 2024-02 is damaged .* 1 records"),
        (lambda file: file.write_bytes(file.read_bytes()[:-9]), r"damaged \("),
        (lambda file: pq.write_table(pq.read_table(file), file.with_name("part-1.parquet")), "belongs to no partition"),
    ],
    ids=["missing", "short", "truncated", "foreign"],
)
def test_damage_is_named_when_the_collection_is_opened(
    scenes: Scenes, damage: Callable[[Path], object], message: str
) -> None:
    build(scenes.spec)
    path = scenes.spec.published_path or ""
    damage(Path(path) / "year=2024" / "month=2" / "part-0.parquet")
    with pytest.raises(CollectionError, match=message):
        load(path)
    Path(path, "year=2024", "month=2", "part-1.parquet").unlink(missing_ok=True)
    scenes.requests()
    build(scenes.spec)
    assert scenes.ids() == ["a", "b", "c", "d"]
    assert scenes.requests() == []


def test_lost_files_are_built_again_and_no_others(scenes: Scenes) -> None:
    build(scenes.spec)
    published = Path(scenes.spec.published_path or "")
    before = {file: file.read_bytes() for file in published.rglob("*.parquet")}
    (published / "year=2024" / "month=2" / "part-0.parquet").unlink()
    assert {key: found.reason for key, found in plan(scenes.spec).partitions.items()} == {
        "2024-02": "published file missing or damaged"
    }
    assert list(build(scenes.spec).reasons) == ["2024-02"]
    shutil.rmtree(published)
    assert list(build(scenes.spec).reasons) == ["2024-01", "2024-02"]
    assert {file: file.read_bytes() for file in published.rglob("*.parquet")} == before


def test_a_file_whose_state_is_lost_goes_with_its_records_and_one_from_elsewhere_stays(scenes: Scenes) -> None:
    build(scenes.spec)
    path = scenes.spec.published_path or ""
    Workspace.at(path).remove(Workspace.at(path).state_file("2024-02"))
    foreign = Path(path) / "year=2023" / "month=7" / "part-0.parquet"
    foreign.parent.mkdir(parents=True)
    shutil.copy(Path(path) / "year=2024" / "month=2" / "part-0.parquet", foreign)
    with pytest.raises(CollectionError, match=r"2023/month=7/part-0.parquet belongs to no partition"):
        load(path)
    (scenes.folder / "february.parquet").unlink()
    assert {key: found.reason for key, found in plan(scenes.spec).partitions.items()} == {
        "2024-02": "gone from the source"
    }
    build(scenes.spec)
    assert not (Path(path) / "year=2024" / "month=2").exists()
    foreign.unlink()
    assert scenes.ids() == ["a", "b"]


def test_a_changed_byte_shows_when_every_byte_is_read(scenes: Scenes) -> None:
    build(scenes.spec)
    path = scenes.spec.published_path or ""
    file = Path(path) / "year=2024" / "month=2" / "part-0.parquet"
    content = bytearray(file.read_bytes())
    content[10] ^= 1
    file.write_bytes(content)
    assert load(path, verify=False).name == load(path).name == "s2"
    with pytest.raises(CollectionError, match=r"partition 2024-02 is damaged \(the bytes"):
        load(path, verify="full")
    with pytest.raises(SpecError, match="verify='rose'"):
        load(path, verify="rose")  # type: ignore[arg-type]


class Killed(BaseException):
    """Stands for the death of the process: nothing of ours catches it."""


def die_before_the_file(patched: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise Killed

    patched.setattr(Workspace, "put_over", die)  # which puts published files alone


def die_before_the_state(patched: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise Killed

    patched.setattr("rasteret_assets.pipeline._publish_stage.commit", die)


@pytest.mark.parametrize(
    ("death", "published"), [(die_before_the_file, ["a", "b", "c", "d"]), (die_before_the_state, ["a", "b", "c"])]
)
def test_an_interrupted_publication_is_readable_and_taken_up_again(
    scenes: Scenes, death: Callable[[pytest.MonkeyPatch], None], published: list[str]
) -> None:
    build(scenes.spec)
    scenes.put("february", c="2024-02-05")
    with pytest.MonkeyPatch.context() as patched:
        death(patched)
        with pytest.raises(Killed):
            build(scenes.spec)
    assert scenes.ids() == published
    assert plan(scenes.spec).partitions["2024-02"].reason == "interrupted build"
    build(scenes.spec)
    assert scenes.ids() == ["a", "b", "c"]
    assert not plan(scenes.spec).partitions


def test_a_partition_that_is_not_there_is_refused(scenes: Scenes) -> None:
    for call in (plan, build):
        with pytest.raises(SpecError, match=r"no partition 2024-13, march; it has 2024-01, 2024-02"):
            call(scenes.spec, partitions=["march", "2024-13", "2024-01"])


def test_a_workspace_is_not_a_collection(scenes: Scenes) -> None:
    build(scenes.spec)
    published = Path(scenes.spec.published_path or "")
    with pytest.raises(
        CollectionError,
        match=r"not a collection: load a folder that was published, such as "
        r"s2_records$",
    ):
        load(published.parent)
    with pytest.raises(CollectionError, match="holds stages"):
        load(published.with_name("s2_stages"))
