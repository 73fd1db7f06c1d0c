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

from tests.e2e.stack import ARTIFACTS, Source, Stack, dagster_dev, wait_for
from tests.support.server import RangeServer

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_MS = 60_000


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
        self.page = browser.new_page(viewport={"width": 1280, "height": 860})
        self.page.set_default_timeout(PATIENCE_MS)
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    def open(self, path: str) -> None:
        self.page.goto(self.stack.url + path)

    def sees(self, text: str | re.Pattern[str]) -> None:
        self.page.get_by_text(text).first.wait_for()

    def click(self, name: str | re.Pattern[str]) -> None:
        self.page.get_by_role("button", name=name).first.click()

    def keep(self, name: str) -> None:
        """Take a picture, once nothing moves any more."""
        self.page.wait_for_timeout(800)
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
def visited(browser, files: RangeServer, tmp_path: Path) -> Iterator[tuple[Visitor, Source]]:
    source = Source(files, tmp_path, ["2024-01", "2024-02", "2024-03"])
    source.months["2024-02"] += ["2024-02-b", "2024-02-c"]
    source.write()
    del files.objects["/2024-02-c.tif"]
    declaration = {
        "path": str(source.file), "workspace_dir": str(tmp_path / "workspace"), "enrich_cog": True,
        "description": "Scenes of three months.", "graph": {"owners": ["team:maps"], "refresh_seconds": 2},
    }  # fmt: skip
    with dagster_dev(tmp_path, {"scenes": declaration}) as stack:
        yield Visitor(browser, stack), source


@pytest.mark.slow
def test_a_visit(visited: tuple[Visitor, Source]) -> None:
    visitor, source = visited

    # The record table is observed by clicking, which registers its partitions.
    visitor.open("/assets/scenes/source")
    visitor.click(re.compile("Observe"))
    wait_for("the observation", lambda: [run for run in visitor.stack.runs() if run.dagster_run.is_success])

    visitor.open("/locations/rasteret_assets/asset-groups/scenes/lineage")
    for stage in ("raw_records", "normalized_records", "rejected_records", "band_metadata", "collection"):
        visitor.sees(stage)
    visitor.keep("1-asset-graph")

    # A partition is materialized by clicking; its page shows the counts and the map.
    visitor.materialize("2024-02")
    visitor.open("/assets/scenes/collection?view=partitions&partition=2024-02")
    visitor.sees("records_lacking_headers")
    visitor.keep("2-partition")
    visitor.page.get_by_text("[Show Markdown]").first.click()
    picture = visitor.page.get_by_alt_text("Footprints of scenes 2024-02")
    picture.wait_for()
    assert picture.evaluate("image => image.complete && image.naturalWidth") > 100
    visitor.keep("3-footprints")

    visitor.open("/assets/scenes/band_metadata?view=checks")
    visitor.sees("1 of 3 headers could not be read (1 not_found)")
    visitor.sees("what helps")
    visitor.keep("4-failing-check")

    # The source changes; the sensor, started by clicking, notes it and builds what is missing.
    source.months["2024-02"].append("2024-02-d")
    source.write()
    visitor.open("/assets/scenes/source")
    before = len(visitor.stack.runs())
    visitor.click(re.compile("Observe"))
    wait_for("the observation", lambda: len(visitor.stack.runs()) > before)
    wait_for("its end", lambda: all(run.dagster_run.is_finished for run in visitor.stack.runs()))
    visitor.open("/assets/scenes/raw_records?view=partitions&partition=2024-02")
    visitor.sees(re.compile("Unsynced|Stale"))
    visitor.keep("5-stale")

    visitor.open("/locations/rasteret_assets/sensors/scenes_refresh")
    visitor.page.locator("label[for^=checkbox]").first.click()
    wait_for("the sensor's runs", lambda: visitor.stack.ticks("scenes_refresh"))
    runs = wait_for("the sensor's runs", lambda: by_sensor(visitor.stack))
    wait_for("their end", lambda: all(run.dagster_run.is_success for run in by_sensor(visitor.stack)))
    visitor.open("/locations/rasteret_assets/sensors/scenes_refresh")
    visitor.sees(re.compile(r"\d requested|1 run|2 run"))
    visitor.keep("6-sensor")
    visitor.open(f"/runs/{runs[0].dagster_run.run_id}")
    visitor.sees("scenes_refresh")
    visitor.keep("7-run-of-the-sensor")
    assert visitor.errors == []


def by_sensor(stack: Stack) -> list:
    return [run for run in stack.runs() if run.dagster_run.tags.get("dagster/sensor_name") == "scenes_refresh"]
