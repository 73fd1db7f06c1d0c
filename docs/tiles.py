"""Take the picture of the page on map tiles: TiTiler serves the demo's collection, and explore() shows it in a browser.

``python docs/tiles.py DEMO`` needs the folder of a finished ``rasteret-assets demo DEMO``, the development packages and
a Chromium.
"""

from __future__ import annotations

import shutil
import socket
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from PIL import Image
from playwright.sync_api import sync_playwright
from titiler.core.dependencies import AssetsExprParams, DefaultDependency
from titiler.core.errors import add_exception_handlers
from titiler.mosaic.errors import MOSAIC_STATUS_CODES
from titiler.mosaic.factory import MosaicTilerFactory

from rasteret_assets import load
from rasteret_assets.demo.folder import serving_demo
from rasteret_assets.tiles import CollectionBackend, RecordReader

QUERY = "assets=red&assets=green&assets=blue&rescale=200,2600&pixel_selection=first"


@dataclass
class ClearestFirst(DefaultDependency):
    """Arguments of the backend."""

    order: str = "clearest"


def main() -> None:
    """Serve, show, and take the picture."""
    demo = Path(sys.argv[1])
    scenes = load(demo / "workspace" / "demo_records").subset(cloud_cover_lt=60)
    app = FastAPI()
    tiler = MosaicTilerFactory(
        backend=CollectionBackend, dataset_reader=RecordReader, path_dependency=lambda: scenes,
        layer_dependency=AssetsExprParams, backend_dependency=ClearestFirst,
    )  # fmt: skip
    app.include_router(tiler.router)
    add_exception_handlers(app, MOSAIC_STATUS_CODES)
    target = Path(__file__).with_name("tiles.png")
    with socket.socket() as place, serving_demo(demo), tempfile.TemporaryDirectory() as folder:
        place.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        threading.Thread(target=server.run, kwargs={"sockets": [place]}, daemon=True).start()
        while not server.started:
            time.sleep(0.05)
        tiles = f"http://127.0.0.1:{place.getsockname()[1]}/tiles/WebMercatorQuad/{{z}}/{{x}}/{{y}}.png?{QUERY}"
        page_file = scenes.explore(tiles=tiles).save(Path(folder) / "scenes.html")
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 900, "height": 520}, bypass_csp=True)
            page.goto(page_file.as_uri())
            page.wait_for_function("[...pictures.values()].every(picture => picture.complete)", timeout=300_000)
            page.mouse.move(330, 150)
            page.wait_for_timeout(1000)
            page.screenshot(path=target)
            browser.close()
        server.should_exit = True
    # A palette makes a third of the picture.
    Image.open(target).convert("RGB").quantize(255).save(target, optimize=True)


if __name__ == "__main__":
    main()
