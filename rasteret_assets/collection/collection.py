"""Join queries, reads, exports and maps of records to one class, the collection."""

from __future__ import annotations

import functools
from datetime import datetime
from typing import TYPE_CHECKING

import pyarrow.compute as pc

from rasteret_assets import schema
from rasteret_assets.collection._exports import Exports
from rasteret_assets.collection._reads import Reads
from rasteret_assets.collection.show import _card
from rasteret_assets.collection.show._explore import MOST_EXPLORED, ExplorePage, explore_page
from rasteret_assets.collection.show._plot import MOST_DRAWN, draw_footprints
from rasteret_assets.collection.table import query, summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Collection(Reads, Exports):
    """Records of a collection: all of them, or those that a chain of ``subset`` and ``where`` chose.

    Nothing is read until rows, numbers or pixels are asked for. Open a collection with ``load`` or ``as_collection``.
    The arguments are those of :class:`RecordQuery`.
    """

    def plot(self, ax: Axes | None = None, *, color: str | None = None, limit: int = MOST_DRAWN) -> Axes:
        """Draw the footprints on a map of longitudes and latitudes, coloured by date.

        Args:
            ax: matplotlib axes to draw into; by default those of a new figure.
            color: of all outlines, as matplotlib names colours; by date when None.
            limit: footprints to draw at most.

        Returns:
            The axes, whose ``figure`` can be saved.

        Raises:
            WindowError: if no record has a footprint.
        """
        return draw_footprints(self, ax, color, limit)

    def explore(self, *, tiles: str | None = None, limit: int = MOST_EXPLORED, height: int = 520) -> ExplorePage:
        """Show the footprints on a map that can be moved, which names the records under the pointer.

        The page holds everything it needs, so that it works where there is no network. Of a record it has the outline,
        id, datetime and cloud cover, and no address.

        Args:
            tiles: address of map tiles to lie under the outlines, such as those that TiTiler serves of this collection:
                ``"http://127.0.0.1:8000/tiles/WebMercatorQuad/{z}/{x}/{y}.png?assets=B04"``. Without it the page asks
                nothing of any host.
            limit: footprints to show at most.
            height: of the frame in a notebook, in pixels.

        Returns:
            A page that notebooks show, with ``html`` and ``save(path)``.

        Raises:
            SpecError: if ``tiles`` is incomplete, or holds something that grants access.
            WindowError: if no record has a footprint.
        """
        return explore_page(self, tiles, limit, height)

    @functools.cached_property
    def summary(self) -> summary.Summary:
        """Counts and extents, from one pass over small columns; kept, because a collection does not change."""
        return summary.summarize(self.to_reader(summary.columns(self.schema)))

    @property
    def bounds(self) -> query.Bounds | None:
        """(xmin, ymin, xmax, ymax) of all footprints in lon/lat, xmin > xmax across 180 degrees; None if empty."""
        return self.summary.bounds

    @property
    def crs(self) -> list[str]:
        """Distinct CRSs of the rasters, such as ``["EPSG:32632"]``, sorted; WKT for a CRS without a code.

        Headers are read only if no record states a CRS.
        """
        if self.summary.crs:
            return list(self.summary.crs)
        stated: set[str] = set()
        for band in self.bands:
            column = schema.band_column(band)
            fields = {field.name for field in self.schema.field(column).type} & {"epsg", "crs"}
            for batch in self.batches({name: pc.field(column, name) for name in sorted(fields)}):
                stated |= summary.distinct_crs(batch, "epsg", "crs")
        return sorted(stated)

    @property
    def date_range(self) -> tuple[datetime, datetime] | None:
        """First and last acquisition in UTC; None if no record is dated."""
        return self.summary.dates

    def __str__(self) -> str:
        return _card.line(self.name, self.bands, self.summary)

    def __repr__(self) -> str:
        # Without counts, because they take a scan, and debuggers and logs call this method often.
        if "summary" in vars(self):
            return str(self)
        return _card.short(self.name, self.bands, is_filtered=self.is_filtered)

    def _repr_html_(self) -> str:
        # Footers count the headers of the whole collection; those of filtered records are not counted, because their
        # rows would have to be read.
        counts = None if self.is_filtered else summary.header_counts(self.dataset, self.bands)
        shares = {band: None if counts is None else counts[band] for band in self.bands}
        picture, subtitle = _card.footprints(self), self.description or self.data_source
        return _card.html(self.name, subtitle, shares, self.crs, self.summary, picture)
