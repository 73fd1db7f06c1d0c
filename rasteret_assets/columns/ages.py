"""Turn a column of instants or numbers into ages: numbers that are the greater the newer a row is."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.columns.scalars import normalize_times
from rasteret_assets.columns.types import plain_text
from rasteret_assets.errors import RecordError

#: Age of a row that states none, so that the row cannot be compared with others. It is the greatest number.
UNKNOWN_AGE: Final = np.iinfo(np.int64).max


def row_ages(column: pa.Array, name: str) -> npt.NDArray[np.int64]:
    """Return the ages of rows; :data:`UNKNOWN_AGE` for values that are null or not finite.

    Args:
        column: timestamps, dates, ISO 8601 text, or numbers such as a version.
        name: of the column, for messages.

    Returns:
        ``int64[N]``: microseconds since 1970 for instants, and for numbers a number of the same order.

    Raises:
        RecordError: if the type of the column has no order in time.
    """
    column = plain_text(column)
    kind = column.type
    if pa.types.is_integer(kind):
        numbers = column.cast(pa.int64(), safe=False)
    elif pa.types.is_floating(kind):
        values = column.cast(pa.float64())
        bits = np.asarray(values.fill_null(np.nan), np.float64).view(np.int64)
        # The bits of floats have the order of the floats, and of negative floats the opposite order (IEEE 754).
        ordered = np.where(bits < 0, np.int64(np.iinfo(np.int64).min) - bits, bits)
        numbers = pc.if_else(pc.is_finite(values), pa.array(ordered), pa.scalar(None, pa.int64()))
    else:
        try:
            numbers = normalize_times(column, name)[0].cast(pa.int64())
        except RecordError as error:
            raise RecordError(
                f"column {name!r} is {kind}, by which no row is newer than another: overlap needs timestamps, dates, "
                "ISO 8601 text or numbers"
            ) from error
    return np.asarray(numbers.fill_null(UNKNOWN_AGE), np.int64)
