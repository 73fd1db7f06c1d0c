"""Return the outlines of rasters as a GeoDataFrame."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import shapely

from rasteret_assets.collection.areas.reproject import map_crs, reproject_each
from rasteret_assets.collection.extras import optional
from rasteret_assets.collection.pixels.record_table import RecordTable, indexed_band
from rasteret_assets.collection.pixels.select import named_crs
from rasteret_assets.collection.table.rasters import leaves_of, scan_rasters
from rasteret_assets.collection.table.row_places import rows_of
from rasteret_assets.inputs import CRSLike

if TYPE_CHECKING:
    import geopandas as gpd


def draw_outlines(collection: RecordTable, crs: CRSLike | None, band: str | None) -> gpd.GeoDataFrame:
    """Return the outlines; arguments, result and errors are those of ``Collection.footprints``."""
    geopandas = optional("geopandas", extra="geopandas", purpose="footprints")
    target = None if crs is None else map_crs(crs)
    bands = [indexed_band(collection, band)]
    table = collection.schema
    rows = rows_of(collection.dataset, collection.expression, collection.areas, leaves_of(table, bands))
    rasters = scan_rasters(rows, table, bands).rasters
    boxes = np.asarray(shapely.box(*rasters.bounds.T), dtype=object)
    names: set[str] = set()
    for code, first in zip(*np.unique(rasters.crs, return_index=True), strict=True):
        if target is None and not rasters.crs_names[code]:
            names |= {"", "another"}  # two, because a CRS that is not stated does not equal another
            continue
        name = named_crs(rasters.ids[int(first)].as_py(), rasters.crs_names[code])
        names.add(name)
        if target is not None:
            own = rasters.crs == code
            boxes[own] = reproject_each(boxes[own], name, target)
    return geopandas.GeoDataFrame(
        {"id": rasters.ids.to_pandas(), "datetime": rasters.moments.to_pandas()},
        geometry=boxes,
        crs=target or (names.pop() if len(names) == 1 else None),
    )
