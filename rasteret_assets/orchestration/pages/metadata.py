"""Make the metadata of materializations: counts, rates, savings, place, columns, lineage, map of footprints.

No secret is in it: paths and addresses have no user information and no query strings.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.collection.show.footprint_shapes import boxes_of, footprints_of
from rasteret_assets.collection.show.svg_map import DRAWN_SINGLY, density_map, footprint_map
from rasteret_assets.headers.failures import failure_rows
from rasteret_assets.orchestration.graph_names import stage_key
from rasteret_assets.orchestration.graph_resources import S3Settings
from rasteret_assets.orchestration.pages._lineage import column_lineage
from rasteret_assets.orchestration.pages._links import missing_headers, place_metadata, uri_of
from rasteret_assets.orchestration.pages.markdown import picture
from rasteret_assets.orchestration.pages.reporting import table_metadata
from rasteret_assets.pipeline.stage import StageResult
from rasteret_assets.schema import (
    BANDS,
    BBOX,
    COLLECTION,
    GEOMETRY,
    ID,
    NORMALIZED,
    RAW,
    REJECT_CLASS,
    REJECT_REASON,
    REJECTED,
    is_band_field,
)
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.workspace import Workspace

ROW_COUNT: Final = "dagster/partition_row_count"
_FAILED: Final = "failed: "
#: Numbers that are compared over the partitions of a stage, with the value of a partition that does not state them,
#: because Dagster plots numbers that every materialization has.
_COMPARED: Final[dict[str, dict[str, int | float]]] = {
    RAW: {},
    NORMALIZED: {"rejected_records": 0},
    BANDS: {
        "headers_fetched": 0, "headers_reused": 0, "headers_failed": 0, "failed_share": 0.0, "requests": 0,
        "request_bytes": 0, "fetch_seconds": 0.0,
    },
    COLLECTION: {"records_lacking_headers": 0},
}  # fmt: skip
_PER_HEADER: Final = ("requests_per_header", "bytes_per_header")

_PLAIN: Final = (
    dg.IntMetadataValue, dg.FloatMetadataValue, dg.BoolMetadataValue, dg.TextMetadataValue, dg.PathMetadataValue,
)  # fmt: skip

#: Characters of a type that is written in full; a longer type is named by its kind.
_LONGEST_TYPE: Final = 80
_SHOWN_REJECTED: Final = 20


#: Requests and bytes per header of a partition.
HeaderCost = tuple[float, float]


def stage_metadata(
    workspace: Workspace,
    spec: CollectionSpec,
    stage: str,
    result: StageResult,
    settings: S3Settings,
    *,
    forced: bool,
    cost: HeaderCost | None = None,
) -> dict[str, Any]:
    """Return the metadata of one partition of one stage.

    Args:
        workspace: of the collection.
        spec: of the collection.
        stage: whose table was made.
        result: of the stage.
        settings: that S3 is reached with.
        forced: whether the run was forced.
        cost: of a header, from :func:`header_costs`.
    """
    sizes = {"bytes": result.size, "seconds": result.seconds}
    # Failures by class are a table, because Dagster would plot each class that a partition happens to have.
    counts = {name: count for name, count in result.counts.items() if not name.startswith(_FAILED)}
    metadata: dict[str, Any] = {ROW_COUNT: result.rows, **sizes, **_COMPARED[stage], **counts}
    if forced:
        metadata["forced"] = True
    if not result.path:
        return {**metadata, "removed": True}
    metadata |= place_metadata(spec, result.path, settings)
    if result.schema is not None:
        metadata["dagster/column_schema"] = column_schema(result.schema)
        if (lineage := column_lineage(spec, stage, result.schema)) is not None:
            metadata["dagster/column_lineage"] = lineage
    if stage == BANDS:
        metadata |= _fetch_metadata(workspace, result, cost)
    if stage == COLLECTION:
        metadata |= _map_metadata(workspace, spec, result)
    return metadata


def rejected_metadata(workspace: Workspace, spec: CollectionSpec, key: str) -> dict[str, Any]:
    """Return the metadata of a partition's rejected rows: path, number by reason, and the first rows."""
    path = workspace.stage_file(REJECTED, key)
    rejected = workspace.read_table(path)
    if rejected is None:
        return {}
    counted = rejected[REJECT_CLASS].combine_chunks().value_counts()
    by_class = zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True)
    first = rejected.slice(0, _SHOWN_REJECTED)
    ids = first[ID if ID in rejected.schema.names else rejected.schema.names[0]].to_pylist()
    return {
        "rejected_records": rejected.num_rows,
        "rejected_path": dg.MetadataValue.path(uri_of(spec, path)),
        "rejected_by_reason": table_metadata([
            {"reason": name, "records": count} for name, count in sorted(by_class)
        ]),
        "first_rejected": table_metadata([
            {"record": str(name), "reason": why}
            for name, why in zip(ids, first[REJECT_REASON].to_pylist(), strict=True)
        ]),
    }  # fmt: skip


def counts_of(metadata: Mapping[str, dg.MetadataValue]) -> dict[str, Any]:
    """Return the numbers, texts and flags of :func:`stage_metadata`, with the row count as ``rows``."""
    plain = {name: item.value for name, item in metadata.items() if isinstance(item, _PLAIN)}
    return {"rows": plain.pop(ROW_COUNT, 0), **plain}


def column_schema(schema: pa.Schema) -> dg.TableSchema:
    """Return an Arrow schema as Dagster's catalog shows it."""
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


def _fetch_metadata(workspace: Workspace, result: StageResult, cost: HeaderCost | None) -> dict[str, Any]:
    """Return rates of fetching, failures by class, and the requests and bytes that reused headers saved."""
    counts, metadata = result.counts, dict[str, Any]()
    fetched, reused = int(counts.get("headers_fetched", 0)), int(counts.get("headers_reused", 0))
    seconds = float(counts.get("fetch_seconds", 0.0))
    if fetched and seconds > 0:
        metadata["headers_per_second"] = round(fetched / seconds, 1)
        metadata["bytes_per_second"] = round(float(counts.get("request_bytes", 0)) / seconds, 1)
    if cost is not None:
        metadata |= dict(zip(_PER_HEADER, (round(value, 2) for value in cost), strict=True))
        metadata["requests_saved"] = round(reused * cost[0])
        metadata["bytes_saved"] = round(reused * cost[1])
    failures = {name.removeprefix(_FAILED): int(count) for name, count in counts.items() if name.startswith(_FAILED)}
    if failures:
        metadata["failures"] = table_metadata(failure_rows(failures, result.rows))
        metadata["missing_headers"] = dg.MetadataValue.md(missing_headers(workspace, result.path))
        metadata["failed_share"] = round(sum(failures.values()) / result.rows, 6)
    return metadata


def _map_metadata(workspace: Workspace, spec: CollectionSpec, result: StageResult) -> dict[str, Any]:
    """Return a map of the published footprints, and the number of records that lack a header.

    Args:
        workspace: of the collection.
        spec: of the collection.
        result: of publishing the partition.
    """
    bands = [field.name for field in result.schema or () if is_band_field(field)]
    singly = result.rows <= DRAWN_SINGLY
    boxes, shapes, lacking = [np.empty((0, 4))], [np.empty(0, object)], [np.empty(0, bool)]
    places = [BBOX, GEOMETRY] if singly else [BBOX]
    # One leaf of each band, because it is null where the struct is, and takes fewer bytes than the tile tables.
    for batch in workspace.read_batches(result.path, [*places, *(f"{band}.image_width" for band in bands)]):
        if singly:
            shapes.append(footprints_of(batch))
        else:
            boxes.append(boxes_of(batch))
        missing = np.zeros(batch.num_rows, bool)
        for band in bands:
            missing |= np.asarray(pc.is_null(batch.column(band)))
        lacking.append(missing)
    marked = np.concatenate(lacking)
    title = f"{spec.name} {result.key}: {result.rows:,} record{'' if result.rows == 1 else 's'}"
    if marked.any():
        title += f", {int(marked.sum()):,} without a header"
    if singly:
        drawn = footprint_map(np.concatenate(shapes), marked, title)
    else:
        drawn = density_map(np.concatenate(boxes), marked, title)
    shown = picture(f"Footprints of {spec.name} {result.key}", "image/svg+xml", drawn.encode())
    return {"footprints": dg.MetadataValue.md(shown), "records_lacking_headers": int(marked.sum())}


def header_costs(
    instance: dg.DagsterInstance, spec: CollectionSpec, results: Sequence[StageResult]
) -> dict[str, HeaderCost]:
    """Return by key the cost of a header of each partition, measured now or when headers were last fetched.

    Args:
        instance: that has the last materializations.
        spec: of the collection.
        results: of the header stage.
    """
    costs: dict[str, HeaderCost] = {}
    for result in results:
        fetched = int(result.counts.get("headers_fetched", 0))
        if fetched:
            requests, size = (float(result.counts.get(name, 0)) for name in ("requests", "request_bytes"))
            costs[result.key] = requests / fetched, size / fetched
        elif result.rows and (cost := _last_cost(instance, spec, result.key)) is not None:
            costs[result.key] = cost
    return costs


def _last_cost(instance: dg.DagsterInstance, spec: CollectionSpec, key: str) -> HeaderCost | None:
    records = dg.AssetRecordsFilter(asset_key=stage_key(spec, BANDS), asset_partitions=[key])
    for record in instance.fetch_materializations(records, limit=1).records:
        made = record.asset_materialization
        values = [made.metadata[name].value for name in _PER_HEADER if made is not None and name in made.metadata]
        if len(values) == len(_PER_HEADER):
            return float(values[0]), float(values[1])  # type: ignore[arg-type]
    return None


def _short(kind: pa.DataType) -> str:
    text = str(kind)
    if len(text) <= _LONGEST_TYPE:
        return text
    if pa.types.is_struct(kind):
        return f"struct<{kind.num_fields} fields>"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"list<{_short(kind.value_type)}>"
    return f"{text[: _LONGEST_TYPE - 3]}..."
