"""Readers of rio-tiler that open a file without a request: directories come from the index, pixels from its tiles."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import attr
import numpy as np
import rasterio
from affine import Affine
from morecantile import TileMatrixSet
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.warp import transform_bounds
from rio_tiler.constants import WEB_MERCATOR_TMS, WGS84_CRS
from rio_tiler.errors import InvalidAssetName, MissingAssets
from rio_tiler.expression import parse_expression
from rio_tiler.io import MultiBaseReader, Reader
from rio_tiler.models import ImageData, PointData
from rio_tiler.types import AssetInfo, AssetType
from rio_tiler.utils import cast_to_sequence

from rasteret_assets.errors import TileError
from rasteret_assets.secrets import redact
from rasteret_assets.tiles.range_file import BandFile, RangeFile, TileBytes, open_dataset
from rasteret_assets.tiles.record_index import IndexedRecord

MAX_CONCURRENT: Final = 64


class PaletteWarning(UserWarning):
    """Pixels of a file are numbers of colours, and the index does not have the colours: give a colormap."""


@attr.s
class BandReader(Reader):  # type: ignore[misc]  # Any to mypy, which has no rio-tiler
    """Reads one band of a record as rio-tiler's ``Reader`` reads the file it is in. The band is ``b1``.

    Errors are those of the package, which name record, band and file: what ``dataset`` alone reads has none of them.

    Args:
        input: the band, a :class:`~rasteret_assets.tiles.range_file.BandFile`.
        tile_bytes: brings the tiles.
    """

    tile_bytes: TileBytes = attr.ib(kw_only=True)

    def __attrs_post_init__(self) -> None:
        """Open the file that the index describes."""
        self._file = RangeFile(self.input, self.tile_bytes)
        if self.input.has_palette and not self.colormap:
            warnings.warn(
                f"band {self.input.band!r} has a palette, which is not in the index: give its colours as a colormap",
                PaletteWarning,
                stacklevel=2,
            )
        with self._raising_causes():
            self.dataset = self._ctx_stack.enter_context(open_dataset(self._file))
            super().__attrs_post_init__()

    def part(self, bbox: Any, indexes: Any = None, expression: str | None = None, **kwargs: Any) -> ImageData:
        """Read a part; arguments as for ``rio_tiler.io.Reader.part``."""
        return self._only(super().part, bbox, indexes=indexes, expression=expression, **kwargs)

    def read(self, indexes: Any = None, expression: str | None = None, **kwargs: Any) -> ImageData:
        """Read the whole; arguments as for ``rio_tiler.io.Reader.read``."""
        return self._only(super().read, indexes=indexes, expression=expression, **kwargs)

    def point(
        self, lon: float, lat: float, coord_crs: CRS = WGS84_CRS, indexes: Any = None, expression: str | None = None,
        **kwargs: Any,
    ) -> PointData:  # fmt: skip
        """Read a pixel; arguments as for ``rio_tiler.io.Reader.point``."""
        return self._only(
            super().point, lon, lat, coord_crs=coord_crs, indexes=indexes, expression=expression, **kwargs
        )  # fmt: skip

    def _only(self, read: Callable[..., Any], *args: Any, indexes: Any, expression: str | None, **kwargs: Any) -> Any:
        """What ``read`` reads of the band, which is one of several in its file."""
        wanted = parse_expression(expression) if expression else cast_to_sequence(indexes) or (1,)
        if set(wanted) != {1}:
            raise IndexError(f"band {self.input.band!r} is one band, b1, of which {wanted} asks for others")
        with self._raising_causes():
            image = read(*args, indexes=tuple(self.input.sample for _ in wanted), **kwargs)
        image.band_names = ["b1"] * len(wanted)
        if self.input.sample > 1:
            image.band_descriptions = ["b1"] * len(wanted)
        image.assets = [str(self.input)]
        return image.apply_expression(expression) if expression else image

    @contextlib.contextmanager
    def _raising_causes(self) -> Iterator[None]:
        """Raise what failed in place of what GDAL made of it.

        Raises:
            RangeReadError: for bytes that did not come.
            TileError: for a tile that GDAL cannot decode.
        """
        try:
            yield
        except RasterioError as error:
            if self._file.failure is None:
                where = redact(self.input.href)
                reason = error.__cause__ or error
                raise TileError(
                    f"record {self.input.record!r}, band {self.input.band!r}: GDAL cannot read {where} as it is in the "
                    f"index ({reason}); the file may have changed since it was indexed: build again with force=True",
                    href=where,
                ) from error
        if self._file.failure is not None:
            raise self._file.failure


@attr.s
class RecordReader(MultiBaseReader):  # type: ignore[misc]  # likewise
    """Reads a record as rio-tiler's ``STACReader`` reads an item: each band of the collection is an asset.

    Args:
        input: the record, as :func:`~rasteret_assets.tiles.record` or ``CollectionBackend.assets_for_tile`` finds it.
        tms: grid of the map tiles; Web Mercator by default.
        minzoom: by default that of the band with the smallest pixels, as rio-tiler has it of a file.
        maxzoom: likewise.
        default_assets: bands that are read where none is asked for.
        reader_options: options of :class:`BandReader`, such as ``options={"nodata": 0}``.
        max_concurrent: requests in flight at most, of one band.
    """

    input: IndexedRecord = attr.ib()
    tms: TileMatrixSet = attr.ib(default=WEB_MERCATOR_TMS)
    minzoom: int | None = attr.ib(default=None)
    maxzoom: int | None = attr.ib(default=None)
    default_assets: Sequence[AssetType] | None = attr.ib(default=None)
    reader: type[BandReader] = attr.ib(default=BandReader)
    reader_options: dict[str, Any] = attr.ib(factory=dict)
    max_concurrent: int = attr.ib(default=MAX_CONCURRENT)
    ctx: type[rasterio.Env] = attr.ib(default=rasterio.Env)

    def __attrs_post_init__(self) -> None:
        """Take bounds, CRS and zooms from the index."""
        self._files = self.input.files()
        if not self._files:
            raise MissingAssets(
                f"record {str(self.input)!r} has no header in the index: rasteret-assets failures says why"
            )
        self.assets = list(self._files)
        self._bytes = TileBytes(self.input.source, self.max_concurrent)
        finest = min(self._files.values(), key=lambda file: abs(file.transform[0] * file.transform[2]))
        self.crs = raster_crs(finest.crs)
        self.transform, (self.width, self.height) = affine(finest.transform), finest.size
        self.bounds = _union([_bounds(file, self.crs) for file in self._files.values()])
        self.minzoom = self._minzoom if self.minzoom is None else self.minzoom
        self.maxzoom = self._maxzoom if self.maxzoom is None else self.maxzoom

    def _get_asset_info(self, asset: AssetType) -> AssetInfo:
        options = {"name": asset} if isinstance(asset, str) else dict(asset)
        name = options.pop("name", None)
        if name not in self.input.bands:
            raise InvalidAssetName(f"{name!r} is not a band of the collection, which has {list(self.input.bands)}")
        if name not in self._files:
            raise MissingAssets(
                f"record {str(self.input)!r} has no header of band {name!r} in the index: see rasteret-assets failures"
            )
        file = self._files[name]
        return AssetInfo(
            url=file,
            name=name,
            media_type="image/tiff; application=geotiff",
            reader_options={"tile_bytes": self._bytes},
            method_options={key: options[key] for key in ("indexes", "expression") if options.get(key)},
        )


def affine(transform: Sequence[float]) -> Affine:
    """Return the transform of a raster, from (scale_x, origin_x, scale_y, origin_y)."""
    scale_x, x, scale_y, y = transform
    return Affine(scale_x, 0.0, x, 0.0, scale_y, y)


def raster_crs(crs: str) -> CRS:
    """Return a CRS as rasterio has it, from ``EPSG:n`` or WKT."""
    return CRS.from_user_input(crs)


def raster_bounds(transform: Sequence[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return (left, bottom, right, top) of a raster, as rasterio has them: upside down where its rows go north.

    Args:
        transform: (scale_x, origin_x, scale_y, origin_y).
        size: columns and rows.
    """
    scale_x, x, scale_y, y = transform
    return x, y + scale_y * size[1], x + scale_x * size[0], y


def _bounds(file: BandFile, crs: CRS) -> tuple[float, float, float, float]:
    box, own = raster_bounds(file.transform, file.size), raster_crs(file.crs)
    return box if own == crs else tuple(transform_bounds(own, crs, *box))


def _union(boxes: Sequence[tuple[float, float, float, float]]) -> tuple[float, ...]:
    """The box around all; that of the first where all are equal, whichever way up it is."""
    array = np.array(boxes)
    if (array == array[0]).all():
        return boxes[0]
    across, along = array[:, ::2], array[:, 1::2]
    return float(across.min()), float(along.min()), float(across.max()), float(along.max())
