"""Choose how the columns of a published file are encoded: the smallest way that every reader opens.

Tile offsets rise by the size of their tiles, and tiles of one file have similar sizes: packed differences take half the
bytes of dictionary and plain pages (``docs/layout.md`` has the numbers). Boxes are doubles that share their high bytes,
and are split into streams of bytes; integers are not, because DuckDB 1.5 reads no such streams of integers. Columns
that repeat values, by the first rows, get a dictionary. Columns that compression hardly makes smaller are not
compressed, because a reader pays for every compressed column of every row group, however small: dictionaries of a few
values, numbers, and packed tables, whose bytes look random. Only columns that readers filter by have statistics,
because every reader reads the whole footer before anything else.
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

#: First rows of a file that decide how its columns are encoded.
SAMPLE_ROWS: Final = 256
# Higher levels save nothing with record tables (level 3: 0.1 % more bytes, 15 % more time).
_ZSTD_LEVEL: Final = 1
#: Sample rows of fewer bytes are written plain, because the footer is larger than the rows, and because trying
#: encodings takes a seventh of the time of a partition of few records.
_TRIED_BYTES: Final = 8192
#: Share of the bytes of a column, and bytes per row, that compression must save.
_LEAST_SHARE_SAVED: Final = 0.1
_LEAST_BYTES_SAVED: Final = 1


class _Leaf(NamedTuple):
    """A column of Parquet: a leaf of a column of the table.

    Args:
        field: column of the table.
        inside: path of the leaf in the column; empty for a column that is not nested.
        path: of the leaf, as Parquet writes it.
        is_alone: whether no other leaf has this path. A column may be called ``bbox.xmin``, and options go by path.
    """

    field: pa.Field
    inside: str
    path: str
    is_alone: bool = True

    @property
    def encoding(self) -> str | None:
        """Return the encoding that is smaller than dictionary and plain pages; None if they are."""
        if not self.is_alone:
            return None
        if is_band_field(self.field) and not set(TILE_TABLES).isdisjoint(self.inside.split(".")):
            return "DELTA_BINARY_PACKED"
        return "BYTE_STREAM_SPLIT" if self.field.name == BBOX else None

    @property
    def is_filtered(self) -> bool:
        """Tell whether readers filter by the leaf: scalar properties of records, boxes, and native geometries."""
        is_bytes = self.field.name == GEOMETRY and not isinstance(self.field.type, pa.ExtensionType)
        return self.field.name == BBOX or (not self.inside and not is_bytes)


def parquet_options(schema: pa.Schema, sample: pa.Table) -> dict[str, Any]:
    """Return options of ``pyarrow.parquet.ParquetWriter`` for a published file.

    Args:
        schema: of the file.
        sample: first rows of the file, which decide which columns are compressed and which get a dictionary, so that
            equal rows give equal files.
    """
    leaves, options = _options(schema.remove_metadata())
    if sample.nbytes < _TRIED_BYTES:
        return {**options, "use_dictionary": [], "compression": "none"}
    # Written twice, as dictionaries and as plain pages, except columns that have an encoding of their own.
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
    """Bytes that some rows of a column take, as they are (``bare``) and compressed."""

    rows: int
    bare: int
    compressed: int

    @property
    def is_compressible(self) -> bool:
        saved = self.bare - self.compressed
        return saved >= max(_LEAST_SHARE_SAVED * self.bare, _LEAST_BYTES_SAVED * self.rows)

    def serves_better_than(self, plain: _Size) -> bool:
        """Tell whether a dictionary of this size is smaller than plain pages, as bare and as compressed bytes."""
        return self.bare < plain.bare and not (self.is_compressible and plain.compressed <= self.compressed)


def _sizes(sample: pa.Table, options: Mapping[str, Any]) -> dict[str, _Size]:
    """Return the size of every column of the sample, by path."""
    sink = io.BytesIO()
    bare = {**options, "write_statistics": False, "write_page_index": False}
    pq.write_table(sample, sink, compression="zstd", compression_level=_ZSTD_LEVEL, **bare)
    group = pq.ParquetFile(sink).metadata.row_group(0)
    chunks = [group.column(leaf) for leaf in range(group.num_columns)]
    return {
        chunk.path_in_schema: _Size(group.num_rows, chunk.total_uncompressed_size, chunk.total_compressed_size)
        for chunk in chunks
    }


# Cached, because all partitions of a collection have one schema.
@lru_cache(maxsize=8)
def _options(schema: pa.Schema) -> tuple[list[_Leaf], dict[str, Any]]:
    """Return all leaves of a schema, and the options that depend on the schema alone."""
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
        # Written as an empty file, because Parquet alone says how it spells the paths of leaves.
        sink = io.BytesIO()
        pq.write_table(pa.schema([field]).empty_table(), sink)
        found = pq.ParquetFile(sink).schema
        for position in range(len(found)):
            path = found.column(position).path
            yield _Leaf(field=field, inside=path[len(field.name) + 1 :], path=path)
