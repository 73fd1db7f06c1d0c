"""The examples of ``docs/stac.md`` and the README, against an API on loopback."""

from __future__ import annotations

import re
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import shapely
import yaml

from rasteret_assets import harvest_options
from rasteret_assets.declare import json_schema
from tests.support.rasters import footprint, tiff_bytes
from tests.support.stac import make_item

PAGE = Path(__file__).parent.parent.parent / "docs" / "stac.md"
README = PAGE.parent.parent / "README.md"
URL, COLLECTION = "https://earth-search.aws.element84.com/v1", "sentinel-2-c1-l2a"


@pytest.fixture
def bavaria(stac, server) -> None:
    """Two scenes of May 2024 that cover the area of the example."""
    tiff = tiff_bytes(width=600, height=600, pixel=100, epsg=32632, origin=(620_000.0, 5_370_000.0))
    server.objects |= {f"/{name}.tif": tiff for name in ("red", "nir")}
    outline = footprint(tiff)
    stac.items.clear()
    for number in range(2):
        item = make_item(number, datetime="2024-05-03T10:00:00Z", **{"proj:code": "EPSG:32632", "eo:cloud_cover": 5})
        assets = {
            name: {"href": f"{server.url}/{name}.tif", "type": "image/tiff; application=geotiff"}
            for name in ("red", "nir")
        }
        geometry = shapely.geometry.mapping(outline)
        stac.put({
            **item, "collection": COLLECTION, "assets": assets, "geometry": geometry, "bbox": list(outline.bounds)
        })  # fmt: skip


@pytest.mark.usefixtures("bavaria")
def test_the_examples_of_the_page_run(stac, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == 2
    namespace: dict = {}
    for block in blocks:
        assert URL in block
        exec(compile(block.replace(URL, stac.url), str(PAGE), "exec"), namespace)
    assert namespace["pixels"].shape[:2] == (2, 2)
    assert np.all(np.isfinite(namespace["pixels"]))
    assert "2 items in 2 windows" in capsys.readouterr().out


@pytest.mark.usefixtures("bavaria")
def test_the_first_example_of_the_readme_runs(stac, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = README.read_text(encoding="utf-8")
    block = next(block for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL) if URL in block)
    namespace: dict = {}
    exec(compile(block.replace(URL, stac.url), str(README), "exec"), namespace)
    assert namespace["pixels"].shape[:2] == (2, 2)


def test_the_declaration_of_the_page_is_valid_and_the_page_names_every_option(tmp_path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    (declared,) = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    jsonschema.validate(yaml.safe_load(declared), json_schema())
    for field in harvest_options.HarvestOptions.model_fields:
        assert f"`{field}`" in text, field
