"""Summarize a collection in few numbers, from small columns and footers, never from tile tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from rasteret_assets import schema
from rasteret_assets.collection.table.query import END_DATETIME, Bounds
from rasteret_assets.columns.instants import utc_instants


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """Counts and extents of a collection.

    Args:
        rows: number of records.
        bounds: (xmin, ymin, xmax, ymax) in lon/lat; xmin > xmax across the antimeridian; None if there is no
            footprint.
        crs: distinct CRSs that the records state, sorted.
        dates: first and last acquisition in UTC; None if no record is dated.
    """

    rows: int
    bounds: Bounds | None
    crs: tuple[str, ...]
    dates: tuple[datetime, datetime] | None


def columns(table: pa.Schema) -> list[str]:
    """Return the columns that :func:`summarize` reads: columns of records, never of bands.

    Arrow reads a struct column as a whole, with its tile tables, even if one small field is needed.
    """
    wanted = (schema.BBOX, schema.DATETIME, schema.START_DATETIME, END_DATETIME, schema.PROJ_EPSG, schema.CRS)
    return [name for name in wanted if name in table.names]


def summarize(batches: Iterable[pa.RecordBatch]) -> Summary:
    """Return counts and extents of batches with the columns of :func:`columns`."""
    rows, boxes, codes, moments = 0, [], set(), []
    for batch in batches:
        rows += batch.num_rows
        boxes.append(_boxes(batch.column(schema.BBOX)))
        codes |= distinct_crs(batch, schema.PROJ_EPSG, schema.CRS)
        moments += _extremes(batch)
    return Summary(
        rows=rows,
        bounds=bounds_of(np.concatenate(boxes)) if boxes else None,
        crs=tuple(sorted(codes)),
        dates=(min(moments), max(moments)) if moments else None,
    )


def header_counts(dataset: ds.Dataset, bands: Sequence[str]) -> dict[str, int] | None:
    """Return how many records of a whole dataset have the header of each band, without reading a row of a file.

    Returns:
        The counts by band; None if footers do not state them.
    """
    counts = dict.fromkeys(bands, 0)
    for fragment in dataset.get_fragments():
        if isinstance(fragment, ds.ParquetFileFragment):
            found = [_footer_count(fragment.metadata, schema.band_column(band)) for band in bands]
        else:
            table = fragment.to_table()
            found = [table.num_rows - table[schema.band_column(band)].null_count for band in bands]
        for band, count in zip(bands, found, strict=True):
            if count is None:
                return None
            counts[band] += count
    return counts


def _footer_count(footer: pq.FileMetaData, column: str) -> int | None:
    """Return how many rows have a struct, by the statistics of its first field, which all headers have."""
    leaf, rows = f"{column}.image_width", 0
    for group in (footer.row_group(number) for number in range(footer.num_row_groups)):
        chunks = (group.column(number) for number in range(group.num_columns))
        chunk = next((chunk for chunk in chunks if chunk.path_in_schema == leaf), None)
        if chunk is None:
            continue  # because the file was published before the band was indexed
        if chunk.statistics is None or not chunk.statistics.has_null_count:
            return None
        rows += group.num_rows - chunk.statistics.null_count
    return rows


def bounds_of(boxes: npt.NDArray[np.float64]) -> Bounds | None:
    """Return the common bounds of boxes of shape (n, 4); None if all are NaN.

    If a box crosses the antimeridian (xmin > xmax), the result is the narrowest span of longitudes that holds all.
    """
    boxes = boxes[~np.isnan(boxes).any(axis=1)]
    if not len(boxes):
        return None
    west, south, east, north = boxes.T
    ymin, ymax = float(south.min()), float(north.max())
    if (west <= east).all():
        return float(west.min()), ymin, float(east.max()), ymax
    # Footprints are arcs of a circle, sorted by western end: the bounds leave out the widest gap between them.
    order = np.argsort(west)
    start = west[order]
    stop = np.maximum.accumulate(np.where(east < west, east + 360, east)[order])
    gaps = np.append(start[1:], start[0] + 360) - stop
    widest = int(np.argmax(gaps))
    if gaps[widest] <= 0:
        return -180.0, ymin, 180.0, ymax
    xmin, xmax = float(start[(widest + 1) % len(start)]), float(stop[widest])
    return xmin, ymin, xmax - 360 if xmax > 180 else xmax, ymax


def crs_code(epsg: int | None, crs: str | None) -> str | None:
    """Return a raster's CRS as text: its EPSG code if it has one, else ``crs``; None if neither is stated."""
    return f"EPSG:{epsg}" if epsg else crs or None


def _boxes(bbox: pa.Array) -> npt.NDArray[np.float64]:
    # ``struct_field`` and not ``field``, because only the former makes fields of a null struct null.
    corners = [pc.struct_field(bbox, child.name).to_numpy(zero_copy_only=False) for child in schema.BBOX_TYPE]
    return np.column_stack(corners).astype(np.float64)


def distinct_crs(batch: pa.RecordBatch, epsg: str, crs: str) -> set[str]:
    """Return the CRSs that two columns of a batch state, either of which may be missing."""

    def column(name: str, kind: pa.DataType) -> pa.Array:
        return batch.column(name).cast(kind) if name in batch.schema.names else pa.nulls(batch.num_rows, kind)

    stated = pa.table({"epsg": column(epsg, pa.int32()), "crs": column(crs, pa.string())})
    distinct = stated.group_by(["epsg", "crs"]).aggregate([]).to_pylist()
    return {code for pair in distinct if (code := crs_code(pair["epsg"], pair["crs"]))}


def _extremes(batch: pa.RecordBatch) -> list[datetime]:
    """Return the first and last moment of a batch; records without a datetime count with start and end."""
    moments = []
    for name in (schema.DATETIME, schema.START_DATETIME, END_DATETIME):
        if name not in batch.schema.names or not pa.types.is_timestamp(batch.schema.field(name).type):
            continue
        column = batch.column(name)
        if name != schema.DATETIME:
            column = column.filter(pc.is_null(batch.column(schema.DATETIME)))
        moments += [end for end in pc.min_max(utc_instants(column)).as_py().values() if end is not None]
    return moments
