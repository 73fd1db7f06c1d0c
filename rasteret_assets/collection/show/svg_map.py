"""Draw small maps of footprints as SVG, for the page of a partition and for the card in notebooks.

The projection is plate carrée, stretched to the scale of the middle latitude, so that a footprint has its true
proportions. A few hundred footprints are drawn one by one, more of them as a grid of densities. Drawing takes a
millisecond and needs no package that is slow to import.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Final

import numpy as np
import numpy.typing as npt
import shapely

from rasteret_assets.collection.show.footprint_shapes import (
    Floats,
    Shapes,
    first_longitude,
    latitude,
    longitude,
    rings_of,
    side_by_side,
)

#: Footprints that are drawn one by one at most; of more, cells show how many there are.
DRAWN_SINGLY: Final = 400

_WIDTH: Final = 460
_HEIGHT: Final = 300
_MARGIN: Final = 38
_CELLS: Final = 40
_WHOLE, _MARKED, _EXTENT = "#2563eb", "#ea580c", "#475569"
_STEPS: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 45, 60, 90)
#: Letters of a title that have room beside the inset.
_TITLE: Final = 54
#: Pixels by which an outline may be simplified, and pixels that a footprint is wide at least.
_STRAY, _SMALLEST = 0.3, 2.0

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Frame:
    """The extent of a map in degrees, and its transform to pixels of the picture."""

    west: float
    south: float
    east: float
    north: float

    def x(self, lon: Floats) -> Floats:
        return _MARGIN + (lon - self.west) / (self.east - self.west) * (_WIDTH - 2 * _MARGIN)

    def y(self, lat: Floats) -> Floats:
        return _MARGIN + (self.north - lat) / (self.north - self.south) * (_HEIGHT - 2 * _MARGIN)

    def xy(self, points: Floats) -> Floats:
        return np.column_stack([self.x(points[:, 0]), self.y(points[:, 1])])


def footprint_map(shapes: Shapes, marked: Mask, title: str) -> str:
    """Return a map with the outlines of footprints as an SVG document.

    Args:
        shapes: ``[N]`` footprints in lon/lat; None for a record without footprint.
        marked: ``[N]`` booleans, true for records that are drawn in another colour.
        title: of the map; plain text.
    """
    placed = side_by_side(shapes)
    frame = _frame(shapely.bounds(placed))
    # A loop, because each of a few hundred footprints is a string.
    outlines: dict[bool, list[str]] = {False: [], True: []}
    for row, ring in rings_of(shapely.transform(placed, frame.xy)):
        outlines[bool(marked[row])].append(_outline(ring))
    drawn = [
        f'<path d="{"".join(outlines[is_marked])}" fill="{colour}" fill-opacity=".15" stroke="{colour}"/>'
        for is_marked, colour in ((False, _WHOLE), (True, _MARKED))
        if outlines[is_marked]
    ]
    return _document(frame, title, drawn)


def density_map(boxes: Floats, marked: Mask, title: str) -> str:
    """Return a map of the density of footprints as an SVG document.

    Args:
        boxes: ``[N, 4]`` of west, south, east, north in degrees within -180..180; ``west > east`` goes around the
            antimeridian, and a row of NaN is a record without footprint.
        marked: ``[N]`` booleans, true for records whose cell gets another colour.
        title: of the map; plain text.
    """
    present = np.isfinite(boxes).all(axis=1)
    (west, south, east, north), marked = boxes[present].T, marked[present]
    over = west > east
    spans = np.concatenate([
        np.column_stack([west, np.where(over, 180, east)]), np.column_stack([np.full(len(west), -180), east])[over]
    ])  # fmt: skip
    first = first_longitude(spans)
    width = np.where(over, east - west + 360, east - west)
    west = first + (west - first) % 360
    frame = _frame(np.column_stack([west, south, west + width, north]))
    centres = np.column_stack([west + width / 2, (south + north) / 2])
    return _document(frame, title, [*_cells(frame, centres[~marked], _WHOLE), *_cells(frame, centres[marked], _MARKED)])


def _frame(bounds: Floats) -> _Frame:
    """Return the extent of bounds ``[N, 4]`` with a margin, in the shape of the picture; without bounds the Earth."""
    bounds = bounds[np.isfinite(bounds).all(axis=1)]
    if not len(bounds):
        return _Frame(-180, -90, 180, 90)
    west, south = bounds[:, :2].min(axis=0).tolist()
    east, north = bounds[:, 2:].max(axis=0).tolist()
    middle_lon, middle_lat = (west + east) / 2, (south + north) / 2
    squeeze = max(float(np.cos(np.radians(middle_lat))), 0.05)
    width = max((east - west) * squeeze, 1e-3) * 1.15
    height = max(north - south, 1e-3) * 1.15
    shape = (_WIDTH - 2 * _MARGIN) / (_HEIGHT - 2 * _MARGIN)
    width, height = max(width, height * shape), max(height, width / shape)
    half_lon, half_lat = width / squeeze / 2, height / 2
    return _Frame(middle_lon - half_lon, middle_lat - half_lat, middle_lon + half_lon, middle_lat + half_lat)


def _outline(ring: Floats) -> str:
    """Return a closed ring of pixels as the data of a path."""
    low, high = ring.min(axis=0), ring.max(axis=0)
    if (high - low < _SMALLEST).all():
        x, y = (low + high) / 2 - _SMALLEST / 2
        return f"M{x:.1f} {y:.1f}h{_SMALLEST:g}v{_SMALLEST:g}h-{_SMALLEST:g}Z"
    points = shapely.get_coordinates(shapely.simplify(shapely.linestrings(ring), _STRAY))
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points[:-1].tolist()) + "Z"


def _cells(frame: _Frame, centres: Floats, colour: str) -> list[str]:
    if not len(centres):
        return []
    counts, lons, lats = np.histogram2d(
        centres[:, 0], centres[:, 1], bins=(_CELLS, _CELLS * _HEIGHT // _WIDTH),
        range=((frame.west, frame.east), (frame.south, frame.north)),
    )  # fmt: skip
    xs, ys = frame.x(lons), frame.y(lats)
    cells = [
        f'<rect x="{xs[i]:.1f}" y="{ys[j + 1]:.1f}" width="{xs[i + 1] - xs[i]:.1f}" height="{ys[j] - ys[j + 1]:.1f}" '
        f'fill-opacity="{0.15 + 0.8 * counts[i, j] / counts.max():.2f}"/>'
        for i, j in np.argwhere(counts)
    ]
    return [f'<g fill="{colour}">{"".join(cells)}</g>']


def _document(frame: _Frame, title: str, drawn: list[str]) -> str:
    size = f'width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    shown = title if len(title) <= _TITLE else f"{title[: _TITLE - 1]}…"
    return "".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="10">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#f8fafc"/>',
        f'<text x="8" y="18" font-size="12" fill="#0f172a">{escape(shown, quote=False)}</text>',
        *_graticule(frame),
        *drawn,
        _inset(frame),
        "</svg>",
    ])  # fmt: skip


def _graticule(frame: _Frame) -> list[str]:
    """Return meridians and parallels at round degrees, labelled at the edge, as SVG."""
    lines = []
    bottom, right = _HEIGHT - _MARGIN, _WIDTH - _MARGIN
    middle = (frame.west + frame.east) / 2
    for lon in _round_degrees(max(frame.west, middle - 180), min(frame.east, middle + 180)):
        x = float(frame.x(np.asarray(lon)))
        lines.append(f'<path d="M{x:.1f} {_MARGIN}V{bottom}" stroke="#cbd5e1" stroke-width=".7"/>')
        lines.append(f'<text x="{x:.1f}" y="{bottom + 13}" fill="#475569" text-anchor="middle">{longitude(lon)}</text>')
    for lat in _round_degrees(max(frame.south, -90), min(frame.north, 90)):
        y = float(frame.y(np.asarray(lat)))
        lines.append(f'<path d="M{_MARGIN} {y:.1f}H{right}" stroke="#cbd5e1" stroke-width=".7"/>')
        label = f'<text x="{_MARGIN - 4}" y="{y + 3:.1f}" fill="#475569" font-size="9" text-anchor="end">'
        lines.append(f"{label}{latitude(lat)}</text>")
    return lines


def _round_degrees(first: float, last: float) -> list[float]:
    step = next((step for step in _STEPS if (last - first) / step <= 6), _STEPS[-1])
    return [float(value) for value in np.arange(np.ceil(first / step), np.floor(last / step) + 1) * step]


def _inset(frame: _Frame) -> str:
    """Return a small map of the world with the extent in it, as SVG."""
    width, height = 72, 36
    x0, y0 = _WIDTH - width - 4, 4
    middle = ((frame.west + frame.east) / 2 + 180) % 360 - 180
    x = x0 + (middle + 180) / 360 * width
    y = y0 + (90 - np.clip((frame.south + frame.north) / 2, -90, 90)) / 180 * height
    wide = min(max((frame.east - frame.west) / 360 * width, 3), width)
    high = min(max((frame.north - frame.south) / 180 * height, 3), height)
    left = min(max(x - wide / 2, x0), x0 + width - wide)
    top = min(max(y - high / 2, y0), y0 + height - high)
    return (
        f'<rect x="{x0}" y="{y0}" width="{width}" height="{height}" fill="#fff" stroke="#94a3b8"/>'
        f'<path d="M{x0} {y0 + height / 2}h{width}M{x0 + width / 2} {y0}v{height}" stroke="#e2e8f0"/>'
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{high:.1f}" fill="{_EXTENT}"/>'
    )
