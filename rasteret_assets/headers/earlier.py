"""Move the headers of version 0.1.0, whose ledgers held them, to the header store."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.columns.conform import conform, conform_rows
from rasteret_assets.headers.compact import LEDGER_OPTIONS
from rasteret_assets.headers.store import HeaderFileWriter, HeaderStore
from rasteret_assets.schema import (
    BAND_INDEX,
    BAND_METADATA_SCHEMA,
    BANDS,
    HEADER_FILE,
    HEADER_ROW,
    HEADER_SCHEMA,
    HEADER_STRUCT,
    HREF,
    IDENTITY,
    NORMALIZED,
    OUTCOME_FIELDS,
    RAW,
    RETRY_UNTIL,
    STATUS_OK,
    TIMESTAMP,
)
from rasteret_assets.storage.addresses.address import identity_hashes
from rasteret_assets.storage.filesystems import list_files
from rasteret_assets.storage.workspace import Workspace

#: Stages of version 0.1.0 with the headers of interrupted builds, and with headers that partitions had lost.
_PARTIAL: Final = f"{BANDS}.partial"
_LEFT: Final = f"{BANDS}.left"


def earlier_header_files(workspace: Workspace) -> dict[str, list[str]]:
    """Return the files with headers that version 0.1.0 kept beside the ledgers, by partition.

    The headers are those of interrupted builds, and those that a partition did not need any more.
    """
    found: dict[str, list[str]] = {}
    for info in list_files(workspace.fs, f"{workspace.stages}/{_PARTIAL}", (".parquet",)):
        found.setdefault(info.path.split("/")[-2], []).append(info.path)
    for info in list_files(workspace.fs, f"{workspace.stages}/{_LEFT}", (".parquet",)):
        found.setdefault(info.base_name.rpartition("-")[0], []).append(info.path)
    return found


def bring_up_to_date(workspace: Workspace, key: str, beside: Iterable[str] = ()) -> None:
    """Move the headers of an earlier version to the header store; leave a ledger of this version as it is.

    Args:
        workspace: of the collection.
        key: of the partition, whose lock is held.
        beside: the partition's files from :func:`earlier_header_files`.

    Raises:
        CollectionError: if the ledger is damaged.
    """
    path = workspace.stage_file(BANDS, key)
    schema = workspace.read_schema(path)
    if schema is not None and "header" in schema.names and pa.types.is_struct(schema.field("header").type):
        writer = HeaderFileWriter(workspace, HeaderStore(workspace, key))
        made = BAND_METADATA_SCHEMA.with_metadata(schema.metadata)
        with workspace.writer(path, made, **LEDGER_OPTIONS) as ledger:
            for batch in workspace.read_batches(path):
                name, first = writer.put(_header_rows(batch))
                ledger.write(_ledger_rows(batch, name, first))
            writer.close()
    for file in beside:
        writer = HeaderFileWriter(workspace, HeaderStore(workspace, key))
        for batch in workspace.read_batches(file):
            if pa.types.is_struct(batch.schema.field("header").type):
                writer.put(_header_rows(batch))
        writer.close()
        workspace.remove(file)


def earlier_keys(workspace: Workspace, key: str) -> Iterator[pa.Table]:
    """Yield the key columns of the headers in a ledger of version 0.1.0; nothing for a ledger of this version.

    Args:
        workspace: of the collection.
        key: of the partition.
    """
    path = workspace.stage_file(BANDS, key)
    schema = workspace.read_schema(path)
    if schema is None or "header" not in schema.names:
        return
    for batch in workspace.read_batches(path, [HREF, BAND_INDEX, "status", "error_class", "parser_version"]):
        is_ok = pc.equal(batch.column("status"), STATUS_OK)
        yield pa.table({
            IDENTITY: identity_hashes(batch.column(HREF)),
            BAND_INDEX: batch.column(BAND_INDEX),
            "error_class": pc.if_else(is_ok, pa.scalar(None, pa.string()), batch.column("error_class")),
            RETRY_UNTIL: pa.nulls(batch.num_rows, TIMESTAMP),
            "parser_version": batch.column("parser_version"),
        })  # fmt: skip


def remove_earlier_tables(workspace: Workspace, keys: Collection[str]) -> None:
    """Delete the raw and normalized records of the partitions ``keys`` that version 0.1.0 wrote as Parquet."""
    for stage in (RAW, NORMALIZED):
        for info in list_files(workspace.fs, f"{workspace.stages}/{stage}", (".parquet",)):
            if info.path.rpartition("/")[2].removesuffix(".parquet") in keys:
                workspace.remove(info.path)


def _header_rows(batch: pa.RecordBatch) -> pa.Table:
    is_ok = pc.equal(batch.column("status"), STATUS_OK)
    header = conform(batch.column("header"), HEADER_STRUCT)
    outcomes = conform_rows(batch, pa.schema(list(OUTCOME_FIELDS)))
    columns = {HREF: batch.column(HREF), BAND_INDEX: batch.column(BAND_INDEX)}
    columns |= dict(zip(outcomes.schema.names, outcomes.columns, strict=True))
    # Without conflicts of CRSs, because these are between record and header, and only the ledger tells them.
    columns |= {
        name: pc.if_else(is_ok, pa.scalar(None, pa.string()), batch.column(name)) for name in ("error_class", "error")
    }
    columns |= {
        IDENTITY: identity_hashes(batch.column(HREF)),
        "epsg": pc.struct_field(header, [header.type.get_field_index("epsg")]),
        "header": header,
    }
    return pa.table([columns[name] for name in HEADER_SCHEMA.names], HEADER_SCHEMA)


def _ledger_rows(batch: pa.RecordBatch, name: str, first: int) -> pa.Table:
    asked = np.asarray(batch.column(HREF).is_valid())
    places = {
        HEADER_FILE: pa.array([name] * batch.num_rows, pa.string(), mask=~asked),
        HEADER_ROW: pa.array(np.arange(first, first + batch.num_rows), pa.int32(), mask=~asked),
    }
    rows = conform_rows(batch, BAND_METADATA_SCHEMA)
    columns = {**dict(zip(rows.schema.names, rows.columns, strict=True)), **places}
    return pa.table([columns[field] for field in BAND_METADATA_SCHEMA.names], BAND_METADATA_SCHEMA)
