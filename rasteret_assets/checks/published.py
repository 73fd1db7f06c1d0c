"""Checks of a published partition: that its file is what its state says, and that no stage lost a record."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import pyarrow as pa

from rasteret_assets.checks.finding import Finding, some
from rasteret_assets.errors import CollectionError
from rasteret_assets.schema import (
    BBOX,
    BBOX_AXES,
    COLLECTION,
    CONTRACT_BAND_FIELDS,
    GEO_KEY,
    GEOMETRY,
    GEOPARQUET_VERSION,
    NATIVE_GEOPARQUET_VERSION,
    NORMALIZED,
    RAW,
    RECORD_FIELDS,
    REJECTED,
    band_column,
)
from rasteret_assets.storage.commit import LOST, may_be
from rasteret_assets.storage.files import digest_of
from rasteret_assets.storage.workspace import Workspace

_REBUILD: Final = "build the partition again"


def published_file(workspace: Workspace, key: str, state: Mapping[str, Any]) -> Finding:
    """The published file is the one that was written, by its digest, GeoParquet 1.1, and has the contract's columns."""
    path = workspace.published_file(key)
    problems = list(_file_problems(workspace, path, state))
    return Finding(
        check="published_file",
        passed=not problems,
        message=f"{path}: {some(problems)}; {_REBUILD}"
        if problems
        else f"{path} is as it was written, and conforms to GeoParquet",
        numbers={"bytes": int(state.get("bytes", 0)), "problems": len(problems)},
    )


def counts_agree(rows: Mapping[str, int], headers: Mapping[str, tuple[int, int]], state: Mapping[str, Any]) -> Finding:
    """No stage lost or invented a record, or a header.

    Raw rows are normalized, rejected, or repetitions of another; normalized records are all published; every header of
    the ledger is in its band's column.

    Args:
        rows: of ``raw_records``, ``normalized_records``, ``rejected_records`` and ``collection``.
        headers: by band, how many the ledger has and how many are published.
        state: of the published partition.
    """
    raw, normalized, rejected, published = (rows[name] for name in (RAW, NORMALIZED, REJECTED, COLLECTION))
    problems = []
    if normalized + rejected > raw:
        problems.append(f"{normalized + rejected} records were normalized or rejected of {raw} raw rows")
    if published != normalized:
        problems.append(f"{published} of {normalized} normalized records are published")
    if published != state.get("rows"):
        problems.append(f"the state says {state.get('rows')} rows, the file has {published}")
    problems += [
        f"{there} of {known} headers of {band} are published"
        for band, (known, there) in headers.items()
        if known != there
    ]
    return Finding(
        check="counts_agree",
        passed=not problems,
        message=f"{some(problems)}; {_REBUILD}" if problems else "every stage has the records of the one before",
        numbers={**rows, "repeated_rows": max(raw - normalized - rejected, 0)},
        rows=[{"stage": name, "rows": count} for name, count in rows.items()],
    )


def _file_problems(workspace: Workspace, path: str, state: Mapping[str, Any]) -> Iterator[str]:
    try:
        # While it is being replaced it may be the old file or the new one.
        if digest_of(workspace.fs, path) not in {facts.content_hash for facts in may_be(state) if facts is not None}:
            yield "its content is not what was published"
        schema = workspace.read_schema(path)
    except FileNotFoundError:
        yield "there is no such file"
        return
    except CollectionError:
        yield "it is damaged"
        return
    if schema is None:
        return
    yield from _contract_problems(schema, state.get("bands", ()))
    yield from _geo_problems(schema)


def _contract_problems(schema: pa.Schema, bands: Any) -> Iterator[str]:
    for name, kind in RECORD_FIELDS.items():
        if name == GEOMETRY:
            continue  # the geo footer says how geometries are written
        if name not in schema.names:
            yield f"it lacks {name}"
        elif schema.field(name).type != kind:
            yield f"{name} is {schema.field(name).type}, not {kind}"
    for band in bands:
        column = band_column(band)
        if column not in schema.names:
            yield f"it lacks {column}"
        elif tuple(child.name for child in schema.field(column).type)[:17] != CONTRACT_BAND_FIELDS:
            yield f"the fields of {column} are not the contract's"


def _geo_problems(schema: pa.Schema) -> Iterator[str]:
    """What the ``geo`` footer lacks: https://geoparquet.org/releases/v1.1.0/, and 2.0 with native geometries."""
    try:
        geo = json.loads((schema.metadata or {}).get(GEO_KEY, b""))
        column = geo["columns"][geo["primary_column"]]
    except (ValueError, KeyError, TypeError):
        yield "its geo footer is missing or damaged"
        return
    if geo.get("version") not in (GEOPARQUET_VERSION, NATIVE_GEOPARQUET_VERSION):
        yield f"its geo footer is of version {geo.get('version')}, not {GEOPARQUET_VERSION}"
    if geo["primary_column"] != GEOMETRY or column.get("encoding") != "WKB" or "geometry_types" not in column:
        yield f"its geo footer does not describe {GEOMETRY} as WKB"
    covering = column.get("covering", {}).get("bbox", {})
    if any(covering.get(axis) != [BBOX, axis] for axis in BBOX_AXES):
        yield f"its geo footer does not name {BBOX} as covering"


def state_of(workspace: Workspace, key: str) -> Mapping[str, Any] | None:
    """Return the state of a published partition; None where it is not published.

    Raises:
        CollectionError: if the state is not a document of ours.
    """
    state = workspace.state(key)
    if state is not None and LOST in state:
        raise CollectionError(f"{workspace.state_file(key)}: not the state of a partition; {_REBUILD}")
    return state
