"""Show footprints on a map that can be moved, as one HTML page without anything from another host.

A page of our own, because libraries of maps load their code or their background from other hosts, and notebooks without
a network would show nothing.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely

from rasteret_assets.collection.pixels.record_table import RecordTable
from rasteret_assets.collection.show.footprint_shapes import counted, footprints_of, rings_of, side_by_side
from rasteret_assets.columns.instants import utc_instants
from rasteret_assets.errors import SpecError, WindowError
from rasteret_assets.schema import BBOX, CLOUD_COVER, DATETIME, GEOMETRY, ID
from rasteret_assets.secrets import redact, without_secrets
from rasteret_assets.storage.whole_files import whole_file

#: Footprints on a page at most: a browser draws so many while the map moves, and they take about a megabyte.
MOST_EXPLORED: Final = 5000

#: Degrees by which an outline may be simplified, and decimals of its coordinates: both are a metre.
_STRAY, _DECIMALS = 1e-5, 5
_PLACES: Final = ("{z}", "{x}", "{y}")


@dataclass(frozen=True, kw_only=True)
class ExplorePage:
    """A map of footprints, which notebooks show.

    Args:
        html: the page.
        height: of the frame in a notebook, in pixels.
    """

    html: str
    height: int

    def save(self, path: str | Path) -> Path:
        """Write the page to a file, which any browser opens, and return its path.

        Raises:
            CollectionError: if the file cannot be written.
        """
        with whole_file(path) as beside:
            beside.write_text(self.html, encoding="utf-8")
        return Path(path)

    def _repr_html_(self) -> str:
        # In a frame, because there the page's scripts reach neither the notebook nor its other outputs.
        return (
            f'<iframe srcdoc="{escape(self.html)}" sandbox="allow-scripts" '
            f'style="width:100%;height:{self.height}px;border:0"></iframe>'
        )

    def __repr__(self) -> str:
        return f"ExplorePage({len(self.html):,} characters; save(path) writes it, and notebooks show it)"


def explore_page(collection: RecordTable, tiles: str | None, limit: int, height: int) -> ExplorePage:
    """Return a page with a map of footprints; arguments and errors are those of ``Collection.explore``."""
    if tiles is not None:
        _check_tiles(tiles)
    shapes, texts, more = _read(collection, limit)
    placed = side_by_side(shapes)
    simple = shapely.simplify(placed, _STRAY)
    outlines: list[list[list[list[float]]]] = [[] for _ in texts]
    # A loop, because each of a few thousand rings becomes a list of JSON.
    for row, ring in rings_of(simple):
        outlines[row].append(np.round(ring, _DECIMALS).tolist())
    if not any(outlines):
        raise WindowError(
            "there is no footprint to show: no record meets the filters, or none of those that do has a "
            "footprint; compare the filters with collection.date_range"
        )
    document = {
        "title": counted(collection, len(texts), more=more),
        "records": [{**text, "rings": rings} for text, rings in zip(texts, outlines, strict=True) if rings],
        "tiles": tiles,
    }
    # Escaped, because "</script" in a text would end the element that holds the document.
    data = json.dumps(document, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return ExplorePage(html=_template().replace("__DOCUMENT__", data), height=height)


def _read(collection: RecordTable, limit: int) -> tuple[Any, list[dict[str, Any]], bool]:
    """Return at most ``limit`` footprints, the texts that the page shows of each, and whether there are more."""
    names = [name for name in (ID, DATETIME, GEOMETRY, BBOX, CLOUD_COVER) if name in collection.schema.names]
    columns = {name: pc.field(name) for name in names}
    found, texts, more = [np.empty(0, object)], list[dict[str, Any]](), False
    for batch in collection.batches(columns):
        shapes = footprints_of(batch)
        present = np.flatnonzero(~(shapely.is_missing(shapes) | shapely.is_empty(shapes)))
        more = len(texts) + len(present) > limit
        rows = pa.array(present[: limit - len(texts)])
        found.append(shapes[present[: len(rows)]])
        days = pc.strftime(utc_instants(batch.column(DATETIME)).cast(pa.timestamp("s")), "%Y-%m-%d %H:%M")
        clouds = batch.column(CLOUD_COVER).cast(pa.float64()) if CLOUD_COVER in columns else pa.nulls(batch.num_rows)
        ids = batch.column(ID).cast(pa.string())
        values = zip(*(column.take(rows).to_pylist() for column in (ids, days, clouds)), strict=True)
        texts += [{"id": name, "time": day, "clouds": cover} for name, day, cover in values]
        if more:
            break
    return np.concatenate(found), texts, more


def _check_tiles(tiles: str) -> None:
    """Refuse an address of map tiles that is incomplete, or that would show a secret to readers of the page.

    Raises:
        SpecError: with the address, redacted, and what is wrong.
    """
    if not re.match(r"https?://", tiles) or any(place not in tiles for place in _PLACES):
        raise SpecError(f"tiles={redact(tiles)!r} must be an http address with {{z}}, {{x}} and {{y}} in it")
    if without_secrets(tiles) != tiles:
        raise SpecError(
            f"tiles={redact(tiles)!r} holds something that grants access, which everybody who has the page could "
            "read: let the server take it from its own settings"
        )


@functools.cache
def _template() -> str:
    return files("rasteret_assets.collection.show").joinpath("_explore.html").read_text(encoding="utf-8")
