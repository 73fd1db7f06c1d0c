"""Read tables of areas and points, of any library, as Arrow, and the geometries in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rasteret_assets.collection.areas.reproject import map_crs
from rasteret_assets.errors import RecordError, SpecError
from rasteret_assets.geometry import decode_geometries, describe_geometry, primary_geometry

Geometries = npt.NDArray[np.object_]

#: Usual names of geometry columns, in the order in which they are tried.
_GEOMETRY_NAMES: Final = ("geometry", "geom", "wkb_geometry", "the_geom", "wkb", "wkt", "geometry_wkb")


def as_arrow_table(value: object) -> pa.Table | None:
    """Return a table of pyarrow, geopandas, pandas, polars, DuckDB or an Arrow stream as Arrow; None for others."""
    match value:
        case pa.Table():
            return value
        case pa.RecordBatch():
            return pa.Table.from_batches([value])
        case pa.Array() | pa.ChunkedArray():
            return None
    # geopandas first, because its Arrow stream does not state which columns hold geometries.
    if hasattr(value, "to_wkb") and hasattr(value, "to_arrow"):
        return pa.table(value.to_arrow(index=False)) if hasattr(value, "columns") else None
    if hasattr(value, "__arrow_c_stream__"):
        return pa.RecordBatchReader.from_stream(value).read_all()
    # Because some versions of DuckDB export no stream.
    return value.fetch_arrow_table() if hasattr(value, "fetch_arrow_table") else None


def geometry_name(table: pa.Table, name: str | None, *, option: str = "geometry_column") -> str | None:
    """Return the column with geometries: the one named, else one with a geometry type, else one with a usual name.

    None if the table has no such column.

    Args:
        table: of areas or points.
        name: column that the caller names.
        option: argument by which the caller names the column, for the message.

    Raises:
        SpecError: if the table has no column ``name``.
    """
    if name is not None:
        if name not in table.column_names:
            raise SpecError(
                f"{option}={name!r} is not a column of the table, which has {', '.join(table.column_names)}"
            )
        return name
    for field in table.schema:
        tagged = (field.metadata or {}).get(b"ARROW:extension:name", b"").decode()
        kind = getattr(field.type, "extension_name", tagged)
        if kind.startswith("geoarrow."):
            return str(field.name)
    primary = primary_geometry(table.schema.metadata)
    lower = {column.lower(): column for column in reversed(table.column_names)}
    found = primary if primary in table.column_names else next(filter(None, map(lower.get, _GEOMETRY_NAMES)), None)
    return None if found is None else str(found)


def read_geometries(table: pa.Table, name: str) -> tuple[Geometries, str | None]:
    """Return the geometries ``[N]`` of a column, None for null, and the CRS that the column states, or None.

    Raises:
        SpecError: if the column does not hold geometries, or a geometry cannot be read.
    """
    field = table.schema.field(name)
    described = describe_geometry(field, table.schema.metadata)
    column = table.column(name).combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    try:
        geometries, unreadable = decode_geometries(column, described)
    except RecordError as error:
        raise SpecError(f"column {name!r}: {error}") from error
    if unreadable.any():
        raise SpecError(f"column {name!r}: row {int(np.argmax(unreadable))} (counted from 0) does not hold a geometry")
    return geometries, None if described.crs is None else map_crs(described.crs)


def other_columns(table: pa.Table, without: Sequence[str]) -> pa.Table:
    """Return the table without the columns that ``without`` names."""
    return table.select([name for name in table.column_names if name not in without])
