"""Return pixels as one GeoDataFrame: a row for each record, area and band."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rasteret_assets.collection.areas.reproject import reproject
from rasteret_assets.collection.extras import optional
from rasteret_assets.collection.formats.numpy import masked_array
from rasteret_assets.collection.pixels.band_pixels import BandPixels
from rasteret_assets.collection.pixels.pixel_request import PixelRequest
from rasteret_assets.errors import SpecError

if TYPE_CHECKING:
    import geopandas as gpd

#: Columns of the result, before those of the areas' own table. Not ``crs`` and ``transform``, because attributes of
#: every GeoDataFrame would hide them.
COLUMNS = (
    "record_id", "datetime", "cloud_cover", "collection", "geometry_id", "geometry", "band", "data",
    "raster_transform", "raster_crs", "nodata",
)  # fmt: skip


def read_frame(request: PixelRequest) -> gpd.GeoDataFrame:
    """Read the pixels of a request into a GeoDataFrame, whose CRS is that of the first area.

    Raises:
        SpecError: if the areas' table has a column of the result.
        WindowError: if the pixels take more memory than a read may.
        MissingExtraError: if geopandas is not installed.
        RasteretAssetsError: as :meth:`Collection.get_numpy`.
    """
    geopandas = optional("geopandas", extra="geopandas", purpose="get_gdf")
    from rasteret_assets.collection.formats._cells import PixelColumn  # noqa: PLC0415  (imports pandas)

    reads = request.read_bands(with_valid=request.options.masked)
    crs = request.areas[0].crs
    shapes = np.array([reproject(area.geometry, area.crs, crs) for area in request.areas], dtype=object)
    records = [read.record for read in reads]
    position = np.array([read.area for read in reads], dtype=np.int64)
    columns = {
        "record_id": [record.id for record in records],
        "datetime": pa.array([record.moment for record in records], pa.timestamp("us", "UTC")).to_pandas(),
        "cloud_cover": np.array([record.cloud_cover for record in records], dtype=float),  # NaN if it is unknown
        "collection": [record.collection for record in records],
        "geometry_id": position,
        "geometry": shapes[position],
        "band": [read.band for read in reads],
        "data": PixelColumn(map(_cell, reads)),
        "raster_transform": [read.transform for read in reads],
        "raster_crs": [read.crs for read in reads],
        "nodata": [read.nodata for read in reads],
    }
    frame = geopandas.GeoDataFrame(columns, columns=list(COLUMNS), geometry="geometry", crs=crs)
    if request.columns is None:
        return frame
    extra = request.columns
    taken = [name for name in extra.column_names if name in COLUMNS]
    if taken:
        raise SpecError(f"the table of areas has columns that the result has too ({', '.join(taken)}): rename them")
    owned = extra.take(pa.array(position)).to_pandas()
    return frame.assign(**{name: owned[name].to_numpy() for name in extra.column_names})


def _cell(read: BandPixels) -> npt.NDArray[Any]:
    return read.pixels if read.valid is None else masked_array(read.pixels, read.valid, read.empty)
