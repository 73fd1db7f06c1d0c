"""The picture of the demo: footprints on a map beside the pixels of one area."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyproj
import shapely
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.image import imread
from matplotlib.patches import Polygon, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MultipleLocator, StrMethodFormatter
from matplotlib.transforms import Affine2D

from rasteret_assets.collection import Collection
from rasteret_assets.demo.area import AREA, AreaRead, View
from rasteret_assets.demo.colours import false_colour, true_colour
from rasteret_assets.demo.graph import Failure
from rasteret_assets.demo.scenes import THUMBNAIL
from rasteret_assets.schema import CLOUD_COVER, DATETIME, GEOMETRY, ID, PROJ_EPSG, band_column

_INK, _FAINT = "#1b2a33", "#6b7c86"
#: Open water as the thumbnails show it, so that they do not stand out from the map.
_SEA: Final = (0.105, 0.228, 0.294)
_ZONES: Final = {32631: ("UTM 31N", "#ffb454"), 32632: ("UTM 32N", "#6fd3ff")}
_AREA_COLOUR: Final = "#ff4d6d"
_SIZE_IN: Final = (9.7, 7.9)
_DPI: Final = 150


@dataclass(frozen=True, kw_only=True)
class _Footprint:
    """A tile on the map: its scene with the fewest clouds in the month that is shown."""

    id: str
    tile: str
    time: datetime
    epsg: int
    outline: npt.NDArray[np.float64]
    corners: npt.NDArray[np.float64]


def draw(collection: Collection, read: AreaRead, failed: Sequence[Failure], files: Path, target: Path) -> None:
    """Draw the map and the area, and save them as PNG.

    Args:
        collection: the published collection.
        read: what was read of the area.
        failed: headers that are missing.
        files: folder of the scenes, for their thumbnails.
        target: the PNG.
    """
    figure = Figure(figsize=_SIZE_IN, facecolor="white")
    FigureCanvasAgg(figure)
    rows = len(read.views)
    grid = GridSpec(
        rows, 3, figure, width_ratios=(2.52, 1, 1), left=0.068, right=0.985, top=0.855, bottom=0.075,
        wspace=0.035, hspace=0.16,
    )  # fmt: skip
    tiles = _footprints(collection)
    _draw_map(figure.add_subplot(grid[:, 0]), tiles, failed, files)
    for row, view in enumerate(read.views):
        _draw_view(figure, grid, row, view)
    _draw_texts(figure, collection, read, tiles[0].time)
    figure.savefig(target, dpi=_DPI, metadata={"Software": None})  # no version in the bytes


def _draw_texts(figure: Figure, collection: Collection, read: AreaRead, shown: datetime) -> None:
    figure.text(0.068, 0.955, "Frisland, April to June 2024", fontsize=19, fontweight="bold", color=_INK, va="center")
    figure.text(
        0.068, 0.915, f"{len(collection)} scenes, {len(collection.bands)} bands, two UTM zones: one table",
        fontsize=11, color=_FAINT, va="center",
    )  # fmt: skip
    figure.text(
        0.985, 0.955, "The delta, clearest scene of each month", fontsize=12, fontweight="bold",
        color=_AREA_COLOUR, ha="right", va="center",
    )  # fmt: skip
    cost = f"{read.requests} range requests, {read.received / 1e6:.1f} MB, {read.headers} headers opened"
    figure.text(0.985, 0.028, f"read from the index: {cost}", fontsize=10, color=_INK, ha="right", va="center")
    place = f"thumbnails of {shown:%B}; a made-up island in real GeoTIFFs"
    figure.text(0.068, 0.028, place, fontsize=10, color=_FAINT, va="center")


def _draw_map(axes: Axes, tiles: Sequence[_Footprint], failed: Sequence[Failure], files: Path) -> None:
    west, south, east, north = shapely.total_bounds([shapely.Polygon(tile.outline) for tile in tiles])
    axes.set_facecolor(_SEA)
    for tile in tiles:
        image = imread(files / tile.id / THUMBNAIL)
        height, width = image.shape[:2]
        drawn = axes.imshow(image, extent=(0, width, height, 0), interpolation="antialiased")
        drawn.set_transform(_affine(tile.corners, width, height) + axes.transData)
    for tile in tiles:
        colour = _ZONES[tile.epsg][1]
        axes.add_patch(Polygon(tile.outline, fill=False, edgecolor=colour, linewidth=1.6))
        _label_tile(axes, tile, colour)
    axes.axvline(6, color="white", linewidth=1, linestyle=(0, (4, 4)), alpha=0.8)
    for epsg, (name, colour) in _ZONES.items():
        side = -1 if epsg == min(_ZONES) else 1
        axes.text(6 + side * 0.01, north + 0.022, name, color=colour, fontsize=10, fontweight="bold", va="center",
                  ha="right" if side < 0 else "left")  # fmt: skip
    axes.add_patch(Rectangle(AREA[:2], AREA[2] - AREA[0], AREA[3] - AREA[1], fill=False, edgecolor=_AREA_COLOUR,
                             linewidth=2.4))  # fmt: skip
    _note_failures(axes, tiles, failed)
    pad = 0.025
    axes.set_xlim(west - pad, east + pad)
    axes.set_ylim(south - pad, north + 0.045)
    axes.set_aspect(1 / np.cos(np.radians((south + north) / 2)))
    axes.set_anchor("W")
    _lonlat_ticks(axes)


def _draw_view(figure: Figure, grid: GridSpec, row: int, view: View) -> None:
    bands = view.pixels
    images = {
        "red, green, blue": true_colour(bands["red"], bands["green"], bands["blue"]),
        "nir, red, green": false_colour(bands["nir"], bands["red"], bands["green"]),
    }
    for column, (title, image) in enumerate(images.items(), start=1):
        axes = figure.add_subplot(grid[row, column])
        axes.imshow(image, interpolation="antialiased", aspect="equal")
        axes.set_xticks([])
        axes.set_yticks([])
        for side in axes.spines.values():
            side.set_color(_AREA_COLOUR)
        if column == 1:
            axes.text(0, 1.04, f"{view.time:%B}", transform=axes.transAxes, fontsize=11, fontweight="bold", color=_INK)
        else:
            caption = f"{view.id}, clouds {view.cloud_cover:.0f} %"
            axes.text(1, 1.04, caption, transform=axes.transAxes, fontsize=9, color=_FAINT, ha="right")
        if row == 0:
            axes.text(0.5, 1.17, title, transform=axes.transAxes, fontsize=10, color=_INK, ha="center")


def _footprints(collection: Collection) -> list[_Footprint]:
    """The tiles of the month with the fewest clouds; position and shape come from the indexed headers."""
    header = band_column("red")
    rows = collection.to_table([ID, DATETIME, CLOUD_COVER, PROJ_EPSG, GEOMETRY, header]).to_pylist()
    months: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        months.setdefault(f"{row[DATETIME]:%Y-%m}", []).append(row)
    clearest = min(months.values(), key=lambda scenes: sum(row[CLOUD_COVER] for row in scenes))
    return [_footprint(row, row[header]) for row in sorted(clearest, key=lambda row: row[ID])]


def _footprint(row: dict[str, Any], header: dict[str, Any]) -> _Footprint:
    return _Footprint(
        id=row[ID],
        tile=row[ID].split("_")[1],
        time=row[DATETIME],
        epsg=row[PROJ_EPSG],
        outline=shapely.get_coordinates(shapely.from_wkb(row[GEOMETRY])),
        corners=_corners(header, row[PROJ_EPSG]),
    )


def _corners(header: dict[str, Any], epsg: int) -> npt.NDArray[np.float64]:
    """Lon/lat of the upper left, upper right and lower left corner of a raster."""
    scale_x, left, scale_y, top = header["transform"]
    right, bottom = left + scale_x * header["image_width"], top + scale_y * header["image_height"]
    to_lonlat = pyproj.Transformer.from_crs(epsg, "OGC:CRS84", always_xy=True)
    return np.column_stack(to_lonlat.transform([left, right, left], [top, top, bottom]))


def _affine(corners: npt.NDArray[np.float64], width: int, height: int) -> Affine2D:
    """From an image's columns and rows to lon/lat: over one tile, UTM bends away from it by less than a pixel."""
    origin, along, down = corners[0], (corners[1] - corners[0]) / width, (corners[2] - corners[0]) / height
    return Affine2D(np.array([[along[0], down[0], origin[0]], [along[1], down[1], origin[1]], [0, 0, 1]]))


def _label_tile(axes: Axes, tile: _Footprint, colour: str) -> None:
    west, south, east, north = shapely.Polygon(tile.outline).bounds
    x, side = (west + 0.03, "left") if tile.epsg == min(_ZONES) else (east - 0.03, "right")
    y = north - 0.028 if tile.tile.endswith("1") else south + 0.028
    axes.text(x, y, tile.tile, color=colour, fontsize=12, fontweight="bold", ha=side, va="center")


def _note_failures(axes: Axes, tiles: Sequence[_Footprint], failed: Sequence[Failure]) -> None:
    """What is missing, written where it is missing."""
    for failure in failed:
        tile = next((tile for tile in tiles if tile.tile == failure.id.split("_")[1]), None)
        if tile is None:
            continue
        west, _, _, north = shapely.Polygon(tile.outline).bounds
        day = datetime.strptime(failure.id[-8:], "%Y%m%d").replace(tzinfo=UTC)
        note = f"\u2717 {failure.band}, {day.day} {day:%B}:\n   header unreadable"
        axes.text(west + 0.03, north - 0.048, note, color="white", fontsize=7.5, va="top", linespacing=1.3,
                  path_effects=[withStroke(linewidth=2, foreground=_SEA)])  # fmt: skip


def _lonlat_ticks(axes: Axes) -> None:
    for axis, suffix in ((axes.xaxis, "E"), (axes.yaxis, "N")):
        axis.set_major_locator(MultipleLocator(0.2))
        axis.set_major_formatter(StrMethodFormatter(f"{{x:.1f}}° {suffix}"))
    axes.tick_params(colors=_FAINT, labelsize=8.5, length=0)
    axes.grid(color="white", alpha=0.15, linewidth=0.6)
    for side in axes.spines.values():
        side.set_visible(False)
