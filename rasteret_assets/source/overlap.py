"""Find rows with the same id in the files of a record table, of which only the newest counts.

A mirror's archive and its live tail overlap while a tail is folded into the archive, and where the provider has changed
a record since. Under ``overlap: newest by updated`` the row with the latest ``updated`` counts and the others do not,
neither in what is published nor in the versions of partitions: a partition changes only where its newest rows do. Rows
that are equally new and differ, or do not say how new they are, are in conflict as without the option.

Rows are judged by 20 bytes each, stored beside the hash of the id: age, hash of the content, partition. Memory holds
these bytes for one file at a time, and for the rows whose id occurs more than once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rasteret_assets.columns.ages import UNKNOWN_AGE, row_ages
from rasteret_assets.columns.hashing import RowsDigest
from rasteret_assets.columns.scalars import normalize_ids
from rasteret_assets.schema import ID
from rasteret_assets.source.open import Source
from rasteret_assets.spec import CollectionSpec

#: Facts about a row: its age, the hash of its content, and the place of its partition among the sorted partitions of
#: its file; -1 if the row has no id.
ROW_FACTS: Final = np.dtype([("age", "<i8"), ("content", "<u8"), ("partition", "<i4")])
RowFacts = npt.NDArray[np.void]
#: Yields the facts of the rows of some files, by their versions, in any order.
FactsOf = Callable[[Collection[str]], Iterator[tuple[str, RowFacts]]]


class Judged(NamedTuple):
    """Says of N rows which count; each field is ``bool[N]``.

    Args:
        counts: the newest row of each id, once, and every row of ids in conflict.
        conflicts: rows of ids whose newest row cannot be told.
        moved: older rows whose newest row is in another partition.
    """

    counts: npt.NDArray[np.bool_]
    conflicts: npt.NDArray[np.bool_]
    moved: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Overlap:
    """Holds what the overlap of a source's files changes.

    Args:
        digests: of the rows that do not count, by partition.
        conflicts: ids in conflict, by partition.
        superseded: ids whose rows in a partition are older than their row in another, by partition.
    """

    digests: dict[str, RowsDigest] = field(default_factory=dict)
    conflicts: dict[str, list[str]] = field(default_factory=dict)
    superseded: dict[str, tuple[str, ...]] = field(default_factory=dict)


class FactsOfRows:
    """Collects the facts of the rows of a file, as :data:`ROW_FACTS`.

    Args:
        spec: names the column by which rows are newer.
    """

    def __init__(self, spec: CollectionSpec) -> None:
        self._spec = spec
        self._keys: dict[str, int] = {}
        self._pieces = [np.zeros(0, ROW_FACTS)]

    def add(
        self,
        aliased: pa.RecordBatch,
        contents: npt.NDArray[np.uint64],
        placed: Sequence[tuple[str, npt.NDArray[np.int64]]],
    ) -> None:
        """Append rows, with the hashes of their contents and their places by partition."""
        piece = np.zeros(aliased.num_rows, ROW_FACTS)
        name = self._spec.newest_by or ""
        piece["age"], piece["content"] = row_ages(aliased.column(name), name), contents
        for key, places in placed:
            piece["partition"][places] = self._keys.setdefault(key, len(self._keys))
        piece["partition"][np.asarray(normalize_ids(aliased.column(ID)).is_null())] = -1
        self._pieces.append(piece)

    def table(self, keys: Sequence[str]) -> RowFacts:
        """Return the facts of all rows, with the places of their partitions among those of the file."""
        facts = np.concatenate(self._pieces)
        ranks = np.array([keys.index(key) for key in self._keys] + [-1])
        facts["partition"] = ranks[facts["partition"]]
        return facts


def judge(
    ids: npt.NDArray[np.generic],
    ages: npt.NDArray[np.int64],
    contents: npt.NDArray[np.uint64],
    partitions: npt.NDArray[np.generic],
) -> Judged:
    """Return which rows count, are in conflict or have moved, by id and whatever the order of the rows.

    Args:
        ids: numbers ``[N]`` that are equal where ids are.
        ages: ``int64[N]``, the greater the newer, or :data:`~rasteret_assets.columns.ages.UNKNOWN_AGE`.
        contents: ``uint64[N]``, equal where rows are.
        partitions: numbers ``[N]`` of the rows' partitions.
    """
    counts, conflicts, moved = (np.zeros(len(ids), bool) for _ in range(3))
    if not len(ids):
        return Judged(counts, conflicts, moved)
    order = np.lexsort((contents, ages, ids))
    ids, ages, contents, partitions = ids[order], ages[order], contents[order], partitions[order]
    first = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]]))
    last = np.append(first[1:], len(ids)) - 1
    group = np.repeat(np.arange(len(first)), last - first + 1)
    newest = ages[last]  # UNKNOWN_AGE if a row of the id has this age, which is the greatest number
    is_newest = ages == newest[group]
    # All rows of an id with an unknown age are compared, because none of them is known to be older.
    compared = is_newest | (newest == UNKNOWN_AGE)[group]
    lowest = np.minimum.reduceat(np.where(compared, contents, np.uint64(2**64 - 1)), first)
    highest = np.maximum.reduceat(np.where(compared, contents, np.uint64(0)), first)
    in_conflict = (lowest != highest)[group]
    is_last = np.zeros(len(ids), bool)
    is_last[last] = True
    counts[order] = in_conflict | is_last
    conflicts[order] = in_conflict
    moved[order] = ~in_conflict & ~is_newest & (partitions != partitions[last][group])
    return Judged(counts, conflicts, moved)


def find_overlap(
    source: Source,
    spec: CollectionSpec,
    hashes: Mapping[str, npt.NDArray[np.uint64]],
    facts: FactsOf,
    keys: Mapping[str, Sequence[str]],
    suspects: npt.NDArray[np.uint64],
) -> Overlap:
    """Judge the rows whose id occurs more than once in a source.

    Only ids are read, and only of files with rows that are in conflict or moved to another partition, because such
    records are named by their ids.

    Args:
        source: opened record table.
        spec: of the collection.
        hashes: of the ids of each file's rows, by version of the file.
        facts: yields the facts of the same rows, file by file.
        keys: of each file's partitions, in order, by version of the file.
        suspects: hashes of ids that occur more than once.
    """
    names = sorted({key for of_file in keys.values() for key in of_file})
    place = {key: at for at, key in enumerate(names)}
    of_file = {version: np.array([place[key] for key in of_part], np.int64) for version, of_part in keys.items()}
    held = [version for version, of_rows in hashes.items() if np.isin(of_rows, suspects).any()]
    rows = [_chosen(hashes[version], found, of_file[version], suspects) for version, found in facts(held)]
    if not rows:
        return Overlap()
    ids, ages, contents, partitions = (np.concatenate(column) for column in zip(*rows, strict=True))
    judged = judge(ids, ages, contents, partitions)
    overlap = Overlap()
    for at in np.unique(partitions[~judged.counts]):
        digest = overlap.digests.setdefault(names[at], RowsDigest())
        digest.add(contents[~judged.counts & (partitions == at)])
    reported = np.unique(ids[judged.conflicts | judged.moved])
    if len(reported):
        _name(source, spec, hashes, facts, of_file, reported, names, overlap)
    return overlap


def _chosen(
    hashes: npt.NDArray[np.uint64],
    facts: RowFacts,
    partitions: npt.NDArray[np.int64],
    suspects: npt.NDArray[np.uint64],
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64], npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    rows = np.flatnonzero(np.isin(hashes, suspects) & (facts["partition"] >= 0))
    chosen = facts[rows]
    return hashes[rows], chosen["age"], chosen["content"], partitions[chosen["partition"]]


def _name(
    source: Source,
    spec: CollectionSpec,
    hashes: Mapping[str, npt.NDArray[np.uint64]],
    facts: FactsOf,
    of_file: Mapping[str, npt.NDArray[np.int64]],
    reported: npt.NDArray[np.uint64],
    names: Sequence[str],
    overlap: Overlap,
) -> None:
    """Judge rows again by their ids instead of hashes, and add the ids in conflict and the moved ids to ``overlap``."""
    texts, chosen = [pa.array([], pa.string())], []
    parts = {part.version: part for part in source.parts if np.isin(hashes[part.version], reported).any()}
    for version, of_rows in facts(parts):
        start = 0
        for batch in source.batches(parts[version], [spec.source_column(ID)]):
            rows = slice(start, start + batch.num_rows)
            start += batch.num_rows
            ids, here = normalize_ids(batch.column(0)), of_rows[rows]
            places = np.flatnonzero(np.isin(hashes[version][rows], reported) & (here["partition"] >= 0))
            texts.append(ids.take(pa.array(places)))
            found = here[places]
            chosen.append((found["age"], found["content"], of_file[version][found["partition"]]))
    encoded = pa.chunked_array(texts).combine_chunks().dictionary_encode()
    ages, contents, partitions = (np.concatenate(column) for column in zip(*chosen, strict=True))
    codes = np.asarray(encoded.indices)
    judged = judge(codes, ages, contents, partitions)
    for at in np.unique(partitions[judged.conflicts | judged.moved]):
        here = partitions == at
        if len(shared := _texts(encoded, codes[judged.conflicts & here])):
            overlap.conflicts[names[at]] = shared
        if len(moved := _texts(encoded, codes[judged.moved & here])):
            overlap.superseded[names[at]] = tuple(moved)


def _texts(encoded: pa.DictionaryArray, codes: npt.NDArray[np.generic]) -> list[str]:
    return sorted(encoded.dictionary.take(pa.array(np.unique(codes))).to_pylist())
