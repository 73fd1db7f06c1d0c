"""Each recipe builds five items of its provider: bands, addresses, credentials."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import shapely
import yaml
from click.testing import CliRunner

import rasteret_assets as ra
from rasteret_assets.cli import main
from rasteret_assets.declare import Recipe, find_recipe, read_spec, recipes
from rasteret_assets.errors import SpecError
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.credentials.earthdata import Earthdata
from rasteret_assets.storage.credentials.planetary_computer import PlanetaryComputer
from tests.support.rasters import tiff_bytes
from tests.support.stac import serve_stac

ITEMS = Path(__file__).parent.parent / "fixtures" / "recipes"
RECIPES = {recipe.id: recipe for recipe in recipes()}

#: Headers that a build of the five items would ask for, and where all of them lie.
EXPECTED = {
    "earth-search/cop-dem-glo-30": (5, "https://copernicus-dem-30m.s3.eu-central-1.amazonaws.com/"),
    "earth-search/landsat-c2-l2": (35, "s3://usgs-landsat/collection02/level-2/standard/"),
    "earth-search/naip": (5, "s3://naip-analytic/"),
    "earth-search/sentinel-1-grd": (0, "s3://sentinel-s1-l1c/GRD/"),
    "earth-search/sentinel-2-c1-l2a": (65, "https://e84-earth-search-sentinel-data.s3.us-west-2.amazonaws.com/"),
    "earth-search/sentinel-2-l2a": (52, "https://sentinel-cogs.s3.us-west-2.amazonaws.com/sentinel-s2-l2a-cogs/"),
    "earthdata/hls-l30": (40, "https://data.lpdaac.earthdatacloud.nasa.gov/lp-prod-protected/HLSL30.020/"),
    "earthdata/hls-s30": (60, "https://data.lpdaac.earthdatacloud.nasa.gov/lp-prod-protected/HLSS30.020/"),
    "planetary-computer/cop-dem-glo-30": (5, "https://elevationeuwest.blob.core.windows.net/copernicus-dem/"),
    "planetary-computer/landsat-c2-l2": (35, "https://landsateuwest.blob.core.windows.net/landsat-c2/level-2/"),
    "planetary-computer/naip": (5, "https://naipeuwest.blob.core.windows.net/naip/v002/"),
    "planetary-computer/sentinel-1-rtc": (9, "https://sentinel1euwestrtc.blob.core.windows.net/sentinel1-grd-rtc/"),
    "planetary-computer/sentinel-2-l2a": (65, "https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/"),
    "source-cooperative/sentinel-2-c1-l2a": (65, "https://e84-earth-search-sentinel-data.s3.us-west-2.amazonaws.com/"),
}


def items_of(recipe: Recipe) -> list[dict[str, Any]]:
    return json.loads((ITEMS / f"{recipe.id}.json").read_text())["features"]


def table_of(recipe: Recipe) -> pa.Table:
    """Return items as rows of a table whose assets are JSON text."""
    items = items_of(recipe)
    wkb = shapely.to_wkb([shapely.geometry.shape(item["geometry"]) for item in items])
    columns: dict[str, Any] = {
        "id": [item["id"] for item in items],
        "datetime": [item["properties"]["datetime"] for item in items],
        "geometry": pa.array(list(wkb), pa.binary()),
        "assets": [json.dumps(item["assets"]) for item in items],
        "collection": [item["collection"] for item in items],
    }
    for name in ("proj:epsg", "eo:cloud_cover", "s2:generation_time"):
        columns[name] = [item["properties"][name] for item in items]
    return pa.table(columns)


@contextmanager
def harvested(recipe: Recipe, root: Path) -> Iterator[CollectionSpec]:
    """Build the collection of a recipe's items, from an API on loopback or from a table."""
    values = recipe.declaration(workspace_dir=str(root / "out"))
    if "harvest" not in values:
        table = root / "items.parquet"
        pq.write_table(table_of(recipe), table)
        yield CollectionSpec.of(**{**values, "path": str(table)})
        return
    with serve_stac() as server:
        server.put(*items_of(recipe))
        asked = {**values["harvest"], "stac_api": server.url, "datetime": "2000/2030", "window": "year"}
        spec = CollectionSpec.of(**{**values, "harvest": asked})
        ra.harvest(spec)
        yield spec


def test_all_recipes_are_here() -> None:
    assert RECIPES.keys() == EXPECTED.keys()
    assert {str(file.relative_to(ITEMS).with_suffix("")) for file in ITEMS.rglob("*.json")} == EXPECTED.keys()


class Asked:
    """A backend that has the same four bands at every address, and records the addresses it is asked for."""

    def __init__(self) -> None:
        self.addresses: set[str] = set()
        self.body = tiff_bytes(bands=4)

    async def get_range(self, url: str, start: int, length: int) -> bytes:
        self.addresses.add(url)
        return self.body[start : start + length]

    async def get_ranges(self, url: str, ranges: list[tuple[int, int]]) -> list[bytes]:
        return [await self.get_range(url, *one) for one in ranges]


@pytest.mark.parametrize("name", EXPECTED)
def test_a_recipe_takes_what_its_provider_publishes(name: str, tmp_path: Path) -> None:
    recipe = RECIPES[name]
    with harvested(recipe, tmp_path) as spec:
        _takes(name, recipe, spec)


def _takes(name: str, recipe: Recipe, spec: CollectionSpec) -> None:
    headers, begin = EXPECTED[name]
    plan = ra.plan(spec)
    assert (plan.totals["headers_to_fetch"], plan.totals["records_rejected"]) == (headers, 0)
    asked = Asked()
    ra.build(spec, backend=asked)
    collection = ra.load(str(spec.published_path))
    assert sorted(collection.bands) == sorted(spec.band_codes or ())
    assert {address for address in asked.addresses if not address.startswith(begin)} == set()
    assert len(asked.addresses) == headers
    for band in spec.band_codes or ("vv",):
        hrefs = pc.struct_field(collection.to_table()["assets"], [band, "href"]).drop_null().to_pylist()
        assert {href for href in hrefs if not href.startswith(begin)} == set()
    given = recipe.values.get("credentials")
    assert collection.credentials == given
    assert given == {"planetary-computer": "planetary_computer", "earthdata": "earthdata"}.get(
        name.split("/", maxsplit=1)[0]
    )
    signed = (PlanetaryComputer() if given == "planetary_computer" else Earthdata()).scope
    assert all(signed(address) for address in asked.addresses) == (given is not None or not asked.addresses)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_recipe_becomes_a_declaration_that_is_valid(name: str, tmp_path: Path) -> None:
    recipe = RECIPES[name]
    assert len(recipe.title) > 20
    text = "\n".join(recipe.head)
    assert "Attribution: " in text
    assert "Licence: " in text
    assert "https://" in recipe.head[-1]
    harvest = "harvest" in recipe.values
    area = ["--bbox", "-10", "40", "5.5", "50", "--datetime", "2024-05"] if harvest else []
    file = tmp_path / "collections" / "mine.yaml"
    result = CliRunner().invoke(main, ["init", name, *area, "--name", "mine", "--out", str(file)])
    assert result.exit_code == 0, result.output
    assert recipe.head[0] in result.output
    values = yaml.safe_load(file.read_text())
    if harvest:
        assert values["harvest"]["bbox"] == [-10.0, 40.0, 5.5, 50.0]
        assert values["harvest"]["datetime"] == "2024-05"
        assert values["harvest"]["collections"] == [items_of(recipe)[0]["collection"]]
    assert read_spec(file).name == "mine"
    assert recipe.head[0] in file.read_text()


def test_the_list_names_all_recipes_and_what_they_need() -> None:
    result = CliRunner().invoke(main, ["init", "--list"])
    assert [line.split()[0] for line in result.output.splitlines()] == sorted(EXPECTED)
    assert "(credentials: earthdata)" in result.output
    told = json.loads(CliRunner().invoke(main, ["init", "--list", "--json"]).output)
    needs = {one["id"]: one["needs"] for one in told}
    assert needs["earth-search/naip"] == "AWS credentials, requester pays"
    assert needs["earth-search/sentinel-2-c1-l2a"] == ""


def test_a_name_that_is_not_a_recipe_is_refused(tmp_path: Path) -> None:
    for arguments, sentence in (
        (["earth-search/sentinel-2-c1"], "there is no recipe earth-search/sentinel-2-c1: did you mean earth-search/"),
        (
            ["earthsearch/sentinel-2-l2a"],
            "there is no recipe earthsearch/sentinel-2-l2a: did you mean earth-search/sentinel-2-l2a?",
        ),
        ([], "name a record table, or one of the datasets of: rasteret-assets init --list"),
        ([str(tmp_path / "t.parquet"), "--bbox", "1", "2", "3", "4"], "--bbox and --datetime are for datasets"),
        (
            ["source-cooperative/sentinel-2-c1-l2a", "--datetime", "2024"],
            "a table and not harvested, so datetime",
        ),
    ):
        result = CliRunner().invoke(main, ["init", *arguments, "--dry-run"])
        assert result.exit_code != 0
        assert sentence in result.output.replace("\n", " "), result.output
    assert find_recipe("data/items") is None
    with pytest.raises(SpecError, match="did you mean"):
        find_recipe("earthdata/hls-l3")


def test_init_says_that_a_whole_catalog_will_be_harvested() -> None:
    result = CliRunner().invoke(main, ["init", "earth-search/naip", "--dry-run"])
    assert result.exit_code == 0
    assert "a build will harvest all of earth-search/naip: choose an area with --bbox" in result.output
