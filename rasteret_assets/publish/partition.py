"""Stage 4, the collection: normalized records joined with their headers, in spatial order, as GeoParquet.

A partition streams: its records come in published order, each batch is joined with its headers, and row group by row
group is written. How the records were cut into batches does not show in the bytes that are written.
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
from rasteret_assets.storage.background import in_background
from rasteret_assets.storage.memory import give_back
from rasteret_assets.storage.workspace import Workspace
from rasteret_assets.storage.workspace.commit import FileFacts, replace_published
from rasteret_assets.storage.workspace.placed_files import WrittenFile

#: Bytes of records and headers that are joined at once, and of row groups that are joined as a whole.
_JOINED_BYTES: Final = 8 * 2**20
_JOINED_GROUP_BYTES: Final = 32 * 2**20
#: How much heavier records are taken to be before it is known how many bytes they take.
_CAUTION: Final = 8


@dataclass(frozen=True, kw_only=True)
class PublishedPartition:
    """What was published.

    Args:
        facts: about the rows, all of them.
        findings: about their CRSs.
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
        facts: about all of them.

    Raises:
        CollectionError: if a stage's file is damaged, or the ledger is that of other records.
    """
    # From a published file to the document beside the data, some hive folders up.
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
                    # Types are checked when a table is opened; values may still be such that Parquet cannot hold them.
                    raise SourceError(f"records of {key} cannot be published as Parquet: {error}") from error
                if group.nbytes > _JOINED_GROUP_BYTES:
                    # The allocators would keep the pages of several such row groups.
                    give_back()
            if writer.rows != facts.rows:
                raise CollectionError(
                    f"{path}: {writer.rows} records were joined, and {facts.rows} normalized: build {key} again"
                )
    return PublishedPartition(facts=facts, findings=findings, written=writer.written, schema=published)


@dataclass(kw_only=True)
class _Share:
    """How many records are joined with their headers at once, by what the heaviest of those before them weighed.

    Args:
        group: most rows of a row group.
        weight: bytes of a record with its headers, at first as the compressed files let expect.
    """

    group: int
    weight: float
    is_guess: bool = True

    @property
    def rows(self) -> int:
        """How many records."""
        # Tables that compress well are much larger in memory than in their files.
        weight = self.weight * (_CAUTION if self.is_guess else 1)
        # A batch that is a row group is not put together once more.
        return self.group if self.group * weight <= _JOINED_GROUP_BYTES else max(1, int(_JOINED_BYTES / weight))

    def learn(self, joined: pa.Table) -> None:
        """Take note of records that were joined."""
        self.weight = max(self.weight, joined.nbytes / joined.num_rows)
        self.is_guess = False


def _cut(batches: Iterable[pa.RecordBatch], share: _Share) -> Iterator[pa.RecordBatch]:
    """Yield the records in batches that are as large as is right when each is made."""
    for batch in batches:
        start = 0
        while start < batch.num_rows:
            piece = batch.slice(start, share.rows)
            start += piece.num_rows
            yield piece


def publish_collection_document(workspace: Workspace, spec: CollectionSpec) -> None:
    """Write ``collection.json`` from the states of all published partitions, or remove it where there are none."""
    folder = workspace.published.rpartition("/")[2]

    def document() -> dict[str, Any] | None:
        # A partition that is being published for the first time has no facts yet.
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
    """GeoArrow's WKB type, which pyarrow writes as Parquet's geometry type. In lon/lat, which no ``crs`` means."""

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
    """Drop the hive keys, which stand in the path."""
    keys = hive_keys(spec.partition_by)
    return table.drop_columns([name for name in keys if name in table.schema.names])
