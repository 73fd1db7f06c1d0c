"""Dagster's UI in headless Chromium, as somebody uses it: what they click, and what they then see.

The screenshots are kept in ``e2e-artifacts/``; ``docs/screenshots.py`` takes those of the documentation from there.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.e2e.catalog import BUCKET, FILES, Catalog, catalog
from tests.e2e.stack import ARTIFACTS, Stack, dagster_dev, wait_for
from tests.support.server import RangeServer

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_MS = 240_000


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    executable = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if executable is None:
        pytest.skip(f"there is no browser: install one of {', '.join(BROWSERS)}")
    with playwright.sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield launched
        launched.close()


class Visitor:
    """A person before the UI of one collection."""

    def __init__(self, browser: playwright.Browser, stack: Stack) -> None:
        self.stack = stack
        self.page = browser.new_page(viewport={"width": 1360, "height": 860})
        self.page.set_default_timeout(PATIENCE_MS)
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        # Every page is half as wide again without it.
        self.open("/overview")
        self.page.get_by_text("Hide navigation").first.click()

    def open(self, path: str) -> None:
        self.page.goto(self.stack.url + path)

    def sees(self, text: str | re.Pattern[str]) -> None:
        self.page.get_by_text(text).first.wait_for()

    def click(self, name: str | re.Pattern[str]) -> None:
        self.page.get_by_role("button", name=name).first.click()

    def show(self, metadata: str) -> None:
        """Open long Markdown of the partition on the page."""
        self.page.locator("tr", has_text=metadata).get_by_text("[Show Markdown]").first.click()

    def keep(self, name: str) -> None:
        """Take a picture, once nothing moves any more."""
        self.page.wait_for_timeout(1500)
        ARTIFACTS.mkdir(exist_ok=True)
        self.page.screenshot(path=str(ARTIFACTS / f"{name}.png"))

    def materialize(self, month: str) -> None:
        """Materialize one partition of all stages by clicking."""
        self.open("/locations/rasteret_assets/asset-groups/scenes/lineage")
        self.click(re.compile("Materialize all"))
        dialog = self.page.get_by_role("dialog").or_(self.page.locator("[role=dialog]")).first
        choice = self.page.get_by_placeholder("Filter partitions")
        for _ in range(10):
            dialog.get_by_text("Select a partition or create one").click()
            with suppress(playwright.TimeoutError):  # what opens is closed again when the partitions come in late
                choice.wait_for(timeout=PATIENCE_MS / 10)
                break
        choice.fill(month)
        self.page.get_by_text("Select all (1)").click()
        self.page.keyboard.press("Escape")
        before = len(self.stack.runs())
        self.click(re.compile("Launch (1 run|run|backfill)"))
        wait_for("the run to start", lambda: len(self.stack.runs()) > before)
        wait_for("the run to end", lambda: all(record.dagster_run.is_finished for record in self.stack.runs()))


@pytest.fixture
def visited(browser, files: RangeServer, tmp_path: Path) -> Iterator[tuple[Visitor, Catalog]]:
    with catalog(files, tmp_path) as source:
        source.write()
        gone = {f"{FILES}/{source.records(month)[1]['id']}/nir.tif" for month in ("2023-12", "2024-05")}
        files.fault = lambda path, before: "404" if path in gone else None
        declaration = {
            "path": source.table, "workspace_dir": f"s3://{BUCKET}/index", "enrich_cog": True, "max_rejected": 0.25,
            "description": "Scenes of the island of Frisland.",
            "graph": {"owners": ["team:maps"], "refresh_seconds": 2, "preview": True},
        }  # fmt: skip
        with dagster_dev(tmp_path / "dagster", {"scenes": declaration}, source.environment) as stack:
            yield Visitor(browser, stack), source


@pytest.mark.slow
def test_a_visit(visited: tuple[Visitor, Catalog]) -> None:
    visitor, source = visited

    # The record table is observed by clicking, which registers its partitions.
    visitor.open("/assets/scenes/source")
    visitor.click(re.compile("Observe"))
    wait_for("the observation", lambda: [run for run in visitor.stack.runs() if run.dagster_run.is_success])

    # A partition is materialized by clicking; its page shows the counts, the map and some pixels.
    visitor.materialize("2023-12")
    visitor.open("/assets/scenes/collection?view=partitions&partition=2023-12")
    visitor.sees("records_lacking_headers")
    visitor.keep("2-partition")
    for metadata, shown, name in (
        ("footprints", "Footprints of scenes 2023-12", "3-footprints"),
        ("preview", re.compile("frisland_.*: red, green, blue"), "4-preview"),
    ):
        visitor.show(metadata)
        picture = visitor.page.get_by_alt_text(shown)
        picture.wait_for()
        assert picture.evaluate("image => image.complete && image.naturalWidth") > 100
        visitor.keep(name)
        visitor.click("Close")

    visitor.open("/assets/scenes/band_metadata?view=partitions&partition=2023-12")
    link = visitor.page.get_by_role("link", name=re.compile("nir.tif"))
    link.scroll_into_view_if_needed()
    assert link.get_attribute("href").startswith(f"{FILES}/{source.records('2023-12')[1]['id']}/")
    visitor.keep("5-missing-headers")

    visitor.open("/assets/scenes/band_metadata?view=checks")
    visitor.sees(re.compile(r"1 of 20 headers could not be read \(1 not_found\)"))
    visitor.sees("what helps")
    visitor.keep("6-failing-check")

    # The source changes: two records are added to a month, and another has records that cannot be read.
    source.added["2023-12"] = 2
    source.wrong = {scene["id"] for scene in source.records("2024-03")[:3]}
    source.write()
    visitor.open("/assets/scenes/source")
    before = len(visitor.stack.runs())
    visitor.click(re.compile("Observe"))
    wait_for("the observation", lambda: len(visitor.stack.runs()) > before)
    wait_for("its end", lambda: all(run.dagster_run.is_finished for run in visitor.stack.runs()))
    visitor.open("/assets/scenes/raw_records?view=partitions&partition=2023-12")
    visitor.sees(re.compile("Unsynced|Stale"))
    visitor.keep("7-stale")

    # The sensor, started by clicking, builds what differs. The month that fails does not stop the others.
    visitor.open("/locations/rasteret_assets/sensors/scenes_refresh")
    visitor.page.locator("label[for^=checkbox]").first.click()
    (run,) = wait_for("the sensor's run", lambda: by_sensor(visitor.stack))
    wait_for("its end", lambda: all(run.dagster_run.is_finished for run in by_sensor(visitor.stack)))
    visitor.open(f"/runs/{run.dagster_run.run_id}")
    visitor.sees("scenes_refresh")
    visitor.page.get_by_placeholder("Filter…").fill("type:ASSET_OBSERVATION")
    visitor.page.keyboard.press("Enter")
    visitor.sees(re.compile("3 of 6 records break the record contract"))
    visitor.keep("8-run-of-the-sensor")
    visitor.open("/assets/scenes/normalized_records?view=events&partition=2024-03")
    visitor.sees(re.compile("3 of 6 records break the record contract"))
    visitor.keep("9-failed-partition")

    # It says what waits for its next try.
    visitor.open("/locations/rasteret_assets/sensors/scenes_refresh")
    visitor.page.get_by_role("button", name="0 runs requested").first.wait_for()
    visitor.keep("10-sensor")
    visitor.click("0 runs requested")
    visitor.sees(re.compile("wait for their next try: 2024-03"))
    visitor.keep("11-skipped-tick")

    # Numbers of all months are plotted.
    visitor.open("/assets/scenes/band_metadata?view=overview")
    visitor.click("Plots")
    plot = visitor.page.get_by_text("headers_fetched", exact=True).last
    plot.scroll_into_view_if_needed()
    visitor.keep("12-plots")

    visitor.page.set_viewport_size({"width": 1500, "height": 420})
    visitor.open("/locations/rasteret_assets/asset-groups/scenes/lineage")
    for stage in ("raw_records", "normalized_records", "band_metadata", "collection"):
        visitor.sees(stage)
    visitor.keep("1-asset-graph")
    assert visitor.errors == []


def by_sensor(stack: Stack) -> list:
    return [run for run in stack.runs() if run.dagster_run.tags.get("dagster/sensor_name") == "scenes_refresh"]
