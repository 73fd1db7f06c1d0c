"""Views as one GeoDataFrame: a row for each record, area and band."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rasteret_assets.collection.areas.area import Area
from rasteret_assets.collection.areas.reproject import reproject
from rasteret_assets.collection.extras import optional
from rasteret_assets.collection.formats.numpy import masked_array
from rasteret_assets.collection.pixels.options import ReadOptions
from rasteret_assets.collection.pixels.planes import Plane, fill
from rasteret_assets.collection.pixels.views import View
from rasteret_assets.errors import SpecError
from rasteret_assets.storage.backend import StorageBackend

if TYPE_CHECKING:
    import geopandas as gpd

#: Columns of the result, before those of the areas' own table.
COLUMNS = (
    "record_id", "datetime", "cloud_cover", "collection", "geometry_id", "geometry", "band", "data", "transform",
    "crs", "nodata",
)  # fmt: skip


def read_frame(
    views: Sequence[View],
    areas: Sequence[Area],
    bands: Sequence[str],
    backend: StorageBackend,
    options: ReadOptions,
    extra: pa.Table | None,
) -> gpd.GeoDataFrame:
    """A GeoDataFrame of the pixels of ``views``.

    Args:
        views: what to read.
        areas: the areas of interest; their geometries are returned in the CRS of the first.
        bands: names of the bands.
        backend: brings the bytes.
        options: how it is read.
        extra: columns of the table that the areas came from, one row for each area; None without.
    """
    geopandas = optional("geopandas", purpose="get_gdf")
    planes = [
        Plane(
            view=view,
            band=band,
            pixels=np.empty((view.grid.height, view.grid.width), dtype=header.sample_type),
            valid=np.empty((view.grid.height, view.grid.width), dtype=bool) if options.masked else None,
        )
        for view in views
        for band, header in enumerate(view.record.headers)
        if header is not None  # the other bands of the record have rows
    ]
    fill(planes, bands, backend, options)
    crs = areas[0].crs
    shapes = [reproject(area.geometry, area.crs, crs) for area in areas]
    # One object for each array: a row holds an array, which only Python lists can.
    rows = [_row(plane, bands, shapes) for plane in planes]
    frame = geopandas.GeoDataFrame(rows, columns=list(COLUMNS), geometry="geometry", crs=crs)
    if extra is None:
        return frame
    taken = [name for name in extra.column_names if name in COLUMNS]
    if taken:
        raise SpecError(f"columns {taken} of the areas' table are columns of the result too: rename them")
    owned = extra.take(pa.array(frame["geometry_id"].to_numpy())).to_pandas()
    return frame.assign(**{name: owned[name].to_numpy() for name in extra.column_names})


def _row(plane: Plane, bands: Sequence[str], shapes: Sequence[Any]) -> tuple[Any, ...]:
    view, record = plane.view, plane.view.record
    position = view.areas[0][0]
    data: npt.NDArray[Any] = plane.pixels
    if plane.valid is not None:
        data = masked_array(data, plane.valid, plane.empty)
    return (
        record.id, record.moment, record.cloud_cover, record.collection, position, shapes[position], bands[plane.band],
        data, view.grid.affine, view.crs, None if plane.header is None else plane.header.nodata,
    )  # fmt: skip
