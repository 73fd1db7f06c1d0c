"""Return pixels as one GeoDataFrame: a row for each record, area and band."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rasteret_assets.collection.areas.reproject import reproject
from rasteret_assets.collection.extras import optional
from rasteret_assets.collection.formats.numpy import masked_array
from rasteret_assets.collection.pixels.filling import fill
from rasteret_assets.collection.pixels.pixel_request import PixelRequest
from rasteret_assets.collection.pixels.planes import Plane
from rasteret_assets.collection.pixels.read_options import ReadOptions
from rasteret_assets.collection.pixels.views import View, check_memory
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
    views, areas, bands, options = request.views, request.areas, request.bands, request.options
    check_memory(views)
    geopandas = optional("geopandas", extra="geopandas", purpose="get_gdf")
    from rasteret_assets.collection.formats._cells import PixelColumn  # noqa: PLC0415  (imports pandas)

    planes = [
        _plane(view, band, options)
        for view in views
        for band, header in enumerate(view.record.headers)
        if header is not None  # only bands with a header have rows
    ]
    fill(planes, bands, request.source.open(), options)
    crs = areas[0].crs
    shapes = np.array([reproject(area.geometry, area.crs, crs) for area in areas], dtype=object)
    records = [plane.view.record for plane in planes]
    position = np.array([plane.view.areas[0][0] for plane in planes], dtype=np.int64)
    columns = {
        "record_id": [record.id for record in records],
        "datetime": pa.array([record.moment for record in records], pa.timestamp("us", "UTC")).to_pandas(),
        "cloud_cover": np.array([record.cloud_cover for record in records], dtype=float),  # NaN if it is unknown
        "collection": [record.collection for record in records],
        "geometry_id": position,
        "geometry": shapes[position],
        "band": [bands[plane.band] for plane in planes],
        "data": PixelColumn(_cell(plane, options) for plane in planes),
        "raster_transform": [plane.view.grid.affine for plane in planes],
        "raster_crs": [plane.view.crs for plane in planes],
        "nodata": [_nodata(plane) for plane in planes],
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


def _plane(view: View, band: int, options: ReadOptions) -> Plane:
    header = view.record.headers[band]
    kind = options.read_type([header.sample_type] if header is not None else [np.dtype(np.uint8)])
    shape = view.grid.height, view.grid.width
    return Plane(
        view=view,
        band=band,
        pixels=np.empty(shape, dtype=kind),
        valid=np.empty(shape, dtype=bool) if options.masked else None,
        fill=kind.type(np.nan) if options.scaled else None,
    )


def _cell(plane: Plane, options: ReadOptions) -> npt.NDArray[Any]:
    pixels = options.finished(plane.pixels)
    return pixels if plane.valid is None else masked_array(pixels, plane.valid, plane.empty)


def _nodata(plane: Plane) -> complex | None:
    nodata = None if plane.header is None else plane.header.nodata
    return None if nodata is None else nodata.item()
