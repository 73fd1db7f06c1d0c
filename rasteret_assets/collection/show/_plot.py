"""Draw footprints on a map of longitudes and latitudes, with matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from rasteret_assets.collection.pixels.record_table import RecordTable
from rasteret_assets.collection.show.footprint_shapes import (
    Floats,
    counted,
    latitude,
    longitude,
    read_footprints,
    rings_of,
    side_by_side,
)
from rasteret_assets.errors import WindowError

if TYPE_CHECKING:
    from matplotlib.axes import Axes


#: Footprints that are drawn at most, because more cannot be told apart, and take seconds.
MOST_DRAWN: Final = 5000
_INK, _FAINT, _SEA = "#1b2a33", "#6b7c86", "#eef3f5"
_COLOURS: Final = "viridis"


def draw_footprints(collection: RecordTable, ax: Axes | None, color: str | None, limit: int) -> Axes:
    """Draw the footprints of a collection, later ones in lighter colours.

    Args:
        collection: the records, of which at most ``limit`` are drawn.
        ax: matplotlib axes to draw into; None for a new figure.
        color: of all outlines, as matplotlib names colours; by date when None.
        limit: most footprints to draw.

    Raises:
        WindowError: if there is no footprint.
    """
    # Imported here, because the import takes half a second and other methods do not need matplotlib.
    from matplotlib.collections import PolyCollection  # noqa: PLC0415
    from matplotlib.dates import date2num, num2date  # noqa: PLC0415

    shapes, stated, more = read_footprints(collection, limit)
    drawn_rings = list(rings_of(side_by_side(shapes)))
    if not drawn_rings:
        raise WindowError("there is no footprint to draw: no record meets the filters, or none has a footprint")
    outlines = [ring for _, ring in drawn_rings]
    moments = [stated[row] for row, _ in drawn_rings]
    axes = _new_axes() if ax is None else ax
    drawn = PolyCollection(outlines, facecolors=(0, 0, 0, 0), linewidths=1.2)
    dated = np.array([moment is not None for moment in moments])
    if color is None and dated.any():
        days = date2num([moment for moment in moments if moment is not None])  # type: ignore[no-untyped-call]
        values = np.full(len(moments), days.min())
        values[dated] = days
        filled = PolyCollection(outlines, array=values, cmap=_COLOURS, alpha=0.25, linewidths=0)
        drawn.set_array(values)
        drawn.set_cmap(_COLOURS)
        drawn.set_facecolor("none")
        axes.add_collection(filled)
        if days.min() < days.max():
            bar = axes.figure.colorbar(filled, ax=axes, fraction=0.035, pad=0.02)
            bar.ax.yaxis.set_major_formatter(lambda day, _: f"{num2date(day):%Y-%m-%d}")  # type: ignore[no-untyped-call]
            bar.ax.tick_params(labelsize=8, colors=_FAINT, length=0)
            bar.outline.set_visible(False)
    else:
        drawn.set_edgecolor(_INK if color is None else color)
    axes.add_collection(drawn)
    _frame(axes, np.concatenate(outlines))
    axes.set_title(counted(collection, len(shapes), more=more), loc="left", fontsize=11, color=_INK)
    return axes


def _new_axes() -> Axes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    # Without pyplot, because it keeps figures that are not closed in memory.
    figure = Figure(figsize=(7.5, 5.5), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure.add_subplot()


def _frame(axes: Axes, points: Floats) -> None:
    (west, south), (east, north) = points.min(axis=0), points.max(axis=0)
    pad = max(east - west, north - south, 1e-3) * 0.06
    axes.set_xlim(west - pad, east + pad)
    axes.set_ylim(max(south - pad, -90), min(north + pad, 90))
    middle = np.radians(np.clip((south + north) / 2, -80, 80))
    axes.set_aspect(1 / np.cos(middle))
    axes.set_facecolor(_SEA)
    axes.grid(color="white", linewidth=0.9)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_formatter(lambda x, _: longitude(x))
    axes.yaxis.set_major_formatter(lambda y, _: latitude(y))
    axes.locator_params(axis="x", nbins=6)
    axes.tick_params(colors=_FAINT, labelsize=8, length=0)
    for side in axes.spines.values():
        side.set_visible(False)
