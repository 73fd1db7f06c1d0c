"""Footprints on a map of longitudes and latitudes, with matplotlib."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely

from rasteret_assets import schema
from rasteret_assets.collection.areas.footprints import decode_wkb
from rasteret_assets.collection.pixels.select import RecordTable
from rasteret_assets.columns.instants import utc_instants
from rasteret_assets.errors import WindowError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


#: Footprints that are drawn at most: more of them are a blot, and take their time.
MOST_DRAWN: Final = 5000
_INK, _FAINT, _SEA = "#1b2a33", "#6b7c86", "#eef3f5"
_COLOURS: Final = "viridis"


def draw_footprints(collection: RecordTable, ax: Axes | None, limit: int) -> Axes:
    """Draw the footprints of a collection, the later the lighter.

    Args:
        collection: whose records are drawn, at most ``limit`` of them.
        ax: matplotlib axes to draw into; a figure of its own when None.
        limit: most footprints to draw.

    Raises:
        WindowError: if there is no footprint.
    """
    # Matplotlib takes half a second to import, which nobody else should wait for.
    from matplotlib.collections import PolyCollection  # noqa: PLC0415
    from matplotlib.dates import date2num, num2date  # noqa: PLC0415

    outlines, moments, more = _outlines(collection, limit)
    if not outlines:
        raise WindowError("there is no footprint to draw: the collection, or what its filters leave, is empty")
    axes = _new_figure((7.5, 5.5))[1] if ax is None else ax
    drawn = PolyCollection(outlines, facecolors=(0, 0, 0, 0), linewidths=1.2)
    dated = np.array([moment is not None for moment in moments])
    if dated.any():
        known = date2num([moment for moment in moments if moment is not None])  # type: ignore[no-untyped-call]
        values = np.full(len(moments), known.min())
        values[dated] = known
        filled = PolyCollection(outlines, array=values, cmap=_COLOURS, alpha=0.25, linewidths=0)
        drawn.set_array(values)
        drawn.set_cmap(_COLOURS)
        drawn.set_facecolor("none")
        axes.add_collection(filled)
        if known.min() < known.max():
            bar = axes.figure.colorbar(filled, ax=axes, fraction=0.035, pad=0.02)
            bar.ax.yaxis.set_major_formatter(lambda day, _: f"{num2date(day):%Y-%m-%d}")  # type: ignore[no-untyped-call]
            bar.ax.tick_params(labelsize=8, colors=_FAINT, length=0)
            bar.outline.set_visible(False)
    else:
        drawn.set_edgecolor(_INK)
    axes.add_collection(drawn)
    _frame(axes, np.concatenate(outlines))
    shown = f"first {len(moments):,} footprints" if more else f"{len(moments):,} footprints"
    axes.set_title(f"{collection.name or 'collection'}: {shown}", loc="left", fontsize=11, color=_INK)
    return axes


def footprints_png(collection: RecordTable, limit: int = 500) -> bytes:
    """A small map of footprints as PNG.

    Raises:
        WindowError: if there is no footprint.
    """
    figure, axes = _new_figure((4.6, 3.4))
    draw_footprints(collection, axes, limit)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    return buffer.getvalue()


def _new_figure(size: tuple[float, float]) -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    # Not pyplot's: a figure nobody closes would stay in memory.
    figure = Figure(figsize=size, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _outlines(collection: RecordTable, limit: int) -> tuple[list[Any], list[Any], bool]:
    """Outer rings, the moment of each ring's record (one for each ring), and whether records are left out."""
    rings, moments, records, more = [], [], 0, False
    names = [schema.GEOMETRY, schema.BBOX, schema.DATETIME]
    for batch in collection.batches({name: pc.field(name) for name in names}):
        for shape, moment in _shapes(batch):
            if records >= limit:
                more = True
                break
            records += 1
            for part in shapely.get_parts(shape):
                if part.geom_type == "Polygon":
                    rings.append(shapely.get_coordinates(part.exterior))
                    moments.append(moment)
        if more:
            break
    if rings and np.ptp(np.concatenate(rings)[:, 0]) > 300:
        # A few footprints on both sides of the antimeridian lie side by side, counted from 0 to 360.
        turned = [np.column_stack([ring[:, 0] % 360, ring[:, 1]]) for ring in rings]
        if np.ptp(np.concatenate(turned)[:, 0]) < 180:
            rings = turned
    return rings, moments, more


def _shapes(batch: pa.RecordBatch) -> Iterator[tuple[Any, Any]]:
    moments = utc_instants(batch.column(schema.DATETIME)).cast(pa.timestamp("us")).to_pylist()
    for shape, moment in zip(decode_wkb(batch.column(schema.GEOMETRY)), moments, strict=True):
        if shape is not None and not shape.is_empty:
            yield shape, moment


def _frame(axes: Axes, points: Any) -> None:
    (west, south), (east, north) = points.min(axis=0), points.max(axis=0)
    pad = max(east - west, north - south, 1e-3) * 0.06
    axes.set_xlim(west - pad, east + pad)
    axes.set_ylim(max(south - pad, -90), min(north + pad, 90))
    middle = np.radians(np.clip((south + north) / 2, -80, 80))
    axes.set_aspect(1 / np.cos(middle))
    axes.set_facecolor(_SEA)
    axes.grid(color="white", linewidth=0.9)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_formatter(lambda x, _: _degrees((x + 180) % 360 - 180, "E", "W"))
    axes.yaxis.set_major_formatter(lambda y, _: _degrees(y, "N", "S"))
    axes.locator_params(axis="x", nbins=6)
    axes.tick_params(colors=_FAINT, labelsize=8, length=0)
    for side in axes.spines.values():
        side.set_visible(False)


def _degrees(value: float, positive: str, negative: str) -> str:
    return f"{abs(round(value, 4)):g}° {positive if value >= 0 else negative}"
