"""Write the files of partitions side by side, in a bounded number of bytes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

import pyarrow as pa
import pyarrow.parquet as pq

from rasteret_assets.errors import CollectionError
from rasteret_assets.publish.encoding import SAMPLE_ROWS, parquet_options
from rasteret_assets.publish.footer import PublishedFacts, footer
from rasteret_assets.publish.row_groups import ROW_GROUP_TILE_BYTES, group_rows, row_groups
from rasteret_assets.publish.stac import is_stac, stac_footer
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.process.memory import give_back

#: Bytes of rows that wait for their row groups, in all files.
_WAITING_BYTES: Final = 3 * ROW_GROUP_TILE_BYTES


class PartitionFiles:
    """Files that are written side by side, row group by row group.

    Args:
        paths: of the files, by partition key.
        facts: about all rows of each, which stand in its footer.
        spec: name and description of the collection.
    """

    def __init__(self, paths: Mapping[str, Path], facts: Mapping[str, PublishedFacts], spec: CollectionSpec) -> None:
        self._paths = paths
        self._facts = facts
        self._spec = spec
        self._writers: dict[str, pq.ParquetWriter] = {}
        self._waiting: dict[str, list[pa.Table]] = {key: [] for key in paths}
        self._bytes = dict.fromkeys(paths, 0)
        self._rows = dict.fromkeys(paths, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            for key in self._paths:
                self._write(key)
        for writer in self._writers.values():
            writer.close()
        if kind is None:
            self._finish()

    def add(self, key: str, rows: pa.Table) -> None:
        """Take rows for a file; they are written once they make a row group, or too many bytes wait in all files.

        Raises:
            CollectionError: if the rows are not those that the facts were gathered from.
        """
        self._waiting[key].append(rows)
        self._bytes[key] += rows.nbytes
        most = group_rows(self._facts[key].rows)
        if self._bytes[key] > ROW_GROUP_TILE_BYTES or sum(piece.num_rows for piece in self._waiting[key]) >= most:
            self._write(key, whole=False)
        while sum(self._bytes.values()) > _WAITING_BYTES:
            self._write(max(self._bytes, key=self._bytes.__getitem__))

    def _write(self, key: str, *, whole: bool = True) -> None:
        """Write the rows that wait for a file; with ``whole=False`` only those that make a whole row group."""
        pieces, self._waiting[key] = self._waiting[key], []
        self._bytes[key] = 0
        groups = list(row_groups(pieces, group_rows(self._facts[key].rows)))
        if not whole and len(groups) > 1:
            self._waiting[key] = [groups.pop()]
            self._bytes[key] = self._waiting[key][0].nbytes
        for group in groups:
            self._rows[key] += group.num_rows
            self._writer(key, group).write_table(group.replace_schema_metadata(None), row_group_size=group.num_rows)
        give_back()

    def _writer(self, key: str, group: pa.Table) -> pq.ParquetWriter:
        if key not in self._writers:
            keys = footer(self._facts[key], self._spec)
            if is_stac(group.schema):
                keys |= stac_footer(self._facts[key], self._spec)
            plain = group.schema.remove_metadata()
            self._paths[key].parent.mkdir(parents=True, exist_ok=True)
            self._writers[key] = pq.ParquetWriter(
                self._paths[key], plain.with_metadata(keys), write_page_checksum=True,
                **parquet_options(plain, group.replace_schema_metadata(None).slice(0, SAMPLE_ROWS)),
            )  # fmt: skip
        return self._writers[key]

    def _finish(self) -> None:
        """Close and sync the files, and compare the rows written with the rows counted."""
        for key, path in self._paths.items():
            if self._rows[key] != self._facts[key].rows:
                raise CollectionError(
                    f"{self._facts[key].rows} records of {key or 'the collection'} were found at first, and then "
                    f"{self._rows[key]}: the collection was published anew meanwhile. Load it again, and export again"
                )
            with path.open("rb") as file:
                os.fsync(file.fileno())
