"""Scale and offset of bands: published with the header, and taken from STAC if the file does not state them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import rasterio
import rasterio.shutil

from rasteret_assets import Collection, as_collection, build_from_table, schema
from rasteret_assets.collection.pixels.band import BandHeader
from rasteret_assets.collection.pixels.select import every_record, projection
from tests.support.rasters import record_table

from .support import footprint_of, noise, record, records_table, write_raster

BANDS = ["B1", "B2", "B3"]
SCALES, OFFSETS = (0.0001, 1.0, 2.5), (-0.1, 0.0, 1e4)


def scaled(path: Path, **options: Any) -> Path:
    """A file whose second band has the scale of any band."""
    write_raster(path, noise(bands=3), **options)
    with rasterio.open(path, "r+") as target:
        target.scales, target.offsets = SCALES, OFFSETS
    return path


def built(folder: Path, paths: list[Path], **fields: Any) -> Collection:
    """A collection of one record per file, of which every band is a band of the file."""
    table = record_table([str(n) for n in range(len(paths))], {"B1": [str(paths[0])] * len(paths)})
    assets = [
        {name: {"href": str(path), "band_index": n, **fields} for n, name in enumerate(BANDS)} for path in paths
    ]  # fmt: skip
    place = table.schema.get_field_index("assets")
    table = table.set_column(place, "assets", pa.array(assets))
    return build_from_table(table, name="scenes", workspace_dir=folder, enrich_cog=True)


def headers(collection: Collection, bands: list[str] = BANDS) -> list[BandHeader]:
    """Headers of the first record, as reads take them."""
    (first, *_) = every_record(collection.batches(projection(collection.schema, bands, scaled=True)), bands)
    assert None not in first.headers
    return first.present_headers


def scaling(collection: Collection, bands: list[str] = BANDS) -> list[tuple[float, float]]:
    return [(header.scale, header.offset) for header in headers(collection, bands)]


@pytest.mark.parametrize("options", [{}, {"interleave": "band"}, {"bigtiff": "yes"}, {"endianness": "big"}])
def test_what_a_file_states_is_published_and_read(tmp_path: Path, options: dict[str, Any]) -> None:
    paths = [scaled(tmp_path / f"{n}.tif", **options) for n in range(3)]
    with rasterio.open(paths[0]) as source:
        assert (source.scales, source.offsets) == (SCALES, OFFSETS)
    collection = built(tmp_path, paths)
    table = collection.to_table()
    for name, scale, offset in zip(BANDS, SCALES, OFFSETS, strict=True):
        rows = table[schema.band_column(name)].to_pylist()
        # GDAL writes none for the second band, whose pixels are values as they are.
        expected = (None, None) if name == "B2" else (scale, offset)
        assert [(row["scale"], row["offset"]) for row in rows] == [expected] * 3
    assert scaling(collection) == list(zip(SCALES, OFFSETS, strict=True))


def test_overviews_are_scaled_as_their_band_and_masks_are_not(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        scaled(tmp_path / "bare.tif")
        with rasterio.open(tmp_path / "bare.tif", "r+") as target:
            target.write_mask(np.tri(target.height, target.width).astype(bool))
        rasterio.shutil.copy(tmp_path / "bare.tif", path, driver="COG", blocksize=128)
    header = headers(built(tmp_path, [path]))[0]
    assert header.overviews
    for level in (header, *header.overviews):
        assert (level.scale, level.offset) == (SCALES[0], OFFSETS[0])
        assert level.mask is not None
        assert (level.mask.scale, level.mask.offset) == (1.0, 0.0)


BY_BAND = [(0.5, 0.0), (1.0, 3.0), (1.0, 0.0)]
WHOLE = [(0.25, -1.0)] * 3
STAC: dict[str, tuple[dict[str, Any], list[tuple[float, float]]]] = {
    "nothing": ({}, [(1.0, 0.0)] * 3),
    "raster:bands": ({"raster:bands": [{"scale": 0.5}, {"offset": 3, "unit": "m"}]}, BY_BAND),
    "bands": ({"bands": [{"raster:scale": 0.5}, {"raster:offset": 3}, {"name": "x"}]}, BY_BAND),
    "the asset": ({"raster:scale": 0.25, "raster:offset": -1}, WHOLE),
    "scale alone": ({"raster:scale": 0.25}, [(0.25, 0.0)] * 3),
    "both": ({"raster:bands": [{"scale": 0.5}, {"offset": 3.0}], "raster:scale": 0.25, "raster:offset": -1},
             [*BY_BAND[:2], (0.25, -1.0)]),
    "bands without numbers": ({"bands": [{"name": "x"}], "raster:scale": 0.25, "raster:offset": -1}, WHOLE),
    "what is no number": ({"raster:scale": "0.1", "raster:offset": True}, [(1.0, 0.0)] * 3),
    "a list of names": ({"bands": ["a", "b"], "raster:bands": []}, [(1.0, 0.0)] * 3),
}  # fmt: skip


@pytest.mark.parametrize(("fields", "expected"), STAC.values(), ids=STAC)
@pytest.mark.parametrize("as_json", [False, True])
def test_stac_states_what_the_file_does_not(
    tmp_path: Path, fields: dict[str, Any], expected: list[tuple[float, float]], as_json: bool
) -> None:
    path = write_raster(tmp_path / "a.tif", noise(bands=3))
    if not as_json:
        assert scaling(built(tmp_path, [path], **fields)) == expected
        return
    table = record_table(["r"], {"B1": [str(path)]}, outline=footprint_of(path))
    document = {name: {"href": str(path), "band_index": n, **fields} for n, name in enumerate(BANDS)}
    place = table.schema.get_field_index("assets")
    table = table.set_column(place, "assets", pa.array([json.dumps(document)]))
    assert scaling(build_from_table(table, name="scenes", workspace_dir=tmp_path, enrich_cog=True)) == expected


def test_the_file_counts_before_stac(tmp_path: Path) -> None:
    collection = built(tmp_path, [scaled(tmp_path / "a.tif")], **{"raster:scale": 7.0, "raster:offset": 7.0})
    # The file says nothing of its second band.
    assert scaling(collection) == [(SCALES[0], OFFSETS[0]), (7.0, 7.0), (SCALES[2], OFFSETS[2])]


def test_a_statement_of_one_in_the_file_counts(tmp_path: Path) -> None:
    row = record("r", {"B": (write_raster(tmp_path / "a.tif", noise()), 0)})
    row["B_metadata"] |= {"scale": 1.0}
    row["assets"]["B"] |= {"raster:scale": 7.0, "raster:offset": 7.0}
    table = records_table([row])
    table = table.set_column(table.schema.get_field_index("assets"), "assets", pa.array([row["assets"]]))
    assert scaling(as_collection(table), ["B"]) == [(1.0, 0.0)]


def test_a_collection_without_the_fields_is_read(tmp_path: Path) -> None:
    row = record("r", {"B": (write_raster(tmp_path / "a.tif", noise()), 0)})
    table = records_table([row])
    column = table["B_metadata"].combine_chunks()
    kept = [child for child in column.type if child.name not in {"scale", "offset"}]
    older = pa.StructArray.from_arrays([column.field(child.name) for child in kept], fields=kept)
    table = table.set_column(table.schema.get_field_index("B_metadata"), "B_metadata", older)
    assert scaling(as_collection(table), ["B"]) == [(1.0, 0.0)]


@pytest.mark.parametrize(
    ("fields", "read"),
    [
        ({}, []),
        ({"raster:bands": [{"scale": 0.5}]}, ["raster:bands"]),
        ({"raster:bands": [{"unit": "m"}], "bands": [{"name": "x", "scale": 1.0}], "title": "t"}, []),
        ({"raster:scale": 0.5, "properties": {"a": 1}}, ["raster:scale"]),
        ({"properties": "{}", "bands": [{"raster:offset": 1}]}, ["properties", "bands"]),
    ],
)
def test_only_fields_that_may_state_a_scale_are_read(tmp_path: Path, fields: dict[str, Any], read: list[str]) -> None:
    row = record("r", {"B": (write_raster(tmp_path / "a.tif", noise()), 0)})
    row["assets"]["B"] |= fields
    table = records_table([row])
    table = table.set_column(table.schema.get_field_index("assets"), "assets", pa.array([row["assets"]]))
    columns = projection(as_collection(table).schema, ["B"], scaled=True)
    assert [name for name in columns if name.startswith("asset:")] == [f"asset:{name}:B" for name in read]


@pytest.mark.parametrize("text", ["", "[]", "3", "{", '{"properties": "{}"}', '{"raster:scale": 1' + "0" * 400 + "}"])
def test_json_that_states_nothing(tmp_path: Path, text: str) -> None:
    row = record("r", {"B": (write_raster(tmp_path / "a.tif", noise()), 0)})
    row["assets"]["B"] |= {"properties": text}
    table = records_table([row])
    table = table.set_column(table.schema.get_field_index("assets"), "assets", pa.array([row["assets"]]))
    assert scaling(as_collection(table), ["B"]) == [(1.0, 0.0)]
