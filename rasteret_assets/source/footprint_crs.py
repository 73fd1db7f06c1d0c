"""Read the CRS that each file of a record table states for its footprints, and unite files of different CRSs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyproj
import shapely

from rasteret_assets.errors import SourceError
from rasteret_assets.geometry import CRS84, GeometryColumn, decode_geometries, describe_geometry

_LONLAT: Final = frozenset({("OGC", "CRS84"), ("EPSG", "4326"), ("EPSG", "4979")})
#: Stands for a geometry that cannot be read. The bytes are not WKB, so that the record is rejected for its geometry.
_UNREADABLE: Final = b"unreadable"


def crs_name(described: GeometryColumn) -> str:
    """Return one name for a CRS in whatever words it is stated: OGC:CRS84 for lon/lat, EPSG:n, or WKT."""
    if described.unknown_crs:
        return "unknown"
    if described.crs is None:
        return CRS84
    return _name(json.dumps(described.crs, sort_keys=True) if isinstance(described.crs, dict) else str(described.crs))


@lru_cache(maxsize=256)
def _name(text: str) -> str:
    try:
        crs = pyproj.CRS.from_user_input(text)
    except pyproj.exceptions.CRSError:
        return text  # reading the footprints refuses a CRS that pyproj does not know
    # Coordinates are x, y in GeoParquet and WKB, whatever the order of a CRS's axes.
    if crs.to_authority() in _LONLAT or crs.equals(pyproj.CRS(CRS84), ignore_axis_order=True):
        return CRS84
    code = crs.to_epsg()
    if code is not None and pyproj.CRS.from_epsg(code).equals(crs, ignore_axis_order=True):
        return f"EPSG:{code}"
    return str(crs.to_wkt())


def describe_footprints(
    label: str, geometry: str, files: Sequence[tuple[str, pa.Schema]]
) -> list[GeometryColumn | None]:
    """Return how the footprints of each file are to be read; None for files without the column.

    Args:
        label: of the source, for messages.
        geometry: the files' column of footprints.
        files: label and schema, with what the footer says, of each.

    Raises:
        SourceError: if files state CRSs of which one is unknown.
    """
    # Thousands of files share a schema, whose footer holds a CRS of kilobytes.
    distinct = {id(schema): (path, schema) for path, schema in files if geometry in schema.names}
    read = {
        key: describe_geometry(schema.field(geometry), schema.metadata) for key, (_, schema) in distinct.items()
    }  # fmt: skip
    named = {distinct[key][0]: crs_name(described) for key, described in read.items()}
    if "unknown" in (names := set(named.values())) and len(names) > 1:
        without = next(path for path, name in named.items() if name == "unknown")
        path = next(path for path, name in named.items() if name != "unknown")
        raise SourceError(
            f"{label}: its files state different CRSs for {geometry!r}: that of {without} is unknown (crs: null), that "
            f"of {path} is {named[path][:80]}: write the CRS of the first"
        )
    return [read.get(id(schema)) for _, schema in files]


def srid_of(label: str, path: str, described: GeometryColumn) -> int:
    """Return the number that tells the CRS of a file's footprints row by row; 0 for lon/lat, which needs none.

    Raises:
        SourceError: if the CRS has no EPSG code, so that no number stands for it.
    """
    name = crs_name(described)
    if name == CRS84:
        return 0
    if not name.startswith("EPSG:"):
        raise SourceError(
            f"{label}: its files state different CRSs, and that of {path} has no EPSG code ({name[:80]}): reproject "
            "its footprints to lon/lat, or build a collection of that file alone"
        )
    return int(name.removeprefix("EPSG:"))


def is_one(described: Sequence[GeometryColumn]) -> bool:
    """Tell whether footprints of several files can be read as one column: the same CRS and the same layout."""
    return len({(crs_name(one), one.native) for one in described}) <= 1


def as_ewkb(column: pa.Array, described: GeometryColumn, srid: int) -> pa.Array:
    """Return footprints in their CRS as WKB, each with the number of the CRS where it is not lon/lat.

    Args:
        column: in any form that :func:`~rasteret_assets.geometry.decode_geometries` knows.
        described: how to read them.
        srid: number of their CRS, 0 where the file states none (geometries may then bring numbers of their own).
    """
    geometries, unreadable = decode_geometries(column, described)
    if srid:
        geometries = shapely.set_srid(geometries, srid)
    wkb: Any = shapely.to_wkb(geometries, byte_order=1, flavor="extended", include_srid=True)
    if unreadable.any():
        wkb = np.where(unreadable, _UNREADABLE, wkb)
    return pa.array(wkb, pa.binary())
