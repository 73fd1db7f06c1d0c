"""Tables of areas and points, of whichever library, as Arrow; and the geometries in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rasteret_assets.collection.areas.reproject import crs_name
from rasteret_assets.errors import RecordError, SpecError
from rasteret_assets.geometry import decode_geometries, describe_geometry, primary_geometry

Geometries = npt.NDArray[np.object_]

#: Names that geometry columns go by, in the order they are looked for.
_GEOMETRY_NAMES: Final = ("geometry", "geom", "wkb_geometry", "the_geom", "wkb", "wkt", "geometry_wkb")


def as_arrow_table(value: Any) -> pa.Table | None:
    """A table of pyarrow, geopandas, pandas, polars, DuckDB or any exporter of Arrow streams; None for the rest."""
    match value:
        case pa.Table():
            return value
        case pa.RecordBatch():
            return pa.Table.from_batches([value])
        case pa.Array() | pa.ChunkedArray():
            return None
    if hasattr(value, "to_wkb"):  # geopandas, whose plain stream knows no geometries
        return pa.table(value.to_arrow(index=False)) if hasattr(value, "columns") else None
    if hasattr(value, "__arrow_c_stream__"):
        return pa.RecordBatchReader.from_stream(value).read_all()
    # DuckDB before it had streams.
    return value.fetch_arrow_table() if hasattr(value, "fetch_arrow_table") else None


def geometry_name(table: pa.Table, name: str | None, *, option: str = "geometry_column") -> str | None:
    """The column that holds the geometries: the one named, else the one that says so, else by its usual name.

    Raises:
        SpecError: if the column named is not there.
    """
    if name is not None:
        if name not in table.column_names:
            raise SpecError(f"{option}={name!r} is no column of the table, which has {table.column_names}")
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
    """Geometries of a column, None where it is null, and the CRS it states, if any.

    Raises:
        SpecError: if it holds none, or something that cannot be read.
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
        raise SpecError(f"column {name!r}: row {int(np.argmax(unreadable))} is no geometry")
    return geometries, None if described.crs is None else crs_name(described.crs)


def other_columns(table: pa.Table, without: Sequence[str]) -> pa.Table:
    """The table without some of its columns."""
    return table.select([name for name in table.column_names if name not in without])
