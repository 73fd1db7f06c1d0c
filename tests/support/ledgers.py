"""The stages up to the ledger of headers over a table in memory, all of whose records are of one partition."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from rasteret_assets import CollectionSpec, create_backend
from rasteret_assets.headers.ledger import read_ledger
from rasteret_assets.headers.store import HeaderStore
from rasteret_assets.pipeline.stage import Build
from rasteret_assets.pipeline.stages import run_stage
from rasteret_assets.schema import BAND_METADATA_SCHEMA, BANDS, HEADER_SCHEMA, HEADER_STRUCT, NORMALIZED, RAW, UNDATED
from rasteret_assets.source.open import open_source
from rasteret_assets.storage.workspace import Workspace
from rasteret_assets.storage.workspace.streams import stream_writer

_FAILED = "failed: "


@dataclass(frozen=True)
class Ledger:
    """A ledger with its headers, and what it took to make it."""

    table: pa.Table
    counts: dict[str, Any]

    @property
    def failures(self) -> dict[str, int]:
        return {name.removeprefix(_FAILED): n for name, n in self.counts.items() if name.startswith(_FAILED)}

    @property
    def fetched(self) -> int:
        return self.counts["headers_fetched"]

    @property
    def reused(self) -> int:
        return self.counts["headers_reused"]

    def rows(self) -> list[dict[str, Any]]:
        return self.table.to_pylist()


class Ledgers:
    """Ledgers of one workspace: each is made from what those before it have learnt.

    Args:
        root: folder of the workspace.
        spec: of the collection, without what it is made of.
    """

    def __init__(self, root: Path, **spec: Any) -> None:
        self.spec = CollectionSpec.of(
            path="t", name="s", workspace_dir=root, enrich_cog=True, **{"band_codes": ["B02"], **spec}
        )
        self.workspace = Workspace.of(self.spec)

    def make(
        self, table: pa.Table, *, backend: Any = None, force: bool = False, revalidate: bool = False,
        progress: Any = None,
    ) -> Ledger:  # fmt: skip
        """Run the stages over a table of undated records."""
        build = Build(
            workspace=self.workspace, spec=self.spec, source=open_source(undated(table), self.spec),
            backend=backend or create_backend(), force=force, revalidate=revalidate, progress=lambda _: progress,
        )  # fmt: skip
        for stage in (RAW, NORMALIZED):
            run_stage(stage, build, [UNDATED])
        (result,) = run_stage(BANDS, build, [UNDATED])
        return Ledger(self.read(), result.counts)

    def read(self) -> pa.Table:
        """The ledger as it is now."""
        schema = BAND_METADATA_SCHEMA.append(pa.field("header", HEADER_STRUCT))
        return pa.Table.from_batches(
            (batch.replace_schema_metadata(None) for batch in read_ledger(self.workspace, UNDATED)), schema
        )

    def stored(self) -> int:
        """Rows of the header store."""
        store = HeaderStore(self.workspace, UNDATED)
        return sum(store.open(name).rows for name in store.names)

    def alter_store(self, **columns: Any) -> None:
        """Give all rows of the header store other values in some columns."""
        store = HeaderStore(self.workspace, UNDATED)
        for name in store.names:
            rows = pa.Table.from_batches(store.open(name).batches(), HEADER_SCHEMA)
            for column, value in columns.items():
                field = HEADER_SCHEMA.field(column)
                values = pa.array([value] * rows.num_rows, field.type)
                rows = rows.set_column(HEADER_SCHEMA.get_field_index(column), field, values)
            with stream_writer(self.workspace, store.path(name), HEADER_SCHEMA) as writer:
                writer.write(rows)


def undated(table: pa.Table) -> pa.Table:
    """The records without their times."""
    position = table.schema.get_field_index("datetime")
    return table.set_column(position, "datetime", pa.nulls(table.num_rows, pa.timestamp("us", "UTC")))


def comparable(table: pa.Table) -> list[dict[str, Any]]:
    """Rows of a ledger without what differs from try to try and from place to place."""
    left_out = {"attempted_at", "header_file", "header_row"}
    return [{name: value for name, value in row.items() if name not in left_out} for row in table.to_pylist()]
