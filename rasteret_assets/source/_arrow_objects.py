"""Turn Arrow objects, and objects that export Arrow, into datasets."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from rasteret_assets.errors import SourceError


def as_dataset(data: Any) -> ds.Dataset:
    """Return an object's rows as a dataset.

    Args:
        data: Arrow Table, Dataset, RecordBatch, RecordBatchReader (which is read to its end), any object with
            ``__arrow_c_stream__`` or ``__arrow_c_array__``, or a GeoDataFrame.

    Raises:
        SourceError: if ``data`` is not one of these, or does not export a table.
    """
    if isinstance(data, ds.Dataset):
        return data
    if isinstance(data, pa.Table | pa.RecordBatch):
        return ds.dataset(data)
    if isinstance(data, pa.RecordBatchReader):
        return ds.dataset(data.read_all())
    if hasattr(data, "to_arrow") and hasattr(data, "set_geometry"):
        # Not its stream, because the stream of a GeoDataFrame is a pandas table, which has no geometry types.
        return ds.dataset(pa.table(data.to_arrow(index=False)))
    if hasattr(data, "__arrow_c_stream__") or hasattr(data, "__arrow_c_array__"):
        return ds.dataset(_exported(data))
    lazy = "; collect() it first" if hasattr(data, "collect") else ""
    raise SourceError(
        f"{type(data).__name__} is not a record table{lazy}: give a path, a pyarrow Table, Dataset or "
        "RecordBatchReader, or any object with __arrow_c_stream__"
    )


def _exported(data: Any) -> pa.Table:
    """Return the table that an object exports as an Arrow stream or array."""
    try:
        return pa.table(data)
    except (pa.ArrowException, TypeError) as error:
        reason = " ".join(str(part) for part in error.args)
        raise SourceError(
            f"the {type(data).__name__} is not an Arrow table ({reason}): make footprints a GeoDataFrame's, or WKB or "
            "WKT, and columns of other objects numbers or text"
        ) from error
