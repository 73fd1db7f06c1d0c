"""The picture of the demo: footprints on a map, beside the pixels of an area in the clearest scene of every month."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.compute as pc
import pyproj
import shapely
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.image import imread
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Affine2D

from rasteret_assets.collection import Collection
from rasteret_assets.demo.scenes import THUMBNAIL, coloured
from rasteret_assets.demo.server import FileServer
from rasteret_assets.schema import CLOUD_COVER, GEOMETRY, ID, PROJ_EPSG, band_column

#: The delta, in lon/lat. It lies where the tiles of both zones overlap, so that every month offers two scenes of it.
AREA: Final = (5.925, 55.165, 6.095, 55.265)
MONTHS: Final = {"April": "2024-04", "May": "2024-05", "June": "2024-06"}
_COMPOSITES: Final = (("red", "green", "blue"), ("nir", "red", "green"))

_INK, _FAINT, _AREA_COLOUR = "#1b2a33", "#6b7c86", "#ff4d6d"
#: Open water as the thumbnails show it, so that they do not stand out from the map.
_SEA: Final = (0.105, 0.228, 0.294)
_ZONES: Final = {32631: ("UTM 31N", "#ffb454"), 32632: ("UTM 32N", "#6fd3ff")}


def draw_poster(
    collection: Collection, files: Path, failures: Sequence[dict[str, Any]], server: FileServer, target: Path
) -> Counter[str]:
    """Draw the map and the area, and save them as PNG.

    Args:
        collection: the published collection.
        files: folder of the scenes, for their thumbnails.
        failures: headers that are missing, with ``id`` and ``band``.
        server: of the files, which are read through the collection.
        target: the PNG.

    Returns:
        What reading the pixels cost.

    Raises:
        RangeReadError: if bytes cannot be read.
    """
    figure = Figure(figsize=(9.7, 7.9), facecolor="white")
    FigureCanvasAgg(figure)
    grid = GridSpec(
        len(MONTHS), 3, figure, width_ratios=(2.52, 1, 1), left=0.068, right=0.985, top=0.855, bottom=0.075,
        wspace=0.035, hspace=0.16,
    )  # fmt: skip
    _draw_map(figure.add_subplot(grid[:, 0]), collection.subset(date_range=MONTHS["June"]), files, failures)
    before = server.traffic()
    for row, (month, dates) in enumerate(MONTHS.items()):
        axes = [figure.add_subplot(grid[row, column]) for column in (1, 2)]
        _draw_area(axes, month, collection.subset(date_range=dates))
    cost = server.traffic() - before
    _draw_texts(figure, collection, cost)
    figure.savefig(target, dpi=150, metadata={"Software": None})  # no version in the bytes
    return cost


def _draw_texts(figure: Figure, collection: Collection, cost: Counter[str]) -> None:
    counts = f"{len(collection)} scenes, {len(collection.bands)} bands, two UTM zones: one table"
    read = f"{cost['requests']} range requests, {cost['bytes'] / 1e6:.1f} MB, {cost['headers']} headers opened"
    for x, y, text, size, colour, weight in (
        (0.068, 0.955, "Frisland, April to June 2024", 19, _INK, "bold"),
        (0.068, 0.915, counts, 11, _FAINT, "normal"),
        (0.985, 0.955, "The delta, clearest scene of each month", 12, _AREA_COLOUR, "bold"),
        (0.068, 0.028, "thumbnails of June; a made-up island in real GeoTIFFs", 10, _FAINT, "normal"),
        (0.985, 0.028, f"read from the index: {read}", 10, _INK, "normal"),
    ):
        side = "left" if x < 0.5 else "right"
        figure.text(x, y, text, fontsize=size, color=colour, fontweight=weight, ha=side, va="center")


def _draw_map(axes: Axes, month: Collection, files: Path, failures: Sequence[dict[str, Any]]) -> None:
    """Draw thumbnails and footprints of a month, the area, and what is missing where it is missing."""
    header = band_column("red")
    for row in month.to_table([ID, PROJ_EPSG, header]).to_pylist():
        image = imread(files / row[ID] / THUMBNAIL)
        height, width = image.shape[:2]
        drawn = axes.imshow(image, extent=(0, width, height, 0), interpolation="antialiased")
        drawn.set_transform(_to_lonlat(row[header], row[PROJ_EPSG], width, height) + axes.transData)
    for epsg, (name, colour) in _ZONES.items():
        zone = month.where(pc.field(PROJ_EPSG) == epsg)
        zone.plot(axes, color=colour)
        side = "right" if epsg == min(_ZONES) else "left"
        axes.text(6, 55.695, f" {name} ", color=colour, fontsize=10, fontweight="bold", ha=side)
        for row in zone.to_table([ID, GEOMETRY]).to_pylist():
            _label(axes, row[ID].split("_")[1], shapely.from_wkb(row[GEOMETRY]), colour, failures)
    west, south, east, north = month.bounds or AREA
    axes.set(xlim=(west - 0.025, east + 0.025), ylim=(south - 0.025, north + 0.045), facecolor=_SEA, anchor="W")
    axes.set_title("", loc="left")
    axes.grid(color="white", alpha=0.15, linewidth=0.6)
    axes.axvline(6, color="white", linewidth=1, linestyle=(0, (4, 4)), alpha=0.8)
    size = AREA[2] - AREA[0], AREA[3] - AREA[1]
    axes.add_patch(Rectangle(AREA[:2], *size, fill=False, edgecolor=_AREA_COLOUR, linewidth=2.4))


def _label(
    axes: Axes, tile: str, shape: shapely.geometry.base.BaseGeometry, colour: str, failures: Sequence[dict[str, Any]]
) -> None:
    west, south, east, north = shape.bounds
    x, side = (west + 0.03, "left") if tile.startswith("A") else (east - 0.03, "right")
    y = north - 0.028 if tile.endswith("1") else south + 0.028
    axes.text(x, y, tile, color=colour, fontsize=12, fontweight="bold", ha=side, va="center")
    for failure in failures:
        if f"_{tile}_" in failure["id"]:
            note = f"\u2717 {failure['band']} of {failure['id'][-8:]}:\n   header unreadable"
            axes.text(x, north - 0.048, note, color="white", fontsize=7.5, va="top",
                      path_effects=[withStroke(linewidth=2, foreground=_SEA)])  # fmt: skip


def _to_lonlat(header: dict[str, Any], epsg: int, width: int, height: int) -> Affine2D:
    """Return the way of an image's columns and rows to lon/lat: UTM bends away by less than a pixel over a tile."""
    scale_x, left, scale_y, top = header["transform"]
    right, bottom = left + scale_x * header["image_width"], top + scale_y * header["image_height"]
    lonlat = pyproj.Transformer.from_crs(epsg, "OGC:CRS84", always_xy=True)
    x, y = (np.asarray(axis) for axis in lonlat.transform([left, right, left], [top, top, bottom]))
    matrix = [[(at[1] - at[0]) / width, (at[2] - at[0]) / height, at[0]] for at in (x, y)]
    return Affine2D(np.array([*matrix, [0, 0, 1]]))


def _draw_area(axes: Sequence[Axes], month: str, scenes: Collection) -> None:
    """Draw the area in the clearest of the scenes that hold all of it, in natural and in false colours."""
    rows = scenes.subset(bbox=AREA).to_table([ID, CLOUD_COVER, GEOMETRY]).sort_by(CLOUD_COVER).to_pylist()
    scene = next(row for row in rows if shapely.from_wkb(row[GEOMETRY]).covers(shapely.box(*AREA)))
    bands = list(dict.fromkeys([band for composite in _COMPOSITES for band in composite]))
    (pixels,) = scenes.where(pc.field(ID) == scene[ID]).get_numpy(AREA, bands)
    for ax, composite in zip(axes, _COMPOSITES, strict=True):
        ax.imshow(coloured(pixels[[bands.index(band) for band in composite]], composite), aspect="equal")
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_color(_AREA_COLOUR)
        if month == next(iter(MONTHS)):
            ax.text(0.5, 1.17, ", ".join(composite), transform=ax.transAxes, fontsize=10, color=_INK, ha="center")
    axes[0].text(0, 1.04, month, transform=axes[0].transAxes, fontsize=11, fontweight="bold", color=_INK)
    caption = f"{scene[ID]}, clouds {scene[CLOUD_COVER]:.0f} %"
    axes[1].text(1, 1.04, caption, transform=axes[1].transAxes, fontsize=9, color=_FAINT, ha="right")
