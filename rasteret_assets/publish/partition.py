"""Publish a partition: normalized records joined with their headers, in spatial order, as GeoParquet.

A partition streams: its records come in published order, each batch is joined with its headers, and the rows are
written row group by row group. The bytes of the file do not depend on how records were cut into batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import pyarrow as pa

from rasteret_assets.errors import CollectionError, SourceError
from rasteret_assets.headers.store import HeaderRowReader, HeaderStore
from rasteret_assets.partitions import hive_keys
from rasteret_assets.publish.describe import describe_assets
from rasteret_assets.publish.encoding import SAMPLE_ROWS, parquet_options
from rasteret_assets.publish.footer import PublishedFacts, footer
from rasteret_assets.publish.join import HEADER_COLUMNS, PLACE_COLUMNS, CrsFindings, join_batches, join_headers
from rasteret_assets.publish.row_groups import group_rows, row_groups
from rasteret_assets.publish.stac import COLLECTION_DOCUMENT, collection_document, complete_items, is_stac, stac_footer
from rasteret_assets.schema import BAND_STRUCT, BANDS, GEOMETRY
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.process.background import in_background
from rasteret_assets.storage.process.memory import give_back
from rasteret_assets.storage.workspace import Workspace
from rasteret_assets.storage.workspace.commit import FileFacts, replace_published
from rasteret_assets.storage.workspace.placed_files import WrittenFile

#: Bytes of records with headers that are joined at once, and of a row group that may be joined as a whole.
_JOINED_BYTES: Final = 8 * 2**20
_JOINED_GROUP_BYTES: Final = 32 * 2**20
#: Factor by which records are assumed larger than their compressed files, until the first batch is joined.
_CAUTION: Final = 8


@dataclass(frozen=True, kw_only=True)
class PublishedPartition:
    """A partition that was published.

    Args:
        facts: about all rows.
        findings: about their CRSs and the query parameters of their addresses.
        written: the file.
        schema: of its rows, with the footer metadata.
    """

    facts: PublishedFacts
    findings: CrsFindings
    written: WrittenFile
    schema: pa.Schema


def publish_partition(
    workspace: Workspace,
    spec: CollectionSpec,
    key: str,
    bands: Sequence[str],
    *,
    records: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    facts: PublishedFacts,
) -> PublishedPartition:
    """Join a partition's records with its ledger and replace the published file, in bounded memory.

    Args:
        workspace: where the ledger and the header store lie.
        spec: of the collection.
        key: of the partition.
        bands: in column order.
        records: normalized records in published order.
        schema: of the records.
        facts: about all records.

    Raises:
        CollectionError: if a stage's file is damaged, or the ledger was made from other records.
        SourceError: if Parquet cannot hold a value.
    """
    # Relative to a published file, which lies some hive folders below the folder of the document.
    path = workspace.published_file(key)
    up = "../" * (path.removeprefix(workspace.published).count("/"))
    document = f"{up}{workspace.stages.rpartition('/')[2]}/{COLLECTION_DOCUMENT}"

    def completed(table: pa.Table) -> pa.Table:
        if spec.describe_assets:
            table = describe_assets(table, bands)
        return complete_items(_without_keys(table, spec), spec, document)

    no_headers = {band: pa.array([], BAND_STRUCT) for band in bands}
    joined_schema = completed(join_headers(schema.empty_table(), no_headers, spec.secrets)[0]).schema
    published = _published_schema(joined_schema, facts, spec)
    most = group_rows(facts.rows)
    store = HeaderStore(workspace, key)
    findings = CrsFindings()

    def joined(reader: HeaderRowReader) -> Iterator[pa.Table]:
        nonlocal findings
        ledger = workspace.read_batches(workspace.stage_file(BANDS, key), PLACE_COLUMNS) if bands else ()
        share = _Share(group=most, weight=len(bands) * reader.row_bytes(store.names))
        pieces = _cut(records, share) if bands else records
        for table, found in join_batches(pieces, ledger, bands, reader.take_each, spec.secrets):
            findings += found
            share.learn(table)
            yield completed(table)

    def put(beside: str, written: WrittenFile) -> None:
        replace_published(workspace, key, beside, FileFacts.of(facts.rows, written))

    with HeaderRowReader(workspace, store, HEADER_COLUMNS) as reader:
        groups = (_as_published(group, published) for group in row_groups(in_background(joined(reader)), most))
        first = next(groups, published.empty_table())
        options = parquet_options(published, first.slice(0, SAMPLE_ROWS))
        with workspace.writer(path, published, row_group_size=most, put=put, **options) as writer:
            for group in chain([first], groups):
                try:
                    writer.write(group)
                except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                    # Types were checked when the table was opened, but Parquet cannot hold all values of a type.
                    raise SourceError(f"records of {key} cannot be published as Parquet: {error}") from error
                if group.nbytes > _JOINED_GROUP_BYTES:
                    # Because allocators would keep the pages of several such row groups.
                    give_back()
            if writer.rows != facts.rows:
                raise CollectionError(
                    f"{path}: {writer.rows} records were joined, and {facts.rows} normalized: build {key} again"
                )
    return PublishedPartition(facts=facts, findings=findings, written=writer.written, schema=published)


@dataclass(kw_only=True)
class _Share:
    """The number of records to join at once, by the largest size of the records that were joined before.

    Args:
        group: rows of a row group at most.
        weight: bytes of a record with its headers; at first bytes in compressed files.
        is_guess: whether no record was joined yet, so that ``weight`` is of compressed files.
    """

    group: int
    weight: float
    is_guess: bool = True

    @property
    def rows(self) -> int:
        """Return the number of records to join at once."""
        # With caution, because tables that compress well are much larger in memory than in their files.
        weight = self.weight * (_CAUTION if self.is_guess else 1)
        # A whole row group if it fits, because its rows then need not be copied together.
        return self.group if self.group * weight <= _JOINED_GROUP_BYTES else max(1, int(_JOINED_BYTES / weight))

    def learn(self, joined: pa.Table) -> None:
        """Update the size of a record by records that were joined."""
        self.weight = max(self.weight, joined.nbytes / joined.num_rows)
        self.is_guess = False


def _cut(batches: Iterable[pa.RecordBatch], share: _Share) -> Iterator[pa.RecordBatch]:
    """Yield the records in batches of ``share.rows``, which changes while batches are joined."""
    for batch in batches:
        start = 0
        while start < batch.num_rows:
            piece = batch.slice(start, share.rows)
            start += piece.num_rows
            yield piece


def publish_collection_document(workspace: Workspace, spec: CollectionSpec) -> None:
    """Write ``collection.json`` from the states of all published partitions; remove it if no partition is published."""
    folder = workspace.published.rpartition("/")[2]

    def document() -> dict[str, Any] | None:
        # With facts only, because a partition that is being published for the first time has none.
        states = [state for state in workspace.states().values() if "rows" in state]
        return collection_document(states, spec, f"../{folder}/") if states else None

    workspace.derive_json(f"{workspace.stages}/{COLLECTION_DOCUMENT}", document)


def _published_schema(schema: pa.Schema, facts: PublishedFacts, spec: CollectionSpec) -> pa.Schema:
    keys = footer(facts, spec)
    if is_stac(schema):
        keys |= stac_footer(facts, spec)
    if spec.geometry_encoding == "native":
        position = schema.get_field_index(GEOMETRY)
        schema = schema.set(position, pa.field(GEOMETRY, _NativeGeometry()))
    return schema.with_metadata(keys)


def _as_published(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = [
        pa.ExtensionArray.from_storage(field.type, column.combine_chunks())
        if isinstance(field.type, _NativeGeometry)
        else column
        for field, column in zip(schema, rows.columns, strict=True)
    ]
    return pa.Table.from_arrays(columns, schema=schema)


class _NativeGeometry(pa.ExtensionType):  # type: ignore[misc]
    """GeoArrow's WKB type, which pyarrow writes as Parquet's geometry type; no ``crs`` means lon/lat."""

    def __init__(self) -> None:
        super().__init__(pa.binary(), "geoarrow.wkb")

    def __hash__(self) -> int:
        return hash(self.extension_name)

    def __arrow_ext_serialize__(self) -> bytes:
        return b"{}"

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: pa.DataType, serialized: bytes) -> _NativeGeometry:
        return cls()


def _without_keys(table: pa.Table, spec: CollectionSpec) -> pa.Table:
    """Drop the hive keys, because the path of the file has them."""
    keys = hive_keys(spec.partition_by)
    return table.drop_columns([name for name in keys if name in table.schema.names])
