"""Keep the files of a dataset the same during a scan, although a build may replace them at any moment.

A dataset keeps footers, and opens files by name when it reads rows: after a file was replaced, its old footer would be
used with new bytes. On a local disk an open file keeps its bytes, so files are opened first and their footers read from
the open files. An object store has no open files; there the size and time of objects are compared before and after, and
their footers are read in between.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from rasteret_assets.collection.table._prune import Boxes, groups_near
from rasteret_assets.errors import CollectionError
from rasteret_assets.storage.io_errors import unreadable

#: Files that are open, and scanned side by side, at once.
OPEN_FILES = 64

# No pre-buffering on a disk, because joining reads takes longer there than the reads.
_LOCAL = ds.ParquetFileFormat(default_fragment_scan_options=ds.ParquetFragmentScanOptions(pre_buffer=False))


@dataclass(frozen=True)
class Pinned:
    """A part of a dataset that can be scanned safely.

    Args:
        dataset: the part.
        before: size in bytes and time of every object before the scan, by path; empty for open files of a disk.
    """

    dataset: ds.Dataset
    before: dict[str, tuple[int, object]] = field(default_factory=dict)

    def check(self) -> None:
        """Check, after a scan or its failure, that no object was replaced since the scan began.

        Raises:
            CollectionError: if an object was replaced or removed since.
        """
        if self.before:
            now = _identities(self.dataset, list(self.before))
            if changed := [path for path, was in self.before.items() if now[path] != was]:
                raise CollectionError(
                    f"{changed[0]} was replaced or removed by a build while it was read: load the collection again"
                )


def pinned(
    dataset: ds.Dataset, expression: pc.Expression | None, areas: Sequence[Boxes] = ()
) -> Iterator[Pinned]:  # fmt: skip
    """Yield the dataset in parts that can be scanned safely, without files that have no row for ``expression``.

    Args:
        dataset: of any kind; only Parquet files can be replaced.
        expression: condition on rows; None for all rows.
        areas: groups of boxes ``[K, 4]``; a row's box must overlap one box of every group, as ``expression`` demands
            too. On a disk, row groups without such a row are left out.

    Raises:
        CollectionError: if a file was removed or is damaged.
    """
    if not isinstance(dataset, ds.FileSystemDataset) or not isinstance(dataset.format, ds.ParquetFileFormat):
        yield Pinned(dataset)
        return
    local = dataset.filesystem.type_name == "local"
    chosen = [
        fragment
        for fragment in dataset.get_fragments(filter=expression)
        if (local and areas) or _may_hold(dataset, fragment, expression)
    ]
    for start in range(0, len(chosen), OPEN_FILES):
        group = chosen[start : start + OPEN_FILES]
        if local:
            yield Pinned(_opened(dataset, group, areas))
        else:
            before = _identities(dataset, [fragment.path for fragment in group])
            yield Pinned(_anew(dataset, group, before), before)


def removed_file(path: str) -> CollectionError:
    """Return the error for a file that was removed after the collection was opened."""
    return CollectionError(f"{path} was removed after the collection was opened: load the collection again")


def _may_hold(dataset: ds.Dataset, fragment: ds.ParquetFileFragment, expression: pc.Expression | None) -> bool:
    """Return whether a row group of the file may hold a row for ``expression``, by its statistics."""
    return expression is None or bool(fragment.subset(expression, schema=dataset.schema).row_groups)


def _opened(
    dataset: ds.FileSystemDataset, group: list[ds.ParquetFileFragment], areas: Sequence[Boxes]
) -> ds.FileSystemDataset:
    def opened(fragment: ds.ParquetFileFragment) -> ds.ParquetFileFragment | None:
        try:
            file = dataset.filesystem.open_input_file(fragment.path)
        except FileNotFoundError as error:
            raise removed_file(fragment.path) from error
        held = _LOCAL.make_fragment(file, partition_expression=fragment.partition_expression)
        if not areas:
            return held
        try:
            held.ensure_complete_metadata()
            near = groups_near(pq.ParquetFile(file, metadata=held.metadata, pre_buffer=False), areas)
        except (OSError, pa.ArrowException) as error:
            raise unreadable(fragment.path, error) from error
        return held.subset(row_group_ids=near) if near else None

    if areas:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = list(pool.map(opened, group))
    else:
        found = [opened(fragment) for fragment in group]
    return ds.FileSystemDataset([held for held in found if held is not None], dataset.schema, _LOCAL)


def _anew(
    dataset: ds.FileSystemDataset, group: list[ds.ParquetFileFragment], now: Mapping[str, tuple[int, object]]
) -> ds.FileSystemDataset:
    """Return the files without the footers that were read when the collection was opened, which may be old.

    Sizes are those of ``now``, so that Arrow does not ask for them again.
    """
    fragments = [
        dataset.format.make_fragment(
            fragment.path, dataset.filesystem, partition_expression=fragment.partition_expression,
            file_size=now[fragment.path][0],
        )
        for fragment in group
    ]  # fmt: skip
    return ds.FileSystemDataset(fragments, dataset.schema, dataset.format, dataset.filesystem)


def _identities(dataset: ds.FileSystemDataset, paths: list[str]) -> dict[str, tuple[int, object]]:
    infos: list[pafs.FileInfo] = dataset.filesystem.get_file_info(paths)
    return {info.path: (info.size, info.mtime) for info in infos}
