"""How the columns of a published file are encoded: what measured smallest while every reader still opens it.

Tile offsets rise by what their tiles weigh, and tiles of one file weigh alike: as packed differences they take half of
what dictionary and plain pages make of them (``docs/layout.md`` has the numbers). Boxes are doubles that share their
high bytes, and are split into streams of bytes; for integers DuckDB 1.5 reads no such streams. Dictionaries serve what
repeats; addresses, ids and footprints do not. What compression hardly makes smaller is left as it is, because a reader
pays for every compressed column of every row group, however small: dictionaries of a few values, numbers, and packed
tables, which are noise. Statistics are kept where somebody can filter by them, because a footer is read whole, by every
reader, before anything else.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from rasteret_assets.schema import BBOX, GEOMETRY, HREF, ID, TILE_TABLES, is_band_field

#: Rows that are enough to judge a column by.
SAMPLE_ROWS: Final = 256
_ZSTD_LEVEL: Final = 3
#: What compression must save of a column: this share, and so many bytes a row.
_LEAST_SHARE_SAVED: Final = 0.1
_LEAST_BYTES_SAVED: Final = 1


class _Leaf(NamedTuple):
    """A Parquet column: the table's column it is of, its path inside that, and its path as Parquet writes it."""

    field: pa.Field
    inside: str
    path: str

    @property
    def encoding(self) -> str | None:
        """The encoding that beats dictionary and plain pages, if one does."""
        if is_band_field(self.field) and not set(TILE_TABLES).isdisjoint(self.inside.split(".")):
            return "DELTA_BINARY_PACKED"
        return "BYTE_STREAM_SPLIT" if self.field.name == BBOX else None

    @property
    def is_unlike(self) -> bool:
        """Whether hardly any value repeats within a row group."""
        return self.field.name in (ID, GEOMETRY) or self.inside.rpartition(".")[2] == HREF

    @property
    def is_filtered(self) -> bool:
        """Whether rows are looked for by it: the record's own scalar properties, the boxes, and native geometries."""
        is_bytes = self.field.name == GEOMETRY and not isinstance(self.field.type, pa.ExtensionType)
        return self.field.name == BBOX or (not self.inside and not is_bytes)


def parquet_options(schema: pa.Schema, sample: pa.Table) -> dict[str, Any]:
    """Options of ``pyarrow.parquet.ParquetWriter`` for a published file.

    Args:
        schema: of the file.
        sample: some of its rows, which decide what is compressed: equal rows are written in equal ways.
    """
    paths, options = _options(schema.remove_metadata())
    compressed = _worth_compressing(sample, options)
    return {
        **options,
        "compression": {path: "zstd" if path in compressed else "none" for path in paths},
        "compression_level": dict.fromkeys(sorted(compressed), _ZSTD_LEVEL),
    }


def _worth_compressing(sample: pa.Table, options: Mapping[str, Any]) -> set[str]:
    """Paths of the columns that compression makes smaller by enough."""
    sink = io.BytesIO()
    bare = {**options, "write_statistics": False, "write_page_index": False}
    pq.write_table(sample, sink, compression="zstd", compression_level=_ZSTD_LEVEL, **bare)
    metadata = pq.ParquetFile(sink).metadata
    chunks = [
        metadata.row_group(group).column(leaf)
        for group in range(metadata.num_row_groups)
        for leaf in range(metadata.num_columns)
    ]
    return {
        chunk.path_in_schema
        for chunk in chunks
        if chunk.total_uncompressed_size - chunk.total_compressed_size
        >= max(_LEAST_SHARE_SAVED * chunk.total_uncompressed_size, _LEAST_BYTES_SAVED * sample.num_rows)
    }


# All partitions of a collection have one schema.
@lru_cache(maxsize=8)
def _options(schema: pa.Schema) -> tuple[list[str], dict[str, Any]]:
    """The paths of all columns, and what is decided by the schema alone."""
    leaves = list(_leaves(schema))
    return [leaf.path for leaf in leaves], {
        "version": "2.6",
        "store_schema": True,
        "write_page_index": True,
        "use_dictionary": [leaf.path for leaf in leaves if leaf.encoding is None and not leaf.is_unlike],
        "column_encoding": {leaf.path: leaf.encoding for leaf in leaves if leaf.encoding is not None},
        "write_statistics": [leaf.path for leaf in leaves if leaf.is_filtered],
    }


def _leaves(schema: pa.Schema) -> Iterator[_Leaf]:
    for field in schema:
        # An empty file of this column alone tells the paths of its leaves as they are spelled in any file.
        sink = io.BytesIO()
        pq.write_table(pa.schema([field]).empty_table(), sink)
        found = pq.ParquetFile(sink).schema
        for position in range(len(found)):
            path = found.column(position).path
            yield _Leaf(field=field, inside=path[len(field.name) + 1 :], path=path)
