"""Read rows of a record table: filtered by an expression and by exact intersection; errors name the damaged file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from shapely.geometry.base import BaseGeometry

from rasteret_assets import schema
from rasteret_assets.collection.areas.footprints import intersecting_rows
from rasteret_assets.collection.table.pinned import pinned
from rasteret_assets.collection.table.query import boxes_of
from rasteret_assets.errors import CollectionError
from rasteret_assets.storage.io_errors import unreadable

#: Rows of a batch: few, because a row may hold tile tables of megabytes.
_BATCH_ROWS = 4096

# One batch of one file, because Arrow's default, 16 batches of 4 files, holds the row groups of all of them in memory.
_ONE_BY_ONE: Final[dict[str, Any]] = {"batch_readahead": 0, "fragment_readahead": 1, "use_threads": False}

#: Names of the columns that the exact intersection needs; they are removed from the batches that are returned.
_GEOMETRY = "\0geometry"
_BBOX = "\0bbox"


def scan(
    dataset: ds.Dataset,
    columns: Mapping[str, pc.Expression],
    expression: pc.Expression | None,
    areas: Sequence[Sequence[BaseGeometry]],
    *,
    prefetch: bool = True,
) -> Iterator[pa.RecordBatch]:
    """Yield batches of the rows that satisfy ``expression`` and meet one area of every group.

    Args:
        dataset: the record table.
        columns: an expression per column name.
        expression: filter; None for all rows.
        areas: groups of lon/lat geometries.
        prefetch: whether many row groups are read before they are needed; else one row group is in memory.

    Raises:
        CollectionError: if a file is damaged, or a build replaced or removed it meanwhile; the message names the file.
    """
    reading = {} if prefetch else _ONE_BY_ONE
    wanted = dict(columns)
    if areas:
        wanted |= {_GEOMETRY: pc.field(schema.GEOMETRY), _BBOX: pc.field(schema.BBOX)}
    for part in pinned(dataset, expression, [boxes_of(group) for group in areas]):
        source = part.dataset.scanner(columns=wanted, filter=expression, batch_size=_BATCH_ROWS, **reading).to_batches()
        while True:
            try:
                batch = next(source, None)
            except (OSError, pa.ArrowException) as error:
                part.check()
                raise _damaged(dataset, wanted, expression, error) from error
            if batch is None:
                part.check()
                break
            yield from _refined(batch, list(columns), areas)


def count(dataset: ds.Dataset, expression: pc.Expression | None) -> int:
    """Return the number of rows that satisfy ``expression``.

    Raises:
        CollectionError: if a file is damaged, or a build replaced or removed it meanwhile; the message names the file.
    """
    total = 0
    for part in pinned(dataset, expression):
        try:
            total += int(part.dataset.count_rows(filter=expression))
        except (OSError, pa.ArrowException) as error:
            part.check()
            raise _damaged(dataset, {}, expression, error) from error
        part.check()
    return total


def _refined(
    batch: pa.RecordBatch, names: Sequence[str], areas: Sequence[Sequence[BaseGeometry]]
) -> Iterator[pa.RecordBatch]:
    for group in areas:
        if batch.num_rows:
            rows = intersecting_rows(batch.column(_GEOMETRY), batch.column(_BBOX), group)
            batch = batch.filter(pa.array(rows))
    if batch.num_rows:
        yield batch.select(names) if areas else batch


def _damaged(
    dataset: ds.Dataset, columns: Mapping[str, pc.Expression], expression: pc.Expression | None, error: Exception
) -> CollectionError:
    """Return the error with the damaged file, found by reading each file alone, because Arrow does not name it."""
    for fragment in dataset.get_fragments(filter=expression):
        try:
            for _ in fragment.to_batches(schema=dataset.schema, columns=dict(columns), filter=expression):
                pass
        except (OSError, pa.ArrowException) as found:
            if isinstance(fragment, ds.FileFragment):
                return unreadable(fragment.path, found)
    return CollectionError(f"the records cannot be read: {error}")
