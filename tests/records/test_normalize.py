"""Raw rows to the record contract: what survives, what is rejected, and how the profile judges a whole source."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pyarrow as pa
import pytest
import shapely

from rasteret_assets.errors import BandNotFoundError, InvalidRecordError
from rasteret_assets.records.normalize import NormalizedRecords, normalize_records
from rasteret_assets.schema import RECORD_FIELDS
from rasteret_assets.source.open import Source, open_source
from rasteret_assets.source.partition_rows import parts_of, scan_parts
from rasteret_assets.source.profile import SourceProfile
from rasteret_assets.source.profiling import profile_source
from rasteret_assets.spec import CollectionSpec
from tests.support.rasters import record_table

HREFS = {"B02": ["/a.tif", "/b.tif", "/c.tif"]}
TABLE = record_table(["a", "b", "c"], HREFS)


def normalized(table: pa.Table, **values: object) -> NormalizedRecords:
    spec = CollectionSpec.of(path="t", **values)
    source = open_source(table, spec)
    return normalize_records(source.table(), spec, profile_source(source, spec))


def scanned(
    source: Source, spec: CollectionSpec, profile: SourceProfile, keys: set[str]
) -> list[tuple[str, pa.RecordBatch]]:
    """The raw rows of some partitions."""
    found = scan_parts(source, spec, profile, parts_of(source, profile, keys))
    return [(key, rows) for _, key, rows in found]


def test_contract_columns_have_their_types_and_user_columns_survive() -> None:
    extra = pa.array([1, 2, None], pa.decimal128(5, 2))
    result = normalized(TABLE.append_column("a.b", extra).append_column("", extra).append_column("Id", extra))
    schema = result.records.schema
    for name, kind in RECORD_FIELDS.items():
        assert schema.field(name).type == kind, name
    assert result.records["a.b"].to_pylist() == extra.to_pylist()
    assert {"", "Id"} <= set(schema.names)
    assert schema.metadata is None


def test_a_mapped_footprint_has_the_crs_of_its_own_column() -> None:
    """Another binary column before the footprints is not read in their place."""
    web = pa.array([shapely.box(111319, 0, 222639, 111325).wkb] * 3)
    table = pa.table({"thumbnail": pa.array([b"x"] * 3), **dict(zip(TABLE.schema.names, TABLE.columns, strict=True))})
    table = table.drop_columns("geometry").append_column("geom", web)
    geo = {"version": "1.1.0", "primary_column": "geom", "columns": {"geom": {"encoding": "WKB", "crs": "EPSG:3857"}}}
    result = normalized(table.replace_schema_metadata({"geo": json.dumps(geo)}), column_map={"geom": "geometry"})
    assert result.records["bbox"][0].as_py()["xmax"] == pytest.approx(2, abs=1e-3)


def test_aliases_keep_the_source_column() -> None:
    table = TABLE.rename_columns(["fid", "when", "geom", "assets"])
    result = normalized(table, column_map={"fid": "id", "when": "datetime", "geom": "geometry"})
    assert result.records["fid"].to_pylist() == result.records["id"].to_pylist() == ["a", "b", "c"]
    assert {"when", "geom"} <= set(result.records.schema.names)


def test_year_and_month_are_recomputed_in_utc() -> None:
    table = TABLE.set_column(1, "datetime", pa.array(["2019-12-31T23:30:00-05:00", None, "2020-06-01"]))
    table = table.append_column("year", pa.array([1999] * 3)).append_column("month", pa.array(["13"] * 3))
    records = normalized(table).records
    assert records["year"].to_pylist() == [2020, None, 2020]
    assert records["month"].to_pylist() == [1, None, 6]
    assert records.schema.names.count("year") == 1


def test_interval_records_go_where_the_spec_says() -> None:
    start = pa.array([datetime(2021, 3, 1, tzinfo=UTC)] * 3)
    table = TABLE.set_column(1, "datetime", pa.nulls(3)).append_column("start_datetime", start)
    assert normalized(table).records["year"].to_pylist() == [None] * 3
    by_start = normalized(table, interval_partition="start_datetime").records
    assert by_start["year"].to_pylist() == [2021] * 3
    assert by_start["datetime"].null_count == 3


def test_rows_that_break_the_contract_are_set_aside_with_a_reason() -> None:
    wkb = TABLE["geometry"][0].as_py()
    table = pa.table({
        "id": [None, "b", "c", "d", "e"],
        "datetime": ["2024-01-01", "soon", "2024-01-01", "2024-01-01", None],
        "geometry": pa.array([wkb, wkb, b"\x01", shapely.to_wkb(shapely.Point(5e5, 5e6)), None], pa.binary()),
        "assets": [{"B02": {"href": "/a.tif"}}] * 5,
    })  # fmt: skip
    result = normalized(table)
    assert result.records["id"].to_pylist() == ["e"]
    assert result.records["bbox"].to_pylist() == [None]
    assert result.rejected["reject_class"].to_pylist() == [
        "missing_id", "invalid_datetime", "invalid_geometry", "invalid_geometry"
    ]  # fmt: skip
    assert result.rejected["datetime"].to_pylist()[1] == "soon"
    with pytest.raises(
        InvalidRecordError, match=r"4 of 5 records .*None \(the record has no id\), 'b' .*max_rejected=0.8"
    ):
        result.check(0.5)
    result.check(0.8)


def test_exact_repetitions_are_counted_and_conflicts_rejected() -> None:
    table = pa.concat_tables([TABLE, TABLE.slice(0, 1), record_table(["b"], {"B02": ["/other.tif"]})])
    result = normalized(table)
    assert sorted(result.records["id"].to_pylist()) == ["a", "c"]
    assert result.duplicates == 1
    assert result.rejected["reject_class"].to_pylist() == ["duplicate_id", "duplicate_id"]


def test_a_conflict_across_months_is_judged_the_same_in_each() -> None:
    spec = CollectionSpec.of(path="t")
    other = record_table(["a"], {"B02": ["/z.tif"]}, datetimes=[datetime(2025, 1, 1, tzinfo=UTC)])
    source = open_source(pa.concat_tables([TABLE, other]), spec)
    profile = profile_source(source, spec)
    assert profile.conflicting_ids == ("a",)
    for key, rows in scanned(source, spec, profile, {*profile.partitions}):
        result = normalize_records(pa.Table.from_batches([rows]), spec, profile)
        assert "a" not in result.records["id"].to_pylist(), key


def test_versions_change_with_their_own_partition_only() -> None:
    spec = CollectionSpec.of(path="t")
    before = profile_source(open_source(TABLE, spec), spec)
    changed = record_table(["a", "b", "c"], {"B02": ["/a.tif", "/NEW.tif", "/c.tif"]})
    after = profile_source(open_source(changed, spec), spec)
    assert sorted(before.partitions) == ["2024-04", "2024-05", "2024-06"]
    differing = [key for key in before.partitions if before.version(key, spec) != after.version(key, spec)]
    assert differing == ["2024-05"]


def test_partitions_hold_every_row_once() -> None:
    spec = CollectionSpec.of(path="t")
    source = open_source(TABLE.set_column(1, "datetime", pa.array(["2024-01-05", None, "1850-12-31"])), spec)
    profile = profile_source(source, spec)
    parts = {key: rows["id"].to_pylist() for key, rows in scanned(source, spec, profile, {*profile.partitions})}
    assert parts == {"1850-12": ["c"], "2024-01": ["a"], "undated": ["b"]}
    assert [key for key, _ in scanned(source, spec, profile, {"2024-01"})] == ["2024-01"]
    assert not scanned(source, spec, profile, {"2023-01"})


def test_bands_are_the_rasters_unless_chosen() -> None:
    assets = {"B02": ["/a.tif", None, None], "meta": ["/m.xml"] * 3, "B8A": [None, None, "/c.tif"]}
    source = open_source(record_table(["a", "b", "c"], assets), CollectionSpec.of(path="t"))
    assert profile_source(source, CollectionSpec.of(path="t")).bands == ()
    assert profile_source(source, CollectionSpec.of(path="t", enrich_cog=True)).bands == ("B02", "B8A")
    chosen = CollectionSpec.of(path="t", enrich_cog=True, band_codes=["meta"])
    assert profile_source(source, chosen).bands == ("meta",)
    with pytest.raises(BandNotFoundError, match=r"asks for \['B99'\]; its assets are \['B02', 'meta', 'B8A'\]"):
        profile_source(source, CollectionSpec.of(path="t", enrich_cog=True, band_codes=["B99"]))
