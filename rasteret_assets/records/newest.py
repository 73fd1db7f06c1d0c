"""Mark the rows of a partition that are older than another row of their id, under ``overlap: newest by ...``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.columns.ages import row_ages
from rasteret_assets.columns.hashing import hash_texts, repeated
from rasteret_assets.columns.scalars import normalize_ids
from rasteret_assets.schema import ID
from rasteret_assets.spec import CollectionSpec


class NewestRows:
    """Holds the greatest age of every id that several rows have. Takes memory for these ids, and 8 bytes for every row.

    Args:
        read: yields all rows, at least their ids and ages, each time it is called.
        spec: of the collection.
        moved: ids whose newest row is in another partition.
    """

    def __init__(
        self, read: Callable[[], Iterable[pa.RecordBatch]], spec: CollectionSpec, moved: Collection[str] = ()
    ) -> None:
        self._spec = spec
        self._moved = pa.array(moved, pa.string())
        suspects = repeated([hash_texts(_ids(batch, spec)) for batch in read()])
        ids, ages = [pa.array([], pa.string())], [np.zeros(0, np.int64)]
        for batch in read() if len(suspects) else ():
            texts = _ids(batch, spec)
            places = np.flatnonzero(np.isin(hash_texts(texts), suspects) & np.asarray(texts.is_valid()))
            ids.append(texts.take(pa.array(places)))
            ages.append(ages_of(batch, spec)[places])
        table = pa.table([pa.chunked_array(ids), np.concatenate(ages)], ["id", "age"])
        newest = table.group_by("id").aggregate([("age", "max")])
        self._ids = newest["id"].combine_chunks()
        self._ages = np.asarray(newest["age_max"], np.int64)

    def older(self, batch: pa.RecordBatch) -> npt.NDArray[np.bool_]:
        """Return a mask ``bool[N]`` of the rows whose id has a newer row.

        Args:
            batch: rows with the contract names of ``column_map``.
        """
        ids = _ids(batch, self._spec)
        older = np.asarray(pc.is_in(ids, self._moved))
        if len(self._ids):
            places = pc.index_in(ids, self._ids)
            newest = self._ages[np.asarray(places.fill_null(0))]
            older |= np.asarray(places.is_valid()) & (ages_of(batch, self._spec) < newest)
        return older


def ages_of(batch: pa.RecordBatch, spec: CollectionSpec) -> npt.NDArray[np.int64]:
    """Return how new each row is, ``int64[N]``, as :func:`~rasteret_assets.columns.ages.row_ages` does."""
    name = spec.newest_by or ""
    return row_ages(batch.column(spec.source_column(name)), name)


def age_columns(spec: CollectionSpec) -> list[str]:
    """Return the source columns of the id and the age of a row."""
    return list(dict.fromkeys((spec.source_column(ID), spec.source_column(spec.newest_by or ""))))


def _ids(batch: pa.RecordBatch, spec: CollectionSpec) -> pa.Array:
    return normalize_ids(batch.column(spec.source_column(ID)))
