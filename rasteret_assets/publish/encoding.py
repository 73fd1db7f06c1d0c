"""How the columns of a published file are encoded: what measured smallest while every reader still opens it.

Tile offsets rise by what their tiles weigh, and tiles of one file weigh alike: as packed differences they take half of
what dictionary and plain pages make of them (``docs/layout.md`` has the numbers). Boxes are doubles that share their
high bytes, and are split into streams of bytes; for integers DuckDB 1.5 reads no such streams. Dictionaries serve what
repeats, which the first rows tell. What compression hardly makes smaller is left as it is, because a reader pays for
every compressed column of every row group, however small: dictionaries of a few values, numbers, and packed tables,
which are noise. Statistics are kept where somebody can filter by them, because a footer is read whole, by every
reader, before anything else.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from rasteret_assets.schema import BBOX, GEOMETRY, TILE_TABLES, is_band_field

#: Rows that are enough to judge a column by.
SAMPLE_ROWS: Final = 256
# Of record tables higher levels save nothing (level 3: 0.1 % more bytes, 15 % more time).
_ZSTD_LEVEL: Final = 1
#: Rows of fewer bytes are written as they are: the footer is larger than they are, and trying what is smallest takes a
#: seventh of the time that a partition of few records does.
_TRIED_BYTES: Final = 8192
#: What compression must save of a column: this share, and so many bytes a row.
_LEAST_SHARE_SAVED: Final = 0.1
_LEAST_BYTES_SAVED: Final = 1


class _Leaf(NamedTuple):
    """A Parquet column: the table's column it is of, its path inside that, and its path as Parquet writes it."""

    field: pa.Field
    inside: str
    path: str
    is_alone: bool = True
    """Whether no other has this path: a column may be called ``bbox.xmin``, and options go by path."""

    @property
    def encoding(self) -> str | None:
        """The encoding that beats dictionary and plain pages, if one does."""
        if not self.is_alone:
            return None
        if is_band_field(self.field) and not set(TILE_TABLES).isdisjoint(self.inside.split(".")):
            return "DELTA_BINARY_PACKED"
        return "BYTE_STREAM_SPLIT" if self.field.name == BBOX else None

    @property
    def is_filtered(self) -> bool:
        """Whether rows are looked for by it: the record's own scalar properties, the boxes, and native geometries."""
        is_bytes = self.field.name == GEOMETRY and not isinstance(self.field.type, pa.ExtensionType)
        return self.field.name == BBOX or (not self.inside and not is_bytes)


def parquet_options(schema: pa.Schema, sample: pa.Table) -> dict[str, Any]:
    """Options of ``pyarrow.parquet.ParquetWriter`` for a published file.

    Args:
        schema: of the file.
        sample: some of its rows, which decide what is compressed and what gets a dictionary: equal rows are written in
            equal ways.
    """
    leaves, options = _options(schema.remove_metadata())
    if sample.nbytes < _TRIED_BYTES:
        return {**options, "use_dictionary": [], "compression": "none"}
    # As dictionaries and as plain pages; columns that have an encoding of their own are the same in both.
    free = [leaf.path for leaf in leaves if leaf.encoding is None]
    coded, plain = (_sizes(sample, {**options, "use_dictionary": paths}) for paths in (free, []))
    repeating = [path for path in free if coded[path].serves_better_than(plain[path])]
    sizes = plain | {path: coded[path] for path in repeating}
    compressed = [leaf.path for leaf in leaves if sizes[leaf.path].is_compressible]
    return {
        **options,
        "use_dictionary": repeating,
        "compression": {leaf.path: "zstd" if leaf.path in compressed else "none" for leaf in leaves},
        "compression_level": dict.fromkeys(compressed, _ZSTD_LEVEL),
    }


class _Size(NamedTuple):
    """Bytes that some rows of a column take as they are, and compressed."""

    rows: int
    bare: int
    compressed: int

    @property
    def is_compressible(self) -> bool:
        saved = self.bare - self.compressed
        return saved >= max(_LEAST_SHARE_SAVED * self.bare, _LEAST_BYTES_SAVED * self.rows)

    def serves_better_than(self, plain: _Size) -> bool:
        """Whether a dictionary is smaller than plain pages; where both are compressed, when they are."""
        return self.bare < plain.bare and not (self.is_compressible and plain.compressed <= self.compressed)


def _sizes(sample: pa.Table, options: Mapping[str, Any]) -> dict[str, _Size]:
    """What every column of the sample takes, by path."""
    sink = io.BytesIO()
    bare = {**options, "write_statistics": False, "write_page_index": False}
    pq.write_table(sample, sink, compression="zstd", compression_level=_ZSTD_LEVEL, **bare)
    group = pq.ParquetFile(sink).metadata.row_group(0)
    chunks = [group.column(leaf) for leaf in range(group.num_columns)]
    return {
        chunk.path_in_schema: _Size(group.num_rows, chunk.total_uncompressed_size, chunk.total_compressed_size)
        for chunk in chunks
    }


# All partitions of a collection have one schema.
@lru_cache(maxsize=8)
def _options(schema: pa.Schema) -> tuple[list[_Leaf], dict[str, Any]]:
    """All columns, and what is decided by the schema alone."""
    leaves = list(_leaves(schema))
    times = Counter(leaf.path for leaf in leaves)
    leaves = [leaf._replace(is_alone=times[leaf.path] == 1) for leaf in leaves]
    return leaves, {
        "version": "2.6",
        "store_schema": True,
        "write_page_index": True,
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
