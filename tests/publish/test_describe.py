"""Published assets have the fields of STAC's projection and raster extensions, from headers."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
import shapely

from rasteret_assets import CollectionSpec, build, build_from_table, load
from tests.support.rasters import footprint, record_table, tiff_bytes

KINDS = {
    "plain": {"nodata": 7},
    "float": {"dtype": "float32", "nodata": None, "pixel": 20.0},
    "big": {"dtype": "int16", "ENDIANNESS": "BIG", "nodata": -5},
    "several": {"bands": 3},
    "lonlat": {"epsg": 4326, "origin": (9.0, 48.0), "pixel": 0.001},
}


@pytest.fixture
def records(tmp_path: Path) -> pa.Table:
    """Two records with an asset of each kind; of the second record only one file exists."""
    for kind, options in KINDS.items():
        (tmp_path / f"{kind}.tif").write_bytes(tiff_bytes(**options))
    hrefs = {
        kind: [str(tmp_path / f"{kind}.tif"), str(tmp_path / (f"{kind}.tif" if kind == "plain" else "gone.tif"))]
        for kind in KINDS
    }
    return record_table(["a", "b"], hrefs, outline=footprint(tiff_bytes()))


def test_assets_describe_their_files_as_the_headers_do(records: pa.Table, tmp_path: Path) -> None:
    assets = published(records, tmp_path).to_table(["id", "assets"]).sort_by("id")["assets"].to_pylist()
    for kind in KINDS:
        with rasterio.open(tmp_path / f"{kind}.tif") as source:
            assert assets[0][kind]["proj:code"] == str(source.crs)
            assert assets[0][kind]["proj:shape"] == list(source.shape)
            assert assets[0][kind]["proj:transform"] == list(source.transform)[:6]
            band = {"data_type": source.dtypes[0], "nodata": source.nodata, "scale": None, "offset": None}
            assert assets[0][kind]["raster:bands"] == ([band] if source.count == 1 else None)
    assert assets[1]["float"]["proj:code"] is None
    assert assets[1]["float"]["proj:transform"] is None
    assert assets[1]["plain"] == assets[0]["plain"]


def published(records: pa.Table, folder: Path, **options):
    pq.write_table(records, folder / "records.parquet")
    spec = {"path": folder / "records.parquet", "name": "scenes", "workspace_dir": folder, "enrich_cog": True}
    build(CollectionSpec.of(**spec, describe_assets=True, **options))
    return load(folder / "scenes_records")


def test_fields_that_the_source_gives_stay(records: pa.Table, tmp_path: Path) -> None:
    rows = records.to_pylist()
    for row in rows:
        row["assets"] = {"plain": row["assets"]["plain"] | {"proj:code": "EPSG:1", "title": "of the source"}}
        row |= {
            "stac_version": "1.1.0",
            "stac_extensions": ["https://stac-extensions.github.io/raster/v2.0.0/schema.json"],
        }
    table = published(pa.Table.from_pylist(rows), tmp_path).to_table()
    asset = table["assets"].to_pylist()[0]["plain"]
    assert (asset["proj:code"], asset["title"], asset["proj:shape"]) == ("EPSG:1", "of the source", [80, 100])
    assert table["stac_extensions"].to_pylist()[0] == [
        "https://stac-extensions.github.io/raster/v2.0.0/schema.json",
        "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    ]


def test_collections_without_the_option_are_published_as_before(records: pa.Table, tmp_path: Path) -> None:
    spec = CollectionSpec.of(path="records.parquet", name="scenes", workspace_dir=tmp_path, enrich_cog=True)
    said = spec.model_copy(update={"describe_assets": False})
    other = spec.model_copy(update={"describe_assets": True})
    assert said.content_hash == spec.content_hash != other.content_hash
    whole = build_from_table(records, enrich_cog=True)
    assert [field.name for field in whole.schema.field("assets").type.field("plain").type] == ["href"]


def test_the_option_publishes_again_without_asking_for_headers(records: pa.Table, tmp_path: Path) -> None:
    pq.write_table(records, tmp_path / "records.parquet")
    fields = {"path": tmp_path / "records.parquet", "name": "scenes", "workspace_dir": tmp_path, "enrich_cog": True}
    build(CollectionSpec.of(**fields))
    report = build(CollectionSpec.of(**fields, describe_assets=True))
    # Only the missing file is asked for again, as in every build.
    assert report.totals["headers_fetched"] == 1
    found = load(tmp_path / "scenes_records")
    assert found.to_table(["assets"])["assets"].to_pylist()[0]["plain"]["proj:shape"] == [80, 100]
    pixels = found.get_numpy(shapely.box(*found.bounds), "plain", date_range="2024-04")
    with rasterio.open(tmp_path / "plain.tif") as source:
        assert (pixels[0] == source.read(1)).all()
