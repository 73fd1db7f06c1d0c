"""A collection as a mosaic of rio-tiler and TiTiler: which records a map tile needs is asked of the index."""

from __future__ import annotations

from typing import Any, Final

import attr
import shapely
from morecantile import Tile, TileMatrixSet
from rasterio.crs import CRS
from rio_tiler.constants import WEB_MERCATOR_TMS, WGS84_CRS
from rio_tiler.errors import MissingAssets, PointOutsideBounds, TileOutsideBounds
from rio_tiler.io.base import SpatialMixin
from rio_tiler.models import ImageData, PointData
from rio_tiler.mosaic.backend import BaseBackend
from shapely.geometry.base import BaseGeometry

from rasteret_assets.collection.areas.area import Area
from rasteret_assets.collection.areas.reproject import crs_name
from rasteret_assets.collection.collection import Collection
from rasteret_assets.errors import SpecError, WindowError
from rasteret_assets.tiles.readers import RecordReader, affine, raster_bounds, raster_crs
from rasteret_assets.tiles.record_index import ORDERS, IndexedRecord, Order, index_of

#: Most records that a map tile reads, because reading more takes minutes.
MAX_RECORDS: Final = 200

#: Errors for which a mosaic leaves a record out: it does not meet the tile, or a band of it has no header.
_LEAVES_OUT: Final = (TileOutsideBounds, PointOutsideBounds, MissingAssets)


class TooManyRecordsError(WindowError):
    """A map tile, point or box meets more records than a mosaic may read."""


@attr.s
class CollectionBackend(BaseBackend):  # type: ignore[misc]  # Any to mypy, which has no rio-tiler
    """The records of a collection as one mosaic. Finding those of a tile takes no request for a raster.

    ``search_options`` of its methods are arguments of ``Collection.subset``: ``date_range``, ``cloud_cover_lt`` ... The
    records are listed once for each collection, and once for each set of options that is asked for.

    Args:
        input: the collection, as ``load`` or ``subset`` returns it. Keep it: what is listed is kept with it.
        tms: grid of the map tiles; Web Mercator by default.
        reader: of a record.
        reader_options: options of the reader, such as ``{"default_assets": ["B04"]}``.
        order: which records come first, and so lie on top by default: ``"newest"``, ``"oldest"`` or ``"clearest"``
            (by ``eo:cloud_cover``, then the newest).
        max_records: of one tile, point or box.

    Raises:
        SpecError: if ``input`` is not a collection, or the order is not understood.
    """

    input: Collection = attr.ib()
    tms: TileMatrixSet = attr.ib(default=WEB_MERCATOR_TMS)
    reader: type[RecordReader] = attr.ib(default=RecordReader)
    reader_options: dict[str, Any] = attr.ib(factory=dict)
    order: Order = attr.ib(default="newest", kw_only=True)
    max_records: int = attr.ib(default=MAX_RECORDS, kw_only=True)

    def __attrs_post_init__(self) -> None:
        """Take bounds and zooms from the index."""
        # Not opened here, because TiTiler would let every request name a folder, and list its records anew.
        if not isinstance(self.input, Collection):
            raise SpecError(f"input={self.input!r} is not a collection: give CollectionBackend what load(...) returns")
        if self.order not in ORDERS:
            raise SpecError(f"order={self.order!r} must be one of {', '.join(ORDERS)}")
        self.crs = WGS84_CRS
        west, south, east, north = self.input.bounds or (-180.0, -90.0, 180.0, 90.0)
        self.bounds = (west, south, east, north) if west <= east else (-180.0, south, 180.0, north)
        self.minzoom, self.maxzoom = index_of(self.input).zooms(self.tms, _zooms)

    def assets_for_tile(self, x: int, y: int, z: int, **filters: Any) -> list[IndexedRecord]:
        """Return the records whose footprint meets a map tile.

        Args:
            x: column of the tile.
            y: row of the tile.
            z: its zoom.
            **filters: arguments of ``Collection.subset``.

        Raises:
            TooManyRecordsError: if there are more than ``max_records``.
            SpecError: if a filter is not understood.
        """
        box = tuple(self.tms.xy_bounds(Tile(x=x, y=y, z=z)))
        return self._meeting(
            Area.of_bounds(box, crs_name(self.tms.rasterio_crs.to_wkt())), f"tile {z}/{x}/{y}", filters
        )  # fmt: skip

    def assets_for_point(
        self, lng: float, lat: float, coord_crs: CRS | None = None, **filters: Any
    ) -> list[IndexedRecord]:  # fmt: skip
        """Return the records whose footprint meets a point; errors as for :meth:`assets_for_tile`.

        Args:
            lng: longitude, or x in ``coord_crs``.
            lat: latitude, or y.
            coord_crs: CRS of the point; lon/lat by default.
            **filters: arguments of ``Collection.subset``.
        """
        return self._meeting(_area(shapely.Point(lng, lat), coord_crs), f"point ({lng}, {lat})", filters)

    def assets_for_bbox(
        self, xmin: float, ymin: float, xmax: float, ymax: float, coord_crs: CRS | None = None, **filters: Any
    ) -> list[IndexedRecord]:  # fmt: skip
        """Return the records whose footprint meets a box; errors as for :meth:`assets_for_tile`.

        Args:
            xmin: left side of the box.
            ymin: lower side.
            xmax: right side.
            ymax: upper side.
            coord_crs: CRS of the box; lon/lat by default.
            **filters: arguments of ``Collection.subset``.
        """
        box = (xmin, ymin, xmax, ymax)
        return self._meeting(_area(shapely.box(*box), coord_crs), f"box {box}", filters)

    def asset_name(self, asset: IndexedRecord) -> str:
        """Return the id of a record."""
        return str(asset)

    def tile(self, x: int, y: int, z: int, **kwargs: Any) -> tuple[ImageData, list[str]]:
        """Read a map tile; arguments as for rio-tiler's ``BaseBackend.tile``."""
        return super().tile(x, y, z, **{"allowed_exceptions": _LEAVES_OUT, **kwargs})  # type: ignore[no-any-return]

    def part(self, bbox: Any, **kwargs: Any) -> tuple[ImageData, list[str]]:
        """Read a box; arguments as for rio-tiler's ``BaseBackend.part``."""
        return super().part(bbox, **{"allowed_exceptions": _LEAVES_OUT, **kwargs})  # type: ignore[no-any-return]

    def point(self, lon: float, lat: float, **kwargs: Any) -> list[tuple[str, PointData]]:
        """Read the pixel of each record at a point; arguments as for rio-tiler's ``BaseBackend.point``."""
        return super().point(lon, lat, **{"allowed_exceptions": _LEAVES_OUT, **kwargs})  # type: ignore[no-any-return]

    def _meeting(self, area: Area, what: str, filters: dict[str, Any]) -> list[IndexedRecord]:
        found = index_of(self.input).meeting(area.lonlat(), self.order, filters)
        if len(found) > self.max_records:
            raise TooManyRecordsError(
                f"{what} meets {len(found)} records, and {self.max_records} may be read for it: zoom in, filter the "
                "collection or the request, or raise max_records"
            )
        return found


def _area(geometry: BaseGeometry, crs: CRS | None) -> Area:
    if crs is None or crs == WGS84_CRS:
        return Area(geometry=geometry)
    return Area(geometry=geometry, crs=crs_name(crs.to_wkt()))


def _zooms(crs: str, transform: tuple[float, ...], size: tuple[int, int], tms: TileMatrixSet) -> tuple[int, int]:
    """The first and the last zoom at which a raster is worth looking at, as rio-tiler has them of its file."""
    spatial = SpatialMixin(tms=tms)
    spatial.crs, spatial.transform, (spatial.width, spatial.height) = raster_crs(crs), affine(transform), size
    spatial.bounds = raster_bounds(transform, size)
    return spatial._minzoom, spatial._maxzoom  # noqa: SLF001  (rio-tiler's own readers use them)
