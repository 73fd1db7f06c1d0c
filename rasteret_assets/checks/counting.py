"""Count what a check finds batch by batch, in small tables that are summed up at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_SCHEMA: Final = pa.schema([("what", pa.string()), ("count", pa.int64()), ("first", pa.string())])


class Counted(NamedTuple):
    """The number of rows that have a problem, and the name of the first such row.

    Args:
        rows: number of rows, or a sum that a check asked for.
        first: name of the first row with the problem; empty for a sum.
    """

    rows: int
    first: str = ""


def count_rows(
    counts: Mapping[str, int],
    problems: Mapping[str, npt.NDArray[np.bool_]] | None = None,
    name_of: Callable[[int], str] = str,
) -> pa.RecordBatch:
    """Return the counts of one batch, as a table that :func:`sum_up` takes.

    Args:
        counts: numbers to sum up over all batches, by name.
        problems: booleans ``[N]`` by problem: which rows of the batch have it. A problem that no row has is left out.
        name_of: returns the name of a row by its number in the batch, from 0.

    Returns:
        Batch with the columns ``what``, ``count`` and ``first``.
    """
    found: list[tuple[str, int, str | None]] = [(what, count, None) for what, count in counts.items()]
    found += [
        (what, int(mask.sum()), name_of(int(np.flatnonzero(mask)[0])))
        for what, mask in (problems or {}).items()
        if mask.any()
    ]
    return pa.RecordBatch.from_pylist([dict(zip(_SCHEMA.names, row, strict=True)) for row in found], schema=_SCHEMA)


def sum_up(rows: pa.Table) -> dict[str, Counted]:
    """Return the sums over all batches, by the name of the count or problem."""
    sums: dict[str, Counted] = {}
    for row in rows.to_pylist():  # a loop, because each batch of records made a few rows of counts
        before = sums.get(row["what"], Counted(0))
        sums[row["what"]] = Counted(before.rows + row["count"], before.first or row["first"] or "")
    return sums
