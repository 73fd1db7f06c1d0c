"""Decide which failures later builds try again: one rule for header rows, for states of partitions and for sensors.

Every build tries again what failed for a reason that may pass. A file that does not exist is tried again for some days
after it was first missed, because providers publish records before their files; after that it counts as gone for good.
The end of these days, ``retry_until``, is kept in the header row, in the ledger and, counted, in the partition's state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.error_classes import ErrorClass
from rasteret_assets.schema import RETRY_UNTIL, TIMESTAMP

#: Classes of failures that every later build tries again: passing ones, and those of the network or of credentials.
RETRIED_CLASSES: Final = tuple(kind.value for kind in ErrorClass if kind.is_retried_by_every_build)

#: The class of a host that is refused unless the spec allows it. It is not a reason to build, but every build looks the
#: name up again, because that costs nothing and the spec may have changed.
REFUSED: Final = ErrorClass.LINK_LOCAL_REFUSED.value

#: The class of a file that does not exist.
MISSING: Final = ErrorClass.NOT_FOUND.value


def now() -> datetime:
    """Return the present, in UTC."""
    return datetime.now(UTC)


def are_retried(rows: pa.Table | pa.RecordBatch) -> pa.Array | pa.ChunkedArray:
    """Return a mask of the rows whose failure a build that runs now tries again.

    Args:
        rows: with the columns ``error_class`` and ``retry_until``.
    """
    passing = pc.is_in(rows.column("error_class"), pa.array(RETRIED_CLASSES))
    waiting = pc.greater(rows.column(RETRY_UNTIL), pa.scalar(now(), TIMESTAMP))
    return pc.or_(passing, pc.fill_null(waiting, fill_value=False))


def are_settled(rows: pa.Table | pa.RecordBatch) -> pa.Array | pa.ChunkedArray:
    """Return a mask of the rows whose outcome a build that runs now does not ask for again.

    Args:
        rows: as for :func:`are_retried`.
    """
    refused = pc.fill_null(pc.equal(rows.column("error_class"), REFUSED), fill_value=False)
    return pc.invert(pc.or_(are_retried(rows), refused))


def count_retried(state: Mapping[str, Any], at: datetime | None = None) -> int:
    """Return how many headers of a published partition a build tries again.

    Args:
        state: of the partition.
        at: when the build runs; now when omitted.
    """
    at = now() if at is None else at
    failures: Mapping[str, int] = state.get("failures", {})
    waiting: Mapping[str, int] = state.get(RETRY_UNTIL, {})
    passing = sum(count for name, count in failures.items() if name in RETRIED_CLASSES)
    return passing + sum(count for until, count in waiting.items() if at < datetime.fromisoformat(until))


def count_until(rows: pa.Table | pa.RecordBatch) -> Counter[str]:
    """Count the rows by the time until which they are tried again, in the form that a partition's state has.

    Args:
        rows: with the column ``retry_until``.
    """
    counted = rows.column(RETRY_UNTIL).drop_null().value_counts()
    times = counted.field("values").to_pylist()  # few, because the times are full hours
    return Counter({time.isoformat(): n for time, n in zip(times, counted.field("counts").to_pylist(), strict=True)})


def retry_until(error_classes: pa.Array, earlier: pa.Table, days: float) -> pa.Array:
    """Return the time until which each outcome is tried again: null unless its file does not exist.

    Args:
        error_classes: of the outcomes.
        earlier: columns ``error_class`` and ``retry_until`` of the earlier outcomes of the same files; null where there
            was no earlier outcome. A file that was missing then keeps its time, because the first miss counts.
        days: days for which a newly missing file is tried again. The end is rounded up to a full hour, so that a
            partition has few different times.
    """
    end = (now() + timedelta(days=days, hours=1)).replace(minute=0, second=0, microsecond=0)
    first = pa.scalar(end if days else None, TIMESTAMP)
    was_missing = pc.fill_null(pc.equal(earlier["error_class"], MISSING), fill_value=False)
    until = pc.if_else(was_missing, earlier[RETRY_UNTIL], first)
    is_missing = pc.fill_null(pc.equal(error_classes, MISSING), fill_value=False)
    return pc.if_else(is_missing, until, pa.scalar(None, TIMESTAMP))


def nothing_earlier(rows: int) -> pa.Table:
    """Return the argument ``earlier`` of :func:`retry_until` for files without earlier outcomes."""
    return pa.table({"error_class": pa.nulls(rows, pa.string()), RETRY_UNTIL: pa.nulls(rows, TIMESTAMP)})
