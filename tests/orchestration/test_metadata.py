"""A materialization shows map, savings, failures and lineage, and no secret."""

from __future__ import annotations

import base64
import html
import re
import xml.etree.ElementTree as ET
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

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
from shapely.geometry.base import BaseGeometry

from rasteret_assets import CollectionSpec, build
from rasteret_assets.collection.show.svg_map import DRAWN_SINGLY, density_map, footprint_map
from rasteret_assets.dagster import FilesystemResource
from rasteret_assets.orchestration.pages._links import console_page
from rasteret_assets.orchestration.pages._preview import preview
from rasteret_assets.orchestration.pages.markdown import link, picture, plain_text, sentence
from rasteret_assets.sphere import cut_at_antimeridian
from rasteret_assets.storage.create import create_backend
from rasteret_assets.storage.workspace import Workspace
from tests.orchestration.scenes import Scenes, latest
from tests.support.rasters import record_table, tiff_bytes
from tests.support.server import RangeServer

SVG = "{http://www.w3.org/2000/svg}"


def shapes(svg: str) -> list[ET.Element]:
    """Return the part of a map that is drawn between the graticule and the inset."""
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


def points(svg: str) -> np.ndarray:
    """Return all points of the outlines in a map, ``[N, 2]`` in pixels."""
    path = "".join(path.get("d") for path in shapes(svg))
    return np.array(re.findall(r"[ML](-?[0-9.]+) (-?[0-9.]+)", path), float)


def outlines(*footprints: BaseGeometry) -> str:
    """A map of footprints."""
    return footprint_map(np.array(footprints, object), np.zeros(len(footprints), bool), "t")


def split_box(west: float, south: float, east: float, north: float) -> BaseGeometry:
    """Return a box with longitudes in -180..180, whose parts meet at 180."""
    (box,) = cut_at_antimeridian(np.array([shapely.box(west, south, east, north)], object))
    return box


def test_a_map_around_the_antimeridian_keeps_neighbours_together() -> None:
    svg = outlines(split_box(179, 0, 180.5, 1), shapely.box(-179.4, 0, -178, 1))
    first, second = "".join(path.get("d") for path in shapes(svg)).split("M")[1:]
    assert points(svg)[:, 0].min() > 0
    assert float(second.split()[0]) - float(first.split()[0]) > 50
    assert "180°<" in svg


def test_a_map_of_greenwich_and_the_antimeridian_holds_both() -> None:
    svg = outlines(shapely.box(-1, 50, 1, 52), split_box(179, 0, 181, 2))
    assert sum(path.get("d").count("M") for path in shapes(svg)) == 2
    assert 0 < points(svg)[:, 0].min() < points(svg)[:, 0].max() < 460


def test_a_footprint_around_a_pole_is_drawn_to_its_edge() -> None:
    ring = shapely.Polygon([(-180, 80), (-90, 75), (0, 80), (90, 75), (180, 80), (180, 90), (-180, 90)])
    drawn = points(outlines(ring))
    assert np.ptp(drawn[:, 0]) > 250
    assert (drawn >= 0).all()
    assert (drawn <= (460, 300)).all()


@given(
    st.lists(
        st.tuples(st.floats(-180, 180), st.floats(-90, 89), st.floats(0.01, 359), st.floats(0.01, 1)),
        min_size=1, max_size=8,
    )
)  # fmt: skip
def test_every_footprint_lies_within_its_map(given: list[tuple[float, float, float, float]]) -> None:
    svg = outlines(*(split_box(west, south, west + wide, south + high) for west, south, wide, high in given))
    path = "".join(path.get("d") for path in shapes(svg))
    assert path.count("M") >= len(given)
    assert (points(svg) > -3).all()
    assert (points(svg) < (463, 303)).all()


@pytest.mark.parametrize("count", [0, 1, DRAWN_SINGLY])
def test_a_map_stays_small(count: int) -> None:
    corners = np.random.default_rng(1).uniform((-170, -80), (170, 80), (count, 2))
    boxes = shapely.box(*corners.T, *(corners + 1).T)
    svg = footprint_map(boxes, np.zeros(count, bool), "<a & b>")
    ET.fromstring(svg)
    assert len(svg) < 60_000
    assert "&lt;a &amp; b&gt;" in svg


def test_a_map_of_many_footprints_shows_where_they_lie() -> None:
    west = np.random.default_rng(1).uniform(170, 190, 20_000)
    east = west + 1
    turned = (np.where(lon > 180, lon - 360, lon) for lon in (west, east))
    boxes = np.insert(np.column_stack([*turned]), [1, 2], [0.0, 1.0], axis=1)
    svg = density_map(boxes, west < 171, "t")
    ET.fromstring(svg)
    assert len(svg) < 60_000
    whole, marked = re.findall(r'<g fill="(#[0-9a-f]+)">(.*?)</g>', svg)
    xs = [float(x) for x in re.findall(r'x="([0-9.]+)"', whole[1])]
    assert max(xs) - min(xs) > 250
    assert max(float(x) for x in re.findall(r'x="([0-9.]+)"', marked[1])) < min(xs) + 50


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


EVERYWHERE = {"dagster/partition_row_count": int, "bytes": int, "seconds": float}
COMPARED = {
    "raw_records": EVERYWHERE,
    "normalized_records": {**EVERYWHERE, "rejected_records": int},
    "band_metadata": {
        **EVERYWHERE, "headers_fetched": int, "headers_reused": int, "headers_failed": int, "failed_share": float,
        "requests": int, "request_bytes": int, "fetch_seconds": float,
    },
    "collection": {**EVERYWHERE, "records_lacking_headers": int},
}  # fmt: skip


def test_numbers_to_compare_are_the_same_in_every_partition(scenes: Scenes, instance: dg.DagsterInstance) -> None:
    """Also if no header was fetched, if one is missing, and if the partition is gone from the source."""
    scenes.server.fault = lambda path, before: "404" if path == "/a.tif" else None
    scenes.materialize(instance)
    scenes.change(c=-1)
    scenes.materialize(instance)
    for key in ("2024-01", "2024-02", "undated"):
        for stage, made in latest(instance, key).items():
            numbers = {name: type(made.metadata[name].value) for name in COMPARED[stage]}
            assert numbers == COMPARED[stage], (stage, key)
            texts = {name for name, item in made.metadata.items() if isinstance(item, dg.TextMetadataValue)}
            assert not texts, (stage, key)
    assert latest(instance, "2024-01")["band_metadata"].metadata["headers_failed"].value == 1
    assert latest(instance, "2024-01")["collection"].metadata["records_lacking_headers"].value == 1
    assert latest(instance, "2024-02")["band_metadata"].metadata["bytes"].value == 0
    assert latest(instance, "undated")["raw_records"].metadata["bytes"].value > 0


def test_missing_headers_are_links_to_their_files(scenes: Scenes, instance: dg.DagsterInstance) -> None:
    scenes.server.fault = lambda path, before: "404" if path == "/a.tif" else None
    scenes.materialize(instance, keys=["2024-01"])
    (line,) = latest(instance, "2024-01")["band_metadata"].metadata["missing_headers"].value.splitlines()
    address = f"{scenes.server.url}/a.tif"
    assert line == f"* a, B02: [{plain_text(address)}](<{address}>) HTTP 404 Not Found"


@pytest.mark.parametrize(
    ("uri", "settings", "page"),
    [
        ("s3://b/x/year=2024/p 0.parquet", {}, "https://s3.console.aws.amazon.com/s3/object/b?prefix=x%2Fyear%3D2024%2Fp%200.parquet"),
        ("s3://b/x", {"endpoint_url": "http://127.0.0.1:9000"}, None),
        ("s3://b/x", {"region_name": "cn-north-1"}, None),
        ("gs://b/x/y", {}, "https://console.cloud.google.com/storage/browser/_details/b/x/y"),
        ("/data/x", {}, None),
        ("abfs://c@a.dfs.core.windows.net/x", {}, None),
    ],
)  # fmt: skip
def test_a_console_is_linked_where_there_is_one(
    uri: str, settings: dict[str, str], page: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    assert console_page(uri, FilesystemResource(**settings)) == page


@given(st.text(max_size=20))
def test_a_link_leads_to_its_address_only(text: str) -> None:
    shown = link(f"https://h/{text}")
    target = re.fullmatch(r".*\]\(<([!-;=?-\[\]-~]*)>\)", shown)[1]
    assert unquote(html.unescape(target)) == unquote(f"https://h/{text}")
    assert link(f"javascript:{text}") == plain_text(f"javascript:{text}")


def test_columns_have_their_lineage(server: RangeServer, tmp_path, instance) -> None:
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


def decoded(text: str, prefix: str) -> np.ndarray:
    """Return the pixels of an inline JPEG."""
    assert text.startswith(prefix)
    return imagecodecs.jpeg8_decode(base64.b64decode(text.removeprefix(prefix).rstrip(")")))


def test_a_preview_shows_pixels_of_the_partition(server: RangeServer, tmp_path, instance) -> None:
    scenes = Scenes(server, tmp_path, graph={"preview": True}).write()
    scenes.materialize(instance, keys=["2024-02"])
    text = latest(instance, "2024-02")["collection"].metadata["preview"].value
    prefix = "![c: B02](data:image/jpeg;base64,"
    picture = decoded(text, prefix)
    assert picture.shape == (80, 100, 3)  # the whole of so small a file
    assert picture.std() > 20

    scenes.server.fault = lambda path, before: "404"
    scenes.materialize(instance, keys=["2024-02"])
    assert latest(instance, "2024-02")["collection"].metadata["preview"].value.startswith("no picture of c: ")


@pytest.mark.parametrize(
    ("clouds", "shown"), [([8.0, None, 3.0, 3.0], "c"), ([None] * 4, "a"), (["8", "2", "3", "4"], "a")]
)
def test_a_preview_shows_the_clearest_record(tmp_path, clouds: list[Any], shown: str) -> None:
    (tmp_path / "a.tif").write_bytes(tiff_bytes())
    times = [datetime(2024, 5, day, tzinfo=UTC) for day in (1, 2, 3, 4)]
    table = record_table(list("abcd"), {"B02": [str(tmp_path / "a.tif")] * 4}, datetimes=times)
    pq.write_table(table.append_column("eo:cloud_cover", pa.array(clouds)), tmp_path / "t.parquet")
    spec = CollectionSpec.of(path=tmp_path / "t.parquet", name="x", workspace_dir=tmp_path / "w", enrich_cog=True)
    build(spec)
    (file,) = Path(spec.published_path).rglob("*.parquet")
    assert preview(Workspace.at(spec.published_path), str(file), create_backend()).startswith(f"![{shown}: B02](")


def preview_of(folder: Path, **profile: Any) -> np.ndarray:
    """Return the preview of a partition whose only file is written with a profile and ``pixels``."""
    pixels = profile.pop("pixels")
    plain = folder / "a.tif"
    plain.write_bytes(tiff_bytes(width=pixels.shape[1], height=pixels.shape[0]))
    with rasterio.open(plain) as dataset:
        profile = {**dataset.profile, "count": 1, "dtype": pixels.dtype, **profile}
    with rasterio.open(plain, "w", **profile) as dataset:
        dataset.write(pixels, 1)
    pq.write_table(record_table(["x"], {"B02": [str(plain)]}), folder / "t.parquet")
    spec = CollectionSpec.of(path=folder / "t.parquet", name="x", workspace_dir=folder / "w", enrich_cog=True)
    build(spec)
    (file,) = Path(spec.published_path).rglob("*.parquet")
    text = preview(Workspace.at(spec.published_path), str(file), create_backend())
    return decoded(text, "![x: B02](data:image/jpeg;base64,")


def test_pixels_without_data_are_neutral_in_a_preview_and_do_not_count_in_its_contrast(tmp_path) -> None:
    pixels = np.tile(np.linspace(100, 200, 64, dtype="f4"), (64, 1))
    pixels[:32] = -9999
    shown = preview_of(tmp_path, pixels=pixels, nodata=-9999)
    assert np.ptp(shown[:30].astype(int)) < 12  # one colour, as far as JPEG keeps it
    assert shown[:30].mean() > 220
    assert np.ptp(shown[36:, :, 0].astype(int)) > 240


def test_a_preview_goes_by_the_raster_whatever_else_the_record_says(tmp_path) -> None:
    """The file has no CRS, the footprint is elsewhere, and the id is Markdown."""
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
def test_signs_of_a_text_mean_nothing_in_markdown(text: str) -> None:
    shown = plain_text(text)
    assert not re.search(r"(?<!\\)(?:\\\\)*[\[\]()<>!`*_#&|~]", shown)
    assert "\n" not in shown
    assert re.sub(r"\\(.)", r"\1", shown) == " ".join(text.split())
    assert picture(text, "image/png", bytes(3)) == f"![{shown}](data:image/png;base64,AAAA)"
