"""List headers that a partition no longer needs, so that a record that moves to another partition keeps its headers.

A record that gets another date leaves its partition, and its header rows stay in that partition's store. They are
listed in ``<stages>/headers/<partition>/unused.parquet``, so that a search for a header in all other partitions reads
one listing and these small files.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from rasteret_assets.columns.conform import conform_rows
from rasteret_assets.columns.hashing import hash_texts
from rasteret_assets.errors import CollectionError
from rasteret_assets.headers.index import KEY_COLUMNS, HeaderIndex
from rasteret_assets.headers.store import UNUSED, HeaderFileWriter, HeaderRowReader, HeaderStore, take_rows
from rasteret_assets.schema import BANDS, HEADER_FILE, HEADER_ROW, HEADER_SCHEMA, HEADERS, ID
from rasteret_assets.storage.filesystems import list_files
from rasteret_assets.storage.workspace import Workspace
from rasteret_assets.storage.workspace.streams import STREAM_SUFFIX

_SCHEMA: Final = pa.schema(
    [*(HEADER_SCHEMA.field(name) for name in KEY_COLUMNS), (HEADER_FILE, pa.string()), (HEADER_ROW, pa.int32())]
)
_OPTIONS: Final[dict[str, Any]] = {"compression": "lz4", "write_statistics": False}
#: Most rows that are copied at once from one store to another.
_STEP_ROWS: Final = 1024
_KEPT_S: Final = 24 * 3600


def list_unused(workspace: Workspace, key: str, ids: Callable[[], pa.ChunkedArray]) -> None:
    """List the header rows of a partition that belong to records which the partition no longer has.

    Args:
        workspace: of the collection.
        key: of the partition. Its last ledger is compared with ``ids``; nothing is done if there is no ledger.
        ids: returns the ids of the records that the partition has now.

    Raises:
        CollectionError: if the ledger or a header file is damaged.
    """
    ledger = workspace.stage_file(BANDS, key)
    have = np.sort(hash_texts(ids().combine_chunks()))
    lost: list[pa.Table] = []
    for batch in workspace.read_batches(ledger, [ID, HEADER_FILE, HEADER_ROW]):
        hashes = hash_texts(batch.column(ID))
        place = np.minimum(np.searchsorted(have, hashes), max(0, len(have) - 1))
        gone = have[place] != hashes if len(have) else np.ones(len(hashes), bool)
        gone &= np.asarray(batch.column(HEADER_ROW).is_valid())
        if gone.any():
            lost.append(pa.Table.from_batches([batch]).filter(pa.array(gone)).select([HEADER_FILE, HEADER_ROW]))
    if not lost:
        return
    store = HeaderStore(workspace, key)
    path = f"{store.folder}/{UNUSED}"
    places = pa.concat_tables(lost).combine_chunks()
    # Without rows of files that were deleted, because they cannot be copied.
    places = places.filter(pc.is_in(places[HEADER_FILE], pa.array(store.names, pa.string())))
    if not places.num_rows:
        return
    if (before := _listed(workspace, path)) is not None:
        before = before.filter(pc.is_in(before[HEADER_FILE], pa.array(store.names, pa.string())))
        listed = np.isin(_numbers(places, store), _numbers(before, store))
        if listed.all():
            return
        places = places.filter(pa.array(~listed))
    encoded = places[HEADER_FILE].combine_chunks().dictionary_encode()
    names, files = encoded.dictionary.to_pylist(), np.asarray(encoded.indices, np.int64)
    with HeaderRowReader(workspace, store, KEY_COLUMNS) as reader:
        keys = reader.take(names, files, np.asarray(places[HEADER_ROW], np.int64))
    rows = pa.table([*keys.columns, *places.columns], _SCHEMA)
    workspace.write_table(path, rows if before is None else pa.concat_tables([before, rows]), **_OPTIONS)


def _numbers(places: pa.Table, store: HeaderStore) -> npt.NDArray[np.int64]:
    """Return a number for each place, made of the position of its file in the store and of its row."""
    files = pc.fill_null(pc.index_in(places[HEADER_FILE], value_set=pa.array(store.names, pa.string())), -1)
    return np.asarray(files, np.int64) << 32 | np.asarray(places[HEADER_ROW], np.int64)


class UnusedHeaders:
    """Copies headers that other partitions no longer need into the store of a partition that needs them.

    Args:
        workspace: of the collection.
        key: of the partition that needs them.
        writer: writes into the partition's store.
        index: of the partition's store; gets the copied rows.
        lists: returns the paths of the lists of all partitions, as :func:`unused_lists` does.
    """

    def __init__(
        self,
        workspace: Workspace,
        key: str,
        writer: HeaderFileWriter,
        index: HeaderIndex,
        lists: Callable[[], Sequence[str]],
    ) -> None:
        self._workspace = workspace
        self._key = key
        self._writer = writer
        self._index = index
        self._all_lists = lists
        self._lists: list[str] | None = None

    def copy(self, targets: pa.Table) -> bool:
        """Copy the listed headers of some targets; return whether a header was copied.

        Args:
            targets: with the columns ``identity`` and ``band_index``.

        Raises:
            CollectionError: if a file of another partition is damaged.
        """
        if self._lists is None:
            self._lists = self._lists_of_others()
        copied = False
        for path in self._lists:
            if not targets.num_rows:
                break
            listed = _listed(self._workspace, path)
            if listed is None or not listed.num_rows:
                continue
            index = HeaderIndex()
            index.add([("", 0, listed)])
            found = index.find(targets)
            is_found = found.files >= 0
            if is_found.any():
                # The other partition may be compacted at this moment; then the header is fetched.
                with suppress(CollectionError):
                    self._copy(path.split("/")[-2], take_rows(listed, np.unique(found.rows[is_found])))
                    targets = targets.filter(pa.array(~is_found))
                    copied = True
        return copied

    def _copy(self, key: str, listed: pa.Table) -> None:
        store = HeaderStore(self._workspace, key)
        listed = listed.filter(pc.is_in(listed[HEADER_FILE], pa.array(store.names, pa.string())))
        encoded = listed[HEADER_FILE].combine_chunks().dictionary_encode()
        files, rows = np.asarray(encoded.indices, np.int64), np.asarray(listed[HEADER_ROW], np.int64)
        order = np.lexsort([rows, files])
        with HeaderRowReader(self._workspace, store, HEADER_SCHEMA.names) as reader:
            step = max(1, min(_STEP_ROWS, 16 * 2**20 // reader.row_bytes(encoded.dictionary.to_pylist())))
            for start in range(0, len(order), step):
                chosen = order[start : start + step]
                copied = reader.take(encoded.dictionary.to_pylist(), files[chosen], rows[chosen])
                name, first = self._writer.put(copied)
                self._index.add([(name, first, copied)])

    def _lists_of_others(self) -> list[str]:
        """Return the paths of the lists of other partitions, those with the most similar keys first."""
        paths = [path for path in self._all_lists() if path.split("/")[-2] != self._key]
        return sorted(paths, key=lambda path: (-_common(path.split("/")[-2], self._key), path))


def unused_lists(workspace: Workspace) -> list[str]:
    """Return the paths of the lists of unused header rows of all partitions."""
    return [info.path for info in list_files(workspace.fs, f"{workspace.stages}/{HEADERS}", (UNUSED,))]


def sweep_headers(workspace: Workspace) -> None:
    """Delete the header files of partitions without a ledger, if no file was written within the last day."""
    root = f"{workspace.stages}/{HEADERS}"
    oldest = time.time() - _KEPT_S
    ledgers = {info.path for info in list_files(workspace.fs, f"{workspace.stages}/{BANDS}", (".parquet",))}
    for info in workspace.fs.get_file_info(pafs.FileSelector(root, allow_not_found=True)):
        if info.type != pafs.FileType.Directory or workspace.stage_file(BANDS, info.base_name) in ledgers:
            continue
        files = list_files(workspace.fs, info.path, (".parquet", STREAM_SUFFIX))
        if all(file.mtime is not None and file.mtime.timestamp() < oldest for file in files):
            for file in files:
                workspace.remove(file.path)


def lately_unused(workspace: Workspace, store: HeaderStore) -> Counter[str]:
    """Return how many rows of each file of a partition's store are listed, if the list is less than a day old."""
    path = f"{store.folder}/{UNUSED}"
    info = workspace.fs.get_file_info(path)
    if info.mtime is None or info.mtime.timestamp() < time.time() - _KEPT_S:
        return Counter()
    listed = workspace.read_table(path, cache=True)
    if listed is None:
        return Counter()
    distinct = listed.group_by([HEADER_FILE, HEADER_ROW]).aggregate([])
    return Counter(distinct[HEADER_FILE].to_pylist())


def _listed(workspace: Workspace, path: str) -> pa.Table | None:
    """Return a list of unused header rows; columns that an earlier version did not write are null."""
    table = workspace.read_table(path)
    if table is None:
        return None
    return pa.Table.from_batches([conform_rows(batch, _SCHEMA) for batch in table.to_batches()], _SCHEMA)


def forget_unused(workspace: Workspace, store: HeaderStore) -> None:
    """Delete the list of a partition's unused header rows, after these were dropped."""
    workspace.remove(f"{store.folder}/{UNUSED}")


def _common(one: str, other: str) -> int:
    """Return how many first characters two keys share."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
