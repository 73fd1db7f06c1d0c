"""Check normalized and rejected records: the record contract, on which all later stages rely."""

from __future__ import annotations

from itertools import repeat
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import shapely

from rasteret_assets.checks.counting import count_rows, sum_up
from rasteret_assets.checks.finding import Finding
from rasteret_assets.checks.registry import Partition, check
from rasteret_assets.message_lists import some
from rasteret_assets.partitions import hive_schema, partition_date
from rasteret_assets.schema import (
    ASSETS,
    BBOX,
    GEOMETRY,
    ID,
    NORMALIZED,
    PARTITION_SCHEMA,
    RECORD_FIELDS,
    REJECT_CLASS,
    REJECTED,
)

#: Degrees by which a footprint may reach beyond its bbox, because coordinates across the antimeridian are rounded.
_TOLERANCE: Final = 1e-9

OFF_EARTH, MISPLACED, INVALID = "off the Earth", "outside their bbox", "invalid"
_FOOTPRINT_PROBLEMS: Final = (OFF_EARTH, MISPLACED, INVALID, "missing")
_COUNTED: Final = {"off_earth": OFF_EARTH, "invalid": INVALID}

_Mask: TypeAlias = npt.NDArray[np.bool_]


def _hive_keys(schema: pa.Schema) -> list[str]:
    return [name for name in PARTITION_SCHEMA.names if name in schema.names]


@check(
    stage=NORMALIZED,
    columns=_hive_keys,
    blocking=True,
    description="The columns of the record contract have their types, and hive keys such as `year` and `month` are "
    "those of the partition.",
)
def schema_contract(partition: Partition) -> Finding:
    """Contract columns have their types, and hive keys such as ``year`` and ``month`` those of the partition's key."""
    schema, dates = partition.table.schema, partition.table.rows
    hive = hive_schema(partition.spec.partition_by)
    contract = {**RECORD_FIELDS, **{field.name: field.type for field in hive}}
    wrong = {
        name: f"{name} is {schema.field(name).type}, not {kind}" if name in schema.names else f"{name} is missing"
        for name, kind in contract.items()
        if name not in schema.names or schema.field(name).type != kind
    }
    problems = list(wrong.values())
    if ASSETS not in schema.names or not pa.types.is_struct(schema.field(ASSETS).type):
        problems.append(f"{ASSETS} is not a struct")
    for name, expected in zip(hive.names, partition_date(partition.key) or repeat(None), strict=False):
        if name not in wrong and not _all_are(dates[name], expected):
            problems.append(f"{name} is not {'null' if expected is None else expected} in every record")
    return Finding(
        passed=not problems,
        message=f"normalized records break the contract: {some(problems)}; materialize normalized_records again"
        if problems
        else f"{len(contract) + 1} contract columns have their types",
        numbers={"columns": len(schema), "problems": len(problems)},
    )


@check(stage=NORMALIZED, columns=[ID], blocking=True)
def unique_ids(partition: Partition) -> Finding:
    """Every record has an id, and no two records share an id."""
    ids = partition.table.rows[ID]
    counted = ids.drop_null().value_counts()
    repeated = counted.field("values").filter(pc.greater(counted.field("counts"), 1)).to_pylist()
    found = [f"{ids.null_count} records have no id"] if ids.null_count else []
    found += [f"several records share an id: {some(repeated)}"] if repeated else []
    return Finding(
        passed=not found,
        message=f"{'; '.join(found)}: give every row of the record table an id of its own"
        if found
        else "every record has an id of its own",
        numbers={"records": len(ids), "without_id": ids.null_count, "repeated_ids": len(repeated)},
    )


def _count_footprints(batch: pa.RecordBatch) -> pa.RecordBatch:
    return count_rows({}, _footprint_problems(batch), lambda row: str(batch.column(ID)[row]))


@check(
    stage=NORMALIZED,
    columns=[ID, GEOMETRY, BBOX],
    of_batch=_count_footprints,
    blocking=True,
    description="Footprints are valid, on Earth and inside their bbox. A footprint off the Earth or outside its bbox "
    "is an error; a missing or self-intersecting footprint is a warning.",
)
def footprints(partition: Partition) -> Finding:
    """Every footprint is a valid geometry on Earth, inside its bbox.

    Longitudes beyond 180 are on Earth where a footprint crosses the antimeridian. A null, empty or self-intersecting
    footprint is a warning. A footprint off the Earth, or outside its bbox, is an error, because searches by area then
    miss the record.
    """
    total, found = partition.table.count, sum_up(partition.table.rows)
    rows = [
        {"footprints": problem, "records": found[problem].rows, "first": found[problem].first}
        for problem in _FOOTPRINT_PROBLEMS
        if problem in found
    ]
    wrong = OFF_EARTH in found or MISPLACED in found
    text = ", ".join(f"{row['records']} are {row['footprints']} (first {row['first']})" for row in rows)
    remedy = "state the CRS of column geometry" if wrong else "correct them, as with shapely.make_valid,"
    remedy += " in the record table"
    counts = {name: found[problem].rows if problem in found else 0 for name, problem in _COUNTED.items()}
    return Finding(
        passed=not rows,
        error=wrong,
        message=f"of {total} footprints {text}: {remedy}" if rows else f"{total} footprints are valid and on Earth",
        numbers={"footprints": total, **counts},
        rows=rows,
    )


@check(stage=REJECTED, columns=[REJECT_CLASS])
def nothing_rejected(partition: Partition) -> Finding:
    """No record was rejected for breaking the record contract.

    A larger share of rejected records than ``max_rejected`` stops the build before this check.
    """
    counted = partition.table.rows[REJECT_CLASS].combine_chunks().value_counts()
    by_class = sorted(zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True))
    text = ", ".join(f"{count} {name}" for name, count in by_class)
    total = partition.table.count
    return Finding(
        passed=not by_class,
        error=False,
        message=f"{total} records were rejected ({text}): `rasteret-assets show --stage rejected_records` shows why"
        if by_class
        else "every record met the contract",
        numbers={"rejected": total},
        rows=[{"reason": name, "records": count} for name, count in by_class],
    )


def _all_are(column: pa.ChunkedArray, expected: int | None) -> bool:
    if expected is None:
        return bool(column.null_count == len(column))
    return bool(pc.all(pc.fill_null(pc.equal(column, expected), fill_value=False)).as_py() in (True, None))


def _footprint_problems(batch: pa.RecordBatch) -> dict[str, _Mask]:
    """Return which rows have each problem of footprints, booleans ``[N]`` by problem."""
    shapes = shapely.from_wkb(np.asarray(batch.column(GEOMETRY).to_numpy(zero_copy_only=False), object))
    missing = shapely.is_missing(shapes) | shapely.is_empty(shapes)
    bounds = shapely.bounds(shapes)
    with np.errstate(invalid="ignore"):
        outside = (np.abs(bounds[:, [0, 2]]) > 360).any(axis=1) | (np.abs(bounds[:, [1, 3]]) > 90 + 1e-6).any(axis=1)
    off_earth = ~missing & (outside | ~np.isfinite(bounds).all(axis=1))
    return {
        OFF_EARTH: off_earth,
        MISPLACED: ~missing & ~off_earth & ~_within(bounds, batch.column(BBOX)),
        INVALID: ~missing & ~shapely.is_valid(shapes),
        "missing": missing,
    }


def _within(bounds: npt.NDArray[np.float64], bbox: pa.StructArray) -> _Mask:
    """Tell whether each bbox holds its footprint; a bbox with ``xmin > xmax`` crosses the antimeridian."""
    xmin, ymin, xmax, ymax = (np.asarray(pc.struct_field(bbox, [i]).to_numpy(zero_copy_only=False)) for i in range(4))
    with np.errstate(invalid="ignore"):
        vertical = (ymin <= bounds[:, 1] + _TOLERANCE) & (ymax >= bounds[:, 3] - _TOLERANCE)
        horizontal = (xmin <= bounds[:, 0] + _TOLERANCE) & (xmax >= bounds[:, 2] - _TOLERANCE)
        wrapped = (xmin > xmax) | (np.abs(bounds[:, [0, 2]]) > 180).any(axis=1)
    return np.asarray(vertical & (horizontal | wrapped), bool)
