"""What a check counts batch by batch, as small tables that are summed up at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_SCHEMA: Final = pa.schema([("what", pa.string()), ("count", pa.int64()), ("first", pa.string())])


class Counted(NamedTuple):
    """How often something was found, and where first (empty for what was only counted)."""

    rows: int
    first: str = ""


def count_rows(
    counts: Mapping[str, int],
    problems: Mapping[str, npt.NDArray[np.bool_]] | None = None,
    name_of: Callable[[int], str] = str,
) -> pa.RecordBatch:
    """Return what was counted in a batch.

    Args:
        counts: what is to be summed up over all batches.
        problems: which rows have each problem; those that no row has are left out.
        name_of: returns the name of a row by its number.
    """
    found: list[tuple[str, int, str | None]] = [(what, count, None) for what, count in counts.items()]
    found += [
        (what, int(mask.sum()), name_of(int(np.flatnonzero(mask)[0])))
        for what, mask in (problems or {}).items()
        if mask.any()
    ]
    return pa.RecordBatch.from_pylist([dict(zip(_SCHEMA.names, row, strict=True)) for row in found], schema=_SCHEMA)


def sum_up(rows: pa.Table) -> dict[str, Counted]:
    """Return the sums over all batches, by what was counted."""
    sums: dict[str, Counted] = {}
    for row in rows.to_pylist():  # a few for each batch
        before = sums.get(row["what"], Counted(0))
        sums[row["what"]] = Counted(before.rows + row["count"], before.first or row["first"] or "")
    return sums
