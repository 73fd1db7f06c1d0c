"""Checks find the faults of tables that are spoilt on purpose, and no fault in sound tables."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
import shapely

from rasteret_assets import CollectionSpec, create_backend
from rasteret_assets.checks import (
    Finding,
    Partition,
    check,
    check_partition,
    check_stage,
    check_table,
    checks_of,
    publication_errors,
    registry,
    require_publishable,
)
from rasteret_assets.checks.normalized_records import footprints, unique_ids
from rasteret_assets.checks.registry import CHECKED
from rasteret_assets.errors import CheckError
from rasteret_assets.headers.store import HeaderStore
from rasteret_assets.pipeline.build import build_partitions
from rasteret_assets.pipeline.stage import Build
from rasteret_assets.schema import BANDS, BBOX_TYPE, COLLECTION, HEADERS, NORMALIZED, REJECTED
from rasteret_assets.source.open import open_source
from rasteret_assets.storage.workspace import Workspace
from rasteret_assets.storage.workspace.streams import STREAM_SUFFIX, open_stream, stream_writer
from tests.support.rasters import footprint, record_table, tiff_bytes
from tests.support.s3 import bucket_server, filesystem_of, requests_seen

KEY = "2024-04"


class Built:
    """A collection of one month with three records of two bands, built by the library."""

    def __init__(self, root: Path, *, out: str = "", filesystem: pafs.FileSystem | None = None, **options) -> None:
        files = root / "files"
        files.mkdir(parents=True)
        names = ["a", "b", "c"]
        for seed, name in enumerate(names):
            for band in ("B02", "B03"):
                (files / f"{name}_{band}.tif").write_bytes(tiff_bytes(seed=seed))
        hrefs = {band: [str(files / f"{name}_{band}.tif") for name in names] for band in ("B02", "B03")}
        table = record_table(
            names, hrefs, datetimes=[np.datetime64("2024-04-05", "us").item()] * 3, outline=footprint(tiff_bytes())
        )
        pq.write_table(table, root / "records.parquet")
        self.files = files
        self.spec = CollectionSpec.of(
            path=root / "records.parquet", name="c", workspace_dir=out or root / "out", enrich_cog=True, **options
        )
        self.workspace = Workspace.of(self.spec, filesystem)
        self.build()

    def build(self) -> None:
        source = open_source(self.spec.path, self.spec)
        build = Build(workspace=self.workspace, spec=self.spec, source=source, backend=create_backend())
        build_partitions(build, [KEY])

    def table(self, stage: str) -> pa.Table:
        """Return the table of a stage, or of the only file of the header store."""
        path = self.path(stage)
        if path.endswith(STREAM_SUFFIX):
            stream = open_stream(self.workspace, path)
            return pa.Table.from_batches(stream.batches(), stream.schema)
        table = self.workspace.read_table(path)
        assert table is not None
        return table

    def spoil(self, stage: str, table: pa.Table) -> None:
        path = self.path(stage)
        if path.endswith(STREAM_SUFFIX):
            with stream_writer(self.workspace, path, table.schema) as stream:
                stream.write(table)
        else:
            self.workspace.write_table(path, table)

    def path(self, stage: str) -> str:
        store = HeaderStore(self.workspace, KEY)
        return store.path(store.names[0]) if stage == HEADERS else self.workspace.stage_file(stage, KEY)

    def found(self, stage: str) -> dict[str, Finding]:
        return {finding.check: finding for finding in check_stage(self.workspace, self.spec, KEY, stage)}


@pytest.fixture
def built(tmp_path: Path) -> Built:
    return Built(tmp_path)


def set_column(table: pa.Table, name: str, values: pa.Array | list) -> pa.Table:
    position = table.schema.get_field_index(name)
    array = values if isinstance(values, pa.Array) else pa.array(values, table.schema.field(name).type)
    return table.set_column(position, name, array)


def test_a_sound_partition_passes_every_check(built: Built) -> None:
    findings = check_partition(built.workspace, built.spec, KEY)
    assert [finding.check for finding in findings] == [
        check.name for check in checks_of(NORMALIZED, REJECTED, BANDS, COLLECTION)
    ]
    assert [(finding.check, finding.message) for finding in findings if not finding.passed] == []
    require_publishable(built.workspace, built.spec, [KEY])


def test_a_partition_that_is_gone_has_nothing_to_check(built: Built) -> None:
    assert check_partition(built.workspace, built.spec, "2031-01") == []
    require_publishable(built.workspace, built.spec, ["2031-01"])


@pytest.mark.parametrize(
    ("column", "values", "check", "message"),
    [
        ("id", ["a", "a", "c"], "unique_ids", "several records share an id: a"),
        ("id", ["a", None, "c"], "unique_ids", "1 records have no id"),
        ("month", [4, 5, 4], "schema_contract", "month is not 4 in every record"),
        ("month", [4, None, 4], "schema_contract", "month is not 4 in every record"),
    ],
)
def test_broken_records_are_errors(built: Built, column: str, values: list, check: str, message: str) -> None:
    built.spoil(NORMALIZED, set_column(built.table(NORMALIZED), column, values))
    finding = built.found(NORMALIZED)[check]
    assert (finding.verdict, message in finding.message) == ("error", True), finding.message
    with pytest.raises(CheckError, match=f"nothing is published.*{KEY}"):
        require_publishable(built.workspace, built.spec, [KEY])


def test_a_check_whose_columns_are_missing_or_of_another_type_fails(built: Built) -> None:
    table = built.table(NORMALIZED)
    built.spoil(NORMALIZED, table.drop_columns(["crs", "bbox"]).set_column(0, "id", pa.array([1, 2, 3])))
    found = built.found(NORMALIZED)
    assert {finding.verdict for finding in found.values()} == {"error"}
    assert "id is int64, not string, bbox is missing, crs is missing;" in found["schema_contract"].message
    path = built.path(NORMALIZED)
    assert found["unique_ids"].message == f"{path}: id is int64, not string; build the partition again"
    assert found["footprints"].message.startswith(f"{path}: bbox is missing, id is int64, not string;")


def test_a_partition_key_of_the_wrong_type_is_reported(built: Built) -> None:
    built.spoil(NORMALIZED, set_column(built.table(NORMALIZED), "month", pa.array(["4", "4", "4"])))
    assert "month is string, not int32" in built.found(NORMALIZED)["schema_contract"].message


@pytest.mark.parametrize("stage", [NORMALIZED, BANDS])
def test_a_damaged_table_keeps_its_partition_from_being_published(built: Built, stage: str) -> None:
    file = Path(built.path(stage))
    file.write_bytes(file.read_bytes()[:-5])
    assert {finding.verdict for finding in built.found(stage).values()} == {"error"}
    errors = publication_errors(built.workspace, built.spec, [KEY, "2031-01"])
    assert list(errors) == [KEY]
    assert f"{file}: damaged" in errors[KEY]
    with pytest.raises(CheckError, match="damaged"):
        require_publishable(built.workspace, built.spec, [KEY])


def boxes(*values: tuple[float, float, float, float]) -> pa.Array:
    return pa.array([dict(zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)) for box in values], BBOX_TYPE)


@pytest.mark.parametrize(
    ("shape", "box", "verdict", "problem"),
    [
        (shapely.box(500_000, 5_400_000, 501_000, 5_401_000), (9, 48, 9.1, 48.1), "error", "off the Earth"),
        (shapely.box(9, 48, 9.1, 48.1), (10, 48, 11, 49), "error", "outside their bbox"),
        (shapely.Polygon([(9, 48), (9.1, 48.1), (9.1, 48), (9, 48.1)]), (9, 48, 9.1, 48.1), "warning", "invalid"),
        (None, (9, 48, 9.1, 48.1), "warning", "missing"),
        (shapely.box(179, 0, 181, 1), (179, 0, -179, 1), "ok", ""),
        (
            shapely.MultiPolygon([shapely.box(179, 0, 180, 1), shapely.box(-180, 0, -179, 1)]),
            (179, 0, -179, 1),
            "ok",
            "",
        ),
    ],
)
def test_footprints(built: Built, shape, box, verdict: str, problem: str) -> None:
    table = built.table(NORMALIZED)
    geometries = [table["geometry"][0].as_py(), shapely.to_wkb(shape), table["geometry"][2].as_py()]
    usual = tuple(table["bbox"][0].as_py().values())
    table = set_column(set_column(table, "geometry", geometries), "bbox", boxes(usual, box, usual))
    built.spoil(NORMALIZED, table)
    finding = built.found(NORMALIZED)["footprints"]
    assert finding.verdict == verdict, finding.message
    assert [row["footprints"] for row in finding.rows] == [problem] * bool(problem)
    assert all(row["first"] == "b" for row in finding.rows)


def test_missing_headers_are_a_warning_up_to_the_threshold(tmp_path: Path) -> None:
    for limit, verdict in ((1.0, "warning"), (0.2, "warning"), (0.1, "error")):
        built = Built(tmp_path / str(limit), max_failed=limit)
        (built.files / "b_B03.tif").unlink()
        Path(built.path(HEADERS)).unlink()  # so that all is fetched again
        built.build()
        finding = built.found(BANDS)["headers_complete"]
        assert (finding.verdict, finding.numbers["failed"]) == (verdict, 1)
        (row,) = finding.rows
        assert (row["class"], row["headers"], row["share"]) == ("not_found", 1, round(1 / 6, 4))
        assert finding.message.startswith("1 of 6 headers could not be read (1 not_found)")
        assert ("a larger share than" in finding.message) == (verdict == "error")


def spoil_header(built: Built, name: str, value: list[int] | int) -> None:
    """Give the second header of the ledger another value in one field."""
    place = built.table(BANDS)["header_row"][1].as_py()
    rows = built.table(HEADERS)
    headers = rows["header"].to_pylist()
    headers[place] = {**headers[place], name: value}
    built.spoil(HEADERS, set_column(rows, "header", headers))


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("tile_offsets", [10**9] * 12, "tiles lie outside the file"),
        ("tile_offsets", [-1] * 12, "tiles lie outside the file"),
        ("tile_offsets", [100] * 11, "tiles do not fill the grid"),
        ("image_width", 1000, "tiles do not fill the grid"),
    ],
)
def test_impossible_tiles_are_errors(built: Built, name: str, value, problem: str) -> None:
    spoil_header(built, name, value)
    finding = built.found(BANDS)["tile_ranges"]
    assert (finding.verdict, [row["problem"] for row in finding.rows]) == ("error", [problem])
    assert finding.rows[0]["first"].startswith("a, B03: ")


def test_tiles_that_were_left_out_lie_nowhere(built: Built) -> None:
    spoil_header(built, "tile_byte_counts", [0] * 12)
    spoil_header(built, "tile_offsets", [10**12] * 12)
    assert built.found(BANDS)["tile_ranges"].passed


def test_a_ledger_of_other_records_is_an_error(built: Built) -> None:
    ledger = built.table(BANDS)
    built.spoil(BANDS, pa.concat_tables([ledger, set_column(ledger, "id", ["x"] * ledger.num_rows).slice(0, 1)]))
    assert "ids that no record has: x" in built.found(BANDS)["one_row_per_band"].message
    built.spoil(BANDS, pa.concat_tables([ledger, ledger.slice(0, 1)]))
    assert "1 rows repeat the record and band of another row" in built.found(BANDS)["one_row_per_band"].message


def test_rejected_records_are_a_warning(built: Built) -> None:
    rejected = built.table(NORMALIZED).append_column("reject_class", pa.array(["missing_id", "duplicate_id", None]))
    built.spoil(REJECTED, rejected.slice(0, 2))
    (finding,) = built.found(REJECTED).values()
    assert (finding.verdict, finding.numbers) == ("warning", {"rejected": 2})
    assert "1 duplicate_id, 1 missing_id" in finding.message


def test_a_published_file_that_was_tampered_with_is_an_error(built: Built) -> None:
    file = Path(built.workspace.published_file(KEY))
    content = file.read_bytes()
    # A byte of the first page, because the other checks do not read it.
    file.write_bytes(content[:60] + bytes([content[60] ^ 1]) + content[61:])
    assert "its content is not what was published" in built.found(COLLECTION)["published_file"].message
    file.write_bytes(content[: len(content) // 2])
    assert f"{file}: damaged" in built.found(COLLECTION)["published_file"].message
    file.unlink()
    assert "the file does not exist" in built.found(COLLECTION)["published_file"].message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop_columns(["bbox"]), "it has no column bbox"),
        (lambda table: table.drop_columns(["B03_metadata"]), "it has no column B03_metadata"),
        (lambda table: table.replace_schema_metadata({}), "its geo footer is missing"),
        (lambda table: table.replace_schema_metadata(geo(table, version="1.0.0")), "of version 1.0.0"),
        (lambda table: table.replace_schema_metadata(geo(table, primary_column="geo")), "missing or damaged"),
    ],
)
def test_a_published_file_that_does_not_conform_is_an_error(built: Built, change, message: str) -> None:
    path = built.workspace.published_file(KEY)
    written = built.workspace.write_table(path, change(pq.read_table(path, partitioning=None)))
    state = built.workspace.read_json(built.workspace.state_file(KEY))
    built.workspace.write_json(built.workspace.state_file(KEY), {**state, "content_hash": written.digest})
    assert message in built.found(COLLECTION)["published_file"].message


def geo(table: pa.Table, **changes: str) -> dict[bytes, bytes]:
    return {**table.schema.metadata, b"geo": json.dumps({**json.loads(table.schema.metadata[b"geo"]), **changes})}


def test_lost_records_and_headers_are_errors(built: Built) -> None:
    normalized, ledger = built.table(NORMALIZED), built.table(BANDS)
    built.spoil(NORMALIZED, normalized.slice(0, 2))
    assert "3 of 2 normalized records are published" in built.found(COLLECTION)["counts_agree"].message
    built.spoil(NORMALIZED, pa.concat_tables([normalized, normalized]))
    assert "6 records were normalized or rejected of 3 raw rows" in built.found(COLLECTION)["counts_agree"].message
    built.spoil(NORMALIZED, normalized)
    built.spoil(BANDS, ledger.filter(pc.invert(pc.and_(pc.equal(ledger["band"], "B02"), pc.equal(ledger["id"], "a")))))
    assert "3 of 2 headers of B02 are published" in built.found(COLLECTION)["counts_agree"].message


def test_every_file_is_opened_once_for_all_checks(tmp_path: Path) -> None:
    with bucket_server("checked") as endpoint:
        built = Built(tmp_path, out="s3://checked/out", filesystem=filesystem_of(endpoint))
        with requests_seen() as seen:
            findings = check_partition(built.workspace, built.spec, KEY)
        assert {finding.check for finding in findings} == {one.name for one in checks_of(*CHECKED)}
        assert [finding.message for finding in findings if not finding.passed] == []
        files = [built.path(stage) for stage in (NORMALIZED, REJECTED, BANDS, HEADERS)]
        files += [built.workspace.stage_file("raw_records", KEY), built.workspace.state_file(KEY)]
        files.append(built.workspace.published_file(KEY))
        listing = "GET /checked"
        assert Counter(seen) == Counter([listing, *(f"GET /{file}" for file in files)])
        with requests_seen() as seen:
            require_publishable(built.workspace, built.spec, [KEY])
        before = [built.path(stage) for stage in (NORMALIZED, BANDS, HEADERS)]
        assert Counter(seen) == Counter([listing, *(f"GET /{file}" for file in before)])


@pytest.fixture
def own_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the checks that a test declares, after the test."""
    monkeypatch.setattr(registry, "_CHECKS", dict(registry._CHECKS))


@pytest.mark.usefixtures("own_checks")
def test_a_check_of_a_project(built: Built) -> None:
    @check(stage="collection", columns=["id"], also={"raw_records": ["id"], "rejected_records": ["id"]})
    def as_many_as_raw(partition: Partition) -> Finding:
        """Nothing is left out. Not even repetitions.

        Of no record.
        """
        raw = partition.also["raw_records"].rows["id"]
        missing = set(raw.to_pylist()) - set(partition.table.rows["id"].to_pylist())
        assert "rejected_records" not in partition.also
        assert (partition.key, partition.spec, partition.table.count) == (KEY, built.spec, 3)
        return Finding(passed=not missing, message=f"missing: {missing}")

    found = built.found(COLLECTION)["as_many_as_raw"]
    assert (found.verdict, found.message) == ("ok", "missing: set()")
    (own,) = (declared for declared in checks_of(COLLECTION) if declared.name == "as_many_as_raw")
    assert (own.description, own.blocking) == ("Nothing is left out.", False)


@pytest.mark.usefixtures("own_checks")
@pytest.mark.parametrize("stage", [NORMALIZED, REJECTED])
def test_a_blocking_check_of_a_project_keeps_its_partition_from_being_published(built: Built, stage: str) -> None:
    @check(stage=stage, columns=["id"], blocking=True, of_batch=lambda batch: batch.slice(0, 0), description="Never.")
    def never(partition: Partition) -> Finding:
        return Finding(passed=False, message=f"{partition.table.rows.num_rows} rows of {stage}")

    assert publication_errors(built.workspace, built.spec, [KEY]) == {KEY: f"0 rows of {stage}"}


@pytest.mark.usefixtures("own_checks")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stage": "normalised_records"}, "stage='normalised_records' has no checks: write one of normalized_records,"),
        ({"stage": "raw_records"}, "has no checks"),
        ({"stage": NORMALIZED, "also": {"bands": ()}}, "also= names bands, which is not another table"),
        ({"stage": NORMALIZED, "also": {NORMALIZED: ()}}, "which is not another table"),
        ({"stage": COLLECTION, "blocking": True}, "cannot block"),
        ({"stage": BANDS, "description": ""}, "says nothing about itself"),
        ({"stage": NORMALIZED}, "has a check unique_ids already"),
    ],
)
def test_a_check_that_cannot_work_is_refused_where_it_is_declared(options: dict, message: str) -> None:
    def unique_ids(partition: Partition) -> Finding:
        raise AssertionError

    with pytest.raises(ValueError, match=message):
        check(**{"description": "Something.", **options})(unique_ids)


def test_a_stage_that_does_not_exist_has_no_checks_to_ask_for() -> None:
    with pytest.raises(ValueError, match="no stage is called headers: write one of raw_records, "):
        checks_of(NORMALIZED, "headers")
    assert checks_of("raw_records") == []


def test_a_check_is_tried_over_a_table_in_memory() -> None:
    ids = pa.table({"id": ["a", "a", None]})
    finding = check_table(unique_ids, ids)
    assert (finding.check, finding.verdict, finding.numbers["repeated_ids"]) == ("unique_ids", "error", 1)
    assert check_table(unique_ids, pa.table({"id": ["a", "b"]})).passed
    lacking = check_table(unique_ids, pa.table({"name": ["a"]}))
    assert lacking.message == "normalized_records: id is missing; build the partition again"


def test_a_check_that_names_a_field_is_told_to_name_the_column(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_CHECKS", {})

    @check(stage=BANDS, columns=["header.band_index"], description="Names a field.")
    def fields(partition: Partition) -> Finding:
        raise AssertionError(partition)

    finding = check_table(fields, pa.table({"header": [{"band_index": 1}]}))
    assert finding.message == (
        "band_metadata: header.band_index is a field: a check names whole columns, and takes fields of them"
    )


def test_a_check_of_large_columns_is_tried_batch_by_batch() -> None:
    boxes = [shapely.box(9, 48, 10, 49), shapely.box(9, 94, 10, 95)]
    names = ("xmin", "ymin", "xmax", "ymax")
    bounds = [dict(zip(names, box.bounds, strict=True)) for box in boxes]
    columns = {"id": ["a", "b"], "geometry": pa.array(shapely.to_wkb(boxes)), "bbox": pa.array(bounds, BBOX_TYPE)}
    whole = pa.table(columns)
    finding = check_table(footprints, pa.concat_tables([whole[:1], whole[1:]]))
    assert (finding.verdict, finding.numbers["off_earth"]) == ("error", 1)


def test_a_function_that_is_not_a_check_is_refused() -> None:
    with pytest.raises(ValueError, match="'len' is not a check: it needs the decorator check"):
        check_table(len, pa.table({"id": ["a"]}))
