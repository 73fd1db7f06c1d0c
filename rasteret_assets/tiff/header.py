"""The header of a tiled GeoTIFF: all that a reader of its pixels needs, as one value."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from rasteret_assets.errors import UnsupportedTiffError
from rasteret_assets.tiff.constants import PlanarConfiguration
from rasteret_assets.tiff.overviews import TiffOverview
from rasteret_assets.tiff.samples import find_alpha

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rasteret_assets.tiff.transform import Transform


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TiffHeader:
    """The first image of a tiled GeoTIFF, checked: grid, tables and transform fit each other."""

    width: int
    """Columns of the image, in pixels; at least 1."""
    height: int
    """Rows of the image, in pixels; at least 1."""
    tile_width: int
    """Columns of a tile, in pixels. Tiles at the right edge are stored in full."""
    tile_height: int
    """Rows of a tile, in pixels. Tiles at the lower edge are stored in full."""
    dtype: np.dtype
    """Type of a sample as stored, with the file's byte order: ``>u2`` in a big-endian file."""
    samples_per_pixel: int
    """Number of bands."""
    planar_configuration: int
    """1: a tile holds all bands of its pixels; 2: a tile holds one band."""
    compression: int
    """Codec of the tiles, by its TIFF code."""
    predictor: int
    """1 none, 2 horizontal differences, 3 floating point; 1 where the codec takes no predictor, whatever the tag is."""
    photometric: int
    """PhotometricInterpretation as stored: 0 min-is-white, 1 min-is-black, 2 RGB, 3 palette, 5 CMYK, 6 YCbCr."""
    extra_samples: tuple[int, ...]
    """Meaning of each band beyond the photometric ones: 0 unspecified, 1 premultiplied alpha, 2 alpha."""
    tile_offsets: NDArray[np.integer]
    """Position of each tile in the file, in bytes, as integers of the stored type; row by row, for planar 2 band after
    band. 0 for a tile left out."""
    tile_byte_counts: NDArray[np.integer]
    """Stored bytes of each tile, in the order of ``tile_offsets``. 0 for a tile left out, which reads as nodata."""
    transform: Transform
    """``(scale_x, translate_x, scale_y, translate_y)`` in CRS units for pixel corners; scale_y < 0 if north is up."""
    pixel_scale: tuple[float, ...]
    """ModelPixelScale as stored, empty without the tag."""
    tiepoint: tuple[float, ...]
    """ModelTiepoint as stored, empty without the tag."""
    nodata: float | None
    """Value of pixels without data, exact in ``dtype``; ``None`` without one that a pixel can have."""
    nodata_text: str | None
    """The GDAL_NODATA tag as stored, ``None`` without the tag."""
    epsg: int | None
    """EPSG code of the horizontal CRS; ``None`` if user-defined or absent."""
    crs: str | None
    """``EPSG:n`` or the WKT2 of a user-defined CRS; ``None`` if absent or beyond what can be built faithfully."""
    jpeg_tables: bytes | None
    """Tables that JPEG tiles share, ``None`` without the tag."""
    scales: tuple[float | None, ...] = ()
    """Factor of each band by which a pixel becomes a physical value, from GDAL's metadata tag
    (:mod:`~rasteret_assets.tiff.scaling`); None for a band without a scale, empty if no band has one."""
    offsets: tuple[float | None, ...] = ()
    """Offset of each band, which is added to a pixel after the scale; None and empty as for ``scales``."""
    overviews: tuple[TiffOverview, ...] = ()
    """Smaller copies of the image whose directories lie with its own, from the finest to the coarsest, and the masks of
    image and copies."""

    @property
    def tiles_across(self) -> int:
        """Number of tiles in a row of the grid."""
        return -(-self.width // self.tile_width)

    @property
    def tiles_down(self) -> int:
        """Number of tiles in a column of the grid."""
        return -(-self.height // self.tile_height)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the tile tables take."""
        return self.tile_offsets.nbytes + self.tile_byte_counts.nbytes

    @property
    def dtype_name(self) -> str:
        """The dtype as the published index writes it: ``uint16``, but ``>u2`` for multi-byte big-endian samples."""
        return _name_dtype(self.dtype)

    @property
    def alpha_index(self) -> int | None:
        """Position of the alpha band; see :func:`~.samples.find_alpha`."""
        return find_alpha(self.samples_per_pixel, self.extra_samples, self.dtype)

    def pages(self, band_index: int) -> tuple[TiffOverview, ...]:
        """Return the overviews of a band, and the masks of the band and of its overviews.

        Args:
            band_index: position of the band in the file, counted from 0.
        """
        if self.planar_configuration != PlanarConfiguration.SEPARATE:
            return self.overviews
        pages = [page if page.mask_bits is not None else self._plane(page, band_index) for page in self.overviews]
        # With a plane for each band, the alpha of a band is in another plane.
        if self.alpha_index not in {None, band_index}:
            images: list[TiffHeader | TiffOverview] = [self, *(o for o in self.overviews if o.mask_bits is None)]
            bits = 8 * self.dtype.itemsize
            pages += [self._plane(image, self.alpha_index or 0, bits) for image in images]
        return tuple(pages)

    def _plane(self, image: TiffHeader | TiffOverview, plane: int, mask_bits: int | None = None) -> TiffOverview:
        offsets, byte_counts = _part(image, plane)
        return TiffOverview(
            width=image.width, height=image.height, tile_width=image.tile_width, tile_height=image.tile_height,
            tile_offsets=offsets, tile_byte_counts=byte_counts, jpeg_tables=image.jpeg_tables, mask_bits=mask_bits,
        )  # fmt: skip

    def band_tiles(self, band_index: int) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
        """Return offsets and byte counts ``[tiles]`` of a band, row by row; :meth:`pages` has those of overviews.

        Args:
            band_index: position of the band in the file, counted from 0.

        Raises:
            UnsupportedTiffError: if the file has fewer bands.
        """
        if not 0 <= band_index < self.samples_per_pixel:
            raise UnsupportedTiffError(
                f"band index {band_index} does not exist: the file has {self.samples_per_pixel} bands, counted from 0"
            )
        if self.planar_configuration != PlanarConfiguration.SEPARATE:
            return self.tile_offsets, self.tile_byte_counts
        return _part(self, band_index)


def _part(image: TiffHeader | TiffOverview, plane: int) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Return offsets and byte counts of one plane of an image."""
    tiles = -(-image.width // image.tile_width) * -(-image.height // image.tile_height)
    part = slice(plane * tiles, (plane + 1) * tiles)
    return image.tile_offsets[part], image.tile_byte_counts[part]


@lru_cache(maxsize=64)
def _name_dtype(dtype: np.dtype) -> str:
    return dtype.name if dtype.isnative else dtype.str
