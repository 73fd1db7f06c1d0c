"""What a materialization shows: map, savings, failures, lineage, and no secret."""

from __future__ import annotations

import base64
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import dagster as dg
import imagecodecs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
import shapely
from dagster_shared.serdes import serialize_value
from hypothesis import given
from hypothesis import strategies as st

from rasteret_assets import CollectionSpec, build
from rasteret_assets.orchestration.footprint_map import DRAWN_SINGLY, footprint_map
from rasteret_assets.orchestration.markdown import picture, plain_text, sentence
from rasteret_assets.orchestration.preview import preview
from rasteret_assets.storage.create import create_backend
from rasteret_assets.storage.workspace import Workspace
from tests.orchestration.scenes import Scenes, latest
from tests.support.rasters import record_table, tiff_bytes
from tests.support.server import RangeServer

SVG = "{http://www.w3.org/2000/svg}"


def shapes(svg: str) -> list[ET.Element]:
    """What is drawn between the graticule and the inset."""
    return [
        element
        for element in ET.fromstring(svg).iter(f"{SVG}path")  # our own document
        if element.get("fill") in {"#2563eb", "#ea580c"}
    ]


def test_the_map_is_an_inline_picture_of_the_footprints(scenes: Scenes, instance: dg.DagsterInstance) -> None:
    scenes.server.fault = lambda path, before: "404" if path == "/a.tif" else None
    scenes.materialize(instance, keys=["2024-01"])
    text = latest(instance, "2024-01")["collection"].metadata["footprints"].value
    prefix = "![Footprints of scenes 2024-01](data:image/svg+xml;base64,"
    assert text.startswith(prefix)
    svg = base64.b64decode(text.removeprefix(prefix).rstrip(")")).decode()
    assert "scenes 2024-01: 2 records, 1 without a header" in svg
    whole, lacking = shapes(svg)
    assert (whole.get("d").count("M"), lacking.get("d").count("M")) == (1, 1)


def test_a_map_around_the_antimeridian_keeps_neighbours_together() -> None:
    svg = footprint_map(np.array([[179.0, 0, -179.5, 1], [-179.4, 0, -178, 1]]), np.zeros(2, bool), "t")
    (path,) = shapes(svg)
    starts = [float(part.split()[0]) for part in path.get("d").split("M")[1:]]
    assert all(0 < x < 460 for x in starts)
    assert starts[1] - starts[0] > 50


def test_a_map_of_greenwich_and_the_antimeridian_holds_both() -> None:
    boxes = np.array([[-1.0, 50, 1, 52], [179, 0, -179, 2]])
    svg = footprint_map(boxes, np.zeros(2, bool), "t")
    (path,) = shapes(svg)
    edges = [(float(west), float(east)) for west, east in re.findall(r"M([0-9.-]+) \S+?H([0-9.-]+)V", path.get("d"))]
    assert len(edges) == 2
    assert all(0 < west < east < 460 for west, east in edges)


@given(
    st.lists(
        st.tuples(st.floats(-180, 180), st.floats(-90, 89), st.floats(0, 359), st.floats(0, 1)), min_size=1, max_size=8
    )
)
def test_every_footprint_lies_within_its_map(given: list[tuple[float, float, float, float]]) -> None:
    boxes = np.array([(w, s, w + wide if w + wide <= 180 else w + wide - 360, s + high) for w, s, wide, high in given])
    path = "".join(path.get("d") for path in shapes(footprint_map(boxes, np.zeros(len(boxes), bool), "t")))
    assert path.count("M") == len(boxes)
    xs = [float(x) for x in re.findall(r"[MH](-?[0-9.]+)", path)]
    assert -3 <= min(xs) <= max(xs) <= 463


@pytest.mark.parametrize("count", [0, 1, DRAWN_SINGLY, DRAWN_SINGLY + 1, 20_000])
def test_a_map_stays_small(count: int) -> None:
    corners = np.random.default_rng(1).uniform((-170, -80), (170, 80), (count, 2))
    svg = footprint_map(np.hstack([corners, corners + 1]), np.zeros(count, bool), "<a & b>")
    ET.fromstring(svg)
    assert len(svg) < 60_000
    assert "&lt;a &amp; b&gt;" in svg


def test_reuse_says_what_it_saved(scenes: Scenes, instance: dg.DagsterInstance) -> None:
    scenes.materialize(instance, keys=["2024-01"])
    first = latest(instance, "2024-01")["band_metadata"].metadata
    assert (first["requests_per_header"].value, first["requests_saved"].value) == (1.0, 0)
    scenes.materialize(instance, keys=["2024-01"])
    again = latest(instance, "2024-01")["band_metadata"].metadata
    assert again["requests_saved"].value == 2
    assert again["bytes_saved"].value == 2 * again["bytes_per_header"].value > 0


def test_failures_are_a_table(scenes: Scenes, instance: dg.DagsterInstance) -> None:
    scenes.server.fault = lambda path, before: "404" if path == "/a.tif" else None
    scenes.materialize(instance, keys=["2024-01"])
    made = latest(instance, "2024-01")["band_metadata"].metadata
    (row,) = made["failures"].records
    assert (row.data["class"], row.data["headers"], row.data["share"]) == ("not_found", 1, 0.5)
    assert made["failed_share"].value == 0.5


def test_columns_know_where_they_are_from(server: RangeServer, tmp_path, instance) -> None:
    scenes = Scenes(server, tmp_path, column_map={"id": "name"}).write()
    scenes.materialize(instance, keys=["2024-01"])
    made = latest(instance, "2024-01")

    def origins(stage: str, column: str) -> list[tuple[str, str]]:
        lineage = made[stage].metadata["dagster/column_lineage"].value
        return sorted((dep.asset_key.path[-1], dep.column_name) for dep in lineage.deps_by_column[column])

    assert origins("raw_records", "id") == [("source", "id")]
    assert origins("normalized_records", "name") == [("raw_records", "id")]
    assert origins("normalized_records", "bbox") == [("raw_records", "geometry")]
    assert origins("collection", "B02_metadata") == [("band_metadata", "header_row")]
    assert origins("collection", "crs") == [("band_metadata", "header_row"), ("normalized_records", "crs")]
    assert "dagster/column_lineage" not in made["band_metadata"].metadata


def test_no_secret_of_an_address_is_shown(scenes: Scenes, instance: dg.DagsterInstance) -> None:
    scenes.months = {"a": 1}
    table = scenes.table()
    signed = [f"{scenes.server.url}/a.tif?sig=SECRET"]
    href = pa.StructArray.from_arrays([pa.array(signed)], names=["href"])
    assets = pa.StructArray.from_arrays([href], names=["B02"])
    pq.write_table(table.set_column(table.schema.get_field_index("assets"), "assets", assets), scenes.file)
    scenes.server.fault = lambda path, before: "404"
    scenes.materialize(instance)
    for record in instance.get_run_records():
        events = [serialize_value(entry) for entry in instance.all_logs(record.dagster_run.run_id)]
        assert not [event for event in events if "SECRET" in event]


def test_every_asset_has_owners_kinds_group_and_description(server: RangeServer, tmp_path) -> None:
    scenes = Scenes(server, tmp_path, graph={"owners": ["team:maps"], "tags": {"domain": "eo"}, "kinds": ["sentinel2"]})
    for asset in scenes.definitions().resolve_all_asset_specs():
        if asset.key.path[-1] == "source":
            continue
        assert (list(asset.owners), asset.group_name) == (["team:maps"], "scenes")
        assert asset.tags["domain"] == "eo"
        assert len(asset.description) > 40
    kinds = {asset.key.path[-1]: asset.kinds for asset in scenes.definitions().resolve_all_asset_specs()}
    del kinds["source"]
    assert kinds == {
        "raw_records": {"arrow"},
        "normalized_records": {"arrow"},
        "band_metadata": {"parquet", "cog"},
        "collection": {"parquet", "geoparquet", "sentinel2"},
    }


def test_a_preview_shows_pixels_of_the_partition(server: RangeServer, tmp_path, instance) -> None:
    scenes = Scenes(server, tmp_path, graph={"preview": True}).write()
    scenes.materialize(instance, keys=["2024-02"])
    text = latest(instance, "2024-02")["collection"].metadata["preview"].value
    prefix = "![c: B02](data:image/jpeg;base64,"
    assert text.startswith(prefix)
    picture = imagecodecs.jpeg8_decode(base64.b64decode(text.removeprefix(prefix).rstrip(")")))
    assert picture.shape == (80, 100)  # the whole of so small a file
    assert picture.std() > 20

    scenes.server.fault = lambda path, before: "404"
    scenes.materialize(instance, keys=["2024-02"])
    assert latest(instance, "2024-02")["collection"].metadata["preview"].value.startswith("no picture of c: ")


def test_a_preview_goes_by_the_raster_whatever_else_the_record_says(tmp_path) -> None:
    """The file has no CRS of its own, the footprint is elsewhere, and the id is written in signs of Markdown."""
    plain = tmp_path / "a.tif"
    plain.write_bytes(tiff_bytes())
    with rasterio.open(plain) as dataset:
        profile, pixels = {**dataset.profile, "crs": None}, dataset.read()
    with rasterio.open(plain, "w", **profile) as dataset:
        dataset.write(pixels)
    table = record_table(["x](http://h/y.png) ![y"], {"B02": [str(plain)]}, outline=shapely.box(100, 10, 101, 11))
    pq.write_table(table.append_column("proj:epsg", pa.array([32632])), tmp_path / "t.parquet")
    spec = CollectionSpec.of(path=tmp_path / "t.parquet", name="x", workspace_dir=tmp_path / "w", enrich_cog=True)
    build(spec)
    workspace = Workspace.at(spec.published_path)
    (file,) = Path(spec.published_path).rglob("*.parquet")
    text = preview(workspace, str(file), create_backend())
    assert text.startswith("![x\\]\\(http:\\/\\/h\\/y\\.png\\) \\!\\[y: B02](data:image/jpeg;base64,")


@given(st.text(max_size=20))
def test_a_message_holds_neither_links_nor_pictures_nor_html(text: str) -> None:
    shown = sentence(text)
    assert not re.search(r"(?<!\\)(?:\\\\)*[\[<]", shown)
    assert re.sub(r"\\(.)", r"\1", shown, flags=re.DOTALL) == text


@given(st.text(max_size=20))
def test_no_sign_of_a_text_means_anything_in_markdown(text: str) -> None:
    shown = plain_text(text)
    assert not re.search(r"(?<!\\)(?:\\\\)*[\[\]()<>!`*_#&|~]", shown)
    assert "\n" not in shown
    assert re.sub(r"\\(.)", r"\1", shown) == " ".join(text.split())
    assert picture(text, "image/png", "AAAA") == f"![{shown}](data:image/png;base64,AAAA)"
