"""The page of footprints: what is in it, and what a browser makes of it."""

from __future__ import annotations

import datetime as dt
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import shapely

from rasteret_assets import build_from_table
from rasteret_assets.collection.collection import Collection
from rasteret_assets.errors import SpecError, WindowError
from tests.support.server import RangeServer


def records(count: int = 3, **columns: list[Any]) -> Collection:
    table = pa.table({
        "id": [f"scene <{number}>" for number in range(count)],
        "datetime": pa.array(
            [dt.datetime(2024, 5, 1, 10, tzinfo=dt.UTC) + dt.timedelta(days=n) for n in range(count)],
            pa.timestamp("us", "UTC"),
        ),
        "geometry": shapely.to_wkb([shapely.box(9 + n / 100, 48, 9.5 + n / 100, 48.5) for n in range(count)]),
        "assets": [{"B04": {"href": f"https://files.example.org/{n}.tif?sig=SECRET{n}"}} for n in range(count)],
        "eo:cloud_cover": [12.5 * number for number in range(count)],
        **columns,
    })  # fmt: skip
    return build_from_table(table, enrich_cog=False)


def document(html: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="document">(.*?)</script>', html, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_a_page_has_outlines_and_few_facts_and_no_address() -> None:
    page = records().explore()
    found = document(page.html)
    first = found["records"][0]
    assert (first["id"], first["time"], first["clouds"]) == ("scene <0>", "2024-05-01 10:00", 0.0)
    assert shapely.Polygon(first["rings"][0]).equals(shapely.box(9, 48, 9.5, 48.5))
    assert "example.org" not in page.html
    assert "SECRET" not in page.html
    assert re.search(r"(src|href)\s*=\s*[\"']?http", page.html) is None


def test_a_page_shows_a_limited_number_of_records_and_says_how_many() -> None:
    found = document(records(10).explore(limit=4).html)
    assert len(found["records"]) == 4
    assert "first 4 footprints" in found["title"]
    with pytest.raises(WindowError, match="no footprint"):
        records().where(pc.field("id") == "none").explore()


@pytest.mark.parametrize(
    ("tiles", "reason"),
    [
        ("/tiles/{z}/{x}/{y}.png", "must be an http address"),
        ("http://127.0.0.1/tiles/{z}/{x}.png", "must be an http address"),
        ("https://tiles.example.org/{z}/{x}/{y}.png?access_token=SECRET", "grants access"),
        ("https://user:SECRET@tiles.example.org/{z}/{x}/{y}.png", "grants access"),
    ],
)
def test_addresses_of_tiles_are_whole_and_hold_no_secret(tiles: str, reason: str) -> None:
    with pytest.raises(SpecError, match=reason) as caught:
        records().explore(tiles=tiles)
    assert "SECRET" not in str(caught.value)


def test_a_page_is_saved_and_shown_in_an_iframe(tmp_path: Path) -> None:
    page = records().explore(height=300)
    assert page.save(tmp_path / "map.html").read_text() == page.html
    frame = page._repr_html_()
    assert frame.startswith("<iframe srcdoc=")
    assert 'sandbox="allow-scripts"' in frame
    assert "height:300px" in frame


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    executable = next((found for name in ("chromium", "chromium-browser") if (found := shutil.which(name))), None)
    if executable is None:
        pytest.skip("there is no browser: install chromium")
    with playwright.sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield launched
        launched.close()


def opened(browser: Any, path: Path) -> tuple[Any, list[str], list[str]]:
    """A page, with what it asks for and the errors it makes."""
    page = browser.new_page(viewport={"width": 800, "height": 500})
    asked: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(path.as_uri())
    return page, asked, errors


def test_a_browser_names_the_records_under_the_pointer_and_asks_no_host(browser: Any, tmp_path: Path) -> None:
    page, asked, errors = opened(browser, records().explore().save(tmp_path / "map.html"))
    page.mouse.move(400, 250)
    page.wait_for_function("document.getElementById('told').textContent")
    told = page.locator("#told").text_content()
    assert "scene <1> · 2024-05-02 10:00 UTC · 12.5 % clouds" in told
    assert len(told.splitlines()) == 3
    page.mouse.move(20, 300)
    page.wait_for_function("!document.getElementById('told').textContent")
    page.get_by_label("zoom in").click()
    page.mouse.move(400, 250)
    page.mouse.wheel(0, -500)
    assert errors == []
    assert asked == [(tmp_path / "map.html").as_uri()]


def test_a_browser_asks_for_the_map_tiles_that_are_seen(browser: Any, tmp_path: Path) -> None:
    with RangeServer(tmp_path).running() as server:
        path = records().explore(tiles=f"{server.url}/{{z}}/{{x}}/{{y}}.png").save(tmp_path / "map.html")
        page, _, errors = opened(browser, path)
        page.wait_for_function("performance.getEntriesByType('resource').length > 0 || pictures.size > 0")
        page.wait_for_timeout(200)
        page.close()
        places = [re.fullmatch(r"/(\d+)/(\d+)/(\d+)\.png", found) for found in server.paths]
        assert places
        assert all(places)
        assert len(set(server.paths)) == len(server.paths) <= 30
        assert errors == []


def test_outlines_over_the_antimeridian_lie_side_by_side() -> None:
    table = pa.table({
        "id": ["a", "b"], "datetime": pa.array([dt.datetime(2024, 5, 1, tzinfo=dt.UTC)] * 2, pa.timestamp("us", "UTC")),
        "geometry": shapely.to_wkb([shapely.box(178, 0, 179, 1), shapely.box(-179, 0, -178, 1)]),
        "assets": [{"B04": {"href": "https://files.example.org/a.tif"}}] * 2,
    })  # fmt: skip
    found = document(build_from_table(table, enrich_cog=False).explore().html)
    longitudes = [lon for record in found["records"] for ring in record["rings"] for lon, _ in ring]
    assert max(longitudes) - min(longitudes) < 5
