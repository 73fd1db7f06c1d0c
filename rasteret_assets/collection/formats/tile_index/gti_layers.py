"""Describe the layers of a tile index from headers in the index, for which GDAL would open files otherwise."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import shapely

from rasteret_assets.collection.areas.reproject import LONLAT
from rasteret_assets.collection.formats.tile_index._gti_files import BandFiles, Storage, files_of
from rasteret_assets.collection.pixels.record_table import RecordTable
from rasteret_assets.collection.pixels.select import named_crs
from rasteret_assets.errors import WindowError

_log = logging.getLogger(__name__)

#: GDAL's names of types. A half is read as a float.
_TYPES: Final = {"u1": "Byte", "u2": "UInt16", "u4": "UInt32", "u8": "UInt64", "i1": "Int8", "i2": "Int16",
                 "i4": "Int32", "i8": "Int64", "f2": "Float32", "f4": "Float32", "f8": "Float64"}  # fmt: skip
#: Share of a pixel by which grids may differ and still count as one.
_SAME_GRID: Final = 1e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class TileIndexLayer:
    """A layer of a tile index, which GDAL opens as one raster.

    Args:
        name: of the layer.
        band: of the collection.
        crs: of its files and of the mosaic, ``EPSG:n`` or WKT.
        records: number of files in it.
        dtype: numpy's name of the mosaic's type, which holds the values of every file.
        nodata: of the mosaic; None where files have none, or several.
        resolution: (width, height) of a pixel in units of the CRS: of the smallest pixels.
        size: (columns, rows) of the mosaic.
        resampled: number of files whose pixels do not coincide with those of the mosaic, so that GDAL takes the
            nearest pixel.
    """

    name: str
    band: str
    crs: str
    records: int
    dtype: str
    nodata: float | int | None
    resolution: tuple[float, float]
    size: tuple[int, int]
    resampled: int


def layers_of(
    collection: RecordTable, bands: Sequence[str], *, is_chosen: bool
) -> Iterator[tuple[TileIndexLayer, dict[str, str], pa.Table]]:
    """Yield the layers, one band after the other: what each is, its metadata for GDAL, and its rows.

    Args:
        collection: the records.
        bands: names of bands that it has.
        is_chosen: whether a band without a single header is an error; else it is left out, unless all are.

    Raises:
        WindowError: if no layer has a file, or the CRS of a raster is unknown.
        CollectionError: as :func:`files_of`.
    """
    taken: set[str] = set()
    for number, band in enumerate(bands, 1):
        try:
            files = files_of(collection, band)
        except WindowError as error:
            if is_chosen or (number == len(bands) and not taken):
                raise
            _log.warning("%s: it is left out", error)
            continue
        if files.without:
            _log.warning("%d records are left out of band %s, whose headers are not in the index", files.without, band)
        for code, crs in _crs_of(files).items():
            name = _layer_name(band, crs, taken)
            taken.add(name)
            yield _layer(files, np.flatnonzero(np.isin(files.rasters.crs, code)), name, band, crs)


def _crs_of(files: BandFiles) -> dict[tuple[int, ...], str]:
    """Return the CRSs of the files by the positions of their names; a CRS may be written in several ways."""
    by_name: dict[str, tuple[str, tuple[int, ...]]] = {}
    rasters = files.rasters
    for code, first in zip(*np.unique(rasters.crs, return_index=True), strict=True):
        text = rasters.crs_names[code]
        name = named_crs(rasters.ids[int(first)].as_py(), text)
        # GDAL calls the CRS of a file in lon/lat EPSG:4326, and would warp it to OGC:CRS84.
        written, codes = by_name.get(name, ("EPSG:4326" if name == LONLAT else text, ()))
        by_name[name] = written, (*codes, int(code))
    return {codes: written for written, codes in by_name.values()}


def _layer_name(band: str, crs: str, taken: set[str]) -> str:
    code = crs.removeprefix("EPSG:") if crs.startswith("EPSG:") else "crs"
    name = f"{band}_{code}"
    return name if name not in taken and code != "crs" else next(
        other for number in range(1, len(taken) + 2) if (other := f"{name}{number}") not in taken
    )  # fmt: skip


def _layer(
    files: BandFiles, rows: npt.NDArray[np.intp], name: str, band: str, crs: str
) -> tuple[TileIndexLayer, dict[str, str], pa.Table]:
    rasters = files.rasters.take(rows)
    storages = [files.storages[number] for number in np.unique(files.kinds[rows])]
    grid = _Grid.of(rasters.grids, rasters.bounds)
    dtype = np.result_type(*(storage.dtype for storage in storages))
    # By their text, since NaN is not equal to itself.
    nodata = {str(value): value for value in (None if one.nodata is None else one.nodata.item() for one in storages)}
    layer = TileIndexLayer(
        name=name, band=band, crs=crs, records=len(rows), dtype=dtype.name,
        nodata=next(iter(nodata.values())) if len(nodata) == 1 else None,
        resolution=grid.resolution, size=grid.size, resampled=grid.count_apart(rasters.grids, rasters.bounds),
    )  # fmt: skip
    columns = {
        "location": files.locations.take(pa.array(rows)),
        "id": rasters.ids,
        "datetime": rasters.moments,
        # As in reads of this package, where the last record lies on top.
        "draw_order": pa.array(np.arange(len(rows))),
        "geometry": pa.array(shapely.to_wkb(shapely.box(*rasters.bounds.T)), pa.binary()),
    }
    if files.clouds is not None:
        columns["cloud_cover"] = files.clouds.take(pa.array(rows))
    return layer, _metadata(layer, grid, storages), pa.table(columns)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Grid:
    """The grid of a mosaic, north up.

    Args:
        left: of its first corner.
        top: likewise.
        resolution: (width, height) of a pixel.
        size: (columns, rows).
    """

    left: float
    top: float
    resolution: tuple[float, float]
    size: tuple[int, int]

    @classmethod
    def of(cls, grids: npt.NDArray[np.float64], bounds: npt.NDArray[np.float64]) -> _Grid:
        """Return the grid of the smallest pixels, as far as all rasters reach."""
        finest = int(np.argmin(np.abs(grids[:, 0] * grids[:, 2])))
        width, height = abs(float(grids[finest, 0])), abs(float(grids[finest, 2]))
        x, y = float(bounds[finest, 0]), float(bounds[finest, 3])
        first = (
            np.floor((bounds[:, 0].min() - x) / width + _SAME_GRID),
            np.floor((y - bounds[:, 3].max()) / height + _SAME_GRID),
        )
        last = (
            np.ceil((bounds[:, 2].max() - x) / width - _SAME_GRID),
            np.ceil((y - bounds[:, 1].min()) / height - _SAME_GRID),
        )
        size = int(last[0] - first[0]), int(last[1] - first[1])
        return cls(
            left=x + float(first[0]) * width, top=y - float(first[1]) * height, resolution=(width, height), size=size
        )

    def count_apart(self, grids: npt.NDArray[np.float64], bounds: npt.NDArray[np.float64]) -> int:
        """Return the number of rasters whose pixels do not coincide with those of the grid."""
        width, height = self.resolution
        corners = np.column_stack([(bounds[:, ::2] - self.left) / width, (self.top - bounds[:, 1::2]) / height])
        ratios = np.abs(grids[:, ::2]) / np.array([width, height])
        coincide = (np.abs(corners - np.round(corners)) <= _SAME_GRID).all(axis=1) & (np.round(ratios, 6) == 1).all(
            axis=1
        )
        return int(np.count_nonzero(~coincide))


def _metadata(layer: TileIndexLayer, grid: _Grid, storages: Sequence[Storage]) -> dict[str, str]:
    """Return the metadata of a layer, for which the driver would open files otherwise."""
    items = {
        "RESX": repr(grid.resolution[0]),
        "RESY": repr(grid.resolution[1]),
        # Beside the extent of the layer, because that is rounded.
        "GEOTRANSFORM": ",".join(map(repr, (grid.left, grid.resolution[0], 0.0, grid.top, 0.0, -grid.resolution[1]))),
        "XSIZE": str(grid.size[0]),
        "YSIZE": str(grid.size[1]),
        "BAND_COUNT": "1",
        "DATA_TYPE": _TYPES[np.dtype(layer.dtype).str[1:]],
        "LOCATION_FIELD": "location",
        "SORT_FIELD": "draw_order",
        "SORT_FIELD_ASC": "YES",
        # Because GDAL would take pixels between files, and pixels that masks or alpha bands hide, for valid zeros.
        "MASK_BAND": "YES",
        "RESAMPLING": "nearest",
    }
    if layer.nodata is not None:
        items["NODATA"] = str(layer.nodata)
    for item, values in (
        ("COLOR_INTERPRETATION", {storage.colour for storage in storages}),
        ("BAND_1_SCALE", {storage.scale for storage in storages}),
        ("BAND_1_OFFSET", {storage.offset for storage in storages}),
        ("BLOCKXSIZE", {storage.tile[0] for storage in storages}),
        ("BLOCKYSIZE", {storage.tile[1] for storage in storages}),
    ):
        # Left out where files differ, because a mosaic has one value.
        if len(values) == 1 and (value := next(iter(values))) is not None:
            items[item] = str(value)
    return items
