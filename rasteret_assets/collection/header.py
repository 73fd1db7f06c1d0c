"""A band's header as the index keeps it, checked and ready to read with."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rasteret_assets.collection.summary import crs_code
from rasteret_assets.collection.window import Grid, Window
from rasteret_assets.errors import CollectionError, WindowError
from rasteret_assets.schema import OVERVIEWS, TILE_TABLES
from rasteret_assets.storage.unchanged import IndexedFile
from rasteret_assets.tiff.nodata import exact_nodata

#: What collections that tell nothing of their files know.
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
        tile_offsets: int64 of shape (tiles down, tiles across): first byte of each tile, 0 for tiles not stored.
        tile_byte_counts: likewise, stored bytes.
        nodata: value of pixels without data, in the native type; None where there is none that the type can hold.
        photometric: TIFF photometric interpretation; JPEG needs it.
        jpeg_tables: tables that JPEG tiles share; None without.
        crs: of the raster as the file states it; None where the record must say.
        overviews: headers of the smaller copies of the image, from the finest to the coarsest.
        file: what the index knows of the file, by which a replaced one is told; empty in older collections.
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
    nodata: Any
    photometric: int
    jpeg_tables: bytes | None
    crs: str | None
    overviews: Sequence[BandHeader] = ()
    file: IndexedFile = _UNKNOWN

    @property
    def fill(self) -> Any:
        """Value of pixels that are not stored, or masked: nodata, 0 without one."""
        return self.sample_type.type(0) if self.nodata is None else self.nodata

    @property
    def sample_type(self) -> np.dtype[Any]:
        """Type of a sample in memory: ``dtype`` in native byte order."""
        return self.dtype.newbyteorder("=")

    @property
    def tile_bytes(self) -> int:
        """Bytes of a tile once decompressed."""
        return self.tile_width * self.tile_height * self.samples * self.dtype.itemsize

    def tile_window(self, row: int, column: int) -> Window:
        """The pixels of a tile; edge tiles reach beyond the grid."""
        return Window(
            col_off=column * self.tile_width,
            row_off=row * self.tile_height,
            width=self.tile_width,
            height=self.tile_height,
        )


def parse_header(header: pa.StructScalar, *, band_index: int, where: str) -> BandHeader:
    """A header from its struct, which is not null.

    Args:
        header: value of a ``{band}_metadata`` column. Fields that older collections lack have TIFF's defaults.
        band_index: what the record says, for headers that do not.
        where: record and band, for messages.

    Raises:
        CollectionError: if fields are missing or contradict one another.
    """
    names = {field.name for field in header.type}

    def value(name: str, default: Any = None) -> Any:
        found = header[name].as_py() if name in names else None
        return default if found is None else found

    try:
        grid = _grid(value("image_width"), value("image_height"), value("transform"))
        dtype = np.dtype(value("dtype"))
        # Separate planes: the table is this band's own slice, and a tile holds one sample.
        planar = value("planar_configuration", 1) == 2
        samples = 1 if planar else value("samples_per_pixel", 1)
        index = 0 if planar else value("band_index", band_index)
        parsed = BandHeader(
            grid=grid,
            **_tiles(header, grid),
            dtype=dtype,
            compression=value("compression", 1),
            predictor=value("predictor", 1),
            samples=samples,
            band_index=index,
            nodata=_nodata(dtype, value("nodata"), value("nodata_text")),
            photometric=value("photometric", 1),
            jpeg_tables=_bytes(value("jpeg_tables")),
            crs=crs_code(value("epsg"), value("crs")),
            file=IndexedFile(value("etag"), value("last_modified"), value("content_length")),
        )
        parsed = replace(parsed, overviews=_overviews(parsed, header[OVERVIEWS] if OVERVIEWS in names else None))
    except (TypeError, ValueError, KeyError, AttributeError, ZeroDivisionError, WindowError) as error:
        raise CollectionError(f"the header of {where} contradicts itself ({error}): index it again") from error
    if min(parsed.tile_width, parsed.tile_height) < 1 or not 0 <= index < samples or dtype.kind not in "iuf":
        raise CollectionError(
            f"the header of {where} is none to read with: tiles of {parsed.tile_width} x {parsed.tile_height}, "
            f"sample {index} of {samples}, {dtype}: index it again"
        )
    return parsed


def _tiles(image: pa.StructScalar, grid: Grid) -> dict[str, Any]:
    """Size of the tiles and their tables, of an image or an overview of it."""
    width, height = int(image["tile_width"].as_py()), int(image["tile_height"].as_py())
    down, across = -(-grid.height // height), -(-grid.width // width)
    # Copied: a view would keep the tables of a whole batch of records in memory for the sake of one.
    tables = {name: image[name].values.to_numpy().copy().reshape(down, across) for name in TILE_TABLES}
    return {"tile_width": width, "tile_height": height, **tables}


def _overviews(whole: BandHeader, overviews: pa.ListScalar | None) -> tuple[BandHeader, ...]:
    """The overviews as headers of their own, whose pixels cover the same outline."""
    if overviews is None or not overviews.is_valid:
        return ()
    found = []
    for overview in overviews.values:
        width, height = overview["image_width"].as_py(), overview["image_height"].as_py()
        grid = replace(
            whole.grid,
            width=width,
            height=height,
            scale_x=whole.grid.scale_x * whole.grid.width / width,
            scale_y=whole.grid.scale_y * whole.grid.height / height,
        )
        tables = _bytes(overview["jpeg_tables"].as_py())
        found.append(replace(whole, grid=grid, **_tiles(overview, grid), jpeg_tables=tables))
    return tuple(found)


def _bytes(text: str | bytes | None) -> bytes | None:
    return base64.b64decode(text) if isinstance(text, str) else text


def _grid(width: int, height: int, transform: list[float]) -> Grid:
    scale_x, origin_x, scale_y, origin_y = transform
    return Grid(width=width, height=height, scale_x=scale_x, scale_y=scale_y, origin_x=origin_x, origin_y=origin_y)


def _nodata(dtype: np.dtype[Any], nodata: float | None, text: str | None) -> Any:
    """Nodata in the band's own type; None where there is none, or none that the type can hold.

    Args:
        dtype: of a sample.
        nodata: the value as it is published.
        text: the tag it comes from, which says more: 64-bit integers beyond 2**53 are no floats, and a header of an
            earlier parser has no value for the rarer spellings.
    """
    kind = dtype.newbyteorder("=").type
    if text is not None and dtype.kind in "iuf":
        exact = exact_nodata(text, dtype)
        return None if exact is None else kind(exact)
    if nodata is None:
        return None
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return kind(nodata)
    limits = np.iinfo(kind)
    if not limits.min <= nodata <= limits.max or int(nodata) > limits.max:  # as a float, 2**64 - 1 is one more
        return None
    return kind(int(nodata))  # GDAL compares pixels with the value without its fraction
