"""A small map of a partition's footprints as SVG: Dagster shows it inline, and drawing it takes a millisecond.

Plate carrée with the parallels stretched to the scale of the middle latitude, so that a footprint looks as wide as it
is. A few hundred footprints are drawn one by one, more of them as a grid of densities.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from rasteret_assets.orchestration.markdown import picture

#: Footprints drawn one by one; above, a cell shows how many there are.
DRAWN_SINGLY: Final = 400

_WIDTH: Final = 460
_HEIGHT: Final = 300
_MARGIN: Final = 38
_CELLS: Final = 40
_WHOLE, _LACKING = "#2563eb", "#ea580c"
_STEPS: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 45, 60)

_Boxes: TypeAlias = npt.NDArray[np.float64]
_Mask: TypeAlias = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Frame:
    """Which part of the Earth the map shows, and where it lies in the picture."""

    west: float
    south: float
    east: float
    north: float

    def x(self, lon: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return _MARGIN + (lon - self.west) / (self.east - self.west) * (_WIDTH - 2 * _MARGIN)

    def y(self, lat: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return _MARGIN + (self.north - lat) / (self.north - self.south) * (_HEIGHT - 2 * _MARGIN)


def footprint_map(boxes: _Boxes, lacking: _Mask, title: str) -> str:
    """Return the footprints as an SVG document.

    Args:
        boxes: ``[N, 4]`` of west, south, east, north in degrees; ``west > east`` goes around the antimeridian, and a
            row of NaN is a record without footprint.
        lacking: ``[N]`` records of which a header is missing; they are drawn in another colour.
        title: of the map; plain text.
    """
    present = np.isfinite(boxes).all(axis=1)
    boxes, lacking = boxes[present], lacking[present]
    if (boxes[:, 0] > boxes[:, 2]).any():
        boxes = _unrolled(boxes)
    frame = _frame(boxes)
    drawn = [_rects(frame, boxes, lacking)] if len(boxes) <= DRAWN_SINGLY else [_cells(frame, boxes)]
    size = f'width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    return "".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="10">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#f8fafc"/>',
        f'<text x="{_MARGIN}" y="18" font-size="12" fill="#0f172a">{_escaped(title)}</text>',
        *_graticule(frame),
        *drawn,
        _inset(frame),
        "</svg>",
    ])  # fmt: skip


def as_markdown(svg: str, alternative: str) -> str:
    """Return an SVG document as an inline image of Markdown."""
    return picture(alternative, "image/svg+xml", base64.b64encode(svg.encode()).decode())


def _unrolled(boxes: _Boxes) -> _Boxes:
    """Count longitudes eastwards from the end of the widest gap, so that no box is torn and neighbours stay neighbours.

    Args:
        boxes: ``[N, 4]``; ``west > east`` goes around the antimeridian.
    """
    west, width = boxes[:, 0] % 360, boxes[:, 2] - boxes[:, 0]
    width = np.where(width < 0, width + 360, width)
    order = np.argsort(west)
    starts, ends = west[order], np.maximum.accumulate((west + width)[order])
    # Before every box lies what ends before it, and what reaches over from the round before.
    before = np.maximum(np.concatenate([[-np.inf], ends[:-1]]), ends[-1] - 360)
    origin = starts[int(np.argmax(starts - before))]
    west = origin + (west - origin) % 360
    return np.column_stack([west, boxes[:, 1], west + width, boxes[:, 3]])


def _frame(boxes: _Boxes) -> _Frame:
    """Return the extent of some boxes with a margin, in the shape of the picture; of no box the whole Earth."""
    if not len(boxes):
        return _Frame(-180, -90, 180, 90)
    west, south = boxes[:, :2].min(axis=0)
    east, north = boxes[:, 2:].max(axis=0)
    middle_lon, middle_lat = (west + east) / 2, (south + north) / 2
    squeeze = max(np.cos(np.radians(middle_lat)), 0.05)
    width = max((east - west) * squeeze, 1e-3) * 1.15
    height = max(north - south, 1e-3) * 1.15
    shape = (_WIDTH - 2 * _MARGIN) / (_HEIGHT - 2 * _MARGIN)
    width, height = max(width, height * shape), max(height, width / shape)
    half_lon, half_lat = width / squeeze / 2, height / 2
    return _Frame(
        float(middle_lon - half_lon), float(middle_lat - half_lat),
        float(middle_lon + half_lon), float(middle_lat + half_lat),
    )  # fmt: skip


def _rects(frame: _Frame, boxes: _Boxes, lacking: _Mask) -> str:
    left, right = frame.x(boxes[:, 0]), frame.x(boxes[:, 2])
    top, bottom = frame.y(boxes[:, 3]), frame.y(boxes[:, 1])
    groups = []
    for colour, mask in ((_WHOLE, ~lacking), (_LACKING, lacking)):
        # A string per footprint, of a few hundred.
        paths = "".join(
            f"M{x0:.1f} {y0:.1f}H{x1:.1f}V{y1:.1f}H{x0:.1f}Z"
            for x0, y0, x1, y1 in zip(
                left[mask], top[mask], np.maximum(right[mask], left[mask] + 2), np.maximum(bottom[mask], top[mask] + 2),
                strict=True,
            )
        )  # fmt: skip
        if paths:
            groups.append(f'<path d="{paths}" fill="{colour}" fill-opacity=".15" stroke="{colour}" stroke-width="1"/>')
    return "".join(groups)


def _cells(frame: _Frame, boxes: _Boxes) -> str:
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    counts, lons, lats = np.histogram2d(
        centres[:, 0], centres[:, 1], bins=(_CELLS, _CELLS * _HEIGHT // _WIDTH),
        range=((frame.west, frame.east), (frame.south, frame.north)),
    )  # fmt: skip
    xs, ys = frame.x(lons), frame.y(lats)
    rows = [
        f'<rect x="{xs[i]:.1f}" y="{ys[j + 1]:.1f}" width="{xs[i + 1] - xs[i]:.1f}" height="{ys[j] - ys[j + 1]:.1f}" '
        f'fill-opacity="{0.15 + 0.8 * counts[i, j] / counts.max():.2f}"/>'
        for i, j in np.argwhere(counts)
    ]
    return f'<g fill="{_WHOLE}">{"".join(rows)}</g>'


def _graticule(frame: _Frame) -> list[str]:
    """Return meridians and parallels at round degrees, labelled at the edge, as SVG."""
    lines = []
    bottom, right = _HEIGHT - _MARGIN, _WIDTH - _MARGIN
    for lon in _round_degrees(frame.west, frame.east):
        x = float(frame.x(np.asarray(lon)))
        lines.append(f'<path d="M{x:.1f} {_MARGIN}V{bottom}" stroke="#cbd5e1" stroke-width=".7"/>')
        label = _degrees((lon + 180) % 360 - 180, "E", "W")
        lines.append(f'<text x="{x:.1f}" y="{bottom + 13}" fill="#475569" text-anchor="middle">{label}</text>')
    for lat in _round_degrees(max(frame.south, -90), min(frame.north, 90)):
        y = float(frame.y(np.asarray(lat)))
        lines.append(f'<path d="M{_MARGIN} {y:.1f}H{right}" stroke="#cbd5e1" stroke-width=".7"/>')
        lines.append(f'<text x="2" y="{y + 3:.1f}" fill="#475569" font-size="8">{_degrees(lat, "N", "S")}</text>')
    return lines


def _round_degrees(first: float, last: float) -> Sequence[float]:
    step = next((step for step in _STEPS if (last - first) / step <= 6), _STEPS[-1])
    return [float(value) for value in np.arange(np.ceil(first / step), np.floor(last / step) + 1) * step]


def _degrees(value: float, positive: str, negative: str) -> str:
    return f"{abs(value):g}°{positive if value > 0 else negative if value < 0 else ''}"


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
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{high:.1f}" fill="{_LACKING}"/>'
    )


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
