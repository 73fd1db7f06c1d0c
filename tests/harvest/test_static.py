"""Static catalogs on a disk and on a web server, with relative links, are harvested."""

from __future__ import annotations

import json
import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme

import rasteret_assets as ra
from rasteret_assets.errors import HarvestError
from rasteret_assets.harvesting import harvest as harvesting
from tests.harvest.test_harvest import covers, mtimes, stored
from tests.support.server import RangeServer
from tests.support.stac import make_item, write_catalog


@pytest.fixture
def items() -> list[dict]:
    """Forty items of January, and one of another month."""
    return [*(make_item(number) for number in range(40)), make_item(40, datetime(2023, 6, 1, tzinfo=UTC))]


@pytest.fixture
def catalog(tmp_path, items) -> Path:
    """A catalog whose assets lie beside its items."""
    for item in items:
        item["assets"]["B02"]["href"] = "./B02.tif"
    return write_catalog(tmp_path / "objects" / "catalog", items)


def test_a_catalog_on_a_disk_is_harvested(catalog, spec_of, harvest) -> None:
    spec = spec_of(stac_catalog=str(catalog), datetime=None)
    report = harvest(spec)
    assert (report.items, report.windows) == (41, 2)
    assert sorted(mtimes(spec)) == ["2023-06.parquet", "2024-01.parquet"]
    assets = stored(spec)["scene-00007"]["assets"]
    assert assets["B02"]["href"] == str(catalog.parent / "scenes" / "scene-00007" / "B02.tif")
    assert assets["B03"]["href"] == "https://data.example/7/B03.tif"
    before = mtimes(spec)
    assert harvest(spec).totals["rewritten"] == 0
    assert mtimes(spec) == before
    assert ra.build(spec).totals["records"] == 41


def test_a_catalog_on_a_web_server_is_harvested(server, catalog, spec_of, harvest) -> None:
    spec = spec_of(stac_catalog=f"{server.url}/catalog/catalog.json", datetime=None)
    assert harvest(spec).items == 41
    assert stored(spec)["scene-00007"]["assets"]["B02"]["href"] == (
        f"{server.url}/catalog/scenes/scene-00007/B02.tif"
    )  # fmt: skip


def test_certificates_of_web_servers_are_checked(catalog, spec_of, harvest, tmp_path, monkeypatch) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    with RangeServer(catalog.parent).running(context) as server:
        spec = spec_of(stac_catalog=f"{server.url.replace('127.0.0.1', 'localhost')}/catalog.json", datetime=None)
        monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
        with pytest.raises(HarvestError, match="unable to get local issuer certificate"):
            harvest(spec)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "authority.pem"))
        assert harvest(spec).items == 41


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        ({"datetime": "2023"}, {40}),
        ({"datetime": "2024-01-01/2024-01-02"}, set(range(9))),
        ({"bbox": (-1, -1, 0.03, 0.5)}, {0, 1, 2, 3}),
        ({"intersects": {"type": "Point", "coordinates": [1.385, 0.5]}}, {39, 40}),
        ({"bbox": (170, -1, 0.005, 1)}, {0}),
        ({"collections": ["others"]}, set()),
    ],
)
def test_datetime_bbox_intersects_and_collections_filter_items(catalog, spec_of, harvest, options, numbers) -> None:
    spec = spec_of(stac_catalog=str(catalog), **{"datetime": None, **options})
    harvest(spec)
    found = stored(spec) if numbers else {}
    assert {int(name[-5:]) for name in found} == numbers


def test_added_changed_and_deleted_items_are_found(catalog, items, spec_of, harvest) -> None:
    spec = spec_of(stac_catalog=str(catalog), datetime=None)
    harvest(spec)
    before = mtimes(spec)
    items[3]["properties"]["eo:cloud_cover"] = 88.5
    write_catalog(catalog.parent, [item for item in items[:-1] if item["id"] != "scene-00005"] + [make_item(50)])
    report = harvest(spec)
    assert report.totals == {"new": 1, "changed": 1, "gone": 2, "rewritten": 2}
    assert list(mtimes(spec)) == ["2024-01.parquet"]
    assert covers(spec)["scene-00003"] == 88.5
    assert mtimes(spec)["2024-01.parquet"] != before["2024-01.parquet"]


def test_many_windows_share_a_temporary_file(catalog, spec_of, harvest, monkeypatch) -> None:
    monkeypatch.setattr(harvesting, "_HELD_BYTES", 0)
    monkeypatch.setattr(harvesting, "_CHUNK", 7)
    spec = spec_of(stac_catalog=str(catalog), datetime=None, window="day")
    assert harvest(spec).windows == 10
    assert len(stored(spec)) == 41


def test_items_without_a_time_have_a_window_of_their_own(catalog, spec_of, harvest) -> None:
    path = catalog.parent / "scenes" / "scene-00001" / "scene-00001.json"
    document = json.loads(path.read_text())
    document["properties"]["datetime"] = None
    path.write_text(json.dumps(document))
    spec = spec_of(stac_catalog=str(catalog), datetime=None)
    harvest(spec)
    assert "undated.parquet" in mtimes(spec)
    assert len(stored(spec)) == 41


def _spoil(catalog: Path) -> None:
    (catalog.parent / "scenes" / "scene-00001" / "scene-00001.json").unlink()
    (catalog.parent / "scenes" / "scene-00002" / "scene-00002.json").write_text('{"type": "Feat')


def test_documents_that_cannot_be_read_are_named_and_the_others_are_harvested(
    catalog, spec_of, harvest, caplog
) -> None:
    spec = spec_of(stac_catalog=str(catalog), datetime=None)
    _spoil(catalog)
    report = harvest(spec)
    assert covers(spec).keys() == {f"scene-{number:05}" for number in range(41) if number not in {1, 2}}
    assert len(report.unread) == 2
    assert "2 documents not read" in str(report)
    for name in ("scene-00001.json: the document does not exist", "scene-00002.json: not a JSON document"):
        assert name in caplog.text
        assert any(name in reason for reason in report.unread.values())
    write_catalog(catalog.parent, [make_item(number) for number in range(41)])
    report = harvest(spec)
    assert (report.items, report.unread) == (41, {})


def test_items_are_not_deleted_while_documents_cannot_be_read(catalog, items, spec_of, harvest) -> None:
    spec = spec_of(stac_catalog=str(catalog), datetime=None, bbox=(-10, -10, 10, 10))
    harvest(spec)
    before = stored(spec)
    items[3]["properties"]["eo:cloud_cover"] = 88.5
    # One is deleted, another leaves the area, and the only one of its month cannot be found.
    items[7]["geometry"], items[7]["bbox"] = {"type": "Point", "coordinates": [90, 0]}, [90, 0, 90, 0]
    write_catalog(catalog.parent, [item for item in items if item["id"] != "scene-00005"])
    _spoil(catalog)
    (catalog.parent / "scenes" / "scene-00040" / "scene-00040.json").write_text("nonsense")
    report = harvest(spec)
    assert (len(report.unread), report.totals["gone"]) == (3, 1)
    after = stored(spec)
    assert after.keys() == before.keys() - {"scene-00007"}
    assert after["scene-00003"]["eo:cloud_cover"] == 88.5
    kept = {"scene-00001", "scene-00002", "scene-00005", "scene-00040"}
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    unchanged = mtimes(spec)
    assert harvest(spec).totals == {"new": 0, "changed": 0, "gone": 0, "rewritten": 0}
    assert mtimes(spec) == unchanged
    # Once all can be read, what is not in the catalog goes.
    write_catalog(catalog.parent, [item for item in items if item["id"] != "scene-00005"])
    assert harvest(spec).totals["gone"] == 1
    assert stored(spec).keys() == before.keys() - {"scene-00005", "scene-00007"}


def test_items_are_kept_if_a_collection_or_the_root_is_missing(catalog, spec_of, harvest) -> None:
    spec = spec_of(stac_catalog=str(catalog), datetime=None)
    harvest(spec)
    before = mtimes(spec)
    collection = catalog.parent / "scenes" / "collection.json"
    text = collection.read_text()
    collection.unlink()
    report = harvest(spec)
    assert (report.items, len(report.unread), report.totals["gone"]) == (41, 1, 0)
    assert mtimes(spec) == before
    collection.write_text(text)
    catalog.unlink()
    with pytest.raises(HarvestError, match=r"catalog\.json: the document does not exist"):
        harvest(spec)
    assert mtimes(spec) == before


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ({"type": "Feature", "id": "x"}, "is one item"),
        ({"type": "Catalog"}, "it has no links"),
        ([], "not a JSON document"),
    ],
)
def test_documents_that_are_not_catalogs_are_refused(tmp_path, spec_of, harvest, document, sentence) -> None:
    (tmp_path / "x.json").write_text(json.dumps(document))
    with pytest.raises(HarvestError, match=sentence):
        harvest(spec_of(stac_catalog=str(tmp_path / "x.json"), datetime=None))


def test_catalogs_that_link_to_each_other_are_read_once(tmp_path, spec_of, harvest) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        document = {"type": "Catalog", "links": [{"rel": "child", "href": f"./{other}.json"}]}
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    assert harvest(spec_of(stac_catalog=str(tmp_path / "a.json"), datetime=None)).items == 0


def test_an_address_without_its_scheme_is_told_from_a_path(spec_of, harvest) -> None:
    with pytest.raises(HarvestError, match=r"catalog\.json: the document does not exist; an address on the web begins"):
        harvest(spec_of(stac_catalog="data.example/catalog.json"))
