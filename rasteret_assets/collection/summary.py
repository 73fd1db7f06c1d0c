"""What a collection holds, in few numbers: from a projection of small columns, never from tile tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets import schema
from rasteret_assets.collection.query import END_DATETIME, Bounds

_HEADER = "header:"
_EPSG = "epsg:"
_CRS = "crs:"


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """Counts and extents of a collection.

    Args:
        rows: number of records.
        bounds: (xmin, ymin, xmax, ymax) in lon/lat; xmin > xmax across the antimeridian; None without footprints.
        crs: distinct CRSs of the rasters, sorted.
        dates: first and last acquisition; None where no record is dated.
        headers: number of records whose header is present, by band.
    """

    rows: int
    bounds: Bounds | None
    crs: tuple[str, ...]
    dates: tuple[datetime, datetime] | None
    headers: Mapping[str, int]


def projection(table: pa.Schema, bands: Sequence[str]) -> dict[str, pc.Expression]:
    """The columns :func:`summarize` looks at."""
    wanted = (schema.BBOX, schema.DATETIME, schema.START_DATETIME, END_DATETIME, schema.PROJ_EPSG, schema.CRS)
    columns = {name: pc.field(name) for name in wanted if name in table.names}
    for band in bands:
        column = schema.band_column(band)
        fields = {field.name for field in table.field(column).type}
        columns[_HEADER + band] = pc.field(column, "image_width").is_valid()
        columns |= {
            prefix + band: pc.field(column, name) for prefix, name in ((_EPSG, "epsg"), (_CRS, "crs")) if name in fields
        }
    return columns


def summarize(batches: Iterable[pa.RecordBatch], bands: Sequence[str]) -> Summary:
    """Counts and extents of batches that hold the columns of :func:`projection`."""
    rows, boxes, codes, moments = 0, [], set(), []
    headers = dict.fromkeys(bands, 0)
    for batch in batches:
        rows += batch.num_rows
        boxes.append(_boxes(batch.column(schema.BBOX)))
        codes |= _codes(batch, bands)
        moments += _extremes(batch)
        for band in bands:
            headers[band] += pc.sum(batch.column(_HEADER + band)).as_py() or 0
    return Summary(
        rows=rows,
        bounds=bounds_of(np.concatenate(boxes)) if boxes else None,
        crs=tuple(sorted(codes)),
        dates=(min(moments), max(moments)) if moments else None,
        headers=headers,
    )


def bounds_of(boxes: npt.NDArray[np.float64]) -> Bounds | None:
    """Common bounds of boxes of shape (n, 4); the shortest way round the globe when one crosses the antimeridian."""
    boxes = boxes[~np.isnan(boxes).any(axis=1)]
    if not len(boxes):
        return None
    west, south, east, north = boxes.T
    ymin, ymax = float(south.min()), float(north.max())
    if (west <= east).all():
        return float(west.min()), ymin, float(east.max()), ymax
    # Footprints as arcs of a circle, by western end: the widest gap between them is what the bounds leave out.
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
    """How a raster's CRS is written: by EPSG code where it has one."""
    return f"EPSG:{epsg}" if epsg else crs or None


def _boxes(bbox: pa.Array) -> npt.NDArray[np.float64]:
    # A null struct hides what its children hold, so ``field`` would not do: ``struct_field`` carries the null over.
    corners = [pc.struct_field(bbox, child.name).to_numpy(zero_copy_only=False) for child in schema.BBOX_TYPE]
    return np.column_stack(corners).astype(np.float64)


def _codes(batch: pa.RecordBatch, bands: Sequence[str]) -> set[str]:
    """Distinct CRSs: a header's own, else the record's. Records of no header count, with what they say themselves."""
    stated = [_pairs(batch, _EPSG + band, _CRS + band) for band in bands]
    silent = np.ones(batch.num_rows, dtype=bool)
    for pairs in stated:
        silent &= ~pc.is_valid(pc.coalesce(pairs["epsg"].cast(pa.string()), pairs["crs"])).to_numpy()
    stated.append(_pairs(batch, schema.PROJ_EPSG, schema.CRS).filter(pa.array(silent)))
    distinct = pa.concat_tables(stated).group_by(["epsg", "crs"]).aggregate([]).to_pylist()
    return {code for pair in distinct if (code := crs_code(pair["epsg"], pair["crs"]))}


def _pairs(batch: pa.RecordBatch, epsg: str, crs: str) -> pa.Table:
    def column(name: str, kind: pa.DataType) -> pa.Array:
        return batch.column(name).cast(kind) if name in batch.schema.names else pa.nulls(batch.num_rows, kind)

    return pa.table({"epsg": column(epsg, pa.int32()), "crs": column(crs, pa.string())})


def _extremes(batch: pa.RecordBatch) -> list[datetime]:
    """First and last moment of a batch; records without a datetime count with their start and end."""
    moments = []
    for name in (schema.DATETIME, schema.START_DATETIME, END_DATETIME):
        if name not in batch.schema.names or not pa.types.is_timestamp(batch.schema.field(name).type):
            continue
        column = batch.column(name)
        if name != schema.DATETIME:
            column = column.filter(pc.is_null(batch.column(schema.DATETIME)))
        # A published timestamp is in microseconds; nanoseconds of a foreign one would not fit a Python datetime.
        ends = pc.min_max(pc.cast(column, schema.TIMESTAMP, safe=False))
        moments += [end.as_py() for end in ends.values() if end.is_valid]
    return moments
