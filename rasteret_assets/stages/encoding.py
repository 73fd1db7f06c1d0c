"""How the columns of a published file are encoded: what measured smallest while every reader still opens it.

Tile offsets rise by what their tiles weigh, and tiles of one file weigh alike: as packed differences they take half of
what dictionary and plain pages make of them (``docs/layout.md`` has the numbers). Boxes are doubles that share their
high bytes, and are split into streams of bytes; for integers DuckDB 1.5 reads no such streams. Dictionaries serve what
repeats; addresses, ids and footprints do not. Statistics are kept where somebody can filter by them, because a footer
is read whole, by every reader, before anything else.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from rasteret_assets.schema import BBOX, GEOMETRY, HREF, ID, is_band_field

#: Of a band and of each of its overviews.
_TILE_TABLES: Final = frozenset({"tile_offsets", "tile_byte_counts"})


class _Leaf(NamedTuple):
    """A Parquet column: the table's column it is of, its path inside that, and its path as Parquet writes it."""

    field: pa.Field
    inside: str
    path: str

    @property
    def encoding(self) -> str | None:
        """The encoding that beats dictionary and plain pages, if one does."""
        if is_band_field(self.field) and not _TILE_TABLES.isdisjoint(self.inside.split(".")):
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


def parquet_options(schema: pa.Schema) -> dict[str, Any]:
    """Options of ``pyarrow.parquet.ParquetWriter`` for a published schema."""
    return dict(_options(schema.remove_metadata()))


# All partitions of a collection have one schema.
@lru_cache(maxsize=8)
def _options(schema: pa.Schema) -> dict[str, Any]:
    leaves = list(_leaves(schema))
    return {
        "version": "2.6",
        "compression": "zstd",
        "compression_level": 3,
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
