"""Say which columns of a stage come from which columns of its inputs, for the catalog's lineage view."""

from collections.abc import Iterator

import dagster as dg
import pyarrow as pa

from rasteret_assets.orchestration.graph_names import source_key, stage_key
from rasteret_assets.partitions import hive_keys
from rasteret_assets.schema import (
    ASSETS,
    BANDS,
    BBOX,
    COLLECTION,
    CRS,
    DATETIME,
    GEOMETRY,
    HEADER_ROW,
    NORMALIZED,
    PROJ_EPSG,
    RAW,
    is_band_field,
)
from rasteret_assets.spec import CollectionSpec

#: Contract columns that are made from another column, by name.
_DERIVED = {BBOX: GEOMETRY, CRS: "proj:wkt2", PROJ_EPSG: "proj:code"}


def column_lineage(spec: CollectionSpec, stage: str, schema: pa.Schema) -> dg.TableColumnLineage | None:
    """Return the lineage of a stage's columns; None for the ledger, whose columns come from files."""
    if stage == RAW:
        deps = {name: [(source_key(spec), name)] for name in schema.names}
    elif stage == NORMALIZED:
        deps = {name: [(stage_key(spec, RAW), origin)] for name, origin in _origins(spec, schema)}
    elif stage == COLLECTION:
        deps = dict(_published(spec, schema))
    else:
        return None
    return dg.TableColumnLineage({
        name: [dg.TableColumnDep(asset_key=asset, column_name=column) for asset, column in origins]
        for name, origins in deps.items()
    })  # fmt: skip


def _origins(spec: CollectionSpec, schema: pa.Schema) -> Iterator[tuple[str, str]]:
    aliases = {contract: source for source, contract in spec.column_map.items()}
    if spec.href_column and ASSETS not in aliases:
        aliases[ASSETS] = spec.href_column
    derived = {**_DERIVED, **dict.fromkeys(hive_keys(spec.partition_by), DATETIME)}
    for name in schema.names:
        origin = derived.get(name, name)
        yield name, aliases.get(name, aliases.get(origin, origin))


def _published(spec: CollectionSpec, schema: pa.Schema) -> Iterator[tuple[str, list[tuple[dg.AssetKey, str]]]]:
    headers, records = stage_key(spec, BANDS), stage_key(spec, NORMALIZED)
    for field in schema:
        if is_band_field(field):
            yield field.name, [(headers, HEADER_ROW)]
        elif field.name in (CRS, PROJ_EPSG):
            yield field.name, [(records, field.name), (headers, HEADER_ROW)]
        else:
            yield field.name, [(records, field.name)]
