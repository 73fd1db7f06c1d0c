"""Partitions: which records share a file, what their partition is called, and in which folder its file lies.

| ``partition_by`` | key | folder |
|---|---|---|
| ``year`` | ``2024`` | ``year=2024`` |
| ``month`` | ``2024-05`` | ``year=2024/month=5`` |
| ``day`` | ``2024-05-17`` | ``year=2024/month=5/day=17`` |

Dates are those of UTC. A dated key tells its size by its form. :data:`~rasteret_assets.schema.UNDATED` does not: its
folder has hive's name of a null at every level that the folders of the other partitions have.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from itertools import repeat
from typing import Final, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.schema import DAY, HIVE_NULL, MONTH, PARTITION_SCHEMA, UNDATED, YEAR

PartitionBy = Literal["year", "month", "day"]

SIZES: Final[tuple[PartitionBy, ...]] = get_args(PartitionBy)

_KEY: Final = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2}))?)?", re.ASCII)
_VALUE: Final = rf"(\d{{1,4}}|{HIVE_NULL})"
_FOLDER: Final = re.compile(rf"{YEAR}={_VALUE}(?:/{MONTH}={_VALUE}(?:/{DAY}={_VALUE})?)?", re.ASCII)
_DAY_US: Final = 86_400_000_000
_NUMPY_UNITS: Final[dict[PartitionBy, str]] = {"year": "Y", "month": "M", "day": "D"}
#: Stands for a null among numbers of years, months or days since 1970.
_NO_PERIOD: Final = np.iinfo(np.int64).min


def hive_keys(by: PartitionBy) -> tuple[str, ...]:
    """Return the names of the hive keys in the path of a partition, from the outermost folder to the innermost."""
    return tuple(PARTITION_SCHEMA.names[: SIZES.index(by) + 1])


def hive_schema(by: PartitionBy) -> pa.Schema:
    """Return the names and types of the hive keys."""
    return pa.schema([PARTITION_SCHEMA.field(name) for name in hive_keys(by)])


def partition_key(*dated: int) -> str:
    """Return the key of the partition of a year, of a month (year, month) or of a day; of no date, that of undated."""
    return "-".join(f"{number:0{width}d}" for number, width in zip(dated, (4, 2, 2), strict=False)) or UNDATED


def partition_date(key: str) -> tuple[int, ...]:
    """Return year, month and day of a partition key as far as it has them; an empty tuple for undated records.

    Raises:
        ValueError: if ``key`` is not a partition key.
    """
    if key == UNDATED:
        return ()
    match = _KEY.fullmatch(key)
    dated = tuple(int(part) for part in match.groups() if part) if match else ()
    try:
        date(*(*dated, 1, 1)[:3])
    except (ValueError, TypeError):
        raise ValueError(
            f"{key!r} is not a partition key: write a year (2024), a month (2024-05), a day (2024-05-17) or "
            f"{UNDATED!r} for records without a datetime"
        ) from None
    return dated


def partition_size(key: str) -> PartitionBy | None:
    """Return whether a key is that of a year, a month or a day; None for undated records.

    Raises:
        ValueError: if ``key`` is not a partition key.
    """
    return (None, *SIZES)[len(partition_date(key))]


def hive_folder(key: str, by: PartitionBy) -> str:
    """Return the folder of a partition inside of the published one.

    Args:
        key: of the partition.
        by: size of the collection's partitions, which decides where undated records lie; a dated key tells its own.

    Raises:
        ValueError: if ``key`` is not a partition key.
    """
    dated = partition_date(key)
    names = PARTITION_SCHEMA.names[: len(dated)] or hive_keys(by)
    return "/".join(f"{name}={value}" for name, value in zip(names, dated or repeat(HIVE_NULL), strict=False))


def partition_of_folder(folder: str) -> tuple[str, PartitionBy] | None:
    """Return the key of the partition that lies in a folder, and its size; None for any other folder."""
    match = _FOLDER.fullmatch(folder)
    if match is None:
        return None
    values = [value for value in match.groups() if value is not None]
    by = SIZES[len(values) - 1]
    key = partition_key(*(int(value) for value in values if value != HIVE_NULL))
    try:
        # Only folders as they are written here count: not month=05, not a null among numbers.
        return (key, by) if hive_folder(key, by) == folder else None
    except ValueError:
        return None


def hive_columns(instants: pa.Array, by: PartitionBy) -> dict[str, pa.Array]:
    """Return the hive keys of every instant as columns of int32, null where there is no instant."""
    parts = {YEAR: pc.year, MONTH: pc.month, DAY: pc.day}
    return {name: parts[name](instants).cast(pa.int32()) for name in hive_keys(by)}


def rows_by_partition(instants: pa.Array, by: PartitionBy) -> Iterator[tuple[str, npt.NDArray[np.int64]]]:
    """Yield the key of every partition that some instants lie in, with their positions, ascending, as ``int64[K]``.

    Args:
        instants: microseconds of UTC, in the years 1 to 9999; null where a record is undated.
        by: size of the partitions.
    """
    if not len(instants):
        return
    unit = _NUMPY_UNITS[by]
    micros = np.asarray(pc.fill_null(instants.cast(pa.int64()), 0))
    # Rounded down, so that the last microsecond of 1969 lies in 1969.
    periods = np.floor_divide(micros, _DAY_US).astype("datetime64[D]").astype(f"datetime64[{unit}]").astype(np.int64)
    periods[np.asarray(instants.is_null())] = _NO_PERIOD
    order = np.argsort(periods, kind="stable")
    bounds = np.flatnonzero(np.diff(periods[order])) + 1
    for rows in np.split(order, bounds):
        period = int(periods[rows[0]])
        yield _key_of_period(period, by), rows


def _key_of_period(period: int, by: PartitionBy) -> str:
    if period == _NO_PERIOD:
        return UNDATED
    first = np.datetime64(period, _NUMPY_UNITS[by]).astype("datetime64[D]").item()  # type: ignore[call-overload]
    return partition_key(*(first.year, first.month, first.day)[: len(hive_keys(by))])
