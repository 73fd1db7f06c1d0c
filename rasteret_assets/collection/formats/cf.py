"""State pixel grids and CRSs by the CF conventions and as GDAL does, for cubes in memory and in a store."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyproj

from rasteret_assets.collection.areas.grid import Grid

#: Name of the variable that states the CRS.
GRID_MAPPING: Final = "spatial_ref"


def instants(moments: Sequence[datetime | None]) -> npt.NDArray[np.datetime64]:
    """Return datetimes in UTC as microseconds ``[N]``; NaT for None."""
    naive = [None if moment is None else moment.replace(tzinfo=None) for moment in moments]
    return np.array(naive, dtype="datetime64[us]")


def mapping_attributes(crs: str, grid: Grid) -> dict[str, Any]:
    """Return the attributes of :data:`GRID_MAPPING`: those of CF 1.11, appendix F, and GDAL's two.

    Args:
        crs: as ``reproject.crs_name`` writes it.
        grid: whose affine transform GDAL's ``GeoTransform`` states.
    """
    parsed = pyproj.CRS.from_user_input(crs)
    a, b, c, d, e, f = grid.affine
    return {
        **parsed.to_cf(),
        "spatial_ref": parsed.to_wkt(),  # GDAL's name of crs_wkt
        "GeoTransform": " ".join(repr(number) for number in (c, a, b, f, d, e)),
    }


def axis_attributes(crs: str) -> dict[str, dict[str, Any]]:
    """Return the attributes of the coordinates ``X`` and ``Y`` of a CRS; empty if CF has no names for them."""
    axes: dict[str, dict[str, Any]] = {"X": {}, "Y": {}}
    for axis in pyproj.CRS.from_user_input(crs).cs_to_cf():
        if axis.get("axis") in axes:
            axes[axis["axis"]] = axis
    return axes
