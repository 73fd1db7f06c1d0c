"""The questions of ``docs/sql.md``, asked of a small collection: they run as they stand, and the answers are right."""

from __future__ import annotations

import datetime as dt
import json
import re
from pathlib import Path
from typing import Any

import duckdb
import duckdb_extension_spatial
import pyarrow as pa
import pytest
import shapely

from rasteret_assets import build_from_table, load
from tests.support.rasters import tiff_bytes
from tests.support.server import RangeServer

PAGE = Path(__file__).parent.parent / "docs" / "sql.md"
DAYS = [(2024, 5, 3), (2024, 5, 20), (2024, 6, 1), None]
#: The box of the page: it meets all footprints but the last.
BOX = shapely.box(9.02, 48.70, 9.08, 48.73)


@pytest.fixture(scope="module")
def host() -> Any:
    with RangeServer().running() as server:
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, host: RangeServer) -> Path:
    """``scenes_records`` of four records, one without a datetime, and one without the file of B08."""
    root = tmp_path_factory.mktemp("sql")
    rows = []
    for number, day in enumerate(DAYS):
        for band in ("B04", "B08"):
            if (number, band) != (1, "B08"):
                host.objects[f"/{number}_{band}.tif"] = tiff_bytes(seed=number, width=100 + 20 * number)
        west = 9.0 + 0.02 * number + (1 if day is None else 0)
        rows.append({
            "id": f"r{number}", "datetime": day and dt.datetime(*day, tzinfo=dt.UTC),
            "geometry": shapely.box(west, 48.70, west + 0.05, 48.75).wkb, "eo:cloud_cover": 30.0 - number,
            "assets": {band: {"href": f"{host.url}/{number}_{band}.tif"} for band in ("B04", "B08")},
        })  # fmt: skip
    build_from_table(pa.Table.from_pylist(rows), name="scenes", workspace_dir=root, enrich_cog=True)
    return root


@pytest.fixture(scope="module")
def answers(folder: Path) -> dict[str, list[Any]]:
    """Answers to the queries of each section, as lists of rows by column."""
    mounted = pytest.MonkeyPatch()
    mounted.chdir(folder)
    extension = next(Path(duckdb_extension_spatial.__file__).parent.rglob("spatial.duckdb_extension"))
    found: dict[str, list[Any]] = {}
    with duckdb.connect() as database:
        for section in PAGE.read_text(encoding="utf-8").split("\n## ")[1:]:
            title = section.partition("\n")[0]
            for block in re.findall(r"```sql\n(.*?)```", section, flags=re.DOTALL):
                # The extension comes from a wheel where there is no network.
                text = f"LOAD '{extension}'" if "INSTALL" in block else block
                answer = database.execute(text)
                names = [column[0] for column in answer.description or ()]
                found.setdefault(title, []).append([dict(zip(names, row, strict=True)) for row in answer.fetchall()])
    mounted.undo()
    return found


def test_the_view_hides_the_tile_tables(answers: dict[str, list[Any]]) -> None:
    view, headers = answers["A view without the tile tables"]
    assert {row["id"] for row in view} == {"r0", "r1", "r2", "r3"}
    assert not [name for name in view[0] if name.endswith("_metadata")]
    assert {"id", "datetime", "geometry", "assets", "bbox", "year", "month"} <= set(view[0])
    assert {row["width"] for row in headers} == {100, 120, 140, 160}
    assert {row["files"] for row in headers} == {1}


def test_months_are_counted(answers: dict[str, list[Any]]) -> None:
    months, clearest = answers["Records by month"]
    assert [(row["year"], row["month"], row["records"], row["clouds"]) for row in months] == [
        (2024, 5, 2, 29.5), (2024, 6, 1, 28.0), (None, None, 1, 27.0),
    ]  # fmt: skip
    assert [(row["month"], row["id"], row["clouds"]) for row in clearest] == [(5, "r1", 29.0), (6, "r2", 28.0)]


def test_failures_are_reported(answers: dict[str, list[Any]], host: RangeServer) -> None:
    by_month, by_host, partly = answers["Headers that are missing, and why"]
    counts = {(row["partition"], row["band"], row["result"]): row["headers"] for row in by_month}
    assert counts[("2024-05", "B08", "not_found")] == 1
    assert counts[("undated", "B04", "ok")] == 1
    assert sum(counts.values()) == 8
    (failure,) = by_host
    assert (failure["host"], failure["error_class"], failure["headers"]) == (
        host.url.partition("://")[2],
        "not_found",
        1,
    )
    assert "404" in failure["example"]
    assert failure["retried_until"] > failure["last_attempt"]
    assert partly == [{"id": "r1", "readable": ["B04"], "missing": ["B08"]}]


def test_footprints_are_found(answers: dict[str, list[Any]], folder: Path) -> None:
    boxes, _, exact, _ = answers["Footprints"]
    assert [row["id"] for row in boxes] == ["r0", "r1", "r2"]
    assert [row["id"] for row in exact] == ["r0", "r1", "r2"]
    assert all(20 < row["km2"] < 21 for row in exact)
    features = json.loads((folder / "footprints.geojson").read_text())["features"]
    assert {feature["properties"]["id"] for feature in features} == {"r0", "r1", "r2", "r3"}


def test_bytes_of_an_area_are_those_of_its_tiles(
    answers: dict[str, list[Any]], folder: Path, host: RangeServer
) -> None:
    (((weight,)),) = answers["Bytes of an area"]
    headers = (
        load(folder / "scenes_records").subset(geometries=BOX).to_table(["B04_metadata"])["B04_metadata"].to_pylist()
    )
    assert weight == {
        "files": 3, "tiles": sum(len(header["tile_offsets"]) for header in headers),
        "pixel_bytes": sum(sum(header["tile_byte_counts"]) for header in headers),
        "file_bytes": sum(len(host.objects[f"/{number}_B04.tif"]) for number in range(3)),
    }  # fmt: skip


def test_polars_answers_too(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(folder)
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    found: dict[str, Any] = {}
    exec(compile(block, str(PAGE), "exec"), found)
    assert "29.5" in capsys.readouterr().out
    assert found["failed"].collect().rows() == [("B08", "not_found", 1)]
    headers = load("scenes_records").subset(geometries=BOX).to_table(["B04_metadata"])["B04_metadata"].to_pylist()
    assert found["weight"].collect().item() == sum(sum(header["tile_byte_counts"]) for header in headers)
