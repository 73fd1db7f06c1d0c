"""A band's header as the index keeps it, checked and ready to read with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rasteret_assets.collection.summary import crs_code
from rasteret_assets.collection.window import Grid, Window
from rasteret_assets.errors import CollectionError, WindowError


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
        fill: value of pixels that are not stored or masked: nodata, 0 without one.
        crs: of the raster as the file states it; None where the record must say.
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
    fill: Any
    crs: str | None

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
        tile_width, tile_height = int(value("tile_width")), int(value("tile_height"))
        grid = _grid(value("image_width"), value("image_height"), value("transform"))
        dtype = np.dtype(value("dtype"))
        # Separate planes: the table is this band's own slice, and a tile holds one sample.
        planar = value("planar_configuration", 1) == 2
        samples = 1 if planar else value("samples_per_pixel", 1)
        index = 0 if planar else value("band_index", band_index)
        down, across = -(-grid.height // tile_height), -(-grid.width // tile_width)
        tables = [header[name].values.to_numpy().reshape(down, across) for name in ("tile_offsets", "tile_byte_counts")]
    except (TypeError, ValueError, KeyError, AttributeError, ZeroDivisionError, WindowError) as error:
        raise CollectionError(f"the header of {where} contradicts itself ({error}): index it again") from error
    if min(tile_width, tile_height) < 1 or not 0 <= index < samples or dtype.kind not in "iuf":
        raise CollectionError(
            f"the header of {where} is none to read with: tiles of {tile_width} x {tile_height}, "
            f"sample {index} of {samples}, {dtype}: index it again"
        )
    return BandHeader(
        grid=grid,
        tile_width=tile_width,
        tile_height=tile_height,
        dtype=dtype,
        compression=value("compression", 1),
        predictor=value("predictor", 1),
        samples=samples,
        band_index=index,
        tile_offsets=tables[0],
        tile_byte_counts=tables[1],
        fill=_fill(dtype, value("nodata"), value("nodata_text")),
        crs=crs_code(value("epsg"), value("crs")),
    )


def _grid(width: int, height: int, transform: list[float]) -> Grid:
    scale_x, origin_x, scale_y, origin_y = transform
    return Grid(width=width, height=height, scale_x=scale_x, scale_y=scale_y, origin_x=origin_x, origin_y=origin_y)


def _fill(dtype: np.dtype[Any], nodata: float | None, text: str | None) -> Any:
    """Nodata in the band's own type; 0 where there is none, or none that the type can hold."""
    kind = dtype.newbyteorder("=").type
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return kind(0 if nodata is None else nodata)
    try:
        # 64-bit integers beyond 2**53 survive only as text.
        exact = int(text) if text is not None else int(nodata or 0)
    except (ValueError, OverflowError):
        exact = int(nodata) if nodata is not None and np.isfinite(nodata) else 0
    limits = np.iinfo(kind)
    fits = limits.min <= exact <= limits.max and (text is not None or nodata is None or exact == nodata)
    return kind(exact if fits else 0)
