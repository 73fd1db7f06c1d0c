"""``rasteret-assets show``: rows of every stage's table, for people and for programs."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from rasteret_assets.cli import main
from tests.support.rasters import record_table, tiff_bytes
from tests.support.server import RangeServer

IDS = ["a", "b", "c"]


def show(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["show", *map(str, arguments)])


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of two months whose addresses are signed; ``c`` of January is rejected, the file of ``b`` is gone."""
    root, server = tmp_path_factory.mktemp("shown"), RangeServer()
    server.objects["/a.tif"] = tiff_bytes()
    hrefs = [f"{server.url}/{name}.tif?sig=verysecret" for name in IDS]
    times = [datetime(2024, month, 5, tzinfo=UTC) for month in (1, 2, 1)]
    table = record_table(IDS, {"B02": hrefs}, datetimes=times)
    columns = {
        "note": [f'see "{href}" or ask' for href in hrefs],
        "extra": ['{"token": "https:\\/\\/u:verysecret@h\\/x?sig=verysecret"}'] * 3,
        "long": ["x" * 999] * 3,
    }
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values))
    table = table.set_column(0, "id", pa.array(["a", "b", None]))
    pq.write_table(table, root / "records.parquet")
    (root / "scenes.yaml").write_text("path: records.parquet\nworkspace_dir: out\nenrich_cog: true\nmax_rejected: 1\n")
    with server.running():
        done = CliRunner().invoke(main, ["build", str(root / "scenes.yaml")])
    assert done.exit_code == 0, done.output
    return root


@pytest.mark.parametrize(
    ("stage", "key", "rows", "column", "value"),
    [
        ("raw_records", "2024-01", 2, "id", "a"),
        ("normalized_records", "2024-01", 1, "datetime", "2024-01-05T00:00:00+00:00"),
        ("rejected_records", "2024-01", 1, "reject_class", "missing_id"),
        ("band_metadata", "2024-02", 1, "error_class", "not_found"),
        ("collection", "2024-02", 1, "B02_metadata", None),
    ],
)
def test_every_stage_is_shown(built: Path, stage: str, key: str, rows: int, column: str, value: object) -> None:
    result = show(built / "scenes.yaml", "--stage", stage, "-p", key, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["stage"], found["partition"], found["rows"], len(found["records"])) == (stage, key, rows, rows)
    assert found["records"][0][column] == value
    assert list(found["records"][0]) == list(found["columns"])
    assert Path(found["path"]).is_file()
    text = show(built / "out" / "scenes_records", "--stage", stage, "-p", key)
    assert text.stdout.splitlines()[0].startswith(
        f"{stage} of {key}: {rows} {'row' if rows == 1 else 'rows'}, {len(found['columns'])} columns, in "
    )
    assert "row 1" in text.stdout
    assert "verysecret" not in result.output + text.output
    assert max(map(len, text.stdout.splitlines())) < 500


def test_the_ledger_is_shown_with_its_headers(built: Path) -> None:
    (row,) = json.loads(show(built / "scenes.yaml", "--stage", "band_metadata", "-p", "2024-01", "--json").stdout)[
        "records"
    ]
    assert (row["status"], row["header"]["image_width"]) == ("ok", 100)


def test_rows_are_as_many_as_are_asked_for(built: Path) -> None:
    arguments = (built / "scenes.yaml", "--stage", "raw_records", "-p", "2024-01", "--limit")
    assert len(json.loads(show(*arguments, 1, "--json").stdout)["records"]) == 1
    assert show(*arguments, 1).stdout.splitlines()[-1] == "... and 1 more: --limit shows more of them"
    assert "row 1" not in show(*arguments, 0).stdout


def test_a_partition_of_which_nothing_was_rejected_has_no_rows(built: Path) -> None:
    arguments = (built / "scenes.yaml", "--stage", "rejected_records", "-p", "2024-02")
    assert show(*arguments).stdout == "rejected_records of 2024-02: 0 rows\n"
    assert json.loads(show(*arguments, "--json").stdout)["records"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--stage", "collection"), "name a partition with -p: collection has 2024-01, 2024-02"),
        (("-p", "2031-01"), "collection has no partition 2031-01; it has 2024-01, 2024-02"),
        (("-p", "May"), "'May' is not a partition key"),
        (("--stage", "nothing"), "'nothing' is not one of"),
    ],
)
def test_a_missing_partition_or_collection_is_wrong_usage(
    built: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = show(built / "scenes.yaml", *arguments)
    assert (result.exit_code, message in result.stderr) == (2, True), result.stderr


def test_a_collection_that_was_not_built_is_wrong_usage(tmp_path: Path) -> None:
    result = show(tmp_path / "x_records", "--stage", "collection")
    assert (result.exit_code, "build the collection first" in result.stderr) == (2, True)
