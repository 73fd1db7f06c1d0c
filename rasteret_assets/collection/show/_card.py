"""Describe a collection in one line, and as a small HTML card for notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape

import numpy as np

from rasteret_assets.collection.pixels.record_table import RecordTable
from rasteret_assets.collection.show.footprint_shapes import counted, read_footprints
from rasteret_assets.collection.show.svg_map import DRAWN_SINGLY, footprint_map
from rasteret_assets.collection.table.summary import Summary

_SHOWN = 6


def short(name: str, bands: Sequence[str], *, is_filtered: bool) -> str:
    """Return a collection in one line, without reading rows."""
    part = ", filtered" if is_filtered else ""
    return f"Collection({name!r}, bands {', '.join(bands) or 'none'}{part}; print it to see what it holds)"


def line(name: str, bands: Sequence[str], summary: Summary) -> str:
    """Return name, rows, bands and dates of a collection in one line."""
    rows = "1 record" if summary.rows == 1 else f"{summary.rows:,} records"
    return f"Collection({name!r}, {rows}, bands: {_listed(bands)}, {_dates(summary.dates)})"


def html(
    name: str,
    subtitle: str,
    bands: Mapping[str, int | None],
    crs: Sequence[str],
    summary: Summary,
    picture: str | None = None,
) -> str:
    """Return the card of a collection as HTML; every text in it is escaped.

    Args:
        name: of the collection.
        subtitle: a sentence about it, may be empty.
        bands: number of records that have the header, by band; None if the number is unknown.
        crs: of the rasters.
        summary: counts and extents.
        picture: SVG of footprints, shown beside the table.
    """
    bounds = "none" if summary.bounds is None else ", ".join(f"{value:.4f}" for value in summary.bounds)
    facts = {
        "records": f"{summary.rows:,}",
        "dates": _dates(summary.dates),
        "bounds (lon/lat)": bounds,
        "raster CRS": _listed([code if len(code) < 40 else code[:37] + "..." for code in crs]),
        "bands": ", ".join(_share(band, count, summary.rows) for band, count in bands.items()) or "none",
    }
    rows = "".join(
        f"<tr><th style='text-align:left'>{escape(label)}</th><td style='text-align:left'>{escape(value)}</td></tr>"
        for label, value in facts.items()
    )
    note = f"<div>{escape(subtitle)}</div>" if subtitle else ""
    table = f"<div><strong>{escape(name or 'Collection')}</strong>{note}<table>{rows}</table></div>"
    if picture is None:
        return table
    return f"<div style='display:flex;flex-wrap:wrap;gap:1em'>{table}{picture}</div>"


def footprints(collection: RecordTable) -> str | None:
    """Draw the first footprints of a collection as an SVG element; None if it has no footprint."""
    shapes, _, more = read_footprints(collection, DRAWN_SINGLY)
    title = counted(collection, len(shapes), more=more)
    return footprint_map(shapes, np.zeros(len(shapes), bool), title) if len(shapes) else None


def _share(band: str, headers: int | None, rows: int) -> str:
    """Return a band with the percentage of records that have its header, rounded down, so that 100 % means all."""
    return f"{band} ({headers * 100 // rows} %)" if rows and headers is not None else band


def _listed(values: Sequence[str]) -> str:
    if not values:
        return "none"
    more = f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
    return ", ".join(values[:_SHOWN]) + more


def _dates(dates: tuple[datetime, datetime] | None) -> str:
    return "undated" if dates is None else f"{dates[0]:%Y-%m-%d} to {dates[1]:%Y-%m-%d}"
