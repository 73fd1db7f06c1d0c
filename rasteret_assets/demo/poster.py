"""The picture of the demo: footprints on a map, beside the pixels of an area in the clearest scene of every month."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow.compute as pc
import shapely
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Affine2D
from shapely import Polygon

from rasteret_assets.collection import Collection
from rasteret_assets.demo.scenes import THUMBNAIL, coloured
from rasteret_assets.demo.server import FileServer
from rasteret_assets.schema import CLOUD_COVER, GEOMETRY, ID, PROJ_EPSG

#: The delta, in lon/lat. It lies where the tiles of both zones overlap, so that every month offers two scenes of it.
AREA: Final = (5.925, 55.165, 6.095, 55.265)
MONTHS: Final = {"April": "2024-04", "May": "2024-05", "June": "2024-06"}
_Rows = Sequence[dict[str, Any]]
_COMPOSITES: Final = (("red", "green", "blue"), ("nir", "red", "green"))

_INK, _FAINT, _AREA_COLOUR = "#1b2a33", "#6b7c86", "#ff4d6d"
#: Open water as the thumbnails show it, so that they do not stand out from the map.
_SEA: Final = (0.105, 0.228, 0.294)
#: In the order in which they are drawn: scenes of the western zone had fewer clouds in June, so they lie on top.
_ZONES: Final = {32632: ("UTM 32N", "#6fd3ff"), 32631: ("UTM 31N", "#ffb454")}


def draw_poster(collection: Collection, files: Path, failures: _Rows, server: FileServer, target: Path) -> str:
    """Draw the map and the area, save them as PNG, and return what reading the pixels cost.

    Args:
        collection: the published collection.
        files: folder of the scenes, for their thumbnails.
        failures: headers that are missing, with ``id`` and ``band``.
        server: of the files, which are read through the collection.
        target: the PNG.

    Raises:
        RangeReadError: if bytes cannot be read.
    """
    figure = Figure(figsize=(9.7, 7.9), facecolor="white")
    grid = figure.add_gridspec(
        len(MONTHS), 3, width_ratios=(2.52, 1, 1), left=0.068, right=0.985, top=0.855, bottom=0.075, wspace=0.035,
        hspace=0.16,
    )  # fmt: skip
    _draw_map(figure.add_subplot(grid[:, 0]), collection.subset(date_range=MONTHS["June"]), files, failures)
    before = server.traffic()
    for row, (month, dates) in enumerate(MONTHS.items()):
        axes = [figure.add_subplot(grid[row, column]) for column in (1, 2)]
        _draw_area(axes, month, collection.subset(date_range=dates))
    traffic = server.traffic() - before
    read = f"{traffic['requests']} range requests, {traffic['bytes'] / 1e6:.1f} MB, {traffic['headers']} headers opened"
    counts = f"{len(collection)} scenes, {len(collection.bands)} bands, two UTM zones: one table"
    for x, y, text, size, colour, weight in (
        (0.068, 0.955, "Frisland, April to June 2024", 19, _INK, "bold"),
        (0.068, 0.915, counts, 11, _FAINT, "normal"),
        (0.985, 0.955, "The delta, clearest scene of each month", 12, _AREA_COLOUR, "bold"),
        (0.068, 0.028, "thumbnails of June; a made-up island in real GeoTIFFs", 10, _FAINT, "normal"),
        (0.985, 0.028, f"read from the index: {read}", 10, _INK, "normal"),
    ):
        side = "left" if x < 0.5 else "right"
        figure.text(x, y, text, fontsize=size, color=colour, fontweight=weight, ha=side, va="center")
    figure.savefig(target, dpi=150, metadata={"Software": None})  # no version in the bytes
    return read


def _draw_map(axes: Axes, month: Collection, files: Path, failures: _Rows) -> None:
    """Draw thumbnails and footprints of a month, the area, and what is missing where it is missing."""
    for epsg, (name, colour) in _ZONES.items():
        zone = month.where(pc.field(PROJ_EPSG) == epsg)
        zone.plot(axes, color=colour)
        side = "right" if epsg == min(_ZONES) else "left"
        axes.text(6, 55.695, f" {name} ", color=colour, fontsize=10, fontweight="bold", ha=side)
        for row in zone.to_table([ID, GEOMETRY]).to_pylist():
            _draw_scene(axes, row[ID], shapely.from_wkb(row[GEOMETRY]), colour, files, failures)
    west, south, east, north = month.bounds or AREA
    axes.set(xlim=(west - 0.025, east + 0.025), ylim=(south - 0.025, north + 0.045), facecolor=_SEA, anchor="W")
    axes.set_title("", loc="left")
    axes.grid(color="white", alpha=0.15, linewidth=0.6)
    axes.axvline(6, color="white", linewidth=1, linestyle=(0, (4, 4)), alpha=0.8)
    size = AREA[2] - AREA[0], AREA[3] - AREA[1]
    axes.add_patch(Rectangle(AREA[:2], *size, fill=False, edgecolor=_AREA_COLOUR, linewidth=2.4))


def _draw_scene(axes: Axes, name: str, shape: Polygon, colour: str, files: Path, failures: _Rows) -> None:
    """Draw the thumbnail and the name of a scene, and what is missing of its tile, at its footprint."""
    # Along a tile UTM bends away from lon/lat by less than a pixel, so that three corners of the footprint place it.
    # The footprint begins at the lower right corner, and has as many points on each side.
    _, upper_right, upper_left, lower_left = shapely.get_coordinates(shape)[:-1].reshape(4, -1, 2)[:, 0]
    to_lonlat = Affine2D.from_values(*(upper_right - upper_left), *(lower_left - upper_left), *upper_left)
    thumbnail, aspect = imread(files / name / THUMBNAIL), axes.get_aspect()
    image = axes.imshow(thumbnail, extent=(0, 1, 1, 0), interpolation="antialiased", aspect=aspect)
    image.set_transform(to_lonlat + axes.transData)
    tile = name.split("_")[1]
    west, south, east, north = shape.bounds
    x, side = (west + 0.03, "left") if tile.startswith("A") else (east - 0.03, "right")
    y = north - 0.028 if tile.endswith("1") else south + 0.028
    axes.text(x, y, tile, color=colour, fontsize=12, fontweight="bold", ha=side, va="center")
    for failure in failures:
        if f"_{tile}_" in failure["id"]:
            note = f"\u2717 {failure['band']} of {failure['id'][-8:]}:\n   header unreadable"
            axes.text(x, north - 0.048, note, color="white", fontsize=7.5, va="top",
                      path_effects=[withStroke(linewidth=2, foreground=_SEA)])  # fmt: skip


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
