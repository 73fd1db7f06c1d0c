"""What a materialization tells the person who opens it: counts, rates, place and columns."""

from collections.abc import Mapping
from typing import Any

import dagster as dg
import pyarrow as pa

from rasteret_assets.spec import CollectionSpec
from rasteret_assets.stages.run import StageResult

ROW_COUNT = "dagster/partition_row_count"

#: Types written out in full; longer ones are named by their kind.
_LONGEST_TYPE = 80


def stage_metadata(result: StageResult, spec: CollectionSpec, *, forced: bool) -> dict[str, Any]:
    """Metadata of one partition of one stage."""
    metadata: dict[str, Any] = {ROW_COUNT: result.rows, **result.counts}
    seconds, fetched = result.counts.get("seconds"), result.counts.get("headers_fetched")
    if isinstance(seconds, float) and seconds > 0 and isinstance(fetched, int):
        metadata["headers_per_second"] = round(fetched / seconds, 1)
    if forced:
        metadata["forced"] = True
    if not result.path:
        return {**metadata, "removed": True}
    metadata["path"] = dg.MetadataValue.path(_uri(spec, result.path))
    if result.schema is not None:
        metadata["dagster/column_schema"] = column_schema(result.schema)
    return metadata


def counts_of(metadata: Mapping[str, dg.MetadataValue]) -> dict[str, Any]:
    """The plain values of :func:`stage_metadata`: numbers, texts and flags, with the row count under ``rows``."""
    plain = {name: item.value for name, item in metadata.items() if isinstance(item.value, int | float | str)}
    return {"rows": plain.pop(ROW_COUNT, 0), **plain}


def column_schema(schema: pa.Schema) -> dg.TableSchema:
    """An Arrow schema for Dagster's catalog page."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=column.name,
                type=_short(column.type),
                constraints=dg.TableColumnConstraints(nullable=column.nullable),
            )
            for column in schema
        ]
    )


def _short(kind: pa.DataType) -> str:
    text = str(kind)
    if len(text) <= _LONGEST_TYPE:
        return text
    if pa.types.is_struct(kind):
        return f"struct<{kind.num_fields} fields>"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"list<{_short(kind.value_type)}>"
    return f"{text[: _LONGEST_TYPE - 3]}..."


def _uri(spec: CollectionSpec, path: str) -> str:
    """A path on the workspace's filesystem as a person would write it."""
    scheme, mark, _ = (spec.published_path or "").partition("://")
    return f"{scheme}://{path}" if mark else path
