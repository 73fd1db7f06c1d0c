"""Stage 4, the collection: normalized records joined with their headers, in spatial order, as GeoParquet.

A partition streams: batches are joined, noted for the footer and sorted (on disk where they are many), then written row
group by row group. Neither the batches nor the way they were sorted show in the bytes that are written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pyarrow as pa

from rasteret_assets.errors import CollectionError
from rasteret_assets.publish.encoding import SAMPLE_ROWS, parquet_options
from rasteret_assets.publish.footer import PublishedFacts, footer
from rasteret_assets.publish.join import CrsFindings, join_band_metadata, join_batches
from rasteret_assets.publish.row_groups import group_rows, row_groups
from rasteret_assets.publish.stac import COLLECTION_DOCUMENT, collection_document, complete_items, is_stac, stac_footer
from rasteret_assets.records.order import SORT_BYTES, RecordSorter
from rasteret_assets.schema import BAND_METADATA_SCHEMA, GEOMETRY, MONTH, YEAR
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.commit import FileFacts, replace_published
from rasteret_assets.storage.files import Written
from rasteret_assets.storage.workspace import Workspace


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
    written: Written
    schema: pa.Schema


def publish_partition(
    workspace: Workspace,
    spec: CollectionSpec,
    key: str,
    bands: Sequence[str],
    *,
    records: str,
    ledger: str,
    sort_bytes: int = SORT_BYTES,
) -> PublishedPartition:
    """Join a partition's records with its ledger and replace the published file, in bounded memory.

    Args:
        workspace: where all of it lies.
        spec: of the collection.
        key: of the partition.
        bands: in column order.
        records: path of the normalized records.
        ledger: path of their band metadata; there may be no such file.
        sort_bytes: how many bytes of records are sorted in memory; more go through the local disk.

    Raises:
        CollectionError: if a stage's file is damaged, or the ledger is that of other records.
    """
    stored = workspace.read_schema(records)
    if stored is None:
        raise CollectionError(f"{records} is missing: build the normalized records of {key} first")
    # From a published file to the document beside the data, two hive folders up.
    document = f"../../../{workspace.stages.rpartition('/')[2]}/{COLLECTION_DOCUMENT}"
    facts, findings = PublishedFacts(), CrsFindings()
    schema: pa.Schema | None = None
    with RecordSorter(sort_bytes) as sorter:
        for table, found in join_batches(workspace.read_batches(records), workspace.read_batches(ledger), bands):
            completed = complete_items(_without_keys(table), spec, document)
            facts.add(completed)
            findings += found
            sorter.add(completed)
            schema = completed.schema
        if schema is None:  # a partition without rows has the same schema as the others
            nothing, _ = join_band_metadata(stored.empty_table(), BAND_METADATA_SCHEMA.empty_table(), bands)
            schema = complete_items(_without_keys(nothing), spec, document).schema
        published = _published_schema(schema, facts, spec)
        path = workspace.published_file(key)

        def put(beside: str, written: Written) -> None:
            replace_published(workspace, key, beside, FileFacts.of(facts.rows, written))

        most = group_rows(facts.rows)
        groups = (_as_published(group, published) for group in row_groups(sorter.drain(most), most))
        first = next(groups, published.empty_table())
        options = parquet_options(published, first.slice(0, SAMPLE_ROWS))
        with workspace.writer(path, published, row_group_size=most, put=put, **options) as writer:
            for group in chain([first], groups):
                writer.write(group)
    return PublishedPartition(facts=facts, findings=findings, written=writer.written, schema=published)


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


def _without_keys(table: pa.Table) -> pa.Table:
    """Without the hive keys, which stand in the path."""
    return table.drop_columns([name for name in (YEAR, MONTH) if name in table.schema.names])
