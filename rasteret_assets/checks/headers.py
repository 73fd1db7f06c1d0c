"""Check the band metadata: whether every header is there, and whether its tiles can lie in its file."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.checks.counting import count_rows, sum_up
from rasteret_assets.checks.finding import Finding
from rasteret_assets.checks.registry import Partition, check
from rasteret_assets.headers.band_metadata import count_failures
from rasteret_assets.headers.failures import failure_rows
from rasteret_assets.message_lists import some
from rasteret_assets.schema import BANDS, HREF, ID, NORMALIZED, STATUS_OK, TILE_TABLES
from rasteret_assets.secrets import redact

_OFF_GRID, _OUTSIDE = "tiles do not fill the grid", "tiles lie outside the file"


@check(
    stage=BANDS,
    columns=["status", "error_class"],
    blocking=True,
    description="Every band of every record has its header. Missing headers are a warning; a larger share of them than "
    "`max_failed` of the declaration is an error.",
)
def headers_complete(partition: Partition) -> Finding:
    """Check that every band of every record has its header; a larger missing share than ``max_failed`` is an error."""
    statuses, max_failed = partition.table.rows, partition.spec.max_failed
    by_class = dict(Counter(count_failures(statuses)).most_common())
    total, missing = statuses.num_rows, sum(by_class.values())
    share = missing / max(total, 1)
    rows = failure_rows(by_class, total)
    text = ", ".join(f"{count} {name}" for name, count in by_class.items())
    limit = f", a larger share than max_failed={max_failed:g}" if share > max_failed else ""
    helps = "".join(f"; {row['class']}: {row['what helps']}" for row in rows[:1])
    return Finding(
        passed=not missing,
        error=share > max_failed,
        message=f"{missing} of {total} headers could not be read ({text}){limit}{helps}"
        if missing
        else f"all {total} headers are there",
        numbers={"headers": total, "failed": missing, "failed_share": round(share, 6)},
        rows=rows,
    )


def _count_tiles(batch: pa.RecordBatch) -> pa.RecordBatch:
    ok = batch.filter(pc.equal(batch.column("status"), STATUS_OK))
    masks, tiles = _tile_problems(ok)
    return count_rows({"headers": ok.num_rows, "tiles": tiles}, masks, lambda row: _named(ok, row))


@check(
    stage=BANDS, columns=[ID, "band", HREF, "status", "content_length", "header"], of_batch=_count_tiles, blocking=True
)
def tile_ranges(partition: Partition) -> Finding:
    """Every header has as many tiles as its grid needs, and each tile lies inside its file.

    The size of a file is the size that its store stated when the header was read. Where the store stated no size, only
    the grid is checked. A tile of zero bytes was left out of its file (GDAL's sparse files) and lies nowhere.
    """
    found = sum_up(partition.table.rows)
    rows = [
        {"problem": name, "headers": found[name].rows, "first": found[name].first}
        for name in (_OFF_GRID, _OUTSIDE)
        if name in found
    ]
    headers, tiles = found["headers"].rows, found["tiles"].rows
    text = "; ".join(f"{row['problem']} in {row['headers']} headers (first {row['first']})" for row in rows)
    return Finding(
        passed=not rows,
        message=f"{text}: upload these files again, then build with force=True (--force)"
        if rows
        else f"{tiles} tiles of {headers} headers lie inside their files",
        numbers={
            "headers": headers,
            "tiles": tiles,
            "wrong_headers": sum(found[str(row["problem"])].rows for row in rows),
        },
        rows=rows,
    )


@check(stage=BANDS, columns=[ID, "band"], also={NORMALIZED: [ID]}, blocking=True)
def one_row_per_band(partition: Partition) -> Finding:
    """The ledger has one row per record and band, and no row of a record that is gone."""
    ledger, records = partition.table.rows, partition.also.get(NORMALIZED)
    ids = pa.array([], pa.string()) if records is None else records.rows[ID].combine_chunks()
    has_record = pc.is_in(ledger[ID], value_set=ids)
    stray = pc.unique(ledger[ID].filter(pc.invert(has_record))).to_pylist()
    pairs = ledger.group_by([ID, "band"]).aggregate([([], "count_all")])
    repeated = ledger.num_rows - pairs.num_rows
    problems = [f"the ledger has rows of ids that no record has: {some(stray)}"] if stray else []
    problems += [f"{repeated} rows repeat the record and band of another row"] if repeated else []
    return Finding(
        passed=not problems,
        message=f"{'; '.join(problems)}: materialize band_metadata again"
        if problems
        else f"{ledger.num_rows} rows, one per record and band",
        numbers={"rows": ledger.num_rows, "records": len(ids)},
    )


def _tile_problems(ok: pa.RecordBatch) -> tuple[dict[str, npt.NDArray[np.bool_]], int]:
    """Return which headers have each problem, booleans ``[N]`` by problem, and the number of all tiles."""
    header = ok.column("header")
    offsets, counts = (pc.struct_field(header, name) for name in TILE_TABLES)
    tiles, stored = _lengths(offsets), _lengths(counts)
    off_grid = (tiles != stored) | (tiles != _expected_tiles(header))
    if (tiles != stored).any():
        return {_OFF_GRID: off_grid, _OUTSIDE: np.zeros(len(tiles), bool)}, int(tiles.sum())
    ends, negative = _ends(offsets, counts, tiles)
    size = np.asarray(pc.fill_null(ok.column("content_length").cast(pa.float64()), np.inf), float)
    return {_OFF_GRID: off_grid, _OUTSIDE: (ends > size) | negative}, int(tiles.sum())


def _lengths(lists: pa.Array) -> npt.NDArray[np.int64]:
    return np.asarray(pc.fill_null(pc.list_value_length(lists), 0), np.int64)


def _expected_tiles(header: pa.StructArray) -> npt.NDArray[np.int64]:
    names = ("image_width", "image_height", "tile_width", "tile_height")
    width, height, tile_width, tile_height = (
        np.asarray(pc.fill_null(pc.struct_field(header, name), 1), np.int64) for name in names
    )
    return -(-width // np.maximum(tile_width, 1)) * -(-height // np.maximum(tile_height, 1))


def _ends(
    offsets: pa.Array, counts: pa.Array, tiles: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return where the last tile of each header ends, in bytes, and whether a tile has a negative offset or size.

    Args:
        offsets: of the tiles, a list for each header.
        counts: of the bytes of these tiles.
        tiles: number of tiles of each header.
    """
    starts, sizes = (
        np.asarray(pc.list_flatten(lists).to_numpy(zero_copy_only=False), float) for lists in (offsets, counts)
    )
    ends = np.where(sizes > 0, starts + sizes, 0.0)
    below = (starts < 0) | (sizes < 0)
    last, negative = np.zeros(len(tiles)), np.zeros(len(tiles), bool)
    filled = np.flatnonzero(tiles)
    if len(filled):
        # Only lists with tiles, because ``reduceat`` returns the element at its begin for an empty list.
        begins = (np.cumsum(tiles) - tiles)[filled]
        last[filled] = np.maximum.reduceat(ends, begins)
        negative[filled] = np.logical_or.reduceat(below, begins)
    return last, negative


def _named(ledger: pa.RecordBatch, row: int) -> str:
    record, band, href = (ledger.column(name)[row].as_py() for name in (ID, "band", HREF))
    return f"{record}, {band}: {redact(href or '')}"
