"""Harvests by the library and by the command line: ``harvest``, ``build_from_stac``, ``rasteret-assets harvest``."""

from __future__ import annotations

import inspect
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import yaml
from click.testing import CliRunner

import rasteret_assets as ra
from rasteret_assets.cli import main
from rasteret_assets.errors import BandNotFoundError, HarvestError, SpecError
from tests.support.rasters import tiff_bytes
from tests.support.stac import COLLECTION, make_item, write_catalog


@pytest.fixture
def rasters(stac, server) -> None:
    """Four items of the API have a file of two samples each, on a web server."""
    root = Path(server.root)
    stac.items.clear()
    for number in range(4):
        (root / f"{number}.tif").write_bytes(tiff_bytes(bands=2, seed=number))
        item = make_item(number)
        asset = {"href": f"{server.url}/{number}.tif", "type": "image/tiff; application=geotiff", "roles": ["data"]}
        item["assets"] = {"image": asset, "thumbnail": {"href": "x.png", "type": "image/png"}}
        item["properties"]["proj:code"] = "EPSG:32632"
        stac.put(item)


def test_build_from_stac_has_the_parameters_of_rasteret() -> None:
    assert list(inspect.signature(ra.build_from_stac).parameters) == [
        "name", "stac_api", "collection", "data_source", "band_map", "band_index_map", "bbox", "date_range",
        "workspace_dir", "force", "max_concurrent", "cloud_config", "query", "backend", "static_catalog",
    ]  # fmt: skip


@pytest.mark.usefixtures("rasters")
def test_items_of_an_api_become_a_collection_with_headers(stac, server, tmp_path) -> None:
    asked = {
        "name": "scenes", "stac_api": stac.url, "collection": COLLECTION, "workspace_dir": tmp_path,
        "band_map": {"red": "image", "nir": "image"}, "band_index_map": {"red": 0, "nir": 1},
        "date_range": ("2024-01-01", "2024-01-31"), "bbox": (0, 0, 2, 2), "query": {"eo:cloud_cover": {"lt": 3}},
    }  # fmt: skip
    collection = ra.build_from_stac(**asked)
    assert (len(collection), sorted(collection.bands)) == (3, ["nir", "red"])
    # The second call opens the collection without a request, because `force` is not given.
    requests, reads = len(stac.requests), len(server.requests)
    assert len(ra.build_from_stac(**asked)) == 3
    assert (len(stac.requests), len(server.requests)) == (requests, reads)
    stac.delete("scene-00001")
    assert len(ra.build_from_stac(**asked, force=True)) == 2
    # Other arguments harvest again.
    assert len(ra.build_from_stac(**{**asked, "query": None})) == 3


@pytest.mark.usefixtures("rasters")
def test_items_of_a_static_catalog_become_a_collection(stac, tmp_path) -> None:
    root = write_catalog(tmp_path / "catalog", list(stac.items.values()))
    collection = ra.build_from_stac(
        name="scenes", stac_api=str(root), collection=COLLECTION, workspace_dir=tmp_path, static_catalog=True
    )
    assert (len(collection), collection.bands) == (4, ["image"])


def test_wrong_combinations_of_arguments_are_refused(stac, tmp_path) -> None:
    asked = {"name": "x", "stac_api": stac.url, "collection": COLLECTION, "workspace_dir": tmp_path}
    with pytest.raises(SpecError, match="band_map does not"):
        ra.build_from_stac(**asked, band_index_map={"red": 0})
    with pytest.raises(SpecError, match="filter_expr"):
        ra.build_from_stac(**asked, query={"a": {"lt": 1}}, static_catalog=True)
    with pytest.raises(SpecError, match="ends before it starts"):
        ra.build_from_stac(**asked, date_range=("2024-02-01", "2024-01-01"))
    with pytest.raises(SpecError, match="date_range='2024-05' must be a first and a last date"):
        ra.build_from_stac(**asked, date_range="2024-05")


@pytest.mark.usefixtures("rasters")
def test_a_band_map_that_meets_no_asset_is_named(stac, tmp_path) -> None:
    with pytest.raises(BandNotFoundError, match=r"no item has an asset that band_map names \(imge\)"):
        ra.build_from_stac(
            name="x", stac_api=stac.url, collection=COLLECTION, workspace_dir=tmp_path, band_map={"red": "imge"}
        )


# --- the command line ------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(stac, tmp_path, monkeypatch) -> Path:
    """A folder with the declaration of a collection that is harvested."""
    asked = {"stac_api": stac.url, "collections": [COLLECTION], "datetime": "2024-01/2024-03"}
    (tmp_path / "collections").mkdir()
    (tmp_path / "collections" / "scenes.yaml").write_text(yaml.safe_dump({"workspace_dir": "../out", "harvest": asked}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    return tmp_path


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == code, result.output
    return result.output


def test_a_collection_is_harvested_by_name(folder, stac) -> None:
    assert run("status").splitlines()[-1] == "scenes: not harvested yet"
    assert "scenes: 400 items in 3 windows, 3 asked for: 400 new" in run("harvest", "scenes")
    (document,) = json.loads(run("harvest", "--json"))
    assert (document["items"], document["asked"], document["requests"]) == (400, [], 2)
    (document,) = json.loads(run("harvest", "--full", "--json"))
    assert document["asked"] == ["2024-01", "2024-02", "2024-03"]
    (document,) = json.loads(run("status", "--json"))
    assert document["harvest"]["items"] == 400
    assert (document["harvest"]["newest_window"], document["harvest"]["failed"]) == ("2024-03", {})
    assert "400 items, the newest of 2024-03-24T" in run("status")


def test_a_build_harvests_first(folder, stac) -> None:
    output = run("build")
    assert "400 items in 3 windows" in output
    assert "scenes: 3 partitions (3 new), 400 records" in output
    stac.put(make_item(900, datetime(2024, 3, 30, tzinfo=UTC), updated=_later()))
    assert "nothing to do" in run("build", "--no-harvest")
    assert "1 partition (1 source changed), 113 records" in run("build")


def _later() -> str:
    return (datetime.now(UTC) + timedelta(hours=1)).isoformat().replace("+00:00", "Z")


def test_harvests_of_the_command_line_are_recorded_in_the_dagster_instance(folder, stac, monkeypatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(folder))
    (folder / "dagster.yaml").touch()
    assert "400 records" in run("build", "scenes")
    key = dg.AssetKey(["scenes", "harvested_items"])
    with dg.DagsterInstance.get() as instance:
        (record,) = instance.fetch_observations(key, limit=1).records
        assert record.asset_observation is not None
        assert record.asset_observation.metadata["items_new"].value == 400
        assert instance.get_materialized_partitions(key) == set(instance.get_dynamic_partitions("scenes_windows"))
        check = dg.AssetCheckKey(key, "all_matching_items_harvested")
        (evaluated,) = instance.event_log_storage.get_asset_check_execution_history(check, limit=1)
        assert evaluated.event is not None


def test_a_harvest_that_fails_names_its_windows(folder, stac) -> None:
    stac.fault = lambda *_: "503" if stac.requests[-1][2].get("datetime", "").startswith("2024-02") else None
    output = run("build", code=1)
    assert "Error: scenes: 1 of 3 windows could not be harvested" in output
    assert "2024-02: " in output
    assert "failed windows: 2024-02" in run("status")
    stac.fault = lambda *_: None
    assert "400 records" in run("build")


def test_harvest_refuses_declarations_of_record_tables(folder) -> None:
    (folder / "collections" / "scenes.yaml").write_text("path: x.parquet\n")
    assert "no collection is declared with harvest" in run("harvest", code=2)
    assert "no harvest options" in run("harvest", "scenes", code=1)


def test_an_api_that_cannot_be_reached_is_an_error(folder, stac) -> None:
    spec = ra.CollectionSpec.of(name="x", workspace_dir=folder, harvest={"stac_api": "http://127.0.0.1:9"})
    with pytest.raises(HarvestError, match=r"http://127\.0\.0\.1:9"):
        ra.harvest(spec)
