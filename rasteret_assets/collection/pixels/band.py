"""Parse the header of a band from the index, and check that its pixels can be read with it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rasteret_assets.collection.areas.grid import Grid, Window
from rasteret_assets.collection.pixels.stac_scaling import Scaling
from rasteret_assets.collection.table.summary import crs_code
from rasteret_assets.errors import CollectionError, WindowError
from rasteret_assets.schema import OVERVIEWS, TILE_TABLES
from rasteret_assets.storage.unchanged import IndexedFile
from rasteret_assets.tiff.nodata import exact_nodata
from rasteret_assets.tiff.samples import find_alpha

#: The file of a header in collections that do not state etag, size and time of their files.
_UNKNOWN: Final = IndexedFile()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BandHeader:
    """Where the pixels of one band lie in one file, and how they are stored.

    Args:
        grid: the pixel grid, in the raster's CRS.
        tile_width: columns of a tile.
        tile_height: rows of a tile.
        dtype: of a sample, in the byte order of the file.
        compression: TIFF compression number.
        predictor: 1 none, 2 horizontal differences, 3 floating point.
        samples: samples per pixel that a tile interleaves; 1 where every band has tiles of its own.
        band_index: which of these samples is the band, from 0.
        tile_offsets: int64 of shape (tiles down, tiles across): position of the first byte of each tile in the file.
        tile_byte_counts: int64 of the same shape: stored bytes of each tile, 0 for a tile that is not stored.
        nodata: value of pixels without data, in the native type; None if it is not stated, or the type cannot hold it.
        photometric: TIFF photometric interpretation; JPEG needs it.
        jpeg_tables: tables that JPEG tiles share; None for other tiles.
        crs: of the raster as the file states it; None if only the record may state it.
        overviews: headers of the smaller copies of the image, from the finest to the coarsest.
        alpha: position of the sample that is not 0 where a pixel holds data; None if no sample says so.
        mask: header of a mask image on the same grid, whose samples are 0 where the band has no data; None if the file
            has no mask.
        packed: whether a tile holds one bit per pixel, eight to a byte and rows of whole bytes, as masks do.
        scale: factor that makes a pixel a physical value, ``pixel * scale + offset``; 1 if it is not stated.
        offset: added after the factor; 0 if it is not stated.
        file: etag, size and time of the file, by which a replaced file is recognized; empty in older collections.
    """

    grid: Grid
    tile_width: int
    tile_height: int
    dtype: np.dtype[Any]
    compression: int
    predictor: int
    samples: int
    band_index: int
    tile_offsets: npt.NDArray[np.int64]
    tile_byte_counts: npt.NDArray[np.int64]
    nodata: np.number[Any] | None
    photometric: int
    jpeg_tables: bytes | None
    crs: str | None
    overviews: Sequence[BandHeader] = ()
    alpha: int | None = None
    mask: BandHeader | None = None
    packed: bool = False
    scale: float = 1.0
    offset: float = 0.0
    file: IndexedFile = _UNKNOWN

    @property
    def fill(self) -> np.number[Any]:
        """Value of pixels that are not stored, or masked: nodata, or 0 if the band has no nodata."""
        return self.sample_type.type(0) if self.nodata is None else self.nodata

    @property
    def marker(self) -> np.number[Any] | None:
        """Value that marks pixels without data: nodata, but None if a mask marks them, as in GDAL."""
        return None if self.mask is not None else self.nodata

    @property
    def is_transparent(self) -> bool:
        """Whether a mask or an alpha band marks pixels without data."""
        return self.mask is not None or self.alpha is not None

    def to_unit(self, values: npt.NDArray[Any]) -> None:
        """Make pixels physical values in place: ``values * scale + offset``.

        Args:
            values: floats of any shape; NaN stays as it is.
        """
        if (self.scale, self.offset) != (1.0, 0.0):
            np.multiply(values, values.dtype.type(self.scale), out=values)
            np.add(values, values.dtype.type(self.offset), out=values)

    @property
    def sample_type(self) -> np.dtype[Any]:
        """Type of a sample in memory: ``dtype`` in native byte order."""
        return self.dtype.newbyteorder("=")

    @property
    def tile_bytes(self) -> int:
        """Bytes of a decompressed tile."""
        if self.packed:
            return -(-self.tile_width // 8) * self.tile_height
        return self.tile_width * self.tile_height * self.samples * self.dtype.itemsize

    def tile_window(self, row: int, column: int) -> Window:
        """Return the window of a tile; tiles at the edges reach beyond the grid."""
        return Window(
            col_off=column * self.tile_width,
            row_off=row * self.tile_height,
            width=self.tile_width,
            height=self.tile_height,
        )


def parse_header(
    header: pa.StructScalar, *, band_index: int, where: str, stac_scaling: Callable[[int], Scaling] | None = None
) -> BandHeader:
    """Return the header that a struct of the index holds.

    Args:
        header: value of a ``{band}_metadata`` column, not null. Fields that older collections lack have TIFF's
            defaults.
        band_index: position of the band in the file by the record, for headers that do not state it.
        where: record and band, for messages.
        stac_scaling: returns scale and offset by STAC for a band's position; called if the file states neither.

    Raises:
        CollectionError: if fields are missing or contradict one another.
    """
    names = {field.name for field in header.type}

    def value(name: str, default: Any = None) -> Any:  # noqa: ANN401  (a field of any type)
        found = header[name].as_py() if name in names else None
        return default if found is None else found

    try:
        grid = _grid(value("image_width"), value("image_height"), value("transform"))
        dtype = np.dtype(value("dtype"))
        # In files with separate planes the index has the tiles of this band only, and a tile holds one sample.
        planar = value("planar_configuration", 1) == 2
        samples = 1 if planar else value("samples_per_pixel", 1)
        in_file = value("band_index", band_index)
        index = 0 if planar else in_file
        scale, offset = value("scale"), value("offset")
        if scale is None and offset is None and stac_scaling is not None:
            scale, offset = stac_scaling(in_file)
        parsed = BandHeader(
            grid=grid,
            **_tiles(header, grid),
            dtype=dtype,
            compression=value("compression", 1),
            predictor=value("predictor", 1),
            samples=samples,
            band_index=index,
            nodata=nodata_value(dtype, value("nodata"), value("nodata_text")),
            photometric=value("photometric", 1),
            jpeg_tables=_bytes(value("jpeg_tables")),
            crs=crs_code(value("epsg"), value("crs")),
            scale=1.0 if scale is None else scale,
            offset=0.0 if offset is None else offset,
            file=IndexedFile(value("etag"), value("last_modified"), value("content_length")),
        )
        alpha = None if planar else find_alpha(samples, value("extra_samples", ()), dtype)
        if alpha != index and parsed.nodata is None:  # because GDAL ignores alpha where nodata is stated
            parsed = replace(parsed, alpha=alpha)
        pages = header[OVERVIEWS] if OVERVIEWS in names else None
        if pages is not None and pages.is_valid:
            parsed = _with_pages(parsed, pages)
    except (TypeError, ValueError, KeyError, AttributeError, ZeroDivisionError, WindowError) as error:
        raise CollectionError(
            f"the header of {where} contradicts itself ({error}): build again with force=True to read it anew"
        ) from error
    if min(parsed.tile_width, parsed.tile_height) < 1 or not 0 <= index < samples or dtype.kind not in "iuf":
        raise CollectionError(
            f"the header of {where} cannot be right: tiles of {parsed.tile_width} x {parsed.tile_height}, "
            f"sample {index} of {samples}, {dtype}: build again with force=True to read it anew"
        )
    return parsed


def _tiles(image: pa.StructScalar, grid: Grid) -> dict[str, Any]:
    """Return the size of the tiles and the tile tables of an image or an overview."""
    width, height = int(image["tile_width"].as_py()), int(image["tile_height"].as_py())
    down, across = -(-grid.height // height), -(-grid.width // width)
    # Copied, because a view would keep the tile tables of a whole batch of records in memory.
    tables = {name: image[name].values.to_numpy().copy().reshape(down, across) for name in TILE_TABLES}
    return {"tile_width": width, "tile_height": height, **tables}


def _with_pages(whole: BandHeader, pages: pa.ListScalar) -> BandHeader:
    """Return a header with its overviews, whose pixels cover the same outline, and with the masks of all."""
    images: list[BandHeader] = [whole]
    masks: dict[tuple[int, int], BandHeader] = {}
    for page in pages.values:
        width, height = page["image_width"].as_py(), page["image_height"].as_py()
        grid = replace(
            whole.grid,
            width=width,
            height=height,
            scale_x=whole.grid.scale_x * whole.grid.width / width,
            scale_y=whole.grid.scale_y * whole.grid.height / height,
        )
        level = replace(whole, grid=grid, **_tiles(page, grid), jpeg_tables=_bytes(page["jpeg_tables"].as_py()))
        bits, codec = (page[name].as_py() if name in page else None for name in ("mask_bits", "compression"))
        if bits is None:
            images.append(level)
        elif codec is not None or whole.nodata is None:  # because GDAL ignores an alpha plane where nodata is stated
            masks.setdefault(level.grid.whole.shape, _mask(level, bits, codec))
    if whole.grid.whole.shape in masks:
        # An overview without a mask of its own is left out, because its hidden pixels are unknown.
        images = [
            replace(image, mask=masks[image.grid.whole.shape]) for image in images if image.grid.whole.shape in masks
        ]
    return replace(images[0], overviews=tuple(images[1:]))


def _mask(level: BandHeader, bits: int, codec: int | None) -> BandHeader:
    """Return the header of a mask that has the grid and the tiles of ``level``.

    Args:
        level: header of the band, with offsets and lengths of the mask's tiles.
        bits: of a sample of the mask.
        codec: its compression; None for the alpha plane of the image, which is stored as the band is.
    """
    own: dict[str, Any] = {"samples": 1, "band_index": 0, "photometric": 1, "nodata": None, "scale": 1.0, "offset": 0.0}
    if codec is not None:
        own |= {"compression": codec, "predictor": 1, "dtype": np.dtype(np.uint8)}
    return replace(level, **own, packed=bits == 1)


def _bytes(text: str | bytes | None) -> bytes | None:
    return base64.b64decode(text) if isinstance(text, str) else text


def _grid(width: int, height: int, transform: list[float]) -> Grid:
    scale_x, origin_x, scale_y, origin_y = transform
    return Grid(width=width, height=height, scale_x=scale_x, scale_y=scale_y, origin_x=origin_x, origin_y=origin_y)


def nodata_value(dtype: np.dtype[Any], nodata: float | None, text: str | None) -> np.number[Any] | None:
    """Return nodata in the band's own type; None if it is not stated, or the type cannot hold it.

    Args:
        dtype: of a sample.
        nodata: the value as it is published, a float.
        text: the text of the tag GDAL_NODATA, which is used instead of ``nodata`` if it is not None: integers beyond
            2**53 are not exact as floats, and headers of earlier parsers have no float for rarer spellings.
    """
    kind = dtype.newbyteorder("=")
    if text is not None and dtype.kind in "iuf":
        exact = exact_nodata(text, dtype)
        return None if exact is None else _of_type(kind, exact)
    if nodata is None:
        return None
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return _of_type(kind, nodata)
    limits = np.iinfo(kind)
    # Compared twice, because as a float the limit 2**64 - 1 is 2**64.
    if not limits.min <= nodata <= limits.max or int(nodata) > limits.max:
        return None
    return _of_type(kind, int(nodata))  # because GDAL compares pixels of integers with nodata without its fraction


def _of_type(kind: np.dtype[Any], value: float) -> np.number[Any]:
    number: np.number[Any] = kind.type(value)
    return number
