"""``rasteret-assets export-gti``: which records and bands are written, and what is told."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyogrio
import pytest
import rasterio
from click.testing import CliRunner, Result

from rasteret_assets import build_from_table
from rasteret_assets.cli import main
from tests.support.rasters import footprint, record_table, tiff_bytes


def export(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["export-gti", *map(str, arguments)])


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published collection of three records with two bands, one a month."""
    root = tmp_path_factory.mktemp("gti")
    images = {band: tiff_bytes(seed=seed) for seed, band in enumerate(("B02", "B03"))}
    for band, content in images.items():
        (root / f"{band}.tif").write_bytes(content)
    table = record_table(
        ["a", "b", "c"], {band: [str(root / f"{band}.tif")] * 3 for band in images}, outline=footprint(images["B02"]),
        datetimes=[datetime(2024, month, 5, tzinfo=UTC) for month in (1, 2, 3)],
        **{"eo:cloud_cover": pa.array([5.0, 50.0, None]), "platform": pa.array(["s2a", "s2b", "s2a"])},
    )  # fmt: skip
    build_from_table(table, name="scenes", workspace_dir=root, enrich_cog=True)
    return root / "scenes_records"


def test_all_bands_by_default(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = export(built)
    assert result.exit_code == 0, result.output
    assert "written to scenes.gti.gpkg" in result.output
    assert pyogrio.list_layers("scenes.gti.gpkg")[:, 0].tolist() == ["B02_32632", "B03_32632"]
    with rasterio.open("scenes.gti.gpkg") as mosaic, rasterio.open(built.parent / "B02.tif") as source:
        assert (mosaic.read(1) == source.read(1)).all()


@pytest.mark.parametrize(
    ("options", "records"),
    [
        (["--where", "eo:cloud_cover", "<", "20"], ["a"]),
        (["--where", "platform", "in", "[s2a, s2c]"], ["a", "c"]),
        (["--where", "platform", "=", "s2a", "--where", "id", "!=", "a"], ["c"]),
        (["--dates", "2024-02"], ["b"]),
        (["--bbox", "8", "48", "10", "49"], ["a", "b", "c"]),
    ],
)
def test_records_are_chosen(built: Path, tmp_path: Path, options: list[str], records: list[str]) -> None:
    index = tmp_path / "some.gti.gpkg"
    result = export(built, index, "--bands", "B03", *options, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["path"] == str(index)
    (layer,) = document["layers"]
    assert {key: layer[key] for key in ("name", "records", "dtype", "nodata", "resolution", "size", "resampled")} == {
        "name": "B03_32632", "records": len(records), "dtype": "uint16", "nodata": 0, "resolution": [10.0, 10.0],
        "size": [100, 80], "resampled": 0,
    }  # fmt: skip
    assert pyogrio.read_arrow(index)[1]["id"].to_pylist() == records


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--where", "cloud", "<", "20"], 2, "the collection has no such column"),
        (["--where", "id", "like", "a"], 2, "write one of = =="),
        (["--where", "id", "<", "[a"], 2, "--where"),
        (["--where", "eo:cloud_cover", "<", "few"], 1, "does not fit this collection"),
        (["--bands", "B09"], 1, "'B09' is not in this collection"),
        (["--dates", "2030"], 1, "no record satisfies the filters"),
    ],
)
def test_mistakes_are_one_line(built: Path, tmp_path: Path, options: list[str], code: int, message: str) -> None:
    result = export(built, tmp_path / "x.gti.gpkg", *options)
    assert (result.exit_code, message in result.stderr.replace("\n", " ")) == (code, True), result.stderr
    assert not list(tmp_path.iterdir())
