"""Draw the mosaic that GDAL reads through a tile index of the demo's collection, for the page on other tools.

``python docs/mosaic.py DEMO`` needs the folder of a finished ``rasteret-assets demo DEMO``, and the extra ``gti``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pyogrio
import rasterio
import shapely
from matplotlib import pyplot as plt
from PIL import Image

from rasteret_assets import load
from rasteret_assets.demo.folder import serving_demo

COLOURS = ("red", "green", "blue")
#: The picture reads one pixel of so many along each side.
COARSER = 4


def main() -> None:
    """Write the index, read its layers with rasterio, and draw them beside the outlines of their files."""
    demo = Path(sys.argv[1])
    scenes = load(demo / "workspace" / "demo_records")
    mpl.use("Agg")
    with tempfile.TemporaryDirectory() as folder, serving_demo(demo), rasterio.Env(CPL_VSIL_CURL_USE_HEAD="NO"):
        index = Path(folder) / "scenes.gti.gpkg"
        layers = {(layer.band, layer.crs): layer for layer in scenes.subset(cloud_cover_lt=60).to_gti(index, COLOURS)}
        zones = sorted({crs for _, crs in layers})
        figure, axes = plt.subplots(1, len(zones), figsize=(3.2 * len(zones), 6.2), layout="constrained")
        for crs, ax in zip(zones, axes, strict=True):
            draw(index, [layers[colour, crs].name for colour in COLOURS], ax)
            ax.set_title(f"{crs}: {layers['red', crs].records} files a band", fontsize=10)
        target = Path(__file__).with_name("mosaic.png")
        figure.savefig(target, dpi=90)
    # A palette makes a third of the picture.
    Image.open(target).convert("RGB").quantize(255).save(target, optimize=True)


def draw(index: Path, names: list[str], ax: plt.Axes) -> None:
    """Draw three layers as one colour picture, transparent where no file holds data."""
    planes = []
    for name in names:
        with rasterio.open(index, LAYER=name) as mosaic:
            shape = mosaic.height // COARSER, mosaic.width // COARSER
            plane = mosaic.read(1, out_shape=shape, masked=True).astype("float32")
            left, bottom, right, top = mosaic.bounds
        low, high = np.percentile(plane.compressed(), (2, 90))
        planes.append(np.clip((plane - low) / (high - low), 0, 1) ** 0.8)
    opaque = ~np.logical_or.reduce([np.ma.getmaskarray(plane) for plane in planes])
    picture = np.dstack([*(plane.filled(0) for plane in planes), opaque.astype("float32")])
    ax.imshow(picture, extent=(left, right, bottom, top))
    facts, table = pyogrio.read_arrow(index, layer=names[0])
    for outline in shapely.from_wkb(table[facts["geometry_name"] or "wkb_geometry"].to_pylist()):
        ax.plot(*outline.exterior.xy, color="#c33", linewidth=0.8)
    ax.set_axis_off()


if __name__ == "__main__":
    main()
